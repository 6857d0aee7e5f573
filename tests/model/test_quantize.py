"""int8 weights: their error, their files, and what is refused."""

import jax
import numpy as np
import pytest
from flax import nnx
from noise2music import weights
from noise2music.config import load_preset, to_dict
from noise2music.quantize import SCALE, dequantize, quantize
from noise2music.unet1d import abstract_unet
from safetensors.numpy import load_file, save_file
from tolerances import INT8_STEPS


def test_error_is_at_most_half_a_step():
    draw = np.random.default_rng(1)
    spread = np.exp(draw.uniform(-8, 8, 6)).astype(np.float32)
    w = draw.standard_normal((5, 7, 6)).astype(np.float32) * spread
    w[..., 2] = 0
    stored = quantize({"w": w, "b": np.ones(3, np.float32)})
    assert stored["w"].dtype == np.int8 and stored["b"].dtype == np.float16
    step = stored["w" + SCALE]
    np.testing.assert_array_equal(step, np.abs(w).max((0, 1)) / np.float32(127))
    back = dequantize(stored, "x")["w"]
    assert (np.abs(back - w) <= INT8_STEPS * step).all()
    assert (np.abs(stored["w"]).max((0, 1)) == np.where(step > 0, 127, 0)).all()


def test_a_file_of_int8_is_a_stage(tmp_path):
    config = load_preset("tiny_super_resolution_cascader")
    abstract = nnx.split(abstract_unet(config.unet))[1]
    draw = np.random.default_rng(2)
    state = jax.tree.map(lambda a: draw.standard_normal(a.shape).astype(np.float32), abstract)
    sizes = {}
    for dtype in (np.int8, np.float16):
        path = tmp_path / f"{np.dtype(dtype)}.safetensors"
        weights.save_state(path, state, to_dict(config), dtype)
        sizes[dtype] = path.stat().st_size
    assert sizes[np.int8] < 0.7 * sizes[np.float16]
    found = weights.flatten(weights.load_state(tmp_path / "int8.safetensors", abstract))
    for name, w in weights.flatten(state).items():
        if w.ndim < 2:
            np.testing.assert_array_equal(found[name], np.float16(w), name)
        else:
            step = np.abs(w).max(axis=tuple(range(w.ndim - 1))) / 127
            assert (np.abs(found[name] - w) <= INT8_STEPS * step).all(), name


def test_scales_and_weights_go_together(tmp_path):
    path, name = tmp_path / "x.safetensors", "layer.weight"
    whole = {"layer": {"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}}
    weights.save_state(path, whole, {}, np.int8)
    tensors = load_file(path)
    weights.load_state(path, whole)

    def saved(**change):
        merged = {n: t for n, t in {**tensors, **change}.items() if t is not None}
        save_file(merged, path, metadata={"config": "{}"})
        return pytest.raises(ValueError, match=name)

    with saved(**{name + SCALE: None}):
        weights.load_state(path, whole)
    with saved(**{name + SCALE: np.ones(1, np.float32)}):
        weights.load_state(path, whole)
    with saved(**{name: None}):
        weights.load_state(path, whole)
    with saved(**{name: tensors[name].astype(np.float32)}):
        weights.load_state(path, whole)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    w = np.ones((2, 3), np.float32)
    for bad in (np.nan, np.inf):
        w[1, 2] = bad
        with pytest.raises(ValueError, match="must be finite as stored"):
            weights.save_state(tmp_path / "x.safetensors", {"w": w}, {}, np.int8)
    assert list(tmp_path.iterdir()) == []
