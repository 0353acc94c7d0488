"""`neuron-store push` and `synchronize`: what remotes lack is sent to them; and the uploader that the shim starts."""

import os
import signal
import traceback
from typing import Annotated, Any

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.pull import Pulled, pull_all
from neuron_store.cli.remotes import Opened, configured_locations, named_location, open_location, require_online
from neuron_store.cli.stock_synchronize import synchronize_folder
from neuron_store.cli.uploading import Drained, contexts_for, drain, make_uploader, queued_for, writable_remotes
from neuron_store.shim.log import write_log
from neuron_store.shim.settings import Settings
from neuron_store.shim.upload_queue import UPLOAD_COMMAND
from neuron_store.store.errors import ConfigurationError, CorruptEntry, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.base import record_path, version_folder
from neuron_store.store.results import all_keys, load_result
from neuron_store.store.uploader import Summary

_NICENESS = 10
_IDLE_QUIETS = 3  # the background uploader ends after so many times the setting upload_quiet without work,
_LONGEST_IDLE = 60.0  # or after so many seconds

Timeout = Annotated[
    float, typer.Option(min=0.0, metavar="SECONDS", help="Begin nothing more after so long; 0: no end.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("push")(push)
    app.command("synchronize")(synchronize)
    app.command(UPLOAD_COMMAND, hidden=True)(upload_queue)


def push(
    timeout: Timeout = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Upload the results that are queued for remotes now, and wait for it."""
    chosen = settings()
    layout = readable_store()
    remotes = writable_remotes(layout, chosen)
    waiting = queued_for(layout, remotes) or contexts_for(layout, remotes)
    if waiting:
        drained = drain(layout, chosen, remotes, timeout or None)
    else:
        drained = Drained(Summary(), 0.0, [opened.remote.url for opened in remotes])
    if as_json:
        presentation.print_json(drained.as_dict())
    elif waiting:
        drained.say()
    else:
        urls = ", ".join(drained.urls)
        presentation.write(f"nothing is queued for {urls}; `neuron-store synchronize` finds older results\n")
    drained.require_all()


def synchronize(
    repo: Annotated[
        str, typer.Option("--repo-id", "--repo_id", metavar="REPO", help="This remote, in place of those configured.")
    ] = "",
    also_pull: Annotated[
        bool, typer.Option("--pull", help="Also fetch every result that the local store lacks.")
    ] = False,
    cache_dir: Annotated[
        str,
        typer.Option(
            "--cache-dir",
            "--cache_dir",
            metavar="DIR",
            help="In place of the store, a stock cache's folder: to a repo of its layout.",
        ),
    ] = "",
    compiler: Annotated[
        str, typer.Option("--compiler", "-c", metavar="VERSION", help="Of DIR, only compilers whose version starts so.")
    ] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Of DIR, also where the repo has other bytes.")] = False,
    timeout: Timeout = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Upload every result of the local store that a writable remote lacks."""
    chosen = settings()
    layout = readable_store()
    if cache_dir:
        if also_pull:
            raise ConfigurationError(
                "--pull does not go with --cache-dir; `neuron-store import` takes a repo's modules"
            )
        opened = _remotes(layout, chosen, repo, also_pull=False)[0]
        synchronize_folder(
            cache_dir, opened, chosen, compiler=compiler, replace=replace, timeout=timeout, as_json=as_json
        )
        return
    if compiler or replace:
        raise ConfigurationError("--compiler and --replace go with --cache-dir")
    remotes = _remotes(layout, chosen, repo, also_pull=also_pull)
    said: dict[str, Any] = {}
    writable = [opened for opened in remotes if opened.location.writable]
    faults: list[str] = []
    drained = _push_missing(layout, chosen, writable, timeout, faults) if writable else None
    if drained is not None:
        said["push"] = drained.as_dict()
        if not as_json:
            _say_synchronized(drained)
    pulled = pull_all(layout, chosen, remotes) if also_pull else None
    if pulled is not None:
        said["pull"] = pulled.as_dict()
    if as_json:
        presentation.print_json({**said, "faults": faults})
    elif pulled is not None:
        pulled.say()
    _require_all(drained, pulled, faults)


def _require_all(drained: "Drained | None", pulled: "Pulled | None", faults: list[str]) -> None:
    """Raise RemoteError for what is still missing, here or there."""
    missing = list(faults)
    for made in (drained, pulled):
        try:
            if made is not None:
                made.require_all()
        except RemoteError as error:
            missing.append(str(error))
    if missing:
        raise RemoteError("; ".join(missing))


def _remotes(layout: Layout, chosen: Settings, repo: str, *, also_pull: bool) -> list[Opened]:
    if repo:
        location = named_location(repo)
        require_online(location)
        if not location.writable and not also_pull:
            raise ConfigurationError(f"{repo} is read-only; --pull fetches from it")
        return [open_location(location, layout, chosen)]
    if not also_pull:
        return writable_remotes(layout, chosen)
    remotes = [open_location(location, layout, chosen) for location in configured_locations(chosen)]
    if not any(opened.location.writable for opened in remotes):
        presentation.remark("no remote may be written to, so nothing is pushed")
    for opened in remotes:
        require_online(opened.location)
    return remotes


def _say_synchronized(drained: Drained) -> None:
    if drained.urls and not drained.as_text() and not drained.summary.left:
        has = "has" if len(drained.urls) == 1 else "have"
        presentation.write(f"{', '.join(drained.urls)} {has} every result that can be shared\n")
    drained.say()


def _push_missing(
    layout: Layout, chosen: Settings, remotes: list[Opened], timeout: float, faults: list[str]
) -> Drained:
    """Queue what each remote lacks, and upload it; remotes that cannot be asked are told in `faults`."""
    shareable = dict(_shareable(layout))
    asked = []
    for opened in remotes:
        try:
            there = opened.remote.look_up(list(shareable))
        except RemoteError as error:
            faults.append(str(error))
            continue
        asked.append(opened)
        for path, key in shareable.items():
            if path not in there:
                enqueue(layout, opened.remote.identity, key)
    return drain(layout, chosen, asked, timeout or None)


def _shareable(layout: Layout) -> "list[tuple[str, str]]":
    """Return path in a remote and key of every result that was made here and can be believed elsewhere."""
    found = []
    for key in all_keys(layout):
        try:
            result = load_result(layout, key)
        except (CorruptEntry, OSError):
            continue
        if result is not None and "origin" not in result.provenance and result.input.get("proof"):
            folder = version_folder(str(result.provenance.get("compiler_version") or ""))
            found.append((record_path(folder, key), key))
    return found


def upload_queue() -> None:
    """Upload in the background what is queued, until nothing has come for a while."""
    chosen = settings()
    layout = Layout(chosen.dir)
    try:
        os.nice(_NICENESS)
        uploader = make_uploader(layout, chosen, writable_remotes(layout, chosen))
        signal.signal(signal.SIGTERM, lambda _number, _frame: uploader.stop())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a shim that waits for its compiler has signals blocked
        uploader.run(min(_IDLE_QUIETS * chosen.upload_quiet, _LONGEST_IDLE))
    except RemoteError:
        return  # no remote takes anything any more
    except Exception:  # noqa: BLE001 - nobody watches
        write_log(chosen.log_file, f"the uploader ended: {traceback.format_exc()}")
        raise typer.Exit(1) from None
