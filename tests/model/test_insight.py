"""What a run tells: its log, its speed, validation by t, demos, curves; and what export makes."""

import json
import struct
import sys
import time

import numpy as np
import pytest
from nano import nano_config, nano_model
from noise2music import load, weights
from noise2music.audio import read_audio
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.stage import Stage
from noise2music.train import train
from noise2music.train.curves import plot_runs, read_run
from noise2music.train.demo import Demo
from noise2music.train.export import export
from noise2music.train.insight import BUCKETS, Log, Meter, Validation, read_log
from small_corpus import CASCADER, SUPER, make_corpus, options


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, quick_compiler):
    return make_corpus(tmp_path_factory.mktemp("small") / "corpus")


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run of 10 steps that was asked for everything."""
    run = tmp_path_factory.mktemp("run") / "super"
    told = {"demo_every": 10, "demo_clips": 1, "demo_seconds": 0.2}
    train(SUPER.name, options(corpus, run, steps=10, **told), SUPER)
    return run


def test_log_tells_speed_utilisation_and_the_wait_for_data(run):
    for row in read_log(run / "log.jsonl"):
        assert row["clips_per_second"] > 0 and 0 < row["utilisation"] < 1
        assert 0 <= row["data_wait"] < 1
        assert len(row["validation_by_t"]) == BUCKETS
        assert np.isclose(np.mean(row["validation_by_t"]), row["validation_loss"], rtol=0.3)


def test_meter_counts_clips_waits_and_operations(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter(batch_size=8, flops=3e9, peak=12e9)
    for _ in range(4):
        now[0] += 0.5
        meter.step(waited=0.05)
    with meter.paused():
        now[0] += 7.0
    assert meter.read() == {"clips_per_second": 16.0, "data_wait": 0.1, "utilisation": 0.5}


class _Losses:
    """Networks whose loss is t: what Validation makes of times and buckets is seen."""

    mesh = None

    def on_mesh(self, what, tree):
        return tree

    def losses(self, params, batch, draws):
        return draws.t


def test_validation_spreads_its_clips_over_t():
    batches = [{"x": np.zeros((5, 2, 1), np.float32)} for _ in range(4)]
    found = Validation(_Losses(), batches)({})
    assert found["validation_loss"] == pytest.approx(0.5)
    assert found["validation_by_t"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_demo_is_a_clip_its_picture_and_its_target(run):
    made = sorted(p.name for p in (run / "demos").iterdir())
    assert made == ["step00000010-1.png", "step00000010-1.wav", "target-1.png", "target-1.wav"]
    sound, rate = read_audio(run / "demos" / "step00000010-1.wav")
    assert rate == 24_000 and len(sound) == 4800 and np.sqrt(np.mean(sound**2)) > 1e-4


def test_demo_of_a_mel_spectrogram_is_heard_through_the_vocoder(tmp_path, monkeypatch):
    config = nano_config("spectrogram_generator")
    mel = np.random.default_rng(0).uniform(-1, 1, (1, 16, 80)).astype(np.float32)
    demo = Demo(tmp_path / "demos", config, {"x": mel}, None, "auto")
    monkeypatch.setattr("noise2music.train.demo.VOCODER", str(nano_model(tmp_path / "model")))
    demo.targets()
    sound, rate = read_audio(tmp_path / "demos" / "target-1.wav")
    assert (len(sound), rate) == (2560, 16_000)


def events_of(folder):
    """(step, name, value) of every scalar in the event files of a folder, in order."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, an event, its checksum
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            yield from ((event.step, v.tag, v.simple_value) for v in event.summary.value)


def test_tensorboard_has_what_the_log_has(tmp_path):
    pytest.importorskip("tensorboardX")
    log = Log(tmp_path, 0, tensorboard=True)
    rows = [{"step": s, "loss": s / 3, "validation_by_t": [s, None], "time": 1.0} for s in (5, 10)]
    for row in rows:
        log.write(row)
    log.close()
    want = [(s, n, v) for s in (5, 10) for n, v in (("loss", s / 3), ("validation_by_t/0", s))]
    found = list(events_of(tmp_path / "tensorboard"))
    assert [e[:2] for e in found] == [e[:2] for e in want]
    assert [e[2] for e in found] == pytest.approx([e[2] for e in want])


def test_plot_draws_several_runs(run, tmp_path, capsys):
    out = tmp_path / "curves.png"
    assert main(["plot", str(run), str(run / "log.jsonl"), f"{run}+{run}", "-o", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert [r["step"] for r in read_run(f"{run}+{run}")] == [5, 10, 15, 20]
    assert main(["plot", str(tmp_path), "-o", str(out)]) == 2
    assert "must be a run folder or its log.jsonl" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"\.png"):
        plot_runs([str(run)], tmp_path / "curves.txt")


def test_exported_weights_are_the_average_and_generate(run, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["export", str(run), "--out", str(out), "--dtype", "float32"]) == 0
    assert "super_resolution_cascader; no whole route yet" in capsys.readouterr().out
    stage = Stage.load(out / f"{SUPER.name}.safetensors")
    assert stage.config == SUPER
    ours = weights.flatten(Stage.load(run / f"{SUPER.name}.safetensors").state)
    for name, tensor in weights.flatten(stage.state).items():
        np.testing.assert_array_equal(np.float16(tensor), np.float16(ours[name]))
    tone = 0.3 * np.sin(np.arange(3200) / 5)
    clip = load(out).run_stage(SUPER.name, tone, 16_000)
    assert len(clip.samples) == 4800 and np.isfinite(clip.samples).all()


def test_export_fills_a_model_up_to_a_route(run, tmp_path, capsys):
    model = nano_model(tmp_path / "model")
    assert main(["export", str(run), "--out", str(model)]) == 0
    assert "generates by the route spectrogram and waveform" in capsys.readouterr().out
    card = json.loads((model / "model.json").read_text())
    assert card["name"] == "model" and len(card["stages"]) == 5
    output = str(tmp_path / "clip.wav")
    argv = ["generate", "a low tone", "--model", str(model), "--seconds", "0.5", "-o", output]
    assert main(argv) == 0
    assert len(read_audio(output)[0]) == 12_000


def test_export_names_what_it_cannot_take(run, tmp_path):
    with pytest.raises(ValueError, match="must be a run folder with checkpoints"):
        export([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="step must be one of the checkpoints 5, 10, got 7"):
        export([run], tmp_path / "out", step=7)


def test_text_encoders_of_a_model_must_be_one(corpus, toy_model, tmp_path):
    told = {"steps": 1, "text_encoder": str(toy_model)}
    train(CASCADER.name, options(corpus, tmp_path / "run", **told), CASCADER)
    assert export([tmp_path / "run"], tmp_path / "out") == ["waveform_cascader"]
    export([tmp_path / "run"], tmp_path / "out")  # once more: it is the same encoder
    model = nano_model(tmp_path / "other")
    with pytest.raises(ValueError, match="must share one text encoder"):
        export([tmp_path / "run"], model)


def test_tensorboard_is_imported_only_if_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    Log(tmp_path, 0).close()
    with pytest.raises(UserError, match=r"noise2music\[tensorboard\]"):
        Log(tmp_path, 0, tensorboard=True)
