"""Attacks on the registry: damaged contexts, hostile entries, faults and kills cost no key and hold up no result."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from loopback_hub import Stall, Status

from neuron_store.store.errors import RemoteConflict
from neuron_store.store.registry.contexts import Context, all_contexts
from neuron_store.store.registry.entries import LARGEST_ENTRY, Entry, KeyInfo, decode_entry
from neuron_store.store.registry.places import Place
from neuron_store.store.registry.registrar import Registrar
from neuron_store.store.remotes import folder as folder_module
from neuron_store.store.remotes.folder import FolderRemote
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.state import RemoteState

VERSION = "2.14.227.0+2d4f85be"
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64}
FLAGS = ("--target=trn1", "--output=o.neff")
PLACE = Place("neuronxcc-2.21.33363.0+82129205/0_REGISTRY/0.4.5/llama/acme/tiny/d8170bbfa9e58e1bf5f0.json")
HUB = "hf://alice/cache"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "shared"
    made.mkdir()
    return made


def use(host, word, hub=None):
    """Make `word` the host's remote; only commands upload."""
    host.use_remotes(word, hub=hub)
    host.env["NEURON_STORE_UPLOAD"] = "0"
    return host


@pytest.fixture
def member(host, folder):
    return use(host, f"file://{folder}")


@pytest.fixture
def hub_member(host, hub):
    return use(host, HUB, hub)


def put_model(host, name="tiny", config=CONFIG):
    folder = host.work / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def compile_one(host, number=0, model=None, name="", **extra):
    said = {"NEURON_STORE_MODEL": model, "NEURON_STORE_MODEL_BATCH_SIZE": "1"} if model else {}
    file = host.model(name or f"m{number}.pb", b"\x0a\x04main %d" % number)
    return host.cc("compile", file, *FLAGS, **{**said, **extra})


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries_in(files):
    """The entries under their models' names; every other copy must be the same."""
    found = {
        path: data
        for path, data in files.items()
        if "0_REGISTRY" in path and "/.neuron-store-" not in path  # what a killed writer left
    }
    named = {path: data for path, data in found.items() if not Place(path).digest}
    assert set(found.values()) <= set(named.values())
    return {path: decode_entry(data, Place(path)) for path, data in named.items()}


def registered(folder):
    return {key for entry in entries_in(files_in(folder)).values() for key in entry.keys}


def registry_text(folder):
    return "".join(path + data.decode() for path, data in files_in(folder).items() if "0_REGISTRY" in path)


def results(folder):
    return [path for path in files_in(folder) if "0_RESULTS" in path]


