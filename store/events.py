r"""The event log: one line for every invocation of the shim, appended, so that nothing contends and nothing is lost.

Grammar, version 1. A file per day (UTC), user and host; each event is written by one append:

    \n 1 TAB <Unix seconds> TAB <outcome> TAB (<name>=<value> TAB)* . \n

The first newline ends a line that a full disk tore, the final dot proves that a line is whole. Values have
`%`, tab, newline and carriage return as %xx. Names: `key`; `module` (the input's file name); `seconds` of
compile, spent on a miss, saved on a hit; `ms` in the shim besides; `incidents` (comma-separated); `run`; `detail`.
"""

import os
import time

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ESCAPES = {"%": "%25", "\t": "%09", "\n": "%0A", "\r": "%0D"}
_LONGEST_VALUE = 500  # characters; the whole line must be one small append
_WHOLE = ("key", "run", "store")  # by which events are found


class Event:
    """One line of the log.

    Attributes:
        time: Unix seconds.
        outcome: the counter that the invocation ended in.
        fields: name -> value.
    """

    __slots__ = ("fields", "outcome", "time")

    def __init__(self, at: float, outcome: str, fields: "dict[str, str]") -> None:
        self.time = at
        self.outcome = outcome
        self.fields = fields

    @property
    def seconds(self) -> "float | None":
        """Seconds of compile, None where they are unknown."""
        return _number(self.fields.get("seconds"))

    @property
    def incidents(self) -> list[str]:
        """The counters besides the outcome."""
        return [name for name in self.fields.get("incidents", "").split(",") if name]


def _number(text: "str | None") -> "float | None":
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def append_event(layout: Layout, event: Event) -> None:
    """Append one event. Raises OSError where the store cannot be written."""
    words = ["\n1", f"{event.time:.3f}", event.outcome]
    words += [
        f"{name}={_escape(value if name in _WHOLE else value[:_LONGEST_VALUE])}" for name, value in event.fields.items()
    ]
    line = "\t".join([*words, ".\n"])
    day = time.strftime("%Y-%m-%d", time.gmtime(event.time))
    path = layout.event_path(f"{day}-{os.getuid()}-{os.uname().nodename}")
    descriptor = layout.open_creating(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode("utf-8", "surrogateescape"))
    finally:
        os.close(descriptor)


def read_events(layout: Layout, since: float = 0.0) -> "Iterator[Event]":
    """Yield the events at or after `since` (Unix seconds), file by file. Lines that are not whole are left out."""
    first_day = time.strftime("%Y-%m-%d", time.gmtime(max(since, 0)))
    try:
        names = sorted(os.listdir(f"{layout.root}/events"))
    except OSError:
        return
    for name in names:
        if name[:10] >= first_day:
            yield from _read_file(layout.event_path(name), since)


def _read_file(path: str, since: float) -> "Iterator[Event]":
    try:
        descriptor = open_regular(path)
        with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                event = parse_event(line)
                if event is not None and event.time >= since:
                    yield event
    except OSError:
        return


def parse_event(line: str) -> "Event | None":
    """Return the event of a line (with or without its newline), None if it is not a whole one."""
    words = line.rstrip("\n").split("\t")
    if len(words) < 4 or words[0] != "1" or words[-1] != ".":
        return None
    at = _number(words[1])
    if at is None:
        return None
    pairs = (word.partition("=") for word in words[3:-1])
    return Event(at, words[2], {name: _unescape(value) for name, _, value in pairs})


def _escape(value: str) -> str:
    for character, escape in _ESCAPES.items():
        value = value.replace(character, escape)
    return value


def _unescape(value: str) -> str:
    for character, escape in reversed(_ESCAPES.items()):
        value = value.replace(escape, character)
    return value
