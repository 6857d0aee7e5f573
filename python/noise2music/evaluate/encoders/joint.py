"""Our own joint embedding of sound and text, from the package or a folder of `train joint`.

128 numbers for each 10 s, clip-wise; reads text; hears 16 kHz. What it was trained on, and what it
therefore does not know: docs/joint.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluate.encoders.protocol import Array, cut_windows, hash_files

_BLOCK = 256  # texts at once: one shape, one program, and a text's bits depend on no other


class JointTowers:
    """noise2music.joint's two towers as an encoder; JointTowers(folder=None): the shipped ones."""

    name = "joint"
    framewise = False

    def __init__(self, folder: str | None = None, *, allow_download: bool = False):
        import jax
        from flax import nnx

        from noise2music.joint import released
        from noise2music.joint.features import RATE
        from noise2music.joint.towers import pool

        path = Path(folder) if folder else released.shipped()
        try:
            config, towers, t5, self._tokenizer = released.load_joint(path)
        except ValueError as error:
            raise UserError(f"encoder {self.name} cannot be loaded: {error}") from error
        self.weights_hash = hash_files(path / released.FILE, path / released.TOKENIZER)
        self.sample_rate, self.window, self.dim = RATE, float(config.window), config.dim
        self._token_length = config.token_length
        tower_graph, self._towers = nnx.split(towers)
        t5_graph, self._t5 = nnx.split(t5)
        self._hear = jax.jit(lambda towers, heard: nnx.merge(tower_graph, towers).audio(heard))
        self._read = jax.jit(
            lambda towers, t5, tokens, mask: nnx.merge(tower_graph, towers).text(
                pool(nnx.merge(t5_graph, t5), tokens, mask)
            )
        )

    def embed(self, samples: Array) -> Array:
        """(n,) at 16 kHz, n >= one window -> (windows, dim), rows of norm 1."""
        from noise2music.joint.features import Features, features

        windows = cut_windows(samples, round(self.window * self.sample_rate))
        # One window at a time, so that its bits do not depend on how many there are.
        heard = [Features(*(part[None] for part in features(window))) for window in windows]
        return np.concatenate([np.asarray(self._hear(self._towers, one)) for one in heard])

    def embed_text(self, texts: Sequence[str]) -> Array:
        """N texts -> (N, dim), rows of norm 1."""
        out = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(texts), _BLOCK):
            block = list(texts[start : start + _BLOCK])
            padded = block + [""] * (_BLOCK - len(block))
            tokens, mask, _ = self._tokenizer.encode(padded, self._token_length)
            rows = self._read(self._towers, self._t5, tokens, mask)
            out.append(np.asarray(rows)[: len(block)])
        return np.concatenate(out)
