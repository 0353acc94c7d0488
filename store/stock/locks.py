"""Whether a lock of a stock cache is someone's: it is a file beside the graph, and a killed compile leaves it behind.

Others wait for it for hours. Nothing in it tells whose it is, so a lock is live if anything speaks for it:

    locked   a process has it locked (flock, or fcntl), or we may not look whether one has
    open     a process of this host has it open
    owner    it names a process that lives
    compile  the command line of a process names the entry, or its module
    young    a file of the entry changed a short while ago: its owner may be another host's

Sources: reports of stale locks, and of folders that hosts share by NFS.
"""

import errno
import fcntl
import os
import time

from neuron_store.store.mounts import mount_of
from neuron_store.store.stock.entries import StockEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Where owners may be on other hosts.
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "lustre", "cifs", "smb3", "9p", "ceph", "gpfs", "beegfs", "efs", "fuse")
LOCAL_YOUNG, NETWORK_YOUNG = 60.0, 12 * 3600.0  # seconds


class Processes:
    """What the processes of this host have open, and how they were called, at the time of the look."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], int] = {}
        self._commands: dict[int, str] = {}
        for pid in _pids():
            self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                self._commands[pid] = os.fsdecode(file.read().replace(b"\0", b" "))
            if pid == os.getpid():
                return
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return  # it ended, or is another user's
        for name in names:
            try:
                status = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue  # it was closed, which says nothing of the others
            self._open[status.st_dev, status.st_ino] = pid

    def opener(self, path: str) -> int:
        """Return a process that has the file open, 0 if none has."""
        try:
            status = os.stat(path)
        except OSError:
            return 0
        return self._open.get((status.st_dev, status.st_ino), 0)

    def naming(self, *words: str) -> int:
        """Return a process whose command line has one of `words` in it, 0 if there is none."""
        us = {os.getpid(), os.getppid()}
        for pid, command in self._commands.items():
            if pid not in us and any(word in command for word in words):
                return pid
        return 0


def _pids() -> "Iterator[int]":
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def lock_holder(entry: StockEntry, lock: str, processes: Processes, young: float) -> str:
    """Say in words who holds a lock of `entry`, "" if its owner is dead.

    `young` is in seconds: an entry that changed since is taken for someone's.
    """
    if locked := _locked_by(lock):
        return locked
    if pid := processes.opener(lock):
        return f"process {pid} has it open"
    if pid := _named_owner(lock):
        return f"it names process {pid}, which lives"
    return entry_user(entry, processes, young)


def entry_user(entry: StockEntry, processes: Processes, young: float) -> str:
    """Say in words who uses `entry`, lock or no lock, "" if nobody is seen to."""
    if pid := processes.naming(entry.module, entry.folder):
        return f"the command line of process {pid} names it"
    age = time.time() - last_change(entry)
    return f"it changed {max(age, 0):.0f} s ago" if age < young else ""


def last_change(entry: StockEntry) -> float:
    """Return when a file of the entry changed last, in Unix seconds; 0 if it has none."""
    times = [0.0]
    for name in (*entry.sizes, *entry.odd):
        try:
            times.append(os.stat(entry.path(name), follow_symlinks=name in entry.sizes).st_mtime)
        except OSError:
            continue
    return max(times)


def young_below(path: str) -> float:
    """Return how long after its last change an entry in `path` is still taken for someone's, in seconds."""
    kind = file_system(path)
    is_network = kind.partition(".")[0] in NETWORK_FILE_SYSTEMS
    return NETWORK_YOUNG if is_network else LOCAL_YOUNG


def file_system(path: str) -> str:
    """Return the kind of file system that `path` lies on (`ext4`, `nfs4`), "" if it cannot be told."""
    try:
        return mount_of(path).kind
    except OSError:
        return ""


def _locked_by(path: str) -> str:
    """Say that a lock file is locked, or that nobody lets us look; "" if it is not locked."""
    try:
        descriptor, kind = _open_lock(path)
    except PermissionError:
        return "we may not look at it"
    except OSError:
        return ""
    try:
        # Either kind of lock; on most file systems the two do not see each other.
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return "a process has it locked"
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def _open_lock(path: str) -> "tuple[int, int]":
    """Return a lock file, open, and the kind of lock that it can be tried with. Raises OSError."""
    how = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | how), fcntl.LOCK_EX
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return os.open(path, os.O_RDONLY | how), fcntl.LOCK_SH  # another user's


def _named_owner(path: str) -> int:
    """Return the living process that a lock file names, 0 if it names none."""
    try:
        with open(path, "rb") as file:
            words = file.read(200).split()
    except OSError:
        return 0
    for word in words:
        if word.isdigit() and len(word) < 10 and os.path.exists(f"/proc/{int(word)}"):
            return int(word)
    return 0
