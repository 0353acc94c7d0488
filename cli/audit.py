"""Compile a stored result again with the real compiler, and compare what comes out.

That neuronx-cc gives the same output for HLO that differs only in names and metadata is an inference; an audit is how
it is checked. A result whose recompiled output differs is disowned: no request is served from it again.
"""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_store.cli.context import settings
from neuron_store.hashing.command_line import FILE_PLACE, INPUT_PLACE
from neuron_store.hashing.environment import KEY_VARIABLES
from neuron_store.hashing.keys import Component
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.canonical import make_canonical
from neuron_store.shim.deliver import WRAPPED_NEFF
from neuron_store.shim.execute import guarded
from neuron_store.shim.main import Shim
from neuron_store.store.blobs import write_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptEntry, NeuronStoreError
from neuron_store.store.events import Event, append_event
from neuron_store.store.layout import Layout, discard
from neuron_store.store.results import Result

SAME, MISMATCH, UNDECIDED, SKIPPED = "audit_same", "audit_mismatch", "audit_undecided", "audit_skipped"


class _CannotAuditError(NeuronStoreError):
    """The result cannot be compiled again here; the message says why."""


@dataclass(frozen=True)
class Verdict:
    """What came of one audit.

    Attributes:
        outcome: SAME, MISMATCH, UNDECIDED or SKIPPED.
        detail: in words, why.
    """

    key: str
    module: str
    outcome: str
    detail: str


def audit(layout: Layout, result: Result) -> Verdict:
    """Compile `result` again, count what came of it, and disown it if it is a mismatch."""
    begun = time.time()
    module = str(result.input.get("name", ""))
    try:
        with tempfile.TemporaryDirectory(prefix="neuron-store-audit-") as folder:
            outcome, detail = _Audit(layout, result, Path(folder)).run()
    except (_CannotAuditError, CorruptEntry, NotCacheable, OSError) as error:
        outcome, detail = SKIPPED, str(error)
    if outcome == MISMATCH:
        disown(layout, result)
    seconds = f"{time.time() - begun:.3f}"
    event = Event(time.time(), outcome, {"key": result.key, "module": module, "seconds": seconds, "detail": detail})
    append_event(layout, event)
    return Verdict(result.key, module, outcome, detail)


def disown(layout: Layout, result: Result) -> None:
    """Take a result out of the store. Direct entries that lead to it hold only while it is there."""
    discard(layout.result_path(result.key))


