"""Processes that share a command's work: none of them outlives it, however it ends."""

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_GLANCE = 1.0  # seconds


def make_workers(count: int) -> ProcessPoolExecutor:
    """Return an executor of so many processes.

    They are not forked: a progress bar has a thread.
    """
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_end_with_parent, initargs=(os.getpid(),)
    )


def _end_with_parent(parent: int) -> None:
    """End this process once `parent` is gone: killed, it cannot tell us, and our siblings hold its pipe open."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
