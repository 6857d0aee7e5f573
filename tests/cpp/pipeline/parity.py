"""Tools of the parity tests: the probe program, its arrays, small models of random weights."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import numpy_draws
from flax import nnx
from noise2music import weights
from noise2music.config import StageConfig, load_preset, to_dict
from noise2music.kernels.common import native
from noise2music.unet1d import UNet1D
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[3]
TINY = ROOT / "python" / "noise2music" / "models" / "tiny"


def compiler() -> str:
    found = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def installed_prefix() -> Path:
    """Where the installed package keeps include/ and lib/."""
    if native.why_missing():
        pytest.skip("this installation has no native library")
    command = [sys.executable, "-m", "noise2music", "--cmake-dir"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 2:
        pytest.skip("running from the source tree: nothing is installed to link")
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip()).parents[2]


def build_probe(folder: Path) -> Path:
    """The probe, linked with the installed static libraries and the headers of this tree."""
    prefix, program = installed_prefix(), folder / "probe"
    library = next(prefix.glob("lib*/libnoise2music_pipeline.a")).parent
    command = [
        compiler(), "-std=c++17", "-O1",
        f"-I{ROOT / 'csrc'}", f"-I{ROOT}", f"-I{prefix / 'include'}",
        Path(__file__).with_name("probe.cc"), library / "libnoise2music_pipeline.a",
        library / "libnoise2music_core.a", "-pthread", "-o", program,
    ]  # fmt: skip
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return program


@dataclasses.dataclass
class Probe:
    program: Path
    folder: Path

    def __call__(self, part: str, model: Path | str = "-", **arrays: object) -> dict:
        result = self.run(part, model, **arrays)
        assert result.returncode == 0, result.stderr
        return load_file(self.folder / "out.safetensors")

    def run(self, part: str, model: Path | str, **arrays: object) -> subprocess.CompletedProcess:
        save_file(
            {n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()},
            self.folder / "in.safetensors",
        )
        command = [self.program, part, model, self.folder / "in.safetensors"]
        command.append(self.folder / "out.safetensors")
        return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """|got - want| / |want| over the whole array."""
    want = np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def narrow(name: str) -> StageConfig:
    """The paper's preset at an eighth of its width: its depth, strides, blocks and attention."""
    config = load_preset(name)
    unet = dataclasses.replace(
        config.unet,
        base_dim=config.unet.base_dim // 8,
        channels=tuple(c // 8 for c in config.unet.channels),
        blocks=tuple(min(b, 2) for b in config.unet.blocks),
        norm_groups=8,
        heads=4,
        text_dim=24,
    )
    return dataclasses.replace(config, unet=unet)


def random_unet(config: StageConfig, path: Path, dtype: type = np.float32) -> UNet1D:
    """A network whose every weight is random (an untrained one is nearly the identity), saved."""
    with numpy_draws():
        unet = UNet1D(config.unet, rngs=nnx.Rngs(3))
    graph, state = nnx.split(unet)
    draw = np.random.default_rng(5)

    def scramble(leaf: jax.Array | np.ndarray) -> np.ndarray:
        noise = draw.standard_normal(leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return np.asarray(leaf) + noise * np.float32(0.3 / np.sqrt(fan_in))

    state = jax.tree.map(scramble, state)
    weights.save_state(path, state, to_dict(config), dtype)
    return nnx.merge(graph, weights.load_state(path, state))


def inputs(config: StageConfig, frames: int) -> dict[str, np.ndarray]:
    """Arrays that a network of this kind reads, in two branches where it has text."""
    draw = np.random.default_rng(7)
    length = frames * config.unet.compression
    out = {"x": draw.standard_normal((length, config.unet.in_channels))}
    if config.unet.stacked_channels:
        out["stacked"] = draw.standard_normal((length, 1))
    if config.unet.aligned_channels:
        out["aligned"] = draw.uniform(-1, 1, (frames, 80))
    if config.unet.has_text:
        out["text"] = draw.standard_normal((2, 9, config.unet.text_dim))
        out["tokens"], out["beat"] = np.array([6, 0]), np.array([2.0, 0])
    return {n: np.asarray(a, np.float32) for n, a in out.items()}


def call_jax(unet: UNet1D, arrays: dict[str, np.ndarray], t: float) -> Callable[[], np.ndarray]:
    """What does the same by JAX, compiled: () -> (branches, T, C)."""
    branches = len(arrays.get("tokens", [0]))
    shared = {
        n: jnp.repeat(jnp.asarray(arrays[n])[None], branches, 0)
        for n in ("x", "stacked", "aligned")
        if n in arrays
    }
    text = {}
    if "text" in arrays:
        rows = np.arange(arrays["text"].shape[1])
        tokens = arrays["tokens"]
        text = {
            "text": jnp.asarray(arrays["text"]),
            "mask": jnp.asarray(rows[None] < np.maximum(tokens, 1)[:, None]),
            "keep": jnp.asarray(tokens > 0, jnp.float32),
            "beat": jnp.asarray(arrays["beat"]),
        }
    graph, state = nnx.split(unet)

    @jax.jit
    def run(state: object, x: jax.Array, others: dict[str, jax.Array]) -> jax.Array:
        return nnx.merge(graph, state)(x, jnp.full(branches, t, jnp.float32), **others)

    x = shared.pop("x")
    return lambda: np.asarray(run(state, x, {**shared, **text}))
