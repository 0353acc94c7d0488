"""`gc --remote`: what is old goes from a Hub repo or a folder, once it has been shown what that is."""

import functools
import json
import subprocess
import sys
import threading
import time

import pytest
from cli_remotes import answer, connect, ns
from conftest import VERSION
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_hub import Body, Drop, Stall, Status
from registry_setup import MODEL, files_of, make_entry, put
from remote_results import (
    DAY,
    OLD_VERSION,
    OLDER_VERSION,
    add_remote,
    blobs_named,
    blobs_on,
    dangling,
    files_of_result,
    keys_on,
    make_result,
)
from remote_setup import SAME, compile_on, publish
from uploads import MemoryRemote, make_key, make_uploader, open_hub

from neuron_store.store.collection.limits import Limits
from neuron_store.store.collection.pins import pin_key, pin_model
from neuron_store.store.collection.remote_collector import Patience, RemoteCollector
from neuron_store.store.collection.remote_inventory import RemoteReader
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue
from neuron_store.store.registry.entries import KeyInfo
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.state import RemoteState

REPO = "alice/cache"
OLDER = ("--older-than", "30d")


@pytest.fixture
def there(host, hub):
    return connect(host, hub)


def gc(host, *arguments, **extra):
    return answer(host, "gc", "--remote", *arguments, **extra)


def removed(told):
    return {reason: each["count"] for reason, each in told["removed"].items()}


def entry_for(*keys, model=MODEL):
    return make_entry(model, keys={key: KeyInfo(1.0, 1000, "module.pb") for key in keys})


def test_without_yes_nothing_is_removed(there, hub):
    add_remote(hub, 1, 2, age=40 * DAY)
    add_remote(hub, 3)
    before, commits = hub.files(REPO), len(hub.commits(REPO))
    told = gc(there, *OLDER)
    assert told["dry_run"]
    assert removed(told) == {"age": 2}
    assert told["files"] == {"record": 2, "blob": 2, "entry": 0}
    assert gc(there, *OLDER, "--yes", "--dry-run") == told
    said = ns(there, "gc", "--remote", *OLDER)
    assert "results that are too old" in said.stdout
    assert "--yes does it" in said.stderr
    assert hub.files(REPO) == before
    assert len(hub.commits(REPO)) == commits


def test_what_is_foretold_is_what_goes(there, hub):
    add_remote(hub, 1, 2, age=40 * DAY)
    add_remote(hub, 1000, age=50 * DAY, version=OLD_VERSION)
    (stays,) = add_remote(hub, 3)
    told = gc(there, *OLDER)
    before = sum(map(len, hub.files(REPO).values()))
    done = gc(there, *OLDER, "--yes")
    assert {**done, "dry_run": True, "commits": 0} == told
    assert done["commits"] == 1
    assert done["freed_bytes"] == before - sum(map(len, hub.files(REPO).values()))
    assert keys_on(hub.files(REPO)) == {stays}
    assert len(blobs_on(hub.files(REPO))) == 1
    assert not dangling(hub.files(REPO))
    assert hub.commits(REPO)[-1].message == "Remove 3 results, 3 blobs of 2 compiler versions"


def test_a_shared_blob_stays_with_the_last_that_names_it(there, hub):
    add_remote(hub, 1, age=40 * DAY, neff=b"shared" * 1000)
    add_remote(hub, 2, neff=b"shared" * 1000)
    assert gc(there, *OLDER, "--yes")["files"] == {"record": 1, "blob": 0, "entry": 0}
    assert keys_on(hub.files(REPO)) == {make_key(2)}
    assert not dangling(hub.files(REPO))


def test_the_compilers_with_the_newest_results_are_kept(there, hub):
    add_remote(hub, 1, age=3 * DAY)
    add_remote(hub, 2, age=20 * DAY, version=OLD_VERSION)
    add_remote(hub, 3, 4, age=30 * DAY, version=OLDER_VERSION)
    told = gc(there, "--keep-compilers", 2, "--yes")
    assert removed(told) == {"compiler": 2}
    assert told["versions"][OLDER_VERSION]["going"] == 2
    assert keys_on(hub.files(REPO)) == {make_key(1), make_key(2)}


