"""How numbers, times and messages look to a person."""

import datetime
import json
import os
import re
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table

from neuron_store.store.errors import ConfigurationError
from neuron_store.store.events import is_moment
from neuron_store.store.remotes.location import without_credentials

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


_UNBOUNDED = 100_000  # columns
SHOWN_KEY = 12  # digits


def print_table(table: Table) -> None:
    """Write a table to stdout: as wide as the terminal (or COLUMNS); into a file or pipe, as wide as need be."""
    # What is shown are names and paths: no square bracket or colon in them is markup.
    console = Console(highlight=False, markup=False, emoji=False, force_terminal=takes_colour(sys.stdout))
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    else:  # what is narrower than the table can be breaks lines: better than to leave columns out
        console.width = max(console.width, sum((column.min_width or 0) + 1 for column in table.columns))
    with console.capture() as captured:
        console.print(table)
    write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def progress(*columns: ProgressColumn) -> Progress:
    """Return a progress display on stderr that vanishes when it ends; nothing at all where no terminal is."""
    there = sys.stderr.isatty() and not is_dumb()
    return Progress(*columns, console=Console(stderr=True, force_terminal=there), transient=True, disable=not there)


def takes_colour(stream: TextIO) -> bool:
    """Tell whether colours and bold letters may go to a stream.

    NO_COLOR says no for every stream, FORCE_COLOR yes for those that are no terminal (a CI's log), a dumb terminal no.
    """
    if os.environ.get("NO_COLOR") or is_dumb():
        return False
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def is_dumb() -> bool:
    """Whether the terminal, if there is one, knows no escape sequences."""
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


def table_of_results(numbers: dict[str, int]) -> Table:
    """Return an empty table of results: key, `numbers` (title -> least width), compiler, module."""
    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True, min_width=SHOWN_KEY)
    for title, narrowest in numbers.items():
        table.add_column(title, justify="right", no_wrap=True, min_width=narrowest)
    for title, narrowest in (("compiler", 10), ("module", 6)):
        table.add_column(title, overflow="ellipsis", min_width=narrowest)
    return table


def write(text: str) -> None:
    """Write to stdout, without the credentials of addresses; end quietly if its reader (`head`, say) has what it wanted."""
    try:
        sys.stdout.write(without_credentials(text))
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
        sys.exit(0)


def drop(stream: TextIO) -> None:
    """Keep the interpreter from complaining, as it ends, that it cannot write what is left in a stream's buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def remark(message: str) -> None:
    """Say something on stderr that is not the answer itself, without the credentials of addresses.

    Nobody need be there to read it.
    """
    try:
        sys.stderr.write(f"neuron-store: {without_credentials(message)}\n")
    except OSError:
        drop(sys.stderr)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Write a JSON document to stdout."""
    ascii_only = (sys.stdout.encoding or "").lower() != "utf-8"
    write(json.dumps(value, indent=2, ensure_ascii=ascii_only) + "\n")


def printable(text: str) -> str:
    """Return text from elsewhere with what would move a terminal's cursor, or hide something, made visible."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def size(count: float) -> str:
    """Say a number of bytes: `3.2 MB` (powers of 1000, as `ls --si` and the Hub do)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: "float | None") -> str:
    """Say a time span: `12 ms`, `3.4 s`, `12 min 5 s`, `3 h 4 min`, `2 d 3 h`."""
    if seconds is None:
        return "unknown"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, name, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def age(moment: float) -> str:
    """Say how long ago a Unix time was, in its largest unit: `12 s`, `5 min`, `3 h`, `2 d`."""
    seconds = max(0.0, time.time() - moment)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"


def date(moment: Any) -> str:  # noqa: ANN401 - whatever a record has in its place
    """Say a Unix time: `2026-01-31 12:00:00 UTC`; "at an unknown time" for what is none of this era."""
    if not isinstance(moment, int | float) or not is_moment(moment):
        return "at an unknown time"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def number(count: float) -> str:
    """Say a count with its thousands apart."""
    return f"{count:,.0f}"


def plural(count: int, word: str, words: str = "") -> str:
    """Say `1 hit` or `2 hits`."""
    return f"{number(count)} {word if count == 1 else words or word + 's'}"


def moment(text: str) -> float:
    """Read `90s`, `15m`, `1h`, `2d`, `1w` (ago) or an ISO date or time; return Unix seconds.

    Raises ConfigurationError for anything else.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if ago:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no time: give an age such as 90s, 15m, 1h, 2d or 1w, or a date such as 2026-01-31"
        ) from None
