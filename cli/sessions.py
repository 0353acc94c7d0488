"""The small export or training session of optimum-neuron that `neuron-store add` runs where it is given no command.

Written for optimum-neuron 0.4.5. What `optimum-cli export neuron` does is `python -m optimum.exporters.neuron`, which
is started here by the interpreter that has it; a training is `torchrun` with training_session.py.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from neuron_store.cli import training_session
from neuron_store.cli.context_options import ContextOptions, compiled_target, normal_dtype
from neuron_store.cli.export_session import INSTEAD, PACKAGE, export_arguments, has_neuron_device
from neuron_store.store.errors import ConfigurationError

_OLDEST = (0, 4)  # whose command lines are known
_ASK = f"from importlib.metadata import version; print(version({PACKAGE!r}))"
_TARGET = "NEURON_PLATFORM_TARGET_OVERRIDE"
_PATIENCE = 60.0  # seconds for an interpreter to start

# Other names of tasks: of the seed's `add`, and of what transformers has one head for.
_SYNONYMS = {
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "speech-recognition": "automatic-speech-recognition",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
}
_CACHE_DIR = re.compile(r"--cache_dir(?:=|\s+)\S+\s*")


@dataclass
class Training:
    """What the options of the seed's `add` say of a training; None where one was not given."""

    train_batch_size: int | None = None
    eval_batch_size: int | None = None
    encoder_sequence_length: int | None = None
    decoder_sequence_length: int | None = None
    gradient_accumulation_steps: int | None = None
    max_steps: int = 10
    precision: str = ""

    def described(self, options: ContextOptions) -> ContextOptions:
        """Return `options` with what is said here, as an entry of the registry says it.

        Raises ConfigurationError if one of the lengths is given without the other.
        """
        if (self.encoder_sequence_length is None) != (self.decoder_sequence_length is None):
            raise ConfigurationError("--encoder-sequence-length and --decoder-sequence-length go together")
        if self.encoder_sequence_length and options.sequence_length:
            raise ConfigurationError("give either --sequence-length, or the encoder's and the decoder's")
        told = ("train", "eval") if self.train_batch_size else ()
        names = [f"{name}_batch_size" for name in told]
        names += ["gradient_accumulation_steps", "encoder_sequence_length", "decoder_sequence_length"]
        more = [f"{name}={value}" for name in names if (value := getattr(self, name))]
        made = replace(options, set=[*(options.set or []), *more])
        if self.precision == "bf16":
            made.auto_cast_type = made.auto_cast_type or "bf16"
            made.dtype = made.dtype or "bfloat16"
        if self.train_batch_size:
            made.batch_size = made.batch_size or self.train_batch_size
            # Cores that are not said to share the model train a copy each.
            made.tensor_parallel_size = made.tensor_parallel_size or 1
        return made


@dataclass
class Session:
    """A session that can be run.

    Attributes:
        command: its command line.
        options: what it compiles for, with all that was left to us.
        variables: that its environment must have besides.
    """

    command: list[str]
    options: ContextOptions
    variables: dict[str, str] = field(default_factory=dict)


def plan_session(
    model: str, options: ContextOptions, training: Training, config: Mapping[str, Any], folder: str
) -> Session:
    """Return the session for `model` (a Hub id, or an absolute folder), as a training if that says a batch size.

    The task in `options` is a canonical one. `config` is the model's own, {} where it is not known; `folder` is for what the session makes. Raises
    ConfigurationError if it cannot be run: optimum-neuron is absent, the task unknown, a shape not given.
    """
    if os.path.isfile(model):
        raise ConfigurationError(f"{model} is a file: name the model's folder, {INSTEAD}")
    options = training.described(options)
    python = find_optimum()
    if training.train_batch_size:
        return _plan_training(python, model, options, training, folder)
    arguments, options = export_arguments(
        model, replace(options, sequence_length=options.sequence_length or _one_length(training)), config
    )
    # What is to be compiled for must be known before anything of Neuron's is imported, as optimum-cli has it.
    elsewhere = options.instance_type and not has_neuron_device()
    variables = {_TARGET: compiled_target(options.instance_type.lower())} if elsewhere else {}
    words = [python, "-m", "optimum.exporters.neuron", *arguments, os.path.join(folder, "exported")]
    return Session(words, options, variables)


