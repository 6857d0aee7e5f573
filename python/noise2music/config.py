"""The five stages as data: what a U-Net looks like and how a stage is trained and sampled.

A stage is one frozen dataclass that reads and writes JSON. The paper's five stages (Tables 2, 3,
4, 8, 9) are `presets/<stage>.json`, their reduced-width twins `presets/tiny_<stage>.json`. Unknown
keys are refused, so that a misspelt option never passes silently.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from importlib import resources
from typing import Any, Literal

STAGES = (
    "waveform_generator",
    "waveform_cascader",
    "spectrogram_generator",
    "spectrogram_vocoder",
    "super_resolution_cascader",
)
ROUTES = {
    "spectrogram": ("spectrogram_generator", "spectrogram_vocoder", "super_resolution_cascader"),
    "waveform": ("waveform_generator", "waveform_cascader", "super_resolution_cascader"),
}
MEL_CHANNELS = 80
MEL_HOP = 160  # samples of 16 kHz audio a frame: 10 ms


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The free parameters of the 1D U-Net (paper, appendix B.1 and Table 9).

    Lists have one entry a depth l = 1..D. `in_channels` counts x_t alone; `stacked_channels` the
    up-sampled low-fidelity audio beside it; `aligned_channels` the compressed input added at the
    bottom of the U. Three options are ours, not the paper's, and off but in the tiny generators
    (docs/design/conditioning.md): `clock_rate`, the samples of x a second, tells every block the
    time of its frames; `text_film` gives the mean of the text to every block beside t; `skip_film`
    lets both scale and shift what the skips carry.
    """

    base_dim: int
    kernel_size: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    self_attention: tuple[bool, ...]
    cross_attention: tuple[bool, ...]
    heads: int = 8
    in_channels: int = 1
    stacked_channels: int = 0
    aligned_channels: int = 0
    text_dim: int = 1024
    norm_groups: int = 32
    clock_rate: float | None = None
    text_film: bool = False
    skip_film: bool = False

    def __post_init__(self) -> None:
        depth = len(self.strides)
        for name in ("channels", "blocks", "self_attention", "cross_attention"):
            if len(getattr(self, name)) != depth:
                raise ValueError(
                    f"n2m.config: {name} must have one entry a depth ({depth}, as strides has), "
                    f"got {len(getattr(self, name))}"
                )
        for c in (self.base_dim, *self.channels):
            if c % self.norm_groups:
                raise ValueError(
                    "n2m.config: every width must be a multiple of norm_groups = "
                    f"{self.norm_groups}, got {c}"
                )

    @property
    def depth(self) -> int:
        return len(self.strides)

    @property
    def compression(self) -> int:
        """prod_l S_l: input lengths must be a multiple of it."""
        return math.prod(self.strides)

    @property
    def has_text(self) -> bool:
        return any(self.cross_attention)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How the condition of a cascader is corrupted in training (section 4.1).

    `noise_t_max`: diffusion noise of a random time in [0, t_max]. `blur_sigma`: range of the
    Gaussian blur's deviation, over `blur_dims` axes, in samples (1-D, size 10) or in frames and mel
    channels (2-D, 5 x 5).
    """

    noise_t_max: float = 0.0
    blur_sigma: tuple[float, float] | None = None
    blur_dims: int = 1


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One diffusion model of the cascade: its network, its target, its diffusion and its sampler.

    rate: target frames (mel) or samples (audio) a second. `condition`: what enters beside x_t,
    "none", "stacked" (audio, FFT-upsampled by up/down) or "aligned" (the mel spectrogram).
    `data_scale` multiplies the target (and a stacked condition) before diffusion: 1 in the paper.
    `prediction`: what the network's output stands for: "noise" is the paper's; "velocity" and
    "sample" give the same eps_theta by way of v or of x_0 (docs/design/prediction.md).
    `excitation`: the target is the audio without the spectral envelope of its aligned mel
    spectrogram (noise2music/excitation.py); the envelope is put back after sampling.
    `missing_band`: a spectrum in (Hz, dB): given, the stage makes only the band that its stacked
    condition lacks, without its envelope (noise2music/missing_band.py), added after sampling.
    `smoothing`: even order of the low-pass in time that a sampled mel spectrogram goes through
    (mel.low_pass_in_time), 0 for none: what is faster than the window's frames is left-over noise.
    `train_from`: training snippets are cut "anywhere" in a clip, or at its "start", where the bar
    is known to begin.
    """

    name: str
    unet: UNetConfig
    target: Literal["waveform", "mel"]
    rate: int
    noise_schedule: Literal["linear", "cosine"]
    loss_weight: Literal["simplified", "sigma", "velocity", "truncated"]
    denoising: tuple[tuple[float, int], ...]
    gamma: float
    guidance: float | None
    condition: Literal["none", "stacked", "aligned"] = "none"
    condition_rate: int | None = None
    prediction: Literal["noise", "velocity", "sample"] = "noise"
    sampler: Literal["ancestral", "ddim", "dpm++"] = "ancestral"
    steps: int | None = None
    clip_percentile: float = 99.5
    data_scale: float = 1.0
    excitation: bool = False
    smoothing: int = 0
    missing_band: tuple[tuple[float, float], ...] = ()
    token_length: int | None = None
    train_seconds: float = 29.44
    train_from: Literal["anywhere", "start"] = "anywhere"
    default_seconds: float = 29.44
    augmentation: Augmentation = Augmentation()
    paper_params_m: float | None = None

    def __post_init__(self) -> None:
        if self.excitation and (self.condition != "aligned" or self.target != "waveform"):
            raise ValueError(
                "n2m.config: excitation must be false but for a waveform with an aligned mel "
                f"spectrogram, got target {self.target!r} and condition {self.condition!r}"
            )
        if self.missing_band:
            hz = [point[0] for point in self.missing_band]
            if self.condition != "stacked" or len(hz) < 2 or hz != sorted(set(hz)):
                raise ValueError(
                    "n2m.config: missing_band must be two or more points (Hz, dB) of growing "
                    "frequency, of a stage with a stacked condition, got "
                    f"{self.missing_band} and condition {self.condition!r}"
                )
        if self.smoothing < 0 or self.smoothing % 2 or (self.smoothing and self.target != "mel"):
            raise ValueError(
                "n2m.config: smoothing must be 0, or even and positive for a mel spectrogram, "
                f"got {self.smoothing} and target {self.target!r}"
            )

    def legal_length(self, length: int) -> int:
        """The smallest multiple of the U-Net's compression that is >= length (and >= 1 unit)."""
        unit = self.unet.compression
        return max(1, -(-length // unit)) * unit

    @property
    def up(self) -> tuple[int, int]:
        """(up, down) of the FFT up-sampling from the condition's rate to the target's."""
        if self.condition != "stacked" or self.condition_rate is None:
            raise ValueError(f"n2m.config: {self.name} has no stacked condition to up-sample")
        g = math.gcd(self.rate, self.condition_rate)
        return self.rate // g, self.condition_rate // g


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """Builds a frozen dataclass from JSON values; refuses unknown and missing keys by name."""
    if not isinstance(values, dict):
        raise ValueError(f"n2m.config: {where or cls.__name__} must be an object, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    refuse_unknown(values, fields, where.rstrip(".") or cls.__name__)
    missing = [
        n
        for n, f in fields.items()
        if n not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"n2m.config: {where or cls.__name__} lacks {', '.join(missing)}")
    return cls(**{n: convert(hints[n], v, f"{where}{n}") for n, v in values.items()})


def refuse_unknown(values: Iterable[str], valid: Iterable[str], where: str) -> None:
    """ValueError for the first of `values` that is not `valid`, with the nearest that is."""
    valid = list(valid)
    for name in sorted(set(values) - set(valid)):
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"n2m.config: {where} has no option {name!r}{hint}")


def convert(hint: Any, value: Any, where: str) -> Any:
    """JSON value -> the annotated type, for the few shapes of type that the configs use."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        members = [a for a in args if a is not type(None)]
        for member in members[:-1]:
            try:
                return convert(member, value, where)
            except ValueError:
                continue
        return convert(members[-1], value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"n2m.config: {where} must be one of {args}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"n2m.config: {where} must be a list, got {value!r}")
        if args[-1] is Ellipsis:
            return tuple(convert(args[0], v, where) for v in value)
        if len(value) != len(args):
            raise ValueError(f"n2m.config: {where} must have {len(args)} entries, got {value!r}")
        return tuple(convert(a, v, where) for a, v in zip(args, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where + ".")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"n2m.config: {where} must be of type {hint.__name__}, got {value!r}")
    return value


def load_preset(name: str) -> StageConfig:
    """A stage by preset name: one of STAGES (the paper's size), or "tiny_" + one of them."""
    folder = resources.files("noise2music") / "presets"
    known = [p + s for p in ("", "tiny_") for s in STAGES]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"n2m.config: preset must be one of {', '.join(known)}, got {name!r}{hint}"
        )
    return from_dict(StageConfig, json.loads((folder / f"{name}.json").read_text()))
