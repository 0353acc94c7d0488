"""What MODEL means: folders, config.json files and ids of the Hub, as the registry needs to know them."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_hub import Body, Drop, Redirect, Stall, Status

from neuron_store.cli import model_config
from neuron_store.cli.models import Model, resolve_model
from neuron_store.store.errors import ConfigurationError, NeuronStoreError, NotFound
from neuron_store.store.registry.architecture import arch_digest, strip
from neuron_store.store.registry.entries import Entry
from neuron_store.store.registry.places import NEWEST_RELEASE

TOKENS = ("hf_alice", "hf_bob", "hf_nobody")
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "torch_dtype": "bfloat16"}
# As we have it without transformers.
PLAIN = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "dtype": "bfloat16"}
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
COMPONENTS = {
    "text_encoder": {"model_type": "clip_text_model", "hidden_size": 8},
    "unet": {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0", "layers_per_block": 2},
    "vae": {"_class_name": "AutoencoderKL", "latent_channels": 4},
}
DRIVER = """
import dataclasses, json, sys
from neuron_store.cli import model_files
from neuron_store.cli.models import resolve_model
from neuron_store.store.errors import NeuronStoreError

sys.executable = ""
calls, wait = json.loads(sys.argv[1])
model_files._WAIT = wait
for call in calls:
    try:
        print(json.dumps(resolve_model(**call).as_dict()))
    except NeuronStoreError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def encode(document) -> bytes:
    return json.dumps(document).encode()


def write_model(folder: Path, config=LLAMA) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else encode(config))
    return folder


def pipeline_files(components=COMPONENTS) -> dict[str, bytes]:
    files = {"model_index.json": encode(PIPELINE), "scheduler/scheduler_config.json": b"{}"}
    return files | {f"{name}/config.json": encode(config) for name, config in components.items()}


def write_pipeline(folder: Path, components=COMPONENTS) -> Path:
    for name, data in pipeline_files(components).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def _no_interpreter(monkeypatch, tmp_path):
    """Where a test says nothing else, no interpreter is found, whatever this machine has."""
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


PYTHON = sys.executable  # before it is taken away


def said(error) -> str:
    """What an error says: one sentence that fits a line."""
    text = str(error.value) if isinstance(error, pytest.ExceptionInfo) else error
    assert text.isprintable() and len(text) < 1000, text
    assert ";" in text, f"it does not say what to do: {text}"
    assert not any(token in text for token in TOKENS), text
    return text


