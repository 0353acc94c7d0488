"""Storing blobs otherwise: at another zstd level, raw ones compressed where that pays, compressed ones raw.

It happens beside running shims, and can be killed at any moment:

- A blob is written anew into tmp/, read back and checked, then renamed. In the same encoding that replaces the old
  file; in another one both are there.
- Then the records that name it are replaced, each only if it is still there (one that was disowned must not come back)
  and still what was read; then direct entries. Each names a file that is there at any moment.
- Then the file of the old encoding goes, by the rules of collector.py. A reader that still has an old record finds the blob in its
  other encoding (blobs.py looks for it), and a writer that made the old one again has changed it since the horizon.
- Blobs of results that wait for their upload are left alone: an uploader has told a remote their size already.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.native import load_extension
from neuron_store.store.collection.inventory import entries_of, key_of_direct
from neuron_store.store.collection.limits import queued_keys
from neuron_store.store.collection.removal import remove_blob
from neuron_store.store.direct import ENCODING_SUFFIX, Output, decode_direct, encode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, discard, read_file, write_all
from neuron_store.store.remotes.stored_bytes import content_fault
from neuron_store.store.results import Result, all_keys, encode_result, load_result
from neuron_store.store.writing import unchanging_since

_WORTH_IT = 0.95  # as in blob_writer.py: what shrinks less is kept raw
_BLOB_MODE = 0o444
_PIECE = 1 << 20  # bytes
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of renameat2(2)

Progress = Callable[[int, int], None]


@dataclass
class Recompressed:
    """What was done.

    Attributes:
        blobs: that were looked at.
        rewritten: of them.
        before, after: bytes of all of them.
        queued: left alone, because a result of theirs waits for its upload.
        damaged: digest -> what is wrong; left alone.
        records: that were replaced, because a blob of theirs is in another encoding now.
    """

    blobs: int = 0
    rewritten: int = 0
    before: int = 0
    after: int = 0
    queued: int = 0
    records: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def recompress(layout: Layout, level: int, threads: int, progress: "Progress | None" = None) -> Recompressed:
    """Store every blob at zstd's `level`, or raw where that does not pay; 0: all raw. For the holder of the collector's lock.

    A blob that would only grow stays as it is, unless it is to be raw. Raises OSError where the store cannot be read or
    written.
    """
    return _Recompression(layout, level, progress or (lambda done, total: None)).run(threads)  # noqa: ARG005


class _Recompression:
    def __init__(self, layout: Layout, level: int, progress: Progress) -> None:
        self._layout = layout
        self._level = level
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._encodings: dict[str, str] = {}  # digest -> the one it has now, where there was another
        self._report = Recompressed()

    def run(self, threads: int) -> Recompressed:
        """Rewrite blobs, then records, then direct entries; then remove what nothing names."""
        horizon = unchanging_since(self._layout)
        blobs = self._wanted_blobs()
        self._report.blobs = len(blobs)
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda blob: self._rewrite(blob, len(blobs)), blobs):
                pass
        kept = self._mend_records()
        self._mend_directs()
        for sha256, encoding in self._encodings.items():
            if sha256 not in kept and os.path.exists(self._path(sha256, encoding)):
                self._remove_others(sha256, encoding, horizon)
        return self._report

    def _path(self, sha256: str, encoding: str) -> str:
        return self._layout.blob_path(sha256, ENCODING_SUFFIX[encoding])

    def _wanted_blobs(self) -> list[Output]:
        found: dict[str, Output] = {}
        for key in all_keys(self._layout):
            result = self._load(key)
            for blob in blobs_of(result) if result else ():
                found.setdefault(blob.sha256, blob)
        everything = len(found)
        for key in queued_keys(self._layout):
            result = self._load(key)
            for blob in blobs_of(result) if result else ():
                found.pop(blob.sha256, None)
        self._report.queued = everything - len(found)
        return list(found.values())

    def _load(self, key: str) -> "Result | None":
        try:
            return load_result(self._layout, key)
        except (CorruptEntry, OSError):
            return None

    # -- blobs -------------------------------------------------------------------------------------------------------

    def _rewrite(self, blob: Output, total: int) -> None:
        present = {name: size for name in ENCODING_SUFFIX if (size := _size(self._path(blob.sha256, name))) >= 0}
        fault, encoding, after = "", blob.encoding, 0
        try:
            if present:
                encoding, after = self._store_better(blob, present)
        except CorruptEntry as error:
            fault = str(error)
        except FileNotFoundError:
            present = {}  # its result has just been disowned, say
        with self._lock:
            report = self._report
            if fault:
                report.damaged[blob.sha256] = fault
            elif present:
                if len(present) > 1 or encoding not in present or encoding != blob.encoding:
                    self._encodings[blob.sha256] = encoding
                report.rewritten += (encoding, after) not in present.items()
                report.before += sum(present.values())
                report.after += after
            self._done += 1
            self._progress(self._done, total)

    def _store_better(self, blob: Output, present: dict[str, int]) -> tuple[str, int]:
        """Store a blob as it is to be; return its encoding and size on disk. Raises CorruptEntry, OSError."""
        source_encoding = blob.encoding if blob.encoding in present else next(iter(present))
        source = open_regular(self._path(blob.sha256, source_encoding))
        try:
            mine = Output("neff", blob.sha256, blob.xxh3, blob.size, source_encoding, None)
            fault = content_fault(mine, source)
            if fault:
                raise CorruptEntry(fault)
            if self._level:
                size = self._try(mine, source, "zst", present.get("zst", blob.size * _WORTH_IT))
                if size is not None:
                    return "zst", size
                if present.get("zst", blob.size) < blob.size * _WORTH_IT:
                    return "zst", present["zst"]  # it would only grow
            if "raw" in present:
                return "raw", present["raw"]
            size = self._try(mine, source, "raw", float("inf"))
            return "raw", blob.size if size is None else size
        finally:
            os.close(source)

    def _try(self, blob: Output, source: int, encoding: str, largest: float) -> "int | None":
        """Store the blob in `encoding` if that is smaller than `largest` bytes; return how large it came out."""
        descriptor, temporary = self._layout.open_temporary()
        try:
            _write(blob, source, descriptor, self._level if encoding == "zst" else 0)
            size = os.fstat(descriptor).st_size
            worth_it = size < min(largest, blob.size * _WORTH_IT) if encoding == "zst" else True
            made = Output("neff", blob.sha256, blob.xxh3, blob.size, encoding, None)
            fault = content_fault(made, descriptor) if worth_it else ""
            if fault:
                raise CorruptEntry(f"what was written cannot be read back: {fault}")  # noqa: TRY301 - thrown away below
        except BaseException:
            os.close(descriptor)
            discard(temporary)
            raise
        if not worth_it:
            os.close(descriptor)
            discard(temporary)
            return None
        self._layout.publish(descriptor, temporary, self._path(blob.sha256, encoding), _BLOB_MODE)
        return size

    # -- what names them ---------------------------------------------------------------------------------------------

    def _mend_records(self) -> set[str]:
        """Make records name what is there; return the digests that a record could not be mended for."""
        kept: set[str] = set()
        for key in all_keys(self._layout) if self._encodings else ():
            path = self._layout.result_path(key)
            try:
                status = os.stat(path)
                result = load_result(self._layout, key)
            except FileNotFoundError:
                continue
            except (CorruptEntry, OSError):
                continue
            if result is None or not self._mend(result):
                continue
            try:
                self._report.records += replace_record(self._layout, result, status)
            except OSError:
                kept.update(blob.sha256 for blob in blobs_of(result))
        return kept

    def _mend(self, result: Result) -> bool:
        """Set the encodings of a result's blobs right; return whether any was not."""
        changed = False
        for output in result.outputs.values():
            encoding = self._encodings.get(output.sha256, output.encoding)
            changed = changed or encoding != output.encoding
            output.encoding = encoding
        for file in result.input.get("files") or []:
            encoding = self._encodings.get(file["sha256"], file["encoding"])
            changed = changed or encoding != file["encoding"]
            file["encoding"] = encoding
        return changed

    def _mend_directs(self) -> None:
        for entry in entries_of(self._layout, "direct", []) if self._encodings else ():
            if not key_of_direct(entry.path):
                continue
            try:
                direct = decode_direct(read_file(entry.path) or b"", entry.name)
                wrong = [o for o in direct.outputs.values() if self._encodings.get(o.sha256, o.encoding) != o.encoding]
                for output in wrong:
                    output.encoding = self._encodings[output.sha256]
                if wrong:
                    self._layout.write_file(entry.path, encode_direct(direct, entry.name))
            except (CorruptEntry, OSError):
                continue  # it is a hit all the same: blobs.py finds the other encoding

    def _remove_others(self, sha256: str, encoding: str, horizon: int) -> None:
        for name in ENCODING_SUFFIX:
            path = self._path(sha256, name)
            if name != encoding and os.path.exists(path) and remove_blob(path, horizon) is None:
                self._report.after += max(0, _size(path))  # made again meanwhile


