"""Processes that share a command's work: none of them outlives it, however it ends."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from neuron_store.store.errors import WorkerLost

_GLANCE = 1.0  # seconds


def make_workers(count: int) -> ProcessPoolExecutor:
    """Return an executor of so many processes.

    They are not forked: a progress bar has a thread.
    """
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_end_with_parent, initargs=(os.getpid(),)
    )


@contextmanager
def losing_no_worker(what_to_do: str) -> "Iterator[None]":
    """While it is entered, a killed worker is a WorkerLost, whose message ends with `what_to_do`."""
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerLost(
            f"a process that did a part of the work was killed, perhaps because memory ran out (see dmesg); {what_to_do}"
        ) from error


def _end_with_parent(parent: int) -> None:
    """End this process once `parent` is gone: killed, it cannot tell us, and our siblings hold its pipe open."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
