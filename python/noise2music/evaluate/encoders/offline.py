"""The encoders offered by default: musicnn's two taggers, from the weights in its own package.

An embedding is the layer below the tags, 200 numbers for each window of 3 s. Trained by Pons and
Serra (2019) on MagnaTagATune (mtt) and the Million Song Dataset (msd); ISC licence. They hear
16 kHz, so nothing above 8 kHz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate.encoders import musicnn
from noise2music.evaluate.encoders.protocol import Array, hash_files

# 187 frames, 256 samples apart and centred on their samples.
_WINDOW = musicnn.PATCH_FRAMES * musicnn.HOP


class _Musicnn:
    model: str
    name: str
    sample_rate = musicnn.SAMPLE_RATE
    window = _WINDOW / musicnn.SAMPLE_RATE  # 2.992 s
    dim = 200
    framewise = True

    def __init__(self, folder: str | None = None, *, allow_download: bool = False):
        found = Path(folder) if folder else musicnn.wheel_folder()
        try:
            self._tagger = musicnn.Tagger(self.model, found)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"encoder {self.name} cannot be loaded: {error}") from error
        assert found is not None
        weights = found / self.model
        self.weights_hash = hash_files(weights / ".index", weights / ".data-00000-of-00001")

    def embed(self, samples: Array) -> Array:
        """(n >= 47872,) -> (windows, 200)."""
        if samples.ndim != 1 or samples.size < _WINDOW:
            raise ValueError(
                f"n2m.evaluate: samples must be (n >= {_WINDOW},) for {self.name}, "
                f"got {samples.shape}"
            )
        # Window by window, so that a window's bits do not depend on how many there are.
        patches = musicnn.log_mel_patches(samples, self.sample_rate)
        return np.concatenate([self._tagger(patch[None]).penultimate for patch in patches])


class MusicnnMtt(_Musicnn):
    """musicnn trained on MagnaTagATune."""

    model, name = "MTT_musicnn", "musicnn_mtt"


class MusicnnMsd(_Musicnn):
    """musicnn trained on the Million Song Dataset."""

    model, name = "MSD_musicnn", "musicnn_msd"
