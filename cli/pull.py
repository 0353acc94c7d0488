"""`neuron-store pull`: results of remotes, brought into the local store before anyone needs them."""

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.context import local_store, require_storing, settings
from neuron_store.cli.entry_filters import (
    AUTO_CAST_TYPE,
    BATCH_SIZE,
    DTYPE,
    INSTANCE_TYPE,
    NUM_CORES,
    SEQUENCE_LENGTH,
    TASK,
    TENSOR_PARALLEL_SIZE,
    make_filter,
)
from neuron_store.cli.fetching import DEFAULT_THREADS, Fetched, Fetcher
from neuron_store.cli.finding import Search
from neuron_store.cli.model_pull import ModelPull
from neuron_store.cli.remote_listing import chosen_remotes
from neuron_store.cli.remotes import Opened
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError, RemoteError
from neuron_store.store.layout import Layout

_MOST_NAMED = 10  # faults that are told one by one
_MOST_THREADS = 64
_KEY = re.compile(r"[0-9A-Fa-f]{2,32}")
_GLANCE = 0.1  # seconds between two updates of the progress bar


@dataclass
class Pulled:
    """What came of a pull.

    Attributes:
        present: how many of the results that were asked for are here already.
        missing: keys that no remote has.
        faults: of whole remotes.
        remarks: of remotes that nobody asked for.
        urls: of the remotes that answered.
    """

    fetched: Fetched = field(default_factory=Fetched)
    present: int = 0
    missing: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    urls: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "fetched": self.fetched.results,
            "bytes": self.fetched.bytes,
            "seconds": round(self.seconds, 3),
            "present": self.present,
            "missing": self.missing,
            "corrupt": self.fetched.corrupt,
            "failed": self.fetched.failed,
            "faults": self.faults,
            "remarks": self.remarks,
            "remotes": self.urls,
        }

    def as_text(self) -> str:
        """Return it as a line; what could not be had is told one by one on stderr."""
        made = self.fetched
        lines = [f"{key[: presentation.SHOWN_KEY]} is corrupt: {reason}" for key, reason in made.corrupt.items()]
        lines += [
            f"{key[: presentation.SHOWN_KEY]} could not be fetched: {reason}" for key, reason in made.failed.items()
        ]
        for line in lines[:_MOST_NAMED]:
            presentation.remark(line)
        if len(lines) > _MOST_NAMED:
            presentation.remark(f"and so for {len(lines) - _MOST_NAMED} more; --json names them all")
        urls = ", ".join(self.urls)
        here = f"{presentation.plural(self.present, 'result')} of {urls} {_is(self.present)} here already"
        if made.results:
            amount = f"{presentation.plural(made.results, 'result')} ({presentation.size(made.bytes)})"
            said = f"fetched {amount} from {urls} in {presentation.duration(self.seconds)}"
            return said + (
                f"; {presentation.number(self.present)} {_was(self.present)} here already" if self.present else ""
            )
        if self.present:
            return here
        return "" if lines or self.missing or self.faults else f"{urls} has no result of neuron-store's"

    def say(self) -> None:
        """Print it."""
        text = self.as_text()
        if text:
            presentation.write(text + "\n")

    def require_all(self) -> None:
        """Raise RemoteError, in words for a person, if something could not be had."""
        made = self.fetched
        said = [*self.faults]
        if made.corrupt:
            said.append(f"{presentation.plural(len(made.corrupt), 'result is', 'results are')} corrupt in the remote")
        if made.failed:
            failed = presentation.plural(len(made.failed), "result")
            said.append(f"{failed} could not be fetched; pull again to fetch what is missing")
        if self.missing:
            named = ", ".join(key[: presentation.SHOWN_KEY] for key in self.missing[:_MOST_NAMED])
            more = len(self.missing) - _MOST_NAMED
            said.append(f"no remote has {named}" + (f", and {presentation.number(more)} more" if more > 0 else ""))
        if said:
            raise RemoteError("; ".join(said))


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pull")(pull)


