"""A store's folders as they are found: files that can be read, and those that are in the way of it."""

import errno
import os
import stat
from collections.abc import Iterator

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.checking.faults import FOREIGN, UNREADABLE, WRONG_MODE, Finding
from neuron_store.store.layout import Layout, is_hex

RECORD_MODE, BLOB_MODE = 0o644, 0o444
_GROUP_WRITE = 0o020
_NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.ENODEV)
_LARGEST_READ_WHOLE = 64 << 20  # bytes, as in layout.py
OTHERS_OWN = ("lost+found", ".snapshot", ".nfs")  # what file systems put into a folder themselves


class View:
    """One look at a store.

    Attributes:
        layout: of the store.
        has_modes: whether its file system keeps modes: some show the same for every file.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        try:
            self.has_modes = not os.stat(f"{layout.root}/CACHEDIR.TAG").st_mode & 0o111
        except OSError:
            self.has_modes = True

    def below(self, path: str) -> str:
        """Return a path as it is told: below the store's root."""
        return path.removeprefix(f"{self.layout.root}/")

    def listing(self, path: str, findings: list[Finding]) -> list["os.DirEntry[str]"]:
        """Return what is in a folder, in order; a folder that cannot be listed is added to `findings`."""
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            self._look_at_folder(path, findings)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            mode = 0o2775 if self.layout.group_shared else 0o755
            detail = f"the folder cannot be listed: {error.strerror}"
            findings.append(Finding(UNREADABLE, self.below(path), detail, mode=mode))
            return []
        return [entry for entry in found if not entry.name.startswith(OTHERS_OWN)]

    def _look_at_folder(self, path: str, findings: list[Finding]) -> None:
        """Look at a folder's mode: what others than its owner and group may do is the umask's affair, and doctor's."""
        mode = stat.S_IMODE(os.stat(path).st_mode)
        lacks = (0o770 if self.layout.group_shared else 0o700) & ~mode
        if self.has_modes and lacks:
            detail = f"the folder has the mode {mode:04o} instead of {mode | lacks:04o}"
            findings.append(Finding(WRONG_MODE, self.below(path), detail, mode=mode | lacks))

    def fans(self, folder: str, findings: list[Finding]) -> Iterator[str]:
        """Yield the paths of the folders of two hex digits in `folder`; what else lies there is foreign."""
        for entry in self.listing(f"{self.layout.root}/{folder}", findings):
            if is_hex(entry.name, 2) and entry.is_dir():
                yield entry.path
            else:
                findings.append(self.foreign(entry.path))

    def foreign(self, path: str, detail: str = "it is nothing of neuron-store's") -> Finding:
        """Return the finding for a file that does not belong here."""
        return Finding(FOREIGN, self.below(path), detail)

    def open(self, path: str, mode: int, findings: list[Finding]) -> int:
        """Open a file that should have `mode`; -1 if it is gone, or what is in the way is added to `findings`."""
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            if os.path.islink(path):
                findings.append(self.foreign(path, "it is a link that leads nowhere"))
            return -1
        except OSError as error:
            if error.errno in _NO_FILE:
                findings.append(self.foreign(path, "it is no regular file"))
            else:
                detail = f"it cannot be opened: {error.strerror}"
                findings.append(Finding(UNREADABLE, self.below(path), detail, mode=self.right_mode(mode)))
            return -1
        found = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if self.has_modes and not self._fits(found, mode):
            wanted = self.right_mode(mode)
            detail = f"it has the mode {found:04o} instead of {wanted:04o}"
            findings.append(Finding(WRONG_MODE, self.below(path), detail, mode=wanted))
        return descriptor

    def right_mode(self, mode: int) -> int:
        """Return the mode of a file of ours whose mode is `mode` where the store is not shared by a group."""
        return mode | _GROUP_WRITE if self.layout.group_shared and mode & 0o200 else mode

    @staticmethod
    def _fits(found: int, mode: int) -> bool:
        """Tell whether all may read it, and nobody do more with it than the mode allows; a group may write records."""
        allowed = mode | _GROUP_WRITE if mode & 0o200 else mode
        return found & 0o444 == 0o444 and not found & ~allowed

    def read(self, descriptor: int, path: str, mode: int, findings: list[Finding]) -> "bytes | None":
        """Return a small file's content and close it; None if that fails, which is added to `findings`."""
        try:
            size = os.fstat(descriptor).st_size
            if size > _LARGEST_READ_WHOLE:
                findings.append(
                    self.foreign(path, f"it is {size} bytes large, which nothing of neuron-store's is here")
                )
                return None
            data = os.read(descriptor, size + 1)
            while len(data) < size and (piece := os.read(descriptor, size - len(data))):
                data += piece
        except OSError as error:
            detail = f"it cannot be read: {error.strerror}"
            findings.append(Finding(UNREADABLE, self.below(path), detail, mode=self.right_mode(mode)))
            return None
        else:
            return data
        finally:
            os.close(descriptor)
