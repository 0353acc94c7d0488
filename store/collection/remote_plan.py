"""What is to go from a remote: which results, by the limits of a local store's, and what nobody needs without them.

A blob goes when no record that stays names it. One that no record has named at all may be an upload's whose record is
still to come: it goes only once it is older than GRACE. An entry of the registry goes with the last of its keys.
"""

import time
from dataclasses import dataclass, field

from neuron_store.store.collection.limits import (
    REGISTERED,
    Choice,
    Limits,
    Protection,
    Tally,
    choose,
    queued_keys,
)
from neuron_store.store.collection.pins import models_by_key, read_pins
from neuron_store.store.collection.remote_inventory import RemoteInventory, kind_of
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import FOLDER_PREFIX

GRACE = 86400.0  # seconds; no upload takes longer from its first blob to its record
UNNAMED, ENTRIES = "unnamed_blobs", "registry_entries"


@dataclass
class VersionTally:
    """What a remote holds of one compiler version, and what of it goes: results, files and bytes, by the listing.

    Attributes:
        others, other_bytes: files that are no results of ours: stock entries, the registry.
    """

    results: int = 0
    bytes: int = 0
    others: int = 0
    other_bytes: int = 0
    going: int = 0
    going_files: int = 0
    going_bytes: int = 0


@dataclass
class Plan:
    """What is to go.

    Attributes:
        revision: the head that it is made for.
        reasons: path -> why it goes, in the order in which they go: entries, records, blobs.
        sizes: path -> bytes, of all files.
        kept: reason to stay -> results that a limit asked for.
        registered_bytes: bytes of results that stay because the registry names them, each blob once.
        unmet: limits that hold only without what must stay.
        versions: by the compiler's version.
        shortened: entries that stay and lose some of their keys.
        young, young_bytes: blobs that no record names and that are too young to go.
        unbelieved: records and entries that cannot be believed.
        before: bytes of all results.
        results: that there are.
        objects: SHA-256 of every stored object that a file which stays is.
    """

    revision: str
    reasons: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    registered_bytes: int = 0
    unmet: list[str] = field(default_factory=list)
    versions: dict[str, VersionTally] = field(default_factory=dict)
    shortened: int = 0
    young: int = 0
    young_bytes: int = 0
    unbelieved: int = 0
    before: int = 0
    results: int = 0
    objects: set[str] = field(default_factory=set)

    @property
    def freed(self) -> int:
        """Bytes of all that goes."""
        return sum(self.sizes[path] for path in self.reasons)

    def of_kind(self, kind: str) -> list[str]:
        """Return what goes and is a "record", a "blob" or an "entry"."""
        return [path for path in self.reasons if kind_of(path) == kind]


def tally(paths: "list[str] | dict[str, str]", reasons: dict[str, str], sizes: dict[str, int]) -> dict[str, Tally]:
    """Return how many results (or files that are none) go for each reason, and the bytes that go with them."""
    tallies: dict[str, Tally] = {}
    for path in paths:
        reason = reasons[path]
        found = tallies.setdefault(reason, Tally())
        found.bytes += sizes[path]
        found.results += kind_of(path) != "blob" or reason == UNNAMED
    return tallies


def read_remote_protection(
    layout: Layout, identity: str, found: RemoteInventory, limits: Limits, *, include_registered: bool
) -> Protection:
    """Return what must stay: what this host has pinned or still uploads, and what the remote's models need.

    Where a model is chosen, its results are what is asked for. Raises OSError where it cannot be told.
    """
    pins = read_pins(layout)
    noted = models_by_key(layout) if pins.models else {}
    of_models = {key for models in (noted, found.models) for key, names in models.items() if names & pins.models}
    registered = {*found.models, *found.doubted_keys}
    if include_registered or limits.model:
        registered = set(found.doubted_keys)
    return Protection(pins.keys | of_models, queued_keys(layout, identity), found.models, registered)


def make_plan(found: RemoteInventory, limits: Limits, protection: Protection) -> Plan:
    """Choose results, and the blobs and entries that go with them; blobs without a name are not looked at yet."""
    choice = choose(found.held, limits, protection, time.time(), (0, 0))
    plan = Plan(found.revision, kept=choice.kept, unmet=choice.unmet, unbelieved=len(found.unbelieved))
    plan.sizes = {path: max(file.size, 0) for path, file in found.files.items()}
    plan.results, plan.before = len(found.records), found.held.size
    going = {found.held.keys[place] for place in choice.reasons}
    staying = {key for place, key in enumerate(found.held.keys) if place not in choice.reasons}
    for path, told in found.entries.items():
        if going & told.keys:
            if told.keys & staying:
                plan.shortened += 1
            else:
                plan.reasons[path] = ENTRIES
    for place, reason in choice.reasons.items():
        plan.reasons[found.records[place]] = reason
    for path, reason in _blobs_of(found, choice).items():
        plan.reasons[path] = reason
    plan.registered_bytes = _registered_bytes(found, choice)
    return plan


def _blobs_of(found: RemoteInventory, choice: Choice) -> dict[str, str]:
    """Return the blobs that no record names once the chosen results are gone, with the reason of the last that does."""
    names = found.held.blob_names[:]
    going = {}
    for place, reason in choice.reasons.items():
        for blob in found.held.named[place]:
            names[blob] -= 1
            if not names[blob] and found.blobs[blob] in found.files:
                going[found.blobs[blob]] = reason
    return going


def add_loose(plan: Plan, came: "dict[str, float]", found: RemoteInventory, ours: dict[str, str]) -> None:
    """Let blobs go that no record names, if they are old enough, or this run has removed what named them (`ours`: why).

    `came` tells when each came, in Unix seconds; one that it does not tell is left alone.
    """
    horizon = time.time() - GRACE
    for path in found.loose:
        if path in ours or came.get(path, horizon) < horizon:
            plan.reasons[path] = ours.get(path, UNNAMED)
        elif path in came:
            plan.young += 1
            plan.young_bytes += plan.sizes[path]


def finish(plan: Plan, found: RemoteInventory) -> None:
    """Add up what goes and what stays, by compiler version."""
    for path, size in plan.sizes.items():
        folder, _, rest = path.partition("/")
        if not rest or not folder.startswith(FOLDER_PREFIX):
            continue
        version = plan.versions.setdefault(folder.removeprefix(FOLDER_PREFIX), VersionTally())
        kind = kind_of(path)
        if kind in ("record", "blob"):
            version.results += kind == "record"
            version.bytes += size
        else:
            version.others += 1
            version.other_bytes += size
        if path in plan.reasons:
            version.going += kind == "record"
            version.going_files += 1
            version.going_bytes += size
    plan.objects = {file.sha256 for path, file in found.files.items() if file.sha256 and path not in plan.reasons}


def _registered_bytes(found: RemoteInventory, choice: Choice) -> int:
    held = found.held
    stuck = [place for place, reason in choice.stuck.items() if reason == REGISTERED]
    blobs = {blob for place in stuck for blob in held.named[place]}
    return sum(held.sizes[place] for place in stuck) + sum(held.blob_sizes[blob] for blob in blobs)
