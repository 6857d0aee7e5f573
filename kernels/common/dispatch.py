"""Builds an op from what its room supplies. The one place that knows how JAX composes.

    Op -> custom_vjp -> [Kernel -> jit -> custom_vmap -> custom_partitioning -> choice -> ffi_call]

A room supplies, per kernel: a target name, a sharding rule, the shapes of the outputs and a
reference in plain jnp. From the rule alone follow the folding of vmapped dimensions, the
partitioning over devices and the psum of outputs that are summed over the batch. See
``kernels/README.md``, "How to add an op".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import check, native, pallas

Arrays = tuple[Any, ...]  # of jax.Array or None
BATCH = "b"


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One native target and its meaning.

    Attributes:
      target: name of the FFI target, of the XLA module part and of the scope in a profile.
      rule: ``"b t c, b e -> b t c, b g s"``: the axes of every operand and output, those that may
        be None included. ``b``, always the first axis, is the batch: it may be sharded and vmapped
        dimensions are folded into it. An operand without ``b`` is shared by the batch; an output
        without it is a sum over the batch. Every other axis is kept whole on each device.
      outputs: ``outputs(*operands, **static)`` -> a jax.ShapeDtypeStruct, or None, for each output.
      reference: ``reference(*operands, **static)`` -> the outputs in plain jnp, None where absent.
        Closes over no array: JAX refuses captured constants here.
      attributes: ``attributes(**static)`` -> the handler's attributes; by default the static
        arguments themselves, without those that are None. int becomes int64, float float32.
      cuda_scratch: ``cuda_scratch(*operands, **static)`` -> floats of scratch on CUDA, which its
        handler takes as one more result. A result, since XLA may record the launches of a handler
        and replay them: memory that the handler asked for would be somebody else's by then.
      pallas: ``pallas(*operands, interpret=, **static)`` -> the outputs by a Pallas kernel for TPU.
        None: the reference, there too.
      pallas_yields: ``pallas_yields(*operands, **static)`` -> why the reference is faster than the
        Pallas kernel at these shapes, or "". Heeded by "auto" alone.
      xla_on_tpu: the reference's outputs in a form that XLA compiles better for a TPU, to rounding.
        What runs there where the Pallas kernel yields.
    """

    target: str
    rule: str
    outputs: Callable[..., Sequence[Any]]
    reference: Callable[..., Sequence[Any]]
    attributes: Callable[..., dict[str, Any]] | None = None
    cuda_scratch: Callable[..., int] | None = None
    pallas: Callable[..., Sequence[Any]] | None = None
    pallas_yields: Callable[..., str] | None = None
    xla_on_tpu: Callable[..., Sequence[Any]] | None = None

    def operand_axes(self) -> list[list[str]]:
        return [part.split() for part in self.rule.split("->")[0].split(",")]

    def output_axes(self) -> list[list[str]]:
        return [part.split() for part in self.rule.split("->")[1].split(",")]


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """A differentiable op made of kernels. Call it with the operands (None for those left out).

    Attributes:
      name: the public function's name.
      forward: the kernel that computes the outputs.
      backward: ``backward(run, operands, outputs, cotangents, **static)`` -> a cotangent (or None)
        for each operand, where ``run(kernel, *operands, **static)`` runs a kernel by the same
        implementation. None: the derivative of the reference, computed anew.
      keep: indices of the outputs that backward reads; the others are None there.
      declines: ``declines(shape, dtype)`` of the first operand -> why the native kernel does not
        take it, or "".
      plan: ``plan(shape, dtype, platform, **details)`` -> how the native kernel computes it, for
        ``explain``.
      pallas_yields: ``pallas_yields(shape, dtype, **details)`` -> the same as the forward
        kernel's, for ``explain``.
    """

    name: str
    forward: Kernel
    backward: Callable[..., Sequence[Any]] | None = None
    keep: tuple[int, ...] = ()
    declines: Callable[[tuple[int, ...], str], str] | None = None
    plan: Callable[..., str] | None = None
    pallas_yields: Callable[..., str] | None = None

    def __call__(self, *operands: Any, implementation: str = "auto", **static: Any) -> Arrays:
        first = operands[0]
        choice = self.choose(implementation, tuple(first.shape), jnp.dtype(first.dtype).name)
        with jax.named_scope(f"n2m.{self.name}"):
            if choice == "reference":
                return tuple(self.forward.reference(*operands, **static))
            return _differentiable(self, choice, _freeze(static))(*operands)

    def choose(self, implementation: str, shape: tuple[int, ...], dtype: str) -> str:
        """Settles on "reference", or on what was asked for where such a kernel can run."""
        wanted = check.implementation(self.name, implementation)
        if wanted in ("reference", "pallas"):
            return wanted
        reason = native.why_missing(say=wanted == "auto")
        if not reason and not native.platforms_of(self.forward.target):
            reason = "the native library has no handler for it"
        if not reason and self.declines is not None:
            reason = self.declines(shape, dtype)
        if not reason:
            return wanted
        if wanted == "native":
            raise check.fail(self.name, "implementation", "auto or reference", "'native'", reason)
        has_native = bool(native.platforms_of(self.forward.target))
        if self.forward.pallas is not None and not has_native and not native.switched_off():
            return wanted  # for a TPU; elsewhere the reference
        return "reference"


