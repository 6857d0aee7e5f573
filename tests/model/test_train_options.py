"""What a run can be asked for: config files, recipes, the command line before them; mistakes."""

import dataclasses
import json

import pytest
from noise2music.cli import _parse, main
from noise2music.config import STAGES, load_preset, to_dict
from noise2music.train.options import RECIPES, TrainOptions, read_config, stage_config

STAGE = "super_resolution_cascader"


def read(path, text, stage=STAGE):
    path.write_text(text)
    return read_config(path, stage)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage_has_a_recipe(recipe, stage):
    values, changes = read_config(recipe, stage)
    made = TrainOptions(corpus="c", run="r", **values)
    assert stage_config(stage, made.preset, changes) == load_preset(
        stage if recipe == "paper" else f"tiny_{stage}"
    )


def test_defaults_and_recipes_are_the_papers():
    plain = TrainOptions(corpus="c", run="r")
    assert (plain.peak_lr, plain.warmup, plain.lr_end_step) == (1e-4, 10_000, 2_500_000)
    assert (plain.ema_decay, plain.text_dropout, plain.clip_norm) == (0.9999, 0.1, None)
    steps = {"waveform_generator": 1_600_000, "spectrogram_vocoder": 840_000, STAGE: 270_000}
    steps |= {"waveform_cascader": 460_000, "spectrogram_generator": 1_800_000}
    for stage in STAGES:
        values, _ = read_config("paper", stage)
        assert values["steps"] == steps[stage]
        assert values["batch_size"] == (4096 if stage == STAGE else 2048)
        assert values["dtype"] == "bfloat16"
        for name in ("peak_lr", "warmup", "lr_end_step", "ema_decay", "text_dropout"):
            assert values[name] == getattr(plain, name)


def test_toml_and_json_say_the_same(tmp_path):
    toml = """
        peak_lr = 1
        remat = "auto"
        [stage]
        train_seconds = 3
        augmentation.noise_t_max = 0.25
        [stage.unet]
        kernel_size = 5
    """
    stage = {"train_seconds": 3, "augmentation": {"noise_t_max": 0.25}, "unet": {"kernel_size": 5}}
    values = {"peak_lr": 1, "remat": "auto", "stage": stage}
    found = read(tmp_path / "a.toml", toml)
    assert found == read(tmp_path / "a.json", json.dumps(values))
    config = stage_config(STAGE, None, found[1])
    preset = load_preset(f"tiny_{STAGE}")
    assert config == dataclasses.replace(
        preset,
        train_seconds=3.0,
        augmentation=dataclasses.replace(preset.augmentation, noise_t_max=0.25),
        unet=dataclasses.replace(preset.unet, kernel_size=5),
    )


def test_every_option_and_the_whole_stage_can_stand_in_a_file(tmp_path):
    made = TrainOptions(corpus="c", run="r", clip_norm=0.5, remat=True, mesh="data=1", minutes=3.0)
    values = dataclasses.asdict(made) | {"stage": to_dict(load_preset(STAGE))}
    options, changes = read(tmp_path / "all.json", json.dumps(values))
    assert TrainOptions(**options) == made
    assert stage_config(STAGE, None, changes) == load_preset(STAGE)


@pytest.mark.parametrize(
    "text,message",
    [
        ("peek_lr = 1e-4", "train has no option 'peek_lr' .did you mean 'peak_lr'"),
        ("[stage]\ntrain_second = 3", "stage has no option 'train_second' .* 'train_seconds'"),
        ("[stage.unet]\nkernel = 3", "stage.unet has no option 'kernel' .* 'kernel_size'"),
        ("train_seconds = 3", "'train_seconds' belongs into the table 'stage'"),
        ("peak_lr = 'fast'", "peak_lr must be of type float, got 'fast'"),
        ("dtype = 'float16'", "dtype must be one of"),
        ("stage = 3", "stage must be a table, got 3"),
        ("peak_lr = = 1", "is not TOML"),
        ("steps = 0", "steps must be at least 1, got 0"),
        ("ema_decay = 1.0", "ema_decay must be in"),
        ("clip_norm = nan", "clip_norm must be positive, got nan"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        options, changes = read(tmp_path / "a.toml", text)
        stage_config(STAGE, None, changes)
        TrainOptions(corpus="c", run="r", **options)


def test_files_that_are_not_there_and_other_stages_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read the config .*absent.toml"):
        read_config(tmp_path / "absent.toml", STAGE)
    with pytest.raises(ValueError, match="is not JSON"):
        read(tmp_path / "a.json", "{")
    with pytest.raises(ValueError, match="must be of stage 'super.*got 'spectrogram_vocoder'"):
        stage_config(STAGE, "tiny_spectrogram_vocoder", {})


def test_command_line_goes_before_the_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("corpus = 'there'\nsteps = 7\npeak_lr = 0.5\nremat = 'auto'\n")
    argv = ["train", STAGE, "--config", str(file), "--run", "here", "--steps", "9"]
    command = _parse(argv)
    assert command.stage == STAGE and command.config == str(file)
    made = command.options
    assert (made.corpus, made.run, made.steps, made.peak_lr) == ("there", "here", 9, 0.5)
    assert made.remat == "auto"
    assert _parse(["train", STAGE, "--corpus", "c", "--run", "r"]).options.steps == 2_500_000


def test_command_line_explains_what_it_cannot_take(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text("step = 7")
    assert main(["train", STAGE, "--config", str(file), "--corpus", "c", "--run", "r"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert main(["train", "vocoder", "--config", "tiny", "--corpus", "c", "--run", "r"]) == 2
    assert "spectrogram_vocoder" in capsys.readouterr().err
    run = str(tmp_path / "run")
    assert main(["train", STAGE, "--config", "tiny", "--corpus", str(tmp_path), "--run", run]) == 2
    assert "manifest.jsonl" in capsys.readouterr().err
    uneven = ["--batch-size", "3", "--mesh", "data=4"]
    argv = ["train", STAGE, "--config", "tiny", "--corpus", str(tmp_path), "--run", run]
    assert main([*argv, *uneven]) == 2
    assert "batch_size must be a multiple of 4" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--process-id", "0"]) == 2
    assert "coordinator must be host:port or auto" in capsys.readouterr().err
