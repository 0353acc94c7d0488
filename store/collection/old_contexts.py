"""Contexts (registry/contexts.py) that have served: in a registry, long unchanged, and none of their results is here."""

import os
import shutil
import time

from neuron_store.store.collection.limits import Protection
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import MODEL_VARIABLE, Layout
from neuron_store.store.registry.contexts import Context, all_contexts

_OLD = 30 * 86400.0  # seconds
_ASIDE = "context-"


def collect_contexts(layout: Layout, protection: Protection) -> int:
    """Remove contexts that nobody needs; return how many. What they noted stands in the registry that they went to."""
    _remove_aside(layout)
    return sum(
        _remove(layout, context) for context in all_contexts(layout) if _is_needless(layout, context, protection)
    )


def _is_needless(layout: Layout, context: Context, protection: Protection) -> bool:
    root = context.path("").rstrip("/")
    try:
        said = context.said()
        newest = max(os.stat(folder).st_mtime for folder in (root, *_folders(root)))
        remotes = [] if context.is_pulled else os.listdir(context.path("published"))
    except (CorruptEntry, OSError):
        return False  # it was never published, or is being written
    state = context.state()
    in_registry = context.is_pulled or (remotes and all(context.is_published(name, state) for name in remotes))
    if time.time() - newest < _OLD or not in_registry:
        return False
    keys = context.noted_keys()
    pinned = any(key in protection.pinned for key in keys)
    here = any(os.path.exists(layout.result_path(key)) for key in keys)
    return bool(said.get(MODEL_VARIABLE)) and not pinned and not here


def _folders(root: str) -> list[str]:
    return [entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]


def _remove(layout: Layout, context: Context) -> bool:
    """Take a context away at once: a run of the model that comes meanwhile begins it anew."""
    aside = f"{layout.root}/collection/{_ASIDE}{context.id}"
    layout.make_folder(os.path.dirname(aside))
    try:
        os.rename(context.path("").rstrip("/"), aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _remove_aside(layout: Layout) -> None:
    """Remove what a collector was removing when it was killed."""
    try:
        names = os.listdir(f"{layout.root}/collection")
    except OSError:
        return
    for name in names:
        if name.startswith(_ASIDE):
            shutil.rmtree(f"{layout.root}/collection/{name}", ignore_errors=True)
