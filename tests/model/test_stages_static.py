"""The cycles of a step are read off a compiled program with the loops inside counted as often as
they run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from stages_static import cycles_of_a_step  # noqa: E402

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
    assert cycles_of_a_step(PROGRAM) == 6 * 100 + 7 + 20
