"""The T5 encoder: token ids to one vector a token, the only thing the cascade hears of a prompt.

T5's own choices, kept so that published weights fit: RMSNorm without mean, no biases, no scaling of
the attention scores, one table of relative-position biases shared by every layer, the residual
stream normalised once at the end. Sources: Raffel et al. 2020 (arXiv:1910.10683), section 2.1;
Shazeer 2020 (arXiv:2002.05202) for the gated GELU of v1.1 and Flan.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

FEED_FORWARDS = ("relu", "gated-gelu")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 encoder; field names are those of the published `config.json` files.

    vocab_size: rows of the embedding; d_model: width of the residual stream; d_kv: width of one
    head; num_heads; d_ff: width of the feed-forward layer; num_layers.
    relative_attention_num_buckets (even) buckets of relative distance, the last one taking
    everything from relative_attention_max_distance on. layer_norm_epsilon is added to the mean
    square. feed_forward is "relu" (v1.0) or "gated-gelu" (v1.1, Flan). There is no dropout: the
    encoder is frozen in the paper, and small enough to be regularised by dropped text where we
    train it.

    Errors: ValueError for a size that is not a positive integer, an odd or too small bucket count,
    a maximum distance within the exact buckets, or an unknown feed_forward.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    num_heads: int
    d_ff: int
    num_layers: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward: str = "gated-gelu"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "d_model",
            "d_kv",
            "num_heads",
            "d_ff",
            "num_layers",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"n2m.T5Config: {name} must be a positive integer, got {value!r}")
        buckets = self.relative_attention_num_buckets
        if not isinstance(buckets, int) or buckets < 4 or buckets % 2:
            raise ValueError(
                "n2m.T5Config: relative_attention_num_buckets must be an even integer >= 4, "
                f"got {buckets!r}"
            )
        distance = self.relative_attention_max_distance
        if not isinstance(distance, int) or distance <= buckets // 4:
            raise ValueError(
                "n2m.T5Config: relative_attention_max_distance must be an integer above a quarter "
                f"of the buckets ({buckets // 4}), got {distance!r}"
            )
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
            raise ValueError(f"n2m.T5Config: layer_norm_epsilon must be in (0, 1), got {epsilon!r}")
        if self.feed_forward not in FEED_FORWARDS:
            raise ValueError(
                f"n2m.T5Config: feed_forward must be one of {FEED_FORWARDS}, "
                f"got {self.feed_forward!r}"
            )


TINY = T5Config(vocab_size=1024, d_model=128, d_kv=32, num_heads=4, d_ff=256, num_layers=3)
"""The text encoder of the shipped tiny models, trained on captions and then frozen."""


def relative_position_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each (query, key) pair: int32 (length, length), values in [0, num_buckets).

    With h = num_buckets / 2, e = h / 2 and r = key - query:
        bucket = h [r > 0] + |r|                                          if |r| < e
        bucket = h [r > 0] + min(h - 1, e + floor((h - e) log(|r|/e) / log(max_distance/e)))  else

    Computed once when the program is traced. The logarithm is taken in float32 as the released
    models did: in float64 a distance that falls on a boundary could land one bucket away from where
    it was in training.
    """
    half = num_buckets // 2
    exact = half // 2
    position = np.arange(length, dtype=np.int32)
    relative = position[None, :] - position[:, None]
    distance = np.abs(relative)
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    scaled = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + np.maximum(scaled, 0).astype(np.int32), half - 1)
    bucket = np.where(relative > 0, half, 0) + np.where(distance < exact, distance, far)
    return bucket.astype(np.int32)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], stddev: float, dtype: Any) -> nnx.Param:
    return nnx.Param((stddev * jax.random.normal(rngs.params(), shape, jnp.float32)).astype(dtype))


