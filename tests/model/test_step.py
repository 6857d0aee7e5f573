"""A training step: micro-batches, dtypes, rematerialisation, the recipe of section 4.1."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances
from flax import nnx
from nano import nano_config
from noise2music.config import STAGES, load_preset
from noise2music.schedules import alpha_sigma
from noise2music.text.t5 import T5Config, T5Encoder
from noise2music.train.assemble import optimiser
from noise2music.train.options import TrainOptions
from noise2music.train.step import corrupt, draw, item_losses, remat_pays
from training import after, compiled, nano_batch, nano_training

FLOAT = {np.dtype("float32")}
DTYPES = FLOAT | {np.dtype("int32")}
TEXT, STACKED = "spectrogram_generator", "super_resolution_cascader"


def assert_close(got, want, tolerance=tolerances.STEP):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, 0, tolerance * np.abs(b).max(), err_msg=where)


def run(config, batch, **changes):
    step, state = nano_training(config, **changes)
    return after(compiled(step, state, batch), state, batch)


@functools.cache
def plain(name):
    """(batch, what two plain steps make of it)."""
    config = nano_config(name)
    batch = nano_batch(config, 12)
    return batch, run(config, batch)


@pytest.mark.parametrize("name", [TEXT, STACKED])
def test_micro_batches_add_up_to_the_batch(name):
    batch, want = plain(name)
    assert_close(run(nano_config(name), batch, accumulate=3), want)


@pytest.mark.parametrize("name", [TEXT, STACKED])
def test_bfloat16_computes_what_float32_does_and_keeps_float32(name):
    batch, (want_state, want) = plain(name)
    state, metrics = run(nano_config(name), batch, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == DTYPES
    np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=tolerances.TRAINED_IN_BFLOAT16)
    moved, wanted = (
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(s.opt)]) for s in (state, want_state)
    )
    cosine = moved @ wanted / np.linalg.norm(moved) / np.linalg.norm(wanted)
    assert 1 - cosine < tolerances.TRAINED_IN_BFLOAT16 and not np.array_equal(moved, wanted)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="n2m.train: dtype must be one of .* got 'float16'"):
        nano_training(nano_config(STACKED), dtype="float16")
    with pytest.raises(ValueError, match="remat must be true, false or 'auto', got 'yes'"):
        nano_training(nano_config(STACKED), remat="yes")


def test_auto_rematerialises_the_papers_sizes_and_not_tiny_ones():
    for name in STAGES:
        full, tiny = load_preset(name), load_preset(f"tiny_{name}")
        length = full.legal_length(round(full.train_seconds * full.rate))
        assert remat_pays(full.unet, 16, length)
        assert not remat_pays(tiny.unet, 1, tiny.unet.compression)


class Denoiser:
    """Stands in for a network: eps_theta = answer(x_t, t), and what it was asked is kept."""

    implementation = "reference"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, x_t, t, **inputs):
        self.x_t, self.t, self.inputs = x_t, t, inputs
        return self.answer(x_t, t)


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_is_equation_1_with_the_papers_weight(name):
    config = load_preset(name)
    assert (config.prediction, config.data_scale) == ("noise", 1.0)
    schedule = config.noise_schedule
    config = SimpleNamespace(**{**vars(config), "unet": nano_config(name).unet})
    if config.condition == "stacked":
        config.up = load_preset(name).up
    batch = jax.tree.map(jnp.asarray, nano_batch(config, 8))
    draws = draw(jax.random.key(1), 8, 0.1)
    silent = Denoiser(lambda x_t, t: jnp.zeros_like(x_t))
    losses = np.asarray(item_losses(silent, None, batch, draws, config))
    alpha, sigma = (np.asarray(a)[:, None, None] for a in alpha_sigma(schedule, silent.t))
    eps = (np.asarray(silent.x_t) - alpha * np.asarray(batch["x"])) / sigma
    assert 0.9 < eps.std() < 1.1
    weight = {"simplified": 1.0, "sigma": sigma[:, 0, 0] ** 2}[config.loss_weight]
    assert (config.loss_weight == "sigma") == (name == "spectrogram_generator")
    np.testing.assert_allclose(losses, weight * (eps**2).mean((1, 2)), rtol=1e-3)

    def exact(x_t, t):
        alpha, sigma = (a[:, None, None] for a in alpha_sigma(schedule, t))
        return (x_t - alpha * batch["x"]) / sigma

    right = np.asarray(item_losses(Denoiser(exact), None, batch, draws, config))
    assert right.max() < 1e-5 * losses.max()


def test_a_tenth_of_the_text_is_dropped_and_times_fill_the_unit_interval():
    draws = draw(jax.random.key(0), 20_000, TrainOptions("", "").text_dropout)
    assert abs(1 - float(draws.keep.mean()) - 0.1) < 4 * (0.09 / 20_000) ** 0.5
    middle = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(np.asarray(draws.t) - middle).max() <= 0.5 / 20_000 + 1e-6
    assert len(np.unique(jax.random.key_data(draws.keys), axis=0)) == 20_000


@pytest.mark.parametrize(
    "name,t_max,sigmas,dims",
    [
        ("waveform_cascader", 0.5, (0.1, 5.0), 1),
        ("spectrogram_vocoder", 1.0, (0.2, 1.0), 2),
        ("super_resolution_cascader", 1.0, (0.1, 5.0), 1),
    ],
)
def test_conditions_are_corrupted_as_in_section_4_1(name, t_max, sigmas, dims):
    config = load_preset(name)
    augmentation = config.augmentation
    assert augmentation.noise_t_max == t_max and augmentation.blur_sigma == sigmas
    assert augmentation.blur_dims == dims
    keys = jax.random.split(jax.random.key(0), 400)
    silence = np.asarray(corrupt(jnp.zeros((400, 64, 40)), config, keys)).std((1, 2))
    # t is uniform in [0, t_max]: so is what sigma_t says of it.
    t = np.linspace(0, 1, 2001, dtype=np.float32)
    times = np.interp(silence, np.asarray(alpha_sigma(config.noise_schedule, t)[1]), t)
    steps = np.quantile(times, [0.1, 0.25, 0.5]) / t_max
    np.testing.assert_allclose(steps, [0.1, 0.25, 0.5], atol=0.08)
    assert silence.max() < 1.05 * alpha_sigma(config.noise_schedule, np.float32(t_max))[1]
    one = corrupt(jnp.ones((1, 64, 40)), config, keys[7:8])
    np.testing.assert_allclose(corrupt(jnp.ones((400, 64, 40)), config, keys)[7:8], one, atol=1e-6)


def test_generators_are_trained_whole_and_the_others_on_four_seconds():
    for name in STAGES:
        config = load_preset(name)
        whole = name.endswith("generator")
        assert config.train_seconds == (29.44 if whole else 4.0)
        augmented = config.augmentation.noise_t_max > 0
        assert augmented != whole


def test_adam_and_its_rate_are_the_papers():
    """The update of one gradient, 1, at a count n: both betas and the rate show in it."""
    tx = optimiser(TrainOptions("", ""))
    weight = jnp.ones(())
    for count, rate in [
        (0, 0.0),
        (5_000, 0.5e-4),
        (10_000, 1e-4),
        (1_255_000, 0.5e-4),
        (2_500_000, 0.0),
    ]:
        state = jax.tree.map(
            lambda a, n=count: jnp.full_like(a, n) if a.dtype == jnp.int32 else a, tx.init(weight)
        )
        update, _ = tx.update(jnp.ones(()), state, weight)
        mean = 0.1 / (1 - 0.9 ** (count + 1.0))
        square = 0.001 / (1 - 0.999 ** (count + 1.0))
        np.testing.assert_allclose(update, -rate * mean / square**0.5, rtol=2e-4, atol=1e-12)
    assert TrainOptions("", "").clip_norm is None


def test_the_average_follows_slowly_once_warm_and_fast_at_first():
    config = nano_config(STACKED)
    batch = nano_batch(config, 4)
    step, state = nano_training(config, ema_decay=0.9999)
    for count, decay in [(0, 0.1), (1_000_000, 0.9999)]:
        start = state._replace(step=jnp.int32(count), ema=jax.tree.map(lambda p: p + 1, state.ema))
        old = jax.device_get(start.ema)
        new, _ = compiled(step, start, batch)(jax.tree.map(jnp.copy, start), batch)
        want = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, old, new.params)
        assert_close(new.ema, want, tolerances.ROUNDING)
        assert {leaf.dtype for leaf in jax.tree.leaves(new.ema)} == FLOAT


def test_embedded_text_is_as_good_as_tokens():
    config = nano_config(TEXT)
    batch = jax.tree.map(jnp.asarray, nano_batch(config, 4))
    t5 = T5Config(config.unet.text_dim and 64, config.unet.text_dim, 8, 2, 16, 1)
    encoder = T5Encoder(t5, rngs=nnx.Rngs(0))
    tokens = jnp.arange(20).reshape(4, 5)
    embedded = batch | {"text": encoder(tokens, batch["mask"])}
    heard = Denoiser(lambda x_t, t: x_t)
    draws = draw(jax.random.key(1), 4, 0.0)
    item_losses(heard, None, embedded, draws, config)
    want = heard.inputs
    del batch["text"]
    item_losses(heard, encoder, batch | {"tokens": tokens}, draws, config)
    assert set(want) == {"text", "mask", "keep", "beat"}
    assert_close(heard.inputs, want, tolerances.ROUNDING)
