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
    ("fft_upsample", "cascader", "float32"),
]
FULL_SIZE = [
    (room, case.name, dtype)
    for room in ("combine_film", "conv1d_block", "ancestral_step", "fft_upsample")
    for case in shapes.cases_of(room)
    if not case.name.startswith("tiny_")
    for dtype in {
        "conv1d_block": ("bfloat16", "float32"),
        "combine_film": ("bfloat16", "float32"),
    }.get(room, ("float32",))
]


@pytest.fixture(scope="module", autouse=True)
def compiler():
    tpu_static.prepare()
    # A program for a TPU that is not there cannot be read from the cache: none is written.
    setting = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 1e9)
    yield
    jax.config.update(setting, before)


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
    if room == "fft_upsample":
        details = case.options
    runs = kernels.explain(room, first, dtype, platform="tpu", **details).runs
    ours = any(kernel.startswith(f"n2m_{room}_fwd") for kernel in kernels_in(text))
    assert ours == (runs == "pallas")
    # x goes into the kernel as it lies.
    assert not re.findall(rf"copy\(%inputs___x__.*bf16\[{','.join(map(str, first))}\]", text)


@pytest.mark.parametrize(("room", "name", "dtype"), FEW)
def test_compiles_for_v4(room, name, dtype):
    check_forward(room, name, dtype)


BLOCKS = [c.name for c in cases_of("conv1d_block").CASES if c.hot and not c.options.get("stride")]
FIRST = "wavgen_1024_fewest_rows"
GRADIENTS = [
    ("conv1d_block", FIRST, "bfloat16", ("fwd", "bwd", "bwd_weight")),
    ("combine_film", "wavgen_1024", "bfloat16", ("fwd", "bwd")),
    ("fft_upsample", "cascader", "float32", ("fwd_middle", "bwd_middle")),
]
MORE_GRADIENTS = [
    *(("conv1d_block", n, "bfloat16", ("fwd", "bwd", "bwd_weight")) for n in BLOCKS if n != FIRST),
    ("conv1d_block", "wavgen_256_residual", "float32", ("fwd", "bwd", "bwd_weight")),
    ("combine_film", "wavgen_256", "float32", ("fwd", "bwd")),
    ("fft_upsample", "super_resolution", "float32", ("fwd_middle", "bwd_middle")),
]


@pytest.mark.parametrize(
    ("room", "name", "dtype", "wanted"),
    [*GRADIENTS, *(pytest.param(*g, marks=pytest.mark.slow) for g in MORE_GRADIENTS)],
)
def test_gradients_compile_for_v4(room, name, dtype, wanted):
    text = program(room, case_named(room, name), dtype, backward=True)
    assert {f"n2m_{room}_{kernel}" for kernel in wanted} <= kernels_in(text)


def copies(text, *shapes):
    """Copies and transposes of arrays of these shapes, in the program that is compiled."""
    sizes = "|".join(re.escape(shape) for shape in shapes)
    return re.findall(rf"= (?:{sizes})\S* (?:copy|copy-start|transpose|fusion)\(.*", text)


def test_nothing_is_copied_between_the_kernels_of_a_block():
    """combine_film -> conv1d_block -> conv1d_block with the residual, as in the U-Net."""
    b, t, c = 2, 5888, 256

    def block(x, emb, film, bias, w1, w2, vector, fc):
        y, sums = kernels.combine_film(x, emb, film, bias, groups=32)
        norm = {"scale": vector, "offset": vector, "groups": 32}
        h, sums = kernels.conv1d_block(y, w1, vector, **norm, sums=sums, out_groups=32)
        return kernels.conv1d_block(h, w2, vector, **norm, sums=sums, residual=y, fc=fc)

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    arguments = (
        array(b, t, c), array(b, c), array(c, 2 * c), array(2 * c, dtype=jnp.float32),
        array(7, c, c), array(7, c, c), array(c, dtype=jnp.float32), array(c, c),
    )  # fmt: skip
    text = tpu_static.compiled(block, arguments).as_text()
    assert kernels_in(text) == {"n2m_combine_film_fwd", "n2m_conv1d_block_fwd"}
    assert copies("  %copy.1 = bf16[2,5888,256]{2,1,0:T(8,128)(2,1)} copy(%x)", "bf16[2,5888,256]")
    assert not copies(text, f"bf16[{b},{t},{c}]", f"f32[{b},{t},{c}]")


@pytest.mark.parametrize(
    ("channels", "noise"), [(128, "threefry"), (128, "hardware"), (80, "threefry")]
)
def test_a_step_is_made_in_place(channels, noise):
    """In the loop over the steps x_s takes the place of x_t."""
    shape = (1, 2976, channels)

    def run(x, eps, key, rows):
        def body(n, x):
            step = kernels.ancestral_step(x, eps, eps, key, rows[n], noise=noise)
            return step[0]

        return jax.lax.fori_loop(0, rows.shape[0], body, x)

    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    arguments = (x, x, key, jax.ShapeDtypeStruct((10, 8), jnp.float32))
    text = tpu_static.compiled(run, arguments, donate_argnums=0).as_text()
    (call,) = re.findall(r"%n2m_ancestral_step_fwd.* custom-call.*", text)
    assert "output_to_operand_aliasing={{0}" in call
    # 80 channels by time fill the registers: XLA keeps x and eps so.
    assert ("f32[1,80,2976]" in call) == (channels == 80)
    body = text[: text.index(call)].rsplit("\n\n", 1)[1]
    turned = re.findall(rf"= f32\[1,(?:2976,{channels}|80,2976)\]\S* (?:copy|transpose)\(", body)
    assert len(turned) <= (channels == 80)  # z, which XLA draws time by channels


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name", "dtype"), FULL_SIZE)
def test_every_shape_of_the_presets(room, name, dtype):
    check_forward(room, name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
@pytest.mark.parametrize(("room", "name", "dtype"), FEW)
def test_other_generations(room, name, dtype, chip):
    check_forward(room, name, dtype, chip)
