"""The tiny stages against what needs no training, on real test clips.

    python scripts/baseline_tiny.py --corpus DIR --model tiny --count 32 --markdown baseline.md

Multi-resolution log-spectral distance, in dB: for STFTs of 512, 1024 and 2048 samples (Hann, a
quarter apart)

    d = mean over frames of sqrt(mean over bins of (20 log10 max(|X|, f) - 20 log10 max(|Y|, f))^2)

averaged over the three, with the floor f 80 dB below a full-scale sine, and 100 dB below (the
range of 16 bits), for what is empty counts for more the lower f is. The cascader and
super-resolution are given the real clip at the lower rate, and are compared with FFT up-sampling
alone in the band that was missing; the vocoder, given the real mel spectrogram, with librosa's
inverse mel and 32 iterations of Griffin-Lim, in the whole band.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import librosa
import numpy as np
import scipy.signal
from noise2music.audio import read_audio, resample
from noise2music.cascade import load
from noise2music.config import MEL_HOP
from noise2music.excitation import shape
from noise2music.mel import FLOOR_DB, RATE, WINDOW, log_mel, mel_filters

SECONDS = 10
WINDOWS = (512, 1024, 2048)
FLOORS_DB = (-80.0, -100.0)


def distances(
    x: np.ndarray, y: np.ndarray, rate: int, band: tuple[float, float]
) -> tuple[float, ...]:
    """The multi-resolution log-spectral distance of x and y (n,) within `band` in Hz, dB.

    One for each of FLOORS_DB.
    """
    found = []
    for window in WINDOWS:
        spectra = []
        for sound in (x, y):
            hz, _, stft = scipy.signal.stft(
                sound, rate, nperseg=window, noverlap=window * 3 // 4, scaling="spectrum"
            )
            inside = (hz >= band[0]) & (hz <= band[1])
            spectra.append(20.0 * np.log10(np.maximum(2.0 * np.abs(stft[inside]), 1e-9)))
        found.append(
            [
                np.sqrt(np.square(np.subtract(*np.maximum(spectra, floor))).mean(0)).mean()
                for floor in FLOORS_DB
            ]
        )
    return tuple(np.mean(found, axis=0))


def griffin_lim(mel: np.ndarray, samples: int) -> np.ndarray:
    """librosa's way from the log-mel spectrogram (F, 80) to audio (samples,)."""
    amplitude = 10.0 ** (FLOOR_DB / 40.0 * (1.0 - mel.T.astype(np.float64)))
    scale = np.hanning(WINDOW + 1)[:-1].sum() / 2.0
    bins = librosa.util.nnls(mel_filters().T.astype(np.float64), amplitude * scale)
    sound = librosa.griffinlim(
        bins, n_iter=32, hop_length=MEL_HOP, win_length=WINDOW, n_fft=WINDOW, random_state=0
    )
    # Our frame i is centred on sample 160 i + 80, librosa's on 160 i.
    return np.pad(sound, (MEL_HOP // 2, samples))[:samples]


def rows_of(corpus: Path, count: int) -> list[dict]:
    """Test clips spread over the split, so that no piece stands for all."""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["split"] == "test"]
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    pipe = load(arguments.model)
    found: dict[str, list[tuple[tuple[float, ...], ...]]] = {}
    for number, row in enumerate(rows_of(arguments.corpus, arguments.count)):
        samples, rate = read_audio(arguments.corpus / row["audio"])
        samples = samples[: SECONDS * rate]
        sound = {r: resample(samples, rate, r)[: SECONDS * r] for r in (3200, 16_000, 24_000)}
        for stage, low, high in (
            ("waveform_cascader", 3200, 16_000),
            ("super_resolution_cascader", 16_000, 24_000),
        ):
            made = pipe.run_stage(stage, sound[low], low, prompt=row["captions"][0], seed=number)
            plain = scipy.signal.resample(sound[low], SECONDS * high)
            band = (low / 2, high / 2)
            two = (made.samples[: SECONDS * high], plain)
            pair = tuple(distances(y, sound[high], high, band) for y in two)
            found.setdefault(stage, []).append(pair)
        mel = log_mel(sound[RATE])
        made = pipe.run_stage("spectrogram_vocoder", sound[RATE], RATE, seed=number)
        noise = np.random.default_rng(number).standard_normal(len(sound[RATE]))
        three = (made.samples, griffin_lim(mel, len(sound[RATE])), shape(noise, mel))
        pair = tuple(distances(y, sound[RATE], RATE, (0.0, RATE / 2)) for y in three)
        found.setdefault("spectrogram_vocoder", []).append(pair)
        print(f"{number + 1} of {arguments.count}", flush=True)
    names = {
        "waveform_cascader": "FFT up-sampling, 1.6 to 8 kHz",
        "super_resolution_cascader": "FFT up-sampling, 8 to 12 kHz",
        "spectrogram_vocoder": "Griffin-Lim, 32 iterations, 0 to 8 kHz",
    }
    lines = [
        "| stage | floor | its distance | baseline | its distance | the stage is nearer |",
        "|---|---|---|---|---|---|",
    ]
    for stage, clips in found.items():
        for number, floor in enumerate(FLOORS_DB):
            own, other = np.array(clips)[:, :2, number].T
            lines.append(
                f"| {stage} | {floor:.0f} dB | {np.median(own):.2f} dB | {names[stage]} "
                f"| {np.median(other):.2f} dB | {(own < other).sum()} of {len(own)} |"
            )
    white = np.median(np.array(found["spectrogram_vocoder"])[:, 2], axis=0)
    lines += [
        "",
        f"White noise in the place of what the vocoder's network makes: {white.round(2)}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
