"""What went wrong lately: the counters of the last days that tell of trouble, and whether there is a log of it."""

import collections
import os
import time
from collections.abc import Iterator

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, warning
from neuron_store.cli.diagnosis.storage import existing_folder
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.cli.totals import group_of
from neuron_store.shim.counters import AUDIT, ERROR, PASS, UPLOAD
from neuron_store.shim.settings import state_folder
from neuron_store.store.events import Event, read_events
from neuron_store.store.layout import Layout

DAYS = 7
# Passed through because that is what was asked for.
_MEANT = {
    "pass_help",
    "pass_version",
    "pass_list_operators",
    "pass_neff_info",
    "pass_no_command",
    "pass_other_command",
    "pass_query_compute_placement",
    "pass_recursion",
    "pass_autotuner",
}
_TROUBLE = {
    "damage": ("corrupt_direct", "corrupt_result", "corrupt_blob", "missing_blob"),
    "store-faults": ("store_fault", "miss_store_failed", "pass_no_writable_store", "context_failed", "queue_failed"),
    "remote-faults": (
        "remote_corrupt",
        "remote_failed",
        "remote_fault",
        "remote_misconfigured",
        "remote_refused",
        "upload_failed",
        "upload_refused",
        "upload_dropped",
    ),
    "mismatch": ("audit_mismatch",),
    "waits": ("lock_timeout", "peers_failed"),
    "compiler-trouble": ("compiler_setting_unusable", "miss_compiler_changed"),
}
_SEE_LOG = "look into the log: `neuron-store config` says where `log_file` is"

AREA = Area(
    "log",
    {
        "quiet": ok(f"In the last {DAYS} days, nothing went wrong that the shim knows of."),
        "unused": note(
            f"The shim was not called in the last {DAYS} days.",
            "if something was compiled meanwhile, it did not find the shim: see the findings on PATH and callers",
        ),
        "errors": warning(
            "A fault of neuron-store, or of its surroundings; the real compiler ran if there was one.", _SEE_LOG
        ),
        "damage": warning(
            "Files of the store were torn, flipped or gone. They were treated as misses, and replaced.",
            "run `neuron-store verify --repair`; look for a failing disk, or someone who deletes files in the store",
        ),
        "store-faults": warning("The store could not take, or give, what it should have.", _SEE_LOG),
        "remote-faults": warning(
            "Remotes could not be reached, refused us, or had something else than they must.",
            "see the findings on remotes and the queue",
        ),
        "mismatch": warning(
            "A stored result, compiled again, came out different; it was disowned.",
            "run `neuron-store verify --recompile 100%`, and report it with `neuron-store bugreport`",
        ),
        "waits": warning(
            "Processes that waited for another one's compile gave up, and compiled by themselves.",
            "see the findings on locks; compile failures of the first one are in its own output",
        ),
        "compiler-trouble": warning(
            "The compiler was replaced while it was used, or the one that is set could not be run.",
            "see the findings on the compiler; do not upgrade it while compiles run",
        ),
        "passed-through": note(
            "Invocations were handed to the compiler uncached, for the reasons that the counters name.",
            "docs/settings-and-counters.md says what each counter means",
        ),
        "unwritable": warning(
            "The shim's log cannot be written: what goes wrong is told nowhere.",
            "change the owner of its folder, or set NEURON_STORE_LOG_FILE",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Count what went wrong in the last days."""
    events = recent_events(here)
    counts = collections.Counter(event.outcome for event in events)
    for event in events:
        counts.update(event.incidents)
    last = f"in the last {DAYS} days"
    trouble = {"errors": tuple(name for name in counts if group_of(name) == ERROR), **_TROUBLE}
    passed = [name for name in counts if group_of(name) == PASS and name not in _MEANT | {"pass_no_writable_store"}]
    wrong = 0
    for kind, names in trouble.items():
        seen = {name: counts[name] for name in names if counts[name]}
        if seen:
            wrong += 1
            yield AREA.find(kind, f"{last}: {_say(seen)}{_latest_detail(events, seen)}", counters=seen)
    if passed:
        seen = {name: counts[name] for name in sorted(passed)}
        yield AREA.find("passed-through", f"{last}: {_say(seen)}", counters=seen)
    invocations = [event for event in events if group_of(event.outcome) not in (AUDIT, UPLOAD)]
    if not invocations:
        yield AREA.find("unused", f"the shim was not called {last}")
    elif not wrong:
        said = presentation.plural(len(invocations), "invocation")
        yield AREA.find("quiet", f"{said} {last}, and nothing went wrong", invocations=len(invocations))
    yield from _log_file(here.settings.log_file)


def recent_events(here: Surroundings) -> list[Event]:
    """Return the events of the last days: of the store, and those that it could not take."""
    since = time.time() - DAYS * 86400
    root = here.layout.root
    found = list(read_events(here.layout, since))
    kept = read_events(Layout(state_folder(here.environ)), since)
    return found + [event for event in kept if event.fields.get("store") == root]


def _say(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {presentation.number(count)}" for name, count in counts.items())


def _latest_detail(events: list[Event], names: dict[str, int]) -> str:
    told = [event for event in events if event.fields.get("detail") and (event.outcome in names)]
    if not told:
        return ""
    latest = max(told, key=lambda event: event.time)
    return f"; the last one {presentation.age(latest.time)} ago: {presentation.printable(latest.fields['detail'])}"


def _log_file(path: str) -> Iterator[Finding]:
    place = path if os.path.exists(path) else existing_folder(os.path.dirname(path))
    if not path or not os.access(place, os.W_OK) or os.path.isdir(path):
        yield AREA.find("unwritable", f"{path or 'the log'} cannot be written", path=path)
