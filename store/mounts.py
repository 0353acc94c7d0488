"""On which file system a path lies, by /proc/self/mountinfo."""

import os
import re
from typing import NamedTuple

MOUNTINFO = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """What is mounted where a path lies; all "" where that cannot be told."""

    point: str
    kind: str
    source: str
    options: str


def mount_of(path: str, mountinfo: str = MOUNTINFO) -> Mount:
    """Return the mount that `path` lies on, by a file of the form of /proc/self/mountinfo. Raises OSError."""
    wanted = os.path.realpath(path)
    best = Mount("", "", "", "")
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            mount = _read(line)
            # Of mounts at the same point, the last one covers the others.
            if mount and len(mount.point) >= len(best.point) and _is_in(wanted, mount.point):
                best = mount
    return best


def _read(line: str) -> "Mount | None":
    """Read `<id> <parent> <device> <root> <point> <options> … - <kind> <source> <more options>`."""
    head, _, tail = line.partition(" - ")
    words, rest = head.split(), tail.split()
    if len(words) < 6 or len(rest) < 2:
        return None
    point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[4])
    return Mount(point, rest[0], rest[1], ",".join([words[5], *rest[2:3]]))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
