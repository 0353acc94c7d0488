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
from neuron_store.store.stock.entries import FINISHED, TRACED, StockEntry, find_entries
from neuron_store.store.stock.names import LOCK_SUFFIX
from neuron_store.store.stock.writing import is_temporary

_REGISTRY = "0_REGISTRY"
_MOST_NAMED = 10


def synchronize_folder(
    named: str, opened: Opened, settings: Settings, *, compiler: str, replace: bool, as_json: bool
) -> None:
    """Upload what a remote lacks of a stock cache's folder, and say what came of it.

    Raises RemoteError for what is still missing; NotFound.
    """
    folder = stock_folder(named)
    begun = time.monotonic()
    left_out: Counter[str] = Counter()
    entries = [*_modules(folder, compiler, left_out), *_registries(folder, compiler)]
    upload = StockUpload(opened, settings, replace=replace)
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
    left_out.update(made.left_out)
    told: dict[str, Any] = {
        "folder": folder,
        "remote": opened.remote.url,
        "uploaded": made.entries,
        "bytes": made.bytes,
        "commits": made.commits,
        "left": made.left,
        "left_out": dict(left_out),
        "different": made.different,
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


def _modules(folder: str, compiler: str, left_out: "Counter[str]") -> Iterator[UploadEntry]:
    for entry in find_entries(folder):
        if not entry.version.startswith(compiler):
            continue
        if entry.state in (FINISHED, TRACED):
            yield UploadEntry(f"{FOLDER_PREFIX}{entry.version}/{entry.module}", dict(_files(entry)))
        else:
            left_out[entry.state] += 1


def _files(entry: StockEntry) -> Iterator[tuple[str, str]]:
    """Yield name and path of each file that belongs to an entry; a traced model has folders."""
    if entry.state == FINISHED:
        yield from ((name, entry.path(name)) for name in entry.sizes if _belongs(name))
        return
    for above, _, names in os.walk(entry.folder):
        for name in sorted(names):
            path = os.path.join(above, name)
            if _belongs(name) and os.path.isfile(path):
                yield os.path.relpath(path, entry.folder), path


def _belongs(name: str) -> bool:
    return not name.endswith(LOCK_SUFFIX) and not is_temporary(name)


def _registries(folder: str, compiler: str) -> Iterator[UploadEntry]:
    """Yield the entries of optimum-neuron's registry, each by itself; its links are followed, as an upload does."""
    for version in sorted(os.listdir(folder)):
        if not version.startswith(FOLDER_PREFIX + compiler):
            continue
        for above, _, names in os.walk(f"{folder}/{version}/{_REGISTRY}"):
            for name in sorted(names):
                path = os.path.join(above, name)
                if name.endswith(".json") and os.path.isfile(path):
                    yield UploadEntry(os.path.relpath(above, folder), {name: path})
