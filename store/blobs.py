"""Reading blobs: bytes that are served only if they are the bytes that were stored.

A blob's content is written to its destination while it is hashed, and only a caller that sees no error gives the
destination its name. Memory stays at a few buffers however large the blob is.
"""

import os

from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.store.direct import ENCODING_SUFFIX, Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, write_all

BUFFER = 1 << 20  # bytes
_SMALL = 8 << 20  # bytes; below it, one read, one decompression and one write are the fastest


class MissingBlob(CorruptEntry):
    """A result names a blob that is not there, or cannot be read: the result is not valid."""


def write_blob(layout: Layout, output: Output, destination: int) -> None:
    """Write the content of `output` to the open file `destination`.

    Raises CorruptEntry (MissingBlob) if the store does not have exactly these bytes; then the destination holds
    rubbish. Raises OSError if the destination cannot be written.
    """
    if output.inline is not None:
        _check(output, len(output.inline), xxh3_128(output.inline).hexdigest())
        write_all(destination, output.inline)
        return
    path, source = _open_blob(layout, output)
    try:
        if output.size <= _SMALL:
            write_all(destination, _content(output, source))
        elif output.encoding == "raw":
            _copy_raw(output, source, destination)
        else:
            _decompress(output, source, destination)
    except CorruptEntry as error:
        error.path = path
        raise
    finally:
        os.close(source)


def read_blob(layout: Layout, output: Output) -> bytes:
    """Return the content of a blob that is known to be small (captured text). Raises CorruptEntry."""
    if output.inline is not None:
        _check(output, len(output.inline), xxh3_128(output.inline).hexdigest())
        return output.inline
    path, source = _open_blob(layout, output)
    try:
        return _content(output, source)
    except CorruptEntry as error:
        error.path = path
        raise
    finally:
        os.close(source)


def _open_blob(layout: Layout, output: Output) -> "tuple[str, int]":
    path = layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding])
    try:
        return path, open_regular(path)
    except FileNotFoundError as error:
        found = _open_recompressed(layout, output)
        if found is None:
            raise MissingBlob(f"the blob {output.sha256} is gone from the store {layout.root}") from error
        return found
    except OSError as error:
        raise MissingBlob(f"the blob {output.sha256} cannot be read: {error}") from error


def _open_recompressed(layout: Layout, output: Output) -> "tuple[str, int] | None":
    """Open a blob that is stored otherwise since the record was read: see collection/recompression.py."""
    for encoding, suffix in ENCODING_SUFFIX.items():
        path = layout.blob_path(output.sha256, suffix)
        try:
            descriptor = open_regular(path)
        except OSError:
            continue
        output.encoding = encoding
        return path, descriptor
    return None


def _read(source: int, size: int) -> bytes:
    """Read from a blob. A disk that cannot is a fault of the store, not of the output that is written meanwhile."""
    try:
        return os.read(source, size)
    except OSError as error:
        raise CorruptEntry(f"the blob cannot be read: {error}") from error


def _check(output: Output, size: int, xxh3: str) -> None:
    if size != output.size or xxh3 != output.xxh3:
        raise CorruptEntry(f"the blob {output.sha256} is not what was stored")


def _content(output: Output, source: int) -> bytes:
    stored = bytearray()
    while chunk := _read(source, _SMALL):
        stored += chunk
    content = bytes(stored)
    if output.encoding == "zst":
        content = _decompress_bytes(content, output.size)
    _check(output, len(content), xxh3_128(content).hexdigest())
    return content


def _decompress_bytes(stored: bytes, size: int) -> bytes:
    zstd = load_extension("zstandard.backend_c")
    try:
        # A flipped bit in the header could ask for any amount of memory.
        if zstd.frame_content_size(stored) != size:
            raise CorruptEntry("the blob's header tells another size")
        if size == 0:
            return b""
        return zstd.ZstdDecompressor().decompress(stored)  # type: ignore[no-any-return]  # the extension has no types
    except (zstd.ZstdError, MemoryError) as error:
        raise CorruptEntry(f"the blob cannot be decompressed: {error}") from error


def _copy_raw(output: Output, source: int, destination: int) -> None:
    hasher = xxh3_128()
    buffer = memoryview(bytearray(BUFFER))
    size = 0
    while count := _read_into(source, buffer):
        hasher.update(buffer[:count])
        write_all(destination, buffer[:count])
        size += count
    _check(output, size, hasher.hexdigest())


def _read_into(source: int, buffer: memoryview) -> int:
    try:
        return os.readv(source, [buffer])
    except OSError as error:
        raise CorruptEntry(f"the blob cannot be read: {error}") from error


class _BlobReader:
    """An open blob, as zstd wants to read it."""

    __slots__ = ("_source",)

    def __init__(self, source: int) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, b"" at the end. Raises CorruptEntry."""
        return _read(self._source, size)


def _decompress(output: Output, source: int, destination: int) -> None:
    """Decompress in this thread while another hashes and writes."""
    zstd = load_extension("zstandard.backend_c")
    sink = _ThreadedSink(destination)
    try:
        blob = _BlobReader(source)
        for chunk in zstd.ZstdDecompressor().read_to_iter(blob, read_size=BUFFER >> 3, write_size=BUFFER):
            sink.put(chunk)
            if sink.size > output.size:
                break
    except (zstd.ZstdError, MemoryError) as error:
        raise CorruptEntry(f"the blob cannot be decompressed: {error}") from error
    finally:
        sink.close()
    _check(output, sink.size, sink.hasher.hexdigest())


class _ThreadedSink:
    """Hashes and writes in a thread of its own, at most a few chunks behind the one that puts them.

    Attributes:
        size: bytes put so far.
        hasher: of all that was put, once the sink is closed.
    """

    DEPTH = 4

    def __init__(self, destination: int) -> None:
        from _queue import SimpleQueue
        from _thread import start_new_thread

        self.destination = destination
        self.size = 0
        self.hasher = xxh3_128()
        self._chunks: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken: SimpleQueue[BaseException | None] = SimpleQueue()
        self._behind = 0
        start_new_thread(self._work, ())

    def _work(self) -> None:
        fault: BaseException | None = None
        while (chunk := self._chunks.get()) is not None:
            try:
                if fault is None:
                    self.hasher.update(chunk)
                    write_all(self.destination, chunk)
            except BaseException as caught:  # noqa: BLE001 - it is raised in the other thread
                fault = caught
            self._taken.put(fault)
        self._taken.put(fault)

    def put(self, chunk: bytes) -> None:
        """Hand over a chunk. Raises what an earlier write raised."""
        if self._behind == self.DEPTH:
            self._await()
        self._chunks.put(chunk)
        self._behind += 1
        self.size += len(chunk)

    def _await(self) -> None:
        self._behind -= 1
        fault = self._taken.get()
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Wait until all is written. Raises what a write raised."""
        self._chunks.put(None)
        self._behind += 1
        while self._behind:
            self._await()
