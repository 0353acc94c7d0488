"""The locks of the store: which are held, by which process, and whether that process still does anything.

The kernel tells who holds a flock: for processes that we may look into, by the open files of each; for others, by
/proc/locks. A lock whose holder is in another container, or on another host, is held by nobody that can be seen.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, warning
from neuron_store.cli.diagnosis.processes import Process, processes
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.store.layout import KEY_LENGTH, is_hex
from neuron_store.store.upload_lock import FOREGROUND, UPLOADER

_NAMES = {UPLOADER: "the uploader's lock", FOREGROUND: "the lock of `neuron-store push`"}
_MOST_NAMED = 5

AREA = Area(
    "locks",
    {
        "free": ok("No lock of the store is held."),
        "held": note(
            "Someone compiles this key, or uploads: others who ask for the same wait for it, which is as it should be."
        ),
        "held-long": warning(
            "A compile's lock has been held for longer than `lock_timeout`: who waits for it compiles by itself.",
            "look at the process that holds it; end it if it does nothing",
        ),
        "holder-stopped": warning(
            "The process that holds a lock is stopped (Ctrl-Z, a debugger, a frozen container): others wait for it.",
            "let it go on (`kill -CONT`), or end it",
        ),
        "holder-unseen": note(
            "A lock is held by a process that cannot be seen from here: in another container, or on another host.",
            "look there, if it stays so",
        ),
        "left-behind": note(
            "Lock files lie there that nobody holds: their compiles were killed, or failed. They do no harm, and are swept "
            "away after a day.",
        ),
    },
)


@dataclass
class _Lock:
    name: str
    path: str
    since: float
    inode: int

    @property
    def title(self) -> str:
        return _NAMES.get(self.name, f"the lock of key {self.name[: presentation.SHOWN_KEY]}")


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at every lock of a key, and at the uploader's."""
    locks = list(_locks(here.layout.lock_path("").rstrip("/")))
    holders = _holders(locks)
    left = []
    held = False
    for lock in locks:
        holder = holders.get(lock.path)
        if holder is not None or _is_held(lock.path):
            held = True
            yield _held(lock, holder, here)
        elif is_hex(lock.name, KEY_LENGTH):
            left.append(lock.name)
    if left:
        shown = ", ".join(name[: presentation.SHOWN_KEY] for name in left[:_MOST_NAMED])
        more = " …" if len(left) > _MOST_NAMED else ""
        yield AREA.find(
            "left-behind", f"{presentation.plural(len(left), 'lock file')} held by nobody: {shown}{more}", keys=left
        )
    if not held:
        yield AREA.find("free", "no lock is held")


def _locks(folder: str) -> Iterator[_Lock]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if is_hex(entry.name, KEY_LENGTH) or entry.name in _NAMES:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            yield _Lock(entry.name, entry.path, status.st_mtime, status.st_ino)


def _held(lock: _Lock, holder: "Process | None", here: Surroundings) -> Finding:
    facts: dict[str, Any] = {"lock": lock.name, "host": os.uname().nodename, "pid": holder.pid if holder else None}
    if holder is None:
        return AREA.find("holder-unseen", f"{lock.title} is held, by a process that cannot be seen here", **facts)
    # The file may be older than its holder: a compile that failed leaves it for the next.
    since = max(lock.since, holder.started)
    facts["since"] = since
    what = (
        f"{lock.title} is held by process {holder.pid} on this host for {presentation.duration(time.time() - since)}: "
        f"{holder.shown}"
    )
    if holder.stopped:
        return AREA.find("holder-stopped", what, **facts)
    long = lock.name not in _NAMES and time.time() - since > here.settings.lock_timeout
    return AREA.find("held-long" if long else "held", what, **facts)


def _holders(locks: "list[_Lock]") -> "dict[str, Process]":
    """Return lock file -> the process that holds it."""
    found: dict[str, Process] = {}
    if not locks:
        return found
    by_real_path = {os.path.realpath(lock.path): lock.path for lock in locks}
    everyone = {process.pid: process for process in processes()}
    for process in everyone.values():
        for path in process.flocked():
            if path in by_real_path:
                found[by_real_path[path]] = process
    by_inode = _kernels_list()
    for lock in locks:
        holder = everyone.get(by_inode.get(lock.inode, 0))
        if lock.path not in found and holder is not None and _is_held(lock.path):
            found[lock.path] = holder
    return found


def _kernels_list() -> dict[int, int]:
    """Return inode -> process of every flock in /proc/locks: `1: FLOCK ADVISORY WRITE <pid> <device>:<inode> 0 EOF`."""
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    found = {}
    for words in lines:
        if len(words) > 5 and words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[4].isdigit():
            found[int(words[5].rpartition(":")[2])] = int(words[4])
    return found


def _is_held(path: str) -> bool:
    """Tell whether someone holds the lock exclusively, without keeping it for longer than the question takes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
