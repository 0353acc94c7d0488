"""From what the runs of a model noted (contexts) to the entries of the registry that remotes get."""

import json
import os
from collections.abc import Callable
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.context_options import compiled_target, neuron_fields, normal_dtype, variable_of
from neuron_store.cli.models import Model, resolve_model
from neuron_store.shim.log import write_log
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, CorruptEntry, NotFound, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.registry.contexts import VARIABLE, Context, context_of
from neuron_store.store.registry.entries import SEED_FIELDS, Entry, KeyInfo
from neuron_store.store.registry.places import is_part
from neuron_store.store.registry.registrar import Filed, NotPublishable, Registrar
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.results import Result, load_result

_MODEL_FILE = "model.json"
_UNKNOWN_TARGET = ""
_LONGEST_MODULE = 300  # characters
# What optimum-neuron 0.4.5 needs of every entry that it lists: its command fails over one that lacks any of them.
_LISTED_BY = {"batch_size": int, "sequence_length": int, "tp_degree": int, "target": str, "torch_dtype": str}


def make_registrar(layout: Layout, settings: Settings, count: Callable[[str, str, str], None]) -> Registrar:
    """Return what publishes the contexts of a store, with `count` told what became of them."""
    names = PrivateNames.of_host(os.environ)

    def make(context: Context) -> list[Filed]:
        try:
            return make_entries(layout, context, names)
        except NotPublishable as error:
            write_log(settings.log_file, f"the context {context.id} makes no entry in a registry: {error}")
            raise

    return Registrar(layout, make, count)


def make_entries(layout: Layout, context: Context, names: PrivateNames) -> list[Filed]:
    """Return the entries that a context makes: one for each compiler's version and kind of core that it was run with.

    `names` are taken out of what the entries say. Raises NotPublishable; RemoteError if the Hub does not tell now
    what the model is.
    """
    try:
        said = context.said()
        fields = neuron_fields(said)
        model = remembered_model(context, said)
    except (ConfigurationError, NotFound, OSError) as error:
        raise NotPublishable(str(error)) from error
    asked = said.get(variable_of("instance_type"), "").lower().partition(".")[0]
    groups: dict[tuple[str, str], dict[str, KeyInfo]] = {}
    for key in context.noted_keys():
        version, target, info = _describe_key(layout, context, key, names)
        groups.setdefault((version, asked or target), {})[key] = info
    return [
        _file(model, _redacted(fields, names), version, target, keys, context.uncached())
        for (version, target), keys in groups.items()
        if version
    ]


def remembered_model(context: Context, said: dict[str, str]) -> Model:
    """Return the model that a context is of, asking the Hub only if that is not known yet.

    Raises NotFound, ConfigurationError, RemoteError like resolve_model; OSError.
    """
    try:
        return Model.from_dict(json.loads(context.read(_MODEL_FILE) or b""))
    except (ValueError, TypeError):
        model = resolve_model(
            said.get(VARIABLE, ""), said.get(variable_of("task"), ""), said.get(variable_of("revision"), "")
        )
        remember_model(context, model)
        return model


def begin_context(layout: Layout, variables: dict[str, str]) -> Model | None:
    """Find out what the model of a run is, before it begins; None if the Hub does not tell now (which is said).

    Raises NotFound, ConfigurationError for what is no model; OSError if the store cannot be written.
    """
    said = context_of(variables)
    context = Context(layout, said)
    try:
        model = resolve_model(
            said.get(VARIABLE, ""), said.get(variable_of("task"), ""), said.get(variable_of("revision"), "")
        )
    except RemoteError as error:
        presentation.remark(f"{error}; the keys are kept until it can be told which model they are of")
        return None
    context.begin()
    remember_model(context, model)
    return model


def remember_model(context: Context, model: Model) -> None:
    """Keep what was found out about a context's model. Raises OSError."""
    context.write(_MODEL_FILE, json.dumps(model.as_dict()).encode())


def _describe_key(layout: Layout, context: Context, key: str, names: PrivateNames) -> tuple[str, str, KeyInfo]:
    """Return the compiler's version, the kind of core, and what an entry tells of a key.

    From its result; where that is gone from the store, from what the context noted.
    """
    noted = context.noted(key)
    info = KeyInfo(noted.seconds, None, _module(noted.module, names))
    try:
        result = load_result(layout, key)
    except (CorruptEntry, OSError):
        result = None
    if result is None:
        return noted.version, _UNKNOWN_TARGET, info
    info.seconds = result.seconds if info.seconds is None else info.seconds
    info.size = result.size
    info.module = info.module or _module(str(result.input.get("name", "")), names)
    info.components = {part["name"]: part["digest"] for part in result.components}
    version = noted.version or str(result.provenance.get("compiler_version") or "")
    return version, _target_of(result), info


def _target_of(result: Result) -> str:
    """Return what a result was compiled for: by --target, or for the host that it was compiled on."""
    options = result.component("flags")
    for place, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name == "--target":
            return value if equals else [*options, ""][place + 1]
    host = result.component("host")
    return host[0].partition(".")[0] if host else _UNKNOWN_TARGET


def _module(name: str, names: PrivateNames) -> str:
    text = names.redact(os.path.basename(name))[:_LONGEST_MODULE]
    return text if text.isprintable() else ""


def _redacted(fields: dict[str, Any], names: PrivateNames) -> dict[str, Any]:
    return {name: names.redact(value) if isinstance(value, str) else value for name, value in fields.items()}


def _file(
    model: Model,
    fields: dict[str, Any],
    version: str,
    target: str,
    keys: dict[str, KeyInfo],
    uncached: dict[str, set[str]],
) -> Filed:
    found_out = {
        "task": model.task,
        "compiler_type": "neuronx-cc",
        "compiler_version": version,
        "checkpoint_id": model.model_id,
        "checkpoint_revision": model.revision or None,
    }
    neuron = {**dict.fromkeys(SEED_FIELDS), **fields, **found_out}
    if is_part(target):
        neuron["target"] = compiled_target(target)
        if neuron["target"] != target:
            neuron["instance_type"] = target
    if model.dtype:
        neuron.setdefault("torch_dtype", normal_dtype(model.dtype))
    uncached = {counter: kept for counter, named in uncached.items() if (kept := named - keys.keys())}
    entry = Entry(model.model_id, model.task, model.configs[0], neuron, keys, uncached, model.digests)
    return Filed(entry, version, model.release, model.digests if _is_listed(neuron) else ())


def _is_listed(neuron: dict[str, Any]) -> bool:
    """Tell whether optimum-neuron can list the entry: one that it cannot would keep it from listing all others."""
    return all(type(neuron.get(name)) is kind for name, kind in _LISTED_BY.items())
