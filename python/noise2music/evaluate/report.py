"""One self-contained HTML page: tables, plots, spectrograms and players, and what made it.

Everything is inside the file (pictures as PNG, sound as Ogg, both in base64), so that it can be
sent, and nothing is loaded from anywhere. All text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from noise2music import __version__
from noise2music.audio import limit_peak, replacing
from noise2music.evaluate import tables
from noise2music.evaluate.evaluation import Evaluation
from noise2music.evaluate.sounds import RATE, REASONS, BadSound, Item, decode
from noise2music.plot import mel_picture, require_matplotlib

SHOWN = 6  # clips of each set with spectrogram and player
_SECONDS = 30  # of a clip, at most

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; text-align: left;
  border-bottom: 1px solid #ddd; vertical-align: top } td { font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1em 1em 0; width: 30em } img { max-width: 100% }
audio { width: 100% } code, pre { background: #f4f4f4; padding: .1em .3em; white-space: pre-wrap }
.failed { color: #a00 }
"""
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def write(path: Path, found: Evaluation, command: str) -> None:
    """Writes the page; UserError where matplotlib is absent or the file cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(_page(found, command), encoding="utf-8")


def _page(found: Evaluation, command: str) -> str:
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Evaluation by noise2music</title><style>{_STYLE}</style>",
        "<h1>Evaluation</h1>",
        f"<p>{len(found.generated)} generated and {len(found.reference)} reference clips, judged "
        f"at {RATE} Hz.</p>",
    ]
    if found.fad:
        parts += [
            "<h2>Fr&eacute;chet audio distance</h2>",
            _table(tables.fad_table(found)),
            "<p>n: rows that were compared; d: their dimensions. FAD of few clips is too large; "
            "FAD-inf is its limit for many, and the interval is that of FAD-inf (bootstrap over "
            "clips). KAD is 100 times the unbiased squared maximum mean discrepancy.</p>",
            _distance_plots(found),
        ]
    if found.similarity:
        parts += [
            "<h2>Similarity</h2>",
            _table(tables.similarity_table(found)),
            "<p>Average cosine over pairs, with a 95 % bootstrap interval. Shuffled: the mean over "
            "all wrong partners.</p>",
        ]
    parts += ["<h2>Clips that are not in the figures</h2>", _failures(found)]
    for name, items in (("Generated", found.generated), ("Reference", found.reference)):
        parts += [f"<h2>{name} clips</h2>", _clips(items)]
    parts += ["<h2>Made by</h2>", f"<pre>{html.escape(command)}</pre>", _table(_versions())]
    return "\n".join(parts) + "\n"


def _table(rows: tables.Table) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>" + "\n".join(lines) + "</table>"


def _failures(found: Evaluation) -> str:
    if not found.failed:
        return "<p>None.</p>"
    counts: dict[str, int] = {}
    for failures in found.failures.values():
        for failure in failures:
            counts[failure.reason] = counts.get(failure.reason, 0) + 1
    told = "".join(
        f"<li>{n} x {html.escape(reason)}: {html.escape(REASONS[reason])}</li>"
        for reason, n in sorted(counts.items())
    )
    return (
        f'<p class="failed">{found.failed} clips:</p><ul>{told}</ul>'
        f"{_table(tables.failure_table(found))}"
    )


def _versions() -> tables.Table:
    rows = [["", "version"], ["noise2music", __version__], ["Python", platform.python_version()]]
    for package in ("numpy", "scipy", "soundfile", "soxr", "pyarrow", "musicnn", "matplotlib"):
        try:
            rows.append([package, metadata.version(package)])
        except metadata.PackageNotFoundError:
            rows.append([package, "absent"])
    return [*rows, ["machine", f"{platform.system()} {platform.machine()}"]]


def _image(figure: Any, words: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{text}">'


def _distance_plots(found: Evaluation) -> str:
    """The distances of single clips, sorted, an encoder each; the farthest by name."""
    out = []
    for f in found.fad:
        if f.per_clip is None:
            continue
        ordered = sorted(f.per_clip.items(), key=lambda entry: entry[1])
        figure = require_matplotlib().Figure(figsize=(6, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([distance for _, distance in ordered], ".", markersize=3, color="#30558a")
        axes.set(xlabel="generated clips, sorted", ylabel="distance of the clip", ylim=(0, None))
        axes.set_title(f.encoder, fontsize=10)
        far = ", ".join(f"{name} ({distance:.4g})" for name, distance in ordered[:-6:-1])
        out.append(
            f"<figure>{_image(figure, f'distances of clips, {f.encoder}')}"
            f"<figcaption>Farthest: {html.escape(far)}</figcaption></figure>"
        )
    return "".join(out)


def _clips(items: Sequence[Item]) -> str:
    """Spectrogram and player of some clips, evenly spread over the set."""
    index = np.unique(np.linspace(0, len(items) - 1, min(SHOWN, len(items))).astype(int))
    out = []
    for item in (items[i] for i in index):
        try:
            samples = decode(item)[: _SECONDS * RATE]
        except BadSound:  # it could be read a moment ago
            continue
        picture, _ = mel_picture(samples, RATE)
        figure = require_matplotlib().Figure(figsize=(6, 2), layout="constrained")
        axes = figure.subplots()
        axes.imshow(
            picture.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, samples.size / RATE, 0, 1),
        )
        axes.set(yticks=[], xlabel="seconds")
        caption = f"<b>{html.escape(item.id)}</b> {html.escape(item.text)}"
        out.append(
            f"<figure>{_image(figure, f'spectrogram of {item.id}')}"
            f'<audio controls preload="none" src="data:audio/ogg;base64,{_ogg(samples)}"></audio>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return "".join(out)


def _ogg(samples: np.ndarray) -> str:
    import soundfile

    data = io.BytesIO()
    safe = limit_peak(samples)
    with soundfile.SoundFile(data, "w", RATE, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, samples.size, 4096):  # libsndfile's encoder needs short writes
            file.write(safe[start : start + 4096])
    return base64.b64encode(data.getvalue()).decode()
