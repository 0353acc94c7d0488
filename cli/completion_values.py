"""Values that completion offers: what this host knows without asking anyone, in bounded time on any store."""

import itertools
import os
from collections.abc import Callable, Iterator

from neuron_store.shim.settings import CHOICES, SETTINGS, load_settings
from neuron_store.store.collection.pins import read_pins
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import KEY_LENGTH, MODEL_VARIABLE, Layout, is_hex
from neuron_store.store.registry.contexts import all_contexts
from neuron_store.store.remotes.location import list_locations
from neuron_store.store.results import Result, load_result

Values = list[tuple[str, str]]  # each with what it means

_SHARDS = 256  # folders of keys
_MOST_KEYS = 20_000  # names that are looked at
_MOST_OFFERED = 500  # keys: more than that nobody looks through
_MOST_EXPLAINED = 24  # keys whose records are read
_MOST_CONTEXTS = 500
_SAMPLE = 16  # records that compilers' versions are taken from


def _store() -> Layout:
    return Layout(load_settings(os.environ, tolerant=True).dir)


def keys(word: str, most_shards: int) -> tuple[Values, bool]:
    """Return the keys that start with `word`, and whether they are whole.

    Where they are many, or lie in more than `most_shards` of the store's folders, only the two digits of these
    folders are returned; where all folders may be read, the first keys.
    """
    layout = _store()
    shards = [name for name in _names(f"{layout.root}/results") if is_hex(name, 2) and name.startswith(word[:2])]
    if len(shards) > most_shards:
        return [(name, "") for name in sorted(shards)], False
    names = itertools.chain.from_iterable(_names(f"{layout.root}/results/{shard}") for shard in sorted(shards))
    looked_at = itertools.islice(names, _MOST_KEYS)
    found = sorted(name for name in looked_at if is_hex(name, KEY_LENGTH) and name.startswith(word))
    if len(found) > _MOST_OFFERED and len(shards) > 1 and most_shards < _SHARDS:
        return [(name, "") for name in sorted(shards)], False
    found = found[:_MOST_OFFERED]
    return [(key, _module(layout, key) if len(found) <= _MOST_EXPLAINED else "") for key in found], True


def _names(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except OSError:
        return


def pinned(kinds: set[str]) -> Values:
    """Return what is pinned, as far as `kinds` (KEY, MODEL) are asked for."""
    layout = _store()
    try:
        pins = read_pins(layout)
    except OSError:
        return []
    keys = sorted(pins.keys)[:_MOST_OFFERED] if "KEY" in kinds else []
    models = sorted(pins.models) if "MODEL" in kinds else []
    explained = [(key, _module(layout, key) if len(keys) <= _MOST_EXPLAINED else "") for key in keys]
    return [*explained, *((name, "") for name in models)]


def _module(layout: Layout, key: str) -> str:
    try:
        result = load_result(layout, key)
    except (CorruptEntry, OSError):
        return ""
    return f"{result.input.get('name', '')}, {_compiler(result)}" if result else ""


def _compiler(result: Result) -> str:
    return str(result.provenance.get("compiler_version") or "")


def _models(_before: list[str]) -> Values:
    found = set()
    for context in itertools.islice(all_contexts(_store()), _MOST_CONTEXTS):
        try:
            found.add(context.said().get(MODEL_VARIABLE, ""))
        except (CorruptEntry, OSError):
            continue
    return [(name, "") for name in sorted(found - {""})]


def _remotes(_before: list[str]) -> Values:
    found, _ = list_locations(load_settings(os.environ, tolerant=True).remotes, os.environ)
    return [(location.url, "") for location in found]


def _repos(before: list[str]) -> Values:
    return [(url.removeprefix("hf://"), "") for url, _ in _remotes(before) if url.startswith("hf://")]


def _compilers(_before: list[str]) -> Values:
    """Return the versions of a few results' compilers: one of each of the store's first folders."""
    layout = _store()
    found = set()
    for shard in itertools.islice(_names(f"{layout.root}/results"), _SAMPLE):
        for key in itertools.islice(_names(f"{layout.root}/results/{shard}"), 1):
            try:
                result = load_result(layout, key)
            except (CorruptEntry, OSError):
                continue
            found.add(_compiler(result) if result else "")
    return [(version, "") for version in sorted(found - {""})]


def _settings(_before: list[str]) -> Values:
    return [(name, setting[2]) for name, setting in SETTINGS.items()]


def _setting_values(before: list[str]) -> Values:
    """Return what the setting that is named before can be set to, where that is one of a few words."""
    kind = SETTINGS[before[-1]][0] if before and before[-1] in SETTINGS else ""
    if kind == "boolean":
        return [("true", ""), ("false", "")]
    return [(word, "") for word in CHOICES.get(before[-1] if before else "", ())]


def _ages(_before: list[str]) -> Values:
    return [("1h", "an hour"), ("1d", "a day"), ("7d", "a week"), ("30d", "a month")]


# What stands for a value in help -> what it can be, given the arguments before it.
BY_KIND: dict[str, Callable[[list[str]], Values]] = {
    "AGE": _ages,
    "DEST": _remotes,
    "MODEL": _models,
    "REMOTE": _remotes,
    "REPO": _repos,
    "SETTING": _settings,
    "SOURCE": _remotes,
    "VALUE": _setting_values,
    "VERSION": _compilers,
    "WHEN": _ages,
}
BY_OPTION = {
    "--auto-cast-type": ("bf16", "fp16", "fp32", "fp8_e4m3", "mixed", "tf32"),
    "--dtype": ("bfloat16", "float16", "float32"),
    "--flags-hash": ("recorded", "json", "words", "both"),
    "--instance-type": ("inf2", "trn1", "trn1n", "trn2"),
    "--target": ("inf2", "trn1", "trn1n", "trn2"),
}
