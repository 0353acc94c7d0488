"""`lookup` and `pull MODEL`: which configurations of a model are compiled, and what a run would still compile."""

import json
import re

import pytest
from cli_remotes import answer, compile_modules, connect, ns
from conftest import VERSION
from loopback_hub import Status, start_hub
from registry_setup import (
    FINE_TUNE,
    LLAMA,
    MODEL,
    SEED_NEURON,
    SEED_SAID,
    absent,
    files_of,
    infos,
    make_entry,
    other_models,
    put,
    put_model,
)
from remote_setup import publish

from neuron_store.cli.entry_filters import make_filter
from neuron_store.cli.entry_search import newest_first
from neuron_store.store.registry.architecture import arch_digest, own_digest
from neuron_store.store.registry.entries import Entry, KeyInfo
from neuron_store.store.registry.places import registry_folder

REGISTRY = registry_folder(VERSION)
DIGEST = arch_digest("text-generation", LLAMA)


@pytest.fixture
def hub():
    with start_hub() as hub:
        hub.create_repo("alice/cache")
        put_model(hub)
        yield hub


@pytest.fixture
def online(host, hub):
    return connect(host, hub)


@pytest.fixture
def other(make_host, hub):
    """A second host on the same repo."""
    return connect(make_host("other"), hub)


def told(host, *arguments, code=0, **extra):
    """Return the entries that `lookup --json` shows."""
    return answer(host, "lookup", MODEL, *arguments, code=code, **extra)["entries"]


# -- what is shown -------------------------------------------------------------------------------------------------


def test_lookup_shows_that_no_compile_will_happen(online, hub, other):
    compile_modules(online, 3)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online))))
    done = ns(other, "lookup", MODEL)
    assert done.stdout == (
        "model            batch  seq  cores  type  target    keys  to compile\n"
        "acme/tiny-llama      2  512      2  bf16    trn1  3 of 3  nothing\n"
        "\n"
        "3 of 3 keys: no compile will happen\n"
        f"for text-generation with neuronx-cc {VERSION}, which is installed here\n"
    )
    assert done.stderr == ""


def test_lookup_names_the_compiles_that_will_happen(online, hub, other):
    compile_modules(online, 1)
    publish(online, "", hub)
    keys = {**infos(online), **absent(2, seconds=361.0), "f" * 32: KeyInfo(None, None, "")}
    put(hub, files_of(make_entry(keys=keys)))
    done = ns(other, "lookup", MODEL)
    table, sentences = done.stdout.split("\n\n")
    assert table.splitlines()[1].endswith("1 of 4  3 (12 min 2 s and 1 unknown)")
    assert sentences == (
        "1 of 4 keys: 3 compiles, 12 min 2 s and 1 unknown: 000000000000 module_1.pb (6 min 1 s), "
        "000000000000 module_2.pb (6 min 1 s), ffffffffffff (unknown)\n"
        f"for text-generation with neuronx-cc {VERSION}, which is installed here\n"
    )


def test_lookup_says_which_compiles_have_no_key(online, hub):
    compile_modules(online, 1)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online), uncached={"pass_model_directory": {"a" * 32}})))
    done = ns(online, "lookup", MODEL)
    assert "1 of 1  1 uncached\n" in done.stdout
    assert "1 of 1 key: 1 compile that was not kept (pass_model_directory)\n" in done.stdout
    assert "no compile" not in done.stdout
    (entry,) = told(online)
    assert (entry["complete"], entry["uncached"]) == (False, {"pass_model_directory": 1})


def test_lookup_makes_no_statement_on_an_entry_without_keys(online, hub):
    put(hub, files_of(make_entry(keys={})))
    done = ns(online, "lookup", MODEL)
    assert "0 of 0  unknown\n" in done.stdout
    assert "it tells no keys yet\n" in done.stdout
    assert told(online)[0]["complete"] is False


def test_lookup_guarantees_nothing_for_optimum_neurons_entries(online, hub):
    put(hub, files_of(make_entry()))
    done = ns(online, "lookup", MODEL)
    assert "   -  no guarantee\n" in done.stdout
    assert "no guarantee: optimum-neuron's entries do not tell which compiles they need\n" in done.stdout
    (entry,) = told(online)
    assert entry["complete"] is None
    assert entry["keys"] == {"needed": None, "here": [], "remote": [], "missing": []}


