"""What can go wrong on the way to the loopback Hub: faults by rule, and a link with latency and a bandwidth."""

import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field, replace

PIECE = 64 * 1024


@dataclass
class Answer:
    """An answer on its way out."""

    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    length: int | None = None  # what Content-Length says, if that is not the body's own length
    then_close: bool = False


@dataclass(frozen=True)
class Action:
    """What a rule does to a request. This one does nothing; it is what an undisturbed request gets."""

    def before(self, _request: str) -> Answer | None:
        """Answer in the place of the Hub, which then never hears of the request."""
        return None

    def after(self, answer: Answer) -> Answer:
        """Change the answer of the Hub, which has done what it was asked to."""
        return answer


class Dropped(Exception):  # noqa: N818 - it is a way out, not an error
    """The connection ends here, without an answer."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


@dataclass(frozen=True)
class Status(Action):
    """Answer with `code`, before or after the request has had its effect."""

    code: int
    headers: dict = field(default_factory=dict)
    when: str = "before"
    body: bytes = b'{"error":"a fault of the test"}'

    def _answer(self) -> Answer:
        return Answer(self.code, self.body, {"Content-Type": "application/json", **self.headers})

    def before(self, _request):
        return self._answer() if self.when == "before" else None

    def after(self, _answer):
        return self._answer()


@dataclass(frozen=True)
class Drop(Action):
    """Close the connection without an answer, before or after the effect; `reset` sends an RST instead of a FIN."""

    when: str = "before"
    reset: bool = False

    def before(self, _request):
        if self.when == "before":
            raise Dropped(self.reset)

    def after(self, _answer):
        raise Dropped(self.reset)


@dataclass(frozen=True)
class Stall(Action):
    """Let the request have its effect, then send nothing, or the headers only, for `seconds`; then go on."""

    seconds: float
    when: str = "headers"


@dataclass(frozen=True)
class Slow(Action):
    """Take the request's body and send the answer's at this pace."""

    bytes_per_second: float


@dataclass(frozen=True)
class Truncate(Action):
    """Promise the whole body, send `keep_bytes` of it, and close."""

    keep_bytes: int

    def after(self, answer):
        return replace(answer, body=answer.body[: self.keep_bytes], length=len(answer.body), then_close=True)


@dataclass(frozen=True)
class FlipByte(Action):
    """Invert the byte at `position` (negative: from the end)."""

    position: int

    def after(self, answer):
        body = bytearray(answer.body)
        if body:
            body[self.position] ^= 0xFF
        return replace(answer, body=bytes(body))


@dataclass(frozen=True)
class WrongSize(Action):
    """Send a body that is `delta` bytes longer or shorter, under an honest Content-Length."""

    delta: int

    def after(self, answer):
        body = answer.body + bytes(self.delta) if self.delta > 0 else answer.body[: self.delta or None]
        return replace(answer, body=body)


@dataclass(frozen=True)
class Body(Action):
    """Answer 200 with this body, as a login page in the way would."""

    data: bytes
    headers: dict = field(default_factory=lambda: {"Content-Type": "text/html"})

    def before(self, _request):
        return Answer(200, self.data, dict(self.headers))


@dataclass(frozen=True)
class Redirect(Action):
    """Answer with a redirect to `url` (with "{path}" replaced by the path that was asked for)."""

    url: str
    code: int = 302

    def before(self, request):
        return Answer(self.code, b"", {"Location": self.url.replace("{path}", request)})


NOTHING = Action()


@dataclass
class Fault:
    """A rule, as `Hub.fail` returns it: how often it was applied, and a way to take it back."""

    kind: str | None
    action: Action
    times: int | None
    after: int
    path: "re.Pattern[str] | None"
    rules: "Faults" = field(repr=False)
    applied: int = 0
    skipped: int = 0

    def remove(self) -> None:
        self.rules.remove(self)


class Faults:
    """The rules in force; the first that fits a request and is not used up wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []

    def add(self, kind: str | None, action: Action, *, times: int | None, after: int, path: str | None) -> Fault:
        rule = Fault(kind, action, times, after, re.compile(path) if path is not None else None, self)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: Fault) -> None:
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def pick(self, kind: str, path: str) -> Action:
        with self._lock:
            for rule in self._rules:
                if rule.kind not in (None, kind) or (rule.path and not rule.path.search(path)):
                    continue
                if rule.skipped < rule.after:
                    rule.skipped += 1
                elif rule.times is None or rule.applied < rule.times:
                    rule.applied += 1
                    return rule.action
        return NOTHING


class Pace:
    """A rate in bytes a second, shared by all who take from it."""

    CREDIT = 0.001  # what a sleep that overslept may catch up on, in seconds

    def __init__(self, bytes_per_second: float) -> None:
        self.rate = bytes_per_second
        self._lock = threading.Lock()
        self._free = 0.0

    def take(self, count: int) -> float:
        """Book `count` bytes and return the seconds until they are through."""
        now = time.monotonic()
        with self._lock:
            self._free = max(self._free, now - self.CREDIT) + count / self.rate
            return self._free - now


class Wire:
    """One connection's socket, behind the emulated link."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self.closing = closing
        self.link: Pace | None = None
        self.slow: Pace | None = None

    def sleep(self, seconds: float) -> None:
        if seconds > 0 and self.closing.wait(seconds):
            raise ConnectionAbortedError

    def pass_through(self, count: int) -> None:
        """Wait as long as `count` bytes take."""
        wait = max((pace.take(count) for pace in (self.link, self.slow) if pace), default=0.0)
        if wait > 0.0005:
            self.sleep(wait)

    def piece(self, most: int) -> int:
        if self.slow:
            return min(most, max(1, int(self.slow.rate / 20)))
        return min(most, PIECE) if self.link else most

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            size = self.piece(len(view))
            self.pass_through(size)
            self.sock.sendall(view[:size])
            view = view[size:]

    def receive(self, reader, length: int, progress) -> bytes:
        """Read `length` bytes; `progress` is told of every piece."""
        whole = bytearray(length)
        view = memoryview(whole)
        done = 0
        while done < length:
            size = self.piece(min(length - done, 16 * PIECE))
            got = reader.readinto(view[done : done + size])
            progress(got)
            if got < size:
                raise ConnectionResetError
            self.pass_through(got)
            done += got
        return bytes(whole)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
