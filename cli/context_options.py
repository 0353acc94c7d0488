"""What a person says of the model and its configuration: as options, as variables, and as an entry's fields.

Options become the variables NEURON_STORE_MODEL, NEURON_STORE_MODEL_TASK, … (see store/registry/contexts.py), which
reach the shim whatever starts it; the variables become the fields of an entry of the registry (its `neuron` part).
Every option of ours may be written as optimum-neuron writes its own, `--batch_size`, too (see main.py).
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from neuron_store.store.errors import ConfigurationError
from neuron_store.store.registry.contexts import FIELDS, INTEGERS, VARIABLE
from neuron_store.store.registry.entries import FIELD

_PANEL = "Which model and configuration"

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A Hub id, or a folder with config.json.", rich_help_panel=_PANEL
    ),
]
Revision = Annotated[
    str, typer.Option("--revision", metavar="REV", help="The model's commit or branch.", rich_help_panel=_PANEL)
]
Task = Annotated[
    str,
    typer.Option("--task", metavar="TASK", help="Such as text-generation; else the model's.", rich_help_panel=_PANEL),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, help="That it is compiled for.", rich_help_panel=_PANEL),
]
SequenceLength = Annotated[
    int | None,
    typer.Option("--sequence-length", metavar="N", min=1, help="That it is compiled for.", rich_help_panel=_PANEL),
]
NumCores = Annotated[
    int | None,
    typer.Option("--num-cores", metavar="N", min=1, help="Neuron cores that are used.", rich_help_panel=_PANEL),
]
AutoCastType = Annotated[
    str,
    typer.Option("--auto-cast-type", metavar="TYPE", help="Such as bf16.", rich_help_panel=_PANEL),
]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="TYPE", help="Of the weights, such as bfloat16.", rich_help_panel=_PANEL)
]
InstanceType = Annotated[
    str,
    typer.Option(
        "--instance-type",
        metavar="TYPE",
        help="That it is compiled for, such as inf2.",
        rich_help_panel=_PANEL,
    ),
]
TensorParallelSize = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size",
        metavar="N",
        min=1,
        help="Cores that share the model.",
        rich_help_panel=_PANEL,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="What else tells this configuration; repeatable.", rich_help_panel=_PANEL
    ),
]

AUTO_CAST_TYPES = ("bf16", "fp16", "fp32", "fp8_e4m3", "mixed", "tf32")
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "float": "float32"}
# optimum-neuron 0.4.5 compiles for the kind of core, and says so in its entries: these have the same.
_SAME_CORES = {"inf2": "trn1", "trn1n": "trn1"}
_INSTANCE_TYPE = re.compile(r"([a-z]{2,8}[0-9][a-z0-9-]{0,15})(?:\.[a-z0-9-]{1,20})?")
_SET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Fields of an entry that are told by an option, and by which.
_TOLD_BY = {
    **{field: field for field in FIELDS if field != "set"},
    "torch_dtype": "dtype",
    "target": "instance_type",
    "tp_degree": "tensor_parallel_size",
}
_AS_THEY_ARE = ("task", "batch_size", "sequence_length", "num_cores", "auto_cast_type")
_FOUND_OUT = (FIELD, "checkpoint_id", "checkpoint_revision", "compiler_type", "compiler_version")
_MOST_NAMED = 5  # variables that are not known
_LONGEST = 300  # characters, as entries have it


@dataclass
class ContextOptions:
    """What the options say, besides the model: "" or None where one was not given."""

    revision: str = ""
    task: str = ""
    batch_size: int | None = None
    sequence_length: int | None = None
    num_cores: int | None = None
    auto_cast_type: str = ""
    dtype: str = ""
    instance_type: str = ""
    tensor_parallel_size: int | None = None
    set: list[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no option was given."""
        return not any(vars(self).values())


def context_variables(options: ContextOptions, model_word: str) -> dict[str, str]:
    """Return the environment variables that say the same: none if nothing was said at all.

    Raises ConfigurationError for a value that cannot be, or if options are given without a model.
    """
    if not model_word:
        if options.is_empty:
            return {}
        given = ", ".join(option_of(name) for name, value in vars(options).items() if value)
        raise ConfigurationError(f"{given} says how a model is compiled: name the model with -m")
    where = _text(model_word, "-m")
    variables = {VARIABLE: os.path.abspath(where) if os.path.exists(where) else where}
    for field in FIELDS:
        value = getattr(options, field)
        if not value and value != 0:
            continue
        if field == "set":
            text = _joined(_settings_of(value, "--set"))
        else:
            text = str(_checked(field, value, option_of(field)))
        variables[variable_of(field)] = text
    return variables


