"""The Pallas kernels compiled for a TPU v4 that is not there, on the shapes of the presets.

Needs libtpu, which is the whole compiler: pip install '.[tpu]'. A few shapes by default; all of
them, and the other generations, with -m slow.
"""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from noise2music import kernels
from noise2music.bench import shapes, tpu_static
from rooms import case_named, cases_of, flat

if not find_spec("libtpu"):
    pytest.skip("needs libtpu", allow_module_level=True)

FEW = [
    ("combine_film", "wavgen_1024", "bfloat16"),
    ("conv1d_block", "wavgen_256_residual", "bfloat16"),
    ("conv1d_block", "wavgen_1024_few_rows", "bfloat16"),
    ("ancestral_step", "waveform", "float32"),
]
FULL_SIZE = [
    (room, case.name, dtype)
    for room in ("combine_film", "conv1d_block", "ancestral_step")
    for case in shapes.cases_of(room)
    if not case.name.startswith("tiny_")
    for dtype in (("float32",) if room == "ancestral_step" else ("bfloat16",))
]


@pytest.fixture(scope="module", autouse=True)
def compiler():
    tpu_static.prepare()


def case_of(room, name):
    return next(c for c in (*cases_of(room).CASES, *shapes.cases_of(room)) if c.name == name)


def inputs_of(room, case, dtype):
    """The arguments as shapes, with the group sums that a block gets from the op before it."""
    inputs = jax.eval_shape(lambda: cases_of(room).make_inputs(case, dtype))
    if room == "conv1d_block" and case.options.get("groups"):
        sums = (case.B, case.options["groups"], 2)
        inputs["sums"] = jax.ShapeDtypeStruct(sums, jnp.float32)
    return inputs


def program(room, case, dtype, chip="v4", backward=False):
    """The text of the compiled program."""

    def call(inputs):
        return flat(cases_of(room).FUNCTION(**inputs, **case.options))

    def both(inputs):
        outputs, pull = jax.vjp(call, inputs)
        return outputs, pull([jnp.ones_like(y) for y in outputs])

    function = both if backward else call
    return tpu_static.compiled(function, (inputs_of(room, case, dtype),), chip).as_text()


def kernels_in(text):
    return set(re.findall(r"%(n2m_\w+?)(?:\.\d+)* = .*custom-call", text))


def check_forward(room, name, dtype, chip="v4"):
    case = case_of(room, name)
    text = program(room, case, dtype, chip)
    first = inputs_of(room, case, dtype)[cases_of(room).BATCHED[0]].shape
    details = {"weight": (case.K, case.C, case.D)} if room == "conv1d_block" else {}
    runs = kernels.explain(room, first, dtype, platform="tpu", **details).runs
    assert (f"n2m_{room}_fwd" in kernels_in(text)) == (runs == "pallas")
    # x goes into the kernel as it lies.
    assert not re.findall(rf"copy\(%inputs___x__.*bf16\[{','.join(map(str, first))}\]", text)


@pytest.mark.parametrize(("room", "name", "dtype"), FEW)
def test_compiles_for_v4(room, name, dtype):
    check_forward(room, name, dtype)


BLOCKS = [c.name for c in cases_of("conv1d_block").CASES if c.hot and not c.options.get("stride")]
FIRST = "wavgen_1024_fewest_rows"


@pytest.mark.parametrize(
    "name", [n if n == FIRST else pytest.param(n, marks=pytest.mark.slow) for n in BLOCKS]
)
def test_gradients_compile_for_v4(name):
    case = case_named("conv1d_block", name)
    text = program("conv1d_block", case, "bfloat16", backward=True)
    wanted = {f"n2m_conv1d_block_{k}" for k in ("fwd", "bwd", "bwd_weight")}
    assert wanted <= kernels_in(text)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name", "dtype"), FULL_SIZE)
def test_every_shape_of_the_presets(room, name, dtype):
    check_forward(room, name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
@pytest.mark.parametrize(("room", "name", "dtype"), FEW)
def test_other_generations(room, name, dtype, chip):
    check_forward(room, name, dtype, chip)
