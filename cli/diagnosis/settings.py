"""The settings: whether they can be read, and which of them keep results from being served, stored or shared."""

import os
from collections.abc import Iterator

from neuron_store.cli.configuration import unknown_names
from neuron_store.cli.diagnosis.finding import Area, Finding, note, ok, problem, warning
from neuron_store.cli.diagnosis.surroundings import Surroundings
from neuron_store.hashing.environment import DEBUG_VARIABLES
from neuron_store.shim.execute import GUARD
from neuron_store.shim.settings import config_path
from neuron_store.store.errors import ConfigurationError

AREA = Area(
    "settings",
    {
        "valid": ok("Every setting has a value that it can have."),
        "invalid": problem(
            "The configuration file or a variable cannot be read as a setting. The shim passes every invocation through "
            "to the compiler (`pass_bad_configuration`).",
            "correct the value; `neuron-store config set NAME VALUE` checks what it writes",
        ),
        "unknown": warning(
            "A name in the configuration file, or a variable NEURON_STORE_…, is no setting, so it does nothing.",
            "correct its spelling (`neuron-store config` lists all), or take it out",
        ),
        "guard-set": problem(
            "NEURON_STORE_ACTIVE is in the environment. The shim sets it for the compiler that it starts: with it, every "
            "invocation passes through (`pass_recursion`).",
            "unset NEURON_STORE_ACTIVE, and take it out of whatever file sets it",
        ),
        "disabled": warning(
            "`enabled` is false: every invocation passes through (`pass_disabled`).",
            "unset NEURON_STORE_ENABLED, or run `neuron-store config set enabled true`",
        ),
        "recache": warning(
            "`recache` is true: everything is compiled anew, whatever the store has.",
            "unset NEURON_STORE_RECACHE, or run `neuron-store config set recache false`",
        ),
        "read-only": note("`read_only` is true: hits are served, and nothing new is stored."),
        "upload-off": note(
            "`upload` is false: new results wait in the queue until someone runs `neuron-store push`.",
        ),
        "debug-info": note(
            "Names and source lines stay in the key (`debug_info` is exact, or a variable asks the framework for debug "
            "information), so the same program from another checkout is a miss.",
            "unset the variable, or set debug_info to auto, where names in the NEFF are not needed",
        ),
    },
)


def examine(here: Surroundings) -> Iterator[Finding]:
    """Look at the settings, and at the variables that are none but act like them."""
    if here.fault:
        yield AREA.find("invalid", here.fault)
    else:
        path = config_path(here.environ)
        file = path if os.path.exists(path) else f"{path}, which does not exist"
        yield AREA.find("valid", f"all settings can be read; the file is {file}", config_file=path)
    for name, where in _unknown(here):
        yield AREA.find("unknown", f"{name} in {where} is no setting", name=name)
    if GUARD in here.environ:
        yield AREA.find("guard-set", f"{GUARD} is set in this environment")
    yield from _switches(here)


def _unknown(here: Surroundings) -> list[tuple[str, str]]:
    try:
        return unknown_names(here.environ)
    except ConfigurationError:  # a file that cannot be read, which is told already
        return unknown_names({**here.environ, "NEURON_STORE_CONFIG": os.devnull})


def _switches(here: Surroundings) -> Iterator[Finding]:
    chosen = here.settings
    for kind, name, found in (
        ("disabled", "enabled", not chosen.enabled),
        ("recache", "recache", chosen.recache),
        ("read-only", "read_only", chosen.read_only),
        ("upload-off", "upload", not chosen.upload),
        ("debug-info", "debug_info", chosen.debug_info == "exact"),
    ):
        if found:
            value = str(getattr(chosen, name)).lower()
            yield AREA.find(kind, f"{name} is {value} ({chosen.sources[name]})", source=chosen.sources[name])
    asking = [name.decode() for name in DEBUG_VARIABLES if here.environ.get(name.decode())]
    if asking and chosen.debug_info != "exact":
        yield AREA.find("debug-info", f"{' and '.join(asking)} asks for debug information", variables=asking)
