r"""Reverse diffusion (Equation 4) over any step list; DDIM and DPM-Solver++(2M) for few steps.

Every step of every sampler is linear in x_t and x_0,

    x_s = c_x x_t + c_0 x_0 + c_p x_0^prev + c_noise z,

so one fused op (`kernels.ancestral_step`) serves all three; the coefficients are computed here in
float64. With eps = (x_t - alpha_t x_0) / sigma_t, Equation 4 reads

    c_x = (alpha_s / alpha_t) e^{lambda_t - lambda_s},  c_0 = (1 - e^{lambda_t - lambda_s}) alpha_s,
    c_noise = sigma~_{s|t}^{1-gamma} sigma_{t|s}^gamma,

which forms x_0 first and never multiplies the network's error by alpha_s / alpha_t (347 at the
first step of the cosine schedule). No noise is added at s = 0.

Randomness is a contract: the noise of clip i at stage s and step n is drawn from
fold_in(fold_in(fold_in(key(seed), i), s), n), by position, so a clip is the same in any batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from noise2music.kernels import ancestral_step
from noise2music.schedules import alpha_sigma, check_times

Denoiser = Callable[[Array, Array], tuple[Array, Array | None]]


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """One row a step, n = 1..N from t = 1 down to 0.

    t: (N,); step: (N, 8) for ancestral_step; c_p: (N,).
    """

    t: np.ndarray
    step: np.ndarray
    c_p: np.ndarray


def coefficients(
    times: np.ndarray,
    schedule: str,
    *,
    sampler: str = "ancestral",
    gamma: float = 0.0,
    guidance: float = 1.0,
    clip_percentile: float = 0.0,
    clip_floor: float = 1.0,
) -> Coefficients:
    """The N steps of a sampler as float32 rows.

    A row is [w, 1/alpha_t, sigma_t/alpha_t, c_x, c_0, c_noise, p, floor].
    """
    times = check_times(times)
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"n2m.sampling: gamma must be in [0, 1], got {gamma}")
    t, s = times[:0:-1], times[-2::-1]
    (a_t, s_t), (a_s, s_s) = alpha_sigma(schedule, t), alpha_sigma(schedule, s)
    ratio = (a_t * s_s / (s_t * a_s)) ** 2  # e^{lambda_t - lambda_s}, 0 where sigma_s = 0
    c_p = np.zeros_like(t)
    c_noise = np.zeros_like(t)
    if sampler == "ancestral":
        c_x, c_0 = a_s / a_t * ratio, (1.0 - ratio) * a_s
        sigma_ts, sigma_st = np.sqrt(1.0 - ratio) * s_t, np.sqrt(1.0 - ratio) * s_s
        c_noise = sigma_st ** (1.0 - gamma) * sigma_ts**gamma
        c_noise[s == 0.0] = 0.0
    elif sampler in ("ddim", "dpm++"):
        # DDIM (Song et al. 2021, eta = 0) is DPM-Solver++(1); 2M adds the previous x_0
        # (Lu et al. 2022, eq. 13).
        c_x, c_0 = s_s / s_t, a_s - s_s * a_t / s_t
        if sampler == "dpm++":
            with np.errstate(divide="ignore"):
                half_lambda = np.log(a_t / s_t)
                h = np.append(np.diff(half_lambda), np.inf)
            for n in range(1, len(t)):
                if s[n] > 0.0:  # the last step is first order
                    r = h[n - 1] / h[n]
                    c_p[n] = -c_0[n] / (2.0 * r)
                    c_0[n] *= 1.0 + 1.0 / (2.0 * r)
    else:
        raise ValueError(f"n2m.sampling: sampler must be ancestral, ddim or dpm++, got {sampler!r}")
    one = np.ones_like(t)
    step = np.stack(
        [
            guidance * one,
            1 / a_t,
            s_t / a_t,
            c_x,
            c_0,
            c_noise,
            clip_percentile * one,
            clip_floor * one,
        ],
        axis=1,
    )
    return Coefficients(t.astype(np.float32), step.astype(np.float32), c_p.astype(np.float32))


def clip_keys(seed: int, clips: Array, stage: int) -> Array:
    """(B,) keys: fold_in(fold_in(key(seed), i), s) for the global clip indices i."""
    base = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(base, i), stage))(clips)


def initial_noise(keys: Array, length: int, channels: int) -> Array:
    """x_1 ~ N(0, I), (B, T, C) float32: step 0 of the noise contract."""
    return jax.vmap(
        lambda k: jax.random.normal(jax.random.fold_in(k, 0), (length, channels), jnp.float32)
    )(keys)


def run_steps(
    denoiser: Denoiser,
    x: Array,
    x_0: Array,
    keys: Array,
    rows: tuple[Array, Array, Array],
    first: Array,
    last: Array,
    *,
    time_axis: str | None = None,
    noise: str = "threefry",
    implementation: str = "auto",
) -> tuple[Array, Array]:
    """Steps first <= n < last (n from 0) of the reverse process, in one loop on the device.

    denoiser(x_t, t (B,)) -> (eps_cond, eps_uncond or None). x, x_0 (B, T, C); keys (B,) of
    `clip_keys`; rows = (t (N,), step (N, 8), c_p (N,)) of `coefficients`. Answers (x, x_0) after
    the last step. The bounds are traced, so that progress, cancellation and any chunk of steps
    share one compiled program. time_axis: of the shard_map around the call, where x is one device's
    piece of the clips. noise: as of `ancestral_step`; "hardware" ends the contract above on a TPU.
    """
    t, step, c_p = rows

    def body(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x_t, previous = carry
        eps_cond, eps_uncond = denoiser(x_t, jnp.full(x_t.shape[:1], t[n]))
        key = jax.vmap(partial(jax.random.fold_in, data=n + 1))(keys)
        x_s, x_0 = ancestral_step(
            x_t, eps_cond, eps_uncond, key, step[n],
            time_axis=time_axis, noise=noise, implementation=implementation,
        )  # fmt: skip
        return x_s + c_p[n] * previous, x_0

    return jax.lax.fori_loop(first, last, body, (x, x_0))
