"""The wheel: built from the sources and installed, neuron-store works when the sources are gone."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import make_venv

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FLOORS = ("hashing", "store", "shim", "cli")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed here")


def pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def copy_sources(copy):
    copy.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in ("pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]):
        shutil.copy(ROOT / name, copy / name)
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        if "/" not in folder:
            shutil.copytree(ROOT / folder, copy / folder, ignore=LEFT_OUT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    base = tmp_path_factory.mktemp("wheel")
    copy_sources(base / "sources")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", base / "made", base / "sources")
    shutil.rmtree(base / "sources")
    (made,) = (base / "made").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def venv(wheel, tmp_path_factory):
    """A virtual environment with the wheel in it, and our dependencies, but not our sources."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    python = make_venv(folder, with_neuron_store=False)
    pip("--python", python, "install", "--no-deps", "--ignore-installed", wheel)
    return folder


@pytest.fixture
def installed(venv, host):
    """The host of a person who installed the wheel and put the venv's `bin` on PATH."""
    host.env["PATH"] = f"{venv}/bin:{host.compiler.parent}:/usr/bin:/bin"

    def run(script):
        done = subprocess.run(
            ["/bin/sh", "-ec", script], cwd=host.work, env=host.env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_the_four_floors_whole_and_typed(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for floor in FLOORS:
        assert f"neuron_store/{floor}/py.typed" in names
        for path in (ROOT / floor).glob("*.py"):
            assert f"neuron_store/{floor}/{path.name}" in names
    assert not [name for name in names if name.startswith(("tests/", "neuron_store/tests/", "neuron_store/__init__"))]


def test_the_wheel_is_for_any_python_and_names_its_dependencies(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    (metadata,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    for package in ("xxhash", "zstandard", "typer", "rich", "tomlkit"):
        assert f"\nRequires-Dist: {package}" in text


def test_it_is_the_installed_one_that_runs(venv, installed):
    where = installed(f"{venv}/bin/python -c 'import neuron_store.shim as s; print(list(s.__path__))'")
    assert where.startswith(f"['{venv}/lib/python")


def test_the_installed_command_says_its_version(wheel, installed):
    version = wheel.name.split("-")[1]
    assert installed("neuron-store --version") == f"neuron-store {version}\n"


def test_the_venvs_bin_has_no_compiler_of_ours(venv, installed):
    assert (venv / "bin/neuron-store").exists()
    assert not (venv / "bin/neuronx-cc").exists()
    assert installed("command -v neuronx-cc") != f"{venv}/bin/neuronx-cc\n"


def test_the_launcher_lies_in_the_venvs_own_folder(venv, installed):
    assert installed("neuron-store env --path") == f"{venv}/libexec/neuron-store\n"
    said = installed('eval "$(neuron-store env)"; command -v neuronx-cc')
    assert said == f"{venv}/libexec/neuron-store/neuronx-cc\n"
    assert not (venv / "bin/neuronx-cc").exists()


def test_the_launcher_leads_to_the_installed_one(venv, installed):
    installed("neuron-store env")
    text = (venv / "libexec/neuron-store/neuronx-cc").read_text()
    assert text.startswith(f"#!{venv}/bin/python")
    assert str(ROOT / "shim") not in text
    (line,) = [line for line in text.splitlines() if "__path__ =" in line]
    assert f"'{venv}/lib/python" in line
    assert str(ROOT) not in line


def test_a_compile_is_stored_and_served(host, installed):
    model = host.model()
    line = f"neuronx-cc compile '{model}' --target=trn1 --output"
    said = installed(f'eval "$(neuron-store env)"; {line}=a.neff; {line}=b.neff')
    assert said == "Compiler status PASS\n" * 2
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    assert len(host.runs) == 1
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_run_and_stats_work_in_the_installed_one(host, installed):
    model = host.model()
    installed(f"neuron-store run -q neuronx-cc compile '{model}' --target=trn1 --output=a.neff")
    assert "miss_stored" in installed("neuron-store stats")
    assert "model.hlo_module.pb" in installed("neuron-store list")


def test_when_neuron_store_is_uninstalled_the_compiler_runs(wheel, host, tmp_path):
    folder = tmp_path / "installed"
    python = make_venv(folder, with_neuron_store=False)
    pip("--python", python, "install", "--no-deps", "--ignore-installed", wheel)
    launcher = Path(
        subprocess.check_output([folder / "bin/neuron-store", "env", "--path"], env=host.env, text=True)[:-1]
    )
    pip("--python", python, "uninstall", "--yes", "neuron-store")
    host.launcher = launcher / "neuronx-cc"
    host.env["PATH"] = f"{launcher}:{folder}/bin:{host.compiler.parent}:/usr/bin:/bin"
    done = host.cc("compile", host.model(), "--target=trn1", "--output=o.neff", check=False, STANDIN_EXIT=4)
    assert (done.returncode, len(host.runs)) == (4, 1)
    shutil.rmtree(folder)
    done = subprocess.run(
        ["/bin/sh", "-c", "neuronx-cc list-operators"], cwd=host.work, env=host.env, capture_output=True, check=True
    )
    assert done.stdout == b"stand-in: list-operators\n"
