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
    LEVEL,
    LEVELS,
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
_QUOTES = str.maketrans("", "", "\\'\"")
_LONGEST_TEXT = 1 << 14  # characters that are searched for paths
_LONGEST_NAME = 255  # bytes of a file's name
_MOST_LOOKS = 400  # for files that a command line may mention
_FEW_STRETCHES = 64  # of a text; with more, a listing of the current directory costs less than looking for each


class CommandLine:
    """A plain `compile` invocation, read.

    Attributes:
        options: the options that identify the result, normalised; by name where all are known, else in order.
        model: the path of the one input file, as written.
        output: where the NEFF goes, as written (or the compiler's default).
        logfile: the log file that the command names, else None.
        files: the files that options name or mention, in order: (option's name, path). Their contents count. The name
            is followed by `@` and the place of the path where the path stays in the option's text.
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
        self.all_known = True  # each option is, and takes no words whose number is not
        self.mentions: _Mentions | None = None

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
        if word == "compile" and not self.compile_seen and not self.certain:
            self.compile_seen = True
            if not certain:  # it may be an option's word, and a later one the command
                self.options.append(word)
        elif certain:
            self.certain.append(word)
        else:
            self.possible.append(len(self.options))
            self.options.append(word)

    def _option(self, word: str) -> bool:
        """Take one option; return whether bare words after it may belong to it."""
        name, value = _split_option(word)
        kind, meaning = OPTIONS.get(name, (UNKNOWN, TEXT))
        self.all_known &= kind in (FLAG, VALUE) or meaning == NEUTRAL
        if name not in OPTIONS:
            _refuse_abbreviation(name)
            self._take_files(name, word)
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
            self._keep(name, kind, meaning, value)
        elif meaning == LEVEL:
            if value is not None and value not in LEVELS and not (value.isdigit() and value.isascii()):
                self._keep(name, kind, meaning, value)
        elif meaning != NEUTRAL:
            self.reasons.append(meaning)

    def _keep(self, name: str, kind: int, meaning: str, value: "str | None") -> None:
        if meaning == TARGET:
            self.target_given = True
        if meaning == FILE and value is not None and os.path.exists(value):
            self.files.append((name, _regular(name, value)))
            value = FILE_PLACE
        elif meaning in (TEXT, FILE) and value is not None:
            self._take_files(name, value)
        if name in COMPETING:
            self._supersede(COMPETING[name])
        if kind == WORDS:
            self.options += [name] if value is None else [name, value]
        else:
            self.options.append(name if value is None else name + "=" + value)

    def _supersede(self, group: str) -> None:
        if group in self.rightmost:
            self.superseded.add(self.rightmost[group])
        self.rightmost[group] = len(self.options)

    def _take_files(self, name: str, text: str) -> None:
        """Note the files that a text mentions. The text is kept as well, so where in it they are is known."""
        self.mentions = self.mentions or _Mentions()
        for path, place in self.mentions.find(name, text).items():
            self.files.append((f"{name}@{place}", _regular(name, path)))

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
        if self.all_known and not self.possible and not self.files:
            # Each caller has an order of its own. What one option says does not depend on where another stands; of the
            # same option, which may add to itself, the order stays.
            options.sort(key=_name_of)
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


class _Mentions:
    """Finds the existing paths in texts whose grammar is not known, with a bounded number of looks at the disk.

    A path may begin wherever a word does, at any `/` or `~`, and inside a word of one dash (`-Ipath`). It may end
    wherever a word does. So it may hold spaces, `=` and all else that stands between words.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._names: set[str] | None = None  # of the current directory, once it was listed

    def find(self, name: str, text: str) -> "dict[str, str]":
        """Return path -> its place in `text`, for all paths that exist. Raises NotCacheable if not all can be known."""
        if len(text) > _LONGEST_TEXT or "$" in text:
            raise NotCacheable("file_option", f"{name} is too long, or mentions a variable")
        found: dict[str, str] = {}
        self._search(text, found, "")
        unquoted = text.translate(_QUOTES)  # as a shell would read it
        if unquoted != text:
            self._search(unquoted, found, "unquoted")
        return found

    def _search(self, text: str, found: "dict[str, str]", form: str) -> None:
        stops = [place for place, character in enumerate(text) if character == "/" or _separates(character)]
        stops.append(len(text))
        begins = _beginnings(text)
        if len(begins) * len(stops) > _FEW_STRETCHES and self._names is None:
            self._names = _list_current_directory()
        after = 0
        for begin in begins:
            while stops[after] <= begin:
                after += 1
            paths = self._paths(text, "", begin, stops[after:])
            if text[begin] == "~":
                home = os.path.expanduser(text[begin : stops[after]])
                paths += self._paths(text, home, stops[after], stops[after:])
            for path, end in paths:
                found.setdefault(path, f"{form}{begin}-{end}")

    def _paths(self, text: str, base: str, begin: int, stops: list[int]) -> "list[tuple[str, int]]":
        """Return each existing path that is `base` and the text from `begin` to a stop, with that stop."""
        found = []
        part = begin  # where the path's last part begins
        for stop in stops:
            if stop - part > _LONGEST_NAME:
                break
            path = base + text[begin:stop]
            exists = self._exists(path)
            if text[stop : stop + 1] == "/":
                if not exists:
                    break  # so nothing is below it
                part = stop + 1
            elif exists:
                found.append((path, stop))
        return found

    def _exists(self, path: str) -> bool:
        if self._names is not None and "/" not in path:
            return path in self._names
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            raise NotCacheable("file_option", "the options may mention too many files")
        return os.path.exists(path)


def _separates(character: str) -> bool:
    return not character.isalnum() and character not in "._-/~"


def _beginnings(text: str) -> list[int]:
    """Return the places in `text` where a path may begin."""
    found = []
    word = 0  # where the word at hand begins
    for place, character in enumerate(text):
        if _separates(character):
            if place == word:
                found.append(place)
            word = place + 1
        elif place == word or character in "/~" or (text[word] == "-" and text[word + 1] != "-"):
            found.append(place)
    return found


def _list_current_directory() -> "set[str]":
    try:
        return {".", "..", *os.listdir(".")}
    except OSError as error:
        raise NotCacheable("file_option", str(error)) from error


def _name_of(option: str) -> str:
    return option.partition("=")[0]


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