def test_lookup_tells_keys_that_are_here_from_those_in_the_remote(online, hub, other):
    (shared,) = compile_modules(online, 1)
    publish(online, "", hub)
    (mine,) = compile_modules(other, 1, first=5)
    keys = {**infos(online), **infos(other), **absent(1)}
    put(hub, files_of(make_entry(keys=keys)))
    (entry,) = told(other)
    assert entry["keys"] == {
        "needed": 3,
        "here": [mine],
        "remote": [shared],
        "missing": [{"key": f"{1:032x}", "module": "module_1.pb", "seconds": 60.0}],
    }
    assert told(online)[0]["keys"]["here"] == told(online)[0]["keys"]["remote"] == [shared]


def test_lookup_marks_fine_tunes(online, hub):
    put(hub, files_of(make_entry(keys={}), make_entry(FINE_TUNE, keys={})))
    done = ns(online, "lookup", MODEL)
    lines = done.stdout.splitlines()
    assert re.match(r"1  acme/tiny-llama +2 ", lines[1])
    assert re.match(r"2  acme/tuned-llama \(same architecture\) +2 ", lines[2])
    assert [(e["model_id"], e["same_model"]) for e in told(online)] == [(MODEL, True), (FINE_TUNE, False)]


def test_an_entry_of_the_same_name_and_another_architecture_is_not_shown(online, hub):
    alien = make_entry(config={**LLAMA, "hidden_size": 128}, keys={})
    put(hub, {f"{REGISTRY}/0.4.5/{DIGEST}/{alien.name}.json": alien.encode()})
    done = ns(online, "lookup", MODEL, code=1)
    assert done.stdout == ""
    assert "1 entry of acme/tiny-llama is of another architecture than it has now" in done.stderr
    assert f"no entry for acme/tiny-llama and neuronx-cc {VERSION} in hf://alice/cache; " in done.stderr
    assert "1 entry is of another architecture\n" in done.stderr


@pytest.mark.parametrize(
    ("ours", "more", "less", "revision", "shown"),
    [
        (False, {"rope_theta": 500000.0}, (), "", True),
        (False, {}, ("vocab_size",), "", False),
        (True, {"rope_theta": 500000.0}, (), "now", True),
        (True, {"rope_theta": 500000.0}, (), "before", False),
    ],
)
def test_a_models_own_entry_may_say_what_a_library_filled_in(online, hub, ours, more, less, revision, shown):
    config = {name: value for name, value in {**LLAMA, **more}.items() if name not in less}
    told_revision = hub.commits(MODEL)[-1].oid if revision == "now" else revision
    entry = make_entry(config=config, keys=absent(1) if ours else None, checkpoint_revision=told_revision)
    put(hub, files_of(entry))
    assert len(told(online, code=0 if shown else 1)) == shown
    put_model(hub, FINE_TUNE)
    assert answer(online, "lookup", FINE_TUNE, code=1)["left_out"]["other_architecture"] <= 1


def test_lookup_in_json_has_all_that_is_known(online, hub):
    entry = make_entry(keys=absent(1))
    put(hub, files_of(entry))
    assert answer(online, "lookup", MODEL) == {
        "model": MODEL,
        "model_id": MODEL,
        "revision": hub.commits(MODEL)[-1].oid,
        "task": "text-generation",
        "digests": [DIGEST],
        "compiler": {"installed": VERSION, "asked": None},
        "entries": [
            {
                "model_id": MODEL,
                "same_model": True,
                "task": "text-generation",
                "compiler": VERSION,
                "optimum_neuron": "0.4.5",
                "path": f"{REGISTRY}/0.4.5/{own_digest(LLAMA)}/{entry.name}.json",
                "ours": True,
                "remotes": ["hf://alice/cache"],
                "neuron": entry.neuron,
                "keys": {
                    "needed": 1,
                    "here": [],
                    "remote": [],
                    "missing": [{"key": f"{1:032x}", "module": "module_1.pb", "seconds": 60.0}],
                },
                "uncached": {},
                "complete": False,
                "outlook": "0 of 1 key: 1 compile, 1 min: 000000000000 module_1.pb (1 min)",
            }
        ],
        "left_out": {
            "other_architecture": 0,
            "other_configuration": 0,
            "unread": 0,
            "more": False,
            "corrupt": {},
        },
        "remotes": ["hf://alice/cache"],
        "remarks": [],
        "faults": [],
    }


