"""MMA grooves as pieces: the program is run on a drawn chord progression and its MIDI is read.

MMA (Musical MIDI Accompaniment, GPL-2.0-or-later) is run as an outside program; nothing of it is
imported or shipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.data.corpus.pieces import Note, Piece, PieceError, PieceRef, Track

INSTALL = (
    "apt-get install mma (Debian, Ubuntu), or unpack that package and set MMA_HOME to its "
    "share/mma folder; see docs/corpus.md"
)
BARS = 16

# genre -> style files (library/file) of MMA's own libraries
_STYLES = {
    "rock": (
        "stdlib/60srock stdlib/basicrock stdlib/folkrock stdlib/softrock stdlib/bubblerock "
        "stdlib/8beat casio/60srock casio/digitalrock casio/heavymetal casio/poprock1 "
        "casio/poprock2 casio/rock1 casio/rock2 casio/8beat1 casio/8beat2 casio/8beat3 "
        "casio/8beatpop1 casio/80spop yamaha/w-rock"
    ),
    "swing": (
        "stdlib/swing stdlib/easyswing stdlib/fastswing stdlib/bigband stdlib/jazzcombo "
        "stdlib/bebop stdlib/jazzguitar stdlib/modernjazz casio/swing casio/jazzcombo "
        "casio/middlebigband casio/fastbigband casio/slowswing casio/modernjazz "
        "yamaha/jazzbasie yamaha/jazzswing yamaha/jazztrio"
    ),
    "latin": (
        "stdlib/bossanova stdlib/salsa stdlib/samba stdlib/mambo stdlib/merengue stdlib/chacha "
        "stdlib/rhumba stdlib/cubanguitar stdlib/son stdlib/calypso stdlib/beguine "
        "stdlib/bolero yamaha/mambo yamaha/salsa1 yamaha/salsa2 yamaha/jazzbossa kara/kbossa "
        "casio/latinfusion"
    ),
    "waltz": (
        "stdlib/waltz stdlib/countrywaltz stdlib/frenchwaltz stdlib/vienesewaltz "
        "stdlib/fastwaltz stdlib/jazzwaltz stdlib/broadwaywaltz stdlib/latinwaltz "
        "casio/popwaltz casio/jazzwaltz"
    ),
    "dance": (
        "stdlib/trance stdlib/boneym casio/dance1 casio/dance2 casio/dancepop1 casio/dancepop2 "
        "casio/dancepop3 casio/house casio/techno casio/rave casio/trance1 casio/trance2 "
        "casio/8beatdance casio/discosoul casio/electricpop casio/latinhouse casio/16beat1 "
        "casio/16beat3"
    ),
    "ragtime": "stdlib/ragtime stdlib/charleston stdlib/dixie",
}
_PIECES_PER_GENRE = 100
_MAX_GROOVES_PER_FILE = 6

# Eight bars each, in C; MMA plays them twice.
_POP_MAJOR = (
    "C Am F G C Am F G",
    "C G Am F C G F C",
    "C F C G C F G C",
    "C C F F G F C C",
    "C Em F G C Em F C",
    "C F G C Am F G C",
    "C Bb F C C Bb F C",
    "C Am Dm G C Am Dm G",
)
_POP_MINOR = (
    "Cm Ab Eb Bb Cm Ab Bb Cm",
    "Cm Fm G7 Cm Cm Fm G7 Cm",
    "Cm Bb Ab G7 Cm Bb Ab G7",
    "Cm Cm Fm Cm Ab G7 Cm Cm",
    "Cm Eb Bb Fm Cm Ab G7 Cm",
    "Cm Gm Ab Bb Cm Gm Fm Cm",
    "Cm Bb Cm Bb Ab Bb Cm Cm",
    "Cm Ab Fm G7 Cm Ab G7 Cm",
)
_JAZZ_MAJOR = (
    "CM7 Am7 Dm7 G7 CM7 CM7 G7 C6",
    "C6 C6 Dm7 G7 C6 C6 G7 C6",
    "C6 C6 F6 C6 G7 G7 C6 C6",
    "C6 A7 Dm7 G7 C6 FM7 G7 C6",
    "CM7 FM7 CM7 G7 CM7 FM7 G7 C6",
)
_JAZZ_MINOR = (
    "Cm7 Fm7 G7 Cm7 Cm7 Fm7 G7 Cm7",
    "Cm6 G7 Cm6 G7 Fm7 G7 Cm6 Cm6",
    "Cm7 AbM7 G7 Cm7 Cm7 AbM7 G7 Cm7",
    "Cm7 Cm7 Fm7 Cm7 Ab7 G7 Cm7 Cm7",
)
_PROGRESSIONS = {
    "rock": (_POP_MAJOR, _POP_MINOR),
    "dance": (_POP_MAJOR, _POP_MINOR),
    "latin": (_POP_MAJOR[4:] + _JAZZ_MAJOR[:2], _POP_MINOR),
    "waltz": (_POP_MAJOR[2:6], _POP_MINOR[1:4] + _JAZZ_MINOR[1:2]),
    "swing": (_JAZZ_MAJOR, _JAZZ_MINOR),
    "ragtime": (
        (
            "C A7 D7 G7 C C G7 C",
            "C C G7 G7 G7 G7 C C",
            "C C F C D7 G7 C C",
            "C F C C G7 G7 C C",
        ),
        ("Cm G7 Cm G7 Fm Cm G7 Cm", "Cm Cm Fm Cm D7 G7 Cm Cm", "Cm Ab7 G7 Cm Cm Ab7 G7 Cm"),
    ),
}
_QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "M7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "m7b5": (0, 3, 6, 10),
}
_ROOTS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def chord_classes(name: str) -> tuple[int, ...]:
    """Pitch classes of a chord name such as "Ab7", root first."""
    match = re.fullmatch(r"([A-G])(b|#)?(.*)", name)
    if match is None or match[3] not in _QUALITIES:
        raise ValueError(f"n2m.corpus: chord must be one of the progressions' names, got {name!r}")
    root = _ROOTS[match[1]] + {"b": -1, "#": 1, None: 0}[match[2]]
    return tuple((root + step) % 12 for step in _QUALITIES[match[3]])


def find_mma() -> tuple[Path, Path]:
    """(program, data folder) of MMA: $MMA_HOME, beside `mma` on PATH, or /usr/share/mma.

    FileNotFoundError that says how to get it.
    """
    homes: list[Path] = []
    if os.environ.get("MMA_HOME"):
        homes.append(Path(os.environ["MMA_HOME"]))
    on_path = shutil.which("mma")
    if on_path:
        homes.append(Path(on_path).resolve().parent.parent / "share" / "mma")
    homes += [Path("/usr/local/share/mma"), Path("/usr/share/mma")]
    for home in homes:
        for folder in (home, home / "share" / "mma"):
            if not (folder / "lib" / "stdlib").is_dir():
                continue
            programs = [folder / "mma.py", folder.parent.parent / "bin" / "mma"]
            programs += [Path(on_path)] if on_path else []
            for program in programs:
                if program.is_file():
                    return program, folder
    raise FileNotFoundError(
        "n2m.corpus: MMA must be installed for the grooves (looked at $MMA_HOME, PATH and "
        f"/usr/share/mma): {INSTALL}; or build with only='scores'"
    )


def list_grooves(home: Path) -> list[PieceRef]:
    """Pieces of every genre: groove x progression, about a hundred a genre."""
    refs: list[PieceRef] = []
    for genre, files in _STYLES.items():
        grooves = []
        for name in files.split():
            path = home / "lib" / f"{name}.mma"
            if not path.exists():
                continue
            text = path.read_text(encoding="latin-1")
            found = re.findall(r"(?im)^\s*defgroove\s+(\S+)", text)
            main = [g for g in found if not re.search(r"(?i)intro|end|fill|break|metronome", g)]
            grooves += [f"{name}:{g}" for g in main[:_MAX_GROOVES_PER_FILE]]
        if not grooves:
            continue
        variants = -(-_PIECES_PER_GENRE // len(grooves))
        for groove in grooves:
            for v in range(variants):
                refs.append(PieceRef(f"mma/{groove}#{v}", "mma", genre, groove, v))
    return refs


def run_mma(source: str, program: Path, home: Path, seconds: float = 30.0) -> Any:
    """MIDI file (mido.MidiFile) that MMA makes of a source text. PieceError on any failure."""
    import mido

    with tempfile.TemporaryDirectory(prefix="n2m-mma-") as folder:
        song, midi = Path(folder) / "song.mma", Path(folder) / "song.mid"
        song.write_text(source, encoding="ascii")
        environment = {**os.environ, "MMA_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, str(program), str(song), "-f", str(midi)],
                env=environment,
                cwd=folder,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PieceError("MMA took too long") from error
        if done.returncode != 0 or not midi.exists():
            last = done.stdout.decode("latin-1").strip().splitlines()[-1:] or [""]
            raise PieceError(f"MMA failed: {last[0][:120]}")
        return mido.MidiFile(midi)


def _role(name: str, channel: int) -> str:
    if channel == 9 or name.lower().startswith("drum"):
        return "drums"
    return "bass" if re.match(r"(?i)(bass|walk)", name) else "chord"


def midi_tracks(midi: Any) -> list[Track]:
    """Tracks with notes, their roles from MMA's track names; notes in quarters, by onset."""
    tracks = []
    for track in midi.tracks:
        now, channel, open_notes = 0, 0, {}
        notes: list[Note] = []
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off"):
                continue
            channel = message.channel
            if message.type == "note_on" and message.velocity > 0:
                open_notes[message.note] = (now, message.velocity)
            elif message.note in open_notes:
                start, velocity = open_notes.pop(message.note)
                quarter = midi.ticks_per_beat
                length = max(now - start, 1) / quarter
                notes.append((start / quarter, length, message.note, velocity))
        if notes:
            tracks.append(Track(_role(track.name.strip(), channel), sorted(notes)))
    return tracks


