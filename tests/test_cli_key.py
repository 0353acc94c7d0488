"""`neuron-store key`: the key that the shim would use, and all it is made of, without compiling."""

import base64
import hashlib
import json
import os

import pytest
from hlo_edits import BACKEND_CONFIG, TARGET, computation, field, instruction, module

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.shim.counters import COUNTERS

OPTIONS = ("--framework=XLA", "--target=trn1", "-O2", "--output=o.neff")


def stored_keys(host, kind="results"):
    return sorted(path.name for path in (host.store / kind).rglob("*") if path.is_file())


def components(told):
    return {component["name"]: component["fields"] for component in told["components"]}


@pytest.fixture
def model(host):
    return host.model(data=builtin_model("mlp_train_step"))


def key(host, *words, check=True, **extra):
    return json.loads(host.cli("key", "--json", *words, check=check, **extra).stdout)


def test_the_key_is_the_one_that_a_compile_is_stored_under(host, model):
    told = key(host, "--", "neuronx-cc", "compile", model, *OPTIONS)
    assert host.runs == []
    assert not (host.store / "results").exists()
    assert not (host.work / "o.neff").exists()
    host.cc("compile", model, *OPTIONS)
    assert stored_keys(host) == [told["key"]]
    assert stored_keys(host, "direct") == [told["direct_key"]]
    record = json.loads(host.cli("show", "--json", told["key"]).stdout)
    assert record["components"] == told["components"]
    assert host.counters() == {"miss_stored": 1}


@pytest.mark.parametrize(
    "before", [["--", "neuronx-cc"], ["neuronx-cc"], ["--", "/opt/venv/bin/neuronx-cc"], ["--"], []]
)
def test_the_program_and_the_double_dash_may_be_left_out(host, model, before):
    plain = key(host, "--", "neuronx-cc", "compile", model, *OPTIONS)
    assert key(host, *before, "compile", model, *OPTIONS) == plain


def test_a_double_dash_of_the_compilers_own_is_kept(host, model):
    told = key(host, "--", "neuronx-cc", "--target=trn1", "compile", "--", model)
    assert components(told)["flags"] == ["--target=trn1"]


def test_what_it_prints(host, model):
    told = key(host, "compile", model, *OPTIONS)
    said = host.cli("key", "compile", model, *OPTIONS, NEURON_FRAMEWORK_DEBUG="", XLA_FLAGS="--a").stdout
    lines = said.splitlines()
    assert lines[0].startswith("key ")
    assert lines[1].startswith("direct key ")
    for text in ("neuronx-cc 2.14.227.0+2d4f85be", "--optlevel=2", "XLA_FLAGS=--a", "canonical, SHA-256:", str(model)):
        assert text in said, text
    assert told["hlo"]["mode"] == "canonical"
    assert told["hlo"]["reason"] is None
    assert not told["hlo"]["debug_info"]
    for component in told["components"]:
        assert any(line.startswith(component["name"]) for line in lines)


def test_it_fits_into_80_columns(host, model):
    said = host.cli("key", "compile", model, *OPTIONS, COLUMNS=80).stdout
    assert max(map(len, said.splitlines())) <= 80


def test_why_hlo_is_raw(host):
    told = key(host, "compile", host.model(), *OPTIONS)
    assert told["hlo"]["mode"] == "raw"
    assert told["hlo"]["reason"]
    said = host.cli("key", "compile", host.model(), *OPTIONS).stdout
    assert f"raw, because: {told['hlo']['reason']}" in said


def test_debug_information_is_told(host, model):
    assert key(host, "compile", model, *OPTIONS, NEURON_STORE_DEBUG_INFO="exact")["hlo"]["debug_info"]
    assert "canonical with debug info, SHA-256:" in host.cli("key", "compile", model, XLA_IR_DEBUG=1).stdout


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NEURON_STORE_ACTIVE", "1"), ("NEURON_STORE_ENABLED", "false"), ("NEURON_STORE_RECACHE", "1")],
)
def test_what_would_keep_the_shim_from_serving_is_noted_and_does_not_matter(host, model, variable, value):
    plain = key(host, "compile", model, *OPTIONS)
    assert plain.pop("notes") == []
    told = key(host, "compile", model, *OPTIONS, **{variable: value})
    assert len(told.pop("notes")) == 1
    assert told == plain
    noted = host.cli("key", "compile", model, *OPTIONS, **{variable: value})
    assert noted.stderr.startswith("neuron-store: ")


def test_being_disabled_by_the_configuration_file_does_not_matter(host, model):
    path = host.home / ".config/neuron-store/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("enabled = false\n")
    told = key(host, "compile", model, *OPTIONS)
    assert told["notes"] == [f"enabled is false ({path}), so the shim would hand this to the compiler uncached"]


