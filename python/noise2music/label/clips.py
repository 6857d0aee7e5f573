"""Clips of tracks and their embeddings (section 3.5).

    a_i = mean over the non-overlapping windows (10 s) of clip i of encoder(window), over its norm

A clip is a whole track, or one of those that `data prepare` would cut of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from noise2music.audio import resample
from noise2music.data.prepare.clips import Forward, part_of, starts
from noise2music.data.prepare.sources import SourceError, Track
from noise2music.evaluate.encoders.protocol import AudioEncoder
from noise2music.label.rows import Array, round_rows

_SILENT_DB = -60.0


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip that was heard. start, end: seconds in its file. track: its number in the listing."""

    id: str
    track: int
    start: float
    end: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Cutting:
    """seconds: of a clip; None: a clip is the whole track. clips: of a track at most."""

    seconds: float | None = None
    clips: int = 6

    def __post_init__(self) -> None:
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"n2m.label: seconds must be above 0, got {self.seconds}")
        if self.clips < 1:
            raise ValueError(f"n2m.label: clips must be at least 1, got {self.clips}")


@dataclasses.dataclass
class Heard:
    """Clips of a track with their embeddings, and what of it cannot be used: (id, reason)."""

    clips: list[Clip]
    rows: list[Array]
    failed: list[tuple[str, str]]


def hear_track(number: int, track: Track, encoder: AudioEncoder, cutting: Cutting) -> Heard:
    """Never raises for what a file may hold: the reason goes to `failed`."""
    out = Heard([], [], [])
    parts = _decoded(track, cutting)
    while True:
        try:  # what goes wrong in the encoder is not the file's fault, and is not caught
            k, first, last, rate, samples = next(parts)
        except StopIteration:
            return out
        except SourceError as error:
            out.failed.append((track.id, str(error)))
            return out
        id = track.id if cutting.seconds is None else f"{track.id}#{k}"
        try:
            out.rows.append(_embed(samples, last - first, rate, encoder))
            out.clips.append(Clip(id, number, round(first / rate, 3), round(last / rate, 3)))
        except SourceError as error:
            out.failed.append((id, str(error)))


def _decoded(track: Track, cutting: Cutting) -> Iterator[tuple[int, int, int, int, Array]]:
    """(number, first sample, one after the last, rate, samples) of each clip."""
    if track.fault:
        raise SourceError(track.fault)
    try:
        with soundfile.SoundFile(track.open()) as file:
            rate = file.samplerate
            begin, end = part_of(track, rate, file.frames)
            sound = Forward(file)
            for k, (first, last) in enumerate(_cuts(begin, end, rate, cutting)):
                samples = sound.window(first, last)
                yield k, first, last, rate, samples
    except (soundfile.LibsndfileError, OSError) as error:
        raise SourceError(f"unreadable: {' '.join(str(error).split())}") from error


def _cuts(begin: int, end: int, rate: int, cutting: Cutting) -> list[tuple[int, int]]:
    if cutting.seconds is None:
        return [(begin, end)]
    length = round(cutting.seconds * rate)
    if end - begin < length:
        raise SourceError(
            f"too short: {(end - begin) / rate:.2f} s, a clip is {cutting.seconds:g} s"
        )
    return [(begin + k, begin + k + length) for k in starts(end - begin, length, cutting.clips)]


def _embed(samples: Array, length: int, rate: int, encoder: AudioEncoder) -> Array:
    """(d,) float16."""
    if samples.size < length:
        raise SourceError(f"truncated: {samples.size / rate:.2f} s of {length / rate:.2f} s")
    if not np.isfinite(samples).all():
        raise SourceError(f"not finite: {int((~np.isfinite(samples)).sum())} samples")
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    level = 10 * math.log10(max(power, 1e-20))
    if level < _SILENT_DB:
        raise SourceError(f"silent: {level:.0f} dBFS")
    heard = resample(samples, rate, encoder.sample_rate)
    if heard.size < round(encoder.window * encoder.sample_rate):
        raise SourceError(
            f"too short: {samples.size / rate:.2f} s, {encoder.name} hears {encoder.window:g} s"
        )
    rows = np.asarray(encoder.embed(heard))
    if rows.ndim != 2 or rows.shape[1] != encoder.dim or not np.isfinite(rows).all():
        raise ValueError(
            f"n2m.label: {encoder.name} must give finite (windows, {encoder.dim}), got {rows.shape}"
        )
    return round_rows(rows.mean(axis=0, dtype=np.float64)[None])[0]