class Asker:
    """Resolves models in processes of their own, as a user of the Hub."""

    def __init__(self, base: Path, hub) -> None:
        self.hub = hub
        self.work = base / "work"
        self.work.mkdir()
        self.cache = base / "hf" / "hub"
        self.env = {
            "HOME": str(base),
            "PATH": str(base / "bin"),
            "LANG": "C.UTF-8",
            "HF_HOME": str(base / "hf"),
            "HF_ENDPOINT": hub.endpoint,
        }

    def ask(self, *calls, wait=10.0, **extra) -> list:
        self.hub.requests.clear()
        done = subprocess.run(
            [PYTHON, "-W", "error", "-c", DRIVER, json.dumps([calls, wait])],
            cwd=self.work,
            env={**self.env, **extra},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def model(self, word, task="", revision="", **extra) -> Model:
        (answer,) = self.ask({"word": word, "task": task, "revision": revision}, **extra)
        assert isinstance(answer, dict), answer
        return Model.from_dict(answer)

    def error(self, word, task="", revision="", **extra) -> tuple[str, str]:
        (answer,) = self.ask({"word": word, "task": task, "revision": revision}, **extra)
        assert isinstance(answer, list), answer
        return answer[0], said(answer[1])

    @property
    def requests(self) -> list[str]:
        """What the last process asked the Hub, without the address's beginning."""
        return [f"{request.method} {request.path.partition('/resolve/')[2]}" for request in self.hub.seen()]


@pytest.fixture
def asker(tmp_path, hub):
    hub.add_user("bob", "hf_bob")
    hub.create_repo("alice/llama")
    hub.put_file("alice/llama", "config.json", encode(LLAMA))
    return Asker(tmp_path, hub)


def head(hub, repo="alice/llama") -> str:
    return hub.commits(repo)[-1].oid


# --- on disk


def test_a_folder_is_a_local_model_with_the_configuration_it_holds(tmp_path):
    model = resolve_model(str(write_model(tmp_path / "tiny-llama")))
    assert model == Model(
        model_id="local/tiny-llama",
        revision="",
        task="text-generation",
        configs=[PLAIN],
        digests=[arch_digest("text-generation", PLAIN)],
        release=NEWEST_RELEASE,
        dtype="bfloat16",
    )


@pytest.mark.parametrize("name", ["config.json", "other-name.json"])
def test_a_path_to_a_configuration_means_the_model_of_its_folder(tmp_path, name):
    folder = write_model(tmp_path / "tiny-llama")
    (folder / "config.json").rename(folder / name)
    assert resolve_model(str(folder / name)).model_id == "local/tiny-llama"


@pytest.mark.parametrize("word", [".", "./", "../tiny-llama", "config.json", "./config.json", "~/tiny-llama"])
def test_a_relative_path_has_the_name_of_the_folder_it_leads_to(tmp_path, monkeypatch, word):
    monkeypatch.chdir(write_model(tmp_path / "tiny-llama"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model(word).model_id == "local/tiny-llama"


def test_a_folder_whose_name_cannot_be_an_id_gets_one_that_can(tmp_path):
    assert resolve_model(str(write_model(tmp_path / "..my model (2)é"))).model_id == "local/my-model--2--"


def test_no_path_of_the_machine_is_in_what_is_told(tmp_path):
    model = resolve_model(str(write_model(tmp_path / "tiny-llama")))
    assert str(tmp_path) not in json.dumps(model.as_dict())


def test_a_revision_means_nothing_on_disk(tmp_path):
    assert resolve_model(str(write_model(tmp_path / "tiny-llama")), revision="v2").revision == ""


def test_a_folder_that_exists_wins_over_an_id_of_the_hub(asker):
    write_model(asker.work / "alice/llama", {**LLAMA, "hidden_size": 7})
    model = asker.model("alice/llama")
    assert (model.model_id, model.configs[0]["hidden_size"]) == ("local/llama", 7)
    assert not asker.requests
    assert asker.model("hf://alice/llama").model_id == "alice/llama"


@pytest.mark.parametrize("word", ["/absent/model", "./absent", "../absent", "~/absent", "absent.json", "a/config.json"])
def test_what_is_written_as_a_path_is_never_asked_of_the_hub(asker, word):
    kind, text = asker.error(word)
    assert kind == "NotFound" and "there is no /" in text
    assert not asker.requests


def test_a_folder_without_a_configuration_is_told_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound) as error:
        resolve_model(str(tmp_path / "empty"))
    assert "neither config.json nor model_index.json" in said(error)


def test_the_folder_in_which_we_are_may_be_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(NotFound) as error:
        resolve_model(".")
    said(error)


BAD_CONFIGS = {
    "empty": b"",
    "no JSON": b"{'model_type': 'llama'}",
    "cut off": b'{"model_type": "llama", ',
    "NUL bytes": bytes(100),
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no text at all": bytes(range(128, 256)),
    "no model type": b'{"hidden_size": 1}',
    "a model type that is no text": b'{"model_type": 1}',
    "a model type that is a path": b'{"model_type": "../llama"}',
    "an empty model type": b'{"model_type": ""}',
    "a lone surrogate": b'{"model_type": "\\ud800"}',
    "a pipeline's component": b'{"model_type": null, "unet": {}}',
    "too large": b'{"model_type": "llama"}'.ljust((4 << 20) + 1),
    "deeply nested": b'{"model_type": "llama", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested more than is read": b'{"model_type": "llama", "x": ' + b"[" * 60 + b"]" * 60 + b"}",
    "a number of too many digits": b'{"model_type": "llama", "x": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("data", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_configuration_that_is_none_is_refused_by_name(tmp_path, data):
    folder = write_model(tmp_path / "bad", data)
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(folder))
    assert said(error).startswith(f"{folder}/config.json is not the configuration of a model")


def test_a_configuration_of_just_the_largest_size_is_read(tmp_path):
    folder = write_model(tmp_path / "large", encode(LLAMA).ljust(4 << 20))
    assert resolve_model(str(folder)).task == "text-generation"


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_loop])
def test_what_is_no_readable_file_is_refused_and_not_waited_for(tmp_path, make):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model/config.json")
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(tmp_path / "model"))
    assert f"{tmp_path}/model/config.json cannot be read: " in said(error)


@pytest.mark.parametrize("make", [os.mkfifo, make_loop])
def test_a_word_that_leads_to_no_readable_file_is_refused(tmp_path, make):
    make(tmp_path / "model")
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(tmp_path / "model"))
    assert f"{tmp_path}/model cannot be read: " in said(error)


def test_a_device_is_no_configuration():
    with pytest.raises(ConfigurationError) as error:
        resolve_model("/dev/zero")
    said(error)


def test_a_file_that_may_not_be_read_is_told_so(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(model_config, "open_regular", refuse)  # root may read everything
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(folder))
    assert "config.json cannot be read: Permission denied; make it readable" in said(error)


BAD_WORDS = ["", "a\0b", "a/b/c", "a b", "a" * 5000, "a--b", "s3://bucket/model", "org/name@", "datasets/a/b", "a\nb"]
BAD_WORDS += ["hf://", "hf://../x", "hf://./x", "https://example.org/a/b", "-x", "org/", "/\0", "caf\u00e9", "org/-x"]
BAD_WORDS += ["--help", "hf://a/b@..", "hf://a/b@-x", "hf://a/b@\0"]


