"""The card of a labelled set: what it is, how it was made, what to keep in mind."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any


def data_card(report: Mapping[str, Any]) -> str:
    """Markdown from what `assign` reports."""
    made_by = report["made_by"]
    lines = [
        "# Pseudo labels for music",
        "",
        f"{report['labels']} captions of {report['clips']} clips from {report['tracks']} tracks, "
        f"chosen by a model and not by people. noise2music {made_by['version']}; encoder "
        f"{made_by['model']}, weights {made_by['weights']}.",
        "",
        "## How",
        "",
        "Each clip's embedding is the mean over its windows. From each vocabulary the "
        f"K = {report['K']} captions of the largest cosine were selected; of these K' were drawn "
        "without replacement with probability inverse to the number of clips that have the caption "
        f"among their K (Noise2Music, section 3.5). Seed {report['seed']}.",
        "",
        "| vocabulary | captions | K' | used by the K | by the K' drawn | entropy of the K, bits "
        "| of the K' nearest | of the K' drawn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, v in report["vocabularies"].items():
        lines.append(
            f"| {name} | {v['captions']} | {v['quota']} | {v['used_before']} | {v['used_drawn']} "
            f"| {v['bits_before']:.3f} | {v['bits_nearest']:.3f} | {v['bits_drawn']:.3f} |"
        )
    lines += ["", "## What is not in it", ""]
    reasons = collections.Counter(why.partition(":")[0] for _, why in report["failed"])
    lines += [f"- {count} tracks or clips: {why}" for why, count in reasons.most_common()]
    lines += ["- nothing was left out" for _ in range(not reasons)]
    lines += [
        "",
        "## Keep in mind",
        "",
        "- A caption is the nearest one that a vocabulary has, not a true one: see `similarity`.",
        "- The labels carry the encoder's and the vocabulary's prejudices about genres, cultures "
        "and voices, and what they do not know they cannot say.",
        "- The sound files keep their own licences; the captions keep those of their vocabulary.",
        "- Metrics that use the same encoder favour models trained on these labels (section 5).",
        "",
    ]
    return "\n".join(lines)
