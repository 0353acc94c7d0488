"""The sessions of `neuron-store add`: their command lines by task, where optimum-neuron is, and the data of a training."""

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from environments import make_venv

from neuron_store.cli import sessions, training_session
from neuron_store.cli.context_options import (
    ContextOptions,
    compiled_target,
    context_variables,
    neuron_fields,
    normal_dtype,
    with_context,
)
from neuron_store.cli.export_session import export_arguments
from neuron_store.cli.sessions import Training, canonical_task, plan_session, session_environment
from neuron_store.cli.training_session import TASKS, Shapes, make_examples, parse_arguments
from neuron_store.store.errors import ConfigurationError

TEXT = {"model_type": "bert", "vocab_size": 100}
END = ["--disable_neuron_cache", "--disable-validation"]


@pytest.fixture(autouse=True)
def _optimum(monkeypatch):
    monkeypatch.setattr(sessions, "find_optimum", lambda: "/opt/python")


def given(task="text-classification", **more):
    return ContextOptions(**{"task": task, "instance_type": "trn1", **more})


def plan(options, config=TEXT, **training):
    return plan_session("org/name", options, Training(**training), config, "/tmp/folder")


def arguments(task, config=TEXT, **more):
    return export_arguments("org/name", given(task, **more), config)[0]


def fault(call, *args, **kwargs):
    with pytest.raises(ConfigurationError) as raised:
        call(*args, **kwargs)
    return str(raised.value)


# -- exports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        "feature-extraction",
        "fill-mask",
        "question-answering",
        "sentence-similarity",
        "text-classification",
        "token-classification",
    ],
)
def test_an_encoder_is_exported_with_its_static_shapes(task):
    made = plan(given(task, batch_size=2, sequence_length=128))
    assert made.command == [
        *("/opt/python", "-m", "optimum.exporters.neuron", "--model", "org/name", "--task", task),
        *("--batch_size", "2", "--sequence_length", "128", "--tensor_parallel_size", "1"),
        *("--torch_dtype", "float32", "--instance_type", "trn1", *END, "/tmp/folder/exported"),
    ]
    options = made.options
    assert (options.batch_size, options.sequence_length, options.tensor_parallel_size) == (2, 128, 1)
    assert options.dtype == "float32"


def test_precision_is_the_type_of_weights_and_of_casts():
    made = plan(given(sequence_length=128), precision="bf16")
    line = " ".join(made.command)
    assert "--torch_dtype bfloat16 --auto_cast matmul --auto_cast_type bf16 " in line
    assert (made.options.dtype, made.options.auto_cast_type) == ("bfloat16", "bf16")
    plain = plan(given(sequence_length=128), precision="fp")
    assert "--auto_cast" not in plain.command
    assert (plain.options.dtype, plain.options.auto_cast_type) == ("float32", "")
    chosen = plan(given(sequence_length=128, dtype="fp16", auto_cast_type="tf32"), precision="bf16")
    assert "--torch_dtype float16 --auto_cast matmul --auto_cast_type tf32 " in " ".join(chosen.command)


def test_a_decoder_is_exported_in_its_own_type():
    made = plan(given("text-generation", batch_size=4, sequence_length=4096, num_cores=8, instance_type="inf2.xlarge"))
    assert made.command[3:] == [
        *("--model", "org/name", "--task", "text-generation", "--batch_size", "4", "--sequence_length", "4096"),
        *("--tensor_parallel_size", "8", "--instance_type", "inf2", *END, "/tmp/folder/exported"),
    ]
    assert (made.options.num_cores, made.options.tensor_parallel_size, made.options.dtype) == (8, 8, "")
    own = {"vocab_size": 1, "dtype": "bfloat16"}
    assert plan(given("text-generation", sequence_length=8, dtype="bf16"), own)
    said = fault(plan, given("text-generation", sequence_length=8, dtype="float16"), own)
    assert said.startswith("optimum-neuron exports a decoder in its own type, bfloat16, not in float16")


def test_an_encoder_decoder_has_one_length_and_its_beams():
    made = plan(given("text2text-generation"), encoder_sequence_length=64, decoder_sequence_length=64)
    line = " ".join(made.command)
    assert "--task text2text-generation --batch_size 1 --sequence_length 64 --num_beams 1 " in line
    assert made.options.set == ["encoder_sequence_length=64", "decoder_sequence_length=64", "num_beams=1"]
    assert "--num_beams 4" in " ".join(arguments("text2text-generation", sequence_length=8, set=["num_beams=4"]))
    said = fault(plan, given("text2text-generation"), encoder_sequence_length=64, decoder_sequence_length=32)
    assert said == "an export has the same length for encoder and decoder, not 64 and 32"


