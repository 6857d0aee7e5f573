"""One stage of the cascade, ready to sample: its network, sampler and checks of its output."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from noise2music import missing_band, sampling, weights
from noise2music.audio import limit_peak
from noise2music.config import STAGES, StageConfig, from_dict
from noise2music.diffusion import to_noise
from noise2music.errors import OutputError
from noise2music.excitation import shape
from noise2music.kernels import fft_upsample
from noise2music.mel import low_pass_in_time
from noise2music.mesh import CLIPS, PIECES, check_clips, check_length, place
from noise2music.schedules import denoising_times, table8
from noise2music.unet1d import UNet1D, abstract_unet

Progress = Callable[[str, int, int], None]
CHUNKS = 20  # progress reports (and chances to cancel) a stage
TEXT_INPUTS = ("text", "mask", "keep", "beat")
SILENCE = 1e-5  # root mean square below which a whole clip counts as silent


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How one stage is sampled in one call; what is None is the model's own."""

    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    gamma: float | None = None
    denoising: str | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """Embedded prompts of B clips, and of what they should keep away from.

    embedding (B, L, M), mask (B, L); keep (B,) is 0 for an empty prompt; beat (B,) the beats a
    second that it states, 0 where none. `negative` takes the place of the unconditional branch of
    guidance, where given.
    """

    embedding: Array
    mask: Array
    keep: Array
    beat: Array
    negative: Text | None = None


