"""What tests of stock caches share: graphs, a cache that the stand-in for libneuronxla keeps, and repos of its layout."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import VERSION
from hlo_edits import Message, field
from standin_libneuronxla import graph_name, module_name, write_entry

from neuron_store.benchmarks.builtin import builtin_model

STANDIN = Path(__file__).parent / "standin_libneuronxla.py"
MODULE_ATTRIBUTES = 19
FLAGS = ("--target=trn1", "--model-type=transformer", "-O1")
FOLDER = f"neuronxcc-{VERSION}"


def graph(number=0):
    """A real HLO module, each number another one."""
    text = str(number)
    pair = field(1, "number") + field(2, text)
    return builtin_model("mlp_train_step") + field(MODULE_ATTRIBUTES, field(1, pair))


def renamed(data, name="another"):
    """The same module, as another process would write it."""
    module = Message(data)
    module.set(1, name)
    module.set(5, 123456)
    return bytes(module)


def stock(host, cache, model, *flags, form="training", collect=False, code=0, shim=True, **extra):
    """Ask the stock cache for a graph, with or without the shim on PATH; return what it says, and the NEFF."""
    output = host.base / "served.neff"
    output.unlink(missing_ok=True)
    options = [f"--form={form}", *(["--collect"] if collect else [])]
    path = host.env["PATH"] if shim else f"{host.compiler.parent}:/usr/bin:/bin"
    done = subprocess.run(
        [sys.executable, STANDIN, cache, model, output, *options, "--", *(flags or FLAGS)],
        env=host.environ({"PATH": path, **extra}),
        cwd=host.work,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stdout.strip(), output.read_bytes() if output.exists() else None


def stock_files(entry, data, flags=FLAGS, form="training", neff=b"NEFF", **more):
    """The files of a finished entry in a repo: path -> content."""
    module = module_name(data, list(flags), form)
    files = {graph_name(form): data, "compile_flags.json": json.dumps(list(flags)).encode(), "model.done": b""}
    if neff is not None:
        files["model.neff"] = neff
    files |= more
    return {f"{entry}/{module}/{name}": content for name, content in files.items() if content is not None}


__all__ = ["FLAGS", "FOLDER", "graph", "module_name", "renamed", "stock", "stock_files", "write_entry"]
