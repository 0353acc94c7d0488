"""`neuron-store report`: one page, or one picture, of what the store saved."""

import os
import sys
from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store
from neuron_store.cli.written import write_whole
from neuron_store.store.errors import ConfigurationError

_PAGE, _PICTURE = "report.html", "report.png"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("report")(report)


def report(
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Where to write it; - is stdout.")] = "",
    png: Annotated[
        bool, typer.Option("--png", help="A picture instead of a page; so is a FILE that ends in .png.")
    ] = False,
    since: Annotated[str, typer.Option(help="Only what happened since: 90s, 15m, 1h, 2d, 1w, or a date.")] = "",
) -> None:
    """Write one self-contained page: time saved over days, hit rate, growth, the slowest subgraphs, why misses were."""
    layout = readable_store()
    begun = presentation.moment(since) if since else 0.0
    png = png or output.endswith(".png")
    output = output or (_PICTURE if png else _PAGE)
    _require_place(output)
    try:
        from neuron_store.cli.reporting.charts import as_png
        from neuron_store.cli.reporting.facts import gather
        from neuron_store.cli.reporting.page import as_html
    except ImportError as error:
        raise ConfigurationError(
            f"a report needs matplotlib and jinja2 ({error}); install them with `pip install 'neuron-store[report]'`"
        ) from None
    facts = gather(layout, begun)
    data = as_png(facts) if png else as_html(facts).encode("utf-8", "replace")
    if output == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:
        _write(output, data)
        presentation.write(f"{output}: {presentation.size(len(data))}\n")


def _require_place(output: str) -> None:
    """Raise ConfigurationError where no file can be written, before the store is read."""
    folder = os.path.dirname(output) or "."
    if output != "-" and (os.path.isdir(output) or not os.path.isdir(folder)):
        reason = "is a folder" if os.path.isdir(output) else f"the folder {folder} does not exist"
        raise ConfigurationError(f"--output {output}: {reason}; give a file in a folder that exists")


def _write(output: str, data: bytes) -> None:
    """Write a file whole or not at all. Raises ConfigurationError."""
    try:
        write_whole(output, data)
    except OSError as error:
        raise ConfigurationError(f"--output {output}: {error.strerror}; give a file that you may write") from error
