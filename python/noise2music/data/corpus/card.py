"""DATA_CARD.md: what a corpus folder holds, from where, under which licences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_SOURCES = """\
| source | used as | licence |
|---|---|---|
| music21 corpus: bach, haydn, mozart, beethoven, schumann_clara, schumann_robert, weber, \
joplin, ryansMammoth | scores, re-orchestrated | works out of copyright; encodings distributed \
by music21 with their encoders' permission |
| MMA (Musical MIDI Accompaniment) style library | accompaniments of drawn chord progressions | \
program and library GPL-2.0-or-later, run as an outside program |
| FluidR3_GM soundfont | all sounds | MIT |

Left out because of their terms: Essen folk songs (non-commercial), Palestrina (rights in
electronic formats reserved), Monteverdi (some files carry a publisher's line), and
`berlinAlexandersRagtime` (all rights reserved). Left out as not looked into: every other folder.
The audio is rendered where it is used; it is not part of the package."""


def _table(clips: Sequence[Mapping[str, Any]], name: str) -> str:
    counts = Counter(str(clip["attributes"][name]) for clip in clips)
    rows = [f"| {value} | {count} |" for value, count in sorted(counts.items())]
    return "\n".join([f"| {name} | clips |", "|---|---|", *rows])


def data_card(
    clips: Sequence[Mapping[str, Any]],
    dropped: Mapping[str, int],
    pieces: Mapping[str, Sequence[Any]],
    options: Any,
) -> str:
    """The card's Markdown; every number is counted from the manifest's lines."""
    hours = sum(clip["seconds"] for clip in clips) / 3600
    splits = Counter(clip["split"] for clip in clips)
    used = {
        split: len({clip["piece"] for clip in clips if clip["split"] == split}) for split in splits
    }
    split_rows = "\n".join(
        f"| {name} | {splits[name]} | {used[name]} |"
        for name in ("train", "validation", "test")
        if name in splits
    )
    tables = "\n\n".join(
        _table(clips, name)
        for name in ("genre", "family", "mode", "metre", "register", "dynamics", "drums")
    )
    tempi = sorted(clip["attributes"]["tempo_bpm"] for clip in clips) or [0]
    quart = [tempi[len(tempi) * q // 4 - (q == 4)] for q in range(5)]
    reasons = "\n".join(f"- {count} x {reason}" for reason, count in sorted(dropped.items()))
    total = ", ".join(f"{name} {len(refs)}" for name, refs in sorted(pieces.items()))
    return f"""# Data card: noise2music rendered corpus

Made by `noise2music data corpus` with seed {options.seed}: {len(clips)} clips of
{options.seconds:g} s, {hours:.2f} hours, 24 kHz mono FLAC, {options.captions} captions a clip.
Labels are what was rendered, not what was heard: tempo, metre and instruments are exact; the key
of MMA clips is exact, that of score clips is found in the window's notes by pitch-class profiles.
Instruments are samples played by FluidSynth, not recordings of performances, and the captions
come from a small grammar: a model trained on it learns this world, no other.

## Sources and licences

{_SOURCES}

## Splits (by piece)

| split | clips | pieces |
|---|---|---|
{split_rows}

Pieces in the catalogue: {total}.
Tempo (BPM): minimum {quart[0]}, quartiles {quart[1]}, {quart[2]}, {quart[3]}, maximum {quart[4]}.

## Counts

{tables}

## Dropped clips

{reasons or "None."}
"""
