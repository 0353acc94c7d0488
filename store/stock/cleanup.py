"""Removing from a stock cache what hurts: an entry goes as a whole, and never one that someone uses, or a traced model.

It is renamed aside first, so that nobody sees half of it, and looked at once more: one that was finished, or taken up,
meanwhile goes back.
"""

import os
import shutil

from neuron_store.store.layout import discard
from neuron_store.store.stock.entries import TRACED, StockEntry, read_entry
from neuron_store.store.stock.locks import Processes, entry_user, lock_holder

_ASIDE = ".neuron-store-removed-"


def finish_removals(root: str) -> None:
    """Remove what a remover that was killed has left behind below `root`: entries that were on their way out."""
    for folder, inner, _ in os.walk(root):
        for name in [name for name in inner if name.startswith(_ASIDE)]:
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
        inner[:] = [name for name in inner if not name.startswith(("MODULE_", _ASIDE))]


def remove_lock(entry: StockEntry, lock: str, young: float) -> bool:
    """Remove a lock whose owner is dead, as of now; return whether it is gone."""
    if lock_holder(entry, lock, Processes(), young):
        return False
    discard(lock)
    return not os.path.lexists(lock)


def remove_entry(entry: StockEntry, states: "tuple[str, ...]", young: float) -> bool:
    """Remove an entry that is in one of `states` and used by nobody, as of now; return whether it is gone."""
    aside = f"{os.path.dirname(entry.folder)}/{_ASIDE}{entry.module}-{os.urandom(4).hex()}"
    if not may_go(read_entry(entry.folder, entry.version), states, young):
        return False
    try:
        os.rename(entry.folder, aside)
    except OSError:
        return False
    moved = read_entry(aside, entry.version)
    moved.module = entry.module
    if not may_go(moved, states, young):
        _put_back(aside, entry.folder)
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def may_go(entry: StockEntry, states: "tuple[str, ...]", young: float) -> bool:
    """Tell whether an entry is in one of `states` and used by nobody, as of now."""
    if entry.state == TRACED or entry.state not in states:
        return False
    processes = Processes()
    if any(lock_holder(entry, lock, processes, young) for lock in entry.locks):
        return False
    return not entry_user(entry, processes, young)


def _put_back(aside: str, folder: str) -> None:
    try:
        os.rename(aside, folder)
    except OSError:  # somebody made a new one in its place, which is as good
        shutil.rmtree(aside, ignore_errors=True)
