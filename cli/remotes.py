"""What commands share that deal with remotes: which ones there are, and how they are opened."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from neuron_store.cli import presentation
from neuron_store.shim.remote_hits import remote_options
from neuron_store.shim.settings import PREFIX, Settings
from neuron_store.store.errors import ConfigurationError, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import Remote
from neuron_store.store.remotes.location import (
    NO_REMOTE,
    Location,
    hub_offline,
    list_locations,
    read_location,
    saved_name_path,
    without_credentials,
)
from neuron_store.store.remotes.opening import open_remote
from neuron_store.store.remotes.state import RemoteState

Item = TypeVar("Item")
Made = TypeVar("Made")

COMMAND_LINE = "the command line"
HOW_TO_GET_ONE = (
    "make a repo of your own with `neuron-store create`, name one with `neuron-store set org/name`, "
    "or write `neuron-store config set remotes 'hf://org/name file:///shared/folder'`"
)
LISTING_PATIENCE = 30.0  # seconds for one request
_LISTING_THREADS = 8


class Opened(NamedTuple):
    """A remote, where it is, and what this host remembers of it."""

    location: Location
    remote: Remote
    state: RemoteState


def named_location(name: str) -> Location:
    """Read a remote as a person names it: org/name, hf://… or file:///…. Raises ConfigurationError."""
    try:
        location = read_location(name if "://" in name else "hf://" + name)
    except ConfigurationError as error:
        if "://" in name:
            raise
        raise ConfigurationError(
            f"{without_credentials(name)!r} is no remote: write org/name, hf://org/name or file:///folder"
        ) from error
    location.source = COMMAND_LINE
    return location


def configured_locations(settings: Settings) -> list[Location]:
    """Return all remotes in order; what is wrong with those left out is said on stderr."""
    locations, faults = list_locations(settings.remotes, os.environ)
    for fault in faults:
        presentation.remark(fault)
    return locations


def why_no_remote(settings: Settings) -> str:
    """Say, where no remote is configured, what to do."""
    if NO_REMOTE in settings.remotes:
        return f"no remote is used, because {setting_source(settings)} is {NO_REMOTE}"
    return f"no remote is configured; {HOW_TO_GET_ONE}"


def open_location(location: Location, layout: Layout, settings: Settings, *, patience: float = float("inf")) -> Opened:
    """Return the remote at `location`; nothing is asked of it yet.

    `patience` is in seconds: for a person who waits for an answer, less than an upload may take.
    """
    options = remote_options(settings, may_fork=False)
    options.upload_timeout = min(options.upload_timeout, patience)
    return Opened(location, *open_remote(location, layout, os.environ, options))


def require_online(location: Location) -> None:
    """Raise RemoteUnavailable for a Hub's repo if the user asked huggingface_hub to stay offline."""
    if location.scheme == "hf" and hub_offline(os.environ):
        raise RemoteUnavailable(f"{location.url} is not asked, because HF_HUB_OFFLINE is set")


def described_source(location: Location, settings: Settings) -> str:
    """Say where a remote is named."""
    if location.source != "remotes":
        return location.source
    return setting_source(settings)


def setting_source(settings: Settings) -> str:
    """Say where the setting `remotes` stands: its variable, the file, or the default."""
    source = settings.sources["remotes"]
    if source.startswith(PREFIX):
        return source
    return "the default of remotes" if source == "default" else f"remotes in {source}"


def saved_name() -> str:
    """Return the file in which the name of one's own cache repo is saved, as an absolute path."""
    return os.path.abspath(saved_name_path(os.environ))


def in_threads(work: "Callable[[Item], Made]", items: "Iterable[Item]", threads: int = _LISTING_THREADS) -> list[Made]:
    """Return what `work` makes of each item, in order, several at a time. Raises what `work` raises."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
