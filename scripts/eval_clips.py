"""Make the clips that scripts/judge_tiny.py judges.

One clip a prompt, at 16 kHz, before super-resolution as in section 4.3.

    python scripts/eval_clips.py --prompts prompts.jsonl --model tiny --route spectrogram \\
        --out clips/
    python scripts/eval_clips.py --prompts prompts.jsonl --model untrained --out untrained/
    # real test clips, mel and back:
    python scripts/eval_clips.py --corpus DIR --round-trip --out vocoded/

"untrained" is the tiny model with random weights. A clip that is there already is kept, so it can
be stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import noise2music
import numpy as np
from noise2music.audio import read_audio, resample, write_audio
from noise2music.cascade import AT_ONCE, Pipeline, load
from noise2music.config import MEL_HOP, ROUTES
from noise2music.excitation import shape
from noise2music.mel import FLOOR_DB, log_mel
from noise2music.model_folder import init_model_folder


def prompt_clips(pipe: Pipeline, prompts: list[str], route: str, out: Path, options: dict) -> None:
    """0000.wav, 0001.wav, ... in the order of the prompts; clip i has index i of the seed."""
    stage = ROUTES[route][1]
    missing = [i for i in range(len(prompts)) if not (out / f"{i:04d}.wav").exists()]
    for first in range(0, len(missing), AT_ONCE):
        group = missing[first : first + AT_ONCE]
        start = group[0]
        group = list(range(start, group[-1] + 1))
        clips = pipe([prompts[i] for i in group], route=route, index=start, until=stage, **options)
        for i, clip in zip(group, clips, strict=True):
            write_audio(out / f"{i:04d}.wav", clip.samples, clip.sample_rate)
        print(f"{group[-1] + 1} of {len(prompts)}", flush=True)


def round_trip(pipe: Pipeline, corpus: Path, out: Path, options: dict, count: int) -> None:
    """Real test clips through the mel spectrogram and the vocoder.

    That is what the generator could reach at best. Prints how far the mel spectrogram of what comes
    back is from the one that went in (the mean over channels and frames of |difference| in dB), and
    the same for white noise in the place of the excitation that the vocoder makes.
    """
    vocoder, noise = [], []
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    for row in [r for r in rows if r["split"] == "test"][:count]:
        path = out / f"{row['id']}.wav"
        samples, rate = read_audio(corpus / row["audio"])
        if not path.exists():
            clip = pipe.run_stage("spectrogram_vocoder", samples[: 10 * rate], rate, **options)
            write_audio(path, clip.samples, clip.sample_rate)
        heard, _ = read_audio(path)
        mel = log_mel(resample(samples[: 10 * rate], rate, 16_000))
        flat = np.random.default_rng(len(noise)).standard_normal(len(mel) * MEL_HOP)
        for errors, made in ((vocoder, heard), (noise, shape(flat, mel))):
            errors.append(-FLOOR_DB / 2 * np.abs(log_mel(made) - mel).mean())
        print(f"{row['id']}: {vocoder[-1]:.2f} dB, from noise {noise[-1]:.2f} dB", flush=True)
    print(
        f"median of {len(noise)} clips: {np.median(vocoder):.2f} dB a mel channel, "
        f"from noise {np.median(noise):.2f} dB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--route", default="spectrogram", choices=sorted(ROUTES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--round-trip", action="store_true")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = {"seed": arguments.seed}
    options |= {k: v for k in ("steps", "guidance") if (v := getattr(arguments, k)) is not None}
    with tempfile.TemporaryDirectory() as scratch:
        model = init_model_folder(scratch) if arguments.model == "untrained" else arguments.model
        pipe = load(model)
        print(f"noise2music {noise2music.__version__}, model {pipe.name} {pipe.model_hash}")
        if arguments.round_trip:
            round_trip(pipe, arguments.corpus, arguments.out, options, arguments.count)
        else:
            lines = arguments.prompts.read_text(encoding="utf-8").splitlines()
            prompts = [json.loads(line)["prompt"] for line in lines if line.strip()]
            prompt_clips(pipe, prompts[: arguments.count], arguments.route, arguments.out, options)


if __name__ == "__main__":
    main()
