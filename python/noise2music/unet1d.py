r"""The 1D U-Net of Figures 1 and 5.

    entry conv (kernel 3) -> for l = 1..D: strided conv (S_l, C_{l-1} -> C_l), n_l blocks
    -> (+ aligned input, by a fully connected layer)
    -> for l = D..1: n_l blocks, up-sampling conv (C_l -> C_{l-1}),
    + the mirrored down-sampling output -> exit conv (kernel 3)

A block is CombineEmb(time) -> [GroupNorm + swish -> Conv1D -> GroupNorm + swish -> Conv1D] + FC
residual -> self attention (if on) -> cross attention (if on); attention is pre-normed, residual,
and followed by its residual feed-forward layer of hidden size 2 C_l. Up-sampling is a stride-1
convolution to S C channels and a reshape (depth to time).
"""

from __future__ import annotations

import math
import typing
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from noise2music.attention import attention, dense, ring_attention
from noise2music.config import UNetConfig
from noise2music.kernels import combine_film, conv1d_block

TIME_FREQUENCIES = 128  # sinusoids of the positional embedding of t, cosine and sine each
CLOCK_FREQUENCIES = 64  # sinusoids of the clock
BEAT_HANDS = (0.125, 1 / 6, 0.25, 1 / 3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # bars, beats, their parts
CLOCK_FEATURES = 2 * (CLOCK_FREQUENCIES + len(BEAT_HANDS))


class Kernels(typing.TypedDict):
    """Options of the kernels."""

    implementation: str
    time_axis: str | None


class How(typing.NamedTuple):
    """What all layers of a call share. dense: who makes the products of attention (`dense`)."""

    kernels: Kernels
    dense: str


def time_positions(t: Array) -> Array:
    """Positional embedding of t in [0, 1]: cosines and sines of 1000 t f, f from 1 to 1e-4.

    (B,) -> (B, 2 * TIME_FREQUENCIES).
    """
    frequencies = jnp.exp(jnp.linspace(0.0, -math.log(10_000.0), TIME_FREQUENCIES))
    angle = 1000.0 * t[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def clock(length: int, rate: float, beat: Array, first: int | Array = 0) -> Array:
    """What the clock shows in the middle of frames first, first + 1, ..., tau = (i + 1/2) / rate s.

    [cos 2 pi f tau, sin 2 pi f tau] for 64 frequencies f from 1/32 to 4 Hz, nine to an octave; and
    the same for the multiples h of `beat` in BEAT_HANDS, zero where beat is 0. beat (B,) beats a
    second -> (B, length, CLOCK_FEATURES).
    """
    tau = (first + jnp.arange(length) + 0.5) / rate
    seconds = jnp.exp2(jnp.linspace(-5.0, 2.0, CLOCK_FREQUENCIES))
    beats = beat[:, None] * jnp.asarray(BEAT_HANDS, jnp.float32)
    angle = 2.0 * math.pi * tau[:, None] * seconds
    shown = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    shown = jnp.broadcast_to(shown, (*beat.shape, *shown.shape))
    angle = 2.0 * math.pi * tau[None, :, None] * beats[:, None, :]
    stated = (beat > 0).astype(jnp.float32)[:, None, None]
    return jnp.concatenate([shown, stated * jnp.cos(angle), stated * jnp.sin(angle)], axis=-1)


def _fan_in(rngs: nnx.Rngs, shape: tuple[int, ...], gain: float = 1.0) -> nnx.Param:
    """Normal of variance gain^2 / fan_in; fan_in is the product of all axes but the last."""
    std = gain / math.sqrt(math.prod(shape[:-1]))
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


def _zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, jnp.float32))


def _ones(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, jnp.float32))


