"""One self-contained HTML page about a labelled set: is it balanced, and do the captions fit?"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio import limit_peak, replacing, resample
from noise2music.errors import UserError
from noise2music.label.vocabulary import Vocabulary, open_vocabulary
from noise2music.plot import require_matplotlib

Array = np.ndarray

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; text-align: left;
  border-bottom: 1px solid #ddd; vertical-align: top } td { font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1em 1em 0; width: 30em; vertical-align: top }
img, audio { width: 100% } pre { background: #f4f4f4; padding: .3em; white-space: pre-wrap }
"""
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_SECONDS, _RATE = 10, 16_000  # of a clip that is heard on the page
_TAIL = 15  # captions of a list


@dataclasses.dataclass(frozen=True)
class _Counts:
    """n_j among the K, among the K' nearest, among the K' drawn."""

    vocabulary: Vocabulary
    before: Array
    nearest: Array
    drawn: Array


def write(
    folder: Path, vocabularies: Sequence[Path], out: Path, *, clips: int = 8, seed: int = 0
) -> None:
    """The page of a folder of `assign`, made with these vocabularies.

    clips: how many, drawn at random, are shown with their captions and a player.

    Raises:
      UserError: a folder that is not whole, another vocabulary, or no matplotlib.
    """
    require_matplotlib()
    report, labels = _read(folder)
    counts = [_counts(folder, open_vocabulary(path), report) for path in vocabularies]
    rng = np.random.default_rng(seed)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Labels by noise2music</title><style>{_STYLE}</style><h1>Labels</h1>",
        f"<p>{report['labels']} captions of {report['clips']} clips; K = {report['K']}.</p>",
        "<h2>Balance</h2>",
        _entropies(report["vocabularies"]),
        "<p>Before: all K nearest captions of every clip. Nearest: what taking the K' nearest "
        "would have given. Drawn: K' of the K, with probability inverse to their frequency.</p>",
        *(_frequencies(c) for c in counts),
        "<h2>Similarity</h2>",
        *(_similarities(c.vocabulary.name, labels) for c in counts),
        "<h2>The tail that balancing rescued</h2>",
        *(_rescued(c) for c in counts),
        f"<h2>{clips} clips at random</h2>",
        *(_clip(rows) for rows in _some_clips(labels, clips, rng)),
        f"<h2>Made by</h2><pre>{html.escape(json.dumps(report['made_by'], indent=1))}</pre>",
    ]
    with replacing(out) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """report.json, and the rows of each clip."""
    labels: dict[str, list[dict[str, Any]]] = {}
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        with (folder / "labels.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                labels.setdefault(row["clip"], []).append(row)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is no whole folder of `label assign`: {error!r}") from error
    return report, labels


def _counts(folder: Path, vocabulary: Vocabulary, report: Mapping[str, Any]) -> _Counts:
    path = folder / f"counts-{vocabulary.name}.npy"
    if vocabulary.name not in report["vocabularies"] or not path.is_file():
        known = ", ".join(report["vocabularies"])
        raise UserError(f"{folder} was not labelled from {vocabulary.path.name}, but from {known}")
    before, nearest, drawn = np.load(path)
    if before.size != vocabulary.size:
        raise UserError(
            f"{vocabulary.path} holds {vocabulary.size} captions now, and {before.size} then"
        )
    return _Counts(vocabulary, before, nearest, drawn)


def _entropies(vocabularies: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        ["vocabulary", "captions", "K'", "used before", "used nearest", "used drawn"]
        + ["bits before", "bits nearest", "bits drawn"]
    ]
    kinds = ("before", "nearest", "drawn")
    for name, v in vocabularies.items():
        used = [f"{v[f'used_{kind}']:g}" for kind in kinds]
        bits = [f"{v[f'bits_{kind}']:.3f}" for kind in kinds]
        rows.append([name, f"{v['captions']:g}", f"{v['quota']:g}", *used, *bits])
    return _table(rows)


