"""Who uploads on this host: one process at a time, and how it makes room for one that a person waits for."""

import fcntl
import os
import time

from neuron_store.store.layout import Layout

UPLOADER, FOREGROUND = "uploader", "uploader-foreground"
_ATTEMPTS, _PAUSE = 3, 0.03  # someone who only looks holds the lock for an instant
_POLL = 0.1  # seconds


class UploadLock:
    """A lock of this host's that dies with its holder.

    Attributes:
        held: whether this object holds it.
    """

    def __init__(self, layout: Layout, name: str = UPLOADER) -> None:
        self._layout = layout
        self._path = layout.lock_path(name)
        self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor >= 0

    def try_take(self) -> bool:
        """Take the lock if it is free; return whether it is held now. Raises OSError where there can be none."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE)
            if self._take_once():
                return True
        return False

    def take(self, deadline: "float | None") -> bool:
        """Wait for the lock, at most until `deadline` (monotonic seconds); return whether it is held. Raises OSError."""
        while not self._take_once():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def _take_once(self) -> bool:
        while not self.held:
            descriptor = self._layout.open_creating(self._path, os.O_RDWR)
            if not _lock(descriptor, fcntl.LOCK_EX):
                os.close(descriptor)
                return False
            if os.fstat(descriptor).st_nlink:
                self._descriptor = descriptor
            else:
                os.close(descriptor)  # swept away since it was opened: not the lock that others see
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1


def is_taken(layout: Layout, name: str = UPLOADER) -> bool:
    """Tell whether a process of this host holds the lock: whether an uploader runs."""
    try:
        descriptor = os.open(layout.lock_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: two uploaders do no harm, only more work
    return True
