"""From a location to a remote that can be used."""

from neuron_store.store.layout import Layout
from neuron_store.store.remotes.folder import FolderRemote
from neuron_store.store.remotes.http_reader import ReadLimits
from neuron_store.store.remotes.state import RemoteState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuron_store.store.remotes.base import Remote
    from neuron_store.store.remotes.http_reader import Connections
    from neuron_store.store.remotes.location import Location


class RemoteOptions:
    """How remotes are used, whatever their kind.

    Attributes:
        limits: of reading.
        largest: bytes beyond which an output is not taken from a remote.
        upload_timeout: seconds without an answer after which a request of an upload is given up.
        xet: "auto", "on" or "off".
        agent: what we call ourselves.
        may_fork: whether this process has no threads, so that it may fork.
        connections: that Hub repos share, and whoever opens them closes; None: each repo has its own.
    """

    __slots__ = ("agent", "connections", "largest", "limits", "may_fork", "upload_timeout", "xet")

    def __init__(
        self,
        *,
        limits: "ReadLimits | None" = None,
        largest: int = 8 << 30,
        upload_timeout: float = 120.0,
        xet: str = "auto",
        agent: str = "neuron-store",
        may_fork: bool = True,
    ) -> None:
        self.limits = limits or ReadLimits()
        self.largest = largest
        self.upload_timeout = upload_timeout
        self.xet = xet
        self.agent = agent
        self.may_fork = may_fork
        self.connections: Connections | None = None


def open_remote(
    location: "Location", layout: Layout, environ: "Mapping[str, str]", options: RemoteOptions
) -> "tuple[Remote, RemoteState]":
    """Return the remote and what this host remembers of it (in `layout`). Nothing is asked of the remote yet."""
    if location.scheme == "file":
        patience = options.limits.connect + options.limits.first_byte if options.may_fork else None
        folder = FolderRemote(location.place, writable=location.writable, patience=patience)
        return folder, RemoteState(layout, folder.identity, folder.url)
    from neuron_store.store.remotes.hub import HubRemote

    hub = HubRemote(location, environ, options)
    hub.state = RemoteState(layout, hub.identity, hub.url)
    return hub, hub.state
