"""What a compiled training step tells of its memory and its communication."""

import dataclasses

import jax
import pytest
from noise2music.config import STAGES, load_preset
from noise2music.train import fit, sharding

HLO = """
  %a = f32[3,8]{1,0:T(8,128)} all-gather(%x), dimensions={0}
  %b = (bf16[4]{0}, f32[2,2]{1,0}) all-reduce-start(%y, %z), to_apply=%add
  %c = (bf16[4]{0}, f32[2,2]{1,0}) all-reduce-done(%b)
  %d = f32[] all-reduce(%w), to_apply=%add
"""


def test_collectives_are_counted_with_their_bytes():
    assert fit.collectives(HLO) == {"all-gather": (1, 96), "all-reduce": (2, 8 + 16 + 4)}


SMALL = ("spectrogram_vocoder", "super_resolution_cascader")


@pytest.mark.parametrize(
    "name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in STAGES]
)
def test_every_preset_lowers_with_its_state_split_over_the_mesh(name):
    """At full size, with the paper's global batch; compiling it is `python -m ...train.fit`."""
    plan = next(p for p in fit.PLANS if p.stage == name and p.is_tpu)
    assert plan.batch == (4096 if name == "super_resolution_cascader" else 2048)
    mesh = sharding.make_mesh(plan.mesh)
    sharding.check_batch(plan.batch, mesh, plan.accumulate)
    _, held = fit.lower(dataclasses.replace(plan, batch=4, accumulate=1), mesh)
    from noise2music.unet1d import count_parameters

    state = 16 * count_parameters(load_preset(name).unet)  # weights, EMA, two moments, float32
    assert jax.device_count() == 4
    assert state / 4 <= held < 1.01 * state / 4


def test_fits_are_read_back_and_tabled(tmp_path):
    plan = fit.Plan("spectrogram_vocoder", "v4:2x2x1", "fsdp=4", 2048, 64)
    found = fit.Fit(plan, 2**30, 3 * 2**29, 2**32, {"all-reduce": (2, 2**29)}, 1.0)
    path = tmp_path / "fits.jsonl"
    assert fit.read(path) == {}
    path.write_text(fit.json.dumps(dataclasses.asdict(found)) + "\n")
    (again,) = fit.read(path).values()
    assert again.total == found.total and again.items == 8
    row = fit.table([again]).splitlines()[-1]
    assert "2048 = 64 x 4 x 8 | 1.00 | 0.50 | 4.00 | 5.50 | 30.75 | 2 all-reduce (0.50)" in row
    assert again.chips_at_once() == 64  # 2048 items of half a GiB and 6 more, in 30.75 each