class _Audit:
    """One recompile, in a folder of its own, of the invocation that a result records."""

    def __init__(self, layout: Layout, result: Result, folder: Path) -> None:
        self.layout = layout
        self.result = result
        self.folder = folder
        self.cwd = folder / "cwd"
        self.cwd.mkdir()

    def run(self) -> tuple[str, str]:
        """Return outcome and detail. Raises _CannotAuditError, CorruptEntry, NotCacheable, OSError."""
        arguments = self._restore()
        environ = self._environment()
        compiler = self._check_key(arguments, environ)
        stored = self._write(self.result.outputs["neff"], self.folder / "stored.neff")
        first = self._compile(compiler, arguments, environ)
        wrapped_differs = self._wrapped_differs()
        if _digest(first) == self.result.outputs["neff"].sha256 and not wrapped_differs:
            return SAME, "the same bytes came out"
        first = first.rename(self.folder / "first.neff")
        second = self._compile(compiler, arguments, environ)
        if _digest(first) != _digest(second):
            return self._compare_numbers(compiler, stored, second)
        what = "another wrapped NEFF" if wrapped_differs else "another NEFF"
        return MISMATCH, f"{what} came out, twice the same"

    def _wrapped_differs(self) -> bool:
        recorded = self.result.outputs.get("wrapped_neff")
        made = self.cwd / WRAPPED_NEFF
        if recorded is None or not made.exists():
            return (recorded is None) == made.exists()
        return _digest(made) != recorded.sha256

    def _compare_numbers(self, compiler: str, stored: Path, fresh: Path) -> tuple[str, str]:
        from neuron_store.benchmarks.reference_compiler import is_reference_compiler

        if not is_reference_compiler(compiler):
            return UNDECIDED, "this compiler's output is not the same twice, so bytes cannot tell"
        from neuron_store.benchmarks.execute import compare_neffs

        comparison = compare_neffs(stored, fresh)
        if comparison.equal:
            return SAME, f"other bytes, but its {comparison.values:,} numbers are bitwise equal"
        return MISMATCH, f"it computes other numbers ({comparison})"

    # -- the invocation as it was ----------------------------------------------------------------------------

    def _restore(self) -> list[str]:
        """Write the kept inputs and return the compiler's arguments, all below this audit's folder."""
        files: list[dict[str, Any]] = self.result.input.get("files") or []
        if not files:
            raise _CannotAuditError(
                f"it came from {self._origin}, without its inputs (see the setting upload_inputs, for where it was made)"
                if self._origin
                else "its inputs were not kept (see the setting keep_inputs_bytes)"
            )
        model = self.folder / "model"
        model.mkdir()
        options = self.result.component("flags")
        if self._origin:
            _require_no_paths([*options, *self.result.component("environment")])
        for number, file in enumerate(files):
            kind, name = file["kind"], file["name"]
            if kind in ("graph", "other"):
                self._write_input(file, model / name)
            elif kind == "kernel":
                self._restore_kernel(file)
            else:
                options = self._restore_option(file, number, options)
        is_directory = any(file["kind"] == "other" for file in files)
        graph = next((file["name"] for file in files if file["kind"] == "graph"), None)
        if graph is None:
            raise _CannotAuditError("its graph is not among the inputs that are kept")
        path = str(model if is_directory else model / graph)
        words = [path if option == INPUT_PLACE else option for option in options]
        # Before the options, so that no option with several words takes it for one of them.
        return ["compile", *([] if INPUT_PLACE in options else [path]), *words, f"--output={self._output}"]

    @property
    def _output(self) -> Path:
        return self.folder / "fresh.neff"

    def _restore_option(self, file: dict[str, Any], number: int, options: list[str]) -> list[str]:
        name, _, path = file["name"].partition(" ")
        placeholder = f"{name}={FILE_PLACE}"
        if placeholder not in options:  # the path is part of the text: it must lead to the same content here
            self._require_same(path, file["sha256"])
            return options
        restored = self.folder / f"option{number}" / os.path.basename(path)
        self._write_input(file, restored)
        place = options.index(placeholder)
        return [*options[:place], f"{name}={restored}", *options[place + 1 :]]

    def _restore_kernel(self, file: dict[str, Any]) -> None:
        written = Path(file["name"])
        if written.is_file():
            self._require_same(str(written), file["sha256"])
            return
        # The second place where the compiler looks: <current directory>/<last folder of the path>/<file name>.
        self._write_input(file, self.cwd / written.parent.name / written.name)

    def _require_same(self, path: str, sha256: str) -> None:
        if not os.path.isfile(path) or _digest(Path(path)) != sha256:
            raise _CannotAuditError(f"{path} is not here with the content that it had")

    def _environment(self) -> dict[str, str]:
        known = {os.fsdecode(name) for name in KEY_VARIABLES}
        allowed = known | set(settings().key_env.replace(",", " ").split())
        environ = {name: value for name, value in os.environ.items() if name not in known}
        for field in self.result.component("environment"):
            name, equals, value = field.partition("=")
            if equals and name not in allowed:
                raise _CannotAuditError(f"its key has the variable {name}, which key_env does not name here")
            if equals:
                environ[name] = value
        return environ

    def _check_key(self, arguments: list[str], environ: dict[str, str]) -> str:
        """Return the compiler, after making sure that what was restored is what was keyed."""
        shim = Shim(arguments)
        shim.environ = {**environ, "NEURON_STORE_ENABLED": "1"}
        shim.environ.pop("NEURON_STORE_ACTIVE", None)
        with _working_in(self.cwd):
            shim.prepare()
            made = make_canonical(shim)
        mine = {component.name: component.digest() for component in made.components}
        theirs = {component["name"]: component["digest"] for component in self.result.components}
        different = [name for name in theirs if mine.get(name) != theirs[name]]
        if self._origin:  # what a digest says of itself is not believed
            different += [part.name for part in made.components if _fields(part) != self.result.component(part.name)]
        if "compiler" in different:
            recorded = " ".join(self.result.component("compiler"))
            raise _CannotAuditError(f"it was compiled by {recorded}; here is {shim.identity.name}")
        # Option files whose path counts, and weights, are told by side_inputs.
        if different:
            raise _CannotAuditError(
                f"its inputs cannot be restored here ({', '.join(dict.fromkeys(different))} would differ)"
            )
        return shim.compiler

    def _compile(self, compiler: str, arguments: list[str], environ: dict[str, str]) -> Path:
        done = subprocess.run(
            [compiler, *arguments],
            cwd=self.cwd,
            env=guarded(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode or not self._output.exists():
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _CannotAuditError(f"the compiler failed with exit code {done.returncode}: {' '.join(said[-1:])}")
        return self._output

    @property
    def _origin(self) -> str:
        """The remote that the result was fetched from, "" if it was made here."""
        return str(self.result.provenance.get("origin", ""))

    def _write_input(self, file: dict[str, Any], path: Path) -> None:
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise _CannotAuditError(f"an input's name leads elsewhere: {file['name']!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(Output("neff", file["sha256"], file["xxh3"], file["size"], file["encoding"], None), path)

    def _write(self, output: Output, path: Path) -> Path:
        with open(path, "wb") as file:
            write_blob(self.layout, output, file.fileno())
        return path


def _require_no_paths(texts: list[str]) -> None:
    """Refuse options and variables of others that name files: the compiler would read, or write, ours."""
    for text in texts:
        if "/" in text or ".." in text:
            raise _CannotAuditError(f"it was made elsewhere, and {text!r} names a path")


def _fields(component: Component) -> list[str]:
    return [field.decode("utf-8", "backslashreplace") for field in component.fields]


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
