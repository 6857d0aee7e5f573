"""The judge's report: a JSON file and Markdown tables for docs/tiny.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .judging import ATTRIBUTES, EXTRA

_TITLES = {
    "family": "instrument family",
    "genre": "genre",
    "style": "genre in four groups",
    "tempo": "tempo, 8 %, up to octaves",
    "key": "key (tonic and mode)",
    "key_krumhansl": "key, Krumhansl's profiles",
    "mode": "mode (major or minor)",
    "key_mirex": "key, MIREX weights",
}
_SECTIONS = {
    "generated": "Clips of the shipped model",
    "random_init": "Clips of the untrained model",
    "real_same_prompts": "Real clips that the prompts were composed from (upper bound)",
    "real": "Real test split",
    "round_trip": "Real test clips after a round trip",
}
_DISTANCES = {
    "generated": "clips of the shipped model",
    "random_init": "clips of the untrained model",
    "low_pass": "real test clips low-passed at 1.6 kHz",
    "round_trip": "real test clips after a round trip",
    "train": "real clips of the training split",
}


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _hits(row: Mapping[str, Any]) -> str:
    hits = row["hits"]
    return f"{hits:.0f}" if float(hits).is_integer() else f"{hits:.1f}"


def attribute_table(section: Mapping[str, Any]) -> str:
    """One row an attribute: hits, chance, ratio, p values, and the same for shuffled prompts."""
    lines = [
        "| attribute | hits | rate | chance | ratio | p (permutation) | p (binomial) "
        "| shuffled: hits | shuffled: p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (*ATTRIBUTES, *EXTRA):
        if name not in section:
            continue
        row = section[name]
        mixed = row["shuffled"]
        lines.append(
            f"| {_TITLES[name]} | {_hits(row)} / {row['n']} | {row['rate']:.2f} "
            f"| {row['chance']:.3f} | {row['ratio']:.2f} | {_p(row['p_permutation'])} "
            f"| {_p(row['p_binomial'])} | {_hits(mixed)} | {_p(mixed['p_permutation'])} |"
        )
    return "\n".join(lines)


def distance_table(distances: Mapping[str, Any]) -> str:
    """One row a set of clips: Frechet distance to the test split."""
    lines = [
        f"| set | clips | Frechet distance to the {distances['reference_clips']} real test clips |",
        "|---|---|---|",
    ]
    for name, title in _DISTANCES.items():
        if name in distances:
            row = distances[name]
            lines.append(f"| {title} | {row['clips']} | {row['distance']:.1f} |")
    return "\n".join(lines)


def classifier_table(quality: Mapping[str, Any]) -> str:
    """One row a classifier: accuracy on real test clips."""
    lines = [
        "| classifier | classes | accuracy, real test clips | balanced accuracy |",
        "|---|---|---|---|",
    ]
    for name, row in quality.items():
        lines.append(
            f"| {_TITLES[name]} | {len(row['classes'])} | {row['accuracy']:.2f} "
            f"| {row['balanced_accuracy']:.2f} |"
        )
    return "\n".join(lines)


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    parts = []
    for name, title in _SECTIONS.items():
        if name in report:
            parts += [f"### {title}", "", attribute_table(report[name]), ""]
    parts += ["### Frechet distance (musicnn MTT, 200-d)", ""]
    parts += [distance_table(report["frechet"]), ""]
    parts += ["### The judge itself", "", classifier_table(report["classifiers"]), ""]
    data = report["data"]
    parts += [
        f"Classifiers fitted on {data['train_clips']} real clips of the training split. Chance is "
        "the mean hit rate over all pairings of a clip with another clip's prompt; p values are "
        f"two-sided, the first from {data['permutations']} seeded permutations of the prompts. "
        "musicnn and librosa take no part in training the generator.",
        "",
    ]
    return "\n".join(parts)
