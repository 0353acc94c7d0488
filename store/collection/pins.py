"""Pins: results and models that are never collected.

    pins/<key>              a result, by its 32 hex digits
    pins/model-<16 hex>     a model: its content is the model's name, the digits are the name's XXH3

A model's results are those that its contexts name (registry/contexts.py), also those that its later runs add.
"""

import os
from dataclasses import dataclass, field

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import KEY_LENGTH, MODEL_VARIABLE, Layout, is_hex, read_file
from neuron_store.store.registry.contexts import all_contexts

_MODEL = "model-"


@dataclass
class Pins:
    """What is pinned.

    Attributes:
        keys: of results that are pinned by themselves.
        models: names of pinned models.
    """

    keys: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)


def read_pins(layout: Layout) -> Pins:
    """Return what is pinned. Raises OSError where that cannot be read: then nothing may be collected."""
    pins = Pins()
    try:
        names = os.listdir(f"{layout.root}/pins")
    except FileNotFoundError:
        return pins
    for name in names:
        if is_hex(name, KEY_LENGTH):
            pins.keys.add(name)
        elif name.startswith(_MODEL):
            content = read_file(_path(layout, name))
            if content is not None:
                pins.models.add(os.fsdecode(content))
    return pins


def pin_key(layout: Layout, key: str) -> None:
    """Pin a result. Raises OSError."""
    layout.write_file(_path(layout, key), b"")


def pin_model(layout: Layout, model: str) -> None:
    """Pin a model's results. Raises OSError."""
    layout.write_file(_model_path(layout, model), os.fsencode(model))


def unpin_key(layout: Layout, key: str) -> bool:
    """Take a result's pin away; return whether it had one. Raises OSError."""
    return _remove(_path(layout, key))


def unpin_model(layout: Layout, model: str) -> bool:
    """Take a model's pin away; return whether it had one. Raises OSError."""
    return _remove(_model_path(layout, model))


def is_pinned(layout: Layout, key: str) -> bool:
    """Tell whether a result is pinned by itself."""
    return os.path.exists(_path(layout, key))


def models_by_key(layout: Layout) -> "dict[str, set[str]]":
    """Return which models each key is of, as far as contexts tell."""
    found: dict[str, set[str]] = {}
    for context in all_contexts(layout):
        try:
            model = context.said().get(MODEL_VARIABLE, "")
        except (CorruptEntry, OSError):
            continue  # the next run of its model mends it
        for key in context.noted_keys() if model else ():
            found.setdefault(key, set()).add(model)
    return found


def _model_path(layout: Layout, model: str) -> str:
    return _path(layout, _MODEL + xxh3_hex(os.fsencode(model))[:16])


def _path(layout: Layout, name: str) -> str:
    return f"{layout.root}/pins/{name}"


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
