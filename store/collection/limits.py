"""Which results go: the least recently used first, until every limit holds.

A result counts as used when it was stored and whenever it was served. What is pinned, or waits for its upload, stays
whatever the limits say, and is counted in them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from neuron_store.store.collection.inventory import Inventory
from neuron_store.store.collection.pins import models_by_key, read_pins
from neuron_store.store.layout import KEY_LENGTH, Layout, is_hex
from neuron_store.store.queue import IDENTITY_LENGTH

# Why a result goes; the order in which limits are applied.
DAMAGED, AGE, COMPILER, SELECTED, COUNT, SIZE, FREE = (
    "damaged",
    "age",
    "compiler",
    "selected",
    "count",
    "size",
    "free_space",
)
# Why one stays that was to go.
PINNED, QUEUED, SHARED, IN_USE, REGISTERED = "pinned", "queued", "other_model", "in_use", "registered"


@dataclass
class Limits:
    """What a store may hold; None: as much as there is.

    Attributes:
        size: bytes of the store, or of what is selected.
        count: of results.
        age: seconds since the last use.
        compilers: how many compiler versions, those that were used last.
        free: bytes that are to be free on the disk.
        spare: seconds; for the sake of `free`, nothing goes that was used since.
        model, compiler: only results of this model, and of compilers whose version starts so, are looked at; without
            any limit, all of them go.
        everything: all results go.
        protected: whether pins and the queue protect.
    """

    size: int | None = None
    count: int | None = None
    age: float | None = None
    compilers: int | None = None
    free: int | None = None
    spare: float = 0.0
    model: str = ""
    compiler: str = ""
    everything: bool = False
    protected: bool = True

    @property
    def selective(self) -> bool:
        """Whether only some results are looked at."""
        return bool(self.model or self.compiler)

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit at all."""
        return all(limit is None for limit in (self.size, self.count, self.age, self.compilers, self.free))


def free_space(layout: Layout) -> tuple[int, int]:
    """Return the bytes that are free to us on the file system of the store's blobs, and all it has. Raises OSError."""
    found = os.statvfs(layout.bulk_folder())
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


@dataclass
class Protection:
    """What must stay.

    Attributes:
        pinned, queued: keys.
        models: key -> the models that it is of.
        registered: keys that a remote's registry names.
    """

    pinned: set[str]
    queued: set[str]
    models: dict[str, set[str]]
    registered: set[str] = field(default_factory=set)


def read_protection(layout: Layout) -> Protection:
    """Return what must stay. Raises OSError where that cannot be told."""
    pins = read_pins(layout)
    models = models_by_key(layout)
    of_models = {key for key, names in models.items() if names & pins.models}
    return Protection(pins.keys | of_models, queued_keys(layout), models)


def queued_keys(layout: Layout, identity: str = "") -> set[str]:
    """Return the keys of all results that a remote (the one of that `identity`) still lacks. Raises OSError."""
    found: set[str] = set()
    try:
        remotes = os.listdir(f"{layout.root}/queue")
    except FileNotFoundError:
        return found
    for remote in remotes:
        if is_hex(remote, IDENTITY_LENGTH) and identity in ("", remote):
            names = os.listdir(f"{layout.root}/queue/{remote}")
            # One that is being taken out (.<key>.<digits>) is as good as queued.
            found.update(name.lstrip(".")[:KEY_LENGTH] for name in names)
    return found


@dataclass
class Tally:
    """How many results, and how many bytes went with them."""

    results: int = 0
    bytes: int = 0


@dataclass
class Choice:
    """What is to go.

    Attributes:
        reasons: place of a result in the inventory -> why it goes, in the order in which they go.
        tallies: reason -> how many, and what they free.
        stuck: place of a result that a limit asked for and that stays -> why.
        kept: reason to stay -> how many results that a limit asked for.
        unmet: limits that hold only without what must stay.
    """

    reasons: dict[int, str] = field(default_factory=dict)
    stuck: dict[int, str] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    unmet: list[str] = field(default_factory=list)


def choose(inventory: Inventory, limits: Limits, protection: Protection, now: float, space: tuple[int, int]) -> Choice:
    """Return what is to go. `now` is in Unix seconds, `space` is that of the store's file system (`free_space`)."""
    return _Choosing(inventory, limits, protection, now, space).run()


