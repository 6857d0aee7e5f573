"""A run that is stopped, killed or damaged goes on to the bit as if nothing had happened."""

import contextlib
import dataclasses
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tolerances
from nano import nano_config
from noise2music.config import to_dict
from noise2music.train import loop, train
from noise2music.train.checkpoint import CheckpointError, Checkpoints, ForeignRunError, checksum
from noise2music.train.insight import Log, read_log
from small_corpus import SUPER, make_corpus, options

EVERY_THREE = {"log_every": 3, "validate_every": 6, "checkpoint_every": 4}
EVERY_FIVE = {"log_every": 5, "validate_every": 5, "checkpoint_every": 5, "keep": 3}
TIMED = {"time", "clips_per_second", "data_wait", "utilisation"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, compiled_once):
    return make_corpus(tmp_path_factory.mktemp("small") / "corpus")


def logged(run):
    """The log without what a clock says."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(run / "log.jsonl")]


def newest(run):
    """(step, every array of the newest checkpoint, what is noted beside it)."""
    step = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    folder = run / "checkpoints" / str(step)
    with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as reader:
        tree = reader.metadata(folder / "state").item_metadata.tree
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(
            folder / "state", args=ocp.args.PyTreeRestore(item=tree, restore_args=whole)
        )
    with contextlib.closing(ocp.Checkpointer(ocp.JsonCheckpointHandler())) as reader:
        return step, state, reader.restore(folder / "about")


def assert_same_run(run, other):
    """Parameters, average, optimiser, position and losses of two runs are equal to the bit."""
    (step, state, about), (other_step, other_state, other_about) = newest(run), newest(other)
    assert step == other_step
    assert jax.tree.structure(state) == jax.tree.structure(other_state)
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    for name in ("data", "losses", "checksum", "rng"):
        assert about[name] == other_about[name]
    assert logged(run) == logged(other)


class Child:
    """`noise2music train` in a process of its own, which can be killed."""

    def __init__(self, corpus, run, steps, env, *, file="", file_limit=None, **changes):
        run.mkdir(exist_ok=True)
        values = {"batch_size": 4, "peak_lr": 3e-3, "warmup": 2, "lr_end_step": 40, "log_every": 3}
        values |= {"validate_every": 6, "checkpoint_every": 4, "ema_decay": 0.9}
        values |= {"mesh": "data=1", **changes}
        file = file or run.name
        config = run.parent / f"{file}.json"
        config.write_text(json.dumps(values | {"stage": to_dict(SUPER)}))
        self.run, self._error = run, run.parent / f"{file}.txt"
        command = [sys.executable, "-m", "noise2music", "train", SUPER.name, "--config", config]
        command += ["--corpus", corpus, "--run", run, "--steps", str(steps)]
        with self._error.open("w") as error:
            self.process = subprocess.Popen(
                [str(c) for c in command], stderr=error, stdout=error, env=env
            )
        if file_limit:  # no file can grow beyond: to whoever writes it is a full disk
            limits = (file_limit, file_limit)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)

    def said(self):
        return self._error.read_text()

    def ended(self):
        return self.process.poll() is not None

    def wait_for(self, condition, seconds=1200):
        """Returns when it holds or the child has ended."""
        end = time.monotonic() + seconds
        while not self.ended() and not condition():
            if time.monotonic() > end:
                raise AssertionError(f"nothing happened: {self.said()}")
            time.sleep(0.0005)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def finish(self):
        assert self.process.wait(timeout=1200) == 0, self.said()


def kill_at(child, rng, most, *, while_writing):
    """Kills at a moment that `rng` chooses; returns whether the child was still running."""
    lines = len(read_log(child.run / "log.jsonl"))
    more = rng.randrange(1, most)
    child.wait_for(lambda: len(read_log(child.run / "log.jsonl")) >= lines + more)
    if while_writing:
        folder = child.run / "checkpoints"
        child.wait_for(lambda: any("tmp" in p.name for p in folder.glob("*")))
    time.sleep(rng.random() * 0.02)
    alive = not child.ended()
    child.kill()
    return alive


def resumed_after_kills(corpus, tmp_path, env, kills, steps, start=Child):
    rng = random.Random(4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start(corpus, whole, steps, env).finish()
    died = 0
    for i in range(kills):
        child = start(corpus, killed, steps, env)
        died += kill_at(child, rng, steps // 3 // (kills + 1), while_writing=i % 2 == 1)
    start(corpus, killed, steps, env).finish()
    assert died == kills, "a run was over before it could be killed: more steps are needed"
    assert [row["step"] for row in logged(killed)] == list(range(3, steps + 1, 3))
    assert_same_run(whole, killed)


def test_killed_run_is_bit_equal(corpus, tmp_path, compiled_once):
    resumed_after_kills(corpus, tmp_path, compiled_once, kills=2, steps=60)


@pytest.mark.slow
def test_run_killed_ten_times_is_bit_equal(corpus, tmp_path, compiled_once):
    resumed_after_kills(corpus, tmp_path, compiled_once, kills=10, steps=399)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


class Pair:
    """Two processes of one training, on this machine."""

    def __init__(self, corpus, run, steps, env, *, mesh="data=2", devices=1):
        together = {"mesh": mesh, "coordinator": free_port(), "num_processes": 2}
        flags = f"--xla_force_host_platform_device_count={devices}"
        env = env | {"XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0"}  # compiled sooner
        self.both = [
            Child(corpus, run, steps, env, process_id=i, file=f"{run.name}-{i}", **together)
            for i in range(2)
        ]
        self.run = run

    def wait_for(self, condition):
        self.both[0].wait_for(condition)

    def ended(self):
        return self.both[0].ended()

    def kill(self):
        for child in self.both:
            child.kill()

    def finish(self):
        for child in self.both:
            child.finish()


def assert_nearly_same_run(run, other):
    (step, state, about), (other_step, other_state, other_about) = newest(run), newest(other)
    assert step == other_step and about["data"] == other_about["data"]
    for name in ("params", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **tolerances.PROCESSES),
            state[name],
            other_state[name],
        )
    for row, same in zip(logged(run), logged(other), strict=True):
        np.testing.assert_allclose(row["loss"], same["loss"], **tolerances.PROCESSES)
        assert row["step"] == same["step"]


def test_two_processes_train_what_one_does(corpus, tmp_path, compiled_once):
    two, one = tmp_path / "two", tmp_path / "one"
    Pair(corpus, two, 6, compiled_once).finish()
    train(SUPER.name, options(corpus, one, steps=6, **EVERY_THREE), SUPER)
    assert_nearly_same_run(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("mesh,devices", [("fsdp=2", 1), ("data=2,fsdp=2", 2)])
def test_two_processes_share_the_state(corpus, tmp_path, compiled_once, mesh, devices):
    two, one = tmp_path / "two", tmp_path / "one"
    for steps in (3, 6):  # the second time from a checkpoint
        Pair(corpus, two, steps, compiled_once, mesh=mesh, devices=devices).finish()
    train(SUPER.name, options(corpus, one, steps=6, **EVERY_THREE), SUPER)
    assert_nearly_same_run(two, one)


# Two processes, of which the second finds the newest checkpoint foreign, then cannot read it.
_DISAGREE = """
import sys, warnings
from pathlib import Path
from typing import Any, NamedTuple
import jax
import numpy as np
from noise2music.train.checkpoint import Checkpoints, ForeignRunError

