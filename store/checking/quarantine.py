"""The quarantine: what a repair took out of the store, in case someone wants to look at it. Nothing is served from it.

    quarantine/<YYYYMMDD>T<HHMMSS>-<pid>/<path below the root>

One folder for each repair. A collection removes folders that are older than AGE; `neuron-store clear` removes all.
"""

import os
import shutil
import time

from neuron_store.store.collection.inventory import size_of
from neuron_store.store.layout import Layout, move_file

QUARANTINE = "quarantine"
AGE = 30 * 86400.0  # seconds


class Quarantine:
    """Where one repair puts what it takes out.

    Attributes:
        folder: its path; it is made when the first file comes.
        moved: how many files it took.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.folder = f"{layout.root}/{QUARANTINE}/{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        self.moved = 0

    def take(self, path: str, seen: "os.stat_result | None" = None) -> bool:
        """Move a file or folder here; return False if it is gone, or no longer what was `seen`. Raises OSError."""
        below = path.removeprefix(f"{self._layout.root}/")
        target = f"{self.folder}/{below}"
        while os.path.lexists(target):
            target += ".again"
        self._layout.make_folder(os.path.dirname(target))
        try:
            move_file(path, target)
        except FileNotFoundError:
            return False
        if seen is not None and os.stat(target, follow_symlinks=False).st_ino != seen.st_ino:
            self._put_back(target, path)  # it was written anew meanwhile
            return False
        self.moved += 1
        return True

    @staticmethod
    def _put_back(target: str, path: str) -> None:
        try:
            os.link(target, path, follow_symlinks=False)
            os.unlink(target)
        except FileExistsError:
            os.unlink(target)  # and once more
        except OSError:
            move_file(target, path)


def measure_quarantine(layout: Layout) -> "tuple[int, int]":
    """Return how many files are in the quarantine, and their bytes."""
    return _measure(f"{layout.root}/{QUARANTINE}")


def _measure(folder: str) -> "tuple[int, int]":
    count = size = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                size += size_of(os.stat(f"{base}/{name}", follow_symlinks=False))
            except OSError:
                continue
            count += 1
    return count, size


def expired(layout: Layout, older_than: float = AGE) -> "list[str]":
    """Return the folders of repairs that ended so long ago (seconds)."""
    try:
        with os.scandir(f"{layout.root}/{QUARANTINE}") as entries:
            return [e.path for e in entries if time.time() - e.stat(follow_symlinks=False).st_mtime >= older_than]
    except (FileNotFoundError, NotADirectoryError):
        return []


def weigh_expired(layout: Layout, older_than: float = AGE) -> "tuple[int, int]":
    """Return how many files `expire` would remove, and their bytes."""
    weighed = [_measure(folder) for folder in expired(layout, older_than)]
    return sum(count for count, _ in weighed), sum(size for _, size in weighed)


def expire(layout: Layout, older_than: float = AGE) -> "tuple[int, int]":
    """Remove what was put here so long ago (seconds); return how many files went, and their bytes."""
    count = size = 0
    for folder in expired(layout, older_than):
        files, taken = _measure(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            count, size = count + files, size + taken
    return count, size
