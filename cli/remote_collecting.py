"""`neuron-store gc --remote`: what is old goes from a remote, once it has been shown what that is."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.reading import read_files
from neuron_store.cli.remotes import (
    LISTING_PATIENCE,
    Opened,
    configured_locations,
    named_location,
    open_location,
    require_online,
    why_no_remote,
)
from neuron_store.shim.settings import Settings
from neuron_store.store.collection.limits import (
    AGE,
    COMPILER,
    COUNT,
    PINNED,
    QUEUED,
    REGISTERED,
    SELECTED,
    SHARED,
    SIZE,
    Limits,
    Tally,
)
from neuron_store.store.collection.remote_collector import Patience, RemoteCollector, RemoteReport
from neuron_store.store.collection.remote_inventory import Progress, RemoteReader
from neuron_store.store.collection.remote_plan import ENTRIES, GRACE, UNNAMED, Plan, tally
from neuron_store.store.errors import ConfigurationError, RemoteError, RemoteRefused
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.hub import HubRemote
from neuron_store.store.remotes.hub_storage import HubStorage, StoredObject
from neuron_store.store.remotes.location import Location, hub_offline

_WORDS = {
    AGE: "results that are too old",
    COMPILER: "results of older compilers",
    SELECTED: "results that were chosen",
    COUNT: "results beyond the count",
    SIZE: "results beyond the size",
    ENTRIES: "entries of models",
    UNNAMED: "blobs that no result names",
}
_KEPT = {
    PINNED: "pinned on this host",
    QUEUED: "waiting for upload on this host",
    SHARED: "another model's too",
    REGISTERED: "models of the registry need them",
}
_LIMITS = {COUNT: "count", SIZE: "size"}
_OBJECTS_AT_ONCE = 1000
_SQUASHED = "Squash history after removing results"


@dataclass(frozen=True)
class Wishes:
    """What is to be done besides the limits; nothing at all unless `act`."""

    include_registered: bool
    squash_history: bool
    purge_lfs: bool
    act: bool


@dataclass
class _Storage:
    """What was, or would be, done to a Hub repo's storage: objects to delete, commits to lose."""

    objects: "list[StoredObject] | None" = None
    commits: "int | None" = None
    others: int = 0

    @property
    def bytes(self) -> int:
        return sum(stored.size for stored in self.objects or ())


def collect_remote(
    chosen: Settings, layout: Layout, name: str, limits: Limits, wishes: Wishes, *, as_json: bool
) -> None:
    """Show what goes from a remote, and remove it if that is wished for.

    Raises ConfigurationError, RemoteError; OSError of the local store.
    """
    location = _chosen_location(chosen, name)
    if wishes.act and not location.writable:
        raise ConfigurationError(
            f"{location.url} is read-only{_where_it_says_so(chosen, name, location)}: nothing is removed from it"
        )
    require_online(location)
    opened = open_location(location, layout, chosen, patience=max(LISTING_PATIENCE, chosen.upload_timeout))
    storage = _storage_of(opened, wishes)
    try:
        if wishes.act:
            _require_rights(opened)
        _collect(opened, chosen, layout, limits, wishes, storage, as_json=as_json)
    finally:
        opened.remote.close()


def _collect(
    opened: Opened,
    chosen: Settings,
    layout: Layout,
    limits: Limits,
    wishes: Wishes,
    storage: "HubStorage | None",
    *,
    as_json: bool,
) -> None:
    patience = Patience(pause=chosen.upload_retry, tell=_tell_pause)
    with _bars() as progress:
        reader = RemoteReader(opened.remote, lambda paths, limit: read_files(opened, chosen, paths, limit), layout)
        collector = RemoteCollector(
            opened.remote,
            opened.state,
            layout,
            reader,
            limits,
            include_registered=wishes.include_registered,
            patience=patience,
            progress=progress,
        )
        plan = collector.plan()
        found = patience.through(lambda: _look_at_storage(storage, plan, wishes))
        if not wishes.act:
            fault = None
        else:
            _warn(opened, found, wishes)
            fault = _act(collector, plan, storage, found, wishes, patience, progress)
    if as_json:
        presentation.print_json(_as_json(opened, plan, collector.report, found, wishes))
    else:
        _show(opened, plan, collector.report, found, wishes)
    if fault is not None:
        raise type(fault)(f"{fault}; what is named above is done, and the same command goes on with the rest")


# -- which remote ----------------------------------------------------------------------------------------------------


def _chosen_location(chosen: Settings, name: str) -> Location:
    """Return the remote of that name, with the mode that it is configured with; or the first that is writable."""
    configured = configured_locations(chosen)
    if name:
        location = named_location(name)
        same = [each for each in configured if each.url == location.url and "|" not in name]
        return same[0] if same else location
    askable = [each for each in configured if each.writable and (each.scheme != "hf" or not hub_offline(os.environ))]
    writable = [each for each in configured if each.writable]
    if askable or writable:
        return (askable or writable)[0]
    if configured:
        named = ", ".join(each.url for each in configured)
        raise RemoteError(f"no remote that may be written to is configured ({named} are read-only); name one")
    raise RemoteError(why_no_remote(chosen))