warnings.simplefilter("ignore")
folder, host, index = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(host, 2, int(index))
if index == "1":
    sound = Checkpoints._read_about
    def broken(self, step, identity):
        if step == 2 and how == "damaged":
            raise OSError("a disk that lies")
        return sound(self, step, {"stage": 3} if how == "foreign" else identity)
    Checkpoints._read_about = broken

class Parts(NamedTuple):
    a: Any

mesh = jax.make_mesh((4,), ("data",))
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
part = jax.make_array_from_callback((8,), split, lambda at: np.arange(8, dtype=np.float32)[at])
state = Parts([part] * 40)  # so many sums at once would wait for each other
checkpoints = Checkpoints(Path(folder), 3)
for step in (1, 2):
    checkpoints.save(step, state, {"stage": 1})
checkpoints.wait()
target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
how = "foreign"
try:
    checkpoints.check({"stage": 1}, None)
except ForeignRunError as error:
    print("refused", error)
how = "damaged"
checkpoints.check({"stage": 1}, None)
print("restored", checkpoints.restore(target, {"stage": 1}, None).step)
checkpoints.close()
"""


def test_two_processes_agree_on_the_checkpoint(tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", _DISAGREE, str(tmp_path), free_port()]
    both = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, env=env)
        for i in range(2)
    ]
    said = [process.communicate(timeout=1200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for text in said:
        assert "stage is 1 there and 3 here" in text and "restored 1" in text
    assert (tmp_path / "set_aside" / "2-1").is_dir()


@pytest.mark.slow
def test_two_killed_processes_are_bit_equal(corpus, tmp_path, compiled_once):
    resumed_after_kills(corpus, tmp_path, compiled_once, kills=3, steps=300, start=Pair)


@pytest.mark.slow
def test_one_of_two_processes_is_told_to_stop(corpus, tmp_path, compiled_once):
    pair = Pair(corpus, tmp_path / "run", 100_000, compiled_once)
    pair.wait_for(lambda: len(read_log(pair.run / "log.jsonl")) >= 1)
    pair.both[1].process.send_signal(signal.SIGTERM)
    pair.finish()
    assert newest(pair.run)[0] % 10 == 0


def test_sigterm_writes_a_checkpoint_and_exits_with_0(corpus, tmp_path, compiled_once):
    run = tmp_path / "run"
    child = Child(corpus, run, 100_000, compiled_once, checkpoint_every=100_000)
    child.wait_for(lambda: len(read_log(run / "log.jsonl")) >= 1)
    child.process.send_signal(signal.SIGTERM)
    child.finish()
    step, state, about = newest(run)
    assert 0 < step == int(state["step"]) < 100_000
    assert about["data"]["row"] == 4 * step
    assert len(about["losses"]) == step % 3


@pytest.mark.parametrize("moment", ["text_of", "build", "Validation", "flops_of", "Log"])
def test_sigterm_before_the_first_step_leaves_nothing_broken(
    corpus, tmp_path, monkeypatch, run_of_three, moment
):
    run, made = tmp_path / "run", getattr(loop, moment)

    def told(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return made(*args, **kwargs)

    monkeypatch.setattr(loop, moment, told)
    with pytest.raises(SystemExit) as stopped:
        train(SUPER.name, options(corpus, run, steps=15, keep=3), SUPER)
    assert stopped.value.code == 0 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not [p.name for p in run.rglob("*") if p.suffix == ".part" or p.name.isdigit()]
    if moment == "build":
        monkeypatch.undo()
        train(SUPER.name, options(corpus, run, steps=15, keep=3), SUPER)
        assert_same_run(run, run_of_three)


def test_sigterm_while_starting_exits_with_0(corpus, tmp_path, compiled_once):
    child = Child(corpus, tmp_path / "run", 100, compiled_once)
    child.wait_for(lambda: (child.run / ".lock").exists())
    child.process.send_signal(signal.SIGTERM)
    child.finish()
    assert "stopped before the first step, nothing was lost" in child.said()


@pytest.fixture(scope="module")
def run_of_three(corpus, tmp_path_factory):
    """A run with checkpoints 5, 10 and 15, to be copied."""
    run = tmp_path_factory.mktemp("three") / "run"
    train(SUPER.name, options(corpus, run, steps=15, keep=3), SUPER)
    return run


@pytest.fixture
def run(run_of_three, tmp_path):
    shutil.copytree(run_of_three, tmp_path / "run")
    return tmp_path / "run"


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def flip(folder):
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def forget(folder):
    (folder / "about" / "metadata").unlink()


# Where Orbax fails to read or write it leaves coroutines that complain when they are collected, so
# these are processes of their own, and it is what a user sees that is tested.


def test_damaged_checkpoints_are_passed_over_and_kept(corpus, run, run_of_three, compiled_once):
    truncate(run / "checkpoints" / "15")
    flip(run / "checkpoints" / "10")
    child = Child(corpus, run, 15, compiled_once, **EVERY_FIVE)
    child.finish()
    for step in (15, 10):
        assert f"warning: checkpoint {step} is damaged (" in child.said()
    assert f"going on from checkpoint 5. The damaged one is kept in {run}" in child.said()
    assert sorted(p.name for p in (run / "set_aside").iterdir()) == ["10-1", "15-1"]
    assert_same_run(run, run_of_three)


def test_no_whole_checkpoint_is_an_error_that_touches_nothing(corpus, run, compiled_once):
    for step in ("5", "10", "15"):
        truncate(run / "checkpoints" / step)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    child = Child(corpus, run, 20, compiled_once, **EVERY_FIVE)
    assert child.process.wait(timeout=1200) == 1
    assert "error: n2m.train: checkpoint 15 is damaged (" in child.said()
    assert "checkpoint 5 is damaged (" in child.said() and "Traceback" not in child.said()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_full_disk_is_told_and_loses_nothing_older(corpus, run, compiled_once):
    before = newest(run)
    child = Child(corpus, run, 20, compiled_once, file_limit=50_000, **EVERY_FIVE)
    assert child.process.wait(timeout=1200) == 1
    assert "error: n2m.train: a checkpoint could not be written to" in child.said()
    assert "; checkpoint 15 is whole" in child.said() and "Traceback" not in child.said()
    step, state, _ = newest(run)
    assert step == before[0]
    jax.tree.map(np.testing.assert_array_equal, state, before[1])


def test_resume_goes_back_to_a_step_and_sets_newer_ones_aside(corpus, run, run_of_three):
    with pytest.raises(ValueError, match="resume must be one of the checkpoints 5, 10, 15, got 7"):
        train(SUPER.name, options(corpus, run, resume=7), SUPER)
    train(SUPER.name, options(corpus, run, steps=15, keep=3, resume=5), SUPER)
    assert sorted(p.name for p in (run / "set_aside").iterdir()) == ["10-1", "15-1"]
    assert_same_run(run, run_of_three)
    forget(run / "checkpoints" / "10")
    with pytest.raises(CheckpointError, match=r"10 is damaged.*; others: 5, 15 \(--resume STEP\)"):
        train(SUPER.name, options(corpus, run, resume=10), SUPER)


def test_run_of_another_model_is_refused_and_untouched(corpus, run):
    wider = dataclasses.replace(SUPER, unet=dataclasses.replace(SUPER.unet, kernel_size=5))
    with pytest.raises(ForeignRunError, match="stage.unet.kernel_size is 7 there and 5 here"):
        train(SUPER.name, options(corpus, run), wider)
    vocoder = nano_config("spectrogram_vocoder")
    vocoder = dataclasses.replace(vocoder, train_seconds=0.16)
    with pytest.raises(ForeignRunError, match="another model"):
        train(vocoder.name, options(corpus, run), vocoder)
    assert Checkpoints(run, 3).steps() == [5, 10, 15]


def test_changed_recipe_is_told(corpus, run):
    with pytest.warns(UserWarning, match="peak_lr was 0.003 until step 15 and is 0.001 from here"):
        train(SUPER.name, options(corpus, run, steps=16, peak_lr=1e-3), SUPER)


def test_unwritable_and_used_folders_are_named(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run must be a folder that can be written"):
        train(SUPER.name, options(corpus, tmp_path / "file" / "run"), SUPER)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another training is writing to"):
            train(SUPER.name, options(corpus, tmp_path / "run"), SUPER)


class Parts(NamedTuple):
    a: Any
    b: Any
    n: Any


def test_checkpoints_move_between_device_counts(tmp_path):
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    one = Parts(jnp.asarray(x), jnp.asarray(x[:3], jnp.bfloat16), jnp.int32(7))

    def spread(count):
        mesh = jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])
        split, everywhere = (
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*p)) for p in (["data"], [])
        )
        return Parts(
            jax.device_put(one.a, split),
            jax.device_put(one.b, everywhere),
            jax.device_put(one.n, everywhere),
        )

    written = Checkpoints(tmp_path, 2)
    written.save(3, spread(4), {"stage": 1})
    written.close()
    for count in (1, 2, 4):
        target = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), spread(count)
        )
        found = Checkpoints(tmp_path, 2).restore(target, {"stage": 1}, None)
        assert found.step == 3 and found.state.a.sharding == target.a.sharding
        jax.tree.map(np.testing.assert_array_equal, found.state, one)


def test_checksum_sees_every_bit_and_the_place():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    seen = {checksum({"a": x}), checksum({"b": x}), checksum({"a": x.at[1, 2, 3].set(23.000002)})}
    seen |= {checksum({"a": x[::-1]}), checksum({"a": x.astype(jnp.bfloat16)})}
    assert len(seen) == 5


def test_log_drops_what_the_checkpoint_does_not_know(tmp_path):
    rows = [{"step": s, "loss": s / 3} for s in (5, 10, 15)]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 20, "lo')
    log = Log(tmp_path, 10)
    log.write({"step": 15, "loss": 1.0})
    log.close()
    assert read_log(tmp_path / "log.jsonl") == [*rows[:2], {"step": 15, "loss": 1.0}]