class Stage:
    """A trained stage. sample(...) draws x_0 of the target for B clips at once."""

    def __init__(
        self,
        config: StageConfig,
        state: Any,
        *,
        implementation: str = "auto",
        dtype: str = "auto",
        noise: str = "threefry",
    ):
        """dtype: of weights and activations; "auto" is bfloat16 on a GPU or TPU and float32
        elsewhere. The state x_t, statistics and sums are float32 with either. noise: as of
        `ancestral_step`."""
        self.config = config
        self.implementation = implementation
        self.dtype = dtype
        self.noise = noise
        unet = abstract_unet(config.unet)
        unet.implementation = implementation
        self._graph, _ = nnx.split(unet)
        self._state = state
        self._placed: dict[Any, Any] = {}
        self._run = jax.jit(self._run_steps, static_argnames=("guided", "dtype", "mesh"))
        if config.condition == "stacked":
            up, down = config.up
            raise_rate = partial(fft_upsample, up=up, down=down, implementation=implementation)
            self._up_sampled = jax.jit(raise_rate)

    @classmethod
    def load(cls, path: Any, *, implementation: str = "auto", dtype: str = "auto") -> Stage:
        """A stage from its safetensors file (weights and config)."""
        config = from_dict(StageConfig, weights.read_config(path))
        _, abstract = nnx.split(abstract_unet(config.unet))
        state = weights.load_state(path, abstract)
        return cls(config, state, implementation=implementation, dtype=dtype)

    @classmethod
    def untrained(cls, config: StageConfig, seed: int = 0) -> Stage:
        """Random weights: the baseline that a trained stage is measured against."""
        return cls(config, nnx.split(UNet1D(config.unet, rngs=nnx.Rngs(seed)))[1])

    def with_state(self, state: Any) -> Stage:
        """This stage with other weights of the same shapes; what was compiled is kept."""
        other = copy.copy(self)
        other._state, other._placed = state, {}
        return other

    @property
    def index(self) -> int:
        """Position in STAGES: the stage's part of the noise contract."""
        return STAGES.index(self.config.name)

    @property
    def state(self) -> Any:
        return self._state

    def coefficients(self, options: Sampler = Sampler()) -> sampling.Coefficients:
        config = self.config
        guidance = config.guidance if options.guidance is None else options.guidance
        segments = table8(config.name, options.denoising) if options.denoising else config.denoising
        return sampling.coefficients(
            denoising_times(segments, options.steps or config.steps),
            config.noise_schedule,
            sampler=options.sampler or config.sampler,
            gamma=config.gamma if options.gamma is None else options.gamma,
            guidance=1.0 if guidance is None else guidance,
            clip_percentile=config.clip_percentile,
            clip_floor=_largest_value(config),
        )

    def sample(
        self,
        length: int,
        clips: np.ndarray,
        *,
        seed: int,
        options: Sampler = Sampler(),
        text: Text | None = None,
        condition: Array | None = None,
        progress: Progress | None = None,
        mesh: Mesh | None = None,
    ) -> np.ndarray:
        """x_0 of `clips` (B,) global clip indices, float32 (B, length, C) in the target's scale.

        condition: (B, T', 1) audio at condition_rate (stacked) or (B, T'', 80) mel frames
        (aligned). mesh: data x time (noise2music/mesh.py); the clips are the same on any, to
        rounding. Raises OutputError, naming the step, where a step makes NaN or Inf, or where a
        clip is silent; UserError where the mesh does not divide the clips or the length.
        """
        config = self.config
        padded = config.legal_length(length)
        if mesh is not None:
            check_clips(mesh.shape["data"], len(clips))
            check_length(mesh, config, length)
        table = self.coefficients(options)
        rows = tuple(jnp.asarray(a) for a in (table.t, table.step, table.c_p))
        put = cut = jnp.asarray
        if mesh is not None:
            whole, pieces = place(mesh, CLIPS), place(mesh, PIECES)
            put, cut = (partial(jax.device_put, device=kept) for kept in (whole, pieces))
        guided = text is not None and float(table.step[0, 0]) != 1.0
        inputs, level = {}, None
        if condition is not None:
            shown = condition
            if config.missing_band:
                flat, level = missing_band.levelled(np.asarray(condition)[..., 0], config)
                shown = jnp.asarray(flat[..., None])
            # Each device up-samples a clip whole, once a stage, and keeps its piece.
            inputs = {k: cut(v) for k, v in self._condition(put(shown), padded).items()}
        if text is not None and config.unet.has_text:
            inputs |= {k: put(v) for k, v in _text_inputs(text, guided).items()}
        # Keys are drawn whole and then placed: every device folds in the same integers.
        keys = put(sampling.clip_keys(seed, jnp.asarray(clips, jnp.uint32), self.index))
        kept = None if mesh is None else pieces
        draw = jax.jit(sampling.initial_noise, static_argnums=(1, 2), out_shardings=kept)
        x = draw(keys, padded, config.unet.in_channels)
        x_0 = jnp.zeros_like(x)
        total = len(table.t)
        chunk = math.ceil(total / CHUNKS)
        state = self._state_on(mesh)
        dtype = self._dtype_on(mesh)
        for first in range(0, total, chunk):
            last = min(first + chunk, total)
            if progress is not None:
                progress(config.name, first, total)
            bounds = jnp.int32(first), jnp.int32(last)
            x, x_0, healthy = self._run(
                state, x, x_0, keys, rows, *bounds, inputs,
                guided=guided, dtype=dtype, mesh=mesh,
            )  # fmt: skip
            if not healthy:
                raise OutputError(
                    f"{config.name} made NaN or Inf at step {last} of {total}; "
                    "try more steps or less guidance",
                    stage=config.name,
                    step=last,
                )
        if progress is not None:
            progress(config.name, total, total)
        out = np.asarray(x)[:, :length]
        out = out / np.float32(config.data_scale)
        if config.target == "mel":
            out = np.clip(low_pass_in_time(out, config.smoothing), -1.0, 1.0)
        else:
            if config.excitation:
                out = shape(out[..., 0], np.asarray(condition))[..., None]
            if level is not None:
                up = np.asarray(self._up_sampled(condition))[:, :length, 0]
                r = out[..., 0].astype(np.float32, copy=False)
                out = missing_band.complete(r, up, level[:, :length], config)[..., None]
            if config.excitation or config.missing_band:
                # A loud condition gives samples beyond 1, where what follows would clip them.
                out = np.stack([limit_peak(clip) for clip in out])
            if np.sqrt(np.square(out).mean(axis=(1, 2))).min() < SILENCE:
                raise OutputError(f"{config.name} made silence", stage=config.name, step=total)
        return out

    def _condition(self, condition: Array, padded: int) -> dict[str, Array]:
        """The condition at the length of x_t: up-sampled and padded, or padded frames."""
        config = self.config
        if config.condition == "stacked":
            up = config.data_scale * self._up_sampled(condition)[:, :padded]
            return {"stacked": jnp.pad(up, ((0, 0), (0, padded - up.shape[1]), (0, 0)))}
        frames = padded // config.unet.compression
        pad = ((0, 0), (0, frames - condition.shape[1]), (0, 0))
        return {"aligned": jnp.pad(condition, pad, constant_values=-1.0)}

    def _state_on(self, mesh: Mesh | None) -> Any:
        if mesh is None:
            return self._state
        if mesh not in self._placed:
            self._placed[mesh] = jax.device_put(self._state, place(mesh, PartitionSpec()))
        return self._placed[mesh]

    def _dtype_on(self, mesh: Mesh | None) -> str:
        if self.dtype != "auto":
            return self.dtype
        device = jax.config.jax_default_device  # type: ignore[attr-defined]
        if mesh is not None:
            device = mesh.devices.flat[0]
        platform = getattr(device, "platform", device) or jax.default_backend()
        return "bfloat16" if platform in ("gpu", "cuda", "tpu") else "float32"

    def _run_steps(
        self,
        state: Any,
        x: Array,
        x_0: Array,
        keys: Array,
        rows: Any,
        first: Array,
        last: Array,
        inputs: dict[str, Array],
        *,
        guided: bool,
        dtype: str,
        mesh: Mesh | None,
    ) -> tuple[Array, Array, Array]:
        steps = partial(self._steps_of_pieces, guided=guided, dtype=dtype, mesh=mesh)
        if mesh is not None:
            everywhere = PartitionSpec()
            of_inputs = {k: CLIPS if k in TEXT_INPUTS else PIECES for k in inputs}
            steps = jax.shard_map(
                steps,
                mesh=mesh,
                in_specs=(everywhere, PIECES, PIECES, CLIPS, *(everywhere,) * 3, of_inputs),
                out_specs=(PIECES, PIECES),
                check_vma=False,
            )
        x, x_0 = steps(state, x, x_0, keys, rows, first, last, inputs)
        return x, x_0, jnp.isfinite(x).all()

    def _steps_of_pieces(
        self,
        state: Any,
        x: Array,
        x_0: Array,
        keys: Array,
        rows: Any,
        first: Array,
        last: Array,
        inputs: dict[str, Array],
        *,
        guided: bool,
        dtype: str,
        mesh: Mesh | None,
    ) -> tuple[Array, Array]:
        """What one device does: its clips, or its piece of them."""
        config = self.config
        time_axis = "time" if mesh is not None and mesh.shape["time"] > 1 else None
        unet = nnx.merge(self._graph, weights_as(dtype, state))
        unet.dtype = jnp.dtype(dtype).type
        unet.time_axis = time_axis

        def denoiser(x_t: Array, t: Array) -> tuple[Array, Array | None]:
            shared = {k: inputs[k] for k in ("stacked", "aligned") if k in inputs}
            if not guided:
                text = {k: inputs[k] for k in TEXT_INPUTS if k in inputs}
                output = unet(x_t, t, **shared, **text)
                return to_noise(output, x_t, t, config.noise_schedule, config.prediction), None
            # Both branches in one batch, interleaved so that a clip's two halves share a device.
            two = lambda a: jnp.repeat(a, 2, axis=0)  # noqa: E731
            text = {k: inputs[k] for k in TEXT_INPUTS}
            x2, t2 = two(x_t), two(t)
            output = unet(x2, t2, **{k: two(v) for k, v in shared.items()}, **text)
            eps = to_noise(output, x2, t2, config.noise_schedule, config.prediction)
            return eps[0::2], eps[1::2]

        return sampling.run_steps(
            denoiser, x, x_0, keys, rows, first, last,
            time_axis=time_axis, noise=self.noise, implementation=self.implementation,
        )  # fmt: skip


def weights_as(dtype: str, state: Any) -> Any:
    """The state with what is multiplied in this dtype. Biases and norms, one axis each, are added
    to float32 sums and stay as they are."""
    return jax.tree.map(lambda a: a.astype(dtype) if a.ndim > 1 else a, state)


def _largest_value(config: StageConfig) -> float:
    """What |x_0| may reach before dynamic clipping has a say (section 4.2)."""
    if config.excitation or config.missing_band:
        return 16.0  # deviations: the attack of a drum has 10 of the mean level around it
    return config.data_scale


def _text_inputs(text: Text, guided: bool) -> dict[str, Any]:
    """text, mask, keep for the network; with guidance [cond_0, uncond_0, cond_1, ...]."""
    if not guided:
        return {
            "text": text.embedding,
            "mask": text.mask,
            "keep": text.keep,
            "beat": text.beat,
        }
    nothing = jnp.zeros_like(text.keep)
    other = text.negative or Text(text.embedding, text.mask, nothing, nothing)

    def both(a: Array, b: Array) -> Array:
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    return {
        "text": both(text.embedding, other.embedding),
        "mask": both(text.mask, other.mask),
        "keep": both(text.keep, other.keep),
        "beat": both(text.beat, other.beat),
    }
