"""Callers: what would start the compiler past PATH, where no shim can see it, or ask a stock cache first.

Only what leaves a trace can be found: packages whose source mentions the compiler's driver, variables that name a
compiler, compilers that run. A program of one's own that imports the compiler leaves none until it runs.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from typing import NamedTuple

from neuron_store.cli.diagnosis.compiler import real_compiler, site_folders
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, warning
from neuron_store.cli.diagnosis.processes import Process, processes
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.cli.stock_place import cache_dirs
from neuron_store.shim.execute import GUARD
from neuron_store.shim.real_compiler import PROGRAM, is_program, is_shim

_DRIVER = re.compile(rb"neuronxcc\.driver|\bCommandDriver\b")
_DRIVER_MODULE = "neuronxcc.driver.CommandDriver"
_NEURON = re.compile(r"neuron|^nki", re.IGNORECASE)
_OURS = ("neuronxcc", "neuron_store")  # the compiler itself, and we
_LARGEST_SOURCE = 1 << 20  # bytes
_MOST_SOURCES = 20_000
_MOST_NAMED = 5

AREA = Area(
    "callers",
    {
        "nothing-found": ok("Nothing was found that would start the compiler past PATH."),
        "in-process": warning(
            "A package mentions the compiler's driver (`neuronxcc.driver.CommandDriver`): what it compiles by calling or "
            "running that never looks at PATH, so no shim sees it.",
            "compare `neuron-store stats` before and after a run: if nothing was counted, that package bypasses the shim; "
            "compile the same graphs by `neuron-store precompile`, or `neuron-store import` its cache",
        ),
        "absolute-path": warning(
            "A variable names the real compiler by an absolute path: whoever reads it starts the compiler past the shim.",
            "let it name the shim (`neuron-store env --path` prints its folder), or unset it",
        ),
        "running-past-shim": warning(
            "A compiler is running that the shim did not start, so its result is not stored.",
            "its parent process found the compiler by an absolute path, or before the shim was on PATH: start that anew, "
            "with the shim first on PATH",
        ),
        "stock-cache": note(
            "The framework's own cache is at a place of its own. It is asked before the compiler is started, so its hits "
            "never reach the shim; it replays failures, too.",
            "`neuron-store import` takes it in, `neuron-store stock status` shows its failures and stale locks",
        ),
    },
)


class _Mention(NamedTuple):
    package: str
    file: str
    line: int


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at variables, running compilers, and the sources of Neuron packages in each Python environment."""
    found = 0
    for finding in (*_variables(here), *_running(), *_packages(here)):
        found += finding.id != "callers.stock-cache"
        yield finding
    if not found:
        looked = ", ".join(environments(here))
        yield AREA.find("nothing-found", f"nothing that calls the compiler past PATH was found in {looked}")


def environments(here: Surroundings) -> list[str]:
    """Return the prefixes of the Python environments at hand: ours, the active one, PATH's, the compiler's."""
    prefixes = [here.environ.get(name, "") for name in ("VIRTUAL_ENV", "CONDA_PREFIX")]
    compiler = real_compiler(here)
    programs = [compiler] if compiler else []
    for folder in here.environ.get("PATH", "").split(":"):
        found = [path for name in ("python3", "python") if is_program(path := os.path.join(folder, name))]
        if folder.startswith("/") and found:
            programs.append(found[0])
            break
    prefixes += [os.path.dirname(os.path.dirname(os.path.abspath(program))) for program in programs]
    return [prefix for prefix in dict.fromkeys([sys.prefix, *prefixes]) if os.path.isdir(prefix)]


def _variables(here: Surroundings) -> Iterator[Finding]:
    cache = here.environ.get("NEURON_COMPILE_CACHE_URL")
    if cache:
        yield AREA.find("stock-cache", f"NEURON_COMPILE_CACHE_URL is {cache}", source="NEURON_COMPILE_CACHE_URL")
    for place in cache_dirs(here.environ.get("NEURON_CC_FLAGS", "")):
        yield AREA.find("stock-cache", f"NEURON_CC_FLAGS has --cache_dir {place}", source="NEURON_CC_FLAGS")
    for name, value in here.environ.items():
        if name in ("PATH", "NEURON_STORE_COMPILER", "_"):
            continue
        for word in _words(value):
            if word.startswith("/") and os.path.basename(word) == PROGRAM and is_program(word) and not is_shim(word):
                yield AREA.find("absolute-path", f"{name} names {word}", variable=name, path=word)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


# -- compilers that run ----------------------------------------------------------------------------------------------


def _running() -> Iterator[Finding]:
    for process in processes():
        how = _compiles(process)
        environ = process.environ() if how else None
        if environ is not None and GUARD not in environ:
            said = f"process {process.pid} compiles {how}: {process.shown}"
            yield AREA.find("running-past-shim", said, pid=process.pid)


def _compiles(process: Process) -> str:
    """Say how a process came to be a compiler, "" if it is none, or is the shim."""
    words = process.command
    if "compile" not in words:
        return ""
    if _DRIVER_MODULE in words[: words.index("compile")]:
        return f"by python -m {_DRIVER_MODULE}"
    # A script's interpreter, perhaps its options, then the script.
    program = next((word for word in words[:4] if os.path.basename(word) == PROGRAM), "")
    if not program or (os.path.isabs(program) and is_shim(program)):
        return ""
    return f"as {program}" if os.path.isabs(program) else ""


# -- packages --------------------------------------------------------------------------------------------------------


def _packages(here: Surroundings) -> Iterator[Finding]:
    folders = dict.fromkeys(folder for prefix in environments(here) for folder in site_folders(prefix))
    by_package: dict[str, list[_Mention]] = {}
    for folder in folders:
        for mention in _mentions(folder):
            by_package.setdefault(mention.package, []).append(mention)
    for package, mentions in by_package.items():
        places = [f"{mention.file}:{mention.line}" for mention in mentions]
        shown = ", ".join(places[:_MOST_NAMED]) + (" …" if len(places) > _MOST_NAMED else "")
        yield AREA.find(
            "in-process", f"{package} mentions the compiler's driver: {shown}", package=package, places=places
        )


def _mentions(folder: str) -> Iterator[_Mention]:
    """Yield where the source of a Neuron package first mentions the compiler's driver, file by file."""
    looked = 0
    for top in sorted(os.listdir(folder)):
        inside = os.path.join(folder, top)
        if top.startswith(_OURS) or not os.path.isdir(inside):
            continue
        if top == "optimum":
            inside = os.path.join(inside, "neuron")
        elif not _NEURON.search(top):
            continue
        for path in _sources(inside):
            looked += 1
            if looked > _MOST_SOURCES:
                return
            line = _first_mention(path)
            if line:
                yield _Mention(top, path, line)


def _sources(folder: str) -> Iterator[str]:
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "tests", "test"))
        yield from (os.path.join(above, name) for name in sorted(files) if name.endswith(".py"))


def _first_mention(path: str) -> int:
    """Return the number of the first line that mentions the driver, 0 if none does."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_SOURCE)
    except OSError:
        return 0
    found = _DRIVER.search(text)
    return text.count(b"\n", 0, found.start()) + 1 if found else 0
