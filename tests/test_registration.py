"""What runs of a model noted becomes one entry in a remote's registry, whoever else writes to it meanwhile."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from remote_setup import FLAGS

from neuron_store.store.errors import CorruptRemote, RemoteConflict, RemoteError
from neuron_store.store.registry.architecture import own_digest
from neuron_store.store.registry.contexts import all_contexts
from neuron_store.store.registry.entries import decode_entry
from neuron_store.store.registry.places import Place
from neuron_store.store.remotes import folder as folder_module
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.results import all_keys

VERSION = "2.14.227.0+2d4f85be"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "torch_dtype": "bfloat16",
}
RUN = ("--batch-size", 1, "--sequence-length", 128, "--num-cores", 2)
JOB = """
import subprocess, sys
first, last, same = map(int, sys.argv[1:])
ranks = []
for number in range(first, last):
    open(f"m{number}.pb", "wb").write(b"\\x0a\\x04main %d" % (number % same))
    command = ["neuronx-cc", "compile", f"m{number}.pb", "--target=trn1", f"--output=o{number}.neff"]
    ranks.append(subprocess.Popen(command))
sys.exit(max([rank.wait() for rank in ranks], default=0))
"""


class Shared:
    """One remote of either kind, as tests look at it."""

    def __init__(self, kind, hub, folder) -> None:
        self.hub = hub if kind == "hf" else None
        self.folder = folder
        self.word = "hf://alice/cache" if kind == "hf" else f"file://{folder}"

    def files(self) -> dict:
        if self.hub is not None:
            return self.hub.files("alice/cache")
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }

    def entries(self) -> dict:
        """Path -> entry, of all in the registry."""
        return {path: decode_entry(data, Place(path)) for path, data in self.files().items() if "0_REGISTRY" in path}

    def open(self, host):
        return closing(open_remote(read_location(self.word), host.layout, host.env, RemoteOptions(may_fork=False))[0])


@pytest.fixture(params=["hf", "file"])
def shared(request, hub, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    return Shared(request.param, hub, folder)


@pytest.fixture
def make_member(make_host, shared, hub):
    """A host that uses the remote, and has the model's folder."""

    def make(name):
        host = make_host(name)
        host.use_remotes(shared.word, hub=hub)
        (host.work / "tiny").mkdir()
        (host.work / "tiny/config.json").write_text(json.dumps(CONFIG))
        (host.work / "job.py").write_text(JOB)
        return host

    return make


def run(host, *job, model="tiny", options=RUN, **extra):
    return host.cli("run", "-m", model, *options, "--", sys.executable, "job.py", *job, **extra)


# -- one run -------------------------------------------------------------------------------------------------------


def test_a_run_becomes_an_entry_with_all_its_keys(make_member, shared):
    host = make_member("host")
    said = run(host, 0, 6, 4).stderr
    assert "2 hits, 4 misses" in said
    assert "pushed 4 results, registered 1 model entry" in said
    entries = shared.entries()
    assert len(entries) == 3  # under its name, under its digest, and under ours
    (entry,) = {entry.name: entry for entry in entries.values()}.values()
    assert list(entry.keys) == list(all_keys(host.layout))
    assert entry.neuron == {
        "task": "text-generation",
        "batch_size": 1,
        "num_cores": 2,
        "auto_cast_type": None,
        "sequence_length": 128,
        "compiler_type": "neuronx-cc",
        "compiler_version": VERSION,
        "checkpoint_id": "local/tiny",
        "checkpoint_revision": None,
        "target": "trn1",
        "torch_dtype": "bfloat16",
        "tp_degree": 2,
    }
    for info in entry.keys.values():
        assert info.seconds > 0
        assert info.size > 0
        assert set(info.components) == {"compiler", "flags", "hlo", "environment", "host", "side_inputs"}
    counters = host.counters()
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) == 2
    counters.pop("waited", None)
    assert counters == {"miss_stored": 4, "upload_done": 4, "upload_entry_done": 1}


def test_an_entry_holds_nothing_private(make_member, shared):
    host = make_member("host")
    run(host, 0, 2, 2, options=(*RUN, "--set", f"weights={host.base}/secret"))
    for path, data in shared.files().items():
        if "0_REGISTRY" in path:
            assert str(host.base) not in data.decode()
            assert "<path>" in data.decode()
            assert os.uname().nodename not in data.decode()


