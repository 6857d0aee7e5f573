"""`python -m noise2music.bench.child SPEC`: one network, timed or weighed in a process of its own.

SPEC and the answer on standard output are JSON. A process of its own, because the peak memory of a
process is that of all it ever did, and because a step that does not fit takes nobody along.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from noise2music import config, pages
from noise2music.bench import device, timing
from noise2music.stage import Sampler, Stage, Text, weights_as
from noise2music.text.t5 import TINY, T5Encoder
from noise2music.unet1d import abstract_unet

SAMPLER_STEPS = 4
_IMPLEMENTATION = {"ours": "auto", "xla": "reference"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """task "time" runs both contenders in turn; "memory" runs the one named once."""

    kind: str  # unet, train, gradient or sampler
    preset: str
    dtype: str
    clip_seconds: float
    task: str = "time"
    contender: str = "ours"
    seconds: float = 2.0
    least: int = 3
    batch: int = 1  # clips at once
    platform: str | None = None


def filled(abstract: Any) -> Any:
    """Arrays for a tree of shapes: normal numbers over the root of the fan-in, repeated."""
    block = np.random.default_rng(0).standard_normal(65_521).astype(np.float32)

    def fill(leaf: Any) -> Any:
        values = np.resize(block, leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return jnp.asarray(values.astype(np.float32))

    return jax.tree.map(fill, abstract)


def graph_of(stage: config.StageConfig, contender: str, dtype: str) -> tuple[Any, Any]:
    unet = abstract_unet(stage.unet)
    unet.implementation = _IMPLEMENTATION[contender]
    unet.dtype = jnp.dtype(dtype).type
    return nnx.split(unet)


def length_of(stage: config.StageConfig, clip_seconds: float) -> int:
    return stage.legal_length(max(1, round(clip_seconds * stage.rate)))


def conditions(stage: config.StageConfig, length: int, batch: int) -> dict[str, Any]:
    """Random x, low or aligned, and tokens: what a training batch of the stage has."""
    unet, rng = stage.unet, np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32)

    found = {"x": normal(batch, length, unet.in_channels)}
    if stage.condition == "stacked":
        up, down = stage.up
        found["low"] = normal(batch, -(-length // up) * down, 1)
    if unet.aligned_channels:
        found["aligned"] = normal(batch, length // unet.compression, unet.aligned_channels)
    if unet.has_text:
        tokens = rng.integers(1, TINY.vocab_size, (batch, stage.token_length or 16))
        found["tokens"] = jnp.asarray(tokens, jnp.int32)
        found["mask"] = jnp.ones(tokens.shape, bool)
    return found


def _wait(program: Any, *args: Any) -> list[Any]:
    """The program's first output, computed."""
    return jax.tree.leaves(jax.block_until_ready(program(*args)))[:1]


Calls = dict[str, Callable[[], list[Any]]]


def unet_calls(spec: Spec, stage: config.StageConfig, names: list[str]) -> tuple[Calls, float]:
    """One evaluation of the network, its weights as a sampler has them; every call answers its
    output."""
    length = length_of(stage, spec.clip_seconds)
    clips, batch = spec.batch, conditions(stage, length, spec.batch)
    inputs = {"aligned": batch["aligned"]} if "aligned" in batch else {}
    if stage.unet.stacked_channels:
        inputs["stacked"] = 0.1 * jnp.ones((clips, length, stage.unet.stacked_channels))
    if "tokens" in batch:
        inputs["text"] = jnp.ones((clips, batch["mask"].shape[1], stage.unet.text_dim))
        inputs |= {"mask": batch["mask"], "keep": jnp.ones((clips,))}
    state = weights_as(spec.dtype, filled(graph_of(stage, "xla", spec.dtype)[1]))
    t = jnp.full((clips,), 0.5)
    calls: Calls = {}
    flops = 0.0
    for name in names:
        graph = graph_of(stage, name, spec.dtype)[0]
        run = jax.jit(lambda state, x, t, inputs, g=graph: nnx.merge(g, state)(x, t, **inputs))
        calls[name] = functools.partial(_wait, run, state, batch["x"], t, inputs)
        if name == "xla":
            flops = _flops(run, state, batch["x"], t, inputs)
    return calls, flops


def _trained(spec: Spec, stage: config.StageConfig) -> tuple[Any, Any, Any]:
    """(batch, the text encoder's graph by name, parameters) of a training step."""
    batch = conditions(stage, length_of(stage, spec.clip_seconds), spec.batch)
    params = {"unet": filled(graph_of(stage, "xla", spec.dtype)[1])}
    graphs: dict[str, Any] = {}
    if "tokens" in batch:
        text = T5Encoder(dataclasses.replace(TINY, d_model=stage.unet.text_dim), rngs=nnx.Rngs(0))
        graphs["text"], params["text"] = nnx.split(text)
    return batch, graphs, params


