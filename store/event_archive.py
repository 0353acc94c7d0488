"""Old files of the event log summed up and removed, so that the log does not grow for ever.

A file whose day is more than a week ago (or two days, if it is large) is written anew: hits, bypasses and uploads that
differ only in their time, run and own milliseconds become one line with their `count`. Misses, errors and audits stay
line by line: each took a compile, so there are not many, and they are what a person asks about later. The first line
of such a file says that it is summed up. Files older than a given age are removed.
"""

import calendar
import collections
import os
import time
from collections.abc import Iterable

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.events import Event, encode_event, event_files, parse_event
from neuron_store.store.layout import Layout, discard, write_all
from neuron_store.store.remotes.answers import decode_answers, encode_answer
from neuron_store.store.upload_lock import UploadLock

_HEADER = b"# summed up by neuron-store, version 1\n"
_DAY = 86400.0  # seconds
_AFTER, _LARGE_AFTER = 7 * _DAY, 2 * _DAY
_LARGE = 32 << 20  # bytes
_LOCK = "event-archive"
_KEPT_WHOLE = ("miss_", "error_", "audit_")
_LEFT_OUT = ("run", "ms", "seconds", "bytes", "fetched", "asked", "count", "unknown")


def has_old_events(layout: Layout, longest: float) -> bool:
    """Tell whether a file of the log is due to be summed up, or to be removed after `longest` seconds."""
    return any(_is_expired(path, longest) or _is_due(path) for path in event_files(layout))


def archive_events(layout: Layout, longest: float) -> "tuple[int, int]":
    """Sum up or remove what is due; return how many files were summed up and how many removed.

    `longest`: seconds that events are kept; 0: for ever. One process at a time does it; the others return at once.
    Safe to be killed at any moment. Raises OSError where the store cannot be written.
    """
    lock = UploadLock(layout, _LOCK)
    if not os.path.isdir(f"{layout.root}/events") or not lock.try_take():
        return 0, 0
    summed = removed = 0
    try:
        for path in event_files(layout):
            if _is_expired(path, longest):
                discard(path)
                removed += 1
            elif _is_due(path):
                summed += _sum_up(layout, path)
    finally:
        lock.release()
    return summed, removed


def _ended(path: str) -> float:
    """Return the seconds since a file's day ended; negative for today, and for what is no file of the log."""
    try:
        begun = time.strptime(os.path.basename(path)[:10], "%Y-%m-%d")
    except ValueError:
        return -_DAY
    return time.time() - calendar.timegm(begun) - _DAY


def _is_expired(path: str, longest: float) -> bool:
    return 0 < longest < _ended(path)


def _is_due(path: str) -> bool:
    ended = _ended(path)
    if ended < _LARGE_AFTER:
        return False
    try:
        descriptor = open_regular(path)
    except OSError:
        return False
    try:
        large = os.fstat(descriptor).st_size > _LARGE
        return (large or ended >= _AFTER) and os.pread(descriptor, len(_HEADER), 0) != _HEADER
    finally:
        os.close(descriptor)


def _sum_up(layout: Layout, path: str) -> bool:
    """Write one file anew, unless it cannot be read."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        events = (parse_event(line.decode("utf-8", "surrogateescape")) for line in file)
        lines = summed_up(event for event in events if event is not None)
        read = file.tell()
        layout.write_file(path, _HEADER + b"".join(map(encode_event, lines)))
        _add_what_came(path, file.fileno(), read)
    return True


def _add_what_came(path: str, old: int, position: int) -> None:
    """Append what a process whose clock is days behind wrote to the old file meanwhile."""
    while late := os.pread(old, 1 << 20, position):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            write_all(descriptor, late)
        finally:
            os.close(descriptor)
        position += len(late)


def summed_up(events: Iterable[Event]) -> "list[Event]":
    """Return the lines that say of `events` what is kept of them, in the order in which each kind came first."""
    lines: list[Event | _Sum] = []
    sums: dict[tuple[str, ...], _Sum] = {}
    for event in events:
        if event.outcome.startswith(_KEPT_WHOLE):
            lines.append(event)
            continue
        shared = {name: value for name, value in event.fields.items() if name not in _LEFT_OUT}
        if event.outcome.startswith("upload_"):
            shared.pop("key", None)
        identity = (event.outcome, *(f"{name}={value}" for name, value in sorted(shared.items())))
        if identity not in sums:
            sums[identity] = _Sum(event, shared)
            lines.append(sums[identity])
        sums[identity].add(event)
    return [line if isinstance(line, Event) else line.event() for line in lines]


class _Sum:
    """Events of one kind."""

    def __init__(self, first: Event, shared: "dict[str, str]") -> None:
        self._first = first
        self._shared = shared
        self._count = self._unknown = self._bytes = self._fetched = 0
        self._seconds = 0.0
        self._asked: collections.Counter[tuple[str, float, str]] = collections.Counter()

    def add(self, event: Event) -> None:
        fields = event.fields
        self._count += event.count
        self._seconds += event.seconds or 0.0
        self._unknown += _integer(fields.get("unknown", "")) if "count" in fields else event.seconds is None
        self._bytes += _integer(fields.get("bytes", ""))
        self._fetched += _integer(fields.get("fetched", ""))
        for answer, seconds, url, count in decode_answers(fields.get("asked", "")):
            self._asked[answer, seconds, url] += count

    def event(self) -> Event:
        asked = [encode_answer(answer, seconds, url, count) for (answer, seconds, url), count in self._asked.items()]
        fields = {
            **self._shared,
            "seconds": f"{self._seconds:.3f}" if self._unknown < self._count else "",
            "bytes": str(self._bytes or ""),
            "fetched": str(self._fetched or ""),
            "asked": ",".join(asked),
            "count": str(self._count),
            "unknown": str(self._unknown or ""),
        }
        return Event(self._first.time, self._first.outcome, {name: value for name, value in fields.items() if value})


def _integer(text: str) -> int:
    return int(text) if text.isdecimal() else 0
