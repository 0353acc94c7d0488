"""What a shell's Tab asks: `neuron-store complete-words SHELL …`, answered from a cached description of the command line.

Reading the description from the program costs half a second, so it is kept in the state folder until a module of the
command line changes. Nothing here asks a network, and no fault of ours reaches the person who types.

Grammar of the answer: a line that says what to do, then a value a line, perhaps with a tab and what it means.

    values          these, each with a space after it
    prefixes        these, which are only beginnings
    files, folders  paths, as the shell completes them
    command N C     another program's command line, which begins at word N (counted from 0); C is the current word's number
"""

import contextlib
import json
import os
import shlex
import signal
import sys
from typing import Any

from neuron_store.cli import completion_values
from neuron_store.shim.settings import state_folder
from neuron_store.shim.version import VERSION

_LONGEST = 10.0  # seconds; a store on a disk that hangs must not keep a prompt
_LONGEST_MEANING = 70  # characters
# Of values that no shell has to quote: others are not offered, whoever made up their names.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@+,%")

# What stands for a value that may be a path.
_FILES = frozenset(("FILE", "HLO", "PATH", "SOURCE"))
_FOLDERS = frozenset(("DEST", "DIR", "MODEL"))

Tree = dict[str, Any]  # command_tree.Command as JSON
Values = list[tuple[str, str]]  # each with what it means


class Answer:
    """What a shell is to do, and the values that it offers."""

    def __init__(self, directive: str, values: "Values | None" = None) -> None:
        self.directive = directive
        self.values = values or []

    def lines(self, prefix: str = "") -> list[str]:
        """Return the answer's lines, without `prefix`, which stands before the cursor and stays."""
        shown = [self.directive]
        for value, meaning in self.values:
            if _PLAIN.issuperset(value):
                text = "".join(letter for letter in meaning if letter.isprintable())
                shown.append(f"{value.removeprefix(prefix)}\t{text[:_LONGEST_MEANING]}".rstrip("\t"))
        return shown


def main(arguments: list[str]) -> None:
    """Answer a shell: SHELL and the words up to the cursor; bash gives its line up to there, and its word breaks."""
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST)
    # Whatever goes wrong, the person who types sees no more than that nothing is offered.
    with contextlib.suppress(Exception, KeyboardInterrupt):
        shell, *words = arguments
        prefix = ""
        if shell == "bash":
            line, breaks = words
            words = split_line(line)
            last = words[-1]
            prefix = last[: max((last.rfind(letter) for letter in ":=" if letter in breaks), default=-1) + 1]
        answer = complete(tree(), words, with_prefixes=shell != "fish")
        sys.stdout.write("\n".join(answer.lines(prefix)) + "\n")
        sys.stdout.flush()


def _stop(_number: int, _frame: object) -> None:
    os._exit(0)


def split_line(line: str) -> list[str]:
    """Return the words of a line as a shell reads them, the last of which is not finished and may be empty."""
    for closing in ("", "'", '"', "\\"):
        with contextlib.suppress(ValueError):
            words = shlex.split(line + closing)
            return words if words and not (line[-1:].isspace() and not closing) else [*words, ""]
    return line.split(" ")


# -- the description -----------------------------------------------------------------------------------------------


def tree() -> Tree:
    """Return the command line's description, from its cache if that is of this program."""
    path = f"{state_folder(os.environ)}/completion.json"
    stamp = _stamp()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["stamp"] == stamp:
            found: Tree = kept["tree"]
            return found
    made = _described()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"stamp": stamp, "tree": made}, file)
        os.replace(temporary, path)
    return made


def _stamp() -> list[Any]:
    """Return what changes whenever the program does."""
    folder = os.path.dirname(os.path.abspath(__file__))
    modules = [entry for entry in os.scandir(folder) if entry.name.endswith(".py")]
    return [VERSION, folder, sorted([entry.name, entry.stat().st_mtime_ns] for entry in modules)]


def _described() -> Tree:
    from dataclasses import asdict

    from neuron_store.cli.command_tree import describe
    from neuron_store.cli.help import build
    from neuron_store.cli.main import make_app

    return asdict(describe(build(make_app())))


# -- what is typed -------------------------------------------------------------------------------------------------


class _Typed:
    """What the words before the cursor say.

    Attributes:
        command: the innermost that is named.
        option: that the next word is the value of, None if it is none's.
        given: names of the options that are there.
        positional: arguments so far.
        began: where another program's command line begins, None where none does.
        ended: whether a `--` ended the options.
    """

    def __init__(self, root: Tree, words: list[str]) -> None:
        self.command = root
        self.option: Tree | None = None
        self.given: set[str] = set()
        self.positional: list[str] = []
        self.began: int | None = None
        self.ended = False
        for place, word in enumerate(words[1:], 1):
            if self.began is None:
                self._read(place, word)

    def _read(self, place: int, word: str) -> None:
        if self.option is not None:
            self.option = None
        elif word == "--" and not self.ended:
            self.ended = True
            self.began = place + 1 if self.command["takes_command"] else None
        elif word.startswith("-") and len(word) > 1 and not self.ended:
            self._read_option(word)
        elif word in self.command["commands"]:
            self.command = self.command["commands"][word]
        else:
            self.positional.append(word)
            if self.command["takes_command"] and _kinds(self.argument(0)) == {"COMMAND"}:
                self.began = place

    def _read_option(self, word: str) -> None:
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        found = find_option(self.command, name if name.startswith("--") else name[:2])
        if found is None:
            return
        self.given.update(found["names"] + found["negative"])
        if found["value"] and not equals and (name.startswith("--") or len(word) == 2):
            self.option = found

    def argument(self, place: int) -> "Tree | None":
        """Return the argument at a place, None where there can be none."""
        arguments = self.command["arguments"]
        if place < len(arguments):
            found: Tree = arguments[place]
            return found
        return arguments[-1] if arguments and arguments[-1]["repeatable"] else None


