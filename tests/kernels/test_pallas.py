"""The Pallas kernels in the interpreter: numbers, gradients, races, what "auto" chooses.

What libtpu says of them is in test_tpu_aot.py.
"""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from jax.experimental.pallas import tpu as pltpu
from noise2music import kernels
from noise2music.kernels.ancestral_step import pallas_tpu as step_kernel
from noise2music.kernels.common.cases import Case, to_float64
from noise2music.kernels.conv1d_block import pallas_plan, reference, xla_tpu
from rooms import ROOMS, as_float64, case_named, cases_of, cotangents, error, flat, small_cases

pytestmark = pytest.mark.usefixtures("quick_compiler")

VALUES = [
    ("combine_film", "sums", "float32"),
    ("conv1d_block", "small", "float32"),
    ("fft_upsample", "small", "float32"),
    ("ancestral_step", "small", "float32"),
]
OTHERS = [
    (room, case.name, dtype)
    for room in ROOMS
    for case in small_cases(room)
    for dtype in cases_of(room).DTYPES
    if (room, case.name, dtype) not in VALUES
]


def outputs_and_gradients(room, case, inputs, ct, function):
    cases = cases_of(room)
    moving = {n: inputs[n] for n in cases.DIFFERENTIABLE if inputs.get(n) is not None}
    fixed = {n: v for n, v in inputs.items() if n not in moving}

    # Everything is an argument, so that nothing is folded when the program is compiled.
    def run(moving, fixed, ct):
        call = partial(function, **case.options)
        if not moving:
            return flat(call(**fixed)), {}
        outputs, pull = jax.vjp(lambda m: flat(call(**m, **fixed)), moving)
        return outputs, pull(ct)[0]

    return jax.jit(run)(moving, fixed, ct)