def test_a_table_says_once_what_is_alike_and_fits_a_narrow_terminal(online, hub):
    long = "some-organisation/a-very-long-model-name-70B-instruct"
    put(hub, files_of(make_entry(keys=absent(3)), make_entry(long), make_entry(long, batch_size=4)))
    done = ns(online, "lookup", MODEL, COLUMNS="80")
    table, sentences = done.stdout.split("\n\n")
    lines = table.splitlines()
    assert lines[0].split() == ["#", "model", "batch", "seq", "cores", "type", "target", "keys", "to", "compile"]
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("0 of 3  3 (3 min)")
    assert "#2, #3: no guarantee: optimum-neuron's entries do not tell which compiles they need\n" in sentences
    put(hub, files_of(make_entry(task="feature-extraction", keys={})))
    assert " task " in ns(online, "lookup", MODEL).stdout.splitlines()[0]


# -- optimum-neuron's own form -------------------------------------------------------------------------------------


def seed_entry(**more):
    neuron = dict.fromkeys(("batch_size", "sequence_length", "tp_degree", "torch_dtype", "target", "neuronxcc_version"))
    return make_entry("meta-llama/Llama-2-7b-chat-hf", **neuron | SEED_NEURON | more)


def test_lookup_prints_what_optimum_neuron_printed(online, hub):
    put_model(hub, "meta-llama/Llama-2-7b-chat-hf")
    version = "2.12.54.0+f631c2365"
    put(hub, files_of(seed_entry(), release="0.0.18", version=version))
    words = ("lookup", "meta-llama/Llama-2-7b-chat-hf", "--format", "seed", "--compiler", "2.12")
    assert ns(online, *words).stdout == SEED_SAID
    put(hub, files_of(seed_entry(batch_size=4, zones=None), release="0.0.18", version=version))
    said = ns(online, *words).stdout
    assert said.startswith("*** 2 entrie(s) found in cache for meta-llama/Llama-2-7b-chat-hf ***\ntask: ")
    assert said.count("\n\ntask: text-generation\n") == 1
    assert said.endswith("checkpoint_revision: c1b0db933684edbfe29a06fa47eb19cc48025e93\n")


def test_lookup_prints_in_optimum_neurons_form_that_there_is_none(online, hub):
    done = ns(online, "lookup", MODEL, "--format", "seed", code=1)
    assert done.stdout == f"*** 0 entrie(s) found in cache for {MODEL} ***\n"


def test_optimum_neurons_form_has_the_fields_that_it_did_not_know_at_the_end(online, hub):
    put(hub, files_of(make_entry(keys={})))
    assert ns(online, "lookup", MODEL, "--format", "seed").stdout.splitlines()[1:] == [
        "task: text-generation",
        "batch_size: 2",
        "sequence_length: 512",
        f"neuronxcc_version: {VERSION}",
        "target: trn1",
        "torch_dtype: bfloat16",
        "tp_degree: 2",
    ]


# -- filters -------------------------------------------------------------------------------------------------------

NOTHING = {
    "task": "",
    "batch_size": None,
    "sequence_length": None,
    "num_cores": None,
    "tensor_parallel_size": None,
    "auto_cast_type": "",
    "dtype": "",
    "instance_type": "",
    "compiler": "",
}


