"""`neuron-store add`: run what a model needs compiled, then give a remote its results and its registry entry."""

import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any

import typer

from neuron_store.cli import presentation
from neuron_store.cli.added import asked_by, deliver, require_all, require_success, say
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.context_options import (
    AutoCastType,
    BatchSize,
    ContextOptions,
    Dtype,
    InstanceType,
    Model,
    NumCores,
    Revision,
    SequenceLength,
    Set,
    Task,
    TensorParallelSize,
    context_variables,
    with_context,
)
from neuron_store.cli.registration import note_finished, remember_model
from neuron_store.cli.remotes import Opened, configured_locations
from neuron_store.cli.requirements import require_compiler, require_model, require_remotes
from neuron_store.cli.runs import run_command, shimmed_environment
from neuron_store.cli.sessions import Session, Training, canonical_task, plan_session, session_environment
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.registry.contexts import VARIABLE, Context, context_of, note_private_names
from neuron_store.store.remotes.location import Location

_PANEL = "A training session, where no command is given"


class Precision(str, Enum):
    """What the seed's `add` calls precision."""

    FP = "fp"
    BF16 = "bf16"


def _length(name: str, text: str) -> Any:  # noqa: ANN401 - typer's own
    return typer.Option("--" + name, metavar="N", min=1, help=text, rich_help_panel=_PANEL)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    # The first word that is not an option of ours is the command; all after it is the command's own.
    app.command("add", context_settings={"allow_interspersed_args": False})(add)


def add(
    model: Model,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="What to run, after --; by default, a small session.")
    ] = None,
    revision: Revision = "",
    task: Task = "",
    batch_size: BatchSize = None,
    sequence_length: SequenceLength = None,
    num_cores: NumCores = None,
    auto_cast_type: AutoCastType = "",
    dtype: Dtype = "",
    instance_type: InstanceType = "",
    tensor_parallel_size: TensorParallelSize = None,
    more: Set = None,
    train_batch_size: Annotated[int | None, _length("train-batch-size", "Makes it a training, not an export.")] = None,
    eval_batch_size: Annotated[int | None, _length("eval-batch-size", "Only noted; nothing is evaluated.")] = None,
    encoder_sequence_length: Annotated[int | None, _length("encoder-sequence-length", "In tokens.")] = None,
    decoder_sequence_length: Annotated[int | None, _length("decoder-sequence-length", "In tokens.")] = None,
    gradient_accumulation_steps: Annotated[
        int | None, _length("gradient-accumulation-steps", "Of each update.")
    ] = None,
    max_steps: Annotated[int, _length("max-steps", "Steps to train for.")] = 10,
    precision: Annotated[
        Precision | None, typer.Option(help="bf16: types are bfloat16.", rich_help_panel=_PANEL)
    ] = None,
    repo: Annotated[
        str, typer.Option("--repo-id", "--repo", metavar="REPO", help="This remote, not those configured.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command line, and run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Add a model to the remotes: run what compiles for it, push the results, and register the keys that it needs.

    Without a COMMAND, that is a small export by optimum-neuron, or with --train-batch-size a small training.
    """
    options = ContextOptions(
        revision,
        canonical_task(task),
        batch_size,
        sequence_length,
        num_cores,
        auto_cast_type,
        dtype,
        instance_type,
        tensor_parallel_size,
        more,
    )
    training = Training(
        train_batch_size,
        eval_batch_size,
        encoder_sequence_length,
        decoder_sequence_length,
        gradient_accumulation_steps,
        max_steps,
        precision.value if precision else "",
    )
    if not model:
        raise ConfigurationError("-m names no model")
    word = context_variables(training.described(options), model)[VARIABLE]
    if dry_run:
        _print_plan(word, options, training, command or [], as_json=as_json)
        return
    chosen, layout = settings(), readable_store()
    require_compiler(chosen)
    remotes = require_remotes(layout, chosen, repo)
    resolved, options = require_model(word, options)
    with _planned(word, options, training, command or [], resolved.configs[0]) as (session, folder):
        variables = context_variables(session.options, word)
        context = Context(layout, context_of(variables))
        context.begin()
        note_private_names(context, os.environ)
        remember_model(context, resolved)
        environ = {**with_context(os.environ, variables), **session.variables}
        if repo or not command:
            environ = _with_remotes(environ, chosen, remotes if repo else [], "" if command else folder)
        environ, run_id = shimmed_environment(environ)
        begun = time.time()
        code = run_command(session.command, environ)
    asked = asked_by(layout, run_id, begun, context)
    require_success(code, session.command[0], asked)
    note_finished(layout, variables)
    drained, found = deliver(layout, chosen, remotes, asked, context)
    say(resolved.model_id, asked, drained, found, as_json=as_json)
    require_all(drained, found)


# -- the run -------------------------------------------------------------------------------------------------------


@contextmanager
def _planned(
    word: str, options: ContextOptions, training: Training, command: list[str], config: dict[str, Any]
) -> Iterator[tuple[Session, str]]:
    """Yield what is to be run, and the folder for what a session of ours makes, which vanishes at the end."""
    if command:
        yield Session(command, training.described(options)), ""
        return
    with tempfile.TemporaryDirectory(prefix="neuron-store-add-", ignore_cleanup_errors=True) as folder:
        session = plan_session(word, options, training, config, folder)
        if training.eval_batch_size:
            presentation.remark("--eval-batch-size is not used: optimum-neuron's trainer evaluates nothing")
        yield session, folder


def _with_remotes(environ: dict[str, str], chosen: Settings, only: list[Opened], folder: str) -> dict[str, str]:
    """Return `environ` with the remotes that the run has: `only` these, or if there are none, all that are configured.

    `folder` is that of a session of ours, "" for a command of the user's.
    """
    locations = [opened.location for opened in only] or configured_locations(chosen)
    words = [location.url + ("" if location.writable else "|read-only") for location in locations]
    if folder:
        return session_environment(environ, folder, words)
    environ = {**environ, "NEURON_STORE_REMOTES": " ".join(words)}
    name = _seed_name(locations[0])
    return {**environ, "CUSTOM_CACHE_REPO": name} if name else environ


def _seed_name(location: Location) -> str:
    """Return a remote's name as optimum-neuron has it, "" where it has none."""
    is_plain = location.scheme == "hf" and location.repo_type == "model" and location.revision == "main"
    return location.place if is_plain else ""


def _print_plan(word: str, options: ContextOptions, training: Training, command: list[str], *, as_json: bool) -> None:
    """Print what would be run, with the variables that say which model it is for. Nothing is asked of the Hub."""
    config: dict[str, Any] = {}
    if os.path.exists(word):
        resolved, options = require_model(word, options)
        config = resolved.configs[0]
    elif not options.task:
        raise ConfigurationError("give --task: a dry run does not ask the Hub for the model's")
    with _planned(word, options, training, command, config) as (session, _):
        variables = {**context_variables(session.options, word), **session.variables}
        if as_json:
            presentation.print_json({"command": session.command, "variables": variables})
            return
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        presentation.write(" ".join([*words, shlex.join(session.command)]) + "\n")
