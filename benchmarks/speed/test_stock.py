"""Stock caches: how near a precompile comes to the best that its compiles allow, and what an import holds in memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import peak_memory
from test_remotes import Link, environment

import neuron_store.benchmarks
from neuron_store.benchmarks.builtin import builtin_model, builtin_names
from neuron_store.store.layout import Layout
from neuron_store.store.results import all_keys, load_result

PENDING = 12
MODULES = 2000
KILLED_AT = 700  # modules
VERSION = "2.14.227.0+2d4f85be"
FLAGS = ["--target=trn1", "--model-type=transformer"]


def numbered(data, number):
    """The same module with an attribute, and so another one."""
    pair = b"\x0a\x06number\x12" + bytes([len(str(number))]) + str(number).encode()
    return data + b"\x9a\x01" + bytes([len(pair) + 2, 0x0A, len(pair)]) + pair


def command(*words):
    return [sys.executable, "-m", "neuron_store.cli", *map(str, words)]


def test_precompile_beside_the_ideal(tmp_path, say):
    compiler = Path(neuron_store.benchmarks.__path__[0]) / "bin/neuronx-cc"
    path = f"{Path(sys.executable).parent}:{compiler.parent}:/usr/bin:/bin"
    env = {"HOME": str(tmp_path), "PATH": path, "LANG": "C.UTF-8", "NEURON_STORE_REMOTES": "none"}
    said = subprocess.run([compiler, "--version"], env=env, capture_output=True, text=True, check=True).stdout
    version = said.partition("NeuronX Compiler version ")[2].split()[0]
    names = builtin_names()
    for number in range(PENDING):
        entry = tmp_path / f"cache/neuronxcc-{version}/MODULE_{number}+d7517139"
        entry.mkdir(parents=True)
        graph = numbered(builtin_model(names[number % len(names)]), number)
        (entry / "model.hlo_module.pb").write_bytes(graph)
        (entry / "compile_flags.json").write_text(json.dumps(FLAGS))
    done = subprocess.run(
        command("precompile", tmp_path / "cache", "-j", os.cpu_count(), "--json"),
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["compiled"] == PENDING
    layout = Layout(str(tmp_path / ".cache/neuron-store"))
    seconds = [load_result(layout, key).seconds for key in all_keys(layout)]
    ideal = max(sum(seconds) / told["jobs"], *seconds)
    say(
        f"precompile of {PENDING} modules, {told['jobs']} at once: {told['seconds']:.1f} s, "
        f"{told['seconds'] / ideal:.2f}x the ideal of {ideal:.1f} s for the durations recorded"
    )


def test_import_of_a_large_repo_resumes(tmp_path, say):
    """2,000 modules of a Hub with latency: killed once, then to the end; nothing is fetched twice, memory is bounded."""
    small = builtin_model("mlp_train_step")
    for number in range(MODULES):
        entry = tmp_path / f"cache/neuronxcc-{VERSION}/MODULE_{number}+d7517139"
        entry.mkdir(parents=True)
        (entry / "model.hlo_module.pb").write_bytes(numbered(small, number))
        (entry / "compile_flags.json").write_text(json.dumps(FLAGS))
        (entry / "model.neff").write_bytes(os.urandom(20_000))
        (entry / "model.done").touch()
    link = Link()
    try:
        env = environment(tmp_path, link) | {"NEURON_STORE_UPLOAD": "0"}
        subprocess.run(command("synchronize", "--cache_dir", tmp_path / "cache"), env=env, check=True)
        link.counts()
        words = command("import", "hf://alice/cache", "--all")
        begun = time.perf_counter()
        first = subprocess.Popen(words, env=env)
        layout = Layout(str(tmp_path / "store"))
        while sum(1 for _ in all_keys(layout)) < KILLED_AT:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
        half = time.perf_counter() - begun
        done = sum(1 for _ in all_keys(layout))
        before = link.counts()["resolve"]
        begun = time.perf_counter()
        peak = peak_memory(words, env)
        rest = time.perf_counter() - begun
        after = link.counts()["resolve"]
        assert sum(1 for _ in all_keys(layout)) == MODULES
        say(
            f"import of {MODULES} modules, 20 ms a request: killed at {done} after {half:.0f} s, the rest in {rest:.0f} s; "
            f"{before + after} files asked for ({3 * MODULES} are there), {peak / 1e6:.0f} MB at most"
        )
        assert before + after <= 3 * MODULES + 3 * 16  # what each thread had on its way when it was killed
    finally:
        link.stop()
