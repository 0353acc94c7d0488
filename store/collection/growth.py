r"""How large the store is, as far as a shim can know without a walk: what a collection measured, and what came since.

Grammar of collection/size, version 1: a first line by the collection, then one for each result that was stored, added by one
append:

    1 <bytes> <results> <Unix seconds of the measurement> <Unix seconds before which none needs to begin>\n
    (<bytes>\n)*

A line that cannot be read counts nothing: the next collection measures anew.
"""

import os
import time

from neuron_store.store.layout import Layout, read_file

_SOONEST = 5.0  # seconds between two starts of a collection
_DAILY = 86400.0  # seconds after which age and compilers are looked at again


class Growth:
    """What is known of the store's size.

    Attributes:
        bytes, results: that it holds, about.
        measured: when a collection ended last, Unix seconds; 0 if none ever did.
        not_before: when the next is of use, Unix seconds.
    """

    __slots__ = ("bytes", "measured", "not_before", "results")

    def __init__(self, size: int, results: int, measured: float, not_before: float) -> None:
        self.bytes = size
        self.results = results
        self.measured = measured
        self.not_before = not_before

    @property
    def is_old(self) -> bool:
        """Whether a day has passed since the last collection."""
        return abs(time.time() - self.measured) > _DAILY


def _path(layout: Layout) -> str:
    return f"{layout.root}/collection/size"


def read_growth(layout: Layout) -> Growth:
    """Return what is known; nothing, if no collection has measured yet. Raises OSError for a bad disk."""
    first, *more = (read_file(_path(layout)) or b"").split(b"\n")
    words = first.split(b" ")
    if words[0] != b"1":
        return Growth(0, 0, 0.0, 0.0)
    try:
        size, results = int(words[1]), int(words[2])
        measured, not_before = float(words[3]), float(words[4])
    except (ValueError, IndexError):
        return Growth(0, 0, 0.0, 0.0)
    added = [int(line) for line in more if line.isdigit()]
    return Growth(size + sum(added), results + len(added), measured, not_before)


def note_growth(layout: Layout, size: int) -> None:
    """Add a result of `size` bytes. Raises OSError."""
    descriptor = layout.open_creating(_path(layout), os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, b"%d\n" % size)
    finally:
        os.close(descriptor)


def note_measurement(layout: Layout, size: int, results: int, pause: float) -> None:
    """Write what a collection has measured; for `pause` seconds no other is of use. Raises OSError."""
    now = time.time()
    layout.write_file(_path(layout), f"1 {size} {results} {now:.3f} {now + pause:.3f}\n".encode())


def may_start(layout: Layout) -> bool:
    """Tell whether no collection was started just now; only one who asks is told so. Raises OSError."""
    path = f"{layout.root}/collection/started"
    try:
        if abs(time.time() - os.stat(path).st_mtime) < _SOONEST:
            return False
        os.utime(path)
    except FileNotFoundError:
        os.close(layout.open_creating(path, os.O_WRONLY))
    return True
