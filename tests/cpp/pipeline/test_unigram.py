"""The tokenizers of published T5 models: what C++ makes of a prompt is what `tokenizers` makes."""

import json
import subprocess
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from charsmap import charsmap
from draws import numpy_draws
from flax import nnx
from noise2music.cascade import Pipeline
from noise2music.text.load import load_t5
from noise2music.text.released import load_text_encoder, save_text_encoder
from noise2music.text.t5 import T5Config, T5Encoder
from noise2music.text.tokenizer import Tokenizer
from parity import ROOT, TINY, Probe, build_probe, relative
from test_parity import PROMPTS
from test_refusals import model, refused  # noqa: F401
from tokenizers import (
    AddedToken,
    Regex,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import (
    Tokenizer as Backend,
)
from tolerances import CPP, CPP_WAV_DB

pytestmark = pytest.mark.cpp

PROMPT = "fast techno with drums, ①28 bpm"
GOLDEN = ROOT / "tests" / "golden" / "t5"
CAPTIONS = [
    f"{mood} {genre} with {thing} in {key} at {tempo} bpm"
    for mood in ("slow", "a gentle", "fast and furious", "dreamy")
    for genre in ("church organ chorale", "techno", "folk song", "Größe der Musik", "日本の音楽")
    for thing in ("drums", "a choir", "two guitars")
    for key, tempo in (("D minor", 70), ("C major", 128))
] + (ROOT / "LICENSE").read_text("utf-8").splitlines()
TEXTS = [
    *PROMPTS, "slow</s>fast", "</s></s>", " <extra_id_1>  loud <extra_id_10>", "a <extra_id_0> b",
    "<unk> chorale<pad>", "  two  spaces   three ", "tab\tline\r\nend\r",
    "ｆｕｌｌ　ｗｉｄｔｈ ㌔ ﷺ",
    "e\u0301 ﬁ\u0301 ①\u0308 a\u0903 \u0600a\u0301 x\u200dy", "soft\u00adhyphen zero\u200bwidth",
    "unknown ☃☄ ☃ x☃y", "<0x41> ＜/s＞", "chorales", "drumsdrums", "\u2581\u2581mark \u2581",
    "©\ufe0f ™\ufe0f \U0001f468\u200d\U0001f469", "\ufeffmarked", "a\x00b\x7f",
]  # fmt: skip


def compatible() -> dict[str, str]:
    """A table in the manner of nmt_nfkc: compatibility forms, spaces, what is left out."""
    table = {" \t\n\r\u3000\u2028"[i]: " " for i in range(1, 6)}
    table |= {"\x7f": "", "\u200b": "", "\ufeff": "", "\u00ad": ""}
    for code in [*range(0xA0, 0x180), *range(0x2100, 0x2190), *range(0x2460, 0x24B0),
                 *range(0xFB00, 0xFB07), *range(0xFF01, 0xFF5F)]:  # fmt: skip
        form = unicodedata.normalize("NFKC", chr(code))
        if form != chr(code):
            table[chr(code)] = form
    for letter in "aeiou":
        for mark in "\u0300\u0301\u0308":
            table[letter + mark] = unicodedata.normalize("NFKC", letter + mark)
    return table


def backend(kind: str) -> Backend:
    """A Unigram vocabulary learnt from captions, with the parts around it of three generations."""
    mapped = normalizers.Precompiled(charsmap(compatible()))
    space = {"replacement": "\u2581", "prepend_scheme": "always"}
    trained = Backend(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(**space)
    special = ["<pad>", "</s>", "<unk>"]
    if kind == "byte_fallback":
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator(
        CAPTIONS,
        trainers.UnigramTrainer(
            vocab_size=len(special) + 400, special_tokens=special, unk_token="<unk>",
            show_progress=False,
        ),
    )  # fmt: skip
    vocab = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["vocab"]]
    made = Backend(models.Unigram(vocab, 2, kind == "byte_fallback"))
    if kind == "first":
        made.normalizer = normalizers.Sequence(
            [
                mapped,
                normalizers.Strip(left=False, right=True),
                normalizers.Replace(Regex(" {2,}"), "\u2581"),
                normalizers.Replace("x", "xx"),
            ]
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", False)
    else:
        made.normalizer = mapped
        parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
        made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    made.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False)
            for name in ("<pad>", "</s>", "<unk>", "<extra_id_1>")
        ]
        + [AddedToken("<extra_id_10>", special=True, normalized=False, lstrip=True, rstrip=True)]
        + [AddedToken("<extra_id_0>", special=True, normalized=False, rstrip=True)]
    )
    return made


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return Probe(build_probe(folder), folder)


def check(probe, path, texts):
    """The ids of every text, in C++ and in Python."""
    tokenizer = Tokenizer.from_file(path)
    got = probe(
        "tokens", path, **{str(i): np.frombuffer(t.encode(), np.uint8) for i, t in enumerate(texts)}
    )
    for i, text in enumerate(texts):
        tokens, mask, _ = tokenizer.encode([text], 1 << 20)
        want = tokens[0][mask[0]].tolist()[:4095]
        assert got[f"ids {i}"].astype(int).tolist()[: len(want)] == want, text
    return tokenizer


@pytest.mark.parametrize("kind", ["split", "first", "byte_fallback"])
def test_unigram(probe, kind, tmp_path):
    path = tmp_path / "tokenizer.json"
    Tokenizer(backend(kind)).save(path)
    tokenizer = check(probe, path, TEXTS)
    mask = tokenizer.encode([CAPTIONS[0]], 4096)[1]
    assert mask.sum() < 0.75 * len(CAPTIONS[0])  # whole pieces, not characters alone


