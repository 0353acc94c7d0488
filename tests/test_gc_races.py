"""Collections beside shims that hit and miss, and collectors that die: no compile is harmed, and the store stays valid."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

from stores import add_result, blobs_in, keys_of, store_bytes

from neuron_store.store.collection import removal
from neuron_store.store.collection.removal import remove_blob

COMPILE = ("compile", "--framework=XLA", "--target=trn1")
SHIMS, ROUNDS, MODELS = 32, 5, 8
LIMIT = 150_000


def command(host, *arguments):
    return [sys.executable, "-m", "neuron_store.cli", *arguments]


def verify(host):
    """Every result is whole; what a collector that was killed left lying about is for the next one."""
    report = json.loads(host.cli("verify", "--json", check=False).stdout)
    assert report["damaged"] == {}
    assert report["whole"] == report["results"]
    assert set(report["found"]) <= {"orphan_blob", "dangling_entry"}, report["findings"]
    return report["found"]


def test_gc_beside_32_shims_fails_no_compile_and_serves_nothing_wrong(host):
    """Every round, 32 processes ask for 8 modules with 20 kB each, and the limit holds a few of them."""
    extra = {"STANDIN_SIZE": 20_000, "NEURON_STORE_MAX_SIZE": LIMIT}
    models = [host.model(f"m{number}.pb", b"module %d" % number) for number in range(MODELS)]
    expected = []
    for number, model in enumerate(models):
        host.cc(*COMPILE, model, f"--output=e{number}.neff", **extra, NEURON_STORE_ENABLED="false")
        expected.append(hashlib.sha256((host.work / f"e{number}.neff").read_bytes()).hexdigest())
    ended = threading.Event()
    told = []

    def collect():
        while not ended.is_set():
            done = subprocess.run(
                command(host, "gc", "--max-size", str(LIMIT), "--json"), env=host.env, capture_output=True, timeout=60
            )
            told.append((done.returncode, done.stdout))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for turn in range(ROUNDS):
            running = [
                host.start(*COMPILE, models[(rank + turn) % MODELS], f"--output=r{rank}.neff", **extra)
                for rank in range(SHIMS)
            ]
            for rank, process in enumerate(running):
                _, errors = process.communicate(timeout=120)
                assert process.returncode == 0, errors
                made = hashlib.sha256((host.work / f"r{rank}.neff").read_bytes()).hexdigest()
                assert made == expected[(rank + turn) % MODELS]
    finally:
        ended.set()
        collector.join()
    assert {code for code, _ in told} == {0}
    assert any(json.loads(out)["removed"] for _, out in told)
    deadline = time.monotonic() + 30
    while (host.store / "locks/collector").exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # one that a shim started
    last = json.loads(host.cli("gc", "--max-size", LIMIT, "--json").stdout)
    assert last["after_bytes"] <= LIMIT
    assert json.loads(host.cli("du", "--json").stdout)["bytes"] == last["after_bytes"]
    verify(host)
    counters = host.counters()
    assert counters.pop("pass_disabled") == MODELS
    allowed = {"miss_stored", "hit_direct", "hit_canonical", "waited", "missing_blob", "lock_timeout", "corrupt_blob"}
    assert set(counters) <= allowed
    assert sum(counters[name] for name in ("miss_stored", "hit_direct", "hit_canonical") if name in counters) == 160
    assert host.leftovers() == []


def test_a_collector_killed_at_any_moment_leaves_a_valid_store(host):
    dice = random.Random(5)
    layout = host.layout
    shared = os.urandom(50_000)
    number = died = 0
    for _ in range(12):
        for _ in range(60):
            number += 1
            add_result(layout, number, age=number, content=shared if number % 3 else b"%d" % number * 3000)
        store_bytes(layout, b"nobody's %d" % number * 1000)
        victim = subprocess.Popen(
            command(host, "gc", "--max-count", "10"), env=host.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        started = time.monotonic() + 20
        while victim.poll() is None and not (host.store / "locks/collector").exists() and time.monotonic() < started:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.05))
        victim.send_signal(signal.SIGKILL)
        died += victim.wait() == -signal.SIGKILL
        verify(host)
    assert died > 4
    last = json.loads(host.cli("gc", "--max-count", "10", "--json").stdout)
    assert last["results"] == 10
    verify(host)
    assert not list((host.store / "blobs").rglob(".gone.*"))
    held = json.loads(host.cli("du", "--json").stdout)
    assert held["unnamed_bytes"] == 0
    assert held["bytes"] == last["after_bytes"]


def test_an_open_blob_can_be_read_to_its_end(host):
    """A hit that has opened its blob is not torn by a collection."""
    layout = host.layout
    content = os.urandom(200_000)
    add_result(layout, 1, content=content)
    (path,) = (path for path in (host.store / "blobs").rglob("*") if path.is_file())
    with open(path, "rb") as opened:
        time.sleep(0.05)
        host.cli("gc", "--max-count", "0")
        assert not path.exists()
        assert opened.read() == content


def test_a_blob_that_is_stored_again_just_as_it_goes_is_put_back(host, monkeypatch):
    layout = host.layout
    content = b"again" * 10_000
    store_bytes(layout, content)
    (path,) = (path for path in (host.store / "blobs").rglob("*") if path.is_file())
    time.sleep(0.05)
    horizon = time.time_ns()
    real = os.rename

    def rename(source, target):
        if os.path.basename(target).startswith(removal.ASIDE):
            monkeypatch.undo()
            store_bytes(layout, content)  # a writer comes between the look and the removal
        real(source, target)

    monkeypatch.setattr(removal.os, "rename", rename)
    assert remove_blob(str(path), horizon) is None
    assert blobs_in(host.store) == {path.name}


def test_a_result_that_is_served_between_choice_and_removal_stays(host, monkeypatch):
    from neuron_store.store.collection import collector
    from neuron_store.store.collection.limits import Limits, choose

    key = add_result(host.layout, 1, age=1000)
    time.sleep(0.05)

    def choose_then_serve(*arguments):
        chosen = choose(*arguments)
        time.sleep(0.05)
        os.utime(host.layout.result_path(key))
        return chosen

    monkeypatch.setattr(collector, "choose", choose_then_serve)
    report = collector.collect(host.layout, Limits(count=0))
    assert report.kept == {"in_use": 1}
    assert keys_of(host.store) == {key}
    assert len(blobs_in(host.store)) == 1
    monkeypatch.undo()
    assert collector.collect(host.layout, Limits(count=0)).results == 0
