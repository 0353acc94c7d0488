"""What import makes of sources that can be read in part, of processes that are killed, and of what it is told wrongly."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_remotes import answer, connect, ns
from stock_setup import FLAGS, FOLDER, graph, stock, stock_files, write_entry
from test_stock_import import children

from neuron_store.cli import stock_intake
from neuron_store.store.results import all_keys
from neuron_store.store.stock.entries import find_entries

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
LIBC = ctypes.CDLL(None)


def make_entry(cache, number, neff=b"NEFF", flags=FLAGS):
    return write_entry(cache / f"{FOLDER}/MODULE_{number}+d7517139", graph(number), flags, neff=neff)


def without_rights_of_root():
    """Give up what lets root read every file; to its own program at once."""
    if not os.geteuid():
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            assert LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def as_a_user_with_limits(host, *arguments):
    """Run `neuron-store … --json` as one to whom not everything is readable; return how it ended."""
    command = [sys.executable, "-m", "neuron_store.cli", *map(str, arguments), "--json"]
    return subprocess.run(
        command, cwd=host.work, env=host.env, capture_output=True, text=True, preexec_fn=without_rights_of_root
    )


@pytest.mark.parametrize("name", ["model.neff", "compile_flags.json", "model.hlo_module.pb"])
def test_a_file_that_cannot_be_read_leaves_out_its_module_alone(host, tmp_path, name):
    cache = tmp_path / "cache"
    (make_entry(cache, 1) / name).chmod(0)
    make_entry(cache, 2)
    told = json.loads(as_a_user_with_limits(host, "import", cache).stdout)
    assert (told["imported"], told["left_out"]) == (1, {"unreadable": 1})
    assert name in told["modules_left_out"][0]["detail"]


def test_a_file_that_shrinks_while_it_is_stored_leaves_out_its_module_alone(host, tmp_path, monkeypatch):
    entry = make_entry(tmp_path / "cache", 1, neff=b"x" * 1000)
    store_blob = stock_intake.store_blob

    def shrink_first(layout, role, source, level):
        size = os.fstat(source).st_size
        monkeypatch.setattr(os, "fstat", lambda _descriptor: os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0)))
        try:
            (entry / "model.neff").write_bytes(b"x" * 10)
            return store_blob(layout, role, source, level)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(stock_intake, "store_blob", shrink_first)
    (found,) = find_entries(str(tmp_path / "cache"))
    intake = stock_intake.Intake(str(host.store), exact=False, salt=b"", keep_bytes=0, level=3)
    assert stock_intake.take_in(intake, found).reason == "changed"
    assert host.leftovers() == []


@pytest.mark.parametrize("source", ["cache", "hf://alice/cache"])
def test_half_a_character_in_the_options_is_no_option(host, hub, tmp_path, source):
    half = '["--target=trn1", "--model-type=\\ud800"]'
    (make_entry(tmp_path / "cache", 1) / "compile_flags.json").write_text(half)
    make_entry(tmp_path / "cache", 2)
    if source == "cache":
        told = answer(host, "import", tmp_path / "cache")
        assert (told["imported"], told["left_out"]) == (1, {"unreadable": 1})
        return
    connect(host, hub)
    files = {path: data for number in (1, 2) for path, data in stock_files(FOLDER, graph(number), neff=b"NEFF").items()}
    broken = next(path for path in files if path.endswith("compile_flags.json"))
    hub.put_files("alice/cache", {**files, broken: half.encode()})
    told = answer(host, "import", source, code=1)
    assert (told["imported"], len(told["faults"])) == (1, 1)
    assert "compile_flags.json has something in it that is no option" in told["faults"][0]


def test_half_a_character_in_the_options_stops_no_precompile(host, tmp_path):
    half = '["--target=trn1", "--model-type=\\ud800"]'
    (make_entry(tmp_path / "cache", 1, neff=None) / "compile_flags.json").write_text(half)
    make_entry(tmp_path / "cache", 2, neff=None)
    ns(host, "precompile", tmp_path / "cache")
    assert len(host.runs) == 1


def test_options_that_are_bytes_and_no_text_are_options(host, tmp_path):
    entry = make_entry(tmp_path / "cache", 1)
    (entry / "compile_flags.json").write_text('["--target=trn1", "--model-type=\\udcff"]')
    assert answer(host, "import", tmp_path / "cache")["imported"] == 1


def kill_a_worker(host, source, enough):
    """Import in several processes, one of which is killed when `enough` says so; return how that ended."""
    command = [sys.executable, "-m", "neuron_store.cli", "import", str(source), "-j", "2", "--json"]
    process = subprocess.Popen(
        command, env=host.env, cwd=host.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 100
    while not enough() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(next(iter(children(process.pid))), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=100)
    return process.returncode, json.loads(stdout), stderr


@pytest.mark.parametrize("kind", ["folder", "repo"])
def test_a_killed_worker_is_told_with_what_was_imported(host, hub, tmp_path, kind):
    count = 300
    if kind == "folder":
        source = tmp_path / "cache"
        for number in range(count):
            make_entry(source, number, neff=b"NEFF%d" % number)
    else:
        source = "hf://alice/cache"
        connect(host, hub)
        files = [stock_files(FOLDER, graph(number), neff=b"NEFF%d" % number) for number in range(count)]
        hub.put_files("alice/cache", {path: data for each in files for path, data in each.items()})
        hub.latency = 0.02
    code, told, said = kill_a_worker(host, source, lambda: len(list(all_keys(host.layout))) >= 10)
    assert code == 1
    assert "Traceback" not in said
    assert "was killed, perhaps because memory ran out" in said
    assert "--jobs 1" in said
    assert 0 < told["imported"] < count
    again = answer(host, "import", source)
    assert again["imported"] + again["present"] == count


@pytest.mark.parametrize("kind", ["folder", "tarball", "repo"])
def test_read_only_stores_nothing(host, hub, tmp_path, kind):
    make_entry(tmp_path / "cache", 1)
    source = tmp_path / "cache"
    if kind == "tarball":
        source = tmp_path / "c.tar"
        subprocess.run(["tar", "-cf", source, "-C", tmp_path / "cache", "."], check=True)
    elif kind == "repo":
        source = "hf://alice/cache"
        connect(host, hub)
        hub.put_files("alice/cache", stock_files(FOLDER, graph(1), neff=b"NEFF"))
    said = ns(host, "import", source, code=2, NEURON_STORE_READ_ONLY="1").stderr
    assert "the setting read_only is true" in said
    assert list(all_keys(host.layout)) == []


def test_a_variable_that_no_key_has_is_refused(host, tmp_path):
    make_entry(tmp_path / "cache", 1)
    said = ns(host, "import", tmp_path / "cache", "--env", "FOO=bar", code=2).stderr
    assert "no key has this variable" in said
    assert "key_env" in said
    assert answer(host, "import", tmp_path / "cache", "--env", "FOO=bar", NEURON_STORE_KEY_ENV="FOO")["imported"] == 1
    served = stock(host, tmp_path / "new", host.model("g.pb", graph(1)), NEURON_STORE_KEY_ENV="FOO", FOO="bar")
    assert served[1] == b"NEFF"


def test_a_variable_that_asks_for_debugging_keeps_its_names_in_the_key(host, tmp_path):
    make_entry(tmp_path / "cache", 1)
    ns(host, "import", tmp_path / "cache", "--env", "XLA_IR_DEBUG=1")
    assert stock(host, tmp_path / "new", host.model("g.pb", graph(1)), XLA_IR_DEBUG="1")[1] == b"NEFF"


@pytest.mark.parametrize("word", ["banana", "trn1 --x", "--help", "trn", "TRN1"])
def test_a_target_that_is_no_hardware_is_refused(host, tmp_path, word):
    make_entry(tmp_path / "cache", 1, flags=["-O1"])
    assert "is no hardware" in ns(host, "import", tmp_path / "cache", f"--target={word}", code=2).stderr
