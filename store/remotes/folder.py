"""A remote that is a folder which hosts share: FSx, EFS, NFS, a mounted bucket.

A file is added without a lock: it is written under a name of its own, flushed, and renamed; what it says depends on
nothing but its name, so that two writers of the same name write the same. Only what is amended has a lock beside it.
"""

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.errors import CorruptRemote, RemoteConflict, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import discard, read_file, write_all
from neuron_store.store.remotes.base import Access, Addition, Remote, RemoteFile
from neuron_store.store.remotes.child import ask_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from neuron_store.store.remotes.base import Merge, Progress

_PIECE = 1 << 20  # bytes
_TEMPORARY = ".neuron-store-"
_LOCK_AGE = 60.0  # seconds; to amend a small file takes far less
_LOCK_PATIENCE = 90.0  # seconds
_LOCK_GLANCE = 0.05  # seconds
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

    def take(self, path: str, limit: int, destination: int) -> "int | None":
        """See the base. A file system tells no digests."""
        self._require_answer(path)
        try:
            size = os.stat(f"{self._folder}/{path}").st_size
        except (FileNotFoundError, NotADirectoryError):
            self._require_folder()
            return None
        except OSError as error:
            raise self._fault_of(path, error) from error
        if size > limit:
            raise CorruptRemote(f"{self.url}/{path} is {size} bytes, more than {limit}")
        self.download(path, size, destination)
        return size

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

    def amend(self, paths: "Sequence[str]", limit: int, merge: "Merge", message: str) -> "list[str]":
        """See the base. Others who amend wait; whoever died meanwhile is waited for _LOCK_AGE seconds."""
        self._require_folder()
        changed = []
        for path in paths:
            with self._locked(path) as is_ours:
                before = self.read(path, limit)
                after = merge(path, before)
                if after is None or after == before:
                    continue
                if not is_ours():
                    raise RemoteConflict(f"{self.url}: another host took over the lock of {path}")
                self.add([Addition(path, data=after)], message)
                changed.append(path)
        return changed

    @contextmanager
    def _locked(self, path: str) -> "Iterator[Callable[[], bool]]":
        """Keep others from amending a file: by a file beside it, which NFS, too, lets only one of them make.

        Yields what tells whether it is ours still: who takes longer than _LOCK_AGE is taken for dead.
        """
        folder, name = os.path.split(f"{self._folder}/{path}")
        lock = f"{folder}/{_TEMPORARY}{name}.lock"
        token = f"{os.uname().nodename} {os.getpid()} {os.urandom(8).hex()}".encode()
        try:
            self._make_folders(folder)
            self._take_lock(lock, token)
        except OSError as error:
            raise self._fault(error) from error
        try:
            yield lambda: _read_or_nothing(lock) == token
        finally:
            if _read_or_nothing(lock) == token:
                discard(lock)

    def _take_lock(self, lock: str, token: bytes) -> None:
        from random import uniform

        end = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                if time.monotonic() > end:
                    raise RemoteConflict(f"{self.url}: another host amends {lock}, and does not end") from None
                if self._is_stale(lock):
                    discard(lock)
                time.sleep(_LOCK_GLANCE * uniform(0.5, 1.5))  # noqa: S311 - jitter
                continue
            try:
                try:
                    write_all(descriptor, token)
                finally:
                    os.close(descriptor)
            except BaseException:
                discard(lock)
                raise
            return

    def _is_stale(self, lock: str) -> bool:
        """Tell whether a lock is older than anyone amends, by the clock of the file system itself; or from its future."""
        probe = f"{lock}.{os.urandom(4).hex()}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            try:
                return abs(os.stat(probe).st_mtime - os.stat(lock).st_mtime) > _LOCK_AGE
            finally:
                discard(probe)
        except FileNotFoundError:
            return False

    def head(self) -> str:
        """See the base."""
        self._require_folder()
        return ""

    def remove(self, paths: "Sequence[str]", message: str, parent: str) -> str:  # noqa: ARG002 - a folder keeps neither
        """See the base. Files go one by one, in the order given; one that is gone already is as good as removed."""
        self._require_folder()
        for path in paths:
            try:
                _unlink(f"{self._folder}/{path}")
            except OSError as error:
                raise self._fault(error) from error
        return ""

    def came(self, paths: "Sequence[str]") -> "dict[str, float]":
        """See the base."""
        self._require_folder()
        found = {}
        for path in paths:
            try:
                found[path] = os.stat(f"{self._folder}/{path}").st_mtime
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._fault(error) from error
        return found

    def listing(self, folder: str) -> "list[str]":
        """See the base."""
        self._require_folder()
        try:
            names = os.listdir(f"{self._folder}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._fault(error) from error
        return sorted(name for name in names if not name.startswith(_TEMPORARY))

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
                    status = os.stat(path)
                except OSError:
                    continue  # gone since it was listed
                tag = f"{status.st_mtime_ns} {status.st_ino}"
                yield RemoteFile(os.path.relpath(path, self._folder), status.st_size, tag=tag)

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


def _read_or_nothing(path: str) -> bytes:
    try:
        return read_file(path) or b""
    except OSError:
        return b""


def _unlink(path: str) -> None:
    """Remove a file; nothing if it is gone. Raises OSError for one that stays."""
    with suppress(FileNotFoundError):
        os.unlink(path)


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