@pytest.mark.parametrize(
    ("limit", "stay"),
    [
        (("--max-count", 2), {1, 2}),
        (("--max-size", "6500"), {1}),
        (("--compiler", "2.13"), {1, 2}),
        (("--compiler", "2.13", "--max-count", 1), {1, 2, 3}),
    ],
)
def test_other_limits(there, hub, limit, stay):
    for number in (1, 2):
        add_remote(hub, number, age=number * DAY)
    for number in (3, 4):
        add_remote(hub, number, age=number * DAY, version=OLD_VERSION)
    gc(there, *limit, "--yes")
    assert keys_on(hub.files(REPO)) == {make_key(number) for number in stay}
    assert not dangling(hub.files(REPO))


def test_the_limits_of_the_local_store_are_not_a_remotes(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    assert removed(gc(there, "--yes", NEURON_STORE_MAX_AGE="1d", NEURON_STORE_MAX_COUNT=0)) == {}


def test_blobs_that_no_result_names_go_after_a_day(there, hub):
    files = files_of_result(1)
    hub.put_files(REPO, {path: data for path, data in files.items() if path in blobs_on(files)})
    told = gc(there, "--yes")
    assert (removed(told), told["young_blobs"]) == ({}, 1)
    hub.age(REPO, 2 * DAY)
    told = gc(there, "--yes")
    assert (removed(told), told["young_blobs"]) == ({"unnamed_blobs": 1}, 0)
    assert hub.files(REPO) == {}


def test_stock_entries_and_other_files_stay(there, hub):
    others = {
        f"neuronxcc-{OLD_VERSION}/MODULE_1234567890+abcdef01/model.neff": b"neff\0",
        f"neuronxcc-{OLD_VERSION}/MODULE_1234567890+abcdef01/model.done": b"",
        f"neuronxcc-{OLD_VERSION}/0_REGISTRY/README": b"text",
        "README.md": b"text",
    }
    hub.put_files(REPO, others)
    add_remote(hub, 1, age=40 * DAY, version=OLD_VERSION)
    hub.age(REPO, 40 * DAY)
    told = gc(there, *OLDER, "--yes")
    assert removed(told) == {"age": 1}
    assert told["versions"][OLD_VERSION]["others"] == 3
    assert hub.files(REPO) == others


# -- what a registry needs -------------------------------------------------------------------------------------------


def test_what_a_model_needs_stays_unless_it_is_asked_for(there, hub):
    one, _ = add_remote(hub, 1, 2, age=40 * DAY)
    put(hub, files_of(entry_for(one)))
    told = gc(there, *OLDER, "--yes")
    assert (removed(told), told["kept"]) == ({"age": 1}, {"registered": 1})
    assert keys_on(hub.files(REPO)) == {one}
    said = ns(there, "gc", "--remote", *OLDER).stderr
    assert "1 result stays: models of the registry need them" in said
    told = gc(there, *OLDER, "--yes", "--include-registered")
    assert removed(told) == {"registry_entries": 3, "age": 1}
    assert hub.files(REPO) == {}


def test_an_entry_stays_as_long_as_one_of_its_keys_does(there, hub):
    (old,) = add_remote(hub, 1, age=40 * DAY)
    (new,) = add_remote(hub, 2)
    entries = files_of(entry_for(old, new))
    put(hub, entries)
    told = gc(there, *OLDER, "--yes", "--include-registered")
    assert (removed(told), told["shortened_entries"]) == ({"age": 1}, len(entries))
    assert {path: data for path, data in hub.files(REPO).items() if "0_REGISTRY" in path} == entries


def test_entries_of_optimum_neuron_and_of_other_results_stay(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    entries = {**files_of(make_entry()), **files_of(entry_for(make_key(77), model="acme/elsewhere"))}
    put(hub, entries)
    assert removed(gc(there, *OLDER, "--yes", "--include-registered")) == {"age": 1}
    assert hub.files(REPO) == entries


def test_a_model_can_be_chosen_and_what_another_needs_stays(there, hub):
    one, two, three = add_remote(hub, 1, 2, 3)
    put(hub, files_of(entry_for(one, two)))
    put(hub, files_of(entry_for(two, model="acme/other")))
    told = gc(there, "--model", MODEL, "--yes")
    assert (removed(told), told["kept"]) == ({"selected": 1}, {"other_model": 1})
    assert keys_on(hub.files(REPO)) == {two, three}


def test_an_entry_of_a_later_version_protects_the_keys_in_it(there, hub):
    (key,) = add_remote(hub, 1, age=40 * DAY)
    entries = {path: data.replace(b'"format": 1', b'"format": 2') for path, data in files_of(entry_for(key)).items()}
    put(hub, entries)
    told = gc(there, *OLDER, "--yes", "--include-registered")
    assert (removed(told), told["kept"], told["unreadable"]) == ({}, {"registered": 1}, len(entries))


def test_pins_and_the_queue_of_this_host_protect(there, hub):
    pinned, queued, of_model, elsewhere = add_remote(hub, 1, 2, 3, 4, age=40 * DAY)
    put(hub, files_of(entry_for(of_model)))
    pin_key(there.layout, pinned)
    pin_model(there.layout, MODEL)
    environ = {**there.env, "HF_ENDPOINT": hub.endpoint}
    remote, _ = open_remote(read_location(f"hf://{REPO}"), there.layout, environ, RemoteOptions())
    enqueue(there.layout, remote.identity, queued)
    enqueue(there.layout, "0123456789abcdef", elsewhere)
    told = gc(there, *OLDER, "--yes", "--include-registered")
    assert (removed(told), told["kept"]) == ({"age": 1}, {"pinned": 2, "queued": 1})
    assert keys_on(hub.files(REPO)) == {pinned, queued, of_model}


def test_what_a_record_that_cannot_be_believed_names_stays(there, hub):
    files = files_of_result(1, age=40 * DAY)
    record = next(path for path in files if "/0_RESULTS/" in path)
    files[record] = files[record].replace(b"store record 1", b"store record 2")
    hub.put_files(REPO, files)
    hub.age(REPO, 40 * DAY)
    told = gc(there, *OLDER, "--yes")
    assert (removed(told), told["unreadable"]) == ({}, 1)
    assert hub.files(REPO) == files


def test_a_record_that_is_none_at_all_closes_its_folder(there, hub):
    files = files_of_result(1)
    blob = next(path for path in files if "/0_BLOBS/" in path)
    huge = f"neuronxcc-{blob.split('/')[0].removeprefix('neuronxcc-')}/0_RESULTS/ab/ab{'0' * 30}.json"
    held = {blob: files[blob], huge: b" " * (1 << 21)}
    hub.put_files(REPO, held)
    hub.age(REPO, 40 * DAY)
    assert removed(gc(there, "--yes")) == {}
    assert hub.files(REPO) == held


# -- commits ---------------------------------------------------------------------------------------------------------


def test_commits_are_bounded_and_blobs_go_after_their_records(there, hub):
    add_remote(hub, *range(350), age=40 * DAY, neff=None)
    commits = len(hub.commits(REPO))
    told = gc(there, *OLDER, "--yes")
    made = hub.commits(REPO)[commits:]
    assert told["commits"] == len(made) == 3
    assert [len(commit.deleted) for commit in made] == [300, 300, 100]
    for commit in made:
        assert not dangling(
            {path: hub._repo(REPO).content(file) for path, file in commit.files.items() if ".git" not in path}
        )
    assert hub.files(REPO) == {}


def test_a_result_that_comes_meanwhile_keeps_its_blob(there, hub):
    """Another host uploads a result that names a blob that is about to go."""
    add_remote(hub, 1, age=40 * DAY, neff=b"shared" * 1000)
    theirs = files_of_result(2, neff=b"shared" * 1000)
    record = {path: data for path, data in theirs.items() if "/0_RESULTS/" in path}
    handle = hub.do_commit

    def come_between(call, branch):
        hub.do_commit = handle
        hub.put_files(REPO, record)
        return handle(call, branch)

    hub.do_commit = come_between
    told = gc(there, *OLDER, "--yes")
    assert told["files"] == {"record": 1, "blob": 0, "entry": 0}
    assert hub.count("commit") == 2
    assert [request.status for request in hub.seen("commit")] == [412, 200]
    assert keys_on(hub.files(REPO)) == {make_key(2)}
    assert not dangling(hub.files(REPO))


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("tree", Status(500)),
        ("tree", Status(429, {"Retry-After": "0"})),
        ("info", Drop()),
        ("resolve", Status(500)),
        ("commit", Status(500)),
        ("commit", Status(500, when="after")),
        ("commit", Drop(when="after")),
        ("commit", Status(409)),
        ("commit", Status(429)),
    ],
)
def test_faults_are_sat_out(there, hub, kind, action):
    add_remote(hub, 1, 2, age=40 * DAY)
    (stays,) = add_remote(hub, 3)
    fault = hub.fail(kind, action, times=2 if kind != "commit" or "after" not in str(action) else 1)
    told = gc(there, *OLDER, "--yes")
    assert fault.applied
    assert removed(told) == {"age": 2}
    assert told["files"] == {"record": 2, "blob": 2, "entry": 0}
    assert keys_on(hub.files(REPO)) == {stays}
    assert len(blobs_on(hub.files(REPO))) == 1


