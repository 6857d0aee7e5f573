"""Sweeps: what is swept, that a stopped sweep goes on, and the page that comes out."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_encoder import RATE, tone
from noise2music.clip import Clip
from noise2music.config import load_preset
from noise2music.data.corpus import CorpusOptions
from noise2music.data.corpus.again import command_of
from noise2music.data.corpus.build import RECIPE
from noise2music.errors import OutputError, UserError
from noise2music.evaluate import ablate, ablation_page, figures
from noise2music.evaluate.sounds import Item
from noise2music.evaluate.sweep import Sweep
from noise2music.stage import Stage

FAKE = "fake_encoder:FakeEncoder"


class FakePipe:
    """Tones of the prompt's pitch in noise, the more of it the further guidance is from 3."""

    name, model_hash = "fake", "0123"

    def __init__(self, folder):
        self.folder = folder
        (folder / "spectrogram_generator.safetensors").write_bytes(b"1")
        self.calls = []
        self.broken = None
        self.stages = {
            name: load_preset(f"tiny_{name}")
            for name in ("spectrogram_generator", "spectrogram_vocoder")
        }

    def stage(self, name):
        bare = types.SimpleNamespace(config=self.stages[name])
        return types.SimpleNamespace(
            coefficients=lambda *options: Stage.coefficients(bare, *options)
        )

    def __call__(self, prompts, *, seconds, seed, route, index, until, **options):
        self.calls.append((options, index, len(prompts)))
        if options == self.broken:
            raise OutputError("silence", stage=until)
        level = 0.01 * (1 + abs(options.get("guidance", {}).get("spectrogram_generator", 3) - 3))
        return [
            Clip(
                tone(float(prompt), seconds)
                + level * np.random.default_rng((seed, index + i)).standard_normal(2 * RATE),
                RATE,
            )
            for i, prompt in enumerate(prompts)
        ]


@pytest.fixture
def sweep(tmp_path):
    rng = np.random.default_rng(0)
    reference = []
    for i in range(16):
        hz, path = 300 + 250 * ((5 * i) % 16), tmp_path / f"{i}.wav"
        soundfile.write(path, tone(hz, 2.0) + 0.01 * rng.standard_normal(2 * RATE), RATE)
        reference.append(Item(str(i), path, str(hz)))
    return Sweep(
        pipe=FakePipe(tmp_path),
        route="spectrogram",
        reference=reference,
        count=6,
        out=tmp_path / "sweep",
        seconds=2.0,
        encoder=FAKE,
        similarity=FAKE,
        draws=10,
    )


def test_what_is_swept(sweep):
    settings = {s.name: s.options for s in sweep.settings()}
    assert len(settings) == 1 + 6 + 6 + 8 + 3
    generator, vocoder = sweep.stages
    assert settings["base"] == {}
    assert settings[f"{generator}-guidance-15"] == {"guidance": {generator: 15.0}}
    assert f"{vocoder}-guidance-15" not in settings  # it reads no text
    assert settings[f"{vocoder}-denoising-uniform"] == {"denoising": {vocoder: "uniform"}}
    assert settings[f"{generator}-steps-80"] == {"steps": {generator: 80}}
    assert settings["gamma-0.5"] == {"gamma": 0.5}


def test_settings_that_cannot_differ_are_made_once(sweep):
    generator, vocoder = sweep.stages
    makers = sweep.makers(sweep.settings())
    same = {name: s.name for name, s in makers.items() if s.name != name}
    assert same == dict.fromkeys(
        (
            f"{generator}-guidance-3",
            f"{generator}-steps-40",
            f"{vocoder}-steps-12",
            f"{vocoder}-denoising-front_heavy",  # Table 8 as shipped
            "gamma-0",
        ),
        "base",
    )


def test_a_stopped_sweep_goes_on_and_draws_its_figures(sweep, tmp_path):
    sweep = dataclasses.replace(sweep, axes=("guidance", "steps"))
    pipe = sweep.pipe
    first = ablate.run(sweep, timed=1)
    made = len(pipe.calls)
    assert made == 12 * 2 + 7 * 2  # two batches a setting, two more where time is taken
    lost = sweep.out / "clips" / "base" / "0004.wav"
    kept = lost.read_bytes()
    lost.unlink()
    again = ablate.run(sweep, timed=1)
    assert pipe.calls[made:] == [({}, 4, 2)]
    assert lost.read_bytes() == kept
    assert again == first
    points = {p.setting.name: p for p in first.points}
    near, far = (points[f"spectrogram_generator-guidance-{w}"] for w in (2, 15))
    assert first.truth.kad < near.fad.kad < far.fad.kad
    for kind in ("text", "audio"):
        assert near.likeness(kind).mean > far.likeness(kind).mean
    assert points["base"].seconds > 0 and near.seconds is None
    own = points["spectrogram_generator-guidance-3"]
    assert own == dataclasses.replace(points["base"], setting=own.setting)

    page = tmp_path / "docs" / "fake.md"
    ablation_page.write(page, sweep, first, ["noise2music evaluate ablate ..."])
    text = page.read_text()
    for picture in ("fake_figure2.png", "fake_figure3.png"):
        assert f"images/{picture}" in text
        assert (page.parent / "images" / picture).read_bytes().startswith(b"\x89PNG")
    assert "n = 6 clips of 2 s a setting" in text and text.count("\n| spectrogram") == 11
    assert "24 rows with 40 rows of 10 real clips" in text
    for row in ("ground truth", "shuffled ground truth", "as shipped"):
        assert text.count(f"\n| {row} | ") == 1
    assert "as shipped is also spectrogram generator guidance 3, spectrogram generator st" in text
    assert first.machines[0] in text


