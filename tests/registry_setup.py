"""What tests of the registry share: models on a loopback Hub, and entries for them on any remote."""

import json
from pathlib import Path

from conftest import VERSION

from neuron_store.store.registry.architecture import own_digest
from neuron_store.store.registry.entries import Entry, KeyInfo
from neuron_store.store.registry.places import entry_paths
from neuron_store.store.results import all_keys, load_result

MODEL = "acme/tiny-llama"
FINE_TUNE = "acme/tuned-llama"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
}
NEURON = {
    "batch_size": 2,
    "sequence_length": 512,
    "tp_degree": 2,
    "torch_dtype": "bfloat16",
    "target": "trn1",
    "neuronxcc_version": VERSION,
}
TASK = "text-generation"
# The example of optimum-neuron's documentation.
SEED_NEURON = {
    "auto_cast_type": "fp16",
    "batch_size": 1,
    "checkpoint_id": "meta-llama/Llama-2-7b-chat-hf",
    "checkpoint_revision": "c1b0db933684edbfe29a06fa47eb19cc48025e93",
    "compiler_type": "neuronx-cc",
    "compiler_version": "2.12.54.0+f631c2365",
    "num_cores": 24,
    "sequence_length": 2048,
    "task": "text-generation",
}
SEED_SAID = """\
*** 1 entrie(s) found in cache for meta-llama/Llama-2-7b-chat-hf ***
task: text-generation
batch_size: 1
num_cores: 24
auto_cast_type: fp16
sequence_length: 2048
compiler_type: neuronx-cc
compiler_version: 2.12.54.0+f631c2365
checkpoint_id: meta-llama/Llama-2-7b-chat-hf
checkpoint_revision: c1b0db933684edbfe29a06fa47eb19cc48025e93
"""


def put_model(hub, model_id=MODEL, config=LLAMA):
    """Make a model's repo, with its config.json."""
    hub.create_repo(model_id)
    hub.put_file(model_id, "config.json", json.dumps(config).encode())


def make_entry(model_id=MODEL, *, config=LLAMA, task=TASK, keys=None, uncached=None, **neuron):
    """Return an entry of a run that ended well; `keys` None: optimum-neuron's own. None in `neuron` is left out."""
    told = {name: value for name, value in {**NEURON, **neuron}.items() if value is not None}
    entry = Entry(model_id, task, config, told, keys, uncached)
    entry.is_finished = True
    return entry


def encode(entry):
    """Return the entry's file; of optimum-neuron's own, without what is ours."""
    document = json.loads(entry.encode())
    if not entry.ours:
        del document["neuron_store"]
    return json.dumps(document, indent=2, sort_keys=True).encode()


def files_of(*entries, release="0.4.5", version=VERSION):
    """Return the files of entries: path -> content."""
    return {
        path: encode(entry)
        for entry in entries
        for path in entry_paths(version, release, entry.model_type, entry.model_id, entry.name, digests_of(entry))
    }


def digests_of(entry):
    """Return under which digests an entry is filed by whoever makes such entries."""
    return [entry.arch_digest, *([own_digest(entry.config)] if entry.ours else [])]


def put(remote, files, repo="alice/cache"):
    """Put files on a remote: a loopback Hub, or a folder."""
    if not isinstance(remote, Path):
        remote.put_files(repo, files)
        return
    for path, data in files.items():
        (remote / path).parent.mkdir(parents=True, exist_ok=True)
        (remote / path).write_bytes(data)


def infos(host, keys=None):
    """Return what an entry says of keys (all of a host's)."""
    made = {}
    for key in keys or all_keys(host.layout):
        result = load_result(host.layout, key)
        made[key] = KeyInfo(result.seconds, result.size, str(result.input["name"]))
    return made


def absent(count, seconds=60.0, first=1):
    """Return keys that nobody has, each with its seconds."""
    return {f"{number:032x}": KeyInfo(seconds, 1000, f"module_{number}.pb") for number in range(first, first + count)}


def other_models(count, release="0.4.5", version=VERSION):
    """Return the files of so many entries of as many other models of the same type, under digest and name."""
    files = {}
    for number in range(count // 2):
        entry = make_entry(f"org{number}/model{number}", config={**LLAMA, "hidden_size": 64 + 2 * number + 1})
        files |= files_of(entry, release=release, version=version)
    return files
