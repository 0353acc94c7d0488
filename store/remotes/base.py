r"""What a remote is: named files that are written once, read by anyone, and listed.

Grammar of the names, everywhere the same (a Hub repo, a shared folder):

    neuronxcc-<version>/0_RESULTS/<2 hex>/<key>.json              records, see records.py
    neuronxcc-<version>/0_BLOBS/<2 hex>/<sha256>[.zst]            outputs, by the sha256 of their content

    version = the compiler's own, as it prints it; "unversioned" where it has none that can stand in a file name

A remote is another party: nothing it says is believed. Names are matched against this grammar in and out.
"""

import os
import re
from abc import ABC, abstractmethod

from neuron_store.store.layout import BLOB_LENGTH, KEY_LENGTH, is_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    # Called as an upload goes on: (bytes, files) that have arrived since the last call.
    Progress = Callable[[int, int], None]
    # Called with a file's name and content (None if there is no such file); returns what it is to be, None to leave it.
    Merge = Callable[[str, bytes | None], bytes | None]

FOLDER_PREFIX = "neuronxcc-"
RESULTS, BLOBS = "0_RESULTS", "0_BLOBS"
UNVERSIONED = "unversioned"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,99}")
_NAME = re.compile(
    r"neuronxcc-(?P<version>[0-9A-Za-z][0-9A-Za-z.+_-]{0,99})/"
    r"(?:0_RESULTS/(?P<fan>[0-9a-f]{2})/(?P<key>(?P=fan)[0-9a-f]{30})\.json"
    r"|0_BLOBS/(?P<blob_fan>[0-9a-f]{2})/(?P<sha256>(?P=blob_fan)[0-9a-f]{62})(?P<suffix>(?:\.zst)?))"
)


class RemoteFile:
    """A file that a remote has.

    Attributes:
        path: its name, by the grammar above (or another, in a repo that has other files too).
        size: in bytes, as stored; -1 where the remote does not tell.
        sha256: of the stored bytes, "" where the remote does not tell.
        tag: a word that is another one as soon as the content is, "" where the remote does not tell.
    """

    __slots__ = ("path", "sha256", "size", "tag")

    def __init__(self, path: str, size: int, sha256: str = "", tag: str = "") -> None:
        self.path = path
        self.size = size
        self.sha256 = sha256
        self.tag = tag


class Addition:
    """A file to be added to a remote: `data`, or the content of the local file `source`.

    Attributes:
        path: its name, by the grammar above.
        size: in bytes, as stored.
    """

    __slots__ = ("data", "path", "size", "source")

    def __init__(self, path: str, *, data: "bytes | None" = None, source: str = "", size: int = -1) -> None:
        self.path = path
        self.data = data
        self.source = source
        self.size = len(data) if data is not None else size


class Access:
    """What can be done with a remote, as far as it can be told without doing it.

    Attributes:
        reachable, readable, writable: None where it is not known.
        detail: in words, what is wrong, "" if nothing is.
    """

    __slots__ = ("detail", "reachable", "readable", "writable")

    def __init__(self, *, reachable: bool, readable: "bool | None", writable: "bool | None", detail: str = "") -> None:
        self.reachable = reachable
        self.readable = readable
        self.writable = writable
        self.detail = detail


