"""A stock cache's folder goes to a repo of its layout: only what is missing, and nothing that hurts there."""

import signal
import subprocess
import sys
import time

import pytest
from cli_remotes import answer, ns
from loopback_hub import Drop, Status
from stock_setup import FLAGS, FOLDER, graph, module_name, stock, write_entry

REPO = "alice/cache"


@pytest.fixture
def connected(host, hub):
    host.use_remotes(f"hf://{REPO}", hub=hub)
    host.env["NEURON_STORE_UPLOAD_RETRY"] = "0.01"
    host.env["NEURON_STORE_UPLOAD"] = "0"
    return host


@pytest.fixture
def cache(host, tmp_path):
    """A folder as it is after some weeks."""
    cache = tmp_path / "cache"
    for number in (1, 2):
        stock(host, cache, host.model(f"g{number}.pb", graph(number)), shim=False)
    stock(host, cache, host.model("b.pb", graph(3)), shim=False, code=70, STANDIN_EXIT=70)
    stock(host, cache, host.model("c.pb", graph(4)), collect=True, shim=False)
    (cache / FOLDER / module_name(graph(1), list(FLAGS)) / "model.hlo_module.pb.lock").touch()
    write_entry(cache / FOLDER / "MODULE_5+d7517139", graph(5), FLAGS, neff=b"half", done=False)
    traced = cache / FOLDER / "MODULE_0123456789abcdef0123"
    (traced / "unet").mkdir(parents=True)
    (traced / "unet/model.neuron").write_bytes(b"traced")
    (traced / "config.json").write_text("{}")
    registry = cache / FOLDER / "0_REGISTRY/0.4.5"
    (registry / "0123").mkdir(parents=True)
    (registry / "0123/abc.json").write_text('{"model_type": "llama"}')
    (registry / "llama/acme/tiny").mkdir(parents=True)
    (registry / "llama/acme/tiny/abc.json").symlink_to("../../../0123/abc.json")
    write_entry(cache / "neuronxcc-2.13.0.0+aa/MODULE_6+d7517139", graph(6), FLAGS, neff=b"old")
    (cache / "notes.txt").write_text("mine")
    return cache


def names(hub):
    return {path for path in hub.files(REPO) if path.startswith("neuronxcc-")}


def expected(*numbers):
    found = set()
    for number in numbers:
        entry = f"{FOLDER}/{module_name(graph(number), list(FLAGS))}"
        found |= {f"{entry}/{name}" for name in
                  ("compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff")}  # fmt: skip
    return found


REST = {
    f"{FOLDER}/MODULE_0123456789abcdef0123/unet/model.neuron",
    f"{FOLDER}/MODULE_0123456789abcdef0123/config.json",
    f"{FOLDER}/0_REGISTRY/0.4.5/0123/abc.json",
    f"{FOLDER}/0_REGISTRY/0.4.5/llama/acme/tiny/abc.json",
}
OLD = {
    f"neuronxcc-2.13.0.0+aa/MODULE_6+d7517139/{name}"
    for name in ("compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff")
}


@pytest.mark.parametrize("spelling", ["--cache_dir", "--cache-dir"])
def test_what_is_whole_goes_and_what_hurts_stays(connected, hub, cache, spelling):
    told = answer(connected, "synchronize", spelling, cache, "--repo_id", REPO)
    assert names(hub) == expected(1, 2) | REST | OLD
    assert told["left_out"] == {"failed": 1, "pending": 2}
    assert told["commits"] == 1
    again = answer(connected, "synchronize", spelling, cache)
    assert (again["uploaded"], again["commits"], again["left_out"]["present"]) == (0, 0, 6)
    assert len(hub.commits(REPO)) == 1


def test_it_is_what_the_shim_of_another_host_reads(connected, hub, cache, make_host, tmp_path):
    ns(connected, "synchronize", "--cache_dir", cache)
    other = make_host("other")
    other.use_remotes(f"hf://{REPO}|read-only", hub=hub)
    said, neff = stock(other, tmp_path / "new", other.model("g.pb", graph(2)))
    assert neff == (cache / FOLDER / module_name(graph(2), list(FLAGS)) / "model.neff").read_bytes()
    assert said == "compiled"  # so the stock cache thinks
    assert other.runs == []
    assert other.counters() == {"hit_stock": 1, "pass_version": 1}


