"""What a person means by MODEL: a Hub id, a folder, or a config.json; and what the registry needs to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuron_store.store.registry.architecture import same_architecture
from neuron_store.store.registry.entries import Entry


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
    """

    model_id: str
    revision: str
    task: str | None
    configs: list[dict[str, Any]]
    digests: list[str]
    release: str
    fields: dict[str, Any] = field(default_factory=dict)

    def fits(self, entry: Entry) -> bool:
        """Tell whether the entry is of this architecture."""
        return any(same_architecture(config, entry.config) for config in self.configs)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Model":
        """Return what `as_dict` told. Raises TypeError."""
        return cls(**values)


def resolve_model(word: str, task: str = "", revision: str = "") -> Model:
    """Find out what `word` means: a folder or config.json on disk, else an id of the Hub.

    Raises NotFound if there is no such model; RemoteRefused, RemoteUnavailable if the Hub does not tell and its
    configuration is not in huggingface_hub's own cache; ConfigurationError for a config.json that is none.
    """
    raise NotImplementedError
