"""Reading blobs: bytes that are served only if they are the bytes that were stored.

A blob's content is written to its destination while it is hashed, and only a caller that sees no error gives the
destination its name. Memory stays at a few buffers however large the blob is.
"""

import os

from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.store.direct import ENCODING_SUFFIX, Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, write_all

BUFFER = 1 << 20  # bytes
_SMALL = 8 << 20  # bytes; below it, one read, one decompression and one write are the fastest
_PIPELINED = 32 << 20  # bytes; above it, a second thread writes while this one decompresses and hashes


class MissingBlob(CorruptEntry):
    """A result names a blob that is not there: the result is not valid."""


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
        return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingBlob(f"the blob {output.sha256} is gone from the store {layout.root}") from error


def _check(output: Output, size: int, xxh3: str) -> None:
    if size != output.size or xxh3 != output.xxh3:
        raise CorruptEntry(f"the blob {output.sha256} is not what was stored")


def _content(output: Output, source: int) -> bytes:
    stored = bytearray()
    while chunk := os.read(source, _SMALL):
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
        return zstd.ZstdDecompressor().decompress(stored)  # type: ignore[no-any-return]
    except (zstd.ZstdError, MemoryError) as error:
        raise CorruptEntry(f"the blob cannot be decompressed: {error}") from error


def _copy_raw(output: Output, source: int, destination: int) -> None:
    hasher = xxh3_128()
    buffer = memoryview(bytearray(BUFFER))
    size = 0
    while count := os.readv(source, [buffer]):
        hasher.update(buffer[:count])
        write_all(destination, buffer[:count])
        size += count
    _check(output, size, hasher.hexdigest())


def _decompress(output: Output, source: int, destination: int) -> None:
    zstd = load_extension("zstandard.backend_c")
    hasher = xxh3_128()
    size = 0
    with open(source, "rb", buffering=0, closefd=False) as file:
        sink = _ThreadedSink(destination) if output.size > _PIPELINED else _Sink(destination)
        try:
            chunks = zstd.ZstdDecompressor().read_to_iter(file, read_size=BUFFER >> 3, write_size=BUFFER)
            for chunk in chunks:
                size += len(chunk)
                if size > output.size:
                    break
                hasher.update(chunk)
                sink.write(chunk)
        except (zstd.ZstdError, MemoryError) as error:
            raise CorruptEntry(f"the blob cannot be decompressed: {error}") from error
        finally:
            sink.close()
    _check(output, size, hasher.hexdigest())


class _Sink:
    """Writes in the calling thread."""

    def __init__(self, destination: int) -> None:
        self.destination = destination

    def write(self, chunk: bytes) -> None:
        write_all(self.destination, chunk)

    def close(self) -> None:
        pass


class _ThreadedSink(_Sink):
    """Writes in a thread of its own, at most a few chunks behind."""

    DEPTH = 4

    def __init__(self, destination: int) -> None:
        from _queue import SimpleQueue
        from _thread import start_new_thread

        super().__init__(destination)
        self.chunks: SimpleQueue[bytes | None] = SimpleQueue()
        self.written: SimpleQueue[OSError | None] = SimpleQueue()
        self.behind = 0
        self.ended = False
        start_new_thread(self._work, ())

    def _work(self) -> None:
        error = None
        while (chunk := self.chunks.get()) is not None:
            try:
                if error is None:
                    write_all(self.destination, chunk)
            except OSError as caught:
                error = caught
            self.written.put(error)
        self.written.put(error)

    def write(self, chunk: bytes) -> None:
        if self.behind == self.DEPTH:
            self._await_one()
        self.chunks.put(chunk)
        self.behind += 1

    def _await_one(self) -> None:
        self.behind -= 1
        error = self.written.get()
        if error is not None:
            raise error

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            self.chunks.put(None)
            self.behind += 1
            error = None
            while self.behind:
                self.behind -= 1
                error = self.written.get() or error
            if error is not None:
                raise error
