"""Rows of the ops: the answer is checked, then every contender is timed in one run."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.bench import device, rivals, timing
from noise2music.bench.roof import Roof
from noise2music.bench.shapes import Work, cost_of, inputs_of, room

# Largest difference from plain JAX in float32, over the largest value: rounding, and room for it.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


class WrongAnswer(RuntimeError):
    """A contender computes something else: its time means nothing."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. seconds: the median of a call (or step) by contender, "ours" first.

    plain_error: of plain XLA in the same dtype, where that is a contender.
    memory: of a network, the bytes a step takes beyond the weights and inputs, by contender.
    idle: of the sampler on a GPU, the part of its time in which no kernel runs, by contender.
    """

    op: str
    case: str
    dtype: str
    passes: str
    seconds: dict[str, float]
    spread: dict[str, float]
    gbytes_per_second: float
    gflops: float
    roof_percent: float
    error: float
    command: str
    plain_error: float | None = None
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    idle: dict[str, float] = dataclasses.field(default_factory=dict)

    def ratio(self, rival: str) -> float | None:
        if rival not in self.seconds:
            return None
        return self.seconds[rival] / self.seconds["ours"]


def measure(work: Work, against: Sequence[str], roof: Roof, *, seconds: float, least: int) -> Row:
    """One row. Raises WrongAnswer if our result or a rival's is not plain JAX's in float32."""
    inputs = inputs_of(work)
    right = _outputs(_program(work, "reference"), _float32(inputs))
    calls, errors = {}, {}
    for name, how in (("ours", "auto"), ("xla", "reference")):
        if name != "ours" and name not in against:
            continue
        program = _program(work, how)
        errors[name] = _error(_outputs(program, inputs), right)
        calls[name] = _bound(program, inputs)
    for name in against:
        if name in ("torch", "compile"):
            call, answer = rivals.torch_call(work, inputs, compiled=name == "compile")
            at = 1 if work.op == "ancestral_step" else 0
            errors[name] = _error([answer()], right[at : at + 1])
            calls[name] = call
        elif (
            name == "scipy"
            and not device.on_gpu()
            and (resample := rivals.scipy_call(work, inputs))
        ):
            errors[name] = _error([resample()], right[:1])
            calls[name] = resample
        elif name == "float32" and work.dtype != "float32":
            calls[name] = _bound(_program(work, "auto"), _float32(inputs))
    for name, error in errors.items():
        if not error <= TOLERANCE[work.dtype]:
            raise WrongAnswer(
                f"{name} differs from plain JAX in float32 by {error:.1e} of the largest value at "
                f"{work.op} {work.case.name} {work.dtype} {work.passes}; "
                f"at most {TOLERANCE[work.dtype]:.0e} is rounding"
            )
    if device.on_gpu():
        samples = device.interleave(calls)
    else:
        samples = timing.interleave(calls, seconds=seconds, least=least)
    median = {name: statistics.median(times) for name, times in samples.items()}
    cost, ours = cost_of(work), median["ours"]
    return Row(
        op=work.op,
        case=work.case.name,
        dtype=work.dtype,
        passes=work.passes,
        seconds=median,
        spread={name: timing.spread(times) for name, times in samples.items()},
        gbytes_per_second=cost.bytes / ours / 1e9,
        gflops=cost.flops / ours / 1e9,
        roof_percent=100 * roof.seconds(cost.bytes, cost.flops, work.dtype) / ours,
        error=errors["ours"],
        command=work.command,
        plain_error=errors.get("xla"),
    )


def _program(work: Work, implementation: str) -> Callable[[dict[str, Any]], Any]:
    """inputs -> outputs, or with "both" (outputs, gradients of all that can be differentiated)."""
    cases = room(work.op)

    def forward(inputs: dict[str, Any]) -> Any:
        return cases.FUNCTION(**inputs, **work.case.options, implementation=implementation)

    def both(inputs: dict[str, Any]) -> Any:
        moving = {n: inputs[n] for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}
        fixed = {n: v for n, v in inputs.items() if n not in moving}
        outputs, pull = jax.vjp(lambda m: forward({**m, **fixed}), moving)
        # Sums are large: their cotangents are kept small, or they would drown that of y.
        ct = jax.tree.map(
            lambda y: jnp.full_like(y, 1e-3 if y.ndim and y.shape[-1] == 2 else 1), outputs
        )
        return outputs, pull(ct)[0]

    return jax.jit(forward if work.passes == "forward" else both)


def _bound(program: Callable[[Any], Any], inputs: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(inputs))


def _float32(tree: Any) -> Any:
    def wide(x: Any) -> Any:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


def _outputs(program: Callable[[Any], Any], inputs: Any) -> list[np.ndarray]:
    return [np.asarray(y, np.float32) for y in jax.tree.leaves(program(inputs))]


def _error(got: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The largest over the outputs of max |got - right| / max |right|; NaN is infinitely wrong."""
    worst = 0.0
    for a, b in zip(got, right, strict=True):
        if b.size:
            error = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
            worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst
