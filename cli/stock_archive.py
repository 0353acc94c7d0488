"""A tarball of a stock cache, read entry by entry: never more of it on disk than what is being worked on.

It is read twice: once for the names, which tell what each entry consists of and that the tarball is whole, and once for
the contents. Names in it are believed in nothing: only regular files with the names of an entry's files are unpacked,
under names of our own. As for tar itself, the last member of a name counts, and a hard link is the file that had its
target's name when the link was packed.
"""

import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from neuron_store.cli.tarballs import open_tarball
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
_PIECE = 1 << 20  # bytes

_Place = tuple[str, str, str]  # folder above, version, module


class StockArchive:
    """A tarball, plain or compressed by gzip, bzip2, xz or zstd."""

    def __init__(self, path: str, folder: Path) -> None:
        """`folder` is an empty one to unpack into. Raises NotFound if the archive is damaged."""
        self._path = path
        self._folder = folder
        self._contents = _read_contents(path)
        self._numbers = {place: number for number, place in enumerate(self._contents)}

    def __len__(self) -> int:
        return len(self._contents)

    def entries(self) -> Iterator[StockEntry]:
        """Yield all entries. The files of a finished one are there until `forget`; of the others only sizes are told.

        Raises NotFound if the archive is damaged, or another by now.
        """
        wanted: dict[int, list[tuple[_Place, str]]] = defaultdict(list)
        missing: dict[_Place, int] = {}
        for place, files in self._contents.items():
            entry = self._entry(place)
            if entry.state != FINISHED:
                yield entry
                continue
            unpacked = [name for name in files if name in _UNPACKED]
            missing[place] = len(unpacked)
            for name in unpacked:
                wanted[files[name][0]].append((place, name))
        with open_tarball(self._path) as archive:
            for number, member in enumerate(archive):
                yield from self._take(archive, member, wanted.pop(number, []), missing)
        if wanted:
            raise self._changed()

    @staticmethod
    def forget(entry: StockEntry) -> None:
        """Delete what was unpacked of an entry."""
        shutil.rmtree(os.path.dirname(entry.folder), ignore_errors=True)

    def _entry(self, place: _Place) -> StockEntry:
        _, version, module = place
        sizes = {name: size for name, (_, size) in self._contents[place].items()}
        return StockEntry(f"{self._folder}/{self._numbers[place]}/{module}", version, module, sizes)

    def _take(
        self,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        files: list[tuple[_Place, str]],
        missing: dict[_Place, int],
    ) -> Iterator[StockEntry]:
        """Unpack a member as each of `files`; yield the entries that are whole by that."""
        if files:
            paths = [self._entry(place).path(name) for place, name in files]
            size = self._unpack(archive, member, paths)
            if any(self._contents[place][name][1] != size for place, name in files):
                raise self._changed()
        for place, _ in files:
            missing[place] -= 1
            if not missing[place]:
                entry = self._entry(place)
                yield read_entry(entry.folder, entry.version)

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo, paths: list[str]) -> int:
        """Write a member's content to each of `paths`; return its size."""
        source = archive.extractfile(member) if member.isreg() else None
        if source is None:
            raise self._changed()
        for path in paths:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(paths[0], "wb") as file:
            shutil.copyfileobj(source, file, _PIECE)
            size = file.tell()
        for path in paths[1:]:  # and no links: that one of them goes would be a change of the others
            shutil.copyfile(paths[0], path)
        return size

    def _changed(self) -> NotFound:
        return NotFound(f"{self._path} changed while it was read; import again")


def _read_contents(path: str) -> dict[_Place, dict[str, tuple[int, int]]]:
    """Return the entries with their files: name -> which member of the tarball holds its content, and the size of that."""
    files: dict[str, tuple[int, int]] = {}
    with open_tarball(path) as archive:
        for number, member in enumerate(archive):
            named = _plain(member.name)
            if member.isreg():
                files[named] = (number, member.size)
            elif member.islnk() and _plain(member.linkname) in files:
                files[named] = files[_plain(member.linkname)]
            else:
                files.pop(named, None)
    found: dict[_Place, dict[str, tuple[int, int]]] = defaultdict(dict)
    for named, content in files.items():
        place = _place_of(named)
        if place is not None:
            found[place][os.path.basename(named)] = content
    return found


def _plain(name: str) -> str:
    """Return a member's name in the one form that those of a file and of links to it share."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _place_of(name: str) -> "_Place | None":
    """Return the entry that a file is of, None if it is of none."""
    parts = name.split("/")
    if len(parts) < 3:
        return None
    *above, folder, module, _ = parts
    version = version_of(folder)
    if version and (is_module(module) or is_traced(module)):
        return "/".join(above), version, module
    old = next((at for at, part in enumerate(parts) if part.startswith(OLD_FOLDER_PREFIX)), None)
    if old is not None and len(parts) > old + 2 and parts[old + 1].startswith("MODULE_"):
        return "/".join(parts[: old + 1]), "", parts[old + 1]
    return None
