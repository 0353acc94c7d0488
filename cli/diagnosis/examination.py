"""The whole examination: every area at once, each in its time, and none of them able to hang or break the rest."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from neuron_store.cli.diagnosis import (
    callers,
    clock,
    compiler,
    disk,
    filesystem,
    history,
    launcher,
    locks,
    path,
    queue,
    remotes,
    settings,
    storage,
    token,
    versions,
)
from neuron_store.cli.diagnosis.bounded import run_bounded
from neuron_store.cli.diagnosis.finding import Area, Finding, Level, problem
from neuron_store.cli.diagnosis.surroundings import Surroundings, look_around, look_past_file
from neuron_store.store.remotes.private_names import PrivateNames

Value = TypeVar("Value")

_SETTINGS_PATIENCE = 0.3  # of the time for an area

AREA = Area(
    "doctor",
    {
        "no-answer": problem(
            "An area could not be examined in time: something there does not answer, most often a file system whose "
            "server is gone. A compile would wait for it, too.",
            "see `dmesg` and `mount` for a mount that hangs; move the store away from it (NEURON_STORE_DIR)",
        ),
        "fault": problem(
            "An area could not be examined because of a fault: of the surroundings, or of `doctor` itself.",
            "report it with `neuron-store bugreport`",
        ),
    },
)
# In the order in which they are told: from how a compile is called to where its result goes.
EXAMINATIONS: "dict[Area, Callable[[Surroundings], Iterator[Finding]]]" = {
    settings.AREA: settings.examine,
    path.AREA: path.examine,
    launcher.AREA: launcher.examine,
    compiler.AREA: compiler.examine,
    callers.AREA: callers.examine,
    storage.AREA: storage.examine,
    filesystem.AREA: filesystem.examine,
    disk.AREA: disk.examine,
    locks.AREA: locks.examine,
    remotes.AREA: remotes.examine,
    token.AREA: token.examine,
    queue.AREA: queue.examine,
    clock.AREA: clock.examine,
    history.AREA: history.examine,
    versions.AREA: versions.examine,
}
AREAS = (*EXAMINATIONS, AREA)


def examine_all(environ: Mapping[str, str], *, patience: float, offline: bool) -> list[Finding]:
    """Return all findings, area by area. Raises nothing of its own, and takes little more than `patience` seconds.

    No finding has a token, password or key in it.
    """
    here = _surroundings(environ, patience=patience, offline=offline)
    found: dict[Area, list[Finding]] = {area: [] for area in EXAMINATIONS}
    work = [partial(_collect, examine, here, found[area]) for area, examine in EXAMINATIONS.items()]
    for area, outcome in zip(EXAMINATIONS, run_bounded(work, patience), strict=True):
        if not outcome.finished:
            said = f"{area.name}: not examined within {patience:.0f} s"
            found[area] = [*found[area], AREA.find("no-answer", said, examined=area.name)]
        elif outcome.error is not None:
            said = f"{area.name}: {_say(outcome.error)}"
            found[area] = [*found[area], AREA.find("fault", said, examined=area.name)]
    # A clock is compared with the Hub's where the Hub is asked.
    told = [finding for area in EXAMINATIONS for finding in found[area]]
    order = {area.name: number for number, area in enumerate(AREAS)}
    secrets = PrivateNames.of_host(environ)
    return [without_secrets(finding, secrets) for finding in sorted(told, key=lambda each: order[each.area])]


def _surroundings(environ: Mapping[str, str], *, patience: float, offline: bool) -> Surroundings:
    look = partial(look_around, environ, patience=patience, offline=offline)
    (outcome,) = run_bounded([look], patience * _SETTINGS_PATIENCE)
    return outcome.made or look_past_file(environ, patience=patience, offline=offline)


def _collect(examine: "Callable[[Surroundings], Iterator[Finding]]", here: Surroundings, found: list[Finding]) -> None:
    for finding in examine(here):
        found.append(finding)  # noqa: PERF402 - what was found before it hangs is told


def _say(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"{type(error).__name__}: {error}"


def without_secrets(finding: Finding, secrets: PrivateNames) -> Finding:
    """Return the finding without anything secret in its words and facts."""
    redact = secrets.redact_secrets
    facts = {name: _without(value, redact) for name, value in finding.facts.items()}
    return Finding(finding.id, finding.level, redact(finding.what), redact(finding.advice), facts)


def _without(value: object, redact: "Callable[[str], str]") -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        return [_without(each, redact) for each in value]
    if isinstance(value, dict):
        return {redact(str(name)): _without(each, redact) for name, each in value.items()}
    return value


def worst(findings: list[Finding]) -> Level:
    """Return the gravest level among the findings."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