def with_context(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with these variables in place of all that it says of a model; as it is, if there are none."""
    if not variables:
        return dict(environ)
    kept = {name: value for name, value in environ.items() if not name.startswith(VARIABLE)}
    return {**kept, **variables}


def neuron_fields(said: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of an entry's `neuron` part that the variables tell.

    Raises ConfigurationError, naming the variable, for a value that cannot be, or a variable that is not known.
    """
    known = {VARIABLE: "", **{variable_of(field): field for field in FIELDS}}
    unknown = sorted(said.keys() - known.keys())
    if unknown:
        named = ", ".join(ascii(name)[1:-1][:100] for name in unknown[:_MOST_NAMED])
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        raise ConfigurationError(f"{named}{more} is not known; there are {', '.join(known)}")
    told = {
        field: _checked(field, said[variable], variable)
        for variable, field in known.items()
        if field not in ("", "set") and said.get(variable)
    }
    fields = {name: told[name] for name in _AS_THEY_ARE if name in told}
    if "dtype" in told:
        fields["torch_dtype"] = told["dtype"]
    if "instance_type" in told:
        fields["target"] = compiled_target(told["instance_type"])
    degree = told.get("tensor_parallel_size", told.get("num_cores"))
    if degree is not None:
        fields["tp_degree"] = degree
    variable = variable_of("set")
    settings = _settings_of(_words(said.get(variable, "")), variable)
    return {**fields, **{name: _value(text) for name, text in settings.items()}}


def compiled_target(instance_type: str) -> str:
    """Return what an instance's type is compiled for, as optimum-neuron 0.4.5 files it: `inf2.xlarge` -> `trn1`."""
    family = instance_type.partition(".")[0]
    return _SAME_CORES.get(family, family)


def normal_dtype(word: str) -> str:
    """Return a type's name as torch has it: `bf16`, `torch.bfloat16` -> `bfloat16`."""
    name = word.removeprefix("torch.")
    return _DTYPES.get(name, name)


def variable_of(field: str) -> str:
    """Return the environment variable of a field."""
    return f"{VARIABLE}_{field.upper()}"


def option_of(field: str) -> str:
    """Return the option of a field, as help has it."""
    return "--" + field.replace("_", "-")


# -- values --------------------------------------------------------------------------------------------------------


def _checked(field: str, value: "str | int", where: str) -> Any:  # noqa: ANN401 - str or int, by the field
    """Return a field's value in its one spelling. `where` names what it was given by. Raises ConfigurationError."""
    if field in INTEGERS:
        return _positive(value, where)
    text = _text(str(value), where)
    if field == "auto_cast_type" and text not in AUTO_CAST_TYPES:
        raise ConfigurationError(f"{where} is {text!r}, which is none of {', '.join(AUTO_CAST_TYPES)}")
    if field == "dtype":
        text = normal_dtype(text)
        if not re.fullmatch(r"b?float[0-9]+[a-z0-9_]*|u?int[0-9]+", text):
            raise ConfigurationError(f"{where} is {value!r}, which is no type such as bfloat16, float16 or float32")
    if field == "instance_type":
        text = text.lower()
        if not _INSTANCE_TYPE.fullmatch(text):
            raise ConfigurationError(f"{where} is {value!r}, which is no instance type such as inf2 or trn1.32xlarge")
    return text


def _positive(value: "str | int", where: str) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) > 0):
        raise ConfigurationError(f"{where} is {value!r}, which is not a positive integer")
    return int(text)


def _text(text: str, where: str) -> str:
    if not (text.isprintable() and len(text) <= _LONGEST):
        raise ConfigurationError(f"{where} is {text[:_LONGEST]!r}, which is too long, or no printable text")
    return text


def _joined(settings: Mapping[str, str]) -> str:
    """Return what `_words` reads, in order of the names: the same context, however they were given."""
    words = [f"{name}={text}" for name, text in sorted(settings.items())]
    lines = any(word.split() != [word] for word in words)
    return "".join(word + "\n" for word in words) if lines else " ".join(words)


def _words(text: str) -> list[str]:
    """Return what stands in NEURON_STORE_MODEL_SET: lines if it has any, else words."""
    return [line for line in text.split("\n") if line.strip()] if "\n" in text else text.split()


def _settings_of(words: Iterable[str], where: str) -> dict[str, str]:
    """Read `name=value` words. Raises ConfigurationError for what is none, said twice, or told otherwise."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = _text(word, where).partition("=")
        if not (equals and _SET_NAME.fullmatch(name)):
            raise ConfigurationError(f"{where} has {word!r}, which is not written name=value")
        if name in _TOLD_BY:
            field = _TOLD_BY[name]
            instead = option_of(field) if where.startswith("-") else variable_of(field)
            raise ConfigurationError(f"{where} has {word!r}: that is said by {instead}")
        if name in _FOUND_OUT:
            raise ConfigurationError(f"{where} has {word!r}: {name} is found out, and cannot be said")
        if name in found:
            raise ConfigurationError(f"{where} has {name} twice")
        found[name] = text
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Return what JSON says, or the text itself where it is none."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