@pytest.mark.parametrize(
    ("task", "config", "more", "shapes"),
    [
        ("multiple-choice", TEXT, {"sequence_length": 8}, "--batch_size 1 --sequence_length 8 --num_choices 4"),
        ("image-classification", {}, {"batch_size": 3}, "--batch_size 3"),
        ("image-classification", {}, {"set": ["image_size=384"]}, "--batch_size 1 --image_size 384"),
        ("object-detection", {}, {}, "--batch_size 1"),
        ("semantic-segmentation", {}, {}, "--batch_size 1"),
        ("feature-extraction", {"model_type": "vit"}, {}, "--batch_size 1"),
        (
            "automatic-speech-recognition",
            {"model_type": "whisper"},
            {"sequence_length": 128},
            "--batch_size 1 --sequence_length 128",
        ),
        (
            "audio-classification",
            {"model_type": "wav2vec2"},
            {"set": ["audio_sequence_length=16000"]},
            "--batch_size 1 --audio_sequence_length 16000",
        ),
        (
            "text-to-image",
            {},
            {"set": ["width=512", "height=768", "num_images_per_prompt=2"]},
            "--batch_size 1 --height 768 --width 512 --num_images_per_prompt 2",
        ),
        (
            "zero-shot-image-classification",
            {},
            {"sequence_length": 77, "set": ["height=224", "width=224"]},
            "--text_batch_size 1 --image_batch_size 1 --sequence_length 77 --num_channels 3 --height 224 --width 224",
        ),
    ],
)
def test_every_other_kind_of_task_has_shapes_of_its_own(task, config, more, shapes):
    line = " ".join(arguments(task, config, **more))
    assert line.startswith(f"--model org/name --task {task} {shapes} --tensor_parallel_size 1 ")


def test_a_missing_shape_is_named_with_the_option_that_gives_it():
    assert fault(arguments, "fill-mask") == "an export for fill-mask has static shapes: give --sequence-length"
    assert fault(arguments, "inpainting").endswith("give --set height=N, --set width=N")
    assert fault(arguments, "audio-xvector").endswith("give --set audio_sequence_length=N")


def test_a_shape_that_is_none_is_refused():
    for word in ("height=wide", "height=0", "height=-1", "height="):
        assert fault(arguments, "text-to-image", set=[word]) == f"--set has {word!r}: a shape is a positive integer"


def test_an_export_cannot_be_of_an_unknown_task_type_kind_or_revision():
    assert fault(arguments, "poetry").startswith("no export is known for the task 'poetry': choose of audio-")
    said = fault(arguments, "fill-mask", sequence_length=8, auto_cast_type="fp32")
    assert said.startswith("optimum-neuron exports with --auto-cast-type bf16, fp16, tf32, not fp32")
    said = fault(arguments, "fill-mask", sequence_length=8, instance_type="trn9.large")
    assert said == "optimum-neuron exports for inf2, trn1, trn1n, trn2, not for trn9.large"
    assert "no --revision" in fault(arguments, "fill-mask", sequence_length=8, revision="v1")


def test_without_a_device_the_kind_of_instance_must_be_given(tmp_path, monkeypatch):
    devices = tmp_path / "devices"
    monkeypatch.setattr("neuron_store.cli.export_session._DRIVERS", str(devices))
    for text in (None, "Character devices:\n  1 mem\n", "Character devices:\n246 neuronal\n"):
        if text is not None:
            devices.write_text(text)
        said = fault(arguments, "fill-mask", sequence_length=8, instance_type="")
        assert said == "there is no Neuron device here: give --instance-type, one of inf2, trn1, trn1n, trn2"
    devices.write_text("Character devices:\n246 neuron\n")
    assert "--instance_type" not in arguments("fill-mask", sequence_length=8, instance_type="")


def test_for_another_host_the_target_is_in_the_environment(tmp_path, monkeypatch):
    devices = tmp_path / "devices"
    devices.write_text("246 neuron\n")
    monkeypatch.setattr("neuron_store.cli.export_session._DRIVERS", str(devices))
    assert plan(given(sequence_length=8, instance_type="inf2.xlarge")).variables == {}
    devices.unlink()
    made = plan(given(sequence_length=8, instance_type="Inf2.xlarge"))
    assert made.variables == {"NEURON_PLATFORM_TARGET_OVERRIDE": "trn1"}
    assert made.command[made.command.index("--instance_type") + 1] == "inf2"


