"""Writes the seeds of the fuzz targets: python tests/cpp/fuzz/make_corpus.py"""

import json
import struct
from pathlib import Path

import numpy as np
from noise2music.config import STAGES, load_preset, to_dict
from noise2music.text.tokenizer import train_tokenizer
from safetensors.numpy import save

CORPUS = Path(__file__).with_name("corpus")


def write(target: str, name: str, data: bytes) -> None:
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def main() -> None:
    for name in STAGES:
        config = {"format": "noise2music", "config": json.dumps(to_dict(load_preset(name)))}
        tensors = {"a": np.ones((2, 3), np.float16), "b.c": np.zeros(0, np.float32)}
        whole = save(tensors, metadata=config)
        write("safetensors", name, whole)
    write("safetensors", "truncated", whole[:-3])
    write("safetensors", "empty", b"")
    t5 = {"vocab_size": 8, "d_model": 4, "d_kv": 2, "num_heads": 2, "d_ff": 4, "num_layers": 1}
    tensors = {"embedding": np.ones((8, 4), np.float32)}
    write("safetensors", "t5", save(tensors, metadata={"config": json.dumps(t5)}))

    backend = train_tokenizer(["slow organ, 128 bpm", "fast band"], 512)._backend
    tokenizer = json.loads(backend.to_str())
    write("tokenizer", "whole", json.dumps(tokenizer, separators=(",", ":")).encode())
    tokenizer["model"]["merges"] = [["a", "b"]]
    write("tokenizer", "bad_merge", json.dumps(tokenizer, separators=(",", ":")).encode())
    texts = {
        "prompt": "Tempo: 96.5 beats per minute, Größe ﬁne ½ 日本 e\u0301\u0323 각",
        "escapes": '{"a": ["\\u00e9\\ud83c\\udfb9\\n", -1.5e+3, true, null, {}]}',
    }
    for name, text in texts.items():
        write("tokenizer", name, text.encode())

    samples = (0.5 * np.sin(np.arange(24))).astype(np.float32).tobytes()
    for kind in range(4):
        head = struct.pack("<bBqqB", kind, kind % 2, 24000, 24, 5)
        write("wav", f"format_{kind}", head + b"title" + samples)
    write("wav", "count", struct.pack("<bBqqB", 0, 2, 24000, -1, 0))
    write("wav", "rate", struct.pack("<bBqqB", 1, 0, 2**40, 0, 0) + samples)
    nan = np.array([np.nan, np.inf], np.float32).tobytes()
    write("wav", "not_finite", struct.pack("<bBqqB", 2, 0, 8000, 2, 0) + nan)


main()
