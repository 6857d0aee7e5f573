"""Results as tables of cells, for the terminal and the report."""

from __future__ import annotations

from noise2music.evaluate.evaluation import Evaluation
from noise2music.evaluate.similarity import Average

Table = list[list[str]]  # the first row is the heading


def fad_table(found: Evaluation) -> Table:
    """One row an encoder: n, d, FAD, FAD-infinity with its interval, KAD."""
    head = ["encoder", "clips", "n", "d", "FAD", "FAD-inf", "95 % interval", "KAD"]
    rows = [
        [
            f.encoder + (f" ({f.components} components)" if f.components else ""),
            f"{f.clips} / {f.reference_clips}",
            f"{f.rows} / {f.reference_rows}",
            str(f.d),
            f"{f.fad:.4g}" + (" (forced: n < 2 d)" if f.forced else ""),
            f"{f.infinity:.4g}",
            f"{f.low:.4g} to {f.high:.4g}",
            f"{f.kad:.4g}",
        ]
        for f in found.fad
    ]
    return [head, *rows]


def similarity_table(found: Evaluation) -> Table:
    """The rows of Table 6 for every encoder."""

    def cell(average: Average | None) -> str:
        if average is None:
            return "-"
        return f"{average.mean:.3f} ({average.low:.3f} to {average.high:.3f})"

    head = ["encoder", "pairs", "", "audio-text", "audio-audio"]
    rows = [
        [s.encoder, str(s.pairs), name, cell(row["text"]), cell(row["audio"])]
        for s in found.similarity
        for name, row in s.rows.items()
    ]
    return [head, *rows]


def failure_table(found: Evaluation) -> Table:
    """Every clip that is not in the figures."""
    head = ["set", "clip", "reason", "found", "file"]
    rows = [
        [side, f.id, f.reason, f.detail, f.path]
        for side, failures in found.failures.items()
        for f in failures
    ]
    return [head, *rows]


def text(found: Evaluation) -> str:
    """All tables in columns."""
    found_tables = (fad_table(found), similarity_table(found), failure_table(found))
    return "\n\n".join(columns(table) for table in found_tables if len(table) > 1)


def columns(table: Table) -> str:
    """A table for the terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines)
