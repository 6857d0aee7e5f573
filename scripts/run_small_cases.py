"""Every op at its small shapes on a GPU, forward and backward: for compute-sanitizer to watch."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from noise2music import kernels

NAMES = ("small", "primes", "length_1")


def run(cases: Any, case: Any, inputs: dict[str, Any]) -> None:
    """Forward, and backward where there is one."""
    moving = {n: inputs.pop(n) for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}

    def forward(moving: dict[str, Any]) -> Any:
        return cases.FUNCTION(**moving, **inputs, **case.options, implementation="native")

    if not moving:
        jax.block_until_ready(jax.jit(forward)(moving))
        return
    outputs, pull = jax.vjp(jax.jit(forward), moving)
    jax.block_until_ready((outputs, pull(jax.tree.map(jnp.ones_like, outputs))))


def main() -> None:
    gpu = jax.devices("gpu")[0]
    for op in kernels.OPS:
        cases = importlib.import_module(f"noise2music.kernels.{op}.cases")
        for case in cases.CASES:
            if case.name not in NAMES:
                continue
            for dtype in cases.DTYPES:
                run(cases, case, jax.device_put(cases.make_inputs(case, dtype), gpu))
                print(op, case.name, dtype, flush=True)


if __name__ == "__main__":
    main()
