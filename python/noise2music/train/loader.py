"""Training batches from a folder, resumable, each process its share: Grain over prepared records.

`open_batches` takes both kinds of folder, prepared records and a corpus (train/dataset.py), and
gives an iterator with Grain's protocol: next(it), it.get_state(), it.set_state(state).

A batch has, for one stage: x (B, T, C) the target, float32; low (B, T', 1) the stacked condition
before up-sampling; aligned (B, T'', 80); of one random element of each clip's text batch either
tokens (B, L) int32, or text (B, L, D) float32 where it was embedded in advance, with mask (B, L)
and beat (B,), the beats a second that it states (0: none).

Global batch n is rows n G to (n + 1) G of a shuffled, endless sequence of clips, G = B P over P
processes, and process p has rows p B to (p + 1) B of it. Each row is a function of (seed, place in
the sequence) alone: the same for any P, and after a resume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noise2music import missing_band
from noise2music.config import MEL_HOP, StageConfig
from noise2music.data.prepare.clips import RATES
from noise2music.data.prepare.records import Prepared, is_prepared
from noise2music.data.prepare.text_batch import elements
from noise2music.data.prepare.text_cache import find_cache
from noise2music.excitation import flatten
from noise2music.mel import WINDOW
from noise2music.text.tempo import stated_tempo
from noise2music.train.cuts import Cuts, as_float
from noise2music.train.dataset import Corpus

Batch = dict[str, NDArray[Any]]
_CONTEXT = -(-WINDOW // MEL_HOP)  # mel frames on either side that an excitation depends on


def open_batches(
    folder: str | os.PathLike[str],
    config: StageConfig,
    tokenizer: Any,
    batch_size: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    *,
    split: str = "train",
    threads: int = 2,
) -> BatchIterator:
    """The batches of one process; `batch_size` is its share of the global batch.

    tokenizer: None where the folder has embeddings (`data prepare --text-encoder`) of the stage's
    token length. threads: read ahead with so many; 0 reads when asked. Errors: ValueError for a
    folder of neither kind, without clips of `split`, or with clips too short for the stage.
    """
    if batch_size < 1:
        raise ValueError(f"n2m.train: batch_size must be at least 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"n2m.train: process_index must be in [0, {process_count}), got {process_index}"
        )
    rows = Rows(open_clips(folder, split), config, tokenizer)
    return BatchIterator(rows, batch_size, seed, process_index, process_count, threads)


def open_clips(folder: str | os.PathLike[str], split: str = "train") -> Any:
    """The clips of a folder of either kind: len, seconds, fingerprint, meta(i), column(name, i)."""
    return Prepared(folder, split) if is_prepared(folder) else Corpus(folder, split)


def texts_of(folder: str | os.PathLike[str], split: str = "train") -> Iterator[str]:
    """All captions and labels of a folder of either kind: what a tokenizer learns from."""
    clips = open_clips(folder, split)
    for i in range(len(clips)):
        meta = clips.meta(i)
        yield from meta["captions"]
        yield from meta.get("labels", ())


def columns_of(config: StageConfig) -> list[str]:
    """The columns that a stage reads: what it makes first, then what it is given."""
    rates = [config.rate] if config.target == "waveform" else []
    rates += [config.condition_rate or 0] if config.condition == "stacked" else []
    for rate in rates:
        if rate not in RATES:
            known = ", ".join(map(str, RATES))
            raise ValueError(f"n2m.train: audio must be at one of {known} Hz, got {rate}")
    names = [f"audio{rate}" for rate in rates]
    mel = config.target == "mel" or config.condition == "aligned"
    return names + ["mel"] if mel else names


class Rows:
    """rows(clip, rng) -> one row of a batch: a random snippet and a random text of that clip."""

    def __init__(self, clips: Any, config: StageConfig, tokenizer: Any):
        self.clips, self.config = clips, config
        self.cuts = Cuts.of(config, clips.seconds)
        for name in columns_of(config):  # before threads read from them
            clips.open(name)
        self.tokenizer: Any = tokenizer if config.unet.has_text else None
        self._cache: Any = None
        if config.unet.has_text and tokenizer is None:
            if not isinstance(clips, Prepared):
                raise ValueError(f"n2m.train: {config.name} must have a tokenizer, got None")
            assert config.token_length is not None
            self._cache = find_cache(clips.folder, config.token_length, config.unet.text_dim)
            self._cache.open()
            self.tokenizer = self._cache.tokenizer

    @property
    def embedded(self) -> str | None:
        """The cache that embeddings come from, <encoder>-<dtype>-<length>; None without one."""
        return None if self._cache is None else self._cache.folder.name

    def __len__(self) -> int:
        return len(self.clips)

    def __call__(self, clip: int, rng: np.random.Generator) -> Batch:
        config, cuts = self.config, self.cuts
        start = int(rng.integers(cuts.places)) * cuts.unit
        if config.missing_band:
            x, low = self._missing_band(clip, start)
            out = {"x": x[:, None], "low": low[:, None]}
        else:
            x = self._target(clip, start)
            out = {"x": x if x.ndim == 2 else x[:, None]}
        if config.condition == "stacked" and not config.missing_band:
            up, down = config.up
            low = self._cut(
                f"audio{config.condition_rate}", clip, start // up * down, cuts.covered // up * down
            )
            out["low"] = low[:, None]
        if config.condition == "aligned":
            hop = config.unet.compression
            out["aligned"] = self._cut("mel", clip, start // hop, cuts.length // hop)
        if self.tokenizer is not None:
            out |= self._text(clip, rng)
        return out

    def _target(self, clip: int, start: int) -> NDArray[np.float32]:
        length = self.cuts.length
        if self.config.target == "mel":
            return self._cut("mel", clip, start, length)
        if not self.config.excitation:
            return self._cut(f"audio{self.config.rate}", clip, start, length)
        # Flattened with so much on either side that the cut is that of the whole clip.
        first, last = start // MEL_HOP, -(-(start + length) // MEL_HOP)
        frames = int(self.clips.seconds * 100)
        a, b = max(0, first - _CONTEXT), min(frames, last + _CONTEXT)
        sound = self._cut("audio16000", clip, a * MEL_HOP, (b - a) * MEL_HOP)
        flat = flatten(sound, self._cut("mel", clip, a, b - a))
        return flat[start - a * MEL_HOP :][:length]

    def _missing_band(self, clip: int, start: int) -> tuple[NDArray[np.float32], ...]:
        # With so much on either side that the cut is that of the whole clip, in whole units.
        config, cuts = self.config, self.cuts
        (up, down), rate = config.up, config.condition_rate or 0
        around = round(missing_band.CONTEXT * rate) // down * down
        first, count = start // up * down, cuts.covered // up * down
        begin = max(0, first - around)
        low = self._cut(f"audio{rate}", clip, begin, first + count + around - begin)
        units = max(len(low), first + count - begin) // down
        low = _to_length(low, units * down)
        sound = self._cut(f"audio{config.rate}", clip, begin // down * up, units * up)
        x, shown = missing_band.snippet(_to_length(sound, units * up), low, config)
        return x[(first - begin) // down * up :][: cuts.length], shown[first - begin :][:count]

    def _cut(self, column: str, clip: int, start: int, length: int) -> NDArray[np.float32]:
        return as_float(self.clips.column(column, clip)[start : start + length])

    def _text(self, clip: int, rng: np.random.Generator) -> Batch:
        meta, length = self.clips.meta(clip), self.config.token_length
        assert length is not None
        batch = elements(meta["captions"], meta.get("labels", ()), self.tokenizer, length)
        text = batch[int(rng.integers(len(batch)))]
        beat = np.asarray(stated_tempo(text) / 60.0, np.float32)
        if self._cache is None:
            tokens, mask, _ = self.tokenizer.encode([text], length)
            return {"tokens": tokens[0], "mask": mask[0], "beat": beat}
        embedded = self._cache(text)
        padded = np.zeros((length, embedded.shape[1]), np.float32)
        padded[: len(embedded)] = embedded
        return {"text": padded, "mask": np.arange(length) < len(embedded), "beat": beat}


def _to_length(x: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    return np.pad(x[:length], (0, max(0, length - len(x))))


class BatchIterator(Iterator[Batch]):
    """The endless batches of one process. Its state is small, JSON, and that of any process."""

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        seed: int,
        process_index: int,
        process_count: int,
        threads: int,
    ):
        if not 0 <= seed < 2**32:
            raise ValueError(f"n2m.train: seed must be in [0, 2^32), got {seed}")
        self.rows = rows
        self._share = (batch_size, process_index, process_count)
        self._threads = threads
        self._of = {"clips": rows.clips.fingerprint, "seed": seed}
        self._row = 0
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._from(self._row)
        batch = next(self._batches)
        self._row += self._share[0] * self._share[2]
        return batch

    def get_state(self) -> dict[str, Any]:
        """The next row of the sequence of all processes, and what the sequence depends on."""
        return {"row": self._row, **self._of}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken, by any batch size. ValueError for other data or seed."""
        other = {k: (state.get(k), v) for k, v in self._of.items() if state.get(k) != v}
        if other:
            told = ", ".join(f"{k} {was!r}, now {now!r}" for k, (was, now) in other.items())
            raise ValueError(
                f"n2m.train: the data must be what the checkpoint was trained on, got: {told}"
            )
        self.close()
        self._row = int(state["row"])

    def close(self) -> None:
        """Ends the threads that read ahead."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()  # type: ignore[attr-defined]

    def _from(self, first: int) -> Iterator[Batch]:
        import grain

        size, index, count = self._share
        clips = grain.MapDataset.range(len(self.rows)).seed(self._of["seed"])
        places = clips.shuffle().repeat().random_map(self.rows)
        share = _share_of(places, first, size, index, count)
        ahead = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * size)
        return iter(share.to_iter_dataset(ahead).batch(size))


def _share_of(places: Any, first: int, size: int, index: int, count: int) -> Any:
    """The rows of one process, of global batches that begin at row `first`, as a Grain dataset."""
    import grain

    class Share(grain.MapDataset):
        def __len__(self) -> int:
            return len(self._parent)

        def __getitem__(self, i: Any) -> Any:
            batch, row = divmod(i, size)
            return self._parent[first + (batch * count + index) * size + row]

    return Share(places)
