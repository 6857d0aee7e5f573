r"""A head start for the small T5: reading a clip's attributes out of its captions.

L = -sum_a log softmax(W_a mean_l h_l)[y_a], over the attributes a of the corpus (family, genre,
tonic, mode, metre, register, dynamics, drums, and the tempo in sixteenths of an octave). It costs
minutes where the generator costs hours, and spares the generator from learning to read digits
through cross attention. The heads are thrown away; the stages train with the
encoder frozen (docs/design/text.md).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from noise2music.text.released import save_text_encoder
from noise2music.text.t5 import TINY, T5Encoder
from noise2music.text.tokenizer import train_tokenizer
from noise2music.train.dataset import Corpus

ATTRIBUTES = ("family", "genre", "tonic", "mode", "metre", "register", "dynamics", "drums", "tempo")
_STEPS_AN_OCTAVE = 16


def attribute_values(corpus: Corpus) -> list[list[str | None]]:
    """For each attribute the value of every clip as text, None where a clip does not say."""

    def value(row: dict[str, Any], name: str) -> str | None:
        attributes = row["attributes"]
        if name == "tempo":
            bpm = attributes.get("tempo_bpm")
            return None if bpm is None else str(round(math.log2(bpm / 60.0) * _STEPS_AN_OCTAVE))
        return None if attributes.get(name) is None else str(attributes[name])

    return [[value(row, name) for row in corpus.rows] for name in ATTRIBUTES]


def numbered(values: list[list[str | None]], classes: list[list[str]]) -> np.ndarray:
    """(clips, attributes) class numbers; -1 where a clip does not say or the class is unknown."""
    number = [{name: i for i, name in enumerate(names)} for names in classes]
    return np.array(
        [[n.get(v or "", -1) for v in column] for n, column in zip(number, values, strict=True)]
    ).T


def train_text_encoder(
    corpus_folder: str,
    run: str,
    *,
    steps: int = 1500,
    batch_size: int = 64,
    peak_lr: float = 2e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Trains tokenizer and encoder, writes both into `run`.

    Returns the accuracy of every attribute on the test split's captions, those that do not mention
    it included.
    """
    folder = Path(run)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(corpus_folder)
    tokenizer = train_tokenizer([c for r in corpus.rows for c in r["captions"]], TINY.vocab_size)
    values = attribute_values(corpus)
    classes = [sorted({v for v in column if v is not None}) for column in values]
    labels = numbered(values, classes)
    tokens, mask, rows = _encode(corpus, tokenizer)
    encoder = T5Encoder(TINY, rngs=nnx.Rngs(seed))
    graph, state = nnx.split(encoder)
    heads = [
        0.02 * jax.random.normal(jax.random.key(seed + i), (TINY.d_model, n))
        for i, n in enumerate(max(1, len(names)) for names in classes)
    ]
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, peak_lr, min(100, steps // 4), steps),
            weight_decay=0.01,
        ),
    )

    def logits_of(params: Any, tokens: Any, mask: Any) -> list[Any]:
        h = nnx.merge(graph, params[0])(tokens, mask)
        pooled = (h * mask[..., None]).sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)
        return [pooled @ w for w in params[1]]

    def loss_of(params: Any, tokens: Any, mask: Any, y: Any) -> Any:
        total: Any = 0.0
        for a, logits in enumerate(logits_of(params, tokens, mask)):
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(y[:, a], 0))
            total = total + jnp.mean(nll * (y[:, a] >= 0))
        return total

    @jax.jit
    def step(params: Any, opt: Any, tokens: Any, mask: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, tokens, mask, y)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, loss

    params = (state, heads)
    opt = tx.init(params)
    bar = tqdm(range(steps), desc="text_encoder", unit="step")
    for n in bar:
        pick = np.random.default_rng((seed, n)).integers(len(rows), size=batch_size)
        params, opt, loss = step(params, opt, tokens[pick], mask[pick], labels[rows[pick]])
        if n % 50 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    save_text_encoder(folder, params[0], TINY, tokenizer)

    held = Corpus(corpus_folder, "test")
    held_tokens, held_mask, held_rows = _encode(held, tokenizer)
    held_labels = numbered(attribute_values(held), classes)[held_rows]
    guess = jax.jit(logits_of)(params, held_tokens, held_mask)
    accuracy = {
        name: float(np.mean(np.asarray(guess[a]).argmax(1) == held_labels[:, a]))
        for a, name in enumerate(ATTRIBUTES)
        if classes[a]
    }
    (folder / "text_encoder.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    return accuracy


def _encode(corpus: Corpus, tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All captions as tokens and mask, and the clip that each belongs to."""
    rows = np.array([i for i, r in enumerate(corpus.rows) for _ in r["captions"]])
    tokens, mask, _ = tokenizer.encode([c for r in corpus.rows for c in r["captions"]], 64)
    return tokens, mask, rows
