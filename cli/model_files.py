"""Where a model's configuration comes from: a folder, or the Hub by way of huggingface_hub's own cache."""

import abc
import os
import re

from neuron_store.cli.model_config import read_bounded
from neuron_store.store.errors import ConfigurationError, NotFound, RemoteRefused, RemoteUnavailable
from neuron_store.store.registry.places import is_model_id, local_id
from neuron_store.store.remotes.hub_client import Faults, prepare
from neuron_store.store.remotes.location import DEFAULT_ENDPOINT, hub_endpoint, hub_offline, hub_token

CONFIG, PIPELINE = "config.json", "model_index.json"
_WAIT = 10.0  # seconds for one request
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_NAME_IT = "name a folder that has its config.json"
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# A model's folder in huggingface_hub's cache, which vLLM and others name in place of the model.
_SNAPSHOT = re.compile(r"/models--(?P<parts>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})/?$")
_LONGEST_SHOWN = 300  # characters


class Files(abc.ABC):
    """The files of a model.

    Attributes:
        model_id: of the Hub, or local/<folder's name>.
        revision: the commit, once something has been read; "" where none is known.
        config: the name of the configuration's file.
        unknown: names of files that are not at hand, and may exist all the same.
    """

    def __init__(self, model_id: str, config: str) -> None:
        self.model_id = model_id
        self.revision = ""
        self.config = config
        self.unknown: set[str] = set()

    @abc.abstractmethod
    def name(self, path: str) -> str:
        """Return what messages call a file."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if it is not at hand. Raises ConfigurationError, NotFound or RemoteRefused."""

    @abc.abstractmethod
    def is_none(self) -> Exception:
        """Return the error for a model of which no configuration is at hand: NotFound, or RemoteUnavailable."""


def find_files(word: str, revision: str) -> Files:
    """Find out where the model is that `word` means; `revision` may be "".

    Raises NotFound for a path where nothing is, ConfigurationError for what can mean no model.
    """
    if not word or "\0" in word:
        raise ConfigurationError(f"{shown(word)} names no model; name one of the Hub as org/name, or {_NAME_IT}")
    if word.startswith("hf://"):
        return _of_hub(word, word.removeprefix("hf://").strip("/"), revision)
    for address in (hub_endpoint(os.environ), DEFAULT_ENDPOINT):
        if word.startswith(address + "/"):
            return _of_hub(word, word.removeprefix(address).strip("/").replace("/tree/", "@", 1), revision)
    path = os.path.expanduser(word)
    if word.startswith(("/", ".", "~")) or word.endswith(".json") or os.path.exists(path):
        return _on_disk(path)
    return _of_hub(word, word, revision)


def _on_disk(path: str) -> "FilesOnDisk":
    try:
        path = os.path.abspath(path)  # "." has no name of its own, and may be gone
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"there is no {shown(path)}; name a folder that is there, or a model of the Hub as org/name"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if os.path.isdir(path):
        return FilesOnDisk(path, CONFIG)
    folder, name = os.path.split(path)
    return FilesOnDisk(folder, CONFIG if name == PIPELINE else name)


class FilesOnDisk(Files):
    """The files of a model in a folder, which is absolute."""

    def __init__(self, folder: str, config: str) -> None:
        super().__init__(local_id(os.path.basename(folder)), config)
        self._folder = folder
        snapshot = _SNAPSHOT.search(folder)
        repo = "/".join(snapshot["parts"].split("--")) if snapshot else ""
        if snapshot and is_model_id(repo):
            self.model_id, self.revision = repo, snapshot["commit"]

    def name(self, path: str) -> str:
        """Return a file's whole path."""
        return shown(os.path.join(self._folder, path))

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if there is no such file. Raises ConfigurationError."""
        return _read(os.path.join(self._folder, path), self.name(path))

    def is_none(self) -> Exception:
        """Return NotFound."""
        return NotFound(
            f"the folder {shown(self._folder)} has neither {CONFIG} nor {PIPELINE}; name another, or a model of the Hub "
            "as hf://org/name"
        )


def _read(path: str, name: str) -> bytes | None:
    """Return the bytes of a file that messages call `name`, None if there is none. Raises ConfigurationError."""
    try:
        return read_bounded(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigurationError(f"{name} is not the configuration of a model: {error}; name another model") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{shown(path)} cannot be read: {error.strerror}; make it readable, or name another model"
    )


def shown(text: str) -> str:
    """Return text as messages show it: one short line, whatever is in it."""
    text = text if text and text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


# -- on the Hub ----------------------------------------------------------------------------------------------------


def _of_hub(word: str, written: str, revision: str) -> "FilesOnHub":
    """Read `org/name`, or `org/name@revision`. Raises ConfigurationError for what can be no model's id."""
    repo, at, after = written.partition("@")
    revision = revision or after or "main"
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except ValueError:
        repo = ""
    if not is_model_id(repo) or (at and not after):
        raise ConfigurationError(
            f"{shown(word)} is neither a folder here nor an id of the Hub; name a folder that is there, or write an id as "
            "org/name, as in the address of its page"
        )
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigurationError(f"{shown(revision)} is no revision; name a branch, a tag or a commit")
    return FilesOnHub(repo, revision)


