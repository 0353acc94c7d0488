"""One check of a remote: every record, and that every blob that it names is there as it tells.

A Hub repo tells the SHA-256 and size of each large file in its listing, so nothing but the records is downloaded. A
shared folder tells sizes only. A deep check reads every blob, too, piece by piece and in bounded memory: its stored bytes,
and what they are uncompressed.

What another writer adds meanwhile is not looked at; what looks like a fault is looked up once more at the end, as a
record may have been removed since.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.store.checking.faults import (
    DAMAGED_BLOB,
    DAMAGED_RECORD,
    FOREIGN,
    KINDS,
    MISSING_BLOB,
    TRUNCATED,
    Finding,
)
from neuron_store.store.collection.remote_inventory import kind_of
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.remotes.base import BLOBS, RESULTS, Remote, RemoteFile, key_in
from neuron_store.store.remotes.content_digest import ContentDigest
from neuron_store.store.remotes.records import FORMAT, LARGEST_RECORD, StoredBlob, decode_record

# Returns the content of small files of at most so many bytes: None for one that is gone, an error for one that is none.
Read = Callable[[list[str], int], "list[bytes | CorruptRemote | None]"]
Tick = Callable[[int, int], None]
# Calls `fault_of` for each blob, several at a time, each with a remote of its thread's own.
Each = Callable[["list[Expected]", Callable[[Remote, "Expected"], str]], "list[str | CorruptRemote]"]

_CHUNK = 500  # records that are read together
_DEEP_CHUNK = 64  # blobs
_LARGEST = 1 << 62  # bytes; whatever the size of an output, its record names it
_FAMILY = FORMAT.rpartition(" ")[0].encode()
_PIECE = 1 << 20  # bytes
_LARGEST_WINDOW = 128 << 20  # bytes that a decompressor may be made to hold


@dataclass(frozen=True)
class Expected:
    """What a record tells of one blob. Digests are hex, sizes bytes."""

    path: str
    stored_sha256: str
    stored_size: int
    sha256: str
    xxh3: str
    size: int
    encoding: str


@dataclass
class RemoteChecked:
    """What a check of a remote found.

    Attributes:
        url: the remote's.
        results, blobs, bytes: that records name, whole or not; bytes as stored.
        read: bytes of blobs that were downloaded.
        untold: blobs of which the remote tells no digest, and which were not read: only their sizes are known.
        unnamed, unnamed_bytes: blobs that no record names: `gc --remote` removes them.
        stock, entries: modules of the stock layout, and entries of the registry: counted, not looked at.
        newer: records of another format.
        findings: what is wrong.
    """

    url: str
    results: int = 0
    blobs: int = 0
    bytes: int = 0
    read: int = 0
    untold: int = 0
    unnamed: int = 0
    unnamed_bytes: int = 0
    stock: int = 0
    entries: int = 0
    newer: int = 0
    findings: list[Finding] = field(default_factory=list)


def check_remote(remote: Remote, read: Read, each: "Each | None", tick: Tick) -> RemoteChecked:
    """Check a remote; with `each`, its blobs' bytes too. `tick` is called with what is done and all there is to do.

    Raises RemoteUnavailable, RemoteRefused.
    """
    return _RemoteCheck(remote, read, each, tick).run()


class _RemoteCheck:
    def __init__(self, remote: Remote, read: Read, each: "Each | None", tick: Tick) -> None:
        self._remote = remote
        self._read = read
        self._each = each
        self._tick = tick
        self._made = RemoteChecked(remote.url)
        self._records: dict[str, RemoteFile] = {}
        self._there: dict[str, RemoteFile] = {}
        self._expected: dict[str, Expected] = {}
        self._namers: dict[str, list[str]] = {}
        self._suspects: list[Finding] = []

    def run(self) -> RemoteChecked:
        """List, read records, compare, then look again."""
        made = self._made
        self._list()
        paths = sorted(self._records)
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            for path, data in zip(chunk, self._read(chunk, LARGEST_RECORD), strict=True):
                self._take_record(path, data)
            self._tick(min(start + _CHUNK, len(paths)), len(paths))
        if self._each is not None:
            self._read_blobs(self._each)
        made.blobs = len(self._expected)
        made.bytes = sum(blob.stored_size for blob in self._expected.values())
        for path, file in self._there.items():
            if path not in self._expected:
                made.unnamed += 1
                made.unnamed_bytes += max(file.size, 0)
            elif self._each is None and not file.sha256:
                made.untold += 1
        self._look_again()
        order = list(KINDS)
        made.findings.sort(key=lambda finding: (order.index(finding.kind), finding.path))
        return made

    def _list(self) -> None:
        module = ""
        for file in self._remote.walk(""):
            kind = kind_of(file.path)
            if kind == "record":
                self._records[file.path] = file
            elif kind == "blob":
                self._there[file.path] = file
            elif kind == "entry":
                self._made.entries += 1
            elif kind == "stock":
                folder = "/".join(file.path.split("/")[:2])
                self._made.stock += folder != module
                module = folder
            elif file.path.partition("/")[2].startswith((f"{RESULTS}/", f"{BLOBS}/")):
                self._made.findings.append(Finding(FOREIGN, file.path, "it is nothing of neuron-store's"))

    def _take_record(self, path: str, data: "bytes | CorruptRemote | None") -> None:
        if data is None:
            return  # removed since it was listed
        made, key = self._made, key_in(path)
        if isinstance(data, CorruptRemote):
            made.results += 1
            self._suspects.append(Finding(DAMAGED_RECORD, path, str(data), [key]))
            return
        try:
            if not _is_as_listed(data, self._records[path]):
                raise CorruptRemote("its bytes are not those that the remote lists")  # noqa: TRY301 - told like others
            record = decode_record(data, key, path.partition("/")[0], _LARGEST)
        except CorruptRemote as error:
            if _FAMILY in data and FORMAT.encode() not in data:
                made.newer += 1
                return
            made.results += 1
            self._suspects.append(Finding(DAMAGED_RECORD, path, str(error), [key]))
            return
        made.results += 1
        for blob in (*record.outputs, *record.inputs):
            if blob.output.inline is None:
                self._compare(path, _expected(blob, path.partition("/")[0]))

    def _compare(self, record: str, told: Expected) -> None:
        """Compare what a record tells of a blob with what the remote lists."""
        key = key_in(record)
        self._namers.setdefault(told.path, []).append(key)
        before = self._expected.setdefault(told.path, told)
        file = self._there.get(told.path)
        if before != told:
            detail = f"it tells something else of {told.path} than another record does"
            self._suspects.append(Finding(DAMAGED_RECORD, record, detail, [key]))
            return
        if len(self._namers[told.path]) > 1:
            return
        fault = (MISSING_BLOB, "it is not there") if file is None else _listed_fault(file, told)
        if fault is not None:
            self._suspect(fault[0], told, fault[1])

    def _suspect(self, kind: str, told: Expected, detail: str) -> None:
        self._suspects.append(Finding(kind, told.path, detail, self._namers[told.path], sha256=told.sha256))

    def _read_blobs(self, each: Each) -> None:
        faulty = {finding.path for finding in self._suspects}
        wanted = [told for path, told in sorted(self._expected.items()) if path not in faulty]
        for start in range(0, len(wanted), _DEEP_CHUNK):
            chunk = wanted[start : start + _DEEP_CHUNK]
            for told, fault in zip(chunk, each(chunk, content_fault_of), strict=True):
                self._made.read += told.stored_size
                if fault:
                    self._suspect(DAMAGED_BLOB, told, str(fault))
            self._tick(start + len(chunk), len(wanted))

    def _look_again(self) -> None:
        """Keep of all suspicions those that hold still: a record may be gone, or a blob have come."""
        if not self._suspects:
            return
        folders = {finding.path.partition("/")[0] for finding in self._suspects}
        records = {key_in(path): path for path in self._records if path.partition("/")[0] in folders}
        asked = {finding.path for finding in self._suspects}
        asked |= {records[key] for finding in self._suspects for key in finding.keys if key in records}
        there = self._remote.look_up(sorted(asked))
        for finding in self._suspects:
            finding.keys = [key for key in finding.keys if records.get(key) in there]
            is_back = finding.kind == MISSING_BLOB and finding.path in there
            if finding.keys and not is_back:
                self._made.findings.append(finding)


def _expected(blob: StoredBlob, folder: str) -> Expected:
    output = blob.output
    return Expected(
        blob.remote_path(folder),
        blob.stored_sha256,
        blob.stored_size,
        output.sha256,
        output.xxh3,
        output.size,
        output.encoding,
    )


def _is_as_listed(data: bytes, file: RemoteFile) -> bool:
    """Tell whether a record's bytes are those whose digest the remote lists, if it does."""
    digest = ContentDigest()
    digest.update(data)
    return digest.fits(file.sha256 or file.tag)


