"""`neuron-store bench`: the compile time that a cache saves, measured on the user's own subgraphs."""

import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.store.errors import BenchmarkError

if TYPE_CHECKING:
    from neuron_store.benchmarks.harness import Compiler, Harness, Row


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bench")(bench)


def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[HLO]…", help="HLO files, or folders of them; by default a small built-in set."),
    ] = None,
    flags: Annotated[
        str, typer.Option(help="Options for the compiler, as one string: '--target=trn1 -O1'; \"\" for none.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each caller's form asks again.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw compile against hit time to this PNG or SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile subgraphs through the shim, cold then warm, on an empty store, and show the time saved."""
    from neuron_store.benchmarks.harness import Harness, choose_compiler, find_models
    from neuron_store.benchmarks.plot import check_plot_path, save_plot

    if plot is not None:
        check_plot_path(plot)
    options = _split(flags)
    with tempfile.TemporaryDirectory(prefix="neuron-store-bench-") as name:
        folder = Path(name)
        compiler = choose_compiler(folder / "reference", os.environ.get("PATH"))
        found = find_models(models) if models else _builtin(folder / "builtin")
        harness = Harness(folder, compiler, options)
        rows = _measure(harness, found, rounds, compiler)
        faults = [f"{row.name}: {fault}" for row in rows for fault in row.faults]
        numbers = ""
        if compiler.is_reference and not faults:
            numbers = harness.compare_numbers(min(found, key=lambda path: path.stat().st_size))
        if as_json:
            presentation.print_json(_as_dict(rows, compiler, options, numbers))
        else:
            _print(rows, numbers)
        if plot is not None and rows:
            save_plot([row for row in rows if row.hit_seconds], plot, compiler.description)
            presentation.remark(f"plot written to {plot}")
    if faults:
        raise BenchmarkError("\n".join(["some requests were not what they had to be:", *faults]))


def _split(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise BenchmarkError(f"--flags {flags!r} cannot be split into words: {error}") from error


def _builtin(folder: Path) -> list[Path]:
    from neuron_store.benchmarks.builtin import builtin_models

    folder.mkdir()
    return builtin_models(folder)


def _measure(harness: "Harness", models: list[Path], rounds: int, compiler: "Compiler") -> "list[Row]":
    from neuron_store.benchmarks.harness import CALLERS

    presentation.remark(f"compiling {presentation.plural(len(models), 'subgraph')} with {compiler.description}")
    rows = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with presentation.progress(*columns) as progress:
        task = progress.add_task("", total=len(models) * (1 + rounds * len(CALLERS)))
        for done, model in enumerate(models, 1):

            def step(text: str) -> None:
                progress.update(task, description=text)
                progress.advance(task)

            rows.append(harness.measure(model, rounds, step))
            progress.update(task, completed=done * (1 + rounds * len(CALLERS)))
    return rows


def _print(rows: "list[Row]", numbers: str) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("subgraph", overflow="fold")
    for title in ("HLO", "NEFF", "cold", "hit", "speed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        if not row.hit_seconds:
            table.add_row(row.name, presentation.size(row.hlo_bytes), "-", "failed", "-", "-")
            continue
        table.add_row(
            row.name,
            presentation.size(row.hlo_bytes),
            presentation.size(row.neff_bytes),
            f"{row.cold_seconds:.2f} s",
            f"{row.hit_median * 1e3:.1f} ms",
            f"{row.speed_up:,.0f}x",
        )
    presentation.print_table(table)
    requests = sum(len(row.hit_seconds) for row in rows)
    presentation.write(
        f"\n{presentation.plural(requests, 'hit')} took {presentation.duration(sum(sum(r.hit_seconds) for r in rows))} "
        f"instead of {presentation.duration(sum(r.cold_seconds * len(r.hit_seconds) for r in rows))}: "
        f"{presentation.duration(_saved(rows))} saved\n"
    )
    if numbers:
        presentation.write(numbers + "\n")


def _saved(rows: "list[Row]") -> float:
    return sum(row.cold_seconds * len(row.hit_seconds) - sum(row.hit_seconds) for row in rows)


def _as_dict(rows: "list[Row]", compiler: "Compiler", flags: list[str], numbers: str) -> dict[str, Any]:
    return {
        "compiler": {"path": compiler.path, "reference": compiler.is_reference},
        "flags": flags,
        "subgraphs": [
            {
                "name": row.name,
                "hlo_bytes": row.hlo_bytes,
                "neff_bytes": row.neff_bytes,
                "cold_seconds": row.cold_seconds,
                "hit_seconds": row.hit_seconds,
                "hit_seconds_median": row.hit_median,
                "speed_up": row.speed_up,
                "outcomes": row.outcomes,
                "faults": row.faults,
            }
            for row in rows
        ],
        "seconds_saved": _saved(rows),
        "numbers": numbers or None,
    }
