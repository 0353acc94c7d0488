"""`neuron-store watch`: what a running job compiles, waits for and is served, as it happens."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.live import Live

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.watch_frame import make_frame, tally_in_words, whole_seconds
from neuron_store.cli.watch_lines import JsonLines, TextLines
from neuron_store.cli.watch_state import Change, Watch
from neuron_store.shim.run_compiler import die_like

_SHORTEST = 0.1  # seconds between two looks
_LOOK_BACK = 3600.0  # seconds: what one frame alone counts
_WIDTH = 100  # of a frame that no terminal shows
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Lines(Protocol):
    def begin(self, watch: Watch) -> None: ...
    def show(self, change: Change) -> None: ...
    def end(self, watch: Watch) -> None: ...


class _Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("watch")(watch)


def watch(
    once: Annotated[bool, typer.Option("--once", help="Show how things stand now, and exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object on a line for each change; with --once, one for all.")
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Count from then: 90s, 15m, 1h, 2d, a date. Else from now; --once: 1h.")
    ] = "",
    until_idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="End when nothing was in flight, and nothing came, for so long."),
    ] = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=_SHORTEST, help="Between two looks.")] = 1.0,
) -> None:
    """Watch a running job: what is compiled now, hits and misses as they come, and the upload queue. Ctrl-C ends it."""
    begun = presentation.moment(since) if since else time.time() - _LOOK_BACK if once else None
    watched = Watch(readable_store(), settings(), begun)
    if once:
        _show_once(watched, as_json=as_json)
        return
    stopped = 0
    lines: _Lines | None = JsonLines() if as_json else None if _is_live() else TextLines()
    try:
        with _signals() as wake:
            looks = _looks(watched, wake, interval, until_idle)
            if lines is None:
                _show_live(watched, looks)
            else:
                _write_lines(lines, watched, looks)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    except _Stopped as stop:
        stopped = stop.number
    _say_summary(watched, lines)
    if stopped:
        die_like(-stopped)


def _is_live() -> bool:
    return sys.stdout.isatty() and not presentation.is_dumb()


def _show_once(watched: Watch, *, as_json: bool) -> None:
    watched.read_all()
    watched.poll()
    if as_json:
        presentation.print_json(watched.snapshot())
        return
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    colour = presentation.takes_colour(sys.stdout)
    console = Console(highlight=False, markup=False, emoji=False, width=width, force_terminal=colour)
    with console.capture() as captured:
        console.print(make_frame(watched, console.width))
    presentation.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def _looks(watched: Watch, wake: int, interval: float, until_idle: "float | None") -> "Iterator[list[Change]]":
    """Yield what changed, look by look, until it is idle; a signal, such as that of a new size, hastens the next."""
    while True:
        yield watched.poll()
        idle = watched.idle
        if until_idle is not None and idle is not None and idle >= until_idle:
            return
        if select.select([wake], [], [], interval)[0]:
            os.read(wake, 512)


def _show_live(watched: Watch, looks: "Iterator[list[Change]]") -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in looks:
            width, height = console.size
            live.update(make_frame(watched, width, height), refresh=True)


def _write_lines(lines: _Lines, watched: Watch, looks: "Iterator[list[Change]]") -> None:
    lines.begin(watched)
    for changes in looks:
        for change in changes:
            lines.show(change)


def _say_summary(watched: Watch, lines: "_Lines | None") -> None:
    if lines is not None:
        lines.end(watched)
        return
    seconds = whole_seconds(time.time() - watched.begun)
    presentation.write(f"watched {watched.layout.root} for {seconds}: {tally_in_words(watched.tally)}\n")


@contextmanager
def _signals() -> "Iterator[int]":
    """Let a new size of the terminal wake the reader of the descriptor that this yields, and signals end it in order."""

    def stop(number: int, _frame: "FrameType | None") -> None:
        raise _Stopped(number)

    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, stop) for number in _ENDING}
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
