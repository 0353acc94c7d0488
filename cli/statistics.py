"""`neuron-store stats`: every counter by name, and the compile time that hits saved."""

import os
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.context import local_store, settings, store_fault
from neuron_store.cli.remotes import open_location
from neuron_store.cli.totals import DIMENSIONS, Activity, Totals, group_of, read_activity
from neuron_store.shim.counters import AUDIT, COUNTERS, ERROR, HIT, INCIDENT, MISS, PASS, UPLOAD
from neuron_store.store.errors import ConfigurationError, StoreUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.queue import oldest, queue_length
from neuron_store.store.remotes.answers import ANSWERS
from neuron_store.store.remotes.location import list_locations
from neuron_store.store.usage import Usage, measure_usage

_GROUP_TITLES = {
    HIT: "Hits",
    MISS: "Misses",
    PASS: "Passed through",
    ERROR: "Errors",
    INCIDENT: "Incidents",
    AUDIT: "Audits",
    UPLOAD: "Uploads",
}
_MOST_DETAILS = 10  # of one counter


class Dimension(str, Enum):
    """What `stats --by` tells apart."""

    DAY = "day"
    MODEL = "model"
    COMPILER = "compiler"
    HOST = "host"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("stats")(stats)


def stats(
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Only what happened since: 90s, 15m, 1h, 2d, 1w, or a date.")
    ] = "",
    by: Annotated[Dimension | None, typer.Option(help="A line for each day, model, compiler or host.")] = None,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="What exactly the misses, bypasses and errors were about, with counts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all of this.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show the counters that are zero, too.")] = False,
    prometheus: Annotated[
        str, typer.Option(metavar="FILE", help="Write metrics for Prometheus' textfile collector; - is stdout.")
    ] = "",
) -> None:
    """Show hits, misses, the compile time that hits saved, and what the remotes answered."""
    if prometheus == "-" and as_json:
        raise ConfigurationError("--prometheus - and --json both want stdout; name a file for the metrics")
    layout = local_store()
    begun = presentation.moment(since) if since else 0.0
    activity = read_activity(layout, begun)
    usage = measure_usage(layout)
    queues = waiting_queues(layout)
    if prometheus:
        from neuron_store.cli.prometheus import export_metrics  # which takes a while to import

        export_metrics(prometheus, activity, usage, queues)
    if as_json:
        store = {"dir": layout.root, "results": usage.results, "blobs": usage.blobs, "bytes": usage.bytes}
        presentation.print_json({"store": store, "since": begun or None, **_as_dict(activity), "queues": queues})
    elif prometheus:
        pass  # they are the answer
    elif by or reasons:
        presentation.print_table(_table_by(activity, by.value) if by else _table_of_reasons(activity))
    else:
        _print_all(activity, usage, layout, every=every)
        _remark_queues(queues)
    fault = store_fault(layout)
    if fault:  # what was shown is what the user's state folder kept, as the store could not take it
        raise StoreUnavailable(fault)


def _as_dict(activity: Activity) -> dict[str, Any]:
    return {
        **activity.total.as_dict(),
        "remotes": {url: remote.as_dict() for url, remote in sorted(activity.remotes.items())},
        **{
            f"by_{dimension}": {value: totals.summary() for value, totals in sorted(activity.by[dimension].items())}
            for dimension in DIMENSIONS
        },
        "reasons": [
            {"counter": counter, "detail": detail, "count": count}
            for (counter, detail), count in activity.details.most_common()
        ],
    }


def _print_all(activity: Activity, usage: Usage, layout: Layout, *, every: bool) -> None:
    totals = activity.total
    _print_table(totals, every=every)
    asked = totals.hits + totals.misses
    unknown = (
        f" ({presentation.plural(totals.seconds_unknown, 'hit')} of unknown seconds left out)"
        if totals.seconds_unknown
        else ""
    )
    presentation.write(
        "\n"
        f"hit rate        {_rate(totals)} of {presentation.plural(asked, 'cacheable request')}\n"
        f"time compiled   {presentation.duration(totals.seconds_compiled)}\n"
        f"time saved      {presentation.duration(totals.seconds_saved)}{unknown}\n"
        f"bytes moved     {_moved(totals)}\n"
        f"store           {layout.root}\n"
        f"                {presentation.plural(usage.results, 'result')}, {presentation.size(usage.bytes)} on disk\n"
    )
    if activity.remotes:
        presentation.write("\n")
        presentation.print_table(_table_of_remotes(activity))


def _rate(totals: Totals) -> str:
    return "-" if totals.hit_rate is None else f"{totals.hit_rate:.1%}"


def _moved(totals: Totals) -> str:
    return (
        f"{presentation.size(totals.bytes_delivered)} delivered by hits, "
        f"{presentation.size(totals.bytes_fetched)} fetched, {presentation.size(totals.bytes_uploaded)} uploaded"
    )


def _table_of_remotes(activity: Activity) -> Table:
    table = Table("remote", box=None, pad_edge=False)
    for title in ("hits", "misses", "errors", "skipped", "median", "p95"):
        table.add_column(title, justify="right")
    for url, remote in sorted(activity.remotes.items()):
        counts = [presentation.number(remote.answers[answer]) for answer in ANSWERS]
        times = [remote.percentile(share) for share in (0.5, 0.95)]
        table.add_row(
            presentation.printable(url),
            *counts,
            *("-" if seconds is None else presentation.duration(seconds) for seconds in times),
        )
    return table


def _table_by(activity: Activity, dimension: str) -> Table:
    table = Table(dimension, box=None, pad_edge=False)
    for title in ("hits", "misses", "passed", "errors", "hit rate", "saved", "compiled", "fetched", "uploaded"):
        table.add_column(title, justify="right", no_wrap=True)
    for value, totals in sorted(activity.by[dimension].items()):
        counts = (totals.hits, totals.misses, totals.passed, totals.errors)
        if not any(counts) and not totals.bytes_uploaded:
            continue
        table.add_row(
            presentation.printable(value) or "(not told)",
            *map(presentation.number, counts),
            _rate(totals),
            presentation.duration(totals.seconds_saved),
            presentation.duration(totals.seconds_compiled),
            presentation.size(totals.bytes_fetched),
            presentation.size(totals.bytes_uploaded),
        )
    return table


def _table_of_reasons(activity: Activity) -> Table:
    """Return every counter of a miss, bypass or error that counted, with the details that it came with."""
    table = Table("reason", "count", "detail", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    counts = activity.total.counters
    for counter in sorted(counts, key=lambda name: -counts[name]):
        if not counts[counter] or group_of(counter) not in (MISS, PASS, ERROR):
            continue
        meaning = COUNTERS[counter][1] if counter in COUNTERS else ""
        table.add_row(Text(counter, style="bold"), presentation.number(counts[counter]), meaning)
        details = [(count, detail) for (name, detail), count in activity.details.items() if name == counter]
        for count, detail in sorted(details, reverse=True)[:_MOST_DETAILS]:
            table.add_row("", presentation.number(count), "  " + presentation.printable(detail))
        if len(details) > _MOST_DETAILS:
            table.add_row("", "", f"  and {len(details) - _MOST_DETAILS} more")
    return table


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
