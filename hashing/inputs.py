"""The model file: opened once, hashed in bounded memory, and watched for change while it is compiled."""

import os
import stat

from neuron_store.hashing.not_cacheable import NotCacheable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xxhash import xxh3_128

CHUNK = 1 << 20  # bytes read at a time

Signature = tuple[int, int, int, int, int]


def signature(status: os.stat_result) -> Signature:
    """Return what tells that a file is the same and unchanged: device, inode, size, and times of change (ns)."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class InputFile:
    """The model file, open for reading, with its state at the time it was opened.

    Attributes:
        path: as the command line wrote it.
        size: in bytes.
        signature: its state when opened.
    """

    __slots__ = ("descriptor", "path", "signature", "size")

    def __init__(self, path: str) -> None:
        """Open `path`. Raises NotCacheable for what is not a regular file, or cannot be opened."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotCacheable("unreadable_input", str(error)) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise NotCacheable("unreadable_input", path)
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
        """Tell whether the path still leads to the same file in the same state."""
        try:
            return signature(os.stat(self.path)) == self.signature
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)
