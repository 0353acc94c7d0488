"""What goes, what stays, and why: `gc`, `clear`, `du`, pins."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import Host
from stores import DAY, add_result, blobs_in, direct_key_of, directs_of, keys_of, store_bytes

from neuron_store.store.collection.collector import collect
from neuron_store.store.collection.limits import Limits, free_space
from neuron_store.store.queue import enqueue
from neuron_store.store.registry.contexts import Context
from neuron_store.store.writing import Writing

COMPILE = ("compile", "--framework=XLA", "--target=trn1")
REMOTE = "0123456789abcdef"


def gc(host, *arguments, **extra):
    return json.loads(host.cli("gc", "--json", *arguments, **{"NEURON_STORE_MIN_FREE": "0", **extra}).stdout)


def removed(told):
    return {reason: each["count"] for reason, each in told["removed"].items()}


def note_run(layout, model, keys):
    context = Context(layout, {"NEURON_STORE_MODEL": model})
    context.begin()
    for key in keys:
        context.write(f"keys/{key}", b"\n\n\n")
    return context


def test_without_limits_only_what_nobody_names_goes(host):
    keys = {add_result(host.layout, number) for number in range(3)}
    store_bytes(host.layout, b"nobody's" * 1000)
    told = gc(host)
    assert removed(told) == {"unnamed_blobs": 1}
    assert keys_of(host.store) == keys
    assert len(blobs_in(host.store)) == 3
    assert gc(host)["removed"] == {}


def test_the_least_recently_used_go_first(host):
    keys = [add_result(host.layout, number, age=(10 - number) * DAY) for number in range(10)]
    os.utime(host.layout.result_path(keys[0]))  # served just now
    time.sleep(0.05)
    told = gc(host, "--max-count", 4)
    assert removed(told) == {"count": 6}
    assert keys_of(host.store) == {keys[0], *keys[7:]}
    assert directs_of(host.store) == {direct_key_of(number) for number in (0, 7, 8, 9)}
    assert len(blobs_in(host.store)) == 4


def test_a_hit_is_a_use(host):
    models = [host.model(f"m{number}.pb", b"%d" % number) for number in range(3)]
    for model in models:
        host.cc(*COMPILE, model, "--output=o.neff")
    for path in (host.store / "results").rglob("*"):
        if path.is_file():
            os.utime(path, (1000, 1000))
    host.cc(*COMPILE, models[1], "--output=o.neff")
    gc(host, "--max-count", 1)
    host.cc(*COMPILE, models[1], "--output=o.neff")
    assert host.counters() == {"miss_stored": 3, "hit_direct": 2}


@pytest.mark.parametrize("dry", [False, True])
def test_what_is_foretold_is_what_goes(host, dry):
    shared = os.urandom(300_000)
    for number in range(8):
        add_result(host.layout, number, age=number * DAY, content=shared if number in (2, 6) else None)
    before = keys_of(host.store), blobs_in(host.store)
    limits = ("--max-size", "600k", "--older-than", "7d")
    told = gc(host, *limits, "--dry-run")
    assert (keys_of(host.store), blobs_in(host.store)) == before
    assert told["dry_run"]
    if dry:
        return
    done = gc(host, *limits)
    assert {**done, "dry_run": True} == told
    assert done["after_bytes"] <= 600_000
    usage = json.loads(host.cli("du", "--json").stdout)
    assert usage["bytes"] == done["after_bytes"]


def test_age(host):
    add_result(host.layout, 1, age=40 * DAY)
    young = add_result(host.layout, 2, age=20 * DAY)
    assert removed(gc(host, "--older-than", "30d")) == {"age": 1}
    assert keys_of(host.store) == {young}


def test_only_the_compilers_used_last_are_kept(host):
    kept = set()
    for number, version in enumerate(["2.14", "2.15", "2.16", "2.14", "2.15"]):
        key = add_result(host.layout, number, age=(10 - number) * DAY, version=version)
        kept |= set() if version == "2.16" else {key}
    assert removed(gc(host, "--keep-compilers", 2)) == {"compiler": 1}
    assert keys_of(host.store) == kept


def test_a_compiler_can_be_chosen(host):
    add_result(host.layout, 1, version="2.14.1+a")
    other = add_result(host.layout, 2, version="2.15.1+a")
    assert removed(gc(host, "--compiler", "2.14")) == {"selected": 1}
    assert keys_of(host.store) == {other}


def test_a_model_can_be_chosen_and_what_another_model_needs_stays(host):
    keys = [add_result(host.layout, number) for number in range(4)]
    note_run(host.layout, "org/one", keys[:3])
    note_run(host.layout, "org/two", keys[2:])
    told = gc(host, "--model", "org/one")
    assert removed(told) == {"selected": 2}
    assert told["kept"] == {"other_model": 1}
    assert keys_of(host.store) == set(keys[2:])


def test_a_limit_of_a_selection_is_for_it_alone(host):
    for number in range(6):
        add_result(host.layout, number, age=number * DAY, version="2.14" if number < 4 else "2.15")
    told = gc(host, "--compiler", "2.14", "--max-count", 1, NEURON_STORE_MAX_COUNT=1)
    assert removed(told) == {"count": 3}
    assert told["results"] == 3


def test_the_disk_is_freed_of_what_was_not_used_for_a_day(host):
    add_result(host.layout, 1, age=3 * DAY)
    fresh = add_result(host.layout, 2, age=3600)
    told = gc(host, NEURON_STORE_MIN_FREE="100%")
    assert removed(told) == {"free_space": 1}
    assert told["unmet"] == ["free_space"]
    assert keys_of(host.store) == {fresh}
    told = gc(host, "--min-free", "100%")  # who asks for it gets it
    assert removed(told) == {"free_space": 1}
    assert keys_of(host.store) == set()


def test_settings_are_limits(host):
    for number in range(4):
        add_result(host.layout, number, age=number * DAY)
    assert removed(gc(host, NEURON_STORE_MAX_SIZE="250kB")) == {"size": 2}
    assert removed(gc(host, NEURON_STORE_MAX_AGE="12h")) == {"age": 1}
    assert removed(gc(host, "--max-count", 0, NEURON_STORE_MAX_COUNT=1)) == {"count": 1}


def test_pinned_results_stay_until_they_are_unpinned(host):
    keys = [add_result(host.layout, number, age=9 * DAY) for number in range(4)]
    note_run(host.layout, "org/one", keys[1:3])
    host.cli("pin", keys[0][:8], "org/one")
    pins = json.loads(host.cli("pin", "--json").stdout)
    assert pins == {"keys": [keys[0]], "models": ["org/one"]}
    told = gc(host, "--max-count", 0, "--max-size", 0, "--older-than", "1d")
    assert removed(told) == {"age": 1}
    assert told["kept"] == {"pinned": 3}
    assert sorted(told["unmet"]) == ["count", "size"]
    host.cli("unpin", keys[0][:8])
    assert removed(gc(host, "--max-count", 0)) == {"count": 1}
    host.cli("unpin", "--model", "org/one")
    assert removed(gc(host, "--max-count", 0)) == {"count": 2}


def test_what_cannot_be_pinned_is_said(host):
    add_result(host.layout, 1)
    for arguments in (
        ("pin", "ffffffffffff"),
        ("pin", "org/none"),
        ("unpin", "abc"),
        ("unpin", "org/none"),
        ("unpin",),
    ):
        done = host.cli(*arguments, check=False)
        assert done.returncode == (2 if arguments == ("unpin",) else 1)
        assert done.stderr.startswith("neuron-store: ")
        assert "Traceback" not in done.stderr


def test_what_waits_for_its_upload_stays(host):
    keys = [add_result(host.layout, number, age=9 * DAY) for number in range(3)]
    enqueue(host.layout, REMOTE, keys[1])
    folder = host.store / "queue" / REMOTE
    (folder / f".{keys[2]}.01234567").write_bytes(b"")  # being taken out
    told = gc(host, "--max-count", 0)
    assert removed(told) == {"count": 1}
    assert told["kept"] == {"queued": 2}
    assert keys_of(host.store) == set(keys[1:])


def test_kept_inputs_and_shared_blobs_stay_while_a_result_names_them(host):
    weights = b"weights" * 5000
    add_result(host.layout, 1, age=9 * DAY, inputs=[("w", weights)])
    add_result(host.layout, 2, inputs=[("w", weights)])
    gc(host, "--max-count", 1)
    assert len(blobs_in(host.store)) == 2
    assert host.cli("verify").returncode == 0
    gc(host, "--max-count", 0)
    assert blobs_in(host.store) == set()


def test_a_blob_whose_record_is_still_to_come_stays(host):
    layout = host.layout
    with Writing(layout):
        store_bytes(layout, b"before its record" * 1000)
        time.sleep(0.05)
        assert gc(host)["removed"] == {}
    assert removed(gc(host)) == {"unnamed_blobs": 1}


def test_an_old_blob_that_a_writer_found_and_touched_stays(host):
    layout = host.layout
    store_bytes(layout, b"old" * 10_000)
    (path,) = (host.store / "blobs").rglob("*.zst")
    time.sleep(0.05)
    with Writing(layout):
        os.utime(path)
        time.sleep(0.05)
        assert gc(host)["removed"] == {}


def test_the_mark_of_a_dead_writer_protects_nothing(host):
    code = (
        "import os, sys\nfrom neuron_store.store.writing import Writing\nfrom neuron_store.store.layout import Layout\n"
        "Writing(Layout(sys.argv[1])).begin()\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, host.store], check=False)
    assert len(list((host.store / "tmp").iterdir())) == 1
    store_bytes(host.layout, b"nobody's" * 1000)
    time.sleep(0.05)
    assert removed(gc(host)) == {"unnamed_blobs": 1}


def test_a_record_of_a_newer_format_keeps_all_blobs(host):
    key = add_result(host.layout, 1)
    store_bytes(host.layout, b"perhaps its own" * 1000)
    path = host.layout.result_path(key)
    with open(path, "wb") as file:
        file.write(b"neuron-store result 2 what we cannot know\n{}")
    told = gc(host)
    assert told["removed"] == {}
    assert told["unreadable"] == 1
    assert os.path.exists(path)
    assert len(blobs_in(host.store)) == 2


def disk_bytes(store):
    return sum(path.lstat().st_blocks * 512 for path in (store / "blobs").rglob("*") if path.is_file())


@pytest.mark.parametrize("limit", [("--max-size", "1k"), ("--min-free", "100%"), ("--max-size", "1k", "-c", "2.14")])
@pytest.mark.parametrize("dry", [False, True])
def test_while_no_blob_may_go_no_result_is_lost_for_the_sake_of_room(host, limit, dry):
    keys = {add_result(host.layout, number, age=9 * DAY) for number in range(3)}
    store_bytes(host.layout, b"nobody's" * 1000)
    (host.store / "results/00").mkdir()
    (host.store / "results/00" / ("0" * 32)).write_bytes(b"neuron-store result 2 what we cannot know\n{}")
    told = gc(host, *limit, *["--dry-run"] * dry)
    assert (told["removed"], told["freed_bytes"]) == ({}, 0)
    assert told["unmet"] == ["free_space" if "--min-free" in limit else "size"]
    assert told["before_bytes"] == told["after_bytes"] >= 300_000
    assert told["results"] == 3
    assert keys < keys_of(host.store)


def test_what_is_said_to_be_freed_while_no_blob_may_go_is_what_was_freed(host):
    for number in range(3):
        add_result(host.layout, number, age=9 * DAY)
    (host.store / "results/00").mkdir()
    (host.store / "results/00" / ("0" * 32)).write_bytes(b"neuron-store result 2 what we cannot know\n{}")
    held = disk_bytes(host.store)
    foreseen, told = gc(host, "--max-count", 1, "--dry-run"), gc(host, "--max-count", 1)
    assert foreseen["removed"] == told["removed"]
    assert removed(told) == {"count": 2}
    assert told["freed_bytes"] < 50_000
    assert told["after_bytes"] > 300_000
    assert disk_bytes(host.store) == held
    said = host.cli("gc").stderr
    assert f"1 record cannot be read, or another version wrote them ({'0' * 32})" in said


def test_uploads_of_results_that_are_gone_leave_the_queue(host):
    keys = [add_result(host.layout, number) for number in range(3)]
    for key in keys:
        enqueue(host.layout, REMOTE, key)
    os.unlink(host.layout.result_path(keys[0]))
    assert removed(gc(host, "--dry-run"))["orphaned_direct_entries"] == 2
    assert removed(gc(host))["orphaned_direct_entries"] == 2
    assert set(os.listdir(host.store / "queue" / REMOTE)) == set(keys[1:])
    host.cli("clear", "--yes", "--all")
    assert os.listdir(host.store / "queue" / REMOTE) == []
    assert host.cli("verify").returncode == 0


def test_the_disk_that_counts_is_that_of_the_blobs(host):
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        add_result(host.layout, 1)
        blobs = host.store / "blobs"
        shutil.move(blobs, elsewhere / "blobs")
        blobs.symlink_to(elsewhere / "blobs")
        whole = os.statvfs(elsewhere)
        if os.stat(elsewhere).st_dev == os.stat(host.store).st_dev:
            pytest.skip("/dev/shm is no disk of its own")
        assert free_space(host.layout)[1] == whole.f_blocks * whole.f_frsize
    finally:
        shutil.rmtree(elsewhere)


def test_torn_records_stale_files_and_lost_entries_go(host):
    key = add_result(host.layout, 1)
    os.truncate(host.layout.result_path(key), 100)
    stale = host.store / "tmp/1-dead"
    stale.write_bytes(b"torn")
    os.utime(stale, (1, 1))
    told = gc(host)
    assert removed(told) == {"damaged": 1, "orphaned_direct_entries": 1, "unnamed_blobs": 1, "stale_files": 1}
    assert told["removed"]["stale_files"]["bytes"] == len(b"torn")
    assert (keys_of(host.store), blobs_in(host.store), directs_of(host.store)) == (set(), set(), set())
    assert not stale.exists()


def test_what_a_killed_collector_had_aside_is_put_back(host):
    add_result(host.layout, 1)
    (path,) = (path for path in (host.store / "blobs").rglob("*") if path.is_file())
    path.rename(path.with_name(f".gone.{path.name}"))
    gc(host)
    assert blobs_in(host.store) == {path.name}
    assert host.cli("verify").returncode == 0


def test_published_contexts_without_results_go_when_they_are_old(host):
    key = add_result(host.layout, 1)
    kept, gone, unpublished = (
        note_run(host.layout, name, keys)
        for name, keys in (("org/kept", [key]), ("org/gone", ["1" * 32]), ("org/new", ["2" * 32]))
    )
    for context in (kept, gone):
        context.note_published(REMOTE, context.state())
    for path in (host.store / "contexts").rglob("*"):
        os.utime(path, (1, 1))
    for path in (host.store / "contexts").iterdir():
        os.utime(path, (1, 1))
    assert removed(gc(host)) == {"old_contexts": 1}
    assert {path.name for path in (host.store / "contexts").iterdir()} == {kept.id, unpublished.id}


def test_a_hit_on_a_collected_result_is_a_miss_and_heals(host):
    model = host.model()
    host.cc(*COMPILE, model, "--output=o.neff")
    first = (host.work / "o.neff").read_bytes()
    time.sleep(0.05)
    gc(host, "--max-count", 0)
    host.cc(*COMPILE, model, "--output=o.neff")
    assert (host.work / "o.neff").read_bytes() == first
    assert host.counters() == {"miss_stored": 2}


def test_a_hit_whose_blob_vanished_is_a_counted_miss(host):
    model = host.model()
    host.cc(*COMPILE, model, "--output=o.neff")
    for path in (host.store / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    host.cc(*COMPILE, model, "--output=o.neff")
    assert host.counters() == {"miss_stored": 2, "missing_blob": 1}


def test_an_empty_or_absent_store_has_nothing_to_collect(host):
    assert gc(host, "--max-count", 0)["removed"] == {}
    assert json.loads(host.cli("du", "--json").stdout)["results"] == 0
    assert not host.store.exists()


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--max-size", "much", "such as 500M, 200G"),
        ("--older-than", "-3d", "such as 90s, 15m"),
        ("--older-than", "1M", "such as 90s, 15m"),
        ("--older-than", "1y", "such as 90s, 15m"),
        ("--min-free", "101%", "such as 10%"),
        ("--keep-compilers", "0", "greater than or equal to 1"),
    ],
)
def test_a_limit_that_is_none_is_refused(host, option, value, remedy):
    key = add_result(host.layout, 1)
    done = host.cli("gc", option, value, check=False)
    assert done.returncode == 2
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert keys_of(host.store) == {key}


def test_the_summary_says_what_went_and_what_stayed(host):
    keys = [add_result(host.layout, number, age=9 * DAY) for number in range(3)]
    host.cli("pin", keys[0])
    done = host.cli("gc", "--older-than", "1d")
    assert "results unused for too long" in done.stdout
    assert "1 result left" in done.stdout
    assert "1 result stayed: pinned" in done.stderr


def test_clear_needs_a_terminal_or_yes(host):
    keys = [add_result(host.layout, number) for number in range(3)]
    done = host.cli("clear", check=False)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert len(keys_of(host.store)) == 3
    host.cli("pin", keys[0])
    host.cli("clear", "--yes")
    assert keys_of(host.store) == {keys[0]}
    host.cli("clear", "--yes", "--all")
    assert (keys_of(host.store), blobs_in(host.store), directs_of(host.store)) == (set(), set(), set())


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 0), (b"n\n", 2), (b"\n", 2)])
def test_clear_asks(host, answer, left):
    for number in range(2):
        add_result(host.layout, number)
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = subprocess.run(
        [sys.executable, "-m", "neuron_store.cli", "clear"], stdin=theirs, env=host.env, capture_output=True, timeout=60
    )
    os.close(ours)
    os.close(theirs)
    assert b"Remove 2 results" in done.stderr
    assert len(keys_of(host.store)) == left
    assert done.returncode == (1 if left else 0)


def test_usage_counts_a_shared_blob_once_in_a_group(host):
    shared = os.urandom(1_000_000)
    keys = [add_result(host.layout, number, content=shared, version=f"2.{14 + number // 2}") for number in range(3)]
    note_run(host.layout, "org/one", keys[:2])
    note_run(host.layout, "org/two", keys[1:])
    told = json.loads(host.cli("du", "--json").stdout)
    assert told["results"] == 3
    assert told["blobs"] == 1
    assert 1_000_000 < told["bytes"] < 1_100_000
    for group in (*told["by_model"].values(), *told["by_compiler"].values()):
        assert 1_000_000 < group["bytes"] < 1_100_000
        assert group["own"] < 100_000
    assert {name: group["results"] for name, group in told["by_model"].items()} == {"org/one": 2, "org/two": 2}
    assert {name: group["results"] for name, group in told["by_compiler"].items()} == {"2.14": 2, "2.15": 1}
    shown = host.cli("du")
    assert "org/one" in shown.stdout
    assert "counted for each" in shown.stderr


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_miss_beyond_a_limit_starts_a_collection(host):
    limits = {"NEURON_STORE_MAX_SIZE": "1MB", "STANDIN_SIZE": 300_000}
    for number in range(8):
        host.cc(*COMPILE, host.model(f"m{number}.pb", b"%d" % number), "--output=o.neff", **limits)
        started = host.store / "collection/started"
        if started.exists():
            os.utime(started, (1, 1))  # as if the last one had been started long ago
    wait_until(lambda: not (host.store / "locks/collector").exists() and len(keys_of(host.store)) <= 4)
    assert host.counters() == {"miss_stored": 8}
    assert host.cli("verify").returncode == 0
    assert host.leftovers() == []


def test_without_a_limit_nothing_is_started_or_measured(host):
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_MIN_FREE="0")
    assert not (host.store / "collection").exists()


def test_a_disk_that_fills_starts_a_collection(host):
    old = add_result(host.layout, 1, age=9 * DAY)
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_MIN_FREE="100%")
    wait_until(lambda: old not in keys_of(host.store))
    assert len(keys_of(host.store)) == 1  # what was just compiled stays
    wait_until(lambda: not (host.store / "locks/collector").exists())


def test_only_one_collection_runs_at_a_time(host: Host):
    add_result(host.layout, 1, age=9 * DAY)
    from neuron_store.store.collection.collector import collector_lock, release_collector

    lock = collector_lock(host.layout)
    assert lock.try_take()
    host.cli("collect", NEURON_STORE_MAX_AGE="1d")
    assert len(keys_of(host.store)) == 1
    release_collector(host.layout, lock)
    host.cli("collect", NEURON_STORE_MAX_AGE="1d")
    assert keys_of(host.store) == set()


def test_a_store_without_flock_waits_an_hour(host, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(38, "no locks")

    store_bytes(host.layout, b"nobody's" * 1000)
    time.sleep(0.05)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert collect(host.layout, Limits()).tallies == {}
