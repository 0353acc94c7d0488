"""`neuron-store export`: results become finished modules of a stock cache, for hosts without the shim."""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of, readable_store, settings
from neuron_store.cli.remotes import named_location, open_location, require_online
from neuron_store.cli.stock_export_entries import FORMS, RECORDED, ExportEntry, NotExportable, as_entry, further_modules
from neuron_store.cli.stock_reasons import print_reasons
from neuron_store.cli.stock_upload import StockUpload, UploadEntry
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, CorruptEntry, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.location import Location
from neuron_store.store.results import all_keys, find_key
from neuron_store.store.stock.entries import FINISHED, StockEntry, read_entry, state_of
from neuron_store.store.stock.names import DONE, GRAPHS
from neuron_store.store.stock.writing import write_finished

_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BATCH_ENTRIES, _BATCH_BYTES = 50, 1 << 30  # that lie in a temporary folder at a time

FLAGS_HASH = Annotated[
    str,
    typer.Option(
        "--flags-hash",
        metavar="FORM",
        help="The hash of the options that names end with: recorded (the caller's), json (newer), words (older), both.",
    ),
]


@dataclass
class Exported:
    """What came of an export.

    Attributes:
        entries, bytes: that were made.
        without_graph: how many of them have no graph, because it was not kept.
        left_out: reason -> how many results.
    """

    destination: str
    entries: int = 0
    bytes: int = 0
    without_graph: int = 0
    left_out: "Counter[str]" = field(default_factory=Counter)
    fault: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "destination": self.destination,
            "exported": self.entries,
            "bytes": self.bytes,
            "without_graph": self.without_graph,
            "left_out": dict(self.left_out),
            "fault": self.fault,
            "seconds": round(self.seconds, 3),
        }

    def say(self) -> None:
        """Print it."""
        said = f"exported {presentation.plural(self.entries, 'module')}"
        if self.entries:
            said += f" ({presentation.size(self.bytes)})"
        said += f" to {self.destination} in {presentation.duration(self.seconds)}"
        if self.without_graph:
            said += f"; {presentation.number(self.without_graph)} without the graph, which was not kept"
        presentation.write(said + "\n")
        print_reasons(self.left_out)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export)


