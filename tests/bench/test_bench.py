"""`noise2music bench` on tiny shapes: what it checks, prints, writes and refuses. No test is about
how long something takes."""

import importlib.util
import json
import math
import platform
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from noise2music import config, kernels
from noise2music.bench import ops, report, rivals, roof, run, shapes, timing
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.kernels.common.cases import Case

HAS_TORCH = importlib.util.find_spec("torch") is not None
SMALL_ROOF = roof.Roof(
    {"float32": 1e11, "bfloat16": 2e11},
    1e10,
    dict.fromkeys(("float32", "bfloat16", "copy"), "a hat"),
)


@pytest.fixture
def tiny(monkeypatch):
    """The smallest case of each room instead of the full-size ones, and a roof out of a hat."""

    def small(op):
        return [case for case in shapes.room(op).CASES if case.name == "small"]

    monkeypatch.setattr(shapes, "cases_of", small)
    monkeypatch.setattr(roof, "measure", lambda *args, **kwargs: SMALL_ROOF)


def work(op, dtype="float32", passes="forward", name="small"):
    case = next(case for case in shapes.room(op).CASES if case.name == name)
    return shapes.Work(op, case, dtype, passes)


@pytest.mark.parametrize(
    "op, passes",
    [
        (op, passes)
        for op in shapes.OPS
        for passes in shapes.PASSES
        if passes == "forward" or shapes.room(op).DIFFERENTIABLE
    ],
)
def test_a_row_of_every_op(op, passes):
    row = ops.measure(work(op, passes=passes), ["xla"], SMALL_ROOF, seconds=0.0, least=2)
    assert set(row.seconds) == {"ours", "xla"}
    assert all(value > 0 for value in row.seconds.values())
    assert row.error <= ops.TOLERANCE["float32"]
    assert row.ratio("xla") == row.seconds["xla"] / row.seconds["ours"]
    assert row.ratio("torch") is None
    assert main([*row.command.split()[1:], "--list"]) == 2  # a test's case is not a benchmark's


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize(
    "op, dtype", [(op, dtype) for op in shapes.OPS for dtype in shapes.room(op).DTYPES]
)
def test_look_alikes_in_pytorch_compute_the_same(op, dtype):
    for name in ("small", "primes", "stride_4"):
        for case in shapes.room(op).CASES:
            if case.name == name:
                it = shapes.Work(op, case, dtype, "forward")
                row = ops.measure(it, ["torch"], SMALL_ROOF, seconds=0.0, least=1)
                assert row.ratio("torch") > 0


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_pytorch_differentiates_every_argument():
    it = work("conv1d_block", passes="both")
    call, _ = rivals.torch_call(it, shapes.inputs_of(it), compiled=False)
    gradients = call()
    assert len(gradients) == 7  # x, weight, bias, scale, offset, residual, fc
    assert all(np.isfinite(g.numpy()).all() and g.abs().sum() > 0 for g in gradients)


def test_bfloat16_stands_beside_our_float32_and_the_plain_error():
    row = ops.measure(work("combine_film", "bfloat16"), ["xla", "float32"], SMALL_ROOF, seconds=0.0,
                      least=1)  # fmt: skip
    assert set(row.seconds) == {"ours", "xla", "float32"}
    assert 0 < row.error <= 2 * row.plain_error <= 2 * ops.TOLERANCE["bfloat16"]
    heading, line = report.cells([row])
    assert line[heading.index("XLA's error")] == f"{row.plain_error:.0e}"
    assert heading.index("float32 times") < heading.index("error")
    single = ops.measure(work("combine_film"), ["xla", "float32"], SMALL_ROOF, seconds=0.0, least=1)
    assert set(single.seconds) == {"ours", "xla"}  # itself is no rival
    assert "XLA's error" not in report.cells([single])[0]


def test_the_tiny_shapes_are_there_for_who_names_them(capsys):
    assert main(["bench", "conv1d_block", "--case", "tiny_*.6.down", "--list"]) == 0
    assert capsys.readouterr().out.split("\n")[0].split()[4] == "tiny_waveform_generator.6.down"
    assert main(["bench", "conv1d_block", "--case", "*.6.down", "--list"]) == 0
    assert "tiny" not in capsys.readouterr().out


