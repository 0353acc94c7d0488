"""`neuron-store key`: the key of a command line and all that it is made of, without compiling."""

import os
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from neuron_store.cli import presentation
from neuron_store.cli.inquiry import Inquiry
from neuron_store.hashing.keys import Component
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.canonical import Canonical
from neuron_store.shim.counters import COUNTERS

COMMAND_LINE = Annotated[
    list[str],
    typer.Argument(metavar="COMMAND", help="neuronx-cc compile …; the program's name may be left out."),
]
# The first word that is not an option of ours begins the command line; all after it is its own.
CONTEXT = {"allow_interspersed_args": False}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("key", context_settings=CONTEXT)(key)


def key(
    command: COMMAND_LINE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the key of a command line and all that it is made of; compile nothing."""
    inquiry = Inquiry(command)
    try:
        inquiry.prepare()
        canonical = inquiry.canonical()
    except NotCacheable as answer:
        _say_passed(answer, as_json=as_json)
        raise typer.Exit(1) from None
    if as_json:
        presentation.print_json(_as_dict(inquiry, canonical))
        return
    presentation.print_table(_table(inquiry, canonical))
    for note in inquiry.notes:
        presentation.remark(note)


def passed(answer: NotCacheable) -> dict[str, str]:
    """Return why an invocation is not cacheable: its counter, what that means, and what was found."""
    counter = "pass_" + answer.reason
    meaning = COUNTERS[counter][1] if counter in COUNTERS else "a reason without a counter"
    return {"counter": counter, "meaning": meaning, "detail": answer.detail}


def _say_passed(answer: NotCacheable, *, as_json: bool) -> None:
    reason = passed(answer)
    if as_json:
        presentation.print_json({"cacheable": False, **reason})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("key", style="bold"), "none: the compiler would run uncached")
    for name in ("counter", "meaning", "detail"):
        table.add_row(Text(name, style="bold"), reason[name] or "-")
    presentation.print_table(table)


def _table(inquiry: Inquiry, canonical: Canonical) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("key", style="bold"), canonical.key)
    table.add_row(Text("direct key", style="bold"), inquiry.direct_key)
    for component in canonical.components:
        if component.name == "hlo":
            made_of = _hlo_words(inquiry, canonical)
        elif component.name == "side_inputs":
            made_of = _side_input_words(inquiry, component)
        else:
            made_of = _words(component)
        digest = Text(component.digest())
        table.add_row(Text(component.name, style="bold"), Text("\n").join([digest, *map(Text, made_of)]))
    return table


def _words(component: Component) -> list[str]:
    return [decoded(field) for field in component.fields] or ["(nothing)"]


def _side_input_words(inquiry: Inquiry, component: Component) -> list[str]:
    """Say the path besides the option and the content of each file that an option names; they come first."""
    said = _words(component)
    for place, (_, path) in enumerate(inquiry.command.files):
        said[place] += f" ({path})"
    return said


def _hlo_words(inquiry: Inquiry, canonical: Canonical) -> list[str]:
    fingerprint = canonical.fingerprint
    said = [f"{_form(canonical)}, SHA-256:", fingerprint.digest]
    if fingerprint.reason:
        said.append(f"raw, because: {fingerprint.reason}")
    if inquiry.model is not None:
        said.append(f"file {inquiry.model.graph.path} ({presentation.size(inquiry.model.graph.size)})")
    for file in canonical.side_files:
        found = "" if file.found == file.written else f" (found at {os.path.abspath(file.found)})"
        said += [f"reaches {file.written}{found}, SHA-256:", file.sha256]
    return said


def _form(canonical: Canonical) -> str:
    """Return how the HLO is in the key: `canonical` or `raw`, `with debug info` if that counts."""
    return next((decoded(c.fields[0]) for c in canonical.components if c.name == "hlo"), "")


def decoded(field: bytes) -> str:
    """Return a component's field as a result records it."""
    return field.decode("utf-8", "backslashreplace")


def _as_dict(inquiry: Inquiry, canonical: Canonical) -> dict[str, Any]:
    fingerprint = canonical.fingerprint
    return {
        "cacheable": True,
        "key": canonical.key,
        "direct_key": inquiry.direct_key,
        "components": [
            {"name": c.name, "digest": c.digest(), "fields": [decoded(field) for field in c.fields]}
            for c in canonical.components
        ],
        "hlo": {
            "mode": fingerprint.mode,
            "reason": fingerprint.reason,
            "sha256": fingerprint.digest,
            "debug_info": _form(canonical) != fingerprint.mode,
            "path": inquiry.model.graph.path if inquiry.model is not None else None,
        },
        "side_files": [
            {"written": f.written, "found": os.path.abspath(f.found), "sha256": f.sha256} for f in canonical.side_files
        ],
        "option_files": [{"option": name, "path": path} for name, path in inquiry.command.files],
        "compiler": {"path": inquiry.compiler, "version": inquiry.identity.version or None},
        "notes": inquiry.notes,
    }
