"""The model file: opened once, hashed in bounded memory, and watched for change while it is compiled."""

import errno
import os
import stat

from neuron_store.hashing.not_cacheable import NotCacheable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xxhash import xxh3_128

CHUNK = 1 << 20  # bytes read at a time
_MOST_LINKS = 40  # symbolic links on the way to a file: the kernel's own limit

Signature = tuple[int, int, int, int, int]


def signature(status: os.stat_result) -> Signature:
    """Return what tells that a file is the same and unchanged: device, inode, size, and times of change (ns)."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_regular(path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a file that must be a regular one: a pipe, a socket or a device in its place could hang us for ever.

    Raises OSError, also for what is not a regular file.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return descriptor


def trace_links(path: str) -> "tuple[str, list[Signature]]":
    """Return where `path` leads, and the state of every symbolic link on the way there. Raises OSError.

    A link that was swapped to another file and back has another state.
    """
    links: list[Signature] = []
    reached = "/" if path.startswith("/") else ""
    ahead = path.split("/")[::-1]
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        step = reached + part
        status = os.lstat(step)
        if not stat.S_ISLNK(status.st_mode):
            reached = step + "/"
            continue
        links.append(signature(status))
        if len(links) > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(step)
        ahead += target.split("/")[::-1]
        if target.startswith("/"):
            reached = "/"
    return reached, links


class InputFile:
    """The model file, open for reading, with its state at the time it was opened.

    Attributes:
        path: as the command line wrote it.
        size: in bytes.
        signature: its state when opened.
        trace: where the path led when it was opened, and over which links.
    """

    __slots__ = ("descriptor", "path", "signature", "size", "trace")

    def __init__(self, path: str) -> None:
        """Open `path`. Raises NotCacheable for what is not a regular file, or cannot be opened."""
        try:
            self.trace = trace_links(path)
            descriptor = open_regular(path)
        except OSError as error:
            raise NotCacheable("unreadable_input", str(error)) from error
        status = os.fstat(descriptor)
        self.descriptor = descriptor
        self.path = path
        self.size = status.st_size
        self.signature = signature(status)

    @property
    def name(self) -> str:
        """The file's own name."""
        return os.path.basename(self.path)

    @property
    def graph(self) -> "InputFile":
        """The file that holds the HLO."""
        return self

    def others(self) -> "list[tuple[str, str]]":
        """The model's other files: (name below the model, path)."""
        return []

    def feed(self, hasher: "xxh3_128") -> None:
        """Feed the file's size and bytes to `hasher`. Raises NotCacheable if it cannot be read to its end."""
        hasher.update(b"%d:" % self.size)
        buffer = memoryview(bytearray(min(CHUNK, self.size) or 1))
        position = 0
        try:
            while count := os.preadv(self.descriptor, [buffer], position):
                hasher.update(buffer[:count])
                position += count
        except OSError as error:
            raise NotCacheable("unreadable_input", str(error)) from error
        if position != self.size:
            raise NotCacheable("unreadable_input", self.path + " changed while it was read")

    def mentions(self, needle: bytes) -> bool:
        """Tell whether the bytes `needle` occur in the file, in bounded memory."""
        position, tail = 0, b""
        while chunk := os.pread(self.descriptor, CHUNK, position):
            if needle in tail + chunk:
                return True
            position += len(chunk)
            tail = chunk[-len(needle) + 1 :]
        return False

    def unchanged(self) -> bool:
        """Tell whether the path still leads, over the same links, to the same file in the same state."""
        try:
            return signature(os.stat(self.path)) == self.signature and trace_links(self.path) == self.trace
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)