def wait_until(condition, seconds=8):
    """Wait for what a process in the background does; whoever calls looks whether it has."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)


def only_context(host):
    (context,) = all_contexts(host.layout)
    return context


def only_key(context):
    (key,) = context.noted_keys()
    return key


# -- what is written can be read back ------------------------------------------------------------------------------


def make_entry(keys, uncached=None):
    return Entry("acme/tiny", "text-generation", CONFIG, {"task": "text-generation"}, keys, uncached, ())


def names(first, count):
    return [f"{number:032x}" for number in range(first, first + count)]


def test_compiles_without_a_key_of_many_hosts_leave_the_entry_readable():
    first = make_entry({names(1, 1)[0]: KeyInfo()}, {"pass_file_option": set(names(1000, 700))})
    second = make_entry({names(2, 1)[0]: KeyInfo()}, {"pass_file_option": set(names(5000, 700))})
    merged = decode_entry(first.merged_with(second).encode(), PLACE)
    assert list(merged.keys) == names(1, 2)


def test_keys_of_many_hosts_leave_the_entry_readable():
    first, second = (make_entry(dict.fromkeys(names(at, 12_000), KeyInfo())) for at in (1, 20_000))
    data = first.merged_with(second).encode()
    assert len(data) < LARGEST_ENTRY
    decode_entry(data, PLACE)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-5.000", "1e300"])
def test_a_damaged_note_of_a_key_leaves_the_entry_readable(member, folder, seconds):
    compile_one(member, 0, put_model(member))
    context = only_context(member)
    key = only_key(context)
    Path(context.path("keys", key)).write_text(f"{VERSION}\n{seconds}\nm.pb\n")
    member.cli("push")
    assert registered(folder) == {key}


def test_a_strange_file_among_what_has_no_key_leaves_the_entry_readable(member, folder):
    compile_one(member, 0, put_model(member))
    context = only_context(member)
    os.makedirs(context.path("uncached"))
    Path(context.path("uncached", "what is this." + "0" * 32)).touch()
    member.cli("push")
    assert registered(folder) == {only_key(context)}


def test_a_setting_cannot_stand_in_for_our_own_field(member, folder):
    model = put_model(member)
    more = 'neuron_store={"format":1,"keys":{},"uncached":{},"digests":[]}'
    for number in range(2):
        compile_one(member, number, model, NEURON_STORE_MODEL_SET=more)
        assert "neuron_store is found out, and cannot be said" in member.cli("push", check=False).stderr
    assert registered(folder) == set()
    assert len(results(folder)) == 2


def test_an_entry_of_a_later_format_is_not_overwritten(member, folder):
    model = put_model(member)
    compile_one(member, 0, model)
    member.cli("push")
    (path,) = entries_in(files_in(folder))
    document = json.loads((folder / path).read_bytes())
    document["neuron_store"] = {"format": 2, "bundles": ["of a later release"]}
    (folder / path).write_text(json.dumps(document))
    compile_one(member, 1, model)
    member.cli("push", check=False)
    assert "of a later release" in (folder / path).read_text()


def test_keys_that_a_full_entry_does_not_take_are_counted(member, folder):
    model = put_model(member)
    compile_one(member, 0, model)
    member.cli("push")
    ((path, entry),) = entries_in(files_in(folder)).items()
    components = dict.fromkeys(("a", "b", "c", "d", "e", "f"), "0" * 32)
    plain = len(entry.encode())
    entry.keys["0" * 32] = KeyInfo(1.0, 1, "m", components)
    each = len(entry.encode()) - plain
    for key in names(1, (LARGEST_ENTRY - plain) // each - 1):
        entry.keys[key] = KeyInfo(1.0, 1, "m", components)
    data = entry.encode()
    assert LARGEST_ENTRY - 1000 < len(data) <= LARGEST_ENTRY
    (folder / path).write_bytes(data)
    compile_one(member, 1, model, name="x" * 200 + ".pb")
    compile_one(member, 2, model, name="y" * 200 + ".pb")
    done = member.cli("push", check=False)
    assert "upload_entry_dropped" in member.counters() or done.returncode


# -- one context's faults are its own ------------------------------------------------------------------------------


def damage_key(context):
    path = context.path("keys", only_key(context))
    os.unlink(path)
    os.mkdir(path)


def damage_model(context):
    context.write("model.json", b"[" * 100_000)


@pytest.mark.parametrize("damage", [damage_key, damage_model])
def test_a_damaged_context_keeps_no_other_from_being_registered(member, folder, damage):
    compile_one(member, 0, put_model(member))
    damage(only_context(member))
    compile_one(member, 1, put_model(member, "other", {**CONFIG, "hidden_size": 32}))
    member.cli("push", check=False)
    assert "local/other" in {entry.model_id for entry in entries_in(files_in(folder)).values()}


@pytest.mark.parametrize("content", [b"", b"\xff\x00{", b"[]", b'{"model_id": 5}', b'{"release": "0.4.5"}'])
def test_a_damaged_memory_of_the_model_is_found_out_again(member, folder, content):
    compile_one(member, 0, put_model(member))
    only_context(member).write("model.json", content)
    member.cli("push")
    assert {entry.model_id for entry in entries_in(files_in(folder)).values()} == {"local/tiny"}


def test_a_context_that_cannot_be_listed_holds_up_no_result(member, folder):
    compile_one(member, 0, put_model(member))
    keys = Path(only_context(member).path("keys"))
    (keys / only_key(only_context(member))).unlink()
    keys.rmdir()
    keys.symlink_to("keys")
    member.cli("push", check=False)
    assert len(results(folder)) == 1


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_torn_context_is_whole_again_after_the_next_run(member, folder, content):
    model = put_model(member)
    compile_one(member, 0, model)
    Path(only_context(member).path("context")).write_bytes(content)
    compile_one(member, 1, model)
    member.cli("push", check=False)
    assert len(registered(folder)) == 2


# -- an answer that may change is not the last one -----------------------------------------------------------------


def test_a_private_model_is_registered_once_there_is_a_token(host, folder, hub):
    use(host, f"file://{folder}")
    host.env["HF_ENDPOINT"] = hub.endpoint
    hub.create_repo("alice/secret", private=True)
    hub.put_file("alice/secret", "config.json", json.dumps(CONFIG).encode())
    compile_one(host, 0, "alice/secret")
    host.cli("push", check=False)
    compile_it = ("--", "neuronx-cc", "compile", "m0.pb", *FLAGS)
    host.cli("run", "-m", "alice/secret", "--batch-size", 1, *compile_it, HF_TOKEN="hf_alice")
    host.cli("push", check=False, HF_TOKEN="hf_alice")
    assert len(registered(folder)) == 1


def test_a_model_that_comes_back_is_registered(member, folder):
    model = put_model(member)
    compile_one(member, 0, model)
    model.rename(member.work / "away")
    member.cli("push", check=False)
    (member.work / "away").rename(model)
    member.cli("push", check=False)
    assert len(registered(folder)) == 1


def test_known_hits_publish_what_a_killed_uploader_left(host, folder):
    use(host, f"file://{folder}")
    model = put_model(host)
    compile_one(host, 0, model)
    ago = time.time() - 100
    os.utime(host.store / "contexts/.waiting", (ago, ago))
    compile_one(host, 0, model, NEURON_STORE_UPLOAD="1")
    wait_until(lambda: registered(folder))
    assert len(registered(folder)) == 1


# -- results are never held up -------------------------------------------------------------------------------------


def spoil_by_size(path):
    path.write_bytes(b" " * (LARGEST_ENTRY + 1))


def spoil_by_kind(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil_by_size, spoil_by_kind])
def test_an_entry_that_cannot_be_read_holds_up_no_result(member, folder, spoil):
    model = put_model(member)
    compile_one(member, 0, model)
    member.cli("push")
    for path in entries_in(files_in(folder)):
        spoil(folder / path)
    compile_one(member, 1, model)
    member.cli("push", check=False)
    compile_one(member, 2)
    uploader = subprocess.Popen([sys.executable, "-m", "neuron_store.cli", "upload-queue"], env=member.env)
    wait_until(lambda: len(results(folder)) == 3)
    uploader.kill()
    uploader.wait()
    assert len(results(folder)) == 3


def test_conflicts_cost_no_commit_of_the_hour(hub_member, hub):
    compile_one(hub_member, 0, put_model(hub_member))
    hub.fail("commit", Status(412), times=3, after=1)
    hub_member.cli("push")
    with closing(open_remote(read_location(HUB), hub_member.layout, hub_member.env, RemoteOptions())[0]) as remote:
        state = RemoteState(hub_member.layout, remote.identity, remote.url)
    assert len(hub.commits("alice/cache")) == 2
    assert len(state.commits_in_hour()) == 2


def test_an_earlier_failure_of_reading_keeps_no_entry_from_being_published(hub_member, hub):
    compile_one(hub_member, 0, put_model(hub_member))
    with closing(open_remote(read_location(HUB), hub_member.layout, hub_member.env, RemoteOptions())[0]) as remote:
        RemoteState(hub_member.layout, remote.identity, remote.url).note_failure(RuntimeError("it was down"))
    hub.fail("resolve", Stall(0.6), times=None, path="0_REGISTRY")
    hub_member.cli("push", check=False)
    assert len(entries_in(hub.files("alice/cache"))) == 1


def test_what_was_published_is_done_whatever_the_clock_of_the_file_system_says(host, folder):
    context = Context(host.layout, {"NEURON_STORE_MODEL": "acme/tiny"})
    context.begin()
    skewed = time.time() + 1000
    remote = FolderRemote(str(folder), writable=True)
    registrar = Registrar(host.layout, lambda _context: [], lambda *_told: None)
    for key in names(1, 2):
        host.layout.write_file(context.path("keys", key), b"")
        os.utime(context.path("keys"), (skewed, skewed))  # both in one tick of a clock that is not ours
        assert registrar.waiting(remote.identity) == 1
    registrar.publish(remote)
    assert registrar.waiting(remote.identity) == 0


# -- a shared folder -----------------------------------------------------------------------------------------------

AMEND = """
import sys
from neuron_store.store.errors import RemoteConflict
from neuron_store.store.remotes import folder
folder._LOCK_PATIENCE = 0.3
try:
    folder.FolderRemote(sys.argv[1], writable=True).amend(["a.json"], 100, lambda _path, _content: b"x", "Amend")
