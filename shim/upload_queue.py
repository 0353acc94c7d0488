"""A stored result joins the queue of every remote that may be written to; the uploader is started, never waited for."""

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

UPLOAD_COMMAND = "upload-queue"


def queue_result(shim: "Shim", key: str, corrupt: "Collection[str]" = ()) -> None:
    """Queue the result of `key`; `corrupt` are the remotes whose own copy of it must be replaced.

    Never raises: what is not queued, `neuron-store synchronize` finds.
    """
    try:
        if _queue(shim, key, corrupt) and shim.settings.upload and not is_taken(shim.layout):
            start_in_background([UPLOAD_COMMAND], {**shim.environ, "NEURON_STORE_DIR": shim.layout.root})
    except Exception:  # noqa: BLE001 - the compile is done, and must not fail of this
        shim.incidents.append("queue_failed")
        shim.log_fault(f"the result of {key} could not be queued for upload")


def _queue(shim: "Shim", key: str, corrupt: "Collection[str]") -> bool:
    """Queue the result for all writable remotes; return whether one of them may be written to now."""
    wanted = False
    for location in list_locations(shim.settings.remotes, shim.environ)[0]:
        if not location.writable:
            continue
        remote, state = open_remote(location, shim.layout, shim.environ, remote_options(shim.settings))
        enqueue(shim.layout, remote.identity, key, replace=remote.identity in corrupt)
        offline = location.scheme == "hf" and hub_offline(shim.environ)
        wanted |= not offline and not state.refused(remote.credential)
    return wanted
