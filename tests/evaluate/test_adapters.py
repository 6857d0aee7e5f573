"""Adapters of encoders whose weights are not here: what each gives its model, and what it refuses.

The stand-ins have the interface of the published packages and note what they are given.
"""

import contextlib
import sys
import types

import numpy as np
import pytest
from noise2music.errors import UserError
from noise2music.evaluate.encoders import load_encoder
from noise2music.evaluate.encoders.protocol import AudioEncoder, JointEncoder

NAMES = ("vggish", "trill", "clap", "muq_mulan")


@pytest.fixture
def given():
    return []


@pytest.fixture
def module(monkeypatch):
    """module(name, **members): a stand-in for a package."""

    def make(name, **members):
        fake = types.ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)

    return make


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_none_downloads_unasked(name, tmp_path):
    with pytest.raises(UserError, match=f"{name}:PATH with a local copy, or --allow-download"):
        load_encoder(name)
    with pytest.raises(UserError, match="there is no"):
        load_encoder(f"{name}:{tmp_path / 'absent'}")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("vggish", "torch"),
        ("trill", "tensorflow_hub"),
        ("clap", "laion_clap"),
        ("muq_mulan", "muq"),
    ],
)
def test_an_absent_package_is_named(name, package, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f"encoder {name}.*pip install {package}"):
        load_encoder(f"{name}:{weights}")


def test_vggish(module, given, weights):
    """0.96 s with the 25 ms more that its front end needs for 96 frames; before its PCA."""

    class Model:
        postprocess = True

        def eval(self):
            return self

        def forward(self, samples, fs):
            given.append((samples, fs, self.postprocess))
            return np.full((1, 128), samples[0])

    asked = []
    hub = types.SimpleNamespace(load=lambda *a, **k: asked.append((a, k)) or Model())
    module("torch", hub=hub, inference_mode=contextlib.nullcontext)
    encoder = load_encoder(f"vggish:{weights}")
    assert asked == [((str(weights), "vggish"), {"source": "local"})]
    rows = encoder.embed(np.arange(2 * 15_360 + 9, dtype=np.float32))
    assert rows.shape == (2, 128) and rows[:, 0].tolist() == [0, 15_360]
    for samples, fs, postprocess in given:
        assert (samples.size, fs, postprocess) == (15_360 + 400, 16_000, False)
        assert 1 + (samples.size - 400) // 160 >= 96 and not samples[15_360:].any()


def test_trill(module, given, weights):
    """A second at a time; the mean of the embeddings that its model gives in it."""

    def model(samples, sample_rate):
        given.append((samples.size, sample_rate))
        return {"embedding": np.stack([np.full(512, 1.0), np.full(512, 3.0)])}

    module("tensorflow_hub", load=lambda path: given.append(path) or model)
    rows = load_encoder(f"trill:{weights}").embed(np.zeros(32_500, np.float32))
    assert given == [str(weights), (16_000, 16_000), (16_000, 16_000)]
    assert rows.shape == (2, 512) and (rows == 2.0).all()


def test_clap(module, given, weights):
    """10 s at 48 kHz as a batch of one, and text."""

    class Module:
        def __init__(self, enable_fusion, amodel):
            given.append((enable_fusion, amodel))

        def load_ckpt(self, *path):
            given.append(path)

        def get_audio_embedding_from_data(self, x):
            given.append(x.shape)
            return np.ones((1, 512))

        def get_text_embedding(self, texts):
            return np.ones((len(texts), 512))

    module("laion_clap", CLAP_Module=Module)
    checkpoint = weights / "weights"
    encoder = load_encoder(f"clap:{checkpoint}")
    assert encoder.embed(np.zeros(960_000, np.float32)).shape == (2, 512)
    assert given == [(False, "HTSAT-base"), (str(checkpoint),), (1, 480_000), (1, 480_000)]
    assert encoder.embed_text(["a", "b", "c"]).shape == (3, 512)
    assert isinstance(encoder, JointEncoder)


def test_muq_mulan(module, given, weights):
    """10 s at 24 kHz as a batch of one, and text."""
    torch = pytest.importorskip("torch")

    class Model:
        def eval(self):
            return self

        def __call__(self, wavs=None, texts=None):
            if texts is not None:
                return torch.ones(len(texts), 512)
            given.append(tuple(wavs.shape))
            return wavs.mean(dim=1, keepdim=True).expand(-1, 512)

    load = types.SimpleNamespace(from_pretrained=lambda path: given.append(path) or Model())
    module("muq", MuQMuLan=load)
    encoder = load_encoder(f"muq_mulan:{weights}")
    assert encoder.embed(np.ones(480_001, np.float32)).shape == (2, 512)
    assert given == [str(weights), (1, 240_000), (1, 240_000)]
    assert encoder.embed_text(["a", "b"]).shape == (2, 512)
    assert isinstance(encoder, AudioEncoder) and isinstance(encoder, JointEncoder)


def test_weights_change_the_hash(module, weights):
    module("tensorflow_hub", load=lambda path: None)
    first = load_encoder(f"trill:{weights}").weights_hash
    (weights / "weights").write_bytes(b"2")
    assert load_encoder(f"trill:{weights}").weights_hash != first and len(first) == 16


def test_asked_to_download_it_asks_its_hub(module):
    asked = []
    module("tensorflow_hub", load=lambda path: asked.append(path) or (lambda **_: None))
    load_encoder("trill", allow_download=True)
    assert asked == ["https://tfhub.dev/google/nonsemantic-speech-benchmark/trill/3"]
