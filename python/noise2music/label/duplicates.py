"""Is a generated clip a copy of one in the training set? An index of the set, and the search in it.

A clip is a **copy** of a training clip where 2.5 s of their fingerprints coincide, at
whatever places, level and noise. It is **near** one where its embedding is closer to that clip's
than all but a thousandth of the training clips are to their nearest other: alike, which may be what
was asked for. Only copies are a fault.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio import replacing, resample
from noise2music.errors import UserError
from noise2music.evaluate.encoders.protocol import AudioEncoder, load_encoder
from noise2music.evaluate.sounds import RATE, BadSound, Failure, Item, decode
from noise2music.label import fingerprint as fp
from noise2music.label.rows import Array, round_rows

Progress = Callable[[str, int, int], None]

_VOTES = 4  # landmarks at one offset that are worth a look
_LOOKS, _PER_CLIP = 24, 4  # pictures laid over each other for a clip, and for a pair of clips
_ALIKE = 0.4  # worth the offsets beside it
_COMMON = 400  # a landmark that so many places have says nothing
_NEAREST = 0.999  # share of the training clips that are less alike than what is called near


@dataclasses.dataclass(frozen=True)
class Match:
    """A generated clip beside the training set.

    verdict: copy, near or new. copy_of: the training clip whose picture fits best (r, votes: shared
    landmarks; begin, end: seconds of the generated clip; at: where begin lies in the training clip,
    in seconds). nearest: the nearest by embedding and its cosine, where the index has embeddings.
    """

    id: str
    verdict: str
    copy_of: str | None = None
    r: float = 0.0
    votes: int = 0
    begin: float = 0.0
    end: float = 0.0
    at: float = 0.0
    nearest: str | None = None
    similarity: float | None = None

    def describe(self) -> str:
        """One line."""
        if self.verdict == "copy":
            return (
                f"{self.id}: {self.begin:.1f} to {self.end:.1f} s is a copy of {self.copy_of} from "
                f"{self.at:.1f} s on (r = {self.r:.3f})"
            )
        if self.verdict == "near":
            return f"{self.id}: near {self.nearest} (cosine {self.similarity:.4f})"
        return f"{self.id}: new"


class Index:
    """Fingerprints and, where it was made with an encoder, embeddings of a training set."""

    def __init__(self, meta: dict[str, Any], arrays: dict[str, Array]):
        self.ids: list[str] = meta["ids"]
        self.encoder: str | None = meta["encoder"]
        self.weights: str | None = meta["weights"]
        self.near: float = meta["near"]
        self.failed: list[list[str]] = meta["failed"]
        self._meta, self._arrays = meta, arrays

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """One .npz file."""
        meta = np.frombuffer(json.dumps(self._meta).encode(), np.uint8)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, meta=meta, **self._arrays)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Raises UserError for what is not an index of this version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(arrays.pop("meta").tobytes())
            if meta["fingerprint"] != fp.VERSION:
                raise ValueError(f"made by version {meta['fingerprint']} of the fingerprint")
            return cls(meta, arrays)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no index of `noise2music label index`: {error}; make it again"
            ) from error

    def picture(self, clip: int) -> Array:
        bounds = self._arrays["bounds"]
        return self._arrays["pictures"][bounds[clip] : bounds[clip + 1]]

    def search(self, name: str, samples: Array, encoder: AudioEncoder | None) -> Match:
        """Looks for a clip, mono (n,) float32 at 16 kHz. encoder: that of the index, or None."""
        copy = self._best_overlay(name, samples)
        nearest, similarity = self._nearest(samples, encoder)
        verdict = "copy" if copy.r >= fp.SAME else "new"
        if verdict == "new" and similarity is not None and similarity > self.near:
            verdict = "near"
        return dataclasses.replace(copy, verdict=verdict, nearest=nearest, similarity=similarity)

    def _best_overlay(self, name: str, samples: Array) -> Match:
        picture = fp.fingerprint(samples, RATE).picture
        best = Match(name, "new")
        for clip, offset, votes in self._candidates(*fp.shifted_landmarks(samples, RATE)):
            theirs = self.picture(clip)
            alike = fp.overlay(picture, theirs, offset)[0] > _ALIKE
            for shift in (offset - 1, offset, offset + 1) if alike else (offset,):
                r, begin, end = fp.overlay(picture, theirs, shift)
                if r > best.r:
                    second = fp.SECONDS_PER_FRAME
                    best = Match(
                        name,
                        "new",
                        self.ids[clip],
                        round(r, 4),
                        votes,
                        round(begin * second, 2),
                        round(end * second, 2),
                        round((begin + shift) * second, 2),
                    )
        return best

    def _candidates(self, hashes: Array, times: Array) -> Iterator[tuple[int, int, int]]:
        """(clip, offset in frames, shared landmarks), the most first."""
        known = self._arrays["hashes"]
        first = np.searchsorted(known, hashes, side="left")
        count = np.searchsorted(known, hashes, side="right") - first
        use = np.flatnonzero((count > 0) & (count <= _COMMON))
        if use.size == 0:
            return
        query = np.repeat(use, count[use])
        inside = np.arange(query.size) - np.repeat(np.cumsum(count[use]) - count[use], count[use])
        place = first[query] + inside
        offset = self._arrays["times"][place].astype(np.int64) - times[query]
        # An offset between two frames gives its votes to either: both count together.
        key = (self._arrays["clips"][place].astype(np.int64) << 32) + (offset + (1 << 30))
        pairs, votes = np.unique(key, return_counts=True)
        follows = np.flatnonzero(np.diff(pairs) == 1)
        together = votes.copy()
        together[follows] += votes[follows + 1]
        seen: dict[int, int] = {}
        looks = 0
        for i in np.argsort(-together, kind="stable"):
            if together[i] < _VOTES or looks == _LOOKS:
                return
            clip = int(pairs[i] >> 32)
            seen[clip] = seen.get(clip, 0) + 1
            if seen[clip] <= _PER_CLIP:
                looks += 1
                yield clip, int(pairs[i] & 0xFFFFFFFF) - (1 << 30), int(together[i])

    def _nearest(
        self, samples: Array, encoder: AudioEncoder | None
    ) -> tuple[str | None, float | None]:
        row = None if encoder is None else _embed(samples, encoder)
        table = self._arrays["embeddings"]
        if row is None or not len(table):
            return None, None
        s = table.astype(np.float32) @ row.astype(np.float32)
        best = int(np.argmax(s))
        return self.ids[int(self._arrays["embedded"][best])], round(float(s[best]), 4)


def build_index(
    items: Sequence[Item], encoder: str | None = None, progress: Progress | None = None
) -> Index:
    """Hears every clip of a training set. What cannot be heard is in `failed`, with the reason.

    Raises:
      UserError: an encoder that cannot be loaded, or nothing left to index.
    """
    model = None if encoder is None else load_encoder(encoder)
    ids: list[str] = []
    prints: list[fp.Fingerprint] = []
    rows: list[Array] = []
    embedded: list[int] = []
    failed: list[Failure] = []
    for done, item in enumerate(items, 1):
        try:
            samples = decode(item)
        except BadSound as bad:
            failed.append(Failure(item.id, str(item.path), bad.reason, bad.detail))
            continue
        row = None if model is None else _embed(samples, model)
        if row is not None:
            rows.append(row)
            embedded.append(len(ids))
        ids.append(item.id)
        prints.append(fp.fingerprint(samples, RATE))
        if progress is not None:
            progress("index", done, len(items))
    if not ids:
        raise UserError(f"no clip can be heard; the first: {failed[0].id}: {failed[0].reason}")
    hashes = np.concatenate([p.hashes for p in prints])
    order = np.argsort(hashes, kind="stable")
    sizes = [len(p.picture) for p in prints]
    table = np.stack(rows) if rows else np.zeros((0, 1), np.float16)
    arrays = {
        "hashes": hashes[order],
        "times": np.concatenate([p.times for p in prints])[order],
        "clips": np.repeat(np.arange(len(ids)), [len(p.hashes) for p in prints])[order].astype(
            "<i4"
        ),
        "pictures": np.concatenate([p.picture for p in prints]),
        "bounds": np.concatenate([[0], np.cumsum(sizes)]),
        "embeddings": table,
        "embedded": np.asarray(embedded, np.int32),
    }
    meta = {
        "fingerprint": fp.VERSION,
        "ids": ids,
        "encoder": encoder,
        "weights": None if model is None else model.weights_hash,
        "near": _near_level(table),
        "failed": [[f.id, f"{f.reason}: {f.detail}"] for f in failed],
    }
    return Index(meta, arrays)


def find_duplicates(
    items: Sequence[Item], index: Index, progress: Progress | None = None
) -> tuple[list[Match], list[Failure]]:
    """Looks for every clip in the index. A clip that cannot be heard is a Failure, not a match.

    Raises:
      UserError: the encoder of the index cannot be loaded, or has other weights now.
    """
    encoder = load_index_encoder(index)
    matches, failed = [], []
    for done, item in enumerate(items, 1):
        try:
            matches.append(index.search(item.id, decode(item), encoder))
        except BadSound as bad:
            failed.append(Failure(item.id, str(item.path), bad.reason, bad.detail))
        if progress is not None:
            progress("duplicates", done, len(items))
    return matches, failed


def load_index_encoder(index: Index) -> AudioEncoder | None:
    """The encoder that the index was made with; None where it was made without."""
    if index.encoder is None:
        return None
    encoder = load_encoder(index.encoder)
    if encoder.weights_hash != index.weights:
        raise UserError(
            f"the index was made with other weights of {index.encoder} ({index.weights}, here "
            f"{encoder.weights_hash}): make it again"
        )
    return encoder


def _embed(samples: Array, encoder: AudioEncoder) -> Array | None:
    heard = resample(samples, RATE, encoder.sample_rate)
    if heard.size < round(encoder.window * encoder.sample_rate):
        return None
    return round_rows(encoder.embed(heard).mean(axis=0, dtype=np.float64)[None])[0]


def _near_level(rows: Array, block: int = 2048, most: int = 20_000) -> float:
    """The cosine to the nearest other clip that a thousandth of the training clips exceed."""
    if len(rows) < 2:
        return 1.0
    table = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)].astype(np.float32)
    nearest = []
    for start in range(0, len(table), block):
        s = table[start : start + block] @ table.T
        s[np.arange(len(s)), start + np.arange(len(s))] = -1
        nearest.append(s.max(axis=1))
    return round(float(np.quantile(np.concatenate(nearest), _NEAREST)), 4)
