"""A corpus as training batches.

A batch has whole clips or snippets of audio, mel spectrogram and one caption each.

The corpus folder (manifest.jsonl + audio) is decoded once into memory-mapped arrays under
`<corpus>/cache`. A batch depends on (seed, step) alone, so a resumed run reads exactly what an
uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from noise2music.config import MEL_CHANNELS, MEL_HOP, StageConfig
from noise2music.excitation import flatten
from noise2music.mel import log_mel
from noise2music.text.tempo import stated_tempo

SOURCE_RATE = 24_000


class Corpus:
    """The clips of one split, all one length.

    Captions, attributes, and audio at 24, 16 or 3.2 kHz or as mel.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str = "train"):
        self.folder = Path(folder)
        manifest = self.folder / "manifest.jsonl"
        if not manifest.is_file():
            raise ValueError(
                f"n2m.train: the corpus must have a manifest.jsonl, found none in {self.folder}; "
                "`noise2music data corpus` makes one"
            )
        lines = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
        self.rows = sorted((r for r in lines if r["split"] == split), key=lambda r: str(r["id"]))
        if not self.rows:
            raise ValueError(
                f"n2m.train: {manifest} must have clips of split {split!r}, it has none"
            )
        self.split = split
        # 480 samples of 24 kHz audio are two mel frames: every rate cuts at whole samples.
        self.seconds = Fraction(int(min(r["seconds"] for r in self.rows) * 50), 50)
        self._open: dict[str, NDArray[Any]] = {}
        ids = "\n".join(str(r["id"]) for r in self.rows)
        self._key = f"{split}-{hashlib.sha256(ids.encode()).hexdigest()[:12]}"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Of the split's clips: equal for equal ids."""
        return self._key

    def meta(self, clip: int) -> dict[str, Any]:
        """The clip's line of the manifest."""
        return self.rows[clip]

    def open(self, name: str) -> NDArray[Any]:
        """audio<rate> or mel of all clips; decoded where that was not done before."""
        if name not in self._open:
            self._open[name] = self.mel() if name == "mel" else self.audio(int(name[5:]))
        return self._open[name]

    def column(self, name: str, clip: int) -> NDArray[Any]:
        """audio<rate> (samples,) int16, or mel (frames, 80) float16, of one clip."""
        return self.open(name)[clip]

    def audio(self, rate: int) -> NDArray[np.int16]:
        """(clips, samples) int16 at `rate`, memory-mapped."""
        if rate == SOURCE_RATE:
            return self._cached(f"audio{rate}", np.int16, (int(self.seconds * rate),), self._read)
        source = self.audio(SOURCE_RATE)

        def resample(i: int) -> NDArray[np.int16]:
            y = soxr.resample(source[i].astype(np.float32), SOURCE_RATE, rate, quality="HQ")
            y = np.pad(y, (0, max(0, int(self.seconds * rate) - len(y))))
            return np.clip(np.round(y[: int(self.seconds * rate)]), -32768, 32767).astype(np.int16)

        return self._cached(f"audio{rate}", np.int16, (int(self.seconds * rate),), resample)

    def mel(self) -> NDArray[np.float16]:
        """(clips, frames, 80) float16 log-mel in [-1, 1], memory-mapped."""
        source = self.audio(16_000)
        frames = int(self.seconds * 100)
        return self._cached(
            "mel",
            np.float16,
            (frames, MEL_CHANNELS),
            lambda i: log_mel(source[i, : frames * MEL_HOP] / np.float32(32768)).astype(np.float16),
        )

    def excitation(self) -> NDArray[np.float16]:
        """(clips, samples) float16: the 16 kHz audio without its mel spectrogram's envelope."""
        source, mel = self.audio(16_000), self.mel()
        samples = mel.shape[1] * MEL_HOP

        def flat(i: int) -> NDArray[np.float16]:
            return flatten(source[i, :samples] / np.float32(32768), mel[i]).astype(np.float16)

        return self._cached("excitation", np.float16, (samples,), flat)

    def _read(self, i: int) -> NDArray[np.int16]:
        path = self.folder / self.rows[i]["audio"]
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        if rate != SOURCE_RATE:
            raise ValueError(f"n2m.train: {path} must be at {SOURCE_RATE} Hz, got {rate}")
        need = int(self.seconds * rate)
        if len(samples) < need:
            raise ValueError(f"n2m.train: {path} must have {need} samples, got {len(samples)}")
        return samples[:need].astype(np.int32).mean(1).round().astype(np.int16)

    def _cached(
        self,
        name: str,
        dtype: Any,
        shape: tuple[int, ...],
        make: Callable[[int], NDArray[Any]],
    ) -> NDArray[Any]:
        path = self.folder / "cache" / f"{self._key}-{name}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")  # two processes do it twice, and well
            out = np.lib.format.open_memmap(part, "w+", dtype, (len(self), *shape))
            for i in tqdm(range(len(self)), desc=f"{self.split} {name}", unit="clip", leave=False):
                out[i] = make(i)
            out.flush()
            os.replace(part, path)
        return np.load(path, mmap_mode="r")