def test_environment_variables_say_the_same_as_options(make_member, shared):
    host = make_member("host")
    run(host, 0, 2, 2)
    before = shared.files()
    variables = {"": host.work / "tiny", "_BATCH_SIZE": 1, "_SEQUENCE_LENGTH": 128, "_NUM_CORES": 2}
    said = {"NEURON_STORE_MODEL" + name: value for name, value in variables.items()}
    same = ("--target=trn1", "--output=o.neff")
    host.cc("compile", host.model("m0.pb", b"\x0a\x04main 0"), *same, **said)
    assert len(list(all_contexts(host.layout))) == 1
    host.cc("compile", host.model("new.pb", b"\x0a\x04main new"), *same, **said)
    wait_for(lambda: host.counters().get("upload_entry_done") == 2)
    (old, new) = (
        {entry.name: set(entry.keys) for entry in entries.values()}
        for entries in ({p: decode_entry(d, Place(p)) for p, d in before.items() if "REGISTRY" in p}, shared.entries())
    )
    assert old.keys() == new.keys()
    assert [len(new[name] - old[name]) for name in old] == [1]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_of_hits_alone_registers_them_without_any_command(make_member, shared):
    host = make_member("host")
    run(host, 0, 3, 3, options=())
    said = {"NEURON_STORE_MODEL": host.work / "tiny", "NEURON_STORE_MODEL_BATCH_SIZE": "8"}
    for number in range(3):
        host.cc("compile", f"m{number}.pb", "--target=trn1", "--output=o.neff", **said)
    wait_for(lambda: host.counters().get("upload_entry_done") == 2)
    entries = shared.entries().values()
    assert {entry.neuron["batch_size"] for entry in entries} == {None, 8}
    assert all(list(entry.keys) == list(all_keys(host.layout)) for entry in entries)


def test_what_optimum_neuron_cannot_list_is_filed_where_it_does_not_look(make_member, shared):
    host = make_member("host")
    run(host, 0, 1, 1, options=("--batch-size", 1))
    (entry,) = {entry.name: entry for entry in shared.entries().values()}.values()
    digests = {Place(path).digest for path in shared.entries()} - {""}
    assert digests == {own_digest(entry.config)}
    assert digests < entry.digests


def test_without_a_model_a_run_registers_nothing(make_member, shared):
    host = make_member("host")
    host.cli("run", "--", sys.executable, "job.py", 0, 2, 2)
    assert shared.entries() == {}
    assert host.counters() == {"miss_stored": 2, "upload_done": 2}


def test_another_compiler_version_is_another_entry(make_member, shared):
    host = make_member("host")
    run(host, 0, 1, 1)
    other = host.base / "other"
    standin = Path(str(host.compiler))
    text = standin.read_text().replace(VERSION, "2.15.0.0+abcdef01")
    assert text != standin.read_text()
    other.mkdir()
    (other / "neuronx-cc").write_text(text)
    (other / "neuronx-cc").chmod(0o755)
    run(host, 0, 1, 1, NEURON_STORE_COMPILER=other / "neuronx-cc")
    found = {entry.neuron["compiler_version"]: len(entry.keys) for entry in shared.entries().values()}
    assert found == {VERSION: 1, "2.15.0.0+abcdef01": 1}


