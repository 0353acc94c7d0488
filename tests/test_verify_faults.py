"""`neuron-store verify` finds every kind of fault that is planted in a store, tells what to do, and repairs it."""

import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
from cli_remotes import FLAGS, answer, compile_modules, connect, ns
from planted_faults import Planter, age, flip, rewrite, snapshot
from stores import DAY, add_result, store_bytes
from uploads import records_of

from neuron_store.store import layout
from neuron_store.store.checking.check import check_store
from neuron_store.store.queue import enqueue
from neuron_store.store.results import all_keys, load_result, save_result
from neuron_store.store.writing import Writing

# What is planted -> the kind that it is found as, whether a result suffers from it, whether only a remote can mend it.
PLANTED = {
    "flipped_blob": ("damaged_blob", True, True),
    "flipped_record": ("damaged_record", True, True),
    "truncated_blob": ("truncated", True, True),
    "truncated_record": ("truncated", True, True),
    "missing_blob": ("missing_blob", True, True),
    "orphan_blob": ("orphan_blob", False, False),
    "misnamed_blob": ("wrong_name", True, False),
    "misnamed_record": ("wrong_name", True, False),
    "wrong_mode": ("wrong_mode", False, False),
    "stale_lock": ("stale_lock", False, False),
    "stale_temporary": ("stale_lock", False, False),
    "foreign_file": ("foreign_file", False, False),
}
NEFF = {"STANDIN_SIZE": 300_000}


@pytest.fixture
def compiled(host):
    host.keys = compile_modules(host, 3, **NEFF)
    host.planter = Planter(host.store, host.layout)
    return host


@pytest.fixture
def uploaded(host, hub):
    """A host whose five results are on the Hub too."""
    connect(host, hub)
    host.keys = compile_modules(host, 5, **NEFF)
    ns(host, "synchronize")
    assert len(records_of(hub.files("alice/cache"))) == 5
    host.planter = Planter(host.store, host.layout)
    return host


def outputs_of(host, numbers, **extra):
    """What the shim serves for each module, with whether it was compiled for it."""
    served = []
    for number in numbers:
        before = len(host.runs)
        host.cc("compile", *FLAGS, host.model(f"model{number}.pb", b"\x0a\x04main HLO %d" % number), **NEFF, **extra)
        served.append(((host.work / "o.neff").read_bytes(), len(host.runs) > before))
    return served


def test_a_whole_store_has_no_fault(compiled):
    report = answer(compiled, "verify")
    assert report["found"] == {}
    assert report["findings"] == []
    assert (report["results"], report["whole"], report["left"]) == (3, 3, 0)


@pytest.mark.parametrize("planted", PLANTED)
def test_each_planted_fault_is_found_alone_and_nothing_is_changed(compiled, planted):
    kind, suffers, _ = PLANTED[planted]
    path = getattr(compiled.planter, planted)(compiled.keys[1])
    before = snapshot(compiled.store)
    report = answer(compiled, "verify", code=1)
    assert report["found"] == {kind: 1}
    (finding,) = report["findings"]
    assert finding["path"] == str(path.relative_to(compiled.store))
    assert finding["detail"]
    assert finding["keys"] == ([compiled.keys[1]] if suffers else [])
    assert report["whole"] == (2 if suffers else 3)
    assert list(report["damaged"]) == ([compiled.keys[1]] if suffers else [])
    assert snapshot(compiled.store) == before


@pytest.mark.parametrize("planted", PLANTED)
def test_each_planted_fault_is_repaired_from_the_hub_and_the_next_check_finds_nothing(uploaded, planted):
    kind, _, from_remote = PLANTED[planted]
    expected = outputs_of(uploaded, range(5))
    getattr(uploaded.planter, planted)(uploaded.keys[1])
    report = answer(uploaded, "verify", "--repair")
    assert report["found"] == {kind: 1}
    finding, *followed = report["findings"]
    assert {each["kind"] for each in followed} <= {"orphan_blob"}  # inputs that a damaged record kept
    assert finding["outcome"] == "repaired"
    assert ("fetched again from hf://alice/cache" in finding["done"]) == from_remote
    assert (report["left"], report["whole"], report["results"]) == (0, 5, 5)
    assert answer(uploaded, "verify")["found"] == {}
    served = outputs_of(uploaded, range(5), NEURON_STORE_REMOTES="none")
    assert served == [(neff, False) for neff, _ in expected]
    assert uploaded.counters()["miss_stored"] == 5


