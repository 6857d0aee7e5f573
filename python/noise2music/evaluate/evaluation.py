"""Two sets of clips, some encoders: everything that the report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noise2music.errors import UserError
from noise2music.evaluate.embedding import Embedded, Progress, embed_set
from noise2music.evaluate.encoders.protocol import DEFAULT_ENCODERS, load_encoder
from noise2music.evaluate.fad import FadResult, compare
from noise2music.evaluate.similarity import SimilarityResult, pair, similarity
from noise2music.evaluate.sounds import Failure, Item


@dataclasses.dataclass(frozen=True)
class Options:
    """How two sets are compared; see the command line for each."""

    encoders: tuple[str, ...] = DEFAULT_ENCODERS
    cache: Path | None = None
    workers: int = 1
    components: int | None = None
    draws: int = 100
    seed: int = 0
    force: bool = False
    allow_download: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was found. failures: set's name -> clips that are not in the figures, each once."""

    fad: list[FadResult]
    similarity: list[SimilarityResult]
    failures: dict[str, list[Failure]]
    generated: list[Item]
    reference: list[Item]

    @property
    def failed(self) -> int:
        """Clips that are not in the figures."""
        return sum(map(len, self.failures.values()))

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "fad": [f.as_dict() for f in self.fad],
            "similarity": [s.as_dict() for s in self.similarity],
            "failures": {
                name: [dataclasses.asdict(f) for f in failures]
                for name, failures in self.failures.items()
            },
        }


def evaluate(
    generated: Sequence[Item],
    reference: Sequence[Item],
    options: Options = Options(),
    *,
    fad: bool = True,
    pairs: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """FAD and, with `pairs`, similarity of the generated clips to the reference.

    Raises:
      UserError: an encoder is not there, too few clips, or clips that cannot be paired.
    """
    failures: dict[str, dict[tuple[str, str], Failure]] = {"generated": {}, "reference": {}}
    distances, similarities = [], []
    partners: dict[str, str] = {}
    if pairs:
        ours, theirs, alone = pair(generated, reference)
        partners = {g.id: r.id for g, r in zip(ours, theirs, strict=True)}
        mine = {(item.id, str(item.path)) for item in generated}
        for failure in alone if not fad else ():
            side = "generated" if (failure.id, failure.path) in mine else "reference"
            failures[side][failure.id, failure.reason] = failure
    for name in options.encoders:
        encoder = load_encoder(name, allow_download=options.allow_download)
        heard: dict[str, Embedded] = {}
        for side, items in (("generated", generated), ("reference", reference)):
            heard[side] = embed_set(
                items,
                encoder,
                cache=options.cache,
                workers=options.workers,
                load=None if options.allow_download else name,
                progress=progress,
                name=f"{name} {side}",
            )
            for failure in heard[side].failures:
                failures[side][failure.id, failure.reason] = failure
        ours_heard, theirs_heard = heard["generated"], heard["reference"]
        if fad:
            distances.append(
                compare(
                    ours_heard.rows,
                    theirs_heard.rows,
                    encoder=name,
                    components=options.components,
                    draws=options.draws,
                    seed=options.seed,
                    force=options.force,
                    names=[item.id for item in ours_heard.items],
                )
            )
        if pairs:
            both = paired(ours_heard, theirs_heard, partners)
            similarities.append(similarity(*both, encoder))
    return Evaluation(
        fad=distances,
        similarity=similarities,
        failures={side: list(found.values()) for side, found in failures.items()},
        generated=list(ours_heard.items),
        reference=list(theirs_heard.items),
    )


def paired(a: Embedded, b: Embedded, partners: dict[str, str]) -> tuple[Embedded, Embedded]:
    """The pairs of which both clips were heard: the same number of clips, in the same order."""
    where = {item.id: i for i, item in enumerate(b.items)}
    index = [
        (i, where[partners[item.id]])
        for i, item in enumerate(a.items)
        if partners.get(item.id) in where
    ]
    if len(index) < 2:
        raise UserError(f"similarity needs at least 2 pairs that can be heard, got {len(index)}")

    def take(heard: Embedded, chosen: list[int]) -> Embedded:
        return dataclasses.replace(
            heard,
            items=tuple(heard.items[i] for i in chosen),
            clips=tuple(heard.clips[i] for i in chosen),
        )

    return take(a, [i for i, _ in index]), take(b, [j for _, j in index])