def training_calls(spec: Spec, stage: config.StageConfig, names: list[str]) -> tuple[Calls, float]:
    """A whole training step with Adam and the average of the weights. The learning rate is 0, so
    that every call starts from the same weights."""
    # Here, not above: the package reads audio and records, and a step of the sampler needs neither.
    from noise2music.train.options import TrainOptions
    from noise2music.train.step import TrainState, make_step

    batch, graphs, params = _trained(spec, stage)
    tx = optax.adam(0.0)
    holder = [TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), tx.init(params))]
    del params  # the step takes over its state
    calls: Calls = {}
    flops = 0.0
    for name in names:
        both = {**graphs, "unet": graph_of(stage, name, spec.dtype)[0]}
        step = make_step(both, stage, TrainOptions("", ""), tx)

        def call(step: Any = step) -> list[Any]:
            state, metrics = jax.block_until_ready(step(holder.pop(), batch))
            holder.append(state._replace(step=jnp.int32(0)))
            return [metrics["loss"], metrics["grad_norm"]]

        calls[name] = call
        if name == "xla":
            flops = _flops(step, holder[0], batch)
    return calls, flops


def gradient_calls(spec: Spec, stage: config.StageConfig, names: list[str]) -> tuple[Calls, float]:
    """The loss of a training step and its gradients, without the optimiser."""
    from noise2music.train.step import diffusion_loss

    batch, graphs, params = _trained(spec, stage)
    calls: Calls = {}
    flops = 0.0
    for name in names:
        both = {**graphs, "unet": graph_of(stage, name, spec.dtype)[0]}

        def loss(params: Any, batch: Any, both: Any = both) -> Any:
            unet = nnx.merge(both["unet"], params["unet"])
            text = nnx.merge(both["text"], params["text"]) if "text" in both else None
            return diffusion_loss(unet, text, batch, jax.random.key(0), stage, 0.1)

        program = jax.jit(lambda p, b, f=loss: jax.value_and_grad(f)(p, b))
        calls[name] = functools.partial(_wait, program, params, batch)
        if name == "xla":
            flops = _flops(program, params, batch)
    return calls, flops


def sampler_calls(spec: Spec, stage: config.StageConfig, names: list[str]) -> tuple[Calls, float]:
    """A few steps of the whole sampler: guidance, the network, the step with its noise."""
    length = length_of(stage, spec.clip_seconds)
    count, batch = spec.batch, conditions(stage, length, spec.batch)
    condition = batch.get("aligned", batch.get("low"))
    text = None
    if "tokens" in batch:
        embedding = jnp.ones((count, batch["mask"].shape[1], stage.unet.text_dim))
        text = Text(embedding, batch["mask"], jnp.ones((count,)), jnp.zeros((count,)))
    state = filled(graph_of(stage, "xla", spec.dtype)[1])
    calls: Calls = {}
    for name in names:
        runner = Stage(stage, state, implementation=_IMPLEMENTATION[name])

        def call(runner: Stage = runner) -> list[Any]:
            options = Sampler(steps=SAMPLER_STEPS)
            clips = np.arange(count)
            return [
                runner.sample(
                    length, clips, seed=0, options=options, text=text, condition=condition
                )
            ]

        calls[name] = call
    return calls, 0.0


def _flops(program: Any, *args: Any) -> float:
    analysis = program.lower(*args).cost_analysis() or {}
    return float(analysis.get("flops", 0.0))


def _bytes_of(key: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def weigh(call: Callable[[], Any]) -> dict[str, float]:
    """Bytes of the process at its fullest in one call, and beyond what it held before the call.

    Both are the least of three calls: what the allocator happens to keep comes on top.
    """
    call()  # compiles
    before, peak = [], []
    for _ in range(3):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before.append(_bytes_of("VmRSS"))
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
        call()
        peak.append(_bytes_of("VmHWM"))
    return {"peak": min(peak), "beyond": min(peak) - min(before)}


def run(spec: Spec) -> dict[str, Any]:
    """seconds: samples a contender; error: between the two; flops of plain XLA's program."""
    stage = config.load_preset(spec.preset)
    if spec.task == "memory":
        return weigh(_CALLS[spec.kind](spec, stage, [spec.contender])[0][spec.contender])
    device.use(spec.platform)
    pages.keep()
    calls, flops = _CALLS[spec.kind](spec, stage, ["ours", "xla"])
    ours, right = (calls[name]() for name in ("ours", "xla"))
    error = max(_difference(a, b) for a, b in zip(ours, right, strict=True))
    samples = timing.interleave(calls, seconds=spec.seconds, least=spec.least)
    scale = SAMPLER_STEPS if spec.kind == "sampler" else 1
    seconds = {name: [s / scale for s in times] for name, times in samples.items()}
    answer = {"seconds": seconds, "error": error, "flops": flops}
    if spec.kind == "sampler" and device.on_gpu():
        answer["idle"] = {name: device.idle_share(call) for name, call in calls.items()}
    return answer


_CALLS = {
    "unet": unet_calls,
    "train": training_calls,
    "gradient": gradient_calls,
    "sampler": sampler_calls,
}


def _difference(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def main() -> int:
    spec = Spec(**json.loads(sys.argv[1]))
    try:  # where memory runs out, the system should end this process and no other
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        pass
    print(json.dumps(run(spec)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