@pytest.mark.parametrize("planted", [name for name, (_, _, from_remote) in PLANTED.items() if from_remote])
def test_a_result_with_no_hope_is_dropped_and_compiled_again(compiled, planted):
    expected = outputs_of(compiled, range(3))
    getattr(compiled.planter, planted)(compiled.keys[1])
    report = answer(compiled, "verify", "--repair")
    assert (report["results"], report["whole"], report["left"]) == (2, 2, 0)
    assert "no remote has it" in report["findings"][0]["done"]
    assert {finding["follows"] for finding in report["findings"][1:]} == {True}
    assert report["found"] == {PLANTED[planted][0]: 1}
    assert set(report["followed"]) <= {"orphan_blob", "dangling_entry"}
    assert answer(compiled, "verify")["found"] == {}
    assert outputs_of(compiled, range(3)) == [(neff, number == 1) for number, (neff, _) in enumerate(expected)]


def plant_all(planter, keys):
    """Plant one of each, on results of their own where they harm one."""
    planter.flipped_blob(keys[0])
    planter.flipped_record(keys[1])
    planter.truncated_blob(keys[2])
    planter.truncated_record(keys[3])
    planter.missing_blob(keys[4])
    planter.misnamed_blob(keys[5])
    planter.misnamed_record(keys[6])
    planter.wrong_mode(keys[7])
    planter.orphan_blob()
    planter.stale_lock()
    planter.stale_temporary()
    planter.foreign_file()


ALL = {
    "damaged_blob": 1,
    "damaged_record": 1,
    "truncated": 2,
    "missing_blob": 1,
    "wrong_name": 2,
    "wrong_mode": 1,
    "orphan_blob": 1,
    "stale_lock": 2,
    "foreign_file": 1,
}


def test_all_at_once_are_found_and_repaired(host, hub):
    connect(host, hub)
    keys = compile_modules(host, 8, **NEFF)
    ns(host, "synchronize")
    expected = outputs_of(host, range(8))
    plant_all(Planter(host.store, host.layout), keys)
    report = answer(host, "verify", code=1)
    assert report["found"] == ALL
    assert (report["results"], report["whole"]) == (8, 1)
    assert sorted(report["damaged"]) == sorted(keys[:7])
    repaired = answer(host, "verify", "--repair")
    assert {f["outcome"] for f in repaired["findings"]} == {"repaired"}
    assert repaired["found"] == ALL
    # The inputs that the two damaged records kept are not on the Hub.
    assert [f["kind"] for f in repaired["findings"] if f["follows"]] == ["orphan_blob"] * 2
    assert answer(host, "verify")["found"] == {}
    assert outputs_of(host, range(8), NEURON_STORE_REMOTES="none") == [(neff, False) for neff, _ in expected]
    assert host.counters()["miss_stored"] == 8


# -- what is not a fault -----------------------------------------------------------------------------------------------


def test_what_a_running_shim_may_be_writing_is_no_fault(compiled):
    store = compiled.layout
    (compiled.store / "locks").mkdir(exist_ok=True)
    (compiled.store / "locks" / ("6" * 32)).touch()
    (compiled.store / "tmp/999-fresh").write_text("half")
    with Writing(store):
        store_bytes(store, b"a result's to be" * 1000)
        assert check_store(store, 2).findings == []
    assert [finding.kind for finding in check_store(store, 2).findings] == ["orphan_blob"]


def test_a_lock_that_is_held_is_not_stale_however_old(compiled):
    import fcntl

    path = compiled.planter.stale_lock()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert check_store(compiled.layout, 1).findings == []
    assert len(check_store(compiled.layout, 1).findings) == 1


@pytest.mark.parametrize("name", ["uploader", "collector", ".swept", "event-archive"])
def test_a_lock_with_a_name_of_its_own_is_there_at_rest(compiled, name):
    (compiled.store / "locks").mkdir(exist_ok=True)
    path = compiled.store / "locks" / name
    path.touch()
    age(path)
    assert check_store(compiled.layout, 1).findings == []