def test_one_compilers_modules_only(connected, hub, cache):
    ns(connected, "synchronize", "--cache_dir", cache, "--compiler", "2.13")
    assert names(hub) == OLD


def test_other_bytes_are_told_and_left_unless_asked(connected, hub, cache):
    ns(connected, "synchronize", "--cache_dir", cache)
    neff = cache / "neuronxcc-2.13.0.0+aa/MODULE_6+d7517139/model.neff"
    neff.write_bytes(b"another one")
    done = ns(connected, "synchronize", "--cache_dir", cache)
    assert "has other bytes of neuronxcc-2.13.0.0+aa/MODULE_6+d7517139" in done.stderr
    path = "neuronxcc-2.13.0.0+aa/MODULE_6+d7517139/model.neff"
    assert hub.files(REPO)[path] == b"old"
    ns(connected, "synchronize", "--cache_dir", cache, "--replace")
    assert hub.files(REPO)[path] == b"another one"


def many(cache, count):
    """So many entries that are as good as any to whoever only sends them."""
    for number in range(count):
        write_entry(cache / f"{FOLDER}/MODULE_{number}+d7517139", b"graph %d" % number, FLAGS, neff=b"N%d" % number)


def test_bounded_commits(connected, hub, tmp_path):
    many(tmp_path / "c", 250)
    told = answer(connected, "synchronize", "--cache_dir", tmp_path / "c")
    assert (told["uploaded"], told["commits"]) == (250, 3)
    for commit in hub.commits(REPO):
        entries = {path.rpartition("/")[0] for path in commit.added}
        for entry in entries:
            assert f"{entry}/model.done" in commit.added
        assert len(commit.added) <= 400


FAULTS = [Status(409), Status(412), Status(429), Status(500), Status(500, when="after"), Drop(), Drop(when="after")]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("kind", ["commit", "paths-info", "preupload", "lfs-put"])
def test_a_fault_is_tried_again_and_commits_nothing_twice(connected, hub, cache, fault, kind):
    hub.fail(kind, fault, times=2)
    ns(connected, "synchronize", "--cache_dir", cache)
    assert names(hub) == expected(1, 2) | REST | OLD
    assert len(hub.commits(REPO)) == 1


def test_a_hub_that_stays_down_is_said(connected, hub, cache):
    hub.fail("commit", Status(500), times=None)
    said = ns(connected, "synchronize", "--cache_dir", cache, code=1).stderr
    assert "6 modules are still missing" in said


def test_a_kill_loses_nothing_that_was_committed(connected, hub, tmp_path):
    many(tmp_path / "c", 300)
    hub.latency = 0.01
    command = [sys.executable, "-m", "neuron_store.cli", "synchronize", "--cache_dir", str(tmp_path / "c")]
    process = subprocess.Popen(command, env=connected.env, cwd=connected.work)
    end = time.monotonic() + 60
    while len(hub.commits(REPO)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.latency = 0
    sent = hub.count("lfs-put")
    ns(connected, "synchronize", "--cache_dir", tmp_path / "c")
    added = [path for commit in hub.commits(REPO) for path in commit.added]
    assert len(added) == len(set(added))
    assert sum(path.endswith("model.done") for path in added) == 300
    objects = len({path for path in added if path.endswith((".neff", ".pb"))})
    assert hub.count("lfs-put") <= objects + 16  # what was on its way when it was killed
    assert sent > 0


def test_a_shared_folder_is_a_repo_too(host, cache, tmp_path):
    (tmp_path / "shared").mkdir()
    ns(host, "synchronize", "--cache_dir", cache, "--repo_id", f"file://{tmp_path}/shared")
    found = {path.relative_to(tmp_path / "shared").as_posix() for path in (tmp_path / "shared").rglob("*")
             if path.is_file()}  # fmt: skip
    assert found == expected(1, 2) | REST | OLD


def test_bad_arguments_are_said(connected, hub, tmp_path):
    hub.add_user("bob", "hf_bob")
    assert "no folder" in ns(connected, "synchronize", "--cache_dir", tmp_path / "absent", code=1).stderr
    assert "--cache-dir" in ns(connected, "synchronize", "--compiler", "2", code=2).stderr
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"N")
    said = ns(connected, "synchronize", "--cache_dir", tmp_path / "c", code=1, HF_TOKEN="hf_bob").stderr
    assert "may not write to" in said
