"""A stock cache's folder goes to a repo of its layout: only what is missing, and nothing that hurts there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_remotes import answer, ns
from doctors import powerless
from loopback_hub import Drop, Status
from stock_setup import FLAGS, FOLDER, graph, module_name, stock, write_entry

from neuron_store.cli.stock_upload import StockUpload, UploadEntry
from neuron_store.store.remotes.base import RemoteFile

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
    assert "--pull" in ns(connected, "synchronize", "--cache_dir", tmp_path, "--pull", code=2).stderr
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"N")
    said = ns(connected, "synchronize", "--cache_dir", tmp_path / "c", code=1, HF_TOKEN="hf_bob").stderr
    assert "may not write to" in said


TRACED = f"{FOLDER}/MODULE_0123456789abcdef0123"
ODD = os.fsdecode(b"notes \xe9.txt")


def whole(number):
    """The names of one of the `many`."""
    entry = f"{FOLDER}/MODULE_{number}+d7517139"
    return {f"{entry}/{name}" for name in ("compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff")}


def test_a_name_that_a_repo_does_not_take_keeps_nothing_else_from_going(connected, hub, tmp_path):
    many(tmp_path / "c", 2)
    (tmp_path / "c" / FOLDER / "MODULE_1+d7517139" / ODD).write_text("beside the parts")
    for hidden in (".cache/huggingface/download/model.neuron.metadata", ".git/config", "unet/.cache/x"):
        path = tmp_path / "c" / TRACED / hidden
        path.parent.mkdir(parents=True)
        path.write_text("of a tool")
    (tmp_path / "c" / TRACED / "unet/model.neuron").write_text("traced")
    odd = tmp_path / "c" / FOLDER / "MODULE_0123456789abcdef0124" / ODD
    odd.parent.mkdir()
    odd.write_text("nobody knows whether the model needs it")
    told = answer(connected, "synchronize", "--cache_dir", tmp_path / "c")
    assert names(hub) == whole(0) | whole(1) | {f"{TRACED}/unet/model.neuron"}
    assert told["left_out"] == {"odd_name": 1}
    assert len(told["files_left_out"]) == 4


def test_a_file_that_cannot_be_read_keeps_only_its_module_from_going(connected, hub, tmp_path):
    many(tmp_path / "c", 3)
    neff = tmp_path / "c" / FOLDER / "MODULE_1+d7517139/model.neff"
    neff.chmod(0)
    command = [*powerless(), sys.executable, "-m", "neuron_store.cli", "synchronize", "--json", "--cache_dir"]
    done = subprocess.run(
        [*command, tmp_path / "c"], env=connected.environ({}), cwd=connected.work, capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert (told["uploaded"], told["left_out"], told["unreadable"]) == (2, {"unreadable": 1}, [str(neff)])
    assert done.returncode == 0
    assert names(hub) == whole(0) | whole(2)


@pytest.mark.parametrize("content", ["nothing", "a link that leads nowhere"])
def test_a_traced_model_that_is_not_whole_stays(connected, hub, tmp_path, content):
    model = tmp_path / "c" / TRACED
    model.mkdir(parents=True)
    if content != "nothing":
        (model / "config.json").write_text("{}")
        (model / "model.neuron").symlink_to("/gone")
    told = answer(connected, "synchronize", "--cache_dir", tmp_path / "c")
    assert (told["uploaded"], told["left_out"]) == (0, {"unfinished": 1})
    assert names(hub) == set()


def test_no_commit_is_begun_after_its_time(connected, hub, tmp_path):
    many(tmp_path / "c", 2)
    said = ns(connected, "synchronize", "--cache_dir", tmp_path / "c", "--timeout", 1e-9, code=1).stderr
    assert "2 modules are still missing" in said
    assert "the time is up" in said
    assert hub.commits(REPO) == []


class Contested:
    """A remote to which something happens just before each commit."""

    counts_commits = False

    def __init__(self, happens):
        self.files = {}
        self._happens = happens

    def look_up(self, paths):
        return {path: RemoteFile(path, -1) for path in paths if path in self.files}

    def add(self, additions, _message):
        self._happens(self)
        self.files |= {
            each.path: Path(each.source).read_bytes() if each.data is None else each.data for each in additions
        }


def uploaded(remote, entries):
    """What comes of sending entries to a remote."""
    nothing = lambda *_: None  # noqa: E731 - it is one
    state = SimpleNamespace(note_commit=nothing, take_back_commit=nothing, commits_in_hour=list)
    settings = SimpleNamespace(upload_commits_per_hour=1, upload_retry=0.0)
    upload = StockUpload(SimpleNamespace(remote=remote, state=state), settings)
    upload.send(entries, nothing)
    return upload.made


def entries_of(folder, count):
    many(folder, count)
    return [
        UploadEntry(f"{FOLDER}/{path.name}", {file.name: str(file) for file in path.iterdir()})
        for path in sorted((folder / FOLDER).iterdir())
    ]


def test_a_module_that_goes_away_on_its_way_keeps_no_other_from_going(tmp_path):
    entries = entries_of(tmp_path, 3)
    gone = tmp_path / FOLDER / "MODULE_1+d7517139/model.neff"
    made = uploaded(remote := Contested(lambda _remote: gone.unlink(missing_ok=True)), entries)
    assert (made.entries, made.left, made.left_out) == (2, 0, {"unfinished": 1})
    assert set(remote.files) == whole(0) | whole(2)
