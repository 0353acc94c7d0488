"""`neuron-store gc`: results that are not needed go, the least recently used first; and the one that the shim starts."""

import contextlib
import os
import time
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.remote_collecting import Wishes, collect_remote
from neuron_store.shim.archiving import ARCHIVE_COMMAND
from neuron_store.shim.collecting import COLLECT_COMMAND
from neuron_store.shim.log import write_log
from neuron_store.shim.quantities import read_bytes, read_seconds, read_share
from neuron_store.shim.settings import Settings, state_folder
from neuron_store.store.collection.collector import (
    CONTEXTS,
    DIRECTS,
    QUARANTINED,
    TEMPORARY,
    UNNAMED,
    Progress,
    Report,
    collect,
    collector_lock,
    release_collector,
)
from neuron_store.store.collection.limits import (
    AGE,
    COMPILER,
    COUNT,
    DAMAGED,
    FREE,
    IN_USE,
    PINNED,
    QUEUED,
    SELECTED,
    SHARED,
    SIZE,
    Limits,
    free_space,
)
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.event_archive import archive_events
from neuron_store.store.layout import Layout

_NICENESS = 19
_RECENT = 86400.0  # seconds; what was used since then does not go because the disk is full, unless a person asks
_SLACK = 0.9  # of a limit is what a collection that starts by itself leaves: or each miss would start one
_WORDS = {
    DAMAGED: "results that are damaged",
    AGE: "results unused for too long",
    COMPILER: "results of older compilers",
    SELECTED: "results that were chosen",
    COUNT: "results beyond the count",
    SIZE: "results beyond the size",
    FREE: "results, to free the disk",
    UNNAMED: "blobs that no result names",
    DIRECTS: "entries that lead nowhere",
    TEMPORARY: "temporary files and locks",
    CONTEXTS: "contexts of published models",
    QUARANTINED: "files in quarantine",
}
_KEPT = {
    PINNED: "pinned",
    QUEUED: "waiting for upload",
    SHARED: "another model's too",
    IN_USE: "in use just now",
}
_SIZES = "give bytes such as 500M, 200G or 1.5TiB"
_AGES = "give an age in seconds, minutes, hours, days or weeks, such as 90s, 15m, 12h, 30d or 2w"
_SHARES = "give a share of the disk such as 10%, or bytes such as 50G"
_LIMITS = {COUNT: "count", SIZE: "size", FREE: "free space"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("gc")(collect_garbage)
    app.command(COLLECT_COMMAND, hidden=True)(collect_in_background)
    app.command(ARCHIVE_COMMAND, hidden=True)(archive_in_background)


def collect_garbage(
    max_size: Annotated[str, typer.Option(metavar="BYTES", help="At most so large: 200G.")] = "",
    older_than: Annotated[
        str, typer.Option("--older-than", "--max-age", metavar="AGE", help="What was not used for so long: 30d.")
    ] = "",
    keep_compilers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only of the N compiler versions that were used last.")
    ] = None,
    min_free: Annotated[
        str, typer.Option(metavar="SHARE", help="At least so much of the disk is free: 10%, 50G.")
    ] = "",
    max_count: Annotated[int | None, typer.Option(min=0, metavar="N", help="At most so many results.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Only this model's results.")] = "",
    compiler: Annotated[
        str, typer.Option("--compiler", "-c", metavar="VERSION", help="Only of compilers whose version starts so.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", "-r", help="Of a remote, the one named or the first that may be written to.")
    ] = False,
    name: Annotated[str, typer.Argument(metavar="REMOTE", help="With --remote: org/name, hf://… or file:///….")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it, from a remote too.")] = False,
    include_registered: Annotated[
        bool, typer.Option("--include-registered", help="Also results that models of the remote's registry need.")
    ] = False,
    squash_history: Annotated[
        bool, typer.Option("--squash-history", help="Then make one commit of the repo's history, which is lost.")
    ] = False,
    purge_lfs: Annotated[
        bool, typer.Option("--purge-lfs", help="Then delete, for good, stored LFS objects that are no file any more.")
    ] = False,
) -> None:
    """Remove results, the least recently used first, until the limits hold; and what no result needs.

    Limits that are not given are those of the settings. With --model or --compiler, only the limits that are given
    count, for these results alone; if none is given, all of these go.

    With --remote, results go from a Hub repo or a shared folder, the oldest first, and only the limits that are given
    count. Nothing is removed there without --yes.
    """
    chosen = settings()
    layout = readable_store()
    wishes = Wishes(
        include_registered=include_registered,
        squash_history=squash_history,
        purge_lfs=purge_lfs,
        act=yes and not dry_run,
    )
    _require_fitting(wishes, name, min_free, remote=remote)
    given = Limits(
        size=_read("--max-size", max_size, read_bytes, _SIZES),
        age=_read("--older-than", older_than, read_seconds, _AGES),
        compilers=keep_compilers,
        free=_read("--min-free", min_free, lambda text: read_share(text, _whole(layout)), _SHARES),
        count=max_count,
        model=model,
        compiler=compiler,
    )
    if remote:
        collect_remote(chosen, layout, name, given, wishes, as_json=as_json)
        return
    limits = given if given.selective else merged(given, limits_of(chosen, layout))
    report = run_collection(layout, limits, dry_run=dry_run)
    if not dry_run:
        archive(layout, chosen)
    show(layout, report, dry_run=dry_run, as_json=as_json)


def _require_fitting(wishes: Wishes, name: str, min_free: str, *, remote: bool) -> None:
    """Raise ConfigurationError for what is said of a remote without --remote, or of a disk with it."""
    if remote:
        if min_free:
            raise ConfigurationError("--min-free is of a disk, and a remote has none: give --max-size")
        return
    if name:
        raise ConfigurationError(f"{name}: give --remote to remove results from a remote")
    for option, given in (
        ("--include-registered", wishes.include_registered),
        ("--squash-history", wishes.squash_history),
        ("--purge-lfs", wishes.purge_lfs),
    ):
        if given:
            raise ConfigurationError(f"{option} is for remotes: give --remote")


def _whole(layout: Layout) -> int:
    return free_space(layout)[1] if os.path.isdir(layout.root) else 0


def _read(option: str, text: str, read: Any, meant: str) -> Any:  # noqa: ANN401 - what `read` makes of it
    if not text:
        return None
    try:
        return read(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text}: {meant}") from None


def limits_of(chosen: Settings, layout: Layout) -> Limits:
    """Return the limits that the settings tell."""
    return Limits(
        size=chosen.max_size or None,
        age=chosen.max_age or None,
        compilers=chosen.keep_compilers or None,
        free=read_share(chosen.min_free, _whole(layout)) or None,
        count=chosen.max_count or None,
        spare=_RECENT,
    )


def merged(given: Limits, configured: Limits) -> Limits:
    """Return `given`, and what it leaves open as it is configured."""
    return Limits(
        size=configured.size if given.size is None else given.size,
        age=configured.age if given.age is None else given.age,
        compilers=configured.compilers if given.compilers is None else given.compilers,
        free=configured.free if given.free is None else given.free,
        count=configured.count if given.count is None else given.count,
        spare=configured.spare if given.free is None else 0.0,
    )


def run_collection(layout: Layout, limits: Limits, *, dry_run: bool = False) -> Report:
    """Collect, or tell what would go, with a progress bar; wait while another collection runs. Raises OSError."""
    if not os.path.isdir(layout.root):
        return Report()
    with _bar("looking") as progress:
        if dry_run:
            return collect(layout, limits, dry_run=True, progress=progress)
        with holding_collector(layout):
            return collect(layout, limits, progress=progress)


@contextlib.contextmanager
def holding_collector(layout: Layout) -> Iterator[None]:
    """Hold the collector's lock; wait for it if need be."""
    lock = collector_lock(layout)
    if not lock.try_take():
        presentation.remark("waiting for another collection to end")
        lock.take(None)
    try:
        yield
    finally:
        release_collector(layout, lock)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Progress]:
    with presentation.progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def show(layout: Layout, report: Report, *, dry_run: bool, as_json: bool) -> None:
    """Say what went, and what it freed, by reason."""
    if as_json:
        presentation.print_json(
            {
                "dir": layout.root,
                "dry_run": dry_run,
                "removed": {name: {"count": t.results, "bytes": t.bytes} for name, t in report.tallies.items()},
                "kept": report.kept,
                "unmet": report.unmet,
                "unreadable": len(report.unread),
                "freed_bytes": report.freed,
                "before_bytes": report.before,
                "after_bytes": report.after,
                "results": report.results,
            }
        )
        return
    if report.tallies:
        table = Table(box=None, pad_edge=False)
        table.add_column("would go" if dry_run else "gone")
        table.add_column("", justify="right")
        table.add_column("freed", justify="right")
        for reason, tally in report.tallies.items():
            table.add_row(_WORDS[reason], presentation.number(tally.results), presentation.size(tally.bytes))
        presentation.print_table(table)
    results = presentation.plural(report.results, "result")
    size = f"{presentation.size(report.before)} -> {presentation.size(report.after)}" if report.freed else ""
    would = "would stay" if dry_run else "left"
    presentation.write(f"{results} {would}, {size or presentation.size(report.after)} in {layout.root}\n")
    for reason, count in report.kept.items():
        presentation.remark(f"{presentation.plural(count, 'result')} stayed: {_KEPT[reason]}")
    if report.unmet:
        limits = " and ".join(_LIMITS[reason] for reason in report.unmet)
        why = "" if report.unread else ": what is left must stay"
        presentation.remark(f"the limit of {limits} is not reached{why}")
    if report.unread:
        records = presentation.plural(len(report.unread), "record")
        such_as = presentation.printable(report.unread[0])
        presentation.remark(
            f"{records} cannot be read, or another version wrote them ({such_as}): any blob may be theirs, so none was "
            "removed, and no result for size or free space; make them readable, or collect with that version"
        )


