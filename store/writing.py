"""Who is about to give blobs a record: what collects blobs that no record names must leave these alone.

A writer's mark is a locked file in tmp/, made before its first blob and gone after its record:

    tmp/writing-<8 hex of the host's name>-<pid>-<12 hex>

It makes nobody wait. A collector asks since when somebody writes, and leaves everything that changed since then: that
is every blob that a record still to come may name, because a writer writes each of them, or touches it.
"""

import fcntl
import os
import time

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.layout import Layout, discard

NOBODY = 1 << 63  # later than any moment
_PREFIX = "writing-"
_FOREIGN = 86400.0  # seconds for which the mark of another host, whose lock we may not see, is believed
_UNLOCKED = 3600.0  # seconds that nothing may have changed for, where the file system has no locks


def _host() -> str:
    return xxh3_hex(os.fsencode(os.uname().nodename))[:8]


class Writing:
    """A context: blobs are written or reused in it, then the records that name them. Raises OSError on entry.

    Attributes:
        descriptor: of the mark's open file, -1 if there is none.
    """

    __slots__ = ("_layout", "_path", "descriptor")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.descriptor = -1
        self._path = ""

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Leave the mark. Raises OSError where the store cannot be written."""
        self.descriptor, self._path = self._layout.open_temporary(f"{_PREFIX}{_host()}-")
        try:
            fcntl.flock(
                self.descriptor, fcntl.LOCK_EX
            )  # who tried for an instant whether it is free may have been first
        except OSError:
            pass  # a file system without locks

    def end(self) -> None:
        """Take the mark away, if there is one."""
        if self.descriptor >= 0:
            discard(self._path)
            os.close(self.descriptor)
            self.descriptor = -1


def unchanging_since(layout: Layout) -> int:
    """Return a moment (nanoseconds, by the store's own clock) after which everything that changed may be in use.

    Call it before records are read: whatever changed earlier has its record by now, or will never have one. Raises
    OSError where the store cannot be written.
    """
    descriptor, path = layout.open_temporary("collecting-")
    try:
        moment = os.fstat(descriptor).st_ctime_ns
        if not _has_locks(descriptor):
            moment -= int(_UNLOCKED * 1e9)
    finally:
        discard(path)
        os.close(descriptor)
    return min(moment, writing_since(layout))


def writing_since(layout: Layout) -> int:
    """Return when the oldest writer of now began, in nanoseconds by the store's own clock; NOBODY if there is none."""
    try:
        with os.scandir(f"{layout.root}/tmp") as entries:
            marks = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    except FileNotFoundError:
        return NOBODY
    return min([NOBODY, *(begun for path in marks if (begun := _begun(path)))])


def _has_locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _begun(path: str) -> int:
    """Return when the writer began who left this mark, in nanoseconds; 0 if it is no longer there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        status = os.fstat(descriptor)
        if f"/{_PREFIX}{_host()}-" in path:
            return status.st_mtime_ns if _is_held(descriptor) else 0
        return status.st_mtime_ns if time.time() - status.st_mtime < _FOREIGN else 0
    finally:
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return True  # no locks here: nobody can tell
    return False
