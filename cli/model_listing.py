"""`neuron-store list -m MODEL`: which models the registry of a remote knows, by compiler version.

Paths tell models and how many entries they have; only a few hundred entries are read, which tell keys and sizes.
"""

import difflib
import os
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.entry_listing import corrupt_words
from neuron_store.cli.entry_reading import read_entries
from neuron_store.cli.entry_search import newest_first, place_of
from neuron_store.cli.remotes import Opened, in_threads
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import NotFound
from neuron_store.store.registry.entries import Entry, KeyInfo
from neuron_store.store.registry.places import Place, local_id, registry_folder
from neuron_store.store.remotes.base import Remote, versions_of

_MOST_READ = 200
_MOST_NAMED = 5


@dataclass
class ModelRow:
    """A model and a compiler's version.

    Attributes:
        types: of the model.
        releases: of optimum-neuron that made entries, the newest first.
        places: of its entries: name -> place.
        entries: those of them that were read.
    """

    model_id: str
    compiler: str
    types: set[str] = field(default_factory=set)
    releases: set[str] = field(default_factory=set)
    places: dict[str, Place] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @property
    def keys(self) -> "dict[str, KeyInfo] | None":
        """The keys that its entries tell, None if none of them tells any."""
        told = [entry.keys for entry in self.entries if entry.ours]
        return {key: info for keys in told for key, info in keys.items()} if told else None

    @property
    def size(self) -> "int | None":
        """Bytes of all that its keys stand for, as far as that is known; None if nothing is."""
        sizes = [info.size for info in (self.keys or {}).values() if info.size is not None]
        return sum(sizes) if sizes else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        keys = self.keys
        return {
            "model_id": self.model_id,
            "model_types": sorted(self.types),
            "compiler": self.compiler,
            "entries": len(self.places),
            "keys": None if keys is None else len(keys),
            "bytes": self.size,
            "optimum_neuron": newest_first(self.releases),
        }


@dataclass
class Listing:
    """Models that were found.

    Attributes:
        url: of the remote.
        known: the models that paths name.
        rows: what is to be shown; `by_part` if only parts of names are what was asked for.
        unread: how many entries are filed under no model's name, and were not read; None if all entries were read.
        corrupt: path -> why that entry cannot be believed.
    """

    url: str
    known: list[str]
    rows: list[ModelRow] = field(default_factory=list)
    by_part: bool = False
    unread: int | None = None
    corrupt: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        models = [row.as_dict() for row in self.rows]
        return {"remote": self.url, "models": models, "entries_read": self.unread is None, "corrupt": self.corrupt}

    def remarks(self, word: str) -> list[str]:
        """Return what is to be said besides."""
        said = []
        if self.by_part and self.rows:
            count = presentation.plural(len({row.model_id for row in self.rows}), "model has", "models have")
            said.append(f"no model is called {word}; {count} that in the name")
        if self.unread is not None:
            said.append(f"more than {_MOST_READ} entries: none was read, so their keys and sizes are not told")
        if self.unread:
            entries = presentation.plural(self.unread, "entry is", "entries are")
            said.append(f"{entries} not counted, which no path tells the model of")
        if self.corrupt:
            said.append(corrupt_words(self.corrupt))
        return said


def count_registry(remote: Remote, version: str) -> tuple[int, int]:
    """Return how many models, and how many entries, the registry has for a compiler's version."""
    places = _listed(remote, version)
    models = {place.model_id for place in places if place.model_id}
    return len(models), len({place.name for place in places})


def list_models(opened: Opened, settings: Settings, word: str, version: str, *, as_json: bool) -> None:
    """Print the models of a remote's registry: those called `word`, or that have it in their names; "" for all.

    Raises NotFound if there is no registry, no such compiler version or no such model.
    """
    listing = _find(opened, settings, word, version)
    if as_json:
        presentation.print_json(listing.as_dict())
    elif listing.rows:
        presentation.print_table(_table(listing.rows))
    for remark in listing.remarks(word):
        presentation.remark(presentation.printable(remark))
    if word and not listing.rows:
        raise NotFound(_unknown(opened.remote.url, word, listing.known))


def _find(opened: Opened, settings: Settings, word: str, version: str) -> Listing:
    places = _places(opened.remote, version)
    listing = Listing(opened.remote.url, sorted({place.model_id for place in places if place.model_id}))
    fitting, listing.by_part = _fitting(listing.known, word)
    unnamed = _unnamed(places, fitting if word else set())
    rows = _rows([place for place in places if place.model_id in fitting])
    if sum(len(row.places) for row in rows) + len(unnamed) <= _MOST_READ:
        rows = _read(opened, settings, rows, unnamed, listing.corrupt)
        fitting, listing.by_part = _fitting(sorted({row.model_id for row in rows}), word)
    else:
        listing.unread = len(unnamed)
    order = newest_first({place.compiler for place in places})
    listing.rows = sorted(
        (row for row in rows if row.model_id in fitting), key=lambda row: (row.model_id, order.index(row.compiler))
    )
    return listing