def archive(layout: Layout, chosen: Settings) -> None:
    """Sum up old events of the store, and of those that it could not take. Raises OSError."""
    for place in (layout, Layout(state_folder(os.environ))):
        archive_events(place, chosen.max_event_age)


def archive_in_background() -> None:
    """Sum up old events: what the shim starts once a day."""
    chosen = settings()
    try:
        os.nice(_NICENESS)
        archive(Layout(chosen.dir), chosen)
    except Exception:  # noqa: BLE001 - nobody watches
        write_log(chosen.log_file, f"old events were not summed up: {traceback.format_exc()}")
        raise typer.Exit(1) from None


def collect_in_background() -> None:
    """Collect as the settings say, unless another collection runs: what the shim starts."""
    chosen = settings()
    layout = Layout(chosen.dir)
    lock = collector_lock(layout)
    try:
        os.nice(_NICENESS)
        if not lock.try_take():
            return
        limits = limits_of(chosen, layout)
        limits.size = int(limits.size * _SLACK) if limits.size else None
        limits.count = int(limits.count * _SLACK) if limits.count else None
        begun = time.monotonic()
        report = collect(layout, limits)
        if report.freed:
            took = presentation.duration(time.monotonic() - begun)
            left = presentation.plural(report.results, "result")
            write_log(
                chosen.log_file, f"collected {presentation.size(report.freed)} in {took}; {left} left in {layout.root}"
            )
    except Exception:  # noqa: BLE001 - nobody watches
        write_log(chosen.log_file, f"the collection ended: {traceback.format_exc()}")
        raise typer.Exit(1) from None
    finally:
        release_collector(layout, lock)
