"""A stock cache's folder: what is in it, and what may go of it."""

import fcntl
import json
import os
import subprocess
import sys
import time

import pytest
from cli_remotes import answer, ns
from conftest import VERSION
from doctors import powerless
from stock_setup import FLAGS, FOLDER, graph, module_name, stock, write_entry

from neuron_store.store.stock import cleanup as removal
from neuron_store.store.stock.entries import FAILED, read_entry

LOCK = "model.hlo_module.pb.lock"
# No process of another test may seem to work on a module of this one's.
OURS = os.getpid() * 10
LOCKED = f"MODULE_{OURS}4+d7517139"


def age(path, seconds=7200):
    """Make all files below a folder that old."""
    for each in [path, *path.rglob("*")]:
        os.utime(each, (time.time() - seconds,) * 2, follow_symlinks=False)
    return path


@pytest.fixture
def cache(host, tmp_path):
    """A cache with an entry of each kind, all of them old."""
    cache = tmp_path / "cache"
    stock(host, cache, host.model("a.pb", graph(OURS + 1)), shim=False)
    stock(host, cache, host.model("b.pb", graph(OURS + 2)), shim=False, code=70, STANDIN_EXIT=70)
    stock(host, cache, host.model("c.pb", graph(OURS + 3)), collect=True, shim=False)
    version = cache / FOLDER
    (write_entry(version / LOCKED, graph(4), FLAGS) / LOCK).touch()
    write_entry(version / "MODULE_5+d7517139", graph(5), FLAGS, neff=b"")
    (version / "MODULE_0123456789abcdef0123/unet").mkdir(parents=True)
    (version / "MODULE_0123456789abcdef0123/unet/model.neuron").write_bytes(b"traced")
    write_entry(cache / "neuronxcc-2.13.0.0+aa/MODULE_6+d7517139", graph(6), FLAGS, neff=b"old")
    return age(cache)


def modules(cache):
    return {path.name for path in cache.glob("neuronxcc-*/*")}


def test_status_counts_by_compiler_and_state(host, cache):
    told = answer(host, "stock", "status", cache)
    mine = told["versions"][VERSION]
    assert {state: count for state, count in mine.items() if count and state != "bytes"} == {
        "finished": 1, "failed": 1, "pending": 2, "unfinished": 1, "traced": 1,
    }  # fmt: skip
    assert told["versions"]["2.13.0.0+aa"]["finished"] == 1
    (lock,) = told["locks"]
    assert (lock["held"], lock["holder"]) == (False, "")
    shown = ns(host, "stock", "status", cache).stdout
    assert "1 lock has a dead owner" in shown
    assert VERSION in shown


def test_the_stock_variable_names_the_folder(host, cache):
    told = answer(host, "stock", "status", NEURON_COMPILE_CACHE_URL=cache)
    assert told["folder"] == str(cache)
    said = ns(host, "stock", "status", code=2, NEURON_COMPILE_CACHE_URL="s3://bucket/cache").stderr
    assert "aws s3 sync" in said
    assert "no folder" in ns(host, "stock", "status", "absent", code=1).stderr


@pytest.mark.parametrize("spelling", ["--cache_dir={}", "--cache_dir {}", "--cache_dir=/absent --cache_dir='{}'"])
def test_the_compilers_options_name_the_folder_before_the_stock_variable(host, cache, spelling):
    flags = f"--target=trn1 {spelling.format(cache)} -O1"
    told = answer(host, "stock", "status", NEURON_CC_FLAGS=flags, NEURON_COMPILE_CACHE_URL="/absent")
    assert told["folder"] == str(cache)
    other = {"NEURON_CC_FLAGS": "--target=trn1 -O1", "NEURON_COMPILE_CACHE_URL": cache}
    assert answer(host, "stock", "status", **other)["folder"] == str(cache)