@pytest.mark.parametrize(
    ("neuron", "asked", "fits"),
    [
        ({}, {}, True),
        ({"batch_size": 2}, {"batch_size": 2}, True),
        ({"batch_size": 2}, {"batch_size": 3}, False),
        ({"batch_size": "2"}, {"batch_size": 2}, True),
        ({"batch_size": None, "static_batch_size": 2}, {"batch_size": 2}, True),
        ({"batch_size": None}, {"batch_size": 2}, False),
        ({"batch_size": True}, {"batch_size": 1}, False),
        ({"batch_size": [2]}, {"batch_size": 2}, False),
        ({"sequence_length": None, "static_sequence_length": 128}, {"sequence_length": 128}, True),
        ({"tp_degree": 2}, {"num_cores": 2}, True),
        ({"tp_degree": 2}, {"tensor_parallel_size": 2}, True),
        ({"tp_degree": None, "num_cores": 24}, {"tensor_parallel_size": 24}, True),
        ({"tp_degree": None, "tensor_parallel_size": 8}, {"num_cores": 8}, True),
        ({"tp_degree": None, "tp": 8}, {"num_cores": 4}, False),
        ({"torch_dtype": "bfloat16"}, {"dtype": "bf16"}, True),
        ({"torch_dtype": "torch.bfloat16"}, {"dtype": "BF16"}, True),
        ({"torch_dtype": None, "dtype": "float16"}, {"dtype": "torch.float16"}, True),
        ({"torch_dtype": "float32"}, {"dtype": "fp32"}, True),
        ({"torch_dtype": "float32"}, {"dtype": "fp16"}, False),
        ({"auto_cast_type": "bf16"}, {"auto_cast_type": "bfloat16"}, True),
        ({"auto_cast_type": "tf32"}, {"auto_cast_type": "tf32"}, True),
        ({"torch_dtype": "bfloat16"}, {"auto_cast_type": "bf16"}, False),
        ({"target": "inf2"}, {"instance_type": "inf2.xlarge"}, True),
        ({"target": None, "instance_type": "inf2.8xlarge"}, {"instance_type": "inf2"}, True),
        ({"target": "trn1"}, {"instance_type": "trn1n.32xlarge"}, True),
        ({"target": "trn2"}, {"instance_type": "trn1n.32xlarge"}, False),
        ({"num_cores": 32, "tp_degree": 8}, {"num_cores": 32, "tensor_parallel_size": 8}, True),
        ({"num_cores": 32, "tp_degree": 8}, {"tensor_parallel_size": 32}, False),
        ({}, {"task": "text-generation"}, True),
        ({}, {"task": "text-classification"}, False),
        ({"batch_size": 1, "torch_dtype": "bfloat16"}, {"batch_size": 1, "dtype": "fp16"}, False),
    ],
)
def test_filters_know_every_releases_names(neuron, asked, fits):
    assert make_filter(**{**NOTHING, **asked}).lets_pass(make_entry(**neuron)) is fits


@pytest.mark.parametrize(
    "words",
    [
        ("--batch-size", "4"),
        ("--batch_size", "4"),
        ("--sequence-length", "1024"),
        ("--sequence_length", "1024"),
        ("--num-cores", "8"),
        ("--num_cores", "8"),
        ("--tensor-parallel-size", "8"),
        ("--tensor_parallel_size", "8"),
        ("--auto-cast-type", "tf32"),
        ("--auto_cast_type", "tf32"),
        ("--dtype", "fp16"),
        ("--instance-type", "inf2"),
        ("--instance_type", "inf2.xlarge"),
    ],
)
def test_lookup_filters(online, hub, words):
    this = make_entry(
        keys={},
        batch_size=4,
        sequence_length=1024,
        tp_degree=8,
        auto_cast_type="tf32",
        torch_dtype="float16",
        target="inf2",
    )
    put(hub, files_of(make_entry(keys={}), this))
    assert len(told(online)) == 2
    (entry,) = told(online, *words)
    assert entry["neuron"]["batch_size"] == 4


def test_lookup_says_how_many_a_filter_left_out(online, hub):
    put(hub, files_of(make_entry(keys={}), make_entry(keys={}, batch_size=4)))
    done = ns(online, "lookup", MODEL, "--batch-size", "16", code=1)
    assert done.stderr == (
        f"neuron-store: no entry for acme/tiny-llama with batch_size 16 and neuronx-cc {VERSION} in hf://alice/cache; "
        "2 entries are otherwise configured\n"
    )
    assert answer(online, "lookup", MODEL, "--batch-size", "16", code=1)["left_out"]["other_configuration"] == 2


def test_an_entry_of_ours_is_for_the_instances_that_the_compiler_was_told():
    wanted = make_filter(**{**NOTHING, "instance_type": "inf2.xlarge"})
    assert wanted.lets_pass(make_entry(keys={}, target="trn1", instance_type="inf2"))
    assert not wanted.lets_pass(make_entry(keys={}, target="trn1"))


def test_a_pipelines_entry_is_for_all_of_its_tasks():
    wanted = make_filter(**{**NOTHING, "task": "text-to-image"})
    assert wanted.lets_pass(Entry("acme/sd", None, {"unet": {"a": 1}}, {"batch_size": 1}))
    assert not wanted.lets_pass(Entry("acme/sd", "inpainting", {"unet": {"a": 1}}, {"batch_size": 1}))


def test_lookup_is_for_the_compiler_that_is_installed(online, hub):
    put(hub, files_of(make_entry(keys={})))
    put(hub, files_of(make_entry(keys={}, neuronxcc_version="2.21.1.0"), version="2.21.1.0"))
    assert [entry["compiler"] for entry in told(online)] == [VERSION]
    assert [entry["compiler"] for entry in told(online, "--compiler", "2.21")] == ["2.21.1.0"]
    assert [entry["compiler"] for entry in told(online, "-c", "2")] == ["2.21.1.0", VERSION]
    done = ns(online, "lookup", MODEL, "-c", "2.21")
    assert done.stdout.endswith(f"for text-generation with neuronx-cc 2.21.1.0, while {VERSION} is installed here\n")


