"""Judge clips of the tiny models against their prompts; see scripts/judge/.

    python scripts/judge_tiny.py prompts --corpus DIR --out prompts.jsonl [--n 64 --seed 0]
    python scripts/judge_tiny.py --corpus DIR --prompts prompts.jsonl --clips DIR --out report.json
        [--random-init DIR] [--round-trip DIR] [--cache DIR] [--markdown table.md]

``--clips`` and ``--random-init`` are folders of sound files in the order of the prompts (0000.wav,
0001.wav, ...), or an npz with ``audio`` (n, N) and ``sample_rate``. ``--round-trip`` is a folder of
files named by the id of a test clip. Without ``--clips`` only the judge itself is measured, on
real clips.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from noise2music.evaluate.frechet import frechet_distance

sys.path.insert(0, str(Path(__file__).resolve().parent))

from judge import corpus, report  # noqa: E402
from judge.features import (  # noqa: E402
    Features,
    Listener,
    Sound,
    clip_files,
    clip_sounds,
    first_seconds,
    low_pass,
    read_sound,
    report_progress,
)
from judge.judging import Judge  # noqa: E402


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Judge clips of the tiny models.")
    commands = parser.add_subparsers(dest="command", required=True)
    prompts = commands.add_parser("prompts", help="compose prompts from the test split")
    prompts.add_argument("--corpus", type=Path, required=True)
    prompts.add_argument("--out", type=Path, required=True)
    prompts.add_argument("--n", type=int, default=64)
    prompts.add_argument("--seed", type=int, default=0)
    judge = commands.add_parser("judge", help="judge clips (the default)")
    judge.add_argument("--corpus", type=Path, required=True)
    judge.add_argument("--out", type=Path, required=True)
    judge.add_argument("--prompts", type=Path)
    judge.add_argument("--clips", type=Path)
    judge.add_argument("--random-init", type=Path)
    judge.add_argument("--round-trip", type=Path)
    judge.add_argument("--cache", type=Path, help="folder of what was heard in clips")
    judge.add_argument("--markdown", type=Path)
    judge.add_argument("--musicnn", type=Path, help="folder of the musicnn wheel's package")
    judge.add_argument("--train-clips", type=int, default=400)
    judge.add_argument("--test-clips", type=int, default=250)
    judge.add_argument("--seconds", type=float, default=10.0, help="use so much of real clips")
    judge.add_argument("--permutations", type=int, default=10_000)
    judge.add_argument("--seed", type=int, default=0)
    if argv and argv[0] not in (*commands.choices, "-h", "--help"):
        argv = ["judge", *argv]
    arguments = parser.parse_args(argv)
    if arguments.command == "judge" and arguments.prompts is None:
        if arguments.clips or arguments.random_init:
            parser.error("--clips and --random-init need --prompts")
    return arguments


def judge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for and return the report."""
    listener = Listener(arguments.cache, arguments.musicnn, report_progress)
    clips = corpus.load_manifest(arguments.corpus)
    prompts = corpus.read_prompts(arguments.prompts) if arguments.prompts else []
    sources = [p.clip for p in prompts if p.clip]
    pool = [c for c in clips if c.split == "train"]
    train = corpus.spread(pool, arguments.train_clips, arguments.seed)
    test = corpus.spread(
        [c for c in clips if c.split == "test"], arguments.test_clips, arguments.seed, sources
    )

    def real(clip: corpus.Clip) -> Sound:
        return first_seconds(read_sound(clip.path), arguments.seconds)

    heard_test = listener.hear(map(real, test), "test clips")
    narrow = test[: len(prompts) or 64]
    narrow_patches = listener.embed((low_pass(real(c)) for c in narrow), "low-passed clips")
    heard_train = listener.hear(map(real, train), "train clips")
    the_judge = Judge.fit(heard_train, train)

    def verdict(features: Features, stated: list[Any]) -> dict[str, Any]:
        return the_judge.verdict(
            features, stated, permutations=arguments.permutations, seed=arguments.seed
        )

    reference = heard_test.patches
    count = len(prompts) or 64  # equal numbers of clips: the distance depends on them

    def distance(features: Features) -> dict[str, Any]:
        return {
            "clips": len(features),
            "distance": frechet_distance(features.patches, reference),
        }

    out: dict[str, Any] = {
        "data": {
            "train_clips": len(train),
            "test_clips": len(test),
            "prompts": len(prompts),
            "permutations": arguments.permutations,
            "seed": arguments.seed,
        },
        "classifiers": the_judge.quality(heard_test, test),
        "real": verdict(heard_test, [c.attributes for c in test]),
        "frechet": {
            "reference_clips": len(test),
            "low_pass": {
                "clips": len(narrow),
                "distance": frechet_distance(narrow_patches, reference),
            },
            "train": distance(heard_train.take(range(min(count, len(train))))),
        },
    }
    where = {c.id: i for i, c in enumerate(test)}
    if sources and all(s in where for s in sources) and len(sources) == len(prompts):
        out["real_same_prompts"] = verdict(
            heard_test.take([where[s] for s in sources]), [p.attributes for p in prompts]
        )
    for name, source in (("generated", arguments.clips), ("random_init", arguments.random_init)):
        if source is not None:
            features = listener.hear(clip_sounds(source), f"{name} clips")
            out[name] = verdict(features, [p.attributes for p in prompts])
            out["frechet"][name] = distance(features)
    if arguments.round_trip is not None:
        files = [p for p in clip_files(arguments.round_trip) if p.stem in where]
        features = listener.hear((read_sound(p) for p in files), "round-trip clips")
        out["round_trip"] = verdict(features, [test[where[p.stem]].attributes for p in files])
        out["frechet"]["round_trip"] = distance(features)
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    if arguments.command == "prompts":
        clips = corpus.load_manifest(arguments.corpus)
        corpus.write_prompts(corpus.make_prompts(clips, arguments.n, arguments.seed), arguments.out)
        return 0
    result = judge(arguments)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = report.markdown(result)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
