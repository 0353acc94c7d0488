"""Empty values on the command line: `--remote "$NAME"` without a NAME must not mean what no --remote means.

It would check another store than was asked for, or widen what `gc` removes, without a word.
"""

from typing import Any

# Where an empty value says something: (command, parameter).
_MEANINGFUL = {
    ("bench", "flags"),  # no options for the compiler
    ("config set", "value"),  # takes the setting out of the file
    ("list", "model"),  # all models, as with optimum-neuron
}


def refuse_empty_values(context: Any, args: list[str]) -> None:  # noqa: ANN401 - of click, or of typer's own copy of it
    """End as a wrong command line does where one that can be parsed, `args`, has an empty value that says nothing."""
    command = context.command
    name = " ".join(context.command_path.split()[1:])
    # What types make of values does not tell: a path that is empty is the folder we are in.
    given, _, _ = command.make_parser(context).parse_args(args=list(args))
    for parameter in command.params:
        values = given.get(parameter.name)
        values = values if isinstance(values, list | tuple) else [values]
        if "" in values and (name, parameter.name) not in _MEANINGFUL and not _is_command_line(command, parameter):
            context.fail(f"{_called(parameter)} is empty: give a value, or leave it out.")


def _is_command_line(command: Any, parameter: Any) -> bool:  # noqa: ANN401 - as above
    """Whether a parameter is the command line of another program, which may have empty words."""
    return command.context_settings.get("allow_interspersed_args") is False and parameter.nargs == -1


def _called(parameter: Any) -> str:  # noqa: ANN401 - as above
    """Return the parameter as help has it."""
    if parameter.param_type_name == "option":
        return " / ".join(parameter.opts)
    return str(parameter.metavar or parameter.name.upper())
