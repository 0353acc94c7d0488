"""What this host remembers of a remote: when to leave it alone, what it refused, what was sent to it.

One small JSON file for each remote, `<root>/remotes/<identity>`, read without a lock and changed under one. So all
processes of a host know at once that a remote is down, and the first to try it again is alone: a dead network costs a
host one time-out a minute, not one a process.
"""

import fcntl
import json
import math
import os
import random
import time

from neuron_store.store.layout import Layout, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 1800.0  # seconds that a failed remote is left alone, doubled each time
_HOUR = 3600.0
_LONGEST_ERROR = 500  # characters
_MOST_DOUBLINGS = 10  # of a pause; it has its greatest length long before
_LOCK_PATIENCE = 3.0  # seconds to wait for the lock, which a process that was stopped may hold
_LOCK_PAUSE = 0.005
_CLOCK_SLACK = 1.0  # seconds


class RemoteState:
    """The memory of one remote.

    Attributes:
        path: of the file; it need not exist.
    """

    __slots__ = ("_layout", "path", "url")

    def __init__(self, layout: Layout, identity: str, url: str) -> None:
        self._layout = layout
        self.path = layout.remote_state_path(identity)
        self.url = url

    def read(self) -> "dict[str, Any]":
        """Return what is remembered; {} if nothing is, or what is cannot be read."""
        try:
            data = read_file(self.path)
            state = json.loads(data) if data else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return state if isinstance(state, dict) else {}

    def change(self, change: "Callable[[dict[str, Any]], None]") -> None:
        """Change what is remembered, one process at a time. What cannot be written is forgotten."""
        folder = os.path.dirname(self.path)
        try:
            self._layout.make_folder(folder)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            change(self.read())
            return
        try:
            _lock(lock)
            state = self.read()
            state["url"] = self.url
            change(state)
            self._layout.write_file(self.path, json.dumps(state, indent=1).encode())
        except OSError:
            pass
        finally:
            os.close(lock)

    # -- reading: leave a remote alone that failed ---------------------------------------------------------------

    def may_try(self, patience: float, credential: str = "") -> bool:
        """Tell whether the remote may be asked now, by `credential`: what was refused to another is not refused to it.

        Once its pause is over, only the first process that asks may try; the others leave it alone for `patience`
        seconds more, or until that one has succeeded.
        """
        state = self.read()
        if not _number(state, "failures") or state.get("failed_as", credential) != credential:
            return True
        if not self._pause_over(state):
            return False
        claimed = False

        def claim(state: "dict[str, Any]") -> None:
            nonlocal claimed
            claimed = self._pause_over(state)
            if claimed:
                state["skip_until"] = time.time() + patience

        self.change(claim)
        return claimed

    def _pause_over(self, state: "dict[str, Any]") -> bool:
        # A clock that was set back must not silence a remote for long.
        return not 0 < _number(state, "skip_until") - time.time() <= 2 * _LONGEST_PAUSE

    def failed_since(self, moment: float) -> bool:
        """Tell whether a process of this host gave the remote up at or after `moment` (Unix seconds)."""
        state = self.read()
        # A moment that is yet to come was noted before the clock was set back.
        in_time = moment <= _number(state, "failed_at") <= time.time() + _CLOCK_SLACK
        return bool(_number(state, "failures")) and in_time

    def note_failure(
        self, error: Exception, retry_after: "float | None" = None, credential: "str | None" = None
    ) -> None:
        """Leave the remote alone for a while: longer each time, or as long as it asks; or only this `credential`."""

        def note(state: "dict[str, Any]") -> None:
            now = time.time()
            if _number(state, "failures") and now - _number(state, "failed_at") < _FIRST_PAUSE / 2:
                failures = _number(state, "failures")  # the same outage, seen by another process
            else:
                failures = _number(state, "failures") + 1
            pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE)
            if retry_after is not None:
                pause = min(max(pause, retry_after), 2 * _LONGEST_PAUSE)
            state["failures"] = failures
            state["failed_at"] = now
            state.pop("failed_as", None)
            if credential is not None:
                state["failed_as"] = credential
            state["skip_until"] = now + pause * random.uniform(1, 1.1)  # noqa: S311 - jitter
            self._remember_error(state, error)

        self.change(note)

    def note_success(self) -> None:
        """Forget earlier failures."""

        def forget(state: "dict[str, Any]") -> None:
            for name in ("failures", "failed_at", "failed_as", "skip_until"):
                state.pop(name, None)

        if self.read().get("failures"):
            self.change(forget)

    def _remember_error(self, state: "dict[str, Any]", error: Exception) -> None:
        state["last_error"] = str(error)[:_LONGEST_ERROR]
        state["last_error_at"] = time.time()

    # -- writing: what was refused, and how much was sent -----------------------------------------------------------

    def note_refusal(self, error: Exception, credential: str) -> bool:
        """Remember that writing was refused to `credential` (a digest of the token); return whether that is news."""
        news = False

        def note(state: "dict[str, Any]") -> None:
            nonlocal news
            news = _refused(state) != credential
            state["refused"] = {"credential": credential, "at": time.time(), "message": str(error)[:_LONGEST_ERROR]}
            self._remember_error(state, error)

        self.change(note)
        return news

    def refused(self, credential: str) -> str:
        """Return why writing was refused to this very credential, "" if it was not."""
        state = self.read()
        return str(state["refused"].get("message") or "refused") if _refused(state) == credential else ""

    def forget_refusal(self) -> None:
        """Writing works (again), or is to be tried again."""
        if self.read().get("refused"):
            self.change(lambda state: state.pop("refused", None))

    def note_upload(self) -> None:
        """Writing works: forget what was wrong."""

        def forget(state: "dict[str, Any]") -> None:
            for name in ("refused", "last_error", "last_error_at"):
                state.pop(name, None)

        known = self.read()
        if known.get("refused") or known.get("last_error"):
            self.change(forget)

    def note_error(self, error: Exception) -> None:
        """Remember an error of the uploader's for `remote status`."""
        self.change(lambda state: self._remember_error(state, error))

    def note_commit(self) -> None:
        """Count a commit, landed or not, against the hour's budget."""

        def note(state: "dict[str, Any]") -> None:
            state["commits"] = [*_commits(state), time.time()]

        self.change(note)

    def take_back_commit(self) -> None:
        """The last commit that was counted was refused: there was none."""
        self.change(lambda state: state.update(commits=_commits(state)[:-1]))

    def commits_in_hour(self) -> "list[float]":
        """Return when commits were made in the last hour (Unix seconds), in order."""
        return _commits(self.read())

    def note_xet(self, *, works: bool) -> None:
        """Remember whether the remote takes uploads by Xet."""
        if self.read().get("xet") is not works:
            self.change(lambda state: state.update(xet=works))

    @property
    def xet(self) -> "bool | None":
        """Whether the remote takes uploads by Xet, None if that is not known."""
        known = self.read().get("xet")
        return known if isinstance(known, bool) else None


def _refused(state: "dict[str, Any]") -> "str | None":
    """Return to whom writing was refused, None if it was not; "" is someone, too: one without a token."""
    refused = state.get("refused")
    return str(refused.get("credential")) if isinstance(refused, dict) else None


def _commits(state: "dict[str, Any]") -> "list[float]":
    now = time.time()
    listed = state.get("commits")
    return sorted(
        at
        for at in (listed if isinstance(listed, list) else [])
        if isinstance(at, int | float) and now - _HOUR < at <= now + 1
    )


def _number(state: "dict[str, Any]", name: str) -> float:
    """Return a number of the file's, 0 for what is none, or none that a time or a count can be."""
    value = state.get(name)
    try:
        number = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) and number >= 0 else 0.0


def _lock(descriptor: int) -> None:
    """Take the lock, or go on without: the last writer wins, and no compile waits for a process that was stopped."""
    end = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return
            time.sleep(_LOCK_PAUSE)
            continue
        except OSError:
            pass  # a file system without locks
        return