def check_case(room, case, dtype):
    cases = cases_of(room)
    inputs = cases.make_inputs(case, dtype)
    reference = partial(cases.FUNCTION, implementation="reference")
    ct = cotangents(case, jax.eval_shape(lambda: flat(reference(**inputs, **case.options))))
    ours = partial(cases.FUNCTION, implementation="pallas")
    got = outputs_and_gradients(room, case, inputs, ct, ours)
    plain = outputs_and_gradients(room, case, inputs, ct, reference)
    with jax.enable_x64(True):
        wide = to_float64(inputs), to_float64(ct)
        exact = jax.tree.map(as_float64, outputs_and_gradients(room, case, *wide, cases.exact))
    dense = room == "fft_upsample"
    factor = tolerances.FACTOR_OF_DENSE_TRANSFORMS if dense else tolerances.FACTOR
    for table, a, b, c in zip(
        (tolerances.VALUE, tolerances.GRADIENT), got, plain, exact, strict=True
    ):
        unit = tolerances.rounding_unit(dtype)
        for x, y, z in zip(*map(jax.tree.leaves, (a, b, c)), strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape
            assert error(x, z) <= factor * error(y, z) + unit
            assert error(x, z) <= table[dtype]


@pytest.mark.parametrize(("room", "name", "dtype"), VALUES)
def test_value_and_gradient(room, name, dtype):
    check_case(room, case_named(room, name), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name", "dtype"), OTHERS)
def test_every_small_case(room, name, dtype):
    check_case(room, case_named(room, name), dtype)


ENTRY = {"B": 2, "T": 61, "C": 2, "K": 3, "D": 256, "R": 0}
EXIT = {"B": 2, "T": 61, "C": 256, "K": 3, "D": 2, "R": 0}


def test_what_is_left_to_xla_on_a_tpu():
    """The entry and the exit of a U-Net, and what is neither, in their own form. Not in bfloat16:
    XLA for the processor refuses such products with a float32 result."""
    dtype = "float32"
    cases = cases_of("conv1d_block")
    small = [case_named("conv1d_block", name) for name in ("given_sums", "stride_4", "one_channel")]
    for case in (Case("entry", ENTRY), Case("exit", EXIT), *small):
        inputs = cases.make_inputs(case, dtype)
        options = {n: v for n, v in case.options.items() if n not in ("groups", "out_groups")}
        static = {"stride": 1, "eps": 1e-5, **options, "out_groups": case.options.get("out_groups")}
        if inputs["scale"] is not None and inputs["sums"] is None:
            inputs["sums"] = reference.group_sums(inputs["x"], case.options["groups"])
        got = flat(jax.jit(partial(xla_tpu.forward, **static))(**inputs))
        plain = flat(jax.jit(partial(reference.forward, **static))(**inputs))
        for a, b in zip(got, plain, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert error(a, b) <= tolerances.VALUE[dtype]


def shorter_tiles(monkeypatch):
    pallas_plan.plan.cache_clear()
    monkeypatch.setattr(pallas_plan, "MOST_ROWS", 32)
    monkeypatch.setattr(pallas_plan, "STEP_ROWS", 16)
    monkeypatch.setattr(step_kernel, "_TILE", 16 * 128)


def check_in_tiles(monkeypatch, case, dtype, stride, tiles):
    shorter_tiles(monkeypatch)
    try:
        assert pallas_plan.plan(4, case.T, 128, 128, 7, stride, 3, 4).tiles == tiles
        check_case("conv1d_block", case, dtype)
    finally:
        pallas_plan.plan.cache_clear()
        jax.clear_caches()


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_convolution_in_tiles(monkeypatch, dtype):
    """101 rows in tiles of 32, the last one partly past the end."""
    check_in_tiles(monkeypatch, case_named("conv1d_block", "primes"), dtype, 1, 4)


DOWN = Case("down", {"B": 2, "T": 103, "C": 16, "K": 7, "D": 24, "R": 0}, {"stride": 4})


NORMALISED = case_named("conv1d_block", "stride_4")


@pytest.mark.parametrize(
    "case",
    [pytest.param(DOWN, id="plain"), pytest.param(NORMALISED, marks=pytest.mark.slow, id="norm")],
)
def test_a_down_sampling_in_tiles(monkeypatch, case):
    """103 rows in tiles of 64, as words of two rows: the last one ends within a word."""
    check_in_tiles(monkeypatch, case, "bfloat16", 4, 2)


def kernel_calls():
    """(name, function, operands, static): each kernel at one small shape."""

    def module(room):
        return importlib.import_module(f"noise2music.kernels.{room}.pallas_tpu")

    def normal(*shape, seed=0):
        return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)

    film = normal(2, 40, 128), normal(2, 8), normal(8, 256), normal(256)
    yield (
        "combine_film",
        module("combine_film").forward,
        film,
        {"groups": 4},
    )
    cotangents = normal(2, 40, 128, seed=1), normal(2, 4, 2)
    yield "combine_film_bwd", module("combine_film").backward, (*film, *cotangents), {"groups": 4}
    x, weight = normal(2, 70, 128).astype(jnp.bfloat16), normal(3, 128, 128)
    norm = 1 + normal(128), normal(128, seed=1), jnp.abs(normal(2, 4, 2)) + 2000.0
    residual = normal(2, 70, 128, seed=2).astype(jnp.bfloat16)
    conv = {"stride": 1, "eps": 1e-5, "algorithm": "auto"}
    operands = x, weight, normal(128), *norm, residual, normal(128, 128)
    yield "conv1d_block", module("conv1d_block").forward, operands, {**conv, "out_groups": 4}
    four = [jnp.concatenate([a[:, :20], a[:, 20:40]]) for a in (x, residual)]
    sums = jnp.concatenate([norm[2], norm[2] + 9])
    joined = four[0], weight, normal(128), *norm[:2], sums, four[1], normal(128, 128)
    yield "conv1d_block_joined", module("conv1d_block").forward, joined, {**conv, "out_groups": 4}
    down = x, weight, normal(128), None, None, None, None, None
    yield (
        "conv1d_block_down",
        module("conv1d_block").forward,
        down,
        {**conv, "stride": 2, "out_groups": 0},
    )
    dy = x[:, ::-1]
    yield (
        "conv1d_block_bwd",
        module("conv1d_block").backward,
        (x, weight, *norm, None, dy, x, normal(2, 4, 2)),
        conv,
    )
    yield (
        "conv1d_block_bwd_weight",
        module("conv1d_block").backward_weight,
        (x, *norm, None, dy, x, normal(2, 4, 2)),
        {**conv, "taps": 3, "has_bias": False},
    )
    fft = {"up": 3, "down": 2}
    yield "fft_upsample", module("fft_upsample").forward, (normal(2, 24, 1),), fft
    yield "fft_upsample_bwd", module("fft_upsample").backward, (normal(2, 36, 1),), fft
    step = [normal(2, 5_000, 1, seed=i) for i in range(4)]  # two tiles and half of one
    coefficients = jnp.float32([3.0, 1.41, 1.0, 0.9, 0.1, 0.4, 99.5, 1.0])
    yield "ancestral_step", module("ancestral_step").step, (*step, coefficients), {}


CALLS = {name: rest for name, *rest in kernel_calls()}


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("conv1d_block", "ancestral_step") else pytest.param(n, marks=pytest.mark.slow)
        for n in CALLS
    ],
)
def test_two_cores_race_for_nothing(monkeypatch, name):
    """Memory of both kinds simulated: uninitialised memory is NaN, reads out of bounds raise."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    if name == "conv1d_block_joined":
        assert pallas_plan.plan(4, 20, 128, 128, 3, 1, 1, 2).joined == 2
    else:
        shorter_tiles(monkeypatch)
    function, operands, static = CALLS[name]
    simulated = pltpu.InterpretParams(
        detect_races=True, num_cores_or_threads=2, out_of_bounds_reads="raise",
        uninitialized_memory="nan",
    )  # fmt: skip
    try:
        got = function(*operands, interpret=simulated, **static)
        assert not interpret_pallas_call.races.races_found
        want = function(*operands, interpret=True, **static)
    finally:
        pltpu.reset_tpu_interpret_mode_state()
        pallas_plan.plan.cache_clear()
    for a, b in zip(flat(got), flat(want), strict=True):
        assert np.isfinite(as_float64(a)).all()
        assert error(a, as_float64(b)) <= tolerances.rounding_unit(a.dtype.name)


@pytest.mark.parametrize("room", ROOMS)
def test_auto_is_pallas_on_a_tpu(room):
    shape = {"combine_film": (2, 100, 64)}.get(room, (2, 100, 128))
    on_tpu = kernels.explain(room, shape, "float32", platform="tpu")
    assert on_tpu.runs == "pallas"
    assert on_tpu.passed_over["native"]
    assert kernels.explain(room, (0, 8, 128), "float32", platform="tpu").runs == "reference"


@pytest.mark.parametrize(
    ("room", "shape", "details", "why"),
    [
        ("conv1d_block", (2, 100, 96), {"weight": (3, 96, 128)}, "do not fill registers"),
        ("fft_upsample", (1, 10007, 1), {"up": 5}, "only factors into 10007 x 1"),
        ("ancestral_step", (1, 2_000_000, 1), {}, "does not fit into VMEM"),
    ],
)
def test_explain_says_what_is_left_to_xla(room, shape, details, why):
    told = kernels.explain(room, shape, "float32", platform="tpu", **details)
    assert told.runs == "reference"
    assert why in told.passed_over["pallas"]
