"""scripts/check_cuda.sh with tools that only play their part: order, limits, what is kept."""

import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_cuda.sh"
# Stands in for Python. HANGS, CRASHES and FAILS name benchmarks and tools.
PYTHON = r"""#!/bin/bash
echo "$@" >> "$CALLS"
case "$*" in
  --version) echo Python 3.99 ;;
  -) cat > /dev/null; echo jax 0.99 ;;
  *xdist*) exit 1 ;;
  *--join*) echo THE TABLE OF; ls "${@:3}" ;;
  *run_small_cases.py*) echo "conv1d_block right"; [ "$FAILS" != small_cases ] ;;
  *bench_cuda.py*)
    echo "measured $NOISE2MUSIC_CONV1D_CUDA_ROWS" > "$4"
    [ "$2" != "$HANGS" ] || { trap '' TERM; sleep 300; }
    [ "$2" != "$CRASHES" ] || kill -SEGV $$ ;;
esac
"""
STEPS = [
    "machine",
    "build",
    "small_cases",
    "bench_blocks",
    "bench_steps",
    "bench_bandwidth",
    "bench_training",
    "gpu_tests",
    "sanitizer_memcheck",
    "sanitizer_racecheck",
    "sanitizer_initcheck",
    "bench_mma_sync",
    *(f"bench_rows_{rows}" for rows in (64, 128, 192, 256)),
]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def machine(tmp_path):
    """Starts the script on a machine of fakes; a library is in the folder already."""
    tools = tmp_path / "tools"
    tools.mkdir()
    fakes = {"python3": PYTHON, "nvcc": "#!/bin/bash\necho release 13.9\n"}
    fakes["nvidia-smi"] = "#!/bin/bash\necho NVIDIA H999\n"
    fakes["compute-sanitizer"] = '#!/bin/bash\necho "watched by $2"\n'
    for name, text in fakes.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    out = tmp_path / "out"
    (out / "site").mkdir(parents=True)

    def start(**variables):
        env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SECONDS_IN_ALL": "30"}
        env |= {"CALLS": str(tmp_path / "calls"), "PYTHON": "python3", **variables}
        process = subprocess.Popen(
            [SCRIPT, out], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return process, out

    return start


def verdicts(summary):
    """Step -> what the table says of it, in its order."""
    table = summary[summary.rindex("\nmachine ") :]
    lines = [line.split() for line in table.splitlines() if line.endswith(" s")]
    return {line[0]: " ".join(line[1:-2]) for line in lines}


def test_all_steps_in_order_and_the_table_last(machine):
    process, out = machine()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    found = verdicts(printed)
    assert list(found) == STEPS
    assert {k: v for k, v in found.items() if v != "ok"} == {"build": "brought along"}
    assert printed == (out / "summary.txt").read_text()
    assert "everything passed" in printed.splitlines()[-1]
    assert printed.index("H999") < printed.index("THE TABLE OF") < printed.index("\nbench_blocks")
    assert (out / "logs" / "bench_rows_192.json").read_text() == "measured 192\n"
    assert "watched by racecheck" in (out / "logs" / "sanitizer_racecheck.log").read_text()


def test_a_step_that_hangs_or_crashes_costs_no_other(machine):
    process, out = machine(HANGS="blocks", CRASHES="training", FAILS="small_cases")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    found = verdicts(printed)
    assert found["bench_blocks"] == "stopped at 5 s"
    assert found["bench_training"] == "FAILED (139)"
    # Which of the kernels is wrong is asked at once.
    assert list(found)[2:4] == ["small_cases", "small_cases_mma_sync"]
    assert found["gpu_tests"] == found["bench_rows_256"] == "ok"
    assert "bench_blocks.json" in printed, "what it had measured is shown"
    with tarfile.open(out / "logs.tar.gz") as archive:
        assert {"logs/bench_blocks.json", "logs/bench_blocks.log"} <= set(archive.getnames())


def test_an_end_from_outside_still_leaves_a_summary(machine):
    process, out = machine(HANGS="steps", SECONDS_IN_ALL="570")
    while not (out / "logs" / "bench_steps.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert verdicts(printed)["bench_blocks"] == "ok"
    assert "interrupted" in printed
    assert (out / "logs.tar.gz").exists()
