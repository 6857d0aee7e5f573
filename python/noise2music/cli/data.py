"""`noise2music data corpus`. Its options are the dataclass of the corpus builder."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

import tyro

from noise2music.data.corpus import CorpusOptions, build_corpus
from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Render scores and grooves to captioned audio.

    Needs the extra `data`, fluidsynth and a General MIDI soundfont. Running it again goes on where
    it stopped.
    """

    out: Annotated[tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder to make, or to go on with."""
    options: tyro.conf.OmitArgPrefixes[CorpusOptions]
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        try:
            report = build_corpus(self.out, self.options)
        except (ImportError, FileNotFoundError, NotADirectoryError) as error:
            raise UserError(str(error)) from error
        counts = f"{report.kept} clips, {report.dropped} dropped, {report.made} made now"
        print(f"{report.out}: {counts}")
        return 0
