"""Tempo, key and the whole command of the judge on clips whose truth is known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from noise2music.evaluate.encoders import musicnn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import judge_tiny  # noqa: E402
from judge import hearing  # noqa: E402

pytest.importorskip("librosa", reason="librosa is absent: pip install librosa")
pytestmark = pytest.mark.slow  # importing librosa compiles for half a minute on a fresh machine

RATE = 24000


def _clip(tonic: int, minor: bool, bpm: float, seconds: float = 10.0) -> np.ndarray:
    """A plucked I-IV-V-I progression, one chord a beat, with a click on every beat."""
    out = np.zeros(int(RATE * seconds), np.float32)
    third = 3 if minor else 4
    chords = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
    beat = 60 / bpm
    time = np.arange(int(RATE * beat)) / RATE
    for k in range(int(seconds / beat) - 1):
        start = int(k * beat * RATE)
        for step in (*chords[k % 4], -12):
            tone = 220.0 * 2 ** ((tonic - 9 + step) / 12)
            wave = np.sin(2 * np.pi * tone * time) + 0.3 * np.sin(4 * np.pi * tone * time)
            out[start : start + time.size] += (0.1 * wave * np.exp(-4 * time)).astype(np.float32)
    return out


@pytest.mark.parametrize(("tonic", "minor"), [(0, False), (6, False), (9, True)])
def test_key(tonic: int, minor: bool) -> None:
    chroma = hearing.mean_chroma(_clip(tonic, minor, 100), RATE)
    assert hearing.best_key(chroma) == (tonic, "minor" if minor else "major")


@pytest.mark.parametrize("bpm", [66, 97, 150])
def test_tempo(bpm: float) -> None:
    assert hearing.tempo_agrees(hearing.estimate_tempo(_clip(0, False, bpm), RATE), bpm)


def test_log_mel_patches() -> None:
    patches = musicnn.log_mel_patches(_clip(0, False, 100), RATE)
    assert patches.shape == (3, musicnn.PATCH_FRAMES, musicnn.BANDS)
    assert patches.dtype == np.float32 and patches.min() >= 0
    assert musicnn.log_mel_patches(np.ones(100, np.float32), 16000).shape[0] == 1
    with pytest.raises(ValueError, match="audio must be"):
        musicnn.log_mel_patches(np.zeros((2, 5)), RATE)


@pytest.mark.skipif(
    musicnn.wheel_folder() is None,
    reason="the musicnn wheel is absent: pip install --no-deps musicnn==0.1.0",
)
def test_command(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for i in range(12):
        name = f"audio/{i}.flac"
        soundfile.write(folder / name, _clip(i, i % 2 == 1, 70 + 10 * i, 3.2), RATE)
        attributes = {
            "family": ("piano", "organ")[i % 2],
            "genre": ("rock", "waltz")[(i // 2) % 2],
            "tempo_bpm": 70 + 10 * i,
            "key": hearing.PITCH_CLASSES[i],
            "mode": ("major", "minor")[i % 2],
        }
        split = "test" if i >= 8 else "train"
        rows.append(
            {"id": str(i), "piece": str(i), "split": split, "audio": name, "attributes": attributes}
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": "x", "attributes": r["attributes"], "clip": r["id"]}) + "\n"
            for r in rows[8:]
        )
    )
    clips = tmp_path / "clips"
    clips.mkdir()
    for i, row in enumerate(rows[8:]):
        samples, rate = soundfile.read(folder / row["audio"])
        soundfile.write(clips / f"{i:04d}.wav", samples, rate, subtype="FLOAT")
    command = ["--corpus", str(folder), "--prompts", str(prompts), "--clips", str(clips)]
    command += ["--out", str(tmp_path / "report.json"), "--cache", str(tmp_path / "cache")]
    command += ["--markdown", str(tmp_path / "table.md"), "--permutations", "200"]
    assert judge_tiny.main(command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["generated"]["family"]["n"] == 4
    # The clips are the real ones, so both are judged alike and lie at distance zero.
    for name in ("family", "genre", "tempo", "key"):
        assert report["generated"][name]["hits"] == report["real_same_prompts"][name]["hits"]
    assert report["frechet"]["generated"]["distance"] == pytest.approx(0, abs=1e-3)
    assert report["frechet"]["low_pass"]["distance"] > 1
    assert "instrument family" in (tmp_path / "table.md").read_text()
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 16  # 12 clips and 4 low-passed
