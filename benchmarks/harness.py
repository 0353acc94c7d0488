"""Measure what neuron-store saves: each subgraph compiled through the shim, cold and then warm, as frameworks do it.

Every request is a process of its own in a fresh work directory, in the path form of one of the callers that were
seen; the store is an empty one. What each request was is read from the event log, not guessed from its time.
"""

import os
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuron_store.shim.launcher import write_launcher
from neuron_store.shim.real_compiler import PROGRAM, search_path
from neuron_store.store.errors import BenchmarkError
from neuron_store.store.events import read_events
from neuron_store.store.layout import Layout

_MODEL_SUFFIXES = (".pb", ".hlo", ".code")
# Settings of the user's that would change what is measured.
_OURS = "NEURON_STORE_"


@dataclass(frozen=True)
class Compiler:
    """The compiler that a benchmark measures against.

    Attributes:
        path: the program.
        is_reference: whether it is XLA's CPU backend in place of neuronx-cc.
    """

    path: str
    is_reference: bool

    @property
    def description(self) -> str:
        """What to call it in a report."""
        if self.is_reference:
            return "the reference compiler (XLA's CPU backend; no neuronx-cc is on PATH)"
        return f"neuronx-cc at {self.path}"


@dataclass
class Row:
    """What was measured of one subgraph. Sizes in bytes, times in seconds of whole processes."""

    name: str
    hlo_bytes: int
    neff_bytes: int = 0
    cold_seconds: float = 0.0
    hit_seconds: list[float] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def hit_median(self) -> float:
        """The median hit in seconds; 0 where there was none."""
        return statistics.median(self.hit_seconds) if self.hit_seconds else 0.0

    @property
    def speed_up(self) -> float:
        """How many times faster a hit is than the compile; 0 where there was no hit."""
        return self.cold_seconds / self.hit_median if self.hit_median else 0.0


@dataclass(frozen=True)
class Caller:
    """How one framework names its files: below a fresh folder, and from which current directory it runs.

    Attributes:
        model, output: paths below the fresh folder.
        extra: options that do not change the output; {folder} is the fresh folder.
        inside: whether the folder is the current directory.
        model_last: whether the model comes after the options.
    """

    name: str
    model: str
    output: str
    extra: tuple[str, ...] = ()
    inside: bool = False
    model_last: bool = False


CALLERS = (
    Caller(
        "torch-xla",
        "neuroncc_compile_workdir/{id}/model.MODULE_16518787498567201059+d41d8cd9.hlo_module.pb",
        "neuroncc_compile_workdir/{id}/model.MODULE_16518787498567201059+d41d8cd9.neff",
        ("--verbose=35",),
    ),
    Caller("jax", "{id}/file.code", "{id}/file.neff", ("--verbose=35",), inside=True, model_last=True),
    Caller("torch_neuronx.trace", "{id}/graph.hlo", "{id}/graph.neff"),
    Caller(
        "neuronx-distributed",
        "nxd_model/{id}/_tp0_bk0/model.MODULE_56f0d314fda2b6e1e336+617f6939.hlo_module.pb",
        "nxd_model/{id}/_tp0_bk0/model.MODULE_56f0d314fda2b6e1e336+617f6939.neff",
        ("--logfile={folder}/log-neuron-cc.txt",),
    ),
)


def choose_compiler(folder: Path, path_variable: "str | None") -> Compiler:
    """Return the real compiler on PATH, else the reference compiler, installed into `folder`.

    Raises BenchmarkError where there is neither.
    """
    found = search_path(path_variable)
    if found:
        from neuron_store.benchmarks.reference_compiler import is_reference_compiler

        return Compiler(found, is_reference=is_reference_compiler(found))
    try:
        import jaxlib  # noqa: F401 - only to learn whether it can be
    except ImportError:
        raise BenchmarkError(
            "there is no compiler to measure: put neuronx-cc on PATH, or install the reference compiler "
            "with `pip install 'neuron-store[bench]'`"
        ) from None
    from neuron_store.benchmarks.reference_compiler import install_reference_compiler

    return Compiler(str(install_reference_compiler(folder)), is_reference=True)


