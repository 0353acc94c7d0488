"""What the Hub says a file's content is, and whether it is that: huggingface_hub itself only compares sizes."""

import hashlib

from neuron_store.store.layout import is_hex

_LARGEST_GIT_FILE = 16 << 20  # bytes; the Hub takes none above 10 MiB that is no LFS object


class ContentDigest:
    """The digests that the Hub tells of a file: of an LFS object its SHA-256, of any other the SHA-1 of its git blob."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._pieces: list[bytes] | None = []  # of a small file: a git blob begins with its size
        self._size = 0

    def update(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(piece)
        self._size += len(piece)
        if self._pieces is not None:
            self._pieces.append(piece)
            if self._size > _LARGEST_GIT_FILE:
                self._pieces = None

    def fits(self, tag: str) -> bool:
        """Tell whether `tag`, an ETag without its quotes, may be of these bytes: what is no digest fits all."""
        if is_hex(tag, 64):
            return self._sha256.hexdigest() == tag
        if is_hex(tag, 40) and self._pieces is not None:
            sha1 = hashlib.sha1(b"blob %d\0" % self._size, usedforsecurity=False)
            for piece in self._pieces:
                sha1.update(piece)
            return sha1.hexdigest() == tag
        return True
