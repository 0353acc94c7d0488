"""What waits for its upload, for each remote that takes results: a look that asks no remote and costs little."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from neuron_store.cli.remotes import Opened, open_location
from neuron_store.shim.settings import Settings
from neuron_store.store.layout import Layout
from neuron_store.store.queue import queue_length
from neuron_store.store.remotes.location import list_locations
from neuron_store.store.upload_lock import FOREGROUND, UPLOADER, is_taken


@dataclass(frozen=True)
class Queue:
    """What waits for one remote.

    Attributes:
        queued: results.
        uploading: whether a process of this host uploads, or is about to.
        refused: why the remote takes nothing from us, "" if it does.
        last_error, last_error_at: of the uploads, and of the shims that asked; "" and None if the last one went well.
    """

    url: str
    queued: int
    uploading: bool
    refused: str
    last_error: str
    last_error_at: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return asdict(self)


class Queues:
    """The queues of all writable remotes."""

    def __init__(self, layout: Layout, settings: Settings) -> None:
        """Find the remotes. Nothing is asked of them."""
        self._layout = layout
        locations = list_locations(settings.remotes, os.environ)[0]
        self._opened = [open_location(location, layout, settings) for location in locations if location.writable]

    def look(self) -> list[Queue]:
        """Return how things stand now."""
        uploading = any(is_taken(self._layout, name) for name in (UPLOADER, FOREGROUND)) if self._opened else False
        return [self._look_at(opened, uploading=uploading) for opened in self._opened]

    def _look_at(self, opened: Opened, *, uploading: bool) -> Queue:
        _, remote, state = opened
        known = state.read()
        at = known.get("last_error_at")
        try:
            queued = queue_length(self._layout, remote.identity)
        except OSError:
            queued = 0
        return Queue(
            url=remote.url,
            queued=queued,
            uploading=uploading and queued > 0,
            refused=state.refused(remote.credential),
            last_error=str(known.get("last_error") or ""),
            last_error_at=float(at) if isinstance(at, int | float) else None,
        )
