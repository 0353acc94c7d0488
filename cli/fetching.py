"""Fetch many results at once: several threads, each with connections of its own, and nothing half done left behind.

A request costs its latency, so threads hide it; a result is one request for its record and one for each of its blobs.
What fails for a while is tried again; a remote that refuses, or fails again and again, is not asked for the rest.
"""

import os
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

from neuron_store.shim.remote_hits import remote_options
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import (
    ConfigurationError,
    CorruptRemote,
    RemoteError,
    RemoteRefused,
    RemoteUnavailable,
    StoreUnavailable,
)
from neuron_store.store.layout import Layout, discard
from neuron_store.store.remotes.base import Remote
from neuron_store.store.remotes.fetch import fetch_blobs, fetch_record
from neuron_store.store.remotes.http_reader import ReadLimits
from neuron_store.store.remotes.location import Location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.records import Record
from neuron_store.store.results import Result, save_result
from neuron_store.store.writing import Writing

DEFAULT_THREADS = 16
_ATTEMPTS = 4
_CORRUPT_ATTEMPTS = 2  # bytes may also flip on the way
_FIRST_PAUSE = 0.3  # seconds, doubled each time
_LONGEST_PAUSE = 30.0  # seconds that a remote may make us wait before it is tried again
_FARE_WELL = 0.5  # seconds for threads to end by themselves after Ctrl-C


@dataclass
class Wanted:
    """A result to be fetched.

    Attributes:
        sources: which remotes have it (by their place in the list) and under which compiler version, in order.
    """

    key: str
    sources: list[tuple[int, str]]


@dataclass
class Fetched:
    """What came of it.

    Attributes:
        results, bytes: that came.
        corrupt, failed: key -> what is wrong.
    """

    results: int = 0
    bytes: int = 0
    corrupt: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class _Link:
    """One remote, as all threads see it.

    Attributes:
        broken: why it is not asked any more, "" as long as it is.
    """

    def __init__(self, location: Location, most_failures: int) -> None:
        self.location = location
        self.broken = ""
        self._failures = 0
        self._most = most_failures

    def note_success(self) -> None:
        """It works."""
        self._failures = 0

    def note_failure(self, error: RemoteError) -> None:
        """A result could not be had from it, in spite of all attempts."""
        self._failures += 1
        if isinstance(error, RemoteRefused) or self._failures >= self._most:
            self.broken = str(error)


class _StoppedError(Exception):
    """The user wants no more."""


class Watched:
    """A remote whose downloads can be watched, and stop between two files."""

    def __init__(self, remote: Remote, fetcher: "Fetcher") -> None:
        self.remote = remote
        self._fetcher = fetcher

    def download(self, path: str, size: int, destination: int) -> None:
        """See Remote."""
        with self._fetcher.watching(destination):
            self.remote.download(path, size, destination)

    def take(self, path: str, limit: int, destination: int) -> "int | None":
        """See Remote."""
        with self._fetcher.watching(destination):
            return self.remote.take(path, limit, destination)

    def read_checked(self, path: str, limit: int) -> "bytes | None":
        """See Remote."""
        return self.remote.read_checked(path, limit)


class _Watching:
    """While it is entered, the fetcher knows of an open file."""

    def __init__(self, fetcher: "Fetcher", descriptor: int) -> None:
        self._fetcher = fetcher
        self._descriptor = descriptor

    def __enter__(self) -> None:
        if self._fetcher.stopped.is_set():
            raise _StoppedError
        with self._fetcher.lock:
            self._fetcher.open_files.add(self._descriptor)

    def __exit__(self, *_exception: object) -> None:
        with self._fetcher.lock:
            self._fetcher.open_files.discard(self._descriptor)


