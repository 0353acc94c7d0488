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
    MODULE_PREFIX,
    NEFF,
    WRAPPED_NEFF,
    is_module,
    version_of,
    what_is_odd,
)

_UNPACKED = (*GRAPHS, FLAGS, NEFF, WRAPPED_NEFF, DONE)
_PIECE = 1 << 20  # bytes

_Place = tuple[str, str]  # folder above, module


class StockArchive:
    """A tarball, plain or compressed by gzip, bzip2, xz or zstd.

    Attributes:
        passed_over: folder -> why it is no entry, though it is called like one.
    """

    def __init__(self, path: str, folder: Path) -> None:
        """`folder` is an empty one to unpack into. Raises NotFound if the archive is damaged."""
        self._path = path
        self._folder = folder
        self.passed_over: dict[str, str] = {}
        self._contents: dict[_Place, dict[str, tuple[int, int]]] = defaultdict(dict)
        self._odd: dict[_Place, set[str]] = defaultdict(set)
        files, odd = _read_names(path)
        for named, content in files.items():
            place, below = self._sort_in(named)
            if place is not None:
                self._contents[place][below] = content
        for named in odd:
            place, below = self._sort_in(named)
            if place is not None:
                self._odd[place].add(below)
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

    def _sort_in(self, named: str) -> "tuple[_Place | None, str]":
        """Return the entry that a name is in, None if it is in none, and what lies there by this name."""
        found = _module_in(named)
        if found is None:
            return None, ""
        above, module, below = found
        odd = what_is_odd(os.path.basename(above), module)
        if odd:
            self.passed_over[f"{above}/{module}".lstrip("/")] = odd
        elif "/" not in below or not is_module(module):  # a traced model has folders
            return (above, module), below
        return None, ""

    @property
    def versions(self) -> list[str]:
        """The compiler versions of its entries."""
        return list(
            dict.fromkeys(version for above, _ in self._contents if (version := version_of(os.path.basename(above))))
        )

    @staticmethod
    def forget(entry: StockEntry) -> None:
        """Delete what was unpacked of an entry."""
        shutil.rmtree(os.path.dirname(entry.folder), ignore_errors=True)

    def _entry(self, place: _Place) -> StockEntry:
        above, module = place
        version = version_of(os.path.basename(above))
        sizes = {name: size for name, (_, size) in self._contents[place].items()}
        return StockEntry(
            f"{self._folder}/{self._numbers[place]}/{module}", version, module, sizes, odd=self._odd.get(place, ())
        )

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


def _read_names(path: str) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Return all files (name -> which member of the tarball holds its content, and its size), and what else has a name."""
    files: dict[str, tuple[int, int]] = {}
    odd: set[str] = set()
    with open_tarball(path) as archive:
        for number, member in enumerate(archive):
            named = _plain(member.name)
            if member.isreg():
                files[named] = (number, member.size)
            elif member.islnk() and _plain(member.linkname) in files:
                files[named] = files[_plain(member.linkname)]
            else:
                files.pop(named, None)
                odd.add(named)
    return files, odd - files.keys()


def _plain(name: str) -> str:
    """Return a member's name in the one form that those of a file and of links to it share."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _module_in(name: str) -> "tuple[str, str, str] | None":
    """Return the entry's folder of a file, its module, and what lies there by this file; None if it is in none."""
    parts = name.split("/")
    modules = [at for at in range(len(parts) - 1) if parts[at].startswith(MODULE_PREFIX)]
    if not modules:
        return None
    at = next((at for at in modules if at and not what_is_odd(parts[at - 1], parts[at])), modules[0])
    return "/".join(parts[:at]), parts[at], "/".join(parts[at + 1 :])
