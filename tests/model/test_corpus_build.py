"""The corpus folder: options, draws, manifest, resuming; rendering where the tools are there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpus_pieces import tune
from noise2music.data.corpus import CorpusOptions, build_corpus
from noise2music.data.corpus.build import (
    Catalogue,
    draw_clip,
    make_catalogue,
    read_parts,
    write_manifest,
)
from noise2music.data.corpus.card import data_card
from noise2music.data.corpus.grooves import find_mma
from noise2music.data.corpus.pieces import PieceError, PieceRef, Track, cached_piece, split_pieces
from noise2music.data.corpus.render import Renderer, find_soundfont, set_level
from noise2music.data.corpus.scores import list_scores, read_score


def _missing(*needs: str) -> str:
    """Why a rendering test cannot run here; empty where it can."""
    for module in needs:
        if module in ("mma", "soundfont"):
            try:
                find_mma() if module == "mma" else find_soundfont()
            except FileNotFoundError as error:
                return str(error)
        elif importlib.util.find_spec(module) is None:
            return f"needs {module}: pip install 'noise2music[data]'"
    try:
        import fluidsynth  # noqa: F401
    except ImportError as error:
        return f"needs the FluidSynth library: {error}"
    return ""


def needs(*names: str) -> pytest.MarkDecorator:
    reason = _missing(*names)
    return pytest.mark.skipif(bool(reason), reason=reason or "all there")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clips", 0),
        ("seed", -1),
        ("workers", 0),
        ("only", "midi"),
        ("split", "dev"),
        ("seconds", 0.5),
        ("seconds", float("nan")),
        ("captions", 0),
    ],
)
def test_bad_options_name_the_option(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"n2m\.corpus: {field} must be .*, got"):
        CorpusOptions(**{field: value})


def small_catalogue(folder: Path) -> Catalogue:
    """Ten pieces that are already in the cache, so that nothing outside is needed."""
    refs = [PieceRef(f"p{i}", "mma", "rock", "") for i in range(10)]
    for ref in refs:
        cached_piece(ref, folder, lambda _: tune())
    return Catalogue({"rock": refs}, split_pieces(refs), None, None)


def test_clip_depends_on_seed_and_index_only(tmp_path: Path) -> None:
    catalogue = small_catalogue(tmp_path)
    options = CorpusOptions(seed=3, seconds=6)

    def draw(index: int, options: CorpusOptions) -> Any:
        ref, made, rng, _ = draw_clip(index, options, catalogue, tmp_path)
        return ref, made, float(rng.random())

    forward = [draw(i, options) for i in range(6)]
    backward = [draw(i, options) for i in reversed(range(6))]
    assert forward == backward[::-1]
    assert forward == [
        draw(i, CorpusOptions(clips=9, workers=4, seed=3, seconds=6)) for i in range(6)
    ]
    assert forward != [draw(i, CorpusOptions(seed=4, seconds=6)) for i in range(6)]


def test_a_split_draws_its_own_pieces_only(tmp_path: Path) -> None:
    catalogue = small_catalogue(tmp_path)
    test = catalogue.of("test")
    drawn = {draw_clip(i, CorpusOptions(seconds=6), test, tmp_path)[0].id for i in range(8)}
    assert drawn == {name for name, split in catalogue.splits.items() if split == "test"}
    assert catalogue.of(None) is catalogue


def test_a_piece_whose_source_is_missing_is_passed_over(tmp_path: Path) -> None:
    catalogue = Catalogue({"rock": [PieceRef("q", "mma", "rock", "")]}, {"q": "train"}, None, None)
    with pytest.raises(PieceError, match="no usable rock piece .* not installed"):
        draw_clip(0, CorpusOptions(), catalogue, tmp_path)


def _part(out: Path, index: int, dropped: str = "") -> None:
    name = f"{index:06d}"
    attributes = {
        "genre": "rock",
        "family": "organ",
        "mode": "major",
        "metre": "4/4",
        "register": "low",
        "dynamics": "soft",
        "drums": True,
        "tempo_bpm": 100 + index,
    }
    clip = {
        "id": f"clip-{name}",
        "piece": f"p{index}",
        "split": "train",
        "audio": f"audio/{name}.flac",
        "seconds": 12.0,
        "captions": ["é"],
        "attributes": attributes,
    }
    part = {"index": index, "dropped": dropped} if dropped else {"index": index, "clip": clip}
    (out / "parts" / f"{name}.json").write_text(json.dumps(part))
    if not dropped:
        (out / "audio" / f"{name}.flac").touch()


def test_manifest_holds_finished_clips_in_order_and_counts_the_dropped(tmp_path: Path) -> None:
    for folder in ("parts", "audio"):
        (tmp_path / folder).mkdir()
    for index in (4, 0, 2, 9):
        _part(tmp_path, index)
    _part(tmp_path, 1, dropped="silent or not finite")
    (tmp_path / "audio" / "000002.flac").unlink()
    assert [p["index"] for p in read_parts(tmp_path, 9)] == [0, 1, 4]
    kept, dropped = write_manifest(tmp_path, 9)
    lines = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["clip-000000", "clip-000004"]
    assert dropped == {"silent or not finite": 1}
    card = data_card(kept, dropped, {"rock": [1, 2]}, CorpusOptions())
    assert "2 clips of" in card
    assert "1 x silent or not finite" in card
    assert "| organ | 2 |" in card
    assert data_card([], {}, {}, CorpusOptions())


def test_level_is_reached_or_limited_by_the_peak() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(24_000).astype(np.float32)
    quiet, level = set_level(noise, -20.0)
    assert level == pytest.approx(-20.0, abs=1e-3)
    assert 20 * np.log10(np.sqrt(np.mean(quiet**2))) == pytest.approx(-20.0, abs=1e-3)
    loud, level = set_level(noise, 0.0)
    assert np.abs(loud).max() == pytest.approx(0.95, abs=1e-4)
    assert level < -1
    with pytest.raises(ValueError, match="silent"):
        set_level(np.zeros(24_000, np.float32), -20.0)
    with pytest.raises(ValueError, match="not finite"):
        set_level(np.full(24_000, np.nan, np.float32), -20.0)
    with pytest.raises(ValueError, match="nearly silent"):
        set_level(noise * (np.arange(24_000) < 12_000), -20.0)


def test_missing_tools_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install fluidsynth fluid-soundfont-gm"):
        find_soundfont(tmp_path / "no.sf2")
    if not any(Path(p).exists() for p in ("/usr/share/mma/lib", "/usr/local/share/mma/lib")):
        monkeypatch.setenv("MMA_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError, match=r"MMA_HOME.*apt-get install mma"):
            find_mma()


@needs("soundfont")
def test_renders_are_the_same_after_any_other_clip() -> None:
    from noise2music.data.corpus.arrange import arrange

    first, second = (arrange(tune(), 6.0, np.random.default_rng(i)) for i in (1, 2))
    renderer = Renderer()
    alone = renderer.render(first.sounds, 6.0)
    other = renderer.render(second.sounds, 6.0)
    again = renderer.render(first.sounds, 6.0)
    assert alone.shape == (144_000,)
    assert alone.std() > 1e-4
    np.testing.assert_array_equal(alone, again)
    assert not np.array_equal(alone, other)


@needs("soundfont", "mma", "mido")
def test_corpus_of_grooves_resumes_and_extends(tmp_path: Path) -> None:
    def build(out: str, clips: int, workers: int = 1) -> Any:
        return build_corpus(
            tmp_path / out, clips=clips, workers=workers, only="mma", seconds=4, progress=False
        )

    report = build("a", 2)
    assert (report.kept + report.dropped, report.made) == (2, 2)
    sounds = {p.name: p.read_bytes() for p in (tmp_path / "a" / "audio").iterdir()}
    victim = sorted(sounds)[0]
    (tmp_path / "a" / "audio" / victim).unlink()
    assert build("a", 3).made == 2
    assert (tmp_path / "a" / "audio" / victim).read_bytes() == sounds[victim]
    assert build("a", 3).made == 0
    build("b", 3, workers=2)
    for name in ("manifest.jsonl", "DATA_CARD.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for line in (tmp_path / "a" / "manifest.jsonl").read_text().splitlines():
        clip = json.loads(line)
        audio, rate = soundfile.read(tmp_path / "a" / clip["audio"])
        twin = tmp_path / "b" / clip["audio"]
        assert twin.read_bytes() == (tmp_path / "a" / clip["audio"]).read_bytes()
        assert (rate, audio.shape) == (24_000, (96_000,))
        assert len(clip["captions"]) == 6
        assert np.abs(audio).max() < 0.96
        level = 20 * np.log10(np.sqrt(np.mean(audio**2)))
        assert level == pytest.approx(clip["attributes"]["level_db"], abs=0.1)
    with pytest.raises(ValueError, match="same options"):
        build_corpus(tmp_path / "a", clips=1, seed=5, only="mma", seconds=4, progress=False)
    with pytest.raises(ValueError, match="empty or new folder"):
        build_corpus(tmp_path, clips=1, only="mma", seconds=4, progress=False)


@needs("music21")
def test_scores_are_listed_without_the_reserved_ones_and_read() -> None:
    catalogue = make_catalogue("scores")
    folder = catalogue.scores_folder
    assert folder is not None
    refs = list_scores(folder)
    assert len(refs) > 1000
    folders = {ref.where.split("/")[0].lower() for ref in refs}
    assert not folders & {"essenfolksong", "palestrina", "monteverdi", "leadsheet", "trecento"}
    assert "ragtime" not in catalogue.by_genre
    by_where = {ref.where: ref for ref in refs}
    chorale = read_score(by_where["bach/bwv297.mxl"], folder)
    assert len(chorale.tracks) == 4
    assert chorale.bars[1][1] == "4/4"
    jig = read_score(by_where["ryansMammoth/LanigansBallJig.abc"], folder)
    assert (jig.tonic, jig.mode, jig.loops) == (4, "minor", True)
    assert {t.role for t in jig.tracks} == {"melody", "chord", "bass"}
    assert all(0 <= n[0] < jig.length for t in jig.tracks for n in t.notes)
    assert jig.length == pytest.approx(len(jig.bars) * 3.0)
    assert isinstance(jig.tracks[0], Track)
