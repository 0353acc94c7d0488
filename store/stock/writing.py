"""Making an entry of a stock cache: file by file, the mark that it is done last, so that a reader sees none or all."""

import os

from neuron_store.store.layout import discard
from neuron_store.store.stock.names import DONE, FAILURE_LOG, FLAGS, GRAPHS, NEFF, WRAPPED_NEFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    # Writes a file's content to an open, empty file.
    Write = Callable[[int], None]

_TEMPORARY = ".neuron-store-"
_PARTS = (*GRAPHS, FLAGS, NEFF, WRAPPED_NEFF, FAILURE_LOG)


def write_finished(folder: str, files: "Mapping[str, Write]", keep: "Collection[str]" = ()) -> None:
    """Make a finished entry in `folder`, whose parents are made if need be. Raises OSError, or what a writer raises.

    What lies there of an entry goes, before the mark comes, but for the names to `keep`: a compile that was killed may
    have left half of it.
    """
    os.makedirs(folder, exist_ok=True)
    discard(f"{folder}/{DONE}")
    for name, write in files.items():
        write_file(folder, name, write)
    for name in _PARTS:
        if name not in files and name not in keep:
            discard(f"{folder}/{name}")
    write_file(folder, DONE, lambda _descriptor: None)


def write_file(folder: str, name: str, write: "Write") -> None:
    """Make one file: written under another name, then renamed. Raises OSError, or what `write` raises."""
    temporary = f"{folder}/{_TEMPORARY}{name}.{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            write(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, f"{folder}/{name}")
    except BaseException:
        discard(temporary)
        raise


def is_temporary(name: str) -> bool:
    """Tell whether a file is one that is being written, by us or by others."""
    return name.startswith((_TEMPORARY, ".")) or name.endswith((".tmp", ".incomplete", ".part"))
