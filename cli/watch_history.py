"""How long a compile is expected to take: as long as it took before, or as others of the same name did."""

import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from neuron_store.shim.settings import state_folder
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.event_tail import past_events
from neuron_store.store.events import Event
from neuron_store.store.layout import Layout
from neuron_store.store.results import load_result

BY_KEY, BY_NAME = "key", "module"
_LONGEST_LOOK = 0.1  # seconds at a time that the log of the past is read for
_LONGEST_AGO = 60 * 86400.0  # seconds; what is older is of other compilers
_NAMESAKES = 5  # compiles of a name that are remembered, the last ones


class Expected(NamedTuple):
    """Seconds that a compile is thought to take, and whether that is its own record (BY_KEY) or by its name."""

    seconds: float
    source: str


class History:
    """What is known of compiles' seconds: from the event log, the newest days first, and from results."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._of_key: dict[str, float] = {}
        self._of_name: dict[str, deque[float]] = {}
        self._results_seen: dict[str, float | None] = {}
        self._past: Iterator[None] = self._read_past()

    def note(self, event: Event) -> None:
        """Take in an event that has just come."""
        seconds = _seconds(event)
        if seconds is not None:
            self._of_key[event.fields.get("key", "")] = seconds
            self._namesakes(event).append(seconds)

    def _note_past(self, event: Event) -> None:
        """Take in an event of the past: what came later counts more."""
        seconds = _seconds(event)
        if seconds is not None:
            self._of_key.setdefault(event.fields.get("key", ""), seconds)
            namesakes = self._namesakes(event)
            if len(namesakes) < _NAMESAKES:
                namesakes.appendleft(seconds)

    def _namesakes(self, event: Event) -> "deque[float]":
        return self._of_name.setdefault(event.fields.get("module", ""), deque(maxlen=_NAMESAKES))

    def read_on(self, seconds: float = _LONGEST_LOOK) -> bool:
        """Read more of the past, for so long; return whether there is more."""
        until = time.monotonic() + seconds
        return any(time.monotonic() >= until for _ in self._past)

    def expected(self, key: str, name: str) -> "Expected | None":
        """Return how long a compile is expected to take, None where nothing tells."""
        own = self._of_key.get(key)
        if own is None:
            own = self._of_result(key)
        if own is not None:
            return Expected(own, BY_KEY)
        namesakes = self._of_name.get(name) if name else None
        return Expected(statistics.median(namesakes), BY_NAME) if namesakes else None

    def _of_result(self, key: str) -> "float | None":
        """Return the seconds of a result that is there and compiled again all the same."""
        if key not in self._results_seen:
            try:
                result = load_result(self._layout, key)
            except (CorruptEntry, OSError):
                result = None
            self._results_seen[key] = result.seconds if result else None
        return self._results_seen[key]

    def _read_past(self) -> "Iterator[None]":
        """Read the log backwards, with a pause after every few events."""
        since = time.time() - _LONGEST_AGO
        for log in (self._layout, Layout(state_folder(os.environ))):
            for events in past_events(log, since):
                for event in events:
                    self._note_past(event)
                yield


def _seconds(event: Event) -> "float | None":
    """Return the seconds of a whole compile, None where an event tells of none, or of several."""
    whole = event.outcome == "miss_stored" or (event.outcome.startswith("hit_") and "count" not in event.fields)
    return event.seconds if whole else None
