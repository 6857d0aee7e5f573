"""Sound files in and out: formats, metadata, safe peaks, sample rates.

Audio is float32 in [-1, 1], shape (T,), mono, everywhere in this package.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import secrets
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from noise2music.errors import UserError, unknown_name

PEAK_CEILING_DB = -1.0

# suffix -> (libsndfile format, subtype by bits; 0 where the codec has no bit depth)
FORMATS: dict[str, tuple[str, dict[int, str]]] = {
    ".wav": ("WAV", {16: "PCM_16", 24: "PCM_24"}),
    ".flac": ("FLAC", {16: "PCM_16", 24: "PCM_24"}),
    ".ogg": ("OGG", {0: "VORBIS"}),
    ".mp3": ("MP3", {0: "MPEG_LAYER_III"}),
}

# The LIST/INFO chunk of a WAV file: which text goes under which four letters.
_INFO_IDS = {"title": b"INAM", "software": b"ISFT", "comment": b"ICMT"}


def check_output(path: str | os.PathLike[str], suffixes: Iterator[str] | list[str]) -> pathlib.Path:
    """Checks that a file of this name can be written, before any work is spent on its content.

    Raises UserError when the suffix is not one of `suffixes`, when the name is a folder, or when
    its folder does not exist or refuses a new file (found out by making one and removing it).
    """
    path = pathlib.Path(path)
    valid = list(suffixes)
    if path.suffix.lower() not in valid:
        if not path.suffix:
            raise UserError(
                f"the name {str(path)!r} does not tell the format: end it in {', '.join(valid)}"
            )
        raise unknown_name("file suffix", path.suffix, valid)
    if path.is_dir():
        raise UserError(f"cannot write {str(path)!r}: it is a folder")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(
            f"cannot write {str(path)!r}: the folder {str(folder)!r} does not exist (mkdir -p it)"
        )
    probe = _temporary_name(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write into the folder {str(folder)!r}: {error.strerror or error}"
        ) from error
    return path


def _temporary_name(path: pathlib.Path) -> pathlib.Path:
    # The suffix stays last: soundfile and matplotlib choose the format by it. The stem is left out
    # because a name near the file system's limit would grow beyond it.
    return path.with_name(f".n2m-{secrets.token_hex(6)}{path.suffix}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary name in the same folder, which replaces `path` when the block succeeds.

    Whatever goes wrong, Ctrl-C included, leaves no half file and an existing file untouched.
    """
    path = pathlib.Path(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def limit_peak(
    samples: np.ndarray, *, ceiling_db: float = PEAK_CEILING_DB, normalize: bool = False
) -> np.ndarray:
    """y = g x with g = min(1, 10^(ceiling_db / 20) / max |x|): one gain, so nothing is distorted.

    samples (T,) float32, any range; returns the same shape with |y| <= 10^(ceiling_db / 20), up to
    float32 rounding. `normalize` also allows g > 1, up to 40 dB. Silence stays silence. Raises
    UserError on NaN or infinity. The ceiling leaves room for the overshoot of lossy codecs.
    """
    samples = np.asarray(samples, dtype=np.float32)
    peak = float(np.max(np.abs(samples), initial=0.0))
    if not math.isfinite(peak):
        raise UserError("samples must be finite, got NaN or infinity")
    ceiling = 10.0 ** (ceiling_db / 20.0)
    if peak == 0.0 or (peak <= ceiling and not normalize):
        return samples
    gain = min(ceiling / peak, 100.0)
    return samples * np.float32(gain)


def resample(samples: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Band-limited resampling of (T,) to (ceil(T rate_out / rate_in),), float32, by soxr (VHQ)."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise UserError(f"samples must have shape (T,), got {samples.shape}")
    if rate_in <= 0 or rate_out <= 0:
        raise UserError(f"sample rates must be positive, got {rate_in} and {rate_out}")
    length = -(-samples.shape[0] * rate_out // rate_in)
    if rate_in == rate_out or length == 0:
        return samples
    import soxr

    result = np.asarray(soxr.resample(samples, rate_in, rate_out, quality="VHQ"), np.float32)
    # soxr rounds the length its own way; a missing last sample is silence.
    return np.pad(result[:length], (0, max(0, length - result.shape[0])))


def write_audio(
    path: str | os.PathLike[str],
    samples: np.ndarray,
    sample_rate: int,
    *,
    metadata: dict[str, Any] | None = None,
    title: str = "",
    bits: int = 16,
    normalize: bool = False,
) -> pathlib.Path:
    """Writes (T,) float32 audio; format by suffix; metadata as JSON in the file's comment.

    WAV: LIST/INFO chunk (ICMT); FLAC and OGG: Vorbis comment; MP3: ID3v2 COMM. Peaks are held at
    -1 dBFS by `limit_peak`. The file is written under a temporary name and then renamed.
    """
    import soundfile

    path = check_output(path, list(FORMATS))
    file_format, subtypes = FORMATS[path.suffix.lower()]
    if file_format not in soundfile.available_formats():
        raise UserError(f"this libsndfile cannot write {file_format}: choose .wav or .flac")
    if bits not in (16, 24):
        raise UserError(f"bits must be 16 or 24, got {bits}")
    subtype = subtypes[0] if 0 in subtypes else subtypes[bits]
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.shape[0] == 0:
        raise UserError(f"samples must have shape (T,) with T > 0, got {samples.shape}")
    safe = limit_peak(samples, normalize=normalize)
    tags = {"title": title[:200], "software": "noise2music"}
    if metadata:
        # ID3 text written by libsndfile is declared Latin-1, so only ASCII survives there.
        tags["comment"] = json.dumps(metadata, ensure_ascii=file_format == "MP3", sort_keys=True)
    if file_format == "MP3":
        tags["title"] = tags["title"].encode("ascii", "replace").decode()
    with replacing(path) as temporary:
        try:
            with soundfile.SoundFile(
                temporary, "w", int(sample_rate), 1, format=file_format, subtype=subtype
            ) as file:
                if file_format != "WAV":
                    for key, text in tags.items():
                        if text:
                            setattr(file, key, text)
                file.write(safe)
        except soundfile.LibsndfileError as error:
            raise UserError(f"cannot write {str(path)!r}: {error}") from error
        if file_format == "WAV":
            _append_info_chunk(temporary, tags)
    return path


def read_audio(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Reads a sound file as (T,) float32 and its sample rate; several channels are averaged."""
    import soundfile

    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"cannot read {str(path)!r}: there is no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot read {str(path)!r} as sound (WAV, FLAC, OGG, MP3 or AIFF): {error}"
        ) from error
    if samples.shape[0] == 0:
        raise UserError(f"cannot use {str(path)!r}: it holds no samples")
    mono = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise UserError(f"cannot use {str(path)!r}: it holds NaN or infinite samples")
    return np.ascontiguousarray(mono), int(rate)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata `write_audio` put into the file, or None when it holds none."""
    import soundfile

    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"cannot read {str(path)!r}: there is no such file")
    try:
        with soundfile.SoundFile(path) as file:
            comment = file.comment if file.format != "WAV" else _read_info_comment(path)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot read {str(path)!r} as sound (WAV, FLAC, OGG, MP3 or AIFF): {error}"
        ) from error
    try:
        metadata = json.loads(comment)
    except ValueError:
        return None
    return metadata if isinstance(metadata, dict) else None


def _append_info_chunk(path: pathlib.Path, tags: dict[str, str]) -> None:
    # libsndfile drops a comment of more than about 2 kB without a word, in both directions; a
    # prompt and its settings can be longer. A LIST/INFO chunk after the samples has no such limit.
    body = b"INFO"
    for key, text in tags.items():
        if text:
            data = text.encode("utf-8") + b"\0"
            body += _INFO_IDS[key] + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.write(b"\0" * (end % 2) + b"LIST" + struct.pack("<I", len(body)) + body)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _read_info_comment(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        file.seek(12)
        for chunk_id, size, start in _chunks(file, os.path.getsize(path)):
            if chunk_id == b"LIST" and size >= 4 and file.read(4) == b"INFO":
                for tag, length, at in _chunks(file, start + size):
                    if tag == _INFO_IDS["comment"]:
                        file.seek(at)
                        return file.read(length).rstrip(b"\0").decode("utf-8", "replace")
    return ""


def _chunks(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Walks over RIFF chunks from the current position: four letters, size, start of the data."""
    at = file.tell()
    while at + 8 <= end:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            return
        chunk_id, size = struct.unpack("<4sI", header)
        yield chunk_id, size, at + 8
        at += 8 + size + size % 2
