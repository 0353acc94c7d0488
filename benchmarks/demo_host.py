"""`neuron-store` on a host for pictures: the commands are the real ones, the host that they ask about is made up.

    python -m neuron_store.benchmarks.demo_host stats

What would tell of the machine that draws a picture, or differ the next time, is what one of the demo has: its name, its
disk, the processes on it, and the time, where DEMO_NOW (Unix seconds) sets it.
"""

import grp
import os
import pwd
import sys
import time
from collections.abc import Iterator

from neuron_store.cli.__main__ import main
from neuron_store.cli.diagnosis import callers, filesystem
from neuron_store.store import usage
from neuron_store.store.mounts import Mount

NOW, PREFIX = "DEMO_NOW", "DEMO_PREFIX"
NAME, USER = "trn1-a", "ubuntu"
_BLOCK, _BLOCKS, _FREE = 4096, 488_281_250, 311_000_000  # of a disk of 2 TB


def take_place() -> None:
    """Replace what this process can learn of the machine that it runs on."""
    machine = os.uname()
    os.uname = lambda: os.uname_result((machine.sysname, NAME, *machine[2:]))
    os.statvfs = _disk
    pwd.getpwuid = lambda number: pwd.struct_passwd((USER, "x", number, number, "", os.path.expanduser("~"), "/bin/sh"))
    grp.getgrgid = lambda number: grp.struct_group((USER, "x", number, []))  # type: ignore[assignment]  # not for numbers alone
    filesystem.mount_of = lambda *_: Mount("/", "ext4", "/dev/nvme0n1p1", "rw,relatime")  # type: ignore[attr-defined]  # not its own name
    callers.processes = lambda: iter(())  # type: ignore[attr-defined]  # nor this one
    usage._sizes = _lengths  # noqa: SLF001 - the demo's blobs are holes: their length stands for what they take
    if os.environ.get(NOW):
        now = float(os.environ[NOW])
        time.time = lambda: now
    if os.environ.get(PREFIX):
        sys.prefix = os.environ[PREFIX]


def _disk(path: "int | os.PathLike[bytes] | os.PathLike[str] | bytes | str") -> os.statvfs_result:  # noqa: ARG001 - any path is on the demo's disk
    return os.statvfs_result((_BLOCK, _BLOCK, _BLOCKS, _FREE, _FREE, 10**8, 9 * 10**7, 9 * 10**7, 4096, 255))


def _lengths(folder: str) -> Iterator[int]:
    for path, _, names in os.walk(folder):
        yield from (os.stat(f"{path}/{name}").st_size for name in names)


if __name__ == "__main__":
    take_place()
    main()
