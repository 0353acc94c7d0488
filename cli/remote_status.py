"""`neuron-store remote status`: what each remote is, whether it works, and what waits for it."""

import os
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.remotes import Opened, described_source, in_threads, open_location, why_no_remote
from neuron_store.cli.uploading import contexts_for
from neuron_store.shim.settings import Settings
from neuron_store.store.layout import Layout, is_hex
from neuron_store.store.queue import oldest, queue_length
from neuron_store.store.remotes.location import hub_offline, list_locations
from neuron_store.store.remotes.state import RemoteState
from neuron_store.store.upload_lock import is_taken

_IDENTITY_LENGTH = 16  # hex digits
_PATIENCE = 15.0  # seconds for one question

_remote = typer.Typer(help="What the remotes are, whether they work, and what waits for them.", no_args_is_help=True)


@dataclass
class Status:
    """What is known of one remote. Times are Unix seconds; None and "" where something is not known.

    `unregistered` are the models of which keys wait for the remote's registry, and `unregistered_fault` why some must.
    """

    url: str
    source: str
    mode: str
    reachable: "bool | None"
    readable: "bool | None"
    writable: "bool | None"
    detail: str
    paused_until: "float | None"
    refused: str
    queued: int
    unregistered: int
    unregistered_fault: str
    oldest: "float | None"
    last_error: str
    last_error_at: "float | None"
    commits_left: "int | None"
    xet: "bool | None"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(_remote, name="remote")


@_remote.callback()
def remote() -> None:
    """What the remotes are, whether they work, and what waits for them."""


@_remote.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Ask every remote whether it can be reached, read and written, and show what is queued for it."""
    chosen = settings()
    layout = readable_store()
    locations, faults = list_locations(chosen.remotes, os.environ)
    opened = [open_location(location, layout, chosen, patience=_PATIENCE) for location in locations]
    made = in_threads(lambda one: _status(one, layout, chosen), opened)
    made += _forgotten(layout, {one.remote.identity for one in opened})
    running = is_taken(layout)
    if as_json:
        presentation.print_json({"remotes": [asdict(one) for one in made], "faults": faults, "uploader_runs": running})
        return
    for number, one in enumerate(made):
        presentation.write("\n" if number else "")
        _print(one)
    waiting = sum(one.queued for one in made)
    if waiting or running:
        presentation.write(f"\nthe uploader {'is running' if running else 'is not running'}\n")
    for fault in faults:
        presentation.remark(fault)
    if not locations and not faults:
        presentation.remark(why_no_remote(chosen))


def _status(one: Opened, layout: Layout, chosen: Settings) -> Status:
    location, remote, state = one
    made = _of_state(state, layout, remote.identity)
    made.url, made.source = location.url, described_source(location, chosen)
    made.mode = "read-write" if location.writable else "read-only"
    if location.scheme == "hf" and hub_offline(os.environ):
        made.detail = "not asked: HF_HUB_OFFLINE is set"
    else:
        access = remote.check()
        made.reachable, made.readable = access.reachable, access.readable
        if location.writable or not access.readable:
            made.writable, made.detail = access.writable, access.detail
    if location.writable:
        waiting = contexts_for(layout, [one])
        made.unregistered = len(waiting)
        made.unregistered_fault = "; ".join(sorted({context.fault() for context in waiting} - {""}))
        made.refused = state.refused(remote.credential)
        if remote.counts_commits:
            made.commits_left = max(0, chosen.upload_commits_per_hour - len(state.commits_in_hour()))
    return made


def _of_state(state: RemoteState, layout: Layout, identity: str) -> Status:
    """Return what this host remembers, without asking the remote."""
    known = state.read()
    skip_until = _time(known, "skip_until")
    return Status(
        url=str(known.get("url") or state.url),
        source="",
        mode="",
        reachable=None,
        readable=None,
        writable=None,
        detail="",
        paused_until=skip_until if skip_until and skip_until > time.time() else None,
        refused="",
        queued=queue_length(layout, identity),
        unregistered=0,
        unregistered_fault="",
        oldest=oldest(layout, identity),
        last_error=str(known.get("last_error") or ""),
        last_error_at=_time(known, "last_error_at"),
        commits_left=None,
        xet=state.xet,
    )


def _time(known: dict[str, Any], name: str) -> "float | None":
    value = known.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _forgotten(layout: Layout, identities: set[str]) -> list[Status]:
    """Return what is queued for remotes that are configured no longer."""
    try:
        names = sorted(os.listdir(os.path.dirname(layout.queue_path("0" * _IDENTITY_LENGTH))))
    except OSError:
        return []
    made = []
    for name in names:
        if is_hex(name, _IDENTITY_LENGTH) and name not in identities and queue_length(layout, name):
            one = _of_state(RemoteState(layout, name, f"(remote {name})"), layout, name)
            one.source = "nowhere any more: what is queued for it waits until it is configured again"
            made.append(one)
    return made


# -- in words --------------------------------------------------------------------------------------------------------


def _print(one: Status) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _facts(one):
        table.add_row(f"  {title}", text)
    presentation.write(one.url + "\n")
    presentation.print_table(table)


def _facts(one: Status) -> "list[tuple[str, Text]]":
    facts = [("configured", one.source), ("mode", one.mode), ("access", _access(one))]
    if one.detail:
        facts.append(("", one.detail))
    if one.paused_until:
        left = presentation.duration(round(one.paused_until - time.time()))
        facts.append(("paused", f"compiles do not ask it for another {left}, because it failed"))
    if one.refused:
        reason = "" if one.writable is False else f"{one.refused}; "
        facts.append(("refused", f"{reason}tried again when the token changes, or by `neuron-store push`"))
    facts.append(("queue", _queue(one)))
    if one.unregistered:
        why = f": {one.unregistered_fault}" if one.unregistered_fault else ""
        facts.append(("registry", f"the keys of {presentation.plural(one.unregistered, 'model')} wait{why}"))
    if one.commits_left is not None:
        facts.append(("commits", f"{one.commits_left} left in this hour"))
    if one.xet is not None:
        facts.append(("xet", "works" if one.xet else "does not work here; plain LFS is used"))
    if one.last_error and one.last_error != one.refused:
        when = f"{presentation.age(one.last_error_at)} ago: " if one.last_error_at else ""
        facts.append(("last error", when + one.last_error))
    return [(title, Text(text)) for title, text in facts if text]


def _access(one: Status) -> str:
    if one.reachable is None:
        return ""
    if not one.reachable:
        return "cannot be reached"
    words = {True: "may {}", False: "may NOT {}", None: "not known whether we may {}"}
    reading, writing = words[one.readable].format("read"), words[one.writable].format("write")
    return f"reachable; {reading}" + (f", {writing}" if one.mode == "read-write" else "")


def _queue(one: Status) -> str:
    if not one.queued:
        return "nothing" if one.mode != "read-only" else ""
    waiting = f", the oldest {presentation.age(one.oldest)} ago" if one.oldest else ""
    return presentation.plural(one.queued, "result") + waiting
