"""Help, usage errors and their exit codes: of every command there is, also of those that come later."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from neuron_store.cli import help as cli_help
from neuron_store.cli.command_tree import PROGRAM, describe
from neuron_store.cli.examples import EXAMPLES
from neuron_store.cli.help import render
from neuron_store.cli.main import make_app
from neuron_store.shim.version import VERSION

PROGRAM_BUILT = cli_help.build(make_app())
COMMANDS = {" ".join(command.words[1:]): command for command in describe(PROGRAM_BUILT).walk()}
every_command = pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "(top)")


def argv_of(line):
    """The words that an example's line gives to neuron-store."""
    inner = re.search(r"\$\((.*)\)", line)
    words = shlex.split(inner[1] if inner else line)
    ends = [words.index(word) for word in ("|", ">") if word in words]
    words = words[: min(ends, default=len(words))]
    assert words[0] == PROGRAM, line
    return words[1:]


@every_command
def test_every_command_has_two_to_four_examples_in_its_help(name):
    assert 2 <= len(EXAMPLES[name]) <= 4
    shown = render(COMMANDS[name], width=80, bold=False)
    lines = shown.partition("\nExamples:\n")[2].splitlines()
    assert lines == [line for what, example in EXAMPLES[name] for line in (f"  # {what}", f"  {example}")]


@every_command
def test_every_example_is_a_command_line_that_the_program_takes(name):
    for _, line in EXAMPLES[name]:
        context, arguments = PROGRAM_BUILT, argv_of(line)
        parent, word = None, PROGRAM
        while True:
            if arguments == ["--help"]:
                break
            # Raises for an option or a number of arguments that the command does not take; runs nothing.
            parent = context.make_context(word, arguments, parent=parent)
            rest = [*getattr(parent, "_protected_args", []), *parent.args]
            if not getattr(context, "commands", None) or not rest:
                break
            word, arguments = rest[0], rest[1:]
            context = context.commands[word]
        said = " ".join(argv_of(line))
        assert not name or said == name or said.startswith(name + " "), line


def test_examples_are_of_commands_that_exist():
    assert EXAMPLES.keys() == COMMANDS.keys()


@every_command
@pytest.mark.parametrize("width", [60, 80, 100])
def test_help_fits_the_terminal(name, width):
    text, _, examples = render(COMMANDS[name], width=width, bold=False).partition("\nExamples:\n")
    too_long = [line for line in text.splitlines() if len(line) > width]
    # Choices are never broken.
    assert all("|" in line for line in too_long)
    assert max(map(len, examples.splitlines())) <= 120


@every_command
def test_help_names_every_option_whole(name):
    text = render(COMMANDS[name], width=80, bold=False)
    for option in COMMANDS[name].options:
        for spelled in (*option.names, *option.negative):
            assert re.search(rf"(?<![\w-]){re.escape(spelled)}(?![\w-])", text), spelled
    assert text.isascii() or all(letter.isprintable() or letter == "\n" for letter in text)


@every_command
def test_help_is_the_same_for_both_options_and_goes_to_stdout(host, name):
    long, short = (host.cli(*name.split(), option) for option in ("--help", "-h"))
    assert long.stdout == short.stdout
    assert long.stderr == short.stderr == ""
    assert "\x1b" not in long.stdout


def test_help_needs_no_store_and_no_home(host):
    assert host.cli("gc", "--help", NEURON_STORE_DIR="/proc/nowhere", HOME=None).stdout.startswith("Usage: ")


def test_headings_are_bold_where_colours_are_taken():
    assert "\x1b[1mOptions:\x1b[0m" in render(COMMANDS["gc"], width=80, bold=True)


