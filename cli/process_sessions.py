"""Ending processes with all that they started: each is the leader of a session of its own, by which these are found."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence

_GLANCE = 0.01  # seconds between two looks at what runs


def end_sessions(leaders: "Sequence[subprocess.Popen[bytes]]", patience: float) -> None:
    """End the sessions of these leaders: by SIGTERM to the leader, after so many seconds by SIGKILL.

    A leader that waits for what ignores SIGTERM has as long again to tidy up after that was killed. Nothing is left
    running but what began a session of its own.
    """
    for leader in leaders:
        leader.send_signal(signal.SIGTERM)
    _wait(leaders, patience)
    for leader in leaders:
        _kill(leader, but=leader.pid)
    _wait(leaders, patience)
    for leader in leaders:
        _kill(leader)
        leader.wait()


def members(session: int) -> "list[int]":
    """Return the processes of a session."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _session_of(int(name)) == session]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it ended
        return 0


def _wait(leaders: "Sequence[subprocess.Popen[bytes]]", seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(leader.poll() is None for leader in leaders) and time.monotonic() < end:
        time.sleep(_GLANCE)


def _kill(leader: "subprocess.Popen[bytes]", but: int = 0) -> None:
    for pid in members(leader.pid):
        if pid == but:
            continue
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it ended
