"""`neuron-store verify`: that what the store holds is whole, and that the compiler still makes it."""

import os
import random
import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from neuron_store.cli import presentation
from neuron_store.cli.audit import MISMATCH, SAME, SKIPPED, UNDECIDED, Verdict, audit
from neuron_store.cli.context import local_store
from neuron_store.store.blobs import write_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import ConfigurationError, CorruptEntry, MismatchFound
from neuron_store.store.layout import Layout, discard
from neuron_store.store.results import Result, all_keys, find_key, load_result

_SAYINGS = {SAME: "same", MISMATCH: "MISMATCH", UNDECIDED: "undecided", SKIPPED: "skipped"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("verify")(verify)


def verify(
    key: Annotated[str, typer.Option(metavar="KEY", help="Only the result with this key, or its first digits.")] = "",
    recompile: Annotated[
        str, typer.Option(metavar="N|P%", help="Compile so many results, or such a share, again and compare.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that every result is whole; with --recompile, that the compiler makes the same of a sample."""
    layout = local_store()
    keys = [find_key(layout, key.lower())] if key else list(all_keys(layout))
    count = _sample_size(recompile, len(keys))
    results, damaged = _check(layout, keys)
    chosen = random.sample(results, min(count, len(results)))
    verdicts = _audit_all(layout, chosen)
    if as_json:
        report = {"results": len(keys), "damaged": damaged, "audited": [asdict(verdict) for verdict in verdicts]}
        presentation.print_json(report)
    else:
        _print(layout, len(keys), damaged, verdicts)
    mismatches = [verdict for verdict in verdicts if verdict.outcome == MISMATCH]
    if mismatches:
        raise MismatchFound(
            "\n".join(
                f"MISMATCH: {verdict.key} ({verdict.module}): {verdict.detail}; the result is disowned"
                for verdict in mismatches
            )
        )
    if damaged:
        raise CorruptEntry(f"{presentation.plural(len(damaged), 'result')} damaged, and taken out of the store")


def _sample_size(text: str, total: int) -> int:
    if not text:
        return 0
    written = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if not written or (written[2] and float(written[2]) > 100):
        raise ConfigurationError(f"--recompile {text}: give a number of results, or a share such as 5%")
    if written[1]:
        return int(written[1])
    return -(-int(total * float(written[2])) // 100)


def _check(layout: Layout, keys: list[str]) -> tuple[list[Result], dict[str, str]]:
    """Read every result and all its blobs; return the whole ones, and what is wrong with the others."""
    whole, damaged = [], {}
    with _progress() as progress:
        for key in progress.track(keys, description="reading"):
            try:
                result = load_result(layout, key)
                if result is not None:
                    _check_blobs(layout, result)
                    whole.append(result)
            except CorruptEntry as error:
                damaged[key] = str(error)
                discard(layout.result_path(key))
                if error.path:
                    discard(error.path)
    return whole, damaged


def _check_blobs(layout: Layout, result: Result) -> None:
    kept = [
        Output("neff", file["sha256"], file["xxh3"], file["size"], file["encoding"], None)
        for file in result.input.get("files") or []
    ]
    with open(os.devnull, "wb") as nowhere:
        for output in [*result.outputs.values(), *kept]:
            write_blob(layout, output, nowhere.fileno())


def _audit_all(layout: Layout, results: list[Result]) -> list[Verdict]:
    if not results:
        return []
    with _progress() as progress:
        return [audit(layout, result) for result in progress.track(results, description="compiling again")]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return presentation.progress(*columns)


def _print(layout: Layout, total: int, damaged: dict[str, str], verdicts: list[Verdict]) -> None:
    for key, problem in damaged.items():
        presentation.write(f"damaged    {key[:12]}  {problem}\n")
    for verdict in verdicts:
        presentation.write(f"{_SAYINGS[verdict.outcome]:10} {verdict.key[:12]}  {verdict.module}: {verdict.detail}\n")
    whole = total - len(damaged)
    presentation.write(f"{presentation.plural(whole, 'result')} of {total} whole in {layout.root}\n")
