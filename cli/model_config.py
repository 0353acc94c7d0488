"""What a model's configuration says: read from bytes that anyone may have written, and as transformers has it.

transformers takes seconds to import, and it need not be installed where we are. So another process is asked: the first
of our own interpreter and those on PATH that has it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.registry.architecture import model_type_of, strip
from neuron_store.store.registry.places import NEWEST_RELEASE, is_part, is_release

LARGEST_CONFIG = 4 << 20  # bytes
_LARGEST_ANSWER = 16 << 20  # bytes: with the defaults filled in
_DEEPEST = 50  # levels; json itself gives up somewhere near the interpreter's recursion limit
_LONGEST_WAIT = 60.0  # seconds, for all interpreters together
_HANGING: set[str] = set()  # interpreters that did not end in that time: one model's wait is enough
_TEXT_GENERATION = "text-generation"

# The end of an architecture's name -> the task, as optimum names it. The first that fits is taken.
_TASKS = (
    ("ForCausalLM", _TEXT_GENERATION),
    ("T5WithLMHeadModel", "text2text-generation"),
    ("WithLMHeadModel", None),
    ("LMHeadModel", _TEXT_GENERATION),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMultipleChoice", "multiple-choice"),
    ("ForMaskedLM", "fill-mask"),
    ("ForImageClassification", "image-classification"),
    ("ForSemanticSegmentation", "semantic-segmentation"),
    ("ForObjectDetection", "object-detection"),
    ("ForDepthEstimation", "depth-estimation"),
    ("ForAudioClassification", "audio-classification"),
    ("ForAudioFrameClassification", "audio-frame-classification"),
    ("ForXVector", "audio-xvector"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForTextToSpeech", "text-to-audio"),
    ("VisionEncoderDecoderModel", "image-to-text"),
    ("SpeechEncoderDecoderModel", "automatic-speech-recognition"),
    ("EncoderDecoderModel", "text2text-generation"),
    ("CLIPModel", "zero-shot-image-classification"),
    ("Model", "feature-extraction"),
)
_SPEECH_TYPES = ("speech_to_text", "whisper")

# Run by an interpreter that may be of any environment and as old as Python 3.8. It tells what it knows before each
# step that may be its last. Whatever transformers prints goes nowhere: the answer is a file.
_SCRIPT = """\
import importlib.util
import json
import os
import sys

answer, folder, task = sys.argv[1:]


def tell(release, config):
    with open(answer + ".new", "w") as file:
        json.dump({"release": release, "config": config}, file, sort_keys=True)
    os.replace(answer + ".new", answer)


if importlib.util.find_spec("transformers") is None:
    sys.exit()
try:
    from importlib.metadata import version
    release = version("optimum-neuron")
except Exception:
    release = None
tell(release, None)
if folder:
    from transformers import AutoConfig
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if task == "text-generation" and hasattr(config, "get_text_config"):
        text = config.get_text_config()
        config = config if text is None else text
    tell(release, config.to_diff_dict())
"""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


# -- as config.json has it -----------------------------------------------------------------------------------------


def read_bounded(path: str, most: int = LARGEST_CONFIG) -> bytes:
    """Return a regular file's content. Raises OSError; ValueError if it has more than `most` bytes."""
    with open(open_regular(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most >> 20} MB")
    return data


def parse_config(data: bytes, name: str) -> dict[str, Any]:
    """Return a configuration from its file's bytes; `name` is the file's. Raises ConfigurationError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _is_none(name, f"it is no JSON ({str(error)[:100]})") from error
    if not isinstance(document, dict):
        raise _is_none(name, "it is JSON, but no object")
    if not _is_shallow(document):
        raise _is_none(name, f"it is nested more than {_DEEPEST} levels deep")
    return document


def require_type(config: dict[str, Any], name: str) -> None:
    """Raise ConfigurationError for the configuration of a model that does not say what type of model it is."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not is_part(model_type):
        raise _is_none(name, "it has no model_type, or none that is a name")


def _is_none(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} is not the configuration of a model that transformers knows: {why}; name another model, or save its "
        "configuration again with save_pretrained"
    )


