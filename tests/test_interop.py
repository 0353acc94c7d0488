"""The real optimum-neuron and neuron-store read each other's registry. `make test-interop` sets all of it up.

What optimum-neuron does, it does in a venv of its own, as a process of its own, with the loopback Hub for a Hub.
"""

import filecmp
import json
import os
import subprocess
from pathlib import Path

import pytest
from optimum_cache import write_cache
from stock_setup import FLAGS, graph, module_name, stock

PYTHON = os.environ.get("NEURON_STORE_INTEROP_PYTHON")
HERE = Path(__file__).parent
SCRIPTS = HERE / "interop"
REGISTRY = HERE / "fixtures/registry"
MODELS = REGISTRY / "models"
WRITTEN = REGISTRY / "optimum-neuron-0.4.5"
LLAMA = {(1, 512, 2, "bfloat16", "trn1"), (2, 2048, 2, "bfloat16", "trn1"), (4, 1024, 8, "bfloat16", "trn2")}

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not PYTHON, reason="needs the real optimum-neuron: run make test-interop"),
]


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class OptimumNeuron:
    """The real client, as someone runs it who uses the repo alice/cache."""

    def __init__(self, hub, home: Path) -> None:
        self.env = {
            "PATH": f"{Path(PYTHON).parent}:/usr/bin:/bin",
            "HOME": str(home),
            "HF_HOME": str(home / "huggingface"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "hf_alice",
            "CUSTOM_CACHE_REPO": "alice/cache",
            "COLUMNS": "200",
        }

    def run(self, *command) -> str:
        done = subprocess.run([*map(str, command)], env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lookup(self, model, *options) -> set[tuple]:
        """The rows that `optimum-cli neuron cache lookup` prints."""
        program = Path(PYTHON).with_name("optimum-cli")
        title, *lines = self.run(program, "neuron", "cache", "lookup", model, *options).splitlines()
        if title == f"No cached entries found for {model}.":
            return set()
        assert title == f"Cached entries for {model}"
        rows = [line.split() for line in lines[1:]]
        return {(int(batch), int(length), int(tp), dtype, target) for batch, length, tp, dtype, target in rows}

    def entries(self, model, **wanted) -> list[dict]:
        """What `get_hub_cached_entries` returns; with more than a task, `select_hub_cached_entries`."""
        words = [f"{name}={value}" for name, value in wanted.items()]
        return json.loads(self.run(PYTHON, SCRIPTS / "lookup.py", model, *words))

    def models(self) -> list[list[str]]:
        """What `get_hub_cached_models` returns."""
        return json.loads(self.run(PYTHON, SCRIPTS / "lookup.py", "--models"))


@pytest.fixture
def optimum(hub, tmp_path):
    """The real client, and the models on the Hub."""
    for model in MODELS.glob("tiny-*"):
        hub.create_repo(f"acme/{model.name}")
        hub.put_files(f"acme/{model.name}", files_below(model))
    return OptimumNeuron(hub, tmp_path)


@pytest.fixture
def written(hub, optimum):
    """The real client, and a cache repo that holds what it wrote."""
    hub.put_files("alice/cache", files_below(WRITTEN))
    return optimum


def neuron_configs(model: str) -> list[dict]:
    """The neuron configurations of the entries that optimum-neuron wrote for this very model."""
    entries = {path.name: json.loads(path.read_text()) for path in WRITTEN.rglob("*.json")}
    return [entry.get("unet", entry)["neuron"] for entry in entries.values() if entry["_model_id"] == model]


def in_order(configs: list[dict]) -> list[str]:
    return sorted(json.dumps(config, sort_keys=True) for config in configs)


def test_kept_entries_are_what_optimum_neuron_writes(tmp_path):
    made = tmp_path / "made"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, SCRIPTS / "make_entries.py", made], env=env, check=True, capture_output=True, timeout=120)
    assert files_below(made / WRITTEN.name) == files_below(WRITTEN)
    models = files_below(made / "models")
    assert filecmp.cmpfiles(made / "models", MODELS, models, shallow=False) == ([*models], [], [])


