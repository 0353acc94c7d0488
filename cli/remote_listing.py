"""`neuron-store list NAME`: what a remote holds, by compiler version, or result by result."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.finding import listed_keys
from neuron_store.cli.model_listing import count_registry
from neuron_store.cli.reading import read_each
from neuron_store.cli.remotes import (
    LISTING_PATIENCE,
    Opened,
    configured_locations,
    in_threads,
    named_location,
    open_location,
    require_online,
    why_no_remote,
)
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, CorruptRemote, NotFound, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import BLOBS, Remote, is_name_of_ours, version_folder, versions_of
from neuron_store.store.remotes.fetch import fetch_record
from neuron_store.store.remotes.location import hub_offline
from neuron_store.store.remotes.records import Record

_RECORDS_AT_ONCE = 200  # are read before it is seen how many of them fit


@dataclass(frozen=True)
class Filters:
    """Which results are to be listed, in which order. `begun` is in Unix seconds; a limit of 0 is none."""

    module: str
    compiler: str
    begun: float
    min_seconds: float
    limit: int
    order: str


@dataclass
class RemoteRow:
    """One result of a remote. Times are Unix seconds, sizes bytes: of its outputs, and of what the remote stores."""

    key: str
    module: str
    compiler: str
    size: int
    stored: int
    seconds: "float | None"
    created: float


_RANKS: dict[str, Callable[[RemoteRow], float]] = {
    "age": lambda row: row.created,
    "size": lambda row: row.size,
    "seconds": lambda row: row.seconds or 0.0,
}


def chosen_remote(settings: Settings, layout: Layout, name: str) -> Opened:
    """Return the remote of that name, or the first that is configured. Raises ConfigurationError, RemoteError."""
    if name:
        location = named_location(name)
    else:
        locations = configured_locations(settings)
        if not locations:
            raise RemoteError(why_no_remote(settings))
        askable = (each for each in locations if each.scheme != "hf" or not hub_offline(os.environ))
        location = next(askable, locations[0])
    require_online(location)
    return open_location(location, layout, settings, patience=LISTING_PATIENCE)


def chosen_remotes(settings: Settings, layout: Layout, name: str) -> list[Opened]:
    """Return the remote of that name, or all that are configured. Raises ConfigurationError, RemoteError."""
    locations = [named_location(name)] if name else configured_locations(settings)
    if not locations:
        raise RemoteError(why_no_remote(settings))
    return [open_location(location, layout, settings, patience=LISTING_PATIENCE) for location in locations]


# -- by version ------------------------------------------------------------------------------------------------------


def list_versions(opened: Opened, *, as_json: bool) -> None:
    """Print what a remote has of each compiler version: results and their bytes, models and their entries."""
    remote = opened.remote
    versions = versions_of(remote.folders())
    rows = in_threads(lambda version: _measure(remote, version), versions)
    held = [row for row in rows if row["results"] or row["entries"]]
    if as_json:
        presentation.print_json({"remote": remote.url, "versions": held})
        return
    if held:
        table = Table(box=None, pad_edge=False)
        table.add_column("compiler", no_wrap=True)
        table.add_column("results", justify="right")
        table.add_column("stored", justify="right", no_wrap=True)
        table.add_column("models", justify="right")
        table.add_column("entries", justify="right")
        for row in held:
            numbers = [presentation.number(row[name]) for name in ("results", "models", "entries")]
            numbers.insert(1, presentation.size(row["bytes"]))
            table.add_row(row["compiler"], *numbers)
        presentation.print_table(table)
    else:
        presentation.remark(f"there is no result in {remote.url}")
    others = len(rows) - len(held)
    if others:
        folders = presentation.plural(others, "compiler version has", "compiler versions have")
        presentation.remark(f"{folders} only what others keep there")


def _measure(remote: Remote, version: str) -> dict[str, Any]:
    results = sum(1 for _ in listed_keys(remote, version))
    blobs = remote.walk(f"{version_folder(version)}/{BLOBS}") if results else iter(())
    size = sum(max(file.size, 0) for file in blobs if is_name_of_ours(file.path))
    models, entries = count_registry(remote, version)
    return {"compiler": version, "results": results, "bytes": size, "models": models, "entries": entries}


# -- by result -------------------------------------------------------------------------------------------------------


def list_rows(opened: Opened, settings: Settings, filters: Filters, *, as_json: bool) -> None:
    """Print the results of a remote that fit. Raises NotFound if there is no such version."""
    if filters.order not in _RANKS:
        raise ConfigurationError(f"--sort {filters.order}: a remote does not know that; there are {', '.join(_RANKS)}")
    remote = opened.remote
    versions = versions_of(remote.folders())
    fitting = [version for version in versions if version.startswith(filters.compiler)]
    if filters.compiler and not fitting:
        known = ", ".join(versions) or "none at all"
        raise NotFound(f"{remote.url} has no compiler version that starts with {filters.compiler}; it has {known}")
    listed = in_threads(lambda version: list(listed_keys(remote, version)), fitting)
    items = [(version, key) for version, keys in zip(fitting, listed, strict=True) for key in keys]
    rows, looked_at, unreadable = _read(opened, settings, filters, items)
    rows.sort(key=_RANKS[filters.order], reverse=True)
    if as_json:
        presentation.print_json([vars(row) for row in rows])
    elif rows:
        presentation.print_table(_table(rows))
    elif items:
        presentation.remark(f"none of the {presentation.plural(len(items), 'result')} in {remote.url} fits")
    else:
        presentation.remark(f"there is no result in {remote.url}")
    if looked_at < len(items):
        presentation.remark(
            f"looked at {looked_at} of {presentation.plural(len(items), 'result')}, by their keys; -n 0 shows all"
        )
    if unreadable:
        presentation.remark(f"left out {presentation.plural(unreadable, 'record')} that cannot be believed")


def _read(
    opened: Opened, settings: Settings, filters: Filters, items: list[tuple[str, str]]
) -> tuple[list[RemoteRow], int, int]:
    """Return the rows that fit, how many records were looked at for it, and how many of them were of no use."""
    rows: list[RemoteRow] = []
    looked_at = unreadable = 0
    while looked_at < len(items) and not (filters.limit and len(rows) >= filters.limit):
        lacking = filters.limit - len(rows) if filters.limit else len(items)
        step = lacking if not _filters_rows(filters) else max(lacking, _RECORDS_AT_ONCE)
        some = items[looked_at : looked_at + step]
        records = _read_records(opened, some, settings)
        for record in records:
            looked_at += 1
            if record is None:
                unreadable += 1
            elif _fits(record, filters):
                rows.append(_row(record))
                if len(rows) == filters.limit:
                    break
    return rows, looked_at, unreadable


def _read_records(opened: Opened, wanted: list[tuple[str, str]], settings: Settings) -> "list[Record | None]":
    """Return the records of (version, key), None for each that is gone or cannot be believed.

    Raises RemoteUnavailable, RemoteRefused.
    """
    read = read_each(
        opened, settings, wanted, lambda remote, item, options: fetch_record(remote, *item, options.largest)
    )
    return [None if isinstance(record, CorruptRemote) else record for record in read]


def _filters_rows(filters: Filters) -> bool:
    return bool(filters.module or filters.begun or filters.min_seconds)


def _fits(record: Record, filters: Filters) -> bool:
    return (
        filters.module in record.input["name"]
        and record.created >= filters.begun
        and (record.seconds or 0.0) >= filters.min_seconds
    )


def _row(record: Record) -> RemoteRow:
    return RemoteRow(
        key=record.key,
        module=str(record.input["name"]),
        compiler=record.compiler_version or "unknown",
        size=sum(blob.output.size for blob in record.outputs),
        stored=sum(blob.stored_size for blob in (*record.outputs, *record.inputs)),
        seconds=record.seconds,
        created=min(record.created, time.time()),
    )


def _table(rows: list[RemoteRow]) -> Table:
    table = presentation.table_of_results({"size": 8, "stored": 8, "compile": 7, "age": 6})
    for row in rows:
        table.add_row(
            row.key[: presentation.SHOWN_KEY],
            presentation.size(row.size),
            presentation.size(row.stored),
            presentation.duration(row.seconds),
            presentation.age(row.created),
            row.compiler.partition("+")[0],
            presentation.printable(row.module),
        )
    return table
