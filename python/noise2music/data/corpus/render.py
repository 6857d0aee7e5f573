"""Sounds to audio: FluidSynth in process at 24 kHz, dry, mono."""

from __future__ import annotations

import ctypes
import heapq
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music.data.corpus.arrange import Sound

SAMPLE_RATE = 24_000
_BLOCK = 64
_PEAK = 0.95
_WARNING = 2  # FLUID_WARN
INSTALL = (
    "apt-get install fluidsynth fluid-soundfont-gm (Debian, Ubuntu) and "
    "pip install 'noise2music[data]'"
)
_SOUNDFONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
    "/usr/share/soundfonts/default.sf2",
    "/usr/share/sounds/sf2/default-GM.sf2",
)


def find_soundfont(path: str | os.PathLike[str] | None = None) -> Path:
    """The General MIDI soundfont: the argument, $NOISE2MUSIC_SOUNDFONT, or Debian's FluidR3."""
    given = path or os.environ.get("NOISE2MUSIC_SOUNDFONT")
    for candidate in [given] if given else _SOUNDFONTS:
        if Path(candidate).is_file():
            return Path(candidate)
    raise FileNotFoundError(
        f"n2m.corpus: soundfont must be a General MIDI .sf2 file, got {given or 'none found'}: "
        f"{INSTALL}, or set NOISE2MUSIC_SOUNDFONT"
    )


class Renderer:
    """FluidSynth with its soundfont, for many clips.

    Every clip gets a fresh synthesiser (a used one rings on and starts its filters elsewhere), so
    its samples do not depend on earlier clips; the loaded soundfont goes from one to the next.
    """

    def __init__(self, soundfont: str | os.PathLike[str] | None = None) -> None:
        path = find_soundfont(soundfont)
        try:
            import fluidsynth
        except ImportError as error:  # also when the shared library is missing
            raise ImportError(f"n2m.corpus: FluidSynth must be installed: {INSTALL}") from error
        self._module = fluidsynth
        library = fluidsynth._fl
        self._log = library.fluid_set_log_function
        self._log.restype = ctypes.c_void_p
        self._write = library.fluid_synth_write_float
        self._get, self._add, self._remove = (
            getattr(library, f"fluid_synth_{name}")
            for name in ("get_sfont_by_id", "add_sfont", "remove_sfont")
        )
        self._get.restype = ctypes.c_void_p
        self._synth = self._new_synth()
        self._font = self._synth.sfload(str(path))
        if self._font < 0:
            raise ValueError(f"n2m.corpus: soundfont must be readable by FluidSynth, got {path}")

    def _new_synth(self) -> Any:
        synth = self._module.Synth(gain=0.4, samplerate=float(SAMPLE_RATE), channels=16)
        for name in ("synth.reverb.active", "synth.chorus.active"):
            synth.setting(name, 0)
        return synth

    def _renew(self) -> None:
        """Replace the synthesiser by a fresh one and hand it the soundfont."""
        old, new = self._synth, self._new_synth()
        old.system_reset()
        font = ctypes.c_void_p(self._get(ctypes.c_void_p(old.synth), self._font))
        # Without a font FluidSynth warns once a channel that it has no preset.
        logger = self._log(_WARNING, None, None)
        self._remove(ctypes.c_void_p(old.synth), font)
        self._log(_WARNING, ctypes.c_void_p(logger), None)
        self._synth, self._font = new, self._add(ctypes.c_void_p(new.synth), font)
        old.delete()

    def _samples(self, out: NDArray[np.float32], begin: int, end: int) -> None:
        if end <= begin:
            return
        left = out[0].ctypes.data_as(ctypes.c_void_p)
        right = out[1].ctypes.data_as(ctypes.c_void_p)
        synth = ctypes.c_void_p(self._synth.synth)
        self._write(synth, end - begin, left, begin, 1, right, begin, 1)

    def render(self, sounds: Sequence[Sound], seconds: float) -> NDArray[np.float32]:
        """Mono float32 (round(seconds * 24000),), not yet levelled; sounds sorted by start."""
        count = round(seconds * SAMPLE_RATE)
        padded = -(-count // _BLOCK) * _BLOCK
        out = np.zeros((2, padded), np.float32)
        programs = sorted({s.program for s in sounds if s.program >= 0})
        free = [c for c in range(16) if c != 9]
        channels = dict(zip(programs, free, strict=False))
        channels[-1] = 9
        for program, channel in channels.items():
            bank, number = (128, 0) if program < 0 else (0, program)
            self._synth.program_select(channel, self._font, bank, number)
        stops: list[tuple[int, int, int, int]] = []
        sounding: dict[tuple[int, int], int] = {}
        now = 0

        def stop_until(limit: int) -> int:
            position = now
            while stops and stops[0][0] <= limit:
                at, number, channel, pitch = heapq.heappop(stops)
                if sounding.get((channel, pitch)) != number:
                    continue
                self._samples(out, position, at)
                position = max(position, at)
                self._synth.noteoff(channel, pitch)
                del sounding[channel, pitch]
            return position

        for serial, sound in enumerate(sounds):
            start = _quantise(sound.start)
            if start >= padded:
                break
            now = stop_until(start)
            self._samples(out, now, start)
            now = max(now, start)
            channel = channels[sound.program]
            if (channel, sound.pitch) in sounding:
                self._synth.noteoff(channel, sound.pitch)
            self._synth.noteon(channel, sound.pitch, sound.velocity)
            sounding[channel, sound.pitch] = serial
            stop = max(_quantise(sound.stop), start + _BLOCK)
            heapq.heappush(stops, (stop, serial, channel, sound.pitch))
        now = stop_until(padded)
        self._samples(out, now, padded)
        self._renew()
        mono: NDArray[np.float32] = 0.5 * (out[0] + out[1])
        return mono[:count]


def _quantise(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / _BLOCK) * _BLOCK


def set_level(audio: NDArray[np.float32], level_db: float) -> tuple[NDArray[np.float32], float]:
    """Scale to a root mean square of `level_db` (dBFS), or less where the peak would pass 0.95.

    Returns (audio, level reached). ValueError for silence, NaN or a quiet half.
    """
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    peak = float(np.max(np.abs(audio)))
    if not np.isfinite(peak) or rms < 1e-5:
        raise ValueError("silent or not finite")
    seconds = np.sqrt(np.mean(np.square(audio[: audio.size // 12 * 12]).reshape(12, -1), axis=1))
    if (seconds < 0.02 * seconds.max()).sum() > 2:
        raise ValueError("more than 2 of 12 parts nearly silent")
    gain = min(10 ** (level_db / 20) / rms, _PEAK / peak)
    return (audio * gain).astype(np.float32), 20 * float(np.log10(rms * gain))