def _require_rights(opened: Opened) -> None:
    """Raise RemoteRefused before all is read, if nothing could be removed in the end."""
    access = opened.remote.check()
    if access.reachable and not (access.readable and access.writable is not False):
        raise RemoteRefused(access.detail or f"we may not write to {opened.remote.url}; change its mode or owner")


def _where_it_says_so(chosen: Settings, name: str, location: Location) -> str:
    if any(each.url == location.url for each in configured_locations(chosen)):
        return f" in remotes (`gc --remote '{name or location.url}|read-write'` overrules that)"
    return ""


def _storage_of(opened: Opened, wishes: Wishes) -> "HubStorage | None":
    if isinstance(opened.remote, HubRemote):
        return opened.remote.storage()
    if wishes.squash_history or wishes.purge_lfs:
        option = "--squash-history" if wishes.squash_history else "--purge-lfs"
        raise ConfigurationError(f"{option} is for repos on the Hub, and {opened.remote.url} is a folder")
    return None


# -- doing it --------------------------------------------------------------------------------------------------------


def _look_at_storage(storage: "HubStorage | None", plan: Plan, wishes: Wishes) -> _Storage:
    found = _Storage()
    if storage is not None and wishes.purge_lfs:
        found.objects = storage.unused(plan.objects, time.time() - GRACE, look_again=False)
    if storage is not None and wishes.squash_history:
        found.commits = storage.commits()
        found.others = len(storage.other_revisions())
    return found


def _warn(opened: Opened, found: _Storage, wishes: Wishes) -> None:
    """Say what cannot be undone."""
    if wishes.squash_history:
        commits = presentation.plural(found.commits or 0, "commit")
        others = ""
        if found.others:
            refs = presentation.plural(
                found.others, "other branch, tag or pull request", "other branches, tags and pull requests"
            )
            others = f"; {refs} can no longer be merged with it"
        presentation.remark(
            f"warning: --squash-history makes one commit of all {commits} of {opened.remote.url}: earlier states cannot "
            f"be had back, and whoever names one of them as a revision finds it gone{others}"
        )
    if wishes.purge_lfs:
        presentation.remark(
            "warning: --purge-lfs deletes stored objects for good: earlier commits that name them stay, without them"
        )


def _act(
    collector: RemoteCollector,
    plan: Plan,
    storage: "HubStorage | None",
    found: _Storage,
    wishes: Wishes,
    patience: Patience,
    progress: Any,  # noqa: ANN401 - see _bars
) -> "RemoteError | None":
    """Remove, squash, delete; return what kept it from being done to its end. What was not done is taken from `found`."""
    wanted, found.objects = found.objects, None
    commits, found.commits = found.commits, None
    try:
        last = collector.run(plan)
        if storage is not None and wishes.squash_history:
            patience.through(lambda: storage.squash(_SQUASHED))
            found.commits = commits
        if storage is not None and wanted is not None:
            found.objects = []
            _purge(storage, last, found.objects, patience, progress("deleting objects"))
    except RemoteError as error:
        return error
    return None


def _purge(storage: HubStorage, plan: Plan, done: "list[StoredObject]", patience: Patience, progress: Progress) -> None:
    """Delete objects that are no file; what has been deleted is added to `done`."""
    attempted: list[StoredObject] = []  # of which we do not know whether they are gone
    deleted: set[str] = set()  # the list may tell them for a while

    def step() -> bool:
        nonlocal attempted
        unused = storage.unused(plan.objects, time.time() - GRACE, look_again=True)
        unused = [stored for stored in unused if stored.sha256 not in deleted]
        left = {stored.sha256 for stored in unused}
        done.extend(stored for stored in attempted if stored.sha256 not in left)
        progress(len(done), len(done) + len(unused))
        attempted = unused[:_OBJECTS_AT_ONCE]
        if attempted:
            storage.delete(attempted)
        deleted.update(stored.sha256 for stored in attempted)
        done.extend(attempted)
        attempted = []
        return len(unused) > _OBJECTS_AT_ONCE

    while patience.through(step):
        pass


def _tell_pause(message: str, seconds: float) -> None:
    if seconds >= 1:
        presentation.remark(f"{message}; trying again in {seconds:.0f} s")


@contextmanager
def _bars() -> "Iterator[Any]":
    with presentation.progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as shown:
        task = shown.add_task("looking", total=None)

        def begin(doing: str) -> Progress:
            shown.update(task, description=doing, completed=0, total=None)
            return lambda done, total: shown.update(task, completed=done, total=total)

        yield begin


# -- telling ---------------------------------------------------------------------------------------------------------


