"""What `neuron-store pull MODEL` fetches: every key of the entries that fit, and what is left to compile after it."""

import contextlib
import functools
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.entry_filters import EntryFilter
from neuron_store.cli.entry_listing import nothing_found, remarks_of
from neuron_store.cli.entry_search import EntrySearch, Found
from neuron_store.cli.entry_state import EntryState, Holders, find_holders
from neuron_store.cli.fetching import Fetched, Wanted
from neuron_store.cli.finding import Search
from neuron_store.cli.installed_compiler import installed_version
from neuron_store.cli.models import resolve_model
from neuron_store.cli.remotes import Opened
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import NotFound
from neuron_store.store.layout import Layout
from neuron_store.store.registry.contexts import note_pulled


class ModelPull:
    """A model's entries, and what of their keys is where.

    Attributes:
        search: which of the keys are to be fetched, and from where.
    """

    def __init__(self, layout: Layout, settings: Settings, remotes: list[Opened]) -> None:
        self.search = Search(layout, remotes)
        self._layout = layout
        self._settings = settings
        self._remotes = remotes
        self._model_id = ""
        self._entries: list[Found] = []
        self._holders = Holders()

    def find(self, word: str, wanted: EntryFilter) -> None:
        """Find the keys of all entries that fit.

        Raises NotFound where no entry tells keys, and whatever there is to be said of the model.
        """
        installed = installed_version()
        model = resolve_model(word, str(wanted.asked.get("task", "")))
        entries = EntrySearch(self._settings, self._remotes, model, wanted)
        entries.run(installed)
        for remark in remarks_of(entries, model):
            presentation.remark(remark)
        if not entries.found:
            raise NotFound(nothing_found(entries, model, wanted, installed))
        self._model_id = model.model_id
        telling = [found for found in entries.found if found.entry.keys]
        # The keys of a fine-tune are those of its base only as long as both make the same graphs: one's own come first.
        self._entries = [found for found in telling if found.entry.model_id == model.model_id] or telling
        others = len(telling) - len(self._entries)
        if others:
            left = presentation.plural(others, "entry", "entries")
            presentation.remark(f"left out {left} of other models of the same architecture; pull these by their names")
        if not self._entries:
            raise NotFound(
                f"the entries for {model.model_id} in {', '.join(entries.searched)} are optimum-neuron's, which do not "
                "tell the keys that they need; `neuron-store run -m` makes entries that do"
            )
        self._holders = find_holders(self._layout, self._remotes, self._entries, all_known=False)
        self._fill(entries)

    def _fill(self, entries: EntrySearch) -> None:
        search, holders = self.search, self._holders
        search.present = len(holders.here)
        search.wanted = {
            key: Wanted(key, sources) for key, sources in holders.sources.items() if key not in holders.here
        }
        search.missing = [key for key in holders.asked if key not in holders.here and key not in holders.sources]
        giving = {sources[0][0] for sources in holders.sources.values()}
        search.searched = [self._remotes[place].remote.url for place in sorted(giving)] or entries.searched
        search.faults = list(dict.fromkeys([*entries.faults, *holders.faults]))

    def _state(self, fetched: Fetched) -> EntryState:
        """Return the state of all entries as one, in the local store alone."""
        came = self.search.wanted.keys() - fetched.corrupt.keys() - fetched.failed.keys()
        first = self._entries[0]
        entry = functools.reduce(lambda one, other: one.merged_with(other), [found.entry for found in self._entries])
        here = Holders(here=self._holders.here | came, asked=self._holders.asked)
        return EntryState(Found(entry, first.place, []), here, self._model_id)

    def note(self, fetched: Fetched) -> None:
        """Note which results here are the model's, so that they are pinned, weighed and collected as such."""
        if not self._settings.read_only:
            with contextlib.suppress(OSError):  # they are here all the same
                note_pulled(self._layout, self._model_id, self._state(fetched).here)

    def sentence(self, fetched: Fetched) -> str:
        """Say what a run of the model would still compile, now that `fetched` has come."""
        compilers = ", ".join(dict.fromkeys(found.place.compiler for found in self._entries))
        outlook = self._state(fetched).sentence()
        return presentation.printable(f"{self._model_id} with neuronx-cc {compilers}: {outlook}")

    def as_dict(self, fetched: Fetched) -> dict[str, Any]:
        """Return the same, JSON-ready."""
        state = self._state(fetched)
        return {
            "model_id": self._model_id,
            "entries": [found.place.path for found in self._entries],
            "keys": state.as_dict(),
            "complete": state.is_complete if state.known else None,
        }
