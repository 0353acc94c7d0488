"""A reference `neuronx-cc`: the real command line, XLA's CPU compiler behind it, a NEFF-shaped file out.

It stands in for AWS's compiler wherever that cannot be had. What callers rely on is alike: options, exit
codes (0, 70 for a compile that fails, 2 for a command line that cannot be understood), what goes to stdout
and stderr, the log file, `wrapped_neff.hlo`, and the answer to `--version`. What it makes runs on CPUs (see
`execute`). A NEFF has the members `executable.xla`, which is not the same bytes in any two compiles, and
`info.json`, which is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_store.benchmarks.neff import write_neff, write_whole
from neuron_store.benchmarks.reference_command_line import (
    FILE_OPTIONS,
    INFO_LEVEL,
    NEUTRAL_OPTIONS,
    parse_command_line,
)
from neuron_store.benchmarks.xla_cpu import CompileError, Program, compile_program

if TYPE_CHECKING:
    from argparse import Namespace

EXIT_FAILED = 70  # the real compiler's status for a general failure
EXECUTABLE_MEMBER = "executable.xla"
INFO_MEMBER = "info.json"
WRAPPED_NEFF = "wrapped_neff.hlo"
# A changed compiler is another version: the version's hash is over these.
_SOURCES = ("neff.py", "reference_command_line.py", "reference_compiler.py", "xla_cpu.py")


def main(argv: list[str] | None = None) -> int:
    """Run `neuronx-cc ARGV...` (default: this process's arguments), return the exit status: 0, 2 or 70."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = parse_command_line(arguments)
    except SystemExit as exit_:  # argparse has printed the help, or what is wrong
        return exit_.code if isinstance(exit_.code, int) else 2
    if options.version:
        print(version_text())
        return 0
    return _run_compile(options, arguments)


def compiler_version() -> str:
    """Return the version: four numbers from jaxlib's, and a hash of this compiler's source."""
    sources = hashlib.sha256()
    for name in _SOURCES:
        sources.update(Path(__file__).with_name(name).read_bytes())
    return f"{_four_numbers(_installed_version('jaxlib'))}+{sources.hexdigest()[:8]}"


def version_text() -> str:
    """Return what `--version` prints, in the real compiler's form. jaxlib is not imported for it."""
    return (
        f"NeuronX Compiler version {compiler_version()}\n\n"
        f"Python version {sys.version.split()[0]}\n"
        f"HWM version {_four_numbers(_installed_version('jaxlib'))}\n"
        f"NumPy version {_installed_version('numpy')}"
    )


def install_reference_compiler(directory: str | os.PathLike[str]) -> Path:
    """Write an executable `neuronx-cc` into `directory` (made if absent) and return its path.

    It runs this compiler with this interpreter, whatever PATH, PYTHONPATH and the working directory are by
    then. Raises OSError.
    """
    from neuron_store.shim.launcher import start_of_script

    first_line, by_way_of_sh = start_of_script(sys.executable)
    body = (
        "import sys, types\n"
        "package = types.ModuleType('neuron_store')\n"
        f"package.__path__ = [{str(Path(__file__).resolve().parent.parent)!r}]\n"
        "sys.modules['neuron_store'] = package\n"
        "from neuron_store.benchmarks.reference_compiler import main\n"
        "sys.exit(main())\n"
    )
    target = Path(directory, "neuronx-cc")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, (first_line + "\n" + by_way_of_sh + body).encode("utf-8", "surrogateescape"))
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return target


def is_reference_compiler(path: str | os.PathLike[str]) -> bool:
    """Tell whether the program at `path` is one that `install_reference_compiler` wrote, or a checkout's."""
    try:
        return b"neuron_store.benchmarks.reference_compiler" in Path(path).read_bytes()[:4096]
    except OSError:
        return False