def _as_json(opened: Opened, plan: Plan, report: RemoteReport, found: _Storage, wishes: Wishes) -> "dict[str, Any]":
    tallies, freed = _gone(plan, report, wishes)
    return {
        "remote": opened.remote.url,
        "dry_run": not wishes.act,
        "removed": {reason: {"count": each.results, "bytes": each.bytes} for reason, each in tallies.items()},
        "files": _files(plan, report, wishes),
        "commits": report.commits,
        "kept": plan.kept,
        "registered_bytes": plan.registered_bytes,
        "unmet": plan.unmet,
        "unreadable": plan.unbelieved,
        "young_blobs": plan.young,
        "shortened_entries": plan.shortened,
        "versions": {version: vars(each) for version, each in sorted(plan.versions.items())},
        "results": plan.results - _files(plan, report, wishes)["record"],
        "freed_bytes": freed,
        "purged": None if found.objects is None else {"objects": len(found.objects), "bytes": found.bytes},
        "squashed_commits": found.commits,
    }


def _gone(plan: Plan, report: RemoteReport, wishes: Wishes) -> tuple[dict[str, Tally], int]:
    if wishes.act:
        return report.tallies, report.freed
    return tally(plan.reasons, plan.reasons, plan.sizes), plan.freed


def _files(plan: Plan, report: RemoteReport, wishes: Wishes) -> dict[str, int]:
    kinds = ("record", "blob", "entry")
    return {kind: report.files.get(kind, 0) if wishes.act else len(plan.of_kind(kind)) for kind in kinds}


def _show(opened: Opened, plan: Plan, report: RemoteReport, found: _Storage, wishes: Wishes) -> None:
    tallies, freed = _gone(plan, report, wishes)
    if plan.versions and not wishes.act:
        presentation.print_table(_version_table(plan))
        presentation.write("\n")
    if tallies:
        presentation.print_table(_reason_table(tallies, wishes))
    files = _files(plan, report, wishes)
    left = plan.results - files["record"]
    size = sum(version.bytes for version in plan.versions.values())
    would = "left" if wishes.act else "would stay"
    after = size - freed + _entry_bytes(tallies)
    sizes = f"{presentation.size(size)} -> {presentation.size(after)}" if freed else presentation.size(size)
    presentation.write(f"{presentation.plural(left, 'result')} {would}, {sizes} in {opened.remote.url}\n")
    _show_storage(plan, found, wishes, freed=freed)
    _show_what_stays(plan)
    if not wishes.act:
        _warn(opened, found, wishes)
        if plan.reasons or found.objects or found.commits:
            presentation.remark("nothing was removed; --yes does it")
    elif report.commits:
        presentation.remark(f"removed by {presentation.plural(report.commits, 'commit')}")


def _entry_bytes(tallies: dict[str, Tally]) -> int:
    """Return what entries took that went: they are not counted among results."""
    return tallies[ENTRIES].bytes if ENTRIES in tallies else 0


def _version_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("compiler", no_wrap=True, overflow="ellipsis", min_width=12)
    for title in ("results", "stored", "to go", "files", "freed", "others"):
        table.add_column(title, justify="right", no_wrap=True)
    for version, each in sorted(plan.versions.items()):
        table.add_row(
            presentation.printable(version),
            presentation.number(each.results),
            presentation.size(each.bytes),
            presentation.number(each.going) if each.going_files else "-",
            presentation.number(each.going_files) if each.going_files else "-",
            presentation.size(each.going_bytes) if each.going_files else "-",
            presentation.size(each.other_bytes) if each.others else "-",
        )
    return table


def _reason_table(tallies: dict[str, Tally], wishes: Wishes) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("gone" if wishes.act else "would go")
    table.add_column("", justify="right")
    table.add_column("freed", justify="right")
    for reason, each in tallies.items():
        table.add_row(_WORDS[reason], presentation.number(each.results), presentation.size(each.bytes))
    return table


def _show_storage(plan: Plan, found: _Storage, wishes: Wishes, *, freed: int) -> None:
    if found.objects is not None:
        objects = presentation.plural(len(found.objects), "stored object")
        done = "deleted for good" if wishes.act else "would be deleted for good"
        presentation.write(f"{objects} {done}, {presentation.size(found.bytes)}\n")
    elif freed and plan.revision:
        presentation.remark("the Hub keeps what earlier commits name, and counts it: --purge-lfs frees the storage")
    if found.commits is not None and wishes.act:
        presentation.write(f"{presentation.plural(found.commits, 'commit')} made one\n")


def _show_what_stays(plan: Plan) -> None:
    for reason, count in plan.kept.items():
        more = ""
        if reason == REGISTERED:
            more = f" ({presentation.size(plan.registered_bytes)}); --include-registered takes them too"
        presentation.remark(f"{presentation.plural(count, 'result stays', 'results stay')}: {_KEPT[reason]}{more}")
    if plan.shortened:
        entries = presentation.plural(plan.shortened, "entry of a model names", "entries of models name")
        presentation.remark(f"{entries} results that go, and others that stay: kept")
    if plan.young:
        blobs = presentation.plural(plan.young, "blob that no result names is", "blobs that no result names are")
        presentation.remark(f"{blobs} younger than a day, and may be an upload's: kept")
    if plan.unmet:
        limits = " and ".join(_LIMITS[reason] for reason in plan.unmet)
        presentation.remark(f"the limit of {limits} is not reached: what is left must stay")
    if plan.unbelieved:
        files = presentation.plural(plan.unbelieved, "record or entry", "records and entries")
        presentation.remark(f"{files} cannot be believed: kept, and what they name too")
