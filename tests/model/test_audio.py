"""Sound files: what is written is what is read back, and nothing is left half written."""

import json
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from noise2music import Clip, UserError, audio

RATE = 24_000
# A whole tone of one second; lossless files keep it to half a step of 16 bits.
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
STEP_16 = 1.0 / 2**15


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_formats_keep_the_samples(tmp_path, suffix, bits):
    path = audio.write_audio(tmp_path / f"a{suffix}", TONE, RATE, bits=bits)
    samples, rate = audio.read_audio(path)
    assert rate == RATE and samples.dtype == np.float32
    # libsndfile writes x * (2^(bits-1) - 1) and reads x / 2^(bits-1).
    np.testing.assert_allclose(samples, TONE, rtol=0, atol=2 * 2.0 ** -(bits - 1))
    assert soundfile.info(path).subtype == f"PCM_{bits}"


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_formats_keep_the_length_and_the_sound(tmp_path, suffix):
    samples, rate = audio.read_audio(audio.write_audio(tmp_path / f"a{suffix}", TONE, RATE))
    assert rate == RATE and len(samples) == len(TONE)
    middle = slice(RATE // 4, 3 * RATE // 4)
    assert np.corrcoef(samples[middle], TONE[middle])[0, 1] > 0.99


@pytest.mark.parametrize("suffix", list(audio.FORMATS))
@pytest.mark.parametrize(
    "prompt", ["", "slow church organ", "曲 🎹 été “quoted” \\ \n", "é" * 2000, "🎹" * 2000]
)
def test_metadata_survives_every_format(tmp_path, suffix, prompt):
    metadata = {"prompt": prompt, "seed": 3, "steps": {"a": 4}, "guidance": None, "seconds": 0.1}
    clip = Clip(TONE, RATE, prompt=prompt, seed=3, metadata=metadata)
    again = Clip.open(clip.save(tmp_path / f"a{suffix}"))
    assert again.metadata == {**metadata, "bits": 16, "normalize": False}
    assert (again.prompt, again.seed, again.sample_rate) == (prompt, 3, RATE)


def test_wav_comment_is_where_other_programs_look(tmp_path):
    path = audio.write_audio(tmp_path / "a.wav", TONE, RATE, metadata={"seed": 1}, title="organ")
    with soundfile.SoundFile(path) as file:
        assert json.loads(file.comment) == {"seed": 1}
        assert file.title == "organ"
    size = os.path.getsize(path)
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] == size - 8


def test_equal_clips_give_equal_files(tmp_path):
    one, two = (
        audio.write_audio(tmp_path / f"{name}.wav", TONE, RATE, metadata={"seed": 1})
        for name in ("one", "two")
    )
    assert one.read_bytes() == two.read_bytes()


def test_files_without_our_metadata(tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, TONE, RATE)
        assert audio.read_metadata(tmp_path / name) is None
        assert Clip.open(tmp_path / name).metadata == {}
    audio.write_audio(tmp_path / "b.flac", TONE, RATE, metadata={"seed": "of a flower"})
    assert Clip.open(tmp_path / "b.flac").seed == 0


def test_a_peak_is_turned_down_not_clipped(tmp_path):
    loud = 3.0 * TONE
    samples, _ = audio.read_audio(audio.write_audio(tmp_path / "a.wav", loud, RATE))
    assert np.max(np.abs(samples)) <= 10 ** (-1 / 20) + STEP_16
    scale = 10 ** (-1 / 20) / np.max(np.abs(loud))
    np.testing.assert_allclose(samples, loud * scale, rtol=0, atol=2 * STEP_16)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=20), st.booleans())
def test_limit_peak_bounds_any_input(values, normalize):
    x = np.asarray(values, np.float32)
    y = audio.limit_peak(x, normalize=normalize)
    ceiling = 10 ** (-1 / 20)
    assert y.shape == x.shape and np.all(np.abs(y) <= ceiling * (1 + 1e-6))
    if not normalize and (len(x) == 0 or np.max(np.abs(x)) <= ceiling):
        assert np.array_equal(x, y)


