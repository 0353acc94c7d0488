"""A tarball from its first byte to its last: what was cut or damaged is never taken for a shorter one.

By itself tarfile asks for less: it ends at a header that is damaged or missing as at the end, and checks no checksum of
a compressed stream.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import zstandard

from neuron_store.store.errors import NotFound

_PIECE = 1 << 16  # bytes
# A decompressor of zstd hands over all at once that it makes of what it is given: at most 32 kB for each byte.
_ZSTD_PIECE = 1 << 12
_LARGEST_WINDOW = 128 << 20  # bytes that a decompressor may be made to hold
_LONGEST_MAGIC = 6
_OPENERS: "dict[bytes, Callable[[Any], Any]]" = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0\x80": lzma.open,
}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, ValueError)


@contextmanager
def open_tarball(path: str) -> "Iterator[tarfile.TarFile]":
    """Yield the tarball at `path`, to be read once and in order; plain, or compressed by gzip, bzip2, xz or zstd.

    On leaving, the rest is read too. Raises NotFound if it is no tarball, or not whole; OSError.
    """
    with open(path, "rb") as file:
        source = _Source(file)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|", tarinfo=_Member) as archive:
                yield archive
                for _ in archive:
                    continue
            while source.read():
                continue
        except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter of numbers in a header
            raise NotFound(f"{path} is no tarball that can be read to its end: {error}; pack it again") from error


class _Member(tarfile.TarInfo):
    """A member, whose header is whole."""

    @classmethod
    def frombuf(cls, buf: "bytes | bytearray", encoding: str, errors: str) -> "_Member":
        """Return what a header tells. A block of zeros ends an archive, and nothing else does."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError("it was cut" if len(buf) < tarfile.BLOCKSIZE else str(error)) from error


class _Source:
    """The uncompressed bytes of a file."""

    def __init__(self, file: "IO[bytes]") -> None:
        self._pieces = _pieces(file)

    def read(self, _size: int = 0) -> bytes:
        """Return the next bytes, however many, b"" at the end. Raises ReadError if they are damaged; OSError."""
        try:
            return next(self._pieces, b"")
        except _DAMAGE as error:
            raise tarfile.ReadError(str(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise tarfile.ReadError(str(error)) from error  # as gzip and bz2 call a damage


def _pieces(file: "IO[bytes]") -> "Iterator[bytes]":
    magic = file.read(_LONGEST_MAGIC)
    file.seek(0)
    if magic.startswith(_ZSTD_MAGIC):
        yield from _zstd_pieces(file)
        return
    opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
    stream = opener(file) if opener else file
    while piece := stream.read(_PIECE):
        yield piece


def _zstd_pieces(file: "IO[bytes]") -> "Iterator[bytes]":
    """Yield the content of all frames. Raises EOFError if the last is cut, which zstandard's readers pass over."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    frame = None
    while piece := file.read(_ZSTD_PIECE):
        while piece:
            frame = frame or decompressor.decompressobj()
            content = frame.decompress(piece)
            if content:
                yield content
            piece = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("its last frame is cut")
