"""Removing from a remote what a plan says, in commits of bounded size, while other hosts read it and upload to it.

Nobody is made to wait, and whoever is killed here leaves a remote that is as valid as before. Why:

- Entries of the registry go first, then records, then blobs: what is left of a run that was killed are results whose
  entry is gone, or blobs without a name. The next run takes both; it needs no notes of the first.
- A reader's way is record, blobs. A record that is gone is a plain miss. One whose blobs go between its two requests
  finds them missing, which is a miss like any other (`remote_corrupt`).
- A writer's way is blobs, records, in one commit. Each of our commits has the head that the plan was made for as its parent: if
  a record came meanwhile that names one of these blobs, the commit is refused (412), and what goes is planned anew.
- Blobs that nobody has named yet may be an upload's that is under way (in a folder, or by another program): those of
  the last day stay. Blobs whose records this run has removed are ours to remove.
- A writer that found a blob to be there already leaves it out of its commit. It looks again afterwards (uploader.py), so
  that one which we removed in between is sent after all.
- An answer may be lost, and a 500 may come after the commit has landed: then, too, the plan is made anew, from what is there.
- A folder has no head: there, what goes is planned once more between records and blobs.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from neuron_store.store.collection.limits import Limits, Tally
from neuron_store.store.collection.remote_inventory import Progress, RemoteInventory, RemoteReader, kind_of
from neuron_store.store.collection.remote_plan import Plan, add_loose, finish, make_plan, read_remote_protection, tally
from neuron_store.store.errors import RemoteConflict, RemoteError, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import Remote
from neuron_store.store.remotes.state import RemoteState

Made = TypeVar("Made")

MOST_IN_COMMIT = 300  # files; the Hub gives a commit a minute
_LONGEST_PAUSE = 60.0  # seconds
_LONGEST_OBEYED = 600.0  # seconds that a remote may make us wait at once


@dataclass
class RemoteReport:
    """What was removed.

    Attributes:
        tallies: reason -> results, or files for what is no result, and bytes.
        files: how many went, by their kind: "record", "blob", "entry".
        commits: how many that took.
        freed: bytes.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    freed: int = 0


@dataclass
class Patience:
    """How faults of a remote are sat out.

    Attributes:
        attempts: after how many faults in a row without progress it is given up.
        pause: seconds after the first fault, doubled each time.
        tell: called with what went wrong, and the seconds until the next attempt.
    """

    attempts: int = 8
    pause: float = 2.0
    tell: Callable[[str, float], None] = lambda message, seconds: None  # noqa: ARG005 - nobody listens

    def through(self, work: "Callable[[], Made]") -> "Made":
        """Return what `work` returns, after as many attempts as it takes. Raises RemoteUnavailable after too many."""
        failures = 0
        while True:
            try:
                return work()
            except RemoteUnavailable as error:
                failures += 1
                self.wait(error, failures)

    def wait(self, error: RemoteUnavailable, failures: int) -> None:
        """Wait after the latest of so many failures in a row. Raises it if that is one too many."""
        if failures >= self.attempts:
            raise error
        if isinstance(error, RemoteConflict):
            time.sleep(random.uniform(0.0, min(self.pause, 1.0)))  # noqa: S311 - jitter
            return
        pause = min(_LONGEST_PAUSE, self.pause * 2.0 ** (failures - 1)) * random.uniform(0.75, 1.25)  # noqa: S311
        pause = max(pause, min(error.retry_after or 0.0, _LONGEST_OBEYED))
        self.tell(str(error), pause)
        time.sleep(pause)


