"""Removing one file that nobody may have come to need since it was looked at: see collector.py for the reasons."""

import os
import stat

from neuron_store.store.collection.inventory import size_of
from neuron_store.store.layout import discard

ASIDE = ".gone."  # before the name of a blob that is being removed


def settled(path: str, horizon: int) -> "os.stat_result | None":
    """Return a file's status if it has not changed since `horizon` (nanoseconds), None otherwise, or if it is gone."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status if status.st_ctime_ns < horizon else None


def remove_blob(path: str, horizon: int) -> "int | None":
    """Remove a blob that has not changed since `horizon`; return its size, None if it stays or is gone. Raises OSError."""
    seen = settled(path, horizon)
    if seen is None or not stat.S_ISREG(seen.st_mode):
        return None
    folder, name = os.path.split(path)
    aside = f"{folder}/{ASIDE}{name}"
    try:
        os.rename(path, aside)
        found = os.stat(aside)
    except FileNotFoundError:
        return None
    if (found.st_ino, found.st_mtime_ns, found.st_size) != (seen.st_ino, seen.st_mtime_ns, seen.st_size):
        put_back(aside)
        return None
    discard(aside)
    return size_of(seen)


def put_back(aside: str) -> None:
    """Give a blob its name again, unless a writer has given it to the same content meanwhile. Raises OSError."""
    folder, name = os.path.split(aside)
    path = f"{folder}/{name[len(ASIDE) :]}"
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        return  # another host's collector was faster
    except OSError:  # a file system without links
        os.rename(aside, path)
        return
    discard(aside)
