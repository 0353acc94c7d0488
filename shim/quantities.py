"""Bytes, times and shares of a disk as people write them: `200G`, `30d`, `10%`.

In a module of its own because a hit needs none of it unless a setting is written so.
"""

import re

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def read_bytes(text: str) -> int:
    """Return the bytes of `1000`, `200G`, `200 GB` (powers of 1000) or `200GiB` (of 1024). Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", text.strip().lower(), re.ASCII)
    if not found or (found[3] and not found[2]):
        raise ValueError(f"no number of bytes: {text!r}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2]])


def read_seconds(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `12h`, `30d` or `2w`. Raises ValueError.

    A capital M is refused: who writes it means months, and would get minutes.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdwSHDW]?)", text.strip(), re.ASCII)
    if not found:
        raise ValueError(f"no time: {text!r}")
    return float(found[1]) * _SPANS[found[2].lower()]


def read_share(text: str, whole: int) -> int:
    """Return the bytes of `10%` of `whole`, or of a number of bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
    if not found:
        return read_bytes(text)
    if float(found[1]) > 100:
        raise ValueError(f"more than all: {text!r}")
    return int(whole * float(found[1]) / 100)