def test_a_config_file_is_no_folder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    said = fault(plan_session, str(path), given(), Training(), {}, "/tmp")
    assert said.startswith(f"{path} is a file: name the model's folder")


# -- trainings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_training_is_torchrun_with_our_script(task):
    options = given(task, sequence_length=128, num_cores=32, revision="v1")
    made = plan(options, train_batch_size=16, gradient_accumulation_steps=8, precision="bf16", max_steps=7)
    python, module, name, *words = made.command
    assert (python, module, name) == ("/opt/python", "-m", "torch.distributed.run")
    assert words[:2] == ["--nproc_per_node", "32"]
    script = Path(words[2])
    assert script == Path(training_session.__file__)
    read = parse_arguments(words[3:])
    assert (read.model, read.revision, read.task, read.bf16) == ("org/name", "v1", task, True)
    assert (read.train_batch_size, read.sequence_length, read.decoder_sequence_length) == (16, 128, None)
    assert (read.gradient_accumulation_steps, read.tensor_parallel_size, read.max_steps) == (8, 1, 7)
    assert read.output_dir == "/tmp/folder/trained"
    said = neuron_fields(context_variables(made.options, "org/name"))
    assert said == {
        "task": task,
        "batch_size": 16,
        "sequence_length": 128,
        "num_cores": 32,
        "auto_cast_type": "bf16",
        "torch_dtype": "bfloat16",
        "target": "trn1",
        "tp_degree": 1,
        "train_batch_size": 16,
        "gradient_accumulation_steps": 8,
    }


def test_a_training_without_a_precision_is_in_float32():
    made = plan(given(sequence_length=8), train_batch_size=1)
    assert "--bf16" not in made.command
    assert (made.options.dtype, made.options.num_cores) == ("float32", 1)
    assert fault(plan, given(sequence_length=8, dtype="fp16"), train_batch_size=1).endswith("not in float16")


def test_a_training_of_an_encoder_decoder_has_two_lengths():
    lengths = {"encoder_sequence_length": 64, "decoder_sequence_length": 16}
    read = parse_arguments(plan(given("text2text-generation"), train_batch_size=2, **lengths).command[6:])
    assert (read.sequence_length, read.decoder_sequence_length) == (64, 16)


def test_what_a_training_lacks_is_said():
    assert fault(plan, given(), train_batch_size=2).startswith("a training has static shapes: give --sequence-length,")
    assert fault(plan, given("text-to-image", sequence_length=8), train_batch_size=2).startswith("no training is known")
    assert fault(plan, given(), train_batch_size=2, encoder_sequence_length=8).endswith("go together")
    said = fault(plan, given(sequence_length=8), encoder_sequence_length=8, decoder_sequence_length=8)
    assert said == "give either --sequence-length, or the encoder's and the decoder's"


def test_the_seeds_names_of_tasks_are_known():
    assert canonical_task("causal-lm") == "text-generation"
    assert canonical_task("summarization") == canonical_task("translation") == "text2text-generation"
    assert canonical_task("poetry") == "poetry"


# -- the script ----------------------------------------------------------------------------------------------------


