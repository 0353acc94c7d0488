"""`lookup` and `list -m` in every layout that optimum-neuron's registry has had."""

from pathlib import Path

import pytest
from cli_remotes import answer, connect, ns
from loopback_hub import start_hub

FIXTURES = Path(__file__).parent / "fixtures/registry"
V_2_21, V_2_17, V_2_16, V_2_12 = (
    "2.21.33363.0+82129205",
    "2.17.194.0+d312836f",
    "2.16.372.0+4a9b2326",
    "2.12.54.0+f631c2365",
)
LAYOUTS = {"0.4.5": V_2_21, "0.4.4": V_2_21, "0.2.0": V_2_17, "0.1.0": V_2_16, "0.0.18": V_2_12}
LLAMA, CHAT, BERT = "acme/tiny-llama", "acme/tiny-llama-chat", "acme/tiny-bert"
QWEN, DIFFUSION, LLAMA_2 = "acme/tiny-qwen2", "acme/tiny-stable-diffusion", "meta-llama/Llama-2-7b-chat-hf"


def below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


@pytest.fixture(scope="module")
def hub():
    """A Hub with a repo for each layout, one with all of them, and the models."""
    with start_hub() as hub:
        hub.create_repo("alice/all")
        for release in LAYOUTS:
            hub.create_repo(f"alice/{release}")
            files = below(FIXTURES / f"optimum-neuron-{release}")
            assert files
            hub.put_files(f"alice/{release}", files)
            hub.put_files("alice/all", files)
        for model in (LLAMA, CHAT, BERT, QWEN, DIFFUSION, LLAMA_2):
            hub.create_repo(model)
            hub.put_files(model, below(FIXTURES / "models" / model.partition("/")[2]))
        yield hub


@pytest.mark.parametrize(
    ("release", "model", "found"),
    [
        ("0.4.5", LLAMA, {LLAMA: 2, CHAT: 1}),
        ("0.4.5", CHAT, {LLAMA: 2, CHAT: 1}),
        ("0.4.5", QWEN, {QWEN: 1}),
        ("0.4.5", BERT, {BERT: 1}),
        ("0.4.5", DIFFUSION, {DIFFUSION: 1}),
        ("0.4.4", LLAMA, {LLAMA: 1}),
        ("0.4.4", CHAT, {LLAMA: 1}),
        ("0.4.4", BERT, {BERT: 1}),
        ("0.4.4", DIFFUSION, {DIFFUSION: 1}),
        ("0.2.0", LLAMA, {LLAMA: 2}),
        ("0.1.0", LLAMA, {LLAMA: 2}),
        ("0.1.0", BERT, {BERT: 1}),
        ("0.1.0", DIFFUSION, {DIFFUSION: 1}),
        ("0.0.18", LLAMA_2, {LLAMA_2: 1}),
    ],
)
def test_lookup_reads_every_layout(host, hub, release, model, found):
    host = connect(host, hub, f"alice/{release}")
    hub.requests.clear()
    made = answer(host, "lookup", model, "--compiler", LAYOUTS[release])
    assert hub.count() <= 15
    entries = made["entries"]
    names = [entry["model_id"] for entry in entries]
    assert {name: names.count(name) for name in names} == found
    assert made["left_out"]["corrupt"] == {}
    for entry in entries:
        assert (entry["optimum_neuron"], entry["compiler"], entry["ours"]) == (release, LAYOUTS[release], False)
        assert entry["same_model"] is (entry["model_id"] == model)
    assert "no guarantee" in ns(host, "lookup", model, "--compiler", LAYOUTS[release]).stdout


def test_the_example_of_optimum_neurons_guide_is_printed_as_it_was(host, hub):
    words = ("lookup", LLAMA_2, "-c", V_2_12, "--format", "seed")
    assert ns(connect(host, hub, "alice/0.0.18"), *words).stdout == (
        "*** 1 entrie(s) found in cache for meta-llama/Llama-2-7b-chat-hf ***\n"
        "task: text-generation\n"
        "batch_size: 1\n"
        "num_cores: 24\n"
        "auto_cast_type: fp16\n"
        "sequence_length: 2048\n"
        "compiler_type: neuronx-cc\n"
        "compiler_version: 2.12.54.0+f631c2365\n"
        "checkpoint_id: meta-llama/Llama-2-7b-chat-hf\n"
        "checkpoint_revision: c1b0db933684edbfe29a06fa47eb19cc48025e93\n"
    )


@pytest.mark.parametrize(
    ("release", "model", "words", "count"),
    [
        ("0.4.5", LLAMA, ("--tensor-parallel-size", "2"), 2),
        ("0.4.5", LLAMA, ("--dtype", "bf16", "--instance-type", "trn1.2xlarge"), 2),
        ("0.4.5", BERT, ("--batch-size", "1"), 1),
        ("0.4.5", BERT, ("--batch-size", "64"), 0),
        ("0.1.0", LLAMA, ("--tensor-parallel-size", "2", "--dtype", "bf16"), 1),
        ("0.0.18", LLAMA_2, ("--num-cores", "24", "--auto-cast-type", "float16", "--sequence_length", "2048"), 1),
        ("0.0.18", LLAMA_2, ("--task", "text-generation"), 1),
    ],
)
def test_filters_fit_every_layout(host, hub, release, model, words, count):
    host = connect(host, hub, f"alice/{release}")
    made = answer(host, "lookup", model, "-c", LAYOUTS[release], *words, code=0 if count else 1)
    assert len(made["entries"]) == count


def test_models_of_all_layouts_are_listed(host, hub):
    rows = answer(connect(host, hub, "alice/all"), "list", "alice/all", "--models")["models"]
    assert [(row["model_id"], row["compiler"], row["entries"], row["optimum_neuron"]) for row in rows] == [
        (BERT, V_2_21, 1, ["0.4.5", "0.4.4"]),
        (BERT, V_2_16, 1, ["0.1.0"]),
        (LLAMA, V_2_21, 3, ["0.4.5", "0.4.4"]),
        (LLAMA, V_2_17, 2, ["0.2.0"]),
        (LLAMA, V_2_16, 2, ["0.1.0"]),
        (CHAT, V_2_21, 1, ["0.4.5"]),
        (QWEN, V_2_21, 1, ["0.4.5"]),
        (DIFFUSION, V_2_21, 1, ["0.4.5", "0.4.4"]),
        (DIFFUSION, V_2_16, 1, ["0.1.0"]),
        (LLAMA_2, V_2_12, 1, ["0.0.18"]),
    ]
