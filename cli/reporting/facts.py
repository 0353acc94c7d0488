"""What a report tells, gathered from the store: activity, results, misses with their reasons, and models."""

import collections
import heapq
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from neuron_store.cli.explanation import compare, equal_components
from neuron_store.cli.nearest import nearest_of
from neuron_store.cli.sides import Side, side_of_result
from neuron_store.cli.totals import Activity, group_of, read_activity, read_hits
from neuron_store.shim.counters import COUNTERS, MISS
from neuron_store.store.collection.pins import models_by_key
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.events import Event, day_of, is_moment, read_events
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, all_keys, load_result
from neuron_store.store.usage import Usage, measure_usage

_SLOWEST = 10
_MISSES_READ = 200  # the latest, whose reasons are looked for
_MISSES_SHOWN = 8
_COMPARED_WITH = 500  # the latest results before a miss
_MOST_LINES = 6  # of an explanation
_MOST_MODELS = 20
FIRST, AGAIN, UNRECORDED = "first", "again", "unrecorded"
REASONS = {
    "hlo": "another graph: the HLO differs from every result's",
    "flags": "other compiler options",
    "compiler": "another compiler",
    "environment": "other environment variables, or another key_salt",
    "side_inputs": "another kernel, weights or option file",
    "host": "another kind of host",
    FIRST: "nothing like it had been compiled before",
    AGAIN: "its result was in the store before, and had been removed or damaged",
    UNRECORDED: "not stored, so what it was made of is not recorded",
}


@dataclass
class Subgraph:
    """A result, as the report lists it. Seconds of compile (None: unknown), Unix seconds, bytes."""

    key: str
    module: str
    compiler: str
    seconds: "float | None"
    created: float
    size: int
    hits: int
    models: list[str]

    @property
    def saved(self) -> float:
        """Seconds that its hits saved."""
        return (self.seconds or 0.0) * self.hits


@dataclass
class Miss:
    """A miss and why it was one.

    Attributes:
        reason: one of REASONS.
        lines: what differs from the nearest result before it, in words.
    """

    event: Event
    reason: str
    nearest: str = ""
    lines: list[str] = field(default_factory=list)


@dataclass
class ModelNeeds:
    """What a model needs: its keys, which of them are here, what they took to compile, and what they take."""

    name: str
    needed: int = 0
    here: int = 0
    seconds: float = 0.0
    size: int = 0
    hits: int = 0


@dataclass
class Facts:
    """All that a report tells.

    Attributes:
        since, made: Unix seconds; `since` is 0 where it is over all that is recorded.
        growth: day -> (results, bytes) that were stored on it and are still there.
        slowest: results by their seconds of compile.
        reasons: reason -> how many of the latest misses had it.
        misses: the latest, explained.
        models: the largest first.
    """

    root: str
    since: float
    made: float
    activity: Activity
    usage: Usage
    growth: dict[str, tuple[int, int]]
    slowest: list[Subgraph]
    reasons: "collections.Counter[str]"
    misses: list[Miss]
    models: list[ModelNeeds]


def gather(layout: Layout, since: float) -> Facts:
    """Read the store and its log."""
    hits = read_hits(layout, since)
    models = models_by_key(layout)
    results = [_subgraph(result, hits, models) for result in _results(layout)]
    misses = _explained(layout, since)
    return Facts(
        root=layout.root,
        since=since,
        made=time.time(),
        activity=read_activity(layout, since),
        usage=measure_usage(layout),
        growth=_growth(results),
        slowest=heapq.nlargest(_SLOWEST, results, key=lambda one: one.seconds or 0.0),
        reasons=collections.Counter(miss.reason for miss in misses),
        misses=misses[:_MISSES_SHOWN],
        models=_needs(models, results)[:_MOST_MODELS],
    )


def _results(layout: Layout) -> Iterator[Result]:
    for key in all_keys(layout):
        try:
            result = load_result(layout, key)
        except (CorruptEntry, OSError):
            continue  # `verify` is for that
        if result is not None:
            yield result


