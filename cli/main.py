"""The `neuron-store` command: its verbs, and what a person sees when one of them cannot do its work."""

import errno
import io
import os
import sys
from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.command_modules import modules_for
from neuron_store.cli.command_tree import PROGRAM
from neuron_store.cli.help import build
from neuron_store.shim.version import VERSION
from neuron_store.store.errors import NeuronStoreError, RemoteUnavailable

# What to do where the operating system refuses something.
_REMEDIES = {
    errno.EACCES: "; change its owner or mode, or be its owner",
    errno.EPERM: "; be its owner",
    errno.EROFS: "; mount it for writing, or take another store (NEURON_STORE_DIR)",
    errno.ENOSPC: "; make room there",
    errno.EDQUOT: "; make room there, or ask for a larger quota",
}


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"neuron-store {VERSION}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def make_app(word: str = "") -> typer.Typer:
    """Return the command line: all of it, or as much as there need be of it where its first word is `word`."""
    app = typer.Typer(
        name=PROGRAM,
        help="A neuronx-cc that never compiles the same subgraph twice.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # usage errors are plain text, as help is (see help.py)
        context_settings={
            "help_option_names": ["-h", "--help"],
            # Options may be written as optimum-neuron writes its own: --batch_size.
            "token_normalize_func": lambda name: name.replace("_", "-"),
        },
    )
    for module in modules_for(word):
        module.register(app)
    app.callback()(_top)
    return app


def main() -> None:
    """Run the command line; end with an exit code, and with a message instead of a traceback."""
    _prepare_streams()
    try:
        stdout = sys.stdout
        try:
            build(make_app(sys.argv[1] if len(sys.argv) > 1 else ""))(prog_name=PROGRAM)
        except SystemExit:
            if sys.stdout is not stdout:  # click has put another there: nobody reads this one any more
                raise BrokenPipeError from None
            raise
        finally:
            stdout.flush()
    except NeuronStoreError as error:
        _end(_with_remedy(error), error.exit_code)
    except BrokenPipeError:
        presentation.drop(sys.stdout)
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        presentation.drop(sys.stdout)
        remedy = _REMEDIES.get(error.errno or 0, "") if error.filename else ""
        _end(f"{error.filename or 'the output'}: {error.strerror or error}{remedy}", 1)


def _with_remedy(error: NeuronStoreError) -> str:
    """Return the message, with what to do where a remote that does not answer is all that it tells."""
    said = str(error)
    if isinstance(error, RemoteUnavailable) and ";" not in said:
        return f"{said}; try again later, or see what `neuron-store doctor` says of the network"
    return said


def _prepare_streams() -> None:
    """Make stdout and stderr take whatever a path may hold, also where the caller closed them."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - open as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - open as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(message: str, code: int) -> None:
    presentation.remark(message)
    sys.exit(code)