def test_what_was_done_is_told_when_the_rest_cannot_be(there, hub):
    add_remote(hub, *range(350), age=40 * DAY)
    hub.commit_quota = 1
    done = ns(there, "gc", "--remote", *OLDER, "--yes", "--json", code=1)
    assert json.loads(done.stdout)["files"] == {"record": 300, "blob": 0, "entry": 0}
    assert "goes on with the rest" in done.stderr
    hub.commit_quota = None
    hub.age(REPO, 2 * DAY)
    assert gc(there, *OLDER, "--yes")["files"] == {"record": 50, "blob": 350, "entry": 0}
    assert hub.files(REPO) == {}


@pytest.mark.parametrize("commits", [0, 1])
def test_a_run_that_is_killed_leaves_nothing_broken_and_the_next_goes_on(there, hub, commits):
    """It is killed when a commit has landed, and it has not been told so."""
    add_remote(hub, *range(200), age=40 * DAY)
    (stays,) = add_remote(hub, 1000)
    hub.age(REPO, 40 * DAY)
    landed = len(hub.commits(REPO)) + commits + 1
    stall = hub.fail("commit", Stall(60.0), after=commits)
    command = [sys.executable, "-m", "neuron_store.cli", "gc", "--remote", *OLDER, "--yes"]
    running = subprocess.Popen(command, env=there.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(hub.commits(REPO)) < landed:
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    running.wait()
    stall.remove()
    assert not dangling(hub.files(REPO))
    gone = 300 if commits == 0 else 400
    told = gc(there, *OLDER, "--yes")
    assert sum(told["files"].values()) == 400 - gone
    assert keys_on(hub.files(REPO)) == {stays}
    assert len(blobs_on(hub.files(REPO))) == 1


def test_uploads_beside_collections_leave_no_result_without_its_blobs(hub, tmp_path):
    """One host uploads results that share their outputs; two others keep the repo at three results."""
    ended = threading.Event()
    faults = []

    def collect(name):
        remote, state = open_hub(Layout(str(tmp_path / name)), hub.endpoint, REPO, "hf_alice")
        patience = Patience(attempts=100, pause=0.01)
        reader = RemoteReader(remote, lambda paths, limit: [remote.read(path, limit) for path in paths])
        try:
            while not ended.is_set():
                limits = Limits(count=3)
                collector = RemoteCollector(
                    remote, state, Layout(str(tmp_path / name)), reader, limits, patience=patience
                )
                collector.run(collector.plan())
        except Exception as error:
            faults.append(error)
        finally:
            remote.close()

    threads = [threading.Thread(target=collect, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    layout = Layout(str(tmp_path / "store"))
    remote, _ = open_hub(layout, hub.endpoint, REPO, "hf_alice")
    try:
        for number in range(30):
            result = make_result(layout, number, age=1000 - number, neff=b"%d" % (number % 4) * 5000)
            enqueue(layout, remote.identity, result.key)
            make_uploader(layout, remote, most_results=2).run(0.0)
            assert not dangling(hub.files(REPO)), number
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        remote.close()
    assert not faults
    assert 1 <= len(keys_on(hub.files(REPO))) <= 3
    assert any(commit.message.startswith("Remove ") for commit in hub.commits(REPO))


# -- whatever a remote holds -----------------------------------------------------------------------------------------

VERSIONS = [VERSION, OLD_VERSION, OLDER_VERSION]
results_of_a_remote = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([1, 20, 40, 60])), max_size=8
)
some_limits = st.builds(
    Limits,
    age=st.sampled_from([None, 30 * DAY]),
    compilers=st.sampled_from([None, 1, 2]),
    count=st.sampled_from([None, 0, 2]),
    size=st.sampled_from([None, 0, 8000]),
    compiler=st.sampled_from(["", "2.13"]),
    model=st.sampled_from(["", MODEL]),
)


@functools.cache
def some_result(number, version, content, age):
    return files_of_result(number, version=VERSIONS[version], neff=b"%d" % content * 5000, age=age * DAY)


@given(
    held=results_of_a_remote,
    named=st.lists(st.sets(st.integers(0, 7), max_size=3), max_size=3),
    lost=st.sets(st.integers(0, 7), max_size=2),
    limits=some_limits,
    include=st.booleans(),
    last=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_far_it_gets_what_stays_is_whole(tmp_path, held, named, lost, limits, include, last):
    """Killed after any file, and run again, nothing that stays lacks a blob, and the same goes in the end."""
    remote = MemoryRemote()
    records = {}
    for number, (version, content, age) in enumerate(held):
        files = some_result(number, version, content, age)
        remote.files |= files
        records[number] = next(path for path in files if "/0_RESULTS/" in path)
    for number in lost & records.keys():
        del remote.files[records.pop(number)]
    entries = [
        files_of(
            entry_for(*(make_key(number) for number in sorted(numbers)), model=f"acme/m{place}" if place else MODEL)
        )
        for place, numbers in enumerate(named)
        if numbers
    ]
    for files in entries:
        remote.files |= files
    remote.files |= (others := {f"neuronxcc-{VERSION}/MODULE_123+abcdef01/model.neff": b"neff"})
    before = dict(remote.files)
    layout = Layout(str(tmp_path / "store"))

    def collector_of(held_by):
        reader = RemoteReader(held_by, lambda paths, limit: [held_by.read(path, limit) for path in paths])
        return RemoteCollector(
            held_by, RemoteState(layout, "0" * 16, ""), layout, reader, limits, include_registered=include
        )

    whole = collector_of(remote)
    foreseen = whole.plan()
    whole.run(whole.plan())
    after = dict(remote.files)
    assert before.keys() - after.keys() == foreseen.reasons.keys()
    assert not dangling(after)
    assert others.items() <= after.items()
    named_now = {blob for path in after if "/0_RESULTS/" in path for blob in blobs_named(path, after[path])}
    assert blobs_on(after) == named_now  # all of them are old enough
    for files in entries:
        keys = set(json.loads(next(iter(files.values())))["neuron_store"]["keys"])
        went = keys & (keys_on(before) - keys_on(after))
        assert (files.items() <= after.items()) == (not went or bool(keys & keys_on(after)))
        assert not went or include or limits.model

    killed = MemoryRemote()
    killed.files = dict(before)
    for path in list(foreseen.reasons)[:last]:
        del killed.files[path]
    assert not dangling(killed.files)
    again = collector_of(killed)
    again.run(again.plan())
    if not limits.model:  # whose entries may have gone, and with them what tells its results
        assert killed.files.keys() <= after.keys()
    assert not dangling(killed.files)


# -- looking ---------------------------------------------------------------------------------------------------------


def kept_file(host):
    (path,) = (host.store / "remotes").glob("*.records")
    return path


@pytest.mark.parametrize("spoil", [None, b"", b"1 " + b"0" * 32 + b"\n{}", "flip"])
def test_a_record_is_read_once_as_long_as_what_is_kept_of_it_is_whole(there, hub, spoil):
    add_remote(hub, 1, 2, 3, age=40 * DAY)
    told = gc(there, *OLDER)
    assert hub.count("resolve") == 3
    data = kept_file(there).read_bytes()
    if spoil is not None:
        kept_file(there).write_bytes(spoil if spoil != "flip" else data[:-9] + b"!" + data[-8:])
    assert gc(there, *OLDER) == told
    assert hub.count("resolve") == (3 if spoil is None else 6)
    assert kept_file(there).read_bytes() == data


def test_a_record_that_was_replaced_is_read_again(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    assert removed(gc(there, *OLDER)) == {"age": 1}
    add_remote(hub, 1, age=DAY)
    assert removed(gc(there, *OLDER)) == {}


def test_what_comes_to_another_compiler_meanwhile_is_not_looked_at(there, hub):
    add_remote(hub, 1, age=40 * DAY, version=OLD_VERSION)
    add_remote(hub, 2)
    commit = hub.do_commit

    def come_between(call, branch):
        hub.do_commit = commit
        add_remote(hub, 3)
        return commit(call, branch)

    hub.do_commit = come_between
    assert removed(gc(there, *OLDER, "--yes")) == {"age": 1}
    assert [request.status for request in hub.seen("commit")] == [412, 200]
    listings = [request.path for request in hub.seen("tree", path="recursive=[Tt1]")]
    assert [f"neuronxcc-{OLD_VERSION[:6]}" in path for path in listings] == [False, True]
    assert keys_on(hub.files(REPO)) == {make_key(2), make_key(3)}


def test_what_a_limit_asks_of_other_compilers_meanwhile_is_looked_at_there(there, hub):
    """A result that comes meanwhile makes another folder's go, where a shared blob has come, too."""
    add_remote(hub, 1, age=40 * DAY, version=OLD_VERSION)
    add_remote(hub, 2, age=30 * DAY, neff=b"shared" * 1000)
    add_remote(hub, 3, age=DAY, version=OLD_VERSION)
    commit = hub.do_commit

    def come_between(call, branch):
        hub.do_commit = commit
        add_remote(hub, 4, version=OLD_VERSION)
        add_remote(hub, 5, neff=b"shared" * 1000)
        return commit(call, branch)

    hub.do_commit = come_between
    gc(there, "--max-count", 2, "--yes")
    assert keys_on(hub.files(REPO)) == {make_key(4), make_key(5)}
    assert not dangling(hub.files(REPO))


# -- other hosts -----------------------------------------------------------------------------------------------------


def test_what_was_removed_is_a_miss_and_is_uploaded_again_by_who_compiles_it(host, make_host, hub):
    first, second = make_host("first"), make_host("second")
    for each in (first, second):
        each.use_remotes(f"hf://{REPO}", hub=hub)
    neff = compile_on(first)
    first.cli("push")
    gc(first, "--max-count", 0, "--yes")
    assert hub.files(REPO) == {}
    assert compile_on(second) == neff
    assert second.counters()["miss_stored"] == 1
    second.cli("push")
    assert len(keys_on(hub.files(REPO))) == 1
    third = make_host("third")
    third.use_remotes(f"hf://{REPO}", hub=hub)
    assert compile_on(third) == neff
    assert third.counters() == {"hit_remote": 1}


def test_a_blob_that_goes_while_a_hit_is_under_way_is_a_miss(make_host, hub):
    first, second = make_host("first"), make_host("second")
    for each in (first, second):
        each.use_remotes(f"hf://{REPO}|read-only", hub=hub)
    neff = compile_on(first, **SAME)
    publish(first, "", hub)
    (blob,) = blobs_on(hub.files(REPO))
    resolve = hub.do_resolve

    def collected(call, revision, path):
        answer = resolve(call, revision, path)
        if path.endswith(".json"):
            hub.do_resolve = resolve
            hub.delete_file(REPO, path)
            hub.delete_file(REPO, blob)
        return answer

    hub.do_resolve = collected
    assert compile_on(second, **SAME) == neff
    assert second.counters() == {"miss_stored": 1, "remote_corrupt": 1}


# -- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "extra", "says"),
    [
        ((), {"HF_TOKEN": "hf_nobody"}, "does not know the token"),
        ((), {"HF_TOKEN": ""}, "a token is needed to write to"),
        ((), {"HF_TOKEN": "hf_reader"}, "we may not write to"),
        (("alice/none",), {}, "alice/none is not there for us"),
        ((), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "did not answer"),
        ((), {"NEURON_STORE_REMOTES": f"hf://{REPO}|read-only"}, "read-only"),
        ((f"hf://{REPO}|read-only",), {}, "is read-only"),
        ((), {"NEURON_STORE_REMOTES": "none"}, "no remote is used"),
        ((), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_wrong_is_said(there, hub, arguments, extra, says):
    hub.add_user("reader", "hf_reader", "read")
    add_remote(hub, 1, age=40 * DAY)
    before = hub.files(REPO)
    code = 2 if "is read-only" in says else 1
    done = ns(there, "gc", "--remote", *arguments, *OLDER, "--yes", code=code, **extra)
    assert says in done.stderr
    assert hub.files(REPO) == before
    assert hub.count("resolve") == hub.count("commit") == 0


def test_a_right_that_is_lost_on_the_way_is_said(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    hub.fail("commit", Status(403))
    done = ns(there, "gc", "--remote", *OLDER, "--yes", code=1)
    assert "we may not write to" in done.stderr
    assert "0 results" not in done.stdout


def test_a_branch_of_a_dataset_is_collected(there, hub):
    repo = "datasets/alice/data"
    hub.create_repo(repo)
    add_remote(hub, 1, age=40 * DAY, repo=repo)
    add_remote(hub, 2, repo=repo)
    hub.age(repo, 2 * DAY)
    hub.make_branch(repo, "cache")
    hub.delete_file(repo, next(path for path in hub.files(repo) if make_key(1) in path))
    told = gc(there, f"hf://{repo}@cache", *OLDER, "--yes", "--purge-lfs", "--squash-history")
    assert told["files"] == {"record": 1, "blob": 1, "entry": 0}
    assert told["purged"]["objects"] == 0  # main has it still
    assert keys_on(hub.files(repo, "cache")) == {make_key(2)}
    assert len(hub.commits(repo, "cache")) == 1
    assert len(hub.commits(repo)) == 3
    assert len(blobs_on(hub.files(repo))) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("alice/cache",),
        ("--purge-lfs",),
        ("--squash-history",),
        ("--include-registered",),
        ("--remote", "--min-free", "10%"),
        ("--remote", "no remote"),
    ],
)
def test_options_that_do_not_fit_are_refused(there, arguments):
    ns(there, "gc", *arguments, code=2)


def test_the_first_remote_that_may_be_written_to_is_meant(there, hub):
    hub.create_repo("alice/other")
    add_remote(hub, 1, age=40 * DAY)
    add_remote(hub, 1, age=40 * DAY, repo="alice/other")
    words = {"NEURON_STORE_REMOTES": f"hf://{REPO}|read-only hf://alice/other"}
    assert gc(there, *OLDER, "--yes", **words)["remote"] == "hf://alice/other"
    assert hub.files("alice/other") == {}
    assert len(keys_on(hub.files(REPO))) == 1
    assert gc(there, REPO, *OLDER, "--yes")["remote"] == f"hf://{REPO}"
    assert hub.files(REPO) == {}


# -- history and storage ---------------------------------------------------------------------------------------------


def test_history_is_squashed_only_on_request_and_with_a_warning(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    (stays,) = add_remote(hub, 2)
    commits = len(hub.commits(REPO))
    assert "--squash-history makes one commit" in ns(there, "gc", "--remote", *OLDER, "--squash-history").stderr
    assert hub.count("squash") == 0
    gc(there, *OLDER, "--yes")
    assert hub.count("squash") == 0
    assert len(hub.commits(REPO)) == commits + 1
    done = ns(there, "gc", "--remote", *OLDER, "--squash-history", "--yes")
    assert "warning: --squash-history makes one commit of all 4 commits" in done.stderr
    assert "4 commits made one" in done.stdout
    assert len(hub.commits(REPO)) == 1
    assert keys_on(hub.files(REPO)) == {stays}


def test_stored_objects_are_deleted_only_on_request(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    add_remote(hub, 2)
    objects = hub.stored_objects(REPO)
    hub.age(REPO, 2 * DAY)
    gc(there, *OLDER, "--yes")
    assert hub.stored_objects(REPO) == objects
    told = gc(there, "--purge-lfs")
    assert told["purged"]["objects"] == 1
    assert hub.stored_objects(REPO) == objects
    commits = [commit.oid for commit in hub.commits(REPO)]
    done = gc(there, "--purge-lfs", "--yes")
    assert done["purged"] == told["purged"]
    assert len(hub.stored_objects(REPO)) == 1
    assert [commit.oid for commit in hub.commits(REPO)] == commits
    assert all(hub.files(REPO).values())


def test_the_plan_counts_the_objects_of_what_would_go(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    hub.age(REPO, 2 * DAY)
    told = gc(there, *OLDER, "--purge-lfs")
    assert told["purged"] == {"objects": 1, "bytes": told["purged"]["bytes"]}
    assert gc(there, *OLDER, "--purge-lfs", "--yes")["purged"] == told["purged"]
    assert hub.stored_objects(REPO) == set()


def test_objects_of_an_upload_that_goes_on_and_of_other_branches_stay(there, hub):
    add_remote(hub, 1, age=40 * DAY)
    hub.make_branch(REPO, "kept")
    hub.age(REPO, 2 * DAY)
    young = hub.put_object(REPO, b"an upload that goes on")
    gc(there, *OLDER, "--purge-lfs", "--yes")
    assert keys_on(hub.files(REPO)) == set()
    assert young in hub.stored_objects(REPO)
    assert len(hub.stored_objects(REPO)) == 2
    assert all(hub.files(REPO, "kept").values())


def test_nothing_is_deleted_by_a_list_that_does_not_fit(there, hub):
    add_remote(hub, 1, 2)
    hub.put_object(REPO, b"nobody's")
    hub.age(REPO, 2 * DAY)
    objects = hub.stored_objects(REPO)
    listed = json.dumps(
        [{"fileOid": "f" * 64, "oid": "1", "filename": "x", "pushedAt": "2020-01-01T00:00:00.000Z", "size": 1}]
    )
    hub.fail("lfs-files", Body(listed.encode(), {"Content-Type": "application/json"}), times=None)
    done = ns(there, "gc", "--remote", "--purge-lfs", "--yes", code=1)
    assert "none is deleted" in done.stderr
    assert hub.stored_objects(REPO) == objects


@pytest.mark.parametrize("action", [Status(500), Status(500, when="after"), Drop(when="after")])
def test_faults_while_objects_are_deleted_are_sat_out(there, hub, action):
    hub.put_object(REPO, b"nobody's")
    hub.age(REPO, 2 * DAY)
    hub.fail("lfs-delete", action)
    assert gc(there, "--purge-lfs", "--yes")["purged"] == {"objects": 1, "bytes": 8}
    assert hub.stored_objects(REPO) == set()


# -- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_collected_too(host, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    host.env["NEURON_STORE_REMOTES"] = f"file://{shared}"
    add_remote(shared, 1, age=40 * DAY, neff=b"shared" * 1000)
    add_remote(shared, 2, 3, age=40 * DAY)
    (new,) = add_remote(shared, 4, neff=b"shared" * 1000)
    put(shared, {path: data for path, data in files_of_result(5).items() if "/0_BLOBS/" in path})
    told = gc(host, *OLDER)
    assert removed(told) == {"age": 3}
    assert told["young_blobs"] == 1
    done = gc(host, *OLDER, "--yes")
    assert {**done, "dry_run": True, "commits": 0} == told
    files = {str(path.relative_to(shared)): path.read_bytes() for path in shared.rglob("*") if path.is_file()}
    assert keys_on(files) == {new}
    assert not dangling(files)
    assert len(blobs_on(files)) == 2
    ns(host, "gc", "--remote", "--purge-lfs", code=2)
