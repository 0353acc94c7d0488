"""The reference compiler, run as callers run `neuronx-cc`: as a process, found under that name."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neuron_store import benchmarks
from neuron_store.benchmarks.builtin import builtin_model, builtin_models, builtin_names
from neuron_store.benchmarks.builtin import main as builtin_main
from neuron_store.benchmarks.neff import HEADER_BYTES, NeffError, read_neff, write_neff
from neuron_store.benchmarks.reference_compiler import (
    compiler_version,
    install_reference_compiler,
    version_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

needs_jaxlib = pytest.mark.skipif(find_spec("jaxlib") is None, reason="jaxlib is not installed")
needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")

LEARNING_RATE = struct.pack("<f", 1e-3)  # as it stands in the HLO of mlp_train_step

# As real callers write them: {hlo} is the model file, {out} the NEFF, {wd} the work directory.
OBSERVED = {
    "torch-xla 2023, option before the command": (
        "--target=trn1 compile --framework XLA {hlo} --output {out} --model-type=transformer "
        "--auto-cast=none --verbose=35"
    ),
    "torch-xla 2024": "compile --target=trn1 --framework=XLA {hlo} --output {out} --verbose=35",
    "torch-xla 2025": (
        "compile --framework=XLA {hlo} --output {out} --target=trn1 --model-type=cnn-training -O1 "
        "--enable-saturate-infinity --verbose=35"
    ),
    "JAX": (
        "compile --framework=XLA --target=trn2 --verbose=35 --enable-internal-neff-wrapper "
        "--pipeline compile SaveTemps --output={out} {hlo}"
    ),
    "torch_neuronx.trace": "compile {hlo} --framework XLA --target trn1 --output {out}",
    "NxD": (
        "compile --framework=XLA {hlo} --output {out} --target=trn1 --auto-cast=none "
        "--model-type=transformer --tensorizer-options=--enable-ccop-compute-overlap|--vectorize-strided-dma "
        "--lnc=1 -O2 --logfile={wd}/log-neuron-cc.txt --enable-internal-neff-wrapper"
    ),
    "TorchNeuron": (
        "compile {hlo} --framework XLA --target trn2 --lnc 2 -O1 --model-type transformer "
        "--auto-cast=none --output {out}"
    ),
    "vLLM": "compile {hlo} --framework XLA --target trn1 --output {out} --logfile {wd}/log-neuron-cc.txt",
    "nkipy": "compile --framework XLA {hlo} --pipeline compile SaveTemps --target trn2 --output={out}",
    "ZML": (
        "compile --framework=XLA --target trn1 --verbose=info --enable-internal-neff-wrapper --output {out} "
        "--optlevel=1 --model-type=transformer --auto-cast=none --enable-fast-loading-neuron-binaries {hlo}"
    ),
    "autotuner": (
        "--no-fork-subcommand compile {hlo} -o {out} -lnc 2 --internal-autotune-subprocess "
        "--no-internal-autotune --internal-backend-options=--a|--b --tolerance 1e-3 1e-5"
    ),
}


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_reference_compiler(tmp_path_factory.mktemp("reference compiler"))


@pytest.fixture
def run(compiler: Path, tmp_path: Path) -> Run:
    """Run `neuronx-cc ARGUMENTS...` in tmp_path."""

    def run_compiler(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [compiler, *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_compiler


@pytest.fixture
def hlo(tmp_path: Path) -> Path:
    path = tmp_path / "model.hlo_module.pb"
    path.write_bytes(builtin_model("mlp_train_step"))
    return path


def info_of(neff: Path) -> dict[str, object]:
    info: dict[str, object] = json.loads(read_neff(neff)["info.json"])
    return info


@needs_jaxlib
@pytest.mark.parametrize("form", OBSERVED)
def test_takes_the_command_lines_of_real_callers(form: str, run: Run, hlo: Path, tmp_path: Path) -> None:
    values = {"hlo": hlo, "out": tmp_path / "graph.neff", "wd": tmp_path}
    words = [word.format_map(values).replace("|", " ") for word in OBSERVED[form].split()]
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nCompiler status PASS\n")
    assert done.stdout.startswith("INFO " if "--verbose=info" in words else "...")
    assert read_neff(tmp_path / "graph.neff").keys() == {"executable.xla", "info.json"}
    assert "compiled in" in (tmp_path / "log-neuron-cc.txt").read_text()
    assert (tmp_path / "wrapped_neff.hlo").exists() == ("--enable-internal-neff-wrapper" in words)
    assert not list(tmp_path.glob(".*.tmp"))


@needs_jaxlib
def test_outputs_go_to_the_working_directory_unless_named(run: Run, hlo: Path, tmp_path: Path) -> None:
    assert run("compile", hlo.name).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {hlo.name, "file.neff", "log-neuron-cc.txt"}


@needs_jaxlib
def test_query_of_placement_answers_by_status_alone(run: Run, hlo: Path, tmp_path: Path) -> None:
    words = ["compile", "--target=trn1", "--framework", "XLA", "--verbose=35", "--query-compute-placement"]
    assert run(*words, hlo).returncode == 0
    assert not list(tmp_path.glob("*.neff"))
    assert run(*words, "absent.pb").returncode == 70


@needs_jaxlib
@needs_jax
def test_stablehlo_bytecode_is_the_same_program(run: Run, hlo: Path, tmp_path: Path) -> None:
    from neuron_store.benchmarks.execute import compare_neffs

    xla: Any = import_module("jaxlib.xla_client")
    (tmp_path / "module.mlir").write_bytes(xla._xla.mlir.hlo_to_stablehlo(hlo.read_bytes()))
    assert run("compile", hlo, "-o", "hlo.neff").returncode == 0
    assert run("compile", "module.mlir", "-o", "mlir.neff").returncode == 0
    assert compare_neffs(tmp_path / "hlo.neff", tmp_path / "mlir.neff").equal


@needs_jaxlib
def test_every_file_of_a_model_directory_is_an_input(run: Run, hlo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights" / "0.npy"
    weights.parent.mkdir(parents=True)
    hlo.rename(tmp_path / "model" / "graph.hlo")
    infos = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        assert run("compile", "model", "--output", "graph.neff").returncode == 0
        infos.append(info_of(tmp_path / "graph.neff"))
    assert infos[0]["inputs"] == infos[1]["inputs"]
    assert infos[0]["side_inputs"] != infos[1]["side_inputs"]


@needs_jaxlib
def test_options_are_in_the_neff_if_they_change_the_program(run: Run, hlo: Path, tmp_path: Path) -> None:
    def info(*options: str) -> dict[str, object]:
        assert run("compile", hlo, "--output", "a.neff", *options).returncode == 0
        return info_of(tmp_path / "a.neff")

    plain = info()
    assert info("-O2", "--verbose=35", "--logfile", "other.txt") == plain
    for options in (("-O1",), ("--lnc=2",), ("--internal-something=1",), ("--fast-math", "none", "fast")):
        assert info(*options) != plain


def test_version_is_in_the_real_form(run: Run) -> None:
    for option in ("--version", "-V"):
        done = run(option)
        assert (done.returncode, done.stderr) == (0, "")
        form = (
            r"NeuronX Compiler version \d+\.\d+\.\d+\.\d+\+[0-9a-f]{8}\n\n"
            r"Python version \d+\.\d+\.\d+\S*\nHWM version \S+\nNumPy version \S+\n"
        )
        assert re.fullmatch(form, done.stdout)
        assert done.stdout == f"{version_text()}\n"
        assert compiler_version() in done.stdout


def test_version_is_told_without_importing_what_compiles(run: Run) -> None:
    done = run("--version", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"jax", "jaxlib", "numpy", "ml_dtypes"}


def test_help_names_the_command(run: Run) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "compile [options] MODEL_FILE" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "",
        "complie a.pb",
        "compile",
        "compile a.pb b.pb",
        "compile a.pb --no-such-option",
        "compile a.pb --target=gpu",
        "compile a.pb --verbose=loud",
        "compile a.pb --framework TENSORFLOW",
        "compile a.pb -O7",
        "compile a.pb --outp x.neff",
    ],
)
def test_a_wrong_command_line_is_told_on_stderr(words: str, run: Run, tmp_path: Path) -> None:
    done = run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "neuronx-cc: error: " in done.stderr
    assert not list(tmp_path.iterdir())


@needs_jaxlib
@pytest.mark.parametrize("content", ["noise", "nothing", "half", "python", "half of a bytecode"])
def test_what_is_no_hlo_fails_with_70(content: str, run: Run, hlo: Path, tmp_path: Path) -> None:
    whole = hlo.read_bytes()
    hlo.write_bytes(
        {
            "noise": bytes(range(256)) * 8,
            "nothing": b"",
            "half": whole[: len(whole) // 2],
            "python": b"import nki\n",
            "half of a bytecode": b"ML\xefR\x0dStableHLO_v1.0.0\0",
        }[content],
    )
    done = run("compile", hlo, "--output", "out.neff", "--enable-internal-neff-wrapper")
    assert done.returncode == 70
    assert "PASS" not in done.stdout
    assert re.fullmatch(r"ERROR neuronx-cc: .+\n", done.stderr)
    assert " ERROR " in (tmp_path / "log-neuron-cc.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {hlo.name, "log-neuron-cc.txt"}


@needs_jaxlib
def test_files_that_cannot_be_read_or_written_fail_with_70(run: Run, hlo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words in (
        ["compile", "absent.pb"],
        ["compile", "empty"],
        ["compile", hlo, "--io-config", "absent.json"],
        ["compile", hlo, "--output", "absent/out.neff"],
        ["compile", hlo, "--logfile", "absent/log.txt"],
    ):
        done = run(*words)
        assert done.returncode == 70
        assert re.fullmatch(
            r"ERROR neuronx-cc: .*(absent|empty/graph\.hlo).*: No such file or directory\n", done.stderr
        )
    assert not list(tmp_path.glob("*.neff"))


def test_without_jaxlib_it_says_what_to_install(run: Run, hlo: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked" / "jaxlib"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('no jaxlib here')")
    done = run("compile", hlo, PYTHONPATH=str(blocked.parent))
    assert done.returncode == 70
    assert "no jaxlib here" in done.stderr
    assert "neuron-store[bench]" in done.stderr


@needs_jaxlib
@needs_jax
@pytest.mark.parametrize("name", ["mlp_train_step", "llama_decode"])
def test_two_compiles_compute_the_same(name: str, run: Run, hlo: Path, tmp_path: Path) -> None:
    from neuron_store.benchmarks.execute import compare_neffs, run_neff

    hlo.write_bytes(builtin_model(name))
    wrapped = []
    for out in ("a.neff", "b.neff"):
        assert run("compile", hlo, "--output", out, "--enable-internal-neff-wrapper").returncode == 0
        wrapped.append((tmp_path / "wrapped_neff.hlo").read_text())
    comparison = compare_neffs(tmp_path / "a.neff", tmp_path / "b.neff")
    assert comparison.equal
    assert comparison.max_abs_difference == 0
    assert comparison.values == sum(array.size for array in run_neff(tmp_path / "a.neff")) > 100_000
    assert info_of(tmp_path / "a.neff") == info_of(tmp_path / "b.neff")
    assert wrapped[0] == wrapped[1]


@needs_jaxlib
@needs_jax
def test_another_learning_rate_is_another_program(run: Run, hlo: Path, tmp_path: Path) -> None:
    from neuron_store.benchmarks.execute import compare_neffs

    whole = hlo.read_bytes()
    assert LEARNING_RATE in whole
    wrapped = []
    for out, rate in (("a.neff", 1e-3), ("b.neff", 2e-3)):
        hlo.write_bytes(whole.replace(LEARNING_RATE, struct.pack("<f", rate)))
        assert run("compile", hlo, "--output", out, "--enable-internal-neff-wrapper").returncode == 0
        wrapped.append((tmp_path / "wrapped_neff.hlo").read_text())
    comparison = compare_neffs(tmp_path / "a.neff", tmp_path / "b.neff")
    assert not comparison.equal
    assert 0 < comparison.max_abs_difference < 1
    assert wrapped[0] != wrapped[1]


@needs_jax
def test_outputs_of_another_form_are_infinitely_different() -> None:
    np = pytest.importorskip("numpy")
    from neuron_store.benchmarks.execute import Comparison, compare_outputs

    one, nan = np.ones(3, np.float32), np.array([1, np.nan, 1], np.float32)
    assert compare_outputs([one], [one, one]) == Comparison(False, 0, float("inf"))
    assert compare_outputs([one], [one.astype(np.float64)]) == Comparison(False, 0, float("inf"))
    assert compare_outputs([nan], [nan]) == Comparison(True, 3, 0.0)
    assert compare_outputs([one], [nan]) == Comparison(False, 3, float("inf"))
    assert compare_outputs([one], [one * 2]) == Comparison(False, 3, 1.0)
    assert compare_outputs([], []) == Comparison(True, 0, 0.0)


def test_inputs_depend_on_the_seed_alone() -> None:
    np = pytest.importorskip("numpy")
    from neuron_store.benchmarks.execute import make_inputs
    from neuron_store.benchmarks.xla_cpu import Tensor

    tensors = [Tensor("float32", (64,)), Tensor("int32", (64,)), Tensor("bool", (64,)), Tensor("float16", ())]
    first, again, other = make_inputs(tensors, 1), make_inputs(tensors, 1), make_inputs(tensors, 2)
    assert [x.tobytes() for x in first] == [x.tobytes() for x in again]
    assert first[0].tobytes() != other[0].tobytes()
    assert [(str(x.dtype), x.shape) for x in first] == tensors
    assert 0 <= first[0].min() < first[0].max() < 0.125
    assert set(np.unique(first[1])) == set(range(8))


@pytest.mark.parametrize("compress", [True, False])
def test_neff_comes_back_as_it_was_written(compress: bool, tmp_path: Path) -> None:
    members = {"b": b"", "a": b"x" * 100_000, "c/d": bytes(range(256))}
    path, again = tmp_path / "a.neff", tmp_path / "b.neff"
    write_neff(path, members, compress=compress)
    write_neff(again, dict(reversed(members.items())), compress=compress)
    assert read_neff(path) == members
    assert path.read_bytes() == again.read_bytes()
    assert path.read_bytes()[HEADER_BYTES : HEADER_BYTES + 2] == (b"\x1f\x8b" if compress else b"a\0")


@pytest.mark.parametrize("compress", [True, False])
def test_every_torn_or_altered_neff_is_told(compress: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.neff"
    write_neff(path, {"a": bytes(range(256)) * 8}, compress=compress)
    whole = path.read_bytes()
    lengths = (0, 7, 8, HEADER_BYTES - 1, HEADER_BYTES, len(whole) // 2, len(whole) - 1)
    cuts = [whole[:length] for length in lengths]
    flips = [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for at in (0, 8, 12, 16, 24, 32, 40, 71, 72, HEADER_BYTES - 1, HEADER_BYTES)
    ]
    for broken in [*cuts, *flips, whole + b"\0", b"#!/bin/sh\n" * 200]:
        path.write_bytes(broken)
        with pytest.raises(NeffError, match=re.escape(str(path))):
            read_neff(path)


@needs_jaxlib
def test_fast_loading_gives_a_plain_tar(run: Run, hlo: Path, tmp_path: Path) -> None:
    assert run("compile", hlo, "-o", "gzip.neff").returncode == 0
    assert run("compile", hlo, "-o", "plain.neff", "--enable-fast-loading-neuron-binaries").returncode == 0
    gzipped, plain = (tmp_path / "gzip.neff").read_bytes(), (tmp_path / "plain.neff").read_bytes()
    assert gzipped[HEADER_BYTES:].startswith(b"\x1f\x8b")
    assert plain[HEADER_BYTES + 257 :].startswith(b"ustar")
    assert len(plain) > 2 * len(gzipped)
    assert read_neff(tmp_path / "plain.neff").keys() == read_neff(tmp_path / "gzip.neff").keys()


@pytest.mark.parametrize("folder", ["with a space", "l" * 140])
def test_installs_for_an_interpreter_that_no_shebang_can_name(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).symlink_to(sys.prefix)
    python = tmp_path / folder / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    compiler = install_reference_compiler(tmp_path / "bin")
    monkeypatch.undo()
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{version_text()}\n"


def test_installed_compiler_needs_nothing_of_the_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('imported from the working directory')")
    assert run("--version", PYTHONPATH="", PATH="/nowhere").returncode == 0


def test_runs_from_a_checkout_without_being_installed(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('imported from the working directory')")
    script = Path(benchmarks.__path__[0], "bin", "neuronx-cc")
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [script, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("NeuronX Compiler version ")
    assert compiler_version().partition("+")[2] in done.stdout


@needs_jaxlib
@needs_jax
def test_every_model_makes_valid_hlo(tmp_path: Path) -> None:
    from jaxlib import xla_client

    from neuron_store.benchmarks.hlo_models import MODELS, write_models

    paths = write_models(tmp_path)
    assert [path.name for path in paths] == [f"{name}.hlo_module.pb" for name in MODELS]
    assert sorted(MODELS) == builtin_names()
    for path in paths:
        module = path.read_bytes()
        assert 10_000 < len(module) < 1_000_000
        assert xla_client.XlaComputation(module).program_shape().parameter_shapes()
        assert str(Path(__file__).parent).encode() not in module


@needs_jaxlib
def test_builtin_models_are_small_and_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jaxlib import xla_client

    packed = Path(benchmarks.__path__[0], "builtin").glob("*.zst")
    assert sum(path.stat().st_size for path in packed) < 300_000
    for path in builtin_models(tmp_path):
        assert xla_client.XlaComputation(path.read_bytes()).program_shape().parameter_shapes()
    assert builtin_main([str(tmp_path / "again")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(builtin_names()) == 5
    with pytest.raises(KeyError):
        builtin_model("absent")