def test_a_store_of_another_format_is_left_alone(compiled):
    path = compiled.planter.record(compiled.keys[0])
    rewrite(path, path.read_bytes().replace(b"neuron-store result 1 ", b"neuron-store result 9 ", 1))
    before = snapshot(compiled.store)
    report = answer(compiled, "verify")
    assert (report["other_format"], report["found"]) == (1, {})
    assert report["undecided"] >= 2  # its blobs and its direct entry
    ns(compiled, "verify", "--repair")
    assert snapshot(compiled.store).items() >= {p: each for p, each in before.items() if each[2] is not False}.items()


def test_an_empty_store_and_none_at_all_are_whole(host):
    assert answer(host, "verify")["results"] == 0
    assert answer(host, "verify", "--repair")["results"] == 0
    assert not host.store.exists()
    host.store.mkdir()
    assert answer(host, "verify")["found"] == {}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o755, 0o2775])
def test_what_the_shim_makes_has_the_right_modes_whatever_the_umask_and_the_sharing(host, mask, mode):
    host.store.mkdir()
    host.store.chmod(mode)
    before = os.umask(mask)
    try:
        compile_modules(host, 2, **NEFF)
        enqueue(host.layout, "0123456789abcdef", next(all_keys(host.layout)))
    finally:
        os.umask(before)
    assert answer(host, "verify")["found"] == {}


def test_a_folder_that_its_group_cannot_use_is_mended_in_a_shared_store(host):
    host.store.mkdir()
    host.store.chmod(0o2775)
    compile_modules(host, 1)
    (host.store / "results").chmod(0o2755)
    assert answer(host, "verify", code=1)["found"] == {"wrong_mode": 1}
    assert answer(host, "verify", "--repair")["left"] == 0
    assert (host.store / "results").stat().st_mode & 0o7777 == 0o2775


def test_a_blobs_folder_on_another_disk_is_followed(compiled, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(compiled.store / "blobs", elsewhere)
    (compiled.store / "blobs").symlink_to(elsewhere)
    assert answer(compiled, "verify")["whole"] == 3
    compiled.planter.flipped_blob(compiled.keys[0])
    assert answer(compiled, "verify", "--repair")["left"] == 0
    assert answer(compiled, "verify")["found"] == {}


def test_progress_is_shown_on_a_terminal_only(compiled):
    leader, follower = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "neuron_store.cli", "verify"],
            env=compiled.environ({"TERM": "xterm", "COLUMNS": "80"}),
            stdout=subprocess.DEVNULL,
            stderr=follower,
            check=True,
            timeout=60,
        )
        assert b"reading" in os.read(leader, 65536)
    finally:
        os.close(leader)
        os.close(follower)
    assert ns(compiled, "verify").stderr == ""


# -- references --------------------------------------------------------------------------------------------------------


def test_entries_that_lead_nowhere_are_found_and_removed(compiled):
    shutil.rmtree(compiled.store / "tmp")
    enqueue(compiled.layout, "0123456789abcdef", "a" * 32)
    record = compiled.planter.record(compiled.keys[0])
    blobs = len(load_result(compiled.layout, compiled.keys[0]).outputs)
    record.unlink()
    found = answer(compiled, "verify", code=1)["found"]
    assert found["dangling_entry"] == 2
    assert found["orphan_blob"] >= 1
    assert set(found) == {"dangling_entry", "orphan_blob"}
    assert found["orphan_blob"] <= blobs + 1
    report = answer(compiled, "verify", "--repair")
    assert (report["left"], report["results"]) == (0, 2)
    assert answer(compiled, "verify")["found"] == {}


@pytest.mark.parametrize("spoil", [flip, lambda path: rewrite(path, path.read_bytes()[:90])])
def test_a_damaged_direct_entry_goes_and_the_result_still_serves(compiled, spoil):
    expected = outputs_of(compiled, range(3))
    path = next(path for path in (compiled.store / "direct").rglob("*") if path.is_file())
    spoil(path)
    (kind,) = answer(compiled, "verify", code=1)["found"]
    assert kind in ("damaged_record", "truncated")
    report = answer(compiled, "verify", "--repair")
    assert report["quarantine"]["files"] == 1
    assert answer(compiled, "verify")["found"] == {}
    assert outputs_of(compiled, range(3)) == expected
    counters = compiled.counters()
    assert counters == {"miss_stored": 3, "hit_direct": 5, "hit_canonical": 1}


