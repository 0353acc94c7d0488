"""Which module has which command, so that a command imports what it needs and no more: all of them take half a second."""

import importlib
from types import ModuleType

# Module -> its commands, in the order in which help lists them.
MODULES: dict[str, tuple[str, ...]] = {
    "environment": ("env",),
    "runs": ("run",),
    "add": ("add",),
    "statistics": ("stats",),
    "report": ("report",),
    "watch": ("watch",),
    "results": ("list", "show"),
    "configuration": ("config",),
    "keys": ("key",),
    "explain": ("explain",),
    "verify": ("verify",),
    "hub_repos": ("create", "set"),
    "lookup": ("lookup",),
    "push": ("push", "synchronize", "upload-queue"),
    "pull": ("pull",),
    "remote_status": ("remote",),
    "stock_import": ("import",),
    "stock_export": ("export",),
    "stock_folder": ("stock",),
    "precompile": ("precompile",),
    "collecting": ("gc", "collect", "archive-events"),
    "pinning": ("pin", "unpin"),
    "clearing": ("clear",),
    "disk_usage": ("du",),
    "recompressing": ("recompress",),
    "doctor": ("doctor",),
    "bugreport": ("bugreport",),
    "bench": ("bench",),
    "completion": ("completion",),
    "manual": ("man",),
}
_BY_WORD = {word: module for module, words in MODULES.items() for word in words} | {"--version": "environment"}


def modules_for(word: str) -> list[ModuleType]:
    """Return the module that has the command `word`; all of them where none has, to say which commands there are."""
    module = _BY_WORD.get(word)
    names = MODULES if module is None else (module,)
    return [importlib.import_module(f"neuron_store.cli.{name}") for name in names]
