"""Read a `neuronx-cc` command line: which file is compiled, to where, and which options identify the result.

The compiler's own parser is not public, so the rule is: whatever is read with certainty is normalised, whatever
is not stays in the key as it was written, and whatever could name an unseen input is not cached.
"""

import os

from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.hashing.options import (
    COMPETING,
    FILE,
    FLAG,
    LOGFILE,
    MUST_NOT_BE_ABBREVIATED,
    NEUTRAL,
    OPTIONS,
    OUTPUT,
    PATH,
    PLAIN,
    SPELLINGS,
    TARGET,
    TEXT,
    UNKNOWN,
    VALUE,
    WORDS,
)

DEFAULT_OUTPUT = "file.neff"
DEFAULT_LOGFILE = "log-neuron-cc.txt"
INPUT_PLACE = "<input>"
FILE_PLACE = "<file>"
_KEPT = (PLAIN, TEXT, FILE, PATH, TARGET)
_COMMANDS_PASSED = {"list-operators": "list_operators", "neff-info": "neff_info"}
_PYTHON_SUFFIXES = (".py", ".pyc", ".pyw")
_SEPARATORS = str.maketrans("=,;:'\"{}[]()", " " * 12)


class CommandLine:
    """A plain `compile` invocation, read.

    Attributes:
        options: the options that identify the result, normalised, in order.
        model: the path of the one input file, as written.
        output: where the NEFF goes, as written (or the compiler's default).
        logfile: the log file that the command names, else None.
        files: the files that options name or mention: (option's name, path), in order. Their contents count.
        target_given: whether --target tells the hardware; if not, the compiler asks the host.
    """

    __slots__ = ("files", "logfile", "model", "options", "output", "target_given")

    def __init__(
        self,
        options: list[str],
        model: str,
        output: str,
        logfile: "str | None",
        files: list[tuple[str, str]],
        *,
        target_given: bool,
    ) -> None:
        self.options = options
        self.files = files
        self.model = model
        self.output = output
        self.logfile = logfile
        self.target_given = target_given


def read_command_line(arguments: list[str]) -> CommandLine:
    """Read the arguments that follow the program's name.

    Paths in them are relative to the current directory. Raises NotCacheable for anything that is not a compile
    of one model file whose every input is known.
    """
    reader = _Reader(arguments)
    reader.read()
    return reader.result()


