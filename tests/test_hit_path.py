"""A hit imports almost nothing: what an import costs is what a hit costs."""

import subprocess
import sys

HEAVY = {
    "argparse", "ast", "collections", "contextlib", "ctypes", "dataclasses", "datetime", "enum", "fcntl", "functools",
    "hashlib", "importlib", "inspect", "io_", "json", "logging", "pathlib", "random", "re", "shutil", "signal", "socket",
    "subprocess", "tempfile", "threading", "tomllib", "tomlkit", "traceback", "typer", "typing", "uuid", "zstandard",
}  # fmt: skip


def test_a_hit_imports_none_of_the_heavy_modules(host):
    model = host.model()
    arguments = ["compile", str(model), "--target=trn1", "--output=o.neff"]
    host.cc(*arguments, STANDIN_SIZE=3_000_000, STANDIN_COMPRESSIBLE=1)
    done = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", str(host.launcher), *arguments],
        cwd=host.work,
        env=host.env,
        capture_output=True,
        text=True,
    )
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "neuron_store.store.blobs" in imported
    assert imported & HEAVY == set()
