"""What lies around results and blobs: locks, temporary files, the queue, notes; and what is nothing of ours."""

import fcntl
import os
import re
import stat
from collections.abc import Iterator

from neuron_store.store.checking.blob_files import is_young
from neuron_store.store.checking.faults import DANGLING, STALE_LOCK, UNREADABLE, Finding
from neuron_store.store.checking.view import View
from neuron_store.store.layout import FOLDERS, KEY_LENGTH, is_hex
from neuron_store.store.queue import IDENTITY_LENGTH

WITH_RECORDS = ("results", "direct", "blobs")
_NOTES = ("compilers", "in-flight", "remotes", "contexts", "events", "pins", "imports", "collection")
_FILES = ("CACHEDIR.TAG",)
_KEY_LOCK = re.compile(r"(place-)?[0-9a-f]{32}")  # see locks.py; other locks have names of their own, and stay
_ASIDE = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{8}")  # see queue.py
_HURRY = ".hurry"
_NOTE_MODE = 0o644


def look_around(view: View, keys: "set[str]") -> list[Finding]:
    """Look at all but results, direct entries and blobs; `keys` are those of all records."""
    findings: list[Finding] = []
    root = view.layout.root
    for entry in view.listing(root, findings):
        is_folder = entry.is_dir()
        if not (is_folder and entry.name in FOLDERS) and not (not is_folder and entry.name in _FILES):
            findings.append(view.foreign(entry.path))
    for folder in ("locks", "tmp"):
        findings += [
            Finding(STALE_LOCK, view.below(entry.path), "nobody holds it, and it is over a day old")
            for entry in view.listing(f"{root}/{folder}", findings)
            if (folder == "tmp" or _KEY_LOCK.fullmatch(entry.name))
            and not is_young(entry.path)
            and not _is_held(entry.path)
        ]
    _look_at_queue(view, keys, findings)
    for folder in _NOTES:
        for path in _unreadable(f"{root}/{folder}"):
            mode = 0o755 if os.path.isdir(path) else _NOTE_MODE
            findings.append(Finding(UNREADABLE, view.below(path), "it cannot be read", mode=mode))
    return findings


def _is_held(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return True  # nobody can tell
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _look_at_queue(view: View, keys: "set[str]", findings: list[Finding]) -> None:
    for remote in view.listing(f"{view.layout.root}/queue", findings):
        if remote.name == _HURRY and not remote.is_dir():
            continue
        if not (is_hex(remote.name, IDENTITY_LENGTH) and remote.is_dir()):
            findings.append(view.foreign(remote.path))
            continue
        for entry in view.listing(remote.path, findings):
            if _ASIDE.fullmatch(entry.name):
                continue  # the next uploader puts it back
            if not (is_hex(entry.name, KEY_LENGTH) and entry.is_file()):
                findings.append(view.foreign(entry.path))
            elif entry.name not in keys:
                detail = f"it waits for the upload of {entry.name}, which is not there"
                findings.append(Finding(DANGLING, view.below(entry.path), detail, leads_to=entry.name))


def _unreadable(folder: str) -> Iterator[str]:
    """Yield what cannot be read below a folder of notes, however deep."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield folder
        return
    for entry in found:
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            yield from _unreadable(entry.path)
        elif stat.S_ISREG(mode) and not os.access(entry.path, os.R_OK) and os.path.exists(entry.path):
            yield entry.path
