"""`neuron-store clear`: an empty store."""

import os
import sys
from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.collecting import run_collection, show
from neuron_store.cli.context import readable_store
from neuron_store.store.collection.limits import PINNED, QUEUED, Limits
from neuron_store.store.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("clear")(clear)


def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what is pinned or waits for its upload.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove all results from the local store, except those that are pinned or wait for their upload."""
    layout = readable_store()
    limits = Limits(everything=True, protected=not everything)
    if not yes:
        if not os.isatty(0):
            raise ConfigurationError("clear asks before it removes anything, and no terminal is there: give --yes")
        foreseen = run_collection(layout, limits, dry_run=True)
        count = sum(tally.results for reason, tally in foreseen.tallies.items() if reason == "selected")
        stays = [f"{foreseen.kept[reason]} {word}" for reason, word in _STAYING.items() if reason in foreseen.kept]
        besides = f" ({', '.join(stays)} stay)" if stays else ""
        what = f"{presentation.plural(count, 'result')}, {presentation.size(foreseen.freed)}{besides}"
        sys.stderr.write(f"Remove {what} from {layout.root}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            presentation.remark("nothing was removed")
            raise typer.Exit(1)
    show(layout, run_collection(layout, limits), dry_run=False, as_json=as_json)


_STAYING = {PINNED: "pinned", QUEUED: "waiting for upload"}
