"""A step on a mesh: the values of one device, and what is sent between devices."""

import dataclasses
import functools
import os
import re
import subprocess
import sys

import jax
import pytest
from nano import nano_config
from noise2music.train import sharding
from test_step import STACKED, TEXT, assert_close, run
from training import after, compiled, nano_batch, nano_training

ITEMS = 24
EIGHT = "data=2,fsdp=2,tensor=2"
ALL_GATHER = re.compile(r"= \(?([^=]*?)\)? all-gather(?:-start)?\(")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def gathered_shapes(hlo):
    """Shapes of what all-gathers of a compiled program give."""
    found = set()
    for line in hlo.splitlines():
        match = ALL_GATHER.search(line)
        if match:
            found |= {tuple(map(int, s.split(","))) for s in SHAPE.findall(match[1]) if s}
    # One of the blocks that run as a loop has an axis of 1 in front.
    return {shape[1:] if shape[0] == 1 else shape for shape in found}


def shapes_in_a_layer(params, mesh):
    """Shapes of the parameters on one device while a layer computes."""

    def shape(path, leaf):
        names = [str(k.key) for k in path if hasattr(k, "key")]
        axis = sharding._tensor_axis(names, leaf.shape, mesh)
        sizes = [n // mesh.shape["tensor"] if i == axis else n for i, n in enumerate(leaf.shape)]
        return tuple(sizes)

    return set(jax.tree.leaves(jax.tree_util.tree_map_with_path(shape, params), is_leaf=is_shape))


def is_shape(x):
    return isinstance(x, tuple)


def two_blocks(name):
    """A nano stage whose last depth runs as a loop under remat."""
    config = nano_config(name)
    blocks = (1,) * (config.unet.depth - 1) + (2,)
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, blocks=blocks))


@functools.cache
def on_one_device(name):
    config = two_blocks(name)
    return run(config, nano_batch(config, ITEMS))


@pytest.mark.parametrize(
    "name,spec",
    [
        (STACKED, "data=4"),
        (TEXT, "fsdp=4"),
        (TEXT, "data=2,tensor=2"),
        (STACKED, "data=2,fsdp=2"),
        (TEXT, EIGHT),
    ],
)
def test_a_step_on_a_mesh_is_the_step_of_one_device(name, spec):
    if spec == EIGHT and jax.device_count() < 8:
        pytest.skip("runs in test_the_same_on_eight_devices")
    config = two_blocks(name)
    mesh = sharding.make_mesh(spec)
    step, state = nano_training(config, mesh=mesh, remat=True)
    kept = sharding.state_shardings(state, mesh)
    state = jax.device_put(state, kept)
    batch = sharding.place_batch(nano_batch(config, ITEMS), mesh)
    program = compiled(step, state, batch)

    gathered = gathered_shapes(program.as_text())
    assert gathered <= shapes_in_a_layer(state.params, mesh)
    split = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1
    assert bool(gathered) == split, "parameters are gathered where they are split, and only there"
    after_it = jax.tree.leaves(program.output_shardings[0])
    for leaf, a, b in zip(jax.tree.leaves(state), after_it, jax.tree.leaves(kept), strict=True):
        assert a.is_equivalent_to(b, leaf.ndim)
    assert_close(after(program, state, batch), on_one_device(name))


@pytest.mark.slow
def test_the_same_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    test = f"{__file__}::test_a_step_on_a_mesh_is_the_step_of_one_device[{TEXT}-{EIGHT}]"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test],
        env=os.environ | flags, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.parametrize(
    "spec,match",
    [
        ("data=3", r"must divide the 4 devices, got 'data=3' .*'data=4,fsdp=1,tensor=1'"),
        ("data=1,fsdp=2,tensor=4", r"\(8 devices\); the nearest is 'data=1,fsdp=1,tensor=4'"),
        ("data=4,fdsp=2", r"axes data, fsdp, tensor, got 'fdsp' \(did you mean 'fsdp'\?\)"),
        ("data=0", "one positive size"),
        ("data", "one positive size"),
        ("data=2,data=2", "one positive size"),
    ],
)
def test_a_bad_mesh_is_refused_with_the_nearest_good_one(spec, match):
    with pytest.raises(ValueError, match="n2m.train: .*" + match):
        sharding.make_mesh(spec)


def test_an_axis_left_out_has_size_one_and_no_spec_is_all_data():
    assert dict(sharding.make_mesh("fsdp=2").shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    assert dict(sharding.make_mesh("").shape) == {"data": 4, "fsdp": 1, "tensor": 1}


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    mesh = sharding.make_mesh("data=2,fsdp=2")
    assert sharding.check_batch(24, mesh, accumulate=3) == 2
    match = r"multiple of 12 \(accumulate 3 x data 2 x fsdp 2\), got 25; the nearest is 24"
    with pytest.raises(ValueError, match=match):
        sharding.check_batch(25, mesh, accumulate=3)
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        sharding.check_batch(24, mesh, accumulate=0)
    config = nano_config(TEXT)
    step, state = nano_training(config, mesh=mesh)
    with pytest.raises(ValueError, match="batch_size must be a multiple of 4"):
        step.lower(state, nano_batch(config, 6))


def test_heads_that_tensor_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="divide the 2 attention heads .*got 4; .* 1, 2"):
        nano_training(nano_config(TEXT), mesh=sharding.make_mesh("tensor=4"))
