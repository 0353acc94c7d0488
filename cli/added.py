"""What a run that `neuron-store add` started has asked for, and whether remotes have it: computed, not assumed."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import events_of
from neuron_store.cli.registration import make_entries
from neuron_store.cli.remotes import Opened
from neuron_store.cli.totals import group_of
from neuron_store.cli.uploading import Drained, drain
from neuron_store.shim.counters import HIT, MISS, PASS
from neuron_store.shim.real_compiler import PROGRAM
from neuron_store.shim.run_compiler import die_like
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import CorruptEntry, CorruptRemote, NotFound, RemoteError
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue
from neuron_store.store.registry.contexts import Context
from neuron_store.store.registry.entries import LARGEST_ENTRY, decode_entry
from neuron_store.store.registry.places import Place
from neuron_store.store.remotes.base import record_path, version_folder
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.results import Result, load_result

_STORED = "miss_stored"
_STOCK_CACHE = "NEURON_COMPILE_CACHE_URL"


@dataclass
class Asked:
    """What a run asked of the compiler.

    Attributes:
        invocations: how often it called `neuronx-cc`, for whatever purpose.
        compiled, hits: keys that were compiled and stored; that were only served.
        uncached: counter -> compiles of which nothing was stored.
    """

    invocations: int = 0
    compiled: set[str] = field(default_factory=set)
    hits: set[str] = field(default_factory=set)
    uncached: Counter[str] = field(default_factory=Counter)

    @property
    def keys(self) -> list[str]:
        """All keys, in order."""
        return sorted(self.compiled | self.hits)


def asked_by(layout: Layout, run_id: str, since: float, context: Context) -> Asked:
    """Return what the run of that name, in that context, has asked for since (Unix seconds)."""
    asked = Asked()
    uncached = context.uncached()  # tells which outcomes are compiles
    for event in events_of(layout, since):
        group = group_of(event.outcome)
        if event.fields.get("run") != run_id or group not in (HIT, MISS, PASS):
            continue
        asked.invocations += 1
        key = event.fields.get("key", "")
        if group == HIT and key:
            asked.hits.add(key)
        elif event.outcome == _STORED and key:
            asked.compiled.add(key)
        elif event.outcome in uncached:
            asked.uncached[event.outcome] += 1
    asked.hits -= asked.compiled
    return asked


@dataclass
class Presence:
    """What a remote has of a run.

    Attributes:
        url: of the remote.
        present: how many of the keys' results it has.
        elsewhere: keys of results that came from another remote, and are not passed on as ours.
        absent: all other keys that it lacks.
        registered: whether it has an entry that tells every key.
    """

    url: str
    present: int
    elsewhere: list[str]
    absent: list[str]
    registered: bool

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready values."""
        return asdict(self)


def queue_lacking(layout: Layout, opened: Opened, keys: Iterable[str]) -> None:
    """Queue those of the results that the remote lacks: a hit may be of another remote's, or of an earlier day.

    Raises RemoteError if the remote does not tell what it has; OSError.
    """
    paths = {path: key for key, (path, result) in _known(layout, keys).items() if result and _is_ours(result)}
    there = opened.remote.look_up(list(paths)) if paths else {}
    for path, key in paths.items():
        if path not in there:
            enqueue(layout, opened.remote.identity, key)


def presence_of(layout: Layout, opened: Opened, keys: list[str], context: Context) -> Presence:
    """Ask the remote what it has of the keys, and whether it has an entry for `context` that tells them all.

    Raises RemoteError.
    """
    known = _known(layout, keys)
    there = opened.remote.look_up([path for path, _ in known.values()]) if known else {}
    lacking = [key for key in keys if key not in known or known[key][0] not in there]
    elsewhere = [key for key in lacking if key in known and (result := known[key][1]) and not _is_ours(result)]
    absent = [key for key in lacking if key not in elsewhere]
    registered = _registered_keys(layout, opened, context) >= set(keys)
    return Presence(opened.remote.url, len(keys) - len(lacking), elsewhere, absent, registered)


