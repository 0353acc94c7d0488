"""What the bytes of a stored blob are, whatever its name says: hashed in pieces, in bounded memory."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.store.remotes.stored_bytes import StoredFile

MAGIC = b"\x28\xb5\x2f\xfd"  # of a zstd frame
_PIECE = 1 << 20  # bytes
_SMALL = 4 << 20  # bytes; below it, one read and one decompression are the fastest
_LARGEST_WINDOW = 128 << 20  # bytes that a decompressor may be made to hold
_BLOCK_HEADER = 3  # bytes: a bit for the last, two for the kind, the rest for the size
_REPEATED_BYTE = 1  # the kind of block that stores one byte, whatever its size
_SHORTEST_FRAME = 18  # bytes; what is shorter lacks the end of a header


@dataclass(frozen=True)
class Measured:
    """What a blob's file holds.

    Attributes:
        sha256, xxh3: of the content, raw digests; b"" where it cannot be decompressed.
        size: of the content in bytes, as far as there is any.
        truncated: whether it is compressed and ends too early.
        fault: why it cannot be decompressed, "" if it can.
    """

    sha256: bytes
    xxh3: bytes
    size: int
    truncated: bool = False
    fault: str = ""


def measure(descriptor: int, *, compressed: bool) -> Measured:
    """Measure an open blob from its beginning. Raises OSError if it cannot be read."""
    if not compressed:
        return _measure(_pieces(descriptor))
    zstd = load_extension("zstandard.backend_c")
    length = os.fstat(descriptor).st_size
    try:
        announced = zstd.frame_content_size(os.pread(descriptor, 64, 0))
        if announced < 0:
            raise ValueError("it does not tell its size")  # noqa: TRY301 - as any other fault of its header
        found = _measure(_decompressed(descriptor, announced, length))
        ends = _frame_ends(descriptor, length)
    except (zstd.ZstdError, MemoryError, ValueError) as error:
        fault = f"it cannot be decompressed: {error}"
        return Measured(b"", b"", 0, truncated=length < _SHORTEST_FRAME, fault=fault)
    if found.size < announced or not ends:
        return Measured(b"", b"", found.size, truncated=True, fault="it ends too early")
    return found


def _decompressed(descriptor: int, announced: int, length: int) -> Iterator[bytes]:
    """Return the content of an open blob in pieces. Raises ZstdError."""
    zstd = load_extension("zstandard.backend_c")
    if 0 < announced <= _SMALL and length <= _SMALL:
        try:
            return iter([zstd.ZstdDecompressor().decompress(os.pread(descriptor, length, 0))])
        except zstd.ZstdError:
            pass  # what is wrong is told by the piecewise way
    decompressor = zstd.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    pieces: Iterator[bytes] = decompressor.read_to_iter(
        StoredFile(descriptor), read_size=_PIECE >> 3, write_size=_PIECE
    )
    return pieces


def _frame_ends(descriptor: int, length: int) -> bool:
    """Tell whether a file of this length in bytes holds a whole zstd frame, by the headers of its blocks (RFC 8878).

    Read in pieces, a frame gives all its content even if the checksum behind it is cut off; read at once, as most
    hits read it, it does not.
    """
    zstd = load_extension("zstandard.backend_c")
    head = os.pread(descriptor, 64, 0)
    at = zstd.frame_header_size(head)
    last = False
    while not last and at + _BLOCK_HEADER <= length:
        header = int.from_bytes(os.pread(descriptor, _BLOCK_HEADER, at), "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER + (1 if kind == _REPEATED_BYTE else size)
    return last and at + 4 * bool(zstd.get_frame_parameters(head).has_checksum) <= length


def _pieces(descriptor: int) -> Iterator[bytes]:
    source = StoredFile(descriptor)
    return iter(lambda: source.read(_PIECE), b"")


def _measure(pieces: Iterator[bytes]) -> Measured:
    sha256, xxh3, size = hashlib.sha256(), xxh3_128(), 0
    for piece in pieces:
        sha256.update(piece)
        xxh3.update(piece)
        size += len(piece)
    return Measured(sha256.digest(), bytes.fromhex(xxh3.hexdigest()), size)
