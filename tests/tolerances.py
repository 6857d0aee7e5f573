"""Every tolerance of the tests of the ops. Errors are relative to the largest exact value.

A result is right when its error against float64 is at most ``FACTOR`` times the error of the plain
implementation in the same dtype plus a rounding unit, since that error can be zero by luck (a sum
of three numbers is right to a unit in AVX-512, to two without fused multiply-adds), and below the
table.
"""

import jax.numpy as jnp

FACTOR = 2.0

# The same for Fourier transforms as dense products (on a TPU): sums of N terms, not of log N.
FACTOR_OF_DENSE_TRANSFORMS = 4.0

# One rounding of the output: float32 has 2^-24, bfloat16 2^-9. The tables leave room for sums of a
# few thousand float32 terms; a bfloat16 result is a float32 one rounded once.
VALUE = {"float32": 5e-6, "bfloat16": 5e-3}
GRADIENT = {"float32": 1e-5, "bfloat16": 1e-2}

# Minimal filtering subtracts large numbers. What the planner may spend; 1e-5 is usual.
TOOM_COOK = {"float32": 3e-5, "bfloat16": 1e-2}

# Central differences in float32 lose half of the digits.
CHECK_GRADS = {"atol": 2e-2, "rtol": 2e-2}

# Two orders of summation of the same float32 numbers.
SAME = {"rtol": 2e-5, "atol": 2e-5}


def rounding_unit(dtype: str) -> float:
    """The spacing of numbers just above one."""
    return float(jnp.finfo(dtype).eps)


# fft_upsample against scipy.signal.resample in float64, relative to the largest value.
RESAMPLE = 1e-6

# <A x, y> against <x, A^T y>, relative to the product of the norms of A x and y.
ADJOINT = 1e-6

# A few multiply-adds, fused or not, of values of order one to ten.
ROUNDING = 1e-5

# The percentile interpolates between ranks whose float32 fraction keeps few digits.
PERCENTILE = 3e-5

# Sample mean and deviation of 2^18 draws: five standard errors.
SAMPLED = 5 * 2.0**-9

# Shapes that nobody chose: sums of a few thousand terms, and weights by Toom-Cook (3e-5 at most).
# With bfloat16 a gradient is made of operands that were rounded.
RANDOM = {"float32": 3e-5, "bfloat16": 2e-2}

# A sine of 0.4 resampled by soxr and rounded to 16 bits: half a step is 1.5e-5.
RESAMPLED = 6e-5

# Overlap-added frames in another order: float32 sums of a few terms of order one to ten.
EXCITATION_CUT = 2e-5

# Two training steps whose sums over the batch are taken in another order, relative to the largest
# number of an array.
STEP = 1e-4

# A step in bfloat16 beside the same in float32: loss, and the direction of the gradient.
TRAINED_IN_BFLOAT16 = 2e-2

# A training run whose batches are summed by two processes, against one: Adam divides a gradient by
# its own size, so rounding of small gradients is seen in the weights.
PROCESSES = {"rtol": 1e-3, "atol": 2e-4}

# A clip that was learned by heart and sampled in 40 steps: log-spectral distance, correlation.
REPRODUCED_DB = 8.0
REPRODUCED_CORRELATION = 0.7

# A Frechet distance against the published tools, relative; against itself; sharded against whole.
FRECHET = 1e-6
FRECHET_SELF = 1e-10
FRECHET_SHARDED = 1e-12

# The missing band taken out and put back, and that of a snippet beside the whole clip's, in dB:
# it is above the condition's Nyquist frequency, and the filters are cut at 32 ms.
MISSING_BAND_BACK = -15.0
MISSING_BAND_CUT = -30.0


# A weight as int8, in steps of its channel: half of one, and the rounding of the product.
INT8_STEPS = 0.5001

# The C++ pipeline against JAX, float32, relative norms; noise and coefficients value by value.
CPP = {
    "value": 1e-4,
    "noise": {"rtol": 5e-6, "atol": 1e-6},
    "coefficients": {"rtol": 2e-5, "atol": 1e-7},
}
CPP_BFLOAT16 = 3e-2
# Griffin-Lim takes the phase of every bin, the faintest too, and goes on from it for 16 rounds.
CPP_EXCITATION = 1e-3
CPP_WAV_DB = -60.0