def test_a_word_that_can_mean_no_model_is_refused_without_a_request(asker):
    answers = asker.ask(*({"word": word} for word in BAD_WORDS))
    assert len(answers) == len(BAD_WORDS)
    for word, answer in zip(BAD_WORDS, answers, strict=True):
        assert isinstance(answer, list) and answer[0] == "ConfigurationError", word
        said(answer[1])
    assert not asker.requests


def test_a_word_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        resolve_model(os.fsdecode(b"caf\xe9"))
    said(error)


@pytest.mark.parametrize("task", ["text generation", "\0", "../x", "x" * 200, "\u001b[31m"])
def test_a_task_that_cannot_be_one_is_refused(tmp_path, task):
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(write_model(tmp_path / "model")), task)
    assert "is no task" in said(error)


# --- arbitrary configurations

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from(["model_type", "architectures", "unet", "transformer", "neuron", "dtype", "text_config"])
CONFIGS = st.dictionaries(
    NAMES | st.text(max_size=8), JSON | st.just("llama") | st.just(["GPT2LMHeadModel"]), max_size=8
)
ANYWHERE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def resolve_bytes(tmp_path, data: bytes) -> Model | None:
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    try:
        return resolve_model(str(folder))
    except NeuronStoreError as error:
        said(str(error))
        return None


@ANYWHERE
@given(JSON | CONFIGS | CONFIGS.map(lambda config: {**config, "model_type": "llama"}))
def test_any_json_is_a_model_or_refused(tmp_path, document):
    model = resolve_bytes(tmp_path, encode(document))
    if model is not None:
        again = Model.from_dict(json.loads(json.dumps(model.as_dict())))
        assert json.dumps(again.as_dict()) == json.dumps(model.as_dict())
        assert model.configs == [json.loads(encode(strip(document)))] or "NaN" in json.dumps(document)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in model.digests)
        entry = Entry(model.model_id, model.task, model.configs[0], {})
        assert entry.encode()


@ANYWHERE
@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_refused(tmp_path, data):
    resolve_bytes(tmp_path, data)


# --- what a configuration tells


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("LlamaForCausalLM", "llama", "text-generation"),
        ("GPT2LMHeadModel", "gpt2", "text-generation"),
        ("T5WithLMHeadModel", "t5", "text2text-generation"),
        ("XLMWithLMHeadModel", "xlm", None),
        ("BertForSequenceClassification", "bert", "text-classification"),
        ("BertForTokenClassification", "bert", "token-classification"),
        ("BertForQuestionAnswering", "bert", "question-answering"),
        ("BertForMaskedLM", "bert", "fill-mask"),
        ("BertModel", "bert", "feature-extraction"),
        ("T5ForConditionalGeneration", "t5", "text2text-generation"),
        ("WhisperForConditionalGeneration", "whisper", "automatic-speech-recognition"),
        ("Wav2Vec2ForCTC", "wav2vec2", "automatic-speech-recognition"),
        ("ViTForImageClassification", "vit", "image-classification"),
        ("CLIPModel", "clip", "zero-shot-image-classification"),
        ("VisionEncoderDecoderModel", "vision-encoder-decoder", "image-to-text"),
        ("SomethingNew", "new", None),
    ],
)
def test_the_task_is_told_by_the_architecture(tmp_path, architecture, model_type, task):
    folder = write_model(tmp_path / "model", {"model_type": model_type, "architectures": [architecture]})
    assert resolve_model(str(folder)).task == task


def test_a_model_that_reads_images_is_of_another_task_than_one_that_reads_text(tmp_path):
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}
    assert resolve_model(str(write_model(tmp_path / "model", config))).task == "image-text-to-text"


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [1], {}, [None, "LlamaForCausalLM"]])
def test_without_an_architecture_there_is_no_task(tmp_path, architectures):
    folder = write_model(tmp_path / "model", {"model_type": "llama", "architectures": architectures})
    assert resolve_model(str(folder)).task is None


def test_a_task_that_is_given_is_taken_and_is_in_the_digest(tmp_path):
    model = resolve_model(str(write_model(tmp_path / "model")), "feature-extraction")
    assert model.task == "feature-extraction"
    assert model.digests == [arch_digest("feature-extraction", PLAIN)]


def test_a_model_says_the_same_after_it_was_written_and_read(tmp_path):
    config = {**LLAMA, "time_step_limit": [0.0, math.inf], "rope_theta": 1e-6, "x": [None, True, 10**30, "\u00e9"]}
    model = resolve_model(str(write_model(tmp_path / "model", config)))
    assert Model.from_dict(json.loads(json.dumps(model.as_dict()))) == model