def find_option(command: Tree, name: str) -> "Tree | None":
    """Return a command's option by one of its names."""
    for option in command["options"]:
        if name in option["names"] or name in option["negative"]:
            found: Tree = option
            return found
    return None


def _kinds(parameter: "Tree | None") -> set[str]:
    """Return the words that stand for a value: {"KEY", "MODEL"} of `KEY|MODEL…`."""
    return set(parameter["value"].replace("|", " ").replace("…", " ").split()) - {"--"} if parameter else set()


def complete(root: Tree, words: list[str], *, with_prefixes: bool = True) -> Answer:
    """Return what can stand in place of the last of `words`, of which the first is the program."""
    *before, word = words
    typed = _Typed(root, before)
    if typed.began is not None:
        return Answer(f"command {typed.began} {len(before)}")
    if typed.option is not None:
        return _values(typed, typed.option, word, with_prefixes=with_prefixes)
    if word.startswith("-") and not typed.ended:
        return _option(typed, word, with_prefixes=with_prefixes)
    if typed.command["commands"]:
        # After a word that is no command, nothing is known.
        return Answer("values", [] if typed.positional else _commands(typed.command, word))
    return _argument(typed, word, len(before), with_prefixes=with_prefixes)


def _commands(command: Tree, word: str) -> Values:
    visible = [below for below in command["commands"].values() if not below["hidden"]]
    named = [(below["words"][-1], (below["help"] or [""])[0]) for below in visible]
    return [pair for pair in named if pair[0].startswith(word)]


def _option(typed: _Typed, word: str, *, with_prefixes: bool) -> Answer:
    """Return what an option's name, or its value after `=`, can become."""
    name, equals, value = word.partition("=")
    if not equals:
        return Answer("values", _options(typed, word))
    option = find_option(typed.command, name.replace("_", "-"))
    if option is None or not option["value"]:
        return Answer("values")
    answer = _values(typed, option, value, with_prefixes=with_prefixes)
    return Answer(answer.directive, [(f"{name}={each}", meaning) for each, meaning in answer.values])


def _argument(typed: _Typed, word: str, place: int, *, with_prefixes: bool) -> Answer:
    argument = typed.argument(len(typed.positional))
    if argument is None:
        return Answer("values", _options(typed, word) if not word and not typed.ended else [])
    kinds = _kinds(argument)
    if kinds == {"COMMAND"}:
        return Answer(f"command {place} {place}")
    if typed.ended and not kinds & {"KEY", "MODEL"}:
        return Answer("files")  # precompile's options for the compiler
    return _values(typed, argument, word, with_prefixes=with_prefixes)


def _options(typed: _Typed, word: str) -> Values:
    found = []
    for option in typed.command["options"]:
        if option["repeatable"] or not typed.given.intersection(option["names"]):
            found += [(name, option["help"]) for name in (*option["names"], *option["negative"])]
    return [pair for pair in found if pair[0].startswith(word) and (word.startswith("-") or pair[0].startswith("--"))]


def _values(typed: _Typed, parameter: Tree, word: str, *, with_prefixes: bool) -> Answer:
    if parameter["choices"]:
        return Answer("values", [(choice, "") for choice in parameter["choices"] if choice.startswith(word)])
    kinds = _kinds(parameter)
    paths = ""
    if parameter["path"] or kinds & _FILES:
        paths = "files"
    elif kinds & _FOLDERS:
        paths = "folders"
    if paths and "MODEL" not in kinds and (not word or _begins_a_path(word)):
        return Answer(paths)
    if typed.command["words"][-1] == "unpin" and kinds & {"KEY", "MODEL"}:
        return Answer("values", [pair for pair in completion_values.pinned(kinds) if pair[0].startswith(word)])
    values: Values = []
    if "KEY" in kinds:
        values, whole = completion_values.keys(word, most_shards=16 if with_prefixes else 256)
        if not whole:
            return Answer("prefixes", values)
    values += [pair for pair in _known(typed, kinds, parameter["names"]) if pair[0].startswith(word)]
    return Answer("values", values) if values else Answer(paths or "values")


def _known(typed: _Typed, kinds: set[str], names: list[str]) -> Values:
    offers = [completion_values.BY_KIND[kind] for kind in sorted(kinds) if kind in completion_values.BY_KIND]
    values = [pair for offer in offers for pair in offer(typed.positional)]
    return values + [(each, "") for name in names for each in completion_values.BY_OPTION.get(name, ())]


def _begins_a_path(word: str) -> bool:
    folder, beginning = os.path.split(os.path.expanduser(word))
    try:
        return any(entry.name.startswith(beginning) for entry in os.scandir(folder or "."))
    except OSError:
        return False
