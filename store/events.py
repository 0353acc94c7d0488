r"""The event log: one line for every invocation of the shim, appended, so that nothing contends and nothing is lost.

Grammar, version 2. A file per day (UTC), user and host; each event is written by one append:

    \n 2 TAB <time> SP <ms> SP <key> SP <module> TAB <seconds> SP <bytes> SP <fetched> SP <asked> TAB
    <outcome> (SP <name>=<value>)* TAB . \n

The first newline ends a line that a full disk tore, the final dot proves that a line is whole. Values have `%`, space,
tab, newline and carriage return as %xx; what is not known is empty.
`time`: Unix seconds. `ms`: in the shim besides the compile. `module`: the input's file name. `seconds` of compile, spent
on a miss, saved on a hit. `bytes`: sent to a remote, or delivered by a hit. `fetched`: bytes that came from remotes.
`asked`: what remotes answered (remotes/answers.py). Names: `compiler` (its version); `model` (as NEURON_STORE_MODEL has
it); `incidents` (comma-separated); `run`; `detail`; `store` (that could not take the event); `count`, where a line sums
up so many events (event_archive.py), and `unknown`, how many of these were of unknown seconds.

What is summed up stands together, and what many lines share comes last: event_groups.py lives on that.
"""

import os
import time

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "2"
# The fields that have a place of their own, in order: what tells an event from others, and what can be summed up.
OWN = ("ms", "key", "module")
SUMMED = ("seconds", "bytes", "fetched", "asked")
PLACED = OWN + SUMMED
_AFTER_ALL = 4102444800.0  # 2100-01-01; a clock or a file that says so, or more, is wrong
_ESCAPES = {"%": "%25", " ": "%20", "\t": "%09", "\n": "%0A", "\r": "%0D"}
_UNESCAPES = {"%20": " ", "%0D": "\r", "%0A": "\n", "%09": "\t", "%25": "%"}
_LONGEST_VALUE = 500  # characters; the whole line must be one small append
_WHOLE = ("key", "run", "store", "asked")  # by which events are found, or which would be torn


class Event:
    """One line of the log.

    Attributes:
        time: Unix seconds.
        outcome: the counter that the invocation ended in.
        fields: name -> value; none is empty.
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

    @property
    def count(self) -> int:
        """How many events the line stands for."""
        text = self.fields.get("count", "")
        return int(text) if text.isdecimal() and len(text) < 16 else 1


def _number(text: "str | None") -> "float | None":
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if number - number == 0 else None  # neither infinite nor no number


def is_moment(at: float) -> bool:
    """Tell whether a Unix time is one at which something can have happened here: not before 1970, nor after 2099."""
    return 0.0 <= at < _AFTER_ALL


def is_day(text: str) -> bool:
    """Tell whether a text is such a day, as day_of writes it."""
    import calendar  # which whoever only appends to the log does not need

    year, month, day = text[:4], text[5:7], text[8:]
    if len(text) != len("2026-01-31") or text[4] + text[7] != "--" or not (year + month + day).isdecimal():
        return False
    if not (text.isascii() and 1970 <= int(year) < 2100 and 1 <= int(month) <= 12):
        return False
    return 1 <= int(day) <= calendar.monthrange(int(year), int(month))[1]


def day_of(moment: float) -> str:
    """Return the day (UTC, `2026-01-31`) of a Unix time."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def encode_event(event: Event) -> bytes:
    """Return the line of an event, with both its newlines."""
    fields = event.fields
    words = [
        "\n" + VERSION,
        f"{event.time:.3f} " + _placed(OWN, fields),
        _placed(SUMMED, fields),
        " ".join([event.outcome, *[f"{name}={_written(name, fields[name])}" for name in fields if name not in PLACED]]),
        ".\n",
    ]
    return "\t".join(words).encode("utf-8", "surrogateescape")


def _placed(names: tuple[str, ...], fields: "dict[str, str]") -> str:
    return " ".join([_written(name, fields[name]) if name in fields else "" for name in names])


def _written(name: str, value: str) -> str:
    if name not in _WHOLE:
        value = value[:_LONGEST_VALUE]
    for character, escape in _ESCAPES.items():
        if character in value:
            value = value.replace(character, escape)
    return value


def append_event(layout: Layout, event: Event) -> bool:
    """Append one event; return whether it is the first of its file. Raises OSError where the store cannot be written."""
    line = encode_event(event)
    path = layout.event_path(f"{day_of(event.time)}-{os.getuid()}-{os.uname().nodename}")
    descriptor = layout.open_creating(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line)
        return os.lseek(descriptor, 0, os.SEEK_CUR) == len(line)
    finally:
        os.close(descriptor)


def read_events(layout: Layout, since: float = 0.0) -> "Iterator[Event]":
    """Yield the events at or after `since` (Unix seconds), file by file. Lines that are not whole are left out."""
    for path in event_files(layout, since):
        yield from _read_file(path, since)


def event_files(layout: Layout, since: float = 0.0) -> list[str]:
    """Return the paths of the files that may hold events at or after `since` (Unix seconds), in order."""
    if since >= _AFTER_ALL:
        return []
    first_day = day_of(max(since, 0))
    try:
        names = sorted(os.listdir(f"{layout.root}/events"))
    except OSError:
        return []
    return [layout.event_path(name) for name in names if name[:10] >= first_day and is_day(name[:10])]


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
    """Return the event of a line (with or without its newline), None if it is not a whole one, or of no time of this era."""
    words = line.rstrip("\n").split("\t")
    if len(words) != len(("version", "own", "summed", "shared", ".")) or words[0] != VERSION or words[-1] != ".":
        return None
    at, *placed = words[1].split(" ") + words[2].split(" ")
    moment = _number(at)
    if moment is None or not is_moment(moment) or len(placed) != len(PLACED):
        return None
    fields = dict(zip(PLACED, placed, strict=True))
    outcome, shared = read_shared(words[3])
    return Event(moment, outcome, {name: unescape(value) for name, value in fields.items() if value} | shared)


def read_shared(text: str) -> "tuple[str, dict[str, str]]":
    """Return the outcome and the fields of a line's last part."""
    outcome, *words = text.split(" ")
    pairs = (word.partition("=") for word in words)
    return outcome, {name: unescape(value) for name, _, value in pairs}


def unescape(value: str) -> str:
    """Return a value as it was before it was written."""
    if "%" in value:
        for escape, character in _UNESCAPES.items():
            value = value.replace(escape, character)
    return value
