"""`neuron-store verify --remote`: whether what remotes hold is whole; and results that this host can give them again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.finding import is_whole
from neuron_store.cli.findings import show_findings
from neuron_store.cli.reading import read_each, read_files
from neuron_store.cli.remotes import (
    LISTING_PATIENCE,
    Opened,
    configured_locations,
    named_location,
    open_location,
    require_online,
    why_no_remote,
)
from neuron_store.shim.settings import OFFICIAL_REMOTE, Settings
from neuron_store.store.checking.faults import LEFT, REPAIRED, Finding, count_kinds
from neuron_store.store.checking.remote_check import Expected, RemoteChecked, Tick, check_remote
from neuron_store.store.errors import CorruptRemote, RemoteError, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.base import Remote

_OFFICIAL = OFFICIAL_REMOTE.partition("|")[0]
ALL = "all"


def verify_remotes(settings: Settings, layout: Layout, name: str, *, deep: bool, mend: bool, as_json: bool) -> None:
    """Check one remote, or all that are configured, and say what was found.

    Raises CorruptRemote if something is wrong, RemoteUnavailable or RemoteRefused for one that could not be checked.
    """
    checked: list[RemoteChecked] = []
    faults: dict[str, RemoteError] = {}
    for opened in _chosen(settings, layout, name):
        try:
            require_online(opened.location)
            checked.append(_check(opened, settings, deep=deep))
            if mend:
                _queue_again(layout, opened, checked[-1])
        except RemoteError as error:
            faults[opened.remote.url] = error
        finally:
            opened.remote.close()
    if as_json:
        told = {"remotes": [_as_dict(each) for each in checked], "faults": {url: str(e) for url, e in faults.items()}}
        presentation.print_json(told)
    else:
        for each in checked:
            _show(each, deep=deep)
    _end(checked, faults, mended=mend)


def _chosen(settings: Settings, layout: Layout, name: str) -> list[Opened]:
    if name != ALL:
        return [open_location(named_location(name), layout, settings, patience=LISTING_PATIENCE)]
    locations = configured_locations(settings)
    if not locations:
        raise RemoteError(why_no_remote(settings))
    mine = [location for location in locations if location.url != _OFFICIAL]
    if len(mine) < len(locations):
        presentation.remark(f"{_OFFICIAL} is nobody's to mend, and is not looked at; name it to do so")
    return [open_location(location, layout, settings, patience=LISTING_PATIENCE) for location in mine]


def _check(opened: Opened, settings: Settings, *, deep: bool) -> RemoteChecked:
    def read(paths: list[str], limit: int) -> "list[bytes | CorruptRemote | None]":
        return read_files(opened, settings, paths, limit)

    def each(items: list[Expected], fault_of: Any) -> "list[str | CorruptRemote]":  # noqa: ANN401 - of remote_check
        def ask(remote: Remote, item: Expected, _: object) -> str:
            return str(fault_of(remote, item))

        return read_each(opened, settings, items, ask)

    with _bar(f"checking {opened.remote.url}") as tick:
        return check_remote(opened.remote, read, each if deep else None, tick)


@contextmanager
def _bar(title: str) -> Iterator[Tick]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with presentation.progress(*columns) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _queue_again(layout: Layout, opened: Opened, checked: RemoteChecked) -> None:
    """Queue, for an upload in place of what is wrong, each result that this host has whole."""
    for finding in checked.findings:
        finding.outcome = LEFT
        here = [key for key in finding.keys if is_whole(layout, key)]
        if not opened.remote.writable:
            finding.done = "the remote is read-only here"
        elif not here or len(here) < len(finding.keys):
            finding.done = "this host has no such result" if finding.keys else "a person must decide"
        else:
            for key in here:
                enqueue(layout, opened.remote.identity, key, replace=True)
            finding.outcome, finding.done = REPAIRED, "queued to be replaced; `neuron-store push` uploads it now"


def _as_dict(checked: RemoteChecked) -> dict[str, Any]:
    told = {name: value for name, value in vars(checked).items() if name != "findings"}
    return told | {
        "found": count_kinds(checked.findings),
        "findings": [finding.as_dict() for finding in checked.findings],
    }


def _show(checked: RemoteChecked, *, deep: bool) -> None:
    show_findings(checked.findings, remote=True)
    damaged = {key for finding in checked.findings for key in finding.keys}
    blobs = f"{presentation.plural(checked.blobs, 'blob')} of {presentation.size(checked.bytes)}"
    how = f", {presentation.size(checked.read)} read" if deep else ""
    whole = presentation.plural(checked.results - len(damaged), "result")
    presentation.write(f"{whole} of {checked.results} whole in {checked.url} ({blobs}{how})\n")
    if checked.untold:
        untold = presentation.plural(checked.untold, "blob")
        presentation.remark(
            f"{untold} of {checked.url}: only the sizes were compared, it tells no digests; --deep reads"
        )
    if checked.stock:
        presentation.remark(f"{presentation.plural(checked.stock, 'stock module')} in {checked.url}, not looked at")
    if checked.unnamed:
        unnamed = f"{presentation.plural(checked.unnamed, 'blob')} ({presentation.size(checked.unnamed_bytes)})"
        presentation.remark(f"{unnamed} in {checked.url} that no record names; `neuron-store gc --remote` removes them")
    if checked.newer:
        presentation.remark(f"{presentation.plural(checked.newer, 'record')} of another format, not looked at")


def _end(checked: list[RemoteChecked], faults: dict[str, RemoteError], *, mended: bool) -> None:
    if faults:
        message = "; ".join(str(error) for error in faults.values())
        raise type(next(iter(faults.values())))(message) if len(faults) == 1 else RemoteUnavailable(message)
    findings: list[Finding] = [finding for each in checked for finding in each.findings]
    left = [finding for finding in findings if finding.outcome != REPAIRED]
    if not left:
        return
    urls = ", ".join(each.url for each in checked if each.findings)
    count = presentation.plural(len(left), "fault")
    if mended:
        raise CorruptRemote(f"{count} left in {urls}: {left[0].done}")
    what = "`--repair` queues what this host has whole for an upload in its place; hosts take the rest for a miss"
    raise CorruptRemote(f"{count} in {urls}; {what}")
