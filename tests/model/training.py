"""A training step of a nano stage, ready to run: what the tests of steps and meshes share."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from noise2music.train.step import TrainState, make_step
from noise2music.unet1d import abstract_unet

# Adam divides a gradient by its own size, which makes as much of rounding as of a gradient.
LINEAR = optax.sgd(1e-3, momentum=0.9)
FRAMES = 6  # of the smallest representation: no axis of a parameter is as long as one of x


def options(**changes):
    values = {"seed": 3, "text_dropout": 0.25, "ema_decay": 0.9, "implementation": "auto"}
    return SimpleNamespace(**values | changes)


def nano_batch(config, size, seed=0):
    """Smooth random targets, their conditions, and text that the encoder has embedded."""
    rng = np.random.default_rng(seed)
    unet = config.unet
    length = FRAMES * unet.compression

    def normal(*shape):
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)

    batch = {"x": normal(size, length, unet.in_channels)}
    if config.condition == "stacked":
        up, down = config.up
        batch["low"] = normal(size, -(-length // up) * down, 1)
    if unet.aligned_channels:
        batch["aligned"] = normal(size, FRAMES, unet.aligned_channels)
    if unet.has_text:
        batch["text"] = normal(size, 5, unet.text_dim)
        batch["mask"] = np.arange(5)[None] < rng.integers(1, 6, (size, 1))
        batch["beat"] = rng.uniform(1, 3, size).astype(np.float32)
    return batch


def nano_params(config, seed=0):
    """(graph, parameters) of a network with random weights that do not vanish."""
    graph, abstract = nnx.split(abstract_unet(config.unet))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        deviation = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return jnp.asarray(deviation * rng.standard_normal(leaf.shape), jnp.float32)

    return graph, {"unet": jax.tree.map(draw, abstract)}


def nano_training(config, *, optimiser=LINEAR, mesh=None, **changes):
    """(step, state) after five steps that nobody took."""
    graph, params = nano_params(config)
    step = make_step({"unet": graph}, config, options(**changes), optimiser, mesh=mesh)
    state = TrainState(jnp.int32(5), params, params, optimiser.init(params))
    return step, jax.tree.map(jnp.array, state)


def compiled(step, state, batch):
    """The step's program, made in a hurry."""
    quick = {"xla_backend_optimization_level": 0}
    return step.lower(state, batch).compile(compiler_options=quick)


def after(step, state, batch, steps=2):
    for _ in range(steps):
        state, metrics = step(state, batch)
    return jax.device_get((state, metrics))
