"""The doctor finds each fault that is planted, and nothing on data and recipes that are well."""

import dataclasses
import json

import numpy as np
import pytest
from nano import nano_config
from noise2music.cli import main
from noise2music.config import STAGES, Augmentation, load_preset
from noise2music.data.prepare import prepare
from noise2music.text.tokenizer import train_tokenizer
from noise2music.train import TrainOptions
from noise2music.train.doctor import data as of_data
from noise2music.train.doctor import examine, report
from noise2music.train.doctor import recipe as of_recipe
from noise2music.train.doctor import texts as of_texts
from noise2music.train.doctor.overfit import one_batch, verdict
from noise2music.train.loader import open_batches, open_clips
from sound_files import write

pytestmark = pytest.mark.usefixtures("quick_compiler")

SECONDS = {"waveform_generator": 0.96, "spectrogram_generator": 0.96}
CAPTIONS = (
    *("slow piano at 60 BPM", "fast drums", "a choir sings", "guitar and bass", "two violins"),
    *("a flute alone", "church organ", "marching band", "synthesiser waltz", "harp in the rain"),
)


def short(stage, **changes):
    seconds = SECONDS.get(stage, 0.32)
    config = dataclasses.replace(
        nano_config(stage), train_seconds=seconds, default_seconds=seconds, steps=400
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Noise that swells, up to 12 kHz, each track with a caption of its own."""
    folder = tmp_path_factory.mktemp("doctor")
    rng = np.random.default_rng(0)
    for i, caption in enumerate(CAPTIONS):
        sound = rng.standard_normal(24_000) * np.linspace(0.05, 0.2, 24_000)
        write(folder / "songs" / f"{i}.wav", sound, sidecar={"caption": caption})
    prepare([folder / "songs"], folder / "out", seconds=1.0, validation=0.0, progress=False)
    return folder / "out"


def options(folder, **changes):
    values = {"steps": 2000, "warmup": 100, "lr_end_step": 2000, "ema_decay": 0.99}
    return TrainOptions(corpus=str(folder), run="", **values | {"peak_lr": 1e-3} | changes)


def batch_of(folder, config):
    tokenizer = train_tokenizer(CAPTIONS, 512)
    return next(open_batches(folder, config, tokenizer, 16, threads=0))


def worst(findings):
    """{check: severity} of findings that are not ok."""
    many = findings if isinstance(findings, list) else [findings]
    assert all(f.figure and (f.remedy or f.severity == "ok") for f in many)
    return {f.check: f.severity for f in many if f.severity != "ok"}


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_found_where_all_is_well(prepared, stage):
    # Tones have another mean spectrum than music.
    config = short(stage, missing_band=())
    found = examine(config, options(prepared), seconds=0)
    assert worst(found) == {} and len(found) > 15, report(found)


@pytest.mark.parametrize("stage", STAGES)
def test_the_papers_recipe_has_no_fault_of_its_own(stage):
    """Schedules, samplers and loss of the full presets, on data as loud as music is."""
    config = load_preset(stage)
    deviation = 0.45 if config.target == "mel" else 0.15
    found = of_recipe.signal_to_noise(config, deviation)
    found += [of_recipe.sampler_on_gaussian(config, deviation)]
    found += [of_recipe.loss_on_gaussian(config, deviation)]
    found += of_recipe.learning_rate(TrainOptions(corpus="", run=""))
    assert "fault" not in worst(found).values(), report(found)


def test_a_scale_that_drowns_the_noise_or_the_signal():
    config = short("waveform_generator", noise_schedule="linear")
    assert worst(of_recipe.signal_to_noise(config, 0.5)) == {}
    assert worst(of_recipe.signal_to_noise(config, 50.0))["noise at t = 1"] == "fault"
    assert worst(of_recipe.signal_to_noise(config, 1e-4))["useful times"] == "fault"
    cosine = dataclasses.replace(config, noise_schedule="cosine")
    assert worst(of_recipe.signal_to_noise(cosine, 1e-4))["signal at t = 0"] == "fault"


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
def test_a_sampler_of_too_few_steps(sampler):
    config = short("spectrogram_generator", sampler=sampler)
    assert worst(of_recipe.sampler_on_gaussian(config, 0.5)) == {}
    few = of_recipe.sampler_on_gaussian(dataclasses.replace(config, steps=2), 0.5)
    assert few.severity == "fault"


@pytest.mark.parametrize("prediction", ["noise", "velocity", "sample"])
@pytest.mark.parametrize("weight", ["simplified", "sigma", "velocity", "truncated"])
def test_a_loss_that_does_not_fit_its_schedule(prediction, weight, monkeypatch):
    config = short("waveform_generator", prediction=prediction, loss_weight=weight, data_scale=3.0)
    assert worst(of_recipe.loss_on_gaussian(config, 0.6)) == {}
    from noise2music.train import step

    right = step.to_noise
    monkeypatch.setattr(step, "to_noise", lambda *a: -right(*a))
    assert of_recipe.loss_on_gaussian(config, 0.6).severity == "fault"


def test_an_average_for_another_run():
    assert worst(of_recipe.average(options("", ema_decay=0.9999, steps=100_000))) == {}
    assert of_recipe.average(options("", ema_decay=0.9999, steps=5000)).severity == "warning"
    assert of_recipe.average(options("", ema_decay=0.99999, steps=5000)).severity == "fault"
    assert of_recipe.average(options("", ema_decay=0.5)).severity == "warning"


@pytest.mark.parametrize(
    "change,check,severity",
    [
        ({}, None, None),
        ({"warmup": 3000}, "warm-up", "fault"),
        ({"warmup": 500}, "warm-up", "warning"),
        ({"lr_end_step": 1000}, "end of the cosine", "fault"),
        ({"lr_end_step": 1900}, "end of the cosine", "warning"),
        ({"lr_end_step": 50_000}, "end of the cosine", "warning"),
        ({"peak_lr": 0.1}, "peak of the rate", "fault"),
        ({"peak_lr": 1e-9}, "peak of the rate", "fault"),
    ],
)
def test_learning_rates(change, check, severity):
    found = worst(of_recipe.learning_rate(options("", **change)))
    assert found == ({} if check is None else {check: severity})


def test_text_that_is_always_or_never_dropped():
    config = short("waveform_generator", guidance=3.0)
    for share, severity in ((1.0, "fault"), (0.0, "fault"), (0.6, "warning")):
        found = worst(of_recipe.dropped_text(config, options("", text_dropout=share)))
        assert found == {"dropped text": severity}
    assert worst(of_recipe.dropped_text(config, options(""))) == {}
    assert of_recipe.dropped_text(short("spectrogram_vocoder"), options("")) == []


SUPER = short("super_resolution_cascader", missing_band=())  # the condition is in the target


@pytest.mark.parametrize(
    "damage,check,severity",
    [
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x), "finite values",
         "fault"),
        (lambda x: 100 * x, "deviation of the data", "fault"),
        (lambda x: 1e-3 * x, "deviation of the data", "fault"),
        (lambda x: x + 0.5, "constant part (DC)", "fault"),
        (lambda x: np.clip(20 * x, -1, 1), "clipped samples", "fault"),
        (lambda x: np.clip(2.5 * x, -1, 1), "clipped samples", "warning"),
    ],
)  # fmt: skip
def test_ranges(prepared, damage, check, severity):
    batch = batch_of(prepared, SUPER)
    assert worst(of_data.ranges(batch, SUPER)) == {}
    batch["x"] = damage(batch["x"]).astype(np.float32)
    assert worst(of_data.ranges(batch, SUPER))[check] == severity


@pytest.mark.parametrize("stage", ["super_resolution_cascader", "spectrogram_generator"])
def test_silence(prepared, stage):
    config = short(stage)
    batch = batch_of(prepared, config)
    assert of_data.silence(batch, config).severity == "ok"
    batch["x"][:2] = -1.0 if config.target == "mel" else 0.0
    assert of_data.silence(batch, config).severity == "warning"
    batch["x"][:8] = -1.0 if config.target == "mel" else 0.0
    assert of_data.silence(batch, config).severity == "fault"


def test_rates_and_lengths(prepared):
    clips = open_clips(prepared)
    metas = [clips.meta(i) for i in range(len(clips))]
    config = short("waveform_generator")
    assert worst(of_data.rates_and_lengths(clips, metas, config)) == {}
    low = [{**m, "source_rate": 8000} for m in metas]
    found = of_data.rates_and_lengths(clips, low, SUPER)
    assert worst(found) == {"rate of the sources": "fault"}
    found = of_data.rates_and_lengths(clips, [low[0], *metas[1:]], SUPER)
    assert worst(found) == {"rate of the sources": "warning"}
    for planned, severity in ((3.0, "fault"), (1.5, "warning")):
        longer = dataclasses.replace(config, train_seconds=planned)
        found = of_data.rates_and_lengths(clips, metas, longer)
        assert worst(found) == {"length of a snippet": severity}
    for wanted, severity in ((10.0, "fault"), (2.0, "warning")):
        longer = dataclasses.replace(config, default_seconds=wanted)
        found = of_data.rates_and_lengths(clips, metas, longer)
        assert worst(found) == {"length of what is generated": severity}


def test_a_condition_that_leaks_or_belongs_to_something_else(prepared):
    batch = batch_of(prepared, SUPER)
    assert worst(of_data.condition(batch, SUPER)) == {}
    other = {**batch, "low": np.roll(batch["low"], 1, axis=0)}
    assert worst(of_data.condition(other, SUPER))["condition and target agree"] == "fault"
    x = batch["x"][..., 0]
    spectrum = np.fft.rfft(x, axis=1)
    spectrum[:, 2 * spectrum.shape[1] // 3 :] = 0  # nothing above 8 kHz
    dull = {**batch, "x": np.fft.irfft(spectrum, x.shape[1], axis=1)[..., None]}
    assert worst(of_data.condition(dull, SUPER))["band to be made"] == "fault"
    same = dataclasses.replace(SUPER, condition_rate=SUPER.rate)  # the target itself
    copied = {**batch, "low": batch["x"]}
    assert worst(of_data.condition(copied, same))["band to be made"] == "fault"
    bare = dataclasses.replace(SUPER, augmentation=Augmentation())
    assert worst(of_data.condition(batch, bare)) == {"corruption of the condition": "warning"}


def test_a_condition_that_holds_the_targets_band(prepared):
    """Made without a filter, `low` holds it, folded down into the band that both have."""
    config = dataclasses.replace(SUPER, condition_rate=12_000)
    batch = batch_of(prepared, SUPER)
    found = worst(of_data.condition(batch | {"low": batch["x"][:, ::2]}, config))
    assert found["condition and target agree"] == "fault"


def test_a_spectrogram_of_another_moment(prepared):
    config = short("spectrogram_vocoder", excitation=False)
    batch = batch_of(prepared, config)
    assert worst(of_data.condition(batch, config)) == {}
    late = {**batch, "aligned": -batch["aligned"]}
    assert worst(of_data.condition(late, config)) == {"condition and target agree": "fault"}


def test_captions():
    config = short("waveform_generator", token_length=24)
    tokenizer = train_tokenizer(CAPTIONS, 512)

    def found(captions):
        metas = [{"captions": [c] if c else [], "labels": []} for c in captions]
        return worst(of_texts.captions(metas, config, tokenizer))

    well = [f"{i} tones" for i in range(20)]
    assert found(well) == {}
    assert found([*well[:18], "", ""]) == {"clips without text": "warning"}
    assert found([*well[:8], *[""] * 12]) == {"clips without text": "fault"}
    assert found(["music"] * 20) == {"texts differ": "fault"}
    assert found([*well[:14], *["music"] * 6]) == {"texts differ": "warning"}
    assert found([f"{i} " + "words " * 30 for i in range(20)]) == {"texts that are cut": "fault"}
    assert found(["琴の曲", "спокойно", "هادئة", *well]) == {}
    assert of_texts.captions([], SUPER, tokenizer) == []


@pytest.mark.parametrize("peak_lr,severity", [(3e-3, "ok"), (1e-9, "fault")])
def test_one_batch_is_learnt_or_not(prepared, peak_lr, severity):
    config = dataclasses.replace(SUPER, train_seconds=0.064)
    batch = {k: v[:4] for k, v in batch_of(prepared, config).items()}
    how = options(prepared, implementation="reference", peak_lr=peak_lr)
    assert one_batch(batch, config, how, None, 120.0).severity == severity


@pytest.mark.parametrize(
    "losses,severity",
    [
        ([1.0, 0.5, 0.29], "ok"),
        (list(np.linspace(1, 0.5, 30)), "ok"),
        (list(np.linspace(1, 0.9, 30)), "warning"),
        ([1.0] * 30, "fault"),
        ([1.0, float("nan")], "fault"),
        ([1.0, 0.9], "warning"),
        ([], "warning"),
    ],
)
def test_what_the_losses_on_one_batch_say(losses, severity):
    found = verdict(losses, 5.0)
    assert found.severity == severity
    few = severity == "warning" and len(losses) < 20
    assert found.figure.startswith("not tried out") == few


def test_what_cannot_be_looked_at_is_a_fault_and_stops_nothing(tmp_path):
    found = examine(short("waveform_generator"), options(tmp_path), seconds=0)
    assert worst(found) == {"data": "fault"} and len(found) > 8
    assert "manifest.jsonl" in found[0].figure


def test_the_command(prepared, tmp_path, capsys):
    config = tmp_path / "run.json"
    stage = "spectrogram_vocoder"
    values = {"steps": 2000, "warmup": 100, "lr_end_step": 2000, "ema_decay": 0.99}
    values |= {"corpus": str(prepared), "run": "r", "preset": f"tiny_{stage}", "peak_lr": 1e-3}
    config.write_text(json.dumps(values))
    args = ["doctor", "train", "--config", str(config), "--seconds", "0"]
    assert main(args) == 0
    assert "0 fault(s)" in capsys.readouterr().out
    config.write_text(json.dumps(values | {"warmup": 9000}))
    assert main(args) == 1
    out = capsys.readouterr().out
    assert "fault    warm-up" in out and "-> the run ends before the rate has risen" in out
    assert main(["doctor", "train", "--config", "tiny", "--seconds", "0"]) == 2
    assert "name the stage" in capsys.readouterr().err
    assert main(["doctor", "train", stage, "--config", "tiny", "--seconds", "0"]) == 2
    assert "--corpus FOLDER" in capsys.readouterr().err
    assert main(["doctor", "train", stage, "--config", "tiny", "--corpus", str(prepared),
                 "--seconds", "0"]) == 0  # fmt: skip
