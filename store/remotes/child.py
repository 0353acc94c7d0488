"""Questions that may never be answered (by a name server, by a mount that is gone), asked by a child that can be left."""

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FAREWELL = 0.2  # seconds in which a child that was killed ends, unless the kernel holds it


def ask_in_child(question: "Callable[[], bytes]", deadline: float) -> bytes:
    """Return what `question` returns, asked by a child of this process, which has no threads; b"" if it raises.

    Raises TimeoutError if there is no answer at `deadline` (of time.monotonic()), OSError if there can be no child.
    """
    reader, writer = os.pipe()
    try:
        try:
            child = os.fork()
            if not child:
                _answer(question, writer)
        finally:
            os.close(writer)
        try:
            return _read_all(reader, deadline)
        finally:
            _end(child)
    finally:
        os.close(reader)


def _read_all(reader: int, deadline: float) -> bytes:
    poller = select.poll()  # select() knows no descriptor from 1024 on
    poller.register(reader, select.POLLIN)
    answer = b""
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1e3):
        if not (piece := os.read(reader, 65536)):
            return answer
        answer += piece
    raise TimeoutError("no answer in time")


def _answer(question: "Callable[[], bytes]", writer: int) -> None:
    try:
        _let_go_of_all_but(writer)
        answer = question()
        while answer:
            answer = answer[os.write(writer, answer) :]
    except BaseException:  # noqa: BLE001, S110 - nothing must get out of this process
        pass
    finally:
        os._exit(0)


def _let_go_of_all_but(kept: int) -> None:
    """Close locks and pipes: should our parent be killed, nobody must wait for us to give them back."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) != kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself
    if kept > 2:
        for _ in range(3):  # nothing that is opened from now on must be taken for stdout or stderr
            os.open(os.devnull, os.O_RDWR)


def _end(child: int) -> None:
    import signal

    end = time.monotonic() + _FAREWELL
    try:
        os.kill(child, signal.SIGKILL)
        while not os.waitpid(child, os.WNOHANG)[0] and time.monotonic() < end:
            time.sleep(0.001)
    except OSError:
        pass
