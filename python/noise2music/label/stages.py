"""The stages of labelling as shards: hear clips, read captions, select the K nearest, draw K'."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.data.prepare.sources import Track
from noise2music.evaluate.encoders.protocol import AudioEncoder, JointEncoder, load_encoder
from noise2music.label import balance, output
from noise2music.label.clips import Clip, Cutting, hear_track
from noise2music.label.rows import Array, Rows, round_rows, to_bytes
from noise2music.label.shards import shard_file
from noise2music.label.topk import top_k
from noise2music.label.vocabulary import Vocabulary

LISTING = "tracks.jsonl"
_TEXTS = 256  # read by the encoder at once


@dataclasses.dataclass(frozen=True)
class Hear:
    """Tracks -> clips-*.json (what was heard, what failed) and .npy (their embeddings)."""

    folder: Path
    encoder: str
    cutting: Cutting
    tracks: int
    per_shard: int
    name: str = "clips"

    @property
    def count(self) -> int:
        return -(-self.tracks // self.per_shard)

    def load(self) -> tuple[AudioEncoder, list[Track]]:
        return load_encoder(self.encoder), read_listing(self.folder)

    def make(self, shard: int, loaded: tuple[AudioEncoder, list[Track]]) -> dict[str, bytes]:
        encoder, tracks = loaded
        first = shard * self.per_shard
        clips: list[dict[str, Any]] = []
        rows: list[Array] = []
        failed: list[tuple[str, str]] = []
        for number, track in enumerate(tracks[first : first + self.per_shard], first):
            heard = hear_track(number, track, encoder, self.cutting)
            clips += [clip.to_json() for clip in heard.clips]
            rows += heard.rows
            failed += heard.failed
        table = np.stack(rows) if rows else np.zeros((0, encoder.dim), np.float16)
        meta = json.dumps({"clips": clips, "failed": failed})
        return {".npy": to_bytes(table), ".json": meta.encode()}


@dataclasses.dataclass(frozen=True)
class Read:
    """Captions -> NAME-*.npy, their embeddings."""

    encoder: str
    vocabulary: Vocabulary
    per_shard: int

    @property
    def name(self) -> str:
        return f"captions-{self.vocabulary.name}"

    @property
    def count(self) -> int:
        return -(-self.vocabulary.size // self.per_shard)

    def load(self) -> JointEncoder:
        encoder = load_encoder(self.encoder)
        assert isinstance(encoder, JointEncoder)
        return encoder

    def make(self, shard: int, loaded: JointEncoder) -> dict[str, bytes]:
        texts = self.vocabulary.read(shard * self.per_shard, (shard + 1) * self.per_shard)
        batches = (texts[i : i + _TEXTS] for i in range(0, len(texts), _TEXTS))
        return {".npy": to_bytes(np.concatenate([round_rows(_read(loaded, b)) for b in batches]))}


def _read(encoder: JointEncoder, texts: Sequence[str]) -> Array:
    rows = np.asarray(encoder.embed_text(texts))
    if rows.shape != (len(texts), encoder.dim):
        raise ValueError(
            f"n2m.label: {encoder.name} must give ({len(texts)}, {encoder.dim}) for "
            f"{len(texts)} texts, got {rows.shape}"
        )
    return rows


@dataclasses.dataclass(frozen=True)
class Select:
    """Clips -> top-NAME-*.npz: index (n, K), similarity (n, K), and the counts of the shard."""

    folder: Path
    vocabulary: Vocabulary
    hear: Hear
    read: Read
    total: int
    per_shard: int
    k: int
    on_device: bool

    @property
    def name(self) -> str:
        return f"top-{self.vocabulary.name}"

    @property
    def count(self) -> int:
        return -(-self.total // self.per_shard)

    def load(self) -> tuple[Rows, Rows]:
        return _rows(self.folder, self.hear), _rows(self.folder, self.read)

    def make(self, shard: int, loaded: tuple[Rows, Rows]) -> dict[str, bytes]:
        clips, captions = loaded
        part = clips.read(shard * self.per_shard, (shard + 1) * self.per_shard)
        index, similarity = top_k(part, captions, self.k, on_device=self.on_device)
        chosen, count = np.unique(index, return_counts=True)
        file = io.BytesIO()
        np.savez(file, index=index, similarity=similarity, chosen=chosen, count=count)
        return {".npz": file.getvalue()}


@dataclasses.dataclass(frozen=True)
class Draw:
    """The K of each clip and the counts of all -> labels-*.jsonl and .parquet, manifest lines."""

    folder: Path
    quotas: tuple[tuple[Vocabulary, int], ...]
    shards: int
    per_shard: int
    seed: int
    made_by: output.MadeBy
    name: str = "labels"

    @property
    def count(self) -> int:
        return self.shards

    def load(self) -> dict[str, Any]:
        counts = {v.name: np.load(counts_file(self.folder, v)) for v, _ in self.quotas}
        return {
            "tracks": read_listing(self.folder),
            "clips": read_clips(self.folder),
            "counts": counts,
        }

    def make(self, shard: int, loaded: dict[str, Any]) -> dict[str, bytes]:
        clips = loaded["clips"][shard * self.per_shard : (shard + 1) * self.per_shard]
        labels: list[list[output.Label]] = [[] for _ in clips]
        kept: dict[str, bytes] = {}
        for vocabulary, quota in self.quotas:
            counts = loaded["counts"][vocabulary.name]
            with np.load(self.folder / f"top-{vocabulary.name}-{shard:05d}.npz") as file:
                index, similarity = file["index"], file["similarity"]
            keys = balance.clip_keys([clip.id for clip in clips], vocabulary.name, self.seed)
            places = balance.draw(keys, index, counts, quota)
            texts = vocabulary.pick(np.unique(np.take_along_axis(index, places, axis=1)))
            for i, clip in enumerate(clips):
                for place in places[i]:
                    j = int(index[i, place])
                    labels[i].append(
                        output.Label(
                            clip.id,
                            clip.start,
                            clip.end,
                            texts[j],
                            vocabulary.name,
                            round(float(similarity[i, place]), 6),
                            int(place) + 1,
                            int(counts[j]),
                        )
                    )
            drawn = np.take_along_axis(index, places, axis=1)
            for suffix, part in (("drawn", drawn), ("nearest", index[:, :quota])):
                pair = np.stack(np.unique(part, return_counts=True))
                kept[f".{suffix}-{vocabulary.name}.npy"] = to_bytes(pair)
        tracks = [loaded["tracks"][clip.track] for clip in clips]
        forms = {v.name: v.form for v, _ in self.quotas}
        rows = [label for of_clip in labels for label in of_clip]
        return kept | {
            ".jsonl": output.jsonl(rows, tracks, clips, self.made_by),
            ".parquet": output.parquet(rows, tracks, clips, self.made_by),
            ".manifest": output.manifest(labels, tracks, clips, forms),
        }


def _rows(folder: Path, stage: Hear | Read) -> Rows:
    return Rows([shard_file(folder, stage, i, ".npy") for i in range(stage.count)])


def read_listing(folder: Path) -> list[Track]:
    lines = (folder / LISTING).read_bytes().splitlines()
    return [_track(json.loads(line)) for line in lines]


def _track(fields: dict[str, Any]) -> Track:
    for name in ("span", "captions", "labels"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    return Track(**fields)


def read_clips(folder: Path) -> list[Clip]:
    """All clips that were heard, in the order of their embeddings."""
    return [Clip(**clip) for shard in _heard(folder) for clip in shard["clips"]]


def read_failures(folder: Path) -> list[tuple[str, str]]:
    return [(id, why) for shard in _heard(folder) for id, why in shard["failed"]]


def _heard(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("clips-*.json"))
    return [json.loads(path.read_bytes()) for path in paths]


def counts_file(folder: Path, vocabulary: Vocabulary) -> Path:
    return folder / f"counts-{vocabulary.name}.npy"