class Batches:
    """batch(step) -> arrays for one training step of `config`'s stage.

    x (B, T, C) the target; low (B, T', 1) the stacked condition before up-sampling;
    aligned (B, T'', 80); tokens, mask (B, L) of a random
    caption of each clip, and beat (B,), the beats a second that it states (0: none).
    """

    def __init__(
        self, corpus: Corpus, config: StageConfig, tokenizer: Any, batch_size: int, seed: int = 0
    ):
        self.corpus, self.config, self.batch_size, self.seed = corpus, config, batch_size, seed
        self.length = config.legal_length(round(config.train_seconds * config.rate))
        available = int(corpus.seconds * config.rate)
        if self.length > available:
            self.length = available // config.unet.compression * config.unet.compression
        if self.length == 0:
            raise ValueError(
                f"n2m.train: clips must be at least {config.unet.compression / config.rate:.2f} s "
                f"long for {config.name}, got {float(corpus.seconds):.2f} s"
            )
        if config.target == "mel":
            self.target: NDArray[Any] = corpus.mel()
        else:
            self.target = corpus.excitation() if config.excitation else corpus.audio(config.rate)
        self.low = None
        if config.condition == "stacked":
            assert config.condition_rate is not None
            self.low = corpus.audio(config.condition_rate)
        self.aligned = corpus.mel() if config.condition == "aligned" else None
        self.tokens = None
        if config.unet.has_text:
            captions = [c for r in corpus.rows for c in r["captions"]]
            self.starts = np.cumsum([0] + [len(r["captions"]) for r in corpus.rows])
            self.tokens, self.mask, _ = tokenizer.encode(captions, config.token_length)
            self.beat = np.array([stated_tempo(c) / 60.0 for c in captions], np.float32)

    def batch(self, step: int, share: slice = slice(None)) -> dict[str, NDArray]:
        """The clips `share` of the batch of `step`, so that processes read a part each."""
        config, rng = self.config, np.random.default_rng((self.seed, step))
        clips = rng.integers(len(self.corpus), size=self.batch_size)
        unit = self._unit()
        covered = -(-self.length // unit) * unit  # a stacked condition covers whole units
        room = (int(self.corpus.seconds * config.rate) - covered) // unit
        starts = rng.integers(room + 1, size=self.batch_size) * unit
        if config.train_from == "start":
            starts[:] = 0
        clips, starts = clips[share], starts[share]
        x = self._cut(self.target, clips, starts, self.length)
        out = {"x": x if x.ndim == 3 else x[..., None]}
        if self.low is not None:
            up, down = config.up
            low = self._cut(self.low, clips, starts // up * down, covered // up * down)
            out["low"] = low[..., None]
        if self.aligned is not None:
            hop = config.unet.compression
            out["aligned"] = self._cut(self.aligned, clips, starts // hop, self.length // hop)
        if self.tokens is not None:
            first, last = self.starts[clips], self.starts[clips + 1]
            rows = first + (rng.random(self.batch_size)[share] * (last - first)).astype(int)
            out["tokens"], out["mask"] = self.tokens[rows], self.mask[rows]
            out["beat"] = self.beat[rows]
        return out

    def _unit(self) -> int:
        """Samples by which a cut may move so that the condition too is cut at whole samples."""
        if self.config.condition == "stacked":
            return self.config.up[0]
        return self.config.unet.compression if self.config.condition == "aligned" else 1

    @staticmethod
    def _cut(
        source: NDArray[Any], clips: NDArray[Any], starts: NDArray[Any], length: int
    ) -> NDArray[Any]:
        cut = np.stack([source[i, s : s + length] for i, s in zip(clips, starts, strict=True)])
        scale = np.float32(1 / 32768) if cut.dtype == np.int16 else np.float32(1)
        return cut.astype(np.float32) * scale
