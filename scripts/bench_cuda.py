"""The benchmarks of scripts/check_cuda.sh: rows by name, in the order of their worth.

    python scripts/bench_cuda.py blocks --json FILE    measures; FILE grows row by row
    python scripts/bench_cuda.py --join FILE...        prints what earlier calls measured

`noise2music bench` without its command line, whose package a machine with a GPU may lack.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from noise2music.bench import report, rivals, run
from noise2music.errors import UserError

CLIPS, SECONDS = 4, 29.44  # of the acceptance: four clips of the paper's length
BLOCKS = ("waveform_generator.*.block", "spectrogram_generator.*.block")
OTHER_BLOCKS = (
    "spectrogram_vocoder.*.block",
    "waveform_cascader.*.block",
    "super_resolution_cascader.*.block",
)
STEPS = (
    "waveform_generator",
    "spectrogram_generator",
    "spectrogram_vocoder",
    "super_resolution_cascader",
    "waveform_cascader",
)


def blocks(**more: Any) -> dict[str, Any]:
    """Guidance doubles the clips."""
    options = {"what": ("conv1d_block",), "case": BLOCKS, "batch": 2 * CLIPS, "seconds": SECONDS}
    return {**options, "rivals": ("xla",), **more}


MEASUREMENTS: dict[str, dict[str, Any]] = {
    "blocks": blocks(case=BLOCKS + OTHER_BLOCKS, rivals=("xla", "torch")),
    "steps": {"what": ("sampler",), "case": STEPS, "batch": CLIPS, "seconds": SECONDS},
    "bandwidth": {
        "what": ("combine_film", "ancestral_step", "fft_upsample"),
        "case": ("wavgen_256", "super_resolution", "plain_256", "wavgen_1024", "waveform"),
        "batch": 2 * CLIPS,
        "rivals": ("xla", "torch"),
        "dtype": "all",
    },
    "training": blocks(passes="both", seconds=None),
    "mma_sync": blocks(rivals=()),
    **{f"rows_{rows}": blocks(rivals=()) for rows in (64, 128, 192, 256)},
}


def join(files: list[Path]) -> None:
    """A table a file; those of what went wrong too."""
    for path in files:
        print(f"\n-- {path.stem}")
        try:
            rows, limits, skipped = report.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UserError, json.JSONDecodeError) as error:
            print(f"not readable: {error}")
            continue
        print(f"roof: {report.roof_line(limits)}")
        print(report.terminal(rows) if rows else "no row was finished")
        for row in rows:
            for name, share in row.idle.items():
                print(f"{row.case}, {name}: no kernel runs in {share:.1%} of the time")
        for line in skipped:
            print(f"left out: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=MEASUREMENTS)
    parser.add_argument("--json", type=Path, help="what is measured goes there, row by row")
    parser.add_argument("--platform", default="cuda", help="cpu only tries the rows out")
    parser.add_argument("--list", action="store_true", help="name the rows, measure nothing")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.join:
        join(arguments.join)
        return 0
    if arguments.name is None:
        parser.error("a name must be given, of " + ", ".join(MEASUREMENTS))
    chosen = {"dtype": "bfloat16", **MEASUREMENTS[arguments.name]}
    if "rivals" in chosen:  # PyTorch may be missing
        chosen["rivals"] = tuple(r for r in chosen["rivals"] if r in rivals.installed())
    options = run.Options(
        **chosen,
        platform=arguments.platform,
        quick=True,
        json=arguments.json,
        list=arguments.list,
        progress=True,
    )
    return run.bench(options)


if __name__ == "__main__":
    sys.exit(main())
