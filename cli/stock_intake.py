"""One entry of a stock cache, taken into the local store under the key that it proves."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from neuron_store.cli.inquiry import served_result
from neuron_store.hashing.inputs import open_regular, signature
from neuron_store.hashing.keys import prove_components
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.remote_hits import describe
from neuron_store.shim.settings import Settings
from neuron_store.shim.stock_key import KeyContext, StockKey, make_stock_key
from neuron_store.shim.version import VERSION
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, save_result
from neuron_store.store.stock.entries import FINISHED, UNFINISHED, StockEntry, read_entry
from neuron_store.store.stock.names import NEFF, WRAPPED_NEFF, graph_name

# What becomes of an entry, besides the reasons why it is left out.
IMPORTED, PRESENT, UNREADABLE, CHANGED = "imported", "present", "unreadable", "changed"
# What a message ends with if a process was lost.
IMPORT_AGAIN = "import again to go on, with fewer at once: --jobs 1"
_BLOB_ROLES = {"neff": NEFF, "wrapped_neff": WRAPPED_NEFF}


@dataclass
class Taken:
    """What became of an entry.

    Attributes:
        reason: IMPORTED, PRESENT, or why it was left out.
        detail: in words, what was found.
        bytes: of what was stored, uncompressed.
    """

    name: str
    reason: str
    key: str = ""
    detail: str = ""
    bytes: int = 0


@dataclass
class Intake:
    """How entries are taken in; the same for all of a source.

    Attributes:
        root: of the local store.
        target, variables: what the entries do not tell of their compiles.
        keep_bytes: a graph up to this size is kept with its result.
        origin: the remote that they come from, "" for a folder or file of this host.
        source: that folder or file.
        level: zstd's.
    """

    root: str
    exact: bool
    salt: bytes
    keep_bytes: int
    level: int
    target: str = ""
    variables: dict[bytes, bytes] = field(default_factory=dict)
    origin: str = ""
    source: str = ""

    @classmethod
    def by_settings(cls, settings: Settings) -> "Intake":
        """Return what the settings say."""
        return cls(
            settings.dir,
            settings.debug_info == "exact",
            os.fsencode(settings.key_salt),
            settings.keep_inputs_bytes,
            settings.compression_level,
        )

    @property
    def layout(self) -> Layout:
        """The local store."""
        return Layout(self.root)

    def key_of(self, graph: str, flags: list[str], version: str) -> StockKey:
        """Return the key of an entry. Raises NotCacheable, OSError."""
        context = KeyContext(exact=self.exact, salt=self.salt, variables=self.variables, target=self.target)
        return make_stock_key(graph, flags, version, context)


def take_in(intake: Intake, entry: StockEntry) -> Taken:
    """Take an entry on disk into the store. Never raises for what the entry holds, or what of it cannot be read.

    Raises OSError if the store is at fault.
    """
    if entry.state != FINISHED:
        return Taken(entry.name, entry.state)
    try:
        return _take_in(intake, entry)
    except NotCacheable as answer:
        return Taken(entry.name, answer.reason, detail=answer.detail)
    except CorruptEntry as error:
        return Taken(entry.name, UNREADABLE, detail=str(error))
    except _EntryError as error:
        is_gone = isinstance(error.fault, FileNotFoundError)
        return Taken(entry.name, CHANGED if is_gone else UNREADABLE, detail=str(error.fault))


class _EntryError(Exception):
    """A file of the entry could not be read."""

    def __init__(self, fault: OSError) -> None:
        super().__init__(str(fault))
        self.fault = fault


@contextmanager
def _reading() -> "Iterator[None]":
    """While it is entered, an OSError is the entry's fault and not the store's."""
    try:
        yield
    except OSError as error:
        raise _EntryError(error) from error


def _take_in(intake: Intake, entry: StockEntry) -> Taken:
    files: list[_Watched] = []
    try:
        with _reading():
            flags = entry.flags()
            graph = _Watched(entry.path(entry.graph), files)
            outputs = {
                role: _Watched(entry.path(name), files) for role, name in _BLOB_ROLES.items() if name in entry.sizes
            }
            key = intake.key_of(f"/proc/self/fd/{graph.descriptor}", flags, entry.version)
        if is_here(intake.layout, key.key):
            return Taken(entry.name, PRESENT, key.key)
        try:
            stored = {
                role: store_blob(intake.layout, role, file.descriptor, intake.level) for role, file in outputs.items()
            }
            kept = [keep_graph(intake, entry.graph, graph.descriptor)] if graph.size <= intake.keep_bytes else []
        except OSError:
            if all(file.unchanged() for file in files):
                raise  # it is the store's fault
            return Taken(entry.name, CHANGED)
        again = read_entry(entry.folder, entry.version)
        if not all(file.unchanged() for file in files) or again.sizes != entry.sizes:
            return Taken(entry.name, UNFINISHED if again.state == UNFINISHED else CHANGED)
        result = make_result(intake, entry.name, key, graph.size, flags, stored, kept, created=graph.changed_at)
        save_result(intake.layout, result)
        return Taken(entry.name, IMPORTED, key.key, bytes=sum(output.size for output in stored.values()))
    finally:
        for file in files:
            os.close(file.descriptor)


class _Watched:
    """An open file of an entry, and the state that it was in."""

    def __init__(self, path: str, opened: "list[_Watched]") -> None:
        """Open it, and add it to `opened`. Raises OSError."""
        self._path = path
        self.descriptor = open_regular(path)
        status = os.fstat(self.descriptor)
        self.size = status.st_size
        self.changed_at = status.st_mtime
        self._signature = signature(status)
        opened.append(self)

    def unchanged(self) -> bool:
        try:
            return signature(os.stat(self._path)) == self._signature
        except OSError:
            return False


def is_here(layout: Layout, key: str) -> bool:
    """Tell whether the store can serve `key`. Raises OSError."""
    return served_result(layout, key)[0] is not None


def keep_graph(intake: Intake, name: str, descriptor: int) -> dict[str, Any]:
    """Store a graph as a kept input; return what the result's record says of it. Raises OSError."""
    return describe_graph(name, store_blob(intake.layout, "neff", descriptor, intake.level))


def describe_graph(name: str, blob: Output) -> dict[str, Any]:
    """Return what a result's record says of a kept graph."""
    described = {"kind": "graph", "name": name, "sha256": blob.sha256, "xxh3": blob.xxh3}
    return {**described, "size": blob.size, "encoding": blob.encoding}


def make_result(
    intake: Intake,
    name: str,
    key: StockKey,
    graph_size: int,
    flags: list[str],
    outputs: dict[str, Output],
    kept: list[dict[str, Any]],
    *,
    created: float,
) -> Result:
    """Return the result of an entry (`<version>/<module>`), whose compile took nobody knows how long."""
    version, _, module = name.partition("/")
    provenance: dict[str, Any] = {
        "created": min(created, time.time()),
        "compiler_version": version,
        "neuron_store": VERSION,
        "stock": {"module": module, "flags": flags, "by_name": False},
    }
    provenance |= {"origin": intake.origin} if intake.origin else {"imported": intake.source}
    return Result(
        key=key.key,
        components=[describe(component) for component in key.components],
        outputs=outputs,
        interleave="",
        seconds=None,
        input_file={
            "name": graph_name(module),
            "path": "",
            "size": graph_size,
            "sha256": key.fingerprint.digest,
            "proof": prove_components(key.components),
            "mode": key.fingerprint.mode,
            "reason": key.fingerprint.reason,
            "files": kept,
        },
        provenance=provenance,
    )
