"""The event log as it grows: what was appended since the last look, from all hosts that share the store.

A file is known by its name and inode, and read on from where the last look ended. One that was written anew meanwhile
holds what was read before (the log of a day long past, summed up), unless it begins with an event: then somebody
removed the log, and it began again.
"""

import os
import time

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.events import Event, is_day, parse_event
from neuron_store.store.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY = 86400.0  # seconds; a file older than yesterday's does not grow
_PIECE, _SMALL_PIECE = 1 << 20, 1 << 16  # bytes read at a time
_DAY_LENGTH = len("2026-01-31")


class Arrival:
    """An event, and the host that logged it."""

    __slots__ = ("event", "host")

    def __init__(self, event: Event, host: str) -> None:
        self.event = event
        self.host = host


class _Place:
    """How far a file was read. `carried` is the beginning of a line whose end has not come."""

    __slots__ = ("carried", "inode", "offset")

    def __init__(self, inode: int, offset: int) -> None:
        self.inode = inode
        self.offset = offset
        self.carried = b""


class EventTail:
    """Reads on in the event log of a store."""

    def __init__(self, layout: Layout, since: "float | None" = None) -> None:
        """Begin at what is appended from now on, or at what happened since a Unix time."""
        self._layout = layout
        self._since = since or 0.0
        self._first_day = _day(time.time() - _DAY if since is None else since)
        self._places: dict[str, _Place] = {}
        if since is None:
            for name in self._names():
                self._begin_at_end(name)

    def poll(self) -> "list[Arrival]":
        """Return what was logged since the last look, in the order of time. A log that cannot be read is empty."""
        found: list[Arrival] = []
        names = self._names()
        for gone in [name for name in self._places if name not in names]:
            del self._places[gone]
        for name in names:
            found += self._read_on(name)
        self._first_day = max(self._first_day, _day(time.time() - _DAY))
        return sorted(found, key=lambda arrival: arrival.event.time)

    def _names(self) -> "set[str]":
        """Return the files that may have grown since the last look; before the first one, that hold what is asked for."""
        try:
            names = os.listdir(f"{self._layout.root}/events")
        except OSError:
            return set()
        days = ((name, name[:_DAY_LENGTH]) for name in names)
        return {name for name, day in days if day >= self._first_day and is_day(day)}

    def _begin_at_end(self, name: str) -> None:
        try:
            status = os.stat(self._layout.event_path(name))
        except OSError:
            return
        self._places[name] = _Place(status.st_ino, status.st_size)

    def _read_on(self, name: str) -> "Iterator[Arrival]":
        path = self._layout.event_path(name)
        place = self._places.get(name)
        try:
            status = os.stat(path)
            if place is not None and (place.inode, place.offset) == (status.st_ino, status.st_size):
                return
            descriptor = open_regular(path)
        except OSError:
            return
        try:
            if place is None or place.inode != status.st_ino or place.offset > status.st_size:
                place = self._begin(name, descriptor, known=place is not None)
            yield from self._read_lines(place, descriptor, name[_DAY_LENGTH + 1 :].partition("-")[2])
        except OSError:
            return
        finally:
            os.close(descriptor)

    def _begin(self, name: str, descriptor: int, *, known: bool) -> _Place:
        status = os.fstat(descriptor)
        is_summed_up = known and os.pread(descriptor, 1, 0) == b"#"
        place = self._places[name] = _Place(status.st_ino, status.st_size if is_summed_up else 0)
        return place

    def _read_lines(self, place: _Place, descriptor: int, host: str) -> "Iterator[Arrival]":
        while piece := os.pread(descriptor, _PIECE, place.offset):
            place.offset += len(piece)
            *lines, place.carried = (place.carried + piece).split(b"\n")
            for line in lines:
                event = parse_event(line.decode("utf-8", "surrogateescape")) if line else None
                if event is not None and event.time >= self._since:
                    yield Arrival(event, host)


def past_events(layout: Layout, since: float) -> "Iterator[list[Event]]":
    """Yield what was logged since a Unix time, the newest days first, in pieces that are read within milliseconds."""
    try:
        names = sorted(os.listdir(f"{layout.root}/events"), reverse=True)
    except OSError:
        return
    for name in names:
        if name[:_DAY_LENGTH] >= _day(since) and is_day(name[:_DAY_LENGTH]):
            yield from _pieces(layout.event_path(name))


def _pieces(path: str) -> "Iterator[list[Event]]":
    try:
        with open(open_regular(path), "rb") as file:
            while lines := file.readlines(_SMALL_PIECE):
                parsed = (parse_event(line.decode("utf-8", "surrogateescape")) for line in lines)
                yield [event for event in parsed if event is not None]
    except OSError:
        return


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(max(moment, 0.0)))
