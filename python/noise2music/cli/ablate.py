"""`noise2music evaluate ablate`: a sweep of inference parameters and its page."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
import sys
from typing import Annotated

import tyro

Path = Annotated[pathlib.Path, tyro.conf.arg(metavar="PATH")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablate:
    """Sweep inference parameters one at a time; table, Figure 2 and Figure 3. Resumable."""

    reference: tyro.conf.Positional[Path]
    """Captioned clips (a corpus' folder, a manifest): the first give the prompts and are what
    similarity is measured to, the others are FAD's reference."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the sweep, to make or to go on with."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of the manifest, only the lines with this split."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Of these, only the first N."""
    page: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Markdown page to write, with its figures in images/ beside it. Default: in the folder."""
    model: str = "tiny"
    """Name of a model that was shipped, or a folder with one."""
    route: str = "spectrogram"
    """spectrogram or waveform."""
    axes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = (
        "guidance",
        "denoising",
        "steps",
        "gamma",
    )
    """What to sweep."""
    count: int = 48
    """Clips a setting; a later, larger number adds to those that are there."""
    seconds: float = 10.0
    """Length of a clip."""
    seed: int = 0
    """Seed of the noise."""
    encoder: str = "musicnn_mtt"
    """Encoder of FAD; see `evaluate fad`."""
    similarity: str = "joint"
    """Encoder of similarity: one that reads text."""
    components: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Compare only the first N principal components of FAD's reference: needs 2 N rows."""
    timed: int = 1
    """Batches of four clips whose time is taken, for each setting with other steps; 0: none. A
    later, larger number adds to those that are there."""
    workers: int = 0
    """Processes that hear. Default: one a processor."""
    force: bool = False
    """Compute FAD below 2 d rows too."""
    allow_failed: bool = False
    """Exit with 0 even when a clip is not in the figures."""
    progress: bool = False
    """Draw a progress bar even when stderr is not a terminal."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        import noise2music
        from noise2music.arguments import check_choice, check_count
        from noise2music.cli.progress import Progress
        from noise2music.data.corpus.again import command_of
        from noise2music.evaluate import ablate, ablation_page, sounds
        from noise2music.evaluate.sweep import AXES, Sweep

        for axis in self.axes:
            check_choice(axis, AXES, kind="axis")
        pipe = noise2music.load(self.model)
        check_choice(self.route, pipe.routes, kind=f"route of model {pipe.name!r}")
        sweep = Sweep(
            pipe=pipe,
            route=self.route,
            reference=sounds.read_set(self.reference, self.split)[: self.limit],
            count=check_count(self.count, name="count", minimum=4),
            out=self.out,
            axes=self.axes,
            seconds=self.seconds,
            seed=self.seed,
            encoder=self.encoder,
            similarity=self.similarity,
            components=self.components,
            force=self.force,
            workers=self.workers or os.cpu_count() or 1,
        )
        timed = check_count(self.timed, name="timed", minimum=0)
        with Progress(force=self.progress) as progress:
            found = ablate.run(sweep, timed=timed, progress=progress)
        page = self.page or self.out / "ablation.md"
        command = shlex.join(["noise2music", *sys.argv[1:]])
        corpus = command_of(self.reference)
        ablation_page.write(page, sweep, found, [*([corpus] if corpus else []), command])
        failed = sum(p.failed for p in found.points if p.same_as == p.setting.name)
        failed += len(found.failures)
        print(f"{page}: {len(found.points)} settings, {failed} clips failed")
        return 1 if failed and not self.allow_failed else 0
