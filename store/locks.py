"""Locks: one compile of a key at a time on a host, and a memory of who else worked in a directory.

flock is released by the kernel when its holder dies, however it dies. A waiter polls, because it also watches for
the result (it needs no lock to use it) and for its time limit.
"""

import fcntl
import os
import time

from neuron_store.store.layout import Layout, discard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
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


class DirectoryWatch:
    """Tells whether another compile ran in the same directory meanwhile: then a side file there may be its."""

    def __init__(self, layout: Layout, directory: str) -> None:
        """Begin to watch. Raises OSError."""
        status = os.stat(directory)
        self._path = layout.lock_path(f"directory-{status.st_dev:x}-{status.st_ino:x}")
        self._alone = False
        while True:
            self._descriptor = layout.open_creating(self._path, os.O_RDWR | os.O_APPEND, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._alone = True
            except BlockingIOError:
                self._alone = False
            if os.fstat(self._descriptor).st_nlink:
                break
            os.close(self._descriptor)  # deleted by the one before us, who ended meanwhile
        os.write(self._descriptor, b".")
        self._begun = os.fstat(self._descriptor).st_size
        # From now on others may come: they see us by the shared lock, we see them by the file's length.
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._alone = False

    def end(self) -> bool:
        """Stop watching; return whether this was the only compile in the directory all the time."""
        status = os.fstat(self._descriptor)
        alone = self._alone and status.st_size == self._begun
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if status.st_nlink:
                discard(self._path)
        except BlockingIOError:
            pass
        os.close(self._descriptor)
        return alone


def sweep(layout: Layout, older_than: float = 86400.0) -> int:
    """Delete temporary and lock files that no process holds and that are older (seconds); return how many."""
    swept = 0
    for folder in ("tmp", "locks"):
        try:
            names = os.listdir(f"{layout.root}/{folder}")
        except OSError:
            continue
        for name in names:
            swept += _sweep_file(f"{layout.root}/{folder}/{name}", older_than)
    return swept


def _sweep_file(path: str, older_than: float) -> bool:
    try:
        if time.time() - os.stat(path).st_mtime < older_than:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
