"""The commands and their options, as frozen dataclasses; tyro turns the docstrings into help.

Fields of a base class come after those of the bases to the right of it, so `_Common` is last.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

Output = Annotated[pathlib.Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
OptionalOutput = Annotated[pathlib.Path | None, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
File = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Number = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]
PerStage = Annotated[str | None, tyro.conf.arg(metavar="N|STAGE=N,...")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Common:
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sampling:
    seed: int = 0
    """Seed of the noise. The same seed, prompt and settings give the same clip."""
    steps: PerStage = None
    """Denoising steps: one number for all stages, or stage=number,... Fewer is faster and rougher.
    Default: what the model was shipped with."""
    guidance: PerStage = None
    """How strongly to follow the prompt: 1 is not at all amplified. A number, or stage=number,...
    Default: the model's."""
    sampler: Literal["ancestral", "ddim", "dpm++"] | None = None
    """Equation 4 of the paper, or one of two samplers made for few steps. Default: the model's."""
    gamma: Number = None
    """Noise of the ancestral sampler, 0 to 1. Default: the model's."""
    model: str = "tiny"
    """Name of a model that was shipped, or a folder with one."""
    device: Name = None
    """Where to run: cpu, gpu, tpu, or one of several as gpu:1. Default: the best there is."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""
    bits: Literal[16, 24] = 16
    """Bits a sample of WAV and FLAC files."""
    normalize: bool = False
    """Turn a quiet clip up until its peak is at -1 dBFS."""
    plot: File = None
    """Also draw the waveform and its mel spectrogram into this picture (.png, .pdf, .svg)."""
    stages_dir: Folder = None
    """Also write what every stage made into this folder (.npy, and .wav where it is sound)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wish:
    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(name="PROMPT", metavar="PROMPT...")
    ] = ()
    """What to play, each in quotes. "" is music without any wish."""
    output: Output = pathlib.Path("out.wav")
    """File to write: .wav, .flac, .ogg or .mp3. Several clips are numbered (out-1.wav)."""
    prompts_file: Annotated[pathlib.Path | None, tyro.conf.arg(name="prompts", metavar="FILE")] = (
        None
    )
    """A text file (UTF-8) with one prompt a line; empty lines and lines starting with # are
    skipped. - is standard input."""
    seconds: float = 10.0
    """Length of a clip, 0.1 to 60."""
    route: str = "spectrogram"
    """spectrogram (mel spectrogram first) or waveform (3.2 kHz sound first)."""
    negative: Text = None
    """What the music should keep away from."""
    denoising: Literal["front_heavy", "uniform", "back_heavy"] | None = None
    """Where the steps lie (Table 8 of the paper). Default: the model's."""
    batch: int = 1
    """Clips for each prompt, all different."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and activations. auto: bfloat16 on a GPU or TPU, else float32."""
    devices: int = 1
    """How many devices to use: they share the clips, and split each clip where that is faster. A
    CPU shows itself as that many."""
    mesh: Annotated[str | None, tyro.conf.arg(metavar="data=N,time=N")] = None
    """How the devices share the work: data splits the clips, time splits each clip. Default: as
    fits --devices."""
    check_duplicates: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="INDEX")] = None
    """An index of the training set (`noise2music label index`): a clip that copies one of it is not
    written, and the exit code is 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(_Common, _Sampling, _Wish):
    """Make music from one or more prompts."""

    def run(self) -> int:
        from noise2music.cli import generate

        return generate.generate(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay(_Common):
    """Make the clip of a file again from the settings that are stored in it."""

    file: tyro.conf.Positional[pathlib.Path]
    """A file that `noise2music generate` has written."""
    output: OptionalOutput = None
    """File to write. Default: FILE with -replay before the suffix."""
    model: Name = None
    """Model to use. Default: the one named in the file."""
    device: Name = None
    """Where to run. Default: the best there is."""
    force: bool = False
    """Go on when the model's weights are not those that made the file."""
    progress: bool = False
    """Draw progress bars even when stderr is not a terminal."""

    def run(self) -> int:
        from noise2music.cli import generate

        return generate.replay(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    file: tyro.conf.Positional[pathlib.Path]
    """A sound file, at any sample rate, 0.1 to 60 seconds long. Several channels become one."""
    output: Output
    """File to write: .wav, .flac, .ogg or .mp3."""
    stage: str = "super_resolution_cascader"
    """super_resolution_cascader (16 to 24 kHz), waveform_cascader (3.2 to 16 kHz) or
    spectrogram_vocoder (sound to mel spectrogram and back)."""
    prompt: str = ""
    """What it is, for a stage that reads text (waveform_cascader)."""
    negative: Text = None
    """What it should keep away from, for a stage that reads text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enhance(_Common, _Sampling, _Source):
    """Run a single stage of the cascade on sound of your own."""

    def run(self) -> int:
        from noise2music.cli import generate

        return generate.enhance(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info(_Common):
    """The paper's five models beside our count of them, and what is known of a model's weights."""

    model: str = "tiny"
    """Name of a model that was shipped, or a folder with one."""

    def run(self) -> int:
        from noise2music.cli import inspect

        return inspect.info(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(_Common):
    """Look for what could be wrong: versions, devices, kernels, a self-test of each kernel.

    `noise2music doctor train --config FILE` looks at a training instead.
    """

    model: str = "tiny"
    """Name of a model that was shipped, or a folder with one, to look at too."""

    def run(self) -> int:
        from noise2music import doctor

        report, healthy = doctor.examine(self.model)
        print(report)
        return 0 if healthy else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(_Common):
    """Time kernels and networks against plain XLA and PyTorch, after checking the answers."""

    what: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(name="WHAT", metavar="WHAT...")
    ] = ()
    """combine_film, conv1d_block, fft_upsample, ancestral_step (default: these four); of the whole
    presets: unet (one evaluation), train (a training step), sampler (a step of its loop); all."""
    case: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN...")] = ("*",)
    """Shapes or presets, * for anything: 'waveform_generator.2.block', '*.down', 'tiny_*'."""
    dtype: str = "float32"
    """float32, bfloat16 or all."""
    passes: str = "forward"
    """forward, both (forward and backward together) or all."""
    rivals: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME...")] = None
    """xla, torch, compile (torch.compile), scipy, float32 (ours, beside bfloat16). Default: all."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Clips at once; only sampler doubles them for guidance. Default: one, or the case's."""
    seconds: Number = None
    """Length of the clip for the presets' shapes. Default: the preset's training snippet."""
    platform: str | None = None
    """cpu, or cuda for the kernels' time on the GPU. Default: where JAX computes."""
    quick: bool = False
    """A fraction of a second a row and a smaller roof: to see that it runs, not to quote."""
    json: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write everything as JSON; - is standard output."""
    join: Annotated[tuple[pathlib.Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    """Measure nothing: join what --json wrote in earlier runs, for --markdown, --plot or --json."""
    markdown: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the table as a document."""
    plot: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw the roofline into this picture (.png, .pdf, .svg)."""
    list: bool = False
    """Only print the command of every row that was chosen."""
    progress: bool = False
    """Tell of every row on stderr even when it is not a terminal."""

    def run(self) -> int:
        from noise2music.bench import run

        fields = dataclasses.fields(run.Options)
        return run.bench(run.Options(**{f.name: getattr(self, f.name) for f in fields}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(_Common):
    """Train one stage of the cascade."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(_Common):
    """Make training data: noise2music data prepare SRC... --out DIR, data corpus FOLDER."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label(_Common):
    """Caption unlabelled music: noise2music label vocab, assign, report, mulamcap, duplicates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(_Common):
    """Judge clips: noise2music evaluate fad GENERATED REFERENCE, similarity, report, ..."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(_Common):
    """Make a model folder of training runs, also while they go on: the averaged weights."""

    runs: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]], tyro.conf.arg(name="RUN", metavar="RUN...")
    ] = ()
    """Folders of `noise2music train`, one a stage."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
    """Model folder to make, or to add the stages to; `generate --model FOLDER` takes it."""
    name: Name = None
    """Name of the model. Default: that of the folder."""
    step: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Checkpoint to take. Default: the newest."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """How weights are stored; int8: those of convolutions and dense layers."""
    preset_sampling: bool = False
    """Sample as the run's preset says today, not as it did when the run began."""
    text_encoder: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Text encoder of runs on embedded texts: what `data prepare --text-encoder` was given."""

    def run(self) -> int:
        from noise2music.cli import runs

        return runs.export(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot(_Common):
    """Draw the logs of training runs, several in one picture."""

    logs: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(name="LOG", metavar="LOG...")
    ] = ()
    """Run folders or their log.jsonl; a+b is one training, b begun where a ended."""
    output: Output = pathlib.Path("training.png")
    """Picture to write: .png, .pdf, .svg."""

    def run(self) -> int:
        from noise2music.cli import runs

        return runs.plot(self)


# Train, Data and Label stand here for the list of commands only: train.py, data.py and label.py
# read their options.
Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Enhance, tyro.conf.subcommand("enhance")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Label, tyro.conf.subcommand("label")]
)
