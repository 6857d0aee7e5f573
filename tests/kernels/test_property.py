"""Every op at shapes that nobody chose, against the reference in float64.

A few examples, the same on every run; `--hypothesis-profile=thorough` draws many. The same with
buffers at odd addresses is in tests/cpp/kernels: from Python XLA aligns them all.
"""

from functools import partial

import jax
import numpy as np
import pytest
import tolerances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from noise2music.kernels.common.cases import Case, to_float64
from rooms import HAS_NATIVE, cases_of, cotangents, error, flat

pytestmark = [
    pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library"),
    pytest.mark.usefixtures("quick_compiler"),  # each program runs once on little
]

# Run with --hypothesis-profile=thorough (tests/conftest.py), that profile decides.
few = settings(
    max_examples=4,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
if settings.get_current_profile_name() == "thorough":
    few = settings.get_profile("thorough")


def size(most, least=0):
    return st.integers(least, most)


def divisors(n):
    return st.sampled_from([d for d in range(1, n + 1) if n % d == 0])


@st.composite
def combine_film(draw):
    c = draw(size(70, 1))
    shape = {"B": draw(size(3)), "T": draw(size(300)), "C": c, "E": draw(size(9, 1))}
    groups = draw(st.none() | divisors(c))
    return shape, {} if groups is None else {"groups": groups}


@st.composite
def conv1d_block(draw):
    c, d = draw(size(40, 1)), draw(size(40, 1))
    shape = {"B": draw(size(3)), "T": draw(size(90)), "C": c, "K": draw(size(9, 1)), "D": d}
    shape["R"] = draw(st.just(0) | size(20, 1))
    options = {"stride": draw(st.just(1) | size(5, 2))}
    # A group of a few values may have no variance: what is divided by it is then all rounding.
    if draw(st.booleans()) and shape["T"] >= 8:
        options["groups"] = draw(divisors(c))
    if draw(st.booleans()):
        options["out_groups"] = draw(divisors(d))
    return shape, options


@st.composite
def fft_upsample(draw):
    up, down = draw(size(7, 1)), draw(size(4, 1))
    shape = {"B": draw(size(3)), "T": draw(size(150)) * down, "C": draw(size(4))}
    return shape, {"up": up, "down": down}


@st.composite
def ancestral_step(draw):
    shape = {"B": draw(size(3)), "T": draw(size(400)), "C": draw(size(5))}
    return shape, {"offset": draw(size(1000))}


STRATEGIES = {s.__name__: s for s in (combine_film, conv1d_block, fft_upsample, ancestral_step)}


def test_every_room_has_a_strategy():
    from rooms import ROOMS

    assert set(STRATEGIES) == set(ROOMS)


@pytest.mark.parametrize("room", STRATEGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@few
@given(data=st.data())
def test_any_shape(room, dtype, data):
    cases = cases_of(room)
    if dtype not in cases.DTYPES:
        pytest.skip("float32 only")
    shape, options = data.draw(STRATEGIES[room]())
    case = Case("random", shape, options)
    inputs = cases.make_inputs(case, dtype)
    moving = {n: inputs[n] for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}
    fixed = {n: v for n, v in inputs.items() if n not in moving}

    def outputs_and_gradients(function, moving, fixed, ct):
        call = partial(function, **options)
        if not moving:
            return flat(call(**fixed)), {}
        outputs, pull = jax.vjp(lambda m: flat(call(**m, **fixed)), moving)
        return outputs, pull(ct)[0]

    native = partial(cases.FUNCTION, implementation="native")
    ct = cotangents(case, jax.eval_shape(lambda: flat(native(**inputs, **options))))
    got, gradients = jax.jit(partial(outputs_and_gradients, native))(moving, fixed, ct)
    with jax.enable_x64(True):
        wide = to_float64((moving, fixed, ct))
        right, slopes = jax.jit(partial(outputs_and_gradients, cases.exact))(*wide)
        right, slopes = jax.tree.map(np.asarray, (right, slopes))
    for y, want in zip(got, right, strict=True):
        assert y.shape == want.shape
        assert error(y, want) <= tolerances.RANDOM[dtype], (shape, options)
    assert set(gradients) == set(slopes)
    for name, g in gradients.items():
        # Against the largest gradient of all: a sum over nothing much is all rounding.
        scale = max((np.abs(s).max() for s in slopes.values() if s.size), default=0.0)
        difference = np.abs(np.asarray(g, np.float64) - slopes[name]).max(initial=0.0)
        relative = min(error(g, slopes[name]), difference / max(scale, 1e-30))
        assert relative <= tolerances.RANDOM[dtype], (name, shape, options)
