"""Programs with our CUDA handlers, compiled for an H200 on a machine without one, and read.

Needs a build with NOISE2MUSIC_CUDA=ON and the compiler half of JAX's CUDA plugin, of JAX's version:

    pip install --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
    python -m pytest tests/kernels/test_cuda_aot.py
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from noise2music.kernels.common import native

if not find_spec("jax_cuda13_plugin"):
    pytest.skip("needs jax-cuda13-plugin", allow_module_level=True)
if "cuda" not in native.platforms_of("n2m_combine_film_fwd"):
    pytest.skip("the native library is built without CUDA", allow_module_level=True)

SEQUENCE = "*{}*.thunk_sequence_after_thunk_passes.txt"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h200")
    script = Path(__file__).with_name("compile_for_h200.py")
    result = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def read(folder, pattern):
    (path,) = folder.glob(pattern)
    return path.read_text()


def thunks(text, depth):
    """The kinds of the thunks at a depth of the nesting, two spaces a level."""
    return re.findall(rf"^{'  ' * depth}\d+: (k\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("op", ["combine_film", "conv1d_block", "fft_upsample"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_passes_are_ours_and_recorded(compiled, op, dtype):
    program = read(compiled, f"*jit_{op}_{dtype}.sm_9.0a_gpu_after_optimizations.txt")
    targets = set(re.findall(r'custom_call_target="(\w+)"', program))
    assert {f"n2m_{op}_fwd", f"n2m_{op}_bwd"} <= targets
    sequence = read(compiled, SEQUENCE.format(f"jit_{op}_{dtype}"))
    assert set(thunks(sequence, 0)) == {"kCommandBuffer"}


def test_step_loop_is_recorded(compiled):
    sequence = read(compiled, SEQUENCE.format("run_steps"))
    loop = re.split(r"\n(?=\d)", sequence[sequence.index("kWhile") :])[0]
    body = loop[loop.index("  body:") :]
    assert thunks(body, 2) == ["kCommandBuffer"], "a step is one recorded graph"
    inside = thunks(body, 4)
    assert inside.count("kCustomCall") >= 5  # convolutions, film, the step itself
    # Chosen on the device: noise where there is some.
    assert "kConditional" in inside and "kConvolution" not in inside


def test_step_loop_calls_our_kernels(compiled):
    program = read(compiled, "*run_steps*.sm_9.0a_gpu_after_optimizations.txt")
    targets = set(re.findall(r'custom_call_target="(\w+)"', program))
    assert {"n2m_conv1d_block_fwd", "n2m_combine_film_fwd", "n2m_ancestral_step_fwd"} <= targets
    assert not [t for t in targets if t.startswith("__cudnn")]
