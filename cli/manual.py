"""The manual page neuron-store(1), written from the command line itself, and `neuron-store man`, which shows it.

Grammar: troff with the macros of man(7), in ASCII, so that every formatter reads it alike.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from neuron_store.cli import presentation
from neuron_store.cli.command_tree import PROGRAM, Command, Parameter, describe, paragraphs
from neuron_store.cli.examples import EXAMPLES
from neuron_store.cli.exit_codes import EXIT_CODES, PASSED_ON
from neuron_store.cli.help import build, explanation
from neuron_store.cli.written import write_whole
from neuron_store.shim.settings import PREFIX, SETTINGS
from neuron_store.shim.version import VERSION
from neuron_store.store.errors import StoreUnavailable
from neuron_store.store.registry.contexts import FIELDS, VARIABLE

_PAGE = f"{PROGRAM}.1"
_ABOUT = """
neuron-store is a neuronx-cc for PATH that recognises a compile by its HLO, its compiler version and its flags, and
serves the result from a store instead of compiling again. The store is local; repos on the Hugging Face Hub and shared
folders, its remotes, are asked on a local miss and fed in the background.

The commands below are for people: they put that neuronx-cc on PATH, and look after what is stored. Options may be
written with _ for -, and the first digits of a key stand for the key.
"""
_SETTINGS = (
    "Settings come from the environment, or else from the configuration file; `neuron-store config` shows them all."
)
_VARIABLES = (
    (VARIABLE, "The model that is compiled for, as `run -m` has it: what is asked for is registered as needed by it."),
    (
        ", ".join(f"{VARIABLE}_{field.upper()}" for field in FIELDS),
        "Its configuration, as the options of `run` have it.",
    ),
    ("NEURON_STORE_CONFIG", "The configuration file."),
    ("CUSTOM_CACHE_REPO", "A repo on the Hub that comes before all other remotes, as for optimum-neuron."),
    ("HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE", "As for every program that uses huggingface_hub."),
    ("NEURON_COMPILE_CACHE_URL", "The stock cache's folder, where none is named to `stock`."),
    ("NO_COLOR, FORCE_COLOR, TERM, COLUMNS", "Whether output is coloured, and how wide it is."),
)
_FILES = (
    ("~/.config/neuron-store/config.toml", "The settings ($XDG_CONFIG_HOME)."),
    ("~/.cache/neuron-store", "The local store ($XDG_CACHE_HOME)."),
    (
        "~/.local/state/neuron-store/shim.log",
        "What went wrong in the shim, whose stdout and stderr are the compiler's.",
    ),
    ("~/.local/state/neuron-store/completion.json", "The command line's description, for completion."),
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    def man(
        install: Annotated[
            bool, typer.Option("--install", help="Write the page to where `man neuron-store` finds it.")
        ] = False,
    ) -> None:
        """Show the manual page; into a pipe or file, print its source."""
        from neuron_store.cli.main import make_app  # which has this module's command, too

        page = manual(describe(build(make_app())))
        if install:
            presentation.write(f"{_install(page)} is written\n")
        elif sys.stdout.isatty() and shutil.which("man"):
            subprocess.run(["man", "-l", "-"], input=page, encoding="ascii", check=False)
        else:
            presentation.write(page)

    app.command("man")(man)


def _install(page: str) -> Path:
    """Write the page beside the program, or else into the home; return where. Raises StoreUnavailable."""
    faults = []
    for base in (Path(sys.prefix), Path.home() / ".local"):
        path = base / "share/man/man1" / _PAGE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, page.encode("ascii"))
        except OSError as error:
            faults.append(f"{path} cannot be written ({error.strerror})")
        else:
            return path
    raise StoreUnavailable("; ".join(faults) + "; print the page with `neuron-store man > FILE`")


# -- the page ------------------------------------------------------------------------------------------------------


def manual(top: Command) -> str:
    """Return the page's source."""
    lines = [
        f'.TH "{PROGRAM.upper()}" "1" "" "{PROGRAM} {VERSION}" "User Commands"',
        # No hyphens in names, and no line stretched to the margin.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{text(PROGRAM)} \\- {text(top.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        "\n.br\n".join(f"{_bold(command.name)} {text(' '.join(command.usage()))}" for command in top.walk()),
        ".SH DESCRIPTION",
        "\n.PP\n".join(text(paragraph) for paragraph in paragraphs(_ABOUT)),
        ".SH OPTIONS",
        *_described(top.options),
        ".SH COMMANDS",
    ]
    for command in list(top.walk())[1:]:
        lines += _command(command)
    lines += [".SH EXIT STATUS", *_terms((str(code), meaning) for code, meaning in EXIT_CODES.items())]
    lines += [".PP", text(PASSED_ON), ".SH ENVIRONMENT", text(_SETTINGS)]
    lines += _terms(
        (PREFIX + name.upper(), setting[2][:1].upper() + setting[2][1:] + ".") for name, setting in SETTINGS.items()
    )
    lines += [*_terms(_VARIABLES), ".SH FILES", *_terms(_FILES), ".SH EXAMPLES", *list(_examples(""))[1:]]
    return "\n".join([*lines, ""])


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_quoted(' '.join(command.words[1:]))}"
    yield f"{_bold(command.name)} {text(' '.join(command.usage()))}"
    for paragraph in command.help:
        yield from (".PP", text(paragraph))
    yield from _described([*command.arguments, *(option for option in command.options if "--help" not in option.names)])
    yield from _examples(" ".join(command.words[1:]))


def _described(parameters: Iterable[Parameter]) -> Iterator[str]:
    for parameter in parameters:
        value = f" \\fI{text(parameter.value)}\\fR" if parameter.value else ""
        names = ", ".join(_bold(name) for name in parameter.names) + "".join(
            f"/{_bold(name)}" for name in parameter.negative
        )
        yield from (".TP", (names + value).strip(), text(explanation(parameter)))


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in rows:
        yield from (".TP", ", ".join(_bold(word) for word in term.split(", ")), text(meaning))


def _examples(name: str) -> Iterator[str]:
    for what, line in EXAMPLES.get(name, ()):
        yield from (".PP", f"{text(what[:1].upper() + what[1:])}:", ".PP", ".RS 4", ".nf", _bold(line), ".fi", ".RE")


def _bold(word: str) -> str:
    return f"\\fB{_escaped(word)}\\fR"


def _quoted(word: str) -> str:
    return f'"{_escaped(word)}"'


def text(said: str) -> str:
    """Return text as troff has it: what stands between backticks is bold."""
    pieces = re.split(r"`([^`]+)`", said)
    troff = "".join(_bold(piece) if place % 2 else _escaped(piece) for place, piece in enumerate(pieces))
    # A line that begins with one of these would be a request.
    return f"\\&{troff}" if troff[:1] in (".", "'") else troff


def _escaped(said: str) -> str:
    said = said.replace("…", "...").replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    said = said.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in said)