@pytest.mark.parametrize(
    "change",
    [
        {"fields": {}},
        {"model_id": 1},
        {"task": 1},
        {"task": []},
        {"configs": []},
        {"configs": ["x"]},
        {"configs": None},
        {"digests": [1]},
        {"digests": None},
    ],
)
def test_what_is_no_written_model_is_refused(tmp_path, change):
    written = resolve_model(str(write_model(tmp_path / "model"))).as_dict()
    with pytest.raises(TypeError):
        Model.from_dict({**written, **change})
    with pytest.raises(TypeError):
        Model.from_dict({"model_id": "x"})


def test_a_model_fits_entries_of_its_architecture_only(tmp_path):
    model = resolve_model(str(write_model(tmp_path / "model")))
    assert model.fits(Entry("other/finetune", "text-generation", {**LLAMA, "eos_token_id": 2}, {}))
    assert not model.fits(Entry("other/larger", "text-generation", {**LLAMA, "hidden_size": 128}, {}))


# --- pipelines


def test_a_pipeline_is_told_by_the_configurations_of_its_models(tmp_path):
    model = resolve_model(str(write_pipeline(tmp_path / "diffusion")))
    configs = {name: strip(config) for name, config in COMPONENTS.items()}
    assert (model.model_id, model.task, model.configs) == ("local/diffusion", None, [configs])
    assert model.digests == [arch_digest(None, configs)]
    assert Model.from_dict(json.loads(json.dumps(model.as_dict()))) == model


def test_a_path_to_the_index_of_a_pipeline_means_the_pipeline(tmp_path):
    folder = write_pipeline(tmp_path / "diffusion")
    assert resolve_model(str(folder / "model_index.json")) == resolve_model(str(folder))


def test_a_pipeline_keeps_the_task_that_is_given(tmp_path):
    assert resolve_model(str(write_pipeline(tmp_path / "diffusion")), "text-to-image").task == "text-to-image"


def test_a_pipeline_without_a_main_model_is_refused(tmp_path):
    folder = write_pipeline(tmp_path / "diffusion", {"vae": COMPONENTS["vae"]})
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(folder))
    assert "neither a unet nor a transformer" in said(error)


def test_a_component_that_is_no_configuration_is_refused_by_name(tmp_path):
    folder = write_pipeline(tmp_path / "diffusion")
    (folder / "vae/config.json").write_text("[")
    with pytest.raises(ConfigurationError) as error:
        resolve_model(str(folder))
    assert said(error).startswith(f"{folder}/vae/config.json is not")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    folder = write_pipeline(tmp_path / "diffusion")
    index = {**PIPELINE, "../secret": ["diffusers", "X"], "a/b": ["diffusers", "X"], "x": "y", "z": [1, 2], "w": []}
    (folder / "model_index.json").write_bytes(encode(index))
    write_model(tmp_path / "secret", {"model_type": "secret"})
    assert set(resolve_model(str(folder)).configs[0]) == set(COMPONENTS)


# --- on the Hub


def test_a_model_of_the_hub_costs_one_head_and_one_get(asker, hub):
    model = asker.model("alice/llama")
    assert (model.model_id, model.revision, model.configs) == ("alice/llama", head(hub), [PLAIN])
    assert [request.partition(" ")[0] for request in asker.requests] == ["HEAD", "GET"]
    assert {request.partition("/")[2] for request in asker.requests} == {"config.json"}


def test_a_model_that_is_in_the_cache_costs_one_head_and_follows_its_branch(asker, hub):
    first = asker.model("alice/llama")
    assert asker.model("alice/llama") == first
    assert asker.requests == ["HEAD main/config.json"]
    hub.put_file("alice/llama", "config.json", encode({**LLAMA, "hidden_size": 7}))
    moved = asker.model("alice/llama")
    assert (moved.revision, moved.configs[0]["hidden_size"]) == (head(hub), 7)


def test_a_commit_is_never_asked_for_twice(asker, hub):
    commit = head(hub)
    hub.put_file("alice/llama", "config.json", encode({**LLAMA, "hidden_size": 7}))
    for requests in (2, 0):
        model = asker.model("alice/llama", revision=commit)
        assert (model.revision, model.configs) == (commit, [PLAIN])
        assert len(asker.requests) == requests


def test_an_id_can_be_written_as_an_address(asker, hub):
    commit = head(hub)
    hub.put_file("alice/llama", "README.md", b"x")
    words = ["hf://alice/llama", f"{hub.endpoint}/alice/llama", f"{hub.endpoint}/alice/llama/"]
    words += ["https://huggingface.co/alice/llama"]
    assert {asker.model(word).model_id for word in words} == {"alice/llama"}
    at_commit = [f"hf://alice/llama@{commit}", f"alice/llama@{commit}", f"{hub.endpoint}/alice/llama/tree/{commit}"]
    assert {asker.model(word).revision for word in at_commit} == {commit}


