"""What a remote holds: results, the blobs that each names, and the models that need it; with what is in doubt named too.

A listing tells names and sizes, not what a record names: each record and each entry of the registry is read once, and
remembered by its tag, so that to look again costs what has changed since. What records tell is kept on this host too, as
whoever looks at a plan asks for the same thing soon after.

A result's age is what its record says of when it was compiled. The date of its last commit would cost a request for every
50 files, and after a squash of the history it is that of the squash, for all of them.

What cannot be believed may have been written by a later version, and mean it: every digest in it counts as a blob that
is named, every key in an entry as one that is needed. While a record cannot be read at all, no blob of its
compiler's folder is without a name.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from neuron_store.store.collection.inventory import UNKNOWN_VERSION, Inventory
from neuron_store.store.collection.told_file import Told as KeptTold
from neuron_store.store.collection.told_file import load_told, save_told
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.layout import Layout
from neuron_store.store.registry.entries import LARGEST_ENTRY, decode_entry
from neuron_store.store.registry.places import REGISTRY, Place
from neuron_store.store.remotes.base import FOLDER_PREFIX, Remote, RemoteFile, is_name_of_ours, key_in
from neuron_store.store.remotes.records import LARGEST_RECORD, decode_record

_STOCK = "MODULE_"
_CHUNK = 500  # files that are read before a person sees that it goes on
_LARGEST = 1 << 62  # bytes; whatever the size of an output, its record names it
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_KEY = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

Progress = Callable[[int, int], None]
# Returns the content of small files of at most so many bytes: None for one that is gone, an error for one that is none.
Read = Callable[[list[str], int], "list[bytes | CorruptRemote | None]"]


@dataclass(frozen=True)
class Told:
    """What one record, or one entry of the registry, tells.

    Attributes:
        created: Unix seconds; of a record.
        blobs: paths of those that a record names.
        model: of an entry.
        keys: that an entry names.
        doubtful: digests, or keys, in what cannot be believed; None if it cannot even be read.
    """

    created: float = 0.0
    blobs: tuple[str, ...] = ()
    model: str = ""
    keys: frozenset[str] = frozenset()
    doubtful: "frozenset[str] | None" = frozenset()

    @property
    def is_believed(self) -> bool:
        """Whether it is what it must be."""
        return self.doubtful == frozenset()


_UNREADABLE = Told(doubtful=None)


@dataclass
class RemoteInventory:
    """A remote's results and blobs; a result, and a blob, is known by its place in `held`.

    Attributes:
        revision: the head that it was listed at.
        files: all there are, by path.
        held: results and blobs. `used` is when a result was made, in nanoseconds.
        records: paths, by the places of the results.
        blobs: paths, by the places of the blobs.
        loose: paths of blobs that no record names.
        entries: what entries of the registry tell, by path.
        unbelieved: paths of records and entries that cannot be believed: they stay.
        models: key -> the models whose entries name it.
        doubted_keys: that stand in entries that cannot be believed.
    """

    revision: str
    files: dict[str, RemoteFile] = field(default_factory=dict)
    held: Inventory = field(default_factory=Inventory)
    records: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    entries: dict[str, Told] = field(default_factory=dict)
    unbelieved: list[str] = field(default_factory=list)
    models: dict[str, set[str]] = field(default_factory=dict)
    doubted_keys: set[str] = field(default_factory=set)


def kind_of(path: str) -> str:
    """Return which kind of file a path is of: "record", "blob", "entry", "stock", or "" for none that is known."""
    folder, _, rest = path.partition("/")
    if not folder.startswith(FOLDER_PREFIX):
        return ""
    if is_name_of_ours(path):
        return "record" if key_in(path) else "blob"
    if rest.startswith(f"{REGISTRY}/"):
        try:
            Place(path)
        except ValueError:
            return ""
        return "entry"
    return "stock" if rest.startswith(_STOCK) else ""


class RemoteReader:
    """Looks at a remote, as often as need be. `read` reads many small files of it at once.

    With a `layout`, what records tell is kept on this host: for a remote with a head, whose tags can be trusted.
    """

    def __init__(self, remote: Remote, read: Read, layout: "Layout | None" = None) -> None:
        self._remote = remote
        self._read = read
        self._layout = layout
        self._told: dict[tuple[str, int, str], Told] | None = None
        self._files: dict[str, RemoteFile] = {}

    def look(self, progress: Progress, only: "set[str] | None" = None) -> RemoteInventory:
        """Return what the remote holds now; of other top folders than `only`, what they held at the last look.

        What another writer adds meanwhile may be missing: its head is not the `revision` any more then. Raises
        RemoteUnavailable, RemoteRefused.
        """
        found = RemoteInventory(self._remote.head())
        self._files = {path: file for path, file in self._files.items() if only and path.partition("/")[0] not in only}
        for folder in [""] if only is None else sorted(only):
            self._files.update((file.path, file) for file in self._remote.walk(folder))
        found.files = self._files
        kinds: dict[str, list[str]] = {"record": [], "blob": [], "entry": [], "stock": [], "": []}
        for path in sorted(found.files):
            kinds[kind_of(path)].append(path)
        told = self._tell(found, [*kinds["entry"], *kinds["record"]], progress)
        for path in kinds["entry"]:
            self._take_entry(found, path, told[path])
        self._take_records(found, kinds["record"], kinds["blob"], told)
        return found

    def _tell(self, found: RemoteInventory, paths: list[str], progress: Progress) -> dict[str, Told]:
        """Return what the files tell; those that were read before, and are the same still, are not read again."""
        ids = {path: (path, found.files[path].size, found.files[path].tag) for path in paths}
        layout = self._layout if found.revision else None
        if self._told is None:
            kept = load_told(layout, self._remote.identity) if layout is not None else {}
            self._told = {identity: Told(created=created, blobs=blobs) for identity, (created, blobs) in kept.items()}
        known = self._told
        unread = [path for path in paths if ids[path] not in known]
        done = 0
        try:
            for limit, chunk in _chunks(unread):
                for path, data in zip(chunk, self._read(chunk, limit), strict=True):
                    known[ids[path]] = _told_by(path, data)
                done += len(chunk)
                progress(done, len(unread))
        finally:
            if done and layout is not None:
                save_told(layout, self._remote.identity, _to_keep(known))
        told = {path: known[ids[path]] for path in paths}
        self._told = {ids[path]: each for path, each in told.items() if each.doubtful is not None}
        return told

    @staticmethod
    def _take_entry(found: RemoteInventory, path: str, told: Told) -> None:
        found.entries[path] = told
        if not told.is_believed:
            found.unbelieved.append(path)
            found.doubted_keys |= told.doubtful or set()
        for key in told.keys:
            found.models.setdefault(key, set()).add(told.model)

    @staticmethod
    def _take_records(found: RemoteInventory, records: list[str], blobs: list[str], told: dict[str, Told]) -> None:
        held = found.held
        place_of: dict[str, int] = {}

        def place(path: str) -> int:
            if path not in place_of:
                place_of[path] = len(found.blobs)
                found.blobs.append(path)
                held.blob_sizes.append(max(found.files[path].size, 0) if path in found.files else 0)
                held.blob_names.append(0)
            return place_of[path]

        now = time.time()
        doubted: set[str] = set()
        closed: set[str] = set()  # folders with a record that cannot be read
        for path in records:
            if not told[path].is_believed:
                found.unbelieved.append(path)
                doubted |= told[path].doubtful or set()
                closed |= {path.partition("/")[0]} if told[path].doubtful is None else set()
                continue
            found.records.append(path)
            held.keys.append(key_in(path))
            held.used.append(int(min(told[path].created, now) * 1e9))
            held.sizes.append(max(found.files[path].size, 0))
            held.versions.append(path.partition("/")[0].removeprefix(FOLDER_PREFIX) or UNKNOWN_VERSION)
            held.named.append(tuple(place(blob) for blob in told[path].blobs))
            for named in held.named[-1]:
                held.blob_names[named] += 1
        for path in blobs:
            in_doubt = path.partition("/")[0] in closed or path.rpartition("/")[2].partition(".")[0] in doubted
            if in_doubt:
                held.blob_names[place(path)] += 1
            elif path not in place_of:
                found.loose.append(path)
                held.loose += max(found.files[path].size, 0)


def _to_keep(known: "dict[tuple[str, int, str], Told]") -> KeptTold:
    return {
        identity: (each.created, each.blobs)
        for identity, each in known.items()
        if each.is_believed and kind_of(identity[0]) == "record"
    }


def _chunks(paths: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield what is read together, with the bytes that one of it may have."""
    for kind, limit in (("entry", LARGEST_ENTRY), ("record", LARGEST_RECORD)):
        some = [path for path in paths if kind_of(path) == kind]
        for start in range(0, len(some), _CHUNK):
            yield limit, some[start : start + _CHUNK]


def _told_by(path: str, data: "bytes | CorruptRemote | None") -> Told:
    if not isinstance(data, bytes):
        return _UNREADABLE
    if kind_of(path) == "entry":
        return _told_by_entry(path, data)
    folder = path.partition("/")[0]
    try:
        record = decode_record(data, key_in(path), folder, _LARGEST)
    except CorruptRemote:
        return Told(doubtful=_words(_DIGEST, data))
    blobs = [blob.remote_path(folder) for blob in (*record.outputs, *record.inputs) if blob.output.inline is None]
    return Told(created=record.created, blobs=tuple(dict.fromkeys(blobs)))


def _told_by_entry(path: str, data: bytes) -> Told:
    try:
        entry = decode_entry(data, Place(path))
    except CorruptRemote:
        return Told(doubtful=_words(_KEY, data))
    if entry.is_later:
        return Told(doubtful=_words(_KEY, data))
    return Told(model=entry.model_id, keys=frozenset(entry.keys))


def _words(pattern: "re.Pattern[bytes]", data: bytes) -> "frozenset[str]":
    """Return the words of a pattern in what cannot be believed; "" so that it is not taken for what is."""
    return frozenset(word.decode() for word in pattern.findall(data)) | {""}
