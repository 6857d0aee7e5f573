"""Registers, spills and static shared memory of every CUDA kernel, as ptxas tells them.

    python scripts/cuda_static.py > docs/benchmarks/cuda_static.md

Compiles kernels/*/*_cuda.cu with the flags of the build; needs nvcc and c++filt, no GPU. With
--check it fails where a kernel spills.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("sm_80", "sm_90a")
FLAGS = ["-std=c++17", "-O3", "-Xptxas=-v", "-I.", "-Icsrc", "-Icsrc/include"]
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")

HEAD = """# The CUDA kernels as compiled

Written by `python scripts/cuda_static.py > docs/benchmarks/cuda_static.md`, with {compiler}.
Registers a thread, static shared memory a block and bytes spilled to local memory, told by
`ptxas -v`. The shared memory that a launch of `conv1d_block` asks for is not in it:
`noise2music.kernels.explain("conv1d_block", ..., platform="cuda")` names it.
Compiled, not run: no GPU was at hand, so there is no time in this page.
"""


@dataclasses.dataclass(frozen=True)
class Usage:
    registers: int
    shared: int
    spilled: int
    stack: int


def compile_for(source: Path, architecture: str) -> str:
    """What ptxas says of a source file."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *FLAGS, f"-arch={architecture}", "-cubin", "-o", f"{folder}/out.cubin"]
        result = subprocess.run(
            [*command, str(source)], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout + result.stderr


def usages(text: str) -> dict[str, Usage]:
    """Mangled kernel name -> what it takes, from ptxas's lines."""
    found, name, stack, spilled = {}, "", 0, 0
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            name, stack, spilled = entry[1], 0, 0
        elif spills := SPILLS.search(line):
            stack, spilled = int(spills[1]), int(spills[2]) + int(spills[3])
        elif (used := USED.search(line)) and name:
            found[name] = Usage(int(used[1]), int(used[2] or 0), spilled, stack)
            name = ""
    return found


def readable(names: list[str]) -> dict[str, str]:
    """Mangled name -> the kernel and its template arguments, without namespaces and parameters."""
    result = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    short = {}
    for name, text in zip(names, result.stdout.splitlines(), strict=True):
        text = re.sub(r"\(anonymous namespace\)::|\w+::", "", text.removeprefix("void "))
        short[name] = re.sub(r"\((bool|int)\)", "", text).rpartition("(")[0]
        short[name] = short[name].replace("(bool)", "").replace("true", "1").replace("false", "0")
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a kernel spills")
    check = parser.parse_args().check
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    print(HEAD.format(compiler="nvcc " + re.findall(r"V([\d.]+)", version.stdout)[0]))
    spilling = []
    for source in sorted(ROOT.glob("kernels/*/*_cuda.cu")):
        by_arch = {a: usages(compile_for(source, a)) for a in ARCHITECTURES}
        names = readable(sorted(set().union(*by_arch.values())))
        print(f"\n## {source.parent.name}\n")
        titles = [
            f"{a} {what}" for a in ARCHITECTURES for what in ("registers", "shared", "spilled")
        ]
        print("| kernel | " + " | ".join(titles) + " |")
        print("|---|" + "---|" * len(titles))
        for mangled, name in sorted(names.items(), key=lambda item: item[1]):
            cells = [f"`{name}`"]
            for architecture in ARCHITECTURES:
                usage = by_arch[architecture].get(mangled)
                cells += (
                    [str(usage.registers), str(usage.shared), str(usage.spilled)]
                    if usage
                    else ["-", "-", "-"]
                )
                if usage and usage.spilled:
                    spilling.append(f"{name} on {architecture}")
            print("| " + " | ".join(cells) + " |")
    if check and spilling:
        print("registers are spilled in " + ", ".join(spilling), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
