"""The remotes that `neuron-store verify --repair` fetches from, and the repair itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from neuron_store.cli.collecting import holding_collector
from neuron_store.cli.fetching import as_kept
from neuron_store.cli.remotes import configured_locations, open_location
from neuron_store.shim.settings import OFFICIAL_REMOTE, Settings
from neuron_store.store.checking.check import Checked, Tick
from neuron_store.store.checking.faults import Finding
from neuron_store.store.checking.quarantine import Quarantine
from neuron_store.store.checking.refetch import Refetcher, Source
from neuron_store.store.checking.repairs import repair_store
from neuron_store.store.errors import StoreUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.location import hub_offline

_OFFICIAL = OFFICIAL_REMOTE.partition("|")[0]
_PATIENCE = 30.0  # seconds for one request


def repair(
    layout: Layout, settings: Settings, threads: int, tick: "Tick | None"
) -> "tuple[Checked, list[Finding], Quarantine]":
    """Check and mend the store; return what is left, all that was found, and what went to the quarantine.

    Raises StoreUnavailable where the store cannot be written.
    """
    quarantine = Quarantine(layout)
    if not os.path.isdir(layout.root):
        return Checked(), [], quarantine
    layout.require_writable()
    with holding_collector(layout), _sources(layout, settings) as sources:
        refetcher = Refetcher(layout, sources, as_kept, settings.remote_max_bytes)
        try:
            left, found = repair_store(layout, threads, refetcher, quarantine, tick)
        except OSError as error:
            raise StoreUnavailable(
                f"the store {layout.root} cannot be repaired ({error.strerror or error}); free it, or change its owner"
            ) from error
    return left, found, quarantine


@contextmanager
def _sources(layout: Layout, settings: Settings) -> Iterator[list[Source]]:
    """Open the remotes that are configured, in order; nothing is asked of them yet."""
    sources = []
    for location in configured_locations(settings):
        is_spare = location.url == _OFFICIAL
        if location.scheme == "hf" and hub_offline(os.environ) and is_spare:
            continue
        source = Source(open_location(location, layout, settings, patience=_PATIENCE).remote, spare=is_spare)
        if location.scheme == "hf" and hub_offline(os.environ):
            source.broken = f"{location.url} is not asked, because HF_HUB_OFFLINE is set"
        sources.append(source)
    try:
        yield sources
    finally:
        for source in sources:
            source.remote.close()
