"""Pairs to train on: the features of a folder's clips, made once, and the clips' texts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from noise2music.data.prepare.records import whole
from noise2music.joint.features import (
    BANDS,
    FLOOR,
    PITCHES,
    RATE,
    RHYTHM_BINS,
    Features,
    features,
)
from noise2music.joint.towers import JointConfig
from noise2music.train.cuts import as_float


class Pairs:
    """The clips of one split that have a text.

    heard: Features (clips, windows, ...) float16, memory-mapped; windows do not overlap, and what
    is left at a clip's end is not heard. texts: all captions and labels; those of clip i are
    texts[j] for j in [first[i], first[i] + count[i]).

    Errors: ValueError where no clip has a text, or clips are shorter than a window.
    """

    def __init__(self, clips: Any, config: JointConfig, cache: Path):
        if clips.seconds < config.window:
            raise ValueError(
                f"n2m.joint: clips must be at least a window of {config.window} s long, got "
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
        self.heard = _cached(clips, config, with_text, cache)

    def __len__(self) -> int:
        return len(self.count)

    def draw(self, step: int, size: int, seed: int) -> tuple[Features, NDArray[Any]]:
        """(features of `size` windows, numbers of as many texts) of training step `step`.

        Each epoch has the clips in another order, each at most once; of every clip one window and
        one text at random. A function of (seed, step) alone, so a resumed run needs no more.
        """
        epoch, place = divmod(step, len(self) // size)
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        clips = np.sort(order[place * size : (place + 1) * size])
        rng = np.random.default_rng((seed, step, 1))
        windows = rng.integers(self.heard.pitch.shape[1], size=size)
        texts = self.first[clips] + rng.integers(self.count[clips])
        return Features(*(column[clips, windows] for column in self.heard)), texts

    def fixed(self, size: int) -> tuple[Features, NDArray[Any]]:
        """The first window and text of at most `size` clips."""
        return Features(*(column[:size, 0] for column in self.heard)), self.first[:size]


def _cached(clips: Any, config: JointConfig, which: list[int], folder: Path) -> Features:
    samples = config.window * RATE
    count = int(clips.seconds * RATE) // samples
    shapes = Features((config.window, PITCHES, len(FLOOR)), (RHYTHM_BINS, BANDS))
    stem = f"{clips.split}-{clips.fingerprint}-{config.window}s"
    paths = Features(*(folder / f"{stem}-{name}.npy" for name in Features._fields))
    if not all(path.exists() for path in paths):
        clips.open("audio16000")
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parts = [stack.enter_context(whole(path, f".{os.getpid()}")) for path in paths]
            columns = [
                np.lib.format.open_memmap(part, "w+", np.float16, (len(which), count, *shape))
                for part, shape in zip(parts, shapes, strict=True)
            ]
            bar = tqdm(which, desc=f"{clips.split} features", unit="clip", leave=False)
            for row, i in enumerate(bar):
                sound = as_float(clips.column("audio16000", i))[: count * samples]
                for window, part in enumerate(sound.reshape(count, samples)):
                    for column, values in zip(columns, features(part), strict=True):
                        column[row, window] = values
            for column in columns:
                column.flush()
    return Features(*(np.load(path, mmap_mode="r") for path in paths))
