"""The same mathematics in PyTorch and SciPy, in the layout each likes best (channels first)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from noise2music.bench import device
from noise2music.bench.shapes import Work

# "float32": our own kernels in float32, for a bfloat16 row.
RIVALS = ("xla", "torch", "compile", "scipy", "float32")


def installed() -> list[str]:
    """The rivals that can run here; "xla" always."""
    found = ["xla", "scipy", "float32"]
    if importlib.util.find_spec("torch"):
        found[1:1] = ["torch", "compile"]
    return found


def scipy_call(work: Work, inputs: dict[str, Any]) -> Callable[[], Any] | None:
    """scipy.signal.resample of the float32 signal, for a forward fft_upsample."""
    if work.op != "fft_upsample" or work.passes != "forward" or work.dtype != "float32":
        return None
    import scipy.signal

    x = np.asarray(inputs["x"])
    options = work.case.options
    length = x.shape[1] * options["up"] // options.get("down", 1)
    return lambda: scipy.signal.resample(x, length, axis=1)


def torch_call(
    work: Work, inputs: dict[str, Any], *, compiled: bool
) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """(what to time, what gives the first output as (B, T, C) float32 for the check)."""
    import torch

    dtype, place = getattr(torch, work.dtype), "cuda" if device.on_gpu() else "cpu"
    # Ours is float32 throughout; PyTorch's convolutions are not unless told.
    torch.backends.cudnn.allow_tf32 = False

    def tensor(x: Any, *axes: int) -> Any:
        y = torch.from_numpy(np.array(jnp.asarray(x, jnp.float32)))
        return (y.permute(*axes) if axes else y).contiguous().to(place, dtype)

    function, arguments, moving = _MODULES[work.op](work, inputs, tensor)
    call = torch.compile(function, dynamic=False) if compiled else function

    def forward() -> Any:
        with torch.no_grad():
            return call(*arguments)

    if work.passes == "forward":
        run = forward
    else:
        for i in moving:
            arguments[i].requires_grad_()
        cotangent = torch.ones_like(_first(forward()))

        def run() -> Any:
            y = _first(call(*arguments))
            return torch.autograd.grad(y, [arguments[i] for i in moving], cotangent)

    def answer() -> np.ndarray:
        y: np.ndarray = _first(forward()).float().permute(0, 2, 1).cpu().numpy()
        return y

    def finished() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return (finished if place == "cuda" else run), answer


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _conv1d_block(work: Work, inputs: dict[str, Any], tensor: Callable[..., Any]) -> Any:
    """GroupNorm + SiLU + Conv1d (SAME) + a fully connected layer on the residual."""
    import torch.nn.functional as F

    case, i = work.case, inputs
    stride, groups = case.options.get("stride", 1), case.options.get("groups")
    out = -(-case.T // stride)
    pad = max((out - 1) * stride + case.K - case.T, 0)
    even = pad % 2 == 0
    arguments = [tensor(i["x"], 0, 2, 1), tensor(i["weight"], 2, 1, 0), tensor(i["bias"])]
    if groups:
        arguments += [tensor(i["scale"]), tensor(i["offset"])]
    if case.R:
        # A fully connected layer in channels first is a convolution with one tap.
        arguments += [tensor(i["residual"], 0, 2, 1), tensor(i["fc"], 1, 0)[..., None]]

    def block(x: Any, weight: Any, bias: Any, *rest: Any) -> Any:
        if groups:
            x = F.silu(F.group_norm(x, groups, rest[0], rest[1], 1e-5))
        if not even:
            x = F.pad(x, (pad // 2, pad - pad // 2))
        y = F.conv1d(x, weight, bias, stride, pad // 2 if even else 0)
        return y + F.conv1d(rest[-2], rest[-1]) if case.R else y

    return block, arguments, range(len(arguments))


def _combine_film(work: Work, inputs: dict[str, Any], tensor: Callable[..., Any]) -> Any:
    """Linear, scale and shift, and the two sums of each group."""
    import torch

    groups, c, i = work.case.options.get("groups"), work.case.C, inputs

    def film(x: Any, emb: Any, kernel: Any, bias: Any) -> Any:
        both = torch.addmm(bias, emb, kernel)
        y = x * (1 + both[:, :c, None]) + both[:, c:, None]
        if not groups:
            return y
        z = y.reshape(y.shape[0], groups, -1).float()
        return y, torch.stack([z.sum(-1), z.square().sum(-1)], -1)

    arguments = [tensor(i["x"], 0, 2, 1), tensor(i["emb"]), tensor(i["kernel"]), tensor(i["bias"])]
    return film, arguments, range(4)


def _fft_upsample(work: Work, inputs: dict[str, Any], tensor: Callable[..., Any]) -> Any:
    """rfft, the Nyquist bin halved, irfft of the longer length."""
    import torch

    up, down = work.case.options["up"], work.case.options.get("down", 1)
    length = work.case.T
    longer = length * up // down

    def resample(x: Any) -> Any:
        spectrum = torch.fft.rfft(x.float())
        if length % 2 == 0:
            nyquist = spectrum[..., -1:] * 0.5
            spectrum = torch.cat([spectrum[..., :-1], nyquist], -1)
        return (torch.fft.irfft(spectrum, n=longer) * (longer / length)).to(x.dtype)

    return resample, [tensor(inputs["x"], 0, 2, 1)], [0]


def _ancestral_step(work: Work, inputs: dict[str, Any], tensor: Callable[..., Any]) -> Any:
    """The step with PyTorch's own noise, so that only x_0, the first output, can be compared."""
    import torch

    w, inv, ratio, c_x, c_0, c_z, p, floor = (float(c) for c in inputs["coefficients"])

    def step(x: Any, cond: Any, uncond: Any) -> Any:
        x_0 = inv * x - ratio * (w * cond + (1 - w) * uncond)
        s = torch.quantile(x_0.abs().flatten(1), p / 100, dim=1).clamp(min=floor)[:, None, None]
        x_0 = torch.maximum(torch.minimum(x_0, s), -s) * (floor / s)
        return x_0, c_x * x + c_0 * x_0 + c_z * torch.randn_like(x)

    names = ("x_t", "eps_cond", "eps_uncond")
    return step, [tensor(inputs[n], 0, 2, 1) for n in names], []


_MODULES = {
    "conv1d_block": _conv1d_block,
    "combine_film": _combine_film,
    "fft_upsample": _fft_upsample,
    "ancestral_step": _ancestral_step,
}
