r"""Entries of the registry: one model in one configuration, and (ours) the keys that it needs.

An entry is JSON that optimum-neuron reads:

    the model's configuration (config.json), as the top level; of a pipeline, its components' by name
    neuron           how it was compiled: task, batch_size, num_cores, auto_cast_type, sequence_length, compiler_type,
                     compiler_version, checkpoint_id, checkpoint_revision, and more; of a pipeline, in its main component
    _entry_class, _model_id, _task       since 0.2.0; before that, the entry's path tells them
    neuron_store     ours, which optimum-neuron ignores; for those before 0.4.5, which compare the top level with the
                     model's configuration, it stands in `neuron`. Grammar, format 1:
        format       1
        finished     whether a run is known to have ended well, so that these are all keys that it needs
        digests      of the architecture (64 hex digits each), by every way in which its maker could tell it
        keys         key -> {"seconds": of the compile or null, "bytes": of all outputs or null, "module": name,
                     "components": {name: digest, 32 hex}}
        uncached     counter -> names (32 hex digits) of compiles that have no key: each run does them again

An entry's name is a hash of it without `neuron_store`, as optimum-neuron computes it: so the keys that hosts find out
one by one meet in one entry.
"""

import hashlib
import json

from neuron_store.store.errors import CorruptRemote
from neuron_store.store.layout import BLOB_LENGTH, KEY_LENGTH, is_hex
from neuron_store.store.registry.architecture import (
    arch_digest,
    is_pipeline,
    main_component,
    model_type_of,
    strip,
)
from neuron_store.store.registry.places import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FIELD = "neuron_store"
FORMAT = 1
# What the `neuron` part has always told, in the order in which optimum-neuron's lookup printed it up to release 0.1.
SEED_FIELDS = (
    "task",
    "batch_size",
    "num_cores",
    "auto_cast_type",
    "sequence_length",
    "compiler_type",
    "compiler_version",
    "checkpoint_id",
    "checkpoint_revision",
)
LARGEST_ENTRY = 8 << 20  # bytes
_MODEL_CLASS, _PIPELINE_CLASS = "SingleModelCacheEntry", "MultiModelCacheEntry"
_OWN = ("_entry_class", "_model_id", "_task", FIELD, "neuron")
_MOST_KEYS = 100_000
_MOST_UNCACHED = 1000
_MOST_COMPONENTS = 20
_MOST_DIGESTS = 100
_LONGEST_TEXT = 300  # characters


class KeyInfo:
    """What an entry knows of one key.

    Attributes:
        seconds: of its compile, None where unknown.
        size: bytes of its outputs, None where unknown.
        module: the name of the module's file.
        components: name -> digest (32 hex digits) of what the key is made of.
    """

    __slots__ = ("components", "module", "seconds", "size")

    def __init__(
        self,
        seconds: "float | None" = None,
        size: "int | None" = None,
        module: str = "",
        components: "dict[str, str] | None" = None,
    ) -> None:
        self.seconds = seconds
        self.size = size
        self.module = module
        self.components = components or {}

    def as_dict(self) -> "dict[str, Any]":
        """Return it as the entry has it."""
        return {"seconds": self.seconds, "bytes": self.size, "module": self.module, "components": self.components}

    def merged_with(self, other: "KeyInfo") -> "KeyInfo":
        """Return the same, with what only `other` knows."""
        return KeyInfo(
            other.seconds if self.seconds is None else self.seconds,
            other.size if self.size is None else self.size,
            self.module or other.module,
            self.components or other.components,
        )