_RHYTHMS = {
    4: ((0, 1, 2, 3), (0, 1.5, 2, 3), (0, 2, 3), (0, 1, 1.5, 2, 3), (0, 0.5, 1, 2, 2.5, 3), (0, 2)),
    3: ((0, 1, 2), (0, 2), (0, 1, 1.5, 2), (0, 0.5, 1, 2)),
}


def make_melody(chords: list[str], beats: int, swing: bool, rng: np.random.Generator) -> Track:
    """A plain tune over the chords: chord tones on the beats, steps of the scale between.

    chords: one name a bar; beats: quarters a bar (3 or 4); swing moves off-beats to 2/3.
    """
    scale = (0, 2, 3, 5, 7, 8, 10) if chords[0].startswith("Cm") else (0, 2, 4, 5, 7, 9, 11)
    rhythms = _RHYTHMS[beats]
    motif = [rhythms[int(rng.integers(len(rhythms)))] for _ in range(2)]
    pitch, notes = 72, []
    for bar, chord in enumerate(chords):
        tones = set(chord_classes(chord))
        onsets = motif[bar % 2] if bar % 4 != 3 else rhythms[int(rng.integers(len(rhythms)))]
        for i, onset in enumerate(onsets):
            on_beat = float(onset).is_integer()
            pool = [
                p
                for p in range(64, 85)
                if (p % 12 in tones if on_beat else p % 12 in scale) and abs(p - pitch) <= 7
            ] or [p for p in range(64, 85) if p % 12 in tones]
            weights = np.array(
                [1.0 / (1 + abs(p - pitch)) * (0.4 if p == pitch else 1) for p in pool]
            )
            pitch = int(rng.choice(pool, p=weights / weights.sum()))
            stop = onsets[i + 1] if i + 1 < len(onsets) else beats
            at = onset if on_beat or not swing else int(onset) + 2 / 3
            notes.append((bar * beats + at, 0.92 * (stop - onset), pitch, 92))
    return Track("melody", notes)


