"""What a person says of the configuration that an entry must have, in the words of any optimum-neuron."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from neuron_store.cli.context_options import compiled_target
from neuron_store.store.registry.architecture import is_pipeline
from neuron_store.store.registry.entries import Entry

TASK = Annotated[str, typer.Option("--task", metavar="TASK", help="Only entries for this task: text-generation, say.")]
BATCH_SIZE = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="Only entries of this batch size.")
]
SEQUENCE_LENGTH = Annotated[
    int | None,
    typer.Option("--sequence-length", metavar="N", min=1, help="Only entries of this sequence length."),
]
NUM_CORES = Annotated[
    int | None, typer.Option("--num-cores", metavar="N", min=1, help="Only entries for so many cores.")
]
TENSOR_PARALLEL_SIZE = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size", "--tp", metavar="N", min=1, help="Only entries of models split over so many cores."
    ),
]
AUTO_CAST_TYPE = Annotated[
    str,
    typer.Option("--auto-cast-type", metavar="TYPE", help="Only entries cast to it: bf16, fp16, …"),
]
DTYPE = Annotated[str, typer.Option("--dtype", "--torch-dtype", metavar="TYPE", help="Only entries of this dtype.")]
INSTANCE_TYPE = Annotated[
    str,
    typer.Option("--instance-type", metavar="TYPE", help="Only entries for it: trn1, inf2, inf2.xlarge, …"),
]

# The names that entries of any release have for one thing, the most telling first.
_SYNONYMS = {
    "batch_size": ("batch_size", "static_batch_size"),
    "sequence_length": ("sequence_length", "static_sequence_length"),
    "num_cores": ("num_cores", "tp_degree", "tensor_parallel_size", "tp"),
    "tensor_parallel_size": ("tp_degree", "tensor_parallel_size", "tp", "num_cores"),
    "auto_cast_type": ("auto_cast_type",),
    "dtype": ("torch_dtype", "dtype", "float_dtype", "precision"),
    "instance_type": ("instance_type", "target"),
}
_TYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "fp64": "float64",
}


def _plain(value: object) -> str:
    return str(value)


def _type_name(value: object) -> str:
    name = str(value).lower().removeprefix("torch.")
    return _TYPES.get(name, name)


def _family(value: object) -> str:
    """Return `inf2` for `inf2.xlarge`: one family runs what was compiled for any of its sizes."""
    return str(value).lower().partition(".")[0]


def _target(value: object) -> str:
    """Return `trn1` for `inf2`, as optimum-neuron files what runs on both."""
    return compiled_target(str(value).lower())


_FORMS: dict[str, Callable[[object], str]] = {
    "auto_cast_type": _type_name,
    "dtype": _type_name,
    "instance_type": _family,
}


def said_of(entry: Entry, name: str) -> "object | None":
    """Return what an entry says of `name`, under whichever name it has for it; None where it says nothing."""
    if name == "task":
        return entry.task
    return next((entry.neuron[word] for word in _SYNONYMS[name] if entry.neuron.get(word) is not None), None)


@dataclass(frozen=True)
class EntryFilter:
    """What an entry must say. None and "" ask for nothing.

    Attributes:
        asked: name (as above) -> the value that is wanted.
        compiler: how the compiler's version must begin; "" leaves it to what is installed.
    """

    asked: dict[str, object]
    compiler: str = ""

    def lets_pass(self, entry: Entry) -> bool:
        """Tell whether the entry says all that is asked for. One that does not say something has it not."""
        return all(self._agrees(entry, name, value) for name, value in self.asked.items())

    def described(self) -> str:
        """Return what is asked for, in words; "" if nothing is."""
        return ", ".join(f"{name} {value}" for name, value in self.asked.items())

    @staticmethod
    def _agrees(entry: Entry, name: str, value: object) -> bool:
        form = _FORMS.get(name, _plain)
        if name == "instance_type" and not entry.ours:  # ours tell what was asked of the compiler, which is in the keys
            form = _target
        said = said_of(entry, name)
        if said is None and name == "task":
            return is_pipeline(entry.config)  # all of its tasks have the same parts, and it tells none
        return said is not None and form(said) == form(value)


def make_filter(
    *,
    task: str,
    batch_size: int | None,
    sequence_length: int | None,
    num_cores: int | None,
    tensor_parallel_size: int | None,
    auto_cast_type: str,
    dtype: str,
    instance_type: str,
    compiler: str,
) -> EntryFilter:
    """Return the filter that a command's options ask for."""
    wanted = {
        "task": task,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "num_cores": num_cores,
        "tensor_parallel_size": tensor_parallel_size,
        "auto_cast_type": auto_cast_type,
        "dtype": dtype,
        "instance_type": instance_type,
    }
    return EntryFilter({name: value for name, value in wanted.items() if value}, compiler)
