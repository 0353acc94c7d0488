"""Where the environment names a model (NEURON_STORE_MODEL), note which keys its runs ask for."""

import os

from neuron_store.store.registry.contexts import note_invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.shim.main import Shim


def _words(arguments: "list[str]") -> str:
    """Return what an invocation is called whose model was never read: its words, without the folders that may change."""
    return " ".join(os.path.basename(word) for word in arguments if not word.startswith("-"))


def note_in_context(shim: "Shim", outcome: str, key: str, seconds: "float | None") -> None:
    """Note how an invocation ended; what is new starts the uploader, which publishes it. Raises OSError."""
    if shim.settings.read_only:
        return
    identity = getattr(shim, "identity", None)  # what passes through may not have asked for it
    is_new = note_invocation(
        shim.layout,
        shim.environ,
        outcome,
        key=key,
        version=identity.version if identity else "",
        seconds=seconds,
        module=shim.model.name if shim.model else _words(shim.arguments),
    )
    if is_new and shim.settings.upload:
        from neuron_store.shim.upload_queue import start_uploader

        start_uploader(shim)
