"""Uploading, as commands see it: which remotes take results, the uploader with all it reports to, and what came of it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from neuron_store.cli import presentation
from neuron_store.cli.registration import make_registrar
from neuron_store.cli.remotes import HOW_TO_GET_ONE, Opened, configured_locations, open_location, why_no_remote
from neuron_store.shim.execute import GUARD
from neuron_store.shim.log import write_log
from neuron_store.shim.settings import Settings
from neuron_store.shim.upload_queue import UPLOAD_COMMAND
from neuron_store.store.errors import RemoteError
from neuron_store.store.events import Event, append_event
from neuron_store.store.layout import Layout
from neuron_store.store.queue import queue_length
from neuron_store.store.registry.contexts import Context, all_contexts
from neuron_store.store.remotes.location import hub_offline
from neuron_store.store.uploader import Summary, Uploader, UploadPolicy


@dataclass
class Drained:
    """What a foreground upload did, and how long it took."""

    summary: Summary
    seconds: float
    urls: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        names = (
            "uploaded",
            "present",
            "dropped",
            "left",
            "entries",
            "entries_left",
            "bytes",
            "refused",
            "failed",
        )
        values = {name: getattr(self.summary, name) for name in names}
        return {**values, "seconds": round(self.seconds, 3), "remotes": self.urls}

    def as_text(self) -> str:
        """Return it as a line."""
        made = self.summary
        where = ", ".join(self.urls)
        if not (made.uploaded or made.present or made.dropped):
            return f"registered {_entries(made.entries)} with {where}" if made.entries else ""
        said = f"pushed {presentation.plural(made.uploaded, 'result')}"
        if made.uploaded:
            said += f" ({presentation.size(made.bytes)}) to {where} in {presentation.duration(self.seconds)}"
        if made.present:
            said += f"; {presentation.number(made.present)} {_was(made.present)} there already"
        if made.dropped:
            said += f"; {presentation.number(made.dropped)} cannot be shared (see `neuron-store stats` and the log)"
        if made.entries:
            said += f"; registered {_entries(made.entries)}"
        return said

    def say(self) -> None:
        """Print it."""
        text = self.as_text()
        if text:
            presentation.write(text + "\n")

    def require_all(self) -> None:
        """Raise RemoteError, in words for a person, if something is left in the queue."""
        made = self.summary
        reason = made.refused or made.failed or "they were queued meanwhile"
        said = []
        if made.left:
            said.append(f"{presentation.plural(made.left, 'result is', 'results are')} still queued")
        if made.entries_left:
            models = presentation.plural(made.entries_left, "model's keys are", "models' keys are")
            said.append(f"{models} still to be registered")
        if said:
            raise RemoteError(f"{', '.join(said)}: {reason}")


def _entries(count: int) -> str:
    return presentation.plural(count, "model entry", "model entries")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def writable_remotes(layout: Layout, settings: Settings) -> list[Opened]:
    """Return the remotes that may be written to, as far as the settings tell. Raises RemoteError if there is none."""
    locations = configured_locations(settings)
    writable = [location for location in locations if location.writable]
    online = [location for location in writable if location.scheme != "hf" or not hub_offline(os.environ)]
    if not locations:
        raise RemoteError(why_no_remote(settings))
    if not writable:
        urls = ", ".join(location.url for location in locations)
        raise RemoteError(f"there is no remote to push to: {urls} is read-only; {HOW_TO_GET_ONE}")
    if not online:
        raise RemoteError(f"{writable[0].url} is not asked, because HF_HUB_OFFLINE is set; what is queued stays queued")
    return [open_location(location, layout, settings) for location in online]


def make_uploader(layout: Layout, settings: Settings, remotes: list[Opened]) -> Uploader:
    """Return an uploader by the settings, which counts what it does in the event log, and writes to the shim's log."""
    policy = UploadPolicy(
        quiet=settings.upload_quiet,
        max_age=settings.upload_max_age,
        commits_per_hour=settings.upload_commits_per_hour,
        retry=settings.upload_retry,
        with_inputs=settings.upload_inputs,
    )

    def log(text: str) -> None:
        write_log(settings.log_file, text)

    def count(outcome: str, key: str, detail: str, sent: int) -> None:
        fields = {"key": key, "detail": detail, "bytes": str(sent or "")}  # the key of a context is its id
        fields = {name: value for name, value in fields.items() if value}
        try:
            append_event(layout, Event(time.time(), outcome, fields))
        except OSError as error:
            log(f"{outcome} could not be counted: {error}")
        if outcome == "upload_dropped":
            log(f"the result {key} is not uploaded: {detail}")

    registrar = make_registrar(layout, settings, count)
    return Uploader(layout, [opened.remote for opened in remotes], policy, registrar=registrar, count=count, log=log)


def drain(layout: Layout, settings: Settings, remotes: list[Opened], timeout: "float | None") -> Drained:
    """Upload all that is queued for `remotes`, with a progress bar where a person watches.

    A person asks: what a remote refused earlier is tried again.
    """
    for opened in remotes:
        opened.state.forget_refusal()
    uploader = make_uploader(layout, settings, remotes)
    begun = time.monotonic()
    with _progress() as progress:
        task = progress.add_task("pushing", total=None, files="")
        files = [0, 0]

        def tell(total: int, all_files: int, size: int, number: int) -> None:
            files[0] += number
            files[1] = all_files
            progress.update(task, total=total, advance=size, files=f"{files[0]}/{files[1]} files")

        try:
            summary = uploader.drain(timeout, tell)
        except KeyboardInterrupt:
            presentation.remark("what was not pushed stays queued")
            raise
        finally:
            for opened in remotes:
                opened.remote.close()
    return Drained(summary, time.monotonic() - begun, [opened.remote.url for opened in remotes])


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[files]}"),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    return presentation.progress(*columns)


def queued_for(layout: Layout, remotes: list[Opened]) -> int:
    """Return how many results wait for `remotes`, counted once for each of them."""
    return sum(queue_length(layout, opened.remote.identity) for opened in remotes)


def contexts_for(layout: Layout, remotes: list[Opened]) -> list[Context]:
    """Return the contexts that wait to be published, once for each of `remotes`."""
    states = [(context, context.state()) for context in all_contexts(layout)]
    return [
        context
        for context, state in states
        for opened in remotes
        if not context.is_published(opened.remote.identity, state)
    ]


def start_uploader(layout: Layout) -> None:
    """Start the uploader in the background, detached from us. Raises OSError."""
    environ = {name: value for name, value in os.environ.items() if name != GUARD}
    subprocess.Popen(
        [sys.executable, "-m", "neuron_store.cli", UPLOAD_COMMAND],
        env={**environ, "NEURON_STORE_DIR": layout.root},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
