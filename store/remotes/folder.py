"""A remote that is a folder which hosts share: FSx, EFS, NFS, a mounted bucket.

No lock is relied on: a file is written under a name of its own, flushed, and renamed; what it says depends on nothing
but its name, so that two writers of the same name write the same.
"""

import errno
import os
import stat
import time

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.errors import CorruptRemote, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import discard, write_all
from neuron_store.store.remotes.base import Access, Remote, RemoteFile
from neuron_store.store.remotes.child import ask_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neuron_store.store.remotes.base import Addition, Progress

_PIECE = 1 << 20  # bytes
_TEMPORARY = ".neuron-store-"
# What is wrong with one name: a folder, a pipe, a link in a circle stands there.
_NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.ENODEV)


class FolderRemote(Remote):
    """A shared folder. It must exist: a mount that is missing must not become a folder on the local disk.

    A mount whose server is gone lets nobody go who asks it, not even killed. So a child asks first, for `patience`
    seconds; None asks at once, for where there are threads, and so no children.
    """

    kind = "file"
    counts_commits = False

    def __init__(self, folder: str, *, writable: bool, patience: "float | None" = None) -> None:
        super().__init__("file://" + folder, writable=writable)
        self._folder = folder
        self._patience = patience

    @property
    def credential(self) -> str:
        """Whoever we are to the file system."""
        return f"uid {os.geteuid()}"

    def read(self, path: str, limit: int) -> "bytes | None":
        """See the base."""
        self._require_answer(path)
        try:
            descriptor = open_regular(f"{self._folder}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            self._require_folder()
            return None
        except OSError as error:
            raise self._fault_of(path, error) from error
        try:
            data = b""
            while len(data) <= limit and (piece := os.read(descriptor, limit + 1 - len(data))):
                data += piece
        except OSError as error:
            raise self._fault(error) from error
        finally:
            os.close(descriptor)
        if len(data) > limit:
            raise CorruptRemote(f"{self.url}/{path} is larger than {limit} bytes")
        return data

    def download(self, path: str, size: int, destination: int) -> None:
        """See the base."""
        try:
            source = open_regular(f"{self._folder}/{path}")
        except FileNotFoundError as error:
            raise CorruptRemote(f"{self.url}/{path} is not there, though a record names it") from error
        except OSError as error:
            raise self._fault_of(path, error) from error
        try:
            if os.fstat(source).st_size != size:
                raise CorruptRemote(f"{self.url}/{path} is {os.fstat(source).st_size} bytes, not {size}")
            left = size
            while left and (piece := self._read_piece(source, left)):
                write_all(destination, piece)
                left -= len(piece)
        finally:
            os.close(source)
        if left:
            raise CorruptRemote(f"{self.url}/{path} ends {left} bytes early")

    def _read_piece(self, source: int, left: int) -> bytes:
        try:
            return os.read(source, min(_PIECE, left))
        except OSError as error:
            raise self._fault(error) from error

    def look_up(self, paths: "Sequence[str]") -> "dict[str, RemoteFile]":
        """See the base. A file system tells no digests."""
        self._require_folder()
        found = {}
        for path in paths:
            try:
                status = os.stat(f"{self._folder}/{path}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._fault(error) from error
            found[path] = RemoteFile(path, status.st_size)
        return found

    def add(self, additions: "Sequence[Addition]", message: str, progress: "Progress | None" = None) -> None:  # noqa: ARG002 - a folder keeps no messages
        """See the base. Files appear one by one, in the order given."""
        self._require_folder()
        for addition in additions:
            try:
                self._add(addition)
            except OSError as error:
                raise self._fault(error) from error
            if progress is not None:
                progress(addition.size, 1)

    def _add(self, addition: "Addition") -> None:
        final = f"{self._folder}/{addition.path}"
        folder, name = os.path.split(final)
        self._make_folders(folder)
        temporary = f"{folder}/{_TEMPORARY}{name}.{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                _copy_into(addition, descriptor)
                # Whoever may read the folder may read this, whatever our umask.
                os.fchmod(descriptor, 0o600 | (os.stat(self._folder).st_mode & 0o044))
                os.fsync(descriptor)  # over NFS, an error may come only now
            finally:
                os.close(descriptor)
            os.rename(temporary, final)
        except BaseException:
            discard(temporary)
            raise

    def _make_folders(self, folder: str) -> None:
        """Make what is missing below the remote's folder, with its mode: whoever may write there may write here."""
        missing = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        mode = os.stat(self._folder).st_mode & 0o7777
        for made in reversed(missing):
            try:
                os.mkdir(made)
            except FileExistsError:
                continue
            os.chmod(made, mode)

    def folders(self) -> "list[str]":
        """See the base."""
        self._require_folder()
        try:
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            raise self._fault(error) from error

    def walk(self, folder: str) -> "Iterator[RemoteFile]":
        """See the base."""
        self._require_folder()
        for base, inner, names in os.walk(f"{self._folder}/{folder}"):
            inner.sort()
            for name in sorted(names):
                if name.startswith(_TEMPORARY):
                    continue
                path = os.path.join(base, name)
                try:
                    size = os.stat(path).st_size
                except OSError:
                    continue  # gone since it was listed
                yield RemoteFile(os.path.relpath(path, self._folder), size)

    def check(self) -> Access:
        """See the base."""
        try:
            self._require_folder()
        except RemoteUnavailable as error:
            return Access(reachable=False, readable=None, writable=None, detail=str(error))
        readable = os.access(self._folder, os.R_OK | os.X_OK)
        writable = os.access(self._folder, os.W_OK | os.X_OK)
        detail = "" if readable else f"{self._folder} cannot be read; change its mode or owner"
        return Access(reachable=True, readable=readable, writable=writable, detail=detail)

    def close(self) -> None:
        """Nothing is held."""

    def _require_folder(self) -> None:
        if not os.path.isdir(self._folder):
            raise RemoteUnavailable(
                f"the folder {self._folder} is not there; mount or make it, or take it out of remotes"
            )

    def _require_answer(self, path: str) -> None:
        """Raise RemoteUnavailable if the file system does not answer."""
        if self._patience is None:
            return
        try:
            ask_in_child(lambda: self._glance(path), time.monotonic() + self._patience)
        except TimeoutError as error:
            self._patience = 0.0  # nor is it asked again
            raise RemoteUnavailable(f"{self.url} does not answer; its file system may be gone") from error
        except OSError:
            return  # there can be no child now

    def _glance(self, path: str) -> bytes:
        descriptor = open_regular(f"{self._folder}/{path}")
        return os.read(descriptor, 1)

    def _fault_of(self, path: str, error: OSError) -> "CorruptRemote | RemoteUnavailable | RemoteRefused":
        """Return the error for one file that cannot be opened: it need not be the whole folder's."""
        file = f"{self._folder}/{path}"
        if error.errno in _NO_FILE or (isinstance(error, PermissionError) and _is_there(file)):
            return CorruptRemote(f"{self.url}/{path} cannot be read: {error.strerror or error}")
        return self._fault(error)

    def _fault(self, error: OSError) -> "RemoteUnavailable | RemoteRefused":
        said = f"{self.url}: {error.strerror or error}"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return RemoteRefused(f"{said}; change its mode or owner, or write {self.url}|read-only in remotes")
        return RemoteUnavailable(said)


def _is_there(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _copy_into(addition: "Addition", destination: int) -> None:
    if addition.data is not None:
        write_all(destination, addition.data)
        return
    source = open_regular(addition.source)
    try:
        copied = 0
        while piece := os.read(source, _PIECE):
            write_all(destination, piece)
            copied += len(piece)
    finally:
        os.close(source)
    if copied != addition.size:
        raise OSError(f"{addition.source} is {copied} bytes, not {addition.size}")