def test_a_kept_input_that_is_lost_costs_no_result(host):
    key = add_result(host.layout, 1, inputs=[("model.pb", b"input" * 1000)])
    sha256 = load_result(host.layout, key).input["files"][0]["sha256"]
    flip(next((host.store / "blobs").rglob(f"{sha256}*")))
    report = answer(host, "verify", "--repair")
    assert report["found"] == {"damaged_blob": 1}
    assert "kept without its inputs" in report["findings"][0]["done"]
    assert load_result(host.layout, key).input["files"] == []
    assert (report["results"], report["left"]) == (1, 0)
    assert answer(host, "verify")["found"] == {}


def test_a_blob_that_two_results_share_is_mended_for_both(host):
    content = b"shared" * 9000
    keys = [add_result(host.layout, number, content=content) for number in range(2)]
    Planter(host.store, host.layout).flipped_blob(keys[0])
    report = answer(host, "verify", code=1)
    assert report["found"] == {"damaged_blob": 1}
    assert sorted(report["findings"][0]["keys"]) == sorted(keys)
    assert answer(host, "verify", "--repair")["results"] == 0
    assert answer(host, "verify")["found"] == {}


def test_two_blobs_with_each_others_names_are_given_their_own(host):
    keys = [add_result(host.layout, number) for number in range(2)]
    first, second = (Planter(host.store, host.layout).blob(key) for key in keys)
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    assert answer(host, "verify", code=1)["found"] == {"wrong_name": 2}
    report = answer(host, "verify", "--repair")
    assert (report["results"], report["left"]) == (2, 0)
    assert answer(host, "verify")["whole"] == 2


def test_a_blob_in_the_place_of_another_that_is_lost_makes_both_results_suffer(host):
    keys = [add_result(host.layout, number) for number in range(3)]
    planter = Planter(host.store, host.layout)
    planter.blob(keys[0]).rename(planter.blob(keys[1]))
    report = answer(host, "verify", code=1)
    assert report["found"] == {"missing_blob": 1, "wrong_name": 1}
    suffers = {finding["kind"]: (finding["keys"], finding["detail"]) for finding in report["findings"]}
    assert suffers["missing_blob"] == ([keys[1]], "another blob is in its place")
    assert suffers["wrong_name"][0] == [keys[0]]
    report = answer(host, "verify", "--repair")
    assert (report["results"], report["whole"], report["left"]) == (2, 2, 0)
    assert answer(host, "verify")["found"] == {}
    assert load_result(host.layout, keys[1]) is None


@pytest.mark.parametrize("size", [400, 400_000], ids=["read at once", "read in pieces"])
@pytest.mark.parametrize("lost", range(1, 9))
def test_a_blob_that_lacks_its_last_bytes_is_truncated(host, size, lost):
    add_result(host.layout, 1, content=b"compressible" * size)
    key = add_result(host.layout, 2, content=b"something else" * size)
    path = Planter(host.store, host.layout).blob(key)
    assert path.suffix == ".zst"
    rewrite(path, path.read_bytes()[:-lost])
    report = answer(host, "verify", code=1)
    assert [(finding["kind"], finding["keys"]) for finding in report["findings"]] == [("truncated", [key])]


def test_a_blob_under_the_name_of_the_other_encoding_is_given_its_own(host):
    key = add_result(host.layout, 1, content=b"compressible" * 9000)
    path = Planter(host.store, host.layout).blob(key)
    assert path.suffix == ".zst"
    path.rename(path.with_suffix(""))
    assert answer(host, "verify", code=1)["found"] == {"wrong_name": 1}
    assert answer(host, "verify", "--repair")["whole"] == 1
    assert path.exists()
    assert answer(host, "verify")["found"] == {}


def test_a_record_that_lies_about_a_blob_is_not_served_nor_kept(host):
    key = add_result(host.layout, 1)
    result = load_result(host.layout, key)
    result.outputs["neff"].xxh3 = "0" * 32
    save_result(host.layout, result)
    assert answer(host, "verify", code=1)["found"] == {"damaged_blob": 1}
    assert answer(host, "verify", "--repair")["results"] == 0
    assert answer(host, "verify")["found"] == {}


