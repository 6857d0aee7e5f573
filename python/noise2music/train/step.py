r"""A training step: Eq. 1 with dropped text, a corrupted condition (section 4.1); Adam, EMA.

Every item of a batch draws from a key of its own, so a step does not depend on how the batch is cut
into micro-batches or laid over devices, but for rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from noise2music.config import StageConfig, UNetConfig
from noise2music.diffusion import diffuse, gaussian_blur, loss_weight, to_noise
from noise2music.kernels import fft_upsample
from noise2music.train.sharding import Placement, check_batch, check_heads, make_mesh

DTYPES = ("float32", "bfloat16")
_KEPT = 10  # arrays of the size of a block's output that its backward pass reads
_REMAT_FROM = 2**30  # bytes of them on a device from which "auto" computes them anew


class TrainState(NamedTuple):
    """All that a checkpoint holds.

    params = {"unet": ..., "text": ...}; ema mirrors it in float32.
    """

    step: Array
    params: Any
    ema: Any
    opt: Any


class Draws(NamedTuple):
    """What is random in a step, one row an item: t (B,) in [0, 1], keep (B,) 0 where the text is
    dropped, keys (B,) of the item's noise."""

    t: Array
    keep: Array
    keys: Array


def draw(key: Array, size: int, text_dropout: float) -> Draws:
    """The draws of a batch. t is uniform for each item and stratified over the batch: item i has
    (i + u_i) / size, so that no batch misses a part of [0, 1]."""
    k_t, k_drop, k_items = jax.random.split(key, 3)
    t = (jnp.arange(size) + jax.random.uniform(k_t, (size,))) / size
    keep = (jax.random.uniform(k_drop, (size,)) >= text_dropout).astype(jnp.float32)
    return Draws(t, keep, jax.vmap(jax.random.fold_in, (None, 0))(k_items, jnp.arange(size)))


def corrupt(condition: Array, config: StageConfig, keys: Array) -> Array:
    """Blur, then diffusion noise of a random time in [0, t_max], for every item by itself.

    condition (B, T, C); keys (B,).
    """
    augmentation = config.augmentation
    k_blur, k_time, k_noise = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0)
    if augmentation.blur_sigma is not None:
        low, high = augmentation.blur_sigma
        sigma = jax.vmap(lambda k: jax.random.uniform(k, minval=low, maxval=high))(k_blur)
        condition = gaussian_blur(condition, sigma, augmentation.blur_dims)
    if augmentation.noise_t_max > 0.0:
        t_max = augmentation.noise_t_max
        t = jax.vmap(lambda k: jax.random.uniform(k, maxval=t_max))(k_time)
        condition = diffuse(condition, _normal(k_noise, condition), t, config.noise_schedule)
    return condition


def _normal(keys: Array, like: Array) -> Array:
    """Standard normal numbers of the shape of `like` (B, ...), each item from its key."""
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(keys)


def item_losses(
    unet: Any, text_encoder: Any, batch: dict[str, Array], draws: Draws, config: StageConfig
) -> Array:
    """w_t ||eps_theta(x_t, c, t) - eps||^2 of each item, the mean over its time and channels: (B,).

    The text of a batch is tokens (B, L) for the encoder, or text (B, L, M) that it has embedded.
    """
    x = config.data_scale * batch["x"]
    t = draws.t
    k_eps, k_condition = jnp.moveaxis(jax.vmap(jax.random.split)(draws.keys), 1, 0)
    eps = _normal(k_eps, x)
    x_t = diffuse(x, eps, t, config.noise_schedule)
    inputs: dict[str, Array] = {}
    if "low" in batch:
        up = fft_upsample(batch["low"], *config.up, implementation=unet.implementation)
        up = up[:, : x.shape[1]]
        inputs["stacked"] = corrupt(config.data_scale * up, config, k_condition)
    if "aligned" in batch:
        inputs["aligned"] = corrupt(batch["aligned"], config, k_condition)
    if config.unet.has_text:
        embedded = batch["text"] if "text" in batch else None
        if embedded is None:
            embedded = text_encoder(batch["tokens"], batch["mask"])
        inputs |= {"text": embedded, "mask": batch["mask"], "keep": draws.keep}
        if "beat" in batch:
            inputs["beat"] = batch["beat"] * draws.keep
    eps_theta = to_noise(unet(x_t, t, **inputs), x_t, t, config.noise_schedule, config.prediction)
    error = jnp.mean(jnp.square(eps_theta - eps), axis=(1, 2))
    return loss_weight(config.loss_weight, t, config.noise_schedule) * error


def diffusion_loss(
    unet: Any,
    text_encoder: Any,
    batch: dict[str, Array],
    key: Array,
    config: StageConfig,
    text_dropout: float,
) -> Array:
    """E[w_t ||eps_theta(x_t, c, t) - eps||^2] over one batch (Equation 1), a scalar."""
    draws = draw(key, batch["x"].shape[0], text_dropout)
    return jnp.mean(item_losses(unet, text_encoder, batch, draws, config))


