"""The shim's own log file: stdout and stderr belong to the compiler, so what went wrong is said here."""

import os
import time

from neuron_store.hashing.inputs import open_regular

_LARGEST = 10 << 20  # bytes; then the log is set aside as <name>.1 and begun anew


def write_log(path: str, message: str) -> None:
    """Append one entry, with time and process. Never raises: there is nobody left to tell."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = f"{stamp} [{os.getpid()}] {message.rstrip()}\n".encode("utf-8", "backslashreplace")
    try:
        descriptor = _open(path)
        try:
            os.write(descriptor, entry)
            too_large = os.fstat(descriptor).st_size > _LARGEST
        finally:
            os.close(descriptor)
        if too_large:
            os.replace(path, path + ".1")
    except OSError:
        pass


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        return open_regular(path, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open_regular(path, flags, 0o644)
