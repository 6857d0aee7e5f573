"""What an encoder of sound is.

    e = encoder.embed(samples)        (n,) at encoder.sample_rate -> (windows, encoder.dim)

An encoder hears one window of `window` seconds at a time. A clip longer than that is cut into
windows that do not overlap; what is left at the end is not heard. Frame-wise encoders (VGGish,
TRILL) give FAD one row a window; clip-wise ones (MuLan) give it one row a clip, the mean over its
windows (section 3.5). Similarity uses that mean for both kinds.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from noise2music.errors import UserError, unknown_name

Array = np.ndarray


@runtime_checkable
class AudioEncoder(Protocol):
    """Hears sound. Attributes are read, never written.

    name: as the command line spells it. sample_rate: Hz of what it hears. window: seconds.
    dim: numbers in an embedding. framewise: whether a window, not a clip, is one row of FAD.
    weights_hash: changes when the weights, or anything else that changes an embedding, change.
    """

    name: str
    sample_rate: int
    window: float
    dim: int
    framewise: bool
    weights_hash: str

    def embed(self, samples: Array) -> Array:
        """Mono samples (n,) float32 at `sample_rate`, n >= one window -> (windows, dim) float32.

        The same samples give the same bits, whatever was embedded before.
        """
        ...


@runtime_checkable
class JointEncoder(AudioEncoder, Protocol):
    """Hears sound and reads text, in one space (MuLan, CLAP)."""

    def embed_text(self, texts: Sequence[str]) -> Array:
        """N texts -> (N, dim) float32."""
        ...


# name -> where its class is. A name may be followed by :FOLDER, the weights.
ENCODERS = {
    "musicnn_mtt": "offline:MusicnnMtt",
    "musicnn_msd": "offline:MusicnnMsd",
    "joint": "joint:JointTowers",
    "vggish": "adapters:Vggish",
    "trill": "adapters:Trill",
    "clap": "adapters:Clap",
    "muq_mulan": "adapters:MuqMulan",
}
DEFAULT_ENCODERS = ("musicnn_mtt", "musicnn_msd")  # run offline, from packages
OFFLINE_ENCODERS = (*DEFAULT_ENCODERS, "joint")  # joint: the default where text is read


def load_encoder(name: str, *, allow_download: bool = False) -> AudioEncoder:
    """An encoder by name, "NAME:FOLDER" with the folder of its weights, or "MODULE:CLASS".

    allow_download: an adapter without a folder may ask its hub. Without it nothing here reaches for
    the network. MODULE:CLASS is a class of yours with this protocol and no arguments.

    Raises:
      UserError: no such encoder, its package or its weights are not there, or the class of yours
        lacks a part of the protocol.
    """
    key, _, folder = name.partition(":")
    if key in ENCODERS:
        module, _, cls = ENCODERS[key].partition(":")
        make = getattr(importlib.import_module(f"{__package__}.{module}"), cls)
        made: AudioEncoder = make(folder or None, allow_download=allow_download)
        return made
    if folder and key.replace(".", "").isidentifier():
        try:
            own = getattr(importlib.import_module(key), folder)()
        except (ImportError, AttributeError) as error:
            raise UserError(f"encoder {name!r} cannot be loaded: {error}") from error
        if not isinstance(own, AudioEncoder):
            raise UserError(
                f"encoder {name!r} must have name, sample_rate, window, dim, framewise, "
                "weights_hash and embed(samples)"
            )
        return own
    raise unknown_name("encoder", name, ENCODERS)


def cut_windows(samples: Array, length: int) -> Array:
    """(n,) -> (n // length, length), from the start, without overlap; the rest is left out.

    Raises:
      ValueError: shorter than one window.
    """
    if samples.ndim != 1 or length < 1 or samples.size < length:
        raise ValueError(
            f"n2m.evaluate: samples must be (n >= {length},), one window, got {samples.shape}"
        )
    count = samples.size // length
    return samples[: count * length].reshape(count, length)


def unit_rows(rows: Array) -> Array:
    """Rows over their norms, float64; ValueError on a row of zeros."""
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (norms > 0).all():
        raise ValueError("n2m.evaluate: an embedding must have a norm above 0, got zeros")
    return rows / norms


def hash_files(*paths: Path) -> str:
    """sha256 over the files' bytes in the order of their names, 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
