"""Entries of a stock cache, uploaded to a remote in its own layout: only what is missing, in bounded commits.

An entry is in one commit, its `model.done` last, so that nobody sees half of it. What was committed is found again by
looking: an upload that was killed, or whose answer was lost, goes on from there and sends nothing twice.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from neuron_store.cli import presentation
from neuron_store.cli.remotes import Opened
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import RemoteConflict, RemoteRefused, RemoteUnavailable
from neuron_store.store.remotes.base import Addition, RemoteFile
from neuron_store.store.stock.entries import UNFINISHED, UNREADABLE
from neuron_store.store.stock.names import DONE

_MOST_FILES = 400  # in a commit, but for an entry that has more: a hundred modules, and commits are scarce
_MOST_BYTES = 1 << 30  # in a commit, but for an entry that is larger
_LOOK_AT_ONCE = 1000  # entries
_ATTEMPTS = 8  # at one commit
_CONFLICT_PAUSE = 0.5  # seconds at most
_LONGEST_PAUSE = 60.0  # seconds
_HOUR = 3600.0  # seconds

PRESENT, DIFFERENT = "present", "different"


@dataclass
class UploadEntry:
    """An entry that a remote is to have.

    Attributes:
        name: `neuronxcc-<version>/<module>`.
        files: name below it -> path of the local file.
    """

    name: str
    files: "dict[str, str]"

    @property
    def size(self) -> int:
        """Bytes of all its files that are there."""
        return sum(max(0, _size_of(path)) for path in self.files.values())

    def paths(self) -> "list[str]":
        """Return the names that its files have in the remote, the mark that it is done last."""
        return [f"{self.name}/{name}" for name in sorted(self.files, key=lambda name: (name == DONE, name))]

    def additions(self) -> "list[Addition]":
        """Return what is to be added. Raises OSError if a file is gone."""
        return [self._addition(path) for path in self.paths()]

    def unreadable(self) -> "tuple[str, str]":
        """Return which of its local files cannot be read, and why: UNFINISHED if it is gone; ("", "") if all can."""
        for path in self.files.values():
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            except FileNotFoundError:
                return path, UNFINISHED
            except OSError:
                return path, UNREADABLE
        return "", ""

    def _addition(self, path: str) -> Addition:
        source = self.files[path.removeprefix(self.name + "/")]
        size = os.path.getsize(source)
        return Addition(path, source=source, size=size) if size else Addition(path, data=b"")


def _size_of(path: str) -> int:
    """Return a file's size in bytes, -1 if it is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


@dataclass
class Uploaded:
    """What came of an upload.

    Attributes:
        entries, bytes: that were sent.
        commits: that it took.
        left_out: reason -> how many entries.
        different: the names of those of which the remote has other bytes.
        unreadable: the paths of files that cannot be read, one for each entry that was left out for it.
        left: how many are still missing, and `fault` why, "" if none are.
    """

    entries: int = 0
    bytes: int = 0
    commits: int = 0
    left: int = 0
    fault: str = ""
    left_out: "Counter[str]" = field(default_factory=Counter)
    different: "list[str]" = field(default_factory=list)
    unreadable: "list[str]" = field(default_factory=list)


