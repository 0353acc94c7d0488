"""Whole-process measurements: each hit is paired with a bare interpreter (and `cp`) run right before it."""

import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuron_store.shim.launcher import write_launcher

VERSION = "2.14.227.0+2d4f85be"
# A compiler that costs as little as a program can: what is measured is the shim.
COMPILER = f"""#!/bin/sh
if [ "$1" = --version ]; then echo "NeuronX Compiler version {VERSION}"; exit; fi
for word; do case "$word" in --output=*) cp "$PREPARED_NEFF" "${{word#*=}}";; esac; done
echo "Compiler status PASS"
"""
_LINES = []


def tarball_like(size):
    """Return bytes that zstd shrinks about 7 times, as it does a plain NEFF's tables and instructions."""
    dice = random.Random(0)
    made = bytearray()
    while len(made) < size:
        kind = dice.randrange(4)
        if kind == 0:
            made += bytes(64)
        elif kind == 1:
            made += dice.randbytes(24) + bytes(40)
        else:
            made += (b"instr%06d" % (len(made) >> 6)) * 4 if kind == 2 else b"\1\2\0\0\0\0\0\0" * 8
    return bytes(made[:size])


def timed(command, **options):
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - begun


class Bench:
    """A store, a launcher and a compiler below one folder; and what is measured beside the hit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher = write_launcher(folder / "launcher")
        self.compiler = folder / "bin/neuronx-cc"
        self.compiler.parent.mkdir()
        self.compiler.write_text(COMPILER)
        self.compiler.chmod(0o755)
        self.neff = folder / "prepared.neff"
        self.env = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PATH": f"{self.compiler.parent}:/usr/bin:/bin",
            "NEURON_STORE_DIR": str(folder / "store"),
            "NEURON_STORE_REMOTES": "none",
            "PREPARED_NEFF": str(self.neff),
        }

    def write_neff(self, size, *, compressible=False):
        """A gzip'd NEFF does not shrink; one for fast loading is a plain tarball and does."""
        piece = tarball_like(8 << 20) if compressible else b""
        with open(self.neff, "wb") as file:
            file.writelines(piece or os.urandom(8 << 20) for _ in range(0, size, 8 << 20))
            file.truncate(size)

    def write_hlo(self, size):
        path = self.folder / "model.hlo_module.pb"
        path.write_bytes(os.urandom(size))
        return path

    def command(self, program, model, output="out.neff"):
        return [
            str(program),
            "compile",
            "--framework=XLA",
            str(model),
            f"--output={self.folder / output}",
            "--target=trn1",
        ]

    def compile(self, model):
        return timed(self.command(self.launcher, model), env=self.env)

    def bare_interpreter(self):
        return timed([sys.executable, "-I", "-S", "-c", "pass"], env=self.env)

    def copy(self):
        return timed(["cp", str(self.neff), str(self.folder / "copied.neff")], env=self.env)


def peak_memory(command, env):
    """Return the peak resident memory of a process, in bytes."""
    probe = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe, *command], env=env, capture_output=True, check=True)
    return int(done.stdout) * 1024


def paired_median(values, others):
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


@pytest.fixture
def bench(tmp_path):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Bench(tmp_path)


@pytest.fixture
def say():
    """Keep a line for the end of the run."""
    return _LINES.append


def pytest_terminal_summary(terminalreporter):
    if _LINES:
        terminalreporter.section("neuron-store: ratios and overheads (medians of paired runs)")
        for line in _LINES:
            terminalreporter.line(line)