def test_a_name_without_an_org_is_asked_for_as_it_is(asker, hub):
    hub.fail(None, Redirect("/alice/llama/resolve/main/config.json", 307), times=None, path="^/gpt2/")
    model = asker.model("gpt2")
    assert (model.model_id, model.revision) == ("gpt2", head(hub))


def test_a_configuration_may_come_from_the_second_origin(asker, hub):
    hub.put_file("alice/llama", "config.json", encode(LLAMA), lfs=True)
    assert asker.model("alice/llama", HF_TOKEN="hf_alice").configs == [PLAIN]


def test_a_revision_that_is_not_there_is_named(asker):
    kind, text = asker.error("alice/llama", revision="v2")
    assert kind == "NotFound" and "alice/llama has no revision v2; " in text


@pytest.mark.parametrize("revision", ["../../x", "-x", "a b", "\0", "x" * 300, "refs/../.."])
def test_a_revision_that_cannot_be_one_is_refused_without_a_request(asker, revision):
    kind, _ = asker.error("alice/llama", revision=revision)
    assert kind == "ConfigurationError"
    assert not asker.requests and not asker.cache.exists()


@pytest.mark.parametrize("token", ["", "hf_alice"])
def test_a_model_that_is_not_there_is_not_found(asker, token):
    kind, text = asker.error("alice/absent", HF_TOKEN=token)
    assert kind == "NotFound" and "there is no model alice/absent on the Hub, or no right to see it" in text


@pytest.mark.parametrize("token", ["", "hf_bob"])
def test_a_private_model_is_not_found_by_others(asker, hub, token):
    hub.create_repo("alice/private", private=True)
    hub.put_file("alice/private", "config.json", encode(LLAMA))
    kind, text = asker.error("alice/private", HF_TOKEN=token)
    assert kind == "NotFound" and ("with this token" if token else "without a token") in text
    assert "hf auth login" in text


def test_a_private_model_is_found_by_its_owner(asker, hub):
    hub.create_repo("alice/private", private=True)
    hub.put_file("alice/private", "config.json", encode(LLAMA))
    assert asker.model("alice/private", HF_TOKEN="hf_alice").model_id == "alice/private"


@pytest.mark.parametrize("token", ["", "hf_bob"])
def test_a_gated_model_is_refused_to_others(asker, hub, token):
    hub.create_repo("alice/gated", gated=True)
    hub.put_file("alice/gated", "config.json", encode(LLAMA))
    kind, text = asker.error("alice/gated", HF_TOKEN=token)
    assert kind == "RemoteRefused" and f"ask for access on its page, {hub.endpoint}/alice/gated" in text
    assert asker.model("alice/gated", HF_TOKEN="hf_alice").model_id == "alice/gated"


def test_a_token_that_the_hub_does_not_know_is_refused_and_not_shown(asker):
    kind, text = asker.error("alice/llama", HF_TOKEN="hf_nobody")
    assert kind == "RemoteRefused" and "does not know the token" in text


def test_a_refusal_for_another_reason_is_told_in_terms_of_the_model(asker, hub):
    hub.fail("resolve", Status(403), times=None)
    kind, text = asker.error("alice/llama", HF_TOKEN="hf_alice")
    assert kind == "RemoteRefused" and "alice/llama may not be read with this token" in text
    assert "remotes" not in text


def test_a_repo_without_any_configuration_is_not_found(asker, hub):
    hub.create_repo("alice/empty")
    kind, text = asker.error("alice/empty")
    assert kind == "NotFound" and "neither config.json nor model_index.json" in text
    assert asker.requests == ["HEAD main/config.json", "HEAD main/model_index.json"]


@pytest.mark.parametrize("name", ["no JSON", "too large", "no model type", "NUL bytes"])
def test_a_configuration_on_the_hub_that_is_none_is_refused_by_name(asker, hub, name):
    hub.put_file("alice/llama", "config.json", BAD_CONFIGS[name])
    kind, text = asker.error("alice/llama")
    assert kind == "ConfigurationError" and text.startswith("config.json of the model alice/llama is not")


def test_a_pipeline_of_the_hub_is_read_at_one_commit(asker, hub):
    hub.create_repo("alice/diffusion")
    hub.put_files("alice/diffusion", pipeline_files())
    model = asker.model("alice/diffusion")
    assert model.configs == [{name: strip(config) for name, config in COMPONENTS.items()}]
    assert model.revision == head(hub, "alice/diffusion")
    asked = ["HEAD main/config.json", "HEAD main/model_index.json", "GET main/model_index.json"]
    for name in COMPONENTS:
        asked += [f"{method} {model.revision}/{name}/config.json" for method in ("HEAD", "GET")]
    assert asker.requests == asked


# --- without the Hub


