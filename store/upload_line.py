"""What one remote lacks, and when it may be asked to take it."""

import os
import random
import time

from neuron_store.store.queue import Queued, queued, recover
from neuron_store.store.remotes.state import RemoteState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.store.layout import Layout
    from neuron_store.store.registry.registrar import Registrar
    from neuron_store.store.remotes.base import Remote

_HOUR = 3600.0  # seconds
_LONGEST_WAIT = 900.0  # seconds between attempts
_LONGEST_OBEYED = 3600.0  # seconds that a remote may ask us to wait
_ENTRY_AGES = 5  # times max_age after which an entry is published though keys keep coming
_RESCAN = 30.0  # seconds after which the queue is read though its folder looks the same
_CLOCK_TICK = 1.0  # seconds; what changes a folder within a tick of its file system's clock may not show in its mtime


class UploadPolicy:
    """When, how often and how much is uploaded.

    Attributes:
        quiet: seconds without a new result after which a batch is due.
        max_age: seconds after which a queued result is due though others keep coming; and without a new key, after
            which an entry of the registry is.
        commits_per_hour: to one remote, at most.
        retry: seconds before a failed batch is tried again, doubled each time.
        with_inputs: whether the inputs that are kept with a result are uploaded with it.
        hurry: whether all that is queued is due at once.
        most_results, most_bytes: of a batch; as many results make one due.
        attempts: failures in a row after which a foreground upload gives a remote up.
        poll: seconds between looks at the queue.
    """

    __slots__ = (
        "attempts",
        "commits_per_hour",
        "hurry",
        "max_age",
        "most_bytes",
        "most_results",
        "poll",
        "quiet",
        "retry",
        "with_inputs",
    )

    def __init__(
        self,
        *,
        quiet: float = 10.0,
        max_age: float = 120.0,
        commits_per_hour: int = 30,
        retry: float = 5.0,
        with_inputs: bool = False,
        hurry: bool = False,
        most_results: int = 100,
        most_bytes: int = 2 << 30,
        attempts: int = 5,
        poll: float = 0.2,
    ) -> None:
        self.quiet = quiet
        self.max_age = max_age
        self.commits_per_hour = commits_per_hour
        self.retry = retry
        self.with_inputs = with_inputs
        self.hurry = hurry
        self.most_results = most_results
        self.most_bytes = most_bytes
        self.attempts = attempts
        self.poll = poll


class UploadLine:
    """The queue of one remote.

    Attributes:
        remote: whose queue it is.
        state: what this host remembers of it.
        pending: what it lacks, as of the last `refresh`, the oldest first.
        noted: when contexts last noted what the remote's registry lacks (Unix seconds), None if it lacks nothing.
        failures, registry_failures: attempts at a batch, or at the registry, that failed since one succeeded.
        last_error: of these, in words.
    """

    def __init__(
        self, layout: "Layout", remote: "Remote", policy: UploadPolicy, registrar: "Registrar | None" = None
    ) -> None:
        self.remote = remote
        self.noted: float | None = None
        self.registry_failures = 0
        self._registry_not_before = 0.0
        self._registrar = registrar
        self._noted_since = 0.0
        self.state = RemoteState(layout, remote.identity, remote.url)
        self.pending: list[Queued] = []
        self.failures = 0
        self.last_error = ""
        self._layout = layout
        self._policy = policy
        self._not_before = 0.0
        self._seen: int | None = None
        self._scanned = 0.0

    def recover(self) -> None:
        """Mend what a killed uploader left."""
        recover(self._layout, self.remote.identity)

    @property
    def lacks(self) -> bool:
        """Whether the remote lacks anything, as of the last `refresh`."""
        return bool(self.pending) or self.noted is not None

    def refresh(self) -> None:
        """Look at the queue and the contexts again, if they have changed. Raises OSError."""
        self._refresh_queue()
        before = self.noted
        self.noted = self._registrar.changed(self.remote.identity) if self._registrar is not None else None
        if before is None:
            self._noted_since = time.monotonic()

    def _refresh_queue(self) -> None:
        try:
            changed = os.stat(self._layout.queue_path(self.remote.identity)).st_mtime_ns
        except FileNotFoundError:
            self.pending, self._seen = [], None
            return
        if changed != self._seen or time.monotonic() - self._scanned > _RESCAN:
            self._scanned = time.monotonic()
            settled = abs(time.time() - changed / 1e9) > _CLOCK_TICK
            self.pending = queued(self._layout, self.remote.identity)
            self._seen = changed if settled else None

    def refusal(self) -> str:
        """Return why the remote takes nothing from who we are now, "" if it may."""
        return self.state.refused(self.remote.credential)

    def is_due(self, *, hurried: bool, compiling: bool = False) -> bool:
        """Tell whether it is time to upload what is pending. While others are `compiling`, more is to come."""
        policy = self._policy
        if not self.lacks:
            return False
        if hurried or policy.hurry or len(self.pending) >= policy.most_results:
            return True
        now = time.time()
        if not self.pending:
            # An entry is a commit of its own, and grows by the key: it can wait for the last of them.
            quiet = not compiling and abs(now - (self.noted or 0.0)) >= policy.max_age
            return quiet or time.monotonic() - self._noted_since >= _ENTRY_AGES * policy.max_age
        # A clock that was set back must not make anyone wait for the time that was.
        quiet = not compiling and abs(now - self.pending[-1].at) >= policy.quiet
        return quiet or abs(now - self.pending[0].at) >= policy.max_age

    def wait_after_failure(self, *, registering: "bool | None" = None) -> float:
        """Return the seconds until the next attempt: at a batch if results are pending, else at the registry."""
        later = self.noted is not None and not self.pending if registering is None else registering
        return max(0.0, (self._registry_not_before if later else self._not_before) - time.monotonic())

    def wait_for_budget(self) -> float:
        """Return the seconds until the next commit is allowed."""
        commits = self.state.commits_in_hour()
        if not self.remote.counts_commits or len(commits) < self._policy.commits_per_hour:
            return 0.0
        return max(0.0, commits[-self._policy.commits_per_hour] + _HOUR - time.time())

    def note_success(self, *, registering: bool = False) -> None:
        """An attempt succeeded."""
        self.last_error = ""
        if registering:
            self.registry_failures, self._registry_not_before = 0, 0.0
        else:
            self.failures, self._not_before = 0, 0.0
        self.state.note_upload()

    def note_failure(self, error: Exception, *, registering: bool = False) -> None:
        """An attempt failed: the next one has to wait, at random up to twice as long as the last, so that hosts spread.

        What is wrong with the registry holds up no result.
        """
        failures = self.registry_failures if registering else self.failures
        longest = min(_LONGEST_WAIT, self._policy.retry * 2.0 ** min(failures, 60))
        wait = random.uniform(0.0, longest)  # noqa: S311 - jitter
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, int | float):
            wait = max(wait, min(float(asked), _LONGEST_OBEYED))
        if registering:
            self._registry_not_before = time.monotonic() + wait
            self.registry_failures += 1
        else:
            self._not_before = time.monotonic() + wait
            self.failures += 1
        self.last_error = str(error) or type(error).__name__
        self.state.note_error(error)

    def forget_failures(self) -> None:
        """Begin anew: a person asks for it."""
        self.failures = self.registry_failures = 0
        self._not_before = self._registry_not_before = 0.0