def test_a_folder_may_be_named_by_an_address_of_this_host(host, cache):
    for address in (f"file://{cache}", f"file://localhost{cache}"):
        assert answer(host, "stock", "status", NEURON_COMPILE_CACHE_URL=address)["folder"] == str(cache)
    said = ns(host, "stock", "status", code=2, NEURON_COMPILE_CACHE_URL=f"file://another{cache}").stderr
    assert "is not looked into" in said


def test_cleanup_removes_failures_and_stale_locks_and_nothing_else(host, cache):
    before = modules(cache)
    dry = answer(host, "stock", "cleanup", cache, "--dry-run")
    assert (dry["removed"], dry["locks"]) == ({"failed": 1}, 1)
    assert modules(cache) == before
    told = answer(host, "stock", "cleanup", cache)
    assert (told["removed"], told["locks"], told["in_use"]) == ({"failed": 1}, 1, 0)
    assert before - modules(cache) == {module_name(graph(OURS + 2), list(FLAGS))}
    assert list(cache.rglob("*.lock")) == []
    assert stock(host, cache, host.work / "b.pb", shim=False)[0] == "compiled"  # no failure is repeated


def test_a_module_that_was_compiled_after_it_had_failed_is_not_removed(host, cache):
    """Its log may have stayed; it is not believed, and not thrown away either."""
    entry = write_entry(cache / FOLDER / "MODULE_7+d7517139", graph(7), FLAGS, neff=b"NEFF")
    (entry / "model.log").write_text("failed at first")
    age(entry)
    answer(host, "stock", "cleanup", cache)
    assert (entry / "model.neff").exists()


def test_old_versions_go_only_when_asked_for(host, cache):
    assert "--yes" in ns(host, "stock", "cleanup", cache, "--old-versions", code=2).stderr
    told = answer(host, "stock", "cleanup", cache, "--old-versions", "--yes")
    assert told["removed"] == {"finished": 1}
    assert "MODULE_6+d7517139" not in modules(cache)
    assert (cache / FOLDER / "MODULE_0123456789abcdef0123/unet/model.neuron").exists()
    host.compiler.unlink()
    assert "no compiler" in ns(host, "stock", "cleanup", cache, "--old-versions", "--yes", code=2).stderr


HELD = "import fcntl, sys, time; f = open(sys.argv[1], 'r+'); {lock}; print('held', flush=True); time.sleep(60)"
HOLDERS = {
    "flock": "fcntl.flock(f, fcntl.LOCK_EX)",
    "fcntl": "fcntl.lockf(f, fcntl.LOCK_EX)",
    "open": "pass",
}


@pytest.mark.parametrize("how", HOLDERS)
def test_a_lock_that_a_process_holds_stays(host, cache, how):
    lock = cache / FOLDER / LOCKED / LOCK
    holder = subprocess.Popen(
        [sys.executable, "-c", HELD.format(lock=HOLDERS[how]), lock], stdout=subprocess.PIPE, cwd=host.work
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert answer(host, "stock", "cleanup", cache)["locks"] == 0
        assert lock.exists()
        shown = ns(host, "stock", "status", cache).stdout
        assert str(lock) in shown
    finally:
        holder.kill()
        holder.communicate()
    assert answer(host, "stock", "cleanup", cache)["locks"] == 1


def test_a_lock_that_names_a_living_process_stays(host, cache):
    lock = cache / FOLDER / LOCKED / LOCK
    lock.write_text(str(os.getpid()))
    age(lock.parent)
    assert answer(host, "stock", "cleanup", cache)["locks"] == 0


def test_the_entry_of_a_running_compile_stays_failed_or_not(host, cache):
    failed = cache / FOLDER / module_name(graph(OURS + 2), list(FLAGS))
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"/tmp/model.{failed.name}.pb"])
    try:
        told = answer(host, "stock", "cleanup", cache)
        assert (told["removed"], told["in_use"]) == ({}, 1)
        assert failed.exists()
    finally:
        sleeper.kill()
        sleeper.communicate()
    assert answer(host, "stock", "cleanup", cache)["removed"] == {"failed": 1}


