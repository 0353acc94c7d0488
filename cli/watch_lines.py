"""What `watch` writes where no terminal is: a line for each thing that happens, in words or as JSON."""

import json
import time
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.watch_frame import queue_in_words, tally_in_words, whole_seconds
from neuron_store.cli.watch_history import BY_NAME
from neuron_store.cli.watch_queue import Queue
from neuron_store.cli.watch_state import BEGUN, DIED, LOGGED, QUEUED, STATE, Change, Watch
from neuron_store.shim.counters import HIT, MISS
from neuron_store.store.in_flight import COMPILING

WATCHING, SUMMARY = "watching", "summary"


class TextLines:
    """Lines for people: compiles as they begin, events as they come, queues where an upload ends or fails."""

    def begin(self, watch: Watch) -> None:
        """Say what is watched."""
        _write(time.time(), WATCHING, watch.layout.root)

    def show(self, change: Change) -> None:
        """Say what happened, if it is worth a line."""
        said = change.fields
        if change.what in (BEGUN, STATE) and said["state"] == COMPILING:
            _write(change.at, COMPILING, _named(said), _expected(said), _where(said))
        elif change.what == DIED:
            _write(change.at, DIED, _named(said), f"killed while {said['state']}", _where(said))
        elif change.what == LOGGED:
            extra = [*said.get("incidents", []), said.get("detail", "")]
            _write(change.at, said["outcome"], _named(said), _seconds(said), *extra, f"on {said['host']}")
        elif change.what == QUEUED and (not said["queued"] or said["refused"] or said["last_error"]):
            _write(change.at, QUEUED, queue_in_words(Queue(**said)))

    def end(self, watch: Watch) -> None:
        """Say what it added up to."""
        end = time.time()
        _write(end, SUMMARY, f"{whole_seconds(end - watch.begun)}: {tally_in_words(watch.tally)}")


class JsonLines:
    """A JSON object on a line of its own for each change."""

    def begin(self, watch: Watch) -> None:
        """Say what is watched."""
        self._write({"what": WATCHING, "at": round(time.time(), 3), "store": watch.layout.root})

    def show(self, change: Change) -> None:
        """Say what happened."""
        self._write(change.as_dict())

    def end(self, watch: Watch) -> None:
        """Say what it added up to."""
        at, since = round(time.time(), 3), round(watch.begun, 3)
        self._write({"what": SUMMARY, "at": at, "since": since, **watch.tally.as_dict()})

    @staticmethod
    def _write(value: "dict[str, Any]") -> None:
        presentation.write(json.dumps(value) + "\n")


def _write(at: float, what: str, *said: str) -> None:
    words = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)), f"{what:<11}", *(word for word in said if word)]
    presentation.write(presentation.printable("  ".join(words)) + "\n")


def _named(said: "dict[str, Any]") -> str:
    return str(said.get("module", ""))


def _expected(said: "dict[str, Any]") -> str:
    seconds = said.get("expected_seconds")
    if seconds is None:
        return ""
    about = "about " if said.get("expected_by") == BY_NAME else ""
    return f"expected {about}{presentation.duration(seconds)}"


def _seconds(said: "dict[str, Any]") -> str:
    seconds = said.get("seconds")
    if seconds is None or said["group"] not in (HIT, MISS):
        return ""
    return ("saved " if said["group"] == HIT else "compiled ") + presentation.duration(seconds)


def _where(said: "dict[str, Any]") -> str:
    return f"on {said.get('host', '?')}, process {said['pid']}"
