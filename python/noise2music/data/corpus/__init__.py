"""The corpus: real scores and grooves rendered to labelled, captioned audio. See docs/corpus.md."""

from noise2music.data.corpus.build import CorpusOptions, CorpusReport, build_corpus
from noise2music.data.corpus.captions import compose_caption, compose_captions, compose_prompt
from noise2music.data.corpus.vocabulary import FAMILIES, GENRES

__all__ = [
    "FAMILIES",
    "GENRES",
    "CorpusOptions",
    "CorpusReport",
    "build_corpus",
    "compose_caption",
    "compose_captions",
    "compose_prompt",
]