class Entry:
    """One entry.

    Attributes:
        model_id: "org/name".
        task: None where it is not known, or the entry is of a whole pipeline.
        config: the model's, or the pipeline's by component; without what is left out (architecture.py) and without
            the `neuron` part (the main component's, of a pipeline: each of its components may have one).
        neuron: how it was compiled.
        keys: that it needs; empty in an entry that is not ours.
        uncached: counter -> names of compiles that have no key.
        digests: of the architecture, as its maker told them.
        ours: whether it tells its keys at all.
        is_finished: whether a run of it is known to have ended well.
        is_later: whether it tells them in a form that only a later version of ours knows.
    """

    __slots__ = (
        "config",
        "digests",
        "is_finished",
        "is_later",
        "keys",
        "model_id",
        "neuron",
        "ours",
        "task",
        "uncached",
    )

    def __init__(
        self,
        model_id: str,
        task: "str | None",
        config: "dict[str, Any]",
        neuron: "dict[str, Any]",
        keys: "dict[str, KeyInfo] | None" = None,
        uncached: "dict[str, set[str]] | None" = None,
        digests: "Iterable[str]" = (),
    ) -> None:
        self.model_id = model_id
        self.task = task
        self.config = _strip_all(config)
        self.neuron = neuron
        self.keys = keys or {}
        self.uncached = uncached or {}
        self.digests = set(digests)
        self.ours = keys is not None
        self.is_finished = False
        self.is_later = False

    @property
    def model_type(self) -> str:
        """The type under which it is filed."""
        return model_type_of(self.config)

    @property
    def name(self) -> str:
        """Its file's name: 20 hex digits, the same whatever keys it has."""
        return hashlib.sha512(_dump(self._document(self.neuron)).encode()).hexdigest()[:20]

    @property
    def arch_digest(self) -> str:
        """The digest under which optimum-neuron 0.4.5 files it."""
        return arch_digest(self.task, self.config)

    @property
    def seconds(self) -> float:
        """All of its compiles that are known, in seconds."""
        return sum(info.seconds or 0.0 for info in self.keys.values())

    @property
    def size(self) -> int:
        """Bytes of all its outputs that are known."""
        return sum(info.size or 0 for info in self.keys.values())

    def _document(self, neuron: "dict[str, Any]") -> "dict[str, Any]":
        document = dict(self.config)
        main = main_component(self.config)
        if main:
            document[main] = {**document[main], "neuron": neuron}
        else:
            document["neuron"] = neuron
        document["_entry_class"] = _PIPELINE_CLASS if main else _MODEL_CLASS
        document["_model_id"] = self.model_id
        document["_task"] = None if main else self.task
        return document

    def encode(self, *, inside: bool = False) -> bytes:
        """Return the entry's file: the same bytes for the same entry. `inside` puts the keys into `neuron`."""
        ours = {
            "format": FORMAT,
            "finished": self.is_finished,
            "digests": sorted(self.digests),
            "keys": {key: info.as_dict() for key, info in self.keys.items()},
            "uncached": {counter: sorted(names) for counter, names in self.uncached.items() if names},
        }
        if inside:
            return _dump(self._document({**self.neuron, FIELD: ours})).encode()
        return _dump({**self._document(self.neuron), FIELD: ours}).encode()

    def merged_with(self, other: "Entry") -> "Entry":
        """Return the same entry with the keys of both. Compiles that have a key by now are no more without one."""
        keys = dict(other.keys)
        for key, info in self.keys.items():
            keys[key] = info.merged_with(keys[key]) if key in keys else info
        uncached = {
            counter: (self.uncached.get(counter, set()) | other.uncached.get(counter, set())) - keys.keys()
            for counter in (*self.uncached, *other.uncached)
        }
        merged = Entry(
            self.model_id,
            self.task,
            self.config,
            self.neuron,
            keys,
            {name: set(sorted(has)[:_MOST_UNCACHED]) for name, has in sorted(uncached.items())[:_MOST_UNCACHED] if has},
            sorted(self.digests | other.digests)[:_MOST_DIGESTS],
        )
        merged.is_finished = self.is_finished or other.is_finished
        return merged


def _dump(document: "dict[str, Any]") -> str:
    return json.dumps(document, indent=2, sort_keys=True)


def _strip_all(config: "dict[str, Any]") -> "dict[str, Any]":
    own = {name: value for name, value in strip(config).items() if name not in _OWN}
    if not is_pipeline(config):
        return own
    stripped = {name: strip(part) if isinstance(part, dict) else part for name, part in own.items()}
    stripped[main_component(config)].pop("neuron", None)
    return stripped


