"""The event log summed up by what its lines have in common: a million lines in about a second.

What stands last in a line (outcome, compiler, model …) is the same bytes in many lines, and is read once for all of
them; what is to be summed up stands together, and is split for many lines at once. Long logs are read by several
processes, piece by piece, in bounded memory.
"""

import collections
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import TypeVar

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.events import (
    OWN,
    PLACED,
    SUMMED,
    VERSION,
    Event,
    day_of,
    event_files,
    is_moment,
    read_shared,
    unescape,
)
from neuron_store.store.layout import Layout

_PIECE = 4 << 20  # bytes of the log that are in memory at once, in each process
_WORTH_FORKING = 4 << 20  # bytes
_STEP = 1 << 16  # bytes, in the search for a line's beginning
_BEGINNING = f"\n{VERSION}\t".encode()
_FIRST, _LAST = _BEGINNING[:-1], b".\n"  # the first and the last word of a piece; between lines stand both
_WORDS = 4  # of a line: its own, what is summed up, what is shared, and the end
_HIT, _SUMMED_UP = b"hit_", b" count="
_DAY = 10  # characters
_Part = TypeVar("_Part")
_Columns = tuple[list[bytes], list[bytes], list[bytes]]


@dataclass
class Sums:
    """What the events of a group come to.

    Attributes:
        count: events.
        seconds: of compile; those that are unknown left out.
        unknown: how many events are of unknown seconds.
        bytes, fetched: as the fields of that name.
        asked: what remotes answered, as written -> how often.
    """

    count: int = 0
    seconds: float = 0.0
    unknown: int = 0
    bytes: int = 0
    fetched: int = 0
    asked: "collections.Counter[str]" = field(default_factory=collections.Counter)

    def add(self, other: "Sums") -> None:
        """Add those of another group."""
        self.count += other.count
        self.seconds += other.seconds
        self.unknown += other.unknown
        self.bytes += other.bytes
        self.fetched += other.fetched
        if other.asked:
            self.asked.update(other.asked)


@dataclass(frozen=True)
class Group:
    """What the events of a group have in common: the day (UTC), the host, the outcome, and all fields without a place."""

    day: str
    host: str
    outcome: str
    fields: tuple[tuple[str, str], ...]


Groups = dict[Group, Sums]


def group_events(layout: Layout, since: float = 0.0, *, processes: "int | None" = None) -> Groups:
    """Return the sums of all events at or after `since` (Unix seconds), by group. What read_events leaves out is not in.

    `processes`: how many read; None: as many as there are cores, where the log is long.
    """
    with _reading(_read_piece, layout, since, processes) as parts:
        return _decode(_merged(parts))


def hits_by_key(layout: Layout, since: float = 0.0) -> "collections.Counter[str]":
    """Return how often each result was served since then (Unix seconds): key -> hits."""
    found: collections.Counter[str] = collections.Counter()
    with _reading(_read_hits, layout, since) as parts:
        for part in parts:
            found.update(part)
    return found


@contextmanager
def _reading(
    read: "Callable[[tuple[str, int, int], float], _Part]", layout: Layout, since: float, processes: "int | None" = None
) -> "Iterator[Iterable[_Part]]":
    """Yield what `read` makes of each piece of the log: by several processes, where that is worth it."""
    pieces = [piece for path in event_files(layout, since) for piece in _pieces(path)]
    total = sum(end - start for _, start, end in pieces)
    workers = min(processes or len(os.sched_getaffinity(0)), len(pieces))
    with _without_cycle_search():
        if workers > 1 and (processes or total >= _WORTH_FORKING):
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
                yield pool.map(read, pieces, [since] * len(pieces))
        else:
            yield (read(piece, since) for piece in pieces)


def group_given(events: "Iterable[Event]") -> Groups:
    """Return the sums of events that were read one by one, by group; their host is not known."""
    groups: Groups = {}
    for event in events:
        rest = {name: value for name, value in event.fields.items() if name not in PLACED}
        group = Group(day_of(event.time), "", event.outcome, tuple(rest.items()))
        texts = [event.fields.get(name, "").encode("utf-8", "surrogateescape") for name in SUMMED]
        _find(groups, group).add(_sum_columns([[text] for text in texts], rest))
    return groups


def _find(groups: Groups, group: Group) -> Sums:
    sums = groups.get(group)
    if sums is None:
        sums = groups[group] = Sums()
    return sums


@contextmanager
def _without_cycle_search() -> "Iterator[None]":
    """No cycles are made here, and looking for them among millions of words takes as long as all else."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# -- pieces ------------------------------------------------------------------------------------------------------------


def _pieces(path: str) -> "Iterator[tuple[str, int, int]]":
    """Yield (path, start, end), in bytes: each piece begins with a line, but for what no line begins in."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        start = 0
        while start < size:
            end = _next_beginning(descriptor, start + _PIECE, size)
            yield path, start, end
            start = end
    except OSError:
        return
    finally:
        os.close(descriptor)


def _next_beginning(descriptor: int, position: int, size: int) -> int:
    """Return where the first line at or after `position` begins; `size` if none does."""
    while position < size:
        data = os.pread(descriptor, _STEP + len(_BEGINNING) - 1, position)
        found = data.find(_BEGINNING)
        if found >= 0:
            return position + found
        if not data:
            break
        position += _STEP
    return size


