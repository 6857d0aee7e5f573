"""Untrained networks whose random weights NumPy draws.

jax.random compiles a program for each shape, up to a second: for a network of eight channels that
is longer than all that is tested of it.
"""

import contextlib
from unittest import mock

import jax
import numpy as np

_normal = jax.random.normal


def _drawn(key, shape=(), dtype=np.float32):
    if isinstance(key, jax.core.Tracer):
        return _normal(key, shape, dtype)
    seed = np.asarray(jax.random.key_data(key)).ravel()
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


@contextlib.contextmanager
def numpy_draws():
    """Within it initialisers get other numbers of the same distribution, as NumPy arrays. A key
    still tells them all; a program that is traced draws as ever."""
    with mock.patch.object(jax.random, "normal", _drawn):
        yield
