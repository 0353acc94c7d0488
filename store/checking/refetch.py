"""Getting from remotes what a repair lacks: one blob of a result, or a whole result in place of what is damaged.

Nothing is believed that `pull` would not believe: what comes has the SHA-256 that its record tells. Where the local
record is whole, the remote's must be of the same inputs.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from neuron_store.store.direct import ENCODING_SUFFIX
from neuron_store.store.errors import CorruptRemote, RemoteError, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout, discard, write_all
from neuron_store.store.remotes.base import Remote, record_path, version_folder, versions_of
from neuron_store.store.remotes.fetch import Expected, fetch_blobs, fetch_record, require_expected
from neuron_store.store.remotes.records import Record, StoredBlob
from neuron_store.store.remotes.stored_bytes import content_fault, measure_stored
from neuron_store.store.results import Result, save_result
from neuron_store.store.writing import Writing

_BLOB_MODE = 0o444
_ATTEMPTS = 3
_PAUSE = 0.3  # seconds, doubled each time
_LONGEST_PAUSE = 30.0  # seconds that a remote may make us wait
Answer = TypeVar("Answer")


class NoAnswerError(Exception):
    """A remote that may have it cannot be asked: there is still hope. The message says which, and why."""


class Source:
    """A remote that is asked, and what became of asking it.

    Attributes:
        remote: itself.
        spare: whether it only stands there by default, so that nobody hopes for it when it does not answer.
        broken: why it is not asked any more, "" as long as it is.
        bytes: that came from it.
    """

    def __init__(self, remote: Remote, *, spare: bool) -> None:
        self.remote = remote
        self.spare = spare
        self.broken = ""
        self.bytes = 0
        self._versions: list[str] | None = None

    def versions(self) -> list[str]:
        """Return the compiler versions that it has results of. Raises RemoteError."""
        if self._versions is None:
            self._versions = versions_of(self.ask(self.remote.folders))
        return self._versions

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return what `question` returns, patiently. Raises RemoteError."""
        for attempt in range(_ATTEMPTS):
            try:
                return question()
            except RemoteUnavailable as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(min(max(_PAUSE * 2**attempt, error.retry_after or 0.0), _LONGEST_PAUSE))
        raise AssertionError


class Refetcher:
    """Asks remotes, in order.

    `as_kept` makes of a record what the local store records of it; `largest` is the bytes beyond which an output is
    not taken.
    """

    def __init__(
        self, layout: Layout, sources: Sequence[Source], as_kept: Callable[[Record, str], Result], largest: int
    ) -> None:
        self._layout = layout
        self._sources = sources
        self._as_kept = as_kept
        self._largest = largest

    def find(self, key: str, known: "Result | None", version: str) -> "Iterator[tuple[Source, Record]]":
        """Yield the remotes' records of a result, of the same inputs as `known` if that is there.

        `version` is the compiler's, "" where it is not known. Raises NoAnswerError at the end if a remote that may have
        it did not answer.
        """
        silent = []
        for source in self._sources:
            if not source.broken:
                try:
                    record = self._record(source, key, known, version)
                except RemoteError as error:
                    source.broken = str(error)
                else:
                    if record is not None:
                        yield source, record
            if source.broken and not source.spare:
                silent.append(source.broken)
        if silent:
            raise NoAnswerError("; ".join(silent))

    def _record(self, source: Source, key: str, known: "Result | None", version: str) -> "Record | None":
        versions = [version] if version else self._versions_with(source, key)
        for name in versions:
            try:
                record = source.ask(lambda name=name: fetch_record(source.remote, name, key, self._largest))  # type: ignore[misc]
                if record is not None and known is not None and "proof" in known.input:
                    require_expected(record, Expected(known.input["sha256"], known.input["proof"]))
            except CorruptRemote:
                continue
            if record is not None:
                return record
        return None

    @staticmethod
    def _versions_with(source: Source, key: str) -> list[str]:
        paths = {record_path(version_folder(version), key): version for version in source.versions()}
        found = source.ask(lambda: source.remote.look_up(list(paths))) if paths else {}
        return [paths[path] for path in found]

    def blob(self, key: str, known: Result, sha256: str, make_room: Callable[[], None]) -> str:
        """Bring one blob of a result into the store; return where it came from, "" if no remote has it.

        `make_room` is called before it gets its name. Raises NoAnswerError, OSError.
        """
        version = str(known.provenance.get("compiler_version") or "")
        for source, record in self.find(key, known, version):
            for blob in (*record.outputs, *record.inputs):
                if blob.output.sha256 == sha256 and self._bring(source, record, blob, make_room):
                    return source.remote.url
        return ""

    def _bring(self, source: Source, record: Record, blob: StoredBlob, make_room: Callable[[], None]) -> bool:
        output = blob.output
        descriptor, temporary = self._layout.open_temporary()
        try:
            if not self._download(source, record, blob, descriptor):
                os.close(descriptor)
                discard(temporary)
                return False
            make_room()
        except BaseException:
            os.close(descriptor)
            discard(temporary)
            raise
        path = self._layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding])
        self._layout.publish(descriptor, temporary, path, _BLOB_MODE)
        return True

    @staticmethod
    def _download(source: Source, record: Record, blob: StoredBlob, descriptor: int) -> bool:
        """Write a blob's stored bytes to an open file; return whether they are what the record tells."""
        if blob.output.inline is not None:
            write_all(descriptor, blob.output.inline)
            return True
        path = blob.remote_path(version_folder(record.compiler_version))

        def download() -> None:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            source.remote.download(path, blob.stored_size, descriptor)

        try:
            source.ask(download)
        except CorruptRemote:
            return False
        except (RemoteUnavailable, RemoteRefused) as error:
            source.broken = str(error)
            return False
        source.bytes += blob.stored_size
        told = (blob.stored_size, blob.stored_sha256)
        return measure_stored(descriptor) == told and not content_fault(blob.output, descriptor)

    def result(self, key: str, known: "Result | None", version: str, make_room: Callable[[], None]) -> str:
        """Bring a whole result into the store; return where it came from, "" if no remote has it.

        `make_room` is called before it is saved. Raises NoAnswerError, OSError.
        """
        for source, record in self.find(key, known, version):
            try:
                with Writing(self._layout):
                    source.bytes += source.ask(
                        lambda source=source, record=record: fetch_blobs(  # type: ignore[misc]
                            source.remote, self._layout, record, with_inputs=True
                        )
                    )
                    make_room()
                    save_result(self._layout, self._as_kept(record, source.remote.url))
            except CorruptRemote:
                continue
            except (RemoteUnavailable, RemoteRefused) as error:
                source.broken = str(error)
                continue
            return source.remote.url
        return ""
