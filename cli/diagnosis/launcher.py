"""The launcher: whether what stands on PATH can start the shim, and which installation's it is."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator

from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.path import candidates
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.hashing.inputs import open_regular
from neuron_store.shim.launcher import launcher_folder, launcher_text
from neuron_store.shim.real_compiler import PROGRAM, SHIM_MARK, is_shim
from neuron_store.shim.version import VERSION

_LARGEST = 1 << 20  # bytes; a launcher has a few thousand
_WRITE_AGAIN = "run `neuron-store env` of the installation that is to be used: it writes the launcher again"

AREA = Area(
    "launcher",
    {
        "current": ok("The launcher is the one that this installation writes, and starts the shim."),
        "outdated": warning(
            "The launcher was written by another version, or before the installation changed.", _WRITE_AGAIN
        ),
        "other-installation": note(
            "The launcher belongs to another installation of neuron-store than the one that runs `doctor`.",
            "if that is not meant, run `neuron-store env` of this one",
        ),
        "interpreter-gone": problem(
            "The interpreter that the launcher starts is gone, so the shim cannot run: callers get an error, or pass it over.",
            _WRITE_AGAIN + ", or take its folder off PATH",
        ),
        "broken": problem(
            "The launcher's interpreter cannot load the shim, so every call becomes the real compiler without a word.",
            "install neuron-store again, then run `neuron-store env`",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at every launcher on PATH; if none is, at the one that `neuron-store env` writes."""
    shims = [candidate.path for candidate in candidates(here.environ.get("PATH")) if candidate.shim]
    ours = str(launcher_folder() / PROGRAM)
    paths = {os.path.realpath(path): path for path in reversed(shims or [ours])}
    for path in reversed(paths.values()):
        if is_shim(path):
            yield from _look_at(path, here.patience / 2)


def _look_at(path: str, patience: float) -> Iterator[Finding]:
    text = _read(path)
    version, interpreter = _version(text), _interpreter(text)
    facts = {"path": path, "version": version, "interpreter": interpreter}
    if not interpreter or not os.path.exists(interpreter):
        yield AREA.find("interpreter-gone", f"{path} starts {interpreter or 'nothing'}, which is not there", **facts)
        return
    fault = _fault(text, interpreter, patience)
    if fault:
        yield AREA.find("broken", f"{path} cannot load the shim: {fault}", **facts)
    elif text == launcher_text():
        yield AREA.find("current", f"{path} is of version {version}, and starts the shim", **facts)
    elif version == VERSION and interpreter != sys.executable:
        yield AREA.find("other-installation", f"{path} is of the installation of {interpreter}", **facts)
    else:
        because = f"it is of version {version}, this is {VERSION}" if version != VERSION else "the installation changed"
        yield AREA.find("outdated", f"{path} is not what this installation writes: {because}", **facts)


def _read(path: str) -> str:
    descriptor = open_regular(path)
    try:
        return os.fsdecode(os.read(descriptor, _LARGEST))
    finally:
        os.close(descriptor)


def _version(text: str) -> str:
    found = re.search(re.escape(SHIM_MARK.decode()) + r" ([^\s;]+)", text)
    return found[1] if found else ""


def _interpreter(text: str) -> str:
    """Return the interpreter that a launcher starts: of its #! line, or of the exec where sh stands there."""
    by_way_of_sh = re.search(r"^'''exec' (.+) -IS \"\$0\"", text, re.MULTILINE)
    if by_way_of_sh:
        return "".join(shlex.split(by_way_of_sh[1])[:1])
    words = text.partition("\n")[0].removeprefix("#!").split(None, 1)
    return words[0] if words else ""


def _fault(text: str, interpreter: str, patience: float) -> str:
    """Say why the launcher's interpreter cannot load the shim, "" if it can: what stands before `main()` is run."""
    loading = textwrap.dedent(text.partition("\ntry:\n")[2].partition("    main()\n")[0])
    if not loading:
        return "its text is not whole"
    try:
        done = subprocess.run(
            [interpreter, "-IS", "-c", "import sys\n" + loading],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not load within {patience:.0f} s"
    except OSError as error:
        return f"{interpreter} cannot be run ({error.strerror})"
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return (said[-1] if said else f"exit code {done.returncode}") if done.returncode else ""
