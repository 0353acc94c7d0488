"""What `watch` knows: what is in flight, what came, what it adds up to, and what changed since the last look."""

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from neuron_store.cli.watch_history import Expected, History
from neuron_store.cli.watch_queue import Queue, Queues
from neuron_store.shim.counters import AUDIT, ERROR, HIT, MISS, PASS, UPLOAD
from neuron_store.shim.settings import Settings, state_folder
from neuron_store.store.event_tail import Arrival, EventTail
from neuron_store.store.events import Event
from neuron_store.store.in_flight import DEAD, STATES, Flight, read_flights
from neuron_store.store.layout import Layout

BEGUN, STATE, ENDED, DIED, LOGGED, QUEUED = "begun", "state", "ended", "died", "event", "queue"
_GROUPS = (HIT, MISS, PASS, ERROR, AUDIT, UPLOAD)
_REMEMBERED = 500  # events for the display
_ONCE = 2.0  # seconds that the past may be read for before the only frame


@dataclass
class Change:
    """Something that happened between two looks.

    Attributes:
        what: BEGUN, STATE, ENDED or DIED for what is in flight; LOGGED for an event; QUEUED for a queue.
        at: Unix seconds.
        fields: JSON-ready values.
    """

    what: str
    at: float
    fields: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {"what": self.what, "at": round(self.at, 3), **self.fields}


def group_of(event: Event) -> str:
    """Return the group of an event's outcome, "" for one that only another version knows."""
    group = event.outcome.partition("_")[0]
    return group if group in _GROUPS else ""


