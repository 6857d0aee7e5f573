r"""A training step: Eq. 1 with dropped text, a corrupted condition (section 4.1); Adam, EMA."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from noise2music.config import StageConfig
from noise2music.diffusion import diffuse, gaussian_blur, loss_weight, to_noise
from noise2music.kernels import fft_upsample


class TrainState(NamedTuple):
    """All that a checkpoint holds.

    params = {"unet": ..., "text": ...}; ema mirrors it in float32.
    """

    step: Array
    params: Any
    ema: Any
    opt: Any


def corrupt(condition: Array, config: StageConfig, key: Array) -> Array:
    """Blur, then diffusion noise of a random time in [0, t_max], for every item by itself."""
    augmentation = config.augmentation
    k_blur, k_time, k_noise = jax.random.split(key, 3)
    batch = condition.shape[0]
    if augmentation.blur_sigma is not None:
        low, high = augmentation.blur_sigma
        sigma = jax.random.uniform(k_blur, (batch,), minval=low, maxval=high)
        condition = gaussian_blur(condition, sigma, augmentation.blur_dims)
    if augmentation.noise_t_max > 0.0:
        t = jax.random.uniform(k_time, (batch,), maxval=augmentation.noise_t_max)
        noise = jax.random.normal(k_noise, condition.shape, condition.dtype)
        condition = diffuse(condition, noise, t, config.noise_schedule)
    return condition


def diffusion_loss(
    unet: Any,
    text_encoder: Any,
    batch: dict[str, Array],
    key: Array,
    config: StageConfig,
    text_dropout: float,
) -> Array:
    """E[w_t ||eps_theta(x_t, c, t) - eps||^2] over one batch (Equation 1).

    t is uniform in [0, 1]. Scalar.
    """
    k_t, key = jax.random.split(key)
    size = batch["x"].shape[0]
    # Stratified over the batch: uniform for each item, and no batch misses a part of [0, 1].
    t = (jnp.arange(size) + jax.random.uniform(k_t, (size,))) / size
    return jnp.mean(clip_losses(unet, text_encoder, batch, t, key, config, text_dropout))


def clip_losses(
    unet: Any,
    text_encoder: Any,
    batch: dict[str, Array],
    t: Array,
    key: Array,
    config: StageConfig,
    text_dropout: float,
) -> Array:
    """w_t ||eps_theta(x_t, c, t) - eps||^2 of each clip at its own time t (B,). Shape (B,)."""
    k_eps, k_drop, k_condition = jax.random.split(key, 3)
    x = config.data_scale * batch["x"]
    size = x.shape[0]
    eps = jax.random.normal(k_eps, x.shape, x.dtype)
    x_t = diffuse(x, eps, t, config.noise_schedule)
    inputs: dict[str, Array] = {}
    if "low" in batch:
        up = fft_upsample(batch["low"], *config.up, implementation=unet.implementation)
        up = up[:, : x.shape[1]]
        inputs["stacked"] = corrupt(config.data_scale * up, config, k_condition)
    if "aligned" in batch:
        inputs["aligned"] = corrupt(batch["aligned"], config, k_condition)
    if "tokens" in batch:
        inputs["text"] = text_encoder(batch["tokens"], batch["mask"])
        inputs["mask"] = batch["mask"]
        inputs["keep"] = (jax.random.uniform(k_drop, (size,)) >= text_dropout).astype(jnp.float32)
        inputs["beat"] = batch["beat"] * inputs["keep"]
    eps_theta = to_noise(unet(x_t, t, **inputs), x_t, t, config.noise_schedule, config.prediction)
    error = jnp.mean(jnp.square(eps_theta - eps), axis=(1, 2))
    return loss_weight(config.loss_weight, t, config.noise_schedule) * error


def make_step(graphs: dict[str, Any], config: StageConfig, options: Any, optimiser: Any) -> Any:
    """(state, batch) -> (state, metrics), jitted, the state donated.

    The step's randomness is fold_in(seed, step).
    """

    def loss_of(params: Any, batch: dict[str, Array], key: Array) -> Array:
        unet = nnx.merge(graphs["unet"], params["unet"])
        text = nnx.merge(graphs["text"], params["text"]) if "text" in params else None
        return diffusion_loss(unet, text, batch, key, config, options.text_dropout)

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        loss, grads = jax.value_and_grad(loss_of)(state.params, batch, key)
        updates, opt = optimiser.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        # The usual warm-up of the average: a young run is not dragged down by its first weights.
        decay = jnp.minimum(options.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state.ema, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, ema, opt), metrics

    return jax.jit(step, donate_argnums=0)
