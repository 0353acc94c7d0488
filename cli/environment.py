"""`neuron-store env`: the line that puts the shim first on PATH."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from neuron_store.shim.launcher import launcher_folder, write_launcher
from neuron_store.store.errors import StoreUnavailable


class Shell(str, Enum):
    """The shells whose language the line can be in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("env")(env)


def env(
    shell: Annotated[
        Shell | None, typer.Option(help="The shell to write for; by default the one this runs under.")
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Take the shim off PATH again.")] = False,
    path: Annotated[
        bool, typer.Option("--path", help="Print only the folder to put first on PATH (for a Dockerfile).")
    ] = False,
) -> None:
    """Print the line that puts the shim first on PATH: eval "$(neuron-store env)"."""
    folder = launcher_folder() if unset else write_launcher().parent
    said = str(folder) if path else path_line(folder, os.environ.get("PATH"), shell or calling_shell(), unset=unset)
    # A folder on PATH may have any name: its very bytes must come back.
    sys.stdout.buffer.write(os.fsencode(said) + b"\n")


def path_entries(folder: Path, current: "str | None", *, unset: bool = False) -> list[str]:
    """Return the folders of the PATH `current` with `folder` as the first, or without it.

    Raises StoreUnavailable where no PATH can name the folder.
    """
    if ":" in str(folder):
        raise StoreUnavailable(f"{folder} has a colon, so PATH cannot name it; install neuron-store elsewhere")
    # An empty PATH would leave an empty entry, which means the current folder.
    entries = [entry for entry in (current or os.defpath).split(":") if entry != str(folder)]
    return entries if unset else [str(folder), *entries]


def path_line(folder: Path, current: "str | None", shell: Shell, *, unset: bool = False) -> str:
    """Return the line that makes `folder` the first of PATH, or takes it off, whatever PATH holds now.

    Raises StoreUnavailable where no PATH can name the folder.
    """
    entries = path_entries(folder, current, unset=unset)
    if shell is Shell.FISH:
        return "set -gx PATH " + " ".join(_quote_fish(entry) for entry in entries) + ";"
    return f"export PATH={_quote_posix(':'.join(entries))};"


def _quote_posix(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _quote_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# Every shell but fish reads the line for bash.
_SHELLS = {"fish": Shell.FISH, "zsh": Shell.ZSH, **dict.fromkeys(("bash", "sh", "dash", "ksh", "ash"), Shell.BASH)}


def calling_shell() -> Shell:
    """Return the nearest shell among the processes that started us, else the login shell, else bash."""
    process = os.getppid()
    while process:
        try:
            # <pid> (<name>) <state> <parent's pid> …
            head, _, tail = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")
        except OSError:
            break
        name = head.partition("(")[2]
        if name in _SHELLS:
            return _SHELLS[name]
        process = int(tail.split()[1])
    return _SHELLS.get(Path(os.environ.get("SHELL", "")).name, Shell.BASH)
