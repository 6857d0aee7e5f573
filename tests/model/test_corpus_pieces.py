"""Pieces, splits, keys and arrangements: the labels are those of the notes that are rendered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_pieces import tune
from noise2music.data.corpus.arrange import Arrangement, arrange, draw_tempo
from noise2music.data.corpus.grooves import chord_classes, make_melody
from noise2music.data.corpus.pieces import (
    Piece,
    PieceError,
    PieceRef,
    Track,
    cached_piece,
    find_key,
    split_pieces,
)
from noise2music.data.corpus.scores import accompany
from noise2music.data.corpus.vocabulary import FAMILIES, TONICS

SECONDS = 6.0


def draws(piece: Piece, count: int) -> list[Arrangement]:
    return [arrange(piece, SECONDS, np.random.default_rng([1, i])) for i in range(count)]


@pytest.mark.parametrize("metre", ["4/4", "3/4", "6/8", "2/2"])
def test_onsets_are_at_the_labelled_tempo(metre: str) -> None:
    for made in draws(tune(metre), 10):
        chord = sorted({s.start for s in made.sounds if s.program not in (-1, 33, 38)})
        gaps = np.diff(chord)
        assert np.allclose(gaps, 60 / made.attributes["tempo_bpm"], atol=1e-6)
        assert made.attributes["metre"] == metre
        assert chord[0] == pytest.approx(0.0, abs=1e-6)


def test_the_notes_are_in_the_labelled_key() -> None:
    for made in draws(tune(), 20):
        tonic = made.attributes["tonic"]
        allowed = {(tonic + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}
        assert {s.pitch % 12 for s in made.sounds if s.program >= 0} <= allowed
        assert made.attributes["key"] == TONICS["major"][tonic]


def test_instruments_drums_and_register_are_as_labelled() -> None:
    seen = Counter()
    for made in draws(tune(), 60):
        attributes = made.attributes
        family = FAMILIES[attributes["family"]]
        voice = next(v for v in family.voices if v.name == attributes["instruments"][0])
        lead = [s for s in made.sounds if s.program in voice.programs]
        assert lead
        assert all(voice.low <= s.pitch <= voice.high for s in lead)
        assert attributes["drums"] == any(s.program == -1 for s in made.sounds)
        mean = np.average([s.pitch for s in lead], weights=[s.stop - s.start for s in lead])
        register = "low" if mean < 56 else "high" if mean > 68 else "middle"
        assert register == attributes["register"] or min(abs(mean - 56), abs(mean - 68)) < 0.5
        seen[attributes["family"]] += 1
        seen[attributes["dynamics"]] += 1
    assert set(seen) >= set(FAMILIES) | {"soft", "medium", "loud"}


def test_dynamics_order_the_velocities() -> None:
    means: dict[str, list[float]] = {}
    for made in draws(tune(), 20):
        value = float(np.mean([s.velocity for s in made.sounds if s.program >= 0]))
        means.setdefault(made.attributes["dynamics"], []).append(value)
    assert max(means["soft"]) < min(means["medium"])
    assert max(means["medium"]) < min(means["loud"])


def test_arranging_is_a_function_of_the_generator() -> None:
    assert draws(tune(), 3) == draws(tune(), 3)
    assert (
        arrange(tune(), SECONDS, np.random.default_rng(0), "choir").attributes["family"] == "choir"
    )


def test_a_piece_too_short_or_too_bare_is_refused() -> None:
    short = Piece("x", "classical", "scores", tune().tracks[:1], [(0.0, "4/4")], 4.0, 0, "major")
    with pytest.raises(PieceError, match="window"):
        arrange(short, SECONDS, np.random.default_rng(0))
    drums = Piece("x", "rock", "mma", tune().tracks[2:], tune().bars, 64.0, 0, "major", True)
    with pytest.raises(PieceError, match="no chords"):
        arrange(drums, SECONDS, np.random.default_rng(0))


def test_a_window_without_a_pitched_note_is_no_clip() -> None:
    piece = tune(bars=64)
    piece.tracks[0] = Track("chord", [(0.0, 1.0, 60, 80)])
    piece.tracks[1] = Track("bass", [(float(i), 1.0, 36, 80) for i in range(256)])
    with pytest.raises(PieceError, match="no pitched notes"):
        for i in range(20):
            arrange(piece, SECONDS, np.random.default_rng(i))


def test_tempo_is_log_uniform_in_its_range() -> None:
    rng = np.random.default_rng(0)
    tempi = np.array([draw_tempo(10, 1000, rng) for _ in range(4000)])
    assert tempi.min() >= 60
    assert tempi.max() <= 180
    assert abs(np.mean(np.log(tempi)) - np.log(np.sqrt(60 * 180))) < 0.02
    assert 60 <= draw_tempo(1, 20, rng) <= 72
    assert 150 <= draw_tempo(500, 900, rng) <= 180


@pytest.mark.parametrize("tonic", range(12))
def test_find_key_of_scales(tonic: int) -> None:
    major = [0, 2, 4, 5, 7, 9, 11, 0, 4, 7, 0]
    minor = [0, 2, 3, 5, 7, 8, 11, 0, 3, 7, 0]
    for mode, steps in (("major", major), ("minor", minor)):
        pitches = [60 + tonic + s for s in steps]
        assert find_key(pitches, [1.0] * len(pitches))[:2] == (tonic, mode)


def test_find_key_prior_breaks_a_near_tie() -> None:
    pitches, weights = [60, 62, 64, 65, 67, 69, 71], [1.0] * 7
    assert find_key(pitches, weights, prior=(9, "minor"))[:2] == (9, "minor")


def test_chords_and_melody_belong_together() -> None:
    assert chord_classes("Ab7") == (8, 0, 3, 6)
    assert chord_classes("Dm7b5") == (2, 5, 8, 0)
    with pytest.raises(ValueError, match="chord must be"):
        chord_classes("H7")
    chords = ["C", "F", "G", "C"] * 4
    melody = make_melody(chords, 4, False, np.random.default_rng(0))
    for onset, _, pitch, _ in melody.notes:
        if float(onset).is_integer():
            assert pitch % 12 in chord_classes(chords[int(onset // 4)])


def test_accompaniment_harmonises_the_tune() -> None:
    bars = [(0.0, "4/4"), (4.0, "4/4")]
    notes = [(0.0, 2.0, 60, 80), (2.0, 2.0, 64, 80), (4.0, 2.0, 71, 80), (6.0, 2.0, 62, 80)]
    _, bass = accompany(notes, bars, 0, "major")
    assert [n[2] % 12 for n in bass.notes if n[0] in (0.0, 4.0)] == [0, 7]


def test_split_is_by_piece_stratified_and_stable() -> None:
    refs = [PieceRef(f"{g}/{i}", "mma", g, "") for g in ("rock", "swing") for i in range(100)]
    refs += [PieceRef("lone", "scores", "ragtime", "")]
    splits = split_pieces(refs)
    assert splits == split_pieces(list(reversed(refs)))
    for genre in ("rock", "swing"):
        counts = Counter(splits[r.id] for r in refs if r.genre == genre)
        assert counts == {"train": 90, "test": 7, "validation": 3}
    assert splits["lone"] == "train"


def test_pieces_are_read_once_and_failures_kept(tmp_path: Path) -> None:
    calls = []

    def read(ref: PieceRef) -> Piece:
        calls.append(ref.id)
        if ref.id == "bad":
            raise PieceError("bad: no notes")
        return tune()

    good, bad = (PieceRef(name, "mma", "rock", "") for name in ("good", "bad"))
    assert cached_piece(good, tmp_path, read) == cached_piece(good, tmp_path, read) == tune()
    for _ in range(2):
        with pytest.raises(PieceError, match="no notes"):
            cached_piece(bad, tmp_path, read)
    assert calls == ["good", "bad"]
    assert all(json.loads(p.read_text()) for p in tmp_path.iterdir())
