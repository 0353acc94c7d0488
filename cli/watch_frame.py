"""What `watch` shows on a terminal: one frame, made for the width and height that there are."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.watch_history import BY_NAME
from neuron_store.cli.watch_queue import Queue
from neuron_store.cli.watch_state import Subgraph, Tally, Watch, group_of
from neuron_store.shim.counters import AUDIT, ERROR, HIT, MISS, PASS, UPLOAD
from neuron_store.store.event_tail import Arrival
from neuron_store.store.in_flight import BELIEVED, COMPILING, STORING
from neuron_store.store.stock.names import module_in

_GAP = 2  # columns between two columns
_BAR = 10
_NARROWEST_NAME, _WHOLE_NAME, _LONGEST_HOST, _LONGEST_MODEL = 16, 34, 20, 28
_LEAST_OUTCOME = 6  # columns that tell a hit from a miss
_FEW_RECENT = 10  # where there is no height to fill
_MOST_QUEUES = 3
_COLOURS = {HIT: "green", MISS: "yellow", PASS: "dim", ERROR: "red", AUDIT: "cyan", UPLOAD: "blue", "": "dim"}


class _Column(NamedTuple):
    """A column that is shown if there is room: its title, width, and cell for a row.

    One that is `minor` is shown only if a name beside it can be read to its end; one that is `trailing`, only if all
    before it are. One that has a `least` width is cut down to that before it is left out.
    """

    title: str
    width: int
    cell: Callable[[Any], RenderableType]
    right: bool = False
    minor: bool = False
    trailing: bool = False
    least: int = 0


def make_frame(watch: Watch, width: int, height: "int | None" = None) -> RenderableType:
    """Return what stands now, in lines that are not longer than `width`, and not more than `height` if there is one."""
    head = _line(f"neuron-store watch   {watch.layout.root}", "bold")
    feet = [*_totals(watch.tally, time.time() - watch.begun), *(_queue(queue) for queue in watch.queues[:_MOST_QUEUES])]
    if len(watch.queues) > _MOST_QUEUES:
        feet.append(_line(f"… and {len(watch.queues) - _MOST_QUEUES} more queues"))
    flying, came = _shares(watch, None if height is None else height - len(feet) - 1)
    parts: list[RenderableType] = [head]
    parts += _in_flight(watch, width, flying)
    parts += _recent(watch, width, came)
    parts += [_line(""), *feet]
    return Group(*parts[-height:] if height is not None and height < 6 else parts)


def _shares(watch: Watch, lines: "int | None") -> "tuple[int, int]":
    """Return how many rows what is in flight gets, and how many the last events."""
    wanted, came = len(watch.subgraphs), len(watch.recent)
    if lines is None:
        return wanted, min(came, _FEW_RECENT)
    titles = 1 + (1 if wanted else 0) + 2 + 1  # in flight, its columns; an empty line and the events' title; the last
    free = max(0, lines - titles)
    flying = min(wanted, max(free - came, free * 2 // 3))
    return flying, min(came, free - flying)


def _line(text: str, style: str = "") -> Text:
    return Text(presentation.printable(text), style=style, no_wrap=True, overflow="ellipsis")


# -- what is in flight -----------------------------------------------------------------------------------------------


def _in_flight(watch: Watch, width: int, rows: int) -> "list[RenderableType]":
    states = Counter[str]()
    for subgraph in watch.subgraphs:
        states[subgraph.flight.state] += 1
        states["waiting"] += subgraph.processes - 1
    said = ", ".join(f"{presentation.number(count)} {state}" for state, count in states.items() if count)
    title = _line(f"in flight   {said or 'nothing'}", "bold" if said else "dim")
    if not watch.subgraphs or rows <= 0:
        return [title]
    shown = watch.subgraphs if len(watch.subgraphs) <= rows else watch.subgraphs[: rows - 1]
    now = time.time()
    table = _table(_flight_columns(watch, shown, now), shown, width, lambda each: _name(each.flight.module))
    left = len(watch.subgraphs) - len(shown)
    return [title, table, *([_line(f"… and {left} more", "dim")] if left else [])]


def _flight_columns(watch: Watch, shown: "list[Subgraph]", now: float) -> "list[_Column]":
    def elapsed(each: Subgraph) -> Text:
        seconds = each.elapsed(now)
        return Text(presentation.duration(seconds if seconds < 60 else round(seconds)))

    def of(each: Subgraph) -> Text:
        if each.expected is None:
            return Text("unknown", style="dim")
        about = "~" if each.expected.source == BY_NAME else ""
        return Text(about + presentation.duration(each.expected.seconds))

    def state(each: Subgraph) -> Text:
        believed = " ?" if each.flight.life == BELIEVED else ""
        return Text(each.flight.state + believed, style="yellow" if each.flight.state == COMPILING else "")

    def bar(each: Subgraph) -> RenderableType:
        if each.expected is None or each.flight.state not in (COMPILING, STORING):
            return Text("")
        total = max(each.expected.seconds, 1e-3)
        late = each.elapsed(now) > total
        done = min(each.elapsed(now), total)
        finished = "red" if late else "green"
        return ProgressBar(total, done, width=_BAR, complete_style="green", finished_style=finished)

    def processes(each: Subgraph) -> Text:
        return Text(presentation.number(each.processes))

    columns = [
        _Column("state", _widest(shown, state, 9), state),
        _Column("elapsed", _widest(shown, elapsed, 8), elapsed, right=True),
        _Column("expected", _widest(shown, of, 8), of, right=True),
        _Column("", _BAR, bar),
        *([_Column("asked by", 8, processes, right=True)] if any(each.processes > 1 for each in shown) else []),
    ]
    host = _text_column("host", shown, lambda each: each.flight.host, _LONGEST_HOST)
    pid = _text_column("pid", shown, lambda each: str(each.flight.pid), 8)
    model = _text_column("model", shown, lambda each: each.flight.model, _LONGEST_MODEL)
    key = _text_column("key", shown, lambda each: each.flight.key[: presentation.SHOWN_KEY], presentation.SHOWN_KEY)
    minor = [model] if any(each.flight.model for each in shown) else []
    minor += [pid, key]
    if len(watch.hosts) > 1:
        columns.append(host)
    else:
        minor.insert(-1, host)
    return columns + [column._replace(minor=True) for column in minor]


def _widest(shown: Iterable[Any], cell: "Callable[[Any], Text]", least: int) -> int:
    return max([least, *(cell(each).cell_len for each in shown)])


def _text_column(title: str, shown: "list[Any]", text: "Callable[[Any], str]", longest: int) -> _Column:
    def cell(each: Any) -> Text:  # noqa: ANN401 - a row
        return _line(text(each))

    return _Column(title, min(_widest(shown, cell, len(title)), longest), cell)


def _name(module: str) -> str:
    return module_in(module) or module or "(unknown)"


def _table(
    columns: "list[_Column]", rows: "list[Any]", width: int, name: "Callable[[Any], str]", *, place: int = 0
) -> Table:
    """Return a table of a name, which takes what room is left, and as many columns as fit beside it.

    So many of the columns stand before the name as `place` says.
    """
    longest = max(len(name(row)) for row in rows)
    left = width
    chosen: list[_Column] = []
    for column in columns:
        least = min(max(longest, len("module")), _WHOLE_NAME if column.minor else _NARROWEST_NAME)
        room = left - _GAP - least
        shown = min(column.width, room)
        if shown >= (column.least or column.width) and not (column.trailing and len(chosen) < place):
            left -= shown + _GAP
            chosen.append(column._replace(width=shown))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=True, header_style="dim")
    room = min(longest, width - sum(column.width + _GAP for column in chosen))
    chosen.insert(min(place, len(chosen)), _Column("module", max(room, 6), lambda row: _line(name(row))))
    for column in chosen:
        justify: Any = "right" if column.right else "left"
        table.add_column(column.title, no_wrap=True, overflow="ellipsis", width=column.width, justify=justify)
    for row in rows:
        table.add_row(*(column.cell(row) for column in chosen))
    return table


# -- what came -------------------------------------------------------------------------------------------------------


def _recent(watch: Watch, width: int, rows: int) -> "list[RenderableType]":
    if rows <= 0:
        return []
    shown = list(watch.recent)[-rows:]

    def at(each: Arrival) -> Text:
        return Text(time.strftime("%H:%M:%S", time.localtime(each.event.time)), style="dim")

    def outcome(each: Arrival) -> Text:
        return Text(presentation.printable(each.event.outcome), style=_COLOURS[group_of(each.event)])

    def seconds(each: Arrival) -> Text:
        return Text(seconds_in_words(each))

    columns = [
        _Column("at", 8, at),
        _Column("what", _widest(shown, outcome, _LEAST_OUTCOME), outcome, least=_LEAST_OUTCOME),
        _Column("", _widest(shown, seconds, 0), seconds),
        _text_column("host", shown, lambda each: each.host, _LONGEST_HOST)._replace(trailing=True),
    ]
    if any(each.event.incidents for each in shown):
        columns.append(_text_column("besides", shown, lambda each: ", ".join(each.event.incidents), 40))
    if any(each.event.fields.get("detail") for each in shown):
        columns.append(_text_column("detail", shown, lambda each: each.event.fields.get("detail", ""), 60))
    table = _table(columns, shown, width, lambda each: _name(each.event.fields.get("module", "")), place=2)
    table.show_header = False
    return [_line(""), _line("last", "bold"), table]


def seconds_in_words(arrival: Arrival) -> str:
    """Say what an event's seconds are: saved by a hit, or compiled."""
    group, seconds = group_of(arrival.event), arrival.event.seconds
    if group not in (HIT, MISS) or seconds is None:
        return ""
    return ("saved " if group == HIT else "compiled ") + presentation.duration(seconds)


