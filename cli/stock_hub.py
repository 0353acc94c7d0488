r"""A repo of the stock layout, taken into the local store: several entries at once, and nothing is fetched twice.

What came whole has its name in the store before anything else is asked for, and what became of an entry is noted in the
store's file `imports/<remote>`: an import that was killed goes on where it was. Grammar of that file, version 1: a line
for each entry, of which the last one holds

    1 TAB <version>/<module> TAB <digest of the entry's files> TAB <key or -> TAB <reason> \n
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from neuron_store.cli.fetching import Fetcher, Wanted, Watched
from neuron_store.cli.remotes import Opened
from neuron_store.cli.stock_intake import (
    IMPORT_AGAIN,
    IMPORTED,
    PRESENT,
    Intake,
    Taken,
    describe_graph,
    is_here,
    make_result,
)
from neuron_store.cli.worker_processes import losing_no_worker
from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.settings import Settings
from neuron_store.shim.stock_key import StockKey
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.blobs import write_blob
from neuron_store.store.direct import ENCODING_SUFFIX, Output
from neuron_store.store.errors import CorruptEntry, CorruptRemote
from neuron_store.store.layout import Layout, discard, is_hex, read_file
from neuron_store.store.remotes.base import FOLDER_PREFIX, RemoteFile
from neuron_store.store.remotes.stored_bytes import measure_content
from neuron_store.store.results import save_result
from neuron_store.store.stock.entries import state_of
from neuron_store.store.stock.flags import LARGEST_FLAGS, decode_flags
from neuron_store.store.stock.names import FLAGS, GRAPHS, MODULE_PREFIX, NEFF, WRAPPED_NEFF, is_module, what_is_odd
from neuron_store.store.writing import Writing

_FINAL = (IMPORTED, PRESENT)


class HubEntry:
    """An entry of a repo, as a listing tells it.

    Attributes:
        name: `<version>/<module>`.
        files: file name -> what the remote tells of it.
    """

    def __init__(self, name: str, files: "dict[str, RemoteFile]") -> None:
        self.name = name
        self.files = files

    @property
    def state(self) -> str:
        """Its state, by its files' names and sizes, or why it is no entry."""
        version, _, module = self.name.partition("/")
        sizes = {name: file.size for name, file in self.files.items()}
        return what_is_odd(FOLDER_PREFIX + version, module) or state_of(module, sizes)

    @property
    def digest(self) -> str:
        """What changes if one of its files does."""
        told = [f"{name} {file.size} {file.sha256}" for name, file in sorted(self.files.items())]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def list_entries(opened: Opened, version: str) -> list[HubEntry]:
    """Return the entries that a remote has for one compiler version. Raises RemoteError."""
    found: dict[str, dict[str, RemoteFile]] = defaultdict(dict)
    for file in opened.remote.walk(FOLDER_PREFIX + version):
        parts = file.path.split("/")
        if len(parts) < 3 or not parts[1].startswith(MODULE_PREFIX):
            continue
        if len(parts) == 3:
            found[f"{version}/{parts[1]}"][parts[2]] = file
        elif not is_module(parts[1]):
            found[f"{version}/{parts[1]}"].setdefault(parts[2], file)
    return [HubEntry(name, files) for name, files in sorted(found.items())]


