"""Stock caches become results: folders, tarballs and repos, whatever state they are in."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import zstandard
from cli_remotes import answer, ns
from conftest import VERSION
from optimum_cache import COMPILER, NEFFS
from stock_setup import FLAGS, FOLDER, graph, module_name, renamed, stock, stock_files, write_entry

from neuron_store.store.results import all_keys, load_result


def hits(host):
    """How the shim ended, without the questions for the version."""
    counted = host.counters()
    counted.pop("pass_version", None)
    return counted


@pytest.mark.parametrize("form", ["training", "inference"])
def test_what_was_compiled_without_the_shim_is_a_hit_with_it(host, tmp_path, form):
    models = [host.model(f"graph{number}.pb", graph(number)) for number in range(3)]
    before = [stock(host, tmp_path / "old", model, form=form, shim=False) for model in models]
    assert [said for said, _ in before] == ["compiled"] * 3
    told = ns(host, "import", tmp_path / "old").stdout
    assert told.startswith("imported 3 modules (")
    runs = len(host.runs)
    after = [stock(host, tmp_path / "new", model, form=form) for model in models]
    assert [neff for _, neff in after] == [neff for _, neff in before]
    assert len(host.runs) == runs
    assert hits(host) == {"hit_canonical": 3}


def test_of_2023_the_target_must_be_told(host, tmp_path):
    model = host.model("graph.pb", graph())
    flags = ("--model-type=transformer", "--auto-cast=none")
    _, before = stock(host, tmp_path / "old", model, *flags, form="2023", shim=False)
    told = answer(host, "import", tmp_path / "old")
    assert (told["imported"], told["left_out"]) == (0, {"no_target": 1})
    assert answer(host, "import", tmp_path / "old", "--target=trn1")["imported"] == 1
    runs = len(host.runs)
    assert stock(host, tmp_path / "new", model, *flags, form="2023")[1] == before
    assert len(host.runs) == runs
    assert hits(host) == {"hit_canonical": 1}


def test_every_state_is_told_and_nothing_but_the_finished_is_taken(host, tmp_path):
    cache = tmp_path / "cache"
    model = host.model("graph.pb", graph())
    stock(host, cache, model, shim=False)
    stock(host, cache, host.model("b.pb", graph(2)), shim=False, code=70, STANDIN_EXIT=70)
    stock(host, cache, host.model("c.pb", graph(3)), collect=True)
    version = cache / FOLDER
    write_entry(version / "MODULE_4+d7517139", graph(4), FLAGS, neff=b"NEFF", done=False)
    write_entry(version / "MODULE_5+d7517139", graph(5), FLAGS, neff=b"")
    (write_entry(version / "MODULE_6+d7517139", graph(6), FLAGS, neff=b"NEFF") / "model.hlo_module.pb").unlink()
    (write_entry(version / "MODULE_7+d7517139", graph(7), FLAGS, neff=b"NEFF") / "compile_flags.json").write_text("{")
    (write_entry(version / "MODULE_8+d7517139", graph(8), FLAGS, neff=b"N") / "model.hlo_module.pb.lock").touch()
    traced = version / "MODULE_0123456789abcdef0123"
    traced.mkdir()
    (traced / "model.neuron").write_bytes(b"traced")
    (cache / "USER_neuroncc-2.3.0.4+864822b6b/MODULE_13190871343506053659/MODULE_1_SyncTensorsGraph.387").mkdir(
        parents=True
    )
    (version / "0_REGISTRY/0.4.5").mkdir(parents=True)
    (version / "notes.txt").write_text("mine")
    told = answer(host, "import", cache)
    assert told["imported"] == 2  # the lock of a finished one is a leftover
    assert told["left_out"] == {
        "failed": 1, "pending": 2, "unfinished": 2, "unreadable": 1, "traced": 1, "old_layout": 1,
    }  # fmt: skip
    again = answer(host, "import", cache)
    assert (again["imported"], again["present"], again["left_out"]) == (0, 2, told["left_out"])
    shown = ns(host, "import", cache).stdout
    assert "2 were here already" in shown
    assert "the compiler failed (model.log)" in shown


def test_all_compiler_versions_or_one(host, tmp_path):
    for number, version in enumerate(("2.13.1.0+aa", "2.14.0.0+bb", "2.14.1.0+cc")):
        write_entry(tmp_path / f"c/neuronxcc-{version}/MODULE_{number}+d7517139", graph(), FLAGS, neff=b"N%d" % number)
    assert answer(host, "import", tmp_path / "c", "--compiler", "2.14")["imported"] == 2
    assert answer(host, "import", tmp_path / "c")["imported"] == 1
    versions = {load_result(host.layout, key).provenance["compiler_version"] for key in all_keys(host.layout)}
    assert versions == {"2.13.1.0+aa", "2.14.0.0+bb", "2.14.1.0+cc"}


def test_seconds_are_unknown_and_not_zero(host, tmp_path):
    entry = write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"NEFF")
    os.utime(entry / "model.hlo_module.pb", (1_600_000_000, 1_600_000_000))
    ns(host, "import", tmp_path / "c")
    (key,) = all_keys(host.layout)
    result = load_result(host.layout, key)
    assert result.seconds is None
    assert result.provenance["created"] == 1_600_000_000
    assert result.provenance["stock"] == {"module": "MODULE_1+d7517139", "flags": list(FLAGS), "by_name": False}
    shown = ns(host, "show", key).stdout
    for told in ("unknown", str(tmp_path / "c"), "MODULE_1+d7517139", "--model-type=transformer -O1", "2020-09-13"):
        assert told in shown
    assert "None" not in shown
    assert [file["kind"] for file in result.input["files"]] == ["graph"]


@pytest.mark.parametrize("named", ["cache", f"cache/{FOLDER}", f"cache/{FOLDER}/MODULE_1+d7517139", "."])
def test_any_folder_on_the_way_can_be_named(host, tmp_path, named):
    write_entry(tmp_path / f"cache/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"NEFF")
    assert answer(host, "import", named, cwd=tmp_path)["imported"] == 1


def test_a_module_that_is_named_after_another_graph_is_keyed_by_its_own(host, tmp_path):
    """A poisoned name serves nobody who did not compile that very graph."""
    module = module_name(graph(1), list(FLAGS))
    write_entry(tmp_path / f"c/{FOLDER}/{module}", graph(2), FLAGS, neff=b"of graph 2")
    ns(host, "import", tmp_path / "c")
    _, neff = stock(host, tmp_path / "new", host.model("a.pb", graph(1)))
    assert neff != b"of graph 2"
    assert hits(host) == {"miss_stored": 1}


def test_what_depends_on_files_is_left_out(host, tmp_path):
    """Nobody knows what they held when it was compiled."""
    config = tmp_path / "io.json"
    config.write_text("{}")
    flags = [*FLAGS, f"--io-config={config}"]
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), flags, neff=b"NEFF")
    assert answer(host, "import", tmp_path / "c")["left_out"] == {"file_option": 1}


def test_options_that_say_where_the_neff_goes_are_no_module_s(host, tmp_path):
    flags = [*FLAGS, "--output=/elsewhere.neff"]
    write_entry(tmp_path / f"c/{FOLDER}/{module_name(graph(), flags)}", graph(), flags, neff=b"NEFF")
    assert answer(host, "import", tmp_path / "c")["left_out"] == {"place_option": 1}


def test_variables_that_were_set_can_be_told(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"NEFF")
    ns(host, "import", tmp_path / "c", "--env", "XLA_FLAGS=--x")
    model = host.model("graph.pb", graph())
    assert stock(host, tmp_path / "new", model, XLA_FLAGS="--x")[1] == b"NEFF"
    assert stock(host, tmp_path / "newer", model)[1] != b"NEFF"
    assert hits(host) == {"hit_canonical": 1, "miss_stored": 1}


def test_the_same_graph_under_two_names_is_one_result(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"NEFF")
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_2+d7517139", renamed(graph()), FLAGS, neff=b"NEFF")
    told = answer(host, "import", tmp_path / "c")
    assert (told["imported"], told["present"]) == (1, 1)


def test_40_modules_in_several_processes(host, tmp_path):
    for number in range(40):
        write_entry(tmp_path / f"c/{FOLDER}/MODULE_{number}+d7517139", graph(number), FLAGS, neff=b"NEFF%d" % number)
    assert answer(host, "import", tmp_path / "c", "-j", 2)["imported"] == 40
    assert len(list(all_keys(host.layout))) == 40
    assert host.leftovers() == []


# -- tarballs ------------------------------------------------------------------------------------------------------


def pack(folder, path, mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, "neuron-compile-cache")
    return path


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.zst"])
def test_a_tarball_is_read_entry_by_entry(host, tmp_path, kind):
    cache = tmp_path / "cache"
    for number in range(12):
        write_entry(cache / f"{FOLDER}/MODULE_{number}+d7517139", graph(number), FLAGS, neff=b"NEFF%d" % number)
    stock(host, cache, host.model("b.pb", graph(99)), shim=False, code=70, STANDIN_EXIT=70)
    packed = tmp_path / f"cache.{kind}"
    if kind == "tar.zst":
        plain = pack(cache, tmp_path / "plain.tar")
        packed.write_bytes(zstandard.compress(plain.read_bytes()))
    else:
        pack(cache, packed, "w:" + kind.partition(".")[2])
    told = answer(host, "import", packed)
    assert (told["imported"], told["left_out"]) == (12, {"failed": 1})
    assert host.leftovers() == []


def test_a_damaged_tarball_is_told(host, tmp_path):
    write_entry(tmp_path / f"cache/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=os.urandom(100_000))
    packed = pack(tmp_path / "cache", tmp_path / "cache.tar.gz", "w:gz")
    packed.write_bytes(packed.read_bytes()[:60_000])
    assert "no tarball that can be read to its end" in ns(host, "import", packed, code=1).stderr
    (tmp_path / "x").write_text("text")
    assert "no tarball" in ns(host, "import", tmp_path / "x", code=1).stderr


def test_names_in_a_tarball_lead_nowhere_else(host, tmp_path):
    packed = tmp_path / "evil.tar"
    with tarfile.open(packed, "w") as archive:
        for name in (f"../../{FOLDER}/MODULE_1+d7517139/model.neff", f"/{FOLDER}/MODULE_1+d7517139/../../../evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{FOLDER}/MODULE_2+d7517139/model.neff")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert answer(host, "import", packed)["imported"] == 0
    outside = [path for path in tmp_path.rglob("*") if path not in before and host.store not in (path, *path.parents)]
    assert outside == []


# -- what is no source -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [("absent", "no folder or tarball"), ("s3://bucket/cache", "aws s3 sync"), ("hf://nonsense", "org/name")],
)
def test_what_cannot_be_read_is_said(host, source, said):
    assert said in ns(host, "import", source, code=2 if "://" in source else 1).stderr


def test_an_empty_folder_is_said_to_be_one(host, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no module of a stock cache" in ns(host, "import", tmp_path / "empty").stdout


# -- repos ---------------------------------------------------------------------------------------------------------

REPO = "alice/cache"
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def connected(host, hub):
    host.use_remotes("none", hub=hub)
    return host


def fill(hub, count, **more):
    files = {}
    for number in range(count):
        files |= stock_files(FOLDER, graph(number), neff=b"NEFF%d" % number, **more)
    hub.put_files(REPO, files)


def test_a_repo_is_imported_by_version(connected, hub):
    fill(hub, 5)
    hub.put_files(REPO, stock_files("neuronxcc-2.13.0.0+00000000", graph(), neff=b"old"))
    hub.put_files(REPO, {f"{FOLDER}/MODULE_0123456789abcdef0123/model.neuron": b"x", "README.md": b"x"})
    told = answer(connected, "import", f"hf://{REPO}")
    assert (told["imported"], told["left_out"]) == (5, {"traced": 1})
    model = connected.model("graph.pb", graph(3))
    assert stock(connected, connected.base / "new", model)[1] == b"NEFF3"
    assert hits(connected) == {"hit_canonical": 1}
    (result,) = [load_result(connected.layout, key) for key in all_keys(connected.layout)][:1]
    assert result.provenance["origin"] == f"hf://{REPO}"
    everything = answer(connected, "import", f"hf://{REPO}", "--all")
    assert (everything["imported"], everything["present"]) == (1, 5)


def test_a_second_import_asks_only_for_the_listing(connected, hub):
    fill(hub, 5)
    answer(connected, "import", f"hf://{REPO}")
    asked = len(hub.seen("resolve"))
    again = answer(connected, "import", f"hf://{REPO}")
    assert (again["imported"], again["present"]) == (0, 5)
    assert len(hub.seen("resolve")) == asked


def test_a_version_that_is_not_there_is_told_with_those_that_are(connected, hub):
    fill(hub, 1)
    said = ns(connected, "import", f"hf://{REPO}", "--compiler", "9.9", code=1).stderr
    assert VERSION in said
    connected.compiler.unlink()
    assert "--compiler" in ns(connected, "import", f"hf://{REPO}", code=2).stderr


def children(pid):
    """The processes that `pid` has started, but for the one that tidies up after it."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        found = {int(word) for word in file.read().split()}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(word) for word in (task / "children").read_text().split()}
    return {pid for pid in found if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_an_import_that_is_killed_goes_on_and_asks_for_nothing_twice(connected, hub):
    fill(hub, 60)
    hub.latency = 0.02
    command = [sys.executable, "-m", "neuron_store.cli", "import", f"hf://{REPO}"]
    process = subprocess.Popen(command, env=connected.env, cwd=connected.work)
    end = time.monotonic() + 60
    while len(list(all_keys(connected.layout))) < 10 and time.monotonic() < end:
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
    done = len(list(all_keys(connected.layout)))
    assert 10 <= done < 60
    before = len(hub.seen("resolve", path="model.neff"))
    told = answer(connected, "import", f"hf://{REPO}")
    assert told["imported"] + told["present"] == 60
    # Whatever was on its way when it was killed may be asked for again: at most what each of its threads had.
    assert len(hub.seen("resolve", path="model.neff")) - before <= 60 - done
    assert before <= done + 16
    assert len(list(all_keys(connected.layout))) == 60


def test_a_faulty_entry_is_told_and_the_others_come(connected, hub):
    from loopback_hub import FlipByte

    fill(hub, 3)
    module = module_name(graph(1), list(FLAGS)).replace("+", ".+")
    hub.fail("resolve", FlipByte(5), path=f"{module}/compile_flags.json", times=None)
    done = ns(connected, "import", f"hf://{REPO}", code=1)
    assert "imported 2 modules" in done.stdout
    assert "1 module could not be imported" in done.stderr
    hub.clear_faults()
    assert "imported 1 module" in ns(connected, "import", f"hf://{REPO}").stdout


def test_a_repo_that_is_not_there_is_said(connected):
    assert "alice/absent" in ns(connected, "import", "hf://alice/absent", code=1).stderr


def test_a_store_that_cannot_be_written_is_said(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS, neff=b"NEFF")
    host.store.write_text("a file")
    assert "cannot be written" in ns(host, "import", tmp_path / "c", code=1).stderr


def test_json_names_each_module_that_is_left_out(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), ["-O1"], neff=b"NEFF")
    told = json.loads(ns(host, "import", tmp_path / "c", "--json").stdout)
    (left,) = told["modules_left_out"]
    assert (left["module"], left["reason"]) == (f"{VERSION}/MODULE_1+d7517139", "no_target")
    shutil.rmtree(tmp_path / "c")


# -- as optimum-neuron writes it -------------------------------------------------------------------------------------


def test_what_optimum_neuron_has_uploaded_is_read(connected, hub):
    """The fixture is what its own code made of a folder; see its README."""
    uploaded = FIXTURES / "stock/optimum-neuron-0.4.5"
    hub.put_files(
        REPO, {p.relative_to(uploaded).as_posix(): p.read_bytes() for p in uploaded.rglob("*") if p.is_file()}
    )
    told = answer(connected, "import", f"hf://{REPO}", "--all")
    assert (told["imported"], told["left_out"]) == (2, {"failed": 1, "pending": 1, "traced": 1})
    connected.env["STANDIN_VERSION"] = COMPILER
    for number, neff in NEFFS.items():
        model = connected.model(f"g{number}.pb", graph(number))
        assert stock(connected, connected.base / "new", model)[1] == neff
    assert connected.runs == []
    assert hits(connected) == {"hit_canonical": 2}