def _listed_fault(file: RemoteFile, told: Expected) -> "tuple[str, str] | None":
    if file.size >= 0 and file.size != told.stored_size:
        kind = TRUNCATED if file.size < told.stored_size else DAMAGED_BLOB
        return kind, f"it is {file.size} bytes, not {told.stored_size}"
    if file.sha256 and file.sha256 != told.stored_sha256:
        return DAMAGED_BLOB, "its SHA-256 is not the one that its record tells"
    return None


# -- the bytes themselves ----------------------------------------------------------------------------------------------


def content_fault_of(remote: Remote, told: Expected) -> str:
    """Say what is wrong with a blob's bytes, "" if nothing is. They are read once, and kept nowhere.

    Raises CorruptRemote, RemoteUnavailable, RemoteRefused.
    """
    reading, writing = os.pipe()
    stream = _Stream(reading, told)
    reader = threading.Thread(target=stream.run, daemon=True)
    reader.start()
    try:
        remote.download(told.path, told.stored_size, writing)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    return stream.fault


class _Stream:
    """Hashes what comes through a pipe, as it is and uncompressed.

    Attributes:
        fault: in words, once it has run.
    """

    def __init__(self, descriptor: int, told: Expected) -> None:
        self.fault = ""
        self._descriptor = descriptor
        self._told = told
        self._stored = hashlib.sha256()

    def run(self) -> None:
        """Read to the end, whatever is found."""
        try:
            self.fault = self._content_fault()
        except BaseException as error:  # noqa: BLE001 - it is told in the other thread
            self.fault = f"it cannot be read: {error}"
        while self.read(_PIECE):
            pass
        if self._stored.hexdigest() != self._told.stored_sha256:
            self.fault = "its bytes have another SHA-256 than its record tells"

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, b"" at the end."""
        piece = os.read(self._descriptor, size)
        self._stored.update(piece)
        return piece

    def _content_fault(self) -> str:
        zstd = load_extension("zstandard.backend_c")
        told = self._told
        sha256, xxh3, size = hashlib.sha256(), xxh3_128(), 0
        pieces = iter(lambda: self.read(_PIECE), b"")
        if told.encoding == "zst":
            decompressor = zstd.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
            pieces = decompressor.read_to_iter(self, read_size=_PIECE >> 3, write_size=_PIECE)
        try:
            for piece in pieces:
                size += len(piece)
                if size > told.size:
                    break
                sha256.update(piece)
                xxh3.update(piece)
        except (zstd.ZstdError, MemoryError) as error:
            return f"it cannot be decompressed: {error}"
        if (size, sha256.hexdigest(), xxh3.hexdigest()) != (told.size, told.sha256, told.xxh3):
            return "its content is not what its record tells"
        return ""
