"""The settings and the store that a command works on."""

import os

from neuron_store.shim.settings import Settings, load_settings, state_folder
from neuron_store.store.events import Event, read_events
from neuron_store.store.layout import Layout


def settings() -> Settings:
    """Return the settings in force. Raises ConfigurationError."""
    return load_settings(os.environ)


def local_store() -> Layout:
    """Return the local store's layout. Raises ConfigurationError."""
    return Layout(settings().dir)


def events_of(layout: Layout, since: float = 0.0) -> list[Event]:
    """Return the events of a store: its own, and those it could not take, which the user's state folder keeps."""
    found = list(read_events(layout, since))
    kept = read_events(Layout(state_folder(os.environ)), since)
    found += [event for event in kept if event.fields.get("store") == layout.root]
    return found
