"""From what the runs of a model noted (contexts) to the entries of the registry that remotes get."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from neuron_store.cli import presentation
from neuron_store.cli.context_options import compiled_target, neuron_fields, normal_dtype, variable_of
from neuron_store.cli.models import Model, resolve_model
from neuron_store.shim.log import write_log
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, CorruptEntry, NotFound, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.registry.architecture import strip_deeply
from neuron_store.store.registry.contexts import VARIABLE, Context, NotedKey, context_of, note_private_names
from neuron_store.store.registry.entries import SEED_FIELDS, Entry, KeyInfo
from neuron_store.store.registry.places import LOCAL, is_part, local_id
from neuron_store.store.registry.registrar import Filed, NotPublishable, Registrar
from neuron_store.store.remotes.base import UNVERSIONED
from neuron_store.store.remotes.private_names import PrivateNames, is_secret_name
from neuron_store.store.results import Result, load_result

# Fields of a configuration that a user or a host may be called like.
_NO_NAMES = ("architectures", "hidden_act", "model_type", "task")
_MODEL_FILE = "model.json"
_UNKNOWN_TARGET = ""
_LONGEST_MODULE = 300  # characters
# What optimum-neuron 0.4.5 needs of every entry that it lists: its command fails over one that lacks any of them.
_LISTED_BY = {"batch_size": int, "sequence_length": int, "tp_degree": int, "target": str, "torch_dtype": str}


def make_registrar(layout: Layout, settings: Settings, count: Callable[[str, str, str, int], None]) -> Registrar:
    """Return what publishes the contexts of a store, with `count` told what became of them."""
    names = PrivateNames.of_host(os.environ)

    known: dict[tuple[str, str, str], Model] = {}

    def make(context: Context) -> list[Filed]:
        try:
            return make_entries(layout, context, names, known)
        except NotPublishable as error:
            write_log(settings.log_file, f"the context {context.id} makes no entry in a registry: {error}")
            raise

    return Registrar(layout, make, count)


def make_entries(
    layout: Layout, context: Context, names: PrivateNames, known: "dict[tuple[str, str, str], Model] | None" = None
) -> list[Filed]:
    """Return the entries that a context makes: one for each compiler's version and kind of core that it was run with.

    `names` are taken out of what the entries say, as are those of whoever noted the context. `known` remembers models
    by what was said of them. Raises NotPublishable; RemoteError if the Hub does not tell now what the model is; OSError.
    """
    names = names.joined_with(context.private_names())
    try:
        said = context.said()
        fields = neuron_fields(said)
        model = remembered_model(context, said, {} if known is None else known)
    except (ConfigurationError, NotFound, CorruptEntry) as error:
        raise NotPublishable(str(error)) from error
    asked = said.get(variable_of("instance_type"), "").lower().partition(".")[0]
    groups: dict[tuple[str, str], dict[str, KeyInfo]] = {}
    for key in context.noted_keys():
        version, target, info = _describe_key(layout, context, key, names)
        groups.setdefault((version or UNVERSIONED, asked or target), {})[key] = info
    own_digests = model.own_digests  # of what it is, not of what may be told of it
    model = _without_names(model, names)
    uncached = context.uncached()
    return [
        _file(
            model, _redacted(fields, names), version, target, keys, uncached, own_digests, finished=context.is_finished
        )
        for (version, target), keys in groups.items()
    ]


def remembered_model(context: Context, said: dict[str, str], known: dict[tuple[str, str, str], Model]) -> Model:
    """Return the model that a context is of, asking the Hub only if that is not known yet.

    Raises NotFound, ConfigurationError, RemoteError like resolve_model; OSError.
    """
    try:
        return Model.from_dict(json.loads(context.read(_MODEL_FILE) or b""))
    except (ValueError, TypeError, RecursionError):
        words = (said.get(VARIABLE, ""), said.get(variable_of("task"), ""), said.get(variable_of("revision"), ""))
        if words not in known:
            known[words] = resolve_model(*words)
        remember_model(context, known[words])
        return known[words]


def _without_names(model: Model, names: PrivateNames) -> Model:
    """Return a model whose entry tells nothing private: its own name, if a folder gave it, and what its config says."""
    model_id = model.model_id
    if model_id.startswith(f"{LOCAL}/") and names.redact(model_id) != model_id:
        model_id = local_id("")
    configs = [_redact_value(strip_deeply(config), names) for config in model.configs]
    return dataclasses.replace(model, model_id=model_id, configs=configs)


def begin_context(layout: Layout, variables: dict[str, str], *, read_only: bool = False) -> Model | None:
    """Find out what the model of a run is, before it begins; None if the Hub does not tell now (which is said).

    Raises NotFound, ConfigurationError for what is no model. A store that cannot be written is no reason not to run.
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
    if not read_only:
        try:
            context.begin()
            note_private_names(context, os.environ)
            remember_model(context, model)
            context.write("fault", None)
        except OSError as error:
            presentation.remark(f"the keys cannot be noted: {layout.root}: {error.strerror or error}")
    return model


def note_finished(layout: Layout, variables: Mapping[str, str]) -> None:
    """Note that a run of a model ended well, if it noted any key: its entry is complete. Raises OSError."""
    context = Context(layout, context_of(variables))
    if variables.get(VARIABLE) and context.noted_keys() and not context.is_finished:
        context.write("finished", b"")


def remember_model(context: Context, model: Model) -> None:
    """Keep what was found out about a context's model. Raises OSError."""
    context.write(_MODEL_FILE, json.dumps(model.as_dict()).encode())


def _describe_key(layout: Layout, context: Context, key: str, names: PrivateNames) -> tuple[str, str, KeyInfo]:
    """Return the compiler's version, the kind of core, and what an entry tells of a key.

    From its result; where that is gone from the store, from what the context noted.
    """
    try:
        noted = context.noted(key)
    except OSError:
        noted = NotedKey(b"")
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
    return {str(name): value for name, value in _redact_value(fields, names).items()}


def _redact_value(value: Any, names: PrivateNames) -> Any:  # noqa: ANN401 - any JSON
    """Return JSON with every text in it redacted, but for the names of fields."""
    if isinstance(value, dict):
        return {
            name: inner if name in _NO_NAMES else "<token>" if is_secret_name(name) else _redact_value(inner, names)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_redact_value(inner, names) for inner in value]
    return names.redact(value) if isinstance(value, str) else value


def _file(
    model: Model,
    fields: dict[str, Any],
    version: str,
    target: str,
    keys: dict[str, KeyInfo],
    uncached: dict[str, set[str]],
    own_digests: list[str],
    *,
    finished: bool,
) -> Filed:
    found_out = {
        "task": model.task,
        "compiler_type": "neuronx-cc",
        "compiler_version": None if version == UNVERSIONED else version,
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
    entry = Entry(model.model_id, model.task, model.configs[0], neuron, keys, uncached, [*model.digests, *own_digests])
    entry.is_finished = finished
    listed = model.digests if _is_listed(neuron) else []
    return Filed(entry, version, model.release, [*listed, *own_digests])


def _is_listed(neuron: dict[str, Any]) -> bool:
    """Tell whether optimum-neuron can list the entry: one that it cannot would keep it from listing all others."""
    return all(type(neuron.get(name)) is kind for name, kind in _LISTED_BY.items())