# -- remotes and rights ------------------------------------------------------------------------------------------------


def test_while_a_remote_does_not_answer_nothing_is_dropped(uploaded, hub):
    path = uploaded.planter.flipped_blob(uploaded.keys[0])
    report = answer(uploaded, "verify", "--repair", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    (finding,) = report["findings"]
    assert finding["outcome"] == "left"
    assert "127.0.0.1" in finding["done"]
    assert (report["left"], report["results"]) == (1, 5)
    assert path.exists()
    assert answer(uploaded, "verify", "--repair")["left"] == 0


def test_a_remotes_bytes_that_are_not_what_its_record_tells_do_not_come_in(uploaded, hub):
    blob = uploaded.planter.blob(uploaded.keys[0])
    (path,) = [path for path in hub.files("alice/cache") if blob.name in path]
    data = bytearray(hub.files("alice/cache")[path])
    data[len(data) // 2] ^= 1
    hub.put_files("alice/cache", {path: bytes(data)})
    uploaded.planter.missing_blob(uploaded.keys[0])
    report = answer(uploaded, "verify", "--repair")
    assert (report["results"], report["left"]) == (4, 0)
    assert "no remote has it" in report["findings"][0]["done"]
    assert answer(uploaded, "verify")["found"] == {}


def test_what_went_to_the_quarantine_is_known_to_du_gc_and_clear(compiled):
    compiled.planter.flipped_blob(compiled.keys[0])
    compiled.planter.foreign_file()
    moved = answer(compiled, "verify", "--repair")["quarantine"]
    assert moved["files"] == 3  # the blob, its record and the foreign file
    assert moved["folder"].startswith(str(compiled.store / "quarantine"))
    usage = answer(compiled, "du")
    assert usage["quarantine"]["files"] == 3
    assert usage["quarantine"]["bytes"] > 300_000
    assert "3 files in quarantine" in ns(compiled, "du").stderr
    assert "quarantined_files" not in answer(compiled, "gc", NEURON_STORE_MIN_FREE="0")["removed"]
    assert answer(compiled, "verify")["found"] == {}
    age(next((compiled.store / "quarantine").iterdir()), 31 * DAY)
    assert answer(compiled, "gc", NEURON_STORE_MIN_FREE="0")["removed"]["quarantined_files"]["count"] == 3
    compiled.planter.foreign_file()
    ns(compiled, "verify", "--repair")
    assert answer(compiled, "clear", "--yes")["removed"]["quarantined_files"]["count"] == 1
    assert list((compiled.store / "quarantine").iterdir()) == []


def test_the_table_says_what_is_wrong_and_what_a_repair_would_do(compiled):
    compiled.planter.flipped_blob(compiled.keys[0])
    compiled.planter.stale_lock()
    done = ns(compiled, "verify", code=1)
    assert "damaged blob" in done.stdout
    assert "fetch it again, or drop its result" in done.stdout
    assert "stale lock or temporary file" in done.stdout
    assert "2 results of 3 whole" in done.stdout
    assert "2 faults in" in done.stderr
    assert done.stdout.count(compiled.keys[0][:12]) == 1
    repaired = ns(compiled, "verify", "--repair")
    assert "no remote has it" in repaired.stdout
    assert "moved to" in repaired.stderr


def test_repair_is_of_the_whole_store(compiled):
    assert "leave --key out" in ns(compiled, "verify", "--repair", "--key", compiled.keys[0], code=2).stderr


def test_one_result_is_checked_alone(compiled):
    compiled.planter.flipped_blob(compiled.keys[0])
    compiled.planter.orphan_blob()
    assert answer(compiled, "verify", "--key", compiled.keys[1])["found"] == {}
    assert answer(compiled, "verify", "--key", compiled.keys[0], code=1)["found"] == {"damaged_blob": 1}


def test_every_folder_that_the_layout_tells_of_is_one_of_ours():
    told = re.findall(r"^      ([a-z-]+)/", layout.__doc__, re.MULTILINE)
    assert sorted(told) == sorted(layout.FOLDERS)
