"""Whether an encoder hears damage: FAD must rise with the strength of what is done to the sound.

noise      white noise 30, 20 and 10 dB below the clip
low-pass   band-limited to 4, 2 and 1 kHz
shuffle    pieces of 0.5, 0.15 and 0.05 s in random order
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from noise2music.audio import resample
from noise2music.errors import UserError
from noise2music.evaluate.encoders.protocol import Array, AudioEncoder
from noise2music.evaluate.frechet import frechet_distance, principal_axes, stack
from noise2music.evaluate.sounds import RATE, BadSound, Item, decode

DAMAGE: dict[str, tuple[float, ...]] = {
    "noise": (-30.0, -20.0, -10.0),
    "low-pass": (4000.0, 2000.0, 1000.0),
    "shuffle": (0.5, 0.15, 0.05),
}


@dataclasses.dataclass(frozen=True)
class Heard:
    """One encoder: FAD of the undamaged half, and of each damage from weak to strong."""

    encoder: str
    clips: int
    rows: int
    d: int
    undamaged: float
    distances: dict[str, tuple[float, ...]]

    @property
    def wrong(self) -> list[str]:
        """Damages whose distances do not rise from one strength to the next."""
        rising = {k: np.all(np.diff((self.undamaged, *v)) > 0) for k, v in self.distances.items()}
        return [kind for kind, right in rising.items() if not right]


def damage(samples: Array, kind: str, strength: float, rng: np.random.Generator) -> Array:
    """Samples (n,) at 16 kHz, damaged; the same length."""
    if kind == "noise":
        level = np.sqrt(np.mean(np.square(samples, dtype=np.float64))) * 10 ** (strength / 20)
        return samples + (level * rng.standard_normal(samples.size)).astype(np.float32)
    if kind == "low-pass":
        narrow = resample(samples, RATE, round(2 * strength))
        return resample(narrow, round(2 * strength), RATE)[: samples.size]
    if kind == "shuffle":
        length = round(strength * RATE)
        count = samples.size // length
        pieces = samples[: count * length].reshape(count, length)[rng.permutation(count)]
        return np.concatenate([pieces.reshape(-1), samples[count * length :]])
    raise ValueError(f"n2m.evaluate: damage must be one of {', '.join(DAMAGE)}, got {kind!r}")


def hear_damage(
    items: Sequence[Item], encoder: AudioEncoder, *, components: int | None = None, seed: int = 0
) -> Heard:
    """The second half of the clips, damaged, against the first half.

    Raises:
      UserError: fewer than 8 clips that can be heard, or fewer than 2 d rows in a half.
    """
    rng = np.random.default_rng(seed)
    sounds = []
    for item in items:
        try:
            samples = decode(item)
        except BadSound as bad:
            raise UserError(f"{item.path} {bad.reason}: {bad.detail}") from bad
        sounds.append(samples)
    if len(sounds) < 8:
        raise UserError(f"at least 8 clips are needed, got {len(sounds)}")

    def embed(clips: Sequence[Array]) -> Array:
        heard = [encoder.embed(resample(c, RATE, encoder.sample_rate)) for c in clips]
        return stack(heard if encoder.framewise else [h.mean(axis=0)[None] for h in heard])

    first, second = sounds[: len(sounds) // 2], sounds[len(sounds) // 2 :]
    reference = embed(first)
    axes = np.eye(encoder.dim)
    if components is not None:
        _, axes = principal_axes(reference, components)
    reference = reference @ axes
    if len(reference) < 2 * reference.shape[1]:
        raise UserError(
            f"{len(reference)} rows of {reference.shape[1]} dimensions are too few: use more clips "
            "or --components"
        )

    def distance(clips: Sequence[Array]) -> float:
        return frechet_distance(embed(clips) @ axes, reference)

    return Heard(
        encoder=encoder.name,
        clips=len(second),
        rows=len(reference),
        d=reference.shape[1],
        undamaged=distance(second),
        distances={
            kind: tuple(distance([damage(c, kind, s, rng) for c in second]) for s in strengths)
            for kind, strengths in DAMAGE.items()
        },
    )


def table(found: Sequence[Heard]) -> list[list[str]]:
    """One row an encoder and damage; the first row is the heading."""
    head = ["encoder", "damage", "none", "weak", "middle", "strong", "rises"]
    rows = [
        [
            f"{h.encoder}, n = {h.rows}, d = {h.d}",
            f"{kind} {', '.join(f'{s:g}' for s in DAMAGE[kind])}",
            f"{h.undamaged:.4g}",
            *(f"{v:.4g}" for v in values),
            "no" if kind in h.wrong else "yes",
        ]
        for h in found
        for kind, values in h.distances.items()
    ]
    return [head, *rows]
