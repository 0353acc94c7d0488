"""Deliver a hit: put its outputs where the compiler would have put them, and replay what it printed.

All files are written and verified under temporary names before the first of them gets its own: a result that turns
out to be corrupt leaves no trace, and the real compiler can still run.
"""

import os
import time

from neuron_store.store.blobs import read_blob, write_blob
from neuron_store.store.layout import discard, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.store.direct import DirectEntry, Output
    from neuron_store.store.layout import Layout

WRAPPED_NEFF = "wrapped_neff.hlo"  # JAX's PJRT plugin reads it from the current directory where it is present


def deliver(
    layout: "Layout", entry: "DirectEntry", output: str, logfile: "str | None", *, clear_wrapped: bool = True
) -> None:
    """Write the files of a hit: the NEFF to `output`, the others as the result has them.

    A wrapped NEFF that the result does not have is not left behind either, if `clear_wrapped`.
    Raises CorruptEntry if the store does not have them whole, OSError if they cannot be written.
    """
    staged: list[tuple[str, str]] = []
    try:
        if logfile is not None and _is_plain(logfile):
            staged.append((_stage_log(layout, entry, logfile), logfile))
        wrapped = entry.outputs.get("wrapped_neff")
        if wrapped is not None:
            staged.append((_stage(layout, wrapped, WRAPPED_NEFF), WRAPPED_NEFF))
        staged.append((_stage(layout, entry.outputs["neff"], output), output))
        if wrapped is None and clear_wrapped:
            discard(WRAPPED_NEFF)  # left by another compile, it would be taken for ours
        while staged:
            os.rename(*staged[0])
            del staged[0]
    finally:
        for temporary, _ in staged:
            discard(temporary)


def _is_plain(path: str) -> bool:
    return not os.path.exists(path) or os.path.isfile(path)


def _open_beside(path: str) -> tuple[int, str]:
    temporary = os.path.join(os.path.dirname(path), f".neuron-store-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), temporary


def _stage(layout: "Layout", output: "Output", path: str, before: bytes = b"") -> str:
    descriptor, temporary = _open_beside(path)
    try:
        write_all(descriptor, before)
        write_blob(layout, output, descriptor)
    except BaseException:
        discard(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def _stage_log(layout: "Layout", entry: "DirectEntry", path: str) -> str:
    """Stage the log that the command names: as captured, appended if the compiler was seen to append, else empty."""
    appended = entry.outputs.get("log_appended")
    if appended is not None:
        return _stage(layout, appended, path, _content(path))
    log = entry.outputs.get("log")
    if log is not None:
        return _stage(layout, log, path)
    descriptor, temporary = _open_beside(path)
    os.close(descriptor)
    return temporary


def _content(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        return b""


def captured_text(layout: "Layout", entry: "DirectEntry") -> "tuple[bytes, bytes]":
    """Return the captured stdout and stderr. Raises CorruptEntry."""
    stdout, stderr = (
        read_blob(layout, entry.outputs[role]) if role in entry.outputs else b"" for role in ("stdout", "stderr")
    )
    return stdout, stderr


def replay(stdout: bytes, stderr: bytes, interleave: str) -> None:
    """Write the captured bytes to stdout and stderr in the order in which they were written.

    Never raises: the outputs are there, and a reader that went away does not undo them.
    """
    streams = {"o": (1, memoryview(stdout)), "e": (2, memoryview(stderr))}
    position = {"o": 0, "e": 0}
    try:
        for turn in interleave.split():
            descriptor, text = streams[turn[0]]
            begin = position[turn[0]]
            position[turn[0]] = begin + int(turn[1:])
            _write_patiently(descriptor, text[begin : position[turn[0]]])
        for name, (descriptor, text) in streams.items():
            _write_patiently(descriptor, text[position[name] :])
    except OSError:
        pass


def _write_patiently(descriptor: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a non-blocking pipe, full
            time.sleep(0.001)
