"""A model from one host to another: registered by a run of many ranks, looked up, pulled, and run without a network."""

import json
import sys

import pytest
from test_two_hosts import REFERENCE, subgraphs  # noqa: F401 - a fixture

from neuron_store.store.results import all_keys, load_result

pytest.importorskip("jaxlib", reason="the reference compiler needs JAX")

RANKS = 8
JOB = """
import os, subprocess, sys
here = os.path.abspath("checkout")
ranks = []
for rank in range(8):
    folder = os.path.join(here, f"rank{rank}")
    os.makedirs(folder, exist_ok=True)
    script = " && ".join(
        f"neuronx-cc compile --framework=XLA {here}/{name} --target=trn1 --output={name}.neff"
        for name in sorted(os.listdir(here)) if name.endswith(".pb")
    )
    ranks.append(subprocess.Popen(["sh", "-c", script], cwd=folder))
sys.exit(max(rank.wait() for rank in ranks))
"""
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "torch_dtype": "bfloat16",
}
SHAPES = ("--batch-size", 1, "--sequence-length", 128, "--num-cores", 2, "--auto-cast-type", "bf16")


@pytest.fixture
def make_member(make_host, hub, subgraphs):  # noqa: F811 - the fixture
    def make(name):
        host = make_host(name)
        host.use_remotes("hf://alice/cache", hub=hub)
        host.env["NEURON_STORE_COMPILER"] = str(REFERENCE)
        checkout = host.work / "checkout"
        checkout.mkdir()
        for graph, data in subgraphs.items():
            (checkout / f"{graph}.hlo_module.pb").write_bytes(data)
        model = host.work / "tiny-llama"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
        (host.work / "job.py").write_text(JOB)
        return host

    return make


def run(host, *options):
    return host.cli("run", "-m", "tiny-llama", *SHAPES, *options, "--", sys.executable, "job.py")


def neffs(host):
    return {path.name: path.read_bytes() for path in (host.work / "checkout").glob("rank0/*.neff")}


def test_a_model_goes_from_one_host_to_another(make_member, hub, subgraphs):  # noqa: F811 - the fixture
    first, second = make_member("first"), make_member("second")
    count = len(subgraphs)
    said = run(first).stderr
    assert f"{count} misses" in said
    assert "registered 1 model entry" in said
    assert first.counters()["upload_done"] == count
    keys = list(all_keys(first.layout))

    # Known before anything runs: all is there, for the compiler that is installed here.
    looked = second.cli("lookup", "tiny-llama")
    assert f"{count} of {count} keys: no compile will happen" in looked.stdout
    answer = json.loads(second.cli("lookup", "tiny-llama", *SHAPES, "--json").stdout)
    (entry,) = answer["entries"]
    assert entry["keys"]["remote"] == keys
    assert list(all_keys(second.layout)) == []

    # In one go.
    second.cli("pull", "tiny-llama", *SHAPES)
    assert list(all_keys(second.layout)) == keys

    # And without any network.
    hub.down()
    said = run(second, "--no-push").stderr
    assert f"{RANKS * count} hits, 0 misses" in said
    counters = second.counters()
    counters.pop("upload_failed", None)  # its entry is to be looked at when the Hub is back
    counters.pop("waited", None)
    assert counters.keys() <= {"hit_direct", "hit_canonical"}
    assert neffs(second) == neffs(first)


def test_a_key_that_is_gone_is_told_with_the_time_that_it_will_take(make_member, hub, subgraphs):  # noqa: F811 - the fixture
    first, second = make_member("first"), make_member("second")
    run(first)
    keys = list(all_keys(first.layout))
    gone = keys[1]
    (record,) = [path for path in hub.files("alice/cache") if path.endswith(f"{gone}.json")]
    hub.delete_file("alice/cache", record)
    result = load_result(first.layout, gone)

    said = second.cli("lookup", "tiny-llama").stdout
    assert f"{len(keys) - 1} of {len(keys)} keys" in said
    assert gone[:12] in said
    assert result.input["name"] in said
    answer = json.loads(second.cli("lookup", "tiny-llama", "--json").stdout)
    (missing,) = answer["entries"][0]["keys"]["missing"]
    assert missing["key"] == gone
    assert missing["seconds"] == pytest.approx(result.seconds, abs=0.001)

    pulled = second.cli("pull", "tiny-llama", check=False)
    assert pulled.returncode == 1
    assert list(all_keys(second.layout)) == [key for key in keys if key != gone]
    run(second, "--no-push")
    counters = second.counters()
    assert counters["miss_stored"] == 1
