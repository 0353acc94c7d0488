"""The event log does not grow for ever, and what it comes to stays the same."""

import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from event_making import DAY, EVENTS, put_old, write_events
from hypothesis import given, settings

from neuron_store.cli.totals import Activity
from neuron_store.store import event_archive
from neuron_store.store.event_archive import archive_events, has_old_events, summed_up
from neuron_store.store.event_groups import group_events, group_given
from neuron_store.store.events import Event, append_event, encode_event, parse_event, read_events
from neuron_store.store.layout import Layout
from neuron_store.store.upload_lock import UploadLock

HIT = {"key": "a" * 32, "module": "m.pb", "seconds": "10.000", "bytes": "100", "compiler": "2.21"}


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "store"))


def told(events_or_groups):
    """All that statistics tell of events, but their hosts."""
    activity = Activity()
    activity.add(events_or_groups)
    del activity.by["host"]
    remotes = {url: remote.as_dict() for url, remote in activity.remotes.items()}
    by = {
        dimension: {value: totals.as_dict() for value, totals in values.items()}
        for dimension, values in activity.by.items()
    }
    return activity.total.as_dict(), by, remotes, activity.details


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_what_is_summed_up_comes_to_the_same(events):
    lines = [parse_event(encode_event(event).decode().strip("\n")) for event in events]
    by_day = {}
    for event in lines:
        by_day.setdefault(int(event.time // DAY), []).append(event)
    summed = [event for day in by_day.values() for event in summed_up(day)]
    assert told(group_given(summed)) == told(group_given(lines))
    for day in by_day.values():
        once = summed_up(day)
        assert list(map(encode_event, summed_up(once))) == list(map(encode_event, once))
    assert len(summed) <= len(lines)


@settings(max_examples=30, deadline=None)
@given(EVENTS)
def test_files_of_days_long_ago_come_to_the_same_afterwards(events):
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(folder)
        write_events(layout, events)
        before = told(group_events(layout))
        archive_events(layout, 0)
        assert told(group_events(layout)) == before == told(group_given(read_events(layout)))
        assert not has_old_events(layout, 0)


def test_hits_become_one_line_and_misses_stay(layout):
    path = put_old(layout, 9 * DAY, *[{**HIT, "run": f"r{number % 3}", "ms": "4.0"} for number in range(1000)])
    put_old(
        layout, 9 * DAY, {**HIT, "seconds": "77.000", "run": "r"}, {**HIT, "seconds": "78.000"}, outcome="miss_stored"
    )
    size = path.stat().st_size
    assert has_old_events(layout, 0)
    assert archive_events(layout, 0) == (1, 0)
    assert path.stat().st_size < size / 100
    hit, *misses = read_events(layout)
    assert (hit.count, hit.seconds, hit.fields["bytes"], hit.fields["key"]) == (1000, 10000.0, "100000", "a" * 32)
    assert [(miss.count, miss.seconds, miss.fields.get("run")) for miss in misses] == [(1, 77.0, "r"), (1, 78.0, None)]
    assert not has_old_events(layout, 0)
    assert archive_events(layout, 0) == (0, 0)


@pytest.mark.parametrize(("ago", "due"), [(0, False), (2 * DAY, False), (7 * DAY, False), (8.01 * DAY, True)])
def test_only_files_of_a_week_ago_are_summed_up(layout, ago, due):
    path = put_old(layout, ago, HIT, HIT)
    before = path.read_bytes()
    assert archive_events(layout, 0) == (due, 0)
    assert (path.read_bytes() != before) is due


def test_large_files_are_summed_up_sooner(layout, monkeypatch):
    monkeypatch.setattr(event_archive, "_LARGE", 100)
    new, old = put_old(layout, DAY, HIT, HIT), put_old(layout, 3.01 * DAY, HIT, HIT)
    before = new.read_bytes()
    assert archive_events(layout, 0) == (1, 0)
    assert new.read_bytes() == before
    assert old.read_bytes().startswith(b"# summed up by neuron-store, version 1\n")


def test_events_beyond_their_age_go(layout):
    put_old(layout, 30 * DAY, HIT)
    kept = put_old(layout, 10 * DAY, HIT)
    assert has_old_events(layout, 20 * DAY)
    assert archive_events(layout, 20 * DAY) == (1, 1)
    assert os.listdir(f"{layout.root}/events") == [kept.name]


def test_foreign_files_are_left_alone(layout):
    put_old(layout, 0, HIT)
    foreign = Path(layout.event_path("README"))
    foreign.write_text("not an event")
    os.mkdir(layout.event_path("2001-01-01-0-folder"))
    assert not has_old_events(layout, 0)
    assert archive_events(layout, 0) == (0, 0)
    assert foreign.read_text() == "not an event"


def test_one_process_at_a_time_sums_up(layout):
    put_old(layout, 9 * DAY, HIT, HIT)
    other = UploadLock(layout, event_archive._LOCK)
    assert other.try_take()
    assert archive_events(layout, 0) == (0, 0)
    other.release()
    assert archive_events(layout, 0) == (1, 0)


def test_what_is_written_meanwhile_is_not_lost(layout, monkeypatch):
    path = put_old(layout, 9 * DAY, HIT, HIT)
    late = encode_event(Event(time.time() - 9 * DAY, "miss_failed", {"detail": "late"}))
    write_file = Layout.write_file

    def write_late(self, name, data, mode=0o644):
        with open(path, "ab") as file:
            file.write(late)
        write_file(self, name, data, mode)

    monkeypatch.setattr(Layout, "write_file", write_late)
    archive_events(layout, 0)
    assert [(event.outcome, event.count) for event in read_events(layout)] == [("hit_direct", 2), ("miss_failed", 1)]


def sum_up_forever(root):
    layout = Layout(root)
    while True:
        event_archive._sum_up(layout, layout.event_path(min(os.listdir(f"{root}/events"))))


def test_a_kill_at_any_moment_loses_nothing(layout):
    put_old(layout, 9 * DAY, *[{**HIT, "key": f"{number:032x}"} for number in range(500)])
    before = told(group_events(layout))
    for wait in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
        process = multiprocessing.get_context("fork").Process(target=sum_up_forever, args=(layout.root,))
        process.start()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert told(group_events(layout)) == before


# -- who starts it -----------------------------------------------------------------------------------------------------


def test_the_first_event_of_a_file_is_told(layout):
    assert append_event(layout, Event(time.time(), "hit_direct", {})) is True
    assert append_event(layout, Event(time.time(), "hit_direct", {})) is False
    assert append_event(layout, Event(time.time() - 3 * DAY, "hit_direct", {})) is True


def wait_until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def test_the_first_invocation_of_a_day_lets_old_events_be_summed_up(host):
    path = put_old(host.layout, 9 * DAY, HIT, HIT)
    aside = put_old(Layout(str(host.home / ".local/state/neuron-store")), 9 * DAY, HIT, HIT)
    host.cc("--version")
    wait_until(lambda: path.read_bytes().startswith(b"# summed up") and aside.read_bytes().startswith(b"# summed up"))
    assert host.counters() == {"hit_direct": 4, "pass_version": 1}


def test_later_invocations_of_a_day_start_nothing(host):
    host.cc("--version")
    path = put_old(host.layout, 9 * DAY, HIT, HIT)
    before = path.read_bytes()
    host.cc("--version")
    wait_until(lambda: not running(f"{host.store}"))
    assert path.read_bytes() == before


def running(store):
    """Processes that were told of this store, but not we."""
    found = subprocess.run(["pgrep", "-f", "archive-events"], capture_output=True, text=True).stdout.split()
    environs = []
    for pid in found:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environs.append(file.read())
        except OSError:
            continue
    return [environ for environ in environs if store.encode() in environ]


def test_gc_sums_up_old_events_but_not_on_a_dry_run(host):
    host.cc("--version")
    path = put_old(host.layout, 9 * DAY, HIT, HIT)
    host.cli("gc", "--dry-run")
    assert not path.read_bytes().startswith(b"# summed up")
    host.cli("gc")
    assert path.read_bytes().startswith(b"# summed up")


def test_events_are_kept_for_max_event_age(host):
    host.cc("--version")
    path = put_old(host.layout, 40 * DAY, HIT)
    host.cli("gc")
    assert path.exists()
    host.cli("gc", NEURON_STORE_MAX_EVENT_AGE="30d")
    assert not path.exists()


def test_a_read_only_store_is_not_summed_up(host):
    path = put_old(host.layout, 9 * DAY, HIT, HIT)
    host.cc("--version", NEURON_STORE_READ_ONLY="true")
    time.sleep(0.3)
    assert not path.read_bytes().startswith(b"# summed up")