class Journal:
    """What became of a remote's entries in earlier imports."""

    def __init__(self, layout: Layout, identity: str) -> None:
        self._layout = layout
        self._path = f"{layout.root}/imports/{identity}"
        self._known: dict[str, tuple[str, str, str]] = {}
        for line in (read_file(self._path) or b"").decode("utf-8", "replace").split("\n")[:-1]:
            parts = line.split("\t")
            if len(parts) == 5 and parts[0] == "1":
                self._known[parts[1]] = (parts[2], parts[3], parts[4])

    def recall(self, entry: HubEntry) -> "Taken | None":
        """Return what an earlier import made of the entry, if the store still has that."""
        digest, key, _ = self._known.get(entry.name, ("", "", ""))
        if digest == entry.digest and is_hex(key, 32) and is_here(self._layout, key):
            return Taken(entry.name, PRESENT, key)
        return None

    def note(self, entry: HubEntry, taken: Taken) -> None:
        """Append what became of an entry. Raises OSError."""
        line = f"1\t{entry.name}\t{entry.digest}\t{taken.key or '-'}\t{taken.reason}\n"
        descriptor = self._layout.open_creating(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class StockFetcher(Fetcher):
    """Fetches entries of a repo in threads; their keys are made in other processes.

    Attributes:
        taken: what became of those that came, by their names.
    """

    def __init__(
        self,
        opened: Opened,
        entries: list[HubEntry],
        intake: Intake,
        settings: Settings,
        threads: int,
        *,
        journal: Journal,
        executor: Executor,
    ) -> None:
        super().__init__(intake.layout, [opened.location], settings, threads)
        self.taken: dict[str, Taken] = {}
        self._entries = {entry.name: entry for entry in entries}
        self._intake = intake
        self._journal = journal
        self._executor = executor
        self._largest = settings.remote_max_bytes

    def wanted(self) -> list[Wanted]:
        """Return what `start` takes."""
        return [Wanted(name, [(0, name.partition("/")[0])]) for name in self._entries]

    # -- in the threads ----------------------------------------------------------------------------------------------

    def fetch_once(self, watched: Watched, version: str, key: str) -> int:
        """Fetch the entry named `key`; return how many bytes came."""
        entry = self._entries[key]
        came = _Came()
        writing = Writing(self._layout)
        try:
            with writing, self.watching(writing.descriptor):
                taken = self._take(watched, version, entry, came)
        except NotCacheable as answer:
            taken = Taken(entry.name, answer.reason, detail=answer.detail)
        with self.lock:
            self.taken[entry.name] = taken
            if taken.reason in _FINAL:
                self._journal.note(entry, taken)
        return came.bytes

    def _take(self, watched: Watched, version: str, entry: HubEntry, came: "_Came") -> Taken:
        folder = f"{FOLDER_PREFIX}{entry.name}"
        written = watched.read_checked(f"{folder}/{FLAGS}", LARGEST_FLAGS)
        if written is None:
            raise CorruptRemote(f"{folder}/{FLAGS} is listed, but not there")
        try:
            flags = decode_flags(written)
        except CorruptEntry as error:
            raise CorruptRemote(f"{folder}: {error}") from error
        name = next(name for name in GRAPHS if name in entry.files)
        with self._file(watched, entry.files[name], came) as (descriptor, blob):
            key = self._key_of(descriptor, flags, version)
            if is_here(self._layout, key.key):
                return Taken(entry.name, PRESENT, key.key)
            size = os.fstat(descriptor).st_size
        outputs = {}
        for role, name_of in (("neff", NEFF), ("wrapped_neff", WRAPPED_NEFF)):
            if name_of in entry.files:
                with self._file(watched, entry.files[name_of], came, role) as (_, output):
                    if output is not None:
                        outputs[role] = output
        kept = [describe_graph(name, blob)] if blob is not None else []
        result = make_result(self._intake, entry.name, key, size, flags, outputs, kept, created=float("inf"))
        save_result(self._layout, result)
        return Taken(entry.name, IMPORTED, key.key, bytes=sum(output.size for output in outputs.values()))

    def _key_of(self, descriptor: int, flags: list[str], version: str) -> StockKey:
        with losing_no_worker(IMPORT_AGAIN):
            return self._executor.submit(
                self._intake.key_of, f"/proc/{os.getpid()}/fd/{descriptor}", flags, version
            ).result()

    @contextmanager
    def _file(
        self, watched: Watched, file: RemoteFile, came: "_Came", role: str = ""
    ) -> "Iterator[tuple[int, Output | None]]":
        """Yield a file's content as an open file, and its blob: that of a graph only if graphs of its size are kept."""
        descriptor, temporary = self._layout.open_temporary()
        try:
            known = find_blob(self._layout, file.sha256, file.size, role or "neff")
            if known is not None and role:
                yield descriptor, known
                return
            if known is not None:
                write_blob(self._layout, known, descriptor)
            else:
                came.bytes += self._receive(watched, file, descriptor)
                if role or file.size <= self._intake.keep_bytes:
                    known = store_blob(self._layout, role or "neff", descriptor, self._intake.level)
            yield descriptor, known
        finally:
            os.close(descriptor)
            discard(temporary)

    def _receive(self, watched: Watched, file: RemoteFile, descriptor: int) -> int:
        size = watched.take(file.path, self._largest, descriptor)
        if size is None:
            raise CorruptRemote(f"{file.path} is listed, but not there")
        if size != file.size:
            raise CorruptRemote(f"{file.path} is {size} bytes, not {file.size}")
        return size


class _Came:
    """How many bytes came for one entry."""

    bytes = 0


def find_blob(layout: Layout, sha256: str, size: int, role: str) -> "Output | None":
    """Return the blob of this content, if the store has it whole: by its SHA-256, of the uncompressed bytes."""
    if not is_hex(sha256, 64):
        return None
    for encoding, suffix in ENCODING_SUFFIX.items():
        path = layout.blob_path(sha256, suffix)
        try:
            os.utime(path)  # before the look: what was touched is not collected
            descriptor = open_regular(path)
        except OSError:
            continue
        try:
            output = Output(role, sha256, "", size, encoding, None)
            found, output.xxh3 = measure_content(output, descriptor)
            if found == sha256:
                return output
        except (ValueError, OSError):
            continue
        finally:
            os.close(descriptor)
    return None
