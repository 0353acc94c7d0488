"""What is examined: an environment, the settings that come of it, and the store that they name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from neuron_store.shim.settings import Settings, load_settings
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.layout import Layout


@dataclass(frozen=True)
class Surroundings:
    """All that an examination starts from.

    Attributes:
        environ: of the caller.
        settings: in force; a default in the place of each that cannot be read.
        fault: what is wrong with the settings, "" if nothing is.
        patience: seconds that one area may take.
        offline: whether no remote is asked.
    """

    environ: Mapping[str, str]
    settings: Settings
    fault: str
    patience: float
    offline: bool

    @property
    def layout(self) -> Layout:
        """The local store; it need not exist."""
        return Layout(self.settings.dir)


def look_around(environ: Mapping[str, str], *, patience: float, offline: bool) -> Surroundings:
    """Return the surroundings that `environ` makes, whatever is wrong with it."""
    fault = ""
    try:
        settings = load_settings(environ)
    except ConfigurationError as error:
        fault = str(error)
        settings = load_settings(environ, tolerant=True)
    return Surroundings(environ, settings, fault, patience, offline)


def look_past_file(environ: Mapping[str, str], *, patience: float, offline: bool) -> Surroundings:
    """Return the surroundings as if there were no configuration file: it could not be read in time."""
    without = {**environ, "NEURON_STORE_CONFIG": os.devnull}
    fault = "the configuration file could not be read in time; its file system may be gone"
    return Surroundings(environ, load_settings(without, tolerant=True), fault, patience, offline)
