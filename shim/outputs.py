"""What a compile left behind: which files are new since it began, and which of a log is its own."""

import os

from neuron_store.hashing.command_line import DEFAULT_LOGFILE
from neuron_store.hashing.inputs import signature
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.shim.deliver import WRAPPED_NEFF
from neuron_store.store.blob_writer import store_blob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.inputs import Signature
    from neuron_store.store.direct import Output
    from neuron_store.store.layout import Layout

_LARGEST_LOG = 64 << 20  # bytes; a larger log file is not kept with the result
_PIECE = 1 << 20  # bytes


class OutputWatch:
    """The state of the output files before the compile, to tell afterwards which are its own."""

    def __init__(self, neff: str, logfile: "str | None") -> None:
        self.neff = neff
        self.log = logfile or DEFAULT_LOGFILE
        self._before = {path: _state(path) for path in (neff, WRAPPED_NEFF, self.log)}
        before = self._before[self.log]
        self._log_size = before[2] if before else 0
        self._log_start = _digest_start(self.log, self._log_size) if self._log_size else ""

        self._at_end: dict[str, Signature | None] = {}

    def is_new(self, path: str) -> bool:
        """Tell whether a non-empty regular file is at `path` that was not there, or had not that content, before.

        The time of a change of its attributes (a link made, a mode changed) does not make it new.
        """
        before, after = self._before[path], _state(path)
        return after is not None and after[2] > 0 and after[:4] != (before or ())[:4]

    def note_end(self) -> None:
        """Note the state of the outputs now that the compiler has ended."""
        self._at_end = {path: _state(path) for path in (self.neff, WRAPPED_NEFF)}

    def unchanged_since_end(self) -> bool:
        """Tell whether the outputs are still as the compiler left them."""
        return all(_state(path) == state for path, state in self._at_end.items())

    @property
    def wrapped_is_new(self) -> bool:
        """Whether the compile left a wrapped NEFF in the current directory."""
        return self.is_new(WRAPPED_NEFF)

    def store(self, layout: "Layout", level: int) -> "dict[str, Output]":
        """Store the NEFF and the side files as blobs. Raises OSError."""
        outputs = {"neff": _store(layout, "neff", self.neff, level)}
        if self.wrapped_is_new:
            outputs["wrapped_neff"] = _store(layout, "wrapped_neff", WRAPPED_NEFF, level)
        if self.is_new(self.log) and os.path.getsize(self.log) <= _LARGEST_LOG:
            role = self._log_role()
            begin = self._log_size if role == "log_appended" else 0
            outputs[role] = _store(layout, role, self.log, level, begin)
        return outputs

    def _log_role(self) -> str:
        """Tell whether the compiler appended to the log or overwrote it; "log" if that cannot be known."""
        before, after = self._before[self.log], _state(self.log)
        if not before or not after or not self._log_start or before[:2] != after[:2]:  # set aside, and begun anew
            return "log"
        start = _digest_start(self.log, self._log_size)
        if not start or (start == self._log_start and after[2] == before[2]):
            return "log"
        return "log_appended" if start == self._log_start and after[2] > before[2] else "log_replaced"


def _store(layout: "Layout", role: str, path: str, level: int, begin: int = 0) -> "Output":
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return store_blob(layout, role, descriptor, level, begin)
    finally:
        os.close(descriptor)


def _state(path: str) -> "Signature | None":
    try:
        status = os.stat(path)
    except OSError:
        return None
    return signature(status) if status.st_mode & 0o170000 == 0o100000 else None


def _digest_start(path: str, size: int) -> str:
    """Return a digest of the first `size` bytes, "" if the log is too large to be kept anyway or cannot be read."""
    if size > _LARGEST_LOG:
        return ""
    hasher = xxh3_128()
    try:
        with open(path, "rb", buffering=0) as file:
            while size and (piece := file.read(min(_PIECE, size))):
                hasher.update(piece)
                size -= len(piece)
    except OSError:
        return ""
    return hasher.hexdigest()
