"""Encoders whose weights are not shipped: from a local folder or, only when asked, a hub.

vggish      torch.hub repository folder (harritaylor/torchvggish), or that hub
trill       TensorFlow SavedModel folder of TRILL version 3, or tfhub.dev
clap        laion_clap checkpoint file, or its own download
muq_mulan   folder for MuQMuLan.from_pretrained, or the Hugging Face hub

None of these weights could be had where this was written: the adapters were tested with stand-ins
of the same interface, not with the models themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.errors import UserError, import_extra
from noise2music.evaluate.encoders.protocol import Array, cut_windows, hash_files


class _Adapter:
    name: str
    sample_rate: int
    window: float
    dim: int
    framewise: bool
    package: str
    hub: str

    def __init__(self, folder: str | None = None, *, allow_download: bool = False):
        if folder is not None and not Path(folder).exists():
            raise UserError(f"encoder {self.name}: there is no {folder!r}")
        if folder is None and not allow_download:
            raise UserError(
                f"encoder {self.name} needs its weights: {self.name}:PATH with a local copy, or "
                f"--allow-download to let it ask {self.hub}"
            )
        self._package: Any = import_extra(
            self.package, extra=f"pip install {self.package}", purpose=f"encoder {self.name}"
        )
        self._model = self.load(folder)
        if folder is None:
            self.weights_hash = hashlib.sha256(self.hub.encode()).hexdigest()[:16]
        else:
            path = Path(folder)
            files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
            self.weights_hash = hash_files(*files)

    def load(self, path: str | None) -> Any:
        raise NotImplementedError

    def hear(self, window: Array) -> Array:
        raise NotImplementedError

    def embed(self, samples: Array) -> Array:
        """(n,) -> (windows, dim); one window at a time, so that bits do not depend on the rest."""
        windows = cut_windows(samples, round(self.window * self.sample_rate))
        return np.stack([np.asarray(self.hear(w), np.float32).reshape(self.dim) for w in windows])


class Vggish(_Adapter):
    """Hershey et al. 2017: 128 numbers for each 0.96 s, frame-wise (FAD_VGG of Table 5)."""

    name, sample_rate, window, dim, framewise = "vggish", 16_000, 0.96, 128, True
    package, hub = "torch", "github.com/harritaylor/torchvggish"

    def load(self, path: str | None) -> Any:
        source = {"source": "local"} if path else {}
        model = self._package.hub.load(path or "harritaylor/torchvggish", "vggish", **source)
        model.postprocess = False  # FAD is defined before the quantised principal components
        return model.eval()

    def hear(self, window: Array) -> Array:
        with self._package.inference_mode():
            # One frame more: the published front end drops a window that ends with the sound.
            return np.asarray(self._model.forward(np.pad(window, (0, 400)), fs=self.sample_rate))


class Trill(_Adapter):
    """Shor et al. 2020, version 3: 512 numbers, frame-wise; the mean of a window of 1 s."""

    name, sample_rate, window, dim, framewise = "trill", 16_000, 1.0, 512, True
    package, hub = "tensorflow_hub", "tfhub.dev/google/nonsemantic-speech-benchmark/trill/3"

    def load(self, path: str | None) -> Any:
        return self._package.load(path or f"https://{self.hub}")

    def hear(self, window: Array) -> Array:
        heard = self._model(samples=window, sample_rate=self.sample_rate)["embedding"]
        return np.asarray(heard).reshape(-1, self.dim).mean(axis=0)


class Clap(_Adapter):
    """LAION-CLAP, the music checkpoint's shape: 512 numbers for each 10 s, clip-wise; reads text.

    It hears 48 kHz; clips are judged at 16 kHz, so its upper two thirds stay empty.
    """

    name, sample_rate, window, dim, framewise = "clap", 48_000, 10.0, 512, False
    package, hub = "laion_clap", "huggingface.co/lukewys/laion_clap"

    def load(self, path: str | None) -> Any:
        model = self._package.CLAP_Module(enable_fusion=False, amodel="HTSAT-base")
        model.load_ckpt(*([path] if path else []))
        return model

    def hear(self, window: Array) -> Array:
        return np.asarray(self._model.get_audio_embedding_from_data(x=window[None]))

    def embed_text(self, texts: Sequence[str]) -> Array:
        """N texts -> (N, 512)."""
        return np.asarray(self._model.get_text_embedding(list(texts)), np.float32)


class MuqMulan(_Adapter):
    """MuQ-MuLan (Zhu et al. 2025): 512 numbers for each 10 s at 24 kHz, clip-wise; reads text."""

    name, sample_rate, window, dim, framewise = "muq_mulan", 24_000, 10.0, 512, False
    package, hub = "muq", "huggingface.co/OpenMuQ/MuQ-MuLan-large"

    def load(self, path: str | None) -> Any:
        return self._package.MuQMuLan.from_pretrained(path or "OpenMuQ/MuQ-MuLan-large").eval()

    def _ask(self, **what: Any) -> Array:
        import torch

        with torch.inference_mode():
            return np.asarray(self._model(**what))

    def hear(self, window: Array) -> Array:
        import torch

        return self._ask(wavs=torch.from_numpy(window[None]))

    def embed_text(self, texts: Sequence[str]) -> Array:
        """N texts -> (N, 512)."""
        return self._ask(texts=list(texts)).astype(np.float32)
