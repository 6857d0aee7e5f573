r"""Are the captions that `noise2music label assign` gave the clips of our corpus true of them?

    python scripts/label_precision.py LABELLED MANIFEST --vocab lf.txt sf.txt

Of the pairs (clip, caption assigned to it) whose caption states an attribute:

    precision = |{caption is true of the clip}| / |{caption states the attribute}|.

Before balancing a clip has its K nearest captions, after it the K' drawn ones; the K' nearest are
what it would have had without. BPM is true within 8 %; a whole caption where all it states is.
Shuffled: every clip with the captions of another (K, K' nearest, K' drawn; means of 20 shuffles).
Chance: the share of all pairs of a caption and a clip. The last columns and the 95 % interval, a
bootstrap over clips, are those of the K' drawn.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from noise2music.evaluate import attributes
from noise2music.evaluate.retrieval import SHUFFLES, others, read_rows
from noise2music.label.stages import read_clips
from noise2music.label.vocabulary import open_vocabulary

Assigned = dict[str, list[str]]  # clip -> its captions
Said = Mapping[str, set[str]]  # attribute -> values that a caption states
WHOLE = "whole caption"
_stated = functools.cache(attributes.stated)


class Precision(NamedTuple):
    """How many captions state it; the share that is true, its interval; of shuffled; by chance."""

    stating: int
    true: float
    low: float
    high: float
    shuffled: float
    chance: float


def drawn(folder: Path) -> dict[str, Assigned]:
    """vocabulary -> the captions of labels.jsonl."""
    found: dict[str, Assigned] = defaultdict(lambda: defaultdict(list))
    for line in (folder / "labels.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        found[row["vocabulary"]][row["clip"]].append(row["caption"])
    return found


def nearest(folder: Path, vocabulary: Path, count: int | None = None) -> Assigned:
    """The `count` nearest captions of each clip, all K by default, from work/."""
    parts = sorted((folder / "work").glob(f"top-{vocabulary.stem}-*.npz"))
    index = np.concatenate([np.load(part)["index"] for part in parts])[:, :count]
    texts, clips = open_vocabulary(vocabulary).pick(index.flat), read_clips(folder / "work")
    return {c.id: [texts[j] for j in row] for c, row in zip(clips, index.tolist(), strict=True)}


def _right(name: str, of: Sequence[list[Said]], clips: Sequence[Mapping[str, str]]) -> np.ndarray:
    """How many of a clip's captions are true of it in this attribute: (clips,)."""

    def true(said: Said, clip: Mapping[str, str]) -> bool:
        stated = said if name == WHOLE else (name,)
        return all(attributes.is_true(one, said[one], clip[one]) for one in stated)

    pairs = zip(of, clips, strict=True)
    return np.array([sum(true(s, clip) for s in some) for some, clip in pairs])


def precision(assigned: Assigned, clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Precision]:
    """attribute -> precision, where a caption states it. clips: id -> all attributes."""
    names = attributes.ATTRIBUTES
    told = [{name: str(attributes.value_of(name, clips[id])) for name in names} for id in assigned]
    said = [[_stated(caption) for caption in captions] for captions in assigned.values()]
    count = len(told)
    resampled = np.random.default_rng(0).integers(count, size=(1000, count))
    found = {}
    for name in (*names, WHOLE):
        of = [[s for s in some if name in s or name == WHOLE] for some in said]
        n, total = np.array([len(some) for some in of]), sum(map(len, of))
        if not total:
            continue
        right = _right(name, of, told)
        shares = right[resampled].sum(axis=1) / np.maximum(n[resampled].sum(axis=1), 1)
        dealt = [[told[j] for j in others(count, seed)] for seed in range(SHUFFLES)]
        shuffled = np.mean([_right(name, of, clips).sum() / total for clips in dealt])
        values = Counter(clip[name] for clip in told) if name != WHOLE else {}
        hits = sum(_right(name, of, [{name: v}] * count).sum() * k for v, k in values.items())
        chance = hits / total / count if values else np.nan
        low, high = np.percentile(shares, (2.5, 97.5))
        found[name] = Precision(total, right.sum() / total, low, high, shuffled, chance)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="precision of assigned captions")
    parser.add_argument("folder", type=Path, help="of `label assign`, with its work/")
    parser.add_argument("manifest", type=Path, help="of the corpus, with attributes")
    parser.add_argument("--vocab", type=Path, nargs="+", required=True, help="those of `assign`")
    options = parser.parse_args(arguments)
    folder, after = options.folder, drawn(options.folder)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    clips = {id: row.get("attributes") for id, row in read_rows(options.manifest).items()}
    if not all(clips.get(id) for assigned in after.values() for id in assigned):
        parser.error(f"{options.manifest} must tell the attributes of every clip that was labelled")
    made_with = json.loads((folder / "plan.json").read_text("utf-8"))["vocabularies"]
    for path in options.vocab:
        if open_vocabulary(path).digest != made_with.get(path.stem, [None])[0]:
            parser.error(f"{path} is not one of the vocabularies that {folder} was made with")
        about = report["vocabularies"][path.stem]
        quota = about["quota"]
        sets = {f"K = {report['K']}": nearest(folder, path)}
        sets[f"K' = {quota} nearest"] = nearest(folder, path, quota)
        sets[f"K' = {quota} drawn"] = after[path.stem]
        print(f"\n{path.stem}: {about['captions']} captions, {report['clips']} clips\n")
        print("| | entropy, bits | captions used |\n|---|---|---|")
        for name, key in zip(sets, ("before", "nearest", "drawn"), strict=True):
            print(f"| {name} | {about[f'bits_{key}']:.2f} | {about[f'used_{key}']} |")
        print(f"\n| precision, % | {' | '.join(sets)} | 95 % | shuffled | chance | state it |")
        print("|---" * 8 + "|")
        found = [precision(assigned, clips) for assigned in sets.values()]
        for name, last in found[-1].items():
            of = [one[name] for one in found if name in one]
            true = " | ".join(f"{100 * p.true:.1f}" for p in of)
            shuffled = ", ".join(f"{100 * p.shuffled:.1f}" for p in of)
            chance = "" if np.isnan(last.chance) else f"{100 * last.chance:.1f}"
            interval = f"{100 * last.low:.1f} to {100 * last.high:.1f}"
            print(f"| {name} | {true} | {interval} | {shuffled} | {chance} | {last.stating} |")


if __name__ == "__main__":
    main()