def _frequencies(counts: _Counts) -> str:
    """Shares of the captions, the most frequent first, before and after."""
    figure = require_matplotlib().Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for name, n in (
        ("before", counts.before),
        ("nearest", counts.nearest),
        ("drawn", counts.drawn),
    ):
        used = np.sort(n[n > 0])[::-1]
        axes.loglog(np.arange(1, used.size + 1), used / used.sum(), label=name)
    axes.set(xlabel="captions by frequency", ylabel="share of all labels")
    axes.legend()
    axes.set_title(counts.vocabulary.name, fontsize=10)
    return f"<figure>{_image(figure, f'frequencies of {counts.vocabulary.name}')}</figure>"


def _similarities(name: str, labels: Mapping[str, list[dict[str, Any]]]) -> str:
    values = [r["similarity"] for rows in labels.values() for r in rows if r["vocabulary"] == name]
    figure = require_matplotlib().Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=50, color="#30558a")
    axes.set(xlabel="cosine of clip and caption", ylabel="labels")
    axes.set_title(name, fontsize=10)
    return f"<figure>{_image(figure, f'similarities of {name}')}</figure>"


def _rescued(counts: _Counts) -> str:
    """The captions that the draw gave most to and took most from, beside taking the K' nearest."""
    gain = counts.drawn - counts.nearest
    lost = int(((counts.drawn > 0) & (counts.nearest == 0)).sum())
    top = [int(j) for j in np.argsort(-gain, kind="stable")[:_TAIL] if gain[j] > 0]
    cut = [int(j) for j in np.argsort(gain, kind="stable")[:_TAIL] if gain[j] < 0]
    texts = counts.vocabulary.pick([*top, *cut])
    head = ["caption", "before", "nearest", "drawn"]

    def rows(chosen: Sequence[int]) -> list[list[str]]:
        return [
            [texts[j], *(str(n[j]) for n in (counts.before, counts.nearest, counts.drawn))]
            for j in chosen
        ]

    return (
        f"<h3>{html.escape(counts.vocabulary.name)}</h3><p>{lost} captions are in the set that the "
        f"K' nearest would not have held. Most gained:</p>{_table([head, *rows(top)])}"
        f"<p>Most lost:</p>{_table([head, *rows(cut)])}"
    )


def _some_clips(
    labels: Mapping[str, list[dict[str, Any]]], count: int, rng: np.random.Generator
) -> list[list[dict[str, Any]]]:
    ids = list(labels)
    chosen = rng.choice(len(ids), min(count, len(ids)), replace=False)
    return [labels[ids[i]] for i in sorted(chosen)]


def _clip(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["vocabulary", "caption", "similarity", "rank", "count"]
    body = [
        [r["vocabulary"], r["caption"], f"{r['similarity']:.3f}", str(r["rank"]), str(r["count"])]
        for r in rows
    ]
    return (
        f"<h3>{html.escape(rows[0]['clip'])}</h3><figure>{_player(rows[0])}</figure>"
        f"{_table([head, *body])}"
    )


def _player(row: Mapping[str, Any]) -> str:
    """The clip's first ten seconds; a line that says so where the file has gone."""
    import soundfile

    try:
        with soundfile.SoundFile(row["audio"]) as file:
            file.seek(round(row["start"] * file.samplerate))
            wanted = round(min(row["end"] - row["start"], _SECONDS) * file.samplerate)
            samples = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
            samples = resample(samples, file.samplerate, _RATE)
        safe = limit_peak(samples)
    except (soundfile.LibsndfileError, OSError, RuntimeError, UserError):
        return "<p>The sound file is not there, or lies in a .tar.</p>"
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", _RATE, 1, format="OGG", subtype="VORBIS") as ogg:
        for start in range(0, safe.size, 4096):  # libsndfile's encoder needs short writes
            ogg.write(safe[start : start + 4096])
    text = base64.b64encode(data.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/ogg;base64,{text}"></audio>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>" + "\n".join(lines) + "</table>"


def _image(figure: Any, words: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{text}">'
