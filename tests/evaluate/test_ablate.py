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
from noise2music.errors import OutputError, UserError
from noise2music.evaluate import ablate, ablation_page, evaluation
from noise2music.evaluate.sounds import Item


class FakePipe:
    """Tones of the prompt's pitch in noise, the more of it the further guidance is from 2."""

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
        steps = np.zeros(self.stages[name].steps)
        return types.SimpleNamespace(coefficients=lambda: types.SimpleNamespace(t=steps))

    def __call__(self, prompts, *, seconds, seed, route, index, until, **options):
        self.calls.append((options, index, len(prompts)))
        if options == self.broken:
            raise OutputError("silence", stage=until)
        level = 0.01 * (1 + abs(options.get("guidance", {}).get("spectrogram_generator", 2) - 2))
        rng = np.random.default_rng((seed, index))
        return [
            Clip(tone(float(p), seconds) + level * rng.standard_normal(round(seconds * RATE)), RATE)
            for p in prompts
        ]


@pytest.fixture
def sweep(tmp_path):
    rng = np.random.default_rng(0)
    reference = []
    for i in range(12):
        hz, path = 300 + 250 * i, tmp_path / f"{i}.wav"
        soundfile.write(path, tone(hz, 2.0) + 0.01 * rng.standard_normal(2 * RATE), RATE)
        reference.append(Item(str(i), path, str(hz)))
    return ablate.Sweep(
        pipe=FakePipe(tmp_path),
        route="spectrogram",
        reference=reference,
        count=6,
        out=tmp_path / "sweep",
        seconds=2.0,
        options=evaluation.Options(encoders=("fake_encoder:FakeEncoder",), draws=10),
    )


def test_what_is_swept(sweep):
    settings = {s.name: s.options for s in sweep.settings()}
    assert len(settings) == 1 + 5 + 6 + 6 + 3
    generator, vocoder = sweep.stages
    assert settings["base"] == {}
    assert settings[f"{generator}-guidance-15"] == {"guidance": {generator: 15.0}}
    assert f"{vocoder}-guidance-15" not in settings  # it reads no text
    assert settings[f"{vocoder}-denoising-uniform"] == {"denoising": {vocoder: "uniform"}}
    assert settings[f"{generator}-steps-80"] == {"steps": {generator: 80}}
    assert settings["gamma-0.5"] == {"gamma": 0.5}


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
    points = {p.setting.name: p for p in first}
    name = "spectrogram_generator-guidance-{}"
    assert points[name.format(2)].fad[0] < points[name.format(15)].fad[0]
    assert points[name.format(2)].similarity[0] > points[name.format(15)].similarity[0]
    assert points["base"].seconds > 0 and points[name.format(2)].seconds is None
    page = tmp_path / "docs" / "fake.md"
    ablation_page.write(page, sweep, first, "noise2music evaluate ablate ...")
    text = page.read_text()
    for picture in ("fake_figure2.png", "fake_figure3.png"):
        assert f"images/{picture}" in text
        assert (page.parent / "images" / picture).read_bytes().startswith(b"\x89PNG")
    assert "n = 6 clips of 2 s a setting" in text and text.count("\n| spectrogram") == 11


def test_another_sweep_is_refused_and_a_lost_clip_is_counted(sweep, tmp_path):
    sweep = dataclasses.replace(sweep, axes=("gamma",), count=4)
    sweep.pipe.broken = {"gamma": 0.5}
    points = {p.setting.name: p for p in ablate.run(sweep, timed=0)}
    assert (points["gamma-0.5"].failed, points["gamma-0.5"].clips) == (4, 0)
    assert np.isnan(points["gamma-0.5"].plain_fad) and points["gamma-1"].plain_fad > 0
    page = tmp_path / "page.md"
    ablation_page.write(page, sweep, list(points.values()), "command")
    assert "| gamma 0.5 | - | - | - | - | - |  | 0 (4 failed) |" in page.read_text()
    assert (sweep.out / "clips" / "gamma-0.5" / "0000.failed").is_file()
    with pytest.raises(UserError, match="another model, seed"):
        ablate.run(dataclasses.replace(sweep, seed=1), timed=0)
    (tmp_path / "super_resolution_cascader.safetensors").write_bytes(b"takes no part")
    ablate.run(sweep, timed=0)
    (tmp_path / "spectrogram_generator.safetensors").write_bytes(b"2")
    with pytest.raises(UserError, match="another model, seed"):
        ablate.run(sweep, timed=0)
    bare = dataclasses.replace(sweep, reference=[Item("0", Path("x"))] * 4)
    with pytest.raises(UserError, match="that have a prompt, got 0"):
        ablate.run(bare, timed=0)


def test_results_are_json(sweep):
    ablate.run(dataclasses.replace(sweep, axes=()), timed=0)
    (point,) = json.loads((sweep.out / "results.json").read_text())
    assert (point["setting"]["name"], point["clips"], point["rows"]) == ("base", 6, 24)
