"""What `precompile` has to do: the pending compiles of stock folders, or graphs by themselves, the longest first."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from neuron_store.cli.context import events_of
from neuron_store.hashing.compiler import file_digest
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.settings import Settings
from neuron_store.shim.stock_key import KeyContext, make_stock_key, read_stock_flags
from neuron_store.store.errors import ConfigurationError, CorruptEntry, NotFound
from neuron_store.store.layout import Layout
from neuron_store.store.results import all_keys, load_result
from neuron_store.store.stock.entries import FAILED, FINISHED, PENDING, StockEntry, find_entries
from neuron_store.store.stock.flags import without_logfile
from neuron_store.store.stock.locks import Processes, lock_holder, young_below
from neuron_store.store.stock.names import graph_name, module_in

OTHER_VERSION, RUNNING, UNREADABLE = "other_version", "running", "unreadable"
# Why a compile is not cached, but can be done, as far as options tell.
_UNCACHED = ("autotuner", "file_option", "pipeline", "unusual_option")


@dataclass
class Job:
    """One compile.

    Attributes:
        name: what a person is told: the module, or the file's name.
        graph: path of the graph.
        link: the name that the compiler is given it under.
        flags: the compiler's options.
        entry: of the stock folder, None for a graph by itself.
        size: of the graph, in bytes.
        recorded: seconds that the same compile took before, None where that is not known.
        seconds: how long it is thought to take.
        same_as: a job with the same key, after which this one is a hit; None for the first of its kind.
    """

    name: str
    graph: str
    link: str
    flags: list[str]
    entry: "StockEntry | None"
    size: int
    recorded: "float | None" = None
    seconds: float = 0.0
    same_as: "Job | None" = None
    left_out: str = ""


@dataclass
class Plan:
    """All jobs, in the order in which they are begun.

    Attributes:
        left_out: reason -> how many entries.
    """

    jobs: list[Job] = field(default_factory=list)
    left_out: "Counter[str]" = field(default_factory=Counter)


def make_plan(
    places: Iterable[str], flags: list[str], settings: Settings, layout: Layout, version: str, *, retry_failed: bool
) -> Plan:
    """Return what is to be compiled. `flags` are those of graphs by themselves, `version` the installed compiler's.

    Raises NotFound for a place that is not there, ConfigurationError for flags that are no options of a compile.
    """
    flags = without_logfile(flags)
    if fault := _fault_of(flags):
        raise ConfigurationError(f"after -- stand options of the compile alone, and no {fault.detail or fault.reason}")
    plan = Plan()
    for place in places:
        if os.path.isdir(place):
            _add_folder(plan, place, version, retry_failed=retry_failed)
        elif os.path.isfile(place):
            plan.jobs.append(_job_of_file(place, flags))
        else:
            raise NotFound(f"there is no folder or graph {place}")
    _find_duplicates(plan.jobs, settings, version)
    _estimate(plan.jobs, layout)
    plan.jobs.sort(key=lambda job: (-job.seconds, -job.size, job.name))
    return plan


def _add_folder(plan: Plan, place: str, version: str, *, retry_failed: bool) -> None:
    states = (PENDING, FAILED) if retry_failed else (PENDING,)
    young, processes = young_below(place), Processes()
    for entry in find_entries(place):
        if entry.state not in states or not entry.graph:
            if entry.state != FINISHED:
                plan.left_out[entry.state] += 1
            continue
        if entry.version != version:
            plan.left_out[OTHER_VERSION] += 1
            continue
        if any(lock_holder(entry, lock, processes, young) for lock in entry.locks):
            plan.left_out[RUNNING] += 1
            continue
        try:
            flags = without_logfile(entry.flags())
        except (CorruptEntry, OSError):
            plan.left_out[UNREADABLE] += 1
            continue
        if fault := _fault_of(flags):
            plan.left_out[fault.reason] += 1
            continue
        link, size = graph_name(entry.module), entry.sizes[entry.graph]
        plan.jobs.append(Job(entry.module, entry.path(entry.graph), link, flags, entry, size))


def _fault_of(flags: list[str]) -> "NotCacheable | None":
    """Return why a compile may not have these options, None if it may: if they hold only options, and no places."""
    try:
        read_stock_flags(flags)
    except NotCacheable as answer:
        return None if answer.reason in _UNCACHED else answer
    return None


def _job_of_file(path: str, flags: list[str]) -> Job:
    name = os.path.basename(path)
    return Job(name, os.path.abspath(path), name, flags, None, os.path.getsize(path))


def _find_duplicates(jobs: list[Job], settings: Settings, version: str) -> None:
    """Note which jobs have a key in common: they would only wait for each other."""
    context = KeyContext(exact=settings.debug_info == "exact", salt=os.fsencode(settings.key_salt))
    first: dict[str, Job] = {}
    for job in jobs:
        try:
            key = make_stock_key(job.graph, job.flags, version, context).key
        except (NotCacheable, OSError):
            key = f"{_digest(job.graph)} {job.flags}"
        leader = first.setdefault(key, job)
        job.same_as = None if leader is job else leader


def _digest(path: str) -> str:
    try:
        return file_digest(path)
    except OSError:
        return path


def _estimate(jobs: list[Job], layout: Layout) -> None:
    """Say how long each is thought to take: as long as before; else in proportion to its graph, like the others."""
    known = _recorded_seconds(layout)
    for job in jobs:
        job.recorded = known.get(job.link, known.get(_graph_of(job.link)))
    rates = [job.recorded / job.size for job in jobs if job.recorded is not None and job.size]
    rate = median(rates) if rates else 1e-6
    for job in jobs:
        job.seconds = job.recorded if job.recorded is not None else job.size * rate


def _graph_of(name: str) -> str:
    """Return what a module's graph is called whatever its options, "" for a name without a module."""
    return module_in(name).rpartition("+")[0]


def _recorded_seconds(layout: Layout) -> dict[str, float]:
    """Return file name -> seconds of its last compile, and the same for graphs whatever their options."""
    found: dict[str, float] = {}
    for key in all_keys(layout):
        try:
            result = load_result(layout, key)
        except (CorruptEntry, OSError):
            continue
        if result is not None and result.seconds is not None:
            _note(found, str(result.input.get("name", "")), result.seconds)
    for event in events_of(layout):
        if event.outcome.startswith("miss_") and event.seconds is not None and "module" in event.fields:
            _note(found, event.fields["module"], event.seconds)
    return found


def _note(found: dict[str, float], name: str, seconds: float) -> None:
    found[name] = seconds
    graph = _graph_of(name)
    if graph:
        found[graph] = seconds