class Remote(ABC):
    """A store elsewhere.

    Every method raises RemoteUnavailable if the remote cannot answer now, RemoteRefused if it will not answer us.

    Attributes:
        url: as the setting has it, without the mode.
        writable: whether the settings let us write to it.
        identity: 16 hex digits that name this remote in the local store.
        kind: the scheme of its URL.
        counts_commits: whether only so many additions are allowed in an hour, however large each is.
    """

    kind = ""
    counts_commits = True

    def __init__(self, url: str, *, writable: bool) -> None:
        self.url = url
        self.writable = writable
        self.identity = make_identity(url)

    @property
    @abstractmethod
    def credential(self) -> str:
        """A word for who we are to the remote, from which no token can be told: what was refused to it stays refused."""

    @abstractmethod
    def read(self, path: str, limit: int) -> "bytes | None":
        """Return a small file, None if there is none of that name. Raises CorruptRemote beyond `limit` bytes."""

    @abstractmethod
    def download(self, path: str, size: int, destination: int) -> None:
        """Write a file's stored bytes to the open, empty file `destination`.

        Raises CorruptRemote if there is no such file, or it has not exactly `size` bytes; OSError if `destination`
        cannot be written.
        """

    @abstractmethod
    def take(self, path: str, limit: int, destination: int) -> "int | None":
        """Write a file that no record describes to the open, empty file `destination`; return its size in bytes.

        None if there is no such file. What the remote itself says of the content is checked. Raises CorruptRemote, also
        beyond `limit` bytes; OSError if `destination` cannot be written.
        """

    def read_checked(self, path: str, limit: int) -> "bytes | None":
        """Return a small file that nothing else proves, None if there is none: what `take` checks is checked."""
        descriptor = os.memfd_create("neuron-store", os.MFD_CLOEXEC)
        try:
            size = self.take(path, limit, descriptor)
            return None if size is None else os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)

    @abstractmethod
    def look_up(self, paths: "Sequence[str]") -> "dict[str, RemoteFile]":
        """Return those of `paths` that are there, in as few requests as can be."""

    @abstractmethod
    def add(self, additions: "Sequence[Addition]", message: str, progress: "Progress | None" = None) -> None:
        """Add files, all or none where the kind can; a record is never seen before the blobs that stand before it.

        What is there already under a name is replaced. Raises RemoteConflict if another writer came between.
        """

    @abstractmethod
    def amend(self, paths: "Sequence[str]", limit: int, merge: "Merge", message: str) -> "list[str]":
        """Read small files (of at most `limit` bytes) and write what `merge` makes of each; return which changed.

        Whatever another writer writes meanwhile is read before it is replaced: then RemoteConflict is raised, nothing
        is written, and it is to be tried again. Raises CorruptRemote beyond `limit`.
        """

    @abstractmethod
    def head(self) -> str:
        """Return a word for the state that the remote is in, "" where it has none: a folder's files change one by one."""

    @abstractmethod
    def remove(self, paths: "Sequence[str]", message: str, parent: str) -> str:
        """Remove files that are there, in this order or all at once, if `parent` is the remote's head still.

        Returns the new head. Raises RemoteConflict, having removed nothing, if another writer came between.
        """

    @abstractmethod
    def came(self, paths: "Sequence[str]") -> "dict[str, float]":
        """Return when each of `paths` that is there was written last, in Unix seconds. More costly than a listing."""

    @abstractmethod
    def listing(self, folder: str) -> "list[str]":
        """Return the names of what lies directly in `folder`, in order; nothing if there is no such folder."""

    @abstractmethod
    def folders(self) -> "list[str]":
        """Return the names of the folders at the top, in order."""

    @abstractmethod
    def walk(self, folder: str) -> "Iterator[RemoteFile]":
        """Yield every file below `folder` ("" for all there are); nothing if there is no such folder."""

    @abstractmethod
    def check(self) -> Access:
        """Ask whether the remote can be reached, read and written. Raises nothing of its own."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections."""


def make_identity(url: str) -> str:
    """Return 16 hex digits for a remote's URL."""
    from neuron_store.hashing.xxh3 import xxh3_hex

    return xxh3_hex(b"remote " + url.encode("utf-8", "surrogateescape"))[:16]


def version_folder(version: "str | None") -> str:
    """Return the top folder for a compiler's version (`2.21.33363.0+82129205`)."""
    return FOLDER_PREFIX + (version if version and _VERSION.fullmatch(version) else UNVERSIONED)


def record_path(folder: str, key: str) -> str:
    """Return the name of the record of `key` in the top folder `folder`. Raises ValueError for what is no key."""
    if not is_hex(key, KEY_LENGTH):
        raise ValueError(f"not a key: {key!r}")
    return _checked(f"{folder}/{RESULTS}/{key[:2]}/{key}.json")


def remote_blob_path(folder: str, sha256: str, suffix: str) -> str:
    """Return the name of a blob in the top folder `folder`. Raises ValueError for what is no digest."""
    if not is_hex(sha256, BLOB_LENGTH):
        raise ValueError(f"not a sha256: {sha256!r}")
    return _checked(f"{folder}/{BLOBS}/{sha256[:2]}/{sha256}{suffix}")


def _checked(path: str) -> str:
    if not _NAME.fullmatch(path):
        raise ValueError(f"not a name in a remote: {path!r}")
    return path


def key_in(path: str) -> str:
    """Return the key whose record has the name `path`, "" if it is no record's name."""
    match = _NAME.fullmatch(path)
    return (match["key"] if match else "") or ""


def is_name_of_ours(path: str) -> bool:
    """Tell whether `path` is a name by the grammar above."""
    return _NAME.fullmatch(path) is not None


def versions_of(folders: "Iterable[str]") -> "list[str]":
    """Return the compiler versions that top folders are named after."""
    return [
        name[len(FOLDER_PREFIX) :]
        for name in folders
        if _VERSION.fullmatch(name.removeprefix(FOLDER_PREFIX)) and name.startswith(FOLDER_PREFIX)
    ]
