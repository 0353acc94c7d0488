"""The reference of commands, written from the command line itself: the site has it as a page."""

import re

from neuron_store.cli.command_tree import Command, describe
from neuron_store.cli.examples import EXAMPLES
from neuron_store.cli.help import build, explanation, option_term
from neuron_store.cli.main import make_app

_INTRODUCTION = """\
# Commands

`neuron-store COMMAND --help` says the same in a terminal. `--json`, where a command has it, prints what it found as one
JSON document; [exit codes](exit-codes.md) tell the rest.
"""


def command_reference() -> str:
    """Return the page's text (Markdown): each command that people use, its arguments, options and examples."""
    top = describe(build(make_app()))
    sections = [_section(command) for command in top.walk() if command is not top and not _only_groups(command)]
    return "\n".join([_INTRODUCTION, *sections])


def _only_groups(command: Command) -> bool:
    return bool(command.commands) and not command.works_alone


def _section(command: Command) -> str:
    lines = [f"## {command.name}", ""]
    for paragraph in command.help:
        lines += [_escaped(paragraph), ""]
    lines += ["```text", " ".join([command.name, *command.usage()]), "```", ""]
    rows = [(argument.value, explanation(argument)) for argument in command.arguments]
    rows += [(option_term(option), explanation(option)) for option in command.options if "--help" not in option.names]
    if rows:
        lines += ["| argument or option | what it is for |", "|---|---|"]
        lines += [f"| `{_cell(term)}` | {_cell(_escaped(text))} |" for term, text in rows]
        lines.append("")
    examples = EXAMPLES.get(" ".join(command.words[1:]), ())
    if examples:
        lines += ["```sh", *(line for what, example in examples for line in (f"# {what}", example)), "```", ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return text as Markdown that shows it as it is; what stands between backquotes is code already."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\<>\[\]*_])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