def test_a_sweep_grows(sweep):
    """More clips and more times of the same sweep, and nothing twice."""
    sweep = dataclasses.replace(sweep, axes=("steps",), count=5)
    ablate.run(sweep, timed=0)
    pipe, larger = sweep.pipe, dataclasses.replace(sweep, count=8)
    kept = {p: p.read_bytes() for p in sweep.out.rglob("*.wav")}
    made = len(pipe.calls)
    found = ablate.run(larger, timed=2)
    calls = [c[1:] for c in pipe.calls[made:]]
    assert calls == [(4, 4)] * 7 + [(0, 4)] * 7 * 3  # the second batch was short: made anew
    assert all(p.read_bytes() == data for p, data in kept.items())
    assert {p.clips for p in found.points} == {8} and {p.timed for p in found.points} == {2}
    smaller = ablate.run(sweep, timed=0)
    assert {p.clips for p in smaller.points} == {5}
    assert len(json.loads((sweep.out / "sweep.json").read_text())["prompts"]) == 8


def test_another_sweep_is_refused_and_a_lost_clip_is_counted(sweep, tmp_path):
    sweep = dataclasses.replace(sweep, axes=("gamma",), count=4)
    sweep.pipe.broken = {"gamma": 0.5}
    found = ablate.run(sweep, timed=0)
    points = {p.setting.name: p for p in found.points}
    assert (points["gamma-0.5"].failed, points["gamma-0.5"].clips) == (4, 0)
    assert points["gamma-0.5"].fad is None and points["gamma-1"].fad.fad > 0
    page = tmp_path / "page.md"
    ablation_page.write(page, sweep, found, ["command"])
    assert "| gamma 0.5 | - | - | - | - | - |  | 0 (4 failed) |" in page.read_text()
    assert "figure3" not in page.read_text()
    assert (sweep.out / "clips" / "gamma-0.5" / "0000-0003.failed").is_file()
    with pytest.raises(UserError, match="another model, seed"):
        ablate.run(dataclasses.replace(sweep, seed=1), timed=0)
    (tmp_path / "super_resolution_cascader.safetensors").write_bytes(b"takes no part")
    ablate.run(sweep, timed=0)
    (tmp_path / "spectrogram_generator.safetensors").write_bytes(b"2")
    with pytest.raises(UserError, match="another model, seed"):
        ablate.run(sweep, timed=0)


def test_what_cannot_be_judged_is_told_before_the_work(sweep):
    bare = dataclasses.replace(sweep, reference=[Item("0", Path("x"))] * 8, count=4)
    with pytest.raises(UserError, match="that have a prompt, got 0"):
        ablate.run(bare, timed=0)
    with pytest.raises(UserError, match="at least 4 for FAD, got 3"):
        ablate.run(dataclasses.replace(sweep, count=13), timed=0)
    with pytest.raises(UserError, match="must be at least 0.5 s for encoder fake"):
        ablate.run(dataclasses.replace(sweep, seconds=0.4), timed=0)
    assert sweep.pipe.calls == [] and not sweep.out.exists()


def test_a_broken_reference_clip_is_named(sweep, tmp_path):
    sweep.reference[9].path.write_bytes(b"")
    sweep = dataclasses.replace(sweep, axes=())
    found = ablate.run(sweep, timed=0)
    assert [(f.id, f.reason) for f in found.failures] == [("9", "corrupt")]
    ablation_page.write(tmp_path / "page.md", sweep, found, [])
    assert "in no figure: 9 (corrupt)" in (tmp_path / "page.md").read_text()


def test_results_are_json(sweep):
    ablate.run(dataclasses.replace(sweep, axes=()), timed=0)
    found = json.loads((sweep.out / "results.json").read_text())
    (point,) = found["points"]
    assert (point["setting"]["name"], point["clips"], point["fad"]["rows"]) == ("base", 6, 24)
    assert found["truth"]["reference_rows"] == 40


def test_figure_3_needs_times(sweep, tmp_path):
    found = ablate.run(dataclasses.replace(sweep, axes=("steps",)), timed=0)
    assert not figures.figure_3(found.points, tmp_path / "3.png")
    assert not (tmp_path / "3.png").exists()


def test_the_command_that_makes_a_corpus_again(tmp_path):
    assert command_of(tmp_path) is None
    made = {"recipe": RECIPE, "seed": 1, "seconds": 10.0, "only": None, "captions": 6}
    (tmp_path / "corpus.json").write_text(json.dumps({**made, "split": "test"}))
    (tmp_path / "parts").mkdir()
    for i in (0, 41):
        (tmp_path / "parts" / f"{i:06d}.json").write_text("{}")
    expected = f"noise2music data corpus {tmp_path} --clips 42 --seed 1 --split test --seconds 10"
    assert command_of(tmp_path) == expected
    assert CorpusOptions().captions == 6  # the default is not told
    (tmp_path / "corpus.json").write_text(json.dumps({**made, "recipe": RECIPE - 1}))
    assert command_of(tmp_path) is None
