"""One check of a whole store, which changes nothing, beside shims that serve from it and store into it.

First all records are read, then direct entries and blobs, many folders at a time. What is found in this way may only
look like a fault, because a record came or went meanwhile. So each suspicion is looked at again at the end:

- Who is about to give blobs a record has left a mark (store/writing.py). The marks are read first: what changed since the
  oldest of them may be in use, and is no orphan. Who ended before then has a record by now.
- Then all records are read once more, for the digests and keys that are under suspicion alone. A blob is missing only if
  a record names it still, and it still is not there; it is an orphan only if no record names it still; an entry
  leads nowhere only if there still is no record.
- A record that cannot be read, or is of another format, may name any blob: while there is one, there are no orphans.
- While a collection runs, what it is about to remove is not told.

Memory: about 250 bytes for each blob that records name, and a few pieces of a blob for each thread.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from neuron_store.store.checking.blob_files import LookedAtBlobs, Seen, Told, look_at_blob_file, look_at_blobs
from neuron_store.store.checking.faults import (
    DANGLING,
    KINDS,
    MISSING_BLOB,
    UNREADABLE,
    WRONG_MODE,
    WRONG_NAME,
    Finding,
)
from neuron_store.store.checking.record_files import (
    UNTOLD,
    Looked,
    agrees_with_record,
    look_at_directs,
    look_at_record,
    look_at_records,
)
from neuron_store.store.checking.surroundings import look_around
from neuron_store.store.checking.view import View
from neuron_store.store.collection.collector import COLLECTOR
from neuron_store.store.collection.recompression import blobs_of
from neuron_store.store.direct import ENCODING_SUFFIX
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.results import load_result
from neuron_store.store.upload_lock import is_taken
from neuron_store.store.writing import writing_since

Tick = Callable[[int, int], None]
Item = TypeVar("Item")
Made = TypeVar("Made")

FOLDERS = 3 * 256


@dataclass
class Checked:
    """What a check found.

    Attributes:
        results, blobs: how many there are, whole or not.
        bytes: of blobs that were read.
        newer: records of another format, which are not looked at.
        undecided: blobs and entries without a record, while there are records that cannot be read: they may be theirs.
        findings: what is wrong.
        suffering: keys of results that cannot be served as they are.
        keys: of all results.
    """

    results: int = 0
    blobs: int = 0
    bytes: int = 0
    newer: int = 0
    undecided: int = 0
    findings: list[Finding] = field(default_factory=list)
    suffering: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def check_store(
    layout: Layout,
    threads: int,
    tick: "Tick | None" = None,
    seen: "Seen | None" = None,
    *,
    holds_collector: bool = False,
) -> Checked:
    """Check all that the store holds. `tick` is called with folders done and folders in all.

    Blobs in `seen` are not read again, and those that are found whole are added. `holds_collector` tells whether it is
    the caller who keeps collections away.
    """
    return _Check(layout, threads, tick or _nobody_watches, seen, holds_collector=holds_collector).run()


def check_results(layout: Layout, keys: list[str], threads: int) -> Checked:
    """Check these results alone, with the blobs that they name."""
    return _Check(layout, threads, _nobody_watches, None).run_for(keys)


def _nobody_watches(_done: int, _total: int) -> None:
    pass


class _Check:
    def __init__(
        self, layout: Layout, threads: int, tick: Tick, seen: "Seen | None", *, holds_collector: bool = False
    ) -> None:
        self._view = View(layout)
        self._holds_collector = holds_collector
        self._threads = threads
        self._tick = tick
        self._seen = seen
        self._done = 0
        self._told: Told = {}
        self._made = Checked()
        self._whole: set[bytes] = set()
        self._suspects: list[tuple[bytes, Finding]] = []
        self._unnamed: list[tuple[bytes, Finding]] = []
        self._dangling: list[Finding] = []

    def run(self) -> Checked:
        """Look at everything, then again at what is under suspicion."""
        made, view = self._made, self._view
        if not os.path.isdir(view.layout.root):
            return made
        for looked in self._in_threads(lambda fan: look_at_records(view, fan), self._fans("results")):
            self._take_records(looked)
        for findings in self._in_threads(self._look_at_directs, self._fans("direct")):
            self._take_entries(findings)
        self._look_at_blobs(look_at_blobs, list(self._fans("blobs")))
        self._take_entries(look_around(view, made.keys))
        self._look_again(self._all_records)
        return self._finish()

    def run_for(self, keys: list[str]) -> Checked:
        """Look at some results and their blobs."""
        paths = [self._view.layout.result_path(key) for key in keys]
        looked = Looked()
        for path in paths:
            look_at_record(self._view, path, looked)
        self._take_records(looked)
        blobs = [path for digest in self._told for path in self._paths(digest) if os.path.lexists(path)]
        self._look_at_blobs(look_at_blob_file, blobs)
        self._look_again(lambda: iter(paths))
        return self._finish()

    # -- the first look ------------------------------------------------------------------------------------------------

    def _fans(self, folder: str) -> Iterator[str]:
        return self._view.fans(folder, self._made.findings)

    def _in_threads(self, work: Callable[[Item], Made], items: "Iterator[Item]") -> Iterator[Made]:
        with ThreadPoolExecutor(self._threads) as pool:
            for made in pool.map(work, list(items)):
                yield made
                self._done += 1
                self._tick(min(self._done, FOLDERS), FOLDERS)

    def _take_records(self, looked: Looked) -> None:
        self._made.findings += looked.findings
        self._made.keys.update(looked.keys)
        self._made.newer += looked.newer
        for digest, size, xxh3 in looked.named:
            if self._told.get(digest, (UNTOLD, b""))[0] == UNTOLD:
                self._told[digest] = (size, xxh3)

    def _look_at_directs(self, fan: str) -> list[Finding]:
        return look_at_directs(self._view, fan, self._made.keys, self._told)

    def _take_entries(self, findings: list[Finding]) -> None:
        for finding in findings:
            (self._dangling if finding.kind == DANGLING else self._made.findings).append(finding)

    def _look_at_blobs(
        self, look: Callable[[View, str, Told, "Seen | None"], LookedAtBlobs], places: list[str]
    ) -> None:
        """Look at folders of blobs, or at single ones."""
        for looked in self._in_threads(lambda place: look(self._view, place, self._told, self._seen), iter(places)):
            self._whole.update(looked.whole)
            self._suspects += looked.suspects
            self._unnamed += looked.unnamed
            self._made.findings += looked.findings
            self._made.blobs += looked.files
            self._made.bytes += looked.bytes
        found = {digest for digest, _ in self._suspects}
        for digest, (size, _) in self._told.items():
            if digest not in self._whole and digest not in found and size != UNTOLD:
                path = self._view.below(self._view.layout.blob_path(digest.hex()))
                finding = Finding(MISSING_BLOB, path, "it is not there", sha256=digest.hex())
                self._suspects.append((digest, finding))

    # -- the second ----------------------------------------------------------------------------------------------------

    def _look_again(self, records: Callable[[], Iterator[str]]) -> None:
        """Keep of all suspicions those that hold still."""
        suspected = {digest for digest, _ in (*self._suspects, *self._unnamed)}
        if not suspected and not self._dangling:
            return
        since = self._writing_since()
        collecting = is_taken(self._view.layout, COLLECTOR) and not self._holds_collector
        keys: set[str] = set()
        namers: dict[bytes, list[str]] = {}
        for path in records():
            looked = Looked()
            look_at_record(self._view, path, looked)
            keys.update(looked.keys)
            for digest in {named[0] for named in looked.named} & suspected:
                namers.setdefault(digest, []).extend(looked.keys)
        others = {finding.path for _, finding in self._suspects if finding.kind == WRONG_NAME}
        for digest, finding in self._suspects:
            if digest not in namers:
                continue
            finding.keys = namers[digest]
            if finding.kind != MISSING_BLOB or self._still_lacks(digest, finding, others):
                self._made.findings.append(finding)
        if collecting:
            return
        loose = [f for digest, f in self._unnamed if digest not in namers and self._is_settled(f, since)]
        loose += [f for f in self._dangling if self._still_dangles(f, keys, since)]
        if self._made.newer or any(f.kind == UNREADABLE and f.path.startswith("results") for f in self._made.findings):
            self._made.undecided = len(loose)
        else:
            self._made.findings += loose

    def _writing_since(self) -> int:
        try:
            return writing_since(self._view.layout)
        except OSError:
            return 0  # nobody can tell who writes

    def _all_records(self) -> Iterator[str]:
        for fan in self._view.fans("results", []):
            for entry in self._view.listing(fan, []):
                yield entry.path

    def _paths(self, digest: bytes) -> list[str]:
        return [self._view.layout.blob_path(digest.hex(), suffix) for suffix in ENCODING_SUFFIX.values()]

    def _told_path(self, digest: bytes, key: str) -> str:
        """Return where a blob should be, as its result tells how it is stored."""
        layout = self._view.layout
        try:
            result = load_result(layout, key)
        except (CorruptEntry, OSError):
            result = None
        told = [blob.encoding for blob in blobs_of(result) if blob.sha256 == digest.hex()] if result else []
        return layout.blob_path(digest.hex(), ENCODING_SUFFIX[told[0]] if told else "")

    def _still_lacks(self, digest: bytes, finding: Finding, others: set[str]) -> bool:
        """Tell whether a blob has no file still but what was found to be `others`, and note where it should be."""
        there = {self._view.below(path) for path in self._paths(digest) if os.path.lexists(path)}
        finding.path = self._view.below(self._told_path(digest, finding.keys[0]))
        if finding.path in there:
            finding.detail = "another blob is in its place"
        return there <= others

    def _is_settled(self, finding: Finding, since: int) -> bool:
        """Tell whether a file is there still, and has not changed since."""
        try:
            return os.stat(f"{self._view.layout.root}/{finding.path}").st_ctime_ns < since
        except OSError:
            return False

    def _still_dangles(self, finding: Finding, keys: set[str], since: int) -> bool:
        if not self._is_settled(finding, since):
            return False
        if finding.leads_to not in keys:
            return True
        if not finding.path.startswith("direct/"):
            return False
        # It was looked at when a blob that it names had no record: what it leads to may have been replaced by now.
        return not agrees_with_record(self._view.layout, os.path.basename(finding.path))

    def _finish(self) -> Checked:
        made = self._made
        made.results = len(made.keys)
        made.suffering = {key for f in made.findings if f.kind != WRONG_MODE for key in f.keys}
        order = list(KINDS)
        made.findings.sort(key=lambda finding: (order.index(finding.kind), finding.path))
        return made
