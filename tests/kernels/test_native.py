"""A run without the native library works and says so once; what XLA makes of calls into it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from noise2music import kernels

PROGRAM = """
import jax.numpy as jnp
from noise2music import kernels
x, w = jnp.ones((1, 4, 8)), jnp.zeros((2, 16))
for _ in range(2):
    y = kernels.combine_film(x, jnp.ones((1, 2)), w, jnp.zeros(16))
assert (y == x).all()
assert kernels.build_info() == {}
print(kernels.explain("combine_film", x.shape, x.dtype))
try:
    kernels.combine_film(x, jnp.ones((1, 2)), w, jnp.zeros(16), implementation="native")
except ValueError as error:
    print(error)
"""


def test_switched_off_at_run_time():
    package = Path(kernels.__file__).parents[1]
    environment = {**os.environ, "NOISE2MUSIC_NATIVE": "0"}
    environment["PYTHONPATH"] = str(package.parent)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("native kernels are not in use") == 1
    assert "combine_film (1, 4, 8) float32 on cpu: reference" in result.stdout
    assert "not native: NOISE2MUSIC_NATIVE switches it off" in result.stdout
    assert "implementation must be auto or reference, got 'native'" in result.stdout


@pytest.mark.skipif(not kernels.build_info(), reason="no native library")
def test_an_addition_shares_the_memory_of_a_single_result():
    """A call with one result is no tuple: x + conv(x) needs no array beyond conv(x)."""
    x, weight = jnp.ones((1, 512, 64)), jnp.ones((3, 64, 64))

    def network(x, weight):
        y = x + kernels.conv1d_block(x, weight, implementation="native")
        return kernels.conv1d_block(y, weight, implementation="native")

    plan = jax.jit(network).lower(x, weight).compile().memory_analysis()
    assert x.nbytes <= plan.temp_size_in_bytes < 1.5 * x.nbytes