def blobs_of(result: Result) -> list[Output]:
    """Return all blobs that a result names, its kept inputs among them."""
    kept = [
        Output("neff", file["sha256"], file["xxh3"], file["size"], file["encoding"], None)
        for file in result.input.get("files") or []
    ]
    return [*result.outputs.values(), *kept]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _write(blob: Output, source: int, destination: int, level: int) -> None:
    """Write a blob's content, compressed at `level` or (0) raw."""
    zstd = load_extension("zstandard.backend_c")
    compressor = None
    if level:
        compressor = zstd.ZstdCompressor(level=level, write_checksum=True).compressobj(size=blob.size)
    reader = open(os.dup(source), "rb", buffering=0)  # noqa: SIM115 - closed below, whichever way
    try:
        reader.seek(0)
        if blob.encoding == "zst":
            pieces = zstd.ZstdDecompressor().read_to_iter(reader, read_size=_PIECE >> 3, write_size=_PIECE)
        else:
            pieces = iter(lambda: reader.read(_PIECE), b"")
        for piece in pieces:
            write_all(destination, compressor.compress(piece) if compressor is not None else piece)
        if compressor is not None:
            write_all(destination, compressor.flush())
    finally:
        reader.close()


def replace_record(layout: Layout, result: Result, seen: os.stat_result) -> bool:
    """Write a record in place of the one of status `seen`, if that is still there; it counts as used as it did.

    Returns whether it was. Raises OSError.
    """
    path = layout.result_path(result.key)
    descriptor, temporary = layout.open_temporary()
    try:
        try:
            write_all(descriptor, encode_result(result))
            layout.share(descriptor, 0o644)
        finally:
            os.close(descriptor)
        os.utime(temporary, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        if not exchange(temporary, path):
            return False
        if os.stat(temporary).st_ino != seen.st_ino:
            exchange(temporary, path)  # it was stored anew meanwhile
            return False
        return True
    finally:
        discard(temporary)


def exchange(temporary: str, path: str) -> bool:
    """Let two files have each other's names at once; return False if `path` is not there. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _EXCHANGE) == 0:
            return True
        fault = ctypes.get_errno()
        if fault == errno.ENOENT:
            return False
        if fault not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP):
            raise OSError(fault, os.strerror(fault), path)
    return _exchange_by_link(temporary, path)


def _exchange_by_link(temporary: str, path: str) -> bool:
    """Do the same where the file system cannot: a record is away for an instant, which is a miss."""
    aside = f"{temporary}.aside"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    os.rename(temporary, path)
    os.rename(aside, temporary)
    return True
