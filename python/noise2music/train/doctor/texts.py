"""Checks of captions: are there any, do they differ, do they fit."""

from __future__ import annotations

import collections
from typing import Any

from noise2music.config import StageConfig
from noise2music.data.prepare.text_batch import elements
from noise2music.train.doctor.finding import Finding, graded


def captions(metas: list[dict[str, Any]], config: StageConfig, tokenizer: Any) -> list[Finding]:
    """Of the clips looked at: without text, with texts that others have too, with cut texts."""
    if not config.unet.has_text or config.token_length is None:
        return []
    length = config.token_length
    batches = [elements(m["captions"], m.get("labels", ()), tokenizer, length) for m in metas]
    bare = sum(batch == [""] for batch in batches) / len(batches)
    texts = [text for batch in batches for text in batch if text]
    counts = collections.Counter(texts)
    most, times = counts.most_common(1)[0] if counts else ("", 0)
    cut = sum(tokenizer.encode(texts, length)[2]) / max(1, len(texts))
    alike = len(metas) > 1 and len({tuple(sorted(batch)) for batch in batches}) == 1
    share = times / max(1, len(batches))
    return [
        graded(
            "clips without text",
            f"{100 * bare:.0f} % of {len(batches)}",
            fault=bare > 0.5,
            warning=bare > 0.02,
            remedy="a clip without text teaches nothing about prompts: add captions or labels "
            "beside the sound files, or leave such clips out",
        ),
        graded(
            "texts differ",
            f"{len(counts)} different of {len(texts)}"
            + (
                f"; the commonest, {most[:40]!r}, at {100 * share:.0f} % of the clips"
                if most
                else ""
            ),
            fault=alike or (len(metas) > 1 and bool(texts) and share > 0.9),
            warning=share > 0.2,
            remedy="a text that all clips share says nothing, and the network learns to ignore it: "
            "leave it out, or say more of each clip",
        ),
        graded(
            "texts that are cut",
            f"{100 * cut:.0f} % are longer than {length} tokens",
            fault=cut > 0.5,
            warning=cut > 0.05,
            remedy="the end of a cut text is never read: shorten the texts, or raise token_length",
        ),
    ]
