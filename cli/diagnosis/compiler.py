"""The real compiler: which one the shim would start, whether it runs, and what it is called in the key."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.path import candidates
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.hashing.compiler import find_metadata, identify_compiler, printed_version
from neuron_store.shim.execute import guarded
from neuron_store.shim.real_compiler import is_program, is_shim, search_path, usable

_INSTALL = "install neuronx-cc and activate its environment, or set NEURON_STORE_COMPILER to it"
_LONGEST_LINE = 300  # characters of what a program says
_LARGEST_HEAD = 512  # bytes

AREA = Area(
    "compiler",
    {
        "found": ok("A real compiler is there, runs, and tells its version."),
        "missing": problem(
            "No real `neuronx-cc` is on PATH or set: what is not in a store cannot be compiled.", _INSTALL
        ),
        "setting-unusable": problem(
            "NEURON_STORE_COMPILER (or `compiler` in the configuration file) names no program, or a shim. PATH is "
            "searched instead, in every invocation.",
            "set it to the real neuronx-cc, or take it out: `neuron-store config set compiler ''`",
        ),
        "does-not-run": problem(
            "The compiler does not answer `--version`: its installation is broken, and a compile would fail, too.",
            "run it by hand to see its whole message; install it again",
        ),
        "interpreter-gone": warning(
            "A `neuronx-cc` on PATH is a script whose interpreter is gone (an environment that was moved or rebuilt). "
            "The shim passes over it.",
            "remove it or build its environment again",
        ),
        "without-version": warning(
            "The compiler tells no version, so it is identified by its content: its results are found only by the very "
            "same file.",
            "set NEURON_STORE_COMPILER to the real neuronx-cc if this is a wrapper of it",
        ),
        "version-differs": warning(
            "The version of the installed package is not the one that the compiler prints. The package's is in the key.",
            "install neuronx-cc again, so that the two agree",
        ),
        "several-packages": warning(
            "Several `neuronx_cc` packages are installed beside the script (a broken upgrade, two Python versions); none "
            "of them is trusted.",
            "uninstall all of them and install one",
        ),
        "wrapper": note(
            "The script is not the package's own: it is identified by the version that it prints, and options that it "
            "adds by itself are not in the key.",
            "if it adds options, set NEURON_STORE_COMPILER to the real program behind it",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Find the compiler as the shim would, and ask it for its version."""
    wanted = here.settings.compiler
    if wanted and not usable(wanted):
        source = here.settings.sources["compiler"]
        reason = _why_unusable(wanted)
        yield AREA.find("setting-unusable", f"{source} sets the compiler {wanted}, which {reason}", path=wanted)
    for candidate in candidates(here.environ.get("PATH")):
        if candidate.runs and not candidate.shim and not usable(candidate.path):
            interpreter = interpreter_of(candidate.path)
            yield AREA.find(
                "interpreter-gone",
                f"{candidate.path} needs {interpreter}, which is not there",
                path=candidate.path,
                interpreter=interpreter,
            )
    path = real_compiler(here)
    if path:
        yield from _look_at(path, here)
    else:
        yield AREA.find("missing", "there is no real neuronx-cc on PATH, and none is set")


def real_compiler(here: Surroundings) -> str:
    """Return the compiler that the shim would start, "" if there is none."""
    wanted = here.settings.compiler
    return wanted if wanted and usable(wanted) else search_path(here.environ.get("PATH"))


def interpreter_of(path: str) -> str:
    """Return the interpreter that a script's #! line names, "" for a program that is no script."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(_LARGEST_HEAD)
    words = head[2:].split(b"\n", 1)[0].split() if head.startswith(b"#!") else []
    if len(words) > 1 and os.path.basename(words[0]) == b"env":
        return os.fsdecode(words[-1])
    return os.fsdecode(words[0]) if words else ""


def _why_unusable(path: str) -> str:
    if not os.path.lexists(path):
        return "does not exist"
    if not is_program(path):
        return "may not be executed" if os.path.isfile(path) else "is no file"
    if is_shim(path):
        return "is a shim, not a compiler"
    return f"needs {interpreter_of(path)}, which is not there"


def _look_at(path: str, here: Surroundings) -> Iterator[Finding]:
    printed, fault = _ask_version(path, here)
    identity = identify_compiler(path, lambda _: printed)
    interpreter = interpreter_of(path)
    python = _python_version(interpreter, here.patience / 4)
    facts: dict[str, Any] = {
        "path": path,
        "version": identity.version or None,
        "interpreter": interpreter or None,
        "python": python,
    }
    if fault:
        yield AREA.find("does-not-run", f"{path} --version: {fault}", **facts)
    elif not identity.version:
        yield AREA.find("without-version", f"{path} tells no version", **facts)
    else:
        by = f", run by {interpreter}" + (f" (Python {python})" if python else "") if interpreter else ""
        yield AREA.find("found", f"{path} is neuronx-cc {identity.version}{by}", **facts)
    yield from _packages(path, identity.version, printed_version(printed))


def _packages(path: str, version: str, printed: str) -> Iterator[Finding]:
    metadata = find_metadata(path)
    packages = packages_beside(path)
    if len(packages) > 1:
        yield AREA.find("several-packages", f"beside {path} are {', '.join(packages)}", packages=packages)
    elif packages and not metadata:
        yield AREA.find("wrapper", f"{path} is not the script that {packages[0]} installed", packages=packages)
    elif metadata and printed and printed != version:
        yield AREA.find(
            "version-differs", f"{path} prints {printed}, its package is {version}", printed=printed, package=version
        )


def packages_beside(path: str) -> list[str]:
    """Return the names of the `neuronx_cc` dist-info folders in the environment of the script `path`."""
    found = []
    for folder in site_folders(os.path.dirname(os.path.dirname(os.path.realpath(path)))):
        found += [name for name in os.listdir(folder) if name.startswith("neuronx_cc-") and name.endswith(".dist-info")]
    return sorted(found)


def site_folders(prefix: str) -> list[str]:
    """Return the folders below an environment's `prefix` that packages are installed in."""
    found = {}
    for library in ("lib", "lib64"):
        folder = os.path.join(prefix, library)
        for python in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            for packages in ("site-packages", "dist-packages"):
                path = os.path.join(folder, python, packages)
                if python.startswith("python") and os.path.isdir(path):
                    found[os.path.realpath(path)] = path
    return list(found.values())


def _ask_version(path: str, here: Surroundings) -> "tuple[str, str]":
    """Return what `--version` prints, and what is wrong with that, "" if nothing is."""
    patience = here.patience * 0.7
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=guarded(dict(here.environ)),
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {patience:.0f} s"
    except OSError as error:
        return "", f"it cannot be run ({error.strerror})"
    printed = done.stdout.decode("utf-8", "replace")
    lines = printed.strip().splitlines()
    if done.returncode:
        return printed, f"exit code {done.returncode}" + (f": {lines[-1][:_LONGEST_LINE]}" if lines else "")
    return printed, ""


def _python_version(interpreter: str, patience: float) -> "str | None":
    """Return the version of a Python interpreter, None if it is none, or does not tell."""
    if not os.path.basename(interpreter).startswith(("python", "pypy")):
        return None
    question = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    try:
        done = subprocess.run(
            [interpreter, "-I", "-S", "-c", question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None
