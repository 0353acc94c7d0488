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
    from collections.abc import Callable, Iterable, Iterator

    from neuron_store.store.layout import Layout
    from neuron_store.store.registry.contexts import Context
    from neuron_store.store.registry.entries import Entry
    from neuron_store.store.remotes.base import Remote

    # Makes the entries of a context. Raises NotPublishable, or RemoteError where it cannot be told now.
    MakeEntries = Callable[[Context], list["Filed"]]
    # Called with a counter, the context's id, a detail, and 0: what is sent of an entry is not counted.
    Count = Callable[[str, str, str, int], None]

_CLOCK_TICK = 1.0  # seconds; what changes a folder within a tick of its file system's clock may not show in its mtime
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0  # seconds until a context that could not be published is tried again


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


class _Publication:
    """What one context is to be published as.

    Attributes:
        state: of the context when its entries were made.
    """

    __slots__ = ("context", "filed", "state", "watched")

    def __init__(self, context: "Context", watched: _Watched, state: str, filed: "list[Filed]") -> None:
        self.context = context
        self.watched = watched
        self.state = state
        self.filed = filed


class Registrar:
    """Publishes the contexts of one store. A context that cannot be published keeps no other from it."""

    def __init__(self, layout: "Layout", make_entries: "MakeEntries", count: "Count") -> None:
        self._layout = layout
        self._make_entries = make_entries
        self._count = count
        self._watched: dict[str, _Watched] = {}

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
        """Forget that contexts could not be published: a person asks for it."""
        for watched in self._watched.values():
            watched.not_before = 0.0

    def publish(
        self, remote: "Remote", go_on: "Callable[[], None] | None" = None, *, one_by_one: bool = False
    ) -> "list[str]":
        """Give the remote all that it lacks, as one change; return the paths of the entries that were made or added to.

        `go_on` is called before each context, and may raise. `one_by_one` makes a change of each context, so that what
        is wrong with one of them is its own fault. Raises RemoteRefused, RemoteUnavailable (RemoteConflict, if another
        host was faster: try again).
        """
        publications = list(self._prepare(remote, go_on or (lambda: None)))
        if not one_by_one:
            try:
                return self._publish(remote, publications)
            except (CorruptRemote, NotPublishable):
                pass
            except RemoteRefused:
                if remote.counts_commits:  # of a folder, one file may be another user's
                    raise
        changed = []
        for publication in publications:
            if go_on is not None:
                go_on()
            try:
                changed += self._publish(remote, [publication])
            except (RemoteError, NotPublishable) as error:
                self._note_fault(publication.context, publication.watched, error)
        return changed

    def _prepare(self, remote: "Remote", go_on: "Callable[[], None]") -> "Iterator[_Publication]":
        for context, watched in self._lacking(remote.identity):
            if not self._may_try(watched):
                continue
            go_on()
            watched.state = state = context.state()
            try:
                filed = self._make_entries(context)
                for one in filed:
                    one.paths()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one context, the others are published
                self._note_fault(context, watched, error)
            else:
                yield _Publication(context, watched, state, filed)

    def _note_fault(self, context: "Context", watched: _Watched, error: Exception) -> None:
        """Leave a context alone for a while; who looks for what keeps it finds the reason beside it."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(watched.failures, 30))
        watched.failures += 1
        watched.not_before = time.monotonic() + pause
        watched.fault = str(error) or type(error).__name__
        try:
            told = context.fault()
            context.write("fault", watched.fault.encode("utf-8", "replace"))
        except OSError:
            told = watched.fault
        if told != watched.fault and not isinstance(error, RemoteError):
            self._count("upload_entry_dropped", context.id, watched.fault, 0)

    def _publish(self, remote: "Remote", publications: "list[_Publication]") -> "list[str]":
        filed = [one for publication in publications for one in publication.filed]
        changed = self._amend(remote, filed) if filed else []
        names = {os.path.basename(path) for path in changed}
        for name in sorted(names):
            self._count("upload_entry_done", "", f"{remote.url}: {name}", 0)
        for publication in publications:
            if publication.filed and not names.intersection(f"{one.entry.name}.json" for one in publication.filed):
                self._count("upload_entry_present", publication.context.id, remote.url, 0)
            publication.context.note_published(remote.identity, publication.state)
            publication.context.write("fault", None)
            publication.watched.fault = ""
            publication.watched.failures = 0
        return changed

    def _amend(self, remote: "Remote", filed: "list[Filed]") -> "list[str]":
        entries: dict[str, Entry] = {}
        for one in filed:
            for path in one.paths():
                entries[path] = one.entry.merged_with(entries[path]) if path in entries else one.entry
        models = ", ".join(sorted({entry.model_id for entry in entries.values()}))
        count = len({entry.name for entry in entries.values()})
        message = f"Register {models}" if count == 1 else f"Register {count} entries of {models}"
        return remote.amend(
            list(entries), LARGEST_ENTRY, lambda path, content: _merge(entries[path], path, content), message[:200]
        )

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


def _merge(entry: "Entry", path: str, content: "bytes | None") -> bytes:
    """Return the file of an entry with what the remote has of it. Raises NotPublishable if nobody could read that."""
    place = Place(path)
    if content is not None:
        try:
            theirs = decode_entry(content, place)
        except CorruptRemote:
            pass  # ours takes its place
        else:
            if theirs.is_later:
                raise NotPublishable(f"{path} was written by a later neuron-store; update this one")
            entry = entry.merged_with(theirs)
    encoded = entry.encode(inside=not files_by_digest(place.release))
    if len(encoded) > LARGEST_ENTRY:
        raise NotPublishable(f"the entry of {entry.model_id} is full: it would be larger than {LARGEST_ENTRY} bytes")
    try:
        decode_entry(encoded, place)
    except CorruptRemote as error:
        raise NotPublishable(f"the entry of {entry.model_id} is full: {error}") from error
    return encoded


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
