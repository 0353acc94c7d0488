"""What the documents promise: their fenced blocks, the commands in them, and what these are said to print.

A block is run where an HTML comment before it says so (readers do not see it):

    <!-- run -->                   in the page's shell
    <!-- run: on=other -->         in the shell of another host, which has a home and a store of its own
    <!-- run: fails -->            its last command ends with an error
    <!-- prepare: COMMAND -->      run what no reader has to
    <!-- prepare: on=other COMMAND -->

In a `console` block commands stand after `$ `, and what follows one, if anything does, is all that it prints: `…` for any
text, a line of it for any lines. Quantities with a unit (`4 min 10 s`, `1.2 GB`) and digests are examples. In any other
block each line is a command.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!-- (?P<verb>run|prepare)(?:: (?P<words>.*?))? -->", re.DOTALL)
_QUANTITY = r"(?:\d[\d,.]*\s?(?:ms|s|min|h|d|B|kB|MB|GB|x|%)(?![\w]))"
_QUANTITIES = rf"{_QUANTITY}(?: {_QUANTITY})*"
_DIGEST = r"\b(?=[0-9a-f]*\d)[0-9a-f]{6,}\b"
_EXAMPLE = re.compile(rf"(?P<quantity>{_QUANTITIES})|(?P<digest>{_DIGEST})|(?P<any>…)")
_SHELLS = ("sh", "bash", "console", "dockerfile")


@dataclass
class Command:
    """One command, and what it is said to print (None: nothing is said)."""

    text: str
    output: "str | None" = None
    fails: bool = False


@dataclass
class Block:
    """One fenced block. `host` is where it is run, "" if it is not; `hidden`: it is a comment."""

    line: int
    language: str
    text: str
    host: str = ""
    fails: bool = False
    hidden: bool = False
    commands: list[Command] = field(default_factory=list)


def read_blocks(path: Path) -> list[Block]:
    """Return a document's blocks and hidden commands, in order."""
    text = path.read_text()
    found = []
    fences = list(_FENCE.finditer(text))
    for match in fences:
        indent = len(match["indent"])
        body = "\n".join(line[indent:] for line in match["text"].splitlines())
        block = Block(text.count("\n", 0, match.start()) + 1, match["language"], body)
        before = list(_COMMENT.finditer(text[: match.start()]))
        if before and before[-1]["verb"] == "run" and not text[before[-1].end() : match.start()].strip():
            words = (before[-1]["words"] or "").split()
            block.host = next((word[3:] for word in words if word.startswith("on=")), "this")
            block.fails = "fails" in words
            assert set(words) <= {"fails", f"on={block.host}"}, words
        block.commands = list(_commands(block))
        found.append((match.start(), block))
    for match in _COMMENT.finditer(text):
        inside = any(fence.start() < match.start() < fence.end() for fence in fences)
        if match["verb"] == "prepare" and not inside:
            first, _, rest = (match["words"] or "").partition(" ")
            host, command = (first[3:], rest) if first.startswith("on=") else ("this", match["words"])
            line = text.count("\n", 0, match.start()) + 1
            found.append((match.start(), Block(line, "sh", command, host, hidden=True, commands=[Command(command)])))
    return [block for _, block in sorted(found, key=lambda pair: pair[0])]


def _commands(block: Block):
    lines = block.text.split("\n")
    console = block.language == "console"
    while lines:
        line = lines.pop(0)
        if console:
            assert line.startswith("$ "), f"line {block.line}: {line!r} follows no command"
            line = line[2:]
        while line.endswith("\\") and lines:
            line += "\n" + lines.pop(0).removeprefix("> ")
        output = None
        if console:
            printed = []
            while lines and not lines[0].startswith("$ "):
                printed.append(lines.pop(0))
            output = "\n".join(printed) if printed else None
        if line.strip() and not line.lstrip().startswith("#"):
            last = not any(rest.startswith("$ ") if console else rest.strip() for rest in lines)
            yield Command(line, output, fails=block.fails and last)


def prints(promised: str, printed: str) -> bool:
    """Whether a command printed what the document says, up to white space and examples."""
    pattern = ""
    for line in promised.splitlines():
        words = " ".join(line.split())
        pattern += r"(?:.*\n)*?" if words == "…" else _line_pattern(words) + r"\n"
    actual = "".join(" ".join(line.split()) + "\n" for line in printed.splitlines())
    return re.fullmatch(pattern, actual) is not None


def _line_pattern(line: str) -> str:
    pattern, end = "", 0
    for match in _EXAMPLE.finditer(line):
        pattern += re.escape(line[end : match.start()])
        pattern += {"quantity": _QUANTITIES, "digest": "[0-9a-f]+", "any": ".*?"}[match.lastgroup]
        end = match.end()
    return pattern + re.escape(line[end:])


def command_lines(path: Path) -> list[tuple[int, str]]:
    """Return every `neuron-store …` of a document or example, with its line's number: in blocks and in the text."""
    text = path.read_text()
    if path.suffix != ".md":
        lines = enumerate(text.splitlines(), 1)
        return [(number, found) for number, line in lines for found in _mentions(_bare(line))]
    lines = []
    for block in read_blocks(path):
        if block.language in _SHELLS:
            lines += [(block.line, found) for command in block.commands for found in _mentions(_bare(command.text))]
        elif block.language != "text":
            lines += [(block.line, found) for line in block.text.splitlines() for found in _mentions(line)]
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in re.finditer(r"(`+)(.+?)\1(?!`)", prose):
        lines += [(prose.count("\n", 0, match.start()) + 1, found) for found in _mentions(match[2])]
    return lines


def _bare(line: str) -> str:
    """Return a line without its comment."""
    return re.sub(r"(?:^|\s)#\s.*", "", line)


def _mentions(line: str):
    if re.match(r"neuron-store \w+ \d\b", line):  # the name of a format
        return
    for match in re.finditer(r"(?<![\w./:=-])neuron-store(?= +[\w-])", line.replace("\\\n", " ")):
        if not re.search(r"install(?: +-\S+)* +$", line[: match.start()]):
            yield line.replace("\\\n", " ")[match.start() :]


def words_of(line: str) -> list[str]:
    """Return the words of one command, up to where a shell, a comment or a closing quote ends it."""
    lexer = shlex.shlex(line.replace("…", "..."), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = []
    try:
        for word in lexer:
            if set(word) <= set("();|&") or word in (">", "2>&1", "<"):
                break
            words.append(word.strip("[]"))
    except ValueError:  # a quote that began before the command
        words = line.split()
        words = [word.strip("[]\"'),") for word in words]
    return [word for word in words if word]
