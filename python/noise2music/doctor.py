"""`noise2music doctor`: what is installed, what it runs on, whether each kernel computes right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable
from typing import Any

# A healthy kernel differs from the reference by rounding only (about 1e-6 of the largest value);
# a broken one by about 1.
TOLERANCE = 1e-4
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "soundfile", "soxr", "tokenizers")
_EXTRAS = {"matplotlib": "plot", "music21": "data", "IPython": "clip.play() in a notebook"}
ENVIRONMENT = (
    "NOISE2MUSIC_NATIVE",
    "NOISE2MUSIC_ISA",
    "JAX_PLATFORMS",
    "JAX_COMPILATION_CACHE_DIR",
    "XLA_FLAGS",
)


def examine(model: str = "tiny") -> tuple[str, bool]:
    """Returns a report to print, and whether all is well; `model` is the one to look at."""
    lines: list[str] = []
    problems: list[str] = []
    for title, section in (
        ("Software", _software),
        ("Devices", _devices),
        ("Kernels", _kernels),
        ("Model", lambda: _model(model)),
    ):
        lines.append(title)
        try:
            rows, wrong = section()
        except Exception as error:  # a report that stops at the first fault is of no use
            wrong = [f"{title.lower()}: {type(error).__name__}: {' '.join(str(error).split())}"]
            rows = [f"failed: {wrong[0]}"]
        lines += [f"  {row}" for row in rows]
        problems += wrong
    lines.append("Found " + ("nothing wrong." if not problems else f"{len(problems)} fault(s):"))
    lines += [f"  {problem}" for problem in problems]
    return "\n".join(lines), not problems


def _software() -> tuple[list[str], list[str]]:
    from noise2music import __version__

    rows = [f"noise2music {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    problems = []
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed: pip install {name}")
    rows.append(", ".join(versions))
    for name, purpose in _EXTRAS.items():
        there = "yes" if importlib.util.find_spec(name) else "not installed"
        rows.append(f"optional {name} ({purpose}): {there}")
    import soundfile

    from noise2music.audio import FORMATS

    known = soundfile.available_formats()
    able = [suffix for suffix, (name, _) in FORMATS.items() if name in known]
    rows.append(f"sound files: {', '.join(able)} (libsndfile {soundfile.__libsndfile_version__})")
    rows += [f"{name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ]
    return rows, problems


def _devices() -> tuple[list[str], list[str]]:
    import jax

    rows = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
    if hasattr(os, "sched_getaffinity"):
        rows.append(f"{len(os.sched_getaffinity(0))} CPU core(s) usable by this process")
    return rows, []


def _kernels() -> tuple[list[str], list[str]]:
    import jax

    from noise2music import kernels
    from noise2music.kernels.common import native

    rows, problems = [], []
    info = kernels.build_info()
    if info:
        rows.append(f"native library {info['version']}: {info['isa']}, compiler {info['compiler']}")
    elif native.switched_off():
        rows.append("native library: switched off by NOISE2MUSIC_NATIVE; the ops run as plain JAX")
    else:
        rows.append(
            "native library: none, this installation was built without a C++ compiler; the ops "
            "run as plain JAX"
        )
    where = jax.default_backend()
    for name, test in sorted(self_tests().items()):
        shape, error = test()
        runs = kernels.explain(name, shape, "float32", where).runs
        healthy = error <= TOLERANCE
        rows.append(
            f"{name}: {runs} on {where}, differs from the reference by {error:.1e}: "
            + ("ok" if healthy else "WRONG")
        )
        if not healthy:
            problems.append(f"{name} ({runs} on {where}) differs from the reference by {error:.1e}")
    return rows, problems


def _model(model: str) -> tuple[list[str], list[str]]:
    import noise2music

    pipe = noise2music.load(model)
    stages = len(pipe.stages)  # reads every one of them
    routes = ", ".join(pipe.routes)
    return [f"{pipe.name}: weights {pipe.model_hash}, {stages} stages, routes {routes}"], []


def self_tests() -> dict[str, Callable[[], tuple[tuple[int, ...], float]]]:
    """Name of an op -> a test that returns the shape it ran at and the largest relative error.

    Values and, where the op has them, gradients of `implementation="auto"` are compared with
    `implementation="reference"`; the error is max |a - b| / max |b| over each output.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from noise2music import kernels

    def normal(seed: int, *shape: int) -> Any:
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

    def compare(op: Callable[..., Any], *operands: Any) -> float:
        """op(*operands, implementation=...) -> arrays; gradients by all the operands."""

        def run(implementation: str) -> Any:
            def outputs(*args: Any) -> Any:
                return jax.tree.leaves(op(*args, implementation=implementation))

            def loss(*args: Any) -> Any:
                # Scaled to one: the sine of a large sum would show its last bit as an error.
                scaled = (y / jax.lax.stop_gradient(jnp.abs(y).max()) for y in outputs(*args))
                return sum(jnp.sum(jnp.sin(y)) for y in scaled)

            places = tuple(range(len(operands)))
            return jax.jit(lambda *a: (outputs(*a), jax.grad(loss, places)(*a)))(*operands)

        return _largest_error(run("auto"), run("reference"))

    x = normal(0, 2, 96, 64)

    def combine_film() -> tuple[tuple[int, ...], float]:
        error = compare(
            kernels.combine_film, x, normal(1, 2, 32), normal(2, 32, 128), normal(3, 128)
        )
        return x.shape, error

    def conv1d_block() -> tuple[tuple[int, ...], float]:
        def op(x: Any, weight: Any, bias: Any, scale: Any, offset: Any, **how: Any) -> Any:
            return kernels.conv1d_block(
                x, weight, bias, scale=scale, offset=offset, groups=8, out_groups=4, **how
            )

        weight, offset = normal(4, 5, 64, 32) / 18, normal(5, 64)
        return x.shape, compare(op, x, weight, normal(6, 32), 1 + offset / 4, offset)

    def fft_upsample() -> tuple[tuple[int, ...], float]:
        def op(x: Any, **how: Any) -> Any:
            return kernels.fft_upsample(x, 3, 2, **how)

        return x.shape, compare(op, x)

    def ancestral_step() -> tuple[tuple[int, ...], float]:
        keys = jax.random.split(jax.random.key(0), 2)
        row = jnp.asarray([3.0, 1.2, 0.7, 0.6, 0.3, 0.2, 99.5, 1.0], jnp.float32)

        def run(implementation: str) -> Any:
            return jax.jit(
                lambda *args: kernels.ancestral_step(*args, implementation=implementation)
            )(x, normal(7, *x.shape), normal(8, *x.shape), keys, row)

        return x.shape, _largest_error(run("auto"), run("reference"))

    return {
        "ancestral_step": ancestral_step,
        "combine_film": combine_film,
        "conv1d_block": conv1d_block,
        "fft_upsample": fft_upsample,
    }


def _largest_error(found: Any, expected: Any) -> float:
    import jax
    import numpy as np

    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-30))
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst
