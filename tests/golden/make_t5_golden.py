"""Writes tests/golden/t5: three tiny T5 checkpoints and what transformers computes from them.

    pip install torch==2.13.0 transformers==5.23.0 && python tests/golden/make_t5_golden.py

The checkpoints have random weights, in the layouts of the published families: v1_0 (relu, decoder
stored), v1_1 (gated GELU, encoder alone), flan (gated GELU, decoder, its own head, copies of the
embedding under its other two names, in shards). Beside each lies expected.safetensors: token ids
and mask of a padded batch, and the rows of T5EncoderModel's last hidden state where the mask is
True. positions.safetensors holds the bucket of every relative distance in -1000..1000,
texts.safetensors the ids of TEXTS. Norm weights and position biases are drawn wide, so that leaving
one out cannot stay under the tolerance; the rest as T5 draws it.
"""

from __future__ import annotations

import pathlib

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers.models.t5.modeling_t5 import T5Attention

OUT = pathlib.Path(__file__).parent / "t5"
LENGTHS = (150, 37, 1)
SIZES = {
    "vocab_size": 64,
    "d_model": 24,
    "d_kv": 8,
    "num_heads": 2,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 1,
}
TEXTS = ["slow church organ, 72 bpm", "", "a b c " * 20, "  two  spaces ", "xyz </s> q"]


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A Unigram tokenizer in the shape of the published tokenizer.json files."""
    words = [
        "\u2581",
        "\u2581slow",
        "\u2581church",
        "\u2581organ",
        "\u2581bpm",
        "an",
        "or",
        "s",
    ]
    words += [char for char in "abcdefghijklmnopqrtuvwxyz0123456789,.-" if char not in words]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, -1.0 - 0.1 * index) for index, word in enumerate(words)]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def widen(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, std=1.0)


def expected(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, SIZES["vocab_size"], (len(LENGTHS), max(LENGTHS)))
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    tokens = tokens * mask
    with torch.no_grad():
        hidden = encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    return {"tokens": tokens.int(), "mask": mask, "live": hidden[mask].contiguous()}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    families = {
        "v1_0": (transformers.T5ForConditionalGeneration, "relu", True),
        "v1_1": (transformers.T5EncoderModel, "gated-gelu", True),
        "flan": (transformers.T5ForConditionalGeneration, "gated-gelu", False),
    }
    for family, (kind, feed_forward, tied) in families.items():
        config = transformers.T5Config(**SIZES, feed_forward_proj=feed_forward)
        config.tie_word_embeddings = tied
        model = kind(config).eval()
        widen(model)
        if not tied:
            model.encoder.embed_tokens.load_state_dict(model.shared.state_dict())
            model.decoder.embed_tokens.load_state_dict(model.shared.state_dict())
        folder = OUT / family
        model.save_pretrained(folder, max_shard_size="40KB" if family == "flan" else "1GB")
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        save_file(expected(model.get_encoder()), folder / "expected.safetensors")
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16)["input_ids"]
    relative = torch.arange(-1000, 1001)
    buckets = T5Attention._relative_position_bucket(relative, True, 32, 128)
    save_file(
        {"relative": relative.short(), "buckets": buckets.to(torch.uint8)},
        OUT / "positions.safetensors",
    )
    save_file({"tokens": torch.tensor(ids, dtype=torch.int32)}, OUT / "texts.safetensors")


if __name__ == "__main__":
    main()
