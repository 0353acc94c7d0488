"""The command line of a small export by optimum-neuron 0.4.5: which static shapes and options each kind of task has."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuron_store.cli.context_options import ContextOptions, normal_dtype, option_of
from neuron_store.cli.training_session import CHOICES
from neuron_store.store.errors import ConfigurationError

PACKAGE = "optimum-neuron"
INSTEAD = "or give a command of your own after --"

_TEXT = ("batch_size", "sequence_length")
_AUDIO = ("batch_size", "audio_sequence_length")
_PICTURE = ("batch_size", "height", "width")
# task -> the static shapes without which it cannot be exported
_NEEDED: dict[str, tuple[str, ...]] = {
    "audio-classification": _AUDIO,
    "audio-frame-classification": _AUDIO,
    "audio-xvector": _AUDIO,
    "automatic-speech-recognition": _AUDIO,
    "feature-extraction": _TEXT,
    "fill-mask": _TEXT,
    "image-classification": ("batch_size",),
    "image-to-image": _PICTURE,
    "inpainting": _PICTURE,
    "multiple-choice": (*_TEXT, "num_choices"),
    "object-detection": ("batch_size",),
    "question-answering": _TEXT,
    "semantic-segmentation": ("batch_size",),
    "sentence-similarity": _TEXT,
    "text-classification": _TEXT,
    "text-generation": _TEXT,
    "text-to-image": _PICTURE,
    "text2text-generation": (*_TEXT, "num_beams"),
    "token-classification": _TEXT,
    "zero-shot-image-classification": (
        "text_batch_size",
        "image_batch_size",
        "sequence_length",
        "num_channels",
        "height",
        "width",
    ),
}
_DEFAULTS = {
    "batch_size": 1,
    "image_batch_size": 1,
    "num_beams": 1,
    "num_channels": 3,
    "num_choices": CHOICES,
    "text_batch_size": 1,
}
# Shapes that an export takes, and a person gives by --set.
_BY_SET = (
    "audio_sequence_length",
    "height",
    "image_batch_size",
    "image_size",
    "num_beams",
    "num_channels",
    "num_choices",
    "num_images_per_prompt",
    "patch_size",
    "text_batch_size",
    "width",
)
_AUTO_CAST_TYPES = ("bf16", "fp16", "tf32")
_INSTANCES = ("inf2", "trn1", "trn1n", "trn2")
_DRIVERS = "/proc/devices"


def export_arguments(
    model: str, options: ContextOptions, config: Mapping[str, Any]
) -> tuple[list[str], ContextOptions]:
    """Return the arguments of an export, but for the folder that it writes to, and what it compiles for.

    Raises ConfigurationError for a task, a type or a shape with which it cannot be run.
    """
    if options.revision:
        raise ConfigurationError(f"{PACKAGE} exports no --revision: name a folder with that one, {INSTEAD}")
    shapes = _shapes(options, config)
    parallel = options.tensor_parallel_size or options.num_cores or 1
    words = ["--model", model, "--task", options.task]
    for name, value in shapes.items():
        words += [f"--{name}", str(value)]
    words += ["--tensor_parallel_size", str(parallel)]
    if options.task == "text-generation":
        _require_own_dtype(options, config)
    else:
        options = replace(options, dtype=options.dtype or "float32")
        words += ["--torch_dtype", normal_dtype(options.dtype), *_auto_cast(options)]
    # Validation needs a device; a compiled model from a cache needs no compiler.
    words += [*_instance(options), "--disable_neuron_cache", "--disable-validation"]
    said = {word.partition("=")[0] for word in options.set or []}
    more = [f"{name}={value}" for name, value in shapes.items() if name in _BY_SET and name not in said]
    compiled_for = replace(
        options,
        batch_size=shapes.get("batch_size"),
        sequence_length=shapes.get("sequence_length"),
        tensor_parallel_size=parallel,
        set=[*(options.set or []), *more],
    )
    return words, compiled_for


def _shapes(options: ContextOptions, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the static shapes of an export, in order. Raises ConfigurationError."""
    if options.task not in _NEEDED:
        known = ", ".join(sorted(_NEEDED))
        raise ConfigurationError(f"no export is known for the task {options.task!r}: choose of {known}, {INSTEAD}")
    needed = _NEEDED[options.task]
    if options.task == "automatic-speech-recognition" and config.get("model_type") == "whisper":
        needed = _TEXT
    elif config and "vocab_size" not in config and options.task == "feature-extraction":
        needed = ("batch_size",)  # of pictures
    given = _DEFAULTS | _shapes_by_set(options)
    given |= {name: value for name in _TEXT if (value := getattr(options, name)) is not None}
    missing = [name for name in needed if name not in given]
    if missing:
        how = ", ".join(option_of(name) if name in _TEXT else f"--set {name}=N" for name in missing)
        raise ConfigurationError(f"an export for {options.task} has static shapes: give {how}")
    optional = [name for name in ("sequence_length", *_BY_SET) if name in given and name not in _DEFAULTS]
    optional += [name for name in _shapes_by_set(options) if name in _DEFAULTS]
    return {name: given[name] for name in dict.fromkeys((*needed, *sorted(optional)))}


def _shapes_by_set(options: ContextOptions) -> dict[str, int]:
    found = {}
    for word in options.set or []:
        name, _, text = word.partition("=")
        if name in _BY_SET:
            if not (text.isascii() and text.isdigit() and int(text)):
                raise ConfigurationError(f"--set has {word!r}: a shape is a positive integer")
            found[name] = int(text)
    return found


def _require_own_dtype(options: ContextOptions, config: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if a decoder is to have another type than its own, which the export would not heed."""
    own = normal_dtype(str(config.get("dtype") or config.get("torch_dtype") or ""))
    if options.dtype and own and normal_dtype(options.dtype) != own:
        raise ConfigurationError(
            f"{PACKAGE} exports a decoder in its own type, {own}, not in {options.dtype}: leave it out, {INSTEAD}"
        )


def _auto_cast(options: ContextOptions) -> list[str]:
    kind = options.auto_cast_type
    if kind and kind not in _AUTO_CAST_TYPES:
        known = ", ".join(_AUTO_CAST_TYPES)
        raise ConfigurationError(f"{PACKAGE} exports with --auto-cast-type {known}, not {kind}; choose one, {INSTEAD}")
    return ["--auto_cast", "matmul", "--auto_cast_type", kind] if kind else []


def _instance(options: ContextOptions) -> list[str]:
    family = options.instance_type.lower().partition(".")[0]
    known = ", ".join(_INSTANCES)
    if family:
        if family not in _INSTANCES:
            raise ConfigurationError(f"{PACKAGE} exports for {known}, not for {options.instance_type}")
        return ["--instance_type", family]
    if not has_neuron_device():
        raise ConfigurationError(f"there is no Neuron device here: give --instance-type, one of {known}")
    return []


def has_neuron_device() -> bool:
    """Tell whether this host has one, in the way that optimum-neuron does."""
    try:
        return any(line.split()[1:] == ["neuron"] for line in Path(_DRIVERS).read_text().splitlines())
    except OSError:
        return False
