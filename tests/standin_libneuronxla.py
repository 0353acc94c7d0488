"""A stand-in for libneuronxla's cache, as far as its behaviour is documented: look-up, lock, compile, done or failure.

    python standin_libneuronxla.py CACHE GRAPH OUTPUT [--form training|inference|2023] [--collect] [-- FLAGS…]

An entry that is done is copied to OUTPUT; one with a failure's log fails again; a graph with neither is compiled by the
`neuronx-cc` that is found on PATH, in a work directory with a random name, and becomes an entry. With --collect it is only
written down, as neuron_parallel_compile's trial run does. Prints `hit`, `compiled`, `failed` or `collected`.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path


def flags_hash(flags, form):
    text = " ".join(flags) if form == "2023" else json.dumps(flags)
    return hashlib.md5(text.encode()).hexdigest()[:8]


def hlo_hash(graph, form):
    digest = hashlib.sha256(graph).hexdigest()
    return digest[:20] if form == "inference" else str(int(digest[:16], 16))


def module_name(graph, flags, form="training"):
    return f"MODULE_{hlo_hash(graph, form)}+{flags_hash(flags, form)}"


def graph_name(form):
    return "model.hlo.pb" if form == "2023" else "model.hlo_module.pb"


def compiler_version():
    said = subprocess.run(["neuronx-cc", "--version"], capture_output=True, text=True, check=True)
    return (said.stdout + said.stderr).partition("NeuronX Compiler version ")[2].split()[0]


def command_line(graph, neff, flags, form):
    """How neuronx-cc is called; in 2023 the target came from elsewhere, and stood before the command."""
    if form == "2023":
        target = ["--target=trn1"]
        return ["neuronx-cc", *target, "compile", "--framework", "XLA", graph, "--output", neff, *flags, "--verbose=35"]
    return ["neuronx-cc", "compile", "--framework=XLA", graph, "--output", neff, *flags, "--verbose=35"]


def write_entry(entry, graph, flags, form="training", neff=None, done=True):
    """Write an entry as it looks when its compile has ended, or (without a NEFF) was collected."""
    entry = Path(entry)
    entry.mkdir(parents=True, exist_ok=True)
    (entry / graph_name(form)).write_bytes(graph)
    (entry / "compile_flags.json").write_text(json.dumps(flags))
    if neff is not None:
        (entry / "model.neff").write_bytes(neff)
        if done:
            (entry / "model.done").touch()
    return entry


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("graph", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--form", choices=["training", "inference", "2023"], default="training")
    parser.add_argument("--collect", action="store_true")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    asked = parser.parse_args(words[:at])
    flags = words[at + 1 :]
    graph = asked.graph.read_bytes()
    module = module_name(graph, flags, asked.form)
    entry = asked.cache / f"neuronxcc-{compiler_version()}" / module
    if (entry / "model.done").exists():
        shutil.copyfile(entry / "model.neff", asked.output)
        return print("hit")
    if (entry / "model.log").exists():
        print("failed")
        sys.exit(70)
    write_entry(entry, graph, flags, asked.form)
    if asked.collect:
        return print("collected")
    lock = entry / f"{graph_name(asked.form)}.lock"
    lock.touch(exist_ok=False)
    work = Path("neuroncc_compile_workdir").absolute() / str(uuid.uuid4())
    work.mkdir(parents=True)
    suffix = "hlo.pb" if asked.form == "2023" else "hlo_module.pb"
    copy, neff = work / f"model.{module}.{suffix}", work / f"model.{module}.neff"
    copy.write_bytes(graph)
    done = subprocess.run(command_line(str(copy), str(neff), flags, asked.form), cwd=work, capture_output=True)
    if done.returncode:
        (entry / "model.log").write_bytes(done.stdout + done.stderr)
    else:
        shutil.copyfile(neff, entry / "model.neff")
        if (work / "wrapped_neff.hlo").exists():
            shutil.copyfile(work / "wrapped_neff.hlo", entry / "wrapped_neff.hlo")
        (entry / "model.done").touch()
        shutil.copyfile(neff, asked.output)
    shutil.rmtree(work)
    os.unlink(lock)
    print("failed" if done.returncode else "compiled")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
