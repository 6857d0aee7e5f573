"""A run without the native library works and says so once."""

import os
import subprocess
import sys
from pathlib import Path

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
