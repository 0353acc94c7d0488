"""The queue: what still waits to be uploaded, for how long, and why."""

import os
import time
from collections.abc import Iterator
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.cli.remotes import Opened, open_location
from neuron_store.store.layout import is_hex
from neuron_store.store.queue import oldest, queue_length
from neuron_store.store.remotes.location import list_locations
from neuron_store.store.remotes.state import RemoteState
from neuron_store.store.upload_lock import is_taken

_IDENTITY_LENGTH = 16  # hex digits
_LONG = 3600.0  # seconds

AREA = Area(
    "queue",
    {
        "empty": ok("Nothing waits to be uploaded."),
        "waiting": note("Results wait to be uploaded; that happens in the background after a compile."),
        "held-back": note(
            "Results wait, and `upload` is false: only `neuron-store push` uploads them.", "run `neuron-store push`"
        ),
        "old": warning(
            "The oldest result has waited for more than an hour.",
            "run `neuron-store push`, which says why an upload fails; look at `neuron-store remote status`",
        ),
        "refused": problem(
            "The remote does not let us write, so its queue only grows. It is tried again when the token changes.",
            "log in as someone who may write (`hf auth login`, HF_TOKEN), or write |read-only after it in remotes",
        ),
        "forgotten": warning(
            "Results wait for a remote that is configured no longer: nobody uploads them.",
            "configure it again, or remove its folder in the store's queue/",
        ),
        "last-error": warning(
            "The last upload to this remote failed.", "run `neuron-store push` to see whether it still does"
        ),
        "uploader-running": note("An uploader is at work on this host."),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at what is queued for each remote; nothing is asked of the remotes."""
    locations, _ = list_locations(here.settings.remotes, here.environ)
    opened = [open_location(location, here.layout, here.settings) for location in locations]
    waiting = 0
    for one in opened:
        if one.location.writable:
            waiting += queue_length(here.layout, one.remote.identity)
            yield from _of_remote(one, here)
    for identity, count in _others(here, {one.remote.identity for one in opened}):
        waiting += count
        url = str(RemoteState(here.layout, identity, "").read().get("url") or f"a remote of the identity {identity}")
        yield AREA.find("forgotten", f"{_results(count)} for {url}, which is not configured", url=url, queued=count)
    if is_taken(here.layout):
        yield AREA.find("uploader-running", "an uploader is running")
    if not waiting:
        yield AREA.find("empty", "nothing waits to be uploaded")


def _of_remote(one: Opened, here: Surroundings) -> Iterator[Finding]:
    count = queue_length(here.layout, one.remote.identity)
    since = oldest(here.layout, one.remote.identity)
    known = one.state.read()
    refused = one.state.refused(one.remote.credential)
    url = one.location.url
    facts: dict[str, Any] = {"url": url, "queued": count, "oldest": since}
    if refused:
        held = f"; {_results(count)}" if count else ""
        yield AREA.find("refused", f"{url} refuses us: {refused}{held}", **facts)
    elif count:
        age = f", the oldest for {presentation.age(since)}" if since else ""
        kind = "held-back" if not here.settings.upload else "waiting"
        if kind == "waiting" and (not since or time.time() - since > _LONG):
            kind = "old"
        yield AREA.find(kind, f"{_results(count)} for {url}{age}", **facts)
    error, at = known.get("last_error"), known.get("last_error_at")
    if error and error != refused:
        when = f" {presentation.age(at)} ago" if isinstance(at, int | float) else ""
        yield AREA.find("last-error", f"{url}{when}: {error}", url=url, error=str(error), at=at)


def _results(count: int) -> str:
    return presentation.plural(count, "result waits", "results wait")


def _others(here: Surroundings, known: set[str]) -> Iterator["tuple[str, int]"]:
    try:
        names = sorted(os.listdir(f"{here.layout.root}/queue"))
    except OSError:
        return
    for name in names:
        if is_hex(name, _IDENTITY_LENGTH) and name not in known:
            count = queue_length(here.layout, name)
            if count:
                yield name, count
