"""Prompts to token ids, with the `tokenizers` library: published T5 vocabularies and our small one.

Published vocabularies give the ids that Hugging Face's tokenizers give, special tokens spelt out in
the text included. In ours no text is special: "</s>" is encoded as the characters it is made of.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_RESERVED = (PAD, END, UNKNOWN, *_BYTES)
_SPACE = "\u2581"
_MIN_VOCAB = 512


class Tokenizer:
    """Text to padded arrays of ids, as T5 expects them: pieces, then `</s>`, then `<pad>` (id 0).

    Tokenizer(backend): `backend` is a `tokenizers.Tokenizer`; it must know `</s>`, and `<pad>` as
    id 0, else ValueError. Its own padding and truncation are switched off, because the lengths are
    those of the model, not of the file. Make one with `from_file` or `train_tokenizer`.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        if backend.token_to_id(PAD) != 0:
            raise ValueError(
                f"n2m.Tokenizer: {PAD} must be token 0, got {backend.token_to_id(PAD)}; "
                "this is not the tokenizer of a T5 model"
            )
        end_id = backend.token_to_id(END)
        if end_id is None:
            raise ValueError(
                f"n2m.Tokenizer: the vocabulary must hold {END}, got none; "
                "this is not the tokenizer of a T5 model"
            )
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.pad_id = 0
        self.end_id: int = end_id

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the largest id `encode` can return."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads a `tokenizer.json`. ValueError when it is missing, unreadable or not T5's kind."""
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"n2m.Tokenizer.from_file: path must be a tokenizer.json file, got {str(path)!r}: "
                f"{error}"
            ) from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise ValueError(
                f"n2m.Tokenizer.from_file: {str(path)!r} must be a complete tokenizer.json, "
                f"got one that does not parse: {error}"
            ) from error
        return cls(backend)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json`, which `from_file` and Hugging Face's tokenizers read."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self._backend.to_str(pretty=True))
            file.write("\n")

    def encode(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        """Ids of B texts, cut or padded to L = max_length.

        Returns (tokens int32 (B, L), mask bool (B, L), truncated): mask is True on the pieces and
        on the `</s>` that ends every text, truncated[i] says that text i was cut to fit. An empty
        text is `</s>` alone. Lone surrogates, which are not text, are read as U+FFFD.

        Errors: TypeError when texts is not a sequence of str; ValueError when max_length < 1.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(
                f"n2m.Tokenizer.encode: texts must be a list of str, got {_describe(texts)}"
                + ("; write [text]" if isinstance(texts, str) else "")
            )
        if max_length < 1:
            raise ValueError(
                f"n2m.Tokenizer.encode: max_length must be at least 1, got {max_length}"
            )
        tokens = np.full((len(texts), max_length), self.pad_id, np.int32)
        mask = np.zeros((len(texts), max_length), bool)
        truncated = []
        for row, text in enumerate(texts):
            ids = self._backend.encode(_well_formed(text), add_special_tokens=False).ids
            truncated.append(len(ids) > max_length - 1)
            ids = [*ids[: max_length - 1], self.end_id]
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return tokens, mask, truncated

    def decode(self, tokens: Sequence[int]) -> str:
        """The normalised text of one row of ids, special tokens left out. For people to read."""
        drop = (self.pad_id, self.end_id)
        return self._backend.decode([int(token) for token in tokens if int(token) not in drop])


def train_tokenizer(captions: Iterable[str], vocab_size: int = 1024) -> Tokenizer:
    """A small byte-fallback BPE vocabulary learnt from captions; the same captions, the same file.

    Text is NFKC-normalised, lower-cased, and runs of white space become one space. Words start
    with U+2581; digits and punctuation marks stand alone, so "128 bpm" shares its digits with
    every other tempo. A character outside the alphabet (printable ASCII and the commonest
    characters of the captions) becomes its UTF-8 bytes, so nothing is ever unknown.

    Ids: 0 `<pad>`, 1 `</s>`, 2 `<unk>` (never produced), 3..258 the bytes, then characters and
    merges. There are at most vocab_size of them; fewer when the captions hold too few repeats.

    Errors: TypeError when captions is a str; ValueError when vocab_size < 512.
    """
    if isinstance(captions, str):
        raise TypeError("n2m.train_tokenizer: captions must be several str, got one; write [text]")
    if vocab_size < _MIN_VOCAB:
        raise ValueError(
            f"n2m.train_tokenizer: vocab_size must be at least {_MIN_VOCAB}, got {vocab_size}; "
            f"{len(_RESERVED)} ids go to bytes and special tokens"
        )
    learner = _pipeline(models.BPE())
    normalize = learner.normalizer.normalize_str
    texts = [normalize(_well_formed(caption)) for caption in captions]
    alphabet = _alphabet(texts, extra=(vocab_size - len(_RESERVED)) // 8)
    # Characters left to the bytes are cut out here rather than by the trainer's own limit, which
    # breaks ties in hash order and would make the file depend on the run.
    outside = {ord(char): " " for text in texts for char in text if char not in alphabet}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(_RESERVED),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator([text.translate(outside) for text in texts], trainer)
    learnt = json.loads(learner.to_str())["model"]
    model = models.BPE(
        vocab=learnt["vocab"],
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token=UNKNOWN,
        byte_fallback=True,
    )
    return Tokenizer(_pipeline(model))


def _pipeline(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END}",
        pair=f"$A {END} $B {END}",
        special_tokens=[(END, _RESERVED.index(END))],
    )
    return backend


def _alphabet(texts: Iterable[str], extra: int) -> set[str]:
    """Printable ASCII in lower case, the space marks, and the `extra` commonest other characters.

    The cap keeps most of a small vocabulary for merges however many scripts the captions hold.
    """
    always = {chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()} | {
        _SPACE,
        " ",
    }
    counts = collections.Counter(char for text in texts for char in text if char not in always)
    common = sorted(counts, key=lambda char: (-counts[char], char))
    return {*always, *common[:extra]}


def _well_formed(text: str) -> str:
    """`text` with each lone surrogate (a byte of a mis-decoded command line) as U+FFFD."""
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def _describe(texts: object) -> str:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        return type(texts).__name__
    return f"a {type(texts).__name__} of {sorted({type(text).__name__ for text in texts})}"