def _freeze(static: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(static.items()))


@functools.lru_cache(maxsize=1024)
def _differentiable(
    op: Op, choice: str, static: tuple[tuple[str, Any], ...]
) -> Callable[..., Arrays]:
    """custom_vjp over the op's kernels."""
    options = dict(static)

    def run(kernel: Kernel, *operands: Any, **static: Any) -> Arrays:
        return run_kernel(kernel, choice, operands, static)

    @jax.custom_vjp
    def call(*operands: Any) -> Arrays:
        return run(op.forward, *operands, **options)

    def forward(*operands: Any) -> tuple[Arrays, tuple[Arrays, Arrays]]:
        outputs = run(op.forward, *operands, **options)
        kept = tuple(o if i in op.keep else None for i, o in enumerate(outputs))
        return outputs, (operands, kept)

    def backward(saved: tuple[Arrays, Arrays], cotangents: Arrays) -> Arrays:
        operands, outputs = saved
        with jax.named_scope(f"n2m.{op.name}.bwd"):
            if op.backward is None:
                return _reference_vjp(op.forward, operands, cotangents, options)
            return tuple(op.backward(run, operands, outputs, cotangents, **options))

    call.defvjp(forward, backward)
    return call


def _reference_vjp(
    kernel: Kernel, operands: Arrays, cotangents: Arrays, static: dict[str, Any]
) -> Arrays:
    """Cotangents of the floating-point operands by differentiating the reference."""
    moving = [
        i for i, x in enumerate(operands) if x is not None and jnp.issubdtype(x.dtype, jnp.inexact)
    ]

    def of_moving(*values: Any) -> Arrays:
        full = list(operands)
        for i, value in zip(moving, values, strict=True):
            full[i] = value
        return tuple(kernel.reference(*full, **static))

    _, pull = jax.vjp(of_moving, *(operands[i] for i in moving))
    grads = dict(zip(moving, pull(cotangents), strict=True))
    return tuple(
        grads.get(i, None if x is None else np.zeros(x.shape, jax.dtypes.float0))
        for i, x in enumerate(operands)
    )


def run_kernel(kernel: Kernel, choice: str, operands: Arrays, static: dict[str, Any]) -> Arrays:
    """Runs one kernel by "auto", "native" or "pallas". Absent operands and outputs are None."""
    present = tuple(x is not None for x in operands)
    mask = tuple(o is not None for o in kernel.outputs(*operands, **static))
    results = iter(
        _transformable(kernel, choice, present, mask, _freeze(static))(
            *(x for x in operands if x is not None)
        )
    )
    return tuple(next(results) if there else None for there in mask)


@functools.lru_cache(maxsize=4096)
def _transformable(
    kernel: Kernel,
    choice: str,
    present: tuple[bool, ...],
    mask: tuple[bool, ...],
    static: tuple[tuple[str, Any], ...],
) -> Callable[..., Arrays]:
    """jit over custom_vmap over custom_partitioning, on the operands that are present."""
    in_axes = [a for a, there in zip(kernel.operand_axes(), present, strict=True) if there]
    out_axes = [a for a, there in zip(kernel.output_axes(), mask, strict=True) if there]
    body = functools.partial(_choice, kernel, choice, present, mask, dict(static))
    partitioned = _partitioned(body, in_axes, out_axes)

    @custom_vmap
    def call(*arrays: Any) -> Arrays:
        return partitioned(*arrays)

    @call.def_vmap
    def rule(axis_size: int, in_batched: Sequence[bool], *arrays: Any) -> tuple[Arrays, Any]:
        everything = tuple(True for _ in out_axes)
        foldable = all(BATCH in a for a in out_axes) and not any(
            batched and BATCH not in axes for batched, axes in zip(in_batched, in_axes, strict=True)
        )
        if not foldable:
            return _one_by_one(named, in_batched, arrays), everything
        size = 0
        folded = []
        for x, batched, axes in zip(arrays, in_batched, in_axes, strict=True):
            if BATCH in axes:
                if not batched:
                    x = jnp.broadcast_to(x, (axis_size, *x.shape))
                size = x.shape[1]
                x = x.reshape(axis_size * size, *x.shape[2:])
            folded.append(x)
        outputs = named(*folded)
        return tuple(y.reshape(axis_size, size, *y.shape[1:]) for y in outputs), everything

    def scoped(*arrays: Any) -> Arrays:
        with jax.named_scope(kernel.target):
            return call(*arrays)

    scoped.__name__ = kernel.target
    named: Callable[..., Arrays] = jax.jit(scoped)
    return named