class StockUpload:
    """Uploads entries to one remote."""

    def __init__(self, opened: Opened, settings: Settings, *, replace: bool = False, timeout: float = 0.0) -> None:
        """With `replace`, an entry of which the remote has other bytes is sent all the same.

        No commit is begun more than `timeout` seconds from now; 0: no end.
        """
        self.made = Uploaded()
        self._opened = opened
        self._settings = settings
        self._replace = replace
        self._end = time.monotonic() + timeout if timeout else float("inf")

    def send(self, entries: "Sequence[UploadEntry]", advance: "Callable[[int, int], None]") -> None:
        """Send what is missing of `entries`; `advance(bytes, entries)` is called as they arrive.

        Raises RemoteRefused. What cannot be sent now is counted as left, with the reason.
        """
        for start in range(0, len(entries), _LOOK_AT_ONCE):
            group = entries[start : start + _LOOK_AT_ONCE]
            try:
                missing = self._missing(group)
            except RemoteUnavailable as error:
                self._leave(len(entries) - start, str(error))
                return
            advance(0, len(group) - len(missing))
            missing = self._readable(missing)
            sent = 0
            for batch in _batches(missing):
                fault = self._commit(batch, advance) if time.monotonic() < self._end else "the time is up"
                if fault:
                    self._leave(len(entries) - start - len(group) + len(missing) - sent, fault)
                    return
                sent += len(batch)

    def _leave(self, count: int, fault: str) -> None:
        self.made.left += count
        self.made.fault = fault

    # -- what is missing ---------------------------------------------------------------------------------------------

    def _missing(self, entries: "Iterable[UploadEntry]") -> "list[UploadEntry]":
        """Return those of which the remote lacks a file, and count the others."""
        entries = list(entries)
        there = self._look(entries)
        missing = []
        for entry in entries:
            found = [there.get(path) for path in entry.paths()]
            differs = any(self._differs(entry, file) for file in found if file is not None)
            if all(found) and not differs:
                self.made.left_out[PRESENT] += 1
            elif differs and not self._replace:
                self.made.left_out[DIFFERENT] += 1
                self.made.different.append(entry.name)
            else:
                missing.append(entry)
        return missing

    def _readable(self, entries: "Iterable[UploadEntry]") -> "list[UploadEntry]":
        """Return those whose files can be read, and count the others: one of them must not keep the rest from going."""
        readable = []
        for entry in entries:
            path, reason = entry.unreadable()
            if reason:
                self.made.left_out[reason] += 1
                self.made.unreadable.append(path)
            else:
                readable.append(entry)
        return readable

    def _look(self, entries: "Iterable[UploadEntry]") -> "dict[str, RemoteFile]":
        paths = [path for entry in entries for path in entry.paths()]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._opened.remote.look_up(paths)
            except RemoteUnavailable as error:
                if attempt == _ATTEMPTS:
                    raise
                self._pause(attempt, error)
        raise AssertionError

    def _differs(self, entry: UploadEntry, file: RemoteFile) -> bool:
        local = entry.files[file.path.removeprefix(entry.name + "/")]
        return file.size >= 0 and file.size != _size_of(local) >= 0

    # -- commits -----------------------------------------------------------------------------------------------------

    def _commit(self, batch: "list[UploadEntry]", advance: "Callable[[int, int], None]") -> str:
        """Send a batch by one commit; return why it could not be, "" if it could."""
        sent: list[UploadEntry] = []
        left = batch
        for attempt in range(1, _ATTEMPTS + 1):
            if wait := self._wait_for_budget():
                return (
                    f"this host has made the commits that it may make in an hour; the next in {wait / 60:.0f} minutes"
                )
            fault = self._try(left)
            if fault is None:
                sent += left
                break
            if attempt == _ATTEMPTS:
                return str(fault)
            if isinstance(fault, RemoteUnavailable):
                self._pause(attempt, fault)
            try:
                there = self._look(left)
            except RemoteUnavailable as error:
                return str(error)
            # The answer may have been lost, and not the commit.
            arrived = [entry for entry in left if all(path in there for path in entry.paths())]
            sent += arrived
            left = self._readable([entry for entry in left if entry not in arrived])
            if not left:
                break
        size = sum(entry.size for entry in sent)
        self.made.commits += bool(sent)
        self.made.entries += len(sent)
        self.made.bytes += size
        advance(size, len(batch))
        return ""

    def _try(self, entries: "list[UploadEntry]") -> "RemoteUnavailable | OSError | None":
        """Make one commit; return what went wrong. Raises RemoteRefused."""
        state = self._opened.state
        state.note_commit()
        try:
            additions = [addition for entry in entries for addition in entry.additions()]
            self._opened.remote.add(additions, f"Add {presentation.plural(len(entries), 'module')}")
        except RemoteRefused:
            state.take_back_commit()
            raise
        except RemoteUnavailable as error:
            return error
        except OSError as error:  # of a local file, before anything was committed
            state.take_back_commit()
            return error
        return None

    def _wait_for_budget(self) -> float:
        commits = self._opened.state.commits_in_hour()
        allowed = self._settings.upload_commits_per_hour
        if not self._opened.remote.counts_commits or len(commits) < allowed:
            return 0.0
        return max(0.0, commits[-allowed] + _HOUR - time.time())

    def _pause(self, attempt: int, error: RemoteUnavailable) -> None:
        if isinstance(error, RemoteConflict):
            seconds = random.uniform(0.0, _CONFLICT_PAUSE * attempt)  # noqa: S311 - jitter
        else:
            seconds = self._settings.upload_retry * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        time.sleep(min(max(seconds, error.retry_after or 0.0), _LONGEST_PAUSE))


def _batches(entries: "Iterable[UploadEntry]") -> "Iterator[list[UploadEntry]]":
    """Yield entries by commits."""
    batch: list[UploadEntry] = []
    files = size = 0
    for entry in entries:
        if batch and (files + len(entry.files) > _MOST_FILES or size + entry.size > _MOST_BYTES):
            yield batch
            batch, files, size = [], 0, 0
        batch.append(entry)
        files += len(entry.files)
        size += entry.size
    if batch:
        yield batch
