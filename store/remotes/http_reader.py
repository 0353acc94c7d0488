"""GETs that cannot hang: one kept-alive connection for each origin, a time limit on every wait, nothing believed.

huggingface_hub's own download asks twice for each file, takes 250 ms to import and has a cache of its own; here a GET
is at once the question whether a file is there and its download. Only what that needs is done: redirects (the token
goes to its own origin and no further), proxies from the environment, resumption of a download that broke off.
"""

import io
import time

from neuron_store.store.errors import CorruptRemote, RemoteRefused, RemoteUnavailable
from neuron_store.store.remotes.content_digest import ContentDigest
from neuron_store.store.remotes.http_connect import (
    authority,
    connect,
    proxy_address,
    proxy_for,
    proxy_headers,
    say,
    shown,
    split_url,
    wrap_tls,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from http.client import HTTPResponse

_MOST_REDIRECTS = 5
_INTERIM = (102, 103)  # answers before the answer; http.client knows only 100
_PIECE = 1 << 18  # bytes
_LARGEST_REFUSAL = 1 << 16  # bytes of an answer's body that are read only to keep its connection
_GLANCE = 0.25  # seconds between two looks whether others gave the remote up
_RESUMPTIONS = 3
# X-Error-Code, as far as it is repeated: what else a server says may be anything.
_CODES = ("RepoNotFound", "GatedRepo", "RevisionNotFound", "EntryNotFound", "DisabledRepo")


class ReadLimits:
    """How long a remote may take.

    Attributes:
        connect: seconds to resolve the name, connect and shake hands.
        first_byte: seconds until the answer's headers are there, and of grace for a body. Redirects on the way to it
            have no more than this and `connect` together.
        min_rate: bytes per second that a body must come with after that.
    """

    __slots__ = ("connect", "first_byte", "min_rate")

    def __init__(self, connect: float = 3.0, first_byte: float = 10.0, min_rate: float = 100_000.0) -> None:
        self.connect = connect
        self.first_byte = first_byte
        self.min_rate = min_rate


class Connections(dict[tuple[str, str, int], "_Connection"]):
    """Kept-alive connections by their origins: scheme, host and port."""

    def close(self) -> None:
        """Close all of them."""
        for connection in self.values():
            connection.close()
        self.clear()


class HttpReader:
    """Reads from one origin, and from where it redirects to.

    `given_up` tells whether another process of this host found the remote down meanwhile. `may_fork` is false where
    threads run: then a name server that does not answer is waited for as long as the resolver pleases.
    """

    def __init__(
        self,
        endpoint: str,
        token: str,
        limits: ReadLimits,
        *,
        agent: str,
        environ: "Mapping[str, str]",
        given_up: "Callable[[], bool]" = lambda: False,
        may_fork: bool = True,
        connections: "Connections | None" = None,
    ) -> None:
        """`connections` are kept by whoever gives them, for several readers of one thread."""
        self._endpoint = endpoint
        self._origin = _origin_of(endpoint)
        self._token = token
        self._limits = limits
        self._agent = agent
        self._environ = environ
        self._given_up = given_up
        self._may_fork = may_fork
        self._connections = Connections() if connections is None else connections

    def read(self, path: str, limit: int) -> "bytes | None":
        """Return the body of `path` below the endpoint, None if it is not there.

        Raises RemoteUnavailable, RemoteRefused; CorruptRemote if it is larger than `limit` bytes.
        """
        answer = self._get(path, 0)
        if answer is None:
            return None
        if answer.length is not None and answer.length > limit:
            answer.abandon()
            raise CorruptRemote(f"{path} is {answer.length} bytes, more than {limit}")
        data = b""
        for piece in answer.pieces(limit + 1):
            data += piece
        if len(data) > limit:
            answer.abandon()
            raise CorruptRemote(f"{path} is larger than {limit} bytes")
        return data

    def download(self, path: str, size: int, write: "Callable[[bytes], None]") -> None:
        """Hand the body of `path`, which must have `size` bytes, to `write` piece by piece.

        A connection that breaks is taken up where it broke. Raises RemoteUnavailable, RemoteRefused, CorruptRemote.
        """
        received = 0
        for resumption in range(_RESUMPTIONS + 1):
            answer = self._get(path, received)
            if answer is None:
                raise CorruptRemote(f"{path} is not there, though a record names it")
            if answer.length is not None and answer.length != size - received:
                answer.abandon()
                raise CorruptRemote(f"{path} is {received + answer.length} bytes, not {size}")
            before = received
            try:
                for piece in answer.pieces(size - received + 1):
                    write(piece)
                    received += len(piece)
            except BrokenOff:
                if resumption == _RESUMPTIONS or received == before:
                    raise
                continue
            if received != size:
                answer.abandon()
                raise CorruptRemote(f"{path} is not {size} bytes")
            return

    def take(self, path: str, limit: int, write: "Callable[[bytes], None]") -> "int | None":
        """Hand the body of `path`, whose size nobody told, to `write`; return how many bytes, None if it is not there.

        It must be what the Hub's own digest says, where it tells one. Raises RemoteUnavailable, RemoteRefused; CorruptRemote,
        also beyond `limit` bytes.
        """
        received, tag = 0, ""
        digest = ContentDigest()
        for resumption in range(_RESUMPTIONS + 1):
            answer = self._get(path, received)
            if answer is None and not received:
                return None
            if answer is None or (received and answer.tag != tag):
                raise CorruptRemote(f"{path} changed while it was read")
            tag = answer.tag
            before = received
            try:
                for piece in answer.pieces_within(limit - received, path):
                    write(piece)
                    digest.update(piece)
                    received += len(piece)
                break
            except BrokenOff:
                if resumption == _RESUMPTIONS or received == before:
                    raise
        if not digest.fits(tag):
            raise CorruptRemote(f"{path} is not what the Hub's digest of it says")
        return received

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    # -- requests --------------------------------------------------------------------------------------------------

    def _get(self, path: str, begin: int) -> "_Answer | None":
        """Return the answer to a GET from byte `begin` on, None for "not found"."""
        url = self._endpoint + path
        deadline = time.monotonic() + self._limits.connect + self._limits.first_byte
        tag = ""
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._request(url, begin, deadline)
            tag = tag or answer.header("X-Linked-ETag")
            if answer.status not in (301, 302, 303, 307, 308):
                # What another origin calls it may be a digest of something else.
                own = answer.header("ETag") if _origin_of(url) == self._origin else ""
                answer.tag = (tag or own).removeprefix("W/").strip('"')
                return self._judge(answer, path, begin, deadline)
            target = answer.header("Location")
            answer.finish(deadline)
            if not target:
                break
            url = _join(url, target)
        raise RemoteUnavailable(f"{shown(self._endpoint)}{path} redirects without end")

    def _judge(self, answer: "_Answer", path: str, begin: int, deadline: float) -> "_Answer | None":
        where = f"{shown(self._endpoint)}{path}"
        if answer.status == (206 if begin else 200):
            if answer.header("Content-Encoding") not in ("", "identity"):
                answer.abandon()
                raise CorruptRemote(f"{where} came in an encoding that was not asked for")
            if begin and not answer.header("Content-Range").startswith(f"bytes {begin}-"):
                answer.abandon()
                raise CorruptRemote(f"{where} was taken up at another byte")
            return answer
        answer.finish(deadline)
        code = answer.header("X-Error-Code")
        said = f"{where} answered {answer.status}" + (f" ({code})" if code in _CODES else "")
        if answer.status == 404 and code not in ("RepoNotFound", "GatedRepo"):
            return None
        if answer.status in (401, 403, 404):
            raise RemoteRefused(
                f"{said}; check the repo's name, and that the token (`hf auth login`, HF_TOKEN) may read it"
            )
        raise RemoteUnavailable(said, retry_after=_retry_after(answer))

    def _request(self, url: str, begin: int, deadline: float) -> "_Answer":
        scheme, host, port, target = split_url(url)
        key = (scheme, host, port)
        headers = {
            "Host": authority(scheme, host, port),
            "User-Agent": self._agent,
            "Accept-Encoding": "identity",
            "Accept": "*/*",
        }
        if self._token and key == self._origin:
            headers["Authorization"] = f"Bearer {self._token}"
        if begin:
            headers["Range"] = f"bytes={begin}-"
        kept = self._connections.get(key)
        if kept is not None and kept.socket is not None:
            kept.given_up = self._given_up
            try:
                return kept.ask(target, headers, deadline)
            except BrokenOff:
                pass  # it was closed while it was idle
        try:
            connection = _Connection(
                scheme, host, port, self._limits, self._environ, self._given_up, deadline, may_fork=self._may_fork
            )
            self._connections[key] = connection
            return connection.ask(target, headers, deadline)
        except RemoteUnavailable as error:
            if key == self._origin:
                raise Unreachable(str(error)) from error
            raise


class Unreachable(RemoteUnavailable):
    """The endpoint itself cannot be reached, or says nothing: no repo of its can be read now."""


class BrokenOff(RemoteUnavailable):
    """The connection was closed, or reset, before all had come."""


class _Connection:
    """One connection to one origin."""

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        limits: ReadLimits,
        environ: "Mapping[str, str]",
        given_up: "Callable[[], bool]",
        deadline: float,
        *,
        may_fork: bool,
    ) -> None:
        self.limits = limits
        self.given_up = given_up
        self.name = f"{scheme}://{authority(scheme, host, port, always_port=True)}"
        self.socket: socket.socket | None = None
        deadline = min(deadline, time.monotonic() + limits.connect)
        try:
            proxy = proxy_for(scheme, host, port, environ)
            self._absolute = bool(proxy) and scheme == "http"
            self._proxy_headers = proxy_headers(proxy)
            self.socket = connect(*(proxy_address(proxy) if proxy else (host, port)), deadline, may_fork=may_fork)
            if proxy and scheme == "https":
                self._open_tunnel(host, port, deadline)
            if scheme == "https":
                self.socket = wrap_tls(self.socket, host, environ, deadline)
        except (OSError, ValueError) as error:
            self.close()
            raise RemoteUnavailable(f"{self.name} cannot be reached: {say(error)}") from error

    def _pace(self) -> "_PacedSocket":
        if self.socket is None:
            raise BrokenOff(f"{self.name} is closed")
        return _PacedSocket(self.socket, self.given_up)

    def _open_tunnel(self, host: str, port: int, deadline: float) -> None:
        from http.client import HTTPResponse

        place = authority("https", host, port, always_port=True)
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        lines += [f"{name}: {value}" for name, value in self._proxy_headers.items()]
        paced = self._pace()
        paced.deadline = deadline
        paced.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = HTTPResponse(paced, method="CONNECT")  # type: ignore[arg-type]  # it needs makefile only
        try:
            answer.begin()
        except Exception as error:
            raise OSError(f"the proxy answered nonsense: {say(error)}") from error
        if answer.status != 200:
            raise OSError(f"the proxy answered {answer.status}")

    def ask(self, target: str, headers: "dict[str, str]", deadline: float) -> "_Answer":
        """Send a GET and return its answer, with the headers read, by `deadline`. Raises BrokenOff, RemoteUnavailable."""
        import http.client

        if self._absolute:
            target = self.name + target
            headers = {**headers, **self._proxy_headers}
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        paced = self._pace()
        paced.deadline = min(deadline, time.monotonic() + self.limits.first_byte)
        response = http.client.HTTPResponse(paced, method="GET")  # type: ignore[arg-type]  # it needs makefile only
        try:
            paced.sendall("\r\n".join(lines).encode("latin-1"))
            response.begin()
            while response.status in _INTERIM:
                response.headers = response.msg = None  # type: ignore[assignment]
                response.begin()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionError) as error:
            self.close()
            raise BrokenOff(f"{self.name} closed the connection") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise RemoteUnavailable(f"{self.name} did not answer: {say(error)}") from error
        except BaseException:
            self.close()
            raise
        return _Answer(self, paced, response)

    def close(self) -> None:
        """Close the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class _Answer:
    """The answer to a GET, its body still to be read.

    Attributes:
        tag: what the Hub calls the content, "" where it does not tell.
    """

    def __init__(self, connection: _Connection, paced: "_PacedSocket", response: "HTTPResponse") -> None:
        self._connection = connection
        self._paced = paced
        self._response = response
        self.status = response.status
        self.length = response.length
        self.tag = ""

    def header(self, name: str) -> str:
        """Return a header's value, "" if it is not there."""
        return self._response.getheader(name) or ""

    def pieces(self, most: int, end: "float | None" = None) -> "Iterator[bytes]":
        """Yield the body, at most `most` bytes, at the slowest with the least rate allowed; not beyond the moment `end`.

        Raises BrokenOff if it ends before its announced length, RemoteUnavailable if it is too slow.
        """
        import http.client

        limits = self._connection.limits
        begun, received = time.monotonic(), 0
        try:
            while received < most:
                if limits.min_rate:
                    self._paced.deadline = begun + limits.first_byte + received / limits.min_rate
                else:
                    self._paced.deadline = time.monotonic() + limits.first_byte
                if end is not None:
                    self._paced.deadline = min(self._paced.deadline, end)
                piece = self._response.read1(min(_PIECE, most - received))
                if not piece:
                    break
                received += len(piece)
                yield piece
        except TimeoutError as error:
            self.abandon()
            raise RemoteUnavailable(
                f"{self._connection.name} is too slow: {received} bytes, then {say(error)}"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.abandon()
            raise BrokenOff(f"{self._connection.name} broke off: {say(error)}") from error
        except GeneratorExit:
            self.abandon()
            raise
        if self.length is not None and received < min(self.length, most):
            self.abandon()
            raise BrokenOff(f"{self._connection.name} broke off after {received} of {self.length} bytes")
        # Only a body that was read to its announced end leaves a connection that can be used again.
        if self._response.will_close or received != self.length:
            self.abandon()

    def pieces_within(self, most: int, path: str) -> "Iterator[bytes]":
        """Yield the body like `pieces`. Raises CorruptRemote if it has more than `most` bytes."""
        if self.length is not None and self.length > most:
            self.abandon()
            raise CorruptRemote(f"{path} is larger than what is taken of it: {self.length} bytes, not {most}")
        received = 0
        for piece in self.pieces(most + 1):
            received += len(piece)
            if received > most:
                self.abandon()
                raise CorruptRemote(f"{path} is larger than what is taken of it: {most} bytes")
            yield piece

    def finish(self, end: float) -> None:
        """Read a body that is of no interest, if it is small and soon there, so that the connection can be kept."""
        if self.length is None or self.length > _LARGEST_REFUSAL:
            self.abandon()
            return
        try:
            for _ in self.pieces(_LARGEST_REFUSAL, end):
                pass
        except RemoteUnavailable:
            pass  # what the answer said is known already

    def abandon(self) -> None:
        """Close the connection: what is left of the body is not wanted."""
        self._connection.close()


class _PacedSocket:
    """A socket whose reads end at a deadline, whatever trickles in meanwhile.

    Attributes:
        deadline: of time.monotonic().
    """

    def __init__(self, socket: "socket.socket", given_up: "Callable[[], bool]") -> None:
        self.deadline = 0.0
        self._socket = socket
        self._given_up = given_up

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises OSError, TimeoutError."""
        self._socket.settimeout(max(0.001, self.deadline - time.monotonic()))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what HTTPResponse reads from."""
        return io.BufferedReader(_PacedReader(self), 1 << 16)

    def receive_into(self, buffer: "memoryview | bytearray") -> int:
        """Receive what there is. Raises TimeoutError at the deadline."""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing more came in time")
            self._socket.settimeout(min(left, _GLANCE))
            try:
                return self._socket.recv_into(buffer)
            except TimeoutError:
                if self._given_up():
                    raise TimeoutError("another process of this host gave it up") from None


class _PacedReader(io.RawIOBase):
    def __init__(self, paced: _PacedSocket) -> None:
        self._paced = paced

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        return self._paced.receive_into(buffer)


# -- small parts ---------------------------------------------------------------------------------------------------


def _origin_of(url: str) -> "tuple[str, str, int]":
    return split_url(url)[:3]


def _join(url: str, target: str) -> str:
    from urllib.parse import urljoin

    try:
        joined = urljoin(url, target)
    except ValueError as error:
        raise RemoteUnavailable(f"not an address: {shown(target)}") from error
    if url.startswith("https:") and not joined.startswith("https:"):
        raise RemoteUnavailable("a redirect leads from https to something else")
    return joined


def _retry_after(answer: _Answer) -> "float | None":
    """Return the seconds that an answer asks us to wait: `Retry-After: 30`, or the Hub's `RateLimit: "api";r=0;t=55`."""
    words = [answer.header("Retry-After").strip()]
    words += [part.strip()[2:] for part in answer.header("RateLimit").split(";") if part.strip().startswith("t=")]
    for word in words:
        if word.isdigit() and word.isascii():
            return float(word[:9])
    return None
