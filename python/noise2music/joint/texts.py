"""The texts of a training as the text tower wants them: tokens, or pooled by a frozen T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from noise2music.joint.towers import pool
from noise2music.text.t5 import T5Encoder
from noise2music.text.tokenizer import Tokenizer

_BLOCK = 256


class Texts:
    """texts(which) -> what the loss reads of the texts with these numbers.

    Without a frozen T5: (tokens (B, L) int32, mask (B, L) bool). With one: its pooled vectors
    (B, d_model) float32, computed once, since it does not change.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: Tokenizer, length: int, frozen: T5Encoder | None
    ):
        different = sorted(set(texts))
        number = {text: i for i, text in enumerate(different)}
        self._number = np.array([number[text] for text in texts])
        self._pooled = self._tokens = self._mask = None
        if frozen is None:
            self._tokens, self._mask, _ = tokenizer.encode(different, length)
        else:
            self._pooled = pooled_texts(frozen, tokenizer, different, length)

    def __call__(self, which: NDArray[Any]) -> Any:
        rows = self._number[which]
        if self._pooled is not None:
            return self._pooled[rows]
        assert self._tokens is not None and self._mask is not None
        return self._tokens[rows], self._mask[rows]


def pooled_texts(
    t5: T5Encoder, tokenizer: Tokenizer, texts: Sequence[str], length: int
) -> NDArray[np.float32]:
    """(N, d_model): the mean of T5's vectors over each text's tokens, in blocks of 256 texts."""
    graph, state = nnx.split(t5)
    run = jax.jit(lambda state, tokens, mask: pool(nnx.merge(graph, state), tokens, mask))
    tokens, mask, _ = tokenizer.encode(texts, length)
    used = max(1, int(mask.any(0).sum()))
    rest = -len(texts) % _BLOCK  # one shape, one program
    tokens, mask = (np.pad(a[:, :used], ((0, rest), (0, 0))) for a in (tokens, mask))
    blocks = range(0, len(tokens), _BLOCK)
    out = [np.asarray(run(state, tokens[i : i + _BLOCK], mask[i : i + _BLOCK])) for i in blocks]
    return np.concatenate(out)[: len(texts)]
