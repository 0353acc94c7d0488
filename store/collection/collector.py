"""Collecting: what is to go leaves the store while shims serve from it and store into it.

Nobody is made to wait, and a collector that is killed leaves a store that is as valid as before. Why:

- A reader's way is direct entry, record (touched), blobs. The record goes first: from then on, direct entries that lead to
  it are not believed, and whoever has not touched it yet misses. Whoever has touched it opens blobs that may go now:
  an open blob stays readable, and one that has gone is a miss like any other (`missing_blob`). The compiler runs then,
  as it would without us; no compile fails of it.
- A writer's way is blobs, record, direct entry. What no record names may be a blob whose record is still to come. So a
  writer leaves a mark before its first blob (writing.py), and *the horizon* is when the oldest writer of now began, or
  now; it is taken before the records are read. A blob that such a writer made, or found here and touched, has changed
  since the horizon; writers that ended before it have their records where we read them; writers that begin later
  change every blob that they name. So a blob goes only if no record names it and its status (ctime, which nobody can
  set back) last changed before the horizon. The clock is the file system's own, also on NFS.
- Between the look at a blob's status and its removal a writer may put the same content there again, or touch it. So it
  is renamed aside (`.gone.<name>`), which is atomic, looked at again, and put back if it is not what was seen.
- A record goes only if it last changed before the horizon: a hit touches it. It may be replaced within the
  microseconds between that look and its removal: then a result is lost, which is compiled again. Its blobs are newer
  than the horizon, and go next time.
- What is queued is read after the records: a result is queued within its writer's mark, so one that is not queued
  yet is newer than the horizon. Queue and pins are asked again before each record goes.
- A record that cannot be read, or is of a newer format, may name any blob: while there is one, no blob goes, and no
  result for the sake of size or free space, which would be lost and hardly free a byte.
- What is queued without a record can never be uploaded: the record came first, and has gone since.
- Killed between records and blobs: blobs without a name, which the next collection removes. Killed while a blob is aside:
  the next collection puts it back, then looks at it like at any other.
- One collector at a time on a host, by a lock that dies with it. Two hosts' collectors on one store both only remove
  what neither a record names nor a writer made since; what one has aside the other puts back, and takes in its turn.
"""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neuron_store.store.checking.quarantine import AGE as QUARANTINE_AGE
from neuron_store.store.checking.quarantine import expire, measure_quarantine, weigh_expired
from neuron_store.store.collection.growth import note_measurement
from neuron_store.store.collection.inventory import (
    Inventory,
    digest_of,
    entries_of,
    key_of_direct,
    size_of,
    take_inventory,
)
from neuron_store.store.collection.limits import (
    DAMAGED,
    IN_USE,
    Choice,
    Limits,
    Protection,
    Tally,
    choose,
    free_space,
    queued_keys,
    read_protection,
)
from neuron_store.store.collection.old_contexts import collect_contexts
from neuron_store.store.collection.pins import is_pinned
from neuron_store.store.collection.removal import ASIDE, put_back, remove_blob, settled
from neuron_store.store.layout import Layout, discard
from neuron_store.store.locks import sweep
from neuron_store.store.queue import dangling, dequeue
from neuron_store.store.upload_lock import UploadLock
from neuron_store.store.writing import unchanging_since

COLLECTOR = "collector"
UNNAMED, DIRECTS, TEMPORARY, CONTEXTS = "unnamed_blobs", "orphaned_direct_entries", "stale_files", "old_contexts"
QUARANTINED = "quarantined_files"
_FOLDERS = 256 * 3
_STALE = 86400.0  # seconds
_UNMET_PAUSE = 600.0  # seconds after a collection that could not do all it should, until one is begun by itself

Progress = Callable[[int, int], None]


