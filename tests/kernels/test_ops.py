"""Every room x case x dtype x implementation, against the reference run in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from noise2music import kernels
from noise2music.kernels.common.cases import to_float64
from rooms import (
    HAS_NATIVE,
    IMPLEMENTATIONS,
    ROOMS,
    as_float64,
    case_named,
    cases_of,
    cotangents,
    error,
    flat,
    small_cases,
)

# The programs run once on small arrays: optimising the plain-JAX part costs more than it saves.
pytestmark = pytest.mark.usefixtures("quick_compiler")

needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library")
# Every case in float32; bfloat16 differs in loads and stores only, so a few cases tell.
VALUES = [
    pytest.param(room, case, dtype, id=f"{room}-{case.name}-{dtype}")
    for room in ROOMS
    for i, case in enumerate(small_cases(room))
    for dtype in cases_of(room).DTYPES
    if dtype == "float32" or i == 0 or case.name == "primes"
]
EACH_ROOM = pytest.mark.parametrize("room", ROOMS)
DIFFERENTIABLE_ROOMS = [r for r in ROOMS if cases_of(r).DIFFERENTIABLE]


def within(got, plain, exact, dtype, table, what):
    """The rule of the tolerances module, for one output."""
    ours, theirs = error(got, exact), error(plain, exact)
    unit = tolerances.rounding_unit(jnp.dtype(got.dtype).name)
    assert got.dtype == plain.dtype, what
    assert ours <= tolerances.FACTOR * (theirs + unit), (what, ours, theirs)
    assert ours <= table[dtype], (what, ours)


def moving_and_fixed(room, inputs):
    """The arguments to differentiate, and the others."""
    names = [n for n in cases_of(room).DIFFERENTIABLE if inputs.get(n) is not None]
    return {n: inputs[n] for n in names}, {n: v for n, v in inputs.items() if n not in names}


@cache
def program(room, case, implementation):
    """(inputs, cotangents) -> outputs and gradients, compiled once per dtype."""
    cases = cases_of(room)
    function = partial(cases.FUNCTION, implementation=implementation)
    if implementation == "exact":
        function = cases.exact

    def run(inputs, cotangents):
        moving, fixed = moving_and_fixed(room, inputs)
        call = partial(function, **case.options, **fixed)
        if not moving:
            return flat(call()), {}
        outputs, pull = jax.vjp(lambda m: flat(call(**m)), moving)
        return outputs, pull(cotangents)[0]

    return jax.jit(run)


@pytest.mark.parametrize(("room", "case", "dtype"), VALUES)
def test_value_and_gradient(room, case, dtype):
    cases = cases_of(room)
    inputs = cases.make_inputs(case, dtype)
    reference = partial(cases.FUNCTION, **case.options, implementation="reference")
    ct = cotangents(case, jax.eval_shape(lambda: flat(reference(**inputs))))
    results = {name: program(room, case, name)(inputs, ct) for name in IMPLEMENTATIONS}
    # On the CPU, also where the others run on a GPU: that has not every operation in float64.
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        exact = program(room, case, "exact")(to_float64(inputs), to_float64(ct))
        outputs, gradients = jax.tree.map(as_float64, exact)
    plain_outputs, plain_gradients = results["reference"]
    for name, (got, got_gradients) in results.items():
        for i, (a, b, c) in enumerate(zip(got, plain_outputs, outputs, strict=True)):
            within(a, b, c, dtype, tolerances.VALUE, (name, "output", i))
        assert set(got_gradients) == set(gradients)
        for argument, g in got_gradients.items():
            assert g.dtype == inputs[argument].dtype
            what = (name, "gradient of", argument)
            plain, right = plain_gradients[argument], gradients[argument]
            within(g, plain, right, dtype, tolerances.GRADIENT, what)


@pytest.mark.parametrize("room", DIFFERENTIABLE_ROOMS)
def test_gradient_against_differences(room):
    cases = cases_of(room)
    case = case_named(room, "small")
    moving, fixed = moving_and_fixed(room, cases.make_inputs(case, "float32"))

    def mean_of_sines(moving):
        outputs = flat(cases.FUNCTION(**moving, **fixed, **case.options))
        return sum(jnp.sin(y.astype(jnp.float32)).mean() for y in outputs)

    check_grads(jax.jit(mean_of_sines), (moving,), order=1, modes=["rev"], **tolerances.CHECK_GRADS)


@needs_native
@EACH_ROOM
def test_repeats_and_batches_are_bit_equal(room):
    cases = cases_of(room)
    case = case_named(room, "primes")
    inputs = cases.make_inputs(case, "float32")
    call = jax.jit(partial(cases.FUNCTION, **case.options, implementation="native"))
    first, again = flat(call(**inputs)), flat(call(**inputs))
    one = {n: v[1:2] if n in cases.BATCHED and v is not None else v for n, v in inputs.items()}
    alone = flat(call(**one))
    for a, b, c in zip(first, again, alone, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[1:2], c)


@EACH_ROOM
def test_vmap(room):
    """Over the batched arguments, which folds them, and over everything, which cannot."""
    cases = cases_of(room)
    case = case_named(room, "small")
    inputs = cases.make_inputs(case, "float32")
    present = [n for n, v in inputs.items() if v is not None]
    choices = [[n for n in present if n in cases.BATCHED], present]
    call = partial(cases.FUNCTION, **case.options)
    single = jax.jit(lambda inputs: call(**inputs))
    for batched in choices:
        stacks = {n: jnp.stack([inputs[n], inputs[n][::-1]]) for n in batched}
        fixed = {n: v for n, v in inputs.items() if n not in batched}
        got = flat(jax.jit(jax.vmap(lambda s, f=fixed: call(**s, **f)))(stacks))
        for i in range(2):
            want = flat(single({**fixed, **{n: s[i] for n, s in stacks.items()}}))
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a[i], b, **tolerances.SAME)


@pytest.mark.parametrize("room", DIFFERENTIABLE_ROOMS)
@needs_native
def test_gradient_of_vmap_of_remat(room):
    cases = cases_of(room)
    case = case_named(room, "small")
    moving, fixed = moving_and_fixed(room, cases.make_inputs(case, "float32"))
    in_axes = ({n: 0 if n in cases.BATCHED else None for n in moving},)
    stacked = {n: jnp.stack([v, v[::-1]]) if n in cases.BATCHED else v for n, v in moving.items()}

    def gradient(implementation):
        @jax.checkpoint
        def one(moving):
            outputs = flat(
                cases.FUNCTION(**moving, **fixed, **case.options, implementation=implementation)
            )
            return sum(jnp.sin(y.astype(jnp.float32)).mean() for y in outputs)

        return jax.jit(jax.grad(lambda m: jax.vmap(one, in_axes)(m).sum()))(stacked)

    got, want = gradient("native"), gradient("reference")
    for name in moving:
        np.testing.assert_allclose(got[name], want[name], err_msg=name, **tolerances.SAME)


@EACH_ROOM
def test_sharded_batch_is_never_gathered(room):
    cases = cases_of(room)
    assert jax.device_count() == 4, "tests/conftest.py asks for four host devices"
    mesh = Mesh(np.array(jax.devices()), ("d",))
    case = case_named(room, "small")
    inputs = cases.make_inputs(case, "float32")

    def put(name, value):
        spec = PartitionSpec("d") if name in cases.BATCHED else PartitionSpec()
        return jax.device_put(value, NamedSharding(mesh, spec))

    sharded = {n: v if v is None else put(n, v) for n, v in inputs.items()}

    @jax.jit
    def run(inputs):
        moving, fixed = moving_and_fixed(room, inputs)

        def loss(moving):
            outputs = flat(cases.FUNCTION(**moving, **fixed, **case.options))
            return sum(jnp.sin(y).mean() for y in outputs), outputs

        if not moving:
            return loss({})[1], {}
        gradients, outputs = jax.grad(loss, has_aux=True)(moving)
        return outputs, gradients

    compiled = run.lower(sharded).compile()
    assert "all-gather" not in compiled.as_text()
    (outputs, gradients), (want, want_gradients) = compiled(sharded), run(inputs)
    for a, b in zip(outputs, want, strict=True):
        assert a.sharding.spec[0] == "d"
        np.testing.assert_allclose(a, b, **tolerances.SAME)
    for name, g in gradients.items():
        assert (name in cases.BATCHED) == (g.sharding.spec[:1] == ("d",)), (name, g.sharding)
        np.testing.assert_allclose(g, want_gradients[name], err_msg=name, **tolerances.SAME)


@needs_native
@EACH_ROOM
def test_lowers_to_the_named_call(room):
    cases = cases_of(room)
    case = case_named(room, "small")
    inputs = cases.make_inputs(case, "float32")
    target = kernels.OPS[room].forward.target
    assert target == f"n2m_{room}_fwd"

    def text(implementation, platform):
        call = jax.jit(partial(cases.FUNCTION, **case.options, implementation=implementation))
        return call.trace(**inputs).lower(lowering_platforms=(platform,)).as_text()

    call = f"stablehlo.custom_call @{target}("
    assert call in text("auto", "cpu")
    assert call in text("native", "cpu")
    assert call not in text("reference", "cpu")
    assert call not in text("auto", "tpu")
    has_kernel = kernels.explain(room, inputs[cases.BATCHED[0]].shape, "float32", "tpu").runs
    assert (f'kernel_name = "{target}' in text("auto", "tpu")) == (has_kernel == "pallas")
    assert "kernel_name" not in text("reference", "tpu")
    with pytest.raises(NotImplementedError, match="platform"):
        text("native", "tpu")


@EACH_ROOM
def test_explain(room):
    shape = cases_of(room).make_inputs(case_named(room, "small"), "float32")
    shape = next(iter(shape.values())).shape
    on_cpu = kernels.explain(room, shape, "float32")
    assert on_cpu.runs == ("native" if HAS_NATIVE else "reference")
    assert "for TPU" in on_cpu.passed_over["pallas"]
    on_tpu = kernels.explain(room, shape, "float32", platform="tpu")
    assert on_tpu.passed_over["native"]
    assert f"n2m.{room}" in str(on_tpu)
    with pytest.raises(ValueError, match=r"n2m\.explain: op must be one of"):
        kernels.explain("no_such_op", shape, "float32")


BAD = [
    pytest.param(r, changes, message, id=f"{r}-{what}")
    for r in ROOMS
    for what, changes, message in cases_of(r).BAD_ARGUMENTS
]


@pytest.mark.parametrize(("room", "changes", "message"), BAD)
def test_bad_arguments(room, changes, message):
    cases = cases_of(room)
    case = case_named(room, "small")
    arguments = {**cases.make_inputs(case, "float32"), **case.options}
    for name, value in changes.items():
        is_shape = isinstance(value, tuple) and all(isinstance(n, int) for n in value)
        arguments[name] = jnp.zeros(value) if is_shape else value
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        cases.FUNCTION(**arguments)
    assert str(caught.value).startswith(f"n2m.{room}: ")


@EACH_ROOM
def test_not_an_array(room):
    cases = cases_of(room)
    case = case_named(room, "small")
    inputs = cases.make_inputs(case, "float32")
    first = next(iter(inputs))
    with pytest.raises(TypeError, match=rf"n2m\.{room}: {first} must be an array, got str"):
        cases.FUNCTION(**{**inputs, first: "noise"}, **case.options)


@EACH_ROOM
def test_cases_and_costs(room):
    cases = cases_of(room)
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert {"small", "length_1", "empty_batch", "primes"} <= set(names)
    assert any(case.hot for case in cases.CASES), "a benchmark needs a hot case"
    for case in cases.CASES:
        for dtype in cases.DTYPES:
            cost = cases.cost(case, dtype)
            assert cost.bytes >= 0
            assert cost.flops >= 0