def test_a_command_that_compiles_nothing_registers_nothing(make_member, shared):
    host = make_member("host")
    said = host.cli("run", "-m", "tiny", "--", "true").stderr
    assert "registered" not in said
    assert shared.files() == {}


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "said"), [
    (("-m", "missing-folder/"), "missing-folder"),
    (("-m", "acme/unknown"), "acme/unknown"),
    (("-m", "tiny", "--set", "novalue"), "name=value"),
    (("--batch-size", "2"), "-m"),
    (("-m", "tiny", "--auto-cast-type", "bf17"), "bf17"),
])  # fmt: skip
def test_a_model_that_is_none_is_told_before_anything_runs(make_member, options, said):
    host = make_member("host")
    done = host.cli("run", *options, "--", "touch", "ran", check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (host.work / "ran").exists()


def test_a_model_named_in_the_environment_that_is_none_costs_only_its_entry(make_member, shared):
    host = make_member("host")
    for number in range(2):
        model = host.model(f"m{number}.pb", b"\x0a\x04main %d" % number)
        host.cc("compile", model, *FLAGS, NEURON_STORE_MODEL=host.work / "gone")
    wait_for(lambda: "upload_entry_dropped" in host.counters())
    wait_for(lambda: host.counters().get("upload_done") == 2)
    assert shared.entries() == {}
    assert "there is no" in host.log_file.read_text()


def test_a_hub_that_does_not_tell_what_the_model_is_is_asked_later(make_member, shared, hub):
    host = make_member("host")
    host.model("m.pb")
    compile_it = ("--", "neuronx-cc", "compile", "m.pb", *FLAGS)
    done = host.cli("run", "--push-timeout", 5, "-m", "acme/tiny", *compile_it, HF_ENDPOINT="http://127.0.0.1:9")
    assert "the keys are kept until" in done.stderr
    status = json.loads(host.cli("remote", "status", "--json").stdout)["remotes"][0]
    assert status["unregistered"] == 1
    if not shared.hub:  # else the results are what waits
        assert "acme/tiny" in status["unregistered_fault"]
    assert "the keys of 1 model wait" in host.cli("remote", "status").stdout
    hub.create_repo("acme/tiny")
    hub.put_file("acme/tiny", "config.json", json.dumps(CONFIG).encode())
    assert "registered 1 model entry" in host.cli("push").stdout
    (entry,) = {entry.name: entry for entry in shared.entries().values()}.values()
    assert entry.model_id == "acme/tiny"
    assert len(entry.neuron["checkpoint_revision"]) == 40


# -- many writers --------------------------------------------------------------------------------------------------


def test_sixty_four_processes_on_two_hosts_make_one_entry_with_the_union_of_their_keys(make_member, shared):
    hosts = [make_member(name) for name in ("first", "second")]
    runs = [
        threading.Thread(target=run, args=(host, 32 * number, 32 * number + 32, 40))
        for number, host in enumerate(hosts)
    ]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    entries = shared.entries()
    assert len({entry.name for entry in entries.values()}) == 1
    union = {key for host in hosts for key in all_keys(host.layout)}
    assert len(union) == 40
    for entry in entries.values():
        assert set(entry.keys) == union
    there = {os.path.basename(path).removesuffix(".json") for path in shared.files() if "0_RESULTS" in path}
    assert there == union


def add_word(word):
    return lambda _path, content: (content or b"") + word


def test_amending_from_many_processes_at_once_loses_nothing(make_member, shared):
    host = make_member("host")
    script = (
        "import sys, os, time, random\n"
        "from neuron_store.store.errors import RemoteConflict, RemoteUnavailable\n"
        "from neuron_store.store.layout import Layout\n"
        "from neuron_store.store.remotes.location import read_location\n"
        "from neuron_store.store.remotes.opening import RemoteOptions, open_remote\n"
        "remote = open_remote(read_location(sys.argv[1]), Layout(sys.argv[2]), os.environ, RemoteOptions(may_fork=False))[0]\n"
        "for number in range(3):\n"
        "    word = f'{sys.argv[3]}-{number} '.encode()\n"
        "    while True:\n"
        "        try:\n"
        "            remote.amend(['a/b.json', 'c.json'], 10000, lambda _path, content: (content or b'') + word, 'x')\n"
        "            break\n"
        "        except RemoteConflict:\n"
        "            time.sleep(random.uniform(0, 0.2))\n"
    )
    arguments = [sys.executable, "-c", script, shared.word, str(host.store)]
    writers = [subprocess.Popen([*arguments, str(number)], env=host.env) for number in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    expected = {f"{writer}-{number}" for writer in range(6) for number in range(3)}
    for path in ("a/b.json", "c.json"):
        words = shared.files()[path].decode().split()
        assert set(words) == expected
        # On the Hub both files are one commit; in a folder a conflict may let one of them be written twice.
        assert len(words) == 18 or shared.hub is None
    assert [path for path in shared.files() if ".neuron-store-" in path] == []


def test_amending_tells_what_changed_and_writes_nothing_else(make_member, shared):
    host = make_member("host")
    with shared.open(host) as remote:
        assert remote.amend(["a.json", "b.json"], 100, add_word(b"x"), "Begin") == ["a.json", "b.json"]
        before = len(shared.hub.commits("alice/cache")) if shared.hub else 0
        assert remote.amend(["a.json"], 100, lambda _path, content: content, "Nothing") == []
        assert remote.amend(["a.json"], 100, lambda _path, _content: None, "Nothing") == []
        assert remote.amend(["a.json", "b.json"], 100, lambda path, _: b"y" if path[0] == "b" else None, "One") == [
            "b.json"
        ]
        assert (len(shared.hub.commits("alice/cache")) if shared.hub else 1) == before + 1
        with pytest.raises(CorruptRemote):
            remote.amend(["a.json"], 0, add_word(b"x"), "Too large")
    assert shared.files() == {"a.json": b"x", "b.json": b"y"}


def test_a_commit_that_comes_between_is_a_conflict_on_the_hub(make_member, hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    host = make_member("host")
    location = read_location("hf://alice/cache")
    with closing(open_remote(location, host.layout, host.env, RemoteOptions(may_fork=False))[0]) as remote:

        def merge(_path, _content):
            hub.put_file("alice/cache", "other", b"x")
            return b"mine"

        with pytest.raises(RemoteConflict):
            remote.amend(["a.json"], 100, merge, "Lose")
    assert "a.json" not in hub.files("alice/cache")


def folder_remote(folder, host):
    return open_remote(read_location(f"file://{folder}"), host.layout, host.env, RemoteOptions(may_fork=False))[0]


def test_the_lock_of_a_writer_that_died_is_taken_over_when_it_is_old(host, tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    lock = folder / ".neuron-store-a.json.lock"
    lock.write_text("dead")
    monkeypatch.setattr(folder_module, "_LOCK_PATIENCE", 0.3)
    remote = folder_remote(folder, host)
    with pytest.raises(RemoteConflict, match="another host"):
        remote.amend(["a.json"], 100, add_word(b"x"), "Wait")
    old = time.time() - 100
    os.utime(lock, (old, old))
    assert remote.amend(["a.json"], 100, add_word(b"x"), "Take over") == ["a.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.json"]


def test_whoever_was_taken_for_dead_writes_nothing(host, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()

    def merge(_path, _content):
        (folder / ".neuron-store-a.json.lock").write_text("another's")
        return b"late"

    with pytest.raises(RemoteConflict, match="took over"):
        folder_remote(folder, host).amend(["a.json"], 100, merge, "Late")
    assert not (folder / "a.json").exists()
    assert (folder / ".neuron-store-a.json.lock").read_text() == "another's"


def test_a_folder_that_cannot_be_written_says_so(host, tmp_path):
    with pytest.raises(RemoteError):
        folder_remote(tmp_path / "missing", host).amend(["a.json"], 100, add_word(b"x"), "No")


def test_what_lies_in_a_folder_of_a_remote(make_member, shared):
    host = make_member("host")
    with shared.open(host) as remote:
        remote.amend(["a/b/c.json", "a/d.json", "e.json"], 100, add_word(b"x"), "Begin")
        assert remote.listing("a") == ["b", "d.json"]
        assert remote.listing("a/b") == ["c.json"]
        assert remote.listing("missing") == []


def test_an_entry_that_cannot_be_believed_is_replaced_by_ours(make_member, shared):
    host = make_member("host")
    run(host, 0, 2, 2)
    for path in shared.entries():
        if shared.hub:
            shared.hub.overwrite("alice/cache", path, b"{not an entry")
        else:
            (shared.folder / path).write_bytes(b"{not an entry")
    run(host, 2, 3, 3)
    assert {len(entry.keys) for entry in shared.entries().values()} == {3}


def test_a_run_that_ended_early_is_no_promise_until_one_ends_well(make_member, shared):
    host = make_member("host")
    compile_it = f"{sys.executable} job.py 0 2 2"
    done = host.cli("run", "-m", "tiny", *RUN, "--", "sh", "-c", f"{compile_it}; exit 9", check=False)
    assert done.returncode == 9
    assert not any(entry.is_finished for entry in shared.entries().values())
    reserve = "2 of 2 keys: no compile will happen, unless the run that was recorded ended early\n"
    assert reserve in host.cli("lookup", "tiny").stdout
    assert "registered 1 model entry" in run(host, 0, 2, 2).stderr
    assert all(entry.is_finished for entry in shared.entries().values())
    assert "2 of 2 keys: no compile will happen\n" in host.cli("lookup", "tiny").stdout


def test_what_was_collected_from_a_remote_is_registered_again_by_who_compiles_it_again(make_member, shared):
    host = make_member("host")
    run(host, 0, 2, 2)
    before = shared.entries()
    host.cli("gc", "--remote", "--model", "local/tiny", "--yes")
    assert shared.files() == {}
    host.cli("clear", "--yes")
    assert "2 misses" in run(host, 0, 2, 2).stderr
    assert shared.entries().keys() == before.keys()
    assert len([path for path in shared.files() if "0_RESULTS" in path]) == 2
