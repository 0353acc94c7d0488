"""How much of what an entry needs is there: which compiles a run of the model would still do."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from neuron_store.cli import presentation
from neuron_store.cli.entry_search import Found
from neuron_store.cli.finding import is_whole
from neuron_store.cli.remotes import Opened, require_online
from neuron_store.store.errors import RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.registry.entries import KeyInfo
from neuron_store.store.remotes.base import record_path, version_folder

NO_GUARANTEE = "no guarantee: optimum-neuron's entries do not tell which compiles they need"
_MOST_KEYS = 20_000  # that are asked for at once
_MOST_NAMED = 10


@dataclass
class Holders:
    """Where keys are.

    Attributes:
        here: keys that are whole in the local store.
        sources: key -> the remotes that have it (by their place in the list) and the compiler's version there.
        asked: every key that was looked for.
        faults: of remotes that could not be asked.
    """

    here: set[str] = field(default_factory=set)
    sources: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def find_holders(layout: Layout, remotes: list[Opened], entries: Iterable[Found], *, all_known: bool) -> Holders:
    """Find out which keys of the entries are here, and which are in the remotes: one question to each for all of them.

    Remotes that have an entry come first; another is only asked for what those do not have. `all_known`: the former
    are asked for the keys that are here, too.
    """
    made = Holders()
    versions: dict[str, str] = {}
    with_entry: set[int] = set()
    for found in entries:
        new = found.entry.keys.keys() - made.asked
        if found.entry.ours and len(made.asked) + len(new) <= _MOST_KEYS:
            made.asked |= new
            versions.update(dict.fromkeys(found.entry.keys, found.place.compiler))
            with_entry.update(found.remotes)
    made.here = {key for key in made.asked if is_whole(layout, key)}
    for place in sorted(range(len(remotes)), key=lambda place: place not in with_entry):
        again = all_known and place in with_entry
        open_keys = [key for key in versions if key not in made.sources and (again or key not in made.here)]
        paths = {record_path(version_folder(versions[key]), key): key for key in open_keys}
        try:
            require_online(remotes[place].location)
            there = remotes[place].remote.look_up(list(paths)) if paths else {}
        except RemoteError as error:
            made.faults.append(str(error))
            continue
        for path in there:
            key = paths[path]
            made.sources.setdefault(key, []).append((place, versions[key]))
    return made


class EntryState:
    """An entry, and what of it is there.

    Attributes:
        found: the entry, and where it is.
        is_other: whether it is the entry of another model than the one that was asked for, of the same architecture.
        known: whether its keys were looked for; they are not where it tells none, or too many.
        here, remote: its keys that are in the local store, and in a remote.
        missing: its keys that are in neither.
    """

    def __init__(self, found: Found, holders: Holders, model_id: str = "") -> None:
        """`model_id` is of the model that was asked for, "" for the entry's own."""
        self.found = found
        self.is_other = model_id not in ("", found.entry.model_id)
        keys = found.entry.keys
        self.known = found.entry.ours and holders.asked >= keys.keys()
        self.here = [key for key in keys if key in holders.here]
        self.remote = [key for key in keys if key in holders.sources]
        there = {*self.here, *self.remote}
        self.missing: dict[str, KeyInfo] = (
            {key: info for key, info in keys.items() if key not in there} if self.known else {}
        )

    @property
    def needed(self) -> int:
        """How many keys the entry needs."""
        return len(self.found.entry.keys)

    @property
    def uncached(self) -> int:
        """How many compiles have no key, and so happen each time."""
        return sum(map(len, self.found.entry.uncached.values()))

    @property
    def is_complete(self) -> bool:
        """Whether it is certain that no compile will happen."""
        whole = self.known and bool(self.needed) and not self.missing and not self.uncached
        return whole and self.found.entry.is_finished and not self.is_other

    def count(self) -> str:
        """Return how many of its keys are there, for a table."""
        if not self.found.entry.ours:
            return "-"
        if not self.known:
            return presentation.number(self.needed)
        return f"{presentation.number(self.needed - len(self.missing))} of {presentation.number(self.needed)}"

    def outlook(self) -> str:
        """Return what there is to compile, for a table."""
        if not self.found.entry.ours:
            return "no guarantee"
        if not self.known:
            return "not looked at"
        missing, uncached = presentation.number(len(self.missing)), presentation.number(self.uncached)
        if self.missing:
            return f"{missing} + {uncached} uncached" if self.uncached else f"{missing} ({self._seconds()})"
        return f"{uncached} uncached" if self.uncached else "nothing" if self.needed else "unknown"

    def sentence(self) -> str:
        """Return the same in words, and which keys are missing."""
        if not self.found.entry.ours:
            return NO_GUARANTEE
        if not self.known:
            return f"{presentation.plural(self.needed, 'key')}, which are too many to look for"
        if not self.needed:
            return f"it tells no keys yet{self._uncached_words('; ')}"
        head = f"{self.count()} {'key' if self.needed == 1 else 'keys'}: "
        if self.missing:
            return f"{head}{self._missing_words()}{self._uncached_words(', and ')}{self._named()}"
        if self.uncached:
            return head + self._uncached_words("")
        return f"{head}no compile will happen" + self._reserve()

    def _reserve(self) -> str:
        """Say what stands against it that these are all keys of the model."""
        if self.is_other:
            return ", if this model makes the same graphs"
        return "" if self.found.entry.is_finished else ", unless the run that was recorded ended early"

    def _missing_words(self) -> str:
        return f"{presentation.plural(len(self.missing), 'compile')}, {self._seconds()}"

    def _seconds(self) -> str:
        times = [info.seconds for info in self.missing.values()]
        told = [seconds for seconds in times if seconds is not None]
        if not told:
            return "time unknown"
        unknown = len(times) - len(told)
        return presentation.duration(sum(told)) + (f" and {unknown} unknown" if unknown else "")

    def _uncached_words(self, before: str) -> str:
        if not self.uncached:
            return ""
        counters = ", ".join(sorted(self.found.entry.uncached))
        word = "compile that was not kept" if self.uncached == 1 else "compiles that were not kept"
        return f"{before}{presentation.number(self.uncached)} {word} ({counters})"

    def _named(self) -> str:
        shown = [
            f"{key[: presentation.SHOWN_KEY]} {info.module}".rstrip() + f" ({presentation.duration(info.seconds)})"
            for key, info in list(self.missing.items())[:_MOST_NAMED]
        ]
        more = len(self.missing) - len(shown)
        return ": " + ", ".join(shown) + (f", and {presentation.number(more)} more" if more else "")

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready values: what `lookup --json` says of the keys."""
        return {
            "needed": self.needed if self.found.entry.ours else None,
            "here": self.here,
            "remote": self.remote,
            "missing": [
                {"key": key, "module": info.module, "seconds": info.seconds} for key, info in self.missing.items()
            ],
        }
