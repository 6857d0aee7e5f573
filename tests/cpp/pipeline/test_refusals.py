"""What is wrong with a model, a file or an argument comes back as one line that names it."""

import json
import shutil
import struct
import subprocess

import numpy as np
import pytest
from parity import TINY
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.cpp

STAGE = "spectrogram_vocoder.safetensors"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    return folder


@pytest.fixture
def refused(program, model, tmp_path):
    """Runs n2m on `model`; the one line that it answers."""

    def run(*options: str, prompt: str = "x") -> str:
        output = tmp_path / "out.wav"
        command = [program, "generate", "-m", model, prompt, "-o", output, "-s", "0.1", *options]
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        assert result.returncode == 2, result.stderr
        assert not output.exists()
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def rewrite(path, change):
    """Changes the header of a safetensors file in place; its data stay."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    text = change(header)
    text = json.dumps(header) if text is None else text
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + data)


def last(header):
    """The tensor with the last bytes."""
    names = [n for n in header if n != "__metadata__"]
    return max(names, key=lambda n: header[n]["data_offsets"][1])


def test_truncated(model, refused):
    path = model / STAGE
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with safe_open(TINY / STAGE, framework="numpy") as file:
        assert any(
            f"tensor {name}: its bytes must lie in the file" in refused() for name in file.keys()
        )
    for size in (0, 7, 8, 100):
        path.write_bytes(raw[:size])
        assert STAGE in refused()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.update(dtype="I16"), "dtype must be F16, BF16, F32 or I8, got I16"),
        (lambda t: t.update(dtype="F32"), "its shape must fit its bytes"),
        (lambda t: t.update(shape=[2**62, 2**62]), "product can be addressed"),
        (lambda t: t.update(shape=[-1]), "shape must be a list of sizes"),
        (lambda t: t.update(data_offsets=[0, 2**50]), "its bytes must lie in the file"),
        (lambda t: t.update(data_offsets=[4, 2]), "its bytes must lie in the file"),
        (lambda t: t.update(data_offsets=[1.5, 2]), "data_offsets must be two whole numbers"),
        (lambda t: t.pop("data_offsets"), "data_offsets must be two whole numbers"),
        (lambda t: t.pop("dtype"), "dtype must be a string"),
    ],
)
def test_a_wrong_entry_names_its_tensor(model, refused, change, message):
    named = []

    def edit(header):
        named.append(last(header))
        change(header[named[0]])

    rewrite(model / STAGE, edit)
    line = refused()
    assert f"tensor {named[0]}: " in line and message in line


def test_overlap_gap_and_rest(model, refused):
    def shift(by):
        def edit(header):
            begin, end = header[last(header)]["data_offsets"]
            header[last(header)]["data_offsets"] = [begin + by, end + by]

        return edit

    rewrite(model / STAGE, shift(-2))
    assert "must not overlap" in refused()
    (model / STAGE).write_bytes((TINY / STAGE).read_bytes() + b"xx")
    rewrite(model / STAGE, shift(2))
    assert "must follow the tensor before it" in refused()
    (model / STAGE).write_bytes((TINY / STAGE).read_bytes() + b"xx")
    assert "must end with its last tensor, got 2 bytes more" in refused()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": {}, "a": {}}', '{"a": tru}', "{} {}", '{"a": 1e999}', "[" * 100]
)
def test_a_header_that_is_no_header(model, refused, text):
    rewrite(model / STAGE, lambda header: text)
    assert STAGE in refused()


@pytest.fixture
def saved(model, refused):
    """saved(name=tensor or None): what is said of the stage with a tensor changed or left out."""
    path = model / STAGE
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)

    def save(**change):
        kept = {name: t for name, t in {**tensors, **change}.items() if t is not None}
        save_file(kept, path, metadata=metadata)
        return refused()

    return save


def test_missing_extra_misshapen_and_not_finite(saved):
    assert "extra surplus" in saved(surplus=np.zeros(3, np.float32))
    assert "entry.bias must be (24), got (3)" in saved(**{"entry.bias": np.zeros(3, np.float16)})
    nan = np.full(24, np.nan, np.float16)
    assert "entry.bias must be finite" in saved(**{"entry.bias": nan})
    assert "missing entry.bias" in saved(**{"entry.bias": None})


def test_int8_weights_have_their_scales(saved):
    whole = np.ones((3, 1, 24), np.int8)
    assert "missing entry.weight.int8_scale" in saved(**{"entry.weight": whole})
    for scale in (np.ones(3, np.float32), np.full(24, np.nan, np.float32), np.ones(24, np.float16)):
        told = saved(**{"entry.weight": whole, "entry.weight.int8_scale": scale})
        assert "entry.weight.int8_scale must be 24 finite numbers of F32" in told


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(residual=True), "has no option 'residual'"),
        (lambda c: c["unet"].update(surplus=1), "has no option 'surplus'"),
        (lambda c: c.pop("rate"), "lacks rate"),
        (lambda c: c.update(target="noise"), "target must be one of mel, waveform"),
        (lambda c: c.update(denoising=[[0.5, 3]]), "times add up to 1"),
        (lambda c: c["unet"].update(heads=0), "heads must be a whole number from 1"),
        (lambda c: c["unet"].update(channels=[24]), "must have one entry a depth"),
        (lambda c: c["unet"].update(norm_groups=7), "must be a multiple of norm_groups"),
    ],
)
def test_a_wrong_config_is_named(model, refused, change, message):
    def edit(header):
        config = json.loads(header["__metadata__"]["config"])
        change(config)
        header["__metadata__"]["config"] = json.dumps(config)

    rewrite(model / STAGE, edit)
    line = refused()
    assert message in line and STAGE in line


def test_tokenizer_of_another_kind(model, refused):
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["type"] = "WordPiece"
    path.write_text(json.dumps(tokenizer))
    assert 'must have a model of type BPE or Unigram, got "WordPiece"' in refused()
    tokenizer["model"].update(type="BPE", byte_fallback=False)
    path.write_text(json.dumps(tokenizer))
    assert "must have a BPE model with byte_fallback" in refused()
    path.write_text("{")
    assert "tokenizer.json" in refused()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seed", "-1"], "--seed must be a number from 0"),
        (["--steps", "0"], "steps must be from 1 to 10000, got 0"),
        (["--steps", "spectrogram=3"], "stages must be among spectrogram_generator"),
        (["--guidance", "x"], "--guidance must be a number"),
        (["--route", "both"], "route must be spectrogram or waveform"),
        (["--sampler", "euler"], "sampler must be ancestral"),
        (["--bits", "8"], "--bits must be 16, 24 or 32"),
        (["--until", "spectrogram_generator"], "until must be a stage of the route"),
        (["--colour"], "there is no option --colour"),
        (["--seed"], "--seed wants a value"),
        (["more"], "give one prompt in quotes"),
    ],
)
def test_wrong_arguments(refused, options, message):
    assert message in refused(*options)


def test_cannot_write(program, tmp_path):
    command = [program, "generate", "-m", TINY, "x", "-s", "0.1", "-o", tmp_path / "no" / "x.wav"]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 2
    assert "cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize("bits, subtype", [(16, "PCM_16"), (24, "PCM_24"), (32, "FLOAT")])
def test_formats(program, tmp_path, bits, subtype):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "x.wav"
    command = [program, "generate", "-m", TINY, "x", "-s", "0.1", "-o", path, "--bits", bits]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    assert soundfile.info(path).subtype == subtype
    assert soundfile.info(path).frames == 2400
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_info(program):
    command = [str(program), "info", "-m", str(TINY)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with safe_open(TINY / STAGE, framework="numpy") as file:
        count = sum(int(np.prod(file.get_slice(n).get_shape())) for n in file.keys())
    assert f"{count} parameters" in out and "route waveform" in out
