"""The U-Net: structure of Figures 1 and 5, parameter counts, inputs at every door."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import numpy_draws
from flax import nnx
from nano import nano_config, nano_stage
from noise2music.config import STAGES, load_preset
from noise2music.unet1d import (
    BEAT_HANDS,
    CLOCK_FEATURES,
    UNet1D,
    abstract_unet,
    clock,
    count_parameters,
)

# Our reading of Figure 5, in millions; docs/design/paper_faults.md has Table 2 beside it.
MILLIONS = {
    "waveform_generator": 807.4,
    "waveform_cascader": 565.8,
    "spectrogram_generator": 893.6,
    "spectrogram_vocoder": 39.4,
    "super_resolution_cascader": 103.5,
}


def normal(shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def inputs_of(config, length, batch=1):
    unet = config.unet
    inputs = {"t": jnp.linspace(0.1, 0.9, batch)}
    if unet.stacked_channels:
        inputs["stacked"] = jnp.ones((batch, length, unet.stacked_channels))
    if unet.aligned_channels:
        inputs["aligned"] = jnp.ones((batch, length // unet.compression, unet.aligned_channels))
    if unet.has_text:
        inputs["text"] = jnp.ones((batch, 5, unet.text_dim))
        inputs["mask"] = jnp.arange(5)[None] < 3 + jnp.zeros((batch, 1))
        inputs["keep"] = jnp.ones(batch)
    return inputs


@pytest.mark.parametrize("stage", STAGES)
def test_full_presets_build_abstractly(stage):
    config = load_preset(stage)
    assert count_parameters(config.unet) / 1e6 == pytest.approx(MILLIONS[stage], abs=0.1)
    length = config.unet.compression
    graph, state = nnx.split(abstract_unet(config.unet))
    x = jax.ShapeDtypeStruct((1, length, config.unet.in_channels), jnp.float32)
    out = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x, **inputs_of(config, length)), state, x)
    assert out.shape == x.shape


@pytest.mark.parametrize("stage", STAGES)
def test_full_presets_are_the_papers(stage):
    unet = load_preset(stage).unet
    assert unet.clock_rate is None and not unet.text_film and not unet.skip_film


def _forward(stage):
    config = load_preset(stage)
    length = 2 * config.unet.compression
    graph, abstract = nnx.split(abstract_unet(config.unet))
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda a: jnp.asarray(
            rng.standard_normal(a.shape, np.float32) / math.sqrt(math.prod(a.shape[:-1]) or 1)
        ),
        abstract,
    )
    x = jnp.asarray(rng.standard_normal((1, length, config.unet.in_channels), np.float32))
    run = jax.jit(lambda s, x: nnx.merge(graph, s)(x, **inputs_of(config, length)))
    y = np.asarray(run(state, x))
    assert y.shape == x.shape and np.isfinite(y).all() and y.std() > 0


def test_full_vocoder_runs_one_step():
    _forward("spectrogram_vocoder")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [s for s in STAGES if s != "spectrogram_vocoder"])
def test_full_preset_runs_one_step(stage):
    _forward(stage)


@pytest.fixture(scope="module")
def generator():
    stage = nano_stage("spectrogram_generator")
    unet = abstract_unet(stage.config.unet)
    graph, _ = nnx.split(unet)
    run = jax.jit(lambda x, **inputs: nnx.merge(graph, stage.state)(x, **inputs))
    x = normal((2, 96, 80))
    return run, x, inputs_of(stage.config, 96, batch=2)


def test_text_time_and_mask_are_heard(generator):
    run, x, inputs = generator
    y = run(x, **inputs)
    assert y.shape == x.shape and y.dtype == jnp.float32
    assert not np.allclose(y, run(x, **inputs | {"t": inputs["t"] + 0.05}), atol=1e-5)
    other = inputs["text"].at[:, 0].add(1.0)
    assert not np.allclose(y, run(x, **inputs | {"text": other}), atol=1e-5)
    padding = inputs["text"].at[:, 4].add(100.0)  # behind the mask
    np.testing.assert_allclose(y, run(x, **inputs | {"text": padding}), atol=1e-5)


def test_dropped_text_leaves_no_trace(generator):
    run, x, inputs = generator
    dropped = inputs | {"keep": jnp.zeros(2)}
    y = run(x, **dropped)
    other = run(x, **dropped | {"text": -3.0 * inputs["text"]})
    np.testing.assert_array_equal(np.asarray(y), np.asarray(other))


def test_the_clock_shows_the_middle_of_each_frame():
    shown = np.asarray(clock(3, 2.0, jnp.asarray([2.0, 0.0])))
    assert shown.shape == (2, 3, CLOCK_FEATURES)
    time = np.array([0.25, 0.75, 1.25])
    angle = 2 * np.pi * time[:, None] * 2.0 ** np.linspace(-5, 2, 64)
    near = {"rtol": 0, "atol": 1e-5}
    for item in shown:
        np.testing.assert_allclose(item[:, :64], np.cos(angle), **near)
        np.testing.assert_allclose(item[:, 64:128], np.sin(angle), **near)
    angle = 2 * np.pi * time[:, None] * 2.0 * np.array(BEAT_HANDS)
    hands = len(BEAT_HANDS)
    np.testing.assert_allclose(shown[0, :, 128 : 128 + hands], np.cos(angle), **near)
    np.testing.assert_allclose(shown[0, :, 128 + hands :], np.sin(angle), **near)
    np.testing.assert_array_equal(shown[1, :, 128:], 0.0)  # no tempo, no hands


def test_frames_are_told_apart_by_the_clock_alone(generator):
    """The input is the same at all times: far from its ends, only the clock differs."""
    config = nano_config("spectrogram_generator").unet
    assert config.clock_rate == 100
    inputs = inputs_of(nano_config("spectrogram_generator"), 960)
    x = jnp.ones((1, 960, config.in_channels))

    graph, _ = nnx.split(abstract_unet(config))
    state = nano_stage("spectrogram_generator").state

    def spread(state):
        y = np.asarray(nnx.merge(graph, state)(x, **inputs))[0, 400:560]
        return np.abs(y[:4] - y[80:84]).max() / np.abs(y).max()

    stopped = jax.tree_util.tree_map_with_path(
        lambda path, a: jnp.zeros_like(a) if "clock" in jax.tree_util.keystr(path) else a, state
    )
    assert spread(stopped) < 1e-3 < spread(state)


def test_the_mean_of_the_text_reaches_every_block(generator):
    """With cross attention silenced the text is still heard, by CombineEmb alone."""
    _, x, inputs = generator
    config = nano_config("spectrogram_generator").unet
    graph, _ = nnx.split(abstract_unet(config))

    def silence(path, a):
        return jnp.zeros_like(a) if "cross_attention" in jax.tree_util.keystr(path) else a

    state = jax.tree_util.tree_map_with_path(silence, nano_stage("spectrogram_generator").state)
    run = jax.jit(lambda **inputs: nnx.merge(graph, state)(x, **inputs))
    y = run(**inputs)
    louder = inputs | {"text": inputs["text"] + 1.0}
    assert not np.allclose(y, run(**louder), atol=1e-4)
    padding = inputs | {"text": inputs["text"].at[:, 4].add(100.0)}  # behind the mask
    np.testing.assert_allclose(y, run(**padding), atol=1e-5)


def test_time_opens_and_closes_the_skips():
    """From the time that FiLM by (1 - 1) closes the outermost skip, x reaches the exit no more."""
    config = nano_config("super_resolution_cascader").unet
    config = dataclasses.replace(config, skip_film=True)
    with numpy_draws():
        graph, state = nnx.split(UNet1D(config, rngs=nnx.Rngs(0)))
    opened = nnx.merge(graph, state)
    for level in range(config.depth):  # nothing comes up from below: the skip alone is left
        opened.up[level].weight[...] = jnp.zeros_like(opened.up[level].weight[...])
    opened.exit.weight[...] = jnp.ones_like(opened.exit.weight[...])
    inputs = inputs_of(nano_config("super_resolution_cascader"), 64)
    x = normal((1, 64, 1))
    assert float(jnp.abs(opened(x, **inputs)).max()) > 0.1
    opened.skip_film[0].bias[...] = jnp.where(
        jnp.arange(2 * config.base_dim) < config.base_dim, -1.0, 0.0
    )
    np.testing.assert_allclose(np.asarray(opened(x, **inputs)), 0.0, atol=1e-6)


def test_items_of_a_batch_do_not_mix(generator):
    run, x, inputs = generator
    y = run(x, **inputs)
    z = run(x.at[1].add(1.0), **inputs)
    np.testing.assert_array_equal(np.asarray(y[0]), np.asarray(z[0]))


def test_untrained_network_predicts_nothing():
    config = nano_config("super_resolution_cascader")
    with numpy_draws():
        unet = UNet1D(config.unet, rngs=nnx.Rngs(0))
    x = normal((1, 256, 1))
    np.testing.assert_array_equal(np.asarray(unet(x, **inputs_of(config, 256))), 0.0)


def test_remat_changes_no_gradient():
    """With two blocks at a depth, so that they run as a loop."""
    config = nano_config("super_resolution_cascader")
    config = dataclasses.replace(config, unet=dataclasses.replace(config.unet, blocks=(2,)))
    stage = nano_stage("super_resolution_cascader", unet=config.unet)
    x = normal((1, 256, 1))
    inputs = inputs_of(config, 256)

    def gradient(remat):
        with numpy_draws():
            graph, _ = nnx.split(UNet1D(config.unet, rngs=nnx.Rngs(0), remat=remat))
        return jax.jit(jax.grad(lambda s: jnp.sum(nnx.merge(graph, s)(x, **inputs) ** 2)))(
            stage.state
        )

    for a, b in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change,match",
    [
        ({"x": (2, 95, 80)}, "multiple of 4 .*got 95"),
        ({"x": (2, 96, 79)}, r"x must be of shape \(2, 96, 80\), got \(2, 96, 79\)"),
        ({"text": (2, 5, 64)}, r"text must be \(B, L, 128\), got shape \(2, 5, 64\)"),
        ({"stacked": (2, 96, 1)}, "stacked must be of shape"),
    ],
)
def test_bad_shapes_are_named_at_the_door(generator, change, match):
    run, x, inputs = generator
    shapes = {k: jnp.zeros(v) for k, v in change.items()}
    with pytest.raises(ValueError, match=match):
        run(shapes.pop("x", x), **inputs | shapes)


def test_a_missing_condition_is_named():
    config = nano_config("spectrogram_vocoder")
    unet = abstract_unet(config.unet)
    with pytest.raises(ValueError, match="aligned must be given: 80 channels"):
        nnx.eval_shape(lambda: unet(jnp.zeros((1, 160, 1)), jnp.zeros(1)))
