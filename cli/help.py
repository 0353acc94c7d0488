"""What all commands have alike: how they read their command lines, and what `--help` shows.

Help is plain text that fits the terminal, with examples at its end.
"""

import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from neuron_store.cli import presentation
from neuron_store.cli.command_tree import Command, Parameter, describe
from neuron_store.cli.empty_values import refuse_empty_values
from neuron_store.cli.examples import EXAMPLES

_WIDEST = 100  # columns; longer lines are hard to read
_NARROWEST = 60
_TERM = 24  # columns at most for what is explained, before the explanation begins a line of its own


def build(app: typer.Typer) -> Any:  # noqa: ANN401 - a command of click, or of typer's own copy of it
    """Return the program of `app`, all of whose commands show help, and take values, as it is here."""
    _dress(app)
    return typer.main.get_command(app)


def _dress(app: typer.Typer) -> None:
    app.info.cls = _as_ours(app.info.cls, TyperGroup)
    for command in app.registered_commands:
        command.cls = _as_ours(command.cls, TyperCommand)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _dress(group.typer_instance)


def _as_ours(given: Any, usual: Any) -> Any:  # noqa: ANN401 - a class, or typer's word for none
    base = given if isinstance(given, type) else usual
    return base if issubclass(base, _Ours) else type(base.__name__, (_Ours, base), {})


class _Ours:
    """Goes before a class of commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Read the command line, but for empty values; raise click's usage error where it is wrong."""
        given = list(args)  # click takes words out of it
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc] # the class that comes after it has it
        if not ctx.resilient_parsing:
            refuse_empty_values(ctx, given)
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as above
        """Write the command's help into click's formatter."""
        described = describe(self, ctx.command_path.split())
        ctx.color = presentation.takes_colour(sys.stdout)
        formatter.write(render(described, width=_width(), bold=ctx.color))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401 - as above
        """Return what follows the command's name in a usage line."""
        return describe(self, ctx.command_path.split()).usage()


def _width() -> int:
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))


def render(command: Command, *, width: int, bold: bool) -> str:
    """Return a command's help, in lines of at most `width` columns (but for examples, which are never broken)."""
    usage = f"Usage: {command.name} "
    lines = textwrap.wrap(usage + " ".join(command.usage()), width, subsequent_indent=" " * min(len(usage), 24))
    for paragraph in command.help:
        lines += ["", *textwrap.wrap(paragraph, width, initial_indent="  ", subsequent_indent="  ")]
    sections = {"Arguments": [(item.value, explanation(item)) for item in command.arguments]}
    for option in command.options:
        sections.setdefault(option.panel or "Options", []).append((option_term(option), explanation(option)))
    # The usual options come last only in data: whoever reads looks for them first.
    sections = {title: sections[title] for title in sorted(sections, key=lambda title: title not in _FIRST)}
    sections["Commands"] = [(below.words[-1], below.summary) for below in command.visible()]
    for title, rows in sections.items():
        if rows:
            lines += ["", _heading(title, bold=bold), *_rows(rows, width)]
    examples = EXAMPLES.get(" ".join(command.words[1:]), ())
    if examples:
        lines += ["", _heading("Examples", bold=bold)]
        for what, line in examples:
            lines += [f"  # {what}", f"  {line}"]
    return "\n".join(lines) + "\n"


_FIRST = ("Arguments", "Options")


def _heading(title: str, *, bold: bool) -> str:
    return f"\x1b[1m{title}:\x1b[0m" if bold else f"{title}:"


def option_term(option: Parameter) -> str:
    """Return an option as it is written: `-n, --limit N`, `--push/--no-push`."""
    names = ", ".join(option.names) + "".join(f"/{name}" for name in option.negative)
    return f"{names} {option.value}" if option.value else names


def explanation(parameter: Parameter) -> str:
    """Return what a parameter is for, with its default and whether it must be given."""
    notes = []
    if parameter.default:
        notes.append(f"default: {parameter.default}")
    if parameter.required and parameter.names:
        notes.append("required")
    return parameter.help + (f" [{'; '.join(notes)}]" if notes else "")


def _rows(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    rows = list(rows)
    broadest = max((len(term) for term, _ in rows if len(term) <= _TERM), default=_TERM)
    indent = " " * (broadest + 4)
    lines = []
    for term, text in rows:
        wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        if len(term) > broadest or not wrapped:
            lines += [f"  {term}", *wrapped]
        else:
            lines += [f"  {term}".ljust(len(indent)) + wrapped[0][len(indent) :], *wrapped[1:]]
    return lines