def _read_piece(piece: "tuple[str, int, int]", since: float) -> "dict[tuple[str, bytes], Sums]":
    parts: dict[bytes, list[bytes]] = {}
    add: dict[bytes, Callable[[bytes], None]] = {}  # to look a method up a million times takes longer than to call it
    for summed, shared in _shared_lines(piece, since):
        if shared not in add:
            parts[shared] = []
            add[shared] = parts[shared].append
        add[shared](summed)
    name = os.path.basename(piece[0])
    return {(name, shared): _sum_parts(texts, shared) for shared, texts in parts.items()}


def _read_hits(piece: "tuple[str, int, int]", since: float) -> "collections.Counter[str]":
    place = 1 + OWN.index("key")
    found: collections.Counter[str] = collections.Counter()
    columns = _lines_of(piece)
    for own, _, shared in zip(*columns, strict=True):
        if shared.startswith(_HIT) and (since <= 0 or _is_in_time(own, since)):
            words = own.split(b" ", place + 1)
            if len(words) > place:
                found[words[place].decode()] += _count(shared) if _SUMMED_UP in shared else 1
    return found


def _count(shared: bytes) -> int:
    return Event(0.0, "", read_shared(shared.decode("utf-8", "surrogateescape"))[1]).count


def _shared_lines(piece: "tuple[str, int, int]", since: float) -> "Iterable[tuple[bytes, bytes]]":
    """Return what is summed up and what is shared of each whole line of a piece, of events at or after `since`."""
    own, summed, shared = _lines_of(piece)
    if since > 0:
        in_time = [_is_in_time(each, since) for each in own]
        return zip(compress(summed, in_time), compress(shared, in_time), strict=True)
    return zip(summed, shared, strict=True)


def _lines_of(piece: "tuple[str, int, int]") -> "_Columns":
    """Return the parts of each whole line of a piece: all their own, all that is summed up, all that is shared."""
    path, start, end = piece
    try:
        descriptor = open_regular(path)
        try:
            data = os.pread(descriptor, end - start, start)
        finally:
            os.close(descriptor)
    except OSError:
        return [], [], []
    words = data.split(b"\t")
    ends = words[_WORDS::_WORDS]
    whole = len(words) % _WORDS == 1 and words[0] == _FIRST and ends[-1:] == [_LAST]
    if whole and ends.count(_LAST + _FIRST) == len(ends) - 1:
        return words[1::_WORDS], words[2::_WORDS], words[3::_WORDS]
    return _torn_lines(data)


def _torn_lines(data: bytes) -> "_Columns":
    lines = [line.split(b"\t") for line in data.split(b"\n")]
    whole = [
        words
        for words in lines
        if len(words) == 1 + _WORDS and words[0] == _FIRST[1:] and words[-1] == _LAST[:-1] and words[1][:1] != b" "
    ]
    return [words[1] for words in whole], [words[2] for words in whole], [words[3] for words in whole]


def _is_in_time(own: bytes, since: float) -> bool:
    at = _number(own.partition(b" ")[0])
    return at is not None and at >= since and is_moment(at)


# -- sums --------------------------------------------------------------------------------------------------------------


def _sum_parts(texts: "list[bytes]", shared: bytes) -> Sums:
    """Sum up what lines with the same last part have."""
    _, fields = read_shared(shared.decode("utf-8", "surrogateescape"))
    width = len(SUMMED)
    flat = b" ".join(texts).split(b" ")
    if len(flat) != width * len(texts):
        flat = [word for text in texts if text.count(b" ") == width - 1 for word in text.split(b" ")]
    return _sum_columns([flat[place::width] for place in range(width)], fields)


def _sum_columns(columns: "list[list[bytes]]", fields: "dict[str, str]") -> Sums:
    seconds, sizes, fetched, asked = columns
    answers = collections.Counter(asked)
    spent, known = _total(seconds)
    sums = Sums(
        count=len(seconds),
        seconds=spent,
        unknown=len(seconds) - known,
        bytes=int(_total(sizes)[0]),
        fetched=int(_total(fetched)[0]),
        asked=collections.Counter({_text(text): count for text, count in answers.items() if text}),
    )
    if "count" in fields:
        sums.unknown = _whole(fields.get("unknown", "")) * sums.count
        sums.count *= Event(0.0, "", fields).count
    return sums


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _text(value: bytes) -> str:
    return unescape(value.decode("utf-8", "surrogateescape"))


def _total(texts: "list[bytes]") -> "tuple[float, int]":
    """Return the sum of what can be read as numbers, and how many these are."""
    known = len(texts) - texts.count(b"")
    if not known:
        return 0.0, 0
    try:
        total = sum(map(float, filter(None, texts)))
    except ValueError:
        total = float("nan")
    if total - total == 0:
        return total, known
    numbers = [number for number in map(_number, texts) if number is not None]
    return sum(numbers), len(numbers)


def _number(text: bytes) -> "float | None":
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0 else None


def _merged(parts: "Iterable[dict[tuple[str, bytes], Sums]]") -> "dict[tuple[str, bytes], Sums]":
    merged: dict[tuple[str, bytes], Sums] = {}
    for part in parts:
        for key, sums in part.items():
            if key in merged:
                merged[key].add(sums)
            else:
                merged[key] = sums
    return merged


def _decode(read: "dict[tuple[str, bytes], Sums]") -> Groups:
    groups: Groups = {}
    for (name, shared), sums in read.items():
        outcome, fields = read_shared(shared.decode("utf-8", "surrogateescape"))
        group = Group(name[:_DAY], host_of(name), outcome, tuple(fields.items()))
        _find(groups, group).add(sums)
    return groups


def host_of(name: str) -> str:
    """Return the host that a file of the log is of, by its name."""
    return name[_DAY + 1 :].partition("-")[2]
