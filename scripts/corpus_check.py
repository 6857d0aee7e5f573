"""Hear whether a corpus folder's labels are true: tempo, key and level of some of its clips.

    python scripts/corpus_check.py CORPUS [--clips 60] [--first 0]

Needs librosa. Tempo: librosa.feature.tempo against tempo_bpm, right within 8 % up to octaves.
Key: mean chroma against the Krumhansl-Kessler profiles, by relation to the labelled key.
Level: the file's root mean square against level_db, and the peak.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def hear_tempo(audio: NDArray[np.float32], rate: int) -> float:
    """Beats a minute by librosa's tempogram."""
    import librosa

    return float(np.atleast_1d(librosa.feature.tempo(y=audio, sr=rate))[0])


def hear_key(audio: NDArray[np.float32], rate: int) -> tuple[int, str]:
    """Tonic 0..11 and mode whose profile correlates best with the mean chroma."""
    import librosa

    chroma = librosa.feature.chroma_stft(y=audio, sr=rate, n_fft=8192, hop_length=2048).mean(1)
    scored = [
        (float(np.corrcoef(chroma, np.roll(profile, tonic))[0, 1]), tonic, mode)
        for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        for tonic in range(12)
    ]
    _, tonic, mode = max(scored)
    return tonic, mode


def relation(heard: tuple[int, str], tonic: int, mode: str) -> str:
    """MIREX classes: exact, fifth, relative, parallel or other."""
    step = (heard[0] - tonic) % 12
    if heard[1] == mode:
        return "exact" if step == 0 else "fifth" if step in (5, 7) else "other"
    if step == (9 if mode == "major" else 3):
        return "relative"
    return "parallel" if step == 0 else "other"


def octave_error(heard: float, true: float) -> float:
    """|ratio - 1| after the nearest of the factors 1/4, 1/2, 1, 2, 4."""
    return min(abs(heard * factor / true - 1) for factor in (0.25, 0.5, 1, 2, 4))


def check(corpus: Path, first: int, clips: int) -> dict[str, Any]:
    """Right tempi by genre, keys by relation, worst level error in dB, highest peak."""
    tempo: dict[str, list[bool]] = defaultdict(list)
    keys: Counter[str] = Counter()
    level_error, peak = 0.0, 0.0
    lines = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[first : first + clips]:
        clip = json.loads(line)
        labels = clip["attributes"]
        audio, rate = soundfile.read(corpus / clip["audio"], dtype="float32")
        right = octave_error(hear_tempo(audio, rate), labels["tempo_bpm"]) < 0.08
        tempo[labels["genre"]].append(right)
        tempo["all"].append(right)
        keys[relation(hear_key(audio, rate), labels["tonic"], labels["mode"])] += 1
        level = 20 * np.log10(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
        level_error = max(level_error, abs(float(level) - labels["level_db"]))
        peak = max(peak, float(np.abs(audio).max()))
    return {
        "tempo within 8 % up to octaves": {k: f"{sum(v)}/{len(v)}" for k, v in tempo.items()},
        "key": dict(keys),
        "worst level error dB": round(level_error, 2),
        "highest peak": round(peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    for name, value in check(options.corpus, options.first, options.clips).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
