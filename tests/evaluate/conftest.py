"""Fixtures of the tests of evaluation."""

import numpy as np
import pytest
import soundfile
from fake_encoder import RATE, FakeEncoder


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
