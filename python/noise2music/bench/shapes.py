"""The shapes that are timed: every room's hot cases, and those of the five presets' U-Nets."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from noise2music import config, kernels
from noise2music.kernels.common.cases import Case, Cost

PASSES = ("forward", "both")
DTYPES = ("float32", "bfloat16")
# Of forward and backward together, in forward passes: a convolution is done again for its input and
# for its weight; combine_film reads x and dy and writes dx; resampling has an adjoint of its cost.
_BOTH = {"conv1d_block": 3.0, "combine_film": 2.5, "fft_upsample": 2.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """One row to time: an op at a shape, in a dtype, forward or forward and backward ("both")."""

    op: str
    case: Case
    dtype: str
    passes: str
    options: str = ""  # of the command, for the size of the shapes

    @property
    def case_name(self) -> str:
        return self.case.name

    @property
    def command(self) -> str:
        """What repeats this row."""
        return (
            f"noise2music bench {self.op} --case {self.case.name} --dtype {self.dtype}"
            f" --passes {self.passes}{self.options}"
        )


def room(op: str) -> Any:
    """The op's module of cases."""
    return importlib.import_module(f"noise2music.kernels.{op}.cases")


def cases_of(op: str, seconds: float | None = None) -> list[Case]:
    """The hot cases of the room, then the shapes of the presets that the op meets."""
    cases = [case for case in room(op).CASES if case.hot]
    for preset in (*config.STAGES, *("tiny_" + stage for stage in config.STAGES)):
        cases += layers_of(op, preset, seconds)
    first: dict[Any, Case] = {}
    for case in cases:
        first.setdefault((*sorted(case.shape.items()), *sorted(case.options.items())), case)
    return list(first.values())


def layers_of(op: str, preset: str, seconds: float | None = None) -> list[Case]:
    """The shapes of a preset's U-Net that the op meets, in a clip of this length (None: of its
    training)."""
    layers = {"conv1d_block": _convolutions, "combine_film": _films}.get(op)
    return [] if layers is None else layers(preset, seconds)


def options_of(batch: int | None, seconds: float | None) -> str:
    """What a command says of these."""
    return ("" if batch is None else f" --batch {batch}") + (
        "" if seconds is None else f" --seconds {seconds:g}"
    )


def _batched(case: Case, batch: int | None) -> Case:
    if batch is None:
        return case
    return dataclasses.replace(case, shape={**case.shape, "B": batch})


def works(
    ops: list[str],
    dtypes: list[str],
    passes: list[str],
    batch: int | None = None,
    seconds: float | None = None,
) -> list[Work]:
    """All rows of these ops, dtypes and passes that exist."""
    return [
        Work(op, _batched(case, batch), dtype, which, options_of(batch, seconds))
        for op in ops
        for case in cases_of(op, seconds)
        for dtype in dtypes
        if dtype in room(op).DTYPES
        for which in passes
        if which == "forward" or room(op).DIFFERENTIABLE
    ]


def inputs_of(work: Work) -> dict[str, Any]:
    """The array arguments, as the U-Net has them: a block is given its group sums by the op before
    it, and the parameters of combine_film are float32 whatever the activations are."""
    inputs: dict[str, Any] = room(work.op).make_inputs(work.case, work.dtype)
    if _is_block(work.case):
        from noise2music.kernels.conv1d_block import reference

        inputs["sums"] = reference.group_sums(inputs["x"], work.case.options["groups"])
    if work.case.name.endswith(".film"):
        inputs = {n: v if n == "x" else v.astype("float32") for n, v in inputs.items()}
    return inputs


def cost_of(work: Work) -> Cost:
    """The least bytes and the operations of a direct computation."""
    case = work.case
    if _is_block(case):
        case = dataclasses.replace(case, name="given_sums")
    cost: Cost = room(work.op).cost(case, work.dtype)
    factor = 1.0 if work.passes == "forward" else _BOTH[work.op]
    return Cost(round(factor * cost.bytes), round(factor * cost.flops))


def _is_block(case: Case) -> bool:
    return case.name.endswith(".block")


def levels(stage: config.StageConfig, seconds: float | None = None) -> list[tuple[int, int, int]]:
    """(T_l, C_l, S_l) at each depth l = 0 .. D for a clip (None: a training snippet); S_0 = 1."""
    length = stage.legal_length(round((seconds or stage.train_seconds) * stage.rate))
    found = [(length, stage.unet.base_dim, 1)]
    for stride, channels in zip(stage.unet.strides, stage.unet.channels, strict=True):
        length //= stride
        found.append((length, channels, stride))
    return found


def _convolutions(preset: str, seconds: float | None) -> list[Case]:
    """The second convolution of a block at each depth, the ways down and up, entry and exit.

    Names are PRESET.DEPTH.block and so on; all are of one clip.
    """
    stage = config.load_preset(preset)
    unet, depths = stage.unet, levels(stage, seconds)

    def case(where: str, t: int, k: int, c: int, d: int, r: int = 0, **options: Any) -> Case:
        shape = {"B": 1, "T": t, "C": c, "K": k, "D": d, "R": r}
        return Case(f"{preset}.{where}", shape, options, hot=True)

    found = []
    for depth, (t, c, s) in enumerate(depths[1:], start=1):
        t_above, c_above, _ = depths[depth - 1]
        k = unet.kernel_size
        found += [
            case(f"{depth}.block", t, k, c, c, c, groups=unet.norm_groups),
            case(f"{depth}.down", t_above, k, c_above, c, stride=s),
            case(f"{depth}.up", t, k, c, s * c_above),
        ]
    t, c, _ = depths[0]
    found.append(case("entry", t, 3, unet.in_channels + unet.stacked_channels, c))
    found.append(case("exit", t, 3, c, unet.in_channels))
    return found


def _films(preset: str, seconds: float | None) -> list[Case]:
    """combine_film with the sums for the block's first GroupNorm, at each depth."""
    stage = config.load_preset(preset)
    unet = stage.unet
    return [
        Case(
            f"{preset}.{depth}.film",
            {"B": 1, "T": t, "C": c, "E": unet.base_dim},
            {"groups": unet.norm_groups},
            hot=True,
        )
        for depth, (t, c, _) in enumerate(levels(stage, seconds)[1:], start=1)
    ]


OPS = tuple(kernels.OPS)
