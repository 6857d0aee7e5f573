"""Rows of whole networks, on networks of eight channels."""

import pytest
from noise2music import config, pages
from noise2music.bench import child, networks, roof, run

ROOF = roof.Roof({"float32": 1e11, "bfloat16": 2e11}, 1e10, {})


@pytest.fixture
def nano(monkeypatch, quick_compiler):
    """The preset's structure in eight channels, and the child's work in this process."""
    from_preset = config.load_preset

    def small(name):
        stage = from_preset(name)
        unet = {**config.to_dict(stage.unet), "base_dim": 8, "channels": [8], "blocks": [1]}
        unet |= {"strides": [stage.unet.compression], "norm_groups": 2, "heads": 2, "text_dim": 16}
        last = [stage.unet.has_text]
        unet |= {"self_attention": last, "cross_attention": last}
        return config.from_dict(config.StageConfig, {**config.to_dict(stage), "unet": unet})

    monkeypatch.setattr(config, "load_preset", small)

    def here(spec):  # weighing compiles once more: one kind is enough
        if spec.get("task") == "memory" and spec["kind"] != "unet":
            return {"peak": 2.0, "beyond": 1.0}
        return child.run(child.Spec(**spec))

    monkeypatch.setattr(networks, "_child", here)
    monkeypatch.setattr(pages, "keep", lambda: True)


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        ("unet", "tiny_spectrogram_generator"),
        ("train", "tiny_super_resolution_cascader"),
        ("sampler", "tiny_spectrogram_vocoder"),
    ],
)
def test_a_row(nano, kind, preset):
    network = networks.Network(kind, preset, "float32", 0.2)
    row = networks.measure(network, ROOF, seconds=0.0, least=1)
    assert row.op == kind
    assert set(row.seconds) == set(row.memory) == {"ours", "xla"}
    assert row.error < 1e-3
    assert (row.gflops > 0) == (kind != "sampler")
    assert row.command == f"noise2music bench {kind} --case {preset} --dtype float32 --seconds 0.2"


def test_a_training_step_that_does_not_fit_is_its_gradient(nano, monkeypatch):
    monkeypatch.setattr(networks, "_available", lambda: networks._ROOM + 1e6)
    monkeypatch.setattr(networks, "_COPIES", {"train": 1e9, "gradient": 1.0})
    network = networks.Network("train", "tiny_super_resolution_cascader", "float32", 0.2)
    assert networks.measure(network, ROOF, seconds=0.0, least=1).op == "gradient"


def test_what_does_not_fit_is_left_out_by_name(monkeypatch):
    monkeypatch.setattr(networks, "_available", lambda: 1e9)
    with pytest.raises(networks.DoesNotFit, match="train of waveform_generator needs about 9 GB"):
        networks.measure(
            networks.Network("train", "waveform_generator", "float32"), ROOF, seconds=0.0, least=1
        )


def test_a_failed_child_is_told():
    with pytest.raises(RuntimeError, match="preset must be one of"):
        networks._child(
            {"kind": "unet", "preset": "no_such", "dtype": "float32", "clip_seconds": 1.0}
        )


def test_every_full_preset_and_the_tiny_ones_that_are_named():
    works, _ = run.choose(run.Options(what=("unet",)))
    assert [w.preset for w in works] == list(config.STAGES)
    works, _ = run.choose(run.Options(what=("unet", "train"), case=("tiny_waveform_*",)))
    assert len(works) == 4
