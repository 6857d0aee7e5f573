"""Eight tones of two seconds with captions, and a stage that learns from them in seconds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
from nano import nano_config
from noise2music.text.t5 import T5Config
from noise2music.train import TrainOptions

SUPER = dataclasses.replace(nano_config("super_resolution_cascader"), train_seconds=0.064)
TEXT = T5Config(vocab_size=512, d_model=32, d_kv=16, num_heads=2, d_ff=32, num_layers=1)


def reading(name, seconds):
    """A nano stage that reads what the text encoder TEXT gives."""
    config = nano_config(name)
    unet = dataclasses.replace(config.unet, text_dim=TEXT.d_model)
    return dataclasses.replace(config, train_seconds=seconds, unet=unet)


CASCADER = reading("waveform_cascader", 0.128)


def make_corpus(folder):
    folder = Path(folder)
    (folder / "audio").mkdir(parents=True)
    rows = []
    for i in range(8):
        t = np.arange(2 * 24_000) / 24_000
        tone = 0.4 * np.sin(2 * np.pi * 220 * 2 ** (i / 4) * t)
        soundfile.write(folder / "audio" / f"{i}.flac", tone, 24_000)
        split = "validation" if i == 7 else "train"
        words = ["low tone", "a low tone"] if i < 4 else ["high tone", "a high tone"]
        attributes = {"family": words[0].split()[0], "tempo_bpm": 60 + 10 * i}
        rows.append(
            {"id": i, "piece": i, "split": split, "audio": f"audio/{i}.flac", "seconds": 2.0,
             "captions": words, "attributes": attributes}
        )  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def options(corpus, run, **changes):
    values = {"batch_size": 4, "peak_lr": 3e-3, "warmup": 2, "lr_end_step": 40, "log_every": 5}
    values |= {"validate_every": 5, "checkpoint_every": 5, "ema_decay": 0.9, "steps": 10}
    values |= {"mesh": "data=1"}
    return TrainOptions(corpus=str(corpus), run=str(run), **values | changes)
