"""The command line as data, read from the program itself: help, the manual and completion are all made from it.

Typer has brought its own copy of click since 0.26 and used click itself before: what both have alike is read here.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

PROGRAM = "neuron-store"


@dataclass
class Parameter:
    """An option or an argument.

    Attributes:
        names: of an option, the short ones first; none of an argument.
        negative: names that say the opposite (--no-push).
        value: what stands for its value in texts, "" for a flag.
        help: what it is for.
        default: as text, "" where there is none worth a word.
        choices: the values there are, where they are few.
        path: whether its value is a path.
        required: whether it must be given.
        repeatable: whether it can be given more than once.
        panel: the title it stands under, "" for the usual one.
    """

    names: list[str]
    negative: list[str]
    value: str
    help: str
    default: str
    choices: list[str]
    path: bool
    required: bool
    repeatable: bool
    panel: str


@dataclass
class Command:
    """A command with those below it.

    Attributes:
        words: its name from the program's on: ["neuron-store", "stock", "status"].
        help: paragraphs, each on one line.
        hidden: whether nobody need know of it.
        options: those of its own, and --help.
        arguments: in their order.
        commands: name -> command below it.
        works_alone: whether a command below it can be left out.
        takes_command: whether from its first argument on, all is another program's command line.
    """

    words: list[str]
    help: list[str]
    hidden: bool
    options: list[Parameter]
    arguments: list[Parameter]
    works_alone: bool
    takes_command: bool
    commands: "dict[str, Command]" = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name as a person types it: `neuron-store stock status`."""
        return " ".join(self.words)

    @property
    def summary(self) -> str:
        """The first paragraph of its help."""
        return self.help[0] if self.help else ""

    def usage(self) -> list[str]:
        """Return what follows its name: `[OPTIONS]`, `[KEY]...`."""
        pieces = ["[OPTIONS]"] if self.options else []
        for argument in self.arguments:
            said = argument.value if argument.required else f"[{argument.value}]"
            pieces.append(said + ("..." if argument.repeatable else ""))
        if self.commands:
            pieces.append("[COMMAND [ARGS]...]" if self.works_alone else "COMMAND [ARGS]...")
        return pieces

    def visible(self) -> "Iterator[Command]":
        """Yield the commands right below it that people use."""
        return (command for command in self.commands.values() if not command.hidden)

    def walk(self) -> "Iterator[Command]":
        """Yield it and all visible commands below it."""
        yield self
        for command in self.visible():
            yield from command.walk()


def describe(command: Any, words: "list[str] | None" = None) -> Command:  # noqa: ANN401 - of click, or of typer's own copy of it
    """Return a click command, with all below it, as data. `words` is its name from the program's on."""
    words = words or [PROGRAM]
    parameters = [(param, _parameter(param)) for param in command.params if not getattr(param, "hidden", False)]
    settings = command.context_settings
    described = Command(
        words=words,
        help=paragraphs(command.help or ""),
        hidden=bool(command.hidden),
        options=[told for param, told in parameters if param.param_type_name == "option"],
        arguments=[told for param, told in parameters if param.param_type_name == "argument"],
        works_alone=bool(getattr(command, "invoke_without_command", False)),
        takes_command=settings.get("allow_interspersed_args") is False,
    )
    described.options.append(_HELP)
    for name, below in getattr(command, "commands", {}).items():
        described.commands[name] = describe(below, [*words, name])
    return described


_HELP = Parameter(["-h", "--help"], [], "", "Show this message and exit.", "", [], False, False, False, "")


def paragraphs(text: str) -> list[str]:
    """Return a docstring's paragraphs, each on one line."""
    found = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return [" ".join(paragraph.split()) for paragraph in found if paragraph.strip()]


def _parameter(param: Any) -> Parameter:  # noqa: ANN401 - as above
    is_option = param.param_type_name == "option"
    choices = _choices(param)
    return Parameter(
        names=_spelled(param.opts) if is_option else [],
        negative=_spelled(param.secondary_opts),
        value="" if getattr(param, "is_flag", False) else _value(param, choices),
        help=" ".join((param.help or "").split()),
        default=_default(param),
        choices=choices,
        path=_is_path(param),
        required=bool(param.required),
        repeatable=param.nargs == -1 or bool(getattr(param, "multiple", False)),
        panel=getattr(param, "rich_help_panel", None) or "",
    )


def _spelled(names: list[str]) -> list[str]:
    """Return names with the short ones first, without those that differ only in `_` for `-`."""
    return sorted((name for name in names if name.replace("_", "-") == name or name.startswith("_")), key=_is_long)


def _is_long(name: str) -> bool:
    return name.startswith("--")


def _choices(param: Any) -> list[str]:  # noqa: ANN401 - as above
    described = getattr(param, "type_descriptor", None) or getattr(param, "type", None)
    choices = getattr(described, "choices", None) or ()
    return [str(choice.value if isinstance(choice, Enum) else choice) for choice in choices]


def _is_path(param: Any) -> bool:  # noqa: ANN401 - as above
    described = getattr(param, "type_descriptor", None)
    if described is not None:
        return bool(described.is_path or described.is_file)
    return getattr(getattr(param, "type", None), "name", "") in ("path", "file", "directory", "filename")


def _value(param: Any, choices: list[str]) -> str:  # noqa: ANN401 - as above
    """Return what stands for a value, bare of the brackets and dots that usage adds."""
    if param.metavar:
        return str(param.metavar).rstrip("…").strip("[]")
    if choices:
        return "|".join(choices)
    if param.param_type_name == "argument":
        return str(param.name).upper()
    if _is_path(param):
        return "PATH"
    return "N" if getattr(param, "min", None) is not None else "TEXT"


def _default(param: Any) -> str:  # noqa: ANN401 - as above
    value = param.default
    if not param.show_default or callable(value) or value is None or value is False or value in ("", 0, [], ()):
        return ""
    if getattr(param, "is_flag", False):
        return _spelled(param.opts)[-1] if param.secondary_opts else ""
    value = value.value if isinstance(value, Enum) else value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
