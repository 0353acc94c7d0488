"""The reference of commands, written from the command line's own definitions: the site has it as a page."""

from collections.abc import Iterator
from typing import Any

import typer

from neuron_store.cli.main import app

_INTRODUCTION = """\
# Commands

`neuron-store --help` says the same in a terminal. Options may be written with `_` for `-`; `--json`, where a command
has it, prints what it found for programs.
"""


def command_reference() -> str:
    """Return the page's text (Markdown): each command that is not hidden, its arguments and options."""
    parts = [_INTRODUCTION]
    for name, command in commands(typer.main.get_command(app)):
        parts.append(_section(name, command))
    return "\n".join(parts)


def commands(top: Any, prefix: str = "neuron-store") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer's, unnamed in old ones
    """Yield the name as it is typed and the definition of every command that is not hidden, in the order of the help."""
    for name, command in top.commands.items():
        if command.hidden:
            continue
        full = f"{prefix} {name}"
        inner = getattr(command, "commands", None)
        if inner is None or getattr(command, "invoke_without_command", False):
            yield full, command
        if inner is not None:
            yield from commands(command, full)


def _section(name: str, command: Any) -> str:  # noqa: ANN401 - see above
    arguments = [one for one in command.params if one.param_type_name == "argument" and not one.hidden]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = [name, *(["[OPTIONS]"] if options else []), *map(_written, arguments)]
    lines = [f"## {name}", "", *_paragraphs(command.help), "", "```text", " ".join(usage), "```", ""]
    rows = [(f"`{_cell(_word(one))}`", one.help or "") for one in arguments if one.help]
    rows += [(", ".join(f"`{word}`" for word in _spellings(one)), one.help or "") for one in options]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| {spelled} | {_cell(_escaped(text))} |" for spelled, text in rows), ""]
    return "\n".join(lines)


def _paragraphs(text: "str | None") -> list[str]:
    return [_escaped(" ".join(part.split())) + "\n" for part in (text or "").replace("\f", "").split("\n\n")]


def _word(argument: Any) -> str:  # noqa: ANN401 - see above
    return str(argument.metavar or argument.name.upper())


def _written(argument: Any) -> str:  # noqa: ANN401 - see above
    word = _word(argument).removeprefix("[").removesuffix("]") + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _spellings(option: Any) -> list[str]:  # noqa: ANN401 - see above
    metavar = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return [_cell(word + metavar) for word in [*option.opts, *option.secondary_opts]]


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("$(", "&#36;(") if "`" not in text else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
