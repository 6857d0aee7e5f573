"""`noise2music evaluate retrieval`: its own file, like its module."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import sys
from typing import Annotated

import tyro

from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """R@1 and R@10 of clips and captions, and zero-shot accuracy by attribute (joint encoders)."""

    manifest: tyro.conf.Positional[Annotated[pathlib.Path, tyro.conf.arg(metavar="MANIFEST")]]
    """Clips with captions: JSONL, or a folder of `data corpus`, whose attributes are judged too."""
    encoder: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("joint",)
    """joint, joint:FOLDER of `train joint`; clap, muq_mulan with :PATH; MODULE:CLASS of yours."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Only the lines with this split."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N clips: R@k depends on how many there are."""
    unseen: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="MANIFEST")] = None
    """Of each clip take the first caption that is not in this manifest (what was trained on)."""
    allow_download: bool = False
    """Let an encoder without a PATH ask its hub."""
    cache: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Keep embeddings there, in Parquet: a run that was stopped goes on."""
    workers: int = 0
    """Processes that hear. Default: one a processor."""
    allow_failed: bool = False
    """Exit with 0 even when a clip is not in the figures."""
    json: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write everything as JSON."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from noise2music.audio import check_output
        from noise2music.cli.progress import Progress
        from noise2music.evaluate import retrieval, sounds, tables
        from noise2music.evaluate.embedding import embed_set
        from noise2music.evaluate.encoders.protocol import JointEncoder, load_encoder

        if self.json is not None:
            check_output(self.json, [".json"])
        items = sounds.read_set(self.manifest, self.split)[: self.limit]
        rows = retrieval.read_rows(self.manifest)
        seen: set[str] = set()
        if self.unseen is not None:
            trained = retrieval.read_rows(self.unseen).values()
            seen = {text for row in trained for text in retrieval.captions_of(row)}
        items, left_out = retrieval.unseen_texts(items, rows, seen)
        results, failed = [], 0
        for name in self.encoder:
            encoder = load_encoder(name, allow_download=self.allow_download)
            if not isinstance(encoder, JointEncoder):
                raise UserError(f"encoder {name!r} must read text (embed_text): it hears only")
            with Progress(force=self.progress) as progress:
                heard = embed_set(
                    items, encoder, cache=self.cache, workers=self.workers or os.cpu_count() or 1,
                    load=name, progress=progress,
                )  # fmt: skip
            results.append(retrieval.retrieval(heard, rows, encoder))
            failed += len(heard.failures)
            print(f"{encoder.name} ({encoder.weights_hash}): {len(heard.items)} clips")
            print("\n\n".join(tables.columns(t) for t in retrieval.tables(results[-1])))
            for failure in heard.failures:
                print(f"{failure.id}  {failure.reason}  {failure.detail}", file=sys.stderr)
        if left_out:
            print(f"{left_out} clips have no caption that is new", file=sys.stderr)
        if self.json is not None:
            command = shlex.join(["noise2music", *sys.argv[1:]])
            out = {"command": command, "retrieval": [r.as_dict() for r in results]}
            self.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
        if failed and not self.allow_failed:
            print(f"{failed} clips are not in these figures (--allow-failed exits with 0)",
                  file=sys.stderr)  # fmt: skip
            return 1
        return 0
