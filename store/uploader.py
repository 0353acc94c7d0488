"""The uploader: drains the queues of all remotes that we may write to, one process at a time on a host.

Nothing is kept in memory that matters. A result leaves the queue only when the remote has it, and before every
attempt the remote is asked what it has: so a lost answer, a kill at any moment, or another host that was faster cost
a look, and nothing is lost or sent twice.
"""

import os
import random
import time

from neuron_store.store.errors import RemoteConflict, RemoteRefused
from neuron_store.store.locks import compiles_under_way
from neuron_store.store.queue import calm_down, dequeue, enqueue, hurry, is_hurried, queue_length
from neuron_store.store.registry.contexts import all_is_published
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.upload_batch import Batch, load_batch
from neuron_store.store.upload_line import UploadLine, UploadPolicy
from neuron_store.store.upload_lock import FOREGROUND, UPLOADER, UploadLock, is_taken

__all__ = ["Summary", "UploadPolicy", "Uploader"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neuron_store.store.layout import Layout
    from neuron_store.store.queue import Queued, enqueue
    from neuron_store.store.registry.registrar import Registrar
    from neuron_store.store.remotes.base import Remote

    # Called with an outcome (upload_done, upload_present, upload_dropped, upload_failed, upload_refused), the key that
    # it is about ("" for a whole batch), a detail (the remote, and a reason), and the bytes that were sent.
    Count = Callable[[str, str, str, int], None]
    Log = Callable[[str], None]
    # Called with the bytes and files that are to be sent as far as is known, and those that have arrived since.
    DrainProgress = Callable[[int, int, int, int], None]


_RACES = 5  # with other hosts, until losing them counts as a failure
_RACE_PAUSE = 0.5  # seconds at most
_JOINT_FAILURES = 2  # after which contexts are published one by one


class Summary:
    """What a foreground upload did.

    Attributes:
        uploaded, present, dropped: results: sent; there already; gone or not to be shared.
        left: results that are still queued, counted once for each remote.
        entries: of the registry, made or added to.
        entries_left: contexts that a remote still lacks, counted once for each remote.
        refused, failed: the last reason in words why some are left, "" if there is none.
        bytes: that were sent.
    """

    __slots__ = ("bytes", "dropped", "entries", "entries_left", "failed", "left", "present", "refused", "uploaded")

    def __init__(self) -> None:
        self.uploaded = self.present = self.dropped = self.left = self.bytes = 0
        self.entries = self.entries_left = 0
        self.refused = self.failed = ""


class _Stopped(BaseException):
    """It is time to end. No error: nobody on the way may take it for one."""


class Uploader:
    """Uploads what `remotes` lack."""

    def __init__(
        self,
        layout: "Layout",
        remotes: "Iterable[Remote]",
        policy: UploadPolicy,
        *,
        names: "PrivateNames | None" = None,
        registrar: "Registrar | None" = None,
        count: "Count | None" = None,
        log: "Log | None" = None,
    ) -> None:
        """`names` are taken out of what is uploaded: by default, this host's and user's.

        `registrar` publishes what contexts have noted; None: nobody does.
        """
        self._layout = layout
        self._policy = policy
        self._registrar = registrar
        self._lines = [UploadLine(layout, remote, policy, registrar) for remote in remotes if remote.writable]
        self._names = names or PrivateNames.of_host(os.environ)
        self._count: Count = count or (lambda outcome, key, detail, size: None)  # noqa: ARG005 - nobody wants to know
        self._log: Log = log or (lambda text: None)  # noqa: ARG005 - nobody wants to know
        self._lock = UploadLock(layout, UPLOADER)
        self._stopping = False
        self._deadline: float | None = None
        self._summary = Summary()
        self._progress: DrainProgress | None = None
        self._announced = [0, 0]  # bytes and files that arrived before the batch at hand

    def stop(self) -> None:
        """End soon: after the files that are on their way now, or at once if there are none. For signal handlers.

        A process that is killed instead loses nothing but these.
        """
        self._stopping = True

    # -- in the background -------------------------------------------------------------------------------------------

    def run(self, idle_seconds: float) -> None:
        """Upload what is due, until nothing has been queued for `idle_seconds`.

        Returns at once if another uploader runs on this host. Raises OSError if the store cannot be used.
        """
        try:
            while not self._stopping and self._lock.try_take():
                try:
                    self._recover()
                    done = self._work(idle_seconds)
                finally:
                    self._lock.release()
                # Whoever queued a result while the lock was held has left it to us.
                if done and not self._waiting_lines():
                    return
                if not done:
                    self._let_foreground_pass()
        except _Stopped:
            return

    def _work(self, idle_seconds: float) -> bool:
        """Upload, until there is nothing to do (True) or a foreground upload wants to (False)."""
        idle_since = time.monotonic()
        while True:
            self._go_on()
            if is_taken(self._layout, FOREGROUND):
                return False
            waiting = self._waiting_lines()
            if waiting:
                idle_since = time.monotonic()
                hurried, compiling = is_hurried(self._layout), compiles_under_way(self._layout)
                due = [
                    line
                    for line in waiting
                    if line.is_due(hurried=hurried, compiling=compiling) and self._may_try(line)
                ]
                for line in due:
                    self._attempt(line)
                if due:
                    continue
            else:
                calm_down(self._layout)
                self._forget_published()
                if time.monotonic() - idle_since >= idle_seconds:
                    return True
            time.sleep(self._policy.poll)

    def _waiting_lines(self) -> "list[UploadLine]":
        """Return the lines that hold something, and whose remotes may take it."""
        for line in self._lines:
            line.refresh()
        return [line for line in self._lines if line.lacks and not line.refusal()]

    def _may_try(self, line: UploadLine) -> bool:
        return not line.wait_after_failure() and not line.wait_for_budget()

    def _let_foreground_pass(self) -> None:
        while is_taken(self._layout, FOREGROUND):
            self._go_on()
            time.sleep(self._policy.poll)

    def _recover(self) -> None:
        for line in self._lines:
            line.recover()

    def _go_on(self) -> None:
        if self._stopping or (self._deadline is not None and time.monotonic() >= self._deadline):
            raise _Stopped

    # -- in the foreground -------------------------------------------------------------------------------------------

    def drain(self, deadline_seconds: "float | None" = None, progress: "DrainProgress | None" = None) -> Summary:
        """Upload all that is queued now, and say what became of it.

        A background uploader is asked to make room. No batch is begun after `deadline_seconds`. A remote that fails
        `policy.attempts` times in a row is given up, and so is one whose commits of this hour are spent. Raises
        OSError if the store cannot be used.
        """
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self._progress = progress
        self._summary = Summary()
        self._announced = [0, 0]
        foreground = UploadLock(self._layout, FOREGROUND)
        try:
            hurry(self._layout)
            if foreground.take(self._deadline) and self._lock.take(self._deadline):
                self._recover()
                self._drain_lines()
            else:
                self._summary.failed = "another upload of this host's took too long"
        except _Stopped:
            errors = [f"{line.remote.url}: {line.last_error}" for line in self._lines if line.last_error]
            self._summary.failed = "; ".join(["there was no time left", *errors])
        finally:
            self._lock.release()
            foreground.release()
            self._deadline = self._progress = None
        return self._sum_up()

    def _sum_up(self) -> Summary:
        made = self._summary
        made.left = sum(queue_length(self._layout, line.remote.identity) for line in self._lines)
        if self._registrar is not None:
            made.entries_left = sum(self._registrar.waiting(line.remote.identity) for line in self._lines)
            made.failed = made.failed or "; ".join(self._registrar.faults())
            if not made.entries_left:
                all_is_published(self._layout)
        if not made.left and not made.entries_left:
            calm_down(self._layout)
            made.failed = ""
        return made

    def _drain_lines(self) -> None:
        open_lines = list(self._lines)
        for line in open_lines:
            line.forget_failures()
        if self._registrar is not None:
            self._registrar.ask_again()
        while open_lines:
            self._go_on()
            waits = []
            for line in list(open_lines):
                line.refresh()
                if not line.lacks or self._is_hopeless(line):
                    open_lines.remove(line)
                elif line.wait_after_failure():
                    waits.append(line.wait_after_failure())
                else:
                    self._attempt(line)
            if open_lines and len(waits) == len(open_lines):
                time.sleep(min(self._policy.poll, *waits))

    def _is_hopeless(self, line: UploadLine) -> bool:
        """Tell, and note in the summary, why a remote will not take what is left now."""
        url = line.remote.url
        if refusal := line.refusal():
            self._summary.refused = f"{url}: {refusal}"
        elif (line.failures if line.pending else line.registry_failures) >= self._policy.attempts:
            self._summary.failed = f"{url}: {line.last_error}"
        elif wait := line.wait_for_budget():
            self._summary.failed = (
                f"{url}: this host has made the {self._policy.commits_per_hour} commits that it may make in an hour; "
                f"the next in {wait / 60:.0f} minutes"
            )
        else:
            return False
        return True

    # -- a batch -----------------------------------------------------------------------------------------------------

    def _attempt(self, line: UploadLine) -> None:
        """Upload one batch; what goes wrong is noted, for a later attempt."""
        registering = False
        try:
            # Results first: an entry tells which keys are there.
            if line.pending:
                self._upload(line)
            else:
                registering = True
                self._publish(line)
        except RemoteRefused as error:
            self._note_refusal(line, error)
        except Exception as error:  # noqa: BLE001 - nobody watches; whatever it is, the queue is kept and tried again
            line.note_failure(error, registering=registering)
            wait = line.wait_after_failure(registering=registering)
            self._log(f"upload to {line.remote.url} failed ({line.last_error}); the next attempt is in {wait:.0f} s")
            self._count("upload_failed", "", f"{line.remote.url}: {line.last_error}", 0)
        else:
            line.note_success(registering=registering)

    def _note_refusal(self, line: UploadLine, error: RemoteRefused) -> None:
        url = line.remote.url
        if line.state.note_refusal(error, line.remote.credential):
            self._log(f"{url} takes no results from us, which stay queued: {error}")
        line.note_failure(error)  # should the refusal not be remembered, a full disk say, there is at least a pause
        self._summary.refused = f"{url}: {error}"
        self._count("upload_refused", "", self._summary.refused, 0)

    def _upload(self, line: UploadLine) -> None:
        policy = self._policy
        batch = load_batch(
            self._layout,
            line.pending,
            self._names,
            with_inputs=policy.with_inputs,
            most_results=policy.most_results,
            most_bytes=policy.most_bytes,
            go_on=self._go_on,
        )
        for entry, reason in batch.dropped:
            self._take_out(line, entry, "upload_dropped", reason)
            self._summary.dropped += 1
        if batch.members:
            batch.compare(line.remote)
        for entry in batch.present:
            self._take_out(line, entry, "upload_present", "")
            self._summary.present += 1
        if batch.sending:
            self._send(line, batch)
        if batch.fault is not None:
            raise batch.fault

    def _publish(self, line: UploadLine) -> None:
        if self._registrar is None:
            return
        line.state.note_commit()
        changed: list[str] = []
        try:
            changed = self._publish_patiently(self._registrar, line)
        finally:
            if not changed:
                line.state.take_back_commit()
        self._summary.entries += len({os.path.basename(path) for path in changed})

    def _publish_patiently(self, registrar: "Registrar", line: UploadLine) -> "list[str]":
        """Publish; whoever loses a race looks at once at what is there now."""
        for _ in range(_RACES):
            try:
                return registrar.publish(line.remote, self._go_on, one_by_one=line.registry_failures >= _JOINT_FAILURES)
            except RemoteConflict:
                time.sleep(random.uniform(0.0, _RACE_PAUSE))  # noqa: S311 - jitter
        return registrar.publish(line.remote, self._go_on)

    def _forget_published(self) -> None:
        if self._registrar is not None and not any(
            self._registrar.waiting(line.remote.identity) for line in self._lines
        ):
            all_is_published(self._layout)

    def _send(self, line: UploadLine, batch: Batch) -> None:
        bytes_before, files_before = self._announced
        self._tell(bytes_before + batch.size, files_before + len(batch.additions), 0, 0)

        def arrived(size: int, files: int) -> None:
            self._announced[0] += size
            self._announced[1] += files
            self._tell(bytes_before + batch.size, files_before + len(batch.additions), size, files)
            self._go_on()

        line.state.note_commit()
        try:
            line.remote.add(batch.additions, batch.message, arrived)
        except RemoteRefused:
            line.state.take_back_commit()
            raise
        robbed = batch.robbed(line.remote)
        for member in robbed:  # to be sent once more, with all that it names
            enqueue(self._layout, line.remote.identity, member.entry.key, replace=True)
        size = batch.size
        for member in batch.sending:
            if member not in robbed:
                self._take_out(line, member.entry, "upload_done", "", size)
                size = 0  # what was sent is the batch's as a whole: results share blobs
                self._summary.uploaded += 1
        self._summary.bytes += batch.size

    def _tell(self, *numbers: int) -> None:
        if self._progress is not None:
            self._progress(*numbers)

    def _take_out(self, line: UploadLine, entry: "Queued", outcome: str, reason: str, size: int = 0) -> None:
        dequeue(self._layout, line.remote.identity, entry)
        self._count(outcome, entry.key, f"{line.remote.url}: {reason}" if reason else line.remote.url, size)
