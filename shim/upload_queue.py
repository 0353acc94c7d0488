"""A stored result joins the queue of every remote that may be written to; the uploader is started, never waited for."""

import os
import time

from neuron_store.shim.background import start_in_background
from neuron_store.shim.remote_hits import remote_options
from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.location import hub_offline, list_locations
from neuron_store.store.remotes.opening import open_remote
from neuron_store.store.upload_lock import is_taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from neuron_store.shim.main import Shim
    from neuron_store.store.remotes.base import Remote

UPLOAD_COMMAND = "upload-queue"
_STARTING = "uploader-starting"
_START_SECONDS = 0.5  # until an uploader that was started has its lock


def queue_result(shim: "Shim", key: str, corrupt: "Collection[str]" = ()) -> None:
    """Queue the result of `key`; `corrupt` are the remotes whose own copy of it must be replaced.

    Never raises: what is not queued, `neuron-store synchronize` finds.
    """
    try:
        takers = _takers(shim)
        for remote, _ in takers:
            enqueue(shim.layout, remote.identity, key, replace=remote.identity in corrupt)
        _start_uploader(shim, takers)
    except Exception:  # noqa: BLE001 - the compile is done, and must not fail of this
        shim.incidents.append("queue_failed")
        shim.log_fault(f"the result of {key} could not be queued for upload")


def start_uploader(shim: "Shim") -> None:
    """Start the uploader, if a remote takes anything now and no uploader runs. Raises OSError."""
    _start_uploader(shim, _takers(shim))


def _takers(shim: "Shim") -> "list[tuple[Remote, bool]]":
    """Return all writable remotes, and whether each may be written to now."""
    takers = []
    for location in list_locations(shim.settings.remotes, shim.environ)[0]:
        if location.writable:
            remote, state = open_remote(location, shim.layout, shim.environ, remote_options(shim.settings))
            offline = location.scheme == "hf" and hub_offline(shim.environ)
            takers.append((remote, not offline and not state.refused(remote.credential)))
    return takers


def _start_uploader(shim: "Shim", takers: "list[tuple[Remote, bool]]") -> None:
    if any(now for _, now in takers) and shim.settings.upload and not is_taken(shim.layout) and _is_first(shim):
        start_in_background([UPLOAD_COMMAND], {**shim.environ, "NEURON_STORE_DIR": shim.layout.root})


def _is_first(shim: "Shim") -> bool:
    """Tell whether nobody started an uploader just now, which has not come as far as its lock. Raises OSError."""
    path = shim.layout.lock_path(_STARTING)
    try:
        if abs(time.time() - os.stat(path).st_mtime) < _START_SECONDS:
            return False
        os.utime(path)
    except FileNotFoundError:
        os.close(shim.layout.open_creating(path, os.O_WRONLY))
    return True