def test_lookup_is_for_all_compilers_where_none_is_installed(online, hub):
    put(hub, files_of(make_entry(keys={})))
    put(hub, files_of(make_entry(keys={}, neuronxcc_version="2.21.1.0"), version="2.21.1.0"))
    online.compiler.unlink()
    made = answer(online, "lookup", MODEL)
    assert made["compiler"] == {"installed": None, "asked": None}
    assert [entry["compiler"] for entry in made["entries"]] == ["2.21.1.0", VERSION]
    done = ns(online, "lookup", MODEL)
    assert done.stdout.endswith(
        f"for text-generation with neuronx-cc 2.21.1.0, {VERSION}, while no compiler is installed here\n"
    )


def test_lookup_names_the_versions_that_there_are(online, hub):
    put(hub, files_of(make_entry(keys={}, neuronxcc_version="2.21.1.0"), version="2.21.1.0"))
    assert ns(online, "lookup", MODEL, code=1).stderr == (
        f"neuron-store: hf://alice/cache has nothing of neuronx-cc {VERSION}; --compiler takes those that it has: "
        "2.21.1.0\n"
    )
    assert "has nothing of neuronx-cc 9;" in ns(online, "lookup", MODEL, "-c", "9", code=1).stderr


def test_newest_first_goes_by_numbers():
    assert newest_first(["2.9.1+b", "2.10.0+a", "2.10.0.1", "unversioned"]) == [
        "2.10.0.1",
        "2.10.0+a",
        "2.9.1+b",
        "unversioned",
    ]


# -- several remotes, and what is wrong with them ------------------------------------------------------------------