def pull(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL|KEY…", help="A model, or keys, or the first digits of keys.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="A model whose name might be a key's.")
    ] = "",
    task: TASK = "",
    batch_size: BATCH_SIZE = None,
    sequence_length: SEQUENCE_LENGTH = None,
    num_cores: NUM_CORES = None,
    tensor_parallel_size: TENSOR_PARALLEL_SIZE = None,
    auto_cast_type: AUTO_CAST_TYPE = "",
    dtype: DTYPE = "",
    instance_type: INSTANCE_TYPE = "",
    compiler: Annotated[
        str,
        typer.Option(
            "--compiler",
            "-c",
            metavar="VERSION",
            help="Results of compilers whose version starts so: a model's, or all.",
        ),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="All results.")] = False,
    remote: Annotated[
        str,
        typer.Option(
            "--remote",
            "--repo",
            "--repo-id",
            "--repo_id",
            metavar="REMOTE",
            help="Only from this one: org/name, hf://… or file:///…",
        ),
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=_MOST_THREADS, help="How many are fetched at once.")
    ] = DEFAULT_THREADS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch results from the remotes into the local store: all that a model needs, or those of keys."""
    wanted = make_filter(
        task=task,
        batch_size=batch_size,
        sequence_length=sequence_length,
        num_cores=num_cores,
        tensor_parallel_size=tensor_parallel_size,
        auto_cast_type=auto_cast_type,
        dtype=dtype,
        instance_type=instance_type,
        compiler=compiler,
    )
    keys, model = _read_words(words or [], model)
    if bool(keys) + bool(model) + bool(compiler and not model) + every != 1:
        raise ConfigurationError("say what to fetch: a model, keys, --compiler VERSION, or --all")
    if wanted.asked and not model:
        raise ConfigurationError(f"{wanted.described()}: only the entries of a model can be chosen from so")
    chosen, layout = settings(), local_store()
    remotes = chosen_remotes(chosen, layout, remote)
    of_model = ModelPull(layout, chosen, remotes) if model else None
    search = of_model.search if of_model is not None else Search(layout, remotes)
    if of_model is not None:
        of_model.find(model, wanted)
    elif keys:
        search.look_for(keys)
    else:
        search.list_all(compiler)
    if (keys or model) and not search.missing:  # another remote had it
        for fault in search.faults:
            presentation.remark(fault)
        search.faults = []
    pulled = _fetch(layout, chosen, search, jobs)
    if of_model is not None:
        of_model.note(pulled.fetched)
    if as_json:
        presentation.print_json(pulled.as_dict() | (of_model.as_dict(pulled.fetched) if of_model else {}))
    else:
        pulled.say()
        if of_model is not None:
            presentation.write(of_model.sentence(pulled.fetched) + "\n")
    pulled.require_all()


def _read_words(words: list[str], model: str) -> tuple[list[str], str]:
    """Return the keys and the model among the words: what may be a key is one. Raises ConfigurationError."""
    keys = [word for word in words if _KEY.fullmatch(word)]
    models = [word for word in [*words, model] if word and word not in keys]
    if len(models) > 1:
        raise ConfigurationError(f"one model at a time: {', '.join(models)}")
    return keys, "".join(models) or model


def pull_all(layout: Layout, chosen: Settings, remotes: list[Opened]) -> Pulled:
    """Fetch every result of `remotes` that the local store lacks."""
    search = Search(layout, remotes)
    search.list_all("")
    return _fetch(layout, chosen, search, DEFAULT_THREADS)


# -- the fetching ----------------------------------------------------------------------------------------------------


def _fetch(layout: Layout, chosen: Settings, search: Search, jobs: int) -> Pulled:
    urls = search.searched or [opened.remote.url for opened in search.remotes]
    pulled = Pulled(
        present=search.present, missing=search.missing, faults=search.faults, remarks=search.remarks, urls=urls
    )
    for remark in search.remarks:
        presentation.remark(remark)
    if not search.wanted:
        return pulled
    require_storing(layout, chosen)
    begun = time.monotonic()
    fetcher = Fetcher(layout, [opened.location for opened in search.remotes], chosen, jobs)
    threads = fetcher.start(list(search.wanted.values()))
    try:
        _watch(fetcher, threads, len(search.wanted))
    except KeyboardInterrupt:
        fetcher.stop(threads)
        came = presentation.plural(fetcher.made.results, "result")
        presentation.remark(f"stopped after {came}; pull again to fetch the rest")
        raise
    fetcher.finish()
    pulled.fetched = fetcher.made
    pulled.seconds = time.monotonic() - begun
    return pulled


def _watch(fetcher: Fetcher, threads: list[threading.Thread], total: int) -> None:
    """Show the progress until all threads have ended."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    begun = time.monotonic()
    with presentation.progress(*columns) as progress:
        task = progress.add_task("fetching", total=total, said="")
        for thread in threads:
            while thread.is_alive():
                thread.join(_GLANCE)
                made = fetcher.made
                done = made.results + len(made.corrupt) + len(made.failed)
                came = fetcher.bytes_so_far()
                rate = came / max(time.monotonic() - begun, _GLANCE)
                said = f"{done}/{total} results, {presentation.size(came)}, {presentation.size(rate)}/s"
                progress.update(task, completed=done, said=said)
