"""Pending compiles go through the store, several at once; the folder's entries become finished modules if asked to."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_remotes import answer, ns
from conftest import VERSION
from stock_setup import FLAGS, FOLDER, graph, module_name, renamed, stock, write_entry

from neuron_store.cli.process_sessions import end_sessions

LOCK = "model.hlo_module.pb.lock"


def collected(host, cache, count=4, **extra):
    """Collect graphs as a trial run does; return their files."""
    models = [host.model(f"g{number}.pb", graph(number)) for number in range(count)]
    for model in models:
        assert stock(host, cache, model, collect=True, shim=False, **extra)[0] == "collected"
    return models


def entry_of(cache, number):
    return cache / FOLDER / module_name(graph(number), list(FLAGS))


def test_what_was_collected_is_compiled_and_found_without_the_shim(host, tmp_path):
    cache = tmp_path / "cache"
    models = collected(host, cache)
    told = answer(host, "precompile", cache, "--write-back", "-j", 2)
    assert (told["compiled"], told["hits"], told["failed"], told["written_back"]) == (4, 0, {}, 4)
    runs = len(host.runs)
    assert runs == 4
    for model in models:
        assert stock(host, cache, model, shim=False)[0] == "hit"
    assert len(host.runs) == runs
    counted = host.counters()
    counted.pop("pass_version", None)
    assert counted == {"miss_stored": 4}
    assert host.leftovers() == []
    assert sorted(path.name for path in entry_of(cache, 0).iterdir()) == [
        "compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff",
    ]  # fmt: skip


def test_without_write_back_the_folder_stays_as_it_is(host, tmp_path):
    cache = tmp_path / "cache"
    models = collected(host, cache, 2)
    before = sorted(cache.rglob("*"))
    shown = ns(host, "precompile", cache)
    assert shown.stdout.startswith("precompiled 2 modules in ")
    assert "2 compiled in" in shown.stdout
    assert sorted(cache.rglob("*")) == before
    runs = len(host.runs)
    assert stock(host, tmp_path / "new", models[0])[0] == "compiled"  # so the stock cache thinks
    assert len(host.runs) == runs
    again = answer(host, "precompile", cache)
    assert (again["hits"], again["compiled"]) == (2, 0)


def test_graphs_by_themselves_with_the_options_behind_two_dashes(host):
    models = [host.model(f"graph{number}.hlo", graph(number)) for number in range(2)]
    told = json.loads(ns(host, "precompile", *models, "--json", "--", *FLAGS, "--logfile=/absent/x").stdout)
    assert told["compiled"] == 2
    assert all(set(FLAGS) < set(run["argv"]) and "--logfile=/absent/x" not in run["argv"] for run in host.runs)
    host.cc("compile", "--framework=XLA", models[0], *FLAGS, "--output=o.neff")
    assert host.counters() == {"miss_stored": 2, "hit_canonical": 1} or host.counters() == {
        "miss_stored": 2,
        "hit_direct": 1,
    }


def test_a_log_file_of_the_entry_is_not_written(host, tmp_path):
    log = tmp_path / "log-neuron-cc.txt"
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), [*FLAGS, f"--logfile={log}"])
    ns(host, "precompile", tmp_path / "c", STANDIN_LOG="text")
    assert len(host.runs) == 1
    assert not log.exists()


@pytest.mark.parametrize("name", ["out.neff", "stderr", "log-neuron-cc.txt", "wrapped_neff.hlo", "work"])
def test_a_graph_is_never_written_to_whatever_its_name_is(host, name):
    path = host.model(f"graphs/{name}", graph())
    printed = json.dumps([["e", "said"]])
    ns(host, "precompile", path, "--", *FLAGS, STANDIN_WRAPPED="w", STANDIN_LOG="x", STANDIN_PRINT=printed)
    assert len(host.runs) == 1
    assert path.read_bytes() == graph()
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_what_was_precompiled_is_exported_with_the_options_of_its_entry(host, tmp_path):
    (model,) = collected(host, tmp_path / "cache", 1)
    ns(host, "precompile", tmp_path / "cache")
    for form in ("recorded", "json", "words"):
        assert answer(host, "export", tmp_path / form, "--flags-hash", form)["exported"] == 1
        (written,) = (tmp_path / form).rglob("compile_flags.json")
        assert json.loads(written.read_text()) == list(FLAGS)
    assert stock(host, tmp_path / "json", model, shim=False)[0] == "hit"
    assert len(host.runs) == 1


def test_the_longest_goes_first(host, tmp_path):
    cache = tmp_path / "cache"
    models = collected(host, cache, 4)
    seconds = {0: "0.2", 1: "1.0", 2: "0.6"}
    for number, sleep in seconds.items():
        stock(host, tmp_path / "before", models[number], STANDIN_SLEEP=sleep)
    (host.store / "results").rename(tmp_path / "away")
    (host.store / "direct").rename(tmp_path / "away-too")
    told = answer(host, "precompile", cache, "-j", 1)
    order = [module_name(graph(number), list(FLAGS)) for number in (1, 2, 0)]
    assert [name for name in told["order"] if name in order] == order


def test_what_is_the_same_compile_takes_no_place_beside_itself(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS)
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_2+d7517139", renamed(graph()), FLAGS)
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_3+d7517139", graph(3), FLAGS)
    told = answer(host, "precompile", tmp_path / "c", "-j", 2, "--write-back", STANDIN_SLEEP="0.5")
    assert (told["compiled"], told["hits"], told["written_back"]) == (2, 1, 3)
    assert "waited" not in host.counters()


def test_a_failure_is_told_and_the_others_go_on(host, tmp_path):
    cache = tmp_path / "cache"
    collected(host, cache, 3)
    failing = {"STANDIN_FAIL_ONCE": str(tmp_path / "once")}
    done = ns(host, "precompile", cache, "--write-back", "-j", 1, code=1, **failing)
    assert done.stdout.startswith("precompiled 2 modules in ")
    assert "; 2 compiled in " in done.stdout
    assert "failed with 70" in done.stdout
    assert "ERROR: the stand-in was told to fail" in done.stdout
    assert "1 module could not be compiled" in done.stderr
    assert sum((path / "model.done").exists() for path in (cache / FOLDER).iterdir()) == 2
    assert not list(cache.rglob("model.log"))
    assert answer(host, "precompile", cache, "--write-back")["written_back"] == 1


def test_failed_entries_are_tried_again_when_asked_for(host, tmp_path):
    cache = tmp_path / "cache"
    stock(host, cache, host.model("g.pb", graph()), shim=False, code=70, STANDIN_EXIT=70)
    assert answer(host, "precompile", cache)["left_out"] == {"failed": 1}
    told = answer(host, "precompile", cache, "--retry-failed", "--write-back")
    assert told["written_back"] == 1
    assert stock(host, cache, host.work / "g.pb", shim=False)[0] == "hit"


def test_what_is_not_pending_is_left_alone(host, tmp_path):
    cache = tmp_path / "cache"
    stock(host, cache, host.model("g.pb", graph()), shim=False)
    write_entry(cache / "neuronxcc-2.13.0.0+aa/MODULE_6+d7517139", graph(6), FLAGS)
    (write_entry(cache / FOLDER / "MODULE_7+d7517139", graph(7), FLAGS) / LOCK).write_text(str(os.getpid()))
    (cache / FOLDER / "MODULE_0123456789abcdef0123").mkdir()
    (write_entry(cache / FOLDER / "MODULE_8+d7517139", graph(8), FLAGS) / "compile_flags.json").write_text("{")
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    told = answer(host, "precompile", cache, "--write-back")
    assert told["modules"] == 0
    assert told["left_out"] == {"other_version": 1, "running": 1, "traced": 1, "unreadable": 1}
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert "nothing is pending" in ns(host, "precompile", cache).stdout


@pytest.mark.parametrize("left", [b"", b"half"])
def test_what_a_killed_compile_left_is_no_part_of_the_finished_module(host, tmp_path, left):
    collected(host, tmp_path / "c", 1)
    entry = entry_of(tmp_path / "c", 0)
    for name in ("wrapped_neff.hlo", "model.neff", "model.hlo.pb"):
        (entry / name).write_bytes(left)
    assert answer(host, "precompile", tmp_path / "c", "--write-back")["written_back"] == 1
    assert sorted(path.name for path in entry.iterdir()) == [
        "compile_flags.json", "model.done", "model.hlo_module.pb", "model.neff",
    ]  # fmt: skip
    assert (entry / "model.hlo_module.pb").read_bytes() == graph()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--output={0}"], "place_option"),
        (["--output", "{0}"], "place_option"),
        (["-o", "{0}"], "place_option"),
        (["-o{0}"], "place_option"),
        (["--outp={0}"], "place_option"),
        (["--logf={0}"], "place_option"),
        (["--tensorizer-options=$HOME", "--output={0}"], "place_option"),
        (["other.hlo"], "several_inputs"),
        (["@options"], "response_file"),
    ],
)
def test_an_entry_does_not_choose_what_is_compiled_to_where(host, tmp_path, more, reason):
    flags = [*FLAGS, *(word.format(tmp_path / "chosen.neff") for word in more)]
    write_entry(tmp_path / f"c/{FOLDER}/{module_name(graph(), flags)}", graph(), flags)
    told = answer(host, "precompile", tmp_path / "c", "--write-back")
    assert (told["modules"], told["left_out"]) == (0, {reason: 1})
    assert host.runs == []
    assert not (tmp_path / "chosen.neff").exists()
    said = ns(host, "precompile", host.model("g.hlo", graph()), "--", *flags, code=2).stderr
    assert "options of the compile alone" in said


def test_options_with_which_a_compile_is_not_cached_are_compiled_with(host, tmp_path):
    flags = [*FLAGS, "--tensorizer-options=--x=$HOME/y"]
    entry = write_entry(tmp_path / f"c/{FOLDER}/{module_name(graph(), flags)}", graph(), flags)
    assert answer(host, "precompile", tmp_path / "c", "--write-back")["written_back"] == 1
    assert (entry / "model.done").exists()


def test_an_entry_that_another_finished_meanwhile_stays_its(host, tmp_path):
    cache = tmp_path / "cache"
    collected(host, cache, 1)
    started = tmp_path / "started"
    command = [sys.executable, "-m", "neuron_store.cli", "precompile", str(cache), "--write-back", "--json"]
    environ = host.environ({"STANDIN_STARTED": started, "STANDIN_WAIT_FOR": tmp_path / "go"})
    process = subprocess.Popen(command, env=environ, cwd=host.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not started.exists():
        time.sleep(0.01)
    write_entry(entry_of(cache, 0), graph(0), FLAGS, neff=b"another's")
    (tmp_path / "go").touch()
    told = json.loads(process.communicate()[0])
    assert list(told["not_written_back"].values()) == ["it was finished meanwhile"]
    assert (entry_of(cache, 0) / "model.neff").read_bytes() == b"another's"


def test_a_stale_lock_does_not_keep_an_entry_from_being_written(host, tmp_path):
    # No process of another test may seem to work on this module.
    entry = write_entry(tmp_path / f"c/{FOLDER}/MODULE_{os.getpid()}9+d7517139", graph(9), FLAGS)
    (entry / LOCK).touch()
    for path in entry.iterdir():
        os.utime(path, (1, 1))
    assert answer(host, "precompile", tmp_path / "c", "--write-back")["written_back"] == 1
    assert not (entry / LOCK).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_before_its_time_ends_the_compilers_and_leaves_nothing_half_done(host, tmp_path, number):
    cache = tmp_path / "cache"
    collected(host, cache, 3)
    started = tmp_path / "started"
    command = [sys.executable, "-m", "neuron_store.cli", "precompile", str(cache), "--write-back", "-j", "2"]
    environ = host.environ({"STANDIN_STARTED": started, "STANDIN_SLEEP": 600})
    process = subprocess.Popen(command, env=environ, cwd=host.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(host.runs) < 2 or not started.exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -number
    assert b"stopped after 0 of 3" in said
    assert b"Traceback" not in said
    assert not list(cache.rglob("model.done"))
    assert not list(cache.rglob("*.lock"))
    running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    assert [pid for pid in running if int(pid) != os.getpid()] == []


STUBBORN = """
import os, signal, sys, time
if "--version" in sys.argv:
    print("NeuronX Compiler version {version}")
    sys.exit(0)
