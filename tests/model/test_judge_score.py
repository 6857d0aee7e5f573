"""The judge's arithmetic: distance, chance, permutation test, classifier, keys and tempi."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from judge import corpus, hearing, linear, report, score  # noqa: E402
from judge.features import Features, low_pass  # noqa: E402
from judge.judging import ATTRIBUTES, Judge  # noqa: E402


def test_chance_is_the_mean_over_other_prompts() -> None:
    labels = np.array(list("aabbcd"))
    table = (labels[:, None] == labels[None, :]).astype(float)
    result = score.agreement(table, permutations=500)
    assert result.hits == 6
    assert result.chance == pytest.approx(4 / 30)
    assert result.ratio == pytest.approx(7.5)
    assert result.beats_chance


def test_independent_answers_are_at_chance() -> None:
    rng = np.random.default_rng(3)
    heard, stated = rng.integers(0, 8, 64), rng.integers(0, 8, 64)
    table = (heard[:, None] == stated[None, :]).astype(float)
    result = score.agreement(table, permutations=2000)
    assert not result.beats_chance
    assert result.p_permutation > score.SIGNIFICANCE
    assert result.p_binomial is not None and result.p_binomial > score.SIGNIFICANCE


def test_worse_than_chance_is_significant_but_does_not_beat_it() -> None:
    labels = np.arange(40) % 2
    result = score.agreement((labels[:, None] != labels[None, :]).astype(float), permutations=500)
    assert result.hits == 0
    assert result.p_permutation < score.SIGNIFICANCE
    assert not result.beats_chance


def test_a_constant_answer_is_at_chance() -> None:
    stated = np.array([0] * 40 + [1] * 24)
    table = np.broadcast_to((stated == 0).astype(float), (64, 64))
    result = score.agreement(table, permutations=500)
    assert result.p_permutation == 1.0
    assert not result.beats_chance


@pytest.mark.parametrize("table", [np.zeros((3, 2)), np.zeros((1, 1)), np.full((3, 3), 2.0)])
def test_agreement_refuses(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"judge\.score: table must"):
        score.agreement(table)


def test_derangement_moves_everything() -> None:
    for n in (2, 3, 64):
        order = score.derangement(n, 0)
        assert sorted(order) == list(range(n))
        assert not np.any(order == np.arange(n))
    with pytest.raises(ValueError, match="two items"):
        score.derangement(1, 0)


def test_classifier_separates_and_balances() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 20)) * 2
    truth = rng.choice(3, 300, p=[0.8, 0.1, 0.1])
    x = centres[truth] + rng.standard_normal((300, 20))
    names = [f"class{k}" for k in truth]
    groups = [f"piece{i // 3}" for i in range(300)]
    fitted = linear.fit(x[:200], names[:200], groups[:200])
    assert linear.balanced_accuracy(names[200:], fitted.predict(x[200:])) > 0.9
    assert fitted.classes == ("class0", "class1", "class2")
    with pytest.raises(ValueError, match="two classes"):
        linear.fit(x[:5], ["a"] * 5, groups[:5])
    with pytest.raises(ValueError, match="one length"):
        linear.fit(x[:5], names[:4], groups[:5])


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("D minor", (2, "minor")),
        ("Bb major", (10, "major")),
        ("F# Minor", (6, "minor")),
        ("E- major", (3, "major")),
        ("G sharp minor", (8, "minor")),
    ],
)
def test_parse_key(key: str, expected: tuple[int, str]) -> None:
    assert hearing.parse_key(key) == expected


@pytest.mark.parametrize("key", ["D", "H minor", "D dorian", ""])
def test_parse_key_refuses(key: str) -> None:
    with pytest.raises(ValueError, match=r"judge\.hearing: key must"):
        hearing.parse_key(key)


@pytest.mark.parametrize("profile", ["albrecht", "krumhansl"])
def test_key_profiles_find_a_scale(profile: str) -> None:
    for tonic in range(12):
        chroma = np.zeros(12)
        chroma[[(tonic + s) % 12 for s in (0, 2, 4, 5, 7, 9, 11)]] = 1
        chroma[[tonic, (tonic + 7) % 12]] = 2
        assert hearing.best_key(chroma, profile) == (tonic, "major")
    assert not hearing.key_scores(np.ones(12), profile).any()


def test_mirex_weights() -> None:
    weight = hearing.mirex_key_score
    assert weight((0, "major"), (0, "major")) == 1.0
    assert weight((7, "major"), (0, "major")) == 0.5
    assert weight((5, "minor"), (0, "minor")) == 0.5
    assert weight((9, "minor"), (0, "major")) == 0.3
    assert weight((0, "major"), (9, "minor")) == 0.3
    assert weight((0, "minor"), (0, "major")) == 0.2
    assert weight((1, "major"), (0, "major")) == 0.0
    assert weight((3, "minor"), (0, "major")) == 0.0


def test_tempo_up_to_octaves() -> None:
    for heard in (60, 120, 240, 111, 129, 56):
        assert hearing.tempo_agrees(heard, 120)
    for heard in (80, 90, 109, 131, 180, 30):
        assert not hearing.tempo_agrees(heard, 120)


def test_low_pass_keeps_the_low_and_drops_the_high() -> None:
    time = np.arange(24000) / 24000
    low = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    high = np.sin(2 * np.pi * 3000 * time).astype(np.float32)
    middle = slice(4000, 20000)
    kept, rate = low_pass((low + high, 24000))
    assert rate == 24000 and kept.size == 24000
    assert np.abs(kept - low)[middle].max() < 0.01


def _clips(count: int, split: str) -> list[corpus.Clip]:
    families, genres = ("piano", "organ", "flute"), ("rock", "waltz")
    return [
        corpus.Clip(
            f"{split}{i}",
            f"{split}-piece{i // 2}",
            split,
            Path(f"{i}.flac"),
            {
                "family": families[min(2, i % 5)],
                "genre": genres[i % 2],
                "tempo_bpm": 60 + i % 50,
                "key": hearing.PITCH_CLASSES[i % 12],
                "mode": ("major", "minor")[i % 2],
            },
        )
        for i in range(count)
    ]


def test_spread_is_even_deterministic_and_honours_first() -> None:
    clips = _clips(60, "test")
    chosen = corpus.spread(clips, 30, 0)
    counts = [sum(c.attributes["family"] == f for c in chosen) for f in ("piano", "organ", "flute")]
    assert counts == [10, 10, 10]
    assert [c.id for c in chosen] == [c.id for c in corpus.spread(clips, 30, 0)]
    assert corpus.spread(clips, 5, 0, ["test7"])[0].id == "test7"
    assert len(corpus.spread(clips, 100, 0)) == 60


def test_prompts_survive_a_file(tmp_path: Path) -> None:
    prompts = [corpus.Prompt("slow piano", {"family": "piano"}, "a"), corpus.Prompt("ü", {}, None)]
    path = tmp_path / "prompts.jsonl"
    corpus.write_prompts(prompts, path)
    assert corpus.read_prompts(path) == prompts
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == "slow piano\nü\n"


def _heard(clips: list[corpus.Clip], seed: int) -> Features:
    """Features that carry the attributes of the clips, as a good recording would."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(clips), 100))
    chroma = np.zeros((len(clips), 12))
    for i, clip in enumerate(clips):
        logits[i, ("piano", "organ", "flute").index(clip.attributes["family"])] += 8
        logits[i, 3 + ("rock", "waltz").index(clip.attributes["genre"])] += 8
        steps = (0, 3, 7) if clip.attributes["mode"] == "minor" else (0, 4, 7)
        chroma[i, [(i + s) % 12 for s in steps]] = (1.2, 1, 1)
    tempo = np.array([2.0 * c.attributes["tempo_bpm"] for c in clips])
    patches = tuple(rng.standard_normal((3, 200)) for _ in clips)
    return Features(logits, patches, tempo, chroma)


def test_verdict_on_music_that_follows_and_on_shuffled_prompts() -> None:
    train, test = _clips(600, "train"), _clips(40, "test")
    judge = Judge.fit(_heard(train, 0), train)
    heard = _heard(test, 1)
    assert judge.quality(heard, test)["family"]["accuracy"] > 0.9
    stated: list[Any] = [c.attributes for c in test]
    verdict = judge.verdict(heard, stated, permutations=1000)
    for name in ATTRIBUTES:
        assert verdict[name]["beats_chance"], name
        assert not verdict[name]["shuffled"]["beats_chance"], name
    assert verdict["key"]["rate"] == 1.0
    assert verdict["mode"]["rate"] == 1.0
    with pytest.raises(ValueError, match="as many as prompts"):
        judge.verdict(heard, stated[:-1])
    full = {
        "data": {"train_clips": 600, "permutations": 1000},
        "classifiers": judge.quality(heard, test),
        "real": verdict,
        "frechet": {"reference_clips": 40, "train": {"clips": 40, "distance": 1.25}},
    }
    text = report.markdown(full)
    assert "| tempo, 8 %, up to octaves | 40 / 40 |" in text
    assert "| real clips of the training split | 40 | 1.2 |" in text
