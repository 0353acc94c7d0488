"""`neuron-store precompile`: pending compiles, through the store, several at once, the longest first."""

import os
import signal
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperCommand
from typing_extensions import Self

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of, local_store, settings
from neuron_store.cli.installed_compiler import installed_version
from neuron_store.cli.precompile_jobs import Job, Plan, make_plan
from neuron_store.cli.precompile_memory import jobs_that_fit, usable_cores
from neuron_store.cli.precompile_pool import Done, Pool
from neuron_store.cli.runs import shimmed_environment
from neuron_store.cli.stock_reasons import print_reasons
from neuron_store.cli.totals import Totals
from neuron_store.shim.launcher import write_launcher
from neuron_store.shim.run_compiler import die_like
from neuron_store.store.errors import CompilerNotFound, ConfigurationError, PrecompileFailed

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _Command(TyperCommand):
    """What stands behind `--` are the compiler's options, not places."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - of click, or of typer's own copy of it
        if "--" in args:
            at = args.index("--")
            ctx.meta["flags"] = args[at + 1 :]
            args = args[:at]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("precompile", cls=_Command)(precompile)


@dataclass
class _Precompiled:
    """What came of it.

    Attributes:
        jobs: how many were to be done, so many `at_once`.
        totals: what the shim counted of those that ended well.
    """

    jobs: int
    at_once: int
    left_out: "Counter[str]"
    done: list[Done] = field(default_factory=list)
    totals: Totals = field(default_factory=lambda: Totals([]))
    seconds: float = 0.0

    @property
    def failed(self) -> list[Done]:
        return [done for done in self.done if done.code]

    def as_dict(self) -> dict[str, Any]:
        return {
            "modules": self.jobs,
            "jobs": self.at_once,
            "done": len(self.done),
            "compiled": self.totals.misses,
            "hits": self.totals.hits,
            "failed": {done.job.name: done.said for done in self.failed},
            "written_back": sum(done.written for done in self.done),
            "not_written_back": {done.job.name: done.in_the_way for done in self.done if done.in_the_way},
            "left_out": dict(self.left_out),
            "seconds": round(self.seconds, 3),
            "compile_seconds": round(self.totals.seconds_compiled, 3),
            "order": [done.job.name for done in self.done],
        }


def precompile(
    context: typer.Context,
    places: Annotated[
        list[str],
        typer.Argument(metavar="DIR|FILE…", help="Stock caches' folders, or graphs; flags for these after --."),
    ],
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Compiles at once; 0: as many as cores and memory allow.")
    ] = 0,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory-per-job", min=0.0, metavar="GB", help="What one may need; the setting precompile_memory_gb."
        ),
    ] = None,
    write_back: Annotated[
        bool, typer.Option("--write-back", help="Also make the folder's entries finished modules.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also entries whose compile failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile what is pending, in parallel, the longest first: results go to the store, and to its remotes.

    Pending are the graphs that neuron_parallel_compile's trial run collects: a graph and its options without model.done.
    """
    chosen, layout = settings(), local_store()
    flags = list(context.meta.get("flags", []))
    version = installed_version()
    if not version:
        raise CompilerNotFound("there is no neuronx-cc to compile with; install it, or set NEURON_STORE_COMPILER to it")
    plan = make_plan(places, flags, chosen, layout, version, retry_failed=retry_failed)
    if flags and not any(job.entry is None for job in plan.jobs):
        raise ConfigurationError("options after -- are for graphs by themselves: a stock folder has its own")
    at_once = _jobs_at_once(jobs, len(plan.jobs), chosen.precompile_memory_gb if memory is None else memory)
    made = _Precompiled(len(plan.jobs), at_once, plan.left_out)
    stopped = _run(made, plan, write_back=write_back) if plan.jobs else 0
    if as_json:
        presentation.print_json(made.as_dict())
    else:
        _say(made)
    if stopped:
        presentation.remark(f"stopped after {len(made.done)} of {made.jobs}; precompile again for the rest")
        die_like(-stopped)
        raise typer.Exit(128 + stopped)
    if made.failed:
        raise PrecompileFailed(f"{presentation.plural(len(made.failed), 'module')} could not be compiled")


