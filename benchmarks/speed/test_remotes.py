"""Push and pull over an emulated link (20 ms latency, 50 MB/s shared by all), against huggingface_hub's own snapshot.

The Hub is the tests' imitation, as a process of its own. A result is 1.6 MB that zstd does not shrink, as a gzip'd NEFF.
"""

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from neuron_store.store.blob_writer import store_blob
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.base import make_identity
from neuron_store.store.results import Result, save_result

LATENCY, BANDWIDTH = 0.02, 50e6  # seconds, bytes a second
SIZE = 1_600_000  # bytes of a NEFF
VERSION = "2.14.227.0+2d4f85be"
HUB = Path(__file__).parents[2] / "tests/loopback_hub.py"
SNAPSHOT = "from huggingface_hub import snapshot_download; snapshot_download('alice/cache')"


class Link:
    """A Hub behind the emulated link."""

    def __init__(self) -> None:
        arguments = ["--port", "0", "--latency", str(LATENCY), "--bandwidth", str(BANDWIDTH)]
        self.process = subprocess.Popen(
            [sys.executable, HUB, *arguments, "--user", "alice:hf_alice", "--repo", "alice/cache"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.endpoint = json.loads(self.process.stdout.readline())["endpoint"]

    def control(self, order):
        with urllib.request.urlopen(f"{self.endpoint}/__control__/{order}") as answer:  # noqa: S310 - our own
            return json.load(answer)

    def counts(self):
        """Return the requests by kind since the last call, and forget them."""
        counted = self.control("counts")["kinds"]
        self.control("reset")
        return counted

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def link():
    made = Link()
    yield made
    made.stop()


def environment(folder, link):
    return {
        "HOME": str(folder),
        "HF_HOME": str(folder / "huggingface"),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HF_ENDPOINT": link.endpoint,
        "HF_TOKEN": "hf_alice",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NEURON_STORE_DIR": str(folder / "store"),
        "NEURON_STORE_REMOTES": "hf://alice/cache",
    }


def store_results(folder, count, link, size=SIZE):
    """Fill a store with results of `size` bytes, all of them queued for the Hub."""
    layout = Layout(str(folder / "store"))
    identity = make_identity(f"{link.endpoint} hf://alice/cache")
    for number in range(count):
        source = folder / "neff"
        source.write_bytes(os.urandom(size))
        with source.open("rb") as file:
            neff = store_blob(layout, "neff", file.fileno())
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        result = Result(
            key=digest[:32],
            components=[{"name": "hlo", "digest": digest[:32], "fields": ["canonical", digest]}],
            outputs={"neff": neff},
            interleave="",
            seconds=60.0,
            input_file={"name": "m.pb", "size": 1, "sha256": digest, "mode": "canonical", "proof": digest, "files": []},
            provenance={"created": time.time(), "compiler_version": VERSION, "neuron_store": "0"},
        )
        save_result(layout, result)
        enqueue(layout, identity, result.key)


def run(folder, link, *command):
    begun = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment(folder, link), capture_output=True, check=True)
    return time.perf_counter() - begun


def requests_of(counts):
    return f"{sum(counts.values())} requests ({', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))})"


def test_push_of_250_results(benchmark, tmp_path, link, say):
    store_results(tmp_path, 250, link)
    link.counts()
    benchmark.pedantic(run, args=(tmp_path, link, "-m", "neuron_store.cli", "push"), rounds=1)
    seconds, counts = benchmark.stats.stats.data[0], link.counts()
    assert counts["commit"] <= 3
    limit = 250 * SIZE / BANDWIDTH
    benchmark.extra_info.update(counts, link_seconds=limit)
    say(
        f"push of 250 results: {seconds:.1f} s, {seconds / limit:.2f}x the link's own {limit:.1f} s; {requests_of(counts)}"
    )


# With large results both are bound by the link; with small ones by its latency.
@pytest.mark.parametrize(("count", "size"), [(200, SIZE), (500, 20_000)])
def test_pull_against_snapshot_download(benchmark, tmp_path, link, say, count, size):
    source = tmp_path / "source"
    source.mkdir()
    store_results(source, count, link, size)
    run(source, link, "-m", "neuron_store.cli", "push")
    limit = count * size / BANDWIDTH
    snapshots, kinds, number = [], {}, 0

    def fresh(kind):
        nonlocal number
        number += 1
        folder = tmp_path / f"{kind}{number}"
        folder.mkdir()
        return folder

    def setup():
        link.counts()
        snapshots.append(run(fresh("snapshot"), link, "-c", SNAPSHOT))
        kinds["snapshot"] = link.counts()
        return (fresh("pull"), link, "-m", "neuron_store.cli", "pull", "--all"), {}

    benchmark.pedantic(run, setup=setup, rounds=3)
    kinds["pull"] = link.counts()
    pull, snapshot = statistics.median(benchmark.stats.stats.data), statistics.median(snapshots)
    benchmark.extra_info.update(snapshot_seconds=snapshot, link_seconds=limit)
    what = f"{count} results of {size / 1e6:g} MB"
    say(f"pull of {what}: {pull:.1f} s, {pull / limit:.2f}x the link's own {limit:.1f} s; {requests_of(kinds['pull'])}")
    say(f"snapshot_download of the same: {snapshot / pull:.2f}x as long; {requests_of(kinds['snapshot'])}")


def test_sixty_four_ranks_and_a_hub_that_stalls(benchmark, bench, link, say):
    bench.write_neff(100_000)
    hub = {name: value for name, value in environment(bench.folder, link).items() if name.startswith(("HF_", "NEURON"))}
    batch = 0

    def ranks(**more):
        nonlocal batch
        batch += 1
        begun = time.perf_counter()
        started = []
        for number in range(64):
            folder = bench.folder / f"batch{batch}/rank{number}"
            folder.mkdir(parents=True)
            model = folder / "m.pb"
            model.write_bytes(os.urandom(10_000))
            command = bench.command(bench.launcher, model, f"batch{batch}/rank{number}/o.neff")
            started.append(subprocess.Popen(command, env={**bench.env, **more}, cwd=folder, stdout=subprocess.DEVNULL))
        assert {rank.wait() for rank in started} == {0}
        return time.perf_counter() - begun

    ranks()
    without = ranks()
    link.counts()
    link.process.send_signal(signal.SIGSTOP)  # connections are still accepted, and never answered
    stalled = benchmark.pedantic(ranks, kwargs=hub | {"NEURON_STORE_UPLOAD": "0"}, rounds=1)
    after = ranks(**hub, NEURON_STORE_UPLOAD="0")
    link.process.send_signal(signal.SIGCONT)
    benchmark.extra_info.update(without_seconds=without, after_seconds=after)
    say(
        f"64 ranks, 64 subgraphs: {without:.1f} s; with a Hub that stalls (time-out 10 s) {stalled:.1f} s, then {after:.1f} s"
    )