class _Report:
    """What a compile tells: lines in the log file, dots or lines on stdout, errors on stderr."""

    def __init__(self, logfile: str, verbosity: int) -> None:
        self._lines_on_stdout = verbosity <= INFO_LEVEL
        self._log = Path(logfile).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close

    def info(self, line: str) -> None:
        self._write("INFO", line)
        if self._lines_on_stdout:
            print(f"INFO neuronx-cc: {line}", flush=True)

    def error(self, line: str) -> None:
        self._write("ERROR", line)
        print(f"ERROR neuronx-cc: {line}", file=sys.stderr, flush=True)

    def stage(self) -> None:
        # One dot per stage, and none by the clock: equal compiles print the same.
        if not self._lines_on_stdout:
            print(".", end="", flush=True)

    def close(self) -> None:
        self._log.close()

    def _write(self, level: str, line: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._log.write(f"{now} {level} {os.getpid()} {line}\n")
        self._log.flush()


def _run_compile(options: Namespace, arguments: list[str]) -> int:
    try:
        report = _Report(options.logfile, options.verbose)
    except OSError as failure:
        print(f"ERROR neuronx-cc: {_describe(failure)}", file=sys.stderr)
        return EXIT_FAILED
    try:
        report.info(f"neuronx-cc {shlex.join(arguments)}")
        report.info(f"version {compiler_version()}")
        _compile(options, report)
    except (CompileError, OSError) as failure:
        print(flush=True)
        report.error(_describe(failure))
        return EXIT_FAILED
    finally:
        report.close()
    print("\nCompiler status PASS", flush=True)
    return 0


def _compile(options: Namespace, report: _Report) -> None:
    started = time.monotonic()
    model = _read_model(Path(options.model))
    side_inputs = _side_inputs(options)
    report.info(f"{len(model)} bytes of model in {options.model}, {len(side_inputs)} other files")
    report.stage()
    if options.query_compute_placement:  # the exit status is the answer
        return
    program = compile_program(model, options.optlevel)
    report.stage()
    if options.enable_internal_neff_wrapper:
        write_whole(WRAPPED_NEFF, _wrapped_neff(program).encode())
    info = json.dumps(_info(options, program, side_inputs), indent=1, sort_keys=True)
    members = {EXECUTABLE_MEMBER: program.executable, INFO_MEMBER: info.encode()}
    # The NEFF comes last: where it is, all is there.
    write_neff(options.output, members, compress=not options.enable_fast_loading_neuron_binaries)
    report.stage()
    report.info(f"{Path(options.output).stat().st_size} bytes of NEFF in {options.output}")
    report.info(f"compiled in {time.monotonic() - started:.3f} s")


def _read_model(path: Path) -> bytes:
    return (path / "graph.hlo" if path.is_dir() else path).read_bytes()


def _side_inputs(options: Namespace) -> dict[str, str]:
    """Return the sha256 in hex of every other file named on the command line: inputs of a real compile."""
    files = {f"--{name}": Path(getattr(options, name)) for name in FILE_OPTIONS if getattr(options, name)}
    model = Path(options.model)
    if model.is_dir():
        files |= {str(path.relative_to(model)): path for path in model.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def _info(options: Namespace, program: Program, side_inputs: dict[str, str]) -> dict[str, object]:
    neutral = NEUTRAL_OPTIONS | {"model", "version", *FILE_OPTIONS}
    return {
        "compiler": compiler_version(),
        "inputs": [{"dtype": tensor.dtype, "shape": tensor.shape} for tensor in program.inputs],
        "options": {name: value for name, value in vars(options).items() if name not in neutral},
        "side_inputs": side_inputs,
    }


def _wrapped_neff(program: Program) -> str:
    """Return HLO text of a module that calls the NEFF as one custom call, with the program's digest."""
    parameters = [f"  p{i} = {shape} parameter({i})" for i, shape in enumerate(program.parameters)]
    operands = ", ".join(f"p{i}" for i in range(len(parameters)))
    call = f'custom-call({operands}), custom_call_target="AwsNeuronNeff", backend_config="{program.digest}"'
    body = "\n".join([*parameters, f"  ROOT neff = {program.result} {call}"])
    return f"HloModule wrapped_neff\n\nENTRY main {{\n{body}\n}}\n"


def _describe(failure: CompileError | OSError) -> str:
    if isinstance(failure, OSError) and failure.filename is not None:
        return f"{failure.filename}: {failure.strerror}"
    return str(failure)


def _installed_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0.0.0"


def _four_numbers(version: str) -> str:
    numbers = [part for part in version.split("+", maxsplit=1)[0].split(".") if part.isdecimal()]
    return ".".join([*numbers, "0", "0", "0"][:4])


if __name__ == "__main__":
    sys.exit(main())
