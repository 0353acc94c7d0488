"""`verify`, with and without --repair, beside shims and collections: no compile fails, and nothing whole is taken for a fault."""

import hashlib
import json
import subprocess
import sys
import threading

from planted_faults import Planter

COMPILE = ("compile", "--framework=XLA", "--target=trn1")
SHIMS, ROUNDS, MODELS = 12, 4, 6
EXTRA = {"STANDIN_SIZE": 20_000, "NEURON_STORE_MIN_FREE": "0"}


def models_of(host):
    models = [host.model(f"m{number}.pb", b"module %d" % number) for number in range(MODELS)]
    expected = []
    for number, model in enumerate(models):
        host.cc(*COMPILE, model, f"--output=e{number}.neff", **EXTRA, NEURON_STORE_ENABLED="false")
        expected.append(hashlib.sha256((host.work / f"e{number}.neff").read_bytes()).hexdigest())
    return models, expected


def run_shims(host, models, expected, between=lambda: None):
    for turn in range(ROUNDS):
        running = [
            host.start(*COMPILE, models[(rank + turn) % MODELS], f"--output=r{rank}.neff", **EXTRA)
            for rank in range(SHIMS)
        ]
        for rank, process in enumerate(running):
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            made = hashlib.sha256((host.work / f"r{rank}.neff").read_bytes()).hexdigest()
            assert made == expected[(rank + turn) % MODELS]
        between()


def beside(host, *commands):
    """Run commands of neuron-store again and again until told to end; return how to end them, and what they said."""
    ended, told = threading.Event(), []

    def repeat(arguments):
        while not ended.is_set():
            command = [sys.executable, "-m", "neuron_store.cli", *arguments, "--json"]
            done = subprocess.run(command, env=host.environ(EXTRA), capture_output=True, timeout=120)
            told.append((arguments[0], done.returncode, done.stdout, done.stderr))

    threads = [threading.Thread(target=repeat, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()

    def end():
        ended.set()
        for thread in threads:
            thread.join()
        return told

    return end


def test_a_check_beside_shims_and_collections_finds_no_fault(host):
    models, expected = models_of(host)
    end = beside(host, ("verify",), ("gc", "--max-size", "60000"))
    try:
        run_shims(host, models, expected)
    finally:
        told = end()
    assert {name for name, *_ in told} == {"verify", "gc"}
    for name, code, out, errors in told:
        assert code == 0, (name, out, errors)
        assert name != "verify" or json.loads(out)["findings"] == []


def test_a_repair_beside_shims_mends_what_is_spoiled_meanwhile_and_no_compile_fails(host):
    models, expected = models_of(host)
    planter = Planter(host.store, host.layout)

    def spoil():
        keys = sorted(path.name for path in (host.store / "results").rglob("*") if path.is_file())
        try:
            planter.flipped_blob(keys[0])
            planter.missing_blob(keys[-1])
        except (OSError, StopIteration, IndexError, AttributeError):
            pass  # it was taken away at that moment
        planter.orphan_blob()

    end = beside(host, ("verify", "--repair"))
    try:
        run_shims(host, models, expected, spoil)
    finally:
        told = end()
    assert not [each for each in told if b"Traceback" in each[3]]
    outcomes = {finding["outcome"] for each in told for finding in json.loads(each[2])["findings"]}
    assert "repaired" in outcomes
    assert outcomes <= {"repaired", "healed"}
    host.cli("verify", "--repair")
    report = json.loads(host.cli("verify", "--json").stdout)
    assert report["findings"] == []
    run_shims(host, models, expected)