def _unnamed(places: list[Place], fitting: set[str]) -> list[Place]:
    """Return the entries that lie under a digest alone, and tell their model only when they are read.

    All entries of a model lie with the one that bears its name: where models are `fitting`, only beside those.
    """
    names = {place.name for place in places if place.model_id}
    theirs = {place.name for place in places if place.model_id in fitting}
    digests = {place.digest for place in places if place.name in theirs}
    return [
        place
        for place in places
        if place.digest and place.name not in names and (place.digest in digests or not fitting)
    ]


def _places(remote: Remote, version: str) -> list[Place]:
    """Return the places of all entries for the compiler versions that start with `version`. Raises NotFound."""
    versions = versions_of(remote.folders())
    fitting = [name for name in versions if name.startswith(version)]
    if version and not fitting:
        known = ", ".join(versions) or "none at all"
        raise NotFound(f"{remote.url} has no compiler version that starts with {version}; it has {known}")
    places = [place for found in in_threads(lambda name: _listed(remote, name), fitting) for place in found]
    if not places:
        where = f" for neuronx-cc {version}" if version else ""
        raise NotFound(f"{remote.url} has no registry{where}; `neuron-store run -m MODEL -- …` makes one")
    return places


def _listed(remote: Remote, version: str) -> list[Place]:
    return [place for file in remote.walk(registry_folder(version)) if (place := place_of(file.path))]


def _fitting(known: list[str], word: str) -> tuple[set[str], bool]:
    """Return which models are meant, and whether by a part of their names."""
    if not word:
        return set(known), False
    if word not in known and os.path.exists(word):
        word = local_id(os.path.basename(os.path.abspath(word)))
    whole = {name for name in known if name.lower() == word.lower()}
    if whole:
        return whole, False
    return {name for name in known if word.lower() in name.lower()}, True


def _unknown(url: str, word: str, known: list[str]) -> str:
    if word in known:
        return presentation.printable(f"no entry for {word} in {url} can be believed")
    names = {name.lower(): name for name in known}
    names |= {name.lower().rpartition("/")[2]: name for name in known}
    close = dict.fromkeys(
        names[each]
        for asked in (word.lower(), word.lower().rpartition("/")[2])
        for each in difflib.get_close_matches(asked, list(names), _MOST_NAMED, 0.5)
    )
    near = f"; close to it: {', '.join(list(close)[:_MOST_NAMED])}" if close else ""
    models = presentation.plural(len(known), "model")
    return presentation.printable(f"the registry of {url} has no model {word}, but {models}{near}")


def _rows(places: list[Place]) -> list[ModelRow]:
    rows: dict[tuple[str, str], ModelRow] = {}
    for place in places:
        _add(rows, place, place.model_id, place.model_type)
    return list(rows.values())


def _add(rows: dict[tuple[str, str], ModelRow], place: Place, model_id: str, model_type: str) -> ModelRow:
    row = rows.setdefault((model_id, place.compiler), ModelRow(model_id, place.compiler))
    row.types.add(model_type)
    row.releases.add(place.release)
    row.places.setdefault(place.name, place)
    return row


def _read(
    opened: Opened, settings: Settings, rows: list[ModelRow], unnamed: list[Place], corrupt: dict[str, str]
) -> list[ModelRow]:
    """Return the rows with their entries, and those of the entries whose paths tell no model."""
    places = [place for row in rows for place in row.places.values()]
    made = {(row.model_id, row.compiler): row for row in rows}
    for place, entry in read_entries(opened, settings, [*places, *unnamed], corrupt):
        _add(made, place, entry.model_id, entry.model_type).entries.append(entry)
    for row in made.values():
        row.places = {name: place for name, place in row.places.items() if place.path not in corrupt}
    return [row for row in made.values() if row.places]


def _table(rows: list[ModelRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold", min_width=12)
    table.add_column("type", overflow="fold", min_width=5)
    for title in ("entries", "keys", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("compiler", overflow="ellipsis", min_width=10)
    table.add_column("optimum", overflow="fold", min_width=7)
    for row in rows:
        keys, size = row.keys, row.size
        table.add_row(
            presentation.printable(row.model_id),
            presentation.printable(", ".join(sorted(row.types))),
            presentation.number(len(row.places)),
            "-" if keys is None else presentation.number(len(keys)),
            "-" if size is None else presentation.size(size),
            row.compiler.partition("+")[0],
            ", ".join(newest_first(row.releases)),
        )
    return table
