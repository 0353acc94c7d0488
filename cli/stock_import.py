"""`neuron-store import`: finished modules of a stock cache become results, under the keys that they prove."""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.context import local_store, require_storing, settings
from neuron_store.cli.installed_compiler import installed_version
from neuron_store.cli.remotes import Opened, named_location, open_location, require_online
from neuron_store.cli.stock_archive import StockArchive
from neuron_store.cli.stock_hub import HubEntry, Journal, StockFetcher, list_entries
from neuron_store.cli.stock_intake import IMPORT_AGAIN, IMPORTED, PRESENT, Intake, Taken, take_in
from neuron_store.cli.stock_reasons import print_reasons
from neuron_store.cli.worker_processes import losing_no_worker, make_workers
from neuron_store.hashing.environment import KEY_VARIABLES, wants_debug_info
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, NeuronStoreError, NotFound, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import versions_of
from neuron_store.store.stock.entries import FINISHED, StockEntry, find_entries
from neuron_store.store.stock.names import version_of

_DOWNLOADS = 16
_GLANCE = 0.1  # seconds between two updates of the progress bar
_FEW = 8  # entries that are not worth other processes
_MOST_NAMED = 10
_IS_TARGET = re.compile(r"(?:trn|inf)[0-9][0-9a-z.-]{0,30}")


@dataclass
class Imported:
    """What came of an import.

    Attributes:
        source: as a person named it.
        modules, bytes: that became results.
        present: that were results already.
        left_out: reason -> how many.
        faults: what went wrong that may go right next time.
    """

    source: str
    modules: int = 0
    bytes: int = 0
    present: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    details: list[dict[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, taken: Taken) -> None:
        """Count what became of an entry."""
        if taken.reason == IMPORTED:
            self.modules += 1
            self.bytes += taken.bytes
        elif taken.reason == PRESENT:
            self.present += 1
        else:
            self.left_out[taken.reason] += 1
            self.details.append({"module": taken.name, "reason": taken.reason, "detail": taken.detail})

    def pass_over(self, path: str, reason: str) -> None:
        """Count what is no entry, though it is called like one."""
        self.note(Taken(path, reason))

    @property
    def has_anything(self) -> bool:
        """Whether there is anything to tell of."""
        return bool(self.modules or self.present or self.left_out or self.faults)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "source": self.source,
            "imported": self.modules,
            "bytes": self.bytes,
            "present": self.present,
            "left_out": dict(self.left_out),
            "modules_left_out": self.details,
            "faults": self.faults,
            "seconds": round(self.seconds, 3),
        }

    def say(self) -> None:
        """Print it."""
        if not self.has_anything:
            presentation.write(f"{self.source} has no module of a stock cache\n")
            return
        said = f"imported {presentation.plural(self.modules, 'module')}"
        if self.modules:
            said += f" ({presentation.size(self.bytes)})"
        said += f" from {self.source} in {presentation.duration(self.seconds)}"
        if self.present:
            said += f"; {presentation.number(self.present)} {'was' if self.present == 1 else 'were'} here already"
        presentation.write(said + "\n")
        print_reasons(self.left_out)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import")(import_stock)