def test_the_script_needs_nothing_of_ours_and_says_which_tasks_there_are():
    tree = ast.parse(Path(training_session.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any("neuron_store" in name for name in imported)
    line = [sys.executable, "-I", "-S", training_session.__file__, "--model", "m", "--task", "poetry"]
    done = subprocess.run([*line, "--train_batch_size", "1", "--sequence_length", "8"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no training is known for the task poetry; there are fill-mask, multiple-choice, " in done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_of_the_shapes_and_below_the_bounds(task):
    shapes = Shapes(12, 5, 40, 3, ("input_ids", "token_type_ids", "attention_mask"), 7)
    examples = make_examples(task, shapes, 6)
    assert len(examples) == 6
    assert examples == make_examples(task, shapes, 6)
    assert len({json.dumps(example) for example in examples}) == 6
    for example in examples:
        assert {"input_ids", "attention_mask", "token_type_ids"} < set(example)
        rows = example["input_ids"] if task == "multiple-choice" else [example["input_ids"]]
        assert all(len(row) == 12 and all(0 <= token < 40 for token in row) for row in rows)
        label = example.get("label", example.get("start_positions", 0))
        assert 0 <= label < {"multiple-choice": 4, "question-answering": 12}.get(task, 3)
    first = examples[0]
    if task == "multiple-choice":
        assert len(first["input_ids"]) == len(first["attention_mask"]) == 4
    if task == "text-generation":
        assert first["labels"] == first["input_ids"]
    if task == "text2text-generation":
        assert len(first["labels"]) == 5
        assert first["decoder_input_ids"] == [7, *first["labels"][:-1]]
    if task == "token-classification":
        assert len(first["labels"]) == 12
        assert set(first["labels"]) <= {0, 1, 2}


def test_a_tokenizer_without_token_types_gives_none():
    assert set(make_examples("text-classification", Shapes(3), 1)[0]) == {"input_ids", "attention_mask", "label"}


STUBS = {
    "transformers.py": """\
class Text:
    vocab_size = 50
class Config:
    model_type, num_labels, decoder_start_token_id = "llama", 3, None
    def get_text_config(self):
        return Text()
class AutoConfig:
    from_pretrained = staticmethod(lambda model, **pinned: Config())
class AutoTokenizer:
    def from_pretrained(model, **pinned):
        if model == "org/untold":
            raise OSError("it has none")
        return type("Tokenizer", (), {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})
def load(name):
    return type(name, (), {"from_pretrained": staticmethod(lambda *a, **more: [name, a, sorted(more.items())])})
AutoModelForCausalLM, AutoModelForTokenClassification = map(load, ("CausalLM", "TokenClassification"))
""",
    "torch.py": "import statistics; statistics.mean; bfloat16, float32 = 'bfloat16', 'float32'",
    "optimum/neuron/__init__.py": """\
import dataclasses, json
@dataclasses.dataclass
class NeuronTrainingArguments:
    output_dir: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    max_steps: int
    bf16: bool
    skip_cache_push: bool
    trn_config = "the config"
class NeuronTrainer:
    def __init__(self, model, args, train_dataset):
        self.said = [model, vars(args), len(train_dataset), train_dataset[0]]
    def train(self):
        print(json.dumps(self.said))
""",
    "optimum/neuron/models/__init__.py": "",
    "optimum/neuron/models/auto_model.py": "has_neuron_model_class = lambda kind, task, mode: 'training' == mode",
    "optimum/neuron/models/training.py": """\
class NeuronModelForCausalLM:
    from_pretrained = staticmethod(lambda *a, **more: ["NeuronCausalLM", a, sorted(more.items())])
""",
}


def run_script(folder, *words):
    """Run the script with stubs of what it imports; return the model, arguments, number of examples, and the first."""
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, training_session.__file__, "--train_batch_size", "3", "--sequence_length", "8", *words],
        env={"PYTHONPATH": str(folder), "WORLD_SIZE": "2", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_script_trains_a_model_by_optimum_neurons_own_classes(tmp_path):
    words = ("--model", "org/m", "--task", "text-generation", "--bf16", "--gradient_accumulation_steps", "5")
    (model, arguments, count, first), _ = run_script(tmp_path, *words, "--output_dir", "out", "--revision", "v1")
    assert model == ["NeuronCausalLM", ["org/m", "the config"], [["revision", "v1"], ["torch_dtype", "bfloat16"]]]
    assert arguments == {
        "output_dir": "out",
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 5,
        "max_steps": 10,
        "bf16": True,
        "skip_cache_push": True,
    }
    assert count == 3 * 5 * 2 * 2
    assert set(first) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


def test_the_script_trains_other_heads_by_transformers(tmp_path):
    (model, arguments, _, first), said = run_script(tmp_path, "--model", "org/untold", "--task", "token-classification")
    assert model == ["TokenClassification", ["org/untold"], [["torch_dtype", "float32"]]]
    assert not Path(arguments["output_dir"]).exists()
    assert set(first) == {"input_ids", "attention_mask", "labels"}
    assert said == "no tokenizer tells the model's inputs, so it gets input_ids and attention_mask: it has none\n"


# -- where optimum-neuron is ---------------------------------------------------------------------------------------

FIND = "from neuron_store.cli.sessions import find_optimum; print(find_optimum())"


def install(folder, version):
    """Make it look as if optimum-neuron were installed in a folder."""
    metadata = folder / f"optimum_neuron-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: optimum-neuron\nVersion: {version}\n")


def find(path, **environ):
    return subprocess.run(
        [sys.executable, "-c", f"try:\n  {FIND}\nexcept Exception as error:\n  print('fault:', error)"],
        env={"PATH": str(path), **environ},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_our_own_interpreter_is_taken_if_it_has_it(tmp_path):
    install(tmp_path, "0.4.5")
    assert find("/usr/bin:/bin", PYTHONPATH=str(tmp_path)) == sys.executable


def test_else_the_one_on_path(tmp_path):
    python = make_venv(tmp_path / "venv", with_neuron_store=False)
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    install(site_packages, "0.5.0.dev1")
    assert find(f"{python.parent}:/usr/bin:/bin") == str(python.parent / "python3")


def test_absent_it_says_what_to_do(tmp_path):
    said = find(tmp_path)
    assert said == (
        "fault: optimum-neuron is not installed, neither here nor for the python3 on PATH: "
        "pip install 'optimum-neuron[neuronx]', or give a command of your own after --"
    )


def test_one_whose_command_lines_are_not_known_is_refused(tmp_path):
    install(tmp_path, "0.3.0")
    assert find("/usr/bin", PYTHONPATH=str(tmp_path)).startswith("fault: optimum-neuron 0.3.0 is too old")


def test_a_session_has_an_empty_stock_cache_and_asks_no_other_cache():
    flags = "--model-type=transformer --cache_dir=/var/tmp/mine -O1"
    environ = {"NEURON_CC_FLAGS": flags, "CUSTOM_CACHE_REPO": "org/old", "HOME": "/root"}
    made = session_environment(environ, "/tmp/folder", ["hf://org/name", "file:///shared|read-only"])
    assert made == {
        "HOME": "/root",
        "NEURON_CC_FLAGS": "--model-type=transformer -O1 --cache_dir=/tmp/folder/cache",
        "NEURON_COMPILE_CACHE_URL": "/tmp/folder/cache",
        "CUSTOM_CACHE_REPO": "hf://org/name",
        "NEURON_STORE_REMOTES": "hf://org/name file:///shared|read-only",
    }
    assert session_environment({}, "/tmp/f", ["hf://o/n"])["NEURON_CC_FLAGS"] == "--cache_dir=/tmp/f/cache"


# -- options, variables, fields ------------------------------------------------------------------------------------


def test_options_become_variables_and_variables_fields():
    options = ContextOptions("v1", "fill-mask", 2, 128, 8, "bf16", "torch.bfloat16", "inf2.xlarge", 4, ["b=[1]", "a=x"])
    variables = context_variables(options, "org/name")
    prefix = "NEURON_STORE_MODEL"
    assert variables == {
        prefix: "org/name",
        f"{prefix}_REVISION": "v1",
        f"{prefix}_TASK": "fill-mask",
        f"{prefix}_BATCH_SIZE": "2",
        f"{prefix}_SEQUENCE_LENGTH": "128",
        f"{prefix}_NUM_CORES": "8",
        f"{prefix}_AUTO_CAST_TYPE": "bf16",
        f"{prefix}_DTYPE": "bfloat16",
        f"{prefix}_INSTANCE_TYPE": "inf2.xlarge",
        f"{prefix}_TENSOR_PARALLEL_SIZE": "4",
        f"{prefix}_SET": "a=x b=[1]",
    }
    assert neuron_fields(variables) == {
        "task": "fill-mask",
        "batch_size": 2,
        "sequence_length": 128,
        "num_cores": 8,
        "auto_cast_type": "bf16",
        "torch_dtype": "bfloat16",
        "target": "trn1",
        "tp_degree": 4,
        "a": "x",
        "b": [1],
    }


def test_a_context_is_the_same_in_whatever_order_it_is_given():
    one, other = (context_variables(ContextOptions(set=words), "m") for words in (["a=1", "b=2"], ["b=2", "a=1"]))
    assert one == other


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=", ""),
        ("a=x y", "x y"),
        ("a= x ", " x "),
        ("a=b=c", "b=c"),
        ("a=true", True),
        ("a=1.5", 1.5),
        ("a=1e999", "1e999"),
        ("a=NaN", "NaN"),
        ("a=[-Infinity]", "[-Infinity]"),
        ('a={"b": null}', {"b": None}),
        ("a=" + "[" * 250, "[" * 250),
        ("a=é", "é"),
    ],
)
def test_what_is_set_is_json_or_text(word, value):
    for others in ([], ["other=1"]):
        assert neuron_fields(context_variables(ContextOptions(set=[word, *others]), "m"))["a"] == value


def test_num_cores_stand_for_the_tensor_parallel_size_where_nothing_is_said():
    assert neuron_fields({"NEURON_STORE_MODEL_NUM_CORES": "8"}) == {"num_cores": 8, "tp_degree": 8}
    assert neuron_fields({}) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "--batch-size is 0, which is not a positive integer"),
        ({"num_cores": -1}, "--num-cores is -1, which is not a positive integer"),
        ({"auto_cast_type": "no"}, "--auto-cast-type is 'no', which is none of bf16, fp16, fp32, "),
        ({"dtype": "brain"}, "--dtype is 'brain', which is no type such as bfloat16, "),
        ({"instance_type": "my host"}, "--instance-type is 'my host', which is no instance type "),
        ({"task": "a\nb"}, "--task is 'a\\nb', which is too long, or no printable text"),
        ({"set": ["x"]}, "--set has 'x', which is not written name=value"),
        ({"set": ["=x"]}, "--set has '=x', which is not written name=value"),
        ({"set": ["a-b=1"]}, "--set has 'a-b=1', which is not written name=value"),
        ({"set": ["a=1", "a=2"]}, "--set has a twice"),
        ({"set": ["a=\n"]}, "--set is 'a=\\n', which is too long"),
        ({"set": ["task=x"]}, "--set has 'task=x': that is said by --task"),
        ({"set": ["tp_degree=2"]}, "--set has 'tp_degree=2': that is said by --tensor-parallel-size"),
        ({"set": ["torch_dtype=x"]}, "--set has 'torch_dtype=x': that is said by --dtype"),
        ({"set": ["compiler_version=2"]}, "--set has 'compiler_version=2': compiler_version is found out"),
    ],
)
def test_what_cannot_be_said_by_options_is_refused(options, said):
    assert fault(context_variables, ContextOptions(**options), "m").startswith(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BATCH_SIZE", "two", "NEURON_STORE_MODEL_BATCH_SIZE is 'two', which is not a positive integer"),
        ("NUM_CORES", "²", "NEURON_STORE_MODEL_NUM_CORES is '²', which is not a positive integer"),
        ("DTYPE", "x", "NEURON_STORE_MODEL_DTYPE is 'x', which is no type"),
        ("SET", "a=1 task=x", "NEURON_STORE_MODEL_SET has 'task=x': that is said by NEURON_STORE_MODEL_TASK"),
        ("SIZE", "1", "NEURON_STORE_MODEL_SIZE is not known; there are NEURON_STORE_MODEL, NEURON_STORE_MODEL_REV"),
    ],
)
def test_what_cannot_be_said_by_variables_is_refused_by_their_names(name, value, said):
    assert fault(neuron_fields, {f"NEURON_STORE_MODEL_{name}": value}).startswith(said)


