"""`recompress`: the same content in other bytes, and every name right at every moment."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from stores import add_result, blobs_in, direct_key_of

from neuron_store.store.collection import recompression
from neuron_store.store.collection.recompression import recompress, replace_record
from neuron_store.store.direct import decode_direct
from neuron_store.store.layout import read_file
from neuron_store.store.queue import enqueue
from neuron_store.store.results import load_result

COMPILE = ("compile", "--framework=XLA", "--target=trn1")
REMOTE = "0123456789abcdef"


def text(number):
    return b"".join(b"%d " % (number * i % 9973) for i in range(30_000))


def run(host, level):
    return json.loads(host.cli("recompress", "--level", level, "--json").stdout)


def encodings(host, key, number):
    result = load_result(host.layout, key)
    direct = decode_direct(read_file(host.layout.direct_path(direct_key_of(number))), direct_key_of(number))
    kept = [file["encoding"] for file in result.input["files"]]
    return [result.outputs["neff"].encoding, direct.outputs["neff"].encoding, *kept]


def test_a_higher_level_saves_and_a_lower_one_leaves_what_would_grow(host):
    for number in range(4):
        add_result(host.layout, number, content=text(number + 2), level=1)
    before = blobs_in(host.store)
    told = run(host, 19)
    assert told["blobs"] == told["rewritten"] == 4
    assert 0 < told["saved_bytes"] == told["before"] - told["after"]
    assert told["records"] == 0
    assert blobs_in(host.store) == before
    assert run(host, 1)["rewritten"] == 0
    host.cli("verify")


def test_raw_is_compressed_where_that_pays_and_the_other_way(host):
    shrinks = add_result(host.layout, 1, content=text(5), level=0, inputs=[("w", text(6))], age=1000)
    add_result(host.layout, 2, content=os.urandom(100_000), level=0)
    used = os.stat(host.layout.result_path(shrinks)).st_mtime_ns
    time.sleep(0.05)
    told = run(host, 3)
    assert (told["blobs"], told["rewritten"], told["records"]) == (3, 2, 1)
    assert encodings(host, shrinks, 1) == ["zst", "zst", "zst"]
    assert sorted(name.endswith(".zst") for name in blobs_in(host.store)) == [False, True, True]
    assert os.stat(host.layout.result_path(shrinks)).st_mtime_ns == used
    host.cli("verify")
    time.sleep(0.05)
    told = run(host, 0)
    assert told["saved_bytes"] < 0
    assert encodings(host, shrinks, 1) == ["raw", "raw", "raw"]
    assert not any(name.endswith(".zst") for name in blobs_in(host.store))
    host.cli("verify")


def test_a_blob_in_both_encodings_is_left_in_one(host):
    first = add_result(host.layout, 1, content=text(5), level=0)
    second = add_result(host.layout, 2, content=text(5), level=3)
    time.sleep(0.05)
    assert run(host, 3)["blobs"] == 1
    assert len(blobs_in(host.store)) == 1
    assert encodings(host, first, 1) == encodings(host, second, 2) == ["zst", "zst"]


def test_what_waits_for_its_upload_is_left_alone(host):
    key = add_result(host.layout, 1, content=text(5), level=0)
    enqueue(host.layout, REMOTE, key)
    told = run(host, 19)
    assert (told["blobs"], told["queued"]) == (0, 1)
    assert encodings(host, key, 1) == ["raw", "raw"]


def test_a_damaged_blob_is_told_and_left(host):
    add_result(host.layout, 1, content=text(5), level=0)
    (path,) = (path for path in (host.store / "blobs").rglob("*") if path.is_file())
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(b"flipped")
    done = host.cli("recompress", "--level", "3", check=False)
    assert done.returncode == 1
    assert "1 blob is damaged" in done.stderr
    assert blobs_in(host.store) == {path.name}


def test_a_shim_that_read_an_old_direct_entry_is_served(host):
    """Records name what is there; who has read one before still finds the blob in its other encoding."""
    model = host.model()
    shrinking = {"STANDIN_COMPRESSIBLE": 1, "STANDIN_SIZE": 50_000}
    host.cc(*COMPILE, model, "--output=o.neff", **shrinking)
    first = (host.work / "o.neff").read_bytes()
    old = {path: path.read_bytes() for path in (host.store / "direct").rglob("*") if path.is_file()}
    time.sleep(0.05)
    assert run(host, 0)["records"] == 1
    for path, content in old.items():
        path.write_bytes(content)
    host.cc(*COMPILE, model, "--output=o.neff", **shrinking)
    assert (host.work / "o.neff").read_bytes() == first
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_disowned_record_does_not_come_back(host):
    key = add_result(host.layout, 1, content=text(5))
    path = host.layout.result_path(key)
    result, seen = load_result(host.layout, key), os.stat(path)
    os.unlink(path)
    assert not replace_record(host.layout, result, seen)
    assert not os.path.exists(path)
    assert list((host.store / "tmp").iterdir()) == []


@pytest.mark.parametrize("by_link", [False, True])
def test_a_record_that_was_stored_anew_stays(host, monkeypatch, by_link):
    if by_link:
        monkeypatch.setattr(recompression, "exchange", recompression._exchange_by_link)
    key = add_result(host.layout, 1, content=text(5))
    path = host.layout.result_path(key)
    result, seen = load_result(host.layout, key), os.stat(path)
    assert replace_record(host.layout, result, seen)
    add_result(host.layout, 1, content=text(6))
    anew = read_file(path)
    assert not replace_record(host.layout, result, seen)
    assert read_file(path) == anew


def test_recompressing_beside_shims_fails_no_compile(host):
    extra = {"STANDIN_COMPRESSIBLE": 1, "STANDIN_SIZE": 200_000}
    models = [host.model(f"m{number}.pb", b"module %d" % number) for number in range(6)]
    expected = []
    for model in models:
        host.cc(*COMPILE, model, "--output=o.neff", **extra)
        expected.append((host.work / "o.neff").read_bytes())
    ended = threading.Event()

    def work():
        for level in (0, 3, 0, 9, 0, 3, 0, 9):
            recompress(host.layout, level, 2)
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    asked = 0
    while not ended.is_set() or asked < 24:
        number = asked % 6
        host.cc(*COMPILE, models[number], "--output=o.neff", **extra)
        assert (host.work / "o.neff").read_bytes() == expected[number]
        asked += 1
    worker.join()
    counters = host.counters()
    assert counters.pop("miss_stored") == 6
    assert counters.pop("hit_direct") == asked
    assert counters == {}
    host.cli("verify")


def test_a_recompression_killed_at_any_moment_leaves_a_valid_store(host):
    dice = random.Random(3)
    for number in range(40):
        add_result(host.layout, number, content=text(number + 1), inputs=[("w", text(number % 5 + 50))])
    died = 0
    for turn in range(8):
        victim = subprocess.Popen(
            [sys.executable, "-m", "neuron_store.cli", "recompress", "--level", str(turn % 2 * 3)],
            env=host.env,
            stdout=subprocess.DEVNULL,
        )
        while victim.poll() is None and not (host.store / "locks/collector").exists():
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.25))
        victim.send_signal(signal.SIGKILL)
        died += victim.wait() == -signal.SIGKILL
        host.cli("verify")
    assert died > 2
    time.sleep(0.05)
    run(host, 3)
    host.cli("verify")
    assert len(blobs_in(host.store)) == 45
