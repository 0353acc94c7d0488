"""What a local store holds, read in one pass, in memory that stays small for 100,000 results.

Records are not parsed: their checksum is verified, and what they name is found as text, which is ten times as fast.
It may find too much (the digest of an input that is no blob), never too little: what is named stays. A blob is known by
64 bits of its digest; should two share them, both are taken to be named where one is.

A blob's size is that of its file or what it takes on disk, whichever is more: so the limit holds before a file system
has come to allocate what was just written, and for files with holes.
"""

import gc
import os
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.direct import MAGIC as DIRECT_MAGIC
from neuron_store.store.layout import BLOB_LENGTH, KEY_LENGTH, Layout, is_hex
from neuron_store.store.results import MAGIC

_NAMED = re.compile(rb'"sha256": "([0-9a-f]{16})[0-9a-f]{48}"')
_VERSION = re.compile(rb'"compiler_version": "([^"\\]*)"')
_OUTPUTS = b'"outputs": ['
_FAMILY = MAGIC[: MAGIC.index(b"1")]  # of all versions of the grammar
_HEAD = len(DIRECT_MAGIC) + 200  # bytes: the first two lines of a direct entry
_COMPRESSED = BLOB_LENGTH + len(".zst")
_BLOCK = 512  # bytes, of st_blocks
UNKNOWN_VERSION = "unknown"

Tick = Callable[[], None]


@dataclass
class Inventory:
    """A store's results and blobs; a result is known by its place in the lists.

    Attributes:
        keys: of the results.
        used: when each was last used, in nanoseconds.
        sizes: bytes of each record and its direct entries.
        versions: of each result's compiler.
        named: the places in `blob_sizes` of the blobs that each names, without repetition.
        damaged: key -> what is wrong with a record that cannot be read.
        unknown: paths that could not be read, or are of a newer format: while there are any, no blob is without a name.
        blob_sizes: bytes of each blob, by place: 0 if it is not there.
        blob_names: how many results name each.
        loose: bytes of blobs that no record names.
        blobs, loose_blobs: how many there are in all, and how many of them no record names.
        orphans, loose_directs: direct entries that lead to no result, and their bytes.
    """

    keys: list[str] = field(default_factory=list)
    used: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    versions: list[str] = field(default_factory=list)
    named: list[tuple[int, ...]] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    blob_sizes: "array[int]" = field(default_factory=lambda: array("q"))
    blob_names: "array[int]" = field(default_factory=lambda: array("q"))
    loose: int = 0
    blobs: int = 0
    loose_blobs: int = 0
    orphans: int = 0
    loose_directs: int = 0
    _places: dict[int, int] = field(default_factory=dict)

    def place(self, digest: int) -> int:
        """Return the place of the blob that `digest` (its first 64 bits) begins, -1 if no record names it."""
        return self._places.get(digest, -1)

    @property
    def blobs_stay(self) -> bool:
        """Whether no blob may go, since it cannot be told which have a name."""
        return bool(self.unknown)

    @property
    def size(self) -> int:
        """Bytes of the whole store: each blob once."""
        return sum(self.sizes) + sum(self.blob_sizes) + self.loose + self.loose_directs

    def add(self, key: str, status: os.stat_result, data: bytes) -> None:
        """Take in a result's record."""
        head, _, body = data.partition(b"\n")
        if head != MAGIC + xxh3_hex(body).encode():
            if head.startswith(_FAMILY) and not head.startswith(MAGIC):
                self.unknown.append(key)
            else:
                self.damaged[key] = "the record is torn"
            return
        begin = body.find(_OUTPUTS)  # what comes before are texts of the key's components, most of a record
        version = _VERSION.search(body, max(begin, 0))
        self.keys.append(key)
        self.used.append(status.st_mtime_ns)
        self.sizes.append(size_of(status))
        self.versions.append(_interned(version[1].decode("utf-8", "replace") if version else ""))
        digests = {int(digest, 16) for digest in _NAMED.findall(body, max(begin, 0))}
        places = tuple([self._place_of(digest) for digest in digests])
        for place in places:
            self.blob_names[place] += 1
        self.named.append(places)

    def _place_of(self, digest: int) -> int:
        place = self._places.get(digest)
        if place is None:
            place = self._places[digest] = len(self.blob_sizes)
            self.blob_sizes.append(0)
            self.blob_names.append(0)
        return place