def test_options_without_a_model_are_refused_and_none_at_all_are_not():
    assert context_variables(ContextOptions(), "") == {}
    said = fault(context_variables, ContextOptions(batch_size=1, dtype="bf16"), "")
    assert said == "--batch-size, --dtype says how a model is compiled: name the model with -m"


def test_a_model_that_is_a_path_is_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert context_variables(ContextOptions(), "model") == {"NEURON_STORE_MODEL": str(tmp_path / "model")}
    assert context_variables(ContextOptions(), "org/model") == {"NEURON_STORE_MODEL": "org/model"}


def test_variables_take_the_place_of_all_that_was_said_before():
    environ = {"PATH": "/bin", "NEURON_STORE_MODEL": "old", "NEURON_STORE_MODEL_TASK": "old"}
    assert with_context(environ, {"NEURON_STORE_MODEL": "new"}) == {"PATH": "/bin", "NEURON_STORE_MODEL": "new"}
    assert with_context(environ, {}) == environ


def test_types_and_targets_have_one_name():
    assert [normal_dtype(word) for word in ("bf16", "fp16", "float32", "torch.float16")] == [
        *("bfloat16", "float16", "float32", "float16"),
    ]
    assert [compiled_target(word) for word in ("inf2", "inf2.xlarge", "trn1n.32xlarge", "trn2", "trn3.x")] == [
        *("trn1", "trn1", "trn1", "trn2", "trn3"),
    ]


def test_a_command_line_survives_a_shell():
    made = plan_session("/my models/it's", given(sequence_length=8), Training(), TEXT, "/tmp/a b")
    assert shlex.split(shlex.join(made.command)) == made.command