def _subgraph(result: Result, hits: "collections.Counter[str]", models: "dict[str, set[str]]") -> Subgraph:
    return Subgraph(
        key=result.key,
        module=str(result.input.get("name") or ""),
        compiler=str(result.provenance.get("compiler_version") or "unknown"),
        seconds=result.seconds,
        created=float(result.provenance.get("created") or 0.0),
        size=result.size,
        hits=hits[result.key],
        models=sorted(models.get(result.key, ())),
    )


def _growth(results: Iterable[Subgraph]) -> dict[str, tuple[int, int]]:
    days: dict[str, tuple[int, int]] = {}
    for result in results:
        if not is_moment(result.created) or not result.created:
            continue  # it is not recorded
        count, size = days.get(day_of(result.created), (0, 0))
        days[day_of(result.created)] = (count + 1, size + result.size)
    return dict(sorted(days.items()))


def _needs(models: "dict[str, set[str]]", results: Iterable[Subgraph]) -> list[ModelNeeds]:
    needs: dict[str, ModelNeeds] = {}
    for name in itertools.chain.from_iterable(models.values()):
        needs.setdefault(name, ModelNeeds(name)).needed += 1
    for result in results:
        for name in result.models:
            model = needs[name]
            model.here += 1
            model.seconds += result.seconds or 0.0
            model.size += result.size
            model.hits += result.hits
    return sorted(needs.values(), key=lambda model: -model.size)


# -- misses ------------------------------------------------------------------------------------------------------------


def _explained(layout: Layout, since: float) -> list[Miss]:
    """Return the latest misses with their reasons, the last first."""
    misses: list[Event] = []
    stored: dict[str, float] = {}  # key -> when it was stored first, as far as the log goes back
    for event in read_events(layout):
        if event.outcome == "miss_stored":
            key = event.fields.get("key", "")
            stored[key] = min(stored.get(key, event.time), event.time)
        if group_of(event.outcome) == MISS and event.time >= since:
            misses.append(event)
    latest = heapq.nlargest(_MISSES_READ, misses, key=lambda event: event.time)
    sides = sorted(_sides(layout), key=lambda side: side.created)
    return [_explain(event, sides, stored, in_full=place < _MISSES_SHOWN) for place, event in enumerate(latest)]


def _sides(layout: Layout) -> Iterator[Side]:
    for result in _results(layout):
        try:
            yield side_of_result(layout, result)
        except CorruptEntry:
            continue


def _explain(event: Event, sides: list[Side], stored: dict[str, float], *, in_full: bool) -> Miss:
    key = event.fields.get("key", "")
    side = next((side for side in sides if side.key == key), None) if key else None
    if key in stored and stored[key] < event.time - (event.seconds or 0.0):
        return Miss(event, AGAIN)
    if side is None:
        return Miss(event, UNRECORDED, lines=[_meaning(event.outcome)])
    before = [other for other in sides if other.created < side.created and other.key != key]
    nearest = nearest_of(side, before[-_COMPARED_WITH:])
    if nearest is None or not _is_like(side, nearest):
        return Miss(event, FIRST)
    differing = [name for name in side.digests if name not in equal_components(side, nearest)]
    # What is common to all compiles of a host comes first: with another compiler, no graph is of interest.
    order = ("compiler", "host", "environment", "flags", "side_inputs", "hlo")
    reason = next((name for name in order if name in differing), differing[0] if differing else AGAIN)
    lines = [line for _, line in compare(side, nearest).differences] if in_full else []
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more differences"]
    return Miss(event, reason, f"{nearest.module or 'a module without a name'} ({nearest.key[:12]})", lines)


def _is_like(side: Side, other: Side) -> bool:
    """Tell whether two compiles have enough in common for their difference to say something."""
    return "hlo" in equal_components(side, other) or side.module == other.module or _nearly(side.size, other.size)


def _nearly(one: int, other: int) -> bool:
    return abs(one - other) <= max(one, other) / 10


def _meaning(counter: str) -> str:
    return COUNTERS[counter][1] if counter in COUNTERS else "counted by another version of neuron-store"


def short_root(root: str) -> str:
    """Return the store's folder as a person writes it: `~` for the home folder, which names its user."""
    home = os.path.expanduser("~")
    return "~" + root[len(home) :] if root == home or root.startswith(home + "/") else root
