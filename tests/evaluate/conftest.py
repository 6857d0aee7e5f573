"""Fixtures of the tests of evaluation."""

import json

import numpy as np
import pytest
import soundfile
from fake_encoder import FAULTS, RATE, FakeEncoder, tone


@pytest.fixture
def fake():
    return FakeEncoder()


@pytest.fixture
def noise_folder(tmp_path):
    """noise_folder(name, n, tilt): n clips of coloured noise; the tilt moves their spectrum."""

    def make(name, n, tilt=0.0, seed=0):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng((seed, n))
        for i in range(n):
            spectrum = np.fft.rfft(rng.standard_normal(2 * RATE))
            spectrum *= np.linspace(1, 0.05, len(spectrum)) ** (1 + tilt + 0.3 * rng.uniform())
            sound = np.fft.irfft(spectrum)
            soundfile.write(folder / f"{i:03d}.wav", 0.5 * sound / np.abs(sound).max(), RATE)
        return folder

    return make


@pytest.fixture
def faulty(tmp_path):
    """A folder of two good clips and one with each fault, and its manifest."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    for name, hz in (("good", 300), ("better", 700)):
        soundfile.write(folder / f"{name}.wav", tone(hz), RATE)
    (folder / "twin.wav").write_bytes((folder / "good.wav").read_bytes())
    soundfile.write(folder / "flac.flac", *soundfile.read(folder / "good.wav", dtype="int16"))
    (folder / "corrupt.wav").write_bytes(b"RIFF" + b"\0" * 99)
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    broken = tone(200)
    broken[7] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", tone(200, level=1e-5), RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", tone(200, seconds=0.4), RATE)
    soundfile.write(folder / "rate.wav", tone(200, rate=8000), 8000)
    names = [f"{name}.wav" for name in ("good", "better", *FAULTS) if name != "flac"]
    rows = [{"audio": name} for name in (*names, "flac.flac")]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
