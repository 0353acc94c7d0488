"""Publishing: what contexts have noted becomes entries in the registries of remotes, and no host's keys are lost.

An entry is read, merged and written back as one change (`Remote.amend`). A context that a remote has is remembered by
a word for its state, so that only what is new is published.
"""

import os
import time

from neuron_store.store.errors import CorruptRemote, NeuronStoreError, RemoteError, RemoteRefused
from neuron_store.store.registry.contexts import all_contexts
from neuron_store.store.registry.entries import LARGEST_ENTRY, decode_entry
from neuron_store.store.registry.places import Place, entry_paths, files_by_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neuron_store.store.layout import Layout
    from neuron_store.store.registry.contexts import Context
    from neuron_store.store.registry.entries import Entry
    from neuron_store.store.remotes.base import Remote

    # Makes the entries of a context. Raises NotPublishable, or RemoteError where it cannot be told now.
    MakeEntries = Callable[[Context], list["Filed"]]
    # Called with a counter, the context's id, and a detail.
    Count = Callable[[str, str, str], None]

_CLOCK_TICK = 1.0  # seconds; what changes a folder within a tick of its file system's clock may not show in its mtime
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 900.0  # seconds until it is asked again what a model is


class NotPublishable(NeuronStoreError):  # noqa: N818 - an answer, not an error
    """A context makes no entry: its model cannot be read, or what it says cannot be."""


class Filed:
    """An entry, and where it is to be filed.

    Attributes:
        compiler: the compiler's version.
        release: of optimum-neuron, whose layout it is filed in.
        digests: of the architecture.
    """

    __slots__ = ("compiler", "digests", "entry", "release")

    def __init__(self, entry: "Entry", compiler: str, release: str, digests: "Iterable[str]") -> None:
        self.entry = entry
        self.compiler = compiler
        self.release = release
        self.digests = list(digests)

    def paths(self) -> "list[str]":
        """Return every path at which it is filed. Raises ValueError if one of them is none."""
        entry = self.entry
        return entry_paths(self.compiler, self.release, entry.model_type, entry.model_id, entry.name, self.digests)


class _Watched:
    """One context, as the registrar remembers it between two looks."""

    __slots__ = ("changed", "failures", "fault", "not_before", "seen", "state")

    def __init__(self) -> None:
        self.seen: tuple[int, int] | None = None
        self.state = ""
        self.changed = 0.0
        self.fault = ""
        self.failures = 0
        self.not_before = 0.0


class Registrar:
    """Publishes the contexts of one store.

    Attributes:
        published: how many entries were added to, or made, since the registrar began.
    """

    def __init__(self, layout: "Layout", make_entries: "MakeEntries", count: "Count") -> None:
        self._layout = layout
        self._make_entries = make_entries
        self._count = count
        self._watched: dict[str, _Watched] = {}
        self.published = 0

    def changed(self, identity: str) -> "float | None":
        """Return when something was last noted (Unix seconds) that the remote `identity` lacks, None if nothing was."""
        return max((watched.changed for _, watched in self._lacking(identity) if self._may_try(watched)), default=None)

    def waiting(self, identity: str) -> int:
        """Return how many contexts the remote lacks, in whole or in part."""
        return len(self._lacking(identity))

    def faults(self) -> "list[str]":
        """Return why contexts cannot be published now, in words."""
        return sorted({watched.fault for watched in self._watched.values() if watched.fault})

    def ask_again(self) -> None:
        """Forget that models could not be found out about: a person asks for it."""
        for watched in self._watched.values():
            watched.not_before = 0.0

    def publish(self, remote: "Remote") -> "list[str]":
        """Give the remote all that it lacks, as one change; return the paths of the entries that were made or added to.

        Raises RemoteRefused, RemoteUnavailable (RemoteConflict, if another host was faster: try again).
        """
        filed: list[Filed] = []
        done: list[tuple[Context, str]] = []
        for context, watched in self._lacking(remote.identity):
            if not self._may_try(watched):
                continue
            state = context.state()
            try:
                filed += self._file(context, watched)
            except NotPublishable as error:
                self._count("upload_entry_dropped", context.id, f"{remote.url}: {error}")
            except RemoteError:
                continue
            done.append((context, state))
        changed = self._amend(remote, filed) if filed else []
        for context, state in done:
            context.note_published(remote.identity, state)
        for path in {os.path.basename(path): path for path in changed}.values():
            self._count("upload_entry_done", "", f"{remote.url}: {path}")
            self.published += 1
        return changed

    def _file(self, context: "Context", watched: _Watched) -> "list[Filed]":
        try:
            filed = self._make_entries(context)
            for one in filed:
                one.paths()
        except ValueError as error:
            raise NotPublishable(str(error)) from error
        except RemoteError as error:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(watched.failures, 30))
            watched.failures += 1
            watched.not_before = time.monotonic() + pause
            watched.fault = str(error)
            context.write("fault", str(error).encode())
            raise
        watched.fault = ""
        context.write("fault", None)
        return filed

    def _amend(self, remote: "Remote", filed: "list[Filed]") -> "list[str]":
        entries: dict[str, Entry] = {}
        for one in filed:
            for path in one.paths():
                entries[path] = one.entry.merged_with(entries[path]) if path in entries else one.entry

        def merge(path: str, content: "bytes | None") -> "bytes | None":
            entry = entries[path]
            if content is not None:
                try:
                    entry = entry.merged_with(decode_entry(content, Place(path)))
                except CorruptRemote:
                    pass  # ours takes its place
            encoded = entry.encode(inside=not files_by_digest(Place(path).release))
            return encoded if len(encoded) <= LARGEST_ENTRY else None

        models = ", ".join(sorted({entry.model_id for entry in entries.values()}))
        count = len({entry.name for entry in entries.values()})
        message = f"Register {models}" if count == 1 else f"Register {count} entries of {models}"
        try:
            return remote.amend(list(entries), LARGEST_ENTRY, merge, message[:200])
        except CorruptRemote as error:  # larger than an entry may be: nothing of ours, and nothing that we can add to
            raise RemoteRefused(f"{error}; remove it") from error

    # -- what is lacking -------------------------------------------------------------------------------------------

    def _may_try(self, watched: _Watched) -> bool:
        return time.monotonic() >= watched.not_before

    def _lacking(self, identity: str) -> "list[tuple[Context, _Watched]]":
        found = []
        for context in all_contexts(self._layout):
            watched = self._watched.setdefault(context.id, _Watched())
            self._look(context, watched)
            if not context.is_published(identity, watched.state):
                found.append((context, watched))
        return found

    def _look(self, context: "Context", watched: _Watched) -> None:
        """Look at a context again, if its folders have changed since."""
        times = (_mtime(context.path("keys")), _mtime(context.path("uncached")))
        if times == watched.seen:
            return
        watched.changed = max(times) / 1e9
        watched.state = context.state()
        settled = abs(time.time() - watched.changed) > _CLOCK_TICK
        watched.seen = times if settled else None


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
