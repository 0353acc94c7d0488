"""`neuron-store config`: every setting, its value and where it came from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import typer
from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.written import write_whole
from neuron_store.shim.settings import (
    OTHER_VARIABLES,
    PREFIX,
    SETTINGS,
    config_path,
    load_settings,
    parse_setting,
    read_config,
)
from neuron_store.store.errors import ConfigurationError
from neuron_store.store.layout import MODEL_VARIABLE
from neuron_store.store.remotes.location import NO_REMOTE, list_locations, read_location, without_credentials

_config = typer.Typer(help="Show every setting, its value and where it came from; set one.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(_config, name="config")


@_config.callback(invoke_without_command=True)
def config(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting, its value and where it came from."""
    if context.invoked_subcommand:
        return
    settings = load_settings(os.environ)
    rows = {name: {"value": _told(getattr(settings, name)), "source": settings.sources[name]} for name in SETTINGS}
    if as_json:
        presentation.print_json({"config_file": config_path(os.environ), "settings": rows})
        return
    path = config_path(os.environ)
    table = Table("setting", "value", "from", "meaning", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    for name, row in rows.items():
        source = "config.toml" if row["source"] == path else row["source"]
        table.add_row(name, _shown(row["value"]) or "-", source, SETTINGS[name][2])
    presentation.print_table(table)
    presentation.write(f"\nconfig.toml is {path}" + ("" if os.path.exists(path) else ", which does not exist") + "\n")
    for name, where in unknown_names(os.environ):
        presentation.remark(f"{name} in {where} is no setting")
    for warning in list_locations(settings.remotes, os.environ)[1]:
        presentation.remark(warning)


def _told(value: Any) -> Any:  # noqa: ANN401 - as a setting is
    """Return a value without the credentials of addresses, before a table breaks these in two."""
    return tuple(map(without_credentials, value)) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    """Return a value as config.toml has it, but for a string's quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def unknown_names(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the names that look like settings and are none, each with where it stands. Raises ConfigurationError."""
    path = config_path(environ)
    known = {PREFIX + name.upper() for name in SETTINGS} | set(OTHER_VARIABLES)
    unknown = [(name, path) for name in read_config(path) if name not in SETTINGS]
    return unknown + [
        (name, "the environment")
        for name in environ
        if name.startswith(PREFIX) and name not in known and not name.startswith(MODEL_VARIABLE)
    ]


@_config.command("set")
def set_value(
    name: Annotated[str, typer.Argument(metavar="SETTING", help="The setting's name.")],
    value: Annotated[str, typer.Argument(help="Its value; an empty one takes the setting out of the file.")],
) -> None:
    """Write a setting to the configuration file."""
    parsed = parse_setting(name, value) if value else None
    if name == "remotes" and isinstance(parsed, tuple):
        for word in parsed:
            if word != NO_REMOTE:
                read_location(word)
    path = Path(config_path(os.environ))
    try:
        document = tomlkit.parse(path.read_text()) if path.exists() else tomlkit.document()
    except (OSError, UnicodeDecodeError, tomlkit.exceptions.ParseError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}); mend it or remove it") from error
    if parsed is not None:
        document[name] = list(parsed) if isinstance(parsed, tuple) else parsed
    elif name in SETTINGS or name in document:
        document.pop(name, None)
    else:
        parse_setting(name, value)  # says which settings there are
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    presentation.write(f"{name} = {_shown(_told(parsed))} in {path}\n" if value else f"{name} is not set in {path}\n")
    variable = PREFIX + name.upper()
    if variable in os.environ:
        presentation.remark(f"{variable} is set in the environment and comes before it")