def _is_shallow(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        inside = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level = [part for part in inside if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def task_of(config: dict[str, Any]) -> str | None:
    """Return the task that a model is made for, by the name of its architecture; None where that does not tell."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    if names[0].endswith("ForConditionalGeneration"):
        return _conditional_task(config)
    return next((task for end, task in _TASKS if names[0].endswith(end)), None)


def _conditional_task(config: dict[str, Any]) -> str | None:
    if config.get("model_type") in _SPEECH_TYPES:
        return "automatic-speech-recognition"
    if "vision_config" in config:
        return "image-text-to-text"
    return None if "audio_config" in config else "text2text-generation"


# -- as transformers has it ----------------------------------------------------------------------------------------


@dataclass
class Installed:
    """What the environment with transformers says.

    Attributes:
        release: of optimum-neuron, there; else the newest whose layout is known.
        config: with what its class says of every field, without what is left out; None where there is no transformers,
            or it does not know the model. Dicts are in the order in which transformers' own would be sorted.
    """

    release: str = NEWEST_RELEASE
    config: dict[str, Any] | None = None


def ask_transformers(config: bytes | None, task: str | None) -> Installed:
    """Find out how transformers reads a config.json (None: a pipeline, of which it reads nothing).

    Whatever goes wrong, it is as if transformers were not installed.
    """
    deadline = time.monotonic() + _LONGEST_WAIT
    try:
        with tempfile.TemporaryDirectory(prefix="neuron-store-", ignore_cleanup_errors=True) as folder:
            if config is not None:
                # A copy: what was checked is what is read, and of the model's folder nothing else.
                with open(os.path.join(folder, "config.json"), "wb") as file:
                    file.write(config)
            for interpreter in [path for path in _interpreters() if path not in _HANGING]:
                answer = _ask(interpreter, folder, "" if config is None else folder, task or "", deadline)
                if answer is not None:
                    return _believe(answer)
    except OSError:  # no room for temporary files
        pass
    return Installed()


def _interpreters() -> list[str]:
    """Return the paths of our interpreter and those that the user's commands run in, each environment once."""
    found: dict[tuple[str, str], str] = {}
    for named in (sys.executable, shutil.which("python3"), shutil.which("python")):
        if named:
            path = os.path.abspath(named)
            # An environment is told by the folder of its link, an interpreter by where the link leads.
            found.setdefault((os.path.realpath(os.path.dirname(path)), os.path.realpath(path)), path)
    return list(found.values())


def _ask(interpreter: str, room: str, folder: str, task: str, deadline: float) -> Any:  # noqa: ANN401 - JSON
    """Return what an interpreter answers until `deadline` (monotonic), None if it has no transformers, or answers nothing.

    `room` is a folder for its answer, and its current one: no module that lies where we are can come in its way.
    """
    answer = os.path.join(room, "answer")
    try:
        process = subprocess.Popen(
            [interpreter, "-c", _SCRIPT, answer, folder, task],
            cwd=room,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        if process.poll() is None:
            _HANGING.add(interpreter)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    try:
        return json.loads(read_bounded(answer, _LARGEST_ANSWER))
    except (OSError, ValueError, RecursionError):
        return None


def _believe(answer: Any) -> Installed:  # noqa: ANN401 - JSON
    """Return what of an answer can be used."""
    installed = Installed()
    if not isinstance(answer, dict):
        return installed
    release, config = answer.get("release"), answer.get("config")
    if isinstance(release, str) and is_release(release):
        installed.release = release
    if isinstance(config, dict) and _is_shallow(config) and is_part(model_type_of(config)):
        installed.config = strip(config)
    return installed


def exact_digest(task: str | None, config: dict[str, Any]) -> str:
    """Return the digest by which optimum-neuron 0.4.5 files a configuration of `Installed`.

    It is architecture.arch_digest, but for the order of what transformers has by number (`id2label`): 2 comes before
    10 there, and after it in JSON, where all names are text.
    """
    own = {name: value for name, value in config.items() if name not in ("neuron", "neuron_store")}
    described = {"config": own, "model_type": model_type_of(config), "task": task}
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
