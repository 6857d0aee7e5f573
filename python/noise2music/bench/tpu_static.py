"""What XLA and Mosaic make of a program for a TPU that is not there.

libtpu is the whole compiler and runs on any Linux machine: a program compiled for a topology is
checked for legality and memory, and its final instruction words can be read and counted. One word
(a bundle) is issued a cycle; what waits for memory is not in the count. Everything from here is a
static estimate, not run.

``prepare`` must be called before JAX loads libtpu; with a folder, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# name -> (topology, options)
_TOPOLOGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "v4": ("v4:2x2x1", {"chip_config_name": "megacore"}),
    "v5e": ("v5e:2x2", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:2x2", {}),
}
CHIPS = tuple(_TOPOLOGIES)
# Of a v4 chip: 275 TFLOP/s in bfloat16 are 2 cores of 4 MXUs of 128 x 128; HBM 1228 GB/s.
CORES, CLOCK_HZ, BYTES_PER_SECOND, FLOPS_PER_SECOND = 2, 1.05e9, 1.228e12, 275e12


def prepare(folder: Path | None = None) -> None:
    """Sets what libtpu reads when it loads; with a folder, it writes instruction words there."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name, value in (
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v4-8"),
        ("TPU_WORKER_ID", "0"),
        ("TF_CPP_MIN_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(name, value)
    if folder is not None:
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        os.environ.update(LIBTPU_INIT_ARGS=dump)


def devices(chip: str = "v4") -> Sequence[Any]:
    """The four devices of a host of this kind."""
    from jax.experimental import topologies

    name, options = _TOPOLOGIES[chip]
    return topologies.get_topology_desc(name, platform="tpu", **options).devices  # type: ignore[no-any-return]


def compiled(function: Callable[..., Any], arguments: Any, chip: str = "v4", **jit: Any) -> Any:
    """``function(*arguments)``, arrays or their shapes, compiled for one chip."""
    import jax

    place = jax.sharding.SingleDeviceSharding(devices(chip)[0])
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments
    )
    return jax.jit(function, **jit).lower(*shapes).compile()


UNITS = ("MXU", "XLU", "VALU", "VPOP", "EUP", "VLOAD", "FILL", "VSTORE", "SPILL", "SALU")
_BUNDLE = re.compile(r"\s*(0x[0-9a-f]+|0)\s+(\w\w)?\s*:\s*>*\s*\{(.*)")
_EXIT_TEST = re.compile(
    r"%(p\w+) = scmp\.(?:ge\.s32\.totalorder (?:\(!?%p\w+\), )?%s\w+, (\d+)"
    r"|\w+\.s32\.totalorder (?:\(!?%p\w+\), )?%s\w+, (\d+) /\* loop exit test \*/)"
)
_BRANCH = re.compile(r"sbr\.rel \(!?%(p\w+)\) target = \$region(\d+)")
_START = re.compile(r"Start(?:/End empty)? region (\d+)")


@dataclasses.dataclass
class Loop:
    """Bundles start ... end, run `trips` times each time it is entered."""

    start: int
    end: int
    trips: int
    of_grid: bool
    searching: bool  # ends when something is found

    def holds(self, other: Loop) -> bool:
        return self is not other and self.start <= other.start and other.end <= self.end