def _one_by_one(call: Callable[..., Arrays], in_batched: Sequence[bool], arrays: Arrays) -> Arrays:
    """vmap where operands shared by the batch differ, or outputs are sums over it."""

    def one(batched: Arrays) -> Arrays:
        rest = iter(batched)
        return call(*(next(rest) if b else x for x, b in zip(arrays, in_batched, strict=True)))

    stacked = tuple(x for x, b in zip(arrays, in_batched, strict=True) if b)
    return tuple(jax.lax.map(one, stacked))


def _partitioned(
    body: Callable[..., Arrays], in_axes: list[list[str]], out_axes: list[list[str]]
) -> Callable[..., Arrays]:
    """custom_partitioning by the rule: the batch may be sharded, every other axis is kept whole."""
    call = custom_partitioning(body)

    def axes_of(shapes: Sequence[Any], rules: list[list[str]]) -> tuple[Any, Any, int]:
        """(mesh, mesh axes of the batch, batch size) of the first operand or output that says."""
        for shape, axes in zip(shapes, rules, strict=True):
            sharding = shape.sharding
            if BATCH in axes and isinstance(sharding, NamedSharding) and sharding.spec:
                if sharding.spec[0] is not None:
                    return sharding.mesh, sharding.spec[0], shape.shape[0]
        return None, None, 0

    def partition(mesh: Mesh, arg_shapes: Sequence[Any], result_shapes: Sequence[Any]) -> Any:
        found, names, size = axes_of(arg_shapes, in_axes)
        if found is None:
            found, names, size = axes_of(result_shapes, out_axes)
        if found is not None:
            mesh = found
            parts = 1
            for name in (names,) if isinstance(names, str) else names:
                parts *= mesh.shape[name]
            if size % parts:  # padding would enter the sums over the batch
                names = None
        elif mesh.empty:
            mesh = Mesh(np.array(jax.devices()), ("n2m",))

        def shard(axes: list[str]) -> NamedSharding:
            spec = [names if axis == BATCH else None for axis in axes]
            return NamedSharding(mesh, PartitionSpec(*spec))

        def lowered(*arrays: Any) -> Arrays:
            outputs = body(*arrays)
            if names is None:
                return outputs
            return tuple(
                y if BATCH in axes else jax.lax.psum(y, names)
                for y, axes in zip(outputs, out_axes, strict=True)
            )

        result = tuple(shard(axes) for axes in out_axes)
        return mesh, lowered, result, tuple(shard(axes) for axes in in_axes)

    def names_only(axes: list[list[str]]) -> str:
        return ", ".join(" ".join(a) for a in axes)

    # In order of first appearance: Shardy numbers them so and wants the list sorted.
    whole = dict.fromkeys(a for axes in in_axes + out_axes for a in axes if a != BATCH)
    call.def_partition(
        partition,
        sharding_rule=f"{names_only(in_axes)} -> {names_only(out_axes)}",
        need_replication_factors=tuple(whole),
    )
    return call


