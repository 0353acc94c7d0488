"""Work that may never end (a mount that is gone, a name server), done by threads that can be left behind."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Made = TypeVar("Made")


@dataclass
class Outcome(Generic[Made]):
    """What became of one piece of work.

    Attributes:
        finished: whether it ended in time, one way or the other.
        made: what it returned, None if it did not.
        error: what it raised, None if it did not.
    """

    finished: bool = False
    made: "Made | None" = None
    error: "Exception | None" = None


def run_bounded(work: "Sequence[Callable[[], Made]]", seconds: float) -> list[Outcome[Made]]:
    """Do all the work at once; return what became of each piece after at most `seconds`, in order.

    What has not ended by then goes on in a thread that does not keep the process from ending.
    """
    outcomes: list[Outcome[Made]] = [Outcome() for _ in work]
    threads = [
        threading.Thread(target=_run, args=(piece, outcome), daemon=True)
        for piece, outcome in zip(work, outcomes, strict=True)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    # A thread that ends from now on must not change what was returned.
    return [Outcome(each.finished, each.made, each.error) for each in outcomes]


def _run(piece: "Callable[[], Made]", outcome: Outcome[Made]) -> None:
    try:
        outcome.made = piece()
    except Exception as error:  # noqa: BLE001 - whoever asked for it says what is wrong
        outcome.error = error
    outcome.finished = True
