"""`neuron-store bugreport`: all that helps to find a fault, in one file without secrets and names. Nothing is sent."""

import collections
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.bounded import run_bounded
from neuron_store.cli.diagnosis.examination import examine_all
from neuron_store.cli.diagnosis.history import DAYS, recent_events
from neuron_store.cli.diagnosis.surroundings import Surroundings, look_around
from neuron_store.cli.doctor import LONGEST_PATIENCE, as_document
from neuron_store.cli.redaction import Redactor, without_comments
from neuron_store.hashing.inputs import open_regular
from neuron_store.shim.counters import COUNTERS
from neuron_store.shim.settings import SETTINGS, config_path
from neuron_store.store.errors import ConfigurationError, StoreUnavailable

_PATIENCE = 20.0  # seconds
_LOG_LINES = 500
_EVENTS = 500
_LARGEST_TAIL = 1 << 20  # bytes read from the end of a log
_LARGEST_CONFIG = 1 << 20
_SUFFIXES = (".tar.gz", ".tgz", ".zip")
# Variables whose values help; of the others, nothing is told.
_TELLING = ("NEURON", "NKI", "XLA_", "HF_", "HUGGING", "CUSTOM_CACHE_REPO", "XDG_", "PYTHON", "VIRTUAL_ENV", "CONDA_")
_TELLING_NAMES = ("PATH", "HOME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "COLUMNS")
_CONTENTS = {
    "README.txt": "what is in the others, and what was replaced",
    "doctor.json": "what `neuron-store doctor --json` says, and versions",
    "settings.json": "every setting, its value and where it came from",
    "config.toml": "the configuration file as it stands, but for comments",
    "environment.json": "variables of Neuron, Python, the Hub and PATH; of all others, nothing",
    "counters.json": f"how often each counter was reached in the last {DAYS} days",
    "events.jsonl": "the last invocations of the shim, one a line: outcome, key, module's name, seconds",
    "shim.log": "the last lines of the shim's log",
}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bugreport")(bugreport)


def bugreport(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .tar.gz or .zip; by default in this folder."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no remote.")] = False,
    lines: Annotated[int, typer.Option(min=0, metavar="N", help="The last lines of the log.")] = _LOG_LINES,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=LONGEST_PATIENCE, metavar="SECONDS", help="How long any one thing may take.")
    ] = _PATIENCE,
) -> None:
    """Pack what helps to find a fault into one file, without tokens, names and homes. Nothing is sent."""
    path = output or Path(time.strftime("neuron-store-report-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    if not path.name.endswith(_SUFFIXES):
        raise ConfigurationError(f"{path} must end in {' or '.join(_SUFFIXES)}")
    members = _gather(dict(os.environ), lines=lines, patience=timeout, offline=offline)
    try:
        with open(path, "xb") as file:
            file.write(_pack(members, path.name))
    except FileExistsError:
        raise ConfigurationError(f"{path} exists; name another file with -o, or remove it") from None
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be written ({error.strerror}); name another file with -o") from error
    _say(path, members)


def _say(path: Path, members: dict[str, bytes]) -> None:
    width = max(map(len, members))
    presentation.write(f"{path}\n")
    for name, data in members.items():
        presentation.write(f"  {name:{width}}  {presentation.size(len(data)):>8}  {_CONTENTS[name]}\n")
    presentation.write(
        "\nTokens, passwords and keys are replaced by <token>; homes, users, hosts and addresses by ~, USER, HOST-1,\n"
        "ADDRESS-1. Names of models, modules and folders are in it. Look through it before you attach it to an issue:\n"
        "nothing was sent.\n"
    )


# -- what is in it ---------------------------------------------------------------------------------------------------


def _gather(environ: dict[str, str], *, lines: int, patience: float, offline: bool) -> dict[str, bytes]:
    """Return name -> content of all files of the report. What cannot be read says so in its place."""
    here = look_around(environ, patience=patience, offline=offline)
    redactor = Redactor(environ, hosts=_hosts_of_events(here), secrets=[here.settings.key_salt])
    parts: dict[str, Callable[[], Any]] = {
        "doctor.json": lambda: as_document(examine_all(environ, patience=patience, offline=offline)),
        "settings.json": lambda: _settings(here),
        "config.toml": lambda: without_comments(_tail(config_path(environ), _LARGEST_CONFIG)),
        "environment.json": lambda: _telling(environ),
        "counters.json": lambda: _counters(here),
        "events.jsonl": lambda: _events(here),
        "shim.log": lambda: _log(here.settings.log_file, lines),
    }
    members = {"README.txt": _readme()}
    # Read at once, but redacted one after the other: a host that one file names is the same word in the next.
    for name, outcome in zip(parts, run_bounded(list(parts.values()), patience * 2), strict=True):
        made = outcome.made
        if made is None:
            fault = str(outcome.error) if outcome.finished else "it was not read in time"
            made = f"neuron-store: {name} could not be made: {fault}\n"
        members[name] = _written(name, redactor.value(made)).encode("utf-8", "backslashreplace")
    return members


def _written(name: str, value: Any) -> str:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return value
    if name.endswith(".jsonl"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value)
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _readme() -> bytes:
    lines = [
        "A report of neuron-store's, made by `neuron-store bugreport`. Nothing in it was sent by that command.",
        "",
    ]
    lines += [f"{name}: {meaning}" for name, meaning in _CONTENTS.items()]
    lines += [
        "",
        "Replaced: tokens, passwords and keys by <token>, homes by ~, users by USER, hosts by HOST-1 and so on, IP addresses",
        "by ADDRESS-1, addresses of mail by EMAIL. Names of models, modules and folders are as they are.",
        "",
    ]
    return "\n".join(lines).encode()


def _settings(here: Surroundings) -> dict[str, Any]:
    rows = {name: {"value": getattr(here.settings, name), "source": here.settings.sources[name]} for name in SETTINGS}
    if here.settings.key_salt:
        rows["key_salt"]["value"] = "<token>"
    return {"config_file": config_path(here.environ), "fault": here.fault, "settings": rows}


def _telling(environ: Mapping[str, str]) -> dict[str, str]:
    proxies = [name for name in environ if name.lower().endswith("_proxy")]
    named = [name for name in environ if name.startswith(_TELLING) or name in _TELLING_NAMES]
    return {name: environ[name] for name in sorted({*named, *proxies})}


def _counters(here: Surroundings) -> dict[str, int]:
    counts = collections.Counter(dict.fromkeys(COUNTERS, 0))
    for event in recent_events(here):
        counts[event.outcome] += 1
        counts.update(event.incidents)
    return dict(counts)


def _events(here: Surroundings) -> list[dict[str, Any]]:
    events = sorted(recent_events(here), key=lambda event: event.time)[-_EVENTS:]
    return [{"time": event.time, "outcome": event.outcome, **event.fields} for event in events]


def _hosts_of_events(here: Surroundings) -> list[str]:
    """Return the hosts that share the store: a file of the event log is named <day>-<user's number>-<host>."""
    try:
        names = os.listdir(f"{here.layout.root}/events")
    except OSError:
        return []
    return sorted({parts[4] for name in names if len(parts := name.split("-", 4)) == 5})


def _log(path: str, lines: int) -> str:
    """Return the last lines of the log, also of the one that was set aside before it."""
    text = _tail(path, _LARGEST_TAIL)
    if text.count("\n") < lines:
        text = _tail(path + ".1", _LARGEST_TAIL) + text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""


def _tail(path: str, most: int) -> str:
    """Return the end of a file, "" if there is none. Raises OSError."""
    try:
        descriptor = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    with open(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        file.seek(max(0, size - most))
        text = file.read(most).decode("utf-8", "replace")
    return text.partition("\n")[2] if size > most else text


# -- the file --------------------------------------------------------------------------------------------------------


def _pack(members: dict[str, bytes], name: str) -> bytes:
    """Return an archive of the members, in a folder of its own, that tells nothing of who made it."""
    folder = "neuron-store-report"
    packed = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
            for member, data in members.items():
                bundle.writestr(f"{folder}/{member}", data)
        return packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member, data in members.items():
            entry = tarfile.TarInfo(f"{folder}/{member}")
            entry.size = len(data)
            entry.mtime = int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
