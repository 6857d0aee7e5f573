r"""Checks of schedules, sampler, loss, average and learning rate: no data but its deviation d.

For Gaussian data N(0, d^2) everything is known. The best denoiser is linear,

    x_0 = alpha d^2 / (alpha^2 d^2 + sigma^2) x_t,

its error of eps has variance alpha^2 d^2 / (alpha^2 d^2 + sigma^2), and as every sampler is linear
in x_t and x_0, the deviation of what it makes follows from its coefficients.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.config import StageConfig
from noise2music.diffusion import loss_weight
from noise2music.sampling import coefficients
from noise2music.schedules import alpha_sigma, denoising_times
from noise2music.train import step
from noise2music.train.doctor.finding import Finding, graded

_ITEMS, _FRAMES = 512, 16  # of the loss on Gaussian data; its sampling error is about 2 %


def signal_to_noise(config: StageConfig, deviation: float) -> list[Finding]:
    """alpha_t^2 d^2 / sigma_t^2 at both ends, and how much of [0, 1] is neither end."""
    t = np.linspace(0.0, 1.0, 1001)
    alpha, sigma = alpha_sigma(config.noise_schedule, t)
    with np.errstate(divide="ignore"):
        db = 20 * np.log10(alpha * deviation / sigma)
    between = float(np.mean(np.abs(db) < 20))
    scale = f"data_scale = {config.data_scale:g} makes the data's deviation {deviation:.3g}"
    return [
        graded(
            "noise at t = 1",
            f"signal at {db[-1]:+.0f} dB of the noise",
            fault=db[-1] > -15,
            warning=db[-1] > -30,
            remedy="x_1 is not noise, but sampling starts from noise: lower data_scale, or use the "
            f"cosine schedule ({scale})",
        ),
        graded(
            "signal at t = 0",
            "no noise" if math.isinf(db[0]) else f"signal at {db[0]:+.0f} dB of the noise",
            fault=db[0] < 20,
            warning=db[0] < 35,
            remedy=f"the last step leaves this much noise: raise data_scale ({scale})",
        ),
        graded(
            "useful times",
            f"{100 * between:.0f} % of t within 20 dB of even signal and noise",
            fault=between < 0.1,
            warning=between < 0.2,
            remedy=f"most steps of training see only noise or only signal: change data_scale "
            f"({scale}) so that the deviation is nearer to one",
        ),
    ]


def sampler_on_gaussian(config: StageConfig, deviation: float) -> Finding:
    """The deviation that the sampler makes of N(0, d^2) with the exact denoiser, without clipping.

    Two numbers are followed, x_t and the x_0 before it, by their covariance, step by step.
    """
    times = denoising_times(config.denoising, config.steps)
    rows = coefficients(
        times, config.noise_schedule, sampler=config.sampler, gamma=config.gamma, guidance=1.0
    )
    alpha, sigma = alpha_sigma(config.noise_schedule, times[:0:-1])
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    covariance = np.diag([1.0, 0.0])
    for row, c_p, k in zip(rows.step.astype(float), rows.c_p.astype(float), gain, strict=True):
        turn = np.array([[row[3] + row[4] * k, c_p], [k, 0.0]])
        covariance = turn @ covariance @ turn.T
        covariance[0, 0] += row[5] ** 2
    ratio = math.sqrt(covariance[0, 0]) / deviation
    return graded(
        "sampler on Gaussian data",
        f"{config.sampler}, {len(gain)} steps: deviation {ratio:.3f} of the data's",
        fault=not 0.7 < ratio < 1.4,
        warning=not 0.85 < ratio < 1.15,
        remedy="clips would be too quiet or too loud even with a perfect network: raise steps, "
        "or take the denoising schedule of the preset",
    )


class _Oracle:
    """A network that answers as the best denoiser of N(0, d^2) would, in `prediction`'s terms."""

    implementation = "reference"

    def __init__(self, config: StageConfig, deviation: float):
        self.config, self.variance = config, deviation**2

    def __call__(self, x_t: Any, t: Any, **inputs: Any) -> Any:
        alpha, sigma = (
            a.reshape(-1, 1, 1) for a in alpha_sigma(self.config.noise_schedule, jnp.asarray(t))
        )
        total = alpha**2 * self.variance + sigma**2
        eps = sigma / total * x_t
        x_0 = alpha * self.variance / total * x_t
        if self.config.prediction == "noise":
            return eps
        if self.config.prediction == "velocity":
            return alpha * eps - sigma * x_0
        d = 0.1  # of "sample": x_0 = c_skip x_t + c_out F (diffusion.to_noise)
        n = (alpha * d) ** 2 + sigma**2
        return (x_0 - alpha * d**2 / n * x_t) * jnp.sqrt(n) / jnp.maximum(sigma, 1e-6)


