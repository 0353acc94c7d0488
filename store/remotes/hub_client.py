"""huggingface_hub in a process that nobody watches: every request is made once, and none is waited for without end.

huggingface_hub repeats some requests by itself, for minutes, and waits for others for ever. Whoever uploads here has a
better plan: it looks at what has arrived, serves other remotes, and tries again. So its client is told to give a
request up after a time, and a fault that it would sit out ends the call.
"""

import os
import re
import threading

from neuron_store.store.errors import NeuronStoreError, RemoteConflict, RemoteRefused, RemoteUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
}
_XET_TIMES = ("HF_XET_CLIENT_CONNECT_TIMEOUT", "HF_XET_CLIENT_READ_TIMEOUT", "HF_XET_CLIENT_RETRY_MAX_DURATION")
_RETRIED = (408, 429, 500, 502, 503, 504)  # what huggingface_hub would repeat
NOT_THERE = ("RepoNotFound", "RevisionNotFound", "GatedRepo")
_LONGEST_MESSAGE = 300  # characters
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{4,}|(?<=Bearer )[^\s'\"]+")
_timeout_in_force: "float | None" = None
_preparing = threading.Lock()


def prepare(timeout: float) -> None:
    """Import huggingface_hub, and have it give up a request after `timeout` seconds without an answer."""
    global _timeout_in_force  # noqa: PLW0603 - as global as the client's own factory
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _XET_TIMES:
        os.environ.setdefault(name, f"{max(1, round(timeout * 1000))}ms")
    with _preparing:
        if timeout == _timeout_in_force:
            return
        from huggingface_hub import constants, set_client_factory
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:  # it was imported before us, and the user has said nothing
            disable_progress_bars()
        # A new factory closes the client that another thread may be using.
        set_client_factory(lambda: _make_client(timeout))
        _timeout_in_force = timeout


def _make_client(timeout: float) -> "Any":  # noqa: ANN401 - of httpx or httpx2, by huggingface_hub's version
    from huggingface_hub.utils._http import default_client_factory

    client: Any = default_client_factory()
    send = client.send

    def send_once(request: "Any", **options: "Any") -> "Any":  # noqa: ANN401 - of httpx or httpx2
        # Some callers ask for no time limit, which a client's own limit does not overrule.
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            response = send(request, **options)
            if response.status_code in _RETRIED:
                response.read()
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2"):
                raise
            raise RemoteUnavailable(f"{request.url.host} did not answer: {_in_short(error)}") from error
        if response.status_code in _RETRIED:
            raise RemoteUnavailable(_describe(response), retry_after(response.headers))
        return response

    client.send = send_once
    return client


def _describe(response: "Any") -> str:  # noqa: ANN401 - of httpx or httpx2
    url = response.request.url
    return f"{response.request.method} {url.host}{url.path}: {response.status_code} {_said(response)}".rstrip()


def _said(response: "Any") -> str:  # noqa: ANN401 - of httpx or httpx2
    """Return what the server says about an error, in one line."""
    said = response.headers.get("X-Error-Message")
    if not said:
        try:
            body = response.json()
            said = body.get("error") if isinstance(body, dict) else ""
        except Exception:  # noqa: BLE001 - whatever a server sends in place of its answer
            said = ""
    return _in_short(said or "")


def _in_short(text: object) -> str:
    return " ".join(str(text).split())[:_LONGEST_MESSAGE]


def retry_after(headers: "Any") -> "float | None":  # noqa: ANN401 - of httpx or httpx2
    """Return the seconds that an answer's headers ask us to wait, None if they do not."""
    plain = headers.get("Retry-After", "").strip()
    if plain.isascii() and plain.isdigit():
        return float(plain[:9])
    limit = headers.get("RateLimit", "")
    spent, reset = re.search(r"\br\s*=\s*0+\b", limit), re.search(r"\bt\s*=\s*(\d{1,9})\b", limit)
    return float(reset[1]) if spent and reset else None


class Faults:
    """Tells what an exception of huggingface_hub's means for one repo, without telling the token.

    Attributes:
        place: the repo, as messages name it.
    """

    def __init__(self, place: str, revision: str, endpoint: str, token: str) -> None:
        self.place = place
        self._revision = revision
        self._endpoint = endpoint
        self._token = token

    def translate(self, error: Exception, doing: str) -> Exception:
        """Return the error to raise for `error`, which came up while `doing` something ("write to").

        It is a RemoteError; or an OSError for a local file that cannot be read.
        """
        cause: BaseException = error
        for cause in _chain(error):
            if isinstance(cause, NeuronStoreError):
                return _like(cause, self._safe(f"{self.place}: {cause}"))
            response = getattr(cause, "response", None)
            if response is not None:
                return self._of_answer(response, doing)
            if isinstance(cause, OSError) and cause.filename is not None:
                return cause
        return RemoteUnavailable(self._safe(f"{self.place}: {type(cause).__name__}: {_in_short(cause)}"))

    def _of_answer(self, response: "Any", doing: str) -> Exception:  # noqa: ANN401 - of httpx or httpx2
        status = response.status_code
        said = self._safe(_describe(response))
        code = response.headers.get("X-Error-Code")
        # An object storage answers 403 to a link that has expired: only the Hub itself can refuse.
        if str(response.request.url).startswith(self._endpoint + "/"):
            if status in (409, 412):
                return RemoteConflict(f"{self.place}: another commit came between ({said})", None)
            if status in (401, 403) or (status == 404 and code in NOT_THERE):
                return RemoteRefused(self._refusal(status, code, doing) + f" ({said})")
        return RemoteUnavailable(f"{self.place}: {said}", retry_after(response.headers))

    def _refusal(self, status: int, code: "str | None", doing: str) -> str:
        if code == "GatedRepo":
            return f"{self.place} is gated; ask for access on its page"
        if code == "RevisionNotFound":
            return f"{self.place} has no revision {self._revision}; make that branch, or name another in remotes"
        if status == 401 and not self._token:
            return f"a token is needed to {doing} {self.place}; log in with `hf auth login`, or set HF_TOKEN"
        if status == 401:
            return f"the Hub does not know the token for {self.place}; log in with `hf auth login`, or correct HF_TOKEN"
        if status == 404:
            return (
                f"{self.place} is not there for us; check its name in remotes, create it, or log in with `hf auth "
                "login` (or HF_TOKEN) as someone who may see it"
            )
        return (
            f"we may not {doing} {self.place}; ask its owner for the right, or use a token that has it (`hf auth "
            "login`, HF_TOKEN), or write |read-only after it in remotes"
        )

    def _safe(self, message: str) -> str:
        if self._token:
            message = message.replace(self._token, "<token>")
        return _SECRET.sub("<token>", message)


def _like(error: NeuronStoreError, message: str) -> NeuronStoreError:
    if isinstance(error, RemoteUnavailable):
        return type(error)(message, error.retry_after)
    return type(error)(message)


def _chain(error: "BaseException | None") -> "Iterator[BaseException]":
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def is_xet_fault(error: Exception) -> bool:
    """Tell whether `error` is hf_xet's: it has no exceptions of its own, but neither an answer nor a file."""
    return not any(
        isinstance(cause, NeuronStoreError)
        or getattr(cause, "response", None) is not None
        or getattr(cause, "filename", None) is not None
        for cause in _chain(error)
    )
