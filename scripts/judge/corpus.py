"""The corpus as the judge sees it, and the prompts composed from its test split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Clip:
    """One line of ``manifest.jsonl``: what is known of a real clip."""

    id: str
    piece: str
    split: str
    path: Path
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A prompt, the attributes it was composed from and the id of the clip they belong to."""

    prompt: str
    attributes: Mapping[str, Any]
    clip: str | None = None


def load_manifest(corpus: Path) -> list[Clip]:
    """Read ``manifest.jsonl``; lines whose audio file is missing are left out.

    Raises:
      FileNotFoundError: no manifest. ValueError: no clip of it has its audio.
    """
    clips = []
    with (corpus / "manifest.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            row = json.loads(line)
            path = corpus / row["audio"]
            if path.exists():
                clips.append(Clip(row["id"], row["piece"], row["split"], path, row["attributes"]))
    if not clips:
        raise ValueError(f"judge.corpus: no clip of {corpus / 'manifest.jsonl'} has its audio file")
    return clips


def spread(clips: Sequence[Clip], limit: int, seed: int, first: Sequence[str] = ()) -> list[Clip]:
    """Choose up to ``limit`` clips, families and then genres spread as evenly as they can be.

    Greedy and deterministic: from a seeded order, the next clip is one of the rarest family so far
    and, within it, of the rarest genre and the piece used least. Ids in ``first`` come before all.
    """
    order = np.random.default_rng(seed).permutation(len(clips))
    pool = [clips[i] for i in order]
    chosen = [c for c in pool if c.id in set(first)][:limit]
    taken = {c.id for c in chosen}
    pool = [c for c in pool if c.id not in taken]
    families = Counter(c.attributes["family"] for c in chosen)
    genres = Counter(c.attributes["genre"] for c in chosen)
    pieces = Counter(c.piece for c in chosen)
    while pool and len(chosen) < limit:
        ranks = [
            (families[c.attributes["family"]], genres[c.attributes["genre"]], pieces[c.piece])
            for c in pool
        ]
        clip = pool.pop(min(range(len(pool)), key=ranks.__getitem__))
        chosen.append(clip)
        families[clip.attributes["family"]] += 1
        genres[clip.attributes["genre"]] += 1
        pieces[clip.piece] += 1
    return chosen


def make_prompts(clips: Sequence[Clip], n: int = 64, seed: int = 0) -> list[Prompt]:
    """Compose n prompts from the attributes of n clips of the test split.

    The families are spread evenly, so that the chance level of the family is one over their number
    whatever a model prefers to play.

    Raises:
      ValueError: the test split holds fewer than n clips.
    """
    from noise2music.data.corpus import compose_prompt

    test = [c for c in clips if c.split == "test"]
    if len(test) < n:
        raise ValueError(f"judge.corpus: n must be at most {len(test)} test clips, got {n}")
    chosen = spread(test, n, seed)
    order = np.random.default_rng(seed + 1).permutation(n)
    return [
        Prompt(
            compose_prompt(chosen[k].attributes, np.random.default_rng((seed, i))),
            chosen[k].attributes,
            chosen[k].id,
        )
        for i, k in enumerate(order)
    ]


def write_prompts(prompts: Sequence[Prompt], path: Path) -> None:
    """Write one JSON object a line (prompt, attributes, clip); beside it the bare prompts, .txt."""
    lines = [
        json.dumps({"prompt": p.prompt, "attributes": dict(p.attributes), "clip": p.clip})
        for p in prompts
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.with_suffix(".txt").write_text("".join(p.prompt + "\n" for p in prompts), encoding="utf-8")


def read_prompts(path: Path) -> list[Prompt]:
    """Read what ``write_prompts`` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [Prompt(row["prompt"], row["attributes"], row.get("clip")) for row in rows]
