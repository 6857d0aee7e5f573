"""Checks of what is in the batches: ranges, silence, rates, lengths, the condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from noise2music.config import StageConfig
from noise2music.mel import log_mel
from noise2music.train.cuts import Cuts
from noise2music.train.doctor.finding import Finding, graded

Batch = Mapping[str, NDArray[Any]]
_SILENT_DB = -60.0


def deviation_of(batch: Batch, config: StageConfig) -> float:
    """Of the target as the diffusion sees it: data_scale times its root mean square about 0."""
    x = np.asarray(batch["x"], np.float64)
    return config.data_scale * math.sqrt(float(np.mean(np.square(x[np.isfinite(x)]))))


def ranges(batch: Batch, config: StageConfig) -> list[Finding]:
    """Finite, of a fitting scale, centred, not clipped."""
    x = np.asarray(batch["x"], np.float64)
    bad = {k: int((~np.isfinite(v)).sum()) for k, v in batch.items() if v.dtype.kind == "f"}
    out = [
        graded(
            "finite values",
            ", ".join(f"{n} NaN or inf in {k}" for k, n in bad.items() if n) or "all finite",
            fault=any(bad.values()),
            remedy="one NaN makes every weight NaN: prepare the data again, which drops such clips",
        )
    ]
    x = x[np.isfinite(x)]
    if not x.size:
        return out
    deviation, mean = deviation_of(batch, config), float(x.mean()) * config.data_scale
    spread = config.data_scale * float(x.std())
    out.append(
        graded(
            "deviation of the data",
            f"{deviation:.3g} after data_scale = {config.data_scale:g}",
            fault=not 0.02 <= deviation <= 5,
            warning=not 0.08 <= deviation <= 2,
            remedy="the diffusion is made for data of deviation about one: set data_scale to "
            f"{config.data_scale * 0.5 / max(deviation, 1e-9):.3g}",
        )
    )
    if config.target == "waveform":
        out.append(
            graded(
                "constant part (DC)",
                f"mean {mean:+.2g}, {100 * abs(mean) / max(spread, 1e-12):.1f} % of the deviation",
                fault=abs(mean) > spread,
                warning=abs(mean) > 0.1 * spread,
                remedy="the network spends itself on a constant: remove it from the recordings",
            )
        )
    if config.target == "waveform" and not (config.excitation or config.missing_band):
        clipped = float(np.mean(np.abs(x) >= 0.999))
        out.append(
            graded(
                "clipped samples",
                f"{100 * clipped:.3f} %",
                fault=clipped > 0.02,
                warning=clipped > 0.001,
                remedy="the model learns distortion: leave out recordings that are clipped (the "
                "'clipped' field of a clip's record says which)",
            )
        )
    return out


def silence(batch: Batch, config: StageConfig) -> Finding:
    """Share of silent snippets, each a batch row that teaches nothing."""
    x = np.nan_to_num(np.asarray(batch["x"], np.float64))
    if config.target == "mel":
        silent = x.max(axis=(1, 2)) < -0.5  # nothing above -60 dB
    else:
        silent = np.sqrt(np.mean(np.square(x), axis=(1, 2))) < 10 ** (_SILENT_DB / 20)
    share = float(silent.mean())
    return graded(
        "silent snippets",
        f"{100 * share:.0f} % of {len(x)}",
        fault=share > 0.3,
        warning=share > 0.05,
        remedy="silence is learnt first and best: prepare with a lower --max-silence",
    )


def rates_and_lengths(
    clips: Any, metas: list[dict[str, Any]], config: StageConfig
) -> list[Finding]:
    """Sources of a lower rate than the stage's; clips against the stage's lengths."""
    heard = config.rate if config.target == "waveform" else 16_000
    rates = [int(m.get("source_rate", 24_000)) for m in metas]
    low = sum(r < heard for r in rates) / len(rates)
    seconds = float(clips.seconds)
    cuts = Cuts.of(config, clips.seconds)
    trained = cuts.length / config.rate
    wanted = config.legal_length(round(config.train_seconds * config.rate))
    attends = any(config.unet.self_attention)
    return [
        graded(
            "rate of the sources",
            f"{100 * low:.0f} % were recorded below {heard} Hz"
            + (f", the lowest at {min(rates)} Hz" if low else ""),
            fault=low > 0.5,
            warning=low > 0.01,
            remedy="such clips hold nothing in the band that the stage should make, and it learns "
            "to make nothing there: leave them out",
        ),
        graded(
            "length of a snippet",
            f"{trained:.2f} s of clips of {seconds:.2f} s, planned {config.train_seconds:g} s",
            fault=2 * cuts.length < wanted,
            warning=cuts.length < wanted,
            remedy="clips are shorter than train_seconds, so snippets are cut short: lower "
            "train_seconds, or prepare longer clips",
        ),
        graded(
            "length of what is generated",
            f"{config.default_seconds:g} s by default, trained on {trained:.2f} s",
            fault=attends and config.default_seconds > 4 * trained,
            warning=attends and config.default_seconds > 1.5 * trained,
            remedy="self attention does not carry far beyond the lengths it was trained on: set "
            "default_seconds to the length of the snippets",
        ),
    ]


def condition(batch: Batch, config: StageConfig) -> list[Finding]:
    """The condition belongs to its target, holds none of what is to be made, and is corrupted."""
    if config.condition == "none":
        return []
    out = _stacked(batch, config) if config.condition == "stacked" else _aligned(batch, config)
    noise, blur = config.augmentation.noise_t_max, config.augmentation.blur_sigma
    return [
        *out,
        graded(
            "corruption of the condition",
            f"noise up to t = {noise:g}, blur {'off' if blur is None else list(blur)}",
            fault=False,
            warning=noise == 0 and blur is None,
            remedy="in the cascade the condition is generated, and a stage that saw only clean "
            "ones fails on it: set augmentation.noise_t_max (the paper: 0.5 or 1)",
        ),
    ]


def _stacked(batch: Batch, config: StageConfig) -> list[Finding]:
    if config.missing_band:
        return []  # the target has none of the condition's band, by intention
    x = np.nan_to_num(np.asarray(batch["x"], np.float64))[..., 0]
    low = np.nan_to_num(np.asarray(batch["low"], np.float64))[..., 0]
    up, down = config.up
    raised = scipy.signal.resample(low, low.shape[1] * up // down, axis=1)[:, : x.shape[1]]
    window = np.hanning(x.shape[1])
    ours, given = (np.fft.rfft(y * window, axis=1) for y in (x, raised))
    hz = np.fft.rfftfreq(x.shape[1], 1 / config.rate)
    nyquist = (config.condition_rate or 0) / 2
    below, above = hz < 0.9 * nyquist, hz > 1.05 * nyquist
    power = lambda s, band: float(np.sum(np.abs(s[:, band]) ** 2)) + 1e-30  # noqa: E731
    total = power(ours, slice(None))
    apart = 10 * math.log10(power(ours - given, below) / power(ours, below))
    new = 10 * math.log10(power(ours, above) / total) if above.any() else -math.inf
    leaked = 10 * math.log10(power(given, above) / power(ours, above)) if above.any() else 0.0
    return [
        graded(
            "condition and target agree",
            f"they differ by {apart:+.0f} dB in the band that both have",
            fault=apart > -6,
            warning=apart > -20,
            remedy="the condition is not of this moment of this clip: look at how the columns of "
            "the data were made",
        ),
        graded(
            "band to be made",
            f"{new:.0f} dB of the target lies above {nyquist:.0f} Hz",
            fault=new < -65,
            warning=new < -55,
            remedy="there is nothing to learn: the recordings were made at a lower rate, or went "
            "through a codec that cut them; leave them out",
        ),
        graded(
            "condition holds the answer",
            f"{leaked:+.0f} dB of the band to be made is in the condition already",
            fault=leaked > -10,
            warning=leaked > -30,
            remedy="the stage copies instead of making: condition_rate must be below rate, and the "
            "condition without the target's band",
        ),
    ]


def _aligned(batch: Batch, config: StageConfig) -> list[Finding]:
    if config.excitation or config.rate != 16_000:
        return []  # the target has another spectrum, by intention
    x = np.nan_to_num(np.asarray(batch["x"], np.float32))[..., 0]
    aligned = np.nan_to_num(np.asarray(batch["aligned"], np.float32))
    edge = min(4, aligned.shape[1] // 4)  # frames whose window reaches out of the snippet
    inner = slice(edge, aligned.shape[1] - edge)
    apart = float(np.mean(np.abs(log_mel(x)[:, inner] - aligned[:, inner]))) * 40
    return [
        graded(
            "condition and target agree",
            f"the mel spectrograms differ by {apart:.1f} dB",
            fault=apart > 10,
            warning=apart > 2,
            remedy="the spectrogram is not of this moment of this clip: look at how the columns of "
            "the data were made",
        )
    ]