def test_optimum_cli_lists_what_optimum_neuron_wrote(written):
    task = ("--task", "text-generation")
    assert written.lookup("acme/tiny-llama", *task) == LLAMA
    assert written.lookup(MODELS / "tiny-llama", *task) == LLAMA
    assert written.lookup("acme/tiny-llama", *task, "--instance_type", "trn2") == {(4, 1024, 8, "bfloat16", "trn2")}
    assert written.lookup("acme/tiny-llama", *task, "--batch_size", "3") == set()


@pytest.mark.parametrize(
    ("model", "others", "task"),
    [
        ("acme/tiny-llama", ["acme/tiny-llama-chat"], "text-generation"),
        ("acme/tiny-qwen2", [], "text-generation"),
        ("acme/tiny-bert", [], "text-classification"),
        ("acme/tiny-stable-diffusion", [], "text-to-image"),
    ],
)
def test_the_library_finds_what_optimum_neuron_wrote(written, model, others, task):
    found = written.entries(model, task=task)
    expected = [config for each in (model, *others) for config in neuron_configs(each)]
    assert found
    assert in_order(found) == in_order(expected)


def test_the_library_selects_among_what_optimum_neuron_wrote(written):
    selected = written.entries(
        "acme/tiny-llama", task="text-generation", tensor_parallel_size=8, torch_dtype="bfloat16"
    )
    assert [entry["batch_size"] for entry in selected] == [4]
    assert written.models() == [
        ["bert", "acme", "tiny-bert"],
        ["llama", "acme", "tiny-llama"],
        ["llama", "acme", "tiny-llama-chat"],
        ["qwen2", "acme", "tiny-qwen2"],
        ["stable-diffusion", "acme", "tiny-stable-diffusion"],
    ]


# -- and neuron-store ----------------------------------------------------------------------------------------------

COMPILER = "2.21.33363.0+82129205"  # that optimum-neuron 0.4.5 looks for
SHAPES = ("--batch-size", 1, "--sequence-length", 512, "--num-cores", 2)


@pytest.fixture
def neuron_store(host, hub):
    """A host whose neuron-store has the same repo for its remote as the real client."""
    host.use_remotes("hf://alice/cache", hub=hub)
    host.compiler.write_text(host.compiler.read_text().replace("2.14.227.0+2d4f85be", COMPILER))
    host.model("m.pb")
    return host


def run_model(host, model, *options, **extra):
    command = ("neuronx-cc", "compile", "m.pb", "--target=trn1", "--output=o.neff")
    return host.cli("run", "-m", model, *SHAPES, *options, "--", *command, **extra)


@pytest.mark.parametrize("interpreter", ["with transformers", "without"])
@pytest.mark.parametrize("named", ["by its id", "by its folder"])
def test_optimum_neuron_lists_what_neuron_store_wrote(optimum, neuron_store, interpreter, named):
    model = "acme/tiny-llama" if named == "by its id" else MODELS / "tiny-llama"
    if interpreter == "with transformers":
        neuron_store.env["PATH"] += f":{Path(PYTHON).parent}"
    run_model(neuron_store, model)
    for asked in ("acme/tiny-llama", "acme/tiny-llama-chat", MODELS / "tiny-llama"):
        assert optimum.lookup(asked, "--task", "text-generation") == {(1, 512, 2, "bfloat16", "trn1")}
    assert optimum.lookup("acme/tiny-qwen2", "--task", "text-generation") == set()
    (entry,) = optimum.entries("acme/tiny-llama", task="text-generation")
    assert entry["checkpoint_id"] == ("acme/tiny-llama" if named == "by its id" else "local/tiny-llama")
    assert entry["compiler_version"] == COMPILER
    selected = optimum.entries(
        "acme/tiny-llama", task="text-generation", tensor_parallel_size=2, torch_dtype="bfloat16"
    )
    assert selected == [entry]
    assert optimum.models() == [["llama", *entry["checkpoint_id"].split("/")]]


def test_optimum_neuron_lists_a_model_whose_defaults_only_transformers_knows(optimum, neuron_store, hub):
    plain = json.loads((MODELS / "tiny-llama/config.json").read_text())
    del plain["rope_theta"], plain["mlp_bias"], plain["pretraining_tp"]
    hub.put_file("acme/tiny-llama", "config.json", json.dumps(plain).encode())
    neuron_store.env["PATH"] += f":{Path(PYTHON).parent}"
    run_model(neuron_store, "acme/tiny-llama")
    assert optimum.lookup("acme/tiny-llama", "--task", "text-generation") == {(1, 512, 2, "bfloat16", "trn1")}