def _einsum(subscripts: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """Contraction with operands in `dtype`, summed and returned in float32.

    float32 asks for full precision: accelerators would otherwise round the operands, and a prompt
    is embedded once.
    """
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return jnp.einsum(
        subscripts,
        a.astype(dtype),
        b.astype(dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """y = scale * x / sqrt(mean(x^2) + epsilon) over the last axis, in float32."""
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return scale.astype(jnp.float32) * (x * jax.lax.rsqrt(mean_square + epsilon))


class T5Block(nnx.Module):
    """x = x + attention(norm(x)), then x = x + feed_forward(norm(x)); x float32 (B, L, d_model).

    Attention scores are q k^T + bias with no 1/sqrt(d_kv): T5 puts that factor in the initial
    weights of q. Kernels are stored (in, out); the heads are folded into the projections' outer
    axis, head-major.
    """

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any):
        d, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
        self.config = config
        self.dtype = dtype
        self.attention_norm = nnx.Param(jnp.ones((d,), param_dtype))
        self.q = _normal(rngs, (d, inner), (d * config.d_kv) ** -0.5, param_dtype)
        self.k = _normal(rngs, (d, inner), d**-0.5, param_dtype)
        self.v = _normal(rngs, (d, inner), d**-0.5, param_dtype)
        self.o = _normal(rngs, (inner, d), inner**-0.5, param_dtype)
        self.feed_forward_norm = nnx.Param(jnp.ones((d,), param_dtype))
        self.wi = _normal(rngs, (d, ff), d**-0.5, param_dtype)
        if config.feed_forward == "gated-gelu":
            self.wi_linear = _normal(rngs, (d, ff), d**-0.5, param_dtype)
        self.wo = _normal(rngs, (ff, d), ff**-0.5, param_dtype)

    def __call__(self, x: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self._attend(_rms_norm(x, self.attention_norm[...], self._epsilon), bias, mask)
        return x + self._feed(_rms_norm(x, self.feed_forward_norm[...], self._epsilon))

    @property
    def _epsilon(self) -> float:
        return self.config.layer_norm_epsilon

    def _attend(self, x: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
        split = (*x.shape[:2], self.config.num_heads, self.config.d_kv)
        joint = (*x.shape[:2], self.config.num_heads * self.config.d_kv)
        q, k, v = (
            _einsum("bld,di->bli", x, kernel[...], self.dtype).reshape(split)
            for kernel in (self.q, self.k, self.v)
        )
        scores = _einsum("bqhc,bkhc->bhqk", q, k, self.dtype) + bias
        # A finite floor, not -inf: a row without a single live key (a dropped prompt) stays finite,
        # and everywhere else exp underflows to an exact zero, so what stands at a masked position
        # cannot leak.
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = _einsum("bhqk,bkhc->bqhc", weights, v, self.dtype)
        return _einsum("bli,id->bld", mixed.reshape(joint), self.o[...], self.dtype)

    def _feed(self, x: jax.Array) -> jax.Array:
        hidden = _einsum("bld,df->blf", x, self.wi[...], self.dtype)
        if self.config.feed_forward == "gated-gelu":
            gate = jax.nn.gelu(hidden, approximate=True)
            hidden = gate * _einsum("bld,df->blf", x, self.wi_linear[...], self.dtype)
        else:
            hidden = jax.nn.relu(hidden)
        return _einsum("blf,fd->bld", hidden, self.wo[...], self.dtype)


class T5Encoder(nnx.Module):
    """Embedding, `num_layers` blocks, final RMSNorm.

    T5Encoder(config, *, rngs, dtype=float32, param_dtype=float32): weights are drawn as T5 draws
    them (normal; the embedding with deviation 1, q with (d_model d_kv)^-1/2, every other kernel
    with (fan in)^-1/2) and kept in `param_dtype`. Matrix products take operands in `dtype` and sum
    in float32; the residual stream, norms and softmax are float32 whatever `dtype` is.

    Errors: ValueError when dtype or param_dtype is neither float32 nor bfloat16.
    """

    def __init__(
        self,
        config: T5Config,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.config = config
        self.dtype = check_dtype("T5Encoder", "dtype", dtype)
        param_dtype = check_dtype("T5Encoder", "param_dtype", param_dtype)
        d = config.d_model
        self.embedding = _normal(rngs, (config.vocab_size, d), 1.0, param_dtype)
        self.position_bias = _normal(
            rngs,
            (config.relative_attention_num_buckets, config.num_heads),
            d**-0.5,
            param_dtype,
        )
        self.blocks = nnx.List(
            [
                T5Block(config, rngs=rngs, dtype=self.dtype, param_dtype=param_dtype)
                for _ in range(config.num_layers)
            ]
        )
        self.final_norm = nnx.Param(jnp.ones((d,), param_dtype))

    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeds a batch of token ids.

        tokens: integer (B, L), each in [0, vocab_size); an id past the end gives NaN, which no
        later stage lets pass.
        mask: bool (B, L), True where there is a token. Positions that are False influence no other
        position, and their own output is exactly zero.
        Returns (B, L, d_model) in the encoder's `dtype`.

        Errors: ValueError for a shape, TypeError for a dtype other than these.
        """
        tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
        if tokens.ndim != 2:
            raise ValueError(f"n2m.T5Encoder: tokens must be (B, L), got shape {tokens.shape}")
        if mask.shape != tokens.shape:
            raise ValueError(
                f"n2m.T5Encoder: mask must have the shape of tokens {tokens.shape}, "
                f"got {mask.shape}"
            )
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"n2m.T5Encoder: tokens must be integers, got {tokens.dtype}")
        if mask.dtype != jnp.bool_:
            raise TypeError(
                f"n2m.T5Encoder: mask must be bool, got {mask.dtype}; write mask.astype(bool)"
            )
        config = self.config
        with jax.named_scope("n2m_t5_encoder"):
            live = mask[..., None]
            # Zeroed at the door: a weight of exactly zero would still pass on a masked NaN.
            x = jnp.take(self.embedding[...], tokens, axis=0, mode="fill").astype(jnp.float32)
            x = jnp.where(live, x, 0.0)
            buckets = relative_position_buckets(
                tokens.shape[1],
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
            )
            bias = self.position_bias[...].astype(jnp.float32)[buckets].transpose(2, 0, 1)[None]
            for block in self.blocks:
                x = block(x, bias, mask)
            x = _rms_norm(x, self.final_norm[...], config.layer_norm_epsilon)
            return jnp.where(live, x, 0.0).astype(self.dtype)


def check_dtype(op: str, argument: str, dtype: Any) -> Any:
    """`dtype` as a numpy dtype if T5 can be computed in it, else ValueError with the reason."""
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:
        resolved = None
    if resolved == jnp.float16:
        raise ValueError(
            f"n2m.{op}: {argument} must be float32 or bfloat16, got float16; T5's hidden "
            "activations exceed float16's largest number, 65504, and overflow. bfloat16 costs the "
            "same memory"
        )
    if resolved not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise ValueError(f"n2m.{op}: {argument} must be float32 or bfloat16, got {dtype!r}")
    return resolved
