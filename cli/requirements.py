"""What `neuron-store add` must have before it runs anything: a compiler, remotes that may be written to, a model."""

import os
from dataclasses import replace

from neuron_store.cli.context_options import ContextOptions
from neuron_store.cli.models import Model, resolve_model
from neuron_store.cli.remotes import Opened, named_location, open_location, require_online
from neuron_store.cli.sessions import canonical_task
from neuron_store.cli.uploading import writable_remotes
from neuron_store.shim.real_compiler import PROGRAM, search_path, usable
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import CompilerNotFound, ConfigurationError, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout

_PATIENCE = 30.0  # seconds for a remote to say what may be done with it


def require_compiler(chosen: Settings) -> None:
    """Raise CompilerNotFound or ConfigurationError where nothing would be compiled, or nothing stored."""
    found = chosen.compiler if chosen.compiler and usable(chosen.compiler) else ""
    if not (found or (not chosen.compiler and search_path(os.environ.get("PATH")))):
        where = f"{chosen.compiler} is no compiler" if chosen.compiler else f"there is no {PROGRAM} on PATH"
        raise CompilerNotFound(f"{where}: nothing can be compiled here; activate the environment that has it")
    if not chosen.enabled or chosen.read_only:
        name = "enabled is false" if not chosen.enabled else "read_only is true"
        raise ConfigurationError(f"nothing would be stored, because the setting {name}; see `neuron-store config`")


def require_remotes(layout: Layout, chosen: Settings, repo: str) -> list[Opened]:
    """Return the remotes that take what is added, each of which can be written to. Raises RemoteError."""
    if repo:
        location = named_location(repo)
        if not location.writable:
            raise ConfigurationError(f"{repo} is read-only, so nothing can be added to it")
        require_online(location)
        remotes = [open_location(location, layout, chosen)]
    else:
        remotes = writable_remotes(layout, chosen)
    for opened in remotes:
        _require_access(open_location(opened.location, layout, chosen, patience=_PATIENCE))
    return remotes


def _require_access(opened: Opened) -> None:
    access = opened.remote.check()
    opened.remote.close()
    because = f": {access.detail}" if access.detail else ""
    if not access.reachable:
        raise RemoteUnavailable(f"{opened.remote.url} cannot be reached, so nothing is run{because}")
    if access.readable is False or access.writable is False:
        doing = "read" if access.readable is False else "written to"
        raise RemoteRefused(f"{opened.remote.url} cannot be {doing} by us, so nothing is run{because}")


def require_model(word: str, options: ContextOptions) -> tuple[Model, ContextOptions]:
    """Return what the model is, and `options` with its task. Raises like resolve_model, or if none tells the task."""
    resolved = resolve_model(word, options.task, options.revision)
    if not resolved.task:
        raise ConfigurationError(f"{word} does not tell its task: give --task")
    task = canonical_task(resolved.task)
    if task != resolved.task:
        resolved = resolve_model(word, task, options.revision)
    return resolved, replace(options, task=task)
