"""`neuron-store run`: a command with the shim first on its PATH, and a summary when it ends."""

import os
import signal
import subprocess
import time
import uuid
from typing import Annotated

import typer

from neuron_store.cli.context import events_of, local_store, settings
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
from neuron_store.cli.environment import path_entries
from neuron_store.cli.presentation import duration, plural, remark
from neuron_store.cli.registration import begin_context, note_finished
from neuron_store.cli.remotes import configured_locations
from neuron_store.cli.totals import Totals
from neuron_store.shim.launcher import write_launcher
from neuron_store.shim.real_compiler import PROGRAM, search_path
from neuron_store.shim.run_compiler import die_like
from neuron_store.store.errors import NeuronStoreError, NotFound

_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    # The first word that is not an option of ours is the command; all after it is the command's own.
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")],
    model: Model = "",
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no summary at the end.")] = False,
    push: Annotated[bool, typer.Option("--push/--no-push", help="At the end, wait for results to be uploaded.")] = True,
    push_timeout: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Wait no longer; the upload goes on in the background.")
    ] = 60.0,
) -> None:
    """Run a command with the shim first on PATH; at the end say on stderr what was served and what compiled.

    With -m MODEL, the keys that it asks for are registered in the remotes, for `lookup` and `pull`.
    """
    options = ContextOptions(
        revision,
        task,
        batch_size,
        sequence_length,
        num_cores,
        auto_cast_type,
        dtype,
        instance_type,
        tensor_parallel_size,
        more,
    )
    variables = context_variables(options, model)
    if variables:
        begin_context(local_store(), variables, read_only=settings().read_only)
        if not any(location.writable for location in configured_locations(settings())):
            remark("no remote may be written to: the model's keys stay here")
    begun = time.time()
    environ, run_id = shimmed_environment(with_context(os.environ, variables))
    code = run_command(command, environ)
    if code == 0:
        _note_finished(environ)
    pushed = _push(push_timeout if push else None)
    if not quiet:
        _say_summary(run_id, begun, pushed)
    die_like(code)
    raise typer.Exit(code)


def _note_finished(environ: dict[str, str]) -> None:
    """Note that a run of a model ended well. Never raises: the command's own end is what counts."""
    try:
        note_finished(local_store(), environ)
    except (NeuronStoreError, OSError) as error:
        remark(f"the end of the run could not be noted: {error}")


def shimmed_environment(environ: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return `environ` with the shim first on PATH and a new run's name in it, and that name."""
    run_id = uuid.uuid4().hex[:16]
    entries = path_entries(write_launcher().parent, environ.get("PATH"))
    return {**environ, "PATH": ":".join(entries), "NEURON_STORE_RUN": run_id}, run_id


def run_command(command: list[str], environ: dict[str, str]) -> int:
    """Run a command in the foreground; return its exit code, minus a signal's number.

    Raises NotFound, with a shell's exit code for it, if it cannot be run.
    """
    # Ctrl-C reaches the command from the terminal; we stay to say what it did.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What comes before there is a command to forward it to waits.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)

    def in_child() -> None:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        process = subprocess.Popen(
            command,
            env=environ,
            close_fds=False,
            preexec_fn=in_child,  # noqa: PLW1509 - there is one thread
        )
        for number in _FORWARDED:
            signal.signal(number, lambda received, _frame: process.send_signal(received))
    except OSError as error:
        fault = NotFound(f"{command[0]} cannot be run: {error.strerror}")
        fault.exit_code = 127 if isinstance(error, FileNotFoundError) else 126  # as a shell has it
        raise fault from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process.wait()


def _push(timeout: "float | None") -> str:
    """Wait for the upload, unless `timeout` is None; return what to say of it.

    Never raises: the command's own end is what counts.
    """
    try:
        chosen, layout = settings(), local_store()
        from neuron_store.cli.last_push import push_queued, say_waiting

        pushed = push_queued(layout, chosen, timeout) if timeout is not None and chosen.upload else ""
        return pushed or say_waiting(layout, chosen)
    except (NeuronStoreError, OSError) as error:
        return f"nothing was pushed: {error}"


def _say_summary(run_id: str, begun: float, pushed: str) -> None:
    """Print the summary. Never raises: the command's own end is what the caller wants to know."""
    try:
        remark("; ".join(filter(None, (_summary(run_id, begun), pushed))))
    except (NeuronStoreError, OSError) as error:
        remark(f"no summary: {error}")


def _summary(run_id: str, begun: float) -> str:
    totals = Totals(event for event in events_of(local_store(), begun) if event.fields.get("run") == run_id)
    if not totals.invocations:
        known = settings().compiler or search_path(os.environ.get("PATH"))
        missing = "" if known else f" (there is no {PROGRAM} on PATH)"
        return f"nothing was compiled{missing}"
    said = [plural(totals.hits, "hit"), plural(totals.misses, "miss", "misses")]
    if totals.passed:
        said.append(f"{totals.passed} passed through")
    if totals.errors:
        said.append(f"{plural(totals.errors, 'error')} (see {settings().log_file})")
    return f"{', '.join(said)}; compiled {duration(totals.seconds_compiled)}, saved {duration(totals.seconds_saved)}"
