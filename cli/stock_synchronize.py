"""`neuron-store synchronize --cache-dir`: a stock cache's folder to a repo of its own layout, without what hurts there."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.remotes import Opened
from neuron_store.cli.stock_folder import stock_folder
from neuron_store.cli.stock_reasons import print_reasons
from neuron_store.cli.stock_upload import StockUpload, UploadEntry
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import RemoteError
from neuron_store.store.remotes.base import FOLDER_PREFIX
from neuron_store.store.stock.entries import FINISHED, TRACED, UNFINISHED, UNREADABLE, StockEntry, find_entries
from neuron_store.store.stock.names import LOCK_SUFFIX
from neuron_store.store.stock.writing import is_temporary

_REGISTRY = "0_REGISTRY"
_MOST_NAMED = 10

ODD_NAME = "odd_name"


def synchronize_folder(
    named: str,
    opened: Opened,
    settings: Settings,
    *,
    compiler: str,
    replace: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Upload what a remote lacks of a stock cache's folder, and say what came of it.

    No commit is begun after `timeout` seconds; 0: no end.

    Raises RemoteError for what is still missing; NotFound.
    """
    folder = stock_folder(named)
    begun = time.monotonic()
    found = _Found(folder, compiler)
    entries = found.entries
    upload = StockUpload(opened, settings, replace=replace, timeout=timeout)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with presentation.progress(*columns) as progress:
        task = progress.add_task("pushing", total=sum(entry.size for entry in entries))
        upload.send(entries, lambda size, _count: progress.advance(task, size))
    made = upload.made
    left_out = found.left_out + made.left_out
    told: dict[str, Any] = {
        "folder": folder,
        "remote": opened.remote.url,
        "uploaded": made.entries,
        "bytes": made.bytes,
        "commits": made.commits,
        "left": made.left,
        "left_out": dict(left_out),
        "different": made.different,
        "unreadable": [*found.unreadable, *made.unreadable],
        "files_left_out": found.files_left_out,
        "seconds": round(time.monotonic() - begun, 3),
    }
    if as_json:
        presentation.print_json(told)
    else:
        _say(told)
    if made.left:
        count = presentation.plural(made.left, "module is", "modules are")
        raise RemoteError(f"{count} still missing in {opened.remote.url}: {made.fault}; synchronize again to go on")


def _say(told: dict[str, Any]) -> None:
    said = f"pushed {presentation.plural(told['uploaded'], 'module')}"
    if told["uploaded"]:
        said += f" ({presentation.size(told['bytes'])}) in {presentation.plural(told['commits'], 'commit')}"
    presentation.write(f"{said} from {told['folder']} to {told['remote']}\n")
    print_reasons(told["left_out"])
    for name in told["different"][:_MOST_NAMED]:
        presentation.remark(f"{told['remote']} has other bytes of {name}")
    for path in told["unreadable"][:_MOST_NAMED]:
        presentation.remark(f"{path} cannot be read, so its module is left out")
    if files := told["files_left_out"]:
        count = presentation.plural(len(files), "file or folder is", "files or folders are")
        presentation.remark(f"{count} left out (hidden, not named in UTF-8, or a link to a folder): {files[0]}")


class _Found:
    """What there is to upload in a folder.

    Attributes:
        entries: that can be uploaded.
        left_out: reason -> how many entries cannot.
        unreadable: the paths of what cannot be read.
        files_left_out: the paths of what is beside the parts of an entry, and goes to no repo.
    """

    def __init__(self, folder: str, compiler: str) -> None:
        """Look into `folder`, for entries of compilers whose version starts with `compiler`."""
        self.entries: list[UploadEntry] = []
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self.files_left_out: list[str] = []
        for entry in find_entries(folder):
            if entry.version.startswith(compiler):
                self._add(entry)
        for version in sorted(os.listdir(folder)):
            if version.startswith(FOLDER_PREFIX + compiler):
                self._add_registry(folder, version)

    def _add(self, entry: StockEntry) -> None:
        files: dict[str, str] = {}
        reason = "" if entry.state in (FINISHED, TRACED) else entry.state
        if entry.state == FINISHED:
            files = {name: entry.path(name) for name in entry.sizes if self._belongs(name, entry.path(name))}
        elif entry.state == TRACED:
            reason = self._add_traced(entry, files)
        elif entry.state == UNREADABLE:
            self.unreadable.append(entry.folder)
        if reason:
            self.left_out[reason] += 1
        else:
            self.entries.append(UploadEntry(f"{FOLDER_PREFIX}{entry.version}/{entry.module}", files))

    def _add_traced(self, entry: StockEntry, files: dict[str, str]) -> str:
        """Add the files of a traced model, which has folders, to `files`; return why it cannot go, "" if it can.

        Which of them it needs nobody knows: without one of them it is no model.
        """
        known = len(self.unreadable)
        for path in self._files_below(entry.folder):
            name = os.path.relpath(path, entry.folder)
            if not _is_utf8(name):
                return ODD_NAME
            if os.path.isfile(path):
                files[name] = path
            elif os.path.islink(path):
                return UNFINISHED
        if len(self.unreadable) > known:
            return UNREADABLE
        return "" if files else UNFINISHED

    def _add_registry(self, folder: str, version: str) -> None:
        """Add the entries of optimum-neuron's registry, each by itself; its links are followed, as an upload does."""
        for path in self._files_below(f"{folder}/{version}/{_REGISTRY}"):
            if path.endswith(".json") and os.path.isfile(path) and self._belongs(os.path.relpath(path, folder), path):
                above, name = os.path.split(path)
                self.entries.append(UploadEntry(os.path.relpath(above, folder), {name: path}))

    def _files_below(self, folder: str) -> Iterator[str]:
        """Yield the paths of all files below a folder but locks, what is being written, and what is hidden."""
        for above, folders, names in os.walk(folder, onerror=self._note_unreadable):
            for name in folders:
                path = os.path.join(above, name)
                if name.startswith(".") or os.path.islink(path):
                    self.files_left_out.append(path)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (os.path.join(above, name) for name in sorted(names) if not _is_passing(name))

    def _note_unreadable(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            self.unreadable.append(str(error.filename))

    def _belongs(self, name: str, path: str) -> bool:
        if _is_passing(name):
            return False
        if not _is_utf8(name):
            self.files_left_out.append(path)
            return False
        return True


def _is_passing(name: str) -> bool:
    return name.endswith(LOCK_SUFFIX) or is_temporary(name)


def _is_utf8(name: str) -> bool:
    """Tell whether a repo can have a file of this name, which is not hidden: it takes no `.git` or `.cache` either."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
