"""Storing blobs: hashed and compressed in one pass over the bytes, in bounded memory.

A NEFF is gzip'd by default and does not shrink again; one made for fast loading, and text, shrink 8 times and more.
So a quick probe decides: zstd level 3 where it saves at least 5 %, raw otherwise.
"""

import hashlib
import os

from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_128
from neuron_store.store.blobs import BUFFER
from neuron_store.store.direct import ENCODING_SUFFIX, INLINE_LIMIT, Output
from neuron_store.store.layout import Layout, discard, write_all

DEFAULT_LEVEL = 3
_PROBE_PIECE = 256 << 10  # bytes, from each of three places: 2 ms at level 1
_WORTH_IT = 0.95
_BLOB_MODE = 0o444


def store_blob(layout: Layout, role: str, source: int, level: int = DEFAULT_LEVEL, begin: int = 0) -> Output:
    """Store the bytes of the open, seekable file `source` from `begin` on as a blob; return its description.

    `level` is zstd's; 0 stores raw. Raises OSError (a full disk, say), and then leaves nothing behind.
    """
    size = os.fstat(source).st_size - begin
    encoding = "zst" if level and _shrinks(source, begin, size) else "raw"
    descriptor, temporary = layout.open_temporary()
    try:
        sha256, xxh3, read = _copy(source, begin, descriptor, size if encoding == "zst" else None, level)
        if read != size:
            raise OSError(  # noqa: TRY301 - what was written is thrown away below
                f"the {role} changed while it was stored"
            )
    except BaseException:
        os.close(descriptor)
        discard(temporary)
        raise
    # In place of what may be there: a blob that rotted on disk is healed by the next store of the same bytes.
    layout.publish(descriptor, temporary, layout.blob_path(sha256, ENCODING_SUFFIX[encoding]), _BLOB_MODE)
    inline = os.pread(source, size, begin) if size <= INLINE_LIMIT and role != "neff" else None
    return Output(role, sha256, xxh3, size, encoding, inline)


def _shrinks(source: int, begin: int, size: int) -> bool:
    places = (0, max(0, size // 2 - _PROBE_PIECE // 2), max(0, size - _PROBE_PIECE))
    sample = b"".join(os.pread(source, _PROBE_PIECE, begin + place) for place in dict.fromkeys(places))
    zstd = load_extension("zstandard.backend_c")
    return len(zstd.ZstdCompressor(level=1).compress(sample)) < len(sample) * _WORTH_IT


def _copy(source: int, begin: int, destination: int, frame_size: "int | None", level: int) -> tuple[str, str, int]:
    """Copy `source` from `begin`, compressed if `frame_size` is given; return sha256, xxh3 and bytes read."""
    sha256, xxh3 = hashlib.sha256(), xxh3_128()
    buffer = memoryview(bytearray(BUFFER))
    compressor = None
    if frame_size is not None:
        zstd = load_extension("zstandard.backend_c")
        compressor = zstd.ZstdCompressor(level=level, write_checksum=True).compressobj(size=frame_size)
    position = begin
    while count := os.preadv(source, [buffer], position):
        piece = buffer[:count]
        sha256.update(piece)
        xxh3.update(piece)
        position += count
        write_all(destination, piece if compressor is None else compressor.compress(piece))
    if compressor is not None:
        write_all(destination, compressor.flush())
    return sha256.hexdigest(), xxh3.hexdigest(), position - begin
