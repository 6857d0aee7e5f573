"""Every op at small shapes on a GPU, forward and backward.

python scripts/run_small_cases.py             for compute-sanitizer to watch
python scripts/run_small_cases.py --compare   against plain JAX in float32 at the highest
                                              precision, and bit-equal in a second run
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from noise2music import kernels
from noise2music.kernels.common.cases import Case

NAMES = ("small", "primes", "length_1")
# Of the largest value: a wrong index is far above, rounding (of sums of some hundred terms) below.
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}


def cases_of(op: str, compare: bool) -> Iterator[Case]:
    """The small ones; to compare, one of several tiles, clips a tile and chunks of channels too."""
    found = {c.name: c for c in importlib.import_module(f"noise2music.kernels.{op}.cases").CASES}
    yield from (found[name] for name in NAMES)
    if compare and op == "conv1d_block":
        shape = {"B": 5, "T": 150, "C": 264, "K": 7, "D": 264, "R": 72}
        yield Case("tiles", shape, {"groups": 8, "out_groups": 8})
        yield Case("shares", {**shape, "B": 8, "T": 23}, {"groups": 8, "out_groups": 8})
        yield dataclasses.replace(found["stride_4"], shape={**found["stride_4"].shape, "C": 136})


def run(op: str, case: Case, inputs: dict[str, Any], implementation: str) -> Any:
    """(outputs, gradients of what can be differentiated)."""
    cases = importlib.import_module(f"noise2music.kernels.{op}.cases")
    moving = {n: inputs[n] for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}
    fixed = {n: v for n, v in inputs.items() if n not in moving}

    @jax.jit
    def forward(moving: dict[str, Any], fixed: dict[str, Any]) -> Any:
        return cases.FUNCTION(**moving, **fixed, **case.options, implementation=implementation)

    if not moving:
        return jax.block_until_ready(forward(moving, fixed))
    outputs, pull = jax.vjp(lambda m: forward(m, fixed), moving)
    # Sums are large: their cotangents are kept small, or they would drown that of y.
    cotangents = jax.tree.map(
        lambda y: jnp.full_like(y, 1e-3 if y.shape[-1:] == (2,) else 1), outputs
    )
    return jax.block_until_ready((outputs, pull(cotangents)))


def wide(tree: Any) -> Any:
    def one(x: Any) -> Any:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def error(got: Any, right: Any) -> float:
    """The largest over the outputs of max |got - right| / max |right|; NaN is infinitely wrong."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        if b.size:
            one = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
            worst = max(worst, one if np.isfinite(one) else np.inf)
    return worst


def compare(op: str, case: Case, inputs: dict[str, Any], dtype: str) -> bool:
    once, again = (run(op, case, inputs, "native") for _ in range(2))
    same = all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True)
    )
    with jax.default_matmul_precision("highest"):
        worst = error(once, run(op, case, wide(inputs), "reference"))
    right = worst <= TOLERANCE[dtype]
    verdict = ("right" if right else "WRONG") + ("" if same else ", OTHER BITS in a second run")
    print(f"{op:16} {case.name:10} {dtype:9} error {worst:.1e}  {verdict}", flush=True)
    return right and same


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compare", action="store_true", help="against plain JAX")
    parser.add_argument("--platform", default="gpu", help="cpu only tries the script out")
    options = parser.parse_args()
    device = jax.devices(options.platform)[0]
    jax.config.update("jax_default_device", device)
    well = True
    for op in kernels.OPS:
        cases = importlib.import_module(f"noise2music.kernels.{op}.cases")
        for case in cases_of(op, options.compare):
            for dtype in cases.DTYPES:
                inputs = jax.device_put(cases.make_inputs(case, dtype), device)
                if not options.compare:
                    run(op, case, inputs, "native")
                    print(op, case.name, dtype, flush=True)
                    continue
                try:  # one that the GPU refuses says nothing of the others
                    well &= compare(op, case, inputs, dtype)
                except jax.errors.JaxRuntimeError as refused:
                    well = False
                    print(f"{op:16} {case.name:10} {dtype:9} FAILED {refused}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