class _Choosing:
    def __init__(
        self, inventory: Inventory, limits: Limits, protection: Protection, now: float, space: tuple[int, int]
    ) -> None:
        self._held = inventory
        self._limits = limits
        self._protection = protection
        self._now = now
        self._free = space[0]
        self._names = inventory.blob_names[:]  # how many of those that stay name each blob
        self._freed = 0
        self._loose = 0 if inventory.blobs_stay else inventory.loose  # bytes
        self._line: list[int] = []  # results that stay so far, the least recently used first
        self._left = 0  # how many of them stay while some are taken
        self.choice = Choice()

    def run(self) -> Choice:
        """Apply the limits, one after the other."""
        limits, held = self._limits, self._held
        self._line = sorted(
            (place for place in range(len(held.keys)) if self._is_looked_at(place)), key=held.used.__getitem__
        )
        if limits.everything or (limits.selective and limits.unlimited):
            self._take_while(SELECTED, lambda _: True)
        if limits.age is not None:
            oldest = (self._now - limits.age) * 1e9
            self._take_while(AGE, lambda place: held.used[place] < oldest)
        if limits.compilers is not None:
            self._take_old_compilers(limits.compilers)
        if limits.count is not None:
            allowed = limits.count
            self._take_while(COUNT, lambda _: self._left > allowed, until=True)
        if limits.size is not None:
            self._take_for_size(limits.size)
        if limits.free is not None:
            self._take_for_space(limits.free)
        self._count_kept()
        return self.choice

    def _is_looked_at(self, place: int) -> bool:
        limits, held = self._limits, self._held
        if limits.model and limits.model not in self._protection.models.get(held.keys[place], ()):
            return False
        return held.versions[place].startswith(limits.compiler)

    def _take_while(self, reason: str, wanted: "Callable[[int], bool]", *, until: bool = False) -> None:
        """Take all that are wanted; or, the oldest first, `until` no more are."""
        stays: list[int] = []
        line = self._line
        self._left = len(line)
        ended = False
        for number, place in enumerate(line):
            if not wanted(place):
                if until:
                    stays += line[number:]
                    ended = True
                    break
                stays.append(place)
                continue
            reason_to_stay = self._why_it_stays(place)
            if reason_to_stay:
                self.choice.stuck[place] = reason_to_stay
                stays.append(place)
            else:
                self._left -= 1
                self._take(place, reason)
        self._line = stays
        if until and not ended and stays and wanted(stays[-1]):
            self.choice.unmet.append(reason)

    def _take_old_compilers(self, count: int) -> None:
        last: dict[str, int] = {}
        for place in self._line:  # the oldest first
            last[self._held.versions[place]] = self._held.used[place]
        kept = set(sorted(last, key=last.__getitem__, reverse=True)[:count])
        self._take_while(COMPILER, lambda place: self._held.versions[place] not in kept)

    def _take_for_size(self, allowed: int) -> None:
        if self._limits.selective:
            total = self._selected_bytes()
        else:
            total = self._held.size - self._loose - self._held.loose_directs - self._freed
        begun = self._freed
        if not self._held.blobs_stay:
            self._take_while(SIZE, lambda _: total - (self._freed - begun) > allowed, until=True)
        elif total > allowed:
            self.choice.unmet.append(SIZE)  # results would be lost, and hardly a byte be won

    def _selected_bytes(self) -> int:
        blobs = {blob for place in self._line for blob in self._held.named[place]}
        return sum(self._held.blob_sizes[blob] for blob in blobs) + sum(self._held.sizes[p] for p in self._line)

    def _take_for_space(self, wanted: int) -> None:
        free = self._free + self._loose + self._held.loose_directs
        youngest = (self._now - self._limits.spare) * 1e9
        if not self._held.blobs_stay:
            self._take_while(
                FREE,
                lambda place: (
                    free + self._freed < wanted and (not self._limits.spare or self._held.used[place] < youngest)
                ),
                until=True,
            )
        if free + self._freed < wanted and FREE not in self.choice.unmet:
            self.choice.unmet.append(FREE)

    def _why_it_stays(self, place: int) -> str:
        key, protection = self._held.keys[place], self._protection
        if self._limits.model and len(protection.models[key]) > 1:
            return SHARED
        if not self._limits.protected:
            return ""
        for reason, keys in ((PINNED, protection.pinned), (QUEUED, protection.queued)):
            if key in keys:
                return reason
        return REGISTERED if key in protection.registered else ""

    def _take(self, place: int, reason: str) -> None:
        held = self._held
        freed = held.sizes[place]
        for blob in held.named[place]:
            self._names[blob] -= 1
            freed += 0 if self._names[blob] or held.blobs_stay else held.blob_sizes[blob]
        self._freed += freed
        self.choice.reasons[place] = reason
        tally = self.choice.tallies.setdefault(reason, Tally())
        tally.results += 1
        tally.bytes += freed

    def _count_kept(self) -> None:
        for reason in self.choice.stuck.values():
            self.choice.kept[reason] = self.choice.kept.get(reason, 0) + 1
