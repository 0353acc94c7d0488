r"""The queue: which results a writable remote still lacks. It is folders and files, so that nothing but a disk loses it.

    queue/<remote>/<key>             one result; the remote by 16 hex digits
    queue/<remote>/.<key>.<8 hex>    one that is being taken out; as good as queued while it is there
    queue/.hurry                     someone waits: upload now, not when it is quiet

Grammar of an entry, version 1:

    1 <Unix seconds, when it was queued> <"add", or "replace" where the remote's copy was found corrupt> <8 hex>\n

The last word makes every queueing different, so that one that happens during the upload is not taken for the one that
was uploaded. What cannot be read was queued in 1970.
"""

import os
import time

from neuron_store.store.layout import KEY_LENGTH, Layout, discard, is_hex, read_file

ADD, REPLACE = "add", "replace"
IDENTITY_LENGTH = 16  # hex digits that name a remote
_ASIDE_LENGTH = len(".") + KEY_LENGTH + len(".") + 8
_CLOCKS_DIFFER = 5.0  # seconds; what was queued later than that from now was queued by a clock that was wrong


class Queued:
    """One result that a remote lacks.

    Attributes:
        key: of the result.
        at: when it was queued, Unix seconds; 0 where that cannot be told.
        replace: whether what the remote has under this key must be replaced.
        content: of the entry's file.
    """

    __slots__ = ("at", "content", "key", "replace")

    def __init__(self, key: str, content: bytes) -> None:
        self.key = key
        self.content = content
        self.at, self.replace = _decode(content)


def _decode(content: bytes) -> "tuple[float, bool]":
    words = content.split(b" ")
    if len(words) != 4 or words[0] != b"1" or content[-1:] != b"\n":
        return 0.0, False
    try:
        at = float(words[1])
    except ValueError:
        at = 0.0
    return at if 0 <= at <= time.time() + _CLOCKS_DIFFER else 0.0, words[2] == REPLACE.encode()


def enqueue(layout: Layout, identity: str, key: str, *, replace: bool = False) -> None:
    """Queue the result `key` for the remote `identity`, again if it is queued already. Raises OSError.

    An earlier wish to replace stands until the result has been uploaded.
    """
    if not is_hex(key, KEY_LENGTH):
        raise ValueError(f"not a key: {key!r}")
    path = layout.queue_path(identity, key)
    replace = replace or _wants_replacement(path)
    content = f"1 {time.time():.6f} {REPLACE if replace else ADD} {os.urandom(4).hex()}\n"
    layout.write_file(path, content.encode())


def _wants_replacement(path: str) -> bool:
    try:
        return _decode(read_file(path) or b"")[1]
    except OSError:
        return False


def queued(layout: Layout, identity: str) -> "list[Queued]":
    """Return what the remote lacks, the oldest first. Raises OSError where the folder cannot be read."""
    entries = []
    for key in _keys(layout, identity):
        try:
            content = read_file(layout.queue_path(identity, key))
        except OSError:
            continue  # a folder or the like: nothing of ours
        if content is not None:
            entries.append(Queued(key, content))
    return sorted(entries, key=lambda entry: (entry.at, entry.key))


def _keys(layout: Layout, identity: str) -> "list[str]":
    return [name for name in _names(layout, identity) if is_hex(name, KEY_LENGTH)]


def _names(layout: Layout, identity: str) -> "list[str]":
    try:
        return os.listdir(layout.queue_path(identity))
    except (FileNotFoundError, NotADirectoryError):
        return []


def dangling(layout: Layout) -> "list[tuple[str, Queued]]":
    """Return what is queued, for the remote of which identity, and has no result any more. Raises OSError."""
    remotes = _names(layout, "")
    return [
        (identity, entry)
        for identity in remotes
        if is_hex(identity, IDENTITY_LENGTH)
        for entry in queued(layout, identity)
        if not layout.has_result(entry.key)
    ]


def queue_length(layout: Layout, identity: str) -> int:
    """Return how many results the remote lacks. Raises OSError where the folder cannot be read."""
    return len(_keys(layout, identity))


def oldest(layout: Layout, identity: str) -> "float | None":
    """Return when the oldest entry was queued (Unix seconds), None if nothing is. Raises OSError like `queued`."""
    entries = queued(layout, identity)
    return entries[0].at if entries else None


def dequeue(layout: Layout, identity: str, entry: Queued) -> bool:
    """Take `entry` out; return False, and leave it, if it was queued once more meanwhile. Raises OSError.

    It is moved aside first: whoever queues it from then on makes another file.
    """
    path = layout.queue_path(identity, entry.key)
    aside = layout.queue_path(identity, f".{entry.key}.{os.urandom(4).hex()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if read_file(aside) == entry.content:
        os.unlink(aside)
        return True
    _put_back(layout, identity, entry.key, aside)
    return False


def _put_back(layout: Layout, identity: str, key: str, aside: str) -> None:
    path = layout.queue_path(identity, key)
    try:
        os.link(aside, path)
    except FileExistsError:
        if _wants_replacement(aside):
            enqueue(layout, identity, key, replace=True)
    except OSError:  # a file system without links; none but the uploader renames, so only a new entry can be lost
        os.rename(aside, path)
        return
    discard(aside)


def recover(layout: Layout, identity: str) -> None:
    """Queue again what an uploader was taking out when it was killed. For the uploader, under its lock."""
    for name in _names(layout, identity):
        key = name[1 : 1 + KEY_LENGTH]
        if len(name) == _ASIDE_LENGTH and name[0] == "." and is_hex(key, KEY_LENGTH):
            try:
                _put_back(layout, identity, key, layout.queue_path(identity, name))
            except OSError:
                continue  # for the next uploader


def hurry(layout: Layout) -> None:
    """Ask the uploader to upload now what waits. Raises OSError."""
    if not is_hurried(layout):
        os.close(layout.open_creating(_hurry_path(layout), os.O_WRONLY))


def is_hurried(layout: Layout) -> bool:
    """Tell whether someone asked to hurry."""
    return os.path.exists(_hurry_path(layout))


def calm_down(layout: Layout) -> None:
    """Forget that someone asked to hurry: nothing waits any more."""
    discard(_hurry_path(layout))


def _hurry_path(layout: Layout) -> str:
    return layout.queue_path(".hurry")