def export(
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A stock cache's folder, or a repo: hf://org/name.")
    ],
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]…", help="Only these results; the first digits do.")
    ] = None,
    compiler: Annotated[
        str, typer.Option("--compiler", "-c", metavar="VERSION", help="Only of compilers whose version starts so.")
    ] = "",
    flags_hash: FLAGS_HASH = RECORDED,
    unprovable: Annotated[
        bool, typer.Option("--unprovable", help="Also results that depend on what an entry does not tell.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Also where a repo has other bytes of a module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write results as finished modules of a stock cache: what hosts without the shim, and optimum-neuron, look for."""
    if flags_hash not in FORMS:
        raise ConfigurationError(f"--flags-hash {flags_hash!r} is none of {', '.join(FORMS)}")
    location = _read_destination(destination)
    chosen, layout = settings(), readable_store()
    made = Exported(destination)
    begun = time.monotonic()
    wanted = [find_key(layout, key) for key in keys] if keys else list(all_keys(layout))
    entries = list(_entries(made, layout, wanted, flags_hash, compiler, unprovable=unprovable))
    if location is not None and location.scheme == "hf":
        _to_repo(made, location, layout, chosen, entries, replace=replace)
    else:
        _to_folder(made, location.place if location is not None else destination, entries)
    made.seconds = time.monotonic() - begun
    if as_json:
        presentation.print_json(made.as_dict())
    else:
        made.say()
    if not wanted:
        presentation.remark(f"there is no result in {layout.root} yet")
    if made.fault:
        raise RemoteError(f"not all could be exported: {made.fault}; export again to go on")


def _read_destination(destination: str) -> "Location | None":
    """Return the repo or folder that a URL names, None for a folder's path. Raises ConfigurationError."""
    if destination.startswith("s3://"):
        raise ConfigurationError(f"{destination} is not written to; export to a folder, and aws s3 sync it there")
    if destination.startswith(("hf://", "file://")):
        location = named_location(destination)
        if not location.writable:
            raise ConfigurationError(f"{destination} is read-only")
        return location
    if not destination or _LIKE_URL.match(destination):
        raise ConfigurationError(
            f"{destination!r} is neither a folder nor a repo: a repo is written hf://org/name, "
            "and a folder whose name looks like a URL with ./ before it"
        )
    return None


def _entries(
    made: Exported, layout: Layout, keys: list[str], form: str, compiler: str, *, unprovable: bool
) -> Iterator[ExportEntry]:
    modules = further_modules(events_of(layout))
    for key in keys:
        try:
            entry = as_entry(layout, key, form, modules.get(key, ()), unprovable=unprovable)
        except NotExportable as answer:
            made.left_out[str(answer)] += 1
            continue
        if entry.version.startswith(compiler):
            yield entry


def _to_folder(made: Exported, folder: str, entries: list[ExportEntry]) -> None:
    with _progress(len(entries)) as advance:
        for entry in entries:
            for name in entry.names:
                _write(made, entry, f"{folder}/{name}")
            advance()


def _write(made: Exported, entry: ExportEntry, folder: str) -> None:
    there = read_entry(folder, entry.version)
    if _is_finished(there, entry):
        made.left_out["present"] += 1
    elif there.locks:
        made.left_out["locked"] += 1
    else:
        try:
            write_finished(folder, entry.files)
        except CorruptEntry:
            made.left_out["corrupt"] += 1
            return
        _count(made, entry)


def _is_finished(there: StockEntry, entry: ExportEntry) -> bool:
    """Tell whether an entry is there, also one without the graph where we have none either: it is served all the same."""
    if there.state == FINISHED:
        return True
    with_graph = {GRAPHS[0]: 1, **there.sizes}
    return not entry.has_graph and state_of(there.module, with_graph) == FINISHED


def _count(made: Exported, entry: ExportEntry) -> None:
    made.entries += 1
    made.bytes += entry.size
    made.without_graph += not entry.has_graph


def _to_repo(
    made: Exported,
    location: Location,
    layout: Layout,
    chosen: Settings,
    entries: list[ExportEntry],
    *,
    replace: bool,
) -> None:
    require_online(location)
    opened = open_location(location, layout, chosen)
    upload = StockUpload(opened, chosen, replace=replace)
    layout.require_writable()
    with _progress(len(entries)) as advance:
        for batch in _batches(_absent(made, opened.remote.look_up, entries, replace=replace)):
            with tempfile.TemporaryDirectory(dir=f"{layout.root}/tmp", ignore_cleanup_errors=True) as folder:
                written = [local for entry in batch for local in _write_aside(made, entry, folder)]
                before = upload.made.entries
                upload.send(written, lambda _size, count: advance(count))
                for entry in batch[: upload.made.entries - before]:
                    made.without_graph += not entry.has_graph
            if upload.made.fault:
                break
    made.entries, made.bytes, made.fault = upload.made.entries, upload.made.bytes, upload.made.fault
    made.left_out.update(upload.made.left_out)


def _absent(
    made: Exported, look_up: "Callable[..., Any]", entries: list[ExportEntry], *, replace: bool
) -> Iterator[ExportEntry]:
    """Yield the entries that a remote lacks, by their marks: nothing is decompressed for the others."""
    paths = [f"{name}/{DONE}" for entry in entries for name in entry.names]
    there = look_up(paths) if paths and not replace else {}
    for entry in entries:
        if all(f"{name}/{DONE}" in there for name in entry.names):
            made.left_out["present"] += 1
        else:
            yield entry


def _batches(entries: Iterator[ExportEntry]) -> Iterator[list[ExportEntry]]:
    batch: list[ExportEntry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == _BATCH_ENTRIES or sum(each.size for each in batch) > _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_aside(made: Exported, entry: ExportEntry, folder: str) -> list[UploadEntry]:
    place = f"{folder}/{entry.key}"
    try:
        write_finished(place, entry.files)
    except CorruptEntry:
        made.left_out["corrupt"] += 1
        return []
    return [UploadEntry(name, {file: f"{place}/{file}" for file in os.listdir(place)}) for name in entry.names]


@contextmanager
def _progress(total: int) -> "Iterator[Callable[..., None]]":
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with presentation.progress(*columns) as progress:
        task = progress.add_task("exporting", total=total)
        yield lambda count=1: progress.advance(task, count)
