r"""A track to clips: decoded, mono, resampled once, cut, checked.

Of a track of T seconds, n = min(N, floor(T / s)) clips of s seconds are cut, without overlap and
with equal gaps, half a gap at either end:

    start_k = k s + (k + 1/2) (T - n s) / n.

The paper says six clips of 30 seconds and not where; this keeps clear of intros and fade-outs.
Every clip is resampled from the source's own rate to each rate by itself (soxr, -148 dB aliases)
from a window a little wider than the clip, so that its ends are as good as its middle.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from noise2music.data.prepare.sources import SourceError, Track
from noise2music.mel import log_mel

RATES = (24_000, 16_000, 3_200)
_MARGIN = 0.1  # seconds read on either side of a clip for the resampler
_FRAME = 0.1  # seconds over which silence is judged
_FULL = 32767.0
_CLIPPED = 0.999  # of full scale


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How tracks are cut. seconds: a multiple of 0.02, so that every rate cuts whole samples."""

    seconds: float = 30.0
    clips: int = 6
    silence_db: float = -60.0
    max_silence: float = 0.8
    prompts: int = 3


@dataclasses.dataclass
class Cut:
    """Clips of one track as record columns, and what was dropped of it: (id, reason)."""

    clips: list[dict[str, bytes]]
    dropped: list[tuple[str, str]]