except RemoteConflict:
    pass
"""


def test_a_lock_that_cannot_be_removed_is_given_up(host, folder):
    lock = folder / ".neuron-store-a.json.lock"
    lock.mkdir()  # as little to be unlinked as another user's in a sticky folder
    os.utime(lock, (1, 1))
    subprocess.run([sys.executable, "-c", AMEND, folder], env=host.env, timeout=5, check=True)


def test_a_dead_lock_from_the_future_is_taken_over(folder, monkeypatch):
    lock = folder / ".neuron-store-a.json.lock"
    lock.write_text("dead")
    future = time.time() + 100_000
    os.utime(lock, (future, future))
    monkeypatch.setattr(folder_module, "_LOCK_AGE", 0.2)
    monkeypatch.setattr(folder_module, "_LOCK_PATIENCE", 1.5)
    remote = FolderRemote(str(folder), writable=True)
    try:
        changed = remote.amend(["a.json"], 100, lambda _path, _content: b"x", "Take over")
    except RemoteConflict:
        changed = []
    assert changed == ["a.json"]


# -- nothing private -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    {"text_config": {"_name_or_path": "/home/carolina/llama"}}, {"tokenizer_path": "/data/carolina/tokenizer"},
])  # fmt: skip
def test_no_path_in_a_configuration_leaves_the_host(member, folder, config):
    compile_one(member, 0, put_model(member, config={**CONFIG, **config}))
    member.cli("push")
    assert registered(folder)
    assert "carolina" not in registry_text(folder)


@pytest.mark.parametrize("more", [
    'paths=["/home/carolina/x"]', 'more={"from":"/home/carolina/x"}', "password=carolina-was-here",
])  # fmt: skip
def test_nothing_private_in_a_setting_leaves_the_host(member, folder, more):
    compile_one(member, 0, put_model(member), NEURON_STORE_MODEL_SET=more)
    member.cli("push")
    assert registered(folder)
    assert "carolina" not in registry_text(folder)


def test_a_folder_with_the_users_name_leaves_it_out_of_the_models_id(member, folder):
    compile_one(member, 0, put_model(member, "carolina"))
    member.cli("push", USER="carolina")
    assert registered(folder)
    assert "carolina" not in registry_text(folder)


def test_another_user_who_publishes_leaves_the_names_of_the_first_out(member, folder):
    compile_one(member, 0, put_model(member), name="carolina.pb", USER="carolina")
    member.cli("push", USER="bob")
    assert registered(folder)
    assert "carolina" not in "".join(map(str, files_in(folder).items()))


# -- the environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [
    {"NEURON_STORE_MODEL": "\udcff\udc80/x"}, {"NEURON_STORE_MODEL": "a/b\n/etc"}, {"NEURON_STORE_MODEL": "a" * 100_000},
    {"NEURON_STORE_MODEL": "acme/tiny", "NEURON_STORE_MODEL_\udcff\n\x1b[31m": "\udcfe\n"},
    {"NEURON_STORE_MODEL": "acme/tiny", **{f"NEURON_STORE_MODEL_{number}": "x" for number in range(10_000)}},
])  # fmt: skip
def test_no_environment_keeps_a_hit_or_an_upload_from_happening(member, folder, extra):
    compile_one(member, 0)
    compile_one(member, 0, **extra)
    assert member.counters() == {"miss_stored": 1, "hit_direct": 1}
    member.cli("push", HF_ENDPOINT="http://127.0.0.1:9", check=False)
    assert len(results(folder)) == 1
    assert registered(folder) == set()


def test_what_is_logged_of_unknown_variables_is_short_and_plain(member):
    extra = {f"NEURON_STORE_MODEL_{number}\x1b[31m": "x" for number in range(10_000)}
    compile_one(member, 0, put_model(member), **extra)
    said = member.cli("push", check=False).stderr
    assert "and 9995 more is not known" in said
    assert "\x1b" not in said
    logged = member.log_file.read_text()
    assert len(logged) < 10_000
    assert "\x1b" not in logged


# -- what `run` does and says --------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_keeps_no_command_from_running(host):
    host.store.write_text("not a folder")
    put_model(host)
    assert host.cli("run", "-m", "tiny", "--", "sh", "-c", "exit 7", check=False).returncode == 7


@pytest.mark.parametrize("extra", [{"STANDIN_EXIT": 3}, {"NEURON_STORE_MODEL_TYPO": "x"}])
def test_a_run_says_that_it_registered_only_what_it_did(member, folder, extra):
    member.model("m.pb")
    said = {"NEURON_STORE_MODEL": put_model(member), "NEURON_STORE_UPLOAD": "1", **extra}
    done = member.cli("run", "--", "neuronx-cc", "compile", "m.pb", *FLAGS, check=False, **said)
    assert registered(folder) == set()
    assert "registered 1" not in done.stderr


# -- faults and kills ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("code", [400, 409, 412, 429, 500])
def test_a_fault_of_a_commit_loses_no_key_and_commits_nothing_twice(hub_member, hub, code, when):
    model = put_model(hub_member)
    compile_one(hub_member, 0, model)
    hub_member.cli("push")
    compile_one(hub_member, 1, model)
    fault = hub.fail("commit", Status(code, when=when), after=1)  # the first is of the result
    hub_member.cli("push")
    assert fault.applied == 1
    (entry,) = entries_in(hub.files("alice/cache")).values()
    assert len(entry.keys) == 2
    before = len(hub.commits("alice/cache"))
    assert before == 4  # a result and an entry, twice
    hub_member.cli("push")
    assert len(hub.commits("alice/cache")) == before


def test_an_entry_that_is_there_after_a_lost_answer_is_counted(hub_member, hub):
    compile_one(hub_member, 0, put_model(hub_member))
    hub.fail("commit", Status(500, when="after"), after=1)
    hub_member.cli("push")
    assert len(entries_in(hub.files("alice/cache"))) == 1
    assert [name for name in hub_member.counters() if name.startswith("upload_entry_")]


@pytest.mark.parametrize("kind", ["hf", "file"])
def test_pushes_that_are_killed_at_any_moment_lose_no_key(host, folder, hub, kind):
    use(host, HUB if kind == "hf" else f"file://{folder}", hub)
    model, moments = put_model(host), random.Random(7)
    for number in range(7):
        compile_one(host, number, model)
        push = subprocess.Popen([sys.executable, "-m", "neuron_store.cli", "push"], env=host.env, stdout=-3, stderr=-3)
        time.sleep(moments.uniform(0.2, 0.8))
        push.kill()
        push.wait()
    for lock in folder.rglob(".neuron-store-*.lock"):
        os.utime(lock, (1, 1))
    host.cli("push")
    files = hub.files("alice/cache") if kind == "hf" else files_in(folder)
    assert {len(entry.keys) for path, entry in entries_in(files).items()} == {7}


def test_a_remote_that_refuses_keeps_no_key_from_the_other_nor_from_itself_later(host, folder, hub):
    hub.add_user("eve", "hf_eve", role="read")
    use(host, f"{HUB} file://{folder}", hub)
    compile_one(host, 0, put_model(host))
    assert host.cli("push", check=False, HF_TOKEN="hf_eve").returncode == 1
    assert len(registered(folder)) == 1
    assert entries_in(hub.files("alice/cache")) == {}
    host.cli("push")
    assert len(entries_in(hub.files("alice/cache"))) == 1
