"""A training session of a few steps on random data, for the sake of the graphs that it compiles.

This is a script: the interpreter that has optimum-neuron runs it, which need not have neuron-store. The data is random
and has the shapes that were asked for, with the inputs that the model's own tokenizer makes, so that the graphs are
those of a training on real data, padded to these shapes.
"""
# mypy: disable-error-code="import-not-found,import-untyped"
# What it is written for stands in another environment.

import argparse
import dataclasses
import os
import random
import sys
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# task -> the class of transformers that has the head for it
TASKS = {
    "fill-mask": "AutoModelForMaskedLM",
    "multiple-choice": "AutoModelForMultipleChoice",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
}
CHOICES = 4  # of a multiple choice
_UPDATES = 2  # for which there is data; then it starts over
_SEED = 42
_LOGGED_EVERY = 5  # steps: what is logged is fetched from the device, which cuts the graphs


def parse_arguments(words: "list[str] | None" = None) -> argparse.Namespace:
    """Read the command line. Exits, as argparse does, if it cannot be read."""
    parser = argparse.ArgumentParser(description="Train a model for a few steps on random data.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--revision", default=None)
    parser.add_argument("--task", required=True)
    parser.add_argument("--train_batch_size", type=int, required=True)
    parser.add_argument("--sequence_length", type=int, required=True, help="of an encoder-decoder, the encoder's")
    parser.add_argument("--decoder_sequence_length", type=int, default=None)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--tensor_parallel_size", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=10)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output_dir", default=None)
    arguments = parser.parse_args(words)
    if arguments.task not in TASKS:
        parser.error(f"no training is known for the task {arguments.task}; there are {', '.join(TASKS)}")
    return arguments


class Shapes:
    """What the data looks like.

    Attributes:
        length, decoder_length: in tokens.
        vocabulary: tokens are below it.
        labels: classes are below it.
        inputs: the names of what the model's tokenizer makes.
        start: the token that a decoder's input begins with.
    """

    def __init__(
        self,
        length: int,
        decoder_length: "int | None" = None,
        vocabulary: int = 1000,
        labels: int = 2,
        inputs: "tuple[str, ...]" = ("input_ids", "attention_mask"),
        start: int = 0,
    ) -> None:
        self.length = length
        self.decoder_length = decoder_length or length
        self.vocabulary = vocabulary
        self.labels = labels
        self.inputs = inputs
        self.start = start


def make_examples(task: str, shapes: Shapes, count: int) -> "list[dict[str, object]]":
    """Return so many examples, the same for the same arguments: name -> an integer, or a (nested) list of them."""
    draw = random.Random(_SEED)  # noqa: S311 - data, no secret
    return [_make_example(task, shapes, draw) for _ in range(count)]


def _make_example(task: str, shapes: Shapes, draw: random.Random) -> "dict[str, object]":
    if task == "multiple-choice":
        rows = [_make_inputs(shapes, draw) for _ in range(CHOICES)]
        return {**{name: [row[name] for row in rows] for name in rows[0]}, "label": draw.randrange(CHOICES)}
    inputs = _make_inputs(shapes, draw)
    return {**inputs, **_make_labels(task, shapes, inputs["input_ids"], draw)}


def _make_inputs(shapes: Shapes, draw: random.Random) -> "dict[str, list[int]]":
    made = {"input_ids": _tokens(shapes.length, shapes, draw), "attention_mask": [1] * shapes.length}
    if "token_type_ids" in shapes.inputs:
        made["token_type_ids"] = [0] * shapes.length
    return made


def _make_labels(task: str, shapes: Shapes, tokens: "list[int]", draw: random.Random) -> "dict[str, object]":
    if task == "text-generation":
        return {"labels": tokens}
    if task == "fill-mask":
        return {"labels": _tokens(shapes.length, shapes, draw)}
    if task == "token-classification":
        return {"labels": [draw.randrange(shapes.labels) for _ in range(shapes.length)]}
    if task == "question-answering":
        return {"start_positions": draw.randrange(shapes.length), "end_positions": draw.randrange(shapes.length)}
    if task == "text2text-generation":
        labels = _tokens(shapes.decoder_length, shapes, draw)
        return {"labels": labels, "decoder_input_ids": [shapes.start, *labels[:-1]]}
    return {"label": draw.randrange(shapes.labels)}