def test_a_wrong_answer_is_not_timed(tiny, monkeypatch, capsys):
    monkeypatch.setattr(ops, "TOLERANCE", {"float32": -1.0})
    assert main(["bench", "combine_film", "--rivals", "xla"]) == 1
    assert "wrong answer, not timed: ours differs from plain JAX" in capsys.readouterr().err


def test_nan_is_a_wrong_answer():
    assert ops._error([np.float32([math.nan, 1])], [np.float32([1, 1])]) == math.inf


def test_table_json_markdown_and_plot(tiny, tmp_path, capsys):
    out = tmp_path / "deep" / "rows.json"
    command = "bench combine_film fft_upsample --quick --rivals xla scipy --progress"
    files = ["--json", str(out), "--markdown", str(tmp_path / "cpu.md")]
    files += ["--plot", str(tmp_path / "roofline.png")]
    assert main([*command.split(), *files]) == 0
    text, err = capsys.readouterr()
    assert "[2/2] fft_upsample --case small --dtype float32" in err
    assert "XLA times" in text
    assert "SciPy times" in text
    assert "A row again: noise2music bench OP --case CASE" in text
    values = json.loads(out.read_text())
    assert [row["op"] for row in values["rows"]] == ["combine_film", "fft_upsample"]
    command = "noise2music bench fft_upsample --case small --dtype float32 --passes forward"
    assert values["rows"][1]["command"] == command
    document = (tmp_path / "cpu.md").read_text()
    assert "## combine_film, forward, float32\n" in document
    assert document.count("\n| small | ") == 2
    joined = tmp_path / "joined.json"
    assert main(["bench", "--join", str(out), str(out), "--json", str(joined)]) == 0
    assert json.loads(joined.read_text()) == values
    assert (tmp_path / "roofline.png").stat().st_size > 1000


