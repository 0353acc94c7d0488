"""Finding a model's entries in remotes by few requests, however many entries of other models there are.

A remote is asked for the releases of optimum-neuron that its registry knows for a compiler's version (one listing).
Then, for each of them: where entries are filed by the architecture's digest, the folders of that digest (ours and
optimum-neuron's), and only if both have nothing the model's own and what else there is of its type; in older ones the
folder of the model's type, of which the entries of this model are read first, and then a few others. What is found is
read in threads, each entry once.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from neuron_store.cli.entry_filters import EntryFilter
from neuron_store.cli.entry_reading import read_entries
from neuron_store.cli.models import Model
from neuron_store.cli.remotes import Opened, in_threads, require_online
from neuron_store.shim.settings import OFFICIAL_REMOTE, Settings
from neuron_store.store.errors import RemoteError, RemoteRefused
from neuron_store.store.registry.architecture import is_pipeline, model_type_of, same_architecture
from neuron_store.store.registry.entries import Entry
from neuron_store.store.registry.places import (
    Place,
    files_by_digest,
    is_model_id,
    is_part,
    is_release,
    registry_folder,
)
from neuron_store.store.remotes.base import Remote, versions_of

OFFICIAL = OFFICIAL_REMOTE.partition("|")[0]
_MOST_LISTED = 1000  # names in one folder: a page of the Hub's
_MOST_READ = 200  # entries of one remote
_MOST_OTHERS = 30  # entries of other models, where a folder's name does not tell the architecture
_MOST_VERSIONS = 8
_MOST_DIGESTS = 3  # that a model's own entries tell


@dataclass
class Found:
    """An entry that was found.

    Attributes:
        place: where it was found first.
        remotes: places in the list of remotes, of those that have it.
    """

    entry: Entry
    place: Place
    remotes: list[int]


@dataclass
class Passed:
    """What was seen and is not shown.

    Attributes:
        other: how many entries of another architecture; `alike` of them bear the model's own name.
        filtered: how many entries of this architecture that are otherwise configured than was asked for.
        unread: how many entries were not read, because there are so many of other models.
        more: whether there are more than one request lists.
        corrupt: path -> why that entry cannot be believed.
    """

    other: int = 0
    alike: int = 0
    filtered: int = 0
    unread: int = 0
    more: bool = False
    corrupt: dict[str, str] = field(default_factory=dict)


@dataclass
class _Candidates:
    """Places of entries of one compiler version.

    Attributes:
        own, others: those that bear the model's name, and others that may be of its architecture.
        read: entries that were read already.
        unread, more: see Passed.
        releases: how many releases of optimum-neuron the registry knows; 0 where there is no registry.
    """

    own: list[Place] = field(default_factory=list)
    others: list[Place] = field(default_factory=list)
    read: list[tuple[Place, Entry]] = field(default_factory=list)
    unread: int = 0
    more: bool = False
    releases: int = 0


class EntrySearch:
    """Finds the entries that are compatible with a model.

    Attributes:
        found: entries, in the order of the remotes.
        passed: what was left out.
        searched: the URLs of the remotes that answered.
        without: those of them that have no registry for the compiler -> the compiler versions that they have.
        skipped: how many compiler versions were not looked at, where all were asked for.
        faults: of remotes that could not be searched.
        remarks: of the official repo, where a Hub of one's own does not have it: nobody asked for that one.
    """

    def __init__(self, settings: Settings, remotes: list[Opened], model: Model, wanted: EntryFilter) -> None:
        self.found: list[Found] = []
        self.passed = Passed()
        self.searched: list[str] = []
        self.without: dict[str, list[str]] = {}
        self.skipped = 0
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self._settings = settings
        self._remotes = remotes
        self._model = model
        self._wanted = wanted

    def run(self, installed: str) -> None:
        """Ask all remotes. `installed` is the compiler's version here, "" for none."""
        for place, opened in enumerate(self._remotes):
            try:
                require_online(opened.location)
                self._ask(place, opened, installed)
            except RemoteError as error:
                spare = isinstance(error, RemoteRefused) and opened.remote.url == OFFICIAL and len(self._remotes) > 1
                (self.remarks if spare else self.faults).append(str(error))
                continue
            opened.state.note_success()
            self.searched.append(opened.remote.url)

    def _ask(self, place: int, opened: Opened, installed: str) -> None:
        remote = opened.remote
        versions = self._versions(remote, installed)
        # Where nobody waits for one compiler, requests are saved: those of ours that tell keys will do.
        thorough = bool(installed or self._wanted.compiler)
        candidates = in_threads(lambda version: self._candidates(opened, version, thorough=thorough), versions)
        if not any(each.releases for each in candidates):
            self.without[remote.url] = newest_first(versions_of(remote.folders()))
        own = [each for found in candidates for each in found.own]
        others = [each for found in candidates for each in found.others]
        taken = [*own, *others][:_MOST_READ]
        self.passed.unread += len(own) + len(others) - len(taken) + sum(each.unread for each in candidates)
        self.passed.more = self.passed.more or any(each.more for each in candidates)
        read = [each for found in candidates for each in found.read]
        for where, entry in [*read, *read_entries(opened, self._settings, taken, self.passed.corrupt)]:
            if self._is_wanted(entry):
                self._take(Found(entry, where, [place]))

    def _versions(self, remote: Remote, installed: str) -> list[str]:
        if installed and not self._wanted.compiler:
            return [installed]
        versions = newest_first(versions_of(remote.folders()))
        fitting = [version for version in versions if version.startswith(self._wanted.compiler)]
        self.skipped += max(0, len(fitting) - _MOST_VERSIONS)
        return fitting[:_MOST_VERSIONS]

    # -- where entries may be ----------------------------------------------------------------------------------------

    def _candidates(self, opened: Opened, version: str, *, thorough: bool) -> _Candidates:
        base = registry_folder(version)
        releases = newest_first(name for name in opened.remote.listing(base) if is_release(name))
        made = _Candidates(releases=len(releases))
        for release in releases:
            if files_by_digest(release):
                self._list_by_digest(opened, f"{base}/{release}", made, thorough=thorough)
            else:
                self._list_by_type(opened.remote, f"{base}/{release}", release, made)
        return made

    def _list_by_digest(self, opened: Opened, base: str, made: _Candidates, *, thorough: bool) -> None:
        listed = self._first_listed(opened.remote, base, self._model.own_digests)
        if thorough or not listed:
            listed += _besides(self._first_listed(opened.remote, base, self._model.digests), listed)
        if not listed:
            self._list_more(opened, base, made)
        made.more = made.more or len(listed) >= _MOST_LISTED
        # Of many, those of this very model are read first.
        own = self._listed_by_name(opened.remote, base) if len(listed) > _MOST_READ else []
        made.own += own
        made.others += _besides(listed, own)

    def _first_listed(self, remote: Remote, base: str, digests: list[str]) -> list[Place]:
        """Return the places in the first of the folders of `digests` that has any."""
        return next((listed for digest in digests if (listed := _listed(remote, f"{base}/{digest}"))), [])

    def _list_more(self, opened: Opened, base: str, made: _Candidates) -> None:
        """List what may be of the architecture though it has another digest, as far as can be told.

        The model's own folder has no more than the first of optimum-neuron's entries for it; that one tells the digest
        of the others: what optimum-neuron fills in before it makes the digest is not known where it is not installed.
        """
        own = self._listed_by_name(opened.remote, base)
        read = read_entries(opened, self._settings, own[:_MOST_READ], self.passed.corrupt)
        made.read += read
        digests = {entry.arch_digest for _, entry in read if not entry.ours}.difference(self._model.digests)
        for digest in sorted(digests)[:_MOST_DIGESTS]:
            made.others += _besides(_listed(opened.remote, f"{base}/{digest}"), own)
        if not own and self._model_type:
            others = _listed(opened.remote, f"{base}/{self._model_type}")
            made.others += others[:_MOST_OTHERS]
            made.unread += len(others[_MOST_OTHERS:])

    def _list_by_type(self, remote: Remote, base: str, release: str, made: _Candidates) -> None:
        model_type = self._model_type
        if not model_type:
            return
        modes = ("inference/", "training/") if _tells_modes(release) else ("",)
        for mode in modes:
            listed = _listed(remote, f"{base}/{mode}{model_type}")
            own = [place for place in listed if place.model_id == self._model.model_id]
            others = [place for place in listed if place.model_id != self._model.model_id]
            if len(listed) == _MOST_LISTED:
                made.more = True
                own = own or self._listed_by_name(remote, f"{base}/{mode}".rstrip("/"))
            made.own += own
            made.others += others[:_MOST_OTHERS]
            made.unread += len(others[_MOST_OTHERS:])

    def _listed_by_name(self, remote: Remote, base: str) -> list[Place]:
        if not (self._model_type and is_model_id(self._model.model_id)):
            return []
        return _listed(remote, f"{base}/{self._model_type}/{self._model.model_id}")

    @property
    def _model_type(self) -> str:
        """The type under which the model is filed, "" if it cannot be part of a path."""
        found = model_type_of(self._model.configs[0]) if self._model.configs else ""
        return found if is_part(found) else ""

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _is_wanted(self, entry: Entry) -> bool:
        if not (self._model.fits(entry) or self._is_own(entry)):
            self.passed.other += 1
            self.passed.alike += entry.model_id == self._model.model_id
            return False
        if not self._wanted.lets_pass(entry):
            self.passed.filtered += 1
            return False
        return True

    def _is_own(self, entry: Entry) -> bool:
        """Tell whether the entry is the model's own, and what it says more is only what some library filled in.

        config.json may leave out what its class has a default for, which is not known where that class is not
        installed. An entry of ours promises something, so it must be of this very revision.
        """
        model = self._model
        if entry.model_id != model.model_id:
            return False
        if entry.ours and not (model.revision and entry.neuron.get("checkpoint_revision") == model.revision):
            return False
        return any(same_architecture(config, _as_far_as(config, entry.config)) for config in model.configs)

    def _take(self, new: Found) -> None:
        """Add an entry; what two remotes have of the same one is put together."""
        for known in self.found:
            if _is_same(known, new):
                known.remotes += [place for place in new.remotes if place not in known.remotes]
                if known.entry.ours and new.entry.ours:
                    known.entry = known.entry.merged_with(new.entry)
                elif new.entry.ours:
                    known.entry = new.entry
                return
        self.found.append(new)


