"""The local store: whether it can be read and written, by whom, and whether it is a store at all."""

import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator

from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.store.layout import FOLDERS

_ELSEWHERE = "or set NEURON_STORE_DIR to another folder"
_ALL_OURS = {*FOLDERS, "CACHEDIR.TAG"}
_FANNED = ("results", "direct", "blobs")
_MOST_NAMED = 5

AREA = Area(
    "store",
    {
        "writable": ok("The store can be read and written."),
        "absent": note("There is no store yet: the first compile makes it."),
        "cannot-be-made": problem(
            "There is no store, and none can be made: compiles pass through (`pass_no_writable_store`).",
            f"make its folder, with yourself as its owner, {_ELSEWHERE}",
        ),
        "no-folder": problem(
            "Something other than a folder lies where the store should be.", f"move it away, {_ELSEWHERE}"
        ),
        "unreadable": problem(
            "The store's folder cannot be read, so nothing is served from it.",
            f"change its owner or mode, {_ELSEWHERE}",
        ),
        "read-only": warning(
            "The store can be read, but not written: hits are served, nothing new is stored, and what is used is not "
            "marked as used.",
            f"change its owner or mode if that is not meant, {_ELSEWHERE}",
        ),
        "closed-inside": problem(
            "Folders inside the store cannot be written by us, though the store itself can: results that belong there "
            "are not stored (`miss_store_failed`).",
            "change their owner or mode; for a group: `chgrp -R GROUP` and `chmod -R g+rwX` the store, and 2775 for folders",
        ),
        "open-to-all": warning(
            "Every user of this host may write to the store, and so put a wrong result there.",
            "take the others' right to write: `chmod o-w`; share with a group instead",
        ),
        "group-not-kept": warning(
            "The group may write to the store, but its folder has no setgid bit: what one member makes has that member's "
            "own group, and is closed to the rest.",
            "`chmod g+s` the store and the folders in it",
        ),
        "foreign-content": warning(
            "The folder holds other things than a store's, and has no CACHEDIR.TAG: it looks as if it were someone's own.",
            "give neuron-store a folder of its own: set NEURON_STORE_DIR",
        ),
        "untagged": note(
            "The store has no CACHEDIR.TAG, by which backups know that they can leave it out.",
            "nothing need be done: the next result that is stored may write it; or make the store anew",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at the store's folder; write a temporary file into it and remove that again."""
    root = here.layout.root
    try:
        names = os.listdir(root)
        status = os.stat(root)
    except FileNotFoundError:
        yield _absent(root)
        return
    except NotADirectoryError:
        yield AREA.find("no-folder", f"{root} is not a folder", path=root)
        return
    except OSError as error:
        yield AREA.find("unreadable", f"{root} cannot be read ({error.strerror}); it is {_owned(root)}", path=root)
        return
    yield from _writing(root)
    yield from _rights(root, status)
    if "CACHEDIR.TAG" not in names:
        foreign = sorted(set(names) - _ALL_OURS)
        if foreign:
            shown = ", ".join(foreign[:_MOST_NAMED])
            yield AREA.find("foreign-content", f"{root} has no tag, and other things in it: {shown}", path=root)
        elif names:
            yield AREA.find("untagged", f"{root} has no CACHEDIR.TAG", path=root)


def existing_folder(path: str) -> str:
    """Return the nearest folder at or above `path` that exists."""
    while not os.path.isdir(path):
        above = os.path.dirname(path)
        if above == path:
            break
        path = above
    return path


def _absent(root: str) -> Finding:
    above = existing_folder(root)
    if os.path.lexists(root):
        return AREA.find("cannot-be-made", f"{root} is a link that leads nowhere", path=root)
    if not os.access(above, os.W_OK | os.X_OK):
        return AREA.find("cannot-be-made", f"{root} does not exist, and {above} is {_owned(above)}", path=root)
    return AREA.find("absent", f"{root} does not exist yet", path=root)


def _writing(root: str) -> Iterator[Finding]:
    owned = _owned(root)
    try:
        with tempfile.NamedTemporaryFile(prefix=".neuron-store-doctor-", dir=root) as file:
            file.write(b"x")
    except OSError as error:
        yield AREA.find("read-only", f"{root} cannot be written ({error.strerror}); it is {owned}", path=root)
        return
    yield AREA.find("writable", f"{root} can be written; it is {owned}", path=root)
    closed = [folder for folder in _folders(root) if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        shown = ", ".join(f"{os.path.relpath(folder, root)} ({_owned(folder)})" for folder in closed[:_MOST_NAMED])
        more = f" and {len(closed) - _MOST_NAMED} more" if len(closed) > _MOST_NAMED else ""
        yield AREA.find("closed-inside", f"in {root}, these are closed to us: {shown}{more}", folders=closed)


def _folders(root: str) -> Iterator[str]:
    for name in FOLDERS:
        folder = f"{root}/{name}"
        if not os.path.isdir(folder):
            continue
        yield folder
        if name in _FANNED and os.access(folder, os.R_OK | os.X_OK):
            with os.scandir(folder) as entries:
                yield from (entry.path for entry in entries if entry.is_dir())


def _rights(root: str, status: os.stat_result) -> Iterator[Finding]:
    if status.st_mode & stat.S_IWOTH:
        yield AREA.find("open-to-all", f"{root} may be written by everyone: it is {_owned(root)}", path=root)
    if status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_ISGID:
        yield AREA.find("group-not-kept", f"{root} is {_owned(root)}, without the setgid bit", path=root)


def _owned(path: str) -> str:
    """Say a file's owner, group and mode: `alice:ml 2775`."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"not to be looked at ({error.strerror})"
    return f"{_user(status.st_uid)}:{_group(status.st_gid)} {stat.S_IMODE(status.st_mode):04o}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