class Search(NamedTuple):
    """Words issued in a step of the grid before a loop that ends when something is found, and
    before, in and after the widest code that can be passed over and holds no other such loop."""

    before_loop: int
    before: int
    inside: int
    after: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The instruction words of one kernel.

    bundles: words of code. inner: unit -> share of its slots used in the innermost loop with the
    most products (without products, with the most words), not counting searches. spills: stores of
    registers to memory in that loop. For one step of the grid, in words issued with loops run:
    product, from the first product on the MXU to the last; rest, everything else; searches, about
    each loop that ends when something is found.
    """

    bundles: int
    inner: dict[str, float]
    spills: int
    product: int
    rest: int
    searches: tuple[Search, ...]


def _loops(text: str, searches: int) -> list[Loop]:
    """The loops of a listing: branches back to the region that a loop's body starts.

    Trips are in the test of the predicate that the branch asks for; a loop without such a test
    (a `while`) is given `searches`.
    """
    starts: dict[str, int] = {}
    of_grid: set[int] = set()
    branches: list[tuple[int, str, str]] = []
    trips: dict[str, int] = {}
    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if not bundle:
            continue
        at = int(bundle[1], 16)
        if bundle[2] == "LB":
            starts.update({region: at for region in _START.findall(bundle[3])})
            if "iteration index, stage" in bundle[3]:
                of_grid.add(at)
        trips.update({t[1]: int(t[2] or t[3]) for t in _EXIT_TEST.finditer(bundle[3])})
        branches += [(at, b[1], b[2]) for b in _BRANCH.finditer(bundle[3])]
    return [
        Loop(
            starts[region],
            at + 1,
            trips.get(predicate, searches),
            starts[region] in of_grid,
            predicate not in trips,
        )
        for at, predicate, region in branches
        if region in starts and starts[region] <= at
    ]


def _passed_over(text: str) -> list[range]:
    """The code that branches forward pass over."""
    starts: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if bundle:
            at = int(bundle[1], 16)
            starts.update({region: at for region in _START.findall(bundle[3])})
            branches += [(at, b[2]) for b in _BRANCH.finditer(bundle[3])]
    return [range(at + 1, starts[r]) for at, r in branches if starts.get(r, 0) > at]


def _around(loops: list[int], passed: list[range]) -> list[range]:
    """The widest of the passed-over code that holds this loop (its start) and no other."""
    return [
        max(
            (r for r in passed if loop in r and not any(a in r for a in loops if a != loop)),
            key=len,
            default=range(loop, loop),
        )
        for loop in loops
    ]


def schedule(folder: Path, name: str, searches: int = 1) -> Schedule:
    """The schedule of the last kernel of this name that was compiled into `folder`; loops that end
    when something is found count as `searches` trips."""

    def newest(kind: str) -> str:
        pattern = re.compile(rf"\d+-{re.escape(name)}[.\d]*-\d+-{kind}\.txt")
        found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)]
        if not found:
            raise ValueError(f"n2m.tpu_static: no {kind} of {name} in {folder}")
        return max(found, key=lambda p: p.stat().st_mtime_ns).read_text()

    lines = newest("final_hlo-static-per-bundle-utilization").splitlines()
    slots = [int(n) for n in lines[2].split()]
    first = next(i for i, line in enumerate(lines) if line.startswith("== UTIL")) + 1
    words = [[int(n) for n in line.split()] for line in lines[first:] if line.strip()]
    loops = _loops(newest("final_bundles"), searches)
    grid = [a for a in loops if a.of_grid]
    step = range(grid[0].start, min(grid[0].end + 1, len(words))) if grid else range(len(words))
    inside = [a for a in loops if a not in grid]
    trips = [1] * len(words)
    for loop in inside:
        for i in range(loop.start, min(loop.end + 1, len(words))):
            trips[i] *= loop.trips

    def span(loop: Loop) -> range:
        return range(loop.start, min(loop.end + 1, len(words)))

    def issued(where: range) -> int:
        return sum(trips[i] for i in where)

    def products(where: range) -> int:
        return sum(trips[i] * words[i][0] for i in where)

    searching = sorted(a.start for a in inside if a.searching)
    searched = _around(searching, _passed_over(newest("final_bundles")))
    innermost = [span(a) for a in inside if not any(a.holds(b) for b in inside)] or [step]
    always = [s for s in innermost if not any(s.start in r for r in searched)]
    if not any(products(s) for s in innermost) and products(step):
        always = [step]
    busiest = max(always or innermost, key=lambda s: (products(s), issued(s)))
    inner = {
        unit: sum(words[i][u] for i in busiest) / (len(busiest) * slots[u])
        for u, unit in enumerate(UNITS)
    }
    multiplying = [i for i in step if words[i][0]]
    product = issued(range(multiplying[0], multiplying[-1] + 1)) if multiplying else 0
    found = [
        Search(
            before_loop=issued(range(step.start, start)),
            before=issued(range(step.start, around.start)),
            inside=issued(around),
            after=issued(range(around.stop, step.stop)),
        )
        for start, around in zip(searching, searched, strict=True)
    ]
    return Schedule(
        bundles=len(words),
        inner=inner,
        spills=sum(words[i][UNITS.index("SPILL")] for i in busiest),
        product=product,
        rest=issued(step) - product,
        searches=tuple(found),
    )


def xla_cycles(text: str) -> int:
    """The cycles that XLA's cost model gives the operations of a compiled program, added."""
    return sum(int(n) for n in re.findall(r'"estimated_cycles":"?(\d+)', text))
