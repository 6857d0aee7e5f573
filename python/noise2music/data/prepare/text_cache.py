"""Every text of a prepared folder embedded once: `text/<encoder>-<dtype>-<length>/`.

    tokenizer.json            the encoder's
    embeddings-00000.array_record   (tokens of the text, D) in dtype, of up to 8192 texts a file
    index.npy                 uint64: the texts' hashes, rising; text i of it is record i
    cache.json                written last: encoder, dtype, length, D, number of texts

The name holds what an embedding depends on: a hash of the encoder's weights and tokenizer, the
number format that it computed in, and the length that texts are cut to. So another encoder or
format never passes for this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music.data.prepare import records
from noise2music.data.prepare.text_batch import elements
from noise2music.text.tokenizer import Tokenizer

FOLDER, _INDEX, _CARD = "text", "index.npy", "cache.json"
_FILE_TEXTS, _BATCH = 8192, 64
DTYPES = ("float32", "bfloat16")

Encode = Callable[[NDArray[np.int32], NDArray[np.bool_]], NDArray[Any]]


class TextCache:
    """cache(text) -> (tokens, D): the embeddings of one folder `<prepared>/text/<name>`."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
            self.encoder, self.length, self.dim = card["encoder"], card["length"], card["dim"]
            self.dtype = _dtype(card["dtype"])
            self._hashes = np.load(folder / _INDEX)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"n2m.data: {str(folder)!r} must be a whole cache of embeddings, got: {error}; "
                "delete it and prepare again with --text-encoder"
            ) from error
        self.tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        self._files = -(-len(self._hashes) // _FILE_TEXTS)
        self._source: Any = None

    def __len__(self) -> int:
        return len(self._hashes)

    def open(self) -> None:
        """Opens the files; ValueError where they are damaged."""
        if self._source is None:
            paths = [_file(self.folder, i) for i in range(self._files)]
            self._source = records.open_records(paths, len(self._hashes))

    def __call__(self, text: str) -> NDArray[Any]:
        number = hash_of(text)
        place = int(np.searchsorted(self._hashes, number))
        if place == len(self._hashes) or self._hashes[place] != number:
            raise ValueError(
                f"n2m.data: every text must be in {str(self.folder)!r}, {text[:60]!r} is not; "
                "prepare again with --text-encoder"
            )
        self.open()
        return np.frombuffer(self._source[place], self.dtype).reshape(-1, self.dim)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}


def is_embedded(prepared: str | os.PathLike[str]) -> bool:
    """Whether the folder is a prepared one with embeddings in it."""
    return records.is_prepared(prepared) and (Path(prepared) / FOLDER).is_dir()


def find_cache(prepared: Path, length: int, dim: int) -> TextCache:
    """The one cache of this token length. ValueError where there is none, or there are several."""
    folder = prepared / FOLDER
    names = sorted(p.parent.name for p in folder.glob(f"*-{length}/{_CARD}"))
    if len(names) != 1:
        have = ", ".join(names) or "none"
        raise ValueError(
            f"n2m.train: {str(folder)!r} must have one cache of embeddings of {length} tokens, or "
            f"a tokenizer must be given; got {have}"
        )
    cache = TextCache(folder / names[0])
    if cache.dim != dim:
        raise ValueError(
            f"n2m.train: text_dim must be {cache.dim}, as the embeddings in "
            f"{str(cache.folder)!r} are, got {dim}"
        )
    return cache


def embed_texts(
    prepared: Path,
    encoder: str | os.PathLike[str],
    lengths: Iterable[int],
    dtype: str = "float32",
    progress: bool = True,
) -> list[TextCache]:
    """Embeds every element of every clip's text batch, of all splits; returns a cache a length.

    `encoder`: a folder with a T5 (Hugging Face's layout), or a model folder of ours. What is there
    already is kept; a run that was stopped goes on with the next file.
    """
    folder = Path(encoder)
    name = encoder_hash(folder)
    loaded: tuple[Tokenizer, Encode] | None = None
    caches = []
    for length in lengths:
        out = prepared / FOLDER / f"{name}-{dtype}-{length}"
        if not (out / _CARD).is_file():
            tokenizer, encode = loaded = loaded or load_encoder(folder, dtype)
            _embed(prepared, out, name, tokenizer, encode, length, dtype, progress)
        caches.append(TextCache(out))
    return caches


