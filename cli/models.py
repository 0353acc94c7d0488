"""What a person means by MODEL: a Hub id, a folder, or a config.json; and what the registry needs to know of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuron_store.cli.model_config import (
    ask_transformers,
    exact_digest,
    parse_config,
    require_type,
    task_of,
)
from neuron_store.cli.model_files import CONFIG, PIPELINE, Files, find_files, shown
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.registry.architecture import (
    arch_digest,
    is_pipeline,
    main_component,
    own_digest,
    same_architecture,
    strip,
)
from neuron_store.store.registry.entries import Entry
from neuron_store.store.registry.places import LOCAL, is_part

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
# Components of a pipeline that are never compiled, by the end of their class's name.
_NO_MODELS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "FeatureExtractor", "SafetyChecker")
_MOST_COMPONENTS = 30


@dataclass
class Model:
    """A model, as far as the registry is concerned.

    Attributes:
        model_id: of the Hub, "org/name" (or a name alone); "local/<folder's name>" for one on disk.
        revision: the commit, 40 hex digits; "" where none is known, as on disk.
        task: given, or told by the architecture's name; None where neither says it.
        configs: its configuration, the most exact one first: as transformers has it, with the defaults of the model's
            class (where transformers is installed), and as config.json has it. Of a pipeline, by component.
        digests: under which the registry may file it, in the order of `configs`, each once.
        release: of the optimum-neuron that is installed, else the newest whose layout is known.
        dtype: of its weights, as its configuration has it (`bfloat16`), "" where that says nothing.
    """

    model_id: str
    revision: str
    task: str | None
    configs: list[dict[str, Any]]
    digests: list[str]
    release: str
    dtype: str = ""

    @property
    def own_digests(self) -> list[str]:
        """The digests under which we file it, whatever its task, in the order of `configs`, each once."""
        return list(dict.fromkeys(map(own_digest, self.configs)))

    def fits(self, entry: Entry) -> bool:
        """Tell whether the entry is of this architecture: by its digests where it tells them, else as it seems."""
        if not is_pipeline(self.configs[0]) and entry.digests.intersection([*self.digests, *self.own_digests]):
            return True
        same_model = entry.model_id == self.model_id and not self.model_id.startswith(f"{LOCAL}/")
        if entry.ours and self.revision:
            same_model = same_model and entry.neuron.get("checkpoint_revision") == self.revision
        return any(same_architecture(config, entry.config, same_model=same_model) for config in self.configs)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Model":
        """Return what `as_dict` told. Raises TypeError."""
        model = cls(**values)
        texts = (model.model_id, model.revision, "" if model.task is None else model.task, model.release, model.dtype)
        if not (isinstance(model.configs, list) and isinstance(model.digests, list) and model.configs):
            raise TypeError("a model's configurations are none")
        if not all(isinstance(text, str) for text in (*texts, *model.digests)):
            raise TypeError("what should be text of a model is none")
        if not all(isinstance(config, dict) for config in model.configs):
            raise TypeError("a model's configuration is none")
        return model


def resolve_model(word: str, task: str = "", revision: str = "") -> Model:
    """Find out what `word` means: a folder or config.json on disk, else an id of the Hub.

    `revision` is for the Hub, and means nothing on disk. Raises NotFound if there is no such model; RemoteRefused,
    RemoteUnavailable if the Hub does not tell and its configuration is not in huggingface_hub's own cache;
    ConfigurationError for a config.json that is none, and for words that can mean no model.
    """
    if task and not _TASK.fullmatch(task):
        raise ConfigurationError(f"{shown(task)} is no task; a task is written like text-generation")
    files = find_files(word, revision)
    data = files.read(files.config)
    if data is None:
        return _resolve_pipeline(files, task or None)
    plain = parse_config(data, files.name(files.config))
    require_type(plain, files.name(files.config))
    known_task = task or task_of(plain)
    installed = ask_transformers(data, known_task)
    dtype = _dtype_of(plain)
    if dtype:  # transformers has called it so since 4.56, whatever config.json calls it
        plain["dtype"] = dtype
    configs, digests = [strip(plain)], [arch_digest(known_task, plain)]
    if installed.config is not None:
        configs.insert(0, installed.config)
        digests.insert(0, exact_digest(known_task, installed.config))
    unique = list(dict.fromkeys(digests))
    return Model(files.model_id, files.revision, known_task, configs, unique, installed.release, dtype)


def _dtype_of(config: dict[str, Any]) -> str:
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype if isinstance(dtype, str) else ""


def _resolve_pipeline(files: Files, task: str | None) -> Model:
    data = files.read(PIPELINE)
    if data is None:
        raise files.is_none()
    index = parse_config(data, files.name(PIPELINE))
    configs: dict[str, Any] = {}
    for name in _components(index):
        path = f"{name}/{CONFIG}"
        component = files.read(path)
        if component is not None:
            configs[name] = strip(parse_config(component, files.name(path)))
        elif path in files.unknown:
            raise files.is_none()
    if not is_pipeline(configs):
        raise ConfigurationError(
            f"{files.name(PIPELINE)} is of a pipeline that has neither a unet nor a transformer with a {CONFIG}; name "
            "another model, or download all of its files"
        )
    return Model(
        files.model_id,
        files.revision,
        task,
        [configs],
        [arch_digest(task, configs)],
        ask_transformers(None, task).release,
        _dtype_of(configs[main_component(configs)]),
    )


def _components(index: dict[str, Any]) -> list[str]:
    """Return the names of a pipeline's models: each is told with its library and its class."""
    return [
        name
        for name, kind in index.items()
        if is_part(name)
        and isinstance(kind, list)
        and len(kind) == 2
        and isinstance(kind[1], str)
        and not kind[1].endswith(_NO_MODELS)
    ][:_MOST_COMPONENTS]
