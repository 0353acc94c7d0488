"""Locks: one compile of a key at a time on a host, and a memory of who else worked in a directory.

flock is released by the kernel when its holder dies, however it dies. A waiter polls, because it also watches for
the result (it needs no lock to use it) and for its time limit.
"""

import fcntl
import os
import time

from neuron_store.store.activity import place_path
from neuron_store.store.in_flight import sweep_flights
from neuron_store.store.layout import KEY_LENGTH, Layout, discard, is_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HELD = "held"
DONE = "done"
TIMED_OUT = "timed_out"
PEERS_FAILED = "peers_failed"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25  # seconds
# One failure of a peer may be a passing fault, so one more peer tries alone; after that all compile, as without us.
_FAILURES_THAT_FREE_WAITERS = 2


class KeyLock:
    """The right to compile one key. The file's length counts the failures of those who held it."""

    def __init__(self, layout: Layout, key: str) -> None:
        """Open the lock of `key`. Raises OSError where the store cannot be written."""
        self._layout = layout
        self._path = layout.lock_path(key)
        self._descriptor = self._open()
        self.waited = False

    def _open(self) -> int:
        return self._layout.open_creating(self._path, os.O_RDWR | os.O_APPEND, 0o644)

    def acquire(self, timeout: float, is_done: "Callable[[], bool]") -> str:
        """Wait at most `timeout` seconds for the lock.

        Returns HELD; or, without the lock: DONE as soon as `is_done()`, PEERS_FAILED when those before us failed,
        TIMED_OUT.
        """
        begun = time.monotonic()
        pause = _FIRST_PAUSE
        failures = self._failures()
        while True:
            held = self._try()
            if self._failures() - failures >= _FAILURES_THAT_FREE_WAITERS:
                if held:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                return PEERS_FAILED
            if held:
                return HELD
            self.waited = True
            if is_done():
                return DONE
            left = timeout - (time.monotonic() - begun)
            if left <= 0:
                return TIMED_OUT
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _failures(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _try(self) -> bool:
        while True:
            if not _try_lock(self._descriptor, fcntl.LOCK_EX):
                return False
            if os.fstat(self._descriptor).st_nlink:
                return True
            # The holder before us deleted the file: this lock is no longer the one that others see.
            os.close(self._descriptor)
            self._descriptor = self._open()

    def release(self, *, failed: bool) -> None:
        """Give the lock back: its file goes, unless waiters must learn that the compile failed."""
        try:
            if failed:
                os.write(self._descriptor, b"F")
            else:
                discard(self._path)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Stop waiting for, or give back, the lock."""
        os.close(self._descriptor)


def compiles_under_way(layout: Layout) -> bool:
    """Tell whether it looks as if something is being compiled: a compile's lock is a file, empty unless one failed.

    One that was killed leaves its file behind until it is swept, or its key compiled.
    """
    try:
        with os.scandir(f"{layout.root}/locks") as entries:
            return any(is_hex(entry.name, KEY_LENGTH) and not entry.stat().st_size for entry in entries)
    except OSError:
        return False


class ActivityWatch:
    """Tells whether another invocation wrote to the same places (current directory, output) meanwhile.

    A place's file is there while a compile watches it. Its length counts the compiles and the others that came by,
    see `mark_activity`: what lies in a shared place afterwards may be theirs. Invocations that use another store, on
    another host say, are not seen.
    """

    def __init__(self, layout: Layout, places: "Iterable[str]") -> None:
        """Begin to watch. Raises OSError."""
        self._watched = {place: _WatchedPlace(layout, place) for place in sorted(places)}

    def alone(self, place: str) -> bool:
        """Return whether nobody else was seen at `place` so far."""
        return self._watched[place].alone()

    def end(self) -> None:
        """Stop watching."""
        for watched in self._watched.values():
            watched.end()
        self._watched = {}


class _WatchedPlace:
    def __init__(self, layout: Layout, place: str) -> None:
        self._path = place_path(layout, place)
        while True:
            self._descriptor = layout.open_creating(self._path, os.O_RDWR | os.O_APPEND, 0o644)
            self._first = _try_lock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_nlink:
                break
            os.close(self._descriptor)  # deleted by the one before us, who ended meanwhile
        os.write(self._descriptor, b".")
        self._begun = os.fstat(self._descriptor).st_size
        # From now on others may come: they see us by the shared lock, we see them by the file's length.
        self._first = _try_lock(self._descriptor, fcntl.LOCK_SH) and self._first

    def alone(self) -> bool:
        return self._first and os.fstat(self._descriptor).st_size == self._begun

    def end(self) -> None:
        if _try_lock(self._descriptor, fcntl.LOCK_EX) and os.fstat(self._descriptor).st_nlink:
            discard(self._path)
        os.close(self._descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock if it is free. Where the file system has no locks, everything is free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sweep(layout: Layout, older_than: float = 86400.0, *, every: float = 3600.0) -> "tuple[int, int]":
    """Delete temporary and lock files that no process holds and that are older (seconds); return how many, and bytes.

    What says that a shim is at something goes as soon as the shim is dead.

    Does nothing if the last sweep is less than `every` seconds ago: a folder may hold many files.
    """
    stamp = layout.lock_path(".swept")
    try:
        if time.time() - os.stat(stamp).st_mtime < every:
            return 0, 0
    except OSError:
        pass
    try:
        os.close(layout.open_creating(stamp, os.O_WRONLY))
        os.utime(stamp)
    except OSError:
        return 0, 0
    swept = freed = 0
    for folder in ("tmp", "locks"):
        try:
            names = os.listdir(f"{layout.root}/{folder}")
        except OSError:
            continue
        for name in names:
            path = f"{layout.root}/{folder}/{name}"
            size = _size(path)
            if name != ".swept" and sweep_file(path, older_than):
                swept += 1
                freed += size
    return swept + sweep_flights(layout, older_than), freed


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def sweep_file(path: str, older_than: float) -> bool:
    """Delete a file that no process holds and that is older (seconds); return whether it went."""
    try:
        if time.time() - os.stat(path, follow_symlinks=False).st_mtime < older_than:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not _try_lock(descriptor, fcntl.LOCK_EX):
            return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