def import_stock(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a tarball of one, or a repo: hf://org/name.")
    ],
    compiler: Annotated[
        str,
        typer.Option("--compiler", "-c", metavar="VERSION", help="Only of compilers whose version starts so."),
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Of a repo, every compiler's; else only that of the one installed here.")
    ] = False,
    target: Annotated[
        str, typer.Option(metavar="TARGET", help="What those were compiled for whose options do not tell: trn1, …")
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable that the compiler read when they were compiled."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes at once; 0: one for each core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take the finished modules of a stock cache into the store.

    Each gets the key that its own graph, options and compiler version prove. Running it again takes in what is new.
    """
    chosen = settings()
    intake = Intake.by_settings(chosen)
    intake.target, intake.variables = _read_target(target), _read_variables(env or [], chosen)
    intake.exact = intake.exact or wants_debug_info(intake.variables)
    intake.source = os.path.abspath(source)
    begun = time.monotonic()
    made = Imported(source)
    try:
        _import(made, intake, chosen, _Choice(source, compiler, every=every), jobs or os.cpu_count() or 1)
    except (NeuronStoreError, OSError):
        if made.has_anything:
            _tell(made, begun, as_json=as_json)
        raise
    _tell(made, begun, as_json=as_json)
    for fault in made.faults[:_MOST_NAMED]:
        presentation.remark(fault)
    if made.faults:
        count = presentation.plural(len(made.faults), "module")
        raise RemoteError(f"{count} could not be imported; import again to go on")


def _import(made: Imported, intake: Intake, chosen: Settings, choice: "_Choice", jobs: int) -> None:
    layout, source = local_store(), choice.source
    if source.startswith("s3://"):
        raise ConfigurationError(f"{source} is not read; copy it first: aws s3 sync {source} FOLDER")
    if _is_repo(source):
        _import_repo(made, intake, layout, chosen, choice, jobs)
        return
    if not os.path.isdir(source) and not os.path.isfile(source):
        raise NotFound(f"there is no folder or tarball {source}; a repo is written hf://org/name")
    require_storing(layout, chosen)
    (_import_folder if os.path.isdir(source) else _import_archive)(made, intake, choice.compiler, jobs)


def _tell(made: Imported, begun: float, *, as_json: bool) -> None:
    made.seconds = time.monotonic() - begun
    if as_json:
        presentation.print_json(made.as_dict())
    else:
        made.say()


def _is_repo(source: str) -> bool:
    return source.startswith("hf://")


def _read_target(word: str) -> str:
    if word and not _IS_TARGET.fullmatch(word):
        raise ConfigurationError(
            f"--target {word!r} is no hardware that a compile has for its target, such as trn1 or inf2"
        )
    return word


def _read_variables(words: list[str], chosen: Settings) -> dict[bytes, bytes]:
    """Return the variables that are told. Raises ConfigurationError for one that no key has."""
    in_keys = {*map(os.fsdecode, KEY_VARIABLES), *chosen.key_env.split()}
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--env {word!r} is not NAME=VALUE")
        if name not in in_keys:
            raise ConfigurationError(
                f"--env {name}: no key has this variable, so no compile would be served what is imported with it; leave it "
                "out, or add it to the setting key_env"
            )
        found[os.fsencode(name)] = os.fsencode(value)
    return found


# -- folders and tarballs --------------------------------------------------------------------------------------------


def _import_folder(made: Imported, intake: Intake, compiler: str, jobs: int) -> None:
    found = list(find_entries(made.source, made.pass_over, follow_links=True))
    _require_version(made.source, compiler, [entry.version for entry in found])
    entries = [entry for entry in found if entry.version.startswith(compiler)]
    with _progress(len(entries)) as advance, _workers(min(jobs, len(entries) // _FEW)) as executor:
        for taken, _ in _in_parallel(executor, intake, iter(entries), 2 * jobs):
            made.note(taken)
            advance()


def _import_archive(made: Imported, intake: Intake, compiler: str, jobs: int) -> None:
    intake.layout.make_folder(f"{intake.root}/tmp")
    with tempfile.TemporaryDirectory(dir=f"{intake.root}/tmp", ignore_cleanup_errors=True) as folder:
        archive = StockArchive(made.source, Path(folder))
        for path, reason in archive.passed_over.items():
            made.pass_over(path, reason)
        _require_version(made.source, compiler, archive.versions)
        entries = (entry for entry in archive.entries() if entry.version.startswith(compiler))
        with _progress(len(archive)) as advance, _workers(min(jobs, len(archive) // _FEW)) as executor:
            for taken, entry in _in_parallel(executor, intake, entries, 2 * jobs):
                made.note(taken)
                archive.forget(entry)
                advance()


def _require_version(source: str, compiler: str, there: list[str]) -> None:
    """Raise NotFound if there are modules, and none of the compilers that are wanted."""
    versions = list(dict.fromkeys(filter(None, there)))
    if versions and not any(version.startswith(compiler) for version in versions):
        raise NotFound(f"{source} has no modules of compiler {compiler}; it has those of {', '.join(versions)}")


@contextmanager
def _workers(count: int) -> "Iterator[Executor | None]":
    """Yield an executor with so many processes; None if one process is as good."""
    if count < 2:
        yield None
        return
    executor = make_workers(count)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _in_parallel(
    executor: "Executor | None", intake: Intake, entries: Iterator[StockEntry], most: int
) -> Iterator[tuple[Taken, StockEntry]]:
    """Yield what becomes of each entry, in whatever order; at most `most` are taken from `entries` ahead of that."""
    under_way: dict[Future[Taken], StockEntry] = {}
    for entry in entries:
        if executor is None or entry.state != FINISHED:
            yield take_in(intake, entry), entry
            continue
        with losing_no_worker(IMPORT_AGAIN):
            under_way[executor.submit(take_in, intake, entry)] = entry
        if len(under_way) >= most:
            yield from _ended(under_way)
    while under_way:
        yield from _ended(under_way)


def _ended(under_way: "dict[Future[Taken], StockEntry]") -> Iterator[tuple[Taken, StockEntry]]:
    done = wait(under_way, return_when=FIRST_COMPLETED).done
    for future in sorted(done, key=lambda future: future.exception() is not None):  # what was done counts first
        with losing_no_worker(IMPORT_AGAIN):
            taken = future.result()
        yield taken, under_way.pop(future)


@contextmanager
def _progress(total: int) -> "Iterator[Any]":
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with presentation.progress(*columns) as progress:
        task = progress.add_task("importing", total=total)
        yield lambda: progress.advance(task)


# -- repos -----------------------------------------------------------------------------------------------------------


@dataclass
class _Choice:
    """Which part of which source."""

    source: str
    compiler: str
    every: bool


def _import_repo(made: Imported, intake: Intake, layout: Layout, chosen: Settings, choice: _Choice, jobs: int) -> None:
    location = named_location(choice.source)
    require_online(location)
    opened = open_location(location, layout, chosen)
    intake.origin = opened.remote.url
    entries = [entry for version in _versions(opened, choice) for entry in list_entries(opened, version)]
    require_storing(layout, chosen)
    journal = Journal(layout, opened.remote.identity)
    wanted = []
    for entry in entries:
        known = journal.recall(entry)
        if entry.state != FINISHED or known is not None:
            made.note(known or Taken(entry.name, entry.state))
        else:
            wanted.append(entry)
    if wanted:
        _fetch(made, opened, wanted, intake, chosen, journal, jobs)


def _versions(opened: Opened, choice: _Choice) -> list[str]:
    """Return the compiler versions whose modules are wanted. Raises NotFound if the repo has none of them."""
    there = [version for version in versions_of(opened.remote.folders()) if version_of(f"neuronxcc-{version}")]
    wanted = choice.compiler or ("" if choice.every else installed_version())
    if not wanted and not choice.every:
        raise ConfigurationError(
            f"there is no compiler here whose modules could be meant; say --compiler VERSION, or --all: "
            f"{opened.remote.url} has {', '.join(there) or 'none'}"
        )
    found = [version for version in there if version.startswith(wanted)]
    if not found:
        raise NotFound(
            f"{opened.remote.url} has no modules of compiler {wanted or 'versions'}; it has {', '.join(there) or 'none'}"
        )
    return found


def _fetch(
    made: Imported,
    opened: Opened,
    entries: list[HubEntry],
    intake: Intake,
    chosen: Settings,
    journal: Journal,
    jobs: int,
) -> None:
    with make_workers(min(jobs, len(entries))) as executor:
        fetcher = StockFetcher(
            opened, entries, intake, chosen, min(_DOWNLOADS, len(entries)), journal=journal, executor=executor
        )
        threads = fetcher.start(fetcher.wanted())
        try:
            with presentation.progress(*_columns()) as progress:
                _watch(fetcher, threads, progress, len(entries))
        except KeyboardInterrupt:
            fetcher.stop(threads)
            executor.shutdown(wait=False, cancel_futures=True)
            came = presentation.plural(len(fetcher.taken), "module")
            presentation.remark(f"stopped after {came}; import again to go on")
            raise
    for taken in fetcher.taken.values():
        made.note(taken)
    told = {**fetcher.made.corrupt, **fetcher.made.failed}
    made.faults = [f"{name}: {reason}" for name, reason in sorted(told.items())]
    fetcher.finish()


def _columns() -> "tuple[Any, ...]":
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )


def _watch(fetcher: StockFetcher, threads: "list[Any]", progress: Progress, total: int) -> None:
    """Show the progress until all threads have ended."""
    task = progress.add_task("importing", total=total, said="")
    for thread in threads:
        while thread.is_alive():
            thread.join(_GLANCE)
            made = fetcher.made
            done = made.results + len(made.corrupt) + len(made.failed)
            progress.update(task, completed=done, said=presentation.size(fetcher.bytes_so_far()))
