"""How numbers, times and messages look to a person."""

import datetime
import json
import re
import sys
import time
from typing import Any

from rich.console import Console

from neuron_store.store.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout (or stderr). Not on a terminal, tables are as wide as they need to be."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = 160
    return made


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """Write a JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


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
    """Say how long ago a Unix time was."""
    return duration(max(0.0, time.time() - moment))


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
