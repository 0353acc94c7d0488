"""PATH: whether a caller of `neuronx-cc` meets the shim first."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from neuron_store.cli.diagnosis.finding import Area, Finding, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.shim.real_compiler import PROGRAM, is_program, is_shim, usable

ACTIVATE = (
    'activate the environment first, then run `eval "$(neuron-store env)"`; '
    "or start commands by `neuron-store run -- …`"
)

AREA = Area(
    "path",
    {
        "shim-first": ok("The first `neuronx-cc` on PATH is the shim."),
        "no-shim": problem("No shim is on PATH: every compile goes straight to the compiler.", ACTIVATE),
        "shadowed": problem(
            "Another `neuronx-cc` stands before the shim on PATH (activating an environment puts its `bin/` first).",
            ACTIVATE,
        ),
        "shim-not-executable": problem(
            "The shim may not be executed, so callers pass over it: its mode, or a file system mounted `noexec`.",
            "run `neuron-store env` again; on a noexec file system, install neuron-store elsewhere",
        ),
        "several-shims": warning(
            "Different shims are on PATH, of several installations: the first one counts, with its own version.",
            "take all but one off PATH: `neuron-store env --unset` of the installation that is to go",
        ),
        "relative-entry": warning(
            "PATH has an empty or relative entry before the compiler: what `neuronx-cc` is depends on the current folder.",
            "write absolute folders into PATH, and no `::` or colon at its ends",
        ),
        "unexpanded-entry": warning(
            "An entry of PATH has a `~` or `$` in it that no shell has expanded, so it names no folder.",
            "write it without quotes, or with $HOME in double quotes",
        ),
        "unset": warning("PATH is not set: only the system's default folders are searched.", "set PATH"),
    },
)


@dataclass(frozen=True)
class Candidate:
    """One `neuronx-cc` on PATH."""

    entry: str
    path: str

    @property
    def runs(self) -> bool:
        """Whether it may be executed."""
        return is_program(self.path)

    @property
    def shim(self) -> bool:
        """Whether it is a launcher of neuron-store."""
        return is_shim(self.path)


def candidates(path: "str | None") -> list[Candidate]:
    """Return every `neuronx-cc` on PATH, in order."""
    entries = (os.defpath if path is None else path).split(":")
    found = [Candidate(entry, os.path.join(entry or ".", PROGRAM)) for entry in dict.fromkeys(entries)]
    return [candidate for candidate in found if os.path.lexists(candidate.path) and not os.path.isdir(candidate.path)]


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at PATH, and at each `neuronx-cc` on it."""
    path = here.environ.get("PATH")
    if path is None:
        yield AREA.find("unset", f"PATH is not set; {os.defpath} is searched")
    found = candidates(path)
    yield from _order(found)
    yield from _entries((path or "").split(":") if path else [], found)


def _order(found: list[Candidate]) -> Iterator[Finding]:
    runnable = [candidate for candidate in found if candidate.runs]
    shims = [candidate for candidate in runnable if candidate.shim]
    for candidate in found:
        if candidate.shim and not candidate.runs:
            yield AREA.find("shim-not-executable", f"{candidate.path} may not be executed", path=candidate.path)
    if not shims:
        first = f"; {runnable[0].path} is called instead" if runnable else ""
        yield AREA.find("no-shim", f"no shim is on PATH{first}", compiler=runnable[0].path if runnable else None)
        return
    first_program = runnable[0]
    if first_program.shim:
        yield AREA.find("shim-first", f"{first_program.path} is the shim, and first on PATH", shim=first_program.path)
    else:
        yield AREA.find(
            "shadowed",
            f"{first_program.path} stands before the shim {shims[0].path}",
            shim=shims[0].path,
            before=first_program.path,
        )
    different = list({os.path.realpath(shim.path): shim.path for shim in shims}.values())
    if len(different) > 1:
        yield AREA.find(
            "several-shims", f"{len(different)} different shims are on PATH: {', '.join(different)}", shims=different
        )


def _entries(entries: list[str], found: list[Candidate]) -> Iterator[Finding]:
    compilers = [candidate.entry for candidate in found if usable(candidate.path)]
    reached = entries.index(compilers[0]) + 1 if compilers else len(entries)
    for entry in dict.fromkeys(entries):
        if entry.startswith("~") or "$" in entry:
            yield AREA.find("unexpanded-entry", f"PATH has the entry {entry!r}", entry=entry)
    relative = [entry for entry in dict.fromkeys(entries[:reached]) if not entry.startswith(("/", "~", "$"))]
    if relative:
        shown = ", ".join(repr(entry) for entry in relative)
        yield AREA.find("relative-entry", f"PATH has {shown}, which is the current folder or in it", entries=relative)
