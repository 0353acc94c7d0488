"""A tarball of a stock cache, read entry by entry: never more of it on disk than what is being worked on.

It is read twice: once for the names, which tell what each entry consists of, and once for the contents. Names in it are
believed in nothing: only regular files with the names of an entry's files are unpacked, under names of our own.
"""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

from neuron_store.store.errors import NotFound
from neuron_store.store.stock.entries import FINISHED, StockEntry, read_entry
from neuron_store.store.stock.names import (
    DONE,
    FLAGS,
    GRAPHS,
    NEFF,
    OLD_FOLDER_PREFIX,
    WRAPPED_NEFF,
    is_module,
    is_traced,
    version_of,
)

_UNPACKED = (*GRAPHS, FLAGS, NEFF, WRAPPED_NEFF, DONE)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class StockArchive:
    """A tarball, plain or compressed by gzip, bzip2, xz or zstd."""

    def __init__(self, path: str, folder: Path) -> None:
        """`folder` is an empty one to unpack into."""
        self._path = path
        self._folder = folder
        self._sizes: dict[tuple[str, str, str], dict[str, int]] = {}
        for place, name, member in self._members():
            self._sizes.setdefault(place, {})[name] = member.size
        self._numbers = {place: number for number, place in enumerate(self._sizes)}

    def __len__(self) -> int:
        return len(self._sizes)

    def entries(self) -> Iterator[StockEntry]:
        """Yield all entries. The files of a finished one are there until `forget`; of the others only sizes are told.

        Raises NotFound if the archive is damaged.
        """
        wanted: dict[tuple[str, str, str], set[str]] = {}
        for place, sizes in self._sizes.items():
            entry = self._entry(place)
            if entry.state == FINISHED:
                wanted[place] = {name for name in sizes if name in _UNPACKED}
            else:
                yield entry
        with self._opened() as archive:
            for place, name, member in _members_of(archive, self._path):
                if name not in wanted.get(place, ()):
                    continue
                entry = self._entry(place)
                self._unpack(archive, member, entry.path(name))
                wanted[place].discard(name)
                if not wanted[place]:
                    yield read_entry(entry.folder, entry.version)

    @staticmethod
    def forget(entry: StockEntry) -> None:
        """Delete what was unpacked of an entry."""
        shutil.rmtree(os.path.dirname(entry.folder), ignore_errors=True)

    def _entry(self, place: tuple[str, str, str]) -> StockEntry:
        _, version, module = place
        return StockEntry(f"{self._folder}/{self._numbers[place]}/{module}", version, module, self._sizes[place])

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        source = archive.extractfile(member)
        if source is None:
            raise NotFound(f"{self._path}: {member.name} has no content")
        with open(path, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def _members(self) -> Iterator[tuple[tuple[str, str, str], str, tarfile.TarInfo]]:
        with self._opened() as archive:
            yield from _members_of(archive, self._path)

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        with open(self._path, "rb") as file:
            is_zstd = file.read(4) == _ZSTD_MAGIC
            file.seek(0)
            stream: IO[bytes] = file
            if is_zstd:
                stream = cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            try:
                with tarfile.open(fileobj=stream, mode="r|" if is_zstd else "r|*") as archive:
                    yield archive
            except (tarfile.TarError, EOFError, zstandard.ZstdError, OSError) as error:
                if isinstance(error, OSError) and error.filename is not None and error.filename != self._path:
                    raise
                raise NotFound(f"{self._path} is no tarball that can be read to its end: {error}") from error


def _members_of(archive: tarfile.TarFile, path: str) -> Iterator[tuple[tuple[str, str, str], str, tarfile.TarInfo]]:
    """Yield (folder above, version, module), file name, and member, for each regular file of an entry."""
    try:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) < 3 or not member.isreg():
                continue
            *above, folder, module, name = parts
            version = version_of(folder)
            if version and (is_module(module) or is_traced(module)):
                yield ("/".join(above), version, module), name, member
                continue
            old = next((at for at, part in enumerate(parts) if part.startswith(OLD_FOLDER_PREFIX)), None)
            if old is not None and len(parts) > old + 2 and parts[old + 1].startswith("MODULE_"):
                yield ("/".join(parts[: old + 1]), "", parts[old + 1]), name, member
    except tarfile.TarError as error:
        raise NotFound(f"{path} is no tarball that can be read to its end: {error}") from error
