"""Times one step of a preset at full width with random weights, C++ and JAX in turn.

python tests/cpp/pipeline/measure.py spectrogram_vocoder 400   (frames at the bottom of the U)
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from noise2music.config import load_preset
from parity import Probe, build_probe, call_jax, inputs, random_unet, relative

ROUNDS = 3


def main(name: str, frames: int, program: Path | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.safetensors"
        config = load_preset(name)
        unet = random_unet(config, path)
        arrays = inputs(config, frames)
        probe = Probe(program or build_probe(Path(folder)), Path(folder))
        run = call_jax(unet, arrays, 0.5)
        want = run()
        jax_seconds: list[float] = []
        cpp_seconds: list[float] = []
        for _ in range(ROUNDS):
            for _ in range(3):
                start = time.perf_counter()
                run()
                jax_seconds.append(time.perf_counter() - start)
            got = probe("unet", path, t=[0.5], repeat=[4], **arrays)
            cpp_seconds += got["seconds"].tolist()[1:]
        a, b = np.median(cpp_seconds), np.median(jax_seconds)
        error = relative(got["y"], want)
        shape = arrays["x"].shape
        print(f"{name}, x {shape}: C++ {a:.3f} s, JAX {b:.3f} s, ratio {a / b:.2f}")
        print(f"relative difference {error:.1e}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:]))
