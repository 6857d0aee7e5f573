"""The tokenizer: any text encodes, padding and cutting, the same file from the same captions."""

from __future__ import annotations

import json
import pathlib
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from noise2music.text.tokenizer import Tokenizer, train_tokenizer
from safetensors.numpy import load_file

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5"
# As in golden/make_t5_golden.py.
GOLDEN_TEXTS = [
    "slow church organ, 72 bpm",
    "",
    "a b c " * 20,
    "  two  spaces ",
    "xyz </s> q",
]
CAPTIONS = [
    "A slow church organ chorale in D minor, around 72 bpm.",
    "Fast, bright piano jig in 6/8 at 128 BPM",
    "Für Elise for solo guitar; quiet, low register",
    "Strings and flute in C major, a waltz at 90 bpm",
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS)


def ids(tokenizer: Tokenizer, text: str, max_length: int = 4096) -> list[int]:
    tokens, mask, _ = tokenizer.encode([text], max_length)
    return tokens[0][mask[0]].tolist()


def test_equals_transformers() -> None:
    golden = load_file(GOLDEN / "texts.safetensors")["tokens"]
    tokenizer = Tokenizer.from_file(GOLDEN / "flan" / "tokenizer.json")
    tokens, mask, truncated = tokenizer.encode(GOLDEN_TEXTS, golden.shape[1])
    np.testing.assert_array_equal(tokens, golden)
    np.testing.assert_array_equal(mask, golden != 0)
    assert truncated == [False, False, True, False, False]


def test_layout(tokenizer: Tokenizer) -> None:
    tokens, mask, truncated = tokenizer.encode(["slow organ", ""], 8)
    assert (tokens.dtype, mask.dtype, tokens.shape) == (np.int32, bool, (2, 8))
    assert tokens[1].tolist() == [tokenizer.end_id] + [tokenizer.pad_id] * 7
    assert mask.sum(1).tolist() == [3, 1]
    assert not tokens[~mask].any()
    assert truncated == [False, False]
    assert tokenizer.encode([], 8)[0].shape == (0, 8)


def test_a_long_text_is_cut_and_said_to_be(tokenizer: Tokenizer) -> None:
    tokens, mask, truncated = tokenizer.encode(["organ " * 2000, "organ"], 16)
    assert truncated == [True, False]
    assert mask[0].all()
    assert tokens[0, -1] == tokenizer.end_id
    assert ids(tokenizer, "x" * 100_000, 4)[-1] == tokenizer.end_id
    exact = len(ids(tokenizer, "slow organ"))
    assert tokenizer.encode(["slow organ"], exact)[2] == [False]
    assert tokenizer.encode(["slow organ"], exact - 1)[2] == [True]
    assert tokenizer.encode(["slow organ"], 1)[0].tolist() == [[tokenizer.end_id]]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_encodes_without_unknown_tokens(text: str) -> None:
    tokenizer = _shared()
    found = ids(tokenizer, text)
    assert found[-1] == tokenizer.end_id
    assert not {0, 1, 2} & set(found[:-1])
    assert max(found) < tokenizer.vocab_size


@pytest.mark.parametrize(
    "text",
    [
        "日本の音楽",
        "مقام حجاز",
        "🎻🏽 👩‍🎤 🇧🇷",
        "raga भैरवी",
        "\ufffd",
        "</s><pad><0x41>",
        "a\x00b",
        "½",
    ],
)
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    found = ids(tokenizer, text)
    assert not {0, 1, 2} & set(found[:-1])
    assert tokenizer.decode(found) == unicodedata.normalize("NFKC", text).lower()


def test_case_width_and_spacing_do_not_matter(tokenizer: Tokenizer) -> None:
    expected = ids(tokenizer, "slow church organ")
    for text in (
        "SLOW Church\tORGAN\n",
        "  slow  church organ",
        "\uff33\uff4c\uff4f\uff57 church organ",
    ):
        assert ids(tokenizer, text) == expected
    assert ids(tokenizer, " \n\t") == [tokenizer.end_id]


def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    assert ids(tokenizer, "a\udc80") == ids(tokenizer, "a\ufffd")


def test_numbers_are_split_in_digits(tokenizer: Tokenizer) -> None:
    word, *digits, _ = ids(tokenizer, "128")
    assert len(digits) == 3
    assert ids(tokenizer, "821") == [word, *reversed(digits), tokenizer.end_id]
    pieces = json.loads(tokenizer._backend.to_str())["model"]["vocab"]
    assert not [
        piece
        for piece in pieces
        if any(char.isdigit() for char in piece) and len(piece) > 1 and not piece.startswith("<0x")
    ]


def test_frequent_words_become_one_piece(tokenizer: Tokenizer) -> None:
    assert len(ids(tokenizer, "slow church organ")) == 4


def test_the_same_captions_give_the_same_file(tmp_path: pathlib.Path) -> None:
    captions = [*CAPTIONS, "".join(chr(code) for code in range(0x3B1, 0x3B1 + 400))]
    for name in ("one", "two"):
        train_tokenizer(iter(captions), 700).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_saved_and_read_again(tokenizer: Tokenizer, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.from_file(str(path))
    assert again.vocab_size == tokenizer.vocab_size
    for text in ("", "Slow organ, 72 bpm", "日本 🎻"):
        assert ids(again, text) == ids(tokenizer, text)
        # Other readers of the file get the end token too.
        assert tokenizers.Tokenizer.from_file(str(path)).encode(text).ids == ids(tokenizer, text)


@pytest.mark.parametrize("size", [512, 1024])
def test_vocabulary_is_bounded(size: int) -> None:
    words = [f"{one}{two}{three}o" for one in "bcdfg" for two in "aeiou" for three in "klmnp"]
    varied = [
        " ".join(words),
        *words,
        "".join(chr(code) for code in range(0x4E00, 0x5200)),
    ] * 2
    assert train_tokenizer(varied, size).vocab_size <= size
    assert train_tokenizer([], size).vocab_size < 400


def test_bad_arguments(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match=r"texts must be a list of str, got str; write \[text\]"):
        tokenizer.encode("organ", 8)
    with pytest.raises(TypeError, match=r"got a list of \['int', 'str'\]"):
        tokenizer.encode(["organ", 3], 8)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        tokenizer.encode(["organ"], 0)
    with pytest.raises(ValueError, match="vocab_size must be at least 512, got 100"):
        train_tokenizer(CAPTIONS, 100)
    with pytest.raises(TypeError, match="captions must be several str"):
        train_tokenizer("organ")


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": 3}', b"\xff\xfe"])
def test_a_malformed_file_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"n2m\.Tokenizer\.from_file: .*tokenizer\.json"):
        Tokenizer.from_file(path)
    with pytest.raises(ValueError, match=r"n2m\.Tokenizer\.from_file: path must be"):
        Tokenizer.from_file(tmp_path / "none.json")


@pytest.mark.parametrize("vocab", [{"<unk>": 0}, {"<pad>": 0}, {"a": 0, "<pad>": 1, "</s>": 2}])
def test_a_tokenizer_of_another_kind_is_refused(vocab: dict[str, int]) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    with pytest.raises(ValueError, match="not the tokenizer of a T5 model"):
        Tokenizer(backend)


_trained: list[Tokenizer] = []


def _shared() -> Tokenizer:
    """Hypothesis draws many examples for one test and warns about function-scoped fixtures."""
    if not _trained:
        _trained.append(train_tokenizer(CAPTIONS))
    return _trained[0]
