"""The file system of the store: what kind it is, and whether locks, renames and times really work there.

Kinds are told by /proc/self/mountinfo; what works is tried with a temporary file.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.storage import existing_folder
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.store.mounts import Mount, mount_of

_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"}
_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "gpfs",
    "lustre",
    "ocfs2",
    "orangefs",
    "panfs",
    "smb3",
    "virtiofs",
}
_CLOCKS_DIFFER = 5.0  # seconds
# Prints whether the lock of the file was free for a second process.
_TRY_LOCK = """import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("held")
"""
_LOCAL_DISK = (
    "put the store on a local disk (NEURON_STORE_DIR), and share results by a remote: file:///folder, or a Hub repo"
)

AREA = Area(
    "filesystem",
    {
        "local": ok("The store is on a local disk."),
        "nfs": warning(
            "The store is on NFS (EFS is one). Locks hold among the processes of one host; among hosts only if server and "
            "mount options let them (not with `nolock` or `local_lock`), so hosts may compile the same key side by side "
            "and see each other's results late. Every hit waits for the network.",
            _LOCAL_DISK,
        ),
        "network": warning(
            "The store is on a network file system: locks may hold among the processes of one host only, times are the "
            "server's, and every hit waits for the network.",
            _LOCAL_DISK,
        ),
        "fuse": warning(
            "The store is on a FUSE file system: what locks, renames and times do there is up to the program behind it "
            "(mounts of object stores often have none of them).",
            _LOCAL_DISK,
        ),
        "memory": warning(
            "The store is in memory (tmpfs): it takes memory that compiles need, and is gone after a restart.",
            "put the store on a disk: set NEURON_STORE_DIR",
        ),
        "overlay": warning(
            "The store is in a container's own layer: it is gone when the container is removed.",
            "mount a volume, and put the store there: set NEURON_STORE_DIR",
        ),
        "unknown": note(
            "The kind of file system is not one that is known here; what follows was tried, and works or not."
        ),
        "works": ok("Locks, renames and times work on the store's file system: all were tried."),
        "no-locks": problem(
            "The file system has no locks: ranks that ask for the same key all compile it.", _LOCAL_DISK
        ),
        "locks-ignored": problem(
            "The file system gives one lock to two processes at once: ranks that ask for the same key all compile it.",
            _LOCAL_DISK,
        ),
        "no-rename": problem("A file cannot be renamed over another: nothing can be stored safely.", _LOCAL_DISK),
        "no-times": warning(
            "A file's time of modification cannot be set: which results were used last is not known to `gc`.",
            _LOCAL_DISK,
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Tell the kind of file system, then try what the store needs of one."""
    folder = existing_folder(here.layout.root)
    yield describe(mount_of(folder))
    if os.access(folder, os.W_OK | os.X_OK):
        yield from _try(folder, here.patience / 2)


def describe(mount: Mount) -> Finding:
    """Say what kind of file system it is, and what that means."""
    kind = _kind(mount.kind)
    what = f"the store's file system is {mount.kind or 'not known'}, mounted at {mount.point or '?'}"
    notable = [
        option
        for option in mount.options.split(",")
        if option in ("nolock", "ro", "localflock", "noflock") or option.startswith("local_lock=")
    ]
    if notable:
        what += f" with {', '.join(dict.fromkeys(notable))}"
    return AREA.find(kind, what, kind=mount.kind, mounted_at=mount.point, options=mount.options)


def _kind(name: str) -> str:
    if name.startswith("nfs"):
        return "nfs"
    if name.startswith("fuse"):
        return "fuse"
    for kinds, said in ((_LOCAL, "local"), (_MEMORY, "memory"), (_NETWORK, "network")):
        if name in kinds:
            return said
    return "overlay" if name in ("overlay", "aufs") else "unknown"


def _try(folder: str, patience: float) -> Iterator[Finding]:
    try:
        descriptor, path = tempfile.mkstemp(prefix=".neuron-store-doctor-", dir=folder)
    except OSError:
        return  # told by the store's own findings
    faults = []
    try:
        for tried in (_lock_fault(descriptor, path, patience), _time_fault(path), _rename_fault(path)):
            faults += [tried] if tried else []
    finally:
        os.close(descriptor)
        for name in (path, path + ".new"):
            with contextlib.suppress(OSError):
                os.unlink(name)
    yield from faults
    if not faults:
        yield AREA.find("works", f"locks, renames and times work in {folder}")


def _lock_fault(descriptor: int, path: str, patience: float) -> "Finding | None":
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return AREA.find("no-locks", f"a lock beside {os.path.dirname(path)} cannot be taken ({error.strerror})")
    try:
        done = subprocess.run(
            [sys.executable, "-IS", "-c", _TRY_LOCK, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return AREA.find("no-locks", f"a lock in {os.path.dirname(path)} was not answered within {patience:.0f} s")
    if done.stdout.strip() == b"free":
        return AREA.find("locks-ignored", f"in {os.path.dirname(path)}, two processes held one lock at once")
    return None


def _time_fault(path: str) -> "Finding | None":
    wanted = int(time.time()) - 86400
    try:
        os.utime(path, (wanted, wanted))
        if abs(os.stat(path).st_mtime - wanted) <= _CLOCKS_DIFFER:
            return None
        reason = "it does not stay"
    except OSError as error:
        reason = str(error.strerror)
    return AREA.find("no-times", f"in {os.path.dirname(path)}, a file's time cannot be set: {reason}")


def _rename_fault(path: str) -> "Finding | None":
    try:
        os.close(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.rename(path + ".new", path)
    except OSError as error:
        return AREA.find("no-rename", f"in {os.path.dirname(path)}, a file cannot be renamed ({error.strerror})")
    return None
