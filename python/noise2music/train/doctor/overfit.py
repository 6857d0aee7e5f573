"""One batch, again and again: a network that cannot learn that learns nothing else.

The noise and the times are the same at every step, so the loss can fall as far as the network
reaches; that it does not fall at all has a cause that more data and days do not mend.
"""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from noise2music.config import StageConfig
from noise2music.train.doctor.finding import Finding, graded
from noise2music.train.step import diffusion_loss
from noise2music.unet1d import UNet1D, abstract_unet

_LEAST, _MOST, _ENOUGH = 20, 200, 0.3


def one_batch(
    batch: dict[str, Any], config: StageConfig, options: Any, encoder: Any, seconds: float
) -> Finding:
    """Trains on `batch` with the planned peak rate for `seconds` after compiling, at most.

    encoder: a T5Encoder for a batch with tokens, else None.
    """
    unet = abstract_unet(config.unet)
    unet.implementation = options.implementation
    graph = nnx.split(unet)[0]
    text_graph, text_state = nnx.split(encoder) if encoder is not None else (None, None)
    tx = optax.adam(options.peak_lr, b1=0.9, b2=0.999)

    @jax.jit
    def first() -> Any:
        params = nnx.split(UNet1D(config.unet, rngs=nnx.Rngs(options.seed)))[1]
        return params, tx.init(params)

    def loss_of(params: Any, text_state: Any, batch: Any) -> Any:
        text = None if text_graph is None else nnx.merge(text_graph, text_state)
        key = jax.random.key(options.seed)
        return diffusion_loss(nnx.merge(graph, params), text, batch, key, config, 0.0)

    @jax.jit
    def step(params: Any, opt: Any, text_state: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, text_state, batch)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss

    batch = jax.tree.map(jnp.asarray, batch)
    params, opt = first()
    run = step.lower(params, opt, text_state, batch).compile()
    losses: list[float] = []
    end = time.monotonic() + seconds
    while len(losses) < _MOST and time.monotonic() < end:
        params, opt, loss = run(params, opt, text_state, batch)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]) or losses[-1] < _ENOUGH * losses[0]:
            break
    return verdict(losses, seconds)


def verdict(losses: list[float], seconds: float) -> Finding:
    """What the losses of successive steps on one batch say."""
    name = "learns one batch"
    finite = all(map(math.isfinite, losses))
    left = float(np.median(losses[-5:])) / losses[0] if losses and finite else math.nan
    figure = f"loss {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps" if losses else ""
    if finite and len(losses) < _LEAST and not (losses and losses[-1] < _ENOUGH * losses[0]):
        return Finding(
            name,
            "warning",
            f"not tried out: {len(losses)} steps in {seconds:g} s, {_LEAST} are needed",
            "give it more time with --seconds, or look at the tiny twin of the preset first",
        )
    return graded(
        name,
        figure,
        fault=not finite or left > 0.98,
        warning=left > 0.8,
        remedy="it would not learn many batches either: look at the findings above first, then at "
        "peak_lr (10 times higher and lower) and at prediction and loss_weight",
    )