def test_what_two_remotes_have_of_one_entry_is_put_together(online, hub, other, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    mine, theirs = compile_modules(online, 1), compile_modules(other, 1, first=4)
    publish(online, "", hub)
    publish(other, f"file://{shared}")
    put(hub, files_of(make_entry(keys=infos(online))))
    put(shared, files_of(make_entry(keys=infos(other))))
    for host in (online, other):
        host.env["NEURON_STORE_REMOTES"] = f"hf://alice/cache file://{shared}"
        (entry,) = told(host)
        assert entry["remotes"] == ["hf://alice/cache", f"file://{shared}"]
        assert set(entry["keys"]["remote"]) == {*mine, *theirs}
        assert entry["complete"]
    done = ns(online, "lookup", MODEL)
    assert f"2 of 2 keys: no compile will happen (registered in hf://alice/cache and file://{shared})\n" in done.stdout
    (entry,) = told(online, "--repo", f"file://{shared}")
    assert set(entry["keys"]["remote"]) == set(theirs)
    for spelling in ("--repo-id", "--repo_id"):
        assert told(online, spelling, "alice/cache")[0]["remotes"] == ["hf://alice/cache"]


def test_a_remote_that_fails_is_told_and_the_others_serve(online, hub, tmp_path):
    put(hub, files_of(make_entry(keys={})))
    online.env["NEURON_STORE_REMOTES"] = "file:///absent/absent hf://alice/cache"
    done = ns(online, "lookup", MODEL)
    assert MODEL in done.stdout
    assert done.stderr == (
        "neuron-store: the folder /absent/absent is not there; mount or make it, or take it out of remotes\n"
    )
    assert answer(online, "lookup", MODEL)["faults"]
    hub.delete_file("alice/cache", next(iter(hub.files("alice/cache"))))
    hub.fail("tree", Status(503), times=None)
    said = ns(online, "lookup", MODEL, code=1).stderr
    assert "/absent/absent is not there" in said
    assert "503" in said


def test_a_hub_of_ones_own_need_not_have_the_official_repo(online, hub):
    put(hub, files_of(make_entry(keys={})))
    online.env.update(NEURON_STORE_REMOTES="", CUSTOM_CACHE_REPO="alice/cache")
    done = ns(online, "lookup", MODEL)
    assert "aws-neuron/optimum-neuron-cache is not there for us" in done.stderr
    assert MODEL in done.stdout


def test_lookup_says_that_there_is_no_registry(online, hub):
    hub.put_file("alice/cache", f"neuronxcc-{VERSION}/MODULE_1+2/model.neff", b"x")
    assert ns(online, "lookup", MODEL, code=1).stderr == (
        f"neuron-store: hf://alice/cache has no registry for neuronx-cc {VERSION}; `neuron-store run -m MODEL -- …` or "
        "optimum-neuron makes one\n"
    )
    assert answer(online, "lookup", MODEL, code=1)["entries"] == []


def test_lookup_of_a_model_that_is_not_there(online, hub):
    ns(online, "lookup", "acme/absent", code=1)
    made = answer(online, "lookup", "acme/absent", code=1)
    assert made["entries"] == []
    assert len(made["faults"]) == 1


def test_lookup_without_a_remote_and_offline(online, hub):
    assert "is none" in ns(online, "lookup", MODEL, code=1, NEURON_STORE_REMOTES="none").stderr
    ns(online, "lookup", MODEL, "--repo", "non sense", code=2)
    hub.requests.clear()
    ns(online, "lookup", MODEL, code=1, HF_HUB_OFFLINE="1")
    assert hub.count() == 0


def test_lookup_of_a_model_on_disk_and_in_a_folder(host, tmp_path):
    shared, model = tmp_path / "shared", tmp_path / "my-llama"
    shared.mkdir()
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    host.env["NEURON_STORE_REMOTES"] = f"file://{shared}"
    put(shared, files_of(make_entry("local/my-llama", keys={}), make_entry(keys={})))
    for word in (model, model / "config.json"):
        made = answer(host, "lookup", word)
        assert made["model_id"] == "local/my-llama"
        assert [(e["model_id"], e["same_model"]) for e in made["entries"]] == [("local/my-llama", True), (MODEL, False)]


# -- requests ------------------------------------------------------------------------------------------------------


def asked(hub, host, *words, code=0, **extra):
    hub.requests.clear()
    ns(host, "lookup", MODEL, *words, code=code, **extra)
    return hub.count()


def test_lookup_asks_little(online, hub):
    compile_modules(online, 2)
    publish(online, "", hub)
    put(hub, files_of(*(make_entry(keys=infos(online), batch_size=size) for size in (1, 2, 4))))
    assert asked(hub, online) <= 9
    assert hub.count("tree") == 3
    assert hub.count("paths-info") == 1
    put(hub, other_models(10_000))
    assert asked(hub, online) <= 9
    assert len(told(online)) == 3


def test_lookup_asks_little_where_no_compiler_is_installed(online, hub):
    compile_modules(online, 2)
    publish(online, "", hub)
    put(hub, files_of(*(make_entry(keys=infos(online), batch_size=size) for size in (1, 2, 4))))
    assert asked(hub, online, PATH="/usr/bin:/bin") <= 9
    assert len(told(online, PATH="/usr/bin:/bin")) == 3


def test_lookup_asks_little_where_the_digest_is_another(online, hub):
    compile_modules(online, 2)
    publish(online, "", hub)
    files = files_of(*(make_entry(keys=infos(online), batch_size=size) for size in (1, 2, 4)))
    put(hub, {path: data for path, data in files.items() if DIGEST not in path})
    assert asked(hub, online) <= 9
    assert len(told(online)) == 3


def test_lookup_in_an_old_layout_reads_few_entries_of_other_models(online, hub):
    put(hub, other_models(4000, release="0.3.0"))
    assert asked(hub, online, code=1) <= 40
    put(hub, files_of(make_entry("zeta/llama", keys={}), make_entry(keys={}), release="0.3.0"))
    assert asked(hub, online) <= 45
    done = ns(online, "lookup", MODEL)
    assert "not all entries of this architecture were read" in done.stderr
    assert [entry["model_id"] for entry in told(online)] == [MODEL]


def test_many_keys_are_one_question(online, hub):
    put(hub, files_of(*(make_entry(keys=absent(400, first=size), batch_size=size) for size in (1, 2, 4))))
    assert asked(hub, online) <= 9
    assert hub.count("paths-info") == 1
    put(hub, files_of(make_entry(keys=absent(2100), batch_size=8)))
    asked(hub, online)
    assert hub.count("paths-info") == 3


def test_keys_without_end_are_not_asked_for(online, hub):
    put(hub, files_of(make_entry(keys=absent(15_000)), make_entry(keys=absent(15_000, first=20_000), batch_size=8)))
    asked(hub, online)
    assert hub.count("paths-info") == 15
    entries = told(online)
    assert sorted(entry["complete"] is None for entry in entries) == [False, True]
    assert any("too many to look for" in entry["outlook"] for entry in entries)