def hash_of(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def encoder_hash(folder: Path) -> str:
    """Of the weights, the sizes and the tokenizer."""
    files = [p for s in ("*.safetensors", "config.json", "tokenizer.json") for p in folder.glob(s)]
    if (folder / "text_encoder.safetensors").is_file():  # a model folder holds more than that
        files = [folder / "text_encoder.safetensors", folder / "tokenizer.json"]
    if not any(p.suffix == ".safetensors" for p in files):
        raise ValueError(
            f"n2m.data: text_encoder must be a folder with a T5's safetensors, got {str(folder)!r}"
        )
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def load_encoder(folder: Path, dtype: str) -> tuple[Tokenizer, Encode]:
    """(tokenizer, (tokens (B, L), mask (B, L)) -> embeddings (B, L, D) in dtype)."""
    import jax
    from flax import nnx

    from noise2music.text.load import load_t5
    from noise2music.text.released import FILE, load_text_encoder
    from noise2music.text.t5 import T5Encoder

    if (folder / FILE).is_file():
        tokenizer, ours = load_text_encoder(folder)
        state = nnx.split(ours)[1]
        graph = nnx.split(
            nnx.eval_shape(lambda: T5Encoder(ours.config, rngs=nnx.Rngs(0), dtype=dtype))
        )[0]
    else:
        theirs, tokenizer, _ = load_t5(folder, dtype)
        graph, state = nnx.split(theirs)
    apply = jax.jit(lambda s, tokens, mask: nnx.merge(graph, s)(tokens, mask))
    return tokenizer, lambda tokens, mask: np.asarray(apply(state, tokens, mask))


def _embed(
    prepared: Path,
    out: Path,
    name: str,
    tokenizer: Tokenizer,
    encode: Encode,
    length: int,
    dtype: str,
    progress: bool,
) -> None:
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    texts = sorted(_all_elements(prepared, tokenizer, length), key=hash_of)
    starts = range(0, len(texts), _FILE_TEXTS)
    dim = 0
    for number, first in enumerate(
        tqdm(starts, desc=f"embed {length}", unit="file", disable=not progress, file=sys.stderr)
    ):
        rows: list[bytes] = []
        part = texts[first : first + _FILE_TEXTS]
        if _file(out, number).is_file() and number + 1 < len(starts):
            continue  # of an earlier run; the last is made anew, which tells D
        for at in range(0, len(part), _BATCH):
            batch = part[at : at + _BATCH]
            # One shape for all: one program, and a text's embedding is the same in any batch.
            filled = [*batch, *[""] * (_BATCH - len(batch))]
            tokens, mask, _ = tokenizer.encode(filled, length)
            embedded = encode(tokens, mask)
            dim = embedded.shape[-1]
            counts = mask.sum(1)
            rows += [embedded[i, : counts[i]].tobytes() for i in range(len(batch))]
        if not all(np.isfinite(np.frombuffer(r, _dtype(dtype))).all() for r in rows):
            raise ValueError(
                "n2m.data: embeddings must be finite, the text encoder gave NaN or inf"
            )
        records.write_records(_file(out, number), rows)
    tokenizer.save(out / "tokenizer.json")
    np.save(out / _INDEX, np.array([hash_of(t) for t in texts], np.uint64))
    card = {"encoder": name, "dtype": dtype, "length": length, "dim": dim, "texts": len(texts)}
    records.write_json(out / _CARD, card)


def _all_elements(prepared: Path, tokenizer: Tokenizer, length: int) -> set[str]:
    found = {""}
    for split, shards in records.read_index(prepared).splits.items():
        clips = records.Prepared(prepared, split) if shards else ()
        for i in range(len(clips)):
            meta = clips.meta(i)  # type: ignore[union-attr]
            found.update(elements(meta["captions"], meta["labels"], tokenizer, length))
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"embeddings-{number:05d}.array_record"


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise ValueError(f"n2m.data: text_dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    import ml_dtypes

    return np.dtype(np.float32 if name == "float32" else ml_dtypes.bfloat16)
