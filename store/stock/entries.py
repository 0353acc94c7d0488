"""The entries of a stock cache on disk, and what state each is in."""

import os
import stat

from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import read_file
from neuron_store.store.stock.flags import decode_flags
from neuron_store.store.stock.names import (
    DONE,
    FAILURE_LOG,
    FLAGS,
    GRAPHS,
    LOCK_SUFFIX,
    NEFF,
    OLD_FOLDER_PREFIX,
    WRAPPED_NEFF,
    is_module,
    is_traced,
    version_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# The states of an entry.
FINISHED = "finished"  # whole
FAILED = "failed"  # the compiler failed; the stock cache repeats that failure
PENDING = "pending"  # a graph and its options, as neuron_parallel_compile collects them; or its compile goes on
UNFINISHED = "unfinished"  # a part is missing, or empty
TRACED = "traced"  # a traced model
OLD_LAYOUT = "old_layout"  # of the layout that does not tell the options
STATES = (FINISHED, FAILED, PENDING, UNFINISHED, TRACED, OLD_LAYOUT)

_DEEPEST = 8  # folders between the one that is named and an entry


class StockEntry:
    """One entry.

    Attributes:
        folder: its path.
        version: of the compiler, without the prefix.
        module: its name.
        sizes: file name -> bytes, of its regular files.
    """

    __slots__ = ("folder", "module", "sizes", "version")

    def __init__(self, folder: str, version: str, module: str, sizes: "dict[str, int]") -> None:
        self.folder = folder
        self.version = version
        self.module = module
        self.sizes = sizes

    @property
    def name(self) -> str:
        """How messages and journals call it: `<version>/<module>`."""
        return f"{self.version}/{self.module}"

    @property
    def graph(self) -> str:
        """The name of the file that holds its graph, "" if there is none."""
        return next((name for name in GRAPHS if self.sizes.get(name)), "")

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.sizes.values())

    @property
    def state(self) -> str:
        """What state it is in, as far as its files' names and sizes tell."""
        return state_of(self.module, self.sizes) if self.version else OLD_LAYOUT

    @property
    def locks(self) -> "list[str]":
        """The paths of its lock files."""
        return [self.path(name) for name in self.sizes if name.endswith(LOCK_SUFFIX)]

    def path(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.folder}/{name}"

    def flags(self) -> "list[str]":
        """Return its options. Raises CorruptEntry, OSError."""
        data = read_file(self.path(FLAGS))
        if data is None:
            raise CorruptEntry(f"{self.folder} has no {FLAGS}")
        return decode_flags(data)


def state_of(module: str, sizes: "dict[str, int]") -> str:
    """Return the state of the entry `module` whose files have these sizes in bytes (by name; -1 where not known)."""
    if not is_module(module):
        return TRACED if is_traced(module) else OLD_LAYOUT
    if FAILURE_LOG in sizes:
        return FAILED
    graph = any(sizes.get(name) for name in GRAPHS)
    if not graph or FLAGS not in sizes:
        return UNFINISHED
    if DONE in sizes:
        return FINISHED if sizes.get(NEFF) and sizes.get(WRAPPED_NEFF, 1) else UNFINISHED
    return PENDING


def find_entries(root: str) -> "Iterator[StockEntry]":
    """Yield the entries below `root`: a cache, a folder with caches in it, one version's folder, or one entry.

    In order of their paths. What has other names, and folders that cannot be read, are passed over.
    """
    root = os.path.abspath(root)
    parent, name = os.path.split(root)
    version = version_of(os.path.basename(parent))
    if version and name.startswith("MODULE_"):
        yield from _entry(root, version)
        return
    yield from _find(root, _DEEPEST)


def _find(folder: str, depth: int) -> "Iterator[StockEntry]":
    above = os.path.basename(folder)
    version, is_old = version_of(above), above.startswith(OLD_FOLDER_PREFIX)
    for name in _folders(folder):
        path = f"{folder}/{name}"
        if version and name.startswith("MODULE_"):
            yield from _entry(path, version)
        elif is_old and name.startswith("MODULE_"):
            yield StockEntry(path, "", name, {})
        elif depth:
            yield from _find(path, depth - 1)


def _folders(folder: str) -> "Collection[str]":
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return ()


def _entry(folder: str, version: str) -> "Iterator[StockEntry]":
    module = os.path.basename(folder)
    if is_module(module) or is_traced(module):
        yield read_entry(folder, version)


def read_entry(folder: str, version: str) -> StockEntry:
    """Return the entry in `folder`, which may be gone: then it has no files."""
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    sizes[entry.name] = status.st_size
    except OSError:
        pass
    return StockEntry(folder, version, os.path.basename(folder), sizes)