FAULTS = {
    "500": Status(500),
    "503": Status(503, {"Retry-After": "5"}),
    "429": Status(429, {"Retry-After": "5"}),
    "stalls": Stall(120),
    "drops": Drop(),
    "resets": Drop(reset=True),
    "a login page": Body(b"<html>log in</html>"),
    "a proxy's 404": Status(404),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_hub_at_fault_is_told_once_its_cache_lacks_the_model(asker, hub, fault):
    hub.fail(None, fault, times=None)
    kind, text = asker.error("alice/llama", wait=0.3, HF_TOKEN="hf_alice")
    assert kind == "RemoteUnavailable" and "alice/llama" in text
    assert "huggingface_hub's cache does not have what is needed of alice/llama; try again later" in text
    assert len(asker.requests) == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_model_in_the_cache_needs_no_hub_that_answers(asker, hub, fault):
    model = asker.model("alice/llama")
    hub.fail(None, fault, times=None)
    assert asker.model("alice/llama", wait=0.3) == model
    assert len(asker.requests) == 1


def test_a_hub_that_is_not_there_is_no_obstacle_to_what_is_in_the_cache(asker, hub):
    model = asker.model("alice/llama")
    hub.down()
    assert asker.model("alice/llama") == model
    kind, _ = asker.error("alice/other")
    assert kind == "RemoteUnavailable"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_only_the_cache_is_asked(asker, variable):
    kind, text = asker.error("alice/llama", **{variable: "1"})
    assert kind == "RemoteUnavailable" and "because HF_HUB_OFFLINE is set" in text and "; unset it, or name" in text
    assert not asker.requests
    model = asker.model("alice/llama")
    assert asker.model("alice/llama", **{variable: "1"}) == model
    assert asker.model("alice/llama", revision=model.revision, **{variable: "1"}) == model
    assert not asker.requests
    assert asker.error("alice/llama", revision="v2", **{variable: "1"})[0] == "RemoteUnavailable"


def test_offline_a_pipeline_is_told_only_if_all_of_it_is_in_the_cache(asker, hub):
    hub.create_repo("alice/diffusion")
    hub.put_files("alice/diffusion", pipeline_files())
    hub.fail("resolve", Status(500), times=None, path="unet")
    kind, _ = asker.error("alice/diffusion")
    assert kind == "RemoteUnavailable"
    hub.clear_faults()
    model = asker.model("alice/diffusion")
    assert asker.model("alice/diffusion", HF_HUB_OFFLINE="1") == model


def test_offline_a_component_that_the_hub_said_to_lack_is_lacking(asker, hub):
    hub.create_repo("alice/diffusion")
    hub.put_files("alice/diffusion", pipeline_files({"unet": COMPONENTS["unet"]}))
    model = asker.model("alice/diffusion")
    assert set(model.configs[0]) == {"unet"}
    assert asker.model("alice/diffusion", HF_HUB_OFFLINE="1") == model


def test_a_cache_that_cannot_be_written_is_told_so(asker, tmp_path):
    (tmp_path / "file").touch()
    kind, text = asker.error("alice/llama", HF_HOME=str(tmp_path / "file"))
    assert kind == "ConfigurationError" and "huggingface_hub's cache" in text and "HF_HOME" in text


# --- as transformers has it

FAKE = """
import json, os


class Config:
    def __init__(self, fields):
        self.fields = fields

    def get_text_config(self):
        text = self.fields.get("text_config")
        return Config({**text, "from_text": True}) if text else self

    def to_diff_dict(self):
        return {**self.fields, "default": 1}


class AutoConfig:
    @classmethod
    def from_pretrained(cls, folder, trust_remote_code=True, **_):
        with open(os.path.join(folder, "config.json")) as file:
            fields = json.load(file)
        BEHAVIOUR
        return Config(fields)
"""


@pytest.fixture
def interpreters(tmp_path, monkeypatch):
    """Makes interpreters that have a transformers of the test's, on PATH or elsewhere; `runs` tells which were run."""

    class Interpreters:
        runs_file = tmp_path / "runs"

        def make(self, name="python3", behaviour="pass", release="0.4.4", *, folder="bin", transformers=True) -> Path:
            site = tmp_path / "site" / folder / name
            site.mkdir(parents=True)
            if transformers:
                (site / "transformers").mkdir()
                (site / "transformers/__init__.py").write_text(FAKE.replace("BEHAVIOUR", behaviour))
            if release:
                (site / "optimum_neuron.dist-info").mkdir()
                (site / "optimum_neuron.dist-info/METADATA").write_text(f"Name: optimum-neuron\nVersion: {release}\n")
            program = tmp_path / folder / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(
                f"#!/bin/sh\necho {folder}/{name} $$ >> {shlex.quote(str(self.runs_file))}\n"
                f'PYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(PYTHON)} -S "$@"\n'
            )
            program.chmod(0o755)
            return program

        @property
        def runs(self) -> list[str]:
            lines = self.runs_file.read_text().splitlines() if self.runs_file.exists() else []
            return [line.partition(" ")[0] for line in lines]

    return Interpreters()


def test_the_configuration_that_transformers_has_comes_first(tmp_path, interpreters):
    interpreters.make()
    model = resolve_model(str(write_model(tmp_path / "model")))
    exact = {**strip(LLAMA), "default": 1}
    assert model.configs == [exact, PLAIN]
    assert model.digests == [arch_digest("text-generation", exact), arch_digest("text-generation", PLAIN)]
    assert model.release == "0.4.4"
    assert Model.from_dict(json.loads(json.dumps(model.as_dict()))) == model


def test_two_configurations_of_one_digest_have_it_once(tmp_path, interpreters):
    interpreters.make()
    model = resolve_model(str(write_model(tmp_path / "model", {**PLAIN, "default": 1})))
    assert len(model.configs) == 2 and len(model.digests) == 1


def test_what_transformers_has_by_number_is_digested_in_the_order_of_numbers(tmp_path, interpreters):
    interpreters.make(
        behaviour='fields["id2label"] = {int(number): name for number, name in fields["id2label"].items()}'
    )
    config = {**LLAMA, "id2label": {str(number): f"LABEL_{number}" for number in range(12)}}
    model = resolve_model(str(write_model(tmp_path / "model", config)), "text-classification")
    as_transformers = {**config, "id2label": {number: f"LABEL_{number}" for number in range(12)}, "default": 1}
    assert model.digests[0] == arch_digest("text-classification", as_transformers)
    assert model.configs[0] == strip({**config, "default": 1})


def test_for_text_generation_the_configuration_of_the_text_model_is_taken(tmp_path, interpreters):
    interpreters.make()
    text = {"model_type": "gemma3_text", "hidden_size": 5}
    folder = str(write_model(tmp_path / "model", {"model_type": "gemma3", "text_config": text}))
    whole = {"model_type": "gemma3", "text_config": text}
    assert resolve_model(folder, "text-generation").configs == [{**text, "from_text": True, "default": 1}, whole]
    assert resolve_model(folder, "image-text-to-text").configs == [{**whole, "default": 1}, whole]


def test_a_model_of_the_hub_is_read_by_transformers_too(asker, interpreters):
    interpreters.make()
    model = asker.model("alice/llama")
    assert model.configs == [{**strip(LLAMA), "default": 1}, PLAIN]
    assert len(asker.requests) == 2


def test_our_own_interpreter_is_asked_first(tmp_path, interpreters, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(interpreters.make(release="0.4.3", folder="ours")))
    interpreters.make()
    assert resolve_model(str(write_model(tmp_path / "model"))).release == "0.4.3"
    assert interpreters.runs == ["ours/python3"]


def test_the_first_interpreter_that_has_transformers_is_asked(tmp_path, interpreters, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(interpreters.make(folder="ours", transformers=False)))
    interpreters.make("python3", transformers=False, release="0.3.0")
    interpreters.make("python", release="0.4.2")
    model = resolve_model(str(write_model(tmp_path / "model")))
    assert (len(model.configs), model.release) == (2, "0.4.2")
    assert interpreters.runs == ["ours/python3", "bin/python3", "bin/python"]


def test_an_interpreter_of_several_names_is_run_once(tmp_path, interpreters, monkeypatch):
    program = interpreters.make(transformers=False)
    (program.parent / "python").symlink_to(program.name)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    assert len(resolve_model(str(write_model(tmp_path / "model"))).configs) == 1
    assert interpreters.runs == ["bin/python3"]


def test_what_is_no_interpreter_is_passed_over(tmp_path, interpreters):
    interpreters.make("python")
    for content in (b"\x7fELF no program", b"#!/absent/interpreter\n", b"#!/bin/sh\nexit 1\n"):
        (tmp_path / "bin/python3").write_bytes(content)
        (tmp_path / "bin/python3").chmod(0o755)
        folder = tmp_path / f"model{len(content)}"
        assert len(resolve_model(str(write_model(folder))).configs) == 2


MISHAPS = {
    "an unknown type": 'raise ValueError("The checkpoint you are trying to load has model type `llama`")',
    "a crash": "os.abort()",
    "an exit": "raise SystemExit(1)",
    "no JSON": 'fields["x"] = object()',
    "no object": "Config.to_diff_dict = lambda self: [1]",
    "no type": "del fields['model_type']",
    "a bad type": "fields['model_type'] = '../x'",
    "too deep": "for _ in range(60): fields = {'model_type': 'llama', 'x': fields}",
    "too much": "fields['x'] = 'x' * (17 << 20)",
    "two kinds of names": "fields[1] = 1",
}


@pytest.mark.parametrize("behaviour", MISHAPS.values(), ids=MISHAPS)
def test_whatever_goes_wrong_in_transformers_the_plain_configuration_is_left(tmp_path, interpreters, behaviour, capfd):
    interpreters.make(behaviour=behaviour)
    model = resolve_model(str(write_model(tmp_path / "model")))
    assert (model.configs, model.digests) == ([PLAIN], [arch_digest("text-generation", PLAIN)])
    assert capfd.readouterr() == ("", "")


def test_the_release_is_known_even_if_transformers_does_not_know_the_model(tmp_path, interpreters):
    interpreters.make(behaviour="os.abort()", release="0.4.1")
    interpreters.make("python", release="0.4.2")
    assert resolve_model(str(write_model(tmp_path / "model"))).release == "0.4.1"
    assert interpreters.runs == ["bin/python3"]


@pytest.mark.parametrize("release", ["", "0.4.5; rm -rf", "../0.4.5", "dev"])
def test_without_a_release_of_optimum_neuron_the_newest_is_taken(tmp_path, interpreters, release):
    interpreters.make(release=release)
    model = resolve_model(str(write_model(tmp_path / "model")))
    assert (len(model.configs), model.release) == (2, NEWEST_RELEASE)


def test_what_transformers_prints_is_not_heard(tmp_path, interpreters, capfd):
    interpreters.make(behaviour='os.write(1, b"{}\\n" * 100_000); os.write(2, b"x" * 100_000)')
    assert len(resolve_model(str(write_model(tmp_path / "model"))).configs) == 2
    assert capfd.readouterr() == ("", "")


def test_an_interpreter_that_does_not_end_is_ended(tmp_path, interpreters, monkeypatch):
    interpreters.make(behaviour="import time; time.sleep(1000)")
    monkeypatch.setattr(model_config, "_LONGEST_WAIT", 0.5)
    monkeypatch.setattr(model_config, "_HANGING", set())
    assert resolve_model(str(write_model(tmp_path / "model"))).configs == [PLAIN]
    for line in interpreters.runs_file.read_text().splitlines() if interpreters.runs_file.exists() else []:
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.partition(" ")[2]), 0)