def find_models(paths: Sequence[Path]) -> list[Path]:
    """Return the HLO files named by, or lying below, `paths`. Raises BenchmarkError where there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix in _MODEL_SUFFIXES and file.is_file())
            if not below:
                raise BenchmarkError(f"{path} has no HLO file in it (*{', *'.join(_MODEL_SUFFIXES)})")
            found += below
        elif path.is_file():
            found.append(path)
        else:
            raise BenchmarkError(f"{path} does not exist; give HLO files or folders of them")
    return found


class Harness:
    """Runs requests through the shim on a store of its own, below one temporary folder."""

    def __init__(self, folder: Path, compiler: Compiler, flags: Sequence[str]) -> None:
        self.folder = folder
        self.compiler = compiler
        self.flags = list(flags)
        self.layout = Layout(str(folder / "store"))
        self.launcher = write_launcher(folder / "launcher")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environ = {
            **kept,
            "NEURON_STORE_DIR": self.layout.root,
            "NEURON_STORE_CONFIG": os.devnull,
            "NEURON_STORE_REMOTES": "none",
            "NEURON_STORE_COMPILER": compiler.path,
            "NEURON_STORE_LOG_FILE": str(folder / "shim.log"),
        }

    def measure(self, model: Path, rounds: int, on_step: Callable[[str], None]) -> Row:
        """Compile `model` once cold, then ask for it again `rounds` times in the form of every caller."""
        row = Row(model_name(model), model.stat().st_size)
        on_step(f"{row.name}: cold")
        served = self._request(model, CALLERS[0], row)
        if served is None or row.outcomes != ["miss_stored"]:
            row.faults.append(f"the cold request was {row.outcomes[-1]}, not miss_stored")
            return row
        row.cold_seconds = row.hit_seconds.pop()
        original = served.read_bytes()
        row.neff_bytes = len(original)
        for _ in range(rounds):
            for caller in CALLERS:
                on_step(f"{row.name}: hit by {caller.name}")
                self._check_hit(row, caller, original, self._request(model, caller, row))
        return row

    def _check_hit(self, row: Row, caller: Caller, original: bytes, served: "Path | None") -> None:
        if row.outcomes[-1] != "hit_direct":
            row.hit_seconds.pop()
            row.faults.append(f"a warm request by {caller.name} was {row.outcomes[-1]}, not hit_direct")
        elif served is None or served.read_bytes() != original:
            row.faults.append(f"a hit by {caller.name} gave other bytes than the compile")
        if served is not None:
            shutil.rmtree(served.parent)

    def _request(self, model: Path, caller: Caller, row: Row) -> "Path | None":
        """Make one request in a fresh folder; note its time and outcome; return the output if there is one."""
        request = uuid.uuid4().hex
        places = {"id": request, "folder": str(self.folder / "work" / request)}
        source = self.folder / "work" / caller.model.format(**places)
        output = self.folder / "work" / caller.output.format(**places)
        for folder in (source.parent, Path(places["folder"])):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model, source)
        options = ["--framework=XLA", *self.flags, *(word.format(**places) for word in caller.extra)]
        words = [*options, str(source)] if caller.model_last else [str(source), *options]
        begun = time.perf_counter()
        done = subprocess.run(
            [str(self.launcher), "compile", *words, f"--output={output}"],
            cwd=source.parent if caller.inside else self.folder,
            env={**self.environ, "NEURON_STORE_RUN": request},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        row.hit_seconds.append(time.perf_counter() - begun)
        row.outcomes.append(self._outcome(request))
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            row.faults.append(f"exit code {done.returncode}: {said[-1] if said else 'nothing on stderr'}")
        return output if output.exists() else None

    def _outcome(self, request: str) -> str:
        for event in read_events(self.layout):
            if event.fields.get("run") == request:
                return event.outcome
        return "not counted"

    def compare_numbers(self, model: Path) -> str:
        """Run a served executable and a freshly compiled one on the same inputs; return what came of it.

        Raises BenchmarkError if a number differs. Only for the reference compiler, whose output this host can run.
        """
        from neuron_store.benchmarks.execute import compare_neffs

        row = Row(model_name(model), 0)
        served = self._request(model, CALLERS[0], row)
        fresh = self.folder / "fresh.neff"
        words = ["compile", str(model.absolute()), "--framework=XLA", *self.flags, f"--output={fresh}"]
        done = subprocess.run([self.compiler.path, *words], cwd=self.folder, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise BenchmarkError(f"{row.name} could not be compiled again for the comparison: {said}")
        if served is None or row.outcomes != ["hit_direct"]:
            raise BenchmarkError(f"{row.name} was not served for the comparison: {row.outcomes}")
        comparison = compare_neffs(served, fresh)
        if not comparison.equal:
            raise BenchmarkError(f"{row.name}: a served executable computes other numbers: {comparison}")
        return f"{row.name}: {comparison.values:,} numbers of the served and a fresh executable are bitwise equal"


def model_name(model: Path) -> str:
    """Return a subgraph's short name: its file's name without the endings that all have."""
    name = model.name
    for ending in (".hlo_module.pb", ".hlo.pb", *_MODEL_SUFFIXES):
        if name.endswith(ending) and name != ending:
            return name[: -len(ending)]
    return name


__all__ = [
    "CALLERS",
    "PROGRAM",
    "Caller",
    "Compiler",
    "Harness",
    "Row",
    "choose_compiler",
    "find_models",
    "model_name",
]
