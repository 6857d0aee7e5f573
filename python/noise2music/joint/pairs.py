"""Pairs to train on: log-mel windows of a folder's clips, made once, and the clips' texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from noise2music.data.prepare.records import whole
from noise2music.joint.towers import CHANNELS, HOP, RATE, WINDOW, JointConfig
from noise2music.mel import log_mel
from noise2music.train.cuts import as_float

Batch = dict[str, NDArray[Any]]


def tower_mel(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """16 kHz sound (..., n), n a multiple of 320 -> (..., n / 320, 192): what the tower hears."""
    return log_mel(samples, window=WINDOW, hop=HOP, channels=CHANNELS)


class Pairs:
    """The clips of one split that have a text.

    mel: (clips, windows, F, 192) float16, memory-mapped; windows do not overlap, and what is left
    at a clip's end is not heard. texts: all captions and labels; those of clip i are texts[j] for
    j in [first[i], first[i] + count[i]).

    Errors: ValueError where no clip has a text, or clips are shorter than a window.
    """

    def __init__(self, clips: Any, config: JointConfig, cache: Path):
        if clips.seconds < config.window:
            raise ValueError(
                f"n2m.joint: clips must be at least a window of {config.window:g} s long, got "
                f"{float(clips.seconds):g} s; render or prepare longer ones"
            )
        self.fingerprint = clips.fingerprint
        rows = [clips.meta(i) for i in range(len(clips))]
        texts = [[*row["captions"], *row.get("labels", ())] for row in rows]
        with_text = [i for i, own in enumerate(texts) if own]
        if not with_text:
            raise ValueError(f"n2m.joint: the clips must have captions, {clips.folder} has none")
        self.texts = [text for i in with_text for text in texts[i]]
        self.count = np.array([len(texts[i]) for i in with_text])
        self.first = np.cumsum(self.count) - self.count
        self.mel = _cached(clips, config, with_text, cache)

    def __len__(self) -> int:
        return len(self.count)

    def draw(self, step: int, size: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """(mel (size, F, 192) float16, numbers of texts (size,)) of training step `step`.

        Each epoch has the clips in another order, each at most once; of every clip one window and
        one text at random. A function of (seed, step) alone, so a resumed run needs no more.
        """
        epoch, place = divmod(step, len(self) // size)
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        clips = np.sort(order[place * size : (place + 1) * size])
        rng = np.random.default_rng((seed, step, 1))
        windows = rng.integers(self.mel.shape[1], size=size)
        texts = self.first[clips] + rng.integers(self.count[clips])
        return self.mel[clips, windows], texts

    def fixed(self, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The first window and text of at most `size` clips."""
        return self.mel[:size, 0], self.first[:size]


def _cached(clips: Any, config: JointConfig, which: list[int], folder: Path) -> NDArray[Any]:
    path = folder / f"{clips.split}-{clips.fingerprint}-{config.window:g}s.npy"
    samples = round(config.window * RATE)
    shape = (len(which), int(clips.seconds * RATE) // samples, config.frames, CHANNELS)
    if not path.exists():
        clips.open("audio16000")
        folder.mkdir(parents=True, exist_ok=True)
        with whole(path, f".{os.getpid()}") as part:
            out = np.lib.format.open_memmap(part, "w+", np.float16, shape)
            for row, i in enumerate(
                tqdm(which, desc=f"{clips.split} log-mel", unit="clip", leave=False)
            ):
                sound = as_float(clips.column("audio16000", i))[: shape[1] * samples]
                out[row] = tower_mel(sound.reshape(shape[1], samples))
            out.flush()
    return np.load(path, mmap_mode="r")
