"""The `neuron-store` command: its verbs, and what a person sees when one of them cannot do its work."""

import os
import sys
from typing import Annotated

import typer

from neuron_store.cli import bench, configuration, environment, results, runs, statistics
from neuron_store.shim.version import VERSION
from neuron_store.store.errors import NeuronStoreError

app = typer.Typer(
    name="neuron-store",
    help="A neuronx-cc that never compiles the same subgraph twice.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (environment, runs, statistics, results, configuration, bench):
    module.register(app)


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        typer.echo(f"neuron-store {VERSION}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; end with an exit code, and with a message instead of a traceback."""
    try:
        app()
    except NeuronStoreError as error:
        _end(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader (`head`, say) has what it wanted; keep the interpreter from complaining as it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _end(f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _end(message: str, code: int) -> None:
    typer.echo(f"neuron-store: {message}", err=True)
    sys.exit(code)
