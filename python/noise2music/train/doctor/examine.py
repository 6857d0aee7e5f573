"""All checks in order, on one folder and one recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from noise2music.config import StageConfig
from noise2music.data.prepare.text_cache import is_embedded
from noise2music.text.released import load_text_encoder
from noise2music.text.t5 import TINY, T5Encoder
from noise2music.text.tokenizer import train_tokenizer
from noise2music.train.doctor import data, overfit, recipe, texts
from noise2music.train.doctor.finding import Finding
from noise2music.train.loader import open_batches, open_clips

_CLIPS, _ROWS = 512, 64  # looked at: records of clips, rows of batches


def examine(config: StageConfig, options: Any, *, seconds: float = 60.0) -> list[Finding]:
    """Findings for training `config` with `options` (a TrainOptions) on `options.corpus`.

    seconds: for training on one batch, compiling not counted; 0 leaves that out. A check that
    cannot be made is a finding too: nothing that the data may hold stops the others.
    """
    found: list[Finding] = []

    def look(name: str, check: Callable[[], Any]) -> Any:
        try:
            answer = check()
        except Exception as error:
            message = " ".join(str(error).split())
            found.append(Finding(name, "fault", f"failed: {message}", "mend this first"))
            return None
        if isinstance(answer, Finding):
            found.append(answer)
        elif isinstance(answer, list):
            found.extend(answer)
        return answer

    tokenizer, clips, metas, batch = None, None, [], None
    opened = look("data", lambda: _open(config, options))
    if opened is not None:
        tokenizer, clips, metas, batch = opened
        found.append(
            Finding("data", "ok", f"{len(clips)} clips of {float(clips.seconds):.2f} s to train on")
        )
    deviation = 0.5
    if batch is not None:
        look("ranges", lambda: data.ranges(batch, config))
        look("silence", lambda: data.silence(batch, config))
        look("lengths", lambda: data.rates_and_lengths(clips, metas, config))
        look("condition", lambda: data.condition(batch, config))
        look("captions", lambda: texts.captions(metas, config, tokenizer))
        measured = data.deviation_of(batch, config)
        deviation = measured if measured > 0 else deviation
    look("signal to noise", lambda: recipe.signal_to_noise(config, deviation))
    look("sampler on Gaussian data", lambda: recipe.sampler_on_gaussian(config, deviation))
    look("loss on Gaussian data", lambda: recipe.loss_on_gaussian(config, deviation))
    look("average of the weights", lambda: recipe.average(options))
    look("learning rate", lambda: recipe.learning_rate(options))
    look("dropped text", lambda: recipe.dropped_text(config, options))
    if seconds > 0 and batch is not None:
        few = {k: v[: min(4, options.batch_size)] for k, v in batch.items()}
        look(
            "learns one batch",
            lambda: overfit.one_batch(few, config, options, _encoder(few, options), seconds),
        )
    return found


def report(findings: list[Finding]) -> str:
    """A table of the findings, the faults' remedies below their lines, and a last line of sums."""
    wide = max(len(f.check) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{f.severity:<8} {f.check:<{wide}}  {f.figure}")
        if f.remedy:
            lines.append(f"{'':<8} {'':<{wide}}  -> {f.remedy}")
    faults, warnings = (sum(f.severity == s for f in findings) for s in ("fault", "warning"))
    lines.append(f"{faults} fault(s), {warnings} warning(s), {len(findings)} findings")
    return "\n".join(lines)


def _open(config: StageConfig, options: Any) -> Any:
    clips = open_clips(options.corpus)
    chosen = np.random.default_rng(0).permutation(len(clips))[:_CLIPS]
    metas = [clips.meta(int(i)) for i in sorted(chosen)]
    given = options.text_encoder or options.text_init
    embedded = config.unet.has_text and not given and is_embedded(options.corpus)
    tokenizer = None if embedded else _tokenizer(config, given, metas)
    batches = open_batches(options.corpus, config, tokenizer, _ROWS, options.seed, threads=0)
    return tokenizer or batches.rows.tokenizer, clips, metas, next(batches)


def _tokenizer(config: StageConfig, given: str | None, metas: list[dict[str, Any]]) -> Any:
    """That of the encoder that is given, else one like that which the run would train."""
    if not config.unet.has_text:
        return None
    if given:
        return load_text_encoder(Path(given))[0]
    words = [t for m in metas for t in (*m["captions"], *m.get("labels", ()))]
    return train_tokenizer(words, TINY.vocab_size)


def _encoder(batch: dict[str, Any], options: Any) -> Any:
    if "tokens" not in batch:
        return None
    given = options.text_encoder or options.text_init
    if given:
        return load_text_encoder(Path(given))[1]
    return T5Encoder(TINY, rngs=nnx.Rngs(options.seed + 1))
