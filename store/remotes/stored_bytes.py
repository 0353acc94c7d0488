"""The bytes of a stored blob: what they are, and whether they are the content that they stand for."""

import hashlib
import os

from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuron_store.store.direct import Output

_PIECE = 1 << 20  # bytes
_LARGEST_WINDOW = 128 << 20  # bytes that a decompressor may be made to hold; level 19 needs 8 MB


def measure_stored(descriptor: int) -> "tuple[int, str]":
    """Return size in bytes and SHA-256 of an open file, from its beginning."""
    sha256, size = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE, size):
        sha256.update(piece)
        size += len(piece)
    return size, sha256.hexdigest()


def content_fault(output: "Output", descriptor: int) -> str:
    """Say why the open blob is not the content of `output`, "" if it is.

    It is decompressed in pieces, at most to the size that `output` tells, in bounded memory.
    """
    try:
        sha256, xxh3 = measure_content(output, descriptor)
    except ValueError as error:
        return str(error)
    if sha256 != output.sha256 or xxh3 != output.xxh3:
        return f"the blob {output.sha256} is not what its name says"
    return ""


def measure_content(output: "Output", descriptor: int) -> "tuple[str, str]":
    """Return SHA-256 and XXH3-128 of an open blob's content. Raises ValueError if it has not the size of `output`."""
    zstd = load_extension("zstandard.backend_c")
    sha256, xxh3, size = hashlib.sha256(), xxh3_128(), 0
    try:
        if output.encoding == "zst" and zstd.frame_content_size(os.pread(descriptor, 64, 0)) != output.size:
            raise ValueError(f"the blob {output.sha256} announces another size than its record")
        for piece in _content(output, descriptor):
            size += len(piece)
            if size > output.size:
                break
            sha256.update(piece)
            xxh3.update(piece)
    except (zstd.ZstdError, MemoryError) as error:
        raise ValueError(f"the blob {output.sha256} cannot be decompressed: {error}") from error
    if size != output.size:
        raise ValueError(f"the blob {output.sha256} is not what its name says")
    return sha256.hexdigest(), xxh3.hexdigest()


def _content(output: "Output", descriptor: int) -> "Iterator[bytes]":
    stored = StoredFile(descriptor)
    if output.encoding == "raw":
        return iter(lambda: stored.read(_PIECE), b"")
    zstd = load_extension("zstandard.backend_c")
    decompressor = zstd.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    pieces: Iterator[bytes] = decompressor.read_to_iter(stored, read_size=_PIECE >> 3, write_size=_PIECE)
    return pieces


class StoredFile:
    """A file from its beginning, as zstd wants to read it."""

    __slots__ = ("_descriptor", "_position")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, b"" at the end."""
        piece = os.pread(self._descriptor, size, self._position)
        self._position += len(piece)
        return piece