def _one_length(training: Training) -> int | None:
    encoder, decoder = training.encoder_sequence_length, training.decoder_sequence_length
    if encoder != decoder:
        raise ConfigurationError(f"an export has the same length for encoder and decoder, not {encoder} and {decoder}")
    return encoder


def canonical_task(task: str) -> str:
    """Return the name by which optimum-neuron files a task: `summarization` -> `text2text-generation`."""
    return _SYNONYMS.get(task, task)


def find_optimum() -> str:
    """Return the interpreter that has optimum-neuron: ours, else the first on PATH. Raises ConfigurationError."""
    release, python = _release_here(), sys.executable
    if not release:
        for name in ("python3", "python"):
            python = shutil.which(name) or ""
            release = _release_of(python) if python else ""
            if release:
                break
    if not release:
        raise ConfigurationError(
            f"{PACKAGE} is not installed, neither here nor for the python3 on PATH: "
            f"pip install 'optimum-neuron[neuronx]', {INSTEAD}"
        )
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers < _OLDEST:
        raise ConfigurationError(f"{PACKAGE} {release} is too old: update it to 0.4 or newer, {INSTEAD}")
    return python


def _release_here() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""


def _release_of(python: str) -> str:
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def session_environment(environ: Mapping[str, str], folder: str, remotes: list[str]) -> dict[str, str]:
    """Return the environment for a session whose every graph reaches the compiler, that is: the shim.

    The stock cache is an empty one in `folder`, and optimum-neuron's own on the Hub is passed over: it takes no name
    that is written as an address, while the shim does. `remotes` are words of the setting of that name, not none.
    """
    cache = os.path.join(folder, "cache")
    flags = _CACHE_DIR.sub("", environ.get("NEURON_CC_FLAGS", "")).strip()
    return {
        **environ,
        "NEURON_CC_FLAGS": f"{flags} --cache_dir={cache}".strip(),
        "NEURON_COMPILE_CACHE_URL": cache,
        "CUSTOM_CACHE_REPO": remotes[0],
        "NEURON_STORE_REMOTES": " ".join(remotes),
    }


# -- a training ----------------------------------------------------------------------------------------------------


def _plan_training(python: str, model: str, options: ContextOptions, training: Training, folder: str) -> Session:
    if options.task not in training_session.TASKS:
        known = ", ".join(training_session.TASKS)
        raise ConfigurationError(f"no training is known for the task {options.task!r}: choose of {known}, {INSTEAD}")
    length = options.sequence_length or training.encoder_sequence_length
    if not length:
        raise ConfigurationError(
            "a training has static shapes: give --sequence-length, or --encoder-sequence-length and "
            "--decoder-sequence-length"
        )
    cores = options.num_cores or 1
    dtype = normal_dtype(options.dtype) or "float32"
    if dtype not in ("bfloat16", "float32"):
        raise ConfigurationError(f"{PACKAGE} trains in bfloat16 or float32, not in {dtype}")
    given = {
        "model": model,
        "revision": options.revision,
        "task": options.task,
        "train_batch_size": training.train_batch_size,
        "sequence_length": length,
        "decoder_sequence_length": training.decoder_sequence_length,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_steps": training.max_steps,
        "output_dir": os.path.join(folder, "trained"),
    }
    words = [python, "-m", "torch.distributed.run", "--nproc_per_node", str(cores), training_session.__file__]
    for name, value in given.items():
        if value:
            words += [f"--{name}", str(value)]
    if dtype == "bfloat16":
        words.append("--bf16")
    return Session(words, replace(options, dtype=dtype, num_cores=cores))