def test_transformers_has_no_network_no_foreign_code_and_a_copy_of_the_file_alone(tmp_path, interpreters):
    interpreters.make(
        behaviour="""fields.update(
            {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")},
            trusted=trust_remote_code, files=os.listdir(folder), cwd=os.getcwd(), folder=folder)"""
    )
    folder = write_model(tmp_path / "model", {**LLAMA, "auto_map": {"AutoConfig": "evil.Config"}})
    (folder / "evil.py").write_text("import nothing_that_is")
    seen = resolve_model(str(folder)).configs[0]
    assert (seen["HF_HUB_OFFLINE"], seen["TRANSFORMERS_OFFLINE"], seen["trusted"]) == ("1", "1", False)
    assert set(seen["files"]) == {"config.json", "answer"}
    assert str(tmp_path / "model") not in (seen["cwd"], seen["folder"])
    assert not Path(seen["folder"]).exists()


def test_a_module_in_the_current_folder_is_not_taken_for_transformers(tmp_path, interpreters, monkeypatch):
    interpreters.make(transformers=False)
    folder = write_model(tmp_path / "model")
    (folder / "transformers.py").write_text("import os; os.mkdir('imported')")
    monkeypatch.chdir(folder)
    assert len(resolve_model(".").configs) == 1
    assert not list(tmp_path.rglob("imported"))