def _as_far_as(known: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `config` that `known` has too; of a pipeline, of each component."""
    if not is_pipeline(config):
        return {name: value for name, value in config.items() if name in known}
    return {
        name: _as_far_as(known[name], part) if isinstance(part, dict) and isinstance(known.get(name), dict) else part
        for name, part in config.items()
    }


def _is_same(one: Found, other: Found) -> bool:
    return (one.place.compiler, one.place.name, one.entry.model_id, one.entry.task, one.entry.neuron) == (
        other.place.compiler,
        other.place.name,
        other.entry.model_id,
        other.entry.task,
        other.entry.neuron,
    )


def _listed(remote: Remote, folder: str) -> list[Place]:
    """Return the places of entries below `folder`: all, or as many as one request tells."""
    return [place for file in itertools.islice(remote.walk(folder), _MOST_LISTED) if (place := place_of(file.path))]


def _besides(places: list[Place], others: list[Place]) -> list[Place]:
    """Return those of `places` whose entries are not among the others, under another path."""
    names = {place.name for place in others}
    return [place for place in places if place.name not in names]


def place_of(path: str) -> "Place | None":
    """Return the place that a path is, None for what others keep beside entries."""
    try:
        return Place(path)
    except ValueError:
        return None


def newest_first(versions: Iterable[str]) -> list[str]:
    """Return versions in order, by their numbers, the highest first."""
    return sorted(versions, key=_numbers, reverse=True)


def _numbers(version: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])], version


def _tells_modes(release: str) -> bool:
    """Tell whether that version of optimum-neuron files training and inference apart."""
    return [0, 0, 19] <= _numbers(release)[0] < [0, 2]
