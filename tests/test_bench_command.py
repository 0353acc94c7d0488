"""`neuron-store bench`, from a person's side: a table, JSON, a plot, and an error where a hit was none."""

import json
import shutil
import sys

import pytest
from conftest import install_standin


@pytest.fixture
def bench(host):
    host.env["PATH"] = f"{host.compiler.parent}:/usr/bin:/bin"
    folder = host.work / "models"
    folder.mkdir()
    for name in ("one.hlo_module.pb", "two.pb", "three.hlo"):
        (folder / name).write_bytes(b"HLO of " + name.encode())
    (folder / "notes.txt").write_text("not a model")
    return lambda *arguments, **extra: host.cli("bench", *arguments, **extra)


def test_every_subgraph_is_compiled_once_and_served_to_every_caller(host, bench):
    done = bench(host.work / "models", "--rounds", 2, "--json")
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["subgraphs"]] == ["one", "three", "two"]
    for row in report["subgraphs"]:
        assert row["outcomes"] == ["miss_stored"] + ["hit_direct"] * 8
        assert len(row["hit_seconds"]) == 8
        assert row["faults"] == []
    assert report["compiler"] == {"path": str(host.compiler), "reference": False}
    assert len(host.runs) == 3
    assert f"neuronx-cc at {host.compiler}" in done.stderr


def test_the_users_own_store_and_settings_are_left_alone(host, bench):
    bench(host.work / "models", "--rounds", 1, NEURON_STORE_ENABLED=0, NEURON_STORE_RECACHE=1)
    assert not host.store.exists()


def test_flags_reach_the_compiler(host, bench):
    bench(host.work / "models/two.pb", "--rounds", 1, "--flags", "--target=trn2 '--tensorizer-options=--a --b'")
    assert "--target=trn2" in host.runs[0]["argv"]
    assert "--tensorizer-options=--a --b" in host.runs[0]["argv"]


def test_the_table_names_every_subgraph_and_the_time_saved(host, bench):
    done = bench(host.work / "models", "--rounds", 1)
    for word in ("one", "two", "three", "cold", "hit", "speed-up", "12 hits took", "saved"):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["saved.png", "saved.svg"])
def test_the_plot_is_a_picture(host, bench, name):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    bench(host.work / "models", "--rounds", 1, "--plot", host.work / name)
    head = (host.work / name).read_bytes()[:300]
    assert head.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


def test_a_request_that_is_no_hit_ends_in_an_error(host, bench):
    done = bench(host.work / "models/two.pb", "--rounds", 1, STANDIN_EXIT=70, check=False)
    assert done.returncode == 1
    assert "two: exit code 70: ERROR: the stand-in was told to fail" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pb"], "absent.pb does not exist"),
        (["."], "has no HLO file in it"),
        (["--flags", "'open"], "cannot be split into words"),
        (["--plot", "saved.gif"], "a plot is one of"),
        (["--plot", "nowhere/saved.png"], "nowhere does not exist"),
    ],
)
def test_bad_arguments_are_said_so(host, bench, arguments, message):
    empty = host.work / "empty"
    empty.mkdir()
    done = bench(*arguments, cwd=empty, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_any_compiler_it_says_what_to_install(host, bench):
    host.env["PATH"] = "/usr/bin:/bin"
    hide = host.base / "hide"
    hide.mkdir()
    (hide / "jaxlib.py").write_text("raise ImportError('hidden')")
    done = bench(host.work / "models", check=False, PYTHONPATH=hide)
    assert done.returncode == 1
    assert "put neuronx-cc on PATH" in done.stderr
    assert "neuron-store[bench]" in done.stderr


def test_real_hlo_with_the_reference_compiler_computes_the_same_numbers_when_served(host):
    pytest.importorskip("jaxlib", reason="jaxlib is not installed, so there is no reference compiler")
    from neuron_store.benchmarks.builtin import builtin_models

    host.env["PATH"] = "/usr/bin:/bin"
    builtin_models(host.work / "builtin")
    done = host.cli("bench", "builtin/mlp_train_step.hlo_module.pb", "--rounds", 1, "--json")
    report = json.loads(done.stdout)
    assert report["compiler"]["reference"]
    assert report["subgraphs"][0]["outcomes"] == ["miss_stored"] + ["hit_direct"] * 4
    assert report["numbers"].endswith("numbers of the served and a fresh executable are bitwise equal")


@pytest.mark.neuronx
def test_with_the_real_compiler(host):
    real = shutil.which("neuronx-cc")
    if real is None or b"Python" not in open(real, "rb").read(200):
        pytest.skip("there is no real neuronx-cc on PATH")
    host.env["PATH"] = f"{sys.prefix}/bin:/usr/bin:/bin"
    done = host.cli("bench", "--flags", "--target=trn1", "--rounds", 1, "--json")
    assert all(row["faults"] == [] for row in json.loads(done.stdout)["subgraphs"])


def test_a_stand_in_in_another_folder_is_found_on_path(host, bench):
    other = install_standin(host.base / "other")
    host.env["PATH"] = f"{other.parent}:{host.env['PATH']}"
    report = json.loads(bench(host.work / "models/two.pb", "--rounds", 1, "--json").stdout)
    assert report["compiler"]["path"] == str(other)
