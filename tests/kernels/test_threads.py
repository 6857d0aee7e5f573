"""Several programs at once on four devices, and one program on pools of any size."""

import hashlib
import os
import subprocess
import sys
import threading
from functools import partial

import jax
import numpy as np
import pytest
from rooms import HAS_NATIVE, ROOMS, case_named, cases_of, flat

pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this installation has no native library")

TURNS = 10
PATIENCE = 120  # seconds until we call it a deadlock; it takes about one


def program(room):
    """(jitted native call, inputs) at a shape of many chunks."""
    cases = cases_of(room)
    case = case_named(room, "primes")
    call = partial(cases.FUNCTION, **case.options, implementation="native")
    return jax.jit(lambda inputs: flat(call(**inputs))), cases.make_inputs(case, "float32")


def test_concurrent_programs_on_four_devices():
    """Each of four threads runs every op's program on a device of its own, all at the same time."""
    devices = jax.devices()
    assert len(devices) == 4, "tests/conftest.py asks for four host devices"
    programs = {room: program(room) for room in ROOMS}
    placed = [
        {room: jax.device_put(inputs, device) for room, (_, inputs) in programs.items()}
        for device in devices
    ]
    want = {room: run(placed[0][room]) for room, (run, _) in programs.items()}
    wrong = []
    start = threading.Barrier(len(devices))

    def work(index):
        start.wait()
        for turn in range(TURNS):
            # All are started before one is waited for, in another order on every device.
            order = [ROOMS[(index + turn + i) % len(ROOMS)] for i in range(len(ROOMS))]
            results = {room: programs[room][0](placed[index][room]) for room in order}
            for room, outputs in results.items():
                for got, right in zip(outputs, want[room], strict=True):
                    if not np.array_equal(got, right):
                        wrong.append((index, turn, room))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert wrong == []


def test_one_program_over_four_devices_while_others_run():
    """A sharded program needs all devices at once: the classic way to starve a pool."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    run, inputs = program("fft_upsample")
    sharded = jax.tree.map(lambda x: jax.device_put(x, split), inputs)
    want = [np.asarray(y) for y in run(inputs)]
    background, others = program("conv1d_block")
    for _ in range(TURNS):
        waiting = [background(others) for _ in range(3)]
        for got, right in zip(run(sharded), want, strict=True):
            np.testing.assert_array_equal(got, right)
        jax.block_until_ready(waiting)


def digests():
    """room -> SHA-256 of all outputs."""
    found = {}
    for room in ROOMS:
        run, inputs = program(room)
        parts = [np.asarray(y).tobytes() for y in run(inputs)]
        found[room] = hashlib.sha256(b"".join(parts)).hexdigest()
    return found


@pytest.mark.parametrize("threads", [1, 5])
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    environment = {**os.environ, "NPROC": str(threads), "XLA_FLAGS": ""}
    folder = os.path.dirname(__file__)
    command = (
        f"import os, sys; sys.path.insert(0, {folder!r}); import test_threads; "
        "d = test_threads.digests();"
        "names = [open(f'/proc/self/task/{i}/comm').read() for i in os.listdir('/proc/self/task')];"
        "print(sum('Eigen' in n for n in names)); print(d)"
    )
    result = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    pool, found = result.stdout.strip().splitlines()
    assert int(pool) == threads, "XLA's pool is of another size: NPROC has lost its meaning"
    assert eval(found) == digests()
