"""The cycles of a step are read off a compiled program with the loops inside counted as often as
they run, those of our kernels off the table of their static estimates."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from stages_static import (  # noqa: E402
    CLOCK,
    KERNELS,
    TABLE_4,
    Plan,
    in_a_step,
    kernels_of,
    kernels_run,
    read_table,
    seconds_of_kernels,
    xla_cycles,
)

# As libtpu prints it: a loop of known length has its bound in the condition alone.
PROGRAM = """HloModule jit_f

%six_times (t: (s32[], f32[8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6)
  ROOT %lt.0 = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%until_last (t: (s32[], s32[])) -> pred[] {
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %last), direction=LT
}

%block (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %n2m_conv1d_block_fwd.2 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"
  %fusion.1 = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"100"}
}

%clip (x: f32[8]) -> f32[8] {
  %fusion.2 = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"7"}
}

%nothing (x: f32[8]) -> f32[8] {
  %copy = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"1"}
}

%step (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[], f32[8]) while(%t), condition=%six_times, body=%block
  %clipped = f32[8]{0} conditional(%p, %y, %y), branch_computations={%nothing, %clip}
  %fusion.3 = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"20"}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %copy.2 = f32[8]{0} copy(%p), backend_config={"estimated_cycles":"1000"}
  %while.2 = (s32[], f32[8]) while(%t), condition=%until_last, body=%step
}
"""


def test_loops_inside_a_step_count_as_often_as_they_run():
    assert in_a_step(PROGRAM, xla_cycles) == 6 * 100 + 7 + 20
    assert in_a_step(PROGRAM, kernels_run) == 6


def test_the_table_has_every_layer_of_the_stages():
    rows = read_table(KERNELS)
    for stage in TABLE_4:
        seconds = seconds_of_kernels(Plan(stage), rows)
        assert set(seconds) == {"conv1d_block", "combine_film", "ancestral_step"}
        # Between the peak of the chip and a tenth of it.
        flops = sum(k.times * k.flops for k in kernels_of(Plan(stage)) if k.op == "conv1d_block")
        assert flops / 275e12 <= seconds["conv1d_block"] <= 10 * flops / 275e12


def test_cycles_go_with_the_operations():
    """Two clips of the length that the table has take twice its cycles."""
    rows = read_table(KERNELS)
    plan = Plan("waveform_cascader", clips=4, seconds=4.0)
    first = next(k for k in kernels_of(plan) if k.layer == "waveform_cascader.1.up")
    cycles, flops = rows[first.layer]
    assert first.flops == 2 * flops  # guidance
    assert cycles / CLOCK > first.bytes / 2 / 1.228e12
