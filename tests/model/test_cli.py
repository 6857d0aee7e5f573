"""The command line: what it writes, what it refuses, and that it never leaves half a file.

Every test runs with sockets blocked: nothing here may reach for the network.
"""

import functools
import pathlib
import re
import shutil
import signal
import socket

import noise2music
import numpy as np
import pytest
import soundfile
from noise2music import arguments, audio, cascade, doctor, kernels, weights
from noise2music.cli import main
from noise2music.cli.progress import Progress
from noise2music.errors import UserError

SECONDS = "0.5"  # one length and one batch size in nearly all tests: each other pair compiles anew


def _load(model, dtype="auto"):
    """The real thing, once a folder: what is compiled for a model serves every test."""
    return _loaded(model, dtype)


@functools.cache
def _loaded(model, dtype):
    return cascade.load(model, dtype=dtype)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something wants to use the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, toy_model):
    """run(*arguments) -> (exit code, stdout, stderr), in its own folder, with the toy model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(noise2music, "load", _load, raising=False)

    def call(*args, model=toy_model):
        command = list(args)
        if model is not None and command[0] in ("generate", "enhance"):
            command += ["--model", str(model)]
        if command[0] == "generate" and "--seconds" not in command:
            command += ["--seconds", SECONDS]
        code = main(command)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture(scope="session")
def made(toy_model, tmp_path_factory):
    """A clip made in Python, as the command line should make it."""
    path = tmp_path_factory.mktemp("made") / "made.wav"
    clip = _load(str(toy_model))("slow organ", seconds=float(SECONDS), seed=7)
    clip.save(path)
    return path, clip


def _refused(result, *words):
    code, out, err = result
    assert code == 2, err
    assert err.count("\n") == 1 and err.startswith("noise2music: error: "), err
    for word in words:
        assert word in err
    assert out == ""


def _samples(path):
    return audio.read_audio(path)[0]


# What works.


def test_generate_equals_python_and_says_what_it_wrote(run, made, tmp_path, toy_model):
    code, out, err = run("generate", "slow organ", "-o", "out.wav", "--seed", "7")
    assert (code, err) == (0, "")
    assert out == "out.wav: 0.50 s, 24000 Hz, seed 7\n"
    assert soundfile.info("out.wav").frames == 12_000
    np.testing.assert_array_equal(_samples("out.wav"), _samples(made[0]))
    metadata = audio.read_metadata("out.wav")
    expected = {
        "prompt": "slow organ", "seed": 7, "seconds": 0.5, "route": "spectrogram", "index": 0,
        "model": "toy", "model_hash": _load(str(toy_model)).model_hash,
        "version": noise2music.__version__, "negative": None, "bits": 16, "normalize": False,
    }  # fmt: skip
    assert expected.items() <= metadata.items()
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_replay_makes_the_same_clip(run, toy_model, name):
    assert run("generate", "fast drums", "-o", name, "--guidance", "2.5", "--bits", "24")[0] == 0
    again = name.replace("a.", "again.")
    code, out, _ = run("replay", name, "-o", again, "--model", str(toy_model))
    assert code == 0 and out.startswith(again)
    np.testing.assert_array_equal(_samples(name), _samples(again))
    assert audio.read_metadata(name) == audio.read_metadata(again)


def test_replay_names_its_output_and_survives_lossy_files(run, toy_model):
    assert run("generate", "🎹 曲", "-o", "a.mp3")[0] == 0
    assert run("replay", "a.mp3", "--model", str(toy_model))[0] == 0
    np.testing.assert_array_equal(_samples("a.mp3"), _samples("a-replay.mp3"))


def test_replay_by_other_weights_needs_force(run, made, toy_model):
    path, clip = made
    metadata = {**clip.metadata, "model_hash": "0123456789abcdef"}
    audio.write_audio("other.wav", clip.samples, 24_000, metadata=metadata)
    result = run("replay", "other.wav", "--model", str(toy_model))
    _refused(result, "0123456789abcdef", "--force")
    assert run("replay", "other.wav", "--model", str(toy_model), "--force")[0] == 0
    np.testing.assert_array_equal(_samples("other-replay.wav"), _samples(path))


def test_replay_of_another_version_warns(run, made, toy_model):
    metadata = {**made[1].metadata, "version": "0.0.1"}
    audio.write_audio("old.wav", made[1].samples, 24_000, metadata=metadata)
    code, _, err = run("replay", "old.wav", "--model", str(toy_model))
    assert code == 0 and "warning: the file was made by version 0.0.1" in err


def test_replay_wants_our_files(run, made):
    soundfile.write("foreign.wav", np.zeros(100), 24_000)
    _refused(run("replay", "foreign.wav"), "holds no settings")
    _refused(run("replay", "absent.wav"), "no such file")
    _refused(run("replay", str(made[0])), "'toy'", "--model")


def test_several_prompts_are_numbered_and_independent_of_the_batch(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("# wishes\n\nslow organ\n", encoding="utf-8")
    result = run(
        "generate", "fast drums", "--prompts", "prompts.txt", "-o", "out.wav", "--seed", "7"
    )
    assert result[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*.wav")) == ["out-1.wav", "out-2.wav"]
    assert [audio.read_metadata(f"out-{i}.wav")["prompt"] for i in (1, 2)] == [
        "fast drums",
        "slow organ",
    ]
    # Clip 1 of this call alone: the noise is that of its place in the call, not of its batch.
    metadata = audio.read_metadata("out-2.wav")
    assert (metadata["seed"], metadata["index"]) == (7, 1)
    assert run("replay", "out-2.wav", "--model", str(tmp_path / "no-such-model"))[0] == 2


def test_a_clip_of_a_batch_replays_alone(run, toy_model):
    assert run("generate", "slow organ", "--batch", "2", "-o", "b.wav")[0] == 0
    one, two = _samples("b-1.wav"), _samples("b-2.wav")
    assert not np.array_equal(one, two)
    assert run("replay", "b-2.wav", "--model", str(toy_model))[0] == 0
    # -60 dB, the contract between a batch and a clip alone; one more step of 16 bits for the file.
    error = np.max(np.abs(_samples("b-2-replay.wav") - two))
    assert error < 1e-3 * np.max(np.abs(two)) + 2.0**-15


def test_stages_and_plot(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("generate", "x", "-o", "a.wav", "--plot", "a.png", "--stages-dir", "stages")
    assert result[0] == 0
    names = sorted(p.name for p in (tmp_path / "stages").iterdir())
    assert names == [
        "a-spectrogram_generator.npy",
        "a-spectrogram_vocoder.npy",
        "a-spectrogram_vocoder.wav",
        "a-super_resolution_cascader.npy",
        "a-super_resolution_cascader.wav",
    ]
    assert np.load(tmp_path / "stages" / names[0]).shape == (50, 80)
    assert soundfile.info(tmp_path / "stages" / names[2]).samplerate == 16_000
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_enhance_runs_one_stage(run):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100)
    soundfile.write("tone.wav", np.stack([tone, tone], axis=1), 44_100)
    code, out, _ = run("enhance", "tone.wav", "-o", "better.flac")
    assert code == 0 and out == "better.flac: 0.50 s, 24000 Hz, seed 0\n"
    assert run("enhance", "tone.wav", "-o", "v.wav", "--stage", "spectrogram_vocoder")[0] == 0
    assert soundfile.info("v.wav").samplerate == 16_000


@pytest.mark.parametrize("prompt", ["", "🎹🎻 曲 été \udcff\0", "word " * 2000])
def test_odd_prompts_are_legal(run, prompt):
    code, _, err = run("generate", prompt, "-o", "a.wav")
    assert code == 0
    assert ("characters: only the first 2000 are kept" in err) == (len(prompt) == 10_000)
    assert audio.read_metadata("a.wav")["prompt"] == arguments.check_prompt(prompt)[0]


def test_progress_is_drawn_when_asked_for(run):
    _, _, quiet = run("generate", "x", "-o", "a.wav")
    _, _, drawn = run("generate", "x", "-o", "a.wav", "--progress")
    assert quiet == ""
    for stage in ("spectrogram_generator", "spectrogram_vocoder", "super_resolution_cascader"):
        assert re.search(stage + r": 100%.*2/2", drawn)


# What is refused, before any work is spent.

BAD = {
    "negative seconds": (["x", "--seconds", "-3"], ["between 0.1 and 60", "-3"]),
    "zero seconds": (["x", "--seconds", "0"], ["between 0.1 and 60"]),
    "absurd seconds": (["x", "--seconds", "1e9"], ["between 0.1 and 60"]),
    "NaN seconds": (["x", "--seconds", "nan"], ["between 0.1 and 60"]),
    "unknown route": (["x", "--route", "spektrogram"], ["Did you mean 'spectrogram'"]),
    "a route the model lacks": (["x", "--route", "waveform"], ["'toy'", "Valid: spectrogram"]),
    "unknown suffix": (["x", "-o", "a.wab"], ["Did you mean '.wav'"]),
    "no suffix": (["x", "-o", "a"], ["does not tell the format"]),
    "absent folder": (["x", "-o", "no/a.wav"], ["'no' does not exist"]),
    "NaN guidance": (["x", "--guidance", "nan"], ["finite"]),
    "infinite guidance": (["x", "--guidance", "inf"], ["finite"]),
    "negative guidance": (["x", "--guidance", "-1"], ["between 0 and 100"]),
    "guidance in words": (["x", "--guidance", "strong"], ["must be a number", "'strong'"]),
    "unknown stage": (["x", "--steps", "vocoder=4"], ["spectrogram_vocoder'"]),
    "no steps": (["x", "--steps", "0"], ["--steps", "between 1 and 10000"]),
    "half a step": (["x", "--steps", "2.5"], ["whole number"]),
    "gamma": (["x", "--gamma", "1.5"], ["between 0 and 1"]),
    "negative seed": (["x", "--seed", "-1"], ["between 0 and 4294967295"]),
    "no batch": (["x", "--batch", "0"], ["--batch", "between 1 and 1000"]),
    "no prompt": ([], ["give a prompt"]),
    "absent prompts": (["--prompts", "absent.txt"], ["absent.txt", "No such file"]),
    "unknown device": (["x", "--device", "gpuu"], ["Did you mean 'gpu'"]),
    "absent device": (["x", "--device", "tpu"], ["not on this machine", "cpu"]),
    "unwritable picture": (["x", "--plot", "no/a.png"], ["'no' does not exist"]),
    "picture suffix": (["x", "--plot", "a.wav"], [".png"]),
    "folder of stages": (["x", "--stages-dir", "no/stages"], ["cannot make the folder"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused(run, tmp_path, what):
    args, words = BAD[what]
    _refused(run("generate", *args), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("args", "words"), [
    (["x", "--seconds", "long"], ["--seconds", "long"]),
    (["x", "--secnds", "3"], ["--secnds", "Perhaps you meant", "--seconds"]),
    (["x", "--sampler", "euler"], ["ancestral"]),
])  # fmt: skip
def test_options_that_do_not_parse(run, args, words):
    code, out, err = run("generate", *args)
    assert code == 2
    for word in words:
        assert word in out + err


def test_unknown_models(run, tmp_path):
    _refused(run("generate", "x", model="tinny"), "unknown model 'tinny'")
    (tmp_path / "empty").mkdir()
    _refused(run("generate", "x", model=tmp_path / "empty"), "model.json")


def _broken(toy_model, tmp_path, name, change):
    folder = tmp_path / "broken"
    shutil.copytree(toy_model, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(change(content))
    return folder


@pytest.mark.parametrize(
    "change",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not weights at all" * 9],
    ids=["truncated", "empty", "garbage"],
)
@pytest.mark.parametrize(
    "name", ["spectrogram_generator.safetensors", "super_resolution_cascader.safetensors"]
)
def test_a_broken_model_file_is_refused_before_the_first_stage(
    run, toy_model, tmp_path, name, change
):
    folder = _broken(toy_model, tmp_path, name, change)
    _refused(run("generate", "x", model=folder), name)
    assert not list(tmp_path.glob("*.wav"))


@pytest.mark.parametrize("name", ["text_encoder.safetensors", "tokenizer.json", "model.json"])
def test_every_other_file_of_a_model_is_checked_too(run, toy_model, tmp_path, name):
    folder = _broken(toy_model, tmp_path, name, lambda b: b[: len(b) // 2])
    _refused(run("generate", "x", model=folder), name)


@pytest.mark.parametrize("content", [b"text, not sound", b"RIFF\x24\0\0\0WAVE"])
def test_what_is_not_sound_is_refused(run, tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    _refused(run("enhance", "a.wav", "-o", "b.wav"), "as sound")


def test_enhance_refuses_stages_without_an_input_and_long_files(run):
    soundfile.write("long.wav", np.zeros(61 * 8000), 8000)
    _refused(run("enhance", "long.wav", "-o", "b.wav"), "the length of", "between 0.1 and 60")
    soundfile.write("a.wav", np.zeros(8000), 8000)
    result = run("enhance", "a.wav", "-o", "b.wav", "--stage", "super_resolution")
    _refused(result, "Did you mean 'super_resolution_cascader'")
    _refused(
        run("enhance", "a.wav", "-o", "b.wav", "--stage", "waveform_cascader"), "unknown stage"
    )


# What goes wrong on the way.


def test_ctrl_c_leaves_no_half_file(run, monkeypatch, tmp_path):
    (tmp_path / "out.wav").write_bytes(b"old")
    monkeypatch.setattr(Progress, "__call__", lambda *a: signal.raise_signal(signal.SIGINT))
    # A test run that was started in the background inherits an ignored SIGINT.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = run("generate", "x", "-o", "out.wav")
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert code == 130 and "interrupted" in err and out == ""
    assert (tmp_path / "out.wav").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_a_stage_that_overflows_is_named(run, toy_model, tmp_path):
    folder = tmp_path / "huge"
    shutil.copytree(toy_model, folder)
    path = folder / "spectrogram_generator.safetensors"
    config = weights.read_config(path)
    stage = cascade.load(folder).stage("spectrogram_generator")
    large = {name: np.full(a.shape, 6e4) for name, a in weights.flatten(stage.state).items()}
    weights.save_state(path, large, config)
    code, _, err = run("generate", "x", "-o", "a.wav", model=folder)
    assert code == 1
    assert re.search("spectrogram_generator made NaN or Inf at step 1 of 2", err)
    assert not (tmp_path / "a.wav").exists()


def test_debug_shows_the_traceback(run, toy_model):
    with pytest.raises(UserError, match="seconds"):
        main(["generate", "x", "--seconds", "0", "--debug", "--model", str(toy_model)])


# The other commands.


def test_version_and_help(run):
    assert run("--version") == (0, f"noise2music {noise2music.__version__}\n", "")
    for command in ([], ["--help"], ["generate", "--help"], ["data"], ["train", "--help"]):
        code, out, _ = run(*command) if command else (main([]), "usage", "")
        assert code == 0 and "usage" in out


def test_unknown_commands(run):
    assert run("genrate", "x")[0] == 2
    _refused(run("data", "corpse"), "Did you mean 'corpus'")
    _refused(run("train", "vocoder", "--corpus", "c", "--run", "r"), "spectrogram_vocoder")
    _refused(run("train", "spectrogram_vocoder", "--corpus", "c", "--run", "r"), "manifest.jsonl")


def test_info_prints_both_tables(run, toy_model):
    code, out, _ = run("info", "--model", str(toy_model))
    assert code == 0
    table_2 = {"waveform_generator": "724", "spectrogram_vocoder": "25.7"}
    for stage, number in table_2.items():
        assert re.search(rf"{stage} .* {number} ", out)
    assert "Model toy" in out and _load(str(toy_model)).model_hash in out


def test_doctor_finds_a_healthy_installation(run, toy_model):
    code, out, _ = run("doctor", "--model", str(toy_model))
    assert code == 0, out
    assert "Found nothing wrong." in out and "toy: weights" in out
    for op in kernels.OPS:
        assert re.search(rf"{op}: (native|reference) on cpu, .*: ok", out)


def test_doctor_names_what_is_wrong(run, monkeypatch):
    wrong = {"combine_film": lambda: ((1, 2, 3), 0.5)}
    monkeypatch.setattr(doctor, "self_tests", lambda: wrong)
    code, out, _ = run("doctor", "--model", "no-such-model")
    assert code == 1
    assert "Found 2 fault(s):" in out
    assert re.search("combine_film .* differs from the reference by 5.0e-01", out)
    assert "unknown model 'no-such-model'" in out


def test_cmake_dir_is_there_or_says_why_not(run):
    code, out, err = run("--cmake-dir")
    if code == 0:
        assert (pathlib.Path(out.strip()) / "noise2musicConfig.cmake").is_file()
    else:
        _refused((code, out, err), "no C++ library")