# -- in ------------------------------------------------------------------------------------------------------------


def decode_entry(data: bytes, place: Place) -> Entry:
    """Read the entry at `place`, of any layout, believing nothing. Raises CorruptRemote."""
    try:
        return _decode(json.loads(data), place)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise CorruptRemote(f"the entry {place.path} cannot be believed: {said}") from error


def _decode(document: "Any", place: Place) -> Entry:  # noqa: ANN401 - JSON
    if type(document) is not dict:
        raise TypeError("it is no object")
    config = {name: value for name, value in document.items() if name not in _OWN}
    if not model_type_of(config):
        raise ValueError("it has no model type")
    neuron = document[main_component(config)]["neuron"] if is_pipeline(config) else document["neuron"]
    if type(neuron) is not dict:
        raise TypeError("it does not say how the model was compiled")
    model_id = document.get("_model_id") or place.model_id or neuron.get("checkpoint_id")
    if not isinstance(model_id, str) or not _is_shown_as_it_is(model_id):
        raise ValueError("it names no model")
    inside = neuron.pop(FIELD, None)
    ours = document.get(FIELD) or inside
    # What a component of optimum-neuron's pipelines says is its own task.
    told = neuron.get("task") if ours or not is_pipeline(config) else None
    task = document.get("_task") or told
    if task is not None and not (isinstance(task, str) and _is_shown_as_it_is(task)):
        raise TypeError("its task is none")
    if type(ours) is not dict or ours.get("format") != FORMAT:
        entry = Entry(model_id, task, config, neuron)
        entry.is_later = type(ours) is dict and type(ours.get("format")) is int
        return entry
    entry = Entry(model_id, task, config, neuron, *_decode_ours(ours))
    entry.is_finished = ours["finished"] is True
    return entry


def _is_shown_as_it_is(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_TEXT and text.isprintable()


def _decode_ours(ours: "dict[str, Any]") -> "tuple[dict[str, KeyInfo], dict[str, set[str]], list[str]]":
    """Return the keys, what has no key, and the digests."""
    keys, uncached, digests = ours["keys"], ours["uncached"], ours["digests"]
    if type(keys) is not dict or len(keys) > _MOST_KEYS or type(uncached) is not dict or len(uncached) > _MOST_UNCACHED:
        raise ValueError("its keys are none, or too many")
    if type(digests) is not list or len(digests) > _MOST_DIGESTS:
        raise ValueError("its digests are none, or too many")
    return (
        {_hex(key): _decode_info(info) for key, info in keys.items()},
        {_counter(counter): _decode_names(names) for counter, names in uncached.items()},
        [_hex(digest, BLOB_LENGTH) for digest in digests],
    )


def _decode_info(info: "Any") -> KeyInfo:  # noqa: ANN401 - JSON
    seconds, size, module, components = (info[name] for name in ("seconds", "bytes", "module", "components"))
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < 1e9):
        raise ValueError("a compile's seconds are none")
    if size is not None and (type(size) is not int or not 0 <= size < 1 << 62):
        raise ValueError("a size is none")
    if type(module) is not str or len(module) > _LONGEST_TEXT or not module.isprintable():
        raise ValueError("a module has no name")
    if type(components) is not dict or len(components) > _MOST_COMPONENTS:
        raise ValueError("components are none")
    named = {_counter(name): _hex(digest) for name, digest in components.items()}
    return KeyInfo(None if seconds is None else float(seconds), size, module, named)


def _decode_names(names: "Any") -> "set[str]":  # noqa: ANN401 - JSON
    if type(names) is not list or len(names) > _MOST_UNCACHED:
        raise ValueError("a list of compiles is none, or too long")
    return {_hex(name) for name in names}


def _hex(text: object, length: int = KEY_LENGTH) -> str:
    if not isinstance(text, str) or not is_hex(text, length):
        raise ValueError("a key is none")
    return text


def _counter(text: object) -> str:
    if not isinstance(text, str) or not text.replace("_", "a").isalnum() or not text.isascii() or len(text) > 60:
        raise ValueError("a name is none")
    return text
