"""The pieces of a run put together: text encoder, network, optimiser, first state."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from noise2music import weights
from noise2music.config import StageConfig
from noise2music.data.prepare.records import whole
from noise2music.data.prepare.text_cache import is_embedded
from noise2music.text.released import load_text_encoder
from noise2music.text.t5 import TINY, T5Config, T5Encoder
from noise2music.text.tokenizer import Tokenizer, train_tokenizer
from noise2music.train.loader import BatchIterator, open_batches, open_clips, texts_of
from noise2music.train.options import TrainOptions
from noise2music.train.sharding import check_batch, make_mesh, state_shardings
from noise2music.train.step import TrainState, make_step
from noise2music.unet1d import UNet1D, abstract_unet


@dataclasses.dataclass(frozen=True)
class Text:
    """What a stage reads prompts with. `frozen`: it is given and does not learn."""

    tokenizer: Tokenizer
    encoder: T5Encoder
    config: T5Config
    frozen: bool


@dataclasses.dataclass(frozen=True)
class Model:
    """What trains: modules without their arrays, the optimiser, the devices.

    `shapes` is the TrainState with shapes, dtypes and shardings; `first()` makes it.
    """

    graphs: dict[str, Any]
    tx: optax.GradientTransformation
    mesh: Mesh | None
    shapes: TrainState
    first: Callable[[], TrainState]


def optimiser(options: TrainOptions) -> optax.GradientTransformation:
    """Adam (0.9, 0.999), linear warm-up, cosine to zero at lr_end_step."""
    warmup = min(options.warmup, max(1, options.lr_end_step - 1))
    rate = optax.warmup_cosine_decay_schedule(0.0, options.peak_lr, warmup, options.lr_end_step)
    adam = optax.adam(rate, b1=0.9, b2=0.999)
    return (
        adam
        if options.clip_norm is None
        else optax.chain(optax.clip_by_global_norm(options.clip_norm), adam)
    )


def build(config: StageConfig, options: TrainOptions, text: Text | None) -> Model:
    """The network with its first weights (those of `init`, where given) and its optimiser."""
    unet = abstract_unet(config.unet)
    unet.implementation = options.implementation
    graphs: dict[str, Any] = {}
    graphs["unet"], abstract = nnx.split(unet)
    given: dict[str, Any] = {}
    if text is not None:
        graphs["text"], given["text"] = nnx.split(text.encoder)
        given["text"] = jax.device_get(given["text"])  # to be laid over all devices
    if options.init:
        path = Path(options.init) / f"{config.name}.safetensors"
        given["unet"] = jax.device_get(weights.load_state(path, abstract))
    tx = optimiser(options)
    if text is not None and text.frozen:
        tx = _without_text(tx)

    def first(given: dict[str, Any]) -> TrainState:
        params = dict(given)
        if "unet" not in params:
            params["unet"] = nnx.split(UNet1D(config.unet, rngs=nnx.Rngs(options.seed)))[1]
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, average, tx.init(params))

    mesh = mesh_of(options)
    shapes = jax.eval_shape(first, given)
    if mesh is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: device, shapes)
    else:
        shardings = state_shardings(shapes, mesh)
    shapes = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings
    )
    once = {"xla_backend_optimization_level": 0}  # it runs a single time
    make = jax.jit(first, out_shardings=shardings, compiler_options=once)
    return Model(graphs, tx, mesh, shapes, lambda: make(given))


def mesh_of(options: TrainOptions) -> Mesh | None:
    """The devices of a run; None for a single one."""
    mesh = make_mesh(options.mesh)
    check_batch(options.batch_size, mesh, options.accumulate)
    return None if mesh.size == 1 else mesh


def plain_step(model: Model, config: StageConfig, options: TrainOptions) -> Any:
    """The step as plain XLA runs it, in one part: for counting its operations."""
    unet = abstract_unet(config.unet)
    unet.implementation = "reference"
    graphs = {**model.graphs, "unet": nnx.split(unet)[0]}
    options = dataclasses.replace(options, accumulate=1, remat=False, mesh="")
    return make_step(graphs, config, options, model.tx, mesh=None)


def text_of(config: StageConfig, options: TrainOptions, run: Path) -> Text | None:
    """The text encoder of a stage that has text: given and frozen, or trained with it.

    None where the stage has no text, or where the corpus was prepared with its texts embedded.
    """
    given = options.text_encoder or options.text_init
    if not config.unet.has_text or (given is None and is_embedded(options.corpus)):
        return None
    if given:
        tokenizer, encoder = load_text_encoder(Path(given))
        return Text(tokenizer, encoder, encoder.config, options.text_encoder is not None)
    path = run / "tokenizer.json"
    if not path.exists():
        save_tokenizer(train_tokenizer(list(texts_of(options.corpus)), TINY.vocab_size), path)
    tokenizer = Tokenizer.from_file(path)
    return Text(tokenizer, T5Encoder(TINY, rngs=nnx.Rngs(options.seed + 1)), TINY, False)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes the whole file or none: a run that is killed here starts again."""
    with whole(path, f".{os.getpid()}") as part:
        tokenizer.save(part)


def training_batches(
    options: TrainOptions, config: StageConfig, text: Text | None
) -> BatchIterator:
    """This process's share of the batches of the training split."""
    tokenizer = None if text is None else text.tokenizer
    size, index, count = _share(options.batch_size)
    return open_batches(options.corpus, config, tokenizer, size, options.seed, index, count)


def validation_batches(
    options: TrainOptions, config: StageConfig, text: Text | None
) -> list[dict[str, Any]]:
    """This process's share of four fixed batches that are not trained on."""
    batches = held_out(options, config, text, *_share(options.batch_size))
    return [next(batches) for _ in range(4)]


def held_out(
    options: TrainOptions,
    config: StageConfig,
    text: Text | None,
    size: int,
    index: int = 0,
    count: int = 1,
) -> BatchIterator:
    """Batches of the validation split; of the training split where there is no other."""
    tokenizer = None if text is None else text.tokenizer

    def of(split: str) -> BatchIterator:
        return open_batches(
            options.corpus, config, tokenizer, size, options.seed, index, count,
            split=split, threads=0,
        )  # fmt: skip

    try:
        open_clips(options.corpus, "validation")
    except ValueError:
        return of("train")
    return of("validation")


def _share(batch_size: int) -> tuple[int, int, int]:
    """(clips a process, which process, of how many)."""
    count = jax.process_count()
    if batch_size % count:
        raise ValueError(
            f"n2m.train: batch_size must be a multiple of the {count} processes, got {batch_size}"
        )
    return batch_size // count, jax.process_index(), count


def _without_text(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    def labels(params: Any) -> Any:
        return {name: jax.tree.map(lambda _, n=name: n, tree) for name, tree in params.items()}

    return optax.multi_transform({"unet": tx, "text": optax.set_to_zero()}, labels)
