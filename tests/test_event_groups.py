"""The event log read in groups comes to what it comes to line by line, whatever is in it."""

import os
import tempfile

import pytest
from event_making import EVENTS, NOW, write_events
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_store.store import event_groups
from neuron_store.store.event_groups import Sums, group_events, group_given
from neuron_store.store.event_tail import EventTail, past_events
from neuron_store.store.events import Event, append_event, encode_event, read_events
from neuron_store.store.layout import Layout

# What a full disk, a foreign program or an older version leaves in a file.
RUBBISH = st.sampled_from(
    [
        b"",
        b"\n",
        b"\n2",
        b"\n2\t",
        b"\n2\t170000",
        b"\n1\t1700000000\thit_direct\t.\n",
        b"# a comment\n",
        b"\t.\n",
        b"\0" * 9,
    ]
)


def by_group(groups):
    """Without hosts, which events read one by one do not have."""
    merged = {}
    for group, sums in groups.items():
        if sums.count:
            merged.setdefault((group.day, group.outcome, group.fields), Sums()).add(sums)
    return merged


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, rubbish=st.lists(st.tuples(st.integers(0, 30), RUBBISH), max_size=4), piece=st.integers(1, 2000))
def test_groups_come_to_what_the_lines_come_to(events, rubbish, piece):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_groups, "_PIECE", piece)
        patch.setattr(event_groups, "_STEP", 7)
        layout = Layout(folder)
        for number, event in enumerate(events):
            append_event(layout, event)
            for place, junk in rubbish:
                if place == number:
                    append_bytes(layout, event, junk)
        for since in (0.0, NOW - 86400.0):
            assert by_group(group_events(layout, since)) == by_group(group_given(read_events(layout, since)))


def append_bytes(layout, event, junk):
    names = [name for name in os.listdir(f"{layout.root}/events") if name.startswith(event_groups.day_of(event.time))]
    with open(layout.event_path(names[0]), "ab") as file:
        file.write(junk)


def test_several_processes_read_the_same_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(event_groups, "_PIECE", 1000)
    layout = Layout(str(tmp_path))
    events = [
        Event(NOW - 40000 * (number % 5), "hit_direct", {"seconds": str(number), "compiler": "2.21", "key": "k" * 32})
        for number in range(300)
    ]
    write_events(layout, events)
    several = group_events(layout, processes=3)
    assert several == group_events(layout, processes=1)
    assert sum(sums.count for sums in several.values()) == 300
    assert sum(sums.seconds for sums in several.values()) == sum(range(300))


def test_a_group_knows_its_day_host_and_fields(tmp_path):
    layout = Layout(str(tmp_path))
    for _ in range(2):
        append_event(
            layout, Event(NOW, "hit_remote", {"seconds": "2.5", "compiler": "2.21", "model": "a model", "key": "k"})
        )
    append_event(
        layout, Event(NOW, "hit_remote", {"compiler": "2.21", "model": "a model", "bytes": "7", "fetched": "5"})
    )
    ((group, sums),) = group_events(layout).items()
    assert (group.day, group.host, group.outcome) == ("2023-11-14", os.uname().nodename, "hit_remote")
    assert group.fields == (("compiler", "2.21"), ("model", "a model"))
    assert sums == Sums(count=3, seconds=5.0, unknown=1, bytes=7, fetched=5)


def test_what_is_no_number_counts_as_none(tmp_path):
    layout = Layout(str(tmp_path))
    for seconds in ("1", "nan", "inf", "x", "2"):
        append_event(layout, Event(NOW, "hit_direct", {"seconds": seconds, "bytes": seconds}))
    (sums,) = group_events(layout).values()
    assert (sums.count, sums.seconds, sums.bytes) == (5, 3.0, 3)


def test_a_log_that_is_not_there_or_no_folder_is_empty(tmp_path):
    assert group_events(Layout(str(tmp_path / "none"))) == {}
    (tmp_path / "events").write_text("a file")
    assert group_events(Layout(str(tmp_path))) == {}


@pytest.mark.parametrize(
    "day",
    [
        "9999-99-99",
        "2026-02-30",
        "2026-00-10",
        "0001-01-01",
        "2100-01-01",
        "2026-W01-1",
        "20260101xx",
        "\uff12026-01-01",
    ],
)
def test_a_file_of_no_day_is_no_file_of_the_log(tmp_path, day):
    layout = Layout(str(tmp_path))
    append_event(layout, Event(NOW, "hit_direct", {}))
    (kept,) = (tmp_path / "events").iterdir()
    (tmp_path / f"events/{day}-0-h1").write_bytes(kept.read_bytes())
    assert len(list(read_events(layout))) == 1
    assert sum(sums.count for sums in group_events(layout).values()) == 1
    assert [arrival.event.time for arrival in EventTail(layout, NOW - 1).poll()] == [NOW]
    assert sum(map(len, past_events(layout, 0.0))) == 1


@pytest.mark.parametrize("at", [1e18, -1.0, 4102444800.0])
def test_an_event_of_no_time_of_this_era_is_none(tmp_path, at):
    layout = Layout(str(tmp_path))
    append_event(layout, Event(NOW, "hit_direct", {}))
    (kept,) = (tmp_path / "events").iterdir()
    kept.write_bytes(encode_event(Event(at, "hit_direct", {})) + kept.read_bytes())
    assert [event.time for event in read_events(layout)] == [NOW]
    assert [arrival.event.time for arrival in EventTail(layout, NOW - 1).poll()] == [NOW]
    assert sum(sums.count for sums in group_events(layout, 1.0).values()) == 1


def test_what_is_no_file_in_the_log_is_left_out(tmp_path):
    layout = Layout(str(tmp_path))
    append_event(layout, Event(NOW, "hit_direct", {}))
    os.mkdir(layout.event_path("2023-11-14-0-folder"))
    os.mkfifo(layout.event_path("2023-11-14-0-pipe"))
    os.symlink("/nowhere", layout.event_path("2023-11-14-0-link"))
    assert [sums.count for sums in group_events(layout).values()] == [1]
