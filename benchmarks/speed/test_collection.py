"""How fast 100,000 results are looked through, and that a collection beside 32 shims harms none of them."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from conftest import peak_memory

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.direct import DirectEntry, Output, encode_direct
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, encode_result

MB = 1000 * 1000
MINUTE = 60.0
SHIMS = 32
SIZE = 10 * MB  # of each NEFF of the large store: 1 TB in all


def write(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def fill(layout, count, size=0):
    """Write results as the shim does: their blobs with `size` bytes; or none, as files with nothing but a hole."""
    for kind in ("results", "direct", "blobs"):
        for number in range(256):
            os.makedirs(f"{layout.root}/{kind}/{number:02x}")
    for number in range(count):
        key, direct_key = xxh3_hex(b"key %d" % number), xxh3_hex(b"direct %d" % number)
        outputs = {}
        for role, length in (("neff", size or SIZE), ("stdout", 21)):
            content = hashlib.shake_256(b"%s %d" % (role.encode(), number)).digest(length if size else 32)
            sha256 = hashlib.sha256(content).hexdigest()
            outputs[role] = Output(role, sha256, xxh3_hex(content), length, "raw", None)
            path = layout.blob_path(sha256)
            write(path, content if size else b"")
            os.truncate(path, length)
            os.chmod(path, 0o444)
        components = [
            {"name": name, "digest": "0" * 32, "fields": [f"--{name}-{part}" for part in range(8)]}
            for name in ("compiler", "flags", "environment", "host", "hlo", "side_inputs")
        ]
        result = Result(
            key=key,
            components=components,
            outputs=outputs,
            interleave="o21",
            seconds=60.0,
            input_file={"name": "m.pb", "path": "", "size": 1, "sha256": "0" * 64, "proof": "1" * 64, "mode": "x"},
            provenance={"created": 0.0, "compiler_version": f"2.{number % 5}.1+x", "command": ["neuronx-cc"] * 30},
        )
        write(layout.result_path(key), encode_result(result))
        os.utime(layout.result_path(key), (number, number))
        write(layout.direct_path(direct_key), encode_direct(DirectEntry(key, 60.0, "o21", outputs), direct_key))


def test_a_dry_run_over_a_hundred_thousand_results(benchmark, bench, say):
    count = 100_000
    fill(Layout(bench.env["NEURON_STORE_DIR"]), count)
    command = [sys.executable, "-m", "neuron_store.cli", "gc", "--dry-run", "--json", "--max-size", "200G"]
    told = []

    def look():
        told.append(json.loads(subprocess.run(command, env=bench.env, check=True, capture_output=True).stdout))

    benchmark.pedantic(look, rounds=3, warmup_rounds=1)
    memory = peak_memory(command, bench.env)
    assert told[-1]["removed"]["size"]["count"] == pytest.approx(count * 0.8, rel=0.01)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(peak_memory_bytes=memory)
    say(f"gc --dry-run, {count:,} results of 1 TB: {seconds:.1f} s   peak {memory / MB:.0f} MB")


def test_a_check_of_ten_thousand_small_results(benchmark, bench, say):
    count = 10_000
    layout = Layout(bench.env["NEURON_STORE_DIR"])
    fill(layout, count, size=4000)
    command = [sys.executable, "-m", "neuron_store.cli", "verify", "--json"]
    told = []

    def look():
        told.append(json.loads(subprocess.run(command, env=bench.env, check=True, capture_output=True).stdout))

    benchmark.pedantic(look, rounds=3, warmup_rounds=1)
    memory = peak_memory(command, bench.env)
    assert (told[-1]["results"], told[-1]["whole"], told[-1]["blobs"]) == (count, count, 2 * count)
    benchmark.extra_info.update(peak_memory_bytes=memory)
    say(f"verify, {count:,} small results: {benchmark.stats.stats.median:.1f} s   peak {memory / MB:.0f} MB")


class Shims:
    """Processes that hit and miss until it is time, and what became of them."""

    def __init__(self, bench, limit):
        self._bench = bench
        self._end = time.monotonic() + MINUTE
        self._env = {
            **bench.env,
            "NEURON_STORE_MAX_SIZE": str(limit),
            "NEURON_STORE_LOG_FILE": str(bench.folder / "log"),
        }
        self.compiles = self.wrong = self.failed = 0
        self._lock = threading.Lock()

    def work(self, number):
        dice = random.Random(number)
        folder = self._bench.folder / f"rank{number}"
        folder.mkdir()
        while time.monotonic() < self._end:
            model = folder / f"m{dice.randrange(20)}.pb"
            content = hashlib.shake_256(model.name.encode()).digest(50_000)
            model.write_bytes(content)
            command = [str(self._bench.launcher), "compile", str(model), "--output=o.neff", "--target=trn1"]
            done = subprocess.run(
                command, cwd=folder, env={**self._env, "PREPARED_NEFF": str(model)}, capture_output=True, check=False
            )
            with self._lock:
                self.compiles += 1
                self.failed += done.returncode != 0
                self.wrong += done.returncode == 0 and (folder / "o.neff").read_bytes() != content


def test_a_minute_of_collections_beside_32_shims(benchmark, bench, say):
    limit = 300_000
    shims = Shims(bench, limit)
    threads = [threading.Thread(target=shims.work, args=(number,)) for number in range(SHIMS)]
    command = [sys.executable, "-m", "neuron_store.cli", "gc", "--max-size", str(limit), "--json"]
    told = []

    def run():
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            told.append(json.loads(subprocess.run(command, env=bench.env, check=True, capture_output=True).stdout))
        for thread in threads:
            thread.join()
        told.append(json.loads(subprocess.run(command, env=bench.env, check=True, capture_output=True).stdout))

    benchmark.pedantic(run, rounds=1)
    assert (shims.failed, shims.wrong) == (0, 0)
    assert told[-1]["after_bytes"] <= limit
    subprocess.run([sys.executable, "-m", "neuron_store.cli", "verify"], env=bench.env, check=True, capture_output=True)
    removed = sum(reason["count"] for each in told for reason in each["removed"].values())
    say(
        f"gc beside {SHIMS} shims, 1 min: {shims.compiles} compiles, {len(told)} collections took {removed} away; none failed"
    )