def _tokens(count: int, shapes: Shapes, draw: random.Random) -> "list[int]":
    return [draw.randrange(shapes.vocabulary) for _ in range(count)]


# -- with optimum-neuron -------------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace, output: str) -> None:
    """Train for as many steps as were asked for; nothing is saved, nothing is pushed."""
    from optimum.neuron import NeuronTrainer, NeuronTrainingArguments
    from transformers import AutoConfig

    wanted = {
        "output_dir": output,
        "do_train": True,
        "per_device_train_batch_size": arguments.train_batch_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "tensor_parallel_size": arguments.tensor_parallel_size,
        "max_steps": arguments.max_steps,
        "bf16": arguments.bf16,
        "dataloader_drop_last": True,
        "remove_unused_columns": False,
        "logging_steps": min(_LOGGED_EVERY, arguments.max_steps),
        "save_strategy": "no",
        "report_to": "none",
        "skip_cache_push": True,
    }
    known = {field.name for field in dataclasses.fields(NeuronTrainingArguments)}
    training = NeuronTrainingArguments(**{name: value for name, value in wanted.items() if name in known})
    pinned = {"revision": arguments.revision} if arguments.revision else {}
    config = AutoConfig.from_pretrained(arguments.model, **pinned)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    count = arguments.train_batch_size * arguments.gradient_accumulation_steps * processes * _UPDATES
    examples = make_examples(arguments.task, _shapes(arguments, config, pinned), count)
    NeuronTrainer(_load_model(arguments, config, training, pinned), training, train_dataset=examples).train()


def _shapes(arguments: argparse.Namespace, config: "Any", pinned: "dict[str, str]") -> Shapes:  # noqa: ANN401 - theirs
    from transformers import AutoTokenizer

    try:
        inputs = tuple(AutoTokenizer.from_pretrained(arguments.model, **pinned).model_input_names)
    except (OSError, ValueError) as error:  # the model has none
        sys.stderr.write(f"no tokenizer tells the model's inputs, so it gets input_ids and attention_mask: {error}\n")
        inputs = ("input_ids", "attention_mask")
    text = config.get_text_config()
    return Shapes(
        arguments.sequence_length,
        arguments.decoder_sequence_length,
        text.vocab_size,
        max(getattr(config, "num_labels", 2), 1),
        inputs,
        getattr(config, "decoder_start_token_id", None) or 0,
    )


def _load_model(
    arguments: argparse.Namespace,
    config: "Any",  # noqa: ANN401 - transformers' own
    training: "Any",  # noqa: ANN401 - optimum-neuron's own
    pinned: "dict[str, str]",
) -> "Any":  # noqa: ANN401 - transformers' own
    import torch
    import transformers

    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    if arguments.task == "text-generation":
        from optimum.neuron.models.auto_model import has_neuron_model_class
        from optimum.neuron.models.training import NeuronModelForCausalLM

        if has_neuron_model_class(config.model_type, arguments.task, "training"):
            return NeuronModelForCausalLM.from_pretrained(
                arguments.model, training.trn_config, torch_dtype=dtype, **pinned
            )
    head = getattr(transformers, TASKS[arguments.task])
    return head.from_pretrained(arguments.model, torch_dtype=dtype, **pinned)


def main() -> None:
    """Run the session that the command line describes."""
    arguments = parse_arguments()
    # A script's own folder comes first, and this one has modules that are named like some of the standard library.
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != own]
    if arguments.output_dir:
        train(arguments, arguments.output_dir)
        return
    with tempfile.TemporaryDirectory() as output:
        train(arguments, output)


if __name__ == "__main__":
    main()