def _choice(
    kernel: Kernel,
    choice: str,
    present: tuple[bool, ...],
    mask: tuple[bool, ...],
    static: dict[str, Any],
    *arrays: Any,
) -> Arrays:
    """The native call or the Pallas kernel where the platform has one, else the reference; decided
    when lowered."""

    def whole(arrays: Arrays) -> Arrays:
        rest = iter(arrays)
        return tuple(next(rest) if there else None for there in present)

    def by_reference(*arrays: Any, run: Any = kernel.reference) -> Arrays:
        outputs = run(*whole(arrays), **static)
        return tuple(y for y in outputs if y is not None)

    def by_native(platform: str, *arrays: Any) -> Arrays:
        operands = whole(arrays)
        shapes = tuple(kernel.outputs(*operands, **static))
        if platform == "cuda" and kernel.cuda_scratch is not None:
            floats = kernel.cuda_scratch(*operands, **static)
            shapes += (jax.ShapeDtypeStruct((floats,), jnp.float32),)
        while shapes[-1] is None:  # see OptionalRet in the handlers, and csrc/xla/ffi_adapter.h
            shapes = shapes[:-1]
        absent = jax.ShapeDtypeStruct((0,), jnp.float32)
        attributes = (
            {k: v for k, v in static.items() if v is not None}
            if kernel.attributes is None
            else kernel.attributes(**static)
        )
        call = jax.ffi.ffi_call(kernel.target, tuple(absent if s is None else s for s in shapes))
        outputs = call(
            *(jnp.zeros((0,), jnp.float32) if x is None else x for x in operands),
            **{k: _attribute(v) for k, v in attributes.items()},
        )
        return tuple(y for y, there in zip(outputs, mask, strict=False) if there)

    def by_pallas(*arrays: Any) -> Arrays:
        assert kernel.pallas is not None
        shapes = tuple(s for s in kernel.outputs(*whole(arrays), **static) if s is not None)
        run = _pallas_run(kernel, present, _freeze(static))
        return pallas.bind(run, arrays, shapes)

    runs_pallas = kernel.pallas is not None and all(x.size for x in arrays)
    if choice == "pallas":
        return (by_pallas if runs_pallas else by_reference)(*arrays)
    branches: dict[str, Callable[..., Arrays]] = {
        platform: functools.partial(by_native, platform)
        for platform in native.platforms_of(kernel.target)
    }
    if choice == "auto" and runs_pallas:
        yields = kernel.pallas_yields
        if yields is None or not yields(*whole(arrays), **static):
            branches["tpu"] = by_pallas
        elif kernel.xla_on_tpu is not None:
            branches["tpu"] = functools.partial(by_reference, run=kernel.xla_on_tpu)
    default = by_reference if choice == "auto" else None
    result: Arrays = jax.lax.platform_dependent(*arrays, default=default, **branches)
    return result


@functools.lru_cache(maxsize=4096)
def _pallas_run(
    kernel: Kernel, present: tuple[bool, ...], static: tuple[tuple[str, Any], ...]
) -> Callable[..., Arrays]:
    """The kernel's Pallas function on the operands that are present; one object for equal calls."""

    def run(*arrays: Any, interpret: bool) -> Arrays:
        assert kernel.pallas is not None
        rest = iter(arrays)
        operands = tuple(next(rest) if there else None for there in present)
        outputs = kernel.pallas(*operands, interpret=interpret, **dict(static))
        return tuple(y for y in outputs if y is not None)

    return run


def _attribute(value: Any) -> Any:
    """FFI attributes carry a dtype and a handler takes exactly one: fix it here for all ops."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float32(value)
    return value


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which implementation runs, and why the others were passed over; str() is a small table.

    ``plan``: how the native kernel computes it, where there is more than one way.
    """

    op: str
    shape: tuple[int, ...]
    dtype: str
    platform: str
    runs: str
    passed_over: dict[str, str]
    plan: str = ""

    def __str__(self) -> str:
        lines = [f"n2m.{self.op} {self.shape} {self.dtype} on {self.platform}: {self.runs}"]
        lines += [f"  {line}" for line in self.plan.splitlines()]
        lines += [f"  not {name}: {why}" for name, why in self.passed_over.items()]
        return "\n".join(lines)


def explain(
    op: Op, shape: Sequence[int], dtype: Any, platform: str, details: dict[str, Any]
) -> Explanation:
    """What "auto" picks for a first operand of this shape and dtype on a platform."""
    shape, dtype = tuple(shape), jnp.dtype(dtype).name
    why = {}
    reason = native.why_missing()
    if not reason and platform not in native.platforms_of(op.forward.target):
        reason = f"there is no native kernel for {platform} yet"
    if not reason and op.declines is not None:
        reason = op.declines(shape, dtype)
    no_pallas = _no_pallas(op, shape, dtype, platform, details)
    runs = "pallas" if not no_pallas else "reference" if reason else "native"
    if no_pallas:
        why["pallas"] = no_pallas
    if reason:
        why["native"] = reason
    if runs != "reference":
        why["reference"] = "comes last"
    plan = op.plan(shape, dtype, platform, **details) if op.plan is not None and not reason else ""
    return Explanation(op.name, shape, dtype, platform, runs, why, plan)


def _no_pallas(
    op: Op, shape: tuple[int, ...], dtype: str, platform: str, details: dict[str, Any]
) -> str:
    """Why "auto" runs no Pallas kernel, or ""."""
    if op.forward.pallas is None:
        return "not written yet"
    if platform != "tpu":
        return "the Pallas kernels are for TPU"
    if native.switched_off():
        return native.why_missing()
    if 0 in shape:
        return "there is nothing to compute"
    return "" if op.pallas_yields is None else op.pallas_yields(shape, dtype, **details)