@dataclass
class Tally:
    """What came since the watch began: requests by group; seconds of compile saved by hits, and spent on misses."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_GROUPS, 0))
    seconds_saved: float = 0.0
    seconds_compiled: float = 0.0
    unknown: int = 0

    def add(self, event: Event) -> None:
        """Count an event."""
        group = group_of(event)
        if group:
            self.counts[group] += 1
        if group == HIT:
            self.seconds_saved += event.seconds or 0.0
            self.unknown += event.seconds is None
        elif group == MISS:
            self.seconds_compiled += event.seconds or 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "hits": self.counts[HIT],
            "misses": self.counts[MISS],
            "passed_through": self.counts[PASS],
            "errors": self.counts[ERROR],
            "seconds_saved": round(self.seconds_saved, 3),
            "seconds_compiled": round(self.seconds_compiled, 3),
            "hits_of_unknown_seconds": self.unknown,
        }


@dataclass
class Subgraph:
    """One key that is in flight: who is furthest with it, and how many processes ask for it.

    Attributes:
        flight: of the process that stores, compiles or, if none does, waits or asks.
        processes: of all that ask, that one included.
        expected: how long its compile takes, None where unknown.
    """

    flight: Flight
    processes: int
    expected: Expected | None

    def elapsed(self, now: float) -> float:
        """Return for how many seconds it has been compiled, or asked for."""
        begun = self.flight.compiling if self.flight.compiling is not None else self.flight.begun
        return max(0.0, now - begun)

    def as_dict(self, now: float) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            **_described(self.flight),
            "processes": self.processes,
            "elapsed_seconds": round(self.elapsed(now), 3),
            **_described_expected(self.expected),
        }


class Watch:
    """Looks at a store again and again.

    Attributes:
        begun: when this watch began to count, Unix seconds.
        subgraphs: what is in flight, the longest first.
        recent: the last events, the newest last.
        tally: of all events since it began.
        queues: of the writable remotes.
        hosts: that were seen.
        changed: when anything last changed, monotonic seconds.
    """

    def __init__(self, layout: Layout, settings: Settings, since: "float | None" = None) -> None:
        """Begin now, or with what was logged since a Unix time."""
        self.layout = layout
        self.begun = time.time() if since is None else since
        self.subgraphs: list[Subgraph] = []
        self.recent: deque[Arrival] = deque(maxlen=_REMEMBERED)
        self.tally = Tally()
        self.queues: list[Queue] = []
        self.hosts: set[str] = set()
        self.changed = time.monotonic()
        self._history = History(layout)
        self._queues = Queues(layout, settings)
        self._tails = [EventTail(layout, since), EventTail(Layout(state_folder(os.environ)), since)]
        self._flights: dict[str, Flight] = {}

    def poll(self) -> list[Change]:
        """Look again; return what changed."""
        self._history.read_on()
        changes = [*self._look_at_events(), *self._look_at_flights(), *self._look_at_queues()]
        if changes:
            self.changed = time.monotonic()
        return changes

    def read_all(self) -> None:
        """Read what is known of earlier compiles, for seconds at most: there will be no second look."""
        self._history.read_on(_ONCE)

    @property
    def idle(self) -> "float | None":
        """Seconds since when nothing came; None while something is in flight, or an upload is under way."""
        busy = bool(self.subgraphs) or any(queue.uploading for queue in self.queues)
        return None if busy else time.monotonic() - self.changed

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        now = time.time()
        return {
            "at": round(now, 3),
            "store": self.layout.root,
            "since": round(self.begun, 3),
            "in_flight": [subgraph.as_dict(now) for subgraph in self.subgraphs],
            "recent": [{"at": round(each.event.time, 3), **_logged(each)} for each in self.recent],
            "totals": self.tally.as_dict(),
            "queues": [queue.as_dict() for queue in self.queues],
        }

    # -- the log -----------------------------------------------------------------------------------------------------

    def _look_at_events(self) -> "Iterator[Change]":
        own, aside = (tail.poll() for tail in self._tails)
        own += [each for each in aside if each.event.fields.get("store") == self.layout.root]
        for arrival in sorted(own, key=lambda each: each.event.time):
            self.tally.add(arrival.event)
            self._history.note(arrival.event)
            self.recent.append(arrival)
            self.hosts.add(arrival.host)
            yield Change(LOGGED, arrival.event.time, _logged(arrival))

    # -- what is in flight -------------------------------------------------------------------------------------------

    def _look_at_flights(self) -> "Iterator[Change]":
        found = {flight.name: flight for flight in read_flights(self.layout)}
        living = {name: flight for name, flight in found.items() if flight.life != DEAD}
        now = time.time()
        before, self._flights = self._flights, living
        for name, flight in before.items():
            if name not in living:
                what = DIED if name in found else ENDED
                elapsed = round(max(0.0, now - flight.begun), 3)
                yield Change(what, now, {**_described(flight), "elapsed_seconds": elapsed})
        for name, flight in living.items():
            expected = self._history.expected(flight.key, flight.module)
            if name not in before:
                self.hosts.add(flight.host)
                yield Change(BEGUN, flight.begun, {**_described(flight), **_described_expected(expected)})
            elif flight.state != before[name].state:
                yield Change(STATE, flight.since, {**_described(flight), **_described_expected(expected)})
        self.subgraphs = self._gather(living.values(), now)

    def _gather(self, flights: "Any", now: float) -> list[Subgraph]:  # noqa: ANN401
        by_key: dict[str, list[Flight]] = {}
        for flight in flights:
            by_key.setdefault(flight.key, []).append(flight)
        gathered = []
        for key, asking in by_key.items():
            first = max(asking, key=lambda flight: (_FURTHEST[flight.state], -flight.begun))
            gathered.append(Subgraph(first, len(asking), self._history.expected(key, first.module)))
        return sorted(gathered, key=lambda subgraph: -subgraph.elapsed(now))

    # -- queues ------------------------------------------------------------------------------------------------------

    def _look_at_queues(self) -> "Iterator[Change]":
        before, self.queues = {queue.url: queue for queue in self.queues}, self._queues.look()
        for queue in self.queues:
            known = before.get(queue.url)
            if known != queue and (known or queue.queued or queue.refused):
                yield Change(QUEUED, time.time(), queue.as_dict())


_FURTHEST = {state: place for place, state in enumerate(STATES)}


def _described(flight: Flight) -> dict[str, Any]:
    said = {name: getattr(flight, name) for name in ("key", "module", "model", "run", "host", "pid", "state")}
    return {name: value for name, value in said.items() if value != ""}


def _described_expected(expected: "Expected | None") -> dict[str, Any]:
    if expected is None:
        return {"expected_seconds": None}
    return {"expected_seconds": round(expected.seconds, 3), "expected_by": expected.source}


def _logged(arrival: Arrival) -> dict[str, Any]:
    event = arrival.event
    known = {name: event.fields[name] for name in ("key", "module", "model", "run", "detail") if event.fields.get(name)}
    seconds = {} if event.seconds is None else {"seconds": event.seconds}
    incidents = {"incidents": event.incidents} if event.incidents else {}
    return {"outcome": event.outcome, "group": group_of(event), "host": arrival.host, **known, **seconds, **incidents}