class _Reader:
    """One pass over the arguments. Bare words are `certain` (positional) or `possible` (an option's or positional)."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.position = 0
        self.options: list[str] = []
        self.files: list[tuple[str, str]] = []
        self.rightmost: dict[str, int] = {}  # competing option -> index into options
        self.superseded: set[int] = set()
        self.certain: list[str] = []
        self.possible: list[int] = []  # indexes into options
        self.reasons: list[str] = []
        self.compile_seen = False
        self.output = DEFAULT_OUTPUT
        self.logfile: str | None = None
        self.target_given = False

    def read(self) -> None:
        after_open_option = False
        while self.position < len(self.arguments):
            word = self.arguments[self.position]
            self.position += 1
            if word == "--":
                for rest in self.arguments[self.position :]:
                    self._bare_word(rest, certain=True)
                break
            if _looks_like_option(word):
                after_open_option = self._option(word)
            else:
                self._bare_word(word, certain=not after_open_option)

    def _bare_word(self, word: str, *, certain: bool) -> None:
        if word.startswith("@"):
            raise NotCacheable("response_file", word)
        if word == "compile" and not self.compile_seen:
            self.compile_seen = True
        elif certain:
            self.certain.append(word)
        else:
            self.possible.append(len(self.options))
            self.options.append(word)

    def _option(self, word: str) -> bool:
        """Take one option; return whether bare words after it may belong to it."""
        name, value = _split_option(word)
        kind, meaning = OPTIONS.get(name, (UNKNOWN, TEXT))
        if name not in OPTIONS:
            _refuse_abbreviation(name)
            if value is not None:
                self._take_files(name, value)
            self.options.append(word)
            return value is None
        if kind == VALUE and value is None:
            value = self._next_word(name)
        if kind == FLAG and value is not None:
            raise NotCacheable("unusual_option", word)
        self._take(name, kind, meaning, value)
        return value is None and kind in (WORDS, UNKNOWN)

    def _next_word(self, name: str) -> str:
        if self.position == len(self.arguments) or _looks_like_option(self.arguments[self.position]):
            raise NotCacheable("unusual_option", name + " has no value")
        self.position += 1
        return self.arguments[self.position - 1]

    def _take(self, name: str, kind: int, meaning: str, value: "str | None") -> None:
        if meaning == OUTPUT:
            self.output = value or ""
        elif meaning == LOGFILE:
            self.logfile = value
        elif meaning in _KEPT:
            if meaning == TARGET:
                self.target_given = True
            if meaning == TEXT and value is not None:
                self._take_files(name, value)
            if meaning == FILE and value is not None and os.path.exists(value):
                self.files.append((name, _regular(name, value)))
                value = FILE_PLACE
            if name in COMPETING:
                self._supersede(COMPETING[name])
            if kind == WORDS:
                self.options += [name] if value is None else [name, value]
            else:
                self.options.append(name if value is None else name + "=" + value)
        elif meaning != NEUTRAL:
            self.reasons.append(meaning)

    def _supersede(self, group: str) -> None:
        if group in self.rightmost:
            self.superseded.add(self.rightmost[group])
        self.rightmost[group] = len(self.options)

    def _take_files(self, name: str, value: str) -> None:
        """Note the files that a value is, or mentions. What is not certain to be only a file is kept as text too."""
        if os.path.exists(value):
            self.files.append((name, _regular(name, value)))
            return
        for piece in value.translate(_SEPARATORS).split():
            if ("/" in piece or "." in piece) and os.path.exists(piece):
                self.files.append((name, _regular(name, piece)))

    def result(self) -> CommandLine:
        self._refuse_other_commands()
        model = self._find_model()
        if model.lower().endswith(_PYTHON_SUFFIXES):
            raise NotCacheable("python_input", model)
        for index in self.possible:
            word = self.options[index]
            if word != INPUT_PLACE:
                self._take_files("", word)
        if not self.output:
            raise NotCacheable("special_output", "--output is empty")
        options = [option for index, option in enumerate(self.options) if index not in self.superseded]
        return CommandLine(options, model, self.output, self.logfile, self.files, target_given=self.target_given)

    def _refuse_other_commands(self) -> None:
        for reason in ("version", "help"):
            if reason in self.reasons:
                raise NotCacheable(reason)
        if not self.compile_seen:
            command = self.certain[0] if self.certain else ""
            if not command:
                raise NotCacheable("no_command")
            raise NotCacheable(_COMMANDS_PASSED.get(command, "other_command"), command)
        if self.reasons:
            raise NotCacheable(self.reasons[0])

    def _find_model(self) -> str:
        """Return the one model file; a word that may be an option's is taken for it only if it is a path."""
        if len(self.certain) > 1:
            raise NotCacheable("several_inputs", " ".join(self.certain))
        if self.certain:
            return self.certain[0]
        paths = [index for index in self.possible if os.path.exists(self.options[index])]
        if len(paths) > 1:
            raise NotCacheable("several_inputs", " ".join(self.options[index] for index in paths))
        if not paths:
            if self.possible:  # one of them may be the model file, and missing
                raise NotCacheable("unreadable_input", self.options[self.possible[-1]])
            raise NotCacheable("no_input")
        model = self.options[paths[0]]
        self.options[paths[0]] = INPUT_PLACE
        return model


def _looks_like_option(word: str) -> bool:
    """Tell an option from a value that starts with a dash: such a value has a space, or is a negative number."""
    if len(word) < 2 or word[0] != "-":
        return False
    if " " in word.partition("=")[0]:
        return False
    return not word[1:].replace(".", "", 1).isdigit()


def _split_option(word: str) -> "tuple[str, str | None]":
    """Split `--name=value`, `-O1` and `-ofile` into the full option name and its value, None if it has none."""
    name, equals, value = word.partition("=")
    if name in SPELLINGS:
        return SPELLINGS[name], value if equals else None
    if not name.startswith("--") and name[:2] in ("-O", "-o"):
        return SPELLINGS[name[:2]], word[2:]
    return name, value if equals else None


def _refuse_abbreviation(name: str) -> None:
    if len(name) > 2 and any(full.startswith(name) for full in MUST_NOT_BE_ABBREVIATED):
        raise NotCacheable("abbreviated_option", name)


def _regular(name: str, path: str) -> str:
    """Return `path` if it is a regular file; a folder's or a device's contents cannot be in the key."""
    if not os.path.isfile(path):
        raise NotCacheable("file_option", (name + " " + path).strip())
    return path
