"""Reading many small files of a remote at once: a request costs its latency, which threads hide."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from neuron_store.cli.fetching import DEFAULT_THREADS, shared_options
from neuron_store.cli.remotes import Opened, in_threads
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import Remote
from neuron_store.store.remotes.opening import RemoteOptions, open_remote

Item = TypeVar("Item")
Made = TypeVar("Made")


def read_each(
    opened: Opened, settings: Settings, items: list[Item], read: Callable[[Remote, Item, RemoteOptions], Made]
) -> "list[Made | CorruptRemote]":
    """Return what `read` returns for each item, in order; where it raises CorruptRemote, that.

    A remote's connections are one thread's, so each thread opens it for itself. Raises RemoteUnavailable,
    RemoteRefused.
    """
    if not items:
        return []
    options = shared_options(settings, DEFAULT_THREADS)
    mine = threading.local()
    all_opened: list[Remote] = []

    def read_one(item: Item) -> "Made | CorruptRemote":
        if not hasattr(mine, "remote"):
            mine.remote = open_remote(opened.location, Layout(settings.dir), os.environ, options)[0]
            all_opened.append(mine.remote)
        try:
            return read(mine.remote, item, options)
        except CorruptRemote as error:
            return error

    try:
        return in_threads(read_one, items, min(DEFAULT_THREADS, len(items)))
    finally:
        for remote in all_opened:
            remote.close()


def read_files(
    opened: Opened, settings: Settings, paths: list[str], limit: int
) -> "list[bytes | CorruptRemote | None]":
    """Return the content of small files, None for each that is not there. Raises RemoteUnavailable, RemoteRefused."""
    return read_each(opened, settings, paths, lambda remote, path, _: remote.read(path, limit))
