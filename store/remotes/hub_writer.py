"""Writing to a Hub repo, and all else that huggingface_hub does for us: bulk look-ups, listings, rights.

A commit has no parent: what is added stands under names of its own, so that no other writer's commit matters.

Large files go by Xet, or by plain LFS where the server has no Xet. hf_xet sits a fault out for minutes and tells it in
words only, so the server is asked for Xet's token first, which a server without Xet answers by 404.
"""

import os
import warnings

from neuron_store.store.errors import RemoteError, RemoteRefused, RemoteUnavailable
from neuron_store.store.remotes.base import Access, RemoteFile
from neuron_store.store.remotes.hub_client import NOT_THERE, Faults, is_xet_fault, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    from huggingface_hub import CommitOperationAdd, HfApi

    from neuron_store.store.remotes.base import Addition, Progress
    from neuron_store.store.remotes.state import RemoteState

    Answer = TypeVar("Answer")

_PATHS_A_REQUEST = 1000
_DATED_PATHS_A_REQUEST = 100  # the Hub has to look each one's last commit up
_FILES_A_GROUP, _BYTES_A_GROUP = 64, 64 << 20  # after which progress is told


class HubWriter:
    """A Hub repo, by huggingface_hub.

    Attributes:
        place: what its calls take to name the repo's revision.
        place_in_words: the repo, as messages name it.
    """

    def __init__(
        self,
        repo_id: str,
        repo_type: str,
        revision: str,
        endpoint: str,
        token: str,
        *,
        timeout: float,
        xet: str,
        state: "RemoteState",
    ) -> None:
        """Nothing is asked yet.

        `repo_type` is "model" or "dataset", `token` "" for none, `timeout` the seconds without an answer after which
        a request is given up, `xet` "auto", "on" or "off".
        """
        self._repo_id = repo_id
        self._repo_type = repo_type
        self._revision = revision
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._xet = xet
        self._state = state
        self.place: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
        datasets = "datasets/" if repo_type == "dataset" else ""
        self.place_in_words = f"the Hub's repo {datasets}{repo_id}"
        self._faults = Faults(self.place_in_words, revision, self._endpoint, token)

    def api(self) -> "HfApi":
        """Return huggingface_hub's client."""
        prepare(self._timeout)
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token or False)

    def ask(
        self,
        doing: str,
        question: "Callable[..., Answer]",
        *arguments: "Any",  # noqa: ANN401 - whatever the call takes
        **named: "Any",  # noqa: ANN401 - whatever the call takes
    ) -> "Answer":
        """Return what `question` returns; its errors as those that the base class names."""
        try:
            return question(*arguments, **named)
        except Exception as error:
            raise self._faults.translate(error, doing) from error

    def look_up(self, paths: "Sequence[str]") -> "dict[str, RemoteFile]":
        """Return those of `paths` that are there, with the sha256 of those that are LFS objects.

        Raises RemoteRefused or RemoteUnavailable, as all methods but `check`.
        """
        api = self.api()
        found = {}
        for start in range(0, len(paths), _PATHS_A_REQUEST):
            asked = list(paths[start : start + _PATHS_A_REQUEST])
            for file in self.ask("read", lambda paths: _files(api.get_paths_info(paths=paths, **self.place)), asked):
                found[file.path] = file
        return {path: found[path] for path in paths if path in found}

    def head(self) -> str:
        """Return the commit that the revision stands at, 40 hex digits."""
        api = self.api()
        place = {name: value for name, value in self.place.items() if name != "repo_id"}
        commit = self.ask("read", lambda: api.repo_info(self._repo_id, **place)).sha
        if not commit:
            raise RemoteUnavailable(f"{self.place_in_words} does not tell its last commit")
        return str(commit)

    def add(
        self,
        additions: "Sequence[Addition]",
        message: str,
        progress: "Progress | None" = None,
        *,
        parent: "str | None" = None,
    ) -> None:
        """Add files by one commit; nothing is committed if it raises, or the answer was lost.

        With a `parent`, only if that is the last commit still.

        Raises RemoteConflict, RemoteRefused or RemoteUnavailable; OSError if a local file cannot be read.
        """
        api = self.api()
        by_xet = self.ask("write to", self._choose_xet) if any(map(_may_be_large, additions)) else False
        operations = [self.ask("write to", _operation, addition) for addition in additions]
        for group in _groups(additions):
            members = [operations[place] for place in group]
            by_xet = self.ask("write to", self._preupload, api, members, xet=by_xet)
            if progress is not None:
                progress(sum(max(additions[place].size, 0) for place in group), len(group))
        self.ask(
            "write to",
            api.create_commit,
            operations=operations,
            commit_message=message,
            parent_commit=parent,
            **self.place,
        )

    def remove(self, paths: "Sequence[str]", message: str, parent: str) -> str:
        """Remove files by one commit, if `parent` is the last commit still; return the new one.

        Raises RemoteConflict, RemoteRefused or RemoteUnavailable; after the last, what was removed is to be looked up.
        """
        from huggingface_hub import CommitOperationDelete

        api = self.api()
        operations = [CommitOperationDelete(path_in_repo=path) for path in paths]
        done = self.ask(
            "write to",
            api.create_commit,
            operations=operations,
            commit_message=message,
            parent_commit=parent,
            **self.place,
        )
        return str(done.oid)

    # -- large files -------------------------------------------------------------------------------------------------

    def _choose_xet(self) -> bool:
        """Return whether large files go by Xet, asking the server if need be."""
        from importlib.util import find_spec

        from huggingface_hub import constants

        if self._xet == "off" or (self._xet == "auto" and self._state.xet is False):
            return False
        if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
            return False
        if self._server_has_xet():
            return True
        if self._xet == "on":
            raise RemoteUnavailable("the server has no Xet; set xet to auto or off")
        self._state.note_xet(works=False)
        return False

    def _server_has_xet(self) -> bool:
        from urllib.parse import quote

        from huggingface_hub import get_session

        token_path = f"/api/{self._repo_type}s/{self._repo_id}/xet-write-token/{quote(self._revision, safe='')}"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        response = get_session().get(self._endpoint + token_path, headers=headers)
        if response.status_code == 404 and response.headers.get("X-Error-Code") not in NOT_THERE:
            return False
        response.raise_for_status()
        return True

    def _preupload(self, api: "HfApi", operations: "list[CommitOperationAdd]", *, xet: bool) -> bool:
        """Send the content of those that are large; return whether to go on by Xet."""
        try:
            self._send(api, operations, xet=xet)
        except Exception as error:
            if not (xet and self._xet == "auto" and not self._state.xet and is_xet_fault(error)):
                raise
            # The Hub has Xet, but Xet's own servers cannot be reached from here, say.
            self._send(api, operations, xet=False)
            self._state.note_xet(works=False)
            return False
        if xet and any(getattr(operation, "_is_uploaded", False) for operation in operations):
            self._state.note_xet(works=True)
        for operation in operations:
            if getattr(operation, "_should_ignore", False):
                raise RemoteRefused(f"its .gitignore keeps {operation.path_in_repo} out; change it there")
        return xet

    def _send(self, api: "HfApi", operations: "list[CommitOperationAdd]", *, xet: bool) -> None:
        from huggingface_hub import constants

        before = constants.HF_HUB_DISABLE_XET
        constants.HF_HUB_DISABLE_XET = not xet
        try:
            with warnings.catch_warnings():
                # What its HTTP client says of how huggingface_hub uses it is an error under `python -W error`.
                warnings.simplefilter("ignore", DeprecationWarning)
                api.preupload_lfs_files(additions=operations, free_memory=False, **self.place)
        finally:
            constants.HF_HUB_DISABLE_XET = before

    # -- listings and rights -----------------------------------------------------------------------------------------

    def listing(self, folder: str) -> "list[str]":
        """Return the names of what lies directly in `folder`, in order; nothing if there is no such folder."""
        from huggingface_hub.errors import EntryNotFoundError

        api = self.api()

        def read() -> "list[str]":
            try:
                return [entry.path for entry in api.list_repo_tree(path_in_repo=folder, **self.place)]
            except EntryNotFoundError:
                return []

        return sorted(os.path.basename(path) for path in self.ask("read", read))

    def came(self, paths: "Sequence[str]") -> "dict[str, float]":
        """Return when each of `paths` that is there was committed last, in Unix seconds."""
        api = self.api()
        found: dict[str, float] = {}
        for start in range(0, len(paths), _DATED_PATHS_A_REQUEST):
            asked = list(paths[start : start + _DATED_PATHS_A_REQUEST])
            for entry in self.ask("read", api.get_paths_info, paths=asked, expand=True, **self.place):
                if hasattr(entry, "size") and entry.last_commit is not None:
                    found[entry.path] = entry.last_commit.date.timestamp()
        return found

    def folders(self) -> "list[str]":
        """Return the names of the folders at the top, in order."""
        api = self.api()
        entries = self.ask("read", lambda: list(api.list_repo_tree(**self.place)))
        return sorted(entry.path for entry in entries if not hasattr(entry, "size"))

    def walk(self, folder: str) -> "Iterator[RemoteFile]":
        """Yield every file below `folder`; nothing if there is no such folder."""
        from huggingface_hub.errors import EntryNotFoundError

        api = self.api()
        listing = iter(api.list_repo_tree(path_in_repo=folder or None, recursive=True, **self.place))

        def take() -> "list[RemoteFile] | None":
            try:
                return _files([next(listing)])
            except (StopIteration, EntryNotFoundError):
                return None

        while (files := self.ask("read", take)) is not None:
            yield from files

    def check(self) -> Access:
        """Ask for our rights. Raises nothing of its own."""
        try:
            self.folders()
        except RemoteRefused as error:
            return Access(reachable=True, readable=False, writable=False, detail=str(error))
        except RemoteError as error:
            return Access(reachable=False, readable=None, writable=None, detail=str(error))
        try:
            self.ask("write to", self.api().auth_check, self._repo_id, repo_type=self._repo_type, write=True)
        except RemoteRefused as error:
            return Access(reachable=True, readable=True, writable=False, detail=str(error))
        except RemoteError as error:
            return Access(reachable=True, readable=True, writable=None, detail=str(error))
        return Access(reachable=True, readable=True, writable=True)


def _files(entries: "Iterable[Any]") -> "list[RemoteFile]":
    """Return what huggingface_hub's entries of a listing say of files; folders have no size."""
    return [
        RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs is not None else "", entry.blob_id)
        for entry in entries
        if hasattr(entry, "size")
    ]


def _may_be_large(addition: "Addition") -> bool:
    return not addition.path.endswith(".json")


def _operation(addition: "Addition") -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    if addition.data is not None:
        return CommitOperationAdd(path_in_repo=addition.path, path_or_fileobj=addition.data)
    os.stat(addition.source)  # which tells what is wrong with it as an OSError
    return CommitOperationAdd(path_in_repo=addition.path, path_or_fileobj=addition.source)


def _groups(additions: "Sequence[Addition]") -> "Iterator[list[int]]":
    """Yield the places of those that are sent together."""
    group: list[int] = []
    size = 0
    for place, addition in enumerate(additions):
        if group and (len(group) >= _FILES_A_GROUP or size + addition.size > _BYTES_A_GROUP):
            yield group
            group, size = [], 0
        group.append(place)
        size += addition.size
    if group:
        yield group
