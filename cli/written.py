"""Files that a person names, written whole or not at all."""

import os
import stat
import tempfile

# What has these names is what a descriptor of ours has open: its path, resolved, may lead to another file or to none.
_DESCRIPTORS = ("/dev/std", "/dev/fd/", "/proc/")


def write_whole(path: "str | os.PathLike[str]", data: bytes) -> None:
    """Write a file, as a rename in its own folder; what a link leads to is what is written.

    What is no regular file, such as a pipe or a device, stays where it is and is written into.
    Raises OSError.
    """
    path = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and (not stat.S_ISREG(mode) or os.path.abspath(path).startswith(_DESCRIPTORS)):
        with open(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(data)
        return
    _replace(os.path.realpath(path), data, _usual_mode() if mode is None else stat.S_IMODE(mode))


def _replace(path: str, data: bytes, mode: int) -> None:
    with tempfile.NamedTemporaryFile(prefix=".neuron-store-", dir=os.path.dirname(path), delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _usual_mode() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
