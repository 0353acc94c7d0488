"""`neuron-store stock status` and `stock cleanup`: what is in a stock cache's folder, and what hurts there."""

import os
import sys
from collections import Counter, defaultdict
from typing import Annotated, Any

import typer
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.context import settings
from neuron_store.cli.installed_compiler import installed_version
from neuron_store.cli.stock_reasons import print_reasons
from neuron_store.store.errors import ConfigurationError, NotFound
from neuron_store.store.stock.cleanup import finish_removals, may_go, remove_entry, remove_lock
from neuron_store.store.stock.entries import (
    FAILED,
    FINISHED,
    PENDING,
    STATES,
    TRACED,
    UNFINISHED,
    UNREADABLE,
    StockEntry,
    find_entries,
    read_entry,
)
from neuron_store.store.stock.locks import Processes, file_system, lock_holder, young_below
from neuron_store.store.stock.names import DONE, NEFF

DEFAULT_FOLDER = "/var/tmp/neuron-compile-cache"
URL_VARIABLE = "NEURON_COMPILE_CACHE_URL"
_SHOWN = 20  # locks

FOLDER = Annotated[
    str, typer.Argument(metavar="[DIR]", help=f"The folder; by default ${URL_VARIABLE}, or {DEFAULT_FOLDER}.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    stock = typer.Typer(help="Look after a stock cache's folder (libneuronxla's).", no_args_is_help=True)
    stock.command("status")(status)
    stock.command("cleanup")(cleanup)
    app.add_typer(stock, name="stock")


def stock_folder(named: str) -> str:
    """Return the folder of the stock cache. Raises NotFound, ConfigurationError."""
    folder = named or os.environ.get(URL_VARIABLE, "") or DEFAULT_FOLDER
    folder = folder.removeprefix("file://")
    if "://" in folder:
        raise ConfigurationError(f"{folder} is not looked into; copy it first: aws s3 sync {folder} FOLDER")
    if not os.path.isdir(folder):
        raise NotFound(f"there is no folder {folder}; name the stock cache's")
    os.listdir(folder)  # which tells if we may not
    return os.path.abspath(folder)


def status(
    folder: FOLDER = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a stock cache's folder: modules by compiler and state, and who holds its locks."""
    place = stock_folder(folder)
    passed_over = Counter[str]()
    entries = list(find_entries(place, lambda _path, reason: passed_over.update([reason])))
    locks = _locks(entries, young_below(place))
    if as_json:
        presentation.print_json({**_as_dict(place, entries, locks), "passed_over": passed_over})
        return
    if entries:
        _print_versions(entries)
    else:
        presentation.write(f"{place} has no module of a stock cache\n")
    print_reasons(passed_over, "passed over")
    _print_locks(locks)


def _as_dict(place: str, entries: list[StockEntry], locks: dict[str, str]) -> dict[str, Any]:
    versions: dict[str, dict[str, Any]] = defaultdict(lambda: {"bytes": 0, **dict.fromkeys(STATES, 0)})
    for entry in entries:
        versions[entry.version][entry.state] += 1
        versions[entry.version]["bytes"] += _size(entry)
    held = [{"lock": lock, "held": bool(holder), "holder": holder} for lock, holder in locks.items()]
    return {"folder": place, "file_system": file_system(place), "versions": versions, "locks": held}


def _size(entry: StockEntry) -> int:
    """Return the bytes of all files below an entry: a traced model has folders."""
    if entry.state != TRACED:
        return entry.size
    total = 0
    for above, _, names in os.walk(entry.folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(above, name)).st_size
            except OSError:
                continue
    return total


def _print_versions(entries: list[StockEntry]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("compiler", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    shown = [state for state in STATES if any(entry.state == state for entry in entries)]
    for state in shown:
        table.add_column(state.replace("_", " "), justify="right", no_wrap=True)
    for version in dict.fromkeys(entry.version for entry in entries):
        mine = [entry for entry in entries if entry.version == version]
        counts = Counter(entry.state for entry in mine)
        size = presentation.size(sum(map(_size, mine)))
        table.add_row(version or "before 2023", size, *(presentation.number(counts[state]) for state in shown))
    presentation.print_table(table)


def _locks(entries: list[StockEntry], young: float) -> dict[str, str]:
    """Return lock -> who holds it, "" if its owner is dead."""
    locked = [(entry, lock) for entry in entries for lock in entry.locks]
    if not locked:
        return {}
    processes = Processes()
    return {lock: lock_holder(entry, lock, processes, young) for entry, lock in locked}


def _print_locks(locks: dict[str, str]) -> None:
    dead = [lock for lock, holder in locks.items() if not holder]
    live = {lock: holder for lock, holder in locks.items() if holder}
    for lock, holder in list(live.items())[:_SHOWN]:
        presentation.write(f"{lock}: {holder}\n")
    if len(live) > _SHOWN:
        presentation.write(f"and {len(live) - _SHOWN} more that are held\n")
    if dead:
        count = presentation.plural(len(dead), "lock has a dead owner", "locks have dead owners")
        presentation.write(f"{count}: `neuron-store stock cleanup` removes them\n")


def cleanup(
    folder: FOLDER = "",
    failed: Annotated[bool, typer.Option("--failed", help="Entries of failed compiles, which are repeated.")] = False,
    locks: Annotated[bool, typer.Option("--locks", help="Locks whose owner is dead, on which others wait.")] = False,
    old_versions: Annotated[
        bool, typer.Option("--old-versions", help="Entries of other compilers than the one installed here.")
    ] = False,
    min_age: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="What changed since is left alone: 60, on a network disk 12 h."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before old versions go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove stale locks and failed entries (both, if neither is named) from a stock cache's folder.

    A traced model, and what a running compile uses, always stay.
    """
    place = stock_folder(folder)
    if not (failed or locks or old_versions):
        failed = locks = True
    young = young_below(place) if min_age is None else min_age
    entries = list(find_entries(place))
    if not dry_run:
        finish_removals(place)
    going = [entry for entry in entries if failed and _is_only_failed(entry)]
    if old_versions:
        mine = _other_versions(entries)
        if mine and not dry_run and not yes:
            _ask(mine)
        going += [entry for entry in mine if entry not in going]
    removed = Counter[str]()
    freed = 0
    left = {entry.folder: entry for entry in entries}
    for entry in going:
        size = _size(entry)
        if _goes(entry, young, dry_run=dry_run):
            removed[entry.state] += 1
            freed += size
            del left[entry.folder]
    again = [read_entry(entry.folder, entry.version) for entry in left.values() if entry.version] if locks else []
    dead = _dead_locks(again, young)
    gone = sum(dry_run or remove_lock(entry, lock, young) for entry, lock in dead)
    told = {
        "folder": place,
        "removed": dict(removed),
        "bytes": freed,
        "locks": gone,
        "in_use": len(going) - sum(removed.values()),
        "unreadable": sum(entry.state == UNREADABLE for entry in entries),
    }
    if as_json:
        presentation.print_json({**told, "dry_run": dry_run})
        return
    _say(told, dry_run=dry_run)


def _is_only_failed(entry: StockEntry) -> bool:
    """Tell whether an entry is nothing but a failure: after one that was tried again with success, the log may remain."""
    return entry.state == FAILED and not (DONE in entry.sizes and entry.sizes.get(NEFF))


def _dead_locks(entries: list[StockEntry], young: float) -> list[tuple[StockEntry, str]]:
    owners = _locks(entries, young)
    return [(entry, lock) for entry in entries for lock in entry.locks if not owners[lock]]


def _goes(entry: StockEntry, young: float, *, dry_run: bool) -> bool:
    states = (FAILED, FINISHED, PENDING, UNFINISHED) if entry.state != FAILED else (FAILED,)
    return (may_go if dry_run else remove_entry)(entry, states, young)


def _other_versions(entries: list[StockEntry]) -> list[StockEntry]:
    settings()  # which must be readable before a compiler is looked for
    installed = installed_version()
    if not installed:
        raise ConfigurationError("there is no compiler here, so it is not known which versions are old")
    kept = ("", installed)
    return [entry for entry in entries if entry.version not in kept and entry.state not in (TRACED, UNREADABLE)]


def _ask(entries: list[StockEntry]) -> None:
    versions = ", ".join(dict.fromkeys(entry.version for entry in entries))
    count = presentation.plural(len(entries), "module")
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{count} of {versions} would go; say --yes")
    typer.confirm(f"Remove {count} of {versions}?", abort=True, err=True)


def _say(told: "dict[str, Any]", *, dry_run: bool) -> None:
    would = "would remove" if dry_run else "removed"
    parts = [f"{presentation.number(count)} {state}" for state, count in told["removed"].items()]
    said = f"{would} {' and '.join(parts) or 'no'} {'entries' if sum(told['removed'].values()) != 1 else 'entry'}"
    said += f" ({presentation.size(told['bytes'])}) and {presentation.plural(told['locks'], 'lock')}"
    if told["in_use"]:
        said += f"; {presentation.number(told['in_use'])} in use {'stays' if told['in_use'] == 1 else 'stay'}"
    if told["unreadable"]:
        said += f"; {presentation.number(told['unreadable'])} that cannot be read {'stays' if told['unreadable'] == 1 else 'stay'}"
    presentation.write(f"{said} in {told['folder']}\n")
