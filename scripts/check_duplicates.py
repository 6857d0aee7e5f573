"""Plants copies among music that is no copy, and counts what the search finds.

    python scripts/check_duplicates.py --train 2000 --unrelated 500
    python scripts/check_duplicates.py --corpus FOLDER      # clips of `noise2music data corpus`:
                                                # they share grooves, instruments and samples

Without --corpus the clips are songs of ten seconds, drawn note by note: chords, a bass, a tune and
noise for drums on a grid. Every tenth training clip is planted: as it is, 17 dB softer, with noise
at 20 dB, an excerpt of 3 s, and one inside other music. With --corpus every second clip of the
folder is training and the others are taken for unrelated, or those of --others are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from noise2music.evaluate.sounds import RATE, Item, decode, read_set
from noise2music.label.duplicates import build_index, load_index_encoder
from noise2music.label.fingerprint import SAME

_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))


def song(seed: int, seconds: float = 10.0) -> np.ndarray:
    """Chords of eight beats, a bass, a tune that wanders, drums of noise; (n,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    x = np.zeros(round((seconds + 3) * RATE))
    beat, tonic = 60 / rng.uniform(70, 170), int(rng.integers(40, 60))
    scale = _SCALES[rng.integers(2)]
    partials = [np.arange(1.0, 9.0) ** -rng.uniform(0.7, 2.0) * rng.uniform(0.3, 1, 8)] * 3
    partials = [p * rng.uniform(0.3, 1, 8) for p in partials]
    decays = rng.uniform(0.2, 2.0, 3)

    def pitch(degree: int) -> int:
        return tonic + 12 * (degree // 7) + scale[degree % 7]

    def note(midi: int, start: float, length: float, level: float, voice: int) -> None:
        t = np.arange(round(min(length + 0.3, 2.5) * RATE)) / RATE
        hz = 440 * 2 ** ((midi - 69) / 12)
        fade = np.minimum(1, t / 0.01) * np.clip((length + 0.3 - t) / 0.3, 0, 1)
        y = sum(
            a * np.sin(2 * np.pi * hz * (h + 1) * t + rng.uniform(0, 6))
            for h, a in enumerate(partials[voice])
            if hz * (h + 1) < 7500
        )
        i = round(start * RATE)
        x[i : i + t.size] += (level * np.exp(-t / decays[voice]) * fade * y)[: x.size - i]

    chords, degree = rng.integers(0, 7, 4), 7
    for i in range(int(seconds / (beat / 2)) + 1):
        at, chord = i * beat / 2, int(chords[i // 8 % 4])
        if i % 8 == 0:
            for step in (0, 2, 4):
                note(pitch(chord + step), at, 4 * beat, 0.25, 1)
        if i % 4 == 0:
            note(pitch(chord) - 12, at, 2 * beat, 0.4, 2)
        if rng.random() < 0.75:
            degree = int(np.clip(degree + rng.integers(-3, 4), 4, 18))
            note(pitch(degree), at, beat / 2 * rng.choice([1, 2]), 0.3, 0)
        if rng.random() < 0.6:
            n = round(0.12 * RATE)
            j = round(at * RATE)
            x[j : j + n] += 0.2 * rng.standard_normal(n) * np.exp(-np.arange(n) / RATE / 0.03)
    x = x[: round(seconds * RATE)]
    return (0.4 * x / np.abs(x).max()).astype(np.float32)


def planted(x: np.ndarray, kind: str, rng: np.random.Generator, other: np.ndarray) -> np.ndarray:
    """A copy of x."""
    at = int(rng.integers(0, max(1, x.size - 3 * RATE)))
    if kind == "softer":
        return x * np.float32(10 ** (-17 / 20))
    if kind == "noise":
        noise = rng.standard_normal(x.size)
        noise *= 0.1 * np.sqrt(np.mean(np.square(x)) / np.mean(np.square(noise)))
        return (x + noise).astype(np.float32)
    if kind == "excerpt":
        return x[at : at + 3 * RATE]
    if kind == "inside":
        to = int(rng.integers(0, other.size - 3 * RATE))
        return np.concatenate([other[:to], x[at : at + 3 * RATE], other[to + 3 * RATE :]])
    return x


KINDS = ("exact", "softer", "noise", "excerpt", "inside")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--unrelated", type=int, default=500)
    parser.add_argument("--every", type=int, default=10, help="which training clips are planted")
    parser.add_argument("--corpus", type=Path, default=None)
    parser.add_argument("--others", type=Path, default=None, help="unrelated clips for --corpus")
    parser.add_argument("--encoder", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.corpus:
            items = read_set(args.corpus)
            if args.others:
                train, others = items[: args.train], read_set(args.others)[: args.unrelated]
            else:
                train, others = items[::2][: args.train], items[1::2][: args.unrelated]
        else:
            train = [_write(folder / f"train-{i}.wav", song(i)) for i in range(args.train)]
            others = [
                _write(folder / f"other-{i}.wav", song(1_000_000 + i))
                for i in range(args.unrelated)
            ]
        began = time.perf_counter()
        index = build_index(train, args.encoder)
        index.save(folder / "index.npz")
        size = (folder / "index.npz").stat().st_size / 2**20
        print(f"index of {len(index)} clips: {time.perf_counter() - began:.1f} s, {size:.1f} MiB")
        encoder = load_index_encoder(index)
        rng = np.random.default_rng(0)
        for kind in KINDS:
            found, weakest, n = 0, 1.0, 0
            for item in train[:: args.every]:
                n += 1
                y = planted(decode(item), kind, rng, decode(others[n % len(others)]))
                match = index.search(item.id, y, encoder)
                found += match.verdict == "copy" and match.copy_of == item.id
                if match.r < SAME or match.copy_of != item.id:
                    print(f"  missed: {item.id}, {kind}: {match}")
                weakest = min(weakest, match.r)
            print(f"{kind}: {found} of {n} found, weakest r {weakest:.3f}", flush=True)
        began = time.perf_counter()
        seen = [index.search(item.id, decode(item), encoder) for item in others]
        each = (time.perf_counter() - began) / len(others)
        wrong = [m for m in seen if m.verdict == "copy"]
        near = sum(m.verdict == "near" for m in seen)
        worst = max(m.r for m in seen)
        print(
            f"unrelated: {len(wrong)} of {len(seen)} flagged, {near} near, largest r {worst:.3f}; "
            f"{1000 * each:.0f} ms each"
        )
        for match in wrong:
            print(f"  {match}")


def _write(path: Path, samples: np.ndarray) -> Item:
    soundfile.write(path, samples, RATE)
    return Item(path.stem, path)


if __name__ == "__main__":
    main()