@pytest.mark.parametrize(
    ("model", "task"), [("tiny-bert", "text-classification"), ("tiny-stable-diffusion", "text-to-image")]
)
def test_optimum_neuron_lists_other_kinds_of_models(optimum, neuron_store, model, task):
    run_model(neuron_store, f"acme/{model}", "--task", task, "--dtype", "bf16")
    assert optimum.lookup(f"acme/{model}", "--task", task) == {(1, 512, 2, "bfloat16", "trn1")}


def test_an_entry_that_optimum_neuron_would_fail_over_does_not_keep_it_from_others(written, neuron_store):
    command = ("neuronx-cc", "compile", "m.pb", "--target=trn1", "--output=o.neff")
    neuron_store.cli("run", "-m", "acme/tiny-llama", "--batch-size", 9, "--", *command)
    assert written.lookup("acme/tiny-llama", "--task", "text-generation") == LLAMA


def test_neuron_store_lists_what_optimum_neuron_wrote(written, neuron_store):
    found = json.loads(neuron_store.cli("lookup", "acme/tiny-llama", "--json").stdout)
    expected = [config for each in ("acme/tiny-llama", "acme/tiny-llama-chat") for config in neuron_configs(each)]
    assert in_order([entry["neuron"] for entry in found["entries"]]) == in_order(expected)
    table = neuron_store.cli("lookup", "acme/tiny-llama").stdout
    assert table.count("no guarantee") >= 1
    for model, task in (("tiny-qwen2", "text-generation"), ("tiny-bert", "text-classification"),
                        ("tiny-stable-diffusion", "text-to-image")):  # fmt: skip
        found = json.loads(neuron_store.cli("lookup", f"acme/{model}", "--task", task, "--json").stdout)
        assert in_order([entry["neuron"] for entry in found["entries"]]) == in_order(neuron_configs(f"acme/{model}"))


def test_both_write_to_one_registry_and_both_read_all_of_it(written, neuron_store):
    run_model(neuron_store, "acme/tiny-llama", "--batch-size", 7)
    assert written.lookup("acme/tiny-llama", "--task", "text-generation") == LLAMA | {(7, 512, 2, "bfloat16", "trn1")}
    found = json.loads(neuron_store.cli("lookup", "acme/tiny-llama", "--json").stdout)
    assert len(found["entries"]) == len(LLAMA) + 1
    assert len([entry for entry in found["entries"] if entry["ours"]]) == 1


# -- stock caches --------------------------------------------------------------------------------------------------


def test_what_optimum_neuron_uploads_of_a_stock_folder_is_the_fixture(optimum, hub, tmp_path):
    optimum.env["HF_HUB_DISABLE_XET"] = "1"
    optimum.run(PYTHON, SCRIPTS / "synchronize.py", write_cache(tmp_path / "cache"), "alice/cache")
    uploaded = {path: data for path, data in hub.files("alice/cache").items() if path.startswith("neuronxcc-")}
    assert uploaded == files_below(HERE / "fixtures/stock/optimum-neuron-0.4.5")


def test_optimum_neurons_own_cache_serves_what_was_exported(optimum, neuron_store, tmp_path):
    _, neff = stock(neuron_store, tmp_path / "stock", neuron_store.model("g.pb", graph()))
    neuron_store.cli("export", "hf://alice/cache")
    name = f"neuronxcc-{COMPILER}/{module_name(graph(), list(FLAGS))}"
    optimum.run(PYTHON, SCRIPTS / "fetch_module.py", "alice/cache", name, tmp_path / "fetched.neff")
    assert (tmp_path / "fetched.neff").read_bytes() == neff


def test_both_make_the_same_repo_of_a_folder_but_for_what_hurts(optimum, neuron_store, hub, tmp_path):
    neuron_store.cli("synchronize", "--cache_dir", write_cache(tmp_path / "cache"))
    ours = {path: data for path, data in hub.files("alice/cache").items() if path.startswith("neuronxcc-")}
    theirs = files_below(HERE / "fixtures/stock/optimum-neuron-0.4.5")
    hurting = {path.rpartition("/")[0] for path in theirs if path.endswith((".log", ".lock"))}
    assert ours == {path: data for path, data in theirs.items() if path.rpartition("/")[0] not in hurting}
