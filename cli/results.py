"""`neuron-store list` and `show`: what the local store, or a remote, holds."""

import os
import shlex
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.as_uploaded import show_as_uploaded
from neuron_store.cli.context import local_store, readable_store, settings
from neuron_store.cli.model_listing import list_models
from neuron_store.cli.remote_listing import Filters, chosen_remote, list_rows, list_versions
from neuron_store.cli.totals import read_hits
from neuron_store.store.errors import ConfigurationError, CorruptEntry, NotFound
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, all_keys, find_key, load_result


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
    name: Annotated[
        str, typer.Argument(metavar="REMOTE", help="A remote: org/name, hf://… or file:///…; else the local store.")
    ] = "",
    module: Annotated[str, typer.Option(metavar="NAME", help="Only modules whose name has this in it.")] = "",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help='The remote\'s entries for a model; "" for all models.'),
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="The remote's entries for all models.")] = False,
    compiler: Annotated[
        str,
        typer.Option(
            "--compiler", "--version", "-c", "-v", metavar="VERSION", help="Only of compilers whose version starts so."
        ),
    ] = "",
    since: Annotated[str, typer.Option(metavar="WHEN", help="Only results made since: 1h, 2d, or a date.")] = "",
    min_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Only results that took at least so long to compile.")
    ] = 0.0,
    sort: Annotated[Order, typer.Option(help="What comes first.")] = Order.AGE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0: all.")] = 0,
    remote: Annotated[bool, typer.Option("--remote", help="List the first of the configured remotes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the results in the local store; or a remote's compiler versions, with -c its results, with -m its models."""
    begun = presentation.moment(since) if since else 0.0
    if model is not None or models:
        if module or since or min_seconds or limit or sort is not Order.AGE:
            raise ConfigurationError("-m and --models list models, which only --compiler can be added to")
        chosen = settings()
        list_models(chosen_remote(chosen, local_store(), name), chosen, model or "", compiler, as_json=as_json)
        return
    if name or remote:
        _list_remote(name, Filters(module, compiler, begun, min_seconds, limit, sort.value), as_json=as_json)
        return
    layout = readable_store()
    held, unreadable = _rows(layout)
    rows = [
        row
        for row in held
        if module in row.module
        and row.compiler.startswith(compiler)
        and row.created >= begun
        and (row.seconds or 0.0) >= min_seconds
    ]
    rows.sort(key=lambda row: _rank(row, sort), reverse=True)
    shown = rows[:limit] if limit else rows
    if as_json:
        presentation.print_json([vars(row) for row in shown])
    elif rows:
        presentation.print_table(_table(shown))
        if len(shown) < len(rows):
            presentation.remark(f"{len(shown)} of {presentation.plural(len(rows), 'result')}; -n 0 shows all")
    elif held:
        presentation.remark(f"none of the {presentation.plural(len(held), 'result')} in {layout.root} fits")
    else:
        presentation.remark(f"there is no result in {layout.root} yet")
    if unreadable:
        damaged = presentation.plural(unreadable, "damaged record")
        presentation.remark(f"left out {damaged}; the next compile of the same replaces it")


def _list_remote(name: str, filters: Filters, *, as_json: bool) -> None:
    chosen = settings()
    opened = chosen_remote(chosen, local_store(), name)
    if filters.module or filters.compiler or filters.begun or filters.min_seconds:
        list_rows(opened, chosen, filters, as_json=as_json)
    else:
        list_versions(opened, as_json=as_json)


def _rank(row: Row, order: Order) -> float:
    return {
        Order.AGE: row.created,
        Order.SIZE: row.size,
        Order.SECONDS: row.seconds or 0.0,
        Order.HITS: row.hits,
        Order.USED: row.used,
    }[order]


def _rows(layout: Layout) -> tuple[list[Row], int]:
    """Return a row for every result, and how many records could not be read."""
    unreadable = 0
    hits = read_hits(layout)
    rows = []
    for key in all_keys(layout):
        try:
            result = load_result(layout, key)
            used = os.stat(layout.result_path(key)).st_mtime
        except FileNotFoundError:
            continue  # gone since it was listed
        except (CorruptEntry, OSError):
            unreadable += 1
            continue
        if result is not None:
            rows.append(_row(result, used, hits[key]))
    return rows, unreadable


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
    table = presentation.table_of_results({"size": 8, "compile": 7, "age": 6, "hits": 4})
    for row in rows:
        table.add_row(
            row.key[: presentation.SHOWN_KEY],
            presentation.size(row.size),
            presentation.duration(row.seconds),
            presentation.age(row.created),
            presentation.number(row.hits),
            row.compiler.partition("+")[0],
            presentation.printable(row.module),
        )
    return table


def show(
    key: Annotated[str, typer.Argument(help="The key, or its first digits.")],
    as_uploaded: Annotated[
        bool, typer.Option("--as-uploaded", help="Print exactly the record that a remote would get.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show all that is recorded of one result."""
    layout = readable_store()
    found = find_key(layout, key.lower())
    try:
        result = load_result(layout, found)
    except CorruptEntry as error:
        path = layout.result_path(found)
        raise CorruptEntry(f"{path}: {error}; the next compile of the same replaces it") from error
    if result is None:
        raise NotFound(f"the result {found} has just gone from {layout.root}")
    if as_uploaded:
        show_as_uploaded(layout, settings(), result, as_json=as_json)
        return
    blobs = _blobs(layout, result)
    if as_json:
        result.provenance.pop("private", None)  # found in the texts, and to be shown to nobody
        presentation.print_json({**result.as_dict(), "blobs": blobs})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _facts(result):
        table.add_row(Text(title, style="bold"), text)
    table.add_row(Text("inputs", style="bold"), "(what the key is made of)")
    for component in result.components:
        made_of = "\n".join(map(presentation.printable, component["fields"])) or "(nothing)"
        table.add_row(f"  {component['name']}", f"{component['digest']}\n{made_of}")
    table.add_row(Text("outputs", style="bold"), "")
    for role, output in result.outputs.items():
        stored = blobs[role]["stored_bytes"]
        where = (
            "missing from the store" if stored is None else f"stored as {output.encoding}, {presentation.size(stored)}"
        )
        table.add_row(f"  {role}", f"{presentation.size(output.size)}, {where}\n{output.sha256}")
    presentation.print_table(table)


def _facts(result: Result) -> list[tuple[str, str]]:
    made = result.provenance
    created = presentation.date(made.get("created", 0))
    version = str(made.get("compiler_version") or "unknown version")
    if "origin" in made:
        where = [("created", f"{created}, elsewhere"), ("from", str(made["origin"]))]
        return [*_what(result), *where, *_stock(made), ("compiler", presentation.printable(version))]
    if "imported" in made:
        where = [("created", f"{created}"), ("imported from", str(made["imported"]))]
        return [*_what(result), *where, *_stock(made), ("compiler", presentation.printable(version))]
    return [
        *_what(result),
        ("created", f"{created}, on {made.get('host')}, by user {made.get('user')}"),
        ("compiler", f"{version} ({made.get('compiler')})"),
        ("command", shlex.join(made.get("command", []))),
        ("directory", str(made.get("directory", ""))),
    ]


def _stock(made: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of the stock cache's entry that a result came from."""
    stock = made.get("stock")
    if not isinstance(stock, dict):
        return []
    believed = " (believed by its name alone)" if stock.get("by_name") else ""
    return [
        ("stock entry", presentation.printable(str(stock.get("module"))) + believed),
        ("its options", presentation.printable(shlex.join(map(str, stock.get("flags") or [])))),
    ]


def _what(result: Result) -> list[tuple[str, str]]:
    name = presentation.printable(str(result.input.get("name")))
    return [
        ("key", result.key),
        ("module", f"{name} ({presentation.size(result.input.get('size', 0))})"),
        ("input sha256", f"{result.input.get('sha256')} ({result.input.get('mode')})"),
        ("compile", presentation.duration(result.seconds)),
    ]


def _blobs(layout: Layout, result: Result) -> dict[str, dict[str, Any]]:
    found = {}
    for role, output in result.outputs.items():
        path = layout.blob_path(output.sha256, {"raw": "", "zst": ".zst"}[output.encoding])
        try:
            stored: int | None = os.stat(path).st_size
        except OSError:
            stored = None
        found[role] = {"path": path, "stored_bytes": stored}
    return found