if os.fork() == 0 or "{both}":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    open({started!r} + str(os.getpid()), "w").close()
time.sleep(600)
"""


def stubborn(host, tmp_path, *, both):
    """Install a compiler whose child ignores signals, or `both` of them; return how to wait until these ignore them."""
    started = tmp_path / "started-"
    code = STUBBORN.format(version=VERSION, both="yes" if both else "", started=str(started))
    host.compiler.write_text(f"#!{sys.executable} -IS\n{code}")

    def wait():
        while len(list(tmp_path.glob("started-*"))) < 1 + both:
            time.sleep(0.01)

    return wait


def still_running(tmp_path):
    found = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


def test_what_a_compiler_started_ends_with_it_even_if_it_ignores_signals(host, tmp_path):
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS)
    wait = stubborn(host, tmp_path, both=False)
    command = [sys.executable, "-m", "neuron_store.cli", "precompile", str(tmp_path / "c")]
    process = subprocess.Popen(
        command, env=host.environ({}), cwd=host.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT
    assert still_running(tmp_path) == []


def test_a_compile_that_ignores_signals_is_killed_and_the_shim_tidies_up(host, tmp_path):
    wait = stubborn(host, tmp_path, both=True)
    model = host.model("g.hlo", graph())
    shim = subprocess.Popen(
        ["neuronx-cc", "compile", model, "--output=o.neff", *FLAGS],
        executable=host.launcher,
        env=host.environ({}),
        cwd=host.work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait()
    end_sessions([shim], 1.0)
    assert still_running(tmp_path) == []
    counted = host.counters()
    counted.pop("pass_version", None)
    assert counted == {"miss_killed": 1}
    assert host.leftovers() == []


def test_no_more_at_once_than_memory_allows(host, tmp_path):
    cache = tmp_path / "cache"
    collected(host, cache, 3)
    assert answer(host, "precompile", cache, "--memory-per-job", 1e9)["jobs"] == 1
    done = ns(host, "precompile", cache, "-j", 3, "--memory-per-job", 1e9)
    assert "1 would fit" in done.stderr
    assert "3 at once" in done.stdout


def test_jobs_that_there_are_not_need_no_memory(host, tmp_path):
    collected(host, tmp_path / "cache", 1)
    done = ns(host, "precompile", tmp_path / "cache", "-j", 100_000)
    assert "would fit" not in done.stderr
    assert "1 at once" in done.stdout


def test_bad_arguments_are_said(host, tmp_path):
    assert "no folder or graph" in ns(host, "precompile", "absent", code=1).stderr
    write_entry(tmp_path / f"c/{FOLDER}/MODULE_1+d7517139", graph(), FLAGS)
    assert "a stock folder has its own" in ns(host, "precompile", tmp_path / "c", "--", "-O1", code=2).stderr
    host.compiler.unlink()
    assert "no neuronx-cc" in ns(host, "precompile", tmp_path / "c", code=127).stderr
