"""`neuron-store doctor`: what is wrong, or good to know, about this installation, its store and its remotes."""

import collections
import os
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.diagnosis.examination import examine_all
from neuron_store.cli.diagnosis.finding import Finding, Level
from neuron_store.cli.diagnosis.versions import base_versions

PROBLEMS_FOUND = 4  # the exit code
_PATIENCE = 20.0  # seconds
LONGEST_PATIENCE = 3600.0  # seconds; threads and sockets can wait no longer than some years
_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Ask no remote.")] = False,
    brief: Annotated[bool, typer.Option("--brief", "-q", help="Only warnings and problems.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=LONGEST_PATIENCE, metavar="SECONDS", help="How long any one thing may take.")
    ] = _PATIENCE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong, or good to know: PATH, launcher, compiler, callers, store, locks, remotes, queue, versions.

    The exit code is 0 if there is no problem (warnings are none), else 4.
    """
    findings = examine_all(dict(os.environ), patience=timeout, offline=offline)
    if as_json:
        presentation.print_json(as_document(findings))
    else:
        _print([finding for finding in findings if not brief or finding.level in (Level.WARNING, Level.PROBLEM)])
        presentation.write(_sum_up(findings) + "\n")
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(PROBLEMS_FOUND)


def as_document(findings: list[Finding]) -> dict[str, Any]:
    """Return everything as JSON-ready values."""
    return {
        "findings": [finding.as_dict() for finding in findings],
        "counts": {level.value: count for level, count in _count(findings).items()},
        "versions": base_versions(),
    }


def _count(findings: list[Finding]) -> dict[Level, int]:
    counts = collections.Counter(finding.level for finding in findings)
    return {level: counts[level] for level in Level}


def _sum_up(findings: list[Finding]) -> str:
    counts = _count(findings)
    grave = [
        presentation.plural(counts[level], level.value) for level in (Level.PROBLEM, Level.WARNING) if counts[level]
    ]
    if not grave:
        return "nothing is wrong that can be told from here"
    return " and ".join(grave) + "; what each means: docs/doctor.md"


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for finding in findings:
        area = "" if finding.area == last else finding.area
        last = finding.area
        table.add_row(
            Text(area, style="bold"), Text(finding.level.value, style=_STYLES[finding.level]), _in_words(finding)
        )
    if findings:
        presentation.print_table(table)
        presentation.write("\n")


def _in_words(finding: Finding) -> Text:
    said = Text(presentation.printable(finding.what))
    if finding.level is not Level.OK:
        said.append(f" [{finding.id}]", style="dim")
        if finding.advice:
            said.append(f"\n→ {presentation.printable(finding.advice)}")
    return said