def read_groove(ref: PieceRef, program: Path, home: Path) -> Piece:
    """Render one groove x progression: 16 bars in C major or C minor."""
    import hashlib

    digest = hashlib.sha256(ref.id.encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    modes = _PROGRESSIONS[ref.genre]
    mode = "minor" if (digest[8] + ref.variant) % 2 else "major"
    choices = modes[1] if mode == "minor" else modes[0]
    chords = choices[int(rng.integers(len(choices)))].split() * 2
    lines = ["Tempo 120", f"RndSeed {int(rng.integers(1 << 30))}", f"Groove {ref.where}"]
    lines += [f"{i + 1} {chord}" for i, chord in enumerate(chords[:BARS])]
    midi = run_mma("\n".join(lines) + "\n", program, home)
    metre = next(
        (f"{m.numerator}/{m.denominator}" for m in midi.tracks[0] if m.type == "time_signature"),
        "3/4" if ref.genre == "waltz" else "4/4",
    )
    tracks = midi_tracks(midi)
    beats = 3 if ref.genre == "waltz" else 4
    end = max(n[0] for t in tracks for n in t.notes) if tracks else 0.0
    if metre not in ("3/4", "4/4") or not (BARS - 1) * beats - 1 < end < (BARS + 0.5) * beats:
        raise PieceError(f"{ref.id}: metre {metre} with {end:g} quarters does not suit the genre")
    metre = f"{beats}/4"
    tracks.append(make_melody(chords, beats, ref.genre == "swing", rng))
    bars = [(float(i * beats), metre) for i in range(BARS)]
    length = float(BARS * beats)
    return Piece(ref.id, ref.genre, "mma", tracks, bars, length, 0, mode, loops=True)
