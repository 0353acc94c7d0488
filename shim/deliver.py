"""Deliver a hit: put its outputs where the compiler would have put them, and replay what it printed.

All files are written and verified without a name before the first of them gets its own: a result that turns out to be
corrupt leaves no trace, and the real compiler can still run; a shim that is killed leaves no trace either. Where the
file system has no files without a name, a temporary one stands in.
"""

import os
import time

from neuron_store.hashing.command_line import DEFAULT_LOGFILE
from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.store.blobs import read_blob, write_blob
from neuron_store.store.layout import copy_all, discard, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuron_store.hashing.command_line import CommandLine
    from neuron_store.store.direct import DirectEntry, Output
    from neuron_store.store.layout import Layout

WRAPPED_NEFF = "wrapped_neff.hlo"  # JAX's PJRT plugin reads it from the current directory where it is present
_MODE = 0o666  # less the umask, as the compiler's own files
_STREAMS = (0, 1, 2)
_MOST_LINKS = 40  # symbolic links on the way to a file: the kernel's own limit
# What opens there is what the process has open, or no file at all.
_SPECIAL_FOLDERS = ("/dev/", "/proc/")
_PLAIN_FOLDER = "/dev/shm/"  # a file system like any other


def find_destination(command: "CommandLine") -> str:
    """Return where a write to the output would end.

    Raises NotCacheable unless the output and the log are places for regular files of their own: what else the
    invocation reads or writes there, a hit would not see or not write as the compiler does. Raises OSError.
    """
    log = command.logfile
    if log is None:
        log = DEFAULT_LOGFILE
    elif log != os.devnull and not (os.path.islink(log) and os.path.realpath(log) == os.devnull):
        _require_own(log, [command.model, *_STREAMS])
    return _require_own(command.output, [command.model, *_STREAMS, log, WRAPPED_NEFF])


def _require_own(path: str, others: "Sequence[str | int]") -> str:
    """Return where `path` leads. Raises NotCacheable if it is no regular file's place, or one of `others`."""
    end = _follow(path)
    if os.path.exists(end) and not os.path.isfile(end):
        raise NotCacheable("special_output", path)
    for other in others:
        if _is_same(end, other):
            raise NotCacheable("special_output", f"{path} is also {other}")
    return end if os.path.islink(path) else path


def _follow(path: str) -> str:
    """Return where `path` leads, link by link. Raises NotCacheable if that is, or goes through, a special folder."""
    if not path:
        raise NotCacheable("special_output", "an output is empty")
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(os.path.dirname(path))
        step = os.path.join(folder, os.path.basename(path))
        for seen in (path, step):
            if seen.startswith(_SPECIAL_FOLDERS) and not seen.startswith(_PLAIN_FOLDER):
                raise NotCacheable("special_output", path)
        if not os.path.islink(step):
            return step
        path = os.path.join(folder, os.readlink(step))
    raise NotCacheable("special_output", path)


def _is_same(end: str, other: "str | int") -> bool:
    """Tell whether `other` (a path or an open file) is the file at `end`, by whatever name, or would be made there."""
    mine, its = _identity(end), _identity(other)
    if mine or its or isinstance(other, int):
        return mine is not None and mine == its
    if os.path.basename(other) != os.path.basename(end) and not os.path.islink(other):
        return False
    return os.path.realpath(other) == end


def _identity(file: "str | int") -> "tuple[int, int] | None":
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def deliver(
    layout: "Layout", entry: "DirectEntry", output: str, logfile: "str | None", *, clear_wrapped: bool = True
) -> None:
    """Write the files of a hit: the NEFF to `output`, the others as the result has them.

    A wrapped NEFF that the result does not have is not left behind either, if `clear_wrapped`.
    Raises CorruptEntry if the store does not have them whole, OSError if they cannot be written.
    """
    staged: list[_Staged] = []
    log = None
    try:
        wrapped = entry.outputs.get("wrapped_neff")
        if wrapped is not None:
            staged.append(_stage(layout, wrapped, WRAPPED_NEFF))
        staged.append(_stage(layout, entry.outputs["neff"], output))
        if logfile is not None and _is_plain(logfile):
            log = _Log(layout, entry, logfile)
        if wrapped is None and clear_wrapped:
            discard(WRAPPED_NEFF)  # left by another compile, it would be taken for ours
        for file in staged:
            file.publish()
        if log is not None:
            log.write()
    finally:
        for file in staged:
            file.close()
        if log is not None:
            log.close()


def _is_plain(path: str) -> bool:
    return not os.path.exists(path) or os.path.isfile(path)


class _Staged:
    """A file being written that has its name only once it is whole."""

    __slots__ = ("descriptor", "path", "temporary")

    def __init__(self, path: str) -> None:
        """Begin the file that will be `path`. Raises OSError."""
        self.path = path
        self.temporary = ""
        try:
            self.descriptor = os.open(os.path.dirname(path) or ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE)
        except OSError:  # not every file system can
            self.descriptor = self._open_temporary()

    def _open_temporary(self) -> int:
        temporary = self._temporary_name()
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        self.temporary = temporary
        return descriptor

    def _temporary_name(self) -> str:
        name = f".neuron-store-{os.getpid()}-{os.urandom(4).hex()}.tmp"
        return os.path.join(os.path.dirname(self.path), name)

    def publish(self) -> None:
        """Give the file its name, in place of what was there. Raises OSError."""
        if not self.temporary:
            try:
                self._link()
            except OSError:  # /proc is not there, or a link is not allowed
                self._copy_to_temporary()
        if self.temporary:
            os.rename(self.temporary, self.path)
            self.temporary = ""

    def _link(self) -> None:
        try:
            self._link_as(self.path)
        except FileExistsError:
            temporary = self._temporary_name()
            self._link_as(temporary)
            self.temporary = temporary

    def _link_as(self, path: str) -> None:
        # A link's source is only followed (AT_SYMLINK_FOLLOW) if a folder is given; an absolute path makes no use of it.
        os.link(f"/proc/self/fd/{self.descriptor}", path, src_dir_fd=self.descriptor, follow_symlinks=True)

    def _copy_to_temporary(self) -> None:
        nameless, self.descriptor = self.descriptor, self._open_temporary()
        try:
            copy_all(nameless, self.descriptor)
        finally:
            os.close(nameless)

    def close(self) -> None:
        """Close the file; if it has no name yet, it is gone."""
        os.close(self.descriptor)
        if self.temporary:
            discard(self.temporary)


def _stage(layout: "Layout", output: "Output", path: str) -> _Staged:
    staged = _Staged(path)
    try:
        write_blob(layout, output, staged.descriptor)
    except BaseException:
        staged.close()
        raise
    return staged


class _Log:
    """The log file that the command names, which others may write to as well.

    What was in it goes only if the compiler was seen to overwrite it; otherwise the result's own lines are appended, in
    one write. A link is followed.
    """

    __slots__ = ("_content", "_descriptor", "_replaces")

    def __init__(self, layout: "Layout", entry: "DirectEntry", path: str) -> None:
        """Open the log, and read what belongs in it. Raises CorruptEntry, OSError."""
        roles = [role for role in ("log", "log_appended", "log_replaced") if role in entry.outputs]
        self._replaces = roles == ["log_replaced"]
        self._content = b"".join(read_blob(layout, entry.outputs[role]) for role in roles)
        self._descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)

    def write(self) -> None:
        """Write the result's log. Raises OSError."""
        if self._replaces:
            os.ftruncate(self._descriptor, 0)
        write_all(self._descriptor, self._content)

    def close(self) -> None:
        """Close the log."""
        os.close(self._descriptor)


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
