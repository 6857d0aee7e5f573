"""Stages on a mesh data x time: the clips of one device, and what is sent between devices."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nano import drawn_stage, nano_config, nano_model
from noise2music import mesh as meshes
from noise2music.cascade import load
from noise2music.clip import Clip
from noise2music.config import STAGES
from noise2music.errors import UserError
from noise2music.stage import Sampler, Text

FOUR, EIGHT = ("data=4", "time=4", "data=2,time=2"), ("data=8", "time=8", "data=2,time=4")
UNITS = 8  # rows at the bottom of the U-Net
CLIPS = 8
# What rounding changes in three steps, in decibels below the clip: 1 / alpha_t = 347 in the first
# of a cosine schedule. With Toom-Cook (1e-5 instead of 3e-7 a convolution) as for any other batch.
ROUNDING = {"reference": -80, "auto": -60}
MATRIX = [(spec, "reference") for spec in FOUR + EIGHT] + [("time=8", "auto")]
COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-broadcast"
    r"|collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def collectives(hlo):
    """(kind, shape) of everything that a compiled program sends."""
    found = set()
    for shapes, kind in COLLECTIVE.findall(hlo):
        for shape in SHAPE.findall(re.sub(r"\{[^}]*\}", "", shapes)):
            found.add((kind, tuple(map(int, shape.split(","))) if shape else ()))
    return found


def text_of(config, clips):
    rng = np.random.default_rng(7)
    states = rng.standard_normal((clips, 6, config.unet.text_dim)).astype(np.float32)
    mask = np.arange(6) < rng.integers(1, 7, (clips, 1))
    beat = rng.uniform(1.0, 2.0, clips).astype(np.float32)
    return Text(*(jnp.asarray(a) for a in (states, mask, np.ones(clips, np.float32), beat)))


def condition_of(config, length, clips):
    rng = np.random.default_rng(8)
    if config.condition == "none":
        return None
    if config.condition == "aligned":
        shape = (clips, length // config.unet.compression, config.unet.aligned_channels)
        return jnp.asarray(rng.uniform(-1.0, 0.5, shape), jnp.float32)
    up, down = config.up
    return jnp.asarray(0.3 * rng.standard_normal((clips, length * down // up, 1)), jnp.float32)


def sampled(name, implementation, mesh, seen, clips=CLIPS):
    """Clips of three steps with noise, clipping and, where there is text, guidance."""
    config = nano_config(name)
    stage = drawn_stage(config, seed=3, implementation=implementation)
    stage._run = recording(stage._run, seen)
    length = UNITS * config.unet.compression
    if config.condition == "stacked":
        length -= length % config.up[0]  # the condition has whole samples
    return stage.sample(
        length, np.arange(clips), seed=1, mesh=mesh,
        options=Sampler(steps=3, guidance=2.0, sampler="ancestral", gamma=1.0),
        text=text_of(config, clips) if config.unet.has_text else None,
        condition=condition_of(config, length, clips),
    )  # fmt: skip


def recording(run, seen):
    """The function, compiled in a hurry, with what its programs send put into `seen`."""
    programs = {}

    def call(*args, mesh, **static):
        if mesh not in programs:
            quick = {"xla_backend_optimization_level": 0}
            lowered = run.lower(*args, mesh=mesh, **static)
            programs[mesh] = lowered.compile(compiler_options=quick)
            seen.update(collectives(programs[mesh].as_text()))
        return programs[mesh](*args)

    return call


@functools.cache
def on_one_device(name, implementation):
    return sampled(name, implementation, None, set())


def check(name, implementation, spec):
    mesh = meshes.make_mesh(spec, jax.devices())
    seen = set()
    got = sampled(name, implementation, mesh, seen)
    want = on_one_device(name, implementation)
    noise = np.sqrt(np.square(got - want).mean() / np.square(want).mean())
    assert 20 * np.log10(noise + 1e-30) < ROUNDING[implementation]
    check_what_is_sent(seen, nano_config(name).unet, mesh)


@pytest.mark.parametrize(
    "name",
    ["waveform_cascader", "spectrogram_generator", "spectrogram_vocoder"],  # all kinds of input
)
def test_a_stage_split_both_ways_is_the_stage_of_one_device(name):
    check(name, "auto", "data=2,time=2")


@pytest.mark.slow
@pytest.mark.parametrize("spec,implementation", MATRIX)
@pytest.mark.parametrize("name", STAGES)
def test_any_mesh(name, spec, implementation):
    if jax.device_count() < 8:
        pytest.skip("runs in test_any_mesh_of_eight_devices")
    check(name, implementation, spec)


def check_what_is_sent(seen, unet, mesh):
    """Rows for the neighbours, pieces of keys and values at the bottom, and sums."""
    time = mesh.shape["time"]
    clips = CLIPS // mesh.shape["data"] * (2 if unet.has_text else 1)
    assert {kind for kind, _ in seen} <= {"collective-permute", "all-reduce"}
    assert (time > 1) == any(kind == "collective-permute" for kind, _ in seen)
    # Sums of GroupNorm, counts for the percentile, and whether all is finite.
    small = {(clips, unet.norm_groups, 2), (clips, 3), (clips, 1), (clips,), ()}
    ring = (2, clips, UNITS // time, unet.heads, unet.channels[-1] // unet.heads)
    for kind, shape in seen:
        if kind == "all-reduce":
            assert shape in small or 2 * shape[0] == clips, (kind, shape)
            assert np.prod(shape) <= clips * unet.norm_groups * 2
        else:
            assert shape == ring or shape[1] < unet.kernel_size, (kind, shape)


@pytest.mark.slow
def test_any_mesh_of_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    chosen = ["-m", "slow", "-k", "test_any_mesh and not of_eight"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, *chosen],
        env=os.environ | flags, capture_output=True, text=True,
    )  # fmt: skip
    count = len(STAGES) * len(MATRIX)
    assert done.returncode == 0 and f"{count} passed" in done.stdout, done.stdout[-4000:]


@pytest.mark.parametrize(
    "spec,match",
    [
        ("time=8", r"takes 8 devices, but this machine has 4; .* 'data=1,time=4'.*num_cpu_devices"),
        ("data=2,time=3", r"takes 6 devices, .* 'data=2,time=2'"),
        ("tiem=4", r"axes data, time, got 'tiem' \(did you mean 'time'\?\)"),
        ("time=0", "one positive size, as in 'data=2,time=2'"),
        ("time", "one positive size"),
        ("fsdp=2", "axes data, time, got 'fsdp'"),
    ],
)
def test_a_bad_mesh_is_refused_with_the_nearest_good_one(spec, match):
    with pytest.raises(UserError, match=match):
        meshes.make_mesh(spec, jax.devices())


def test_a_mesh_of_jax_is_taken_by_its_names():
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    made = meshes.make_mesh(jax.sharding.Mesh(devices.T, ("time", "data")), jax.devices())
    assert made.axis_names == ("data", "time")
    np.testing.assert_array_equal(made.devices, devices)
    with pytest.raises(UserError, match="axes data, time, got 'batch'"):
        meshes.make_mesh(jax.sharding.Mesh(devices, ("batch", "time")), jax.devices())


@pytest.mark.parametrize(
    "clips,units,want",
    [
        (1, [8, 16], (1, 4)),
        (4, [8, 16], (4, 1)),
        (2, [8, 16], (2, 2)),
        (3, [8, 16], (1, 4)),
        (1, [8, 6], (2, 2)),
        (1, [8, 7], (4, 1)),
        (6, [8], (2, 2)),
    ],
)
def test_devices_are_shared_as_is_fastest(clips, units, want):
    made = meshes.choose_mesh(jax.devices()[:4], clips, units)
    assert (made.shape["data"], made.shape["time"]) == want


def test_what_a_mesh_does_not_divide_is_refused_with_the_nearest():
    config = nano_config("spectrogram_generator")  # units of 4 frames
    time, data = (meshes.make_mesh(s, jax.devices()) for s in ("time=4", "data=4"))
    stage = drawn_stage(config)
    match = r"divide the 10 units of 4 that .* a length of 38; .* is time=5, the nearest length 32"
    with pytest.raises(UserError, match=match):
        stage.sample(38, np.arange(1), seed=0, mesh=time)
    match = r"divide the clips, which are 6; .* is data=3, the nearest number of clips 8"
    with pytest.raises(UserError, match=match):
        stage.sample(32, np.arange(6), seed=0, mesh=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def make(name, seed):
        return drawn_stage(nano_config(name), seed)

    return nano_model(tmp_path_factory.mktemp("nano"), make)


def test_a_pipeline_splits_one_clip(folder):
    options = {"seconds": 0.32, "seed": 5, "guidance": 2.0, "route": "waveform"}
    options["until"] = "waveform_generator"
    pipe, seen = load(folder), set()
    stage = pipe.stage("waveform_generator")
    stage._run = recording(stage._run, seen)
    want = pipe("slow organ", **options).samples
    for how in ({"mesh": "time=4"}, {"devices": 4}):
        got = pipe("slow organ", **options, **how).samples
        assert np.abs(got - want).max() < 3e-3 * np.abs(want).max(), how
    assert any(kind == "collective-permute" for kind, _ in seen)
    with pytest.raises(UserError, match="takes 5 devices"):
        load(folder, mesh="time=5")("slow organ", **options)
    with pytest.warns(UserWarning, match="4 devices do not divide 0.36 seconds .*; 0.32 seconds"):
        chosen = pipe._mesh(None, 4, None, 1, 0.36, ["spectrogram_generator"])
    assert chosen.shape["data"] == 4


@pytest.mark.parametrize(
    "options,match",
    [
        (
            {"mesh": "time=4", "seconds": 0.35},
            r"0.35 seconds are .* units of .*; .* time=1, .*0\.3",
        ),
        ({"mesh": "data=4"}, "must divide the clips, which are 1; .* data=1, .* clips 4"),
        ({"mesh": "time=2", "devices": 4}, "devices must be 2, as mesh says"),
        ({"mesh": "time=5"}, "takes 5 devices"),
        ({"devices": 5}, "at most 4 on this machine, got 5. A CPU is one device unless"),
    ],
)
def test_a_pipeline_refuses_what_a_mesh_cannot_split(folder, options, match):
    with pytest.raises(UserError, match=match):
        load(folder)("x", **{"seconds": 0.32} | options)


COMMAND = [sys.executable, "-m", "noise2music", "generate", "organ", "--route", "waveform"]
ONE_CPU = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def test_a_cpu_shows_itself_as_the_devices_that_are_asked_for(folder):
    code = "from noise2music.cli.devices import spread; import jax; "
    code += "print(spread(3, 4, 1, 'data=3,time=2'), jax.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ONE_CPU, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "6"]


@pytest.mark.slow
def test_generate_spreads_one_clip_over_devices(folder, tmp_path):
    paths = [tmp_path / "one.wav", tmp_path / "four.wav"]
    for path, devices in zip(paths, ("1", "4"), strict=True):
        given = ["--model", str(folder), "--seconds", "0.32", "--devices", devices, "-o", str(path)]
        done = subprocess.run([*COMMAND, *given], env=ONE_CPU, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, four = (Clip.open(path).samples for path in paths)
    assert np.abs(one - four).max() < 1e-2 * np.abs(one).max()


def test_generate_refuses_a_mesh_that_does_not_fit(folder, tmp_path):
    given = ["--model", str(folder), "-o", str(tmp_path / "a.wav"), "--mesh", "data=3,time=2"]
    done = subprocess.run([*COMMAND, *given], env=ONE_CPU, capture_output=True, text=True)
    assert done.returncode == 2 and "the nearest that does is data=1" in done.stderr
    assert not list(tmp_path.iterdir())