def _known(layout: Layout, keys: Iterable[str]) -> dict[str, tuple[str, Result | None]]:
    """Return key -> its record's name in a remote, and its result; keys whose result is gone are left out."""
    found: dict[str, tuple[str, Result | None]] = {}
    for key in keys:
        try:
            result = load_result(layout, key)
        except (CorruptEntry, OSError):
            continue
        if result is not None:
            folder = version_folder(str(result.provenance.get("compiler_version") or ""))
            found[key] = (record_path(folder, key), result)
    return found


def _is_ours(result: Result) -> bool:
    """Tell whether a result was made here, and can be believed elsewhere."""
    return "origin" not in result.provenance and bool(result.input.get("proof"))


def _registered_keys(layout: Layout, opened: Opened, context: Context) -> set[str]:
    found: set[str] = set()
    for filed in make_entries(layout, context, PrivateNames.of_host(os.environ)):
        path = filed.paths()[0]
        content = opened.remote.read(path, LARGEST_ENTRY)
        if content is not None:
            try:
                found |= decode_entry(content, Place(path)).keys.keys()
            except CorruptRemote:
                continue
    return found


# -- in words --------------------------------------------------------------------------------------------------------


def require_success(code: int, program: str, asked: Asked) -> None:
    """End as the command did, if it failed; raise NotFound if it asked for no key."""
    made = presentation.plural(len(asked.compiled), "result that it made stays", "results that it made stay")
    if code:
        how = f"failed (exit code {code})" if code > 0 else f"was ended by signal {-code}"
        kept = f"; {made} queued, for the background or `neuron-store push`" if asked.compiled else ""
        presentation.remark(f"{program} {how}, so the model is not added{kept}")
        die_like(code)
        raise typer.Exit(code)
    if not asked.invocations:
        raise NotFound(
            f"{program} ran no {PROGRAM}: nothing to add; if the stock cache has it all, "
            f"set {_STOCK_CACHE} to an empty folder"
        )
    if not asked.keys:
        raise NotFound(f"{program} compiled nothing that can be shared{_uncached(asked)}: nothing to add")


def deliver(
    layout: Layout, chosen: Settings, remotes: list[Opened], asked: Asked, context: Context
) -> tuple[Drained, list[Presence]]:
    """Push results and entry, and ask the remotes what they have then. Raises RemoteError."""
    for opened in remotes:
        queue_lacking(layout, opened, asked.keys)
    drained = drain(layout, chosen, remotes, None)
    return drained, [presence_of(layout, opened, asked.keys, context) for opened in remotes]


def say(model_id: str, asked: Asked, drained: Drained, found: list[Presence], *, as_json: bool) -> None:
    """Print what was added: a line for each remote, or JSON."""
    if as_json:
        presentation.print_json(
            {
                "model": model_id,
                "keys": asked.keys,
                "compiled": len(asked.compiled),
                "hits": len(asked.hits),
                "uncached": dict(asked.uncached),
                "push": drained.as_dict(),
                "remotes": [one.as_dict() for one in found],
            }
        )
        return
    total = len(asked.keys)
    for one in found:
        presentation.write(
            f"added {presentation.plural(total, 'key')} ({len(asked.compiled)} compiled, "
            f"{presentation.plural(len(asked.hits), 'hit')}) of {model_id} to {one.url}: "
            f"{one.present} of {total} present\n"
        )
        if one.elsewhere:
            there = presentation.plural(len(one.elsewhere), "result")
            presentation.remark(f"{there} came from another remote, and {one.url} does not get it from us")
    if asked.uncached:
        count = presentation.plural(sum(asked.uncached.values()), "compile is", "compiles are")
        presentation.remark(f"{count} done again by every run, for nothing of it can be shared{_uncached(asked)}")


def _uncached(asked: Asked) -> str:
    named = ", ".join(f"{count} {counter}" for counter, count in sorted(asked.uncached.items()))
    return f" ({named}; see `neuron-store stats`)" if named else ""


def require_all(drained: Drained, found: list[Presence]) -> None:
    """Raise RemoteError, in words for a person, if a remote lacks what it should have."""
    drained.require_all()
    for one in found:
        if one.absent:
            count = presentation.plural(len(one.absent), "result is", "results are")
            raise RemoteError(f"{count} not in {one.url}: see `neuron-store stats` and the log for the reason")
        if not one.registered:
            raise RemoteError(f"{one.url} has no entry that tells all keys; `neuron-store push` tries again")