def test_what_changed_a_moment_ago_stays(host, cache):
    failed = cache / FOLDER / module_name(graph(OURS + 2), list(FLAGS))
    (failed / "model.log").touch()
    assert answer(host, "stock", "cleanup", cache)["removed"] == {}
    assert answer(host, "stock", "cleanup", cache, "--min-age", 0)["removed"] == {"failed": 1}


def test_an_entry_that_is_finished_while_it_is_moved_aside_comes_back(cache, monkeypatch):
    failed = read_entry(str(cache / FOLDER / module_name(graph(OURS + 2), list(FLAGS))), VERSION)
    rename = os.rename

    def finish_first(source, destination):
        rename(source, destination)
        if "removed" in destination:
            (cache / destination / "model.log").unlink()

    monkeypatch.setattr(removal.os, "rename", finish_first)
    assert not removal.remove_entry(failed, (FAILED,), 60)
    assert os.path.isdir(failed.folder)


def test_what_a_killed_cleanup_left_is_removed_by_the_next(host, cache):
    (cache / FOLDER / ".neuron-store-removed-MODULE_9+d7517139-00").mkdir()
    ns(host, "stock", "cleanup", cache)
    assert not [name for name in modules(cache) if name.startswith(".")]


def test_links_lead_nowhere(host, cache, tmp_path):
    outside = write_entry(tmp_path / "outside/neuronxcc-1.0/MODULE_7+d7517139", graph(), FLAGS)
    (outside / "model.log").write_text("failed")
    age(outside)
    (cache / "neuronxcc-1.0").symlink_to(outside.parent)
    ns(host, "stock", "cleanup", cache)
    assert outside.exists()


def test_locks_are_told_apart_from_files_of_other_names(host, cache):
    with open(cache / FOLDER / LOCKED / LOCK, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told = answer(host, "stock", "status", cache)
    assert [lock["holder"] for lock in told["locks"]] == ["a process has it locked"]


DANGLING = ("0", "a", "m", "model", "q", "tmp1", "zz")  # wherever a folder's listing has them


def held(host, lock):
    """A process that has a lock file locked, and does not name it on its command line."""
    code = "import fcntl, time; f = open(input(), 'rb'); fcntl.flock(f, 2); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=host.work
    )
    holder.stdin.write(f"{lock}\n".encode())
    holder.stdin.flush()
    assert holder.stdout.readline() == b"held\n"
    return holder


def with_dangling_links(entry, names=DANGLING):
    for name in names:
        (entry / name).symlink_to("/nowhere/at/all")
    return entry


def test_a_link_that_leads_nowhere_hides_no_lock(host, cache):
    entry = with_dangling_links(write_entry(cache / f"neuronxcc-2.1.0.0+aa/MODULE_{OURS}7+d7517139", graph(7), FLAGS))
    (entry / LOCK).touch()
    age(cache)
    holder = held(host, entry / LOCK)
    try:
        told = answer(host, "stock", "cleanup", cache, "--old-versions", "--yes", "--locks")
        assert (told["removed"], told["in_use"]) == ({"finished": 1}, 1)
        assert (entry / LOCK).exists()
    finally:
        holder.kill()
        holder.communicate()
    assert [lock["held"] for lock in answer(host, "stock", "status", cache)["locks"]] == [False]
    assert answer(host, "stock", "cleanup", cache, "--locks")["locks"] == 1
    assert not (entry / LOCK).exists()


def test_a_link_of_no_importance_does_not_unfinish_an_entry(tmp_path):
    entry = with_dangling_links(write_entry(tmp_path / FOLDER / "MODULE_7+d7517139", b"graph", FLAGS, neff=b"NEFF"))
    read = read_entry(str(entry), VERSION)
    assert read.state == "finished"
    assert read.sizes["model.neff"] == 4
    assert read.odd == set(DANGLING)


