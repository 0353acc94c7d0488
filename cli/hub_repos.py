"""`neuron-store create` and `set`: a cache repo of one's own on the Hugging Face Hub, by optimum-neuron's conventions."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import settings
from neuron_store.cli.remotes import saved_name, setting_source
from neuron_store.cli.written import write_whole
from neuron_store.store.errors import ConfigurationError, NotFound, RemoteRefused, RemoteUnavailable
from neuron_store.store.remotes.hub_client import Faults, prepare
from neuron_store.store.remotes.location import (
    NO_REMOTE,
    hub_endpoint,
    hub_offline,
    hub_token,
    is_repo_name,
    without_credentials,
)

if TYPE_CHECKING:
    pass

Answer = TypeVar("Answer")

DEFAULT_NAME = "optimum-neuron-cache"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_WAIT = 30.0  # seconds for one request


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("create")(create)
    app.command("set")(set_name)


def create(
    name: Annotated[
        str,
        typer.Option(
            "--name", "-n", metavar="REPO", help=f"The repo's name, org/name or name; by default {DEFAULT_NAME}."
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; by default it is private.")] = False,
) -> None:
    """Create a repo on the Hugging Face Hub for results, and use it from now on."""
    _require_hub()
    if not hub_token(os.environ):
        raise RemoteRefused(f"a repo can only be created by a user of the Hub; {_LOG_IN}")
    hub = _Hub()
    repo = hub.full_name(name or DEFAULT_NAME)
    if hub.create(repo, private=not public):
        kind = "public" if public else "private"
        presentation.write(f"Neuron cache created on the Hugging Face Hub: {repo} [{kind}].\n")
    else:
        private = hub.is_private(repo)
        kind = "private" if private else "public"
        presentation.write(f"Neuron cache exists already on the Hugging Face Hub: {repo} [{kind}].\n")
        if private == public:
            presentation.remark(
                f"it stays {kind}; that is changed on its page, {hub_endpoint(os.environ)}/{repo}/settings"
            )
    _save(repo)


def set_name(
    name: Annotated[str, typer.Argument(metavar="REPO", help="The repo's name, org/name. It must exist.")],
) -> None:
    """Use a repo on the Hugging Face Hub, which must exist, before all other remotes."""
    repo = _plain_name(name)
    _require_hub()
    _Hub().is_private(repo)
    _save(repo)


def _plain_name(name: str) -> str:
    """Return org/name. Raises ConfigurationError for what optimum-neuron could not read."""
    shown = without_credentials(name)
    repo = name.removeprefix("hf://").removeprefix(hub_endpoint(os.environ) + "/").strip("/")
    if "/" not in repo:
        raise ConfigurationError(f"{shown!r} lacks its namespace: write org/name, as in the address of its page")
    if "@" in repo or repo.startswith("datasets/"):
        raise ConfigurationError(
            f"{shown!r}: only a model repo's plain name can be saved; "
            "for a dataset or a revision use `neuron-store config set remotes`"
        )
    if not is_repo_name(repo):
        raise ConfigurationError(f"{shown!r} is no name of a repo: it is written org/name")
    return repo


def _require_hub() -> None:
    if hub_offline(os.environ):
        raise RemoteUnavailable("the Hub is not asked, because HF_HUB_OFFLINE is set; unset it")


class _Hub:
    """The Hub, for what no remote can do: it need not exist yet."""

    def __init__(self) -> None:
        prepare(_WAIT)
        from huggingface_hub import HfApi

        self._endpoint = hub_endpoint(os.environ)
        self._token = hub_token(os.environ)
        self._api: HfApi = HfApi(endpoint=self._endpoint, token=self._token or False)

    def full_name(self, name: str) -> str:
        """Return org/name; a name without an org is one of the caller's own."""
        if "/" not in name:
            answer = self._ask("the Hub", "log in to", self._api.whoami)
            name = f"{answer['name']}/{name}"
        return _plain_name(name)

    def create(self, repo: str, *, private: bool) -> bool:
        """Create the repo; return False if it exists already."""
        try:
            self._api.create_repo(repo, private=private)
        except Exception as error:
            status, said = _answer_of(error)
            if status == 409:
                return False
            if status == 403:
                raise RemoteRefused(
                    f"this token may not create {repo}; use one with the right to write in that namespace: {_LOG_IN}"
                ) from error
            if status == 401:
                raise RemoteRefused(f"the Hub does not know this token; {_LOG_IN}") from error
            if status == 400:
                raise ConfigurationError(f"the Hub takes no repo of the name {repo}: {said}") from error
            raise self._fault(f"the Hub's repo {repo}", "create", error) from error
        return True

    def is_private(self, repo: str) -> bool:
        """Tell whether the repo is private. Raises NotFound if it is not there, or not for us."""
        try:
            answer = self._api.model_info(repo, expand=["private"])
        except Exception as error:
            status, _ = _answer_of(error)
            if status in (401, 403, 404):
                as_whom = "with this token" if self._token else "without a token"
                raise NotFound(
                    f"there is no repo {repo} on the Hub, or no right to see it {as_whom}; check its name, {_LOG_IN}, "
                    f"or create it: neuron-store create --name {repo}"
                ) from error
            raise self._fault(f"the Hub's repo {repo}", "read", error) from error
        return bool(answer.private)

    def _ask(self, place: str, doing: str, question: "Callable[[], Answer]") -> "Answer":
        try:
            return question()
        except Exception as error:
            if _answer_of(error)[0] == 401:
                raise RemoteRefused(f"the Hub does not know this token; {_LOG_IN}") from error
            raise self._fault(place, doing, error) from error

    def _fault(self, place: str, doing: str, error: Exception) -> Exception:
        return Faults(place, "main", self._endpoint, self._token).translate(error, doing)


def _answer_of(error: BaseException) -> tuple[int, str]:
    """Return the status of the answer that made a call of huggingface_hub's fail (0 without one), and its words."""
    response: Any = getattr(error, "response", None)
    if response is None:
        cause = error.__cause__
        return _answer_of(cause) if cause is not None else (0, "")
    return int(response.status_code), str(response.headers.get("X-Error-Message") or error)[:300]


def _save(repo: str) -> None:
    """Save the name where optimum-neuron looks for it, too."""
    path = saved_name()
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, repo.encode())
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}; set HF_HOME to another folder"
        ) from error
    presentation.write(f"Neuron cache name set locally to {repo} in {path}.\n")
    other = os.environ.get("CUSTOM_CACHE_REPO", "").strip()
    if other and other != repo:
        presentation.remark(f"CUSTOM_CACHE_REPO is set in the environment to {other}, and comes before it")
    if NO_REMOTE in settings().remotes:
        presentation.remark(f"it is not used as long as {setting_source(settings())} is {NO_REMOTE}")
