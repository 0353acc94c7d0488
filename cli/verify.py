"""`neuron-store verify`: that what the store and its remotes hold is whole, and that the compiler still makes it."""

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.audit import MISMATCH, SAME, SKIPPED, UNDECIDED, Verdict, audit
from neuron_store.cli.context import readable_store, settings
from neuron_store.cli.findings import show_findings
from neuron_store.cli.remote_verifying import verify_remotes
from neuron_store.cli.repairing import repair
from neuron_store.store.checking.check import Checked, Tick, check_results, check_store
from neuron_store.store.checking.faults import LEFT, Finding, count_kinds
from neuron_store.store.errors import ConfigurationError, CorruptEntry, MismatchFound
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result, find_key, load_result

_SAYINGS = {SAME: "same", MISMATCH: "MISMATCH", UNDECIDED: "undecided", SKIPPED: "skipped"}
_MOST_THREADS = 32


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("verify")(verify)


def verify(
    key: Annotated[str, typer.Option(metavar="KEY", help="Only the result with this key, or its first digits.")] = "",
    mend: Annotated[
        bool, typer.Option("--repair", help="Mend what is wrong; what is damaged goes to the store's quarantine.")
    ] = False,
    recompile: Annotated[
        str, typer.Option(metavar="N|P%", help="Compile so many results, or such a share, again and compare.")
    ] = "",
    remote: Annotated[
        str, typer.Option(metavar="NAME|all", help="Check a remote, or all of them, in place of the store.")
    ] = "",
    deep: Annotated[bool, typer.Option("--deep", help="With --remote: read every blob, too.")] = False,
    threads: Annotated[
        int, typer.Option("--threads", "-j", min=1, max=_MOST_THREADS, help="How many blobs are read at a time.")
    ] = min(_MOST_THREADS, os.cpu_count() or 1),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that the store is whole: every record, every blob, every reference, and that nothing else is there.

    Nothing is changed without --repair. With --recompile, also that the compiler makes the same of a sample. With
    --remote, that every record of a remote, and every blob that it names, is whole.
    """
    if deep and not remote:
        raise ConfigurationError("--deep is for --remote: all of the local store is always read")
    if remote:
        if key or recompile:
            raise ConfigurationError("--remote checks all of a remote; leave --key and --recompile out")
        verify_remotes(settings(), readable_store(), remote, deep=deep, mend=mend, as_json=as_json)
        return
    if mend and key:
        raise ConfigurationError("--repair mends the whole store; leave --key out")
    layout = readable_store()
    share = _read_sample(recompile)
    with _bar("reading") as tick:
        if mend:
            checked, findings, quarantine = repair(layout, settings(), threads, tick)
        else:
            checked = (
                check_results(layout, [find_key(layout, key.lower())], threads)
                if key
                else (check_store(layout, threads, tick))
            )
            findings, quarantine = checked.findings, None
    verdicts = _audit_all(layout, _sample(layout, checked, share))
    moved = quarantine.moved if quarantine else 0
    folder = quarantine.folder if quarantine and moved else ""
    if as_json:
        presentation.print_json(_as_dict(checked, findings, verdicts, moved, folder))
    else:
        _show(layout, checked, findings, verdicts)
        if folder:
            presentation.remark(f"{presentation.plural(moved, 'file')} moved to {folder}")
    _end(layout, checked, findings, verdicts, mended=mend)


def _as_dict(
    checked: Checked, findings: list[Finding], verdicts: list[Verdict], moved: int, folder: str
) -> dict[str, Any]:
    return {
        "results": checked.results,
        "whole": checked.results - len(checked.suffering),
        "blobs": checked.blobs,
        "other_format": checked.newer,
        "found": count_kinds([finding for finding in findings if not finding.follows]),
        "followed": count_kinds([finding for finding in findings if finding.follows]),
        "left": len(checked.findings),
        "findings": [finding.as_dict() for finding in findings],
        "damaged": {key: each.detail for each in checked.findings for key in each.keys if key in checked.suffering},
        "quarantine": {"files": moved, "folder": folder},
        "audited": [asdict(verdict) for verdict in verdicts],
    }


def _show(layout: Layout, checked: Checked, findings: list[Finding], verdicts: list[Verdict]) -> None:
    show_findings(findings)
    for verdict in verdicts:
        presentation.write(f"{_SAYINGS[verdict.outcome]:10} {verdict.key[:12]}  {verdict.module}: {verdict.detail}\n")
    whole = checked.results - len(checked.suffering)
    presentation.write(f"{presentation.plural(whole, 'result')} of {checked.results} whole in {layout.root}\n")
    if checked.newer:
        presentation.remark(f"{presentation.plural(checked.newer, 'record')} of another format, not looked at")


def _end(layout: Layout, checked: Checked, findings: list[Finding], verdicts: list[Verdict], *, mended: bool) -> None:
    """Raise what the command ends with, if not all is well."""
    mismatches = [verdict for verdict in verdicts if verdict.outcome == MISMATCH]
    if mismatches:
        raise MismatchFound(
            "\n".join(
                f"MISMATCH: {verdict.key} ({verdict.module}): {verdict.detail}; the result is disowned"
                for verdict in mismatches
            )
        )
    if not checked.findings:
        return
    faults = presentation.plural(len(checked.findings), "fault")
    damaged = presentation.plural(len(checked.suffering), "result")
    if not mended:
        raise CorruptEntry(
            f"{faults} in {layout.root}, {damaged} damaged; `neuron-store verify --repair` mends what can be mended"
        )
    why = next((finding.done for finding in findings if finding.outcome == LEFT), "they came up meanwhile")
    raise CorruptEntry(f"{faults} left in {layout.root}, {damaged} damaged: {why}")


# -- compiling again ---------------------------------------------------------------------------------------------------


def _read_sample(text: str) -> "int | float":
    """Return a number of results, or a share of them as a float from 0 to 1. Raises ConfigurationError."""
    if not text:
        return 0
    written = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if not written or (written[2] and float(written[2]) > 100):
        raise ConfigurationError(f"--recompile {text}: give a number of results, or a share such as 5%")
    return int(written[1]) if written[1] else float(written[2]) / 100


def _sample(layout: Layout, checked: Checked, share: "int | float") -> list[Result]:
    """Return so many of the results that are whole, at random."""
    if not share:
        return []
    count = share if isinstance(share, int) else -(-int(checked.results * share * 100) // 100)
    whole = sorted(checked.keys - checked.suffering)
    chosen = random.sample(whole, min(count, len(whole)))
    return [result for key in chosen if (result := load_result(layout, key)) is not None]


def _audit_all(layout: Layout, results: list[Result]) -> list[Verdict]:
    if not results:
        return []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with presentation.progress(*columns) as progress:
        return [audit(layout, result) for result in progress.track(results, description="compiling again")]


@contextmanager
def _bar(title: str) -> Iterator[Tick]:
    with presentation.progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
