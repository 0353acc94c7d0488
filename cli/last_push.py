"""At the end of `neuron-store run`, wait a while until the uploader has sent what is queued.

A machine that is given back as soon as its command has ended takes the queue with it. The uploader in the background
does the work; here it is hurried, started if it does not run, and waited for.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from neuron_store.cli import presentation
from neuron_store.cli.remotes import Opened, open_location
from neuron_store.cli.uploading import contexts_for, drain, queued_for, start_uploader
from neuron_store.shim.settings import Settings
from neuron_store.store.events import read_events
from neuron_store.store.layout import Layout
from neuron_store.store.queue import hurry, queue_length
from neuron_store.store.registry.contexts import Context
from neuron_store.store.remotes.location import hub_offline, list_locations
from neuron_store.store.upload_lock import is_taken

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GLANCE = 0.1  # seconds
_PATIENCE = 10.0  # seconds without progress, once there was an error: the next attempt may be minutes away
_STARTS_APART = 5.0  # seconds after which an uploader that does not run is started (again)


class _InterruptedError(Exception):
    """The user, or the system, wants us to end now."""


def push_queued(layout: Layout, settings: Settings, timeout: float) -> str:
    """Wait at most `timeout` seconds until all is uploaded; return what to say of it, "" if there was nothing to do.

    A signal ends the wait at once. Raises OSError.
    """
    remotes = _remotes(layout, settings)
    begun = time.time()
    before = queued_for(layout, remotes)
    if not before and not _to_register(layout, remotes):
        return ""
    try:
        with _interruptible():
            hurry(layout)
            reason = _wait(layout, settings, remotes, timeout)
    except _InterruptedError:
        reason = "interrupted"
    left, contexts = queued_for(layout, remotes), contexts_for(layout, remotes)
    said = [f"pushed {presentation.plural(before - left, 'result')}"] if left < before else []
    registered = sum(event.outcome == "upload_entry_done" for event in read_events(layout, begun))
    if registered:
        said.append(f"registered {presentation.plural(registered, 'model entry', 'model entries')}")
    if left:
        said.append(f"{presentation.plural(left, 'result is', 'results are')} still to be pushed ({reason})")
    elif contexts:
        models = presentation.plural(len(contexts), "model's keys are", "models' keys are")
        why = reason or "; ".join(sorted({context.fault() for context in contexts} - {""}))
        said.append(f"{models} still to be registered ({why})")
    return ", ".join(said)


def _to_register(layout: Layout, remotes: list[Opened]) -> list[Context]:
    """Return the contexts that are worth waiting for: not those that failed to be published."""
    return [context for context in contexts_for(layout, remotes) if not context.fault()]


def say_waiting(layout: Layout, settings: Settings) -> str:
    """Return what to say of results that wait for a remote, "" if there are none."""
    locations = [location for location in list_locations(settings.remotes, os.environ)[0] if location.writable]
    remotes = [open_location(location, layout, settings) for location in locations]
    waiting, noted = queued_for(layout, remotes), len(contexts_for(layout, remotes))
    if waiting:
        return f"{presentation.plural(waiting, 'result waits', 'results wait')} to be pushed"
    return f"{presentation.plural(noted, 'model waits', 'models wait')} to be registered" if noted else ""


def _remotes(layout: Layout, settings: Settings) -> list[Opened]:
    """Return the remotes that may take results now, as far as is known."""
    offline = hub_offline(os.environ)
    locations = [
        location
        for location in list_locations(settings.remotes, os.environ)[0]
        if location.writable and not (offline and location.scheme == "hf")
    ]
    return [open_location(location, layout, settings) for location in locations]


def _wait(layout: Layout, settings: Settings, remotes: list[Opened], timeout: float) -> str:
    """Wait, and return why something may be left."""
    end = time.monotonic() + timeout
    start_again = 0.0
    left, since = -1, time.monotonic()
    while True:
        waiting = [
            opened
            for opened in remotes
            if queue_length(layout, opened.remote.identity) or _to_register(layout, [opened])
        ]
        reasons = [_hopeless(opened, settings) for opened in waiting]
        if all(reasons):
            return "; ".join(reasons)
        now = time.monotonic()
        before, left = left, queued_for(layout, waiting) + len(_to_register(layout, waiting))
        since = since if left == before else now
        errors = _last_errors(waiting)
        if now >= end or (errors and now - since >= _PATIENCE):
            return errors or f"not done in {presentation.duration(timeout)}"
        if now - since >= _PATIENCE and is_taken(layout):
            # It was started in another environment: with other remotes, or another token.
            made = drain(layout, settings, waiting, end - now).summary
            return made.refused or made.failed
        if now >= start_again and not is_taken(layout):
            start_uploader(layout)
            start_again = now + _STARTS_APART
        time.sleep(min(_GLANCE, end - now))


def _hopeless(opened: Opened, settings: Settings) -> str:
    """Say why a remote takes nothing now however long we wait, "" if it may."""
    refused = opened.state.refused(opened.remote.credential)
    if refused:
        return refused
    if len(opened.state.commits_in_hour()) >= settings.upload_commits_per_hour:
        return f"{opened.remote.url} gets no more than {settings.upload_commits_per_hour} commits an hour"
    return ""


def _last_errors(remotes: list[Opened]) -> str:
    errors = [str(opened.state.read().get("last_error") or "") for opened in remotes]
    return "; ".join(error for error in errors if error)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and the signals that end a process end the wait only."""

    def interrupt(_number: int, _frame: "FrameType | None") -> None:
        raise _InterruptedError

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
