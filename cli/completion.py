"""`neuron-store completion`: what makes a shell complete this program's command lines."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.environment import Shell, calling_shell
from neuron_store.cli.written import write_whole
from neuron_store.store.errors import StoreUnavailable

_NOTE = "# Completion of neuron-store."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("completion")(completion)


def completion(
    shell: Annotated[
        Shell | None, typer.Argument(help="The shell to complete in; by default the one this runs under.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write it to where the shell reads it when it starts.")
    ] = False,
) -> None:
    """Print the script that makes a shell complete commands, options, keys, models, remotes and settings."""
    shell = shell or calling_shell()
    if not install:
        presentation.write(script(shell))
        return
    try:
        said = _install(shell)
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename} cannot be written ({error.strerror}); nothing was installed"
        ) from error
    presentation.write(said + "\n")


def script(shell: Shell) -> str:
    """Return the script for a shell."""
    return (
        files("neuron_store.cli").joinpath("shells").joinpath(f"completion.{shell.value}").read_text(encoding="utf-8")
    )


def _install(shell: Shell) -> str:
    """Write the script, and the line that reads it; return what was done. Raises OSError."""
    home = Path.home()
    if shell is Shell.FISH:
        path = _folder("XDG_CONFIG_HOME", home / ".config") / "fish/completions/neuron-store.fish"
        _write(path, script(shell))
        return f"{path} is written; fish reads it by itself"
    path = _folder("XDG_DATA_HOME", home / ".local/share") / f"neuron-store/completion.{shell.value}"
    start = home / ".bashrc" if shell is Shell.BASH else _folder("ZDOTDIR", home) / ".zshrc"
    _write(path, script(shell))
    line = f"[ ! -r {_quoted(path)} ] || . {_quoted(path)}"
    known = start.read_text(encoding="utf-8", errors="surrogateescape") if start.exists() else ""
    if line in known.split("\n"):
        return f"{path} is written; {start} reads it already"
    with start.open("a", encoding="utf-8") as file:
        file.write(("" if known.endswith("\n") or not known else "\n") + f"{_NOTE}\n{line}\n")
    return f"{path} is written, and {start} reads it: from the next shell on, or now with: . {_quoted(path)}"


def _folder(variable: str, usual: Path) -> Path:
    named = os.environ.get(variable, "")
    return Path(named) if os.path.isabs(named) else usual


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
