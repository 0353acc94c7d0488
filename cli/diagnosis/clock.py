"""Clocks: this host's against the store's file system, against the Hub, and against what was logged before."""

import email.utils
import os
import tempfile
import time
from collections.abc import Iterator

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.finding import Area, Finding, ok, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.store.events import read_events

_SLACK = 5.0  # seconds by which a file's time may differ
_REMOTE_SLACK = 60.0  # a Date header has whole seconds, and takes its time to arrive
_FUTURE = 300.0
_SET = "set the clock (NTP)"

AREA = Area(
    "clock",
    {
        "agrees": ok("This host's clock and the other one agree."),
        "file-system-differs": warning(
            "The store's file system stamps files with another clock than this host's (a file server's): which results "
            "were used last, and how old a lock is, is told wrongly.",
            "set the clocks of both (NTP)",
        ),
        "remote-differs": warning(
            "This host's clock is not the Hub's: certificates and signed links may be refused, and ages are wrong.",
            _SET,
        ),
        "went-back": warning(
            "Something was logged at a time that is yet to come: the clock was set back, or was wrong then.", _SET
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Compare this host's clock with the store's."""
    root = here.layout.root
    if os.path.isdir(root) and os.access(root, os.W_OK | os.X_OK):
        yield _of_file_system(root)
    now = time.time()
    latest = max((event.time for event in read_events(here.layout, now + _FUTURE)), default=0.0)
    if latest:
        ahead = presentation.duration(round(latest - now))
        yield AREA.find("went-back", f"the store's log has an event {ahead} from now", latest=latest)


def _of_file_system(root: str) -> Finding:
    before = time.time()
    with tempfile.NamedTemporaryFile(prefix=".neuron-store-doctor-", dir=root) as file:
        file.write(b"x")
        file.flush()
        stamped = os.fstat(file.fileno()).st_mtime
    after = time.time()
    differs = before - stamped if stamped < before else max(0.0, stamped - after)
    if differs > _SLACK:
        said = f"a file in {root} is stamped {presentation.duration(differs)} off this host's clock"
        return AREA.find("file-system-differs", said, seconds=differs)
    return AREA.find("agrees", "the store's file system has this host's clock")


def compare(place: str, date: str, now: float) -> "Finding | None":
    """Compare the clock, at `now`, with the Date header of an answer from `place`; None if it has none."""
    try:
        there = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    differs = now - there
    if abs(differs) <= _REMOTE_SLACK:
        return AREA.find("agrees", f"{place} has this host's clock", seconds=round(differs))
    way = "ahead of" if differs > 0 else "behind"
    said = f"this host's clock is {presentation.duration(abs(differs))} {way} that of {place}"
    return AREA.find("remote-differs", said, seconds=round(differs))