class Fetcher:
    """Fetches results into the local store.

    Attributes:
        made: what came of it so far.
        stopped: set when no more is to be fetched.
        lock: over `made` and `open_files`.
        open_files: that are being written.
    """

    def __init__(self, layout: Layout, locations: list[Location], settings: Settings, threads: int) -> None:
        self.made = Fetched()
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.open_files: set[int] = set()
        self._layout = layout
        self._settings = settings
        self._options = shared_options(settings, threads)
        self._links = [_Link(location, threads) for location in locations]
        self._waiting: deque[Wanted] = deque()
        self._fault: BaseException | None = None
        self._number = threads

    def watching(self, descriptor: int) -> _Watching:
        """Return a context in which `descriptor` is counted as being written."""
        return _Watching(self, descriptor)

    def start(self, wanted: list[Wanted]) -> list[threading.Thread]:
        """Begin to fetch, and return the threads that do."""
        self._waiting = deque(wanted)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(self._number, len(wanted)))]
        for thread in threads:
            thread.start()
        return threads

    def finish(self) -> None:
        """Raise what ended the threads early. Raises StoreUnavailable, or whatever it was."""
        if isinstance(self._fault, OSError):
            raise StoreUnavailable(
                f"the store {self._layout.root} cannot be written ({self._fault.strerror or self._fault}); "
                "free it, change its owner, or set NEURON_STORE_DIR to another folder"
            ) from self._fault
        if self._fault is not None:
            raise self._fault

    def stop(self, threads: list[threading.Thread]) -> None:
        """End early: what is not whole is thrown away."""
        self.stopped.set()
        end = time.monotonic() + _FARE_WELL
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self.lock:
            for descriptor in self.open_files:
                discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    def bytes_so_far(self) -> int:
        """Return how many bytes came, those of files that are not whole yet included."""
        with self.lock:
            return self.made.bytes + sum(os.fstat(descriptor).st_size for descriptor in self.open_files)

    # -- in the threads --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        remotes: dict[int, Watched] = {}
        try:
            while not self.stopped.is_set():
                try:
                    wanted = self._waiting.popleft()
                except IndexError:
                    return
                self._fetch(wanted, remotes)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again by finish
            self._fault = error
            self.stopped.set()
        finally:
            for watched in remotes.values():
                watched.remote.close()

    def _fetch(self, wanted: Wanted, remotes: dict[int, Watched]) -> None:
        """Fetch one result from the first remote that can give it, and note what came of it."""
        corrupt, failed = [], []
        for place, version in wanted.sources:
            link = self._links[place]
            if link.broken:
                failed.append(link.broken)
                continue
            if place not in remotes:
                opened, _ = open_remote(link.location, self._layout, os.environ, self._options)
                remotes[place] = Watched(opened, self)
            try:
                received = self._fetch_patiently(remotes[place], version, wanted.key)
            except CorruptRemote as error:
                corrupt.append(str(error))
            except (RemoteError, ConfigurationError) as error:
                failed.append(str(error))
                link.note_failure(error if isinstance(error, RemoteError) else RemoteRefused(str(error)))
            else:
                link.note_success()
                with self.lock:
                    self.made.results += 1
                    self.made.bytes += received
                return
        with self.lock:
            (self.made.corrupt if corrupt else self.made.failed)[wanted.key] = "; ".join(corrupt or failed)

    def _fetch_patiently(self, watched: Watched, version: str, key: str) -> int:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self.fetch_once(watched, version, key)
            except CorruptRemote:
                if attempt >= _CORRUPT_ATTEMPTS:
                    raise
            except RemoteUnavailable as error:
                if attempt == _ATTEMPTS:
                    raise
                self._pause(attempt, error.retry_after)
        raise AssertionError

    def _pause(self, attempt: int, asked: "float | None") -> None:
        pause = _FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        if self.stopped.wait(min(max(pause, asked or 0.0), _LONGEST_PAUSE)):
            raise _StoppedError

    def fetch_once(self, watched: Watched, version: str, key: str) -> int:
        """Fetch one result; return how many bytes came. Raises CorruptRemote, RemoteUnavailable, RemoteRefused, OSError."""
        record = fetch_record(watched.remote, version, key, self._options.largest)
        if record is None:
            raise CorruptRemote("its record is listed, but not there")
        writing = Writing(self._layout)
        with writing, self.watching(writing.descriptor):
            received = fetch_blobs(cast("Remote", watched), self._layout, record, with_inputs=True)
            save_result(self._layout, as_kept(record, watched.remote.url))
        return received


def as_kept(record: Record, url: str) -> Result:
    """Return what the local store records of a fetched result, its inputs included. The blobs must be there already."""
    result = record.as_result(url)
    result.input["files"] = [
        {
            "kind": blob.kind,
            "name": blob.name,
            "sha256": blob.output.sha256,
            "xxh3": blob.output.xxh3,
            "size": blob.output.size,
            "encoding": blob.output.encoding,
        }
        for blob in record.inputs
    ]
    return result


def shared_options(settings: Settings, threads: int) -> RemoteOptions:
    """Return options for threads that share a link: each may be so many times slower."""
    options = remote_options(settings, may_fork=False)
    limits = options.limits
    options.limits = ReadLimits(limits.connect, limits.first_byte, limits.min_rate / threads)
    return options
