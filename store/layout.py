"""The folders of a local store, and how a file comes to be in them.

    <root>/
      CACHEDIR.TAG
      results/ab/<key>           result records
      direct/ab/<direct key>     what a hit needs, in one small file
      blobs/cd/<sha256>[.zst]    output bytes, mode 0444
      compilers/<hash>           remembered compiler identities
      locks/<key>                one compile at a time
      in-flight/                 what shims are at, for who watches: see in_flight.py
      queue/<remote>/<key>       results that a writable remote still lacks
      remotes/<remote>           what this host remembers of a remote
      contexts/<id>/             which keys the runs of a model asked for: see registry/contexts.py
      events/<day>-<uid>         the append-only event log
      pins/                      results and models that are never collected: see collection/pins.py
      imports/                   what was taken in from stock repos: see cli/stock_hub.py
      collection/                how large the store was: see collection/growth.py
      quarantine/                what a repair took out: see checking/quarantine.py
      tmp/                       files being written; each locked by its writer

Every write is a temporary file in the same file system, then a rename: a reader sees all of it or none. Whether a
group shares the store is told by the root's own mode: where its group may write, so may it everything inside.
"""

import errno
import os

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.errors import StoreUnavailable

ROOT_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This folder is a compile cache made by neuron-store. It can be deleted at any time.\n"
    b"# About cache folder tags: https://bford.info/cachedir/\n"
)
# All of the above: what else lies in a store's root is foreign, see checking/.
FOLDERS = (
    "results",
    "direct",
    "blobs",
    "compilers",
    "locks",
    "in-flight",
    "queue",
    "remotes",
    "contexts",
    "events",
    "pins",
    "imports",
    "collection",
    "quarantine",
    "tmp",
)
MODEL_VARIABLE = "NEURON_STORE_MODEL"  # where the environment has it, what is compiled is noted in a context
KEY_LENGTH = 32
BLOB_LENGTH = 64
_LARGEST_READ_WHOLE = 64 << 20  # bytes; no entry or record of ours is larger
_PIECE = 1 << 20  # bytes copied at a time
_HEX = frozenset("0123456789abcdef")


def is_hex(name: str, length: int) -> bool:
    """Tell whether `name` is exactly `length` lower-case hex digits."""
    return len(name) == length and _HEX.issuperset(name)


