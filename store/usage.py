"""How much a local store holds."""

import os
from collections.abc import Iterator

from neuron_store.store.layout import Layout


class Usage:
    """Counts of a store's results and blobs, and the bytes they take on disk."""

    __slots__ = ("blobs", "bytes", "results")

    def __init__(self) -> None:
        self.results = 0
        self.blobs = 0
        self.bytes = 0


def measure_usage(layout: Layout) -> Usage:
    """Walk the store. Files that vanish meanwhile are left out."""
    usage = Usage()
    for size in _sizes(f"{layout.root}/results"):
        usage.results += 1
        usage.bytes += size
    for size in _sizes(f"{layout.root}/blobs"):
        usage.blobs += 1
        usage.bytes += size
    usage.bytes += sum(_sizes(f"{layout.root}/direct"))
    return usage


def _sizes(folder: str) -> Iterator[int]:
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    with entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
