"""What is a hit and what a miss: each way in which one compile differs from another, beside the stock cache's keys.

Each case is run through the shim, end to end, with a compiler that only counts its runs, and its HLO and flags are
hashed as the stock tools do. `python -m neuron_store.benchmarks.equivalence [--write FILE]` prints the table, or puts
it into FILE between its marks. Needs jax and protobuf.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.benchmarks.hlo_schema import module_class
from neuron_store.benchmarks.hlo_variations import PLAIN, TRACES, Variation, trace
from neuron_store.shim.launcher import write_launcher
from neuron_store.shim.real_compiler import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN, END = "<!-- begin: python -m neuron_store.benchmarks.equivalence -->", "<!-- end -->"
OPTIONS = ("--framework=XLA", "--target=trn1", "--model-type=transformer", "-O1", "--verbose=35")
KERNEL_TARGET = "AwsNeuronCustomNativeKernel"

_COMPILER = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "NeuronX Compiler version 2.21.33363.0+82129205"; exit; fi
echo run >> "$RUNS"
for word; do case "$word" in --output=*) echo made > "${word#*=}";; esac; done
"""


class Side(NamedTuple):
    """One invocation: what lies where, and how the compiler is called."""

    folder: Path  # the current directory
    files: dict[Path, bytes]
    model: Path  # a file, or a model directory
    hlo: bytes
    options: tuple[str, ...] = OPTIONS
    gone: tuple[Path, ...] = ()  # files that are no longer there

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        output = [] if any(option.startswith("--output=") for option in self.options) else ["--output=made.neff"]
        return ["compile", str(self.model), *self.options, *output]

    def lay_out(self) -> None:
        """Write the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.gone:
            path.unlink()
        for path, data in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class Case(NamedTuple):
    """Two invocations that differ in one way, and whether they ask for the same by the rules of the key."""

    title: str
    make: Callable[[Path], tuple[Side, Side]]
    same: bool = True
    needs_jax: bool = False
    stock_caches: bool = True  # the stock cache never keeps traces with frozen weights


def plain(folder: Path, hlo: bytes, options: tuple[str, ...] = OPTIONS, name: str = "model.hlo_module.pb") -> Side:
    """Return an invocation with one model file in `folder`."""
    return Side(folder, {folder / name: hlo}, folder / name, hlo, options)


def _cases() -> dict[str, Case]:
    cases = {name: _traced(variation) for name, variation in TRACES.items()}
    cases |= {name: _edited(title, edit) for name, (title, edit) in _EDITS.items()}
    cases |= {name: _called(*call) for name, call in _CALLS.items()}
    return cases | _work_directory_case() | _kernel_cases() | _directory_cases() | _option_file_cases()


# -- the same program traced by JAX --------------------------------------------------------------------------

_traced_once: dict[Variation, bytes] = {}


def _trace(variation: Variation) -> bytes:
    if variation not in _traced_once:
        # The same folder each time, for its name is in the trace.
        folder = Path(tempfile.gettempdir(), f"neuron-store-trace-{os.getpid()}")
        try:
            _traced_once[variation] = trace(folder, variation)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return _traced_once[variation]


def _traced(variation: Variation) -> Case:
    def make(folder: Path) -> tuple[Side, Side]:
        # The plain program is traced twice, by two processes.
        second = variation if variation != PLAIN else variation._replace(title="again")
        return plain(folder / "a", _trace(PLAIN)), plain(folder / "b", _trace(second))

    return Case(variation.title, make, variation.same, needs_jax=True)


# -- what JAX cannot be made to do: edits of a real module ---------------------------------------------------


def _edited(title: str, edit: Callable[[Any], None]) -> Case:
    def make(folder: Path) -> tuple[Side, Side]:
        module = module_class()()
        module.ParseFromString(builtin_model("mlp_train_step"))
        before = module.SerializeToString()
        edit(module)
        return plain(folder / "a", before), plain(folder / "b", module.SerializeToString())

    return Case(title, make)


def _rename_module(module: Any) -> None:  # noqa: ANN401 - protobuf classes are made at run time
    module.name, module.id = "SyncTensorsGraph.2011", 2011


def _rename_instructions(module: Any) -> None:  # noqa: ANN401 - a protobuf class made at run time
    for computation in module.computations:
        computation.name += ".clone"
        for instruction in computation.instructions:
            if instruction.opcode != "parameter":
                instruction.name = f"%{instruction.opcode}.{instruction.id + 5000}"


def _renumber(module: Any) -> None:  # noqa: ANN401 - a protobuf class made at run time
    module.entry_computation_id += 700
    for computation in module.computations:
        computation.id += 700
        computation.root_id = computation.root_id * 3 + 1
        for instruction in computation.instructions:
            instruction.id = instruction.id * 3 + 1
            for ids in (instruction.operand_ids, instruction.control_predecessor_ids):
                ids[:] = [number * 3 + 1 for number in ids]
            instruction.called_computation_ids[:] = [number + 700 for number in instruction.called_computation_ids]


def _add_debug_metadata(module: Any) -> None:  # noqa: ANN401 - a protobuf class made at run time
    for computation in module.computations:
        for instruction in computation.instructions:
            metadata = instruction.metadata
            metadata.op_type, metadata.op_name = "aten__mm", f"Model.1/Linear.{instruction.id}/aten__mm"
            metadata.source_file, metadata.source_line = "/opt/model/modeling.py", 417


_EDITS = {
    "another_graph_number": ("module name and id of a later graph (`SyncTensorsGraph.N`)", _rename_module),
    "renamed_instructions": ("instructions and computations renamed", _rename_instructions),
    "renumbered": ("ids renumbered in the same order", _renumber),
    "debug_metadata": ("source locations on every instruction", _add_debug_metadata),
}


def _map_order(folder: Path) -> tuple[Side, Side]:
    entries = [b"\x0a\x04mesh\x12\x03x=2", b"\x0a\x06origin\x12\x03jax"]
    made = []
    for name, order in (("a", entries), ("b", entries[::-1])):
        attributes = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in order)
        hlo = builtin_model("convnet") + b"\x9a\x01" + bytes([len(attributes)]) + attributes
        made.append(plain(folder / name, hlo))
    return made[0], made[1]


# -- the command line ----------------------------------------------------------------------------------------


def _called(title: str, changed: dict[str, str], same: bool = True) -> Case:  # noqa: FBT001, FBT002 - a column of the table
    """Replace options of OPTIONS; what is replaced by nothing is added."""

    def make(folder: Path) -> tuple[Side, Side]:
        hlo = builtin_model("mlp_train_step")
        made = []
        for name, side in (("a", 0), ("b", 1)):
            options = [*OPTIONS]
            for before, after in changed.items():
                first, second = before.split("|")[-1], after
                wanted = (first, second)[side].replace("{folder}", str(folder))
                known = before.split("|")[0]
                options = [option for option in options if option != known] + wanted.split()
            made.append(plain(folder / name, hlo, tuple(options)))
        return made[0], made[1]

    return Case(title, make, same)


# option of OPTIONS or none | what the first caller writes -> what the second writes
_CALLS: dict[str, tuple[Any, ...]] = {
    "logfile": ("another `--logfile`", {"|--logfile={folder}/a.log": "--logfile={folder}/b.log"}),
    "output": ("another `--output`", {"|--output={folder}/a.neff": "--output={folder}/b.neff"}),
    "verbose": ("another `--verbose`", {"--verbose=35|--verbose=info": "--verbose=error"}),
    "run_id": ("another `--run-id`", {"|--run-id=1234": "--run-id=5678"}),
    "separate_value": ("`--target trn1` for `--target=trn1`", {"--target=trn1|--target=trn1": "--target trn1"}),
    "optlevel": ("`--optlevel=1` for `-O1`", {"-O1|-O1": "--optlevel=1"}),
    "lnc": ("`--lnc=2` for `--logical-nc-config 2`", {"|--logical-nc-config 2": "--lnc=2"}),
    "overridden": ("an option that a later one overrides", {"-O1|-O1": "-O3 -O1"}),
    "option_order": ("the same options in another order", {"-O1|-O1 --lnc=2": "--lnc=2 -O1"}),
    "other_optlevel": ("another optimisation level", {"-O1|-O1": "-O2"}, False),
    "unknown_option": ("an unknown option added", {"|": "--internal-new-option=1"}, False),
}


def _work_directory_case() -> dict[str, Case]:
    def make(folder: Path) -> tuple[Side, Side]:
        hlo = builtin_model("mlp_train_step")
        made = []
        for name in ("8a0e", "f3c1"):
            place = folder / "neuroncc_compile_workdir" / name
            options = (*OPTIONS, f"--logfile={place}/log-neuron-cc.txt", f"--output={place}/model.MODULE_{name}.neff")
            made.append(plain(place, hlo, options, f"model.MODULE_{name}.hlo_module.pb"))
        return made[0], made[1]

    return {
        "map_order": Case("the map order of frontend attributes", _map_order),
        "work_directory": Case("another work directory, with the log file in it", make),
    }


# -- kernels, model directories, files of options ------------------------------------------------------------

KERNEL_FORMATS: dict[str, Callable[[str], dict[str, Any]]] = {
    "klir": lambda path: {
        "kernel_version": 1,
        "klir_binary": {"binary": path, "input_names": ["a_input", "b_input"]},
        "func_name": "nki_tensor_add",
        "grid": [4, 2],
    },
    "bir": lambda path: {"kernel_format": "bir", "kernel_file": path, "func_name": "nki_tensor_add", "grid": []},
}


def calling_kernel(hlo: bytes, document: dict[str, Any]) -> bytes:
    """Return the module with an addition of its entry made into a call of an NKI kernel."""
    module = module_class()()
    module.ParseFromString(hlo)
    entry = next(each for each in module.computations if each.id == module.entry_computation_id)
    call = next(each for each in entry.instructions if each.opcode not in ("parameter", "constant"))
    call.opcode, call.custom_call_target = "custom-call", KERNEL_TARGET
    call.backend_config = base64.b64encode(json.dumps(document).encode())
    return bytes(module.SerializeToString())


def _kernel_sides(form: str, folder: Path, paths: list[Path], contents: list[bytes]) -> tuple[Side, Side]:
    """Two modules that name a kernel by these paths; it lies at the first path in the current directory if relative."""
    made = []
    for name, path, content in zip("ab", paths, contents, strict=True):
        hlo = calling_kernel(builtin_model("mlp_train_step"), KERNEL_FORMATS[form](str(path)))
        side = plain(folder / name, hlo)
        side.files[path] = content
        made.append(side)
    return made[0], made[1]


def _kernel_cases() -> dict[str, Case]:
    one, other = b"kernel code 1", b"kernel code 2"

    def moved(form: str) -> Callable[[Path], tuple[Side, Side]]:
        return lambda folder: _kernel_sides(
            form, folder, [folder / "tmp/k_xh3/add.klir", folder / "tmp/k_9zq/add2.klir"], [one, one]
        )

    def beside(folder: Path) -> tuple[Side, Side]:
        written = [folder / "tmp/kernels/add.klir", folder / "of_another_host/kernels/add.klir"]
        first, second = _kernel_sides("klir", folder, written, [one, one])
        second.files[second.folder / "kernels/add.klir"] = second.files.pop(written[1])
        return first, second._replace(gone=(written[0],))

    def changed(folder: Path) -> tuple[Side, Side]:
        return _kernel_sides("klir", folder, [folder / "tmp/add.klir"] * 2, [one, other])

    return {
        "kernel_moved_klir": Case("an NKI kernel under another temporary path (klir)", moved("klir")),
        "kernel_moved_bir": Case("an NKI kernel under another temporary path (bir)", moved("bir")),
        "kernel_beside": Case("an NKI kernel found only below the current directory", beside),
        "kernel_changed": Case("an NKI kernel edited, its path unchanged", changed, same=False),
    }


def _directory_side(folder: Path, weight: bytes = b"weights 1", metadata: bytes = b'{"inputs": 2}') -> Side:
    hlo = builtin_model("llama_prefill")
    model = folder / "model"
    files = {model / "graph.hlo": hlo, model / "metadata.json": metadata, model / "weights/w0.npy": weight}
    return Side(folder, files, model, hlo)


def _directory_cases() -> dict[str, Case]:
    sides: dict[str, tuple[str, bool, Callable[[Path], tuple[Side, Side]]]] = {
        "directory_moved": (
            "a model directory moved",
            True,
            lambda folder: (_directory_side(folder / "a"), _directory_side(folder / "b")),
        ),
        "weight_changed": (
            "one byte of a weight changed",
            False,
            lambda folder: (_directory_side(folder), _directory_side(folder, weight=b"weights 2")),
        ),
        "metadata_changed": (
            "one byte of `metadata.json` changed",
            False,
            lambda folder: (_directory_side(folder), _directory_side(folder, metadata=b'{"inputs": 3}')),
        ),
    }
    return {name: Case(title, make, same, stock_caches=False) for name, (title, same, make) in sides.items()}


def _option_file_cases() -> dict[str, Case]:
    def sides(folder: Path, second: str, content: bytes) -> tuple[Side, Side]:
        made = []
        for name, file, data in (("a", "io_a.json", b'{"x": 1}'), ("b", second, content)):
            side = plain(folder / name, builtin_model("mlp_train_step"), (*OPTIONS, f"--io-config={folder / file}"))
            side.files[folder / file] = data
            made.append(side)
        return made[0], made[1]

    return {
        "option_file_moved": Case(
            "a file of an option (`--io-config`) moved", lambda folder: sides(folder, "io_b.json", b'{"x": 1}')
        ),
        "option_file_changed": Case(
            "a file of an option edited, its path unchanged",
            lambda folder: sides(folder, "io_a.json", b'{"x": 2}'),
            same=False,
        ),
    }


CASES = _cases()


# -- the table -----------------------------------------------------------------------------------------------


def stock_flags(side: Side) -> list[str]:
    """Return the flags that the stock tools hash: all but the model, the output and `--verbose=35`."""
    return [option for option in side.options if not option.startswith("--output=") and option != "--verbose=35"]


def stock_keys(side: Side) -> tuple[str, str]:
    """Return sha256(str(proto) + flags), and md5(json.dumps(flags)): the keys of the stock caches."""
    module = module_class()()
    module.ParseFromString(side.hlo)
    flags = stock_flags(side)
    whole = hashlib.sha256((str(module) + " ".join(flags)).encode()).hexdigest()
    return whole, hashlib.md5(json.dumps(flags).encode(), usedforsecurity=False).hexdigest()


def runs_of_compiler(first: Side, second: Side, folder: Path, launcher: Path) -> int:
    """Run both invocations through the shim with a new store; return how often the compiler ran."""
    compiler = folder / "bin" / PROGRAM
    compiler.parent.mkdir(parents=True)
    compiler.write_text(_COMPILER)
    compiler.chmod(0o755)
    runs = folder / "runs"
    environ = {
        "HOME": str(folder),
        "PATH": f"{compiler.parent}:{os.defpath}",
        "NEURON_STORE_DIR": str(folder / "store"),
        "RUNS": str(runs),
    }
    for side in (first, second):
        side.lay_out()
        command = [str(launcher), *side.arguments]
        subprocess.run(command, cwd=side.folder, env=environ, stdout=subprocess.DEVNULL, check=True)
    return len(runs.read_text().splitlines())


def _verdict(*, hit: bool, same: bool) -> str:
    if same:
        return "hit" if hit else "**needless miss**"
    return "**wrong hit**" if hit else "miss"


def table() -> str:
    """Run every case and return the table, in Markdown."""
    rows = ["| what differs | compiles to | neuron-store | `sha256(str(proto) + flags)` | `md5(json.dumps(flags))` |"]
    rows.append("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        launcher = write_launcher(Path(scratch, "launcher"))
        for name, case in CASES.items():
            first, second = case.make(Path(scratch, name))
            stock = zip(stock_keys(first), stock_keys(second), strict=True)
            stock_hits = [one == other for one, other in stock]
            ours = runs_of_compiler(first, second, Path(scratch, name, "host"), launcher) == 1
            whole = _verdict(hit=stock_hits[0], same=case.same) if case.stock_caches else "never cached"
            flags = "same" if stock_hits[1] else "differs"
            meaning = "the same" if case.same else "something else"
            rows.append(f"| {case.title} | {meaning} | {_verdict(hit=ours, same=case.same)} | {whole} | {flags} |")
    return "\n".join(rows)


def write_table(path: str | os.PathLike[str], made: str) -> None:
    """Put the table between the marks in a document. Raises OSError, and ValueError if the marks are not there."""
    text = Path(path).read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the table: {BEGIN} and {END}")
    Path(path).write_text(f"{before}{begin}\n{made}\n{end}{after}")


def main(argv: list[str] | None = None) -> int:
    """Print or write the table. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m neuron_store.benchmarks.equivalence", description=__doc__)
    parser.add_argument("--write", metavar="FILE", help="a document to put the table into, between its marks")
    options = parser.parse_args(argv)
    made = table()
    if options.write:
        write_table(options.write, made)
    else:
        print(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