@pytest.mark.parametrize("name", ["v1_0", "v1_1", "flan"])
def test_published_layout(probe, name):
    check(probe, GOLDEN / name / "tokenizer.json", TEXTS)


def test_clusters(probe, tmp_path):
    """Which characters a cluster takes along: a table that knows "a" alone drops them."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), ("X", -1.0)]
    made = Backend(models.Unigram(vocab, 2, False))
    made.normalizer = normalizers.Precompiled(charsmap({"a": "X"}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "tokenizer.json"
    Tokenizer(made).save(path)
    # Of an old Unicode: what it has since got, the two sides may know or not.
    old = unicodedata.ucd_3_2_0.category
    marks = [c for c in map(chr, range(0x20000)) if old(c) in ("Mn", "Mc", "Me")]
    others = [c for c in map(chr, range(0x21, 0x3100, 7)) if old(c) != "Cn"]
    controls = [chr(code) for code in (0x200B, 0x200C, 0x200D, 0x600, 0xE33, 0xFF9E, 0xAD, 0x2060)]
    words = ["a" + mark for mark in (*marks, *others, *controls)]
    tokenizer = Tokenizer.from_file(path)
    texts = {str(i): np.frombuffer(word.encode(), np.uint8) for i, word in enumerate(words)}
    got = probe("tokens", path, **texts)
    tokens, mask, _ = tokenizer.encode(words, 16)
    different = [
        f"U+{ord(word[1]):04X}"
        for i, word in enumerate(words)
        if got[f"ids {i}"].astype(int).tolist() != tokens[i][mask[i]].tolist()
    ]
    assert different == []


@pytest.mark.parametrize("name", ["v1_0", "v1_1"])
def test_a_published_encoder(probe, name, tmp_path):
    """load_t5 -> the files of a released model -> C++."""
    encoder, tokenizer, config = load_t5(GOLDEN / name)
    save_text_encoder(tmp_path, nnx.split(encoder)[1], config, tokenizer)
    tokens, mask, _ = tokenizer.encode(["slow church organ chorale, 70 bpm"], 64)
    encoder = load_text_encoder(tmp_path)[1]
    want = np.asarray(encoder(jnp.asarray(tokens), jnp.asarray(mask)))[0][mask[0]]
    got = probe("t5", tmp_path / "text_encoder.safetensors", tokens=tokens[0][mask[0]])["y"]
    assert relative(got, want) < CPP["value"]


@pytest.fixture
def published(model):  # noqa: F811
    """A model of ours whose text encoder is a v1.0 T5 with a Unigram vocabulary."""
    width = load_text_encoder(TINY)[1].config.d_model
    tokenizer = Tokenizer(backend("split"))
    config = T5Config(
        vocab_size=tokenizer.vocab_size, d_model=width, d_kv=8, num_heads=2, d_ff=32,
        num_layers=1, feed_forward="relu",
    )  # fmt: skip
    with numpy_draws():
        state = nnx.split(T5Encoder(config, rngs=nnx.Rngs(2)))[1]
    save_text_encoder(model, state, config, tokenizer)
    return model


def generate(program, folder, path):
    command = [program, "generate", "-m", folder, PROMPT, "-o", path, "-s", "0.5", "--seed", "5"]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return soundfile.read(path)[0]


def test_generate_with_a_published_tokenizer(published, program, tmp_path):
    got = generate(program, published, tmp_path / "cpp.wav")
    assert len(got) == 12_000 and np.isfinite(got).all()
    assert not np.array_equal(got, generate(program, TINY, tmp_path / "ours.wav"))


@pytest.mark.slow
def test_its_clip_is_that_of_the_python_program(published, program, tmp_path):
    got = generate(program, published, tmp_path / "cpp.wav")
    Pipeline(published)(PROMPT, seconds=0.5, seed=5).save(tmp_path / "python.wav")
    want = soundfile.read(tmp_path / "python.wav")[0]
    assert 10 * np.log10(np.square(got - want).sum() / np.square(want).sum()) < CPP_WAV_DB


def test_parts_that_are_not_known_are_named(model, refused):  # noqa: F811
    path = model / "tokenizer.json"
    whole = json.loads(backend("split").to_str())

    def told(change):
        tokenizer = json.loads(json.dumps(whole))
        change(tokenizer)
        path.write_text(json.dumps(tokenizer))
        return refused()

    part = {
        "NFD": lambda t: t.update(normalizer={"type": "NFD"}),
        "a+": lambda t: t.update(
            normalizer={"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}
        ),
        "ByteLevel": lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}),
        "WordPiece": lambda t: t["model"].update(type="WordPiece"),
        "unk_id": lambda t: t["model"].update(unk_id=None),
        "piece once": lambda t: t["model"]["vocab"].append(["</s>", -1.0]),
        "pairs": lambda t: t["model"]["vocab"].append([-1.0, "x"]),
        "surprise": lambda t: t["model"].update(surprise=1),
        "cut or damaged": lambda t: t["normalizer"].update(precompiled_charsmap="AAAA"),
        "single_word": lambda t: t["added_tokens"][3].update(single_word=True),
        "must have the id": lambda t: t["added_tokens"][3].update(id=9999),
    }
    for name, change in part.items():
        line = told(change)
        assert "tokenizer.json" in line and name in line, line