def test_normalize_turns_up_but_never_makes_noise_of_silence():
    assert np.max(audio.limit_peak(TONE / 10, normalize=True)) == pytest.approx(10 ** (-1 / 20))
    assert not audio.limit_peak(np.zeros(4, np.float32), normalize=True).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_file_holds_nan(tmp_path, bad):
    with pytest.raises(UserError, match="finite"):
        audio.write_audio(tmp_path / "a.wav", np.array([0.0, bad], np.float32), RATE)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), audio.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_stereo_is_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE, 0 * TONE], axis=1), RATE, subtype="FLOAT")
    samples, _ = audio.read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(samples, TONE / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("content", [b"", b"this is text", b"RIFF\x10\0\0\0WAVEfmt "])
def test_what_is_not_sound_is_refused(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UserError, match="as sound"):
        audio.read_audio(path)
    with pytest.raises(UserError, match="as sound"):
        audio.read_metadata(path)


def test_absent_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        audio.read_audio(tmp_path / "absent.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(UserError, match="no samples"):
        audio.read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize(
    ("rate_in", "rate_out", "length"), [(24000, 16000, 999), (16000, 24000, 1), (44100, 24000, 0)]
)
def test_resample_length(rate_in, rate_out, length):
    expected = -(-length * rate_out // rate_in)
    assert audio.resample(np.ones(length, np.float32), rate_in, rate_out).shape == (expected,)


def test_resample_keeps_a_tone():
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    found = audio.resample(TONE, RATE, 16_000)
    np.testing.assert_allclose(found[500:-500], expected[500:-500], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.wv", "Did you mean '.wav'"),
        ("a", "does not tell the format"),
        (".wav", "does not tell the format"),
        ("no/a.wav", "does not exist"),
        ("folder.wav", "is a folder"),
    ],
)
def test_output_names_are_checked(tmp_path, name, message):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(UserError, match=message):
        audio.check_output(tmp_path / name, list(audio.FORMATS))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write into")
def test_a_folder_that_refuses_files():
    with pytest.raises(UserError, match="cannot write into the folder"):
        audio.check_output("/proc/a.wav", list(audio.FORMATS))


def test_clip_checks_its_samples():
    with pytest.raises(UserError, match="shape"):
        Clip(np.zeros((2, 3)), RATE)
    with pytest.raises(UserError, match="sample_rate"):
        Clip(TONE, 0)
    clip = Clip(TONE.astype(np.float64), RATE, prompt="organ")
    assert clip.samples.dtype == np.float32 and clip.seconds == 1.0 and len(clip) == RATE
    assert "1.00 s at 24000 Hz" in repr(clip)
    assert clip.resample(16_000).seconds == 1.0


def test_plot_draws_waveform_and_spectrogram(tmp_path):
    pytest.importorskip("matplotlib")
    clip = Clip(TONE, RATE, prompt="a $tone 曲 🎹")
    figure = clip.plot(tmp_path / "a.png")
    assert len(figure.axes) == 3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="suffix"):
        clip.plot(tmp_path / "a.wav")


def test_the_picture_shows_the_tone_where_it_is():
    from noise2music.plot import mel_picture

    picture, centres = mel_picture(TONE, RATE)
    assert picture.shape == (101, 128) and picture.max() == 0.0 and picture.min() >= -80.0
    # One band of 128 is 25 Hz wide there at most.
    assert abs(centres[picture[50].argmax()] - 440) < 25


def test_play_says_what_is_missing_or_plays():
    clip = Clip(TONE, RATE)
    try:
        import IPython.display
    except ImportError:
        with pytest.raises(UserError, match="pip install ipython"):
            clip.play()
    else:
        assert isinstance(clip.play(), IPython.display.Audio)