# -- what it adds up to ----------------------------------------------------------------------------------------------


def tally_in_words(tally: Tally) -> str:
    """Say what came, in a line."""
    hits, misses = tally.counts[HIT], tally.counts[MISS]
    said = [presentation.plural(hits, "hit"), presentation.plural(misses, "miss", "misses")]
    if hits:
        unknown = f" and {tally.unknown} of unknown seconds" if tally.unknown else ""
        said[0] += f" (saved {presentation.duration(tally.seconds_saved)}{unknown})"
    if misses:
        said[1] += f" (compiled {presentation.duration(tally.seconds_compiled)})"
    if tally.counts[PASS]:
        said.append(f"{presentation.number(tally.counts[PASS])} passed through")
    if tally.counts[ERROR]:
        said.append(presentation.plural(tally.counts[ERROR], "error"))
    return ", ".join(said)


def _totals(tally: Tally, seconds: float) -> "list[Text]":
    return [_line(f"in {whole_seconds(seconds)}: {tally_in_words(tally)}")]


def whole_seconds(seconds: float) -> str:
    """Say how long a watch has lasted: `12 s`, `3 min 5 s`."""
    return f"{max(0.0, seconds):.0f} s" if seconds < 59.5 else presentation.duration(seconds)


def _queue(queue: Queue) -> Text:
    bad = bool(queue.refused or queue.last_error)
    return _line(queue_in_words(queue), "red" if bad else "")


def queue_in_words(queue: Queue) -> str:
    """Say how a queue stands, in a line."""
    said = f"{presentation.number(queue.queued)} queued for {queue.url}"
    if queue.uploading:
        said += ", uploading"
    if queue.refused:
        said += f"; refused: {queue.refused}"
    elif queue.last_error:
        ago = f" {presentation.age(queue.last_error_at)} ago" if queue.last_error_at else ""
        said += f"; last error{ago}: {queue.last_error}"
    return said