def _jobs_at_once(wanted: int, pending: int, memory: float) -> int:
    fit = jobs_that_fit(memory)
    at_once = min(wanted or min(usable_cores(), fit), pending or 1)
    if at_once > fit:
        presentation.remark(f"{at_once} jobs of {memory:g} GB may need more memory than there is: {fit} would fit")
    return at_once


def _run(made: _Precompiled, plan: Plan, *, write_back: bool) -> int:
    """Run all jobs; return the signal that ended it, 0 if none did."""
    layout = local_store()
    environ, _ = shimmed_environment(dict(os.environ))
    run, begun = uuid.uuid4().hex[:16], time.time()
    with tempfile.TemporaryDirectory(prefix="neuron-store-precompile-", ignore_cleanup_errors=True) as folder:
        pool = Pool(str(write_launcher()), environ, Path(folder), run)
        before = {number: signal.signal(number, lambda received, _: pool.stop(received)) for number in _SIGNALS}
        try:
            with _Display(made) as display:
                for done in pool.work(
                    plan.jobs, made.at_once, write_back=write_back, glance=lambda: display.show(pool)
                ):
                    made.done.append(done)
                    display.tell(done)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    made.seconds = time.time() - begun
    well = {done.run for done in made.done if not done.code}
    made.totals = Totals(event for event in events_of(layout, begun) if event.fields.get("run", "") in well)
    return pool.stopped


class _Display:
    """The live display: a bar, and a line for each running job; where no terminal is, a line for each that ended."""

    def __init__(self, made: _Precompiled) -> None:
        self._made = made
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self._progress: Progress = presentation.progress(*columns)
        self._lines: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        self._all = self._progress.add_task(
            "precompiling", total=self._made.jobs, count=f"0/{self._made.jobs}", said=""
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        self._progress.stop()

    def show(self, pool: Pool) -> None:
        """Show what runs now."""
        running = {id(each.job): each.job for each in pool.running}
        for known in [known for known in self._lines if known not in running]:
            self._progress.remove_task(self._lines.pop(known))
        for identity, job in running.items():
            if identity not in self._lines:
                self._lines[identity] = self._progress.add_task(_short(job), total=None, count="", said=_expected(job))

    def tell(self, done: Done) -> None:
        """Count a job that ended."""
        failed = f"{len(self._made.failed)} failed" if self._made.failed else ""
        done_of_all = f"{len(self._made.done)}/{self._made.jobs}"
        self._progress.update(self._all, completed=len(self._made.done), count=done_of_all, said=failed)
        if self._progress.disable:
            how = f"failed with {done.code}: {done.said}" if done.code else "done"
            presentation.remark(f"{done.job.name}: {how}, {presentation.duration(done.seconds)}")


def _short(job: Job) -> str:
    return job.name if len(job.name) <= 36 else job.name[:35] + "…"


def _expected(job: Job) -> str:
    return f"took {presentation.duration(job.recorded)} before" if job.recorded is not None else ""


def _say(made: _Precompiled) -> None:
    if not made.jobs:
        presentation.write("nothing is pending\n")
    else:
        totals = made.totals
        said = [
            (
                f"precompiled {presentation.plural(len(made.done) - len(made.failed), 'module')} in "
                f"{presentation.duration(made.seconds)}, {made.at_once} at once"
            ),
            f"{presentation.plural(totals.hits, 'hit')}",
            f"{presentation.number(totals.misses)} compiled in {presentation.duration(totals.seconds_compiled)}",
        ]
        if written := sum(done.written for done in made.done):
            said.append(f"{presentation.number(written)} written back")
        presentation.write("; ".join(said) + "\n")
    _print_faults(made)
    print_reasons({reason: count for reason, count in made.left_out.items() if count})


def _print_faults(made: _Precompiled) -> None:
    rows = [(done.job.name, f"failed with {done.code}", done.said) for done in made.failed]
    rows += [(done.job.name, "not written back", done.in_the_way) for done in made.done if done.in_the_way]
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for title in ("module", "what", "because"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(presentation.printable, row))
    presentation.print_table(table)
