"""`neuron-store du`: what the local store holds, by model and by compiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store
from neuron_store.store.checking.quarantine import measure_quarantine
from neuron_store.store.collection.collector import Progress
from neuron_store.store.collection.inventory import Inventory, take_inventory
from neuron_store.store.collection.pins import models_by_key
from neuron_store.store.collection.shares import Share, share_of

_FOLDERS = 3 * 256
_NO_MODEL = "(no model)"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("du")(show_usage)


def show_usage(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what results take, by model and by compiler.

    A blob that several results share is counted once for a model or compiler; one that two models share, for both.
    """
    layout = readable_store()
    with _bar() as progress:
        steps = iter(range(1, _FOLDERS + 1))
        held = take_inventory(layout, lambda: progress(next(steps, _FOLDERS), _FOLDERS))
    by_compiler = _shares(held, [[version] for version in held.versions])
    files, quarantined = measure_quarantine(layout)
    models = models_by_key(layout)
    by_model = _shares(held, [sorted(models.get(key, [])) or [_NO_MODEL] for key in held.keys])
    if as_json:
        presentation.print_json(
            {
                "dir": layout.root,
                "bytes": held.size + quarantined,
                "results": len(held.keys),
                "blobs": held.blobs,
                "unnamed_bytes": held.loose,
                "quarantine": {"files": files, "bytes": quarantined},
                "by_model": {"" if name == _NO_MODEL else name: vars(share) for name, share in by_model.items()},
                "by_compiler": {name: vars(share) for name, share in by_compiler.items()},
            }
        )
        return
    if held.keys:
        presentation.print_table(_table("model", by_model, "compiler", by_compiler))
    results, blobs = presentation.plural(len(held.keys), "result"), presentation.plural(held.blobs, "blob")
    presentation.write(f"{presentation.size(held.size + quarantined)} in {layout.root}: {results}, {blobs}\n")
    if held.loose:
        presentation.remark(
            f"{presentation.size(held.loose)} of blobs are named by no result; `neuron-store gc` removes them"
        )
    if files:
        what = f"{presentation.size(quarantined)} are {presentation.plural(files, 'file')} in quarantine"
        presentation.remark(f"{what}; `neuron-store gc` removes them after 30 days, `clear` at once")
    if sum(share.bytes for share in by_model.values()) > held.size:
        presentation.remark("what several models share is counted for each of them")


@contextmanager
def _bar() -> Iterator[Progress]:
    with presentation.progress(TextColumn("reading"), BarColumn(), TimeElapsedColumn()) as shown:
        task = shown.add_task("reading", total=_FOLDERS)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _shares(held: Inventory, groups: list[list[str]]) -> dict[str, Share]:
    """Return name -> share, the largest first; `groups` are the names of those that each result is in."""
    members: dict[str, list[int]] = {}
    for place, names in enumerate(groups):
        for name in names:
            members.setdefault(name, []).append(place)
    shares = {name: share_of(held, places) for name, places in members.items()}
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1].bytes, pair[0])))


def _table(*parts: Any) -> Table:  # noqa: ANN401 - title, shares, title, shares
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("name", overflow="fold", min_width=12)
    for _ in range(3):
        table.add_column("", justify="right", no_wrap=True, min_width=7)
    for title, shares in zip(parts[::2], parts[1::2], strict=True):
        table.add_row(*(Text(word, style="bold") for word in (title, "results", "size", "its own")))
        for name, share in shares.items():
            table.add_row(
                presentation.printable(name),
                presentation.number(share.results),
                presentation.size(share.bytes),
                presentation.size(share.own),
            )
        table.add_row("", "", "", "")
    return table