def test_the_callers_own_variables_are_in_the_key_even_if_they_are_ours(host, model):
    extra = {"NEURON_STORE_KEY_ENV": "NEURON_STORE_ENABLED NEURON_STORE_ACTIVE", "NEURON_STORE_ENABLED": "0"}
    assert components(key(host, "compile", model, **extra))["environment"] == ["NEURON_STORE_ENABLED=0"]


def test_side_files_of_kernels(host):
    kernel = host.work / "scratch/add.klir"
    kernel.parent.mkdir()
    kernel.write_bytes(b"a kernel")
    config = base64.b64encode(json.dumps({"klir_binary": {"binary": str(kernel)}}).encode())
    more = field(TARGET, "AwsNeuronCustomNativeKernel") + field(BACKEND_CONFIG, config)
    graph = module(computation([instruction(1, "parameter"), instruction(2, "custom-call", [1], more=more)]))
    model = host.model("kernel.pb", data=graph)
    digest = hashlib.sha256(b"a kernel").hexdigest()
    told = key(host, "compile", model, *OPTIONS)
    assert told["side_files"] == [{"written": str(kernel), "found": str(kernel), "sha256": digest}]
    said = host.cli("key", "compile", model, *OPTIONS).stdout
    assert f"reaches {kernel}, SHA-256:\n" in said
    assert digest in said
    # Where it is not at its path, the compiler looks for its last folder below the current one.
    moved = host.work / "elsewhere/scratch/add.klir"
    moved.parent.mkdir(parents=True)
    kernel.rename(moved)
    again = key(host, "compile", model, *OPTIONS, cwd=host.work / "elsewhere")
    assert again["key"] == told["key"]
    assert again["side_files"][0]["found"] == str(moved)
    gone = host.cli("key", "compile", model, *OPTIONS, check=False)
    assert gone.returncode == 1
    assert "pass_side_file" in gone.stdout


def test_option_files_and_model_directories(host):
    folder = host.work / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "graph.hlo").write_bytes(builtin_model("mlp_train_step"))
    (folder / "weights/a.npy").write_bytes(b"numbers")
    (host.work / "io.json").write_text("{}")
    told = key(host, "compile", folder, "--io-config=io.json", "--target=trn1")
    assert told["option_files"] == [{"option": "--io-config", "path": "io.json"}]
    digest = hashlib.sha256(b"numbers").hexdigest()
    assert f"weights/a.npy {digest}" in components(told)["side_inputs"]
    said = host.cli("key", "compile", folder, "--io-config=io.json", "--target=trn1").stdout
    assert f"weights/a.npy {digest}" in said
    assert "(io.json)" in said


@pytest.mark.parametrize(
    ("words", "counter", "detail"),
    [
        (["compile", "absent.pb"], "pass_unreadable_input", "absent.pb"),
        (["compile", "@words"], "pass_response_file", "@words"),
        (["--version"], "pass_version", ""),
        (["list-operators"], "pass_list_operators", "list-operators"),
        (["neuronx-cc"], "pass_no_command", ""),
        (["compile", "m.py"], "pass_python_input", "m.py"),
    ],
)
def test_why_a_command_line_has_no_key(host, words, counter, detail):
    done = host.cli("key", "--", *words, check=False)
    assert done.returncode == 1
    for text in (counter, COUNTERS[counter][1], detail):
        assert text in done.stdout, text
    told = json.loads(host.cli("key", "--json", "--", *words, check=False).stdout)
    assert (told["cacheable"], told["counter"], told["meaning"]) == (False, counter, COUNTERS[counter][1])
    assert detail in told["detail"]


def test_without_a_compiler(host, model):
    host.compiler.unlink()
    done = host.cli("key", "compile", model, *OPTIONS, check=False)
    assert done.returncode == 127
    assert "no neuronx-cc on PATH behind the shim" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_compiler_that_is_set_and_cannot_be_run_is_noted(host, model):
    told = key(host, "compile", model, *OPTIONS, NEURON_STORE_COMPILER="/nowhere/neuronx-cc")
    assert told["notes"] == ["compiler_setting_unusable: " + COUNTERS["compiler_setting_unusable"][1]]
    assert told["compiler"]["path"] == str(host.compiler)


def test_a_bad_setting_is_the_reason(host, model):
    done = host.cli("key", "compile", model, check=False, NEURON_STORE_RECACHE="perhaps")
    assert done.returncode == 1
    assert "pass_bad_configuration" in done.stdout
    assert "NEURON_STORE_RECACHE is 'perhaps'" in done.stdout


def test_without_a_command_line(host):
    done = host.cli("key", check=False)
    assert done.returncode == 2
    assert "Missing argument" in done.stderr


def test_a_name_that_is_not_utf8(host):
    name = os.fsdecode(b"m\xff.pb")
    model = host.model(name, data=builtin_model("mlp_train_step"))
    assert host.cli("key", "compile", model, *OPTIONS).returncode == 0
    assert key(host, "compile", model, *OPTIONS)["cacheable"]