def test_only_its_own_files_are_joined(tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"rows": [{"op": "sine"}]}')
    assert main(["bench", "--join", str(tmp_path / "other.json")]) == 2
    assert "is not what noise2music bench --json writes" in capsys.readouterr().err
    assert main(["bench", "--join", str(tmp_path / "absent.json")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_higher_roof_of_two_runs():
    one = roof.Roof({"float32": 2.0}, 5.0, {"float32": "XLA", "copy": "XLA"})
    two = roof.Roof({"float32": 3.0, "bfloat16": 4.0}, 4.0, dict.fromkeys(["float32", "copy"], "x"))
    two.how["bfloat16"] = "y"
    how = {"float32": "x", "bfloat16": "y", "copy": "XLA"}
    assert one.highest(two) == roof.Roof({"float32": 3.0, "bfloat16": 4.0}, 5.0, how)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv1d_blok"], "unknown benchmark 'conv1d_blok'. Did you mean 'conv1d_block'?"),
        (["--case", "wavgen_257"], "unknown case 'wavgen_257'. Did you mean 'wavgen_256'?"),
        (["--dtype", "float16"], "unknown dtype 'float16'. Did you mean 'bfloat16'?"),
        (["unet", "--case", "tiny_wavefrom_generator"], "Did you mean 'tiny_waveform_generator'?"),
        (["unet", "--seconds", "0"], "seconds must be between 0.1 and 60, got 0."),
        (["--passes", "backward"], "unknown passes 'backward'."),
        (["--rivals", "tensorflow"], "unknown rival 'tensorflow'."),
        (["ancestral_step", "--passes", "both"], "no row of ancestral_step has dtype float32"),
        (["--plot", "roofline.txt"], "unknown file suffix '.txt'"),
    ],
)
def test_wrong_arguments_teach(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_a_missing_rival_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(rivals, "installed", lambda: ["xla", "scipy"])
    with pytest.raises(UserError, match=r"pip install 'noise2music\[bench\]'"):
        run.choose(run.Options(rivals=("torch",)))


def test_every_block_of_the_presets_is_there():
    cases = {case.name: case for case in shapes.cases_of("conv1d_block")}
    for stage in config.STAGES:
        preset = config.load_preset(stage)
        for depth, (t, c, _) in enumerate(shapes.levels(preset)[1:], start=1):
            shape = {"B": 1, "T": t, "C": c, "K": preset.unet.kernel_size, "D": c, "R": c}
            found = [n for n, case in cases.items() if dict(case.shape) == shape]
            assert found, (stage, depth)
    assert dict(cases["waveform_generator.2.block"].shape)["T"] == 94208 // 16
    shape = [(tuple(c.shape.items()), tuple(c.options.items())) for c in cases.values()]
    assert len(set(shape)) == len(shape)


def test_a_block_reads_the_sums_it_is_given():
    case = Case("x.block", {"B": 1, "T": 9, "C": 8, "K": 3, "D": 8, "R": 8}, {"groups": 2})
    it = shapes.Work("conv1d_block", case, "float32", "forward")
    inputs = shapes.inputs_of(it)
    x = np.asarray(inputs["x"], np.float64).reshape(9, 2, 4)
    want = np.stack([x.sum((0, 2)), (x**2).sum((0, 2))], -1)
    np.testing.assert_allclose(inputs["sums"][0], want, rtol=1e-5)
    other = shapes.Work("conv1d_block", Case("x", case.shape, case.options), "float32", "forward")
    assert shapes.cost_of(it).bytes < shapes.cost_of(other).bytes
    both = shapes.Work("conv1d_block", case, "float32", "both")
    assert shapes.cost_of(both).flops == 3 * shapes.cost_of(it).flops


def test_a_film_has_the_parameters_of_the_network():
    case = Case("x.film", {"B": 1, "T": 9, "C": 8, "E": 4}, {"groups": 2})
    inputs = shapes.inputs_of(shapes.Work("combine_film", case, "bfloat16", "forward"))
    assert {n: v.dtype.name for n, v in inputs.items()} == {
        "x": "bfloat16", "emb": "float32", "kernel": "float32", "bias": "float32",
    }  # fmt: skip


def test_interleaving_takes_turns():
    order = []
    samples = timing.interleave(
        {name: lambda name=name: order.append(name) for name in "ab"}, seconds=0.0, least=2
    )
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert "".join(turns) == "ababab"  # the first turn finds out how many calls fit
    assert set(samples) == {"a", "b"}
    assert timing.spread([1.0]) == 0.0
    assert timing.spread([1.0, 1.0, 1.0, 3.0]) > 0


def test_the_roof_is_measured_and_bounds():
    measured = roof.measure(("float32",), size=64, megabytes=1)
    assert measured.flops["float32"] > 0
    assert measured.copy > 0
    assert set(measured.how) == {"float32", "copy"}
    assert SMALL_ROOF.seconds(1e10, 1.0, "float32") == 1.0
    assert SMALL_ROOF.seconds(1.0, 1e11, "float32") == 1.0
    assert "copy 10.0 GB/s" in report.roof_line(roof.Roof({}, 1e10, {"copy": "memcpy"}))


def test_reading_bfloat16_does_not_change_the_reference():
    wide = ops._float32({"x": jnp.bfloat16([1.5]), "n": jnp.int32([1])})
    assert wide["x"].dtype == jnp.float32
    assert wide["n"].dtype == jnp.int32
    assert kernels.OPS.keys() == set(shapes.OPS)


def test_memory_is_kept_where_the_c_library_can():
    program = "from noise2music import pages; print(pages.keep())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    glibc = platform.libc_ver()[0] == "glibc"
    assert (done.returncode, done.stdout.strip()) == (0, str(glibc))


def test_a_disturbed_ratio_is_marked():
    row = ops.measure(work("combine_film"), ["xla"], SMALL_ROOF, seconds=0.0, least=1)
    row.spread.update(ours=0.1, xla=0.1)
    heading, quiet = report.cells([row])
    column = heading.index("XLA times")
    row.spread["xla"] = 0.3
    assert report.cells([row])[1][column] == quiet[column] + "?"
