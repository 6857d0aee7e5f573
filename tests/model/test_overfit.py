"""The overfit gate: every stage learns one batch, and its sampler then gives the batch back.

What is measured: the loss of Equation 1 on the batch, the mean over eight fixed draws of times and
noise that training has not seen (it draws anew at every step), text kept, augmentations as the
stage has them; after training over before. Then the clips are sampled from their conditions alone.
Distances are printed: `pytest tests/model/test_overfit.py -rP`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal
import tolerances
from flax import nnx
from nano import nano_config
from noise2music import missing_band
from noise2music.audio import resample
from noise2music.config import STAGES
from noise2music.excitation import flatten
from noise2music.mel import log_mel
from noise2music.stage import Sampler, Stage, Text
from noise2music.train.step import TrainState, diffusion_loss, make_step
from noise2music.unet1d import UNet1D
from training import options

# Frames of the compressed representation, channels, steps, peak rate: seconds each.
SETTINGS = {
    "waveform_generator": (32, 24, 300, 5e-3),
    "waveform_cascader": (64, 24, 300, 5e-3),
    "spectrogram_generator": (12, 32, 300, 3e-3),
    "spectrogram_vocoder": (6, 16, 300, 1e-2),
    "super_resolution_cascader": (128, 24, 250, 5e-3),
}
COPIES = 4  # of each of the two clips in the batch: so many times and noises a step


def tones(rate, length, lowest):
    """Two notes with three partials and a decay, (2, length)."""
    t = np.arange(length) / rate
    partials = ((1, 0.3, 0.3), (2, 0.15, 1.0), (3, 0.1, 2.0))
    decay = np.exp(-2.0 * np.arange(length) / length)
    return np.stack(
        [
            decay * sum(a * np.sin(2 * np.pi * k * f * t + p) for k, a, p in partials)
            for f in (lowest, 1.5 * lowest)
        ]
    ).astype(np.float32)


def two_clips(config, frames):
    """(batch of two, what a listener would hear of them (2, T) or see (2, T, 80))."""
    unet = config.unet
    length = frames * unet.compression
    batch = {}
    if config.target == "mel":
        heard = log_mel(tones(16_000, length * 160, 500.0))
        batch["x"] = heard
    else:
        # Some of it is above the condition's band.
        lowest = max(config.rate / 20, 0.1725 * (config.condition_rate or 0))
        heard = tones(config.rate, length, lowest)
        batch["x"] = heard[..., None]
    if config.condition == "stacked":
        up, _ = config.up
        covered = np.pad(heard, ((0, 0), (0, -length % up)))
        low = [resample(clip, config.rate, config.condition_rate) for clip in covered]
        batch["low"] = np.stack(low)[..., None].astype(np.float32)
        if config.missing_band:  # the rest is the condition's: what is learned is this
            c = batch["low"][..., 0]
            shown, level = missing_band.levelled(c, config)
            raised = scipy.signal.resample(c, covered.shape[1], axis=1)
            r = missing_band.extract(covered, raised, level, config)[:, :length]
            heard = r / np.abs(r).max(1, keepdims=True)  # tones are louder there than music
            batch["x"], batch["low"] = heard[..., None], shown[..., None]
    if config.condition == "aligned":
        batch["aligned"] = log_mel(heard)
        if config.excitation:  # the magnitudes are the condition's: what is learned is this
            heard = flatten(heard, batch["aligned"])
            batch["x"] = heard[..., None]
    if unet.has_text:
        rng = np.random.default_rng(0)
        batch["text"] = rng.standard_normal((2, 5, unet.text_dim)).astype(np.float32)
        batch["mask"] = np.ones((2, 5), bool)
        batch["beat"] = np.ones(2, np.float32)
    return batch, heard


def log_spectral_distance(a, b):
    """Decibels between clips (B, T): the root mean square over the bins of 20 log10 |STFT|, floored
    40 dB below the loudest, the mean over frames and over windows of 64 and 256 samples."""
    found = []
    for size in (64, 256):
        frames = [
            np.lib.stride_tricks.sliding_window_view(x, size, 1)[:, :: size // 4] for x in (a, b)
        ]
        x, y = (np.abs(np.fft.rfft(f * np.hanning(size))) for f in frames)
        floor = 1e-2 * y.max()
        difference = 20 * np.log10(np.maximum(x, floor) / np.maximum(y, floor))
        found.append(np.sqrt(np.square(difference).mean(-1)).mean())
    return float(np.mean(found))


def distance(config, a, b):
    if config.target == "mel":  # 1 stands for 40 dB
        return float(40 * np.sqrt(np.square(a - b).mean(-1)).mean())
    return log_spectral_distance(a[..., 0], b)


def sampled(config, state, batch, heard):
    """The batch's clips from their conditions, in 40 steps: what the network itself makes."""
    stage = Stage(dataclasses.replace(config, excitation=False, missing_band=()), state)
    text = None
    if config.unet.has_text:
        text = Text(batch["text"], batch["mask"], jnp.ones(2), batch["beat"])
    condition = batch.get("low", batch.get("aligned"))
    sampler = Sampler(steps=40, guidance=1.0)
    return stage.sample(
        heard.shape[1], np.arange(2), seed=0, options=sampler, text=text, condition=condition
    )