def test_of_a_pipeline_only_the_release_is_asked(tmp_path, interpreters):
    interpreters.make(behaviour="os.abort()")
    model = resolve_model(str(write_pipeline(tmp_path / "diffusion")))
    assert (len(model.configs), model.release) == (1, "0.4.4")


def test_without_room_for_temporary_files_the_plain_configuration_is_left(tmp_path, interpreters, monkeypatch):
    interpreters.make()
    monkeypatch.setattr(model_config.tempfile, "tempdir", str(tmp_path / "absent"))
    assert len(resolve_model(str(write_model(tmp_path / "model"))).configs) == 1


def test_a_folder_of_the_hubs_own_cache_is_the_model_that_it_is_of(tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = write_model(tmp_path / f"hub/models--acme--tiny-llama/snapshots/{commit}")
    model = resolve_model(str(folder))
    assert (model.model_id, model.revision) == ("acme/tiny-llama", commit)


def test_an_interpreter_that_hangs_is_waited_for_once(tmp_path, interpreters, monkeypatch):
    interpreters.make(behaviour="import time; time.sleep(1000)")
    monkeypatch.setattr(model_config, "_LONGEST_WAIT", 0.5)
    monkeypatch.setattr(model_config, "_HANGING", set())
    folder = write_model(tmp_path / "model")
    for _ in range(3):
        assert resolve_model(str(folder)).configs == [PLAIN]
    assert len(model_config._HANGING) == 1
