"""`neuron-store lookup`: which configurations of a model are compiled already, and what a run would still compile."""

from enum import Enum
from typing import Annotated, Any

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import local_store, settings
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
from neuron_store.cli.entry_listing import as_dict, nothing_found, print_seed, print_table, remarks_of
from neuron_store.cli.entry_search import EntrySearch, newest_first
from neuron_store.cli.entry_state import EntryState, find_holders
from neuron_store.cli.installed_compiler import installed_version
from neuron_store.cli.models import Model, resolve_model
from neuron_store.cli.remote_listing import chosen_remotes
from neuron_store.cli.remotes import Opened
from neuron_store.store.errors import ConfigurationError, NotFound, RemoteError
from neuron_store.store.layout import Layout


class Format(str, Enum):
    """How entries are printed; `seed` is optimum-neuron's own form, up to its release 0.1."""

    TABLE = "table"
    JSON = "json"
    SEED = "seed"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("lookup")(lookup)


def lookup(
    word: Annotated[str, typer.Argument(metavar="MODEL", help="org/name, a model's folder, or a config.json.")],
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
            "--compiler", "-c", metavar="VERSION", help="For compilers whose version starts so; else the one here."
        ),
    ] = "",
    repo: Annotated[
        str,
        typer.Option("--repo", "--repo-id", metavar="REMOTE", help="Only there: org/name, hf://… or file:///…"),
    ] = "",
    form: Annotated[Format, typer.Option("--format", help="seed: as optimum-neuron prints it.")] = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which configurations of a model are compiled already, and what a run would still compile."""
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
    if as_json and form is Format.SEED:
        raise ConfigurationError("--json and --format seed are two forms: choose one")
    form = Format.JSON if as_json else form
    chosen, layout = settings(), local_store()
    installed = installed_version()
    told: dict[str, Any] = {"model": word, "compiler": {"installed": installed or None, "asked": compiler or None}}
    try:
        remotes = chosen_remotes(chosen, layout, repo)
        model = resolve_model(word, task)
        told |= {"model_id": model.model_id, "revision": model.revision, "task": model.task, "digests": model.digests}
        search = EntrySearch(chosen, remotes, model, wanted)
        search.run(installed)
    except (NotFound, RemoteError) as error:
        if form is Format.JSON:
            presentation.print_json({**told, "entries": [], "faults": [str(error)]})
        raise
    states, faults = _states(layout, remotes, search, model)
    urls = [opened.remote.url for opened in remotes]
    if form is Format.JSON:
        presentation.print_json({**told, **as_dict(search, states, model, urls), "faults": faults})
    elif form is Format.SEED:
        print_seed(states, word)
    elif states:
        print_table(states, model, urls, installed)
    for remark in [*remarks_of(search, model), *(faults if states else ())]:
        presentation.remark(remark)
    if not states:
        raise NotFound(nothing_found(search, model, wanted, installed))


def _states(
    layout: Layout, remotes: list[Opened], search: EntrySearch, model: Model
) -> tuple[list[EntryState], list[str]]:
    """Return the state of each entry, the model's own first, and what went wrong in any remote."""
    holders = find_holders(layout, remotes, search.found, all_known=True)
    states = [EntryState(found, holders, model.model_id) for found in search.found]
    newest = newest_first({state.found.place.compiler for state in states})
    states.sort(
        key=lambda state: (
            state.found.entry.model_id != model.model_id,
            newest.index(state.found.place.compiler),
            not state.found.entry.ours,
            len(state.missing),
            state.found.place.path,
        )
    )
    return states, list(dict.fromkeys([*search.faults, *holders.faults]))
