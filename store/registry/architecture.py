"""When two model configurations are of one architecture, and the digest by which optimum-neuron files it.

A configuration is a model's config.json as a dict; a pipeline's (diffusers) is a dict of such dicts by component. What
a fine-tune may change without another graph is left out, as optimum-neuron does (0.4.5, CACHE_WHITE_LIST).
"""

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Config = Mapping[str, Any]

LEFT_OUT = frozenset(
    (
        "_attn_implementation_autoset",
        "_commit_hash",
        "_diffusers_version",
        "_name_or_path",
        "_use_default_values",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "projection_dim",
        "return_dict",
        "sample_size",
        "torch_dtype",
        "torchscript",
        "transformers_version",
    )
)
# Said by the entry itself: what the graph is compiled with is its `neuron` part's.
_NOT_OF_THE_GRAPH = frozenset(("dtype", "neuron", "neuron_store"))
# What a config.json need not say, because nearly every class of transformers has it so.
_USUAL = {"initializer_range": 0.02, "pretraining_tp": 1, "rope_theta": 10000.0, "use_cache": True}
# The parts of a pipeline by which it is told, in this order; its VAEs are not compared (optimum-neuron does not either).
_PIPELINE_TYPES = {"unet": "stable-diffusion", "transformer": "diffusion-transformer"}
MAIN_COMPONENTS = tuple(_PIPELINE_TYPES)
_NOT_COMPARED = ("vae", "vae_encoder", "vae_decoder", "scheduler")


def strip(config: "Config") -> "dict[str, Any]":
    """Return a model's configuration without what is left out."""
    return {name: value for name, value in config.items() if name not in LEFT_OUT}


def strip_deeply(value: "Any") -> "Any":  # noqa: ANN401 - any JSON
    """Return a configuration without what is left out, in those inside it too."""
    if isinstance(value, dict):
        return {name: strip_deeply(inner) for name, inner in strip(value).items()}
    return [strip_deeply(inner) for inner in value] if isinstance(value, list) else value


def is_pipeline(config: "Config") -> bool:
    """Tell whether this is the configuration of a pipeline: one of its components says so, and it is no model's own."""
    own = isinstance(config.get("model_type"), str) and config["model_type"] not in _PIPELINE_TYPES.values()
    return not own and any(isinstance(config.get(name), dict) for name in MAIN_COMPONENTS)


def main_component(config: "Config") -> str:
    """Return the name of the component that a pipeline is told by, "" for a model."""
    if not is_pipeline(config):
        return ""
    return next(name for name in MAIN_COMPONENTS if isinstance(config.get(name), dict))


def model_type_of(config: "Config") -> str:
    """Return the type under which optimum-neuron files the model, "" if it has none."""
    if is_pipeline(config):
        return _PIPELINE_TYPES[main_component(config)]
    model_type = config.get("model_type")
    return model_type if isinstance(model_type, str) else ""


def arch_digest(task: "str | None", config: "Config") -> str:
    """Return the SHA-256 (64 hex digits) by which optimum-neuron 0.4.5 files a configuration.

    It is over every field with the defaults of the model's class filled in, so `config` should come from transformers.
    Of a pipeline's components optimum-neuron compares none.
    """
    model_type = model_type_of(config)
    if is_pipeline(config):
        described: dict[str, Any] = {"model_type": model_type, "configs": {}}
    else:
        own = {name: value for name, value in strip(config).items() if name not in ("neuron", "neuron_store")}
        described = {"model_type": model_type, "task": task, "config": own}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def own_digest(config: "Config") -> str:
    """Return the digest by which we file a configuration, whatever its task: all of our entries, in one folder.

    optimum-neuron's folder takes only what optimum-neuron can list.
    """
    return hashlib.sha256(b"neuron-store " + arch_digest(None, config).encode()).hexdigest()


def same_architecture(one: "Config", other: "Config", *, same_model: bool = False) -> bool:
    """Tell whether two configurations are of one architecture, as far as that is certain.

    A field that only one of them has must say nothing (null, false, 0, empty) or what is usual: what the class of the
    model fills in differs with the version of transformers, and what cannot be told apart counts as different. If both
    are known to be of the `same_model`, `other` may say more. Of pipelines, the components are compared that both tell:
    not all of what optimum-neuron writes has all of them.
    """
    if main_component(one) != main_component(other):
        return False
    if not is_pipeline(one):
        return _same_fields(one, other, same_model=same_model)
    names = {name for name, part in one.items() if isinstance(part, dict) and isinstance(other.get(name), dict)}
    return all(
        _same_fields(one[name], other[name], same_model=same_model) for name in names - {*_NOT_COMPARED, "neuron_store"}
    )


def _same_fields(one: "Config", other: "Config", *, same_model: bool) -> bool:
    names = (one.keys() if same_model else one.keys() | other.keys()) - LEFT_OUT - _NOT_OF_THE_GRAPH
    one, other = strip_deeply(one), strip_deeply(other)
    return all(_same_value(name, one, other) for name in names)


def _same_value(name: str, one: "Config", other: "Config") -> bool:
    usual = _USUAL.get(name)
    mine, theirs = one.get(name, usual), other.get(name, usual)
    return bool(mine == theirs or (not mine and not theirs))
