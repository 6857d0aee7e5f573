"""The taggers against what TensorFlow gave for the wheel's own graphs.

``golden/musicnn.npz``: three log-mel patches and, for both models, tag probabilities and pooled
features of all three, and the penultimate of the first (the wheel's extractor repeats that one).
"""

from pathlib import Path

import numpy as np
import pytest
from noise2music.evaluate.encoders import musicnn, tf_checkpoint

ROOT = Path(__file__).resolve().parents[2]

TOLERANCE = 1e-5  # absolute for probabilities, of the largest value for the rest

needs_wheel = pytest.mark.skipif(
    musicnn.wheel_folder() is None,
    reason="the musicnn wheel is absent: pip install --no-deps musicnn==0.1.0",
)


@needs_wheel
@pytest.mark.parametrize("model", musicnn.MODELS)
def test_equals_tensorflow(model: str) -> None:
    golden = np.load(ROOT / "tests" / "golden" / "musicnn.npz")
    heard = musicnn.Tagger(model)(golden["patches"])
    short = model[:3].lower()
    np.testing.assert_allclose(heard.tags, golden[f"{short}_tags"], rtol=0, atol=TOLERANCE)
    for name, value in (
        ("penultimate", heard.penultimate[:1]),
        ("mean_pool", heard.mean_pool),
        ("max_pool", heard.max_pool),
    ):
        expected = golden[f"{short}_{name}"]
        # max_pool sits at the end of the longest chain of float32 sums; twice the tolerance.
        limit = TOLERANCE * np.abs(expected).max() * (2 if name == "max_pool" else 1)
        assert np.abs(value - expected).max() < limit, name


@needs_wheel
def test_no_patch_gives_empty_arrays() -> None:
    heard = musicnn.Tagger()(np.zeros((0, musicnn.PATCH_FRAMES, musicnn.BANDS), np.float32))
    assert heard.tags.shape == (0, 50)
    assert heard.penultimate.shape == (0, 200)


@needs_wheel
def test_tag_names() -> None:
    names = musicnn.tag_names()
    assert len(names) == 100
    assert names[0] == "mtt:guitar"
    assert names[50] == "msd:rock"


@pytest.mark.slow
def test_log_mel_equals_librosa() -> None:
    """Slow: importing librosa compiles for half a minute on a fresh machine."""
    librosa = pytest.importorskip("librosa", reason="librosa is absent: pip install librosa")
    audio = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) / 10
    mel = librosa.feature.melspectrogram(y=audio, sr=16_000, hop_length=256, n_fft=512, n_mels=96)
    expected = np.log10(10_000.0 * mel.T + 1.0)[: musicnn.PATCH_FRAMES]
    assert np.abs(musicnn.log_mel_patches(audio, 16_000)[0] - expected).max() < TOLERANCE


def test_missing_wheel_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musicnn, "wheel_folder", lambda: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps musicnn"):
        musicnn.Tagger()


def test_rejects_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".index").write_bytes(b"x" * 64)
    (tmp_path / ".data-00000-of-00001").write_bytes(b"")
    with pytest.raises(ValueError, match="not a TensorFlow V2 index"):
        tf_checkpoint.read_checkpoint(tmp_path)
