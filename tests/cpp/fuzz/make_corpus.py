"""Writes the seeds of the fuzz targets: python tests/cpp/fuzz/make_corpus.py"""

import base64
import json
import struct
import sys
from pathlib import Path

import numpy as np
from noise2music.config import STAGES, load_preset, to_dict
from noise2music.text.tokenizer import train_tokenizer
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from charsmap import charsmap  # noqa: E402

CORPUS = Path(__file__).with_name("corpus")


def write(target: str, name: str, data: bytes) -> None:
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def unigram() -> dict:
    """A tokenizer.json with every part that those of published T5 models have."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "a", "b", "bc", "\u2581a", "1", "28", "\u00e9"]
    mapped = base64.b64encode(charsmap({"\u3000": " ", "e\u0301": "\u00e9", "\u200b": ""})).decode()
    replace = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    steps = [{"type": "Precompiled", "precompiled_charsmap": mapped}, strip, replace]
    mark = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    token = {"id": 11, "content": "<x>", "single_word": False, "lstrip": True, "rstrip": True,
             "normalized": False, "special": True}  # fmt: skip
    return {
        "added_tokens": [token],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, mark]},
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[piece, -float(i)] for i, piece in enumerate(pieces)],
            "byte_fallback": False,
        },
    }


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
    write("tokenizer", "unigram", json.dumps(unigram(), separators=(",", ":")).encode())
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
