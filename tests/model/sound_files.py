"""Sound files and sidecars for the tests of preparing."""

import json

import numpy as np
import soundfile


def tone(seconds, rate, hz=220.0, level=0.4, channels=1):
    t = np.arange(round(seconds * rate)) / rate
    y = level * np.sin(2 * np.pi * hz * t)
    return y if channels == 1 else np.stack([y] * channels, 1)


def write(path, sound, rate=24_000, sidecar=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **how)
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


def small_folder(folder, tracks=6, seconds=4.0, rate=24_000):
    """Tones of one octave, each with captions and labels beside it."""
    for i in range(tracks):
        sidecar = {
            "captions": [f"a tone at {60 + 10 * i} BPM", f"tone number {i}"],
            "tags": ["tone", "calm"],
            "split": "validation" if i == tracks - 1 else "train",
        }
        sound = tone(seconds, rate, 220 * 2 ** (i / tracks))
        sound *= np.linspace(0.5, 1.0, len(sound))  # no two clips are equal
        write(folder / f"{i}.wav", sound, rate, sidecar)
    return folder
