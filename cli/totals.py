"""What the events of a store come to: as a whole, by day, model, compiler and host, and for each remote."""

import collections
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from neuron_store.shim.counters import COUNTERS, ERROR, HIT, INCIDENT, MISS, PASS, UPLOAD
from neuron_store.shim.settings import state_folder
from neuron_store.store.event_groups import Group, Groups, Sums, group_events, group_given, hits_by_key
from neuron_store.store.events import Event, read_events
from neuron_store.store.layout import Layout
from neuron_store.store.remotes import answers

DIMENSIONS = ("day", "model", "compiler", "host")


def group_of(counter: str) -> str:
    """Return a counter's group; one of another version tells its own by the beginning of its name."""
    if counter in COUNTERS:
        return COUNTERS[counter][0]
    group = counter.partition("_")[0]
    return group if group in (HIT, MISS, PASS, ERROR) else INCIDENT


class Totals:
    """Counters, seconds and bytes over some events.

    Attributes:
        counters: every counter's name -> count, 0 included; names of other versions are kept too.
        seconds_compiled, seconds_saved: of compile, spent on misses and spared by hits.
        seconds_unknown: hits whose compile time is not known, so that seconds_saved leaves them out.
        bytes_delivered, bytes_fetched, bytes_uploaded: written by hits, come from remotes, sent to remotes.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.counters: collections.Counter[str] = collections.Counter(dict.fromkeys(COUNTERS, 0))
        self.seconds_compiled = 0.0
        self.seconds_saved = 0.0
        self.seconds_unknown = 0
        self.bytes_delivered = self.bytes_fetched = self.bytes_uploaded = 0
        for group, sums in group_given(events).items():
            self.add(group, sums)

    def add(self, group: Group, sums: Sums) -> None:
        """Add the events of a group."""
        self.counters[group.outcome] += sums.count
        for name in dict(group.fields).get("incidents", "").split(","):
            if name:
                self.counters[name] += sums.count
        self.bytes_fetched += sums.fetched
        kind = group_of(group.outcome)
        if kind == MISS:
            self.seconds_compiled += sums.seconds
        elif kind == HIT:
            self.seconds_saved += sums.seconds
            self.seconds_unknown += sums.unknown
            self.bytes_delivered += sums.bytes
        elif kind == UPLOAD:
            self.bytes_uploaded += sums.bytes

    def of_group(self, group: str) -> int:
        """Return the sum of a group's counters."""
        return sum(count for name, count in self.counters.items() if count and group_of(name) == group)

    @property
    def hits(self) -> int:
        """Requests served from the store."""
        return self.of_group(HIT)

    @property
    def misses(self) -> int:
        """Requests that were compiled under the shim."""
        return self.of_group(MISS)

    @property
    def passed(self) -> int:
        """Requests handed to the real compiler uncached."""
        return self.of_group(PASS)

    @property
    def errors(self) -> int:
        """Requests that met a fault of ours."""
        return self.of_group(ERROR)

    @property
    def invocations(self) -> int:
        """All requests."""
        return self.hits + self.misses + self.passed + self.errors

    @property
    def hit_rate(self) -> "float | None":
        """Hits among the requests that could be one, 0 to 1; None if there was none."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def summary(self) -> dict[str, Any]:
        """Return all but the counters as JSON-ready values."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "passed_through": self.passed,
            "errors": self.errors,
            "hit_rate": None if self.hit_rate is None else round(self.hit_rate, 4),
            "seconds_compiled": round(self.seconds_compiled, 3),
            "seconds_saved": round(self.seconds_saved, 3),
            "hits_of_unknown_seconds": self.seconds_unknown,
            "bytes_delivered": self.bytes_delivered,
            "bytes_fetched": self.bytes_fetched,
            "bytes_uploaded": self.bytes_uploaded,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {**self.summary(), "counters": dict(self.counters)}


@dataclass
class RemoteTotals:
    """What one remote answered.

    Attributes:
        answers: kind of answer -> count.
        seconds: until the answer was clear -> count; of hits and misses only.
    """

    answers: "collections.Counter[str]" = field(default_factory=collections.Counter)
    seconds: "collections.Counter[float]" = field(default_factory=collections.Counter)

    def add(self, answer: str, seconds: float, count: int) -> None:
        """Add `count` answers that were alike."""
        self.answers[answer] += count
        if answer in (answers.HIT, answers.MISS):
            self.seconds[seconds] += count

    def percentile(self, share: float) -> "float | None":
        """Return the least of the times, in seconds, that `share` (0 to 1) of them do not exceed; None if there are none."""
        left = share * self.seconds.total()
        for seconds, count in sorted(self.seconds.items()):
            left -= count
            if left <= 0:
                return seconds
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            **{answer: self.answers[answer] for answer in answers.ANSWERS},
            "median_seconds": self.percentile(0.5),
            "p95_seconds": self.percentile(0.95),
        }


class Activity:
    """All that `stats` and `report` tell of a store's events.

    Attributes:
        total: over all of them.
        by: dimension -> its value ("" where an event does not tell it) -> totals.
        remotes: URL -> what that remote answered.
        details: (outcome, detail) -> count, of what passed through, failed or met a fault.
    """

    def __init__(self) -> None:
        self.total = Totals()
        self.by: dict[str, dict[str, Totals]] = {dimension: {} for dimension in DIMENSIONS}
        self.remotes: dict[str, RemoteTotals] = {}
        self.details: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, groups: Groups) -> None:
        """Add groups of events."""
        asked: dict[str, int] = {}  # the same answers come with many groups, and are read once
        for group, sums in groups.items():
            fields = dict(group.fields)
            self.total.add(group, sums)
            values = {"day": group.day, "host": group.host}
            for dimension in DIMENSIONS:
                value = values.get(dimension, fields.get(dimension, ""))
                self._part(dimension, value).add(group, sums)
            for text, count in sums.asked.items():
                asked[text] = asked.get(text, 0) + count
            if "detail" in fields and group_of(group.outcome) in (MISS, PASS, ERROR):
                self.details[group.outcome, fields["detail"]] += sums.count
        self._add_answers(asked)

    def _part(self, dimension: str, value: str) -> Totals:
        parts = self.by[dimension]
        if value not in parts:
            parts[value] = Totals()
        return parts[value]

    def _add_answers(self, asked: "dict[str, int]") -> None:
        for text, times in asked.items():
            for answer, seconds, url, count in answers.decode_answers(text):
                self.remotes.setdefault(url, RemoteTotals()).add(answer, seconds, count * times)


def read_activity(layout: Layout, since: float = 0.0) -> Activity:
    """Return what the events at or after `since` (Unix seconds) come to; with those that the store could not take."""
    activity = Activity()
    activity.add(group_events(layout, since))
    aside = group_events(Layout(state_folder(os.environ)), since)
    activity.add({group: sums for group, sums in aside.items() if ("store", layout.root) in group.fields})
    return activity


def read_hits(layout: Layout, since: float = 0.0) -> "collections.Counter[str]":
    """Return how often each result was served since then (Unix seconds): key -> hits."""
    found = hits_by_key(layout, since)
    for event in read_events(Layout(state_folder(os.environ)), since):
        if event.fields.get("store") == layout.root and group_of(event.outcome) == HIT:
            found[event.fields.get("key", "")] += event.count
    return found
