"""What tests of the event log share: events of every kind, and files of days long ago."""

import os
import time
from pathlib import Path

from hypothesis import strategies as st

from neuron_store.store.events import Event, append_event, day_of
from neuron_store.store.layout import Layout

DAY = 86400.0
NOW = 1_700_000_000.0  # a Tuesday's, at 22:13 UTC

_NUMBERS = st.one_of(st.just(""), st.integers(0, 10**6).map(str))
_TEXTS = st.sampled_from(["", "a b", "tab\there", "new\nline", "100%", "%20", "ünï", "2\t.\n\n2\t", "."])
_ASKED = st.sampled_from(
    ["", "hit/12/hf://a/b", "miss/3.4/hf://a/b,error/1000/file:///x%2Cy", "skipped/0/hf://a/b", "?"]
)
_FIELDS = st.fixed_dictionaries(
    {
        "ms": _NUMBERS,
        "key": st.sampled_from(["", "a" * 32, "b" * 32]),
        "module": _TEXTS,
        "seconds": st.one_of(st.just(""), st.integers(0, 4000).map(lambda quarters: f"{quarters / 4:.3f}")),
        "bytes": _NUMBERS,
        "fetched": _NUMBERS,
        "asked": _ASKED,
        "compiler": st.sampled_from(["", "2.21", "2.22+aa"]),
        "model": _TEXTS,
        "incidents": st.sampled_from(["", "waited", "waited,corrupt_blob"]),
        "run": st.sampled_from(["", "r1"]),
        "detail": _TEXTS,
    }
).map(lambda fields: {name: value for name, value in fields.items() if value})
_OUTCOMES = st.sampled_from(["hit_direct", "hit_remote", "miss_stored", "miss_failed", "pass_help", "upload_done"])
EVENTS = st.lists(
    st.builds(Event, st.integers(0, 3 * 86400).map(lambda ago: NOW - ago), _OUTCOMES, _FIELDS), max_size=30
)


def write_events(layout: Layout, events) -> None:
    for event in events:
        append_event(layout, event)


def put_old(layout: Layout, ago: float, *fields: dict, outcome: str = "hit_direct") -> Path:
    """Write events of `ago` seconds ago and return their file."""
    at = time.time() - ago
    for each in fields:
        append_event(layout, Event(at, outcome, each))
    return Path(layout.event_path(f"{day_of(at)}-{os.getuid()}-{os.uname().nodename}"))
