"""The settings and the store that a command works on."""

import os

from neuron_store.shim.settings import Settings, load_settings, state_folder
from neuron_store.store.errors import ConfigurationError, StoreUnavailable
from neuron_store.store.events import Event, read_events
from neuron_store.store.layout import Layout


def settings() -> Settings:
    """Return the settings in force. Raises ConfigurationError."""
    return load_settings(os.environ)


def local_store() -> Layout:
    """Return the local store's layout. Raises ConfigurationError."""
    return Layout(settings().dir)


def readable_store() -> Layout:
    """Return the local store's layout, to read what it holds; it need not exist.

    Raises ConfigurationError, or StoreUnavailable if something else lies there, or it is not ours to read.
    """
    layout = local_store()
    fault = store_fault(layout)
    if fault:
        raise StoreUnavailable(fault)
    return layout


def store_fault(layout: Layout) -> str:
    """Say why the store cannot be read, "" if it can or does not exist yet."""
    remedy = "or set NEURON_STORE_DIR to another folder"
    try:
        os.listdir(layout.root)
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        return f"the store {layout.root} is not a folder; move what is there away, {remedy}"
    except OSError as error:
        return f"the store {layout.root} cannot be read ({error.strerror}); change its owner or mode, {remedy}"
    return ""


def require_storing(layout: Layout, chosen: Settings) -> None:
    """Raise ConfigurationError if the settings let nothing be stored, StoreUnavailable if the disk does not."""
    if chosen.read_only:
        raise ConfigurationError(
            f"nothing is stored in {layout.root}, because the setting read_only is true; "
            "for this once, set NEURON_STORE_READ_ONLY=false"
        )
    layout.require_writable()


def events_of(layout: Layout, since: float = 0.0) -> list[Event]:
    """Return the events of a store: its own, and those it could not take, which the user's state folder keeps."""
    found = list(read_events(layout, since))
    kept = read_events(Layout(state_folder(os.environ)), since)
    found += [event for event in kept if event.fields.get("store") == layout.root]
    return found