def nano(name):
    config = nano_config(name)
    _, width, _, _ = SETTINGS[name]
    changes = {"base_dim": width, "channels": (width,) * config.unet.depth}
    # What fits so few weights into the vocoder: without it a tenth of the loss stays.
    changes["skip_film"] = config.unet.skip_film or name == "spectrogram_vocoder"
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, **changes))


def overfit(config, frames, steps, rate):
    """(what is left of the loss, distances and correlations of samples, trained and untrained)."""
    clips, heard = two_clips(config, frames)
    batch = {k: np.repeat(v, COPIES, axis=0) for k, v in clips.items()}
    graph, start = nnx.split(UNet1D(config.unet, rngs=nnx.Rngs(0)))
    # The paper's Adam, but for a memory of squares that is no longer than the run.
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.9, b2=0.99)
    wish = options(text_dropout=0.0, ema_decay=0.99)
    step = make_step({"unet": graph}, config, wish, tx)

    @jax.jit
    def fixed_draws(params, seed):
        unet = nnx.merge(graph, params["unet"])
        return diffusion_loss(unet, None, batch, jax.random.key(seed), config, 0.0)

    def loss(params):
        return float(np.mean([fixed_draws(params, seed) for seed in range(8)]))

    params = {"unet": start}
    before = loss(params)
    copies = (jax.tree.map(jnp.copy, params) for _ in range(2))
    state = TrainState(jnp.int32(0), *copies, tx.init(params))
    for _ in range(steps):
        state, _ = step(state, batch)
    made = [sampled(config, weights, clips, heard) for weights in (state.ema["unet"], start)]
    away = [distance(config, clip, heard) for clip in made]
    alike = [float(np.corrcoef(clip.ravel(), heard.ravel())[0, 1]) for clip in made]
    return loss(state.ema) / before, away, alike


@pytest.mark.parametrize("name", STAGES)
def test_one_batch_is_learned_and_sampled_back(name):
    frames, _, steps, rate = SETTINGS[name]
    left, away, alike = overfit(nano(name), frames, steps, rate)
    print(
        f"{name}: {steps} steps leave {100 * left:.1f} % of the loss; samples are {away[0]:.1f} dB "
        f"away (untrained {away[1]:.1f}), correlation {alike[0]:.3f} (untrained {alike[1]:.3f})"
    )
    assert left < 0.05
    assert away[0] < tolerances.REPRODUCED_DB and away[0] < away[1]
    assert alike[0] > tolerances.REPRODUCED_CORRELATION > alike[1]