def loss_on_gaussian(config: StageConfig, deviation: float) -> Finding:
    """The training loss of the exact denoiser beside its closed form."""
    x = deviation / config.data_scale
    shape = (_ITEMS, _FRAMES, config.unet.in_channels)
    batch = {"x": x * jax.random.normal(jax.random.key(1), shape)}
    oracle = _Oracle(config, deviation)
    if config.unet.has_text:
        some = jnp.zeros((_ITEMS, 1, 1))
        batch |= {"text": some, "tokens": jnp.zeros((_ITEMS, 1), jnp.int32)}
        batch |= {"mask": jnp.ones((_ITEMS, 1), bool), "beat": jnp.zeros(_ITEMS)}
    found = float(
        step.diffusion_loss(oracle, lambda *a: None, batch, jax.random.key(0), config, 0.0)
    )
    t = jnp.asarray((np.arange(20_000) + 0.5) / 20_000, jnp.float32)
    alpha, sigma = alpha_sigma(config.noise_schedule, t)
    power = (alpha * deviation) ** 2
    weight = loss_weight(config.loss_weight, t, config.noise_schedule)
    expected = float(jnp.mean(weight * power / (power + sigma**2)))
    ratio = found / expected
    return graded(
        "loss on Gaussian data",
        f"{found:.4g} with the exact denoiser, {expected:.4g} by the closed form",
        fault=not 0.8 < ratio < 1.25,
        warning=not 0.9 < ratio < 1.1,
        remedy="the loss and the schedule do not belong together: look at prediction, loss_weight "
        "and what was changed in train/step.py",
    )


def average(options: Any) -> Finding:
    """The half-life of the average of the weights against the run.

    As n grows, the decay is min(decay, (1 + n) / (10 + n)): a young average is short by itself.
    """
    decay, steps = options.ema_decay, options.steps
    half = math.inf if decay >= 1 else math.log(0.5) / math.log(decay) if decay > 0 else 0.0
    last = min(decay, (1 + steps) / (10 + steps))
    held = math.log(0.5) / math.log(last) if last > 0 else 0.0
    return graded(
        "average of the weights",
        f"half-life {half:.0f} steps of {steps} planned; {held:.0f} at the end, by its warm-up",
        fault=half > 10 * steps,
        warning=half > steps / 2 or half < 10,
        remedy="the average is meant for a run of another length: ema_decay = "
        f"{_decay_for(steps):.6g} has a half-life of a fiftieth of this one",
    )


def _decay_for(steps: int) -> float:
    return 0.5 ** (1 / max(10.0, steps / 50))


def learning_rate(options: Any) -> list[Finding]:
    """Warm-up, cosine and planned steps against each other."""
    steps, warmup, end = options.steps, options.warmup, options.lr_end_step
    reached = min(1.0, steps / max(1, warmup))
    still = max(0, steps - end) / steps
    if steps <= warmup or end <= warmup:
        last = reached
    else:
        last = 0.5 * (1 + math.cos(math.pi * min(1.0, (steps - warmup) / (end - warmup))))
    peak = options.peak_lr
    return [
        graded(
            "warm-up",
            f"{warmup} of {steps} steps, to {100 * reached:.0f} % of the peak {peak:g}",
            fault=warmup >= steps or warmup >= end,
            warning=warmup > 0.2 * min(steps, end),
            remedy="the run ends before the rate has risen: set warmup to a twentieth of steps "
            f"({max(1, min(steps, end) // 20)}), or train for longer",
        ),
        graded(
            "end of the cosine",
            f"step {end} of {steps}; the last step has {100 * last:.0f} % of the peak",
            fault=still > 0.1,
            warning=still > 0 or (last > 0.5 and warmup < steps),
            remedy="steps after the cosine's end have no learning rate at all, and a run that stops"
            f" far before it never settles: set lr_end_step to {steps}",
        ),
        graded(
            "peak of the rate",
            f"{peak:g}",
            fault=not 1e-7 <= peak <= 1e-2,
            warning=not 1e-5 <= peak <= 2e-3,
            remedy="Adam on these networks learns between 1e-5 and 2e-3; the paper has 1e-4",
        ),
    ]


def dropped_text(config: StageConfig, options: Any) -> list[Finding]:
    """Guidance needs both: steps with text and steps without."""
    if not config.unet.has_text:
        return []
    share, guided = options.text_dropout, (config.guidance or 1.0) != 1.0
    return [
        graded(
            "dropped text",
            f"{100 * share:.0f} % of the clips, guidance {config.guidance or 1.0:g}",
            fault=share >= 0.9 or (guided and share == 0),
            warning=share > 0.5,
            remedy="guidance compares answers with and without text, so both must be trained: the "
            "paper drops 10 %",
        )
    ]