class FilesOnHub(Files):
    """The files of a model on the Hub. Once it is found to be at fault, only huggingface_hub's cache is looked into."""

    def __init__(self, repo: str, revision: str) -> None:
        super().__init__(repo, CONFIG)
        self._asked_for = revision
        self._endpoint = hub_endpoint(os.environ)
        self._token = hub_token(os.environ)
        self._fault: RemoteUnavailable | None = None
        self._remedy = "try again later"
        prepare(_WAIT)
        from huggingface_hub import constants

        if hub_offline(os.environ) or constants.HF_HUB_OFFLINE:
            self._fault = RemoteUnavailable("the Hub is not asked, because HF_HUB_OFFLINE is set")
            self._remedy = "unset it"

    def name(self, path: str) -> str:
        """Return a file's name, and whose it is."""
        return f"{path} of the model {self.model_id}"

    def read(self, path: str) -> bytes | None:
        """Return a file's content, None if it is not at hand. Raises NotFound, RemoteRefused, ConfigurationError."""
        place = self._fetch(path) if self._fault is None else None
        if self._fault is not None:
            place = self._look_up(path)
        if place is None:
            return None
        commit = os.path.basename(place.removesuffix("/" + path))
        self.revision = commit if _COMMIT.fullmatch(commit) else ""
        return _read(place, self.name(path))

    def is_none(self) -> Exception:
        """Return NotFound; RemoteUnavailable where the Hub has not told."""
        if self._fault is None:
            return NotFound(
                f"the model {self.model_id} has neither {CONFIG} nor {PIPELINE} on the Hub; name another, or {_NAME_IT}"
            )
        lacks = f"and huggingface_hub's cache does not have what is needed of {self.model_id}"
        return RemoteUnavailable(f"{self._fault}, {lacks}; {self._remedy}, or {_NAME_IT}", self._fault.retry_after)

    def _fetch(self, path: str) -> str | None:
        """Return where a file is on disk by now, None if the model has none (or the Hub is at fault: see `_fault`)."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return hf_hub_download(
                self.model_id,
                path,
                revision=self.revision or self._asked_for,
                endpoint=self._endpoint,
                token=self._token or False,
                etag_timeout=_WAIT,
            )
        except RemoteEntryNotFoundError:
            return None
        except Exception as error:  # whatever huggingface_hub, httpx and hf_xet raise
            fault = self._translate(error)
            if not isinstance(fault, RemoteUnavailable):
                raise fault from error
            self._fault = fault
            return None

    def _look_up(self, path: str) -> str | None:
        """Return where huggingface_hub's cache has a file, None if it has none."""
        from huggingface_hub import try_to_load_from_cache

        try:
            place = try_to_load_from_cache(self.model_id, path, revision=self.revision or self._asked_for)
        except (OSError, ValueError):  # a cache that cannot be read
            place = None
        if place is None:
            self.unknown.add(path)
        return place if isinstance(place, str) else None

    def _translate(self, error: Exception) -> Exception:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        place, as_whom = f"the model {self.model_id}", "with this token" if self._token else "without a token"
        if isinstance(error, GatedRepoError):
            return RemoteRefused(
                f"{place} is gated, and may not be read {as_whom}; ask for access on its page, "
                f"{self._endpoint}/{self.model_id}, and {_LOG_IN}"
            )
        if isinstance(error, RepositoryNotFoundError):
            return NotFound(
                f"there is no model {self.model_id} on the Hub, or no right to see it {as_whom}; check its name, or {_LOG_IN}"
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFound(f"{place} has no revision {self._asked_for}; name a branch, a tag or a commit that it has")
        fault = Faults(place, self._asked_for, self._endpoint, self._token).translate(error, "read")
        answers = (cause.response for cause in (error, error.__cause__) if isinstance(cause, HfHubHTTPError))
        if isinstance(fault, RemoteRefused) and any(answer.status_code == 403 for answer in answers):
            return RemoteRefused(f"{place} may not be read {as_whom}; {_LOG_IN} as someone who may")
        for cause in (fault, error):
            if isinstance(cause, OSError) and cause.errno is not None:
                return ConfigurationError(
                    f"huggingface_hub's cache cannot take what is read of {place}: {cause.strerror}; make room there, or "
                    "set HF_HOME to another folder"
                )
        return fault
