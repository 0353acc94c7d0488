"""A remote that is a repo on the Hugging Face Hub.

Reading is a direct GET of `/{repo}/resolve/{revision}/{path}` (http_reader.py): the shim does it, and can afford neither
the imports nor the requests of huggingface_hub. Everything else is huggingface_hub's (hub_writer.py).
"""

import os
import time

from neuron_store.store.errors import ConfigurationError
from neuron_store.store.layout import write_all
from neuron_store.store.remotes.base import Access, Addition, Remote, make_identity
from neuron_store.store.remotes.http_reader import HttpReader
from neuron_store.store.remotes.location import hub_endpoint, hub_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from neuron_store.store.remotes.base import Merge, Progress, RemoteFile
    from neuron_store.store.remotes.hub_storage import HubStorage
    from neuron_store.store.remotes.hub_writer import HubWriter
    from neuron_store.store.remotes.location import Location
    from neuron_store.store.remotes.opening import RemoteOptions
    from neuron_store.store.remotes.state import RemoteState


class HubRemote(Remote):
    """A Hub repo, as the environment reaches it (HF_ENDPOINT, HF_TOKEN and the saved token)."""

    kind = "hf"

    def __init__(self, location: "Location", environ: "Mapping[str, str]", options: "RemoteOptions") -> None:
        super().__init__(location.url, writable=location.writable)
        self._location = location
        self._environ = environ
        self._options = options
        self._endpoint = hub_endpoint(environ)
        self._token = hub_token(environ)
        self.identity = make_identity(f"{self._endpoint} {location.url}")
        self.state: RemoteState | None = None
        self._asked_at = 0.0
        self._reader: HttpReader | None = None
        self._writer: HubWriter | None = None

    @property
    def repo(self) -> str:
        """The repo's id."""
        return self._location.place

    @property
    def credential(self) -> str:
        """See the base."""
        return make_identity(f"{self._endpoint} {self._token}") if self._token else ""

    def read(self, path: str, limit: int) -> "bytes | None":
        """See the base."""
        self._asked_at = time.time()
        return self._reading().read(self._resolve_path(path), limit)

    def download(self, path: str, size: int, destination: int) -> None:
        """See the base."""
        self._asked_at = time.time()
        self._reading().download(self._resolve_path(path), size, lambda piece: write_all(destination, piece))

    def take(self, path: str, limit: int, destination: int) -> "int | None":
        """See the base."""
        self._asked_at = time.time()
        return self._reading().take(self._resolve_path(path), limit, lambda piece: write_all(destination, piece))

    def look_up(self, paths: "Sequence[str]") -> "dict[str, RemoteFile]":
        """See the base."""
        return self._writing().look_up(paths)

    def add(self, additions: "Sequence[Addition]", message: str, progress: "Progress | None" = None) -> None:
        """See the base. One commit: all or none."""
        self._writing().add(additions, message, progress)

    def amend(self, paths: "Sequence[str]", limit: int, merge: "Merge", message: str) -> "list[str]":
        """See the base. One commit, whose parent is the one that was read."""
        self._asked_at = time.time()
        writer = self._writing()
        head = writer.head()
        before = {path: self._reading().read(self._resolve_path(path, head), limit) for path in paths}
        merged = {path: merge(path, content) for path, content in before.items()}
        changed = [
            Addition(path, data=data) for path, data in merged.items() if data is not None and data != before[path]
        ]
        if changed:
            writer.add(changed, message, parent=head)
        return [addition.path for addition in changed]

    def head(self) -> str:
        """See the base. The last commit."""
        return self._writing().head()

    def remove(self, paths: "Sequence[str]", message: str, parent: str) -> str:
        """See the base. One commit: all or none."""
        return self._writing().remove(paths, message, parent)

    def came(self, paths: "Sequence[str]") -> "dict[str, float]":
        """See the base. The date of the last commit that touched it."""
        return self._writing().came(paths)

    def storage(self) -> "HubStorage":
        """Return what the Hub keeps besides the files: history, and LFS objects."""
        from neuron_store.store.remotes.hub_storage import HubStorage

        return HubStorage(self._writing())

    def listing(self, folder: str) -> "list[str]":
        """See the base."""
        return self._writing().listing(folder)

    def folders(self) -> "list[str]":
        """See the base."""
        return self._writing().folders()

    def walk(self, folder: str) -> "Iterator[RemoteFile]":
        """See the base."""
        return self._writing().walk(folder)

    def check(self) -> Access:
        """See the base."""
        return self._writing().check()

    def close(self) -> None:
        """See the base."""
        if self._reader is not None and self._options.connections is None:
            self._reader.close()
        self._reader = None

    def _resolve_path(self, path: str, revision: str = "") -> str:
        from urllib.parse import quote

        datasets = "/datasets" if self._location.repo_type == "dataset" else ""
        revision = quote(revision or self._location.revision, safe="")
        return f"{datasets}/{self.repo}/resolve/{revision}/{quote(path, safe='/')}"

    def _reading(self) -> HttpReader:
        if self._reader is None:
            if not (self._token.isascii() and self._token.isprintable()) or " " in self._token:
                raise ConfigurationError(
                    "the Hub's token has characters that no token has; log in again: `hf auth login`"
                )
            self._reader = HttpReader(
                self._endpoint,
                self._token,
                self._options.limits,
                agent=self._options.agent,
                environ=self._environ,
                given_up=self._given_up,
                may_fork=self._options.may_fork,
                connections=self._options.connections,
            )
        return self._reader

    def _given_up(self) -> bool:
        """Whether another process of this host has found the Hub down since we asked."""
        return self.state is not None and self.state.failed_since(self._asked_at)

    def _writing(self) -> "HubWriter":
        if self._writer is None:
            from neuron_store.store.remotes.hub_writer import HubWriter

            if self.state is None:
                raise AssertionError
            os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
            self._writer = HubWriter(
                self.repo,
                self._location.repo_type,
                self._location.revision,
                self._endpoint,
                self._token,
                timeout=self._options.upload_timeout,
                xet=self._options.xet,
                state=self.state,
            )
        return self._writer