def remat_pays(unet: UNetConfig, items: int, length: int) -> bool:
    """Whether what the blocks keep of `items` clips of `length` passes a GiB (in bfloat16)."""
    size = 0
    for stride, channels, blocks in zip(unet.strides, unet.channels, unet.blocks, strict=True):
        length //= stride
        size += 2 * blocks * length * channels
    return 2 * _KEPT * items * size > _REMAT_FROM


@dataclasses.dataclass(frozen=True)
class Networks:
    """How a step puts its networks together: item losses of parameters.

    dtype "bfloat16" computes activations in it; parameters, gradients and losses stay float32.
    remat: True, False, or "auto" for `remat_pays`.
    """

    graphs: Any
    config: StageConfig
    dtype: str
    remat: bool | str
    placement: Placement | None

    @property
    def mesh(self) -> Mesh | None:
        return None if self.placement is None else self.placement.mesh

    @classmethod
    def of(cls, graphs: Any, config: StageConfig, options: Any, mesh: Mesh | None) -> Networks:
        """By the options dtype, remat and mesh, those that are there (mesh: where not given)."""
        dtype: str = getattr(options, "dtype", "float32")
        if dtype not in DTYPES:
            raise ValueError(f"n2m.train: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        spec: str = getattr(options, "mesh", "")
        if mesh is None and spec:
            mesh = make_mesh(spec)
        check_heads(config, mesh)
        remat: bool | str = getattr(options, "remat", False)
        if not isinstance(remat, bool) and remat != "auto":
            raise ValueError(f"n2m.train: remat must be true, false or 'auto', got {remat!r}")
        return cls(graphs, config, dtype, remat, None if mesh is None else Placement(mesh))

    def losses(self, params: Any, batch: dict[str, Array], draws: Draws) -> Array:
        """`item_losses` (B,) of params = {"unet": ..., "text": ...}."""
        unet = nnx.merge(self.graphs["unet"], params["unet"])
        if self.dtype != "float32":
            unet.dtype = jnp.dtype(self.dtype)
        unet.remat = unet.remat or self._remat(batch["x"])
        unet.placement = self.placement
        text = None
        if "text" in params:
            weights = params["text"]
            if self.placement is not None:
                weights = self.placement.weights(weights)
            text = nnx.merge(self.graphs["text"], weights)
        return item_losses(unet, text, batch, draws, self.config)

    def _remat(self, x: Array) -> bool:
        if isinstance(self.remat, bool):
            return self.remat
        return remat_pays(self.config.unet, check_batch(x.shape[0], self.mesh), x.shape[1])

    def on_mesh(self, what: str, tree: Any) -> Any:
        """The tree as the placement has it ("activation", "kept"); itself without a mesh."""
        return tree if self.placement is None else getattr(self.placement, what)(tree)


def make_step(
    graphs: dict[str, Any],
    config: StageConfig,
    options: Any,
    optimiser: Any,
    *,
    mesh: Mesh | None = None,
) -> Any:
    """(state, batch) -> (state, metrics), jitted, the state donated.

    The step's randomness is fold_in(seed, step). Options that are read: seed, text_dropout,
    ema_decay and, where there, accumulate (micro-batches a step), dtype, remat, mesh. On a mesh the
    state and the batch come as `sharding.state_shardings` and `batch_shardings` say, and so the
    state goes. Raises ValueError (when traced) for a batch that does not divide.
    """
    networks = Networks.of(graphs, config, options, mesh)
    micro_batches = getattr(options, "accumulate", 1)

    def loss_of(params: Any, batch: dict[str, Array], draws: Draws) -> Array:
        return jnp.mean(networks.losses(params, batch, draws))

    def gradient(params: Any, batch: dict[str, Array], draws: Draws) -> tuple[Array, Any]:
        loss, grads = jax.value_and_grad(loss_of)(params, batch, draws)
        return loss, networks.on_mesh("kept", grads)

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        size = batch["x"].shape[0]
        check_batch(size, networks.mesh, micro_batches)
        key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        draws = draw(key, size, options.text_dropout)
        batch, draws = networks.on_mesh("activation", (batch, draws))
        if micro_batches == 1:
            loss, grads = gradient(state.params, batch, draws)
        else:
            loss, grads = _accumulated(gradient, micro_batches, state.params, batch, draws)
        updates, opt = optimiser.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        # The usual warm-up of the average: a young run is not dragged down by its first weights.
        decay = jnp.minimum(options.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state.ema, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return networks.on_mesh("kept", TrainState(state.step + 1, params, ema, opt)), metrics

    return jax.jit(step, donate_argnums=0)


def _accumulated(gradient: Any, count: int, params: Any, batch: Any, draws: Draws) -> Any:
    """(loss, gradient) as the mean over `count` micro-batches, one after the other.

    Micro-batch m takes the items m, m + count, ...: times stay stratified, and on a mesh every item
    stays on its device.
    """
    split = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]), (batch, draws)
    )

    def add(m: Array, sums: Any) -> Any:
        micro = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, m, axis=1, keepdims=False), split
        )
        return jax.tree.map(jnp.add, sums, gradient(params, *micro))

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    sums = jax.lax.fori_loop(0, count, add, zero)
    return jax.tree.map(lambda x: x / count, sums)