PARTS = ("model.hlo_module.pb", "compile_flags.json", "model.neff", "wrapped_neff.hlo", "model.done", "model.log")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["dangling", "circle", "folder"])
def test_a_part_that_is_there_and_cannot_be_had_makes_an_entry_unfinished(host, tmp_path, part, kind):
    entry = write_entry(tmp_path / "cache" / FOLDER / "MODULE_7+d7517139", graph(7), FLAGS, neff=b"NEFF")
    (entry / part).unlink(missing_ok=True)
    if kind == "folder":
        (entry / part).mkdir()
    else:
        (entry / part).symlink_to("/gone" if kind == "dangling" else part)
    assert read_entry(str(entry), VERSION).state == "unfinished"


def test_a_module_whose_wrapped_neff_cannot_be_had_is_not_imported(host, tmp_path):
    entry = write_entry(tmp_path / "cache" / FOLDER / "MODULE_7+d7517139", graph(7), FLAGS, neff=b"NEFF")
    (entry / "wrapped_neff.hlo").symlink_to("/gone")
    told = answer(host, "import", tmp_path / "cache")
    assert (told["imported"], told["left_out"]) == (0, {"unfinished": 1})


def test_a_dry_run_says_what_happens(host, cache):
    failed = cache / FOLDER / module_name(graph(OURS + 2), list(FLAGS))
    (failed / LOCK).touch()
    age(cache)
    young = write_entry(cache / FOLDER / f"MODULE_{OURS}8+d7517139", graph(8), FLAGS)
    (young / "model.log").write_text("failed just now")
    dry = answer(host, "stock", "cleanup", cache, "--dry-run")
    told = answer(host, "stock", "cleanup", cache)
    assert {**dry, "dry_run": False} == told
    assert (told["removed"], told["locks"], told["in_use"]) == ({"failed": 1}, 1, 1)


def test_what_cannot_be_read_is_said_and_stays(host, cache):
    (cache / "neuronxcc-2.13.0.0+aa").chmod(0)
    (cache / FOLDER / LOCKED).chmod(0)
    unable = powerless()
    try:
        versions = json.loads(limited(host, unable, "stock", "status", cache, "--json").stdout)["versions"]
        assert (versions["2.13.0.0+aa"]["unreadable"], versions[VERSION]["unreadable"]) == (1, 1)
        assert "unreadable" in limited(host, unable, "stock", "status", cache).stdout
        cleaned = limited(host, unable, "stock", "cleanup", cache, "--old-versions", "--yes", "--locks").stdout
        assert "2 that cannot be read stay" in cleaned
        cache.chmod(0)
        for command in (("stock", "status"), ("precompile",)):
            done = limited(host, unable, *command, cache)
            assert done.returncode == 1
            assert f"{cache}: Permission denied" in done.stderr
    finally:
        for folder in (cache, cache / "neuronxcc-2.13.0.0+aa", cache / FOLDER / LOCKED):
            folder.chmod(0o755)
    assert (cache / FOLDER / LOCKED / LOCK).exists()


def limited(host, unable, *words):
    """Run a command without root's right to read everything."""
    command = [*unable, sys.executable, "-m", "neuron_store.cli", *map(str, words)]
    return subprocess.run(command, env=host.environ({}), cwd=host.work, capture_output=True, text=True, timeout=120)


def test_another_users_lock_counts_as_held_while_it_is(host, cache):
    lock = cache / FOLDER / LOCKED / LOCK
    lock.chmod(0o444)
    unable = powerless()
    holder = held(host, lock)
    try:
        (told,) = json.loads(limited(host, unable, "stock", "status", cache, "--json").stdout)["locks"]
        assert told["holder"] == "a process has it locked"
    finally:
        holder.kill()
        holder.communicate()
