"""`neuron-store stats`: every counter by name, and the compile time that hits saved."""

import collections
import os
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of, local_store, settings, store_fault
from neuron_store.cli.remotes import open_location
from neuron_store.shim.counters import AUDIT, COUNTERS, ERROR, HIT, INCIDENT, MISS, PASS, UPLOAD
from neuron_store.store.events import Event
from neuron_store.store.layout import Layout
from neuron_store.store.queue import oldest, queue_length
from neuron_store.store.remotes.location import list_locations
from neuron_store.store.usage import measure_usage

_GROUP_TITLES = {
    HIT: "Hits",
    MISS: "Misses",
    PASS: "Passed through",
    ERROR: "Errors",
    INCIDENT: "Incidents",
    AUDIT: "Audits",
    UPLOAD: "Uploads",
}


def group_of(counter: str) -> str:
    """Return a counter's group; one of another version tells its own by the beginning of its name."""
    if counter in COUNTERS:
        return COUNTERS[counter][0]
    group = counter.partition("_")[0]
    return group if group in (HIT, MISS, PASS, ERROR) else INCIDENT


class Totals:
    """Counters and seconds over some events.

    Attributes:
        counters: every counter's name -> count, 0 included; names of other versions are kept too.
        seconds_compiled, seconds_saved: of compile, spent on misses and spared by hits.
        seconds_unknown: hits whose compile time is not known, so that seconds_saved leaves them out.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.counters: collections.Counter[str] = collections.Counter(dict.fromkeys(COUNTERS, 0))
        self.seconds_compiled = 0.0
        self.seconds_saved = 0.0
        self.seconds_unknown = 0
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        self.counters[event.outcome] += 1
        self.counters.update(event.incidents)
        group = group_of(event.outcome)
        if group == MISS:
            self.seconds_compiled += event.seconds or 0.0
        elif group == HIT:
            self.seconds_saved += event.seconds or 0.0
            self.seconds_unknown += event.seconds is None

    def of_group(self, group: str) -> int:
        """Return the sum of a group's counters."""
        return sum(count for name, count in self.counters.items() if group_of(name) == group)

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

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "passed_through": self.passed,
            "errors": self.errors,
            "seconds_compiled": round(self.seconds_compiled, 3),
            "seconds_saved": round(self.seconds_saved, 3),
            "hits_of_unknown_seconds": self.seconds_unknown,
            "counters": dict(self.counters),
        }


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("stats")(stats)


def stats(
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Only what happened since: 90s, 15m, 1h, 2d, 1w, or a date.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every counter.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show the counters that are zero, too.")] = False,
) -> None:
    """Show hits, misses, and the compile time that hits saved."""
    layout = local_store()
    begun = presentation.moment(since) if since else 0.0
    totals = Totals(events_of(layout, begun))
    usage = measure_usage(layout)
    queues = waiting_queues(layout)
    if as_json:
        store = {"dir": layout.root, "results": usage.results, "blobs": usage.blobs, "bytes": usage.bytes}
        presentation.print_json({"store": store, "since": begun or None, **totals.as_dict(), "queues": queues})
        return
    _print_table(totals, every=every)
    asked = totals.hits + totals.misses
    rate = f"{totals.hits / asked:.1%}" if asked else "-"
    unknown = (
        f" ({presentation.plural(totals.seconds_unknown, 'hit')} of unknown seconds left out)"
        if totals.seconds_unknown
        else ""
    )
    presentation.write(
        "\n"
        f"hit rate        {rate} of {presentation.plural(asked, 'cacheable request')}\n"
        f"time compiled   {presentation.duration(totals.seconds_compiled)}\n"
        f"time saved      {presentation.duration(totals.seconds_saved)}{unknown}\n"
        f"store           {layout.root}\n"
        f"                {presentation.plural(usage.results, 'result')}, {presentation.size(usage.bytes)} on disk\n"
    )
    fault = store_fault(layout)
    if fault:
        presentation.remark(fault)
    _remark_queues(queues)


def waiting_queues(layout: Layout) -> list[dict[str, Any]]:
    """Return for each writable remote how many results wait for it, since when, and why it refuses us, if it does."""
    chosen = settings()
    queues = []
    for location in list_locations(chosen.remotes, os.environ)[0]:
        if not location.writable:
            continue
        _, remote, state = open_location(location, layout, chosen)
        queues.append(
            {
                "url": remote.url,
                "queued": queue_length(layout, remote.identity),
                "oldest": oldest(layout, remote.identity),
                "refused": state.refused(remote.credential),
            }
        )
    return queues


def _remark_queues(queues: list[dict[str, Any]]) -> None:
    for queue in queues:
        waiting = presentation.plural(queue["queued"], "result is", "results are") + f" queued for {queue['url']}"
        since = f", the oldest for {presentation.age(queue['oldest'])}" if queue["oldest"] else ""
        if queue["refused"]:
            held = f"; {waiting}{since}" if queue["queued"] else ""
            presentation.remark(f"{queue['url']} takes no results from us: {queue['refused']}{held}")
        elif queue["queued"]:
            presentation.remark(f"{waiting}{since}")


def _print_table(totals: Totals, *, every: bool) -> None:
    table = Table("counter", "count", "meaning", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for group, title in _GROUP_TITLES.items():
        names = [name for name, count in totals.counters.items() if group_of(name) == group and (every or count)]
        if names or group in (HIT, MISS):
            total = "" if group == INCIDENT else presentation.number(totals.of_group(group))
            table.add_row(Text(title, style="bold"), Text(total, style="bold"), "")
        for name in names:
            meaning = COUNTERS[name][1] if name in COUNTERS else "counted by another version of neuron-store"
            table.add_row(f"  {name}", presentation.number(totals.counters[name]), meaning)
    presentation.print_table(table)
