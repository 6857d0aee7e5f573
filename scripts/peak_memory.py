"""Runs a command; tells its seconds and the peak memory of all its processes together (Linux).

    python scripts/peak_memory.py noise2music evaluate fad A B --workers 2

`/usr/bin/time -v` tells the largest single process only. The sum is of proportional set sizes, in
which a page that several processes share counts once; it is taken every 0.2 s.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def family(root: int) -> list[int]:
    """Process ids of `root` and all that it started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.parent.name, stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        parents.setdefault(int(rest[1]), []).append(int(pid))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def proportional_bytes(pid: int) -> int:
    """Proportional set size; 0 for a process that ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> int:
    begin, peak, most = time.monotonic(), 0, 0
    child = subprocess.Popen(sys.argv[1:])
    try:
        while child.poll() is None:
            pids = family(child.pid)
            total = sum(map(proportional_bytes, pids))
            if total > peak:
                peak, most = total, len(pids)
            time.sleep(0.2)
    except KeyboardInterrupt:
        child.wait()
    seconds = time.monotonic() - begin
    print(f"{seconds:.1f} s, at most {peak / 1e9:.2f} GB in {most} processes", file=sys.stderr)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
