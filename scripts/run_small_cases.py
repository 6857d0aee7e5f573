"""Every op once at its small shapes on a GPU, forward and backward: what compute-sanitizer watches."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp

from noise2music import kernels

NAMES = ("small", "primes", "length_1")


def main() -> None:
    gpu = jax.devices("gpu")[0]
    for op in kernels.OPS:
        cases = importlib.import_module(f"noise2music.kernels.{op}.cases")
        for case in cases.CASES:
            if case.name not in NAMES:
                continue
            for dtype in cases.DTYPES:
                inputs = jax.device_put(cases.make_inputs(case, dtype), gpu)
                moving = {n: inputs.pop(n) for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}

                def forward(moving, case=case, inputs=inputs, function=cases.FUNCTION):  # type: ignore[no-untyped-def]
                    return function(**moving, **inputs, **case.options, implementation="native")

                if moving:
                    outputs, pull = jax.vjp(jax.jit(forward), moving)
                    outputs = outputs, pull(jax.tree.map(jnp.ones_like, outputs))
                else:
                    outputs = jax.jit(forward)(moving)
                jax.block_until_ready(outputs)
                print(op, case.name, dtype, flush=True)


if __name__ == "__main__":
    main()