class Conv(nnx.Module):
    """conv1d(x) + bias, SAME padding. weight (K, C, D)."""

    def __init__(
        self,
        kernel: int,
        c_in: int,
        c_out: int,
        *,
        stride: int = 1,
        gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.weight = _fan_in(rngs, (kernel, c_in, c_out), gain)
        self.bias = _zeros(c_out)
        self.stride = stride

    def __call__(self, x: Array, how: How) -> Array:
        return conv1d_block(x, self.weight[...], self.bias[...], stride=self.stride, **how.kernels)


class Film(nnx.Module):
    """x (1 + scale) + shift with [scale, shift] = emb @ kernel + bias, zero at first."""

    def __init__(self, base_dim: int, channels: int):
        self.kernel, self.bias = _zeros(base_dim, 2 * channels), _zeros(2 * channels)

    def __call__(self, x: Array, emb: Array, how: How) -> Array:
        return combine_film(x, emb, self.kernel[...], self.bias[...], **how.kernels)


class Attention(nnx.Module):
    """Multi-head attention of x (B, T, C) over `memory` (B, L, M), then feed-forward of size 2 C.

    x += keep * softmax(q k^T / sqrt(d)) v W_o;  x += swish(layer_norm(x) W_1) W_2.
    `keep` (B,) is 0 where the text is dropped: there the paper sets the output to zero.
    """

    def __init__(self, channels: int, memory: int, heads: int, gain: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm_scale, self.norm_offset = _ones(channels), _zeros(channels)
        self.query = _fan_in(rngs, (channels, channels))
        self.key = _fan_in(rngs, (memory, channels))
        self.value = _fan_in(rngs, (memory, channels))
        self.out = _fan_in(rngs, (channels, channels), gain)
        self.ff_scale, self.ff_offset = _ones(channels), _zeros(channels)
        self.ff_in, self.ff_in_bias = _fan_in(rngs, (channels, 2 * channels)), _zeros(2 * channels)
        self.ff_out, self.ff_out_bias = (
            _fan_in(rngs, (2 * channels, channels), 0.1),
            _zeros(channels),
        )

    def __call__(
        self, x: Array, memory: Array | None, mask: Array | None, keep: Array | None, how: How
    ) -> Array:
        def product(x: Array, w: nnx.Param, bias: nnx.Param | None = None) -> Array:
            return dense(x, w[...], None if bias is None else bias[...], how.dense)

        h = _layer_norm(x, self.norm_scale[...], self.norm_offset[...])
        m = h if memory is None else memory.astype(x.dtype)
        q, k, v = (
            product(a, w).reshape(*a.shape[:2], self.heads, -1)
            for a, w in ((h, self.query), (m, self.key), (m, self.value))
        )
        time_axis = how.kernels["time_axis"]
        if memory is None and time_axis is not None:
            h = ring_attention(q, k, v, time_axis)
        else:
            h = attention(q, k, v, mask)
        h = product(h.reshape(x.shape), self.out)
        if keep is not None:
            h = h * keep[:, None, None].astype(x.dtype)
        x = x + h
        h = _layer_norm(x, self.ff_scale[...], self.ff_offset[...])
        h = jax.nn.swish(product(h, self.ff_in, self.ff_in_bias))
        return x + product(h, self.ff_out, self.ff_out_bias)


def _layer_norm(x: Array, scale: Array, offset: Array, eps: float = 1e-5) -> Array:
    f = x.astype(jnp.float32)
    f = f - f.mean(-1, keepdims=True)
    f = f * jax.lax.rsqrt(jnp.square(f).mean(-1, keepdims=True) + eps)
    return (f * scale + offset).astype(x.dtype)


class Block(nnx.Module):
    """Figure 5 at C channels: combine_film, two fused conv1d_blocks, the optional attention."""

    def __init__(
        self,
        config: UNetConfig,
        channels: int,
        self_attention: bool,
        cross_attention: bool,
        *,
        rngs: nnx.Rngs,
    ):
        c, k = channels, config.kernel_size
        self.groups = config.norm_groups
        # An untrained block is the identity: FiLM by (1 + 0), conv2 = 0, fc = 1.
        self.film, self.film_bias = _zeros(config.base_dim, 2 * c), _zeros(2 * c)
        self.norm1_scale, self.norm1_offset = _ones(c), _zeros(c)
        self.conv1, self.conv1_bias = _fan_in(rngs, (k, c, c), math.sqrt(2.0)), _zeros(c)
        self.norm2_scale, self.norm2_offset = _ones(c), _zeros(c)
        self.conv2, self.conv2_bias = _zeros(k, c, c), _zeros(c)
        self.fc = nnx.Param(jnp.eye(c, dtype=jnp.float32))
        self.clock = None if config.clock_rate is None else _fan_in(rngs, (CLOCK_FEATURES, c), 0.5)
        self.self_attention = (
            Attention(c, c, config.heads, 0.1, rngs=rngs) if self_attention else None
        )
        # Text enters loud: a whisper in a stream of noise is not learned to be heard.
        self.cross_attention = (
            Attention(c, config.text_dim, config.heads, 1.0, rngs=rngs) if cross_attention else None
        )

    def __call__(
        self,
        x: Array,
        emb: Array,
        text: Array | None,
        mask: Array | None,
        keep: Array | None,
        shown: Array | None,
        how: How,
    ) -> Array:
        if self.clock is not None and shown is not None:
            x = x + shown.astype(x.dtype) @ self.clock[...].astype(x.dtype)
        y, sums = combine_film(
            x, emb, self.film[...], self.film_bias[...], groups=self.groups, **how.kernels
        )
        h, sums = conv1d_block(
            y, self.conv1[...], self.conv1_bias[...],
            scale=self.norm1_scale[...], offset=self.norm1_offset[...],
            groups=self.groups, sums=sums,
            out_groups=self.groups, **how.kernels,
        )  # fmt: skip
        x = conv1d_block(
            h, self.conv2[...], self.conv2_bias[...],
            scale=self.norm2_scale[...], offset=self.norm2_offset[...],
            groups=self.groups, sums=sums,
            residual=y, fc=self.fc[...], **how.kernels,
        )  # fmt: skip
        if self.self_attention is not None:
            x = self.self_attention(x, None, None, None, how)
        if self.cross_attention is not None and text is not None:
            x = self.cross_attention(x, text, mask, keep, how)
        return x


class UNet1D(nnx.Module):
    """eps_theta(x_t, c, t) (or the velocity; the network does not know which).

    __call__(x, t, *, stacked=None, aligned=None, text=None, mask=None, keep=None)
        -> (B, T, in_channels), float32
        x        (B, T, in_channels) noisy sample x_t; T a multiple of config.compression
        t        (B,) diffusion time in [0, 1]
        stacked  (B, T, stacked_channels) up-sampled low-fidelity audio
        aligned  (B, T / compression, aligned_channels) compressed aligned input
        text     (B, L, text_dim) token embeddings; mask (B, L) True at real tokens;
                 keep (B,) 0 drops the text
        beat     (B,) beats a second that the text states, 0 where none (read by the clock)

    dtype: of the activations. remat: at every depth keep what enters its blocks and compute their
    inside anew in the backward pass. placement: keeps weights and activations on a mesh
    (train/sharding.py). time_axis: the axis of the shard_map around the call that splits time: x,
    stacked and aligned are one device's rows (docs/design/sequence_sharding.md).
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        rngs: nnx.Rngs,
        implementation: str = "auto",
        remat: bool = False,
        dtype: jnp.dtype | type = jnp.float32,
    ):
        self.config = config
        self.implementation = implementation
        self.remat = remat
        self.dtype = dtype
        self.placement: Any = None
        self.time_axis: str | None = None
        base, k = config.base_dim, config.kernel_size
        self.time_fc = _fan_in(rngs, (2 * TIME_FREQUENCIES, base))
        self.time_bias = _zeros(base)
        self.text_fc = (
            _fan_in(rngs, (config.text_dim, base), 0.5)
            if config.text_film and config.has_text
            else None
        )
        self.entry = Conv(3, config.in_channels + config.stacked_channels, base, rngs=rngs)
        widths = (base, *config.channels)
        self.down: Any = nnx.List()
        self.down_blocks: Any = nnx.List()
        self.up_blocks: Any = nnx.List()
        self.up: Any = nnx.List()
        for level, stride in enumerate(config.strides):
            c_prev, c = widths[level], widths[level + 1]
            self.down.append(Conv(k, c_prev, c, stride=stride, rngs=rngs))
            self.up.append(Conv(k, c, stride * c_prev, rngs=rngs))
            for blocks in (self.down_blocks, self.up_blocks):
                blocks.append(
                    nnx.List(
                        Block(
                            config,
                            c,
                            config.self_attention[level],
                            config.cross_attention[level],
                            rngs=rngs,
                        )
                        for _ in range(config.blocks[level])
                    )
                )
        # Identity at first: FiLM by (1 + 0).
        self.skip_film: Any = nnx.List()
        for c in widths[:-1] if config.skip_film else ():
            self.skip_film.append(Film(base, c))
        if config.aligned_channels:
            self.aligned_fc = _fan_in(rngs, (config.aligned_channels, widths[-1]))
            self.aligned_bias = _zeros(widths[-1])
        # Zero: an untrained network predicts nothing instead of something wrong.
        self.exit = Conv(3, base, config.in_channels, gain=0.0, rngs=rngs)

    def __call__(
        self,
        x: Array,
        t: Array,
        *,
        stacked: Array | None = None,
        aligned: Array | None = None,
        text: Array | None = None,
        mask: Array | None = None,
        keep: Array | None = None,
        beat: Array | None = None,
    ) -> Array:
        config = self.config
        _check_inputs(config, x, stacked, aligned, text)
        emb = time_positions(t) @ self._whole(self.time_fc) + self.time_bias[...]
        if self.text_fc is not None and text is not None:
            emb = emb + _mean_of_text(text, mask, keep) @ self._whole(self.text_fc)
        emb = jax.nn.swish(emb)
        h = x if stacked is None else jnp.concatenate([x, stacked.astype(x.dtype)], axis=-1)
        h = self._call(self.entry, h.astype(self.dtype))
        skips = []
        beat = beat if beat is not None else jnp.zeros(x.shape[0])
        shown = _clocks(config, x.shape[1], beat, self.time_axis)
        for level, (down, blocks) in enumerate(zip(self.down, self.down_blocks, strict=True)):
            skips.append(h)
            h = self._depth(blocks, self._call(down, h), emb, text, mask, keep, shown[level])
        if aligned is not None:
            bottom = aligned @ self._whole(self.aligned_fc) + self.aligned_bias[...]
            h = h + bottom.astype(h.dtype)
        for level in reversed(range(config.depth)):
            h = self._depth(self.up_blocks[level], h, emb, text, mask, keep, shown[level])
            h = self._call(self.up[level], h)  # (B, T_l, S C_{l-1}), depth to time:
            h = h.reshape(h.shape[0], -1, h.shape[-1] // config.strides[level])
            skip = skips[level]
            h = h + (self._call(self.skip_film[level], skip, emb) if config.skip_film else skip)
        return self._call(self.exit, h).astype(jnp.float32)

    def _depth(self, blocks: Any, h: Array, *arrays: Array | None) -> Array:
        """The blocks of a depth one after the other; under remat as one loop, a single program for
        all of them, that keeps what enters each."""
        if not self.remat or len(blocks) == 1:
            for block in blocks:
                h = self._call(block, h, *arrays)
            return h
        graphs, states = zip(*(nnx.split(block) for block in blocks), strict=True)

        def one(h: Array, state: Any) -> tuple[Array, None]:
            return self._run(graphs[0], state, h, *arrays), None

        return jax.lax.scan(one, h, jax.tree.map(lambda *each: jnp.stack(each), *states))[0]

    def _call(self, layer: Any, *arrays: Array | None) -> Array:
        """layer(*arrays) by `_run` where remat or a placement ask for it."""
        if self.placement is None and not self.remat:
            return layer(*arrays, self._how)
        return self._run(*nnx.split(layer), *arrays)

    def _run(self, graph: Any, state: Any, *arrays: Array | None) -> Array:
        """A layer: under remat its inside is computed anew in the backward pass; on a mesh its
        weights are gathered while it runs (and, under remat, no longer)."""

        def run(state: Any, *arrays: Array | None) -> Array:
            if self.placement is not None:
                state = self.placement.weights(state)
            return nnx.merge(graph, state)(*arrays, self._how)

        h = (jax.checkpoint(run) if self.remat else run)(state, *arrays)
        return h if self.placement is None else self.placement.activation(h)

    @property
    def _how(self) -> How:
        kernels: Kernels = {"implementation": self.implementation, "time_axis": self.time_axis}
        # On a mesh XLA splits attention's weights by columns and rows; a kernel keeps them whole.
        return How(kernels, self.implementation if self.placement is None else "reference")

    def _whole(self, weight: nnx.Param) -> Array:
        return weight[...] if self.placement is None else self.placement.weights(weight[...])


def _clocks(
    config: UNetConfig, length: int, beat: Array, time_axis: str | None
) -> list[Array | None]:
    """What the clock shows at every level, None without a clock."""
    if config.clock_rate is None:
        return [None] * config.depth
    piece = 0 if time_axis is None else jax.lax.axis_index(time_axis)
    units = [math.prod(config.strides[: level + 1]) for level in range(config.depth)]
    return [
        clock(length // unit, config.clock_rate / unit, beat, piece * (length // unit))
        for unit in units
    ]


def _check_inputs(
    config: UNetConfig,
    x: Array,
    stacked: Array | None,
    aligned: Array | None,
    text: Array | None,
) -> None:
    """Shapes at the door, so that a mistake is named here and not by a kernel ten layers down."""
    batch, length, channels = x.shape
    want = {
        "x": (x, (batch, length, config.in_channels)),
        "stacked": (stacked, (batch, length, config.stacked_channels)),
        "aligned": (aligned, (batch, length // config.compression, config.aligned_channels)),
    }
    if length % config.compression:
        raise ValueError(
            f"n2m.unet1d: the length of x must be a multiple of {config.compression} "
            f"(the product of the strides), got {length}; pad it up"
        )
    for name, (array, shape) in want.items():
        if array is None:
            if shape[-1] and name != "x":
                raise ValueError(
                    f"n2m.unet1d: {name} must be given: {shape[-1]} channels are expected"
                )
        elif array.shape != shape:
            raise ValueError(f"n2m.unet1d: {name} must be of shape {shape}, got {array.shape}")
    if text is not None and (not config.has_text or text.shape[-1] != config.text_dim):
        expected = (
            f"(B, L, {config.text_dim})" if config.has_text else "absent (no cross attention)"
        )
        raise ValueError(f"n2m.unet1d: text must be {expected}, got shape {text.shape}")


def _mean_of_text(text: Array, mask: Array | None, keep: Array | None) -> Array:
    """(B, text_dim): the mean over the real tokens; zero without any, or where text is dropped."""
    weight = jnp.ones(text.shape[:2]) if mask is None else mask.astype(jnp.float32)
    mean = jnp.einsum("bld,bl->bd", text.astype(jnp.float32), weight)
    mean = mean / jnp.maximum(weight.sum(1, keepdims=True), 1.0)
    return mean if keep is None else mean * keep[:, None]


class _OneKey:
    """Stands in for nnx.Rngs where only shapes count: keys counted under a trace take seconds."""

    def params(self) -> Array:
        return jax.random.key(0)


def abstract_unet(config: UNetConfig) -> UNet1D:
    """The network as shapes: for counting, restoring and compiling ahead of time."""
    return nnx.eval_shape(lambda: UNet1D(config, rngs=typing.cast(nnx.Rngs, _OneKey())))


def count_parameters(config: UNetConfig) -> int:
    """Parameters of the U-Net, without allocating any."""
    leaves = jax.tree.leaves(nnx.state(abstract_unet(config), nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)