def test_force_color_makes_headings_bold_in_a_pipe_and_no_color_comes_first(host):
    assert "\x1b[1m" in host.cli("gc", "--help", FORCE_COLOR="1", TERM="xterm").stdout
    assert "\x1b" not in host.cli("gc", "--help", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm").stdout
    assert "\x1b" not in host.cli("gc", "--help", FORCE_COLOR="1", TERM="dumb").stdout


def test_version(host):
    shown = host.cli("--version")
    assert (shown.stdout, shown.stderr) == (f"neuron-store {VERSION}\n", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lisst", "Did you mean 'list'?"),
        ("stats --jsn", "--json"),
        ("config st", "Did you mean 'set'?"),
        ("list --sort sise", "'size'"),
        ("show", "KEY"),
        ("pull --jobs many model", "--jobs"),
        ("gc --keep-compilers 0", "--keep-compilers"),
        ("stats extra words", "extra"),
    ],
)
def test_a_command_line_that_is_wrong_ends_with_2_and_says_what_would_be_right(host, line, said):
    done = host.cli(*line.split(), check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said.lower() in done.stderr.lower()
    assert "-h' for help" in done.stderr
    assert "Traceback" not in done.stderr


MEANINGFUL = {("bench", "--flags"), ("list", "--model"), ("config set", "VALUE")}
VALUES = [(name, option.names[-1]) for name, command in COMMANDS.items() for option in command.options if option.value]
ARGUMENTS = [
    (name, argument.value)
    for name, command in COMMANDS.items()
    for argument in command.arguments
    if not command.takes_command
]


def refusal(name, *words):
    """What the program says of a command line; it runs nothing."""
    command, context, word = PROGRAM_BUILT, None, PROGRAM
    arguments = [*name.split(), *words]
    try:
        while True:
            context = command.make_context(word, arguments, parent=context)
            rest = [*getattr(context, "_protected_args", []), *context.args]
            if not getattr(command, "commands", None) or not rest:
                return ""
            word, arguments = rest[0], rest[1:]
            command = command.commands[word]
    except Exception as error:  # of click, or of typer's own copy of it
        assert error.exit_code == 2
        return error.format_message()


@pytest.mark.parametrize(("name", "option"), VALUES)
def test_an_empty_value_of_an_option_is_refused_but_where_it_has_a_meaning(name, option):
    said = refusal(name, option, "")
    assert bool(said) == ((name, option) not in MEANINGFUL), said


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_empty_argument_is_refused_but_where_it_has_a_meaning(name, argument):
    needed = [item.value for item in COMMANDS[name].arguments]
    said = refusal(name, *["" if item == argument else "x" for item in needed])
    assert bool(said) == ((name, argument) not in MEANINGFUL), said


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["verify", "--remote", ""], "--remote"),
        (["verify", "--key="], "--key"),
        (["gc", "--older-than", "", "--yes"], "--older-than"),
        (["gc", "--max-count", "0", "-m", ""], "--model"),
        (["gc", "--max-count", "0", "--compiler", ""], "--compiler"),
        (["list", ""], "REMOTE"),
        (["show", ""], "KEY"),
        (["stats", "--prometheus", ""], "--prometheus"),
        (["stats", "--since", ""], "--since"),
        (["report", "-o", ""], "--output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_an_unset_variable_in_a_script_is_an_error_and_changes_nothing(host, words, called):
    host.cc("compile", "--framework=XLA", "--target=trn1", host.model(), "--output=o.neff")
    done = host.cli(*words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert called in done.stderr
    assert "is empty: give a value, or leave it out" in done.stderr
    assert len(json.loads(host.cli("list", "--json").stdout)) == 1


def test_words_of_another_program_may_be_empty(host):
    assert host.cli("run", "--", "printf", "<%s>", "").stdout == "<>"


@every_command
def test_an_unknown_option_ends_with_2(host, name):
    done = host.cli(*name.split(), "--no-such-option", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no such option: --no-such-option" in done.stderr.lower()
    assert not set(done.stderr) & set("╭│╰\x1b")


def neuron_store(host, *arguments, stdout, **more):
    return subprocess.run(
        [sys.executable, "-m", "neuron_store.cli", *arguments],
        env=host.env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        **more,
    )


@pytest.mark.parametrize("line", ["--help", "--version", "gc -h", "stats", "list --json", "config", "env"])
def test_output_that_cannot_be_written_is_an_error_with_a_message(host, line):
    with open("/dev/full", "w") as full:
        done = neuron_store(host, *line.split(), stdout=full)
    assert (done.returncode, done.stderr) == (1, "neuron-store: the output: No space left on device\n")


@pytest.mark.parametrize("line", ["--help", "--version", "gc -h", "stats", "list --json", "config", "env"])
def test_output_that_nobody_reads_is_no_error(host, line):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = neuron_store(host, *line.split(), stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["--help", "stats", "config", "env"])
def test_a_closed_stdout_makes_no_traceback(host, line):
    done = neuron_store(host, *line.split(), stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(1))
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