class Layout:
    """The paths of one local store.

    Attributes:
        root: the store's folder, absolute. It need not exist yet.
    """

    __slots__ = ("_group", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self._group: bool | None = None

    def bulk_folder(self) -> str:
        """Return the folder whose file system fills up: blobs/, which may lie on another disk, or the root."""
        blobs = f"{self.root}/blobs"
        return blobs if os.path.isdir(blobs) else self.root

    def result_path(self, key: str) -> str:
        """Return the path of the result record of `key`."""
        return self._fan_out("results", key, KEY_LENGTH)

    def has_result(self, key: str) -> bool:
        """Tell whether `key` has a record, or may have one where nobody lets us look."""
        try:
            os.stat(self.result_path(key))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def direct_path(self, direct_key: str) -> str:
        """Return the path of the direct entry of `direct_key`."""
        return self._fan_out("direct", direct_key, KEY_LENGTH)

    def blob_path(self, sha256: str, suffix: str = "") -> str:
        """Return the path of the blob `sha256` as stored: `suffix` is "" for raw, ".zst" for compressed."""
        return self._fan_out("blobs", sha256, BLOB_LENGTH) + suffix

    def compiler_path(self, name: str) -> str:
        """Return the path of a remembered compiler identity."""
        return f"{self.root}/compilers/{name}"

    def lock_path(self, name: str) -> str:
        """Return the path of the lock `name`."""
        return f"{self.root}/locks/{name}"

    def queue_path(self, remote: str, name: str = "") -> str:
        """Return the path of one queued result, or of the folder of all that `remote` (16 hex digits) lacks."""
        return f"{self.root}/queue/{remote}/{name}".rstrip("/")

    def remote_state_path(self, remote: str) -> str:
        """Return the path of what is remembered of `remote` (16 hex digits)."""
        return f"{self.root}/remotes/{remote}"

    def event_path(self, name: str) -> str:
        """Return the path of one file of the event log."""
        return f"{self.root}/events/{name}"

    def _fan_out(self, folder: str, name: str, length: int) -> str:
        if not is_hex(name, length):
            raise ValueError(f"not a name of the store's {folder}: {name!r}")
        return f"{self.root}/{folder}/{name[:2]}/{name}"

    @property
    def group_shared(self) -> bool:
        """Whether the root's mode lets its group write."""
        if self._group is None:
            try:
                self._group = bool(os.stat(self.root).st_mode & 0o020)
            except OSError:
                self._group = False
        return self._group

    def share(self, descriptor: int, mode: int) -> None:
        """Give an open file its `mode` whatever the umask, with the group's rights where the store is shared."""
        if self.group_shared:
            mode |= (mode & 0o600) >> 3
        os.fchmod(descriptor, mode)

    def make_folder(self, path: str) -> None:
        """Make `path` and what is missing above it, down from the root; the first maker tags the root."""
        if not path.startswith(self.root):
            raise ValueError(f"{path} is not in the store {self.root}")
        if not os.path.isdir(self.root):
            os.makedirs(self.root, exist_ok=True)
            self._group = None
        self._tag_root()
        walked = self.root
        for part in path[len(self.root) :].strip("/").split("/"):
            walked = f"{walked}/{part}" if part else walked
            try:
                os.mkdir(walked)
            except FileExistsError:
                continue
            if self.group_shared:
                os.chmod(walked, 0o2775)  # noqa: S103 - the root's owner gave the group its rights

    def _tag_root(self) -> None:
        try:
            descriptor = os.open(f"{self.root}/CACHEDIR.TAG", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return
        try:
            write_all(descriptor, ROOT_TAG)
            self.share(descriptor, 0o644)
        finally:
            os.close(descriptor)

    def open_creating(self, path: str, flags: int, mode: int = 0o644) -> int:
        """Open a file of the store, making it and its folder if need be. Raises OSError."""
        flags |= os.O_CREAT | os.O_CLOEXEC
        try:
            return self._open_shared(path, flags, mode)
        except FileNotFoundError:
            self.make_folder(os.path.dirname(path))
            return self._open_shared(path, flags, mode)

    def _open_shared(self, path: str, flags: int, mode: int) -> int:
        try:
            descriptor = os.open(path, flags | os.O_EXCL, mode)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            return open_regular(path, flags, mode)
        try:
            if self.group_shared:
                self.share(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            if flags & os.O_EXCL:
                discard(path)
            raise
        return descriptor

    def open_temporary(self, prefix: str = "") -> "tuple[int, str]":
        """Make an empty file in tmp/ and return its descriptor (read-write, locked while open) and path."""
        import fcntl

        path = f"{self.root}/tmp/{prefix}{os.getpid()}-{os.urandom(6).hex()}"
        descriptor = self.open_creating(path, os.O_RDWR | os.O_EXCL)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # a file system without locks; a sweep cannot lock it either, and leaves it
        except BaseException:
            os.close(descriptor)
            discard(path)
            raise
        return descriptor, path

    def publish(self, descriptor: int, temporary: str, path: str, mode: int) -> None:
        """Close a temporary file and give it its mode and its final name, in place of what was there."""
        try:
            try:
                self.share(descriptor, mode)
            finally:
                os.close(descriptor)  # which may tell of a write that failed
            try:
                move_file(temporary, path)
            except FileNotFoundError:
                self.make_folder(os.path.dirname(path))
                move_file(temporary, path)
        except BaseException:
            discard(temporary)
            raise

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a whole small file so that a reader sees the old one or the new one. Raises OSError."""
        descriptor, temporary = self.open_temporary()
        try:
            write_all(descriptor, data)
        except BaseException:
            os.close(descriptor)
            discard(temporary)
            raise
        self.publish(descriptor, temporary, path, mode)

    def require_writable(self) -> None:
        """Raise StoreUnavailable if nothing can be written here, with the system's reason."""
        try:
            descriptor, temporary = self.open_temporary()
            os.close(descriptor)
            os.unlink(temporary)
        except OSError as error:
            raise StoreUnavailable(
                f"the store {self.root} cannot be written ({error.strerror}); "
                "free it, change its owner, or set NEURON_STORE_DIR to another folder"
            ) from error


def discard(path: str) -> None:
    """Delete a file, if it is there and may be deleted."""
    try:
        os.unlink(path)
    except OSError:
        pass


def move_file(temporary: str, path: str) -> None:
    """Give a file (of tmp/, say) the name `path`, which may be on another file system: a folder linked there."""
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        source = open_regular(temporary)
        try:
            _copy_across(source, path)
        finally:
            os.close(source)
        discard(temporary)


def _copy_across(source: int, path: str) -> None:
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{os.getpid()}-{os.urandom(6).hex()}"
    mode = os.fstat(source).st_mode & 0o777
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode | 0o200)
    try:
        try:
            copy_all(source, descriptor)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise


def copy_all(source: int, destination: int) -> None:
    """Write all of the open file `source`, from its beginning, to the open file `destination`. Raises OSError."""
    position = 0
    while piece := os.pread(source, _PIECE, position):
        write_all(destination, piece)
        position += len(piece)


def write_all(descriptor: int, data: "bytes | memoryview") -> None:
    """Write all of `data`. Raises OSError (a full disk, say)."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_file(path: str) -> "bytes | None":
    """Return a small file's content, or None if there is no such file. Raises OSError for other faults."""
    try:
        descriptor = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        size = os.fstat(descriptor).st_size
        if size > _LARGEST_READ_WHOLE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        data = os.read(descriptor, size + 1)
        # What is appended meanwhile is of no use to a reader of whole files.
        while len(data) <= size and (chunk := os.read(descriptor, size + 1 - len(data))):
            data += chunk
        return data
    finally:
        os.close(descriptor)
