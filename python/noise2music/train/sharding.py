"""Where a training step keeps its arrays on a mesh `data x fsdp x tensor` (docs/design/scale.md).

    batch, activations   first axis over data x fsdp
    parameters, EMA, optimiser state
                         attention and feed-forward over tensor by heads and hidden units;
                         the largest other axis over fsdp (over fsdp x tensor where tensor does not
                         split the layer itself); vectors whole
    in a block           its parameters are gathered over fsdp while it runs

A mesh is written "data=4,fsdp=2,tensor=1"; an axis that is left out has size 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from noise2music.mesh import nearest_sizes, parse_sizes

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # axes that split the batch

# The axis of a weight of an attention layer that tensor splits: its outputs are whole heads or
# hidden units on the way in, its inputs on the way out.
_TENSOR_AXIS = {
    "query": 1,
    "key": 1,
    "value": 1,
    "ff_in": 1,
    "ff_in_bias": 0,
    "out": 0,
    "ff_out": 0,
}
_ATTENTION = ("self_attention", "cross_attention")


def make_mesh(spec: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp, tensor of the sizes in `spec`; "" puts all in data.

    devices: all there are by default. A mesh of fewer takes the first ones; over several processes
    it must take all. Raises ValueError for an unknown axis, a size that is no positive integer, and
    sizes whose product does not divide the devices; the message names the nearest that do.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    sizes = _parse(spec) if spec.strip() else {"data": count}
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    wanted = math.prod(shape)
    everything = len({d.process_index for d in devices}) > 1
    if count % wanted or (everything and wanted != count):
        must = "take all" if everything else "divide the"
        raise ValueError(
            f"n2m.train: the sizes of mesh must {must} {count} devices, got {spec!r} "
            f"({wanted} devices); the nearest is {_nearest(shape, count, everything)!r}"
        )
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * 3, devices=devices[:wanted])


def _parse(spec: str) -> dict[str, int]:
    return parse_sizes(
        spec, AXES, lambda why: ValueError(f"n2m.train: {why}"), "data=4,fsdp=2,tensor=1"
    )


def _nearest(shape: tuple[int, ...], count: int, everything: bool) -> str:
    """The legal sizes with the least change; data gives way first."""

    def legal() -> Any:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        for sizes in ((d, f, t) for d in divisors for f in divisors for t in divisors):
            product = math.prod(sizes)
            if (product == count) if everything else (count % product == 0):
                yield sizes

    return nearest_sizes(shape, AXES, legal())


def check_batch(batch_size: int, mesh: Mesh | None, accumulate: int = 1) -> int:
    """Items of a batch in one micro-batch on one device.

    Raises ValueError where the micro-batches, or the devices that share one, do not divide it.
    """
    if accumulate < 1:
        raise ValueError(f"n2m.train: accumulate must be at least 1, got {accumulate}")
    parts = {axis: mesh.shape[axis] for axis in BATCH} if mesh is not None else {}
    factor = accumulate * math.prod(parts.values())
    if batch_size < 1 or batch_size % factor:
        made_of = " x ".join(
            f"{name} {n}" for name, n in [("accumulate", accumulate), *parts.items()]
        )
        nearest = factor * max(1, round(batch_size / factor))
        raise ValueError(
            f"n2m.train: batch_size must be a multiple of {factor} ({made_of}), got {batch_size}; "
            f"the nearest is {nearest}"
        )
    return batch_size // factor


def check_heads(config: Any, mesh: Mesh | None) -> None:
    """Raises ValueError where tensor does not divide the heads of a network with attention."""
    unet = config.unet
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    if any((*unet.self_attention, *unet.cross_attention)) and unet.heads % tensor:
        legal = [n for n in range(1, unet.heads + 1) if unet.heads % n == 0]
        raise ValueError(
            f"n2m.train: the tensor axis of mesh must divide the {unet.heads} attention heads of "
            f"{config.name}, got {tensor}; sizes that do: {', '.join(map(str, legal))}"
        )


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a TrainState, or of any tree of parameters."""

    def kept(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _kept(_names(path), tuple(leaf.shape), mesh))

    return jax.tree_util.tree_map_with_path(kept, state)


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a batch: items over data x fsdp."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec(BATCH)), batch)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch on the mesh. Every process gives the items of its own devices, in their order."""
    return jax.tree.map(jax.make_array_from_process_local_data, batch_shardings(batch, mesh), batch)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Keeps the arrays of a network where the mesh wants them; `UNet1D.placement` is one."""

    mesh: Mesh

    def activation(self, tree: Any) -> Any:
        """Items over data x fsdp, all else whole."""
        sharding = NamedSharding(self.mesh, PartitionSpec(BATCH))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)

    def weights(self, tree: Any) -> Any:
        """Parameters as a layer computes with them: gathered over fsdp, heads over tensor."""

        def computed(path: Any, leaf: Any) -> Any:
            axis = _tensor_axis(_names(path), leaf.shape, self.mesh)
            spec = [None if i != axis else "tensor" for i in range(leaf.ndim)]
            sharding = NamedSharding(self.mesh, PartitionSpec(*spec))
            return jax.lax.with_sharding_constraint(leaf, sharding)

        return jax.tree_util.tree_map_with_path(computed, tree)

    def kept(self, tree: Any) -> Any:
        """Parameters, or what is shaped like them, as `state_shardings` keeps them."""
        return jax.lax.with_sharding_constraint(tree, state_shardings(tree, self.mesh))


def _names(path: Any) -> list[str]:
    """Names of the layers on the way to a parameter, its own last."""
    return [str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey)]


def _tensor_axis(names: list[str], shape: Sequence[int], mesh: Mesh) -> int | None:
    """The axis of a parameter that tensor splits, None where it does not."""
    size = mesh.shape["tensor"]
    if size == 1 or not any(name in _ATTENTION for name in names):
        return None
    axis = _TENSOR_AXIS.get(names[-1])
    return axis if axis is not None and shape[axis] % size == 0 else None


def _kept(names: list[str], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    spec: list[Any] = [None] * len(shape)
    split = _tensor_axis(names, shape, mesh)
    if split is not None:
        spec[split] = "tensor"
    rest = ("fsdp",) if split is not None else ("fsdp", "tensor")
    parts = math.prod(mesh.shape[axis] for axis in rest)
    free = [i for i, n in enumerate(shape) if spec[i] is None and n % parts == 0]
    if len(shape) > 1 and parts > 1 and free:
        spec[max(free, key=lambda i: shape[i])] = rest
    return PartitionSpec(*spec)
