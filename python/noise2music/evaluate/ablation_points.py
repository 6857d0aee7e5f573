"""What a sweep's clips are worth: FAD and similarity of every setting, and of real clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from noise2music.errors import UserError
from noise2music.evaluate.ablation_times import Time
from noise2music.evaluate.embedding import Embedded, embed_set
from noise2music.evaluate.encoders.protocol import AudioEncoder, load_encoder
from noise2music.evaluate.evaluation import paired
from noise2music.evaluate.fad import FadResult, compare
from noise2music.evaluate.similarity import Average, SimilarityResult, similarity
from noise2music.evaluate.sounds import Failure, Item
from noise2music.evaluate.sweep import Setting, Sweep

Progress = Callable[[str, int, int], None]

FEWEST = 4  # clips: with fewer there are no figures


@dataclasses.dataclass(frozen=True)
class Point:
    """A setting and what was found; fad and similarity are None with fewer than four clips.

    same_as: the setting whose clips these are. failed: clips that a stage gave up (NaN, silence) or
    that cannot be judged. seconds: the median time of a clip, of `timed` batches of four; None
    where not timed.
    """

    setting: Setting
    same_as: str
    clips: int
    failed: int
    fad: FadResult | None = None
    similarity: SimilarityResult | None = None
    seconds: float | None = None
    timed: int = 0

    def likeness(self, kind: str) -> Average | None:
        """Similarity of the generated clips to the "text" or the "audio"."""
        return None if self.similarity is None else self.similarity.rows["generated"][kind]


@dataclasses.dataclass(frozen=True)
class Results:
    """Every point, that of the model as shipped first; truth: FAD of the partners, real clips.

    failures: clips of the reference that cannot be judged. machines: where times were taken.
    """

    points: list[Point]
    truth: FadResult
    failures: list[Failure]
    machines: list[str]


@dataclasses.dataclass(frozen=True)
class Judge:
    """One encoder with the sweep's cache of embeddings."""

    sweep: Sweep
    name: str
    encoder: AudioEncoder
    progress: Progress | None

    def hear(self, items: Sequence[Item], what: str) -> Embedded:
        return embed_set(
            items, self.encoder, cache=self.sweep.out / "embeddings", workers=self.sweep.workers,
            load=self.name, progress=self.progress, name=f"{self.name} {what}",
        )  # fmt: skip

    def distance(self, heard: Embedded, reference: Embedded) -> FadResult:
        return compare(
            heard.rows, reference.rows, encoder=self.name, components=self.sweep.components,
            draws=self.sweep.draws, force=self.sweep.force,
        )  # fmt: skip


def load_judges(sweep: Sweep, progress: Progress | None = None) -> tuple[Judge, Judge]:
    """Of FAD and of similarity; UserError where one is not there or hears more than a clip."""
    for_fad, for_pairs = (
        Judge(sweep, name, load_encoder(name), progress)
        for name in (sweep.encoder, sweep.similarity)
    )
    for judge in (for_fad, for_pairs):
        if sweep.seconds < judge.encoder.window:
            raise UserError(
                f"clips must be at least {judge.encoder.window:g} s for encoder {judge.name}, got "
                f"{sweep.seconds:g} s: make longer ones, or choose another encoder"
            )
    return for_fad, for_pairs


def judge_clips(
    sweep: Sweep,
    judges: tuple[Judge, Judge],
    settings: Sequence[Setting],
    makers: Mapping[str, Setting],
    times: Mapping[str, Sequence[Time]],
) -> Results:
    """Hears all clips and compares them."""
    of_fad, of_pairs = judges
    made = {s.name: _made(sweep, s) for s in settings if makers[s.name] is s}
    everything = [
        dataclasses.replace(item, id=f"{name}/{item.id}")
        for name, items in made.items()
        for item in items
    ]
    for judge in judges:  # in one go, so that processes are started once
        judge.hear(everything, "generated")
    reference = of_fad.hear(sweep.others, "reference")
    partners = {judge.name: judge.hear(sweep.partners, "truth") for judge in judges}
    names = {item.id: item.id for item in sweep.partners}

    def point(setting: Setting) -> Point:
        items = made[setting.name]
        heard = of_fad.hear(items, setting.name)
        both = of_pairs.hear(items, setting.name)
        good = min(len(heard.items), len(both.items))
        taken = [t.seconds for t in times.get(setting.name, ())]
        found = Point(
            setting=setting,
            same_as=setting.name,
            clips=good,
            failed=sweep.count - good,
            seconds=median(taken) if taken else None,
            timed=len(taken),
        )
        if good < FEWEST:
            return found
        pairs = paired(both, partners[of_pairs.name], names)
        return dataclasses.replace(
            found,
            fad=of_fad.distance(heard, reference),
            similarity=similarity(*pairs, of_pairs.encoder),
        )

    points = {name: point(makers[name]) for name in made}
    failures = {(f.id, f.reason): f for heard in partners.values() for f in heard.failures}
    failures |= {(f.id, f.reason): f for f in reference.failures}
    return Results(
        points=[dataclasses.replace(points[makers[s.name].name], setting=s) for s in settings],
        truth=of_fad.distance(partners[of_fad.name], reference),
        failures=list(failures.values()),
        machines=sorted({t.machine for batches in times.values() for t in batches}),
    )


def _made(sweep: Sweep, setting: Setting) -> list[Item]:
    """The clips of a setting that are there, under the ids of their partners."""
    folder = sweep.out / "clips" / setting.name
    paths = [(item, folder / f"{i:04d}.wav") for i, item in enumerate(sweep.partners)]
    return [Item(item.id, path, item.text) for item, path in paths if path.is_file()]