_VERSIONS: dict[str, str] = {}


def _interned(version: str) -> str:
    return _VERSIONS.setdefault(version, version) or UNKNOWN_VERSION


def size_of(status: os.stat_result) -> int:
    """Return what a file counts for, in bytes."""
    return max(status.st_size, status.st_blocks * _BLOCK)


def take_inventory(layout: Layout, tick: "Tick | None" = None) -> Inventory:
    """Read the store; `tick` is called after each of its 768 folders. Raises OSError if a folder cannot be listed."""
    was_enabled = gc.isenabled()
    gc.disable()  # what is made here has no cycles: to look for some among 100,000 results takes a second
    try:
        return _take_inventory(layout, tick)
    finally:
        if was_enabled:
            gc.enable()


def _take_inventory(layout: Layout, tick: "Tick | None") -> Inventory:
    found = Inventory()
    for entry in entries_of(layout, "results", found.unknown, tick):
        if not is_hex(entry.name, KEY_LENGTH):
            continue
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError:
            found.unknown.append(entry.path)
            continue
        try:
            status = os.fstat(descriptor)
            found.add(entry.name, status, _read(descriptor, status.st_size))
        except OSError:
            found.unknown.append(entry.path)
        finally:
            os.close(descriptor)
    _weigh_directs(layout, found, tick)
    _weigh_blobs(layout, found, tick)
    return found


def _read(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)
    while len(data) < size and (piece := os.read(descriptor, size - len(data))):
        data += piece
    return data


def _weigh_directs(layout: Layout, found: Inventory, tick: "Tick | None") -> None:
    place = {key: number for number, key in enumerate(found.keys)}
    for entry in entries_of(layout, "direct", [], tick):
        try:
            size = size_of(entry.stat(follow_symlinks=False))
        except OSError:
            continue
        number = place.get(key_of_direct(entry.path))
        if number is None:
            found.orphans += 1
            found.loose_directs += size
        else:
            found.sizes[number] += size


def key_of_direct(path: str) -> str:
    """Return the key that a direct entry leads to, "" if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        words = os.read(descriptor, _HEAD).split(b"\n", 2)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    parts = words[1].split(b" ") if len(words) > 2 and words[0].startswith(DIRECT_MAGIC) else []
    key = parts[1].decode("ascii", "replace") if len(parts) > 1 else ""
    return key if is_hex(key, KEY_LENGTH) else ""


def _weigh_blobs(layout: Layout, found: Inventory, tick: "Tick | None") -> None:
    for entry in entries_of(layout, "blobs", [], tick):
        digest = digest_of(entry.name)
        if digest < 0:
            continue
        try:
            size = size_of(entry.stat(follow_symlinks=False))
        except OSError:
            continue
        found.blobs += 1
        place = found.place(digest)
        if place < 0:
            found.loose += size
            found.loose_blobs += 1
        else:
            found.blob_sizes[place] += size


def digest_of(name: str) -> int:
    """Return the first 64 bits of a blob's digest by the name of its file, -1 if it is no blob's."""
    if not (len(name) == BLOB_LENGTH or (len(name) == _COMPRESSED and name.endswith(".zst"))):
        return -1
    try:
        return int(name[:16], 16)
    except ValueError:
        return -1


def entries_of(
    layout: Layout, folder: str, unknown: "list[str]", tick: "Tick | None" = None
) -> "Iterator[os.DirEntry[str]]":
    """Yield the files below results/, direct/ or blobs/; folders that cannot be listed are added to `unknown`."""
    try:
        names = sorted(os.listdir(f"{layout.root}/{folder}"))
    except FileNotFoundError:
        return
    for name in names:
        path = f"{layout.root}/{folder}/{name}"
        try:
            entries = list(os.scandir(path)) if is_hex(name, 2) else []
        except OSError:
            unknown.append(path)
            continue
        yield from entries
        if tick is not None:
            tick()