@dataclass
class Report:
    """What a collection did, or would do.

    Attributes:
        tallies: reason -> results, or files for what is no result, and bytes.
        kept: reason -> results that were to go and stayed.
        unmet: limits that do not hold.
        before, after: bytes of the store, the quarantine's among them.
        results: that are left.
        unread: records (by their keys, where they are of a newer format) and folders that could not be read, for whose
            sake blobs stayed.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    unmet: list[str] = field(default_factory=list)
    before: int = 0
    after: int = 0
    results: int = 0
    unread: list[str] = field(default_factory=list)

    def add(self, reason: str, count: int, size: int) -> None:
        """Count what went."""
        if count:
            tally = self.tallies.setdefault(reason, Tally())
            tally.results += count
            tally.bytes += size

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(tally.bytes for tally in self.tallies.values())


def collector_lock(layout: Layout) -> UploadLock:
    """Return the lock of whoever removes or replaces blobs; release it with `release_collector`."""
    return UploadLock(layout, COLLECTOR)


def release_collector(layout: Layout, lock: UploadLock) -> None:
    """Give the lock back."""
    if lock.held:
        discard(layout.lock_path(COLLECTOR))
        lock.release()


def collect(layout: Layout, limits: Limits, *, dry_run: bool = False, progress: "Progress | None" = None) -> Report:
    """Remove what the limits say, and what nobody needs. For the holder of the collector's lock, or a dry run.

    `progress` is called with steps done and steps in all. Raises OSError where the store cannot be read or written.
    """
    return _Collection(layout, limits, progress).run(dry_run=dry_run)


class _Collection:
    def __init__(self, layout: Layout, limits: Limits, progress: "Progress | None") -> None:
        self._layout = layout
        self._limits = limits
        self._progress: Progress = progress or (lambda done, total: None)  # noqa: ARG005 - nobody watches
        self._steps = 0
        self._horizon = 0
        self._quarantined = 0
        self._report = Report()

    def run(self, *, dry_run: bool) -> Report:
        """Look, choose, remove."""
        layout, report = self._layout, self._report
        self._horizon = time.time_ns() if dry_run else unchanging_since(layout)
        if not dry_run:
            put_back_all(layout)
        held = take_inventory(layout, self._tick)
        protection = read_protection(layout)
        choice = choose(held, self._limits, protection, time.time(), free_space(layout))
        self._quarantined = measure_quarantine(layout)[1]
        report.before = held.size + self._quarantined
        report.unread = held.unknown
        report.unmet = choice.unmet
        report.kept = choice.kept
        if dry_run:
            self._foretell(held, choice)
        else:
            self._remove(held, choice, protection)
        report.after = report.before - report.freed
        return report

    def _tick(self) -> None:
        self._steps += 1
        self._progress(min(self._steps, _FOLDERS), _FOLDERS)

    def _foretell(self, held: Inventory, choice: Choice) -> None:
        report = self._report
        report.tallies = choice.tallies
        report.add(DAMAGED, len(held.damaged), 0)
        if not held.blobs_stay:
            report.add(UNNAMED, held.loose_blobs, held.loose)
        report.add(DIRECTS, held.orphans, held.loose_directs)
        report.add(DIRECTS, len(dangling(self._layout)), 0)
        report.add(QUARANTINED, *weigh_expired(self._layout, self._quarantine_age(held)))
        report.results = len(held.keys) - len(choice.reasons)

    def _quarantine_age(self, held: Inventory) -> float:
        """Return the age in seconds from which on the quarantine goes: at once where room is wanted, before any result."""
        limits = self._limits
        if limits.selective:
            return QUARANTINE_AGE
        too_large = limits.size is not None and held.size + self._quarantined > limits.size
        too_full = limits.free is not None and free_space(self._layout)[0] < limits.free
        return 0.0 if limits.everything or too_large or too_full else QUARANTINE_AGE

    # -- removing ----------------------------------------------------------------------------------------------------

    def _remove(self, held: Inventory, choice: Choice, protection: Protection) -> None:
        report = self._report
        for key in held.damaged:
            status = settled(self._layout.result_path(key), self._horizon)
            if status is not None:
                discard(self._layout.result_path(key))
                report.add(DAMAGED, 1, size_of(status))
        gone = self._remove_results(held, choice)
        self._remove_directs(gone, held)
        self._remove_queued()
        self._remove_blobs(held)
        report.results = len(held.keys) - len(gone)
        report.add(TEMPORARY, *sweep(self._layout, every=0.0))
        report.add(CONTEXTS, collect_contexts(self._layout, protection), 0)
        report.add(QUARANTINED, *expire(self._layout, self._quarantine_age(held)))
        report_size = report.before - report.freed - measure_quarantine(self._layout)[1]
        note_measurement(self._layout, report_size, report.results, _UNMET_PAUSE if report.unmet else 0.0)

    def _remove_results(self, held: Inventory, choice: Choice) -> set[str]:
        gone: set[str] = set()
        queued = queued_keys(self._layout)
        for number, (place, reason) in enumerate(choice.reasons.items()):
            key = held.keys[place]
            if number % 1000 == 0:
                queued = queued_keys(self._layout)
            stays = self._limits.protected and (key in queued or is_pinned(self._layout, key))
            if stays or not self._remove_result(key):
                self._report.kept[IN_USE] = self._report.kept.get(IN_USE, 0) + 1
                continue
            gone.add(key)
            self._report.add(reason, 1, held.sizes[place] + self._forget_blobs(held, place))
        return gone

    def _remove_result(self, key: str) -> bool:
        path = self._layout.result_path(key)
        if settled(path, self._horizon) is None:
            return False
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _forget_blobs(held: Inventory, place: int) -> int:
        """Count one name less for each blob of a result; return the bytes of those that have none left."""
        freed = 0
        for blob in held.named[place]:
            held.blob_names[blob] -= 1
            freed += 0 if held.blob_names[blob] or held.blobs_stay else held.blob_sizes[blob]
        return freed

    def _remove_directs(self, gone: set[str], held: Inventory) -> None:
        """Remove direct entries that lead nowhere; those of results that went are counted with them."""
        present = set(held.keys) - gone
        for entry in entries_of(self._layout, "direct", []):
            key = key_of_direct(entry.path)
            status = settled(entry.path, self._horizon)
            if key in present or status is None:
                continue
            if not key and time.time() - status.st_mtime < _STALE:
                continue
            if key and self._layout.has_result(key):
                continue
            discard(entry.path)
            if key not in gone:
                self._report.add(DIRECTS, 1, size_of(status))

    def _remove_queued(self) -> None:
        """Take out of the queue what has no result any more."""
        for identity, entry in dangling(self._layout):
            status = settled(self._layout.queue_path(identity, entry.key), self._horizon)
            if status is not None and dequeue(self._layout, identity, entry):
                self._report.add(DIRECTS, 1, size_of(status))

    def _remove_blobs(self, held: Inventory) -> None:
        if held.blobs_stay:
            return
        for entry in entries_of(self._layout, "blobs", []):
            digest = digest_of(entry.name)
            if digest < 0:
                self._remove_stray(entry.path)
                continue
            place = held.place(digest)
            if place >= 0 and held.blob_names[place]:
                continue
            size = remove_blob(entry.path, self._horizon)
            if size is not None and place < 0:
                self._report.add(UNNAMED, 1, size)

    def _remove_stray(self, path: str) -> None:
        """Remove what a writer that died left among the blobs (layout.py copies there, if blobs/ is on another disk)."""
        status = settled(path, self._horizon)
        if status is not None and stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _STALE:
            discard(path)


def put_back_all(layout: Layout) -> None:
    """Put back what a collector had aside when it was killed: it may have been about to do so. Raises OSError."""
    for entry in entries_of(layout, "blobs", []):
        if entry.name.startswith(ASIDE):
            put_back(entry.path)
