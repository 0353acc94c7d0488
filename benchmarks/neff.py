"""The NEFF-shaped container that the reference compiler writes: a fixed header, then a tarball.

Grammar, format version 1. Integers are little-endian.

    file    = header tarball
    header  = magic(8 bytes) version(u32) compression(u32)
              header_length(u64) tarball_length(u64) tar_length(u64)
              digest(32 bytes) zeros, 1024 bytes in all
    tarball = tar (compression 0) | gzip(tar) (compression 1)
    tar     = ustar of regular files, sorted by name, no times, owners or permissions of their own

tarball_length counts the bytes as they are written and tar_length counts them once decompressed. digest is
the sha256 of the tarball as written, so a NEFF whose tarball was compressed anew is a broken NEFF.

As in AWS's NEFF, the header is 1024 bytes and holds a digest, and the tarball is gzip'd unless fast loading
was asked for. Beyond that this is a format of its own, which no Neuron runtime can load.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"REFNEFF\0"
FORMAT_VERSION = 1
HEADER_BYTES = 1024
PLAIN, GZIP = 0, 1
_FIELDS = struct.Struct("<8sIIQQQ32s")


class NeffError(ValueError):
    """A file is not a whole NEFF of the reference compiler. The message names the file and what is wrong."""


class _Header(NamedTuple):
    magic: bytes
    version: int
    compression: int
    header_length: int
    tarball_length: int
    tar_length: int
    digest: bytes


def write_neff(path: str | os.PathLike[str], members: Mapping[str, bytes], *, compress: bool) -> None:
    """Write `members` (file name -> content) as a NEFF at `path`, which appears whole or not at all.

    The same members give the same bytes. `compress` gzips the tarball. Raises OSError if `path` cannot be
    written.
    """
    tar = _tar(members)
    tarball = _gzip(tar) if compress else tar
    header = _FIELDS.pack(
        MAGIC,
        FORMAT_VERSION,
        GZIP if compress else PLAIN,
        HEADER_BYTES,
        len(tarball),
        len(tar),
        hashlib.sha256(tarball).digest(),
    )
    write_whole(path, header.ljust(HEADER_BYTES, b"\0"), tarball)


def read_neff(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return the members (file name -> content) of the NEFF at `path`.

    Raises NeffError if the file is torn, altered or something else, OSError if it cannot be read.
    """
    data = Path(path).read_bytes()
    header = _read_header(path, data)
    tarball = memoryview(data)[HEADER_BYTES:]
    if len(tarball) != header.tarball_length:
        raise NeffError(f"{path}: torn NEFF: {len(tarball)} bytes of tarball, not {header.tarball_length}")
    if hashlib.sha256(tarball).digest() != header.digest:
        raise NeffError(f"{path}: altered NEFF: the tarball does not have the digest that the header names")
    try:
        tar = gzip.decompress(tarball) if header.compression == GZIP else bytes(tarball)
        members = _untar(tar)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise NeffError(f"{path}: unreadable tarball: {error}") from error
    if len(tar) != header.tar_length:
        raise NeffError(f"{path}: altered NEFF: {len(tar)} bytes of tar, not {header.tar_length}")
    return members


def write_whole(path: str | os.PathLike[str], *parts: bytes) -> None:
    """Write `parts` one after another to `path` by way of a temporary file beside it. Raises OSError."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_header(path: str | os.PathLike[str], data: bytes) -> _Header:
    if not data.startswith(MAGIC):
        raise NeffError(f"{path}: not a reference NEFF: it begins with {data[: len(MAGIC)]!r}")
    if len(data) < HEADER_BYTES:
        raise NeffError(f"{path}: torn NEFF: {len(data)} bytes of a header of {HEADER_BYTES}")
    header = _Header(*_FIELDS.unpack_from(data))
    if header.version != FORMAT_VERSION or header.header_length != HEADER_BYTES:
        raise NeffError(f"{path}: NEFF of format version {header.version}, not {FORMAT_VERSION}")
    if any(data[_FIELDS.size : HEADER_BYTES]):
        raise NeffError(f"{path}: altered NEFF: its header is not filled with zeros")
    if header.compression not in (PLAIN, GZIP):
        raise NeffError(f"{path}: NEFF with unknown compression {header.compression}")
    return header


def _tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)  # its defaults are fixed: time 0, owner 0, mode 0644
            entry.size = len(members[name])
            archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()


def _untar(tar: bytes) -> dict[str, bytes]:
    members = {}
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            if content is None:
                raise tarfile.ReadError(f"{entry.name} is not a regular file")
            members[entry.name] = content.read()
    return members


def _gzip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    # GzipFile and not gzip.compress: the latter's header depends on the Python version.
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()
