"""`neuron-store list` and `show`: what the local store holds."""

import collections
import datetime
import os
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of, local_store
from neuron_store.shim.counters import COUNTERS, HIT
from neuron_store.store.errors import CorruptEntry, NotFound
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, all_keys, find_key, load_result

_SHOWN_KEY = 12  # digits


class Order(str, Enum):
    """What `list` sorts by: newest, largest, slowest to compile or most often served first."""

    AGE = "age"
    SIZE = "size"
    SECONDS = "seconds"
    HITS = "hits"
    USED = "used"


@dataclass
class Row:
    """One result as `list` shows it. Times are Unix seconds, sizes bytes."""

    key: str
    module: str
    compiler: str
    size: int
    seconds: "float | None"
    created: float
    used: float
    hits: int


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("list")(list_results)
    app.command("show")(show)


def list_results(
    module: Annotated[str, typer.Option("--module", "-m", help="Only modules whose name has this in it.")] = "",
    compiler: Annotated[
        str, typer.Option("--compiler", "-c", help="Only results of compilers whose version starts so.")
    ] = "",
    since: Annotated[str, typer.Option(help="Only results made since: 1h, 2d, or a date.")] = "",
    min_seconds: Annotated[float, typer.Option(help="Only results that took at least so long to compile.")] = 0.0,
    sort: Annotated[Order, typer.Option(help="What comes first.")] = Order.AGE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the results in the local store."""
    layout = local_store()
    begun = presentation.moment(since) if since else 0.0
    rows = [
        row
        for row in _rows(layout)
        if module in row.module
        and row.compiler.startswith(compiler)
        and row.created >= begun
        and (row.seconds or 0.0) >= min_seconds
    ]
    rows.sort(key=lambda row: _rank(row, sort), reverse=True)
    shown = rows[:limit] if limit else rows
    if as_json:
        presentation.print_json([vars(row) for row in shown])
        return
    if not rows:
        presentation.console(stderr=True).print(f"no result in {layout.root} fits", markup=False, soft_wrap=True)
        return
    presentation.console().print(_table(shown))
    if len(shown) < len(rows):
        presentation.console(stderr=True).print(f"{len(shown)} of {len(rows)} results; -n 0 shows all")


def _rank(row: Row, order: Order) -> float:
    return {
        Order.AGE: row.created,
        Order.SIZE: row.size,
        Order.SECONDS: row.seconds or 0.0,
        Order.HITS: row.hits,
        Order.USED: row.used,
    }[order]


def _rows(layout: Layout) -> list[Row]:
    hits = collections.Counter(
        event.fields.get("key", "") for event in events_of(layout) if COUNTERS.get(event.outcome, ("",))[0] == HIT
    )
    rows = []
    for key in all_keys(layout):
        try:
            result = load_result(layout, key)
            used = os.stat(layout.result_path(key)).st_mtime
        except (CorruptEntry, OSError):
            continue
        if result is not None:
            rows.append(_row(result, used, hits[key]))
    return rows


def _row(result: Result, used: float, hits: int) -> Row:
    return Row(
        key=result.key,
        module=str(result.input.get("name", "")),
        compiler=str(result.provenance.get("compiler_version") or "unknown"),
        size=result.size,
        seconds=result.seconds,
        created=float(result.provenance.get("created", 0.0)),
        used=used,
        hits=hits,
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("key", "module", "compiler"):
        table.add_column(title, overflow="fold" if title == "module" else "ellipsis", no_wrap=title == "key")
    for title in ("size", "compile", "age", "hits"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.key[:_SHOWN_KEY],
            row.module,
            row.compiler,
            presentation.size(row.size),
            presentation.duration(row.seconds),
            presentation.age(row.created),
            presentation.number(row.hits),
        )
    return table


def show(
    key: Annotated[str, typer.Argument(help="The key, or its first digits.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show all that is recorded of one result."""
    layout = local_store()
    found = find_key(layout, key.lower())
    result = load_result(layout, found)
    if result is None:
        raise NotFound(f"the result {found} has just gone from {layout.root}")
    blobs = _blobs(layout, result)
    if as_json:
        presentation.print_json({**result.as_dict(), "blobs": blobs})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _facts(result):
        table.add_row(title, text)
    for role, blob in blobs.items():
        table.add_row(role, blob["text"])
    presentation.console().print(table)


def _facts(result: Result) -> list[tuple[str, str]]:
    from rich.markup import escape

    made = result.provenance
    created = datetime.datetime.fromtimestamp(made.get("created", 0), datetime.timezone.utc)
    facts = [
        ("key", result.key),
        ("module", f"{result.input.get('name')} ({presentation.size(result.input.get('size', 0))})"),
        ("input sha256", f"{result.input.get('sha256')} ({result.input.get('mode')})"),
        ("compile", presentation.duration(result.seconds)),
        ("created", f"{created:%Y-%m-%d %H:%M:%S} UTC, on {made.get('host')}, by user {made.get('user')}"),
        ("compiler", f"{made.get('compiler_version') or 'unknown version'} ({made.get('compiler')})"),
        ("command", " ".join(made.get("command", []))),
        ("directory", str(made.get("directory", ""))),
    ]
    for component in result.components:
        made_of = "\n".join(component["fields"]) or "(nothing)"
        facts.append((f"{component['name']}", f"{component['digest']}\n{made_of}"))
    return [(title, escape(text)) for title, text in facts]


def _blobs(layout: Layout, result: Result) -> dict[str, dict[str, Any]]:
    found = {}
    for role, output in result.outputs.items():
        path = layout.blob_path(output.sha256, {"raw": "", "zst": ".zst"}[output.encoding])
        try:
            stored: int | None = os.stat(path).st_size
        except OSError:
            stored = None
        where = "missing" if stored is None else f"{presentation.size(stored)} as {output.encoding}"
        text = f"{presentation.size(output.size)} ({where})  {output.sha256}"
        found[role] = {"path": path, "stored_bytes": stored, "text": text}
    return found
