"""`neuron-store pin` and `unpin`: results, or a model's results, that are never collected."""

from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.context import readable_store
from neuron_store.store.collection.pins import (
    Pins,
    models_by_key,
    pin_key,
    pin_model,
    read_pins,
    unpin_key,
    unpin_model,
)
from neuron_store.store.errors import AmbiguousKey, ConfigurationError, NotFound
from neuron_store.store.layout import KEY_LENGTH, Layout, is_hex
from neuron_store.store.results import find_key

_WHAT = "Keys (their first digits do) or models."
_Model = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="A model, whatever it is called.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("pin")(pin)
    app.command("unpin")(unpin)


def pin(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KEY|MODEL]…", help=_WHAT)] = None,
    model: _Model = "",
    as_json: _Json = False,
) -> None:
    """Keep results whatever the limits say; without arguments, list what is pinned."""
    layout = readable_store()
    keys, models = _sorted_out(what or [], model)
    found = [find_key(layout, key) for key in keys]
    if models:
        known = set[str]().union(*models_by_key(layout).values())
        for name in models:
            if name not in known:
                told = (
                    f"; it knows {', '.join(sorted(known))}"
                    if known
                    else "; `neuron-store run -m MODEL -- …` and `neuron-store pull MODEL` note it"
                )
                raise NotFound(presentation.printable(f"nothing of {name} is noted in {layout.root}{told}"))
    for key in found:
        pin_key(layout, key)
    for name in models:
        pin_model(layout, name)
    if as_json or not (keys or models):
        _list(layout, read_pins(layout), as_json=as_json)
    for word in (*found, *models):
        _say("pinned", word, as_json=as_json)


def unpin(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KEY|MODEL]…", help=_WHAT)] = None,
    model: _Model = "",
    everything: Annotated[bool, typer.Option("--all", help="All pins.")] = False,
    as_json: _Json = False,
) -> None:
    """Let results be collected again."""
    layout = readable_store()
    pins = read_pins(layout)
    keys, models = _sorted_out(what or [], model)
    if not (keys or models or everything):
        raise ConfigurationError("say what to unpin: keys, models, or --all; `neuron-store pin` lists what is pinned")
    found = sorted(pins.keys) if everything else [_pinned_key(pins, key) for key in keys]
    for name in models:
        if name not in pins.models:
            raise NotFound(presentation.printable(f"{name} is not pinned; `neuron-store pin` lists what is"))
    models = sorted(pins.models) if everything else models
    for key in found:
        unpin_key(layout, key)
    for name in models:
        unpin_model(layout, name)
    if as_json:
        _list(layout, read_pins(layout), as_json=True)
    for word in (*found, *models):
        _say("unpinned", word, as_json=as_json)


def _sorted_out(words: list[str], model: str) -> tuple[list[str], list[str]]:
    """Return which words are keys, and which are models: what has only the digits of a key in it is one."""
    keys = [word.lower() for word in words if len(word) <= KEY_LENGTH and is_hex(word.lower(), len(word)) and word]
    models = [word for word in words if word.lower() not in keys]
    return keys, [*models, *([model] if model else [])]


def _pinned_key(pins: Pins, prefix: str) -> str:
    fitting = sorted(key for key in pins.keys if key.startswith(prefix))
    if not fitting:
        raise NotFound(f"no pinned key starts with {prefix}; `neuron-store pin` lists what is pinned")
    if len(fitting) > 1:
        raise AmbiguousKey(f"{len(fitting)} pinned keys start with {prefix}; give more digits")
    return fitting[0]


def _say(what: str, word: str, *, as_json: bool) -> None:
    if not as_json:
        presentation.write(f"{what} {presentation.printable(word)}\n")


def _list(layout: Layout, pins: Pins, *, as_json: bool) -> None:
    if as_json:
        presentation.print_json({"keys": sorted(pins.keys), "models": sorted(pins.models)})
        return
    for key in sorted(pins.keys):
        presentation.write(f"result  {key}\n")
    for name in sorted(pins.models):
        presentation.write(f"model   {presentation.printable(name)}\n")
    if not (pins.keys or pins.models):
        presentation.remark(f"nothing is pinned in {layout.root}")
