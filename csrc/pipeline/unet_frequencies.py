"""Writes unet_frequencies.inc: the frequencies of unet1d.py as XLA rounds them.

    python csrc/pipeline/unet_frequencies.py > csrc/pipeline/unet_frequencies.inc

A network hears the phase of 1000 t f and 2 pi f tau. One rounding of f moves a phase of a thousand
radians by 6e-5, so a network has to be given the very numbers that it was trained with.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

TIME = jax.jit(lambda: jnp.exp(jnp.linspace(0.0, -math.log(10_000.0), 128)))
CLOCK = jax.jit(lambda: jnp.exp2(jnp.linspace(-5.0, 2.0, 64)))

print("// Made by unet_frequencies.py.")
for name, values in (("kTimeHertz", TIME()), ("kClockHertz", CLOCK())):
    print(f"constexpr float {name}[] = {{")
    numbers = [f"{float(np.float32(v)):.9g}" for v in values]
    numbers = [n + ("f" if "." in n or "e" in n else ".0f") for n in numbers]
    for i in range(0, len(numbers), 6):
        print("    " + ", ".join(numbers[i : i + 6]) + ",")
    print("};")
