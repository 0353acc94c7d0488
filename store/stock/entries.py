"""The entries of a stock cache on disk, and what state each is in."""

import errno
import os
import stat

from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import read_file
from neuron_store.store.remotes.base import FOLDER_PREFIX
from neuron_store.store.stock.flags import decode_flags
from neuron_store.store.stock.names import (
    DONE,
    FAILURE_LOG,
    FLAGS,
    GRAPHS,
    LOCK_SUFFIX,
    MODULE_PREFIX,
    NEFF,
    OLD_FOLDER_PREFIX,
    WRAPPED_NEFF,
    is_module,
    is_traced,
    version_of,
    what_is_odd,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

# The states of an entry.
FINISHED = "finished"  # whole
FAILED = "failed"  # the compiler failed; the stock cache repeats that failure
PENDING = "pending"  # a graph and its options, as neuron_parallel_compile collects them; or its compile goes on
UNFINISHED = "unfinished"  # a part is missing, empty, or a link that leads nowhere
UNREADABLE = "unreadable"  # it, or the folder of its version, may not be looked into
TRACED = "traced"  # a traced model
OLD_LAYOUT = "old_layout"  # of the layout that does not tell the options
STATES = (FINISHED, FAILED, PENDING, UNFINISHED, UNREADABLE, TRACED, OLD_LAYOUT)

# Why a folder is passed over, besides those of names.py.
LINKED = "linked"  # it is a link, to a place whose name says something else

_DEEPEST = 64  # folders between the one that is named and an entry
_PARTS = (*GRAPHS, FLAGS, NEFF, WRAPPED_NEFF, DONE, FAILURE_LOG)
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class StockEntry:
    """One entry.

    Attributes:
        folder: its path.
        version: of the compiler, without the prefix.
        module: its name; "" for all of a version whose folder may not be looked into.
        sizes: file name -> bytes, of its regular files, also of those that links lead to.
        odd: the names of what else is there: folders, pipes, links that lead nowhere.
        unreadable: why it may not be looked into, "" if it may.
    """

    __slots__ = ("folder", "module", "odd", "sizes", "unreadable", "version")

    def __init__(
        self,
        folder: str,
        version: str,
        module: str,
        sizes: "dict[str, int]",
        *,
        odd: "Collection[str]" = (),
        unreadable: str = "",
    ) -> None:
        self.folder = folder
        self.version = version
        self.module = module
        self.sizes = sizes
        self.odd = frozenset(odd)
        self.unreadable = unreadable

    @property
    def name(self) -> str:
        """How messages and journals call it: `<version>/<module>`."""
        return f"{self.version}/{self.module}" if self.module else self.version

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
        if self.unreadable:
            return UNREADABLE
        return state_of(self.module, self.sizes, self.odd) if self.version else OLD_LAYOUT

    @property
    def locks(self) -> "list[str]":
        """The paths of its locks: files, or links that lead nowhere, which are in the way of others as well."""
        return [self.path(name) for name in (*self.sizes, *sorted(self.odd)) if name.endswith(LOCK_SUFFIX)]

    def path(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.folder}/{name}"

    def flags(self) -> "list[str]":
        """Return its options. Raises CorruptEntry, OSError."""
        data = read_file(self.path(FLAGS))
        if data is None:
            raise CorruptEntry(f"{self.folder} has no {FLAGS}")
        return decode_flags(data)


def state_of(module: str, sizes: "dict[str, int]", odd: "Collection[str]" = ()) -> str:
    """Return the state of the entry `module` whose files have these sizes in bytes (by name; -1 where not known).

    `odd` are the names of what else is there. A part among them is one that is there and cannot be had.
    """
    if not is_module(module):
        return TRACED if is_traced(module) else OLD_LAYOUT
    if any(name in odd for name in _PARTS):
        return UNFINISHED
    if FAILURE_LOG in sizes:
        return FAILED
    graph = any(sizes.get(name) for name in GRAPHS)
    if not graph or FLAGS not in sizes:
        return UNFINISHED
    if DONE in sizes:
        return FINISHED if sizes.get(NEFF) and sizes.get(WRAPPED_NEFF, 1) else UNFINISHED
    return PENDING


def find_entries(
    root: str, pass_over: "Callable[[str, str], None] | None" = None, *, follow_links: bool = False
) -> "Iterator[StockEntry]":
    """Yield the entries below `root`: a cache, a folder with caches in it, one version's folder, or one entry.

    In order of their paths. With `follow_links`, a link is followed where it is a version's folder. `pass_over` is called with path and
    reason of what is called like an entry and is none, and of folders that cannot be read; but of a version's, an entry
    in the state UNREADABLE is yielded. Raises OSError if it is `root` that cannot be read.
    """
    finder = _Finder(pass_over or (lambda _path, _reason: None), follow_links=follow_links)
    root = os.path.abspath(root)
    parent, name = os.path.split(root)
    if name.startswith(MODULE_PREFIX) and not what_is_odd(os.path.basename(parent), name):
        yield from finder.entry(root)
        return
    if is_module(name):
        finder.pass_over(root, what_is_odd(os.path.basename(parent), name))
    yield from finder.find(root, _folders(root), _DEEPEST)


class _Finder:
    """The walk of find_entries."""

    def __init__(self, pass_over: "Callable[[str, str], None]", *, follow_links: bool) -> None:
        self.pass_over = pass_over
        self._follow_links = follow_links

    def find(self, folder: str, names: "Collection[str]", depth: int) -> "Iterator[StockEntry]":
        for name in names:
            path = f"{folder}/{name}"
            is_link = os.path.islink(path)
            if is_link and not (self._follow_links and _is_version_link(path)):
                if name.startswith((MODULE_PREFIX, FOLDER_PREFIX)):
                    self.pass_over(path, LINKED)
            elif name.startswith(MODULE_PREFIX):
                yield from self.entry(path)
            elif depth:
                yield from self._look_below(path, 0 if is_link else depth - 1)

    def entry(self, path: str) -> "Iterator[StockEntry]":
        """Yield the entry in the folder `path`, which is called like one."""
        parent, name = os.path.split(path)
        above = os.path.basename(parent)
        odd = what_is_odd(above, name)
        if odd:
            self.pass_over(path, odd)
        elif above.startswith(OLD_FOLDER_PREFIX):
            yield StockEntry(path, "", name, {})
        else:
            yield read_entry(path, version_of(above))

    def _look_below(self, folder: str, depth: int) -> "Iterator[StockEntry]":
        try:
            names = _folders(folder)
        except OSError as error:
            if _is_gone(error):
                return
            version = version_of(os.path.basename(folder))
            if version:
                yield StockEntry(folder, version, "", {}, unreadable=error.strerror or str(error))
            else:
                self.pass_over(folder, UNREADABLE)
            return
        yield from self.find(folder, names, depth)


def _folders(folder: str) -> "Collection[str]":
    """Return the names of the folders in a folder, and of links to folders. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or to where we may not look
        return False


def _is_version_link(path: str) -> bool:
    """Tell whether a link is a version's folder: on another disk, but not one that is named after another version."""
    version = version_of(os.path.basename(path))
    return bool(version) and version_of(os.path.basename(os.path.realpath(path))) in ("", version)


def read_entry(folder: str, version: str) -> StockEntry:
    """Return the entry in `folder`, which may be gone: then it has no files."""
    sizes: dict[str, int] = {}
    odd: list[str] = []
    unreadable = ""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                unreadable = _note(entry, sizes, odd) or unreadable
    except OSError as error:
        if not _is_gone(error):
            unreadable = error.strerror or str(error)
    return StockEntry(folder, version, os.path.basename(folder), sizes, odd=odd, unreadable=unreadable)


def _note(entry: "os.DirEntry[str]", sizes: "dict[str, int]", odd: "list[str]") -> str:
    """Note what stands in an entry's folder; return why it may not be looked at, "" if it may or does not matter.

    Whatever is wrong with one name says nothing of the others, among which may be a lock.
    """
    try:
        status = entry.stat()
    except OSError as error:
        if not _is_there(entry.path):
            return ""
        odd.append(entry.name)
        matters = entry.name in _PARTS or entry.name.endswith(LOCK_SUFFIX)
        return (error.strerror or str(error)) if matters and error.errno not in _LEADS_NOWHERE else ""
    if stat.S_ISREG(status.st_mode):
        sizes[entry.name] = status.st_size
    else:
        odd.append(entry.name)
    return ""


def _is_there(path: str) -> bool:
    """Tell whether something has this name, as far as can be told."""
    try:
        os.lstat(path)
    except OSError as error:
        return not _is_gone(error)
    return True


def _is_gone(error: OSError) -> bool:
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
