"""Once a day: is there something old in the event log? Then it is summed up in the background."""

from neuron_store.shim.background import start_in_background
from neuron_store.store.event_archive import has_old_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.shim.main import Shim

ARCHIVE_COMMAND = "archive-events"


def archive_if_due(shim: "Shim") -> None:
    """Start the summing up, if anything is due. Raises OSError."""
    settings = shim.settings
    if not settings.read_only and has_old_events(shim.layout, settings.max_event_age):
        start_in_background([ARCHIVE_COMMAND], {**shim.environ, "NEURON_STORE_DIR": shim.layout.root})
