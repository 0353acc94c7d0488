"""`neuron-store recompress`: the store's blobs at another zstd level."""

import os
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.collecting import holding_collector
from neuron_store.cli.context import readable_store
from neuron_store.store.collection.recompression import Recompressed, recompress
from neuron_store.store.errors import CorruptEntry


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("recompress")(recompress_store)


def recompress_store(
    level: Annotated[int, typer.Option("--level", "-l", min=0, max=19, help="zstd's level; 0: store all as it is.")],
    threads: Annotated[int, typer.Option("--threads", "-j", min=0, help="At once; 0: one for each processor.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Store all outputs at another zstd level where that makes them smaller, and raw where it does not pay."""
    layout = readable_store()
    done = Recompressed()
    if os.path.isdir(layout.root):
        columns = (TextColumn("recompressing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with presentation.progress(*columns) as shown, holding_collector(layout):
            task = shown.add_task("recompressing", total=None)
            done = recompress(
                layout,
                level,
                threads or len(os.sched_getaffinity(0)),
                lambda count, total: shown.update(task, completed=count, total=total),
            )
    if as_json:
        presentation.print_json({"dir": layout.root, "saved_bytes": done.before - done.after, **vars(done)})
    else:
        _say(done)
    if done.damaged:
        damaged = presentation.plural(len(done.damaged), "blob is", "blobs are")
        raise CorruptEntry(
            f"{damaged} damaged, and left as they are; `neuron-store verify --repair` mends what can be mended"
        )


def _say(done: Recompressed) -> None:
    rewritten = f"{presentation.number(done.rewritten)} of {presentation.plural(done.blobs, 'blob')} rewritten"
    saved = done.before - done.after
    change = f"{presentation.size(abs(saved))} {'saved' if saved >= 0 else 'more'}"
    presentation.write(f"{rewritten}: {presentation.size(done.before)} -> {presentation.size(done.after)}, {change}\n")
    if done.queued:
        presentation.remark(
            f"{presentation.plural(done.queued, 'blob')} of results that wait for their upload left alone"
        )