class RemoteCollector:
    """Plans what is to go from one remote, and removes it."""

    def __init__(
        self,
        remote: Remote,
        state: RemoteState,
        layout: Layout,
        reader: RemoteReader,
        limits: Limits,
        *,
        include_registered: bool = False,
        patience: "Patience | None" = None,
        progress: "Callable[[str], Progress] | None" = None,
    ) -> None:
        """Nothing is asked yet. `progress` makes, of what is being done, what is told how far it is."""
        self._remote = remote
        self._state = state
        self._layout = layout
        self._reader = reader
        self._limits = limits
        self._include_registered = include_registered
        self._patience = patience or Patience()
        self._progress = progress or (lambda doing: lambda done, total: None)  # noqa: ARG005 - nobody watches
        self._came: dict[tuple[str, str], float] = {}
        self._ours: dict[str, str] = {}  # blobs whose records this run has removed, and why those went
        self._attempted: list[str] = []  # what a commit was to remove of which we do not know whether it landed
        self.report = RemoteReport()

    def plan(self) -> Plan:
        """Look at the remote and choose. Raises RemoteUnavailable, RemoteRefused; OSError of the local store."""
        return self._patience.through(self._plan)

    def _plan_again(self, last: Plan) -> Plan:
        """Plan anew, and look only where something was to go, as long as nothing else is.

        Elsewhere other hosts may add as much as they like: what records name lies in their own folder.
        """
        touched = {path.partition("/")[0] for path in last.reasons}
        plan = self._patience.through(lambda: self._plan(touched))
        if {path.partition("/")[0] for path in plan.reasons} <= touched:
            return plan
        return self.plan()

    def _plan(self, only: "set[str] | None" = None) -> Plan:
        found = self._reader.look(self._progress("reading"), only)
        protection = read_remote_protection(
            self._layout, self._remote.identity, found, self._limits, include_registered=self._include_registered
        )
        plan = make_plan(found, self._limits, protection)
        add_loose(plan, self._dates_of(found), found, self._ours)
        finish(plan, found)
        return plan

    def _dates_of(self, found: RemoteInventory) -> dict[str, float]:
        """Return when blobs came that no record names."""
        ids = {path: (path, found.files[path].tag) for path in found.loose if path not in self._ours}
        unknown = [path for path, identity in ids.items() if identity not in self._came]
        for path, moment in (self._remote.came(unknown) if unknown else {}).items():
            self._came[ids[path]] = moment
        return {path: self._came[identity] for path, identity in ids.items() if identity in self._came}

    def run(self, plan: Plan) -> Plan:
        """Remove what `plan` says, planning anew as often as need be; return the last plan.

        What has gone is in `report`, also if it raises: RemoteRefused, or RemoteUnavailable once patience has ended.
        """
        failures = 0
        while plan.reasons:
            before = self.report.commits
            try:
                done = self._remove(plan)
            except RemoteUnavailable as error:
                failures = 1 if self.report.commits > before else failures + 1
                self._patience.wait(error, failures)
                done = False
            if done and plan.revision:
                break
            attempted, reasons, sizes = self._attempted, plan.reasons, plan.sizes
            plan = self._plan_again(plan)
            # What was removed although we were not told so.
            self._count([path for path in attempted if path not in plan.sizes], reasons, sizes)
            self._attempted = []
        return plan

    def _remove(self, plan: Plan) -> bool:
        """Remove what goes; return whether nothing is left to do. Of a folder, records and blobs go in two rounds."""
        going = list(plan.reasons)
        if not plan.revision and plan.of_kind("record"):
            going = [path for path in going if kind_of(path) != "blob"]
        progress = self._progress("removing")
        for start in range(0, len(going), MOST_IN_COMMIT):
            progress(start, len(going))
            batch = going[start : start + MOST_IN_COMMIT]
            if any(kind_of(path) == "record" for path in batch):
                self._ours.update({path: plan.reasons[path] for path in plan.of_kind("blob")})
            self._commit(plan, batch)
        return len(going) == len(plan.reasons)

    def _commit(self, plan: Plan, batch: list[str]) -> None:
        self._attempted = batch
        if self._remote.counts_commits:
            self._state.note_commit()
        try:
            plan.revision = self._remote.remove(batch, _message(batch), plan.revision)
        except RemoteError as error:
            if self._remote.counts_commits and not _may_have_landed(error):
                self._state.take_back_commit()
            raise
        self._attempted = []
        self.report.commits += 1
        self._count(batch, plan.reasons, plan.sizes)

    def _count(self, gone: list[str], reasons: dict[str, str], sizes: dict[str, int]) -> None:
        report = self.report
        for reason, more in tally(gone, reasons, sizes).items():
            counted = report.tallies.setdefault(reason, Tally())
            counted.results += more.results
            counted.bytes += more.bytes
        for path in gone:
            report.files[kind_of(path)] = report.files.get(kind_of(path), 0) + 1
            report.freed += sizes[path]


def _may_have_landed(error: RemoteError) -> bool:
    return isinstance(error, RemoteUnavailable) and not isinstance(error, RemoteConflict)


def _message(batch: list[str]) -> str:
    kinds = [kind_of(path) for path in batch]
    parts = []
    for kind, word, words in (
        ("record", "result", "results"),
        ("blob", "blob", "blobs"),
        ("entry", "entry", "entries"),
    ):
        if count := kinds.count(kind):
            parts.append(f"{count} {word if count == 1 else words}")
    folders = sorted({path.partition("/")[0] for path in batch})
    of = folders[0] if len(folders) == 1 else f"{len(folders)} compiler versions"
    return f"Remove {', '.join(parts)} of {of}"