def starts(frames: int, length: int, most: int) -> list[int]:
    """First samples of the clips of `length` in a track of `frames` samples."""
    n = min(most, frames // length)
    gap = frames - n * length
    return [k * length + (2 * k + 1) * gap // (2 * n) for k in range(n)]


def part_of(track: Track, rate: int, frames: int) -> tuple[int, int]:
    """First sample of the track in its file of `frames` samples, and the one after its last."""
    begin = min(round(track.start * rate), frames)
    if track.excerpt is None:
        return begin, frames
    return begin, min(frames, begin + round(track.excerpt * rate))


def cut_track(track: Track, cutting: Cutting) -> Cut:
    """Never raises for what a file may hold: the reason goes to `dropped`."""
    out = Cut([], [])
    try:
        if track.fault:
            raise SourceError(track.fault)
        windows, rate, first = _decode(track, cutting)
    except SourceError as error:
        out.dropped.append((track.id, str(error)))
        return out
    for k, (window, offset) in enumerate(windows):
        id = f"{track.id}#{k}"
        try:
            out.clips.append(_columns(id, track, window, offset, rate, first[k], cutting))
        except SourceError as error:
            out.dropped.append((id, str(error)))
    return out


class Forward:
    """A sound file read from front to back: seeking in an MP3 is not exact, and hours of sound need
    not fit into memory."""

    def __init__(self, file: soundfile.SoundFile):
        self._file, self._kept, self._next = file, np.zeros(0, np.float32), 0

    def window(self, begin: int, end: int) -> NDArray[np.float32]:
        """Samples begin to end, mono; fewer where the file ends. `begin` never goes back."""
        overlap = max(0, self._next - begin)
        self._kept = self._kept[len(self._kept) - overlap :]
        while self._next < begin:
            got = len(self._file.read(min(begin - self._next, 1 << 20), dtype="float32"))
            if got == 0:
                break
            self._next += got
        more = self._file.read(max(0, end - self._next), dtype="float32", always_2d=True)
        self._next += len(more)
        self._kept = np.concatenate([self._kept, more.mean(axis=1, dtype=np.float32)])
        return self._kept


def _decode(
    track: Track, cutting: Cutting
) -> tuple[list[tuple[NDArray[np.float32], int]], int, list[int]]:
    """[(mono samples, where the clip begins in them)], the source's rate, the clips' starts."""
    try:
        with soundfile.SoundFile(track.open()) as file:
            rate = file.samplerate
            begin, total = part_of(track, rate, file.frames)
            length = round(cutting.seconds * rate)
            if total - begin < length:
                raise SourceError(
                    f"too short: {(total - begin) / rate:.2f} s, a clip is {cutting.seconds:g} s"
                )
            first = [begin + k for k in starts(total - begin, length, cutting.clips)]
            # The clip begins at a whole sample of every rate, counted from the window's begin.
            grid = math.lcm(*(rate // math.gcd(rate, r) for r in RATES))
            margin = -(-round(_MARGIN * rate) // grid)
            sound, windows = Forward(file), []
            for start in first:
                before = min(margin, start // grid) * grid
                window = sound.window(start - before, min(total, start + length + margin * grid))
                if len(window) < before + length:
                    ends = (start - before + len(window)) / rate
                    raise SourceError(
                        f"truncated: {total / rate:.2f} s by its header, ends at {ends:.2f} s"
                    )
                windows.append((window, before))
    except SourceError:
        raise
    except Exception as error:  # libsndfile's, tarfile's and the system's, all of one bad file
        raise SourceError(f"unreadable: {' '.join(str(error).split())}") from error
    return windows, rate, first


def _columns(
    id: str,
    track: Track,
    window: NDArray[np.float32],
    offset: int,
    rate: int,
    start: int,
    cutting: Cutting,
) -> dict[str, bytes]:
    length = round(cutting.seconds * rate)
    clip = window[offset : offset + length]
    if not np.isfinite(window).all():
        raise SourceError(f"not finite: {int((~np.isfinite(window)).sum())} samples are NaN or inf")
    level = 10 * math.log10(max(float(np.mean(np.square(clip, dtype=np.float64))), 1e-20))
    frames = clip[: length // (n := round(_FRAME * rate)) * n].reshape(-1, n)
    loud = np.sqrt(np.mean(np.square(frames), axis=1)) >= 10 ** (cutting.silence_db / 20)
    silence = 1.0 - float(loud.mean())
    if level < cutting.silence_db:
        raise SourceError(f"silent: {level:.0f} dBFS")
    if silence > cutting.max_silence:
        raise SourceError(f"silent: {100 * silence:.0f} % of it")
    audio = {r: _resampled(window, offset, rate, r, cutting.seconds) for r in RATES}
    # One gain for all rates where a peak would not fit into 16 bits: scaled, never clipped.
    peak = max(float(np.max(np.abs(y))) for y in audio.values())
    gain = 1.0 / max(peak, 1.0)
    samples = {r: np.round(y * (gain * _FULL)).astype("<i2") for r, y in audio.items()}
    mel = log_mel(samples[16_000] / np.float32(32768)).astype("<f2")
    meta: dict[str, Any] = {
        "id": id,
        "track": track.id,
        "start": round(start / rate, 3),
        "source_rate": rate,
        "captions": list(track.captions[: cutting.prompts]),
        "labels": list(track.labels),
        "level_db": round(level, 2),
        "peak": round(float(np.max(np.abs(clip))), 4),
        "gain": round(gain, 4),
        "dc": round(float(np.mean(clip, dtype=np.float64)), 5),
        "clipped": round(float(np.mean(np.abs(clip) >= _CLIPPED)), 5),
        "silence": round(silence, 3),
    }
    columns = {f"audio{r}": s.tobytes() for r, s in samples.items()}
    columns["mel"] = mel.tobytes()
    columns["meta"] = json.dumps(meta, ensure_ascii=False).encode()
    return columns


def _resampled(
    window: NDArray[np.float32], offset: int, rate: int, to: int, seconds: float
) -> NDArray[np.float32]:
    """The clip at rate `to`: exactly seconds * to samples."""
    if rate != to:
        window = np.asarray(soxr.resample(window, rate, to, quality="VHQ"), np.float32)
    first, length = offset * to // rate, round(seconds * to)
    y = window[first : first + length]
    return np.pad(y, (0, length - len(y)))  # soxr rounds the length its own way
