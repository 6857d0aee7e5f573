"""A piece whose labels are certain, for the corpus tests."""

from __future__ import annotations

from noise2music.data.corpus.pieces import Piece, Track, bar_quarters, beat_quarters

SCALE = (60, 62, 64, 65, 67, 69, 71, 72)


def tune(metre: str = "4/4", bars: int = 16) -> Piece:
    """A C major scale in the metre's beats with a bass and drums: key and beat are certain."""
    size, beat = bar_quarters(metre), beat_quarters(metre)
    count = round(bars * size / beat)
    melody = [(i * beat, beat, SCALE[i % 8], 80) for i in range(count)]
    bass = [(i * size, size, 36, 80) for i in range(bars)]
    drums = [(i * beat, 0.2, 36, 90) for i in range(count)]
    tracks = [Track("chord", melody), Track("bass", bass), Track("drums", drums)]
    starts = [(i * size, metre) for i in range(bars)]
    return Piece("x", "rock", "mma", tracks, starts, bars * size, 0, "major", loops=True)
