"""The CUDA kernels on a GPU: values and gradients, bits, shapes of the presets.

JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu tests
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_ops
import tolerances
from noise2music import kernels
from noise2music.kernels.common import native
from rooms import ROOMS, cases_of, error, flat

pytestmark = pytest.mark.gpu

HOT = [
    pytest.param(room, case, dtype, id=f"{room}-{case.name}-{dtype}")
    for room in ROOMS
    for case in cases_of(room).CASES
    if case.hot
    for dtype in cases_of(room).DTYPES
]


@pytest.fixture(autouse=True)
def on_gpu():
    if "cuda" not in native.platforms_of("n2m_combine_film_fwd"):
        pytest.fail("the native library is built without CUDA: NOISE2MUSIC_CUDA=ON pip install .")
    with jax.default_device(jax.devices("gpu")[0]):
        yield


@pytest.mark.parametrize(("room", "case", "dtype"), test_ops.VALUES)
def test_value_and_gradient(room, case, dtype):
    test_ops.test_value_and_gradient(room, case, dtype)


@pytest.mark.parametrize("room", ROOMS)
def test_native_is_what_runs(room):
    case = cases_of(room).CASES[0]
    first = next(iter(cases_of(room).make_inputs(case, "float32").values()))
    assert kernels.explain(room, first.shape, "float32", platform="cuda").runs == "native"
    function = jax.jit(lambda inputs: cases_of(room).FUNCTION(**inputs, **case.options))
    text = function.lower(cases_of(room).make_inputs(case, "float32")).compile().as_text()
    assert kernels.OPS[room].forward.target in text


@pytest.mark.parametrize(("room", "case", "dtype"), HOT)
def test_preset_shapes_twice(room, case, dtype):
    """Against plain JAX in float32 at the highest precision, and bit-equal in a second run."""
    cases = cases_of(room)
    inputs = cases.make_inputs(case, dtype)
    ours = jax.jit(lambda i: flat(cases.FUNCTION(**i, **case.options, implementation="native")))
    wide = {
        k: v.astype(jnp.float32) if jnp.issubdtype(v.dtype, jnp.floating) else v
        for k, v in inputs.items()
        if v is not None
    }
    with jax.default_matmul_precision("highest"):
        right = flat(cases.FUNCTION(**wide, **case.options, implementation="reference"))
    once, again = ours(inputs), ours(inputs)
    for a, b, c in zip(once, again, right, strict=True):
        assert np.array_equal(a, b)
        # The reference is itself a float32 result, hence twice the table.
        assert error(a, c) <= 2 * tolerances.VALUE[dtype]
