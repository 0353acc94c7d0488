"""Blobs: each is the content that its name says, and the content that the records say."""

import os
import re
import time
from dataclasses import dataclass, field

from neuron_store.store.checking.faults import DAMAGED_BLOB, ORPHAN_BLOB, STALE_LOCK, TRUNCATED, WRONG_NAME, Finding
from neuron_store.store.checking.measuring import MAGIC, Measured, measure
from neuron_store.store.checking.record_files import UNTOLD
from neuron_store.store.checking.view import BLOB_MODE, View
from neuron_store.store.collection.removal import ASIDE
from neuron_store.store.direct import ENCODING_SUFFIX
from neuron_store.store.layout import BLOB_LENGTH, is_hex

STALE = 86400.0  # seconds; what nobody holds and is older was left by someone who died
_COPYING = re.compile(r"\.[0-9a-f]{32,64}(\.zst)?\.\d+-[0-9a-f]{12}")  # see layout.py: blobs/ on another disk

Told = dict[bytes, tuple[int, bytes]]  # what records say of each blob: SHA-256 -> size in bytes, XXH3-128


@dataclass
class LookedAtBlobs:
    """What was found in some folders of blobs.

    Attributes:
        whole: the digests of blobs that are what records say.
        suspects: findings that hold only if records still say so, each with the digest that is meant.
        unnamed: blobs that no record names, likewise.
        findings: that hold whatever records say.
        files, bytes: that were read.
    """

    whole: list[bytes] = field(default_factory=list)
    suspects: list[tuple[bytes, Finding]] = field(default_factory=list)
    unnamed: list[tuple[bytes, Finding]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


class Seen:
    """Files that were found whole before: those that have not changed since are not read again."""

    def __init__(self) -> None:
        self._whole: set[tuple[int, int]] = set()

    def has(self, status: os.stat_result) -> bool:
        """Tell whether the file of this status was found whole."""
        return (status.st_ino, status.st_ctime_ns) in self._whole

    def add(self, status: os.stat_result) -> None:
        """Note that it is whole."""
        self._whole.add((status.st_ino, status.st_ctime_ns))


def look_at_blobs(view: View, folder: str, told: Told, seen: "Seen | None") -> LookedAtBlobs:
    """Look at the blobs in one folder; `told` is what all records say."""
    looked = LookedAtBlobs()
    paths = [entry.path for entry in view.listing(folder, looked.findings)]
    _Look(view, told, seen, looked).at_files(paths)
    return looked


def look_at_blob_file(view: View, path: str, told: Told, seen: "Seen | None") -> LookedAtBlobs:
    """Look at one blob."""
    looked = LookedAtBlobs()
    _Look(view, told, seen, looked).at_files([path])
    return looked


def is_young(path: str) -> bool:
    """Tell whether a file was changed within the last day, or is gone."""
    try:
        return time.time() - os.stat(path, follow_symlinks=False).st_mtime < STALE
    except OSError:
        return True


def digest_in_place(view: View, path: str) -> "tuple[bytes, str]":
    """Return digest and encoding of the blob whose right path this is; b"" and "" if it is none's."""
    name = os.path.basename(path)
    sha256, suffix = (name[:-4], ".zst") if name.endswith(".zst") else (name, "")
    if not is_hex(sha256, BLOB_LENGTH) or path != view.layout.blob_path(sha256, suffix):
        return b"", ""
    return bytes.fromhex(sha256), "zst" if suffix else "raw"


class _Look:
    def __init__(self, view: View, told: Told, seen: "Seen | None", looked: LookedAtBlobs) -> None:
        self._view = view
        self._told = told
        self._seen = seen
        self._looked = looked

    def at_files(self, paths: list[str]) -> None:
        """Look at each of these files."""
        view, looked = self._view, self._looked
        for path in paths:
            name = os.path.basename(path)
            if name.startswith(ASIDE) or _COPYING.fullmatch(name):
                if not is_young(path):
                    looked.findings.append(Finding(STALE_LOCK, view.below(path), "whoever wrote it has ended"))
                continue
            begun = len(looked.findings)
            descriptor = view.open(path, BLOB_MODE, looked.findings)
            if descriptor < 0:
                self._note_unreadable(path, begun)
                continue
            try:
                self._at(path, descriptor)
            finally:
                os.close(descriptor)

    def _note_unreadable(self, path: str, begun: int) -> None:
        """Let the finding for a blob that cannot be opened depend on records like any other of a blob."""
        digest, _ = digest_in_place(self._view, path)
        if digest in self._told and len(self._looked.findings) > begun:
            finding = self._looked.findings.pop()
            finding.sha256 = digest.hex()
            self._looked.suspects.append((digest, finding))

    def _at(self, path: str, descriptor: int) -> None:
        digest, encoding = digest_in_place(self._view, path)
        status = os.fstat(descriptor)
        known = digest in self._told
        self._looked.files += 1
        if known and self._seen is not None and self._seen.has(status):
            self._looked.whole.append(digest)
            return
        compressed = encoding == "zst" or (not encoding and path.endswith(".zst"))
        self._looked.bytes += status.st_size
        try:
            found = measure(descriptor, compressed=compressed)
            meant = (
                None
                if digest and found.sha256 == digest
                else self._other_content(descriptor, found, compressed=compressed)
            )
        except OSError as error:
            self._suspect(DAMAGED_BLOB, path, f"it cannot be read: {error.strerror}", digest)
            return
        if known and self._is_as_told(digest, found):
            self._looked.whole.append(digest)
            if self._seen is not None:
                self._seen.add(status)
        elif meant is not None:
            target = self._view.below(self._view.layout.blob_path(meant[0].hex(), ENCODING_SUFFIX[meant[1]]))
            self._suspect(WRONG_NAME, path, f"it is the blob {meant[0].hex()}", meant[0], target)
        elif known:
            self._tell_damage(path, digest, found, status.st_size, compressed=compressed)
        elif digest:
            detail = "no result names it" + ("" if found.sha256 == digest else ", and it is damaged")
            finding = Finding(ORPHAN_BLOB, self._view.below(path), detail, sha256=digest.hex())
            self._looked.unnamed.append((digest, finding))
        else:
            self._looked.findings.append(self._view.foreign(path))

    def _is_as_told(self, digest: bytes, found: Measured) -> bool:
        size, xxh3 = self._told[digest]
        return found.sha256 == digest and (size == UNTOLD or (found.size, found.xxh3) == (size, xxh3))

    def _tell_damage(self, path: str, digest: bytes, found: Measured, stored: int, *, compressed: bool) -> None:
        size, _ = self._told[digest]
        if found.truncated or (not compressed and size > found.size):
            of = "" if compressed or size == UNTOLD else f" of {size}"
            self._suspect(TRUNCATED, path, f"it ends too early, after {stored}{of} bytes", digest)
        elif found.sha256 == digest:
            self._suspect(DAMAGED_BLOB, path, "its record tells another size of it", digest)
        else:
            self._suspect(DAMAGED_BLOB, path, found.fault or "its content is not what its name says", digest)

    def _suspect(self, kind: str, path: str, detail: str, digest: bytes, target: str = "") -> None:
        finding = Finding(kind, self._view.below(path), detail, sha256=digest.hex(), target=target)
        self._looked.suspects.append((digest, finding))

    def _other_content(self, descriptor: int, found: Measured, *, compressed: bool) -> "tuple[bytes, str] | None":
        """Return digest and encoding of a blob that records name, if this file holds it under another's name."""
        if found.sha256 in self._told:
            return found.sha256, "zst" if compressed else "raw"
        if not compressed and os.pread(descriptor, len(MAGIC), 0) != MAGIC:
            return None
        other = measure(descriptor, compressed=not compressed)
        return (other.sha256, "raw" if compressed else "zst") if other.sha256 in self._told else None
