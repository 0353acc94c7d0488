"""Marks that an invocation leaves for compiles that watch the places it writes to. See `locks.ActivityWatch`.

In a module of its own because a hit leaves marks too, and needs nothing else of the locks.
"""

import os

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def directory_place(path: str) -> str:
    """Return what stands for a directory, whatever path leads to it. Raises OSError."""
    status = os.stat(path or ".")
    return f"directory {status.st_dev} {status.st_ino}"


def output_place(path: str) -> str:
    """Return what stands for a file in its directory, whether it exists or not. Raises OSError."""
    return f"{directory_place(os.path.dirname(path))} {os.path.basename(path)}"


def place_path(layout: Layout, place: str) -> str:
    """Return the path of the file that is there while a compile watches `place`."""
    return layout.lock_path("place-" + xxh3_hex(place.encode("utf-8", "surrogateescape")))


def mark_activity(layout: Layout, places: "Iterable[str]") -> bool:
    """Tell the compiles that watch one of `places` that we write there too; return whether there is one."""
    watched = False
    for place in places:
        try:
            descriptor = os.open(place_path(layout, place), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            os.write(descriptor, b".")
            watched = True
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return watched
