"""Completion: what each shell offers, really asked of that shell."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from interactive_shells import Shell

from neuron_store.cli.command_tree import describe
from neuron_store.cli.completing import split_line
from neuron_store.cli.help import build
from neuron_store.cli.main import make_app
from neuron_store.shim.settings import SETTINGS

MODEL = "org/tiny-llama"
COMMANDS = {" ".join(command.words[1:]): command for command in describe(build(make_app())).walk()}
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in ("bash", "zsh", "fish")
]
DRIVE_BASH = """
source <(neuron-store completion bash)
_neuron_store_complete neuron-store "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def at(host):
    """A host with `neuron-store` on PATH, three results, and a model."""
    folder = host.base / "programs"
    folder.mkdir()
    program = folder / "neuron-store"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m neuron_store.cli "$@"\n')
    program.chmod(0o755)
    host.env["PATH"] = f"{folder}:{host.env['PATH']}"
    for number in range(3):
        path = host.model(f"graph{number}.pb", b"\x0a\x04main" + bytes([number]))
        host.cc("compile", path, "--framework=XLA", "--target=trn1", "-o", f"{path}.neff", NEURON_STORE_MODEL=MODEL)
    host.keys = sorted(row["key"] for row in json.loads(host.cli("list", "--json").stdout))
    assert len(host.keys) == 3
    return host


def asked(host, shell, *words, **extra):
    """Values and the directive, as the program tells them to a shell."""
    done = host.cli("complete-words", shell, *words, **extra)
    assert done.stderr == ""
    directive, *lines = done.stdout.splitlines()
    return directive, [line.partition("\t")[0] for line in lines]


def in_bash(host, line, cwd=None):
    """What the bash function offers, with words split as bash splits them."""
    words = [word for typed in re.split(r"\s+", line) for word in re.split(r"([=:]+)", typed) if word or not typed]
    # After `=` begins a word, though nothing stands in it yet.
    words += [""] if line.endswith(("=", ":")) else []
    drive = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}\n{DRIVE_BASH}"
    done = subprocess.run(
        ["bash", "--norc", "-c", drive],
        env={**host.env, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"},
        cwd=cwd or host.work,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "(top)")
def test_every_command_and_option_is_offered(host, name):
    words = ["neuron-store", *name.split()]
    directive, options = asked(host, "zsh", *words, "-")
    told = COMMANDS[name].options
    assert directive == "values"
    assert sorted(options) == sorted(spelled for each in told for spelled in (*each.names, *each.negative))
    if COMMANDS[name].commands:
        below = [command.words[-1] for command in COMMANDS[name].visible()]
        assert asked(host, "zsh", *words, "") == ("values", below)


def test_unpin_offers_what_is_pinned_and_nothing_else(at):
    assert in_bash(at, "neuron-store unpin ") == []
    key = at.keys[1]
    at.cli("pin", key, MODEL)
    assert in_bash(at, "neuron-store unpin ") == [key, MODEL]
    assert in_bash(at, "neuron-store unpin -m ") == [MODEL]
    assert in_bash(at, f"neuron-store unpin {key[:3]}") == [key]


def test_bash_offers_values_of_every_kind(at):
    at.use_remotes("hf://org/cache", f"file://{at.base}/shared")
    key = at.keys[0]
    (at.work / "folder").mkdir()
    (at.work / "file.tar.gz").touch()
    assert in_bash(at, "neuron-store lis") == ["list"]
    assert in_bash(at, f"neuron-store show {key[:6]}") == [key]
    assert in_bash(at, "neuron-store pin ") == [*at.keys, MODEL]
    assert in_bash(at, "neuron-store pull -m ") == [MODEL]
    assert in_bash(at, "neuron-store config set ") == list(SETTINGS)
    assert in_bash(at, "neuron-store config set xet ") == ["auto", "on", "off"]
    assert in_bash(at, "neuron-store config set stock ") == ["true", "false"]
    assert in_bash(at, "neuron-store list --sort s") == ["size", "seconds"]
    assert in_bash(at, "neuron-store list --sort=s") == ["size", "seconds"]
    assert in_bash(at, "neuron-store set ") == ["org/cache"]
    assert in_bash(at, "neuron-store list h") == ["hf://org/cache"]
    assert in_bash(at, "neuron-store list hf:") == ["//org/cache"]
    assert in_bash(at, "neuron-store stock sta") == ["status"]
    assert in_bash(at, "neuron-store stock status fo") == ["folder"]
    assert in_bash(at, "neuron-store import fi") == ["file.tar.gz"]
    assert in_bash(at, "neuron-store bench --plot=fi") == ["file.tar.gz"]
    assert in_bash(at, "neuron-store precompile folder -- --some fi") == ["file.tar.gz"]
    assert "neuronx-cc" in in_bash(at, "neuron-store run -- neuronx")
    assert "neuronx-cc" in in_bash(at, "neuron-store run -m x neuronx")
    assert in_bash(at, "neuron-store run -- cat fi") == ["file.tar.gz"]
    assert in_bash(at, "neuron-store no-such-command ") == []
    assert in_bash(at, "neuron-store 'sho") == ["show"]


def test_an_option_is_offered_once_unless_it_can_be_repeated(host):
    assert "--json" not in asked(host, "zsh", "neuron-store", "stats", "--json", "--")[1]
    assert "--set" in asked(host, "zsh", "neuron-store", "run", "--set", "a=b", "--")[1]


def test_options_are_known_in_either_spelling(host):
    assert asked(host, "zsh", "neuron-store", "add", "--auto_cast_type", "b") == ("values", ["bf16"])
    assert asked(host, "zsh", "neuron-store", "list", "-n5", "--sort", "ag") == ("values", ["age"])


def test_values_have_a_meaning_where_a_shell_shows_it(at):
    lines = at.cli("complete-words", "fish", "neuron-store", "show", at.keys[0][:4]).stdout.splitlines()
    assert lines[1].startswith(at.keys[0] + "\t")
    assert "graph" in lines[1]
    assert "2.14" in lines[1]


def test_only_the_first_digits_are_offered_where_keys_are_many(host):
    for shard in range(64):
        folder = host.store / f"results/{shard:02x}"
        folder.mkdir(parents=True)
        (folder / f"{shard:02x}{'0' * 30}").touch()
        (folder / "not-a-key").touch()
    assert asked(host, "bash", "neuron-store show ", "=:") == ("prefixes", [f"{shard:02x}" for shard in range(64)])
    assert asked(host, "bash", "neuron-store show 2", "=:") == (
        "values",
        [f"2{each:x}{'0' * 30}" for each in range(16)],
    )
    assert asked(host, "bash", "neuron-store show 20", "=:") == ("values", [f"20{'0' * 30}"])
    assert len(asked(host, "fish", "neuron-store", "show", "")[1]) == 64


def test_no_more_is_offered_than_anyone_looks_through(host):
    for shard in ("a0", "a1", "b0"):
        (host.store / f"results/{shard}").mkdir(parents=True)
        for number in range(300):
            (host.store / f"results/{shard}/{shard}{number:030x}").touch()
    assert asked(host, "zsh", "neuron-store", "show", "a") == ("prefixes", ["a0", "a1"])
    assert len(asked(host, "zsh", "neuron-store", "show", "b")[1]) == 300
    directive, keys = asked(host, "fish", "neuron-store", "show", "")
    assert (directive, len(keys)) == ("values", 500)
    assert keys == sorted(keys)


@pytest.mark.parametrize("hostile", ["$(touch pwned)", "a b", "a;b", "`id`", "a'b", "\x1b[2J", "a\nb", "*"])
def test_a_name_that_a_shell_would_have_to_quote_is_not_offered(host, hostile):
    path = host.model()
    host.cc("compile", path, "--framework=XLA", "--target=trn1", "-o", f"{path}.neff", NEURON_STORE_MODEL=hostile)
    assert hostile in host.cli("pin", hostile).stdout or not hostile.isprintable()
    assert asked(host, "bash", "neuron-store unpin -m ", "=:")[1] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"NEURON_STORE_DIR": "/proc/nowhere"},
        {"NEURON_STORE_DIR": "/dev/null"},
        {"NEURON_STORE_MAX_SIZE": "many"},
        {"NEURON_STORE_CONFIG": "/dev/full"},
        {"NEURON_STORE_REMOTES": "nonsense://x"},
        {"HOME": None},
        {"XDG_STATE_HOME": "/proc/nowhere"},
    ],
    ids=str,
)
@pytest.mark.parametrize("line", ["show ", "pin m", "list h", "list -c ", "config set x"])
def test_no_fault_is_shown_to_whoever_types(host, broken, line):
    done = host.cli("complete-words", "bash", f"neuron-store {line}", "=:", **broken)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == ("folders" if line == "pin m" else "values")


@pytest.mark.parametrize(
    "words", [[], ["bash"], ["bash", "", ""], ["zsh"], ["fish", ""], ["tcsh", "x"], ["bash", "a", "b", "c"]]
)
def test_nonsense_is_answered_with_silence(host, words):
    assert host.cli("complete-words", *words).stderr == ""


def test_the_description_is_made_anew_when_it_is_torn_or_of_another_program(host):
    kept = host.home / ".local/state/neuron-store/completion.json"
    expected = asked(host, "zsh", "neuron-store", "st")
    whole = json.loads(kept.read_text())
    marked = json.loads(json.dumps(whole))
    marked["tree"]["commands"] = {
        "stamped": {**whole["tree"]["commands"]["stats"], "words": ["neuron-store", "stamped"]}
    }
    kept.write_text(json.dumps(marked))
    assert asked(host, "zsh", "neuron-store", "st") == ("values", ["stamped"])  # it is used
    for content in (
        "",
        "{",
        "[]",
        "null",
        json.dumps({**marked, "stamp": ["0.0.0"]}),
        "\udcff".encode("utf-8", "surrogateescape"),
    ):
        (kept.write_bytes if isinstance(content, bytes) else kept.write_text)(content)
        assert asked(host, "zsh", "neuron-store", "st") == expected
        assert json.loads(kept.read_text()) == whole
    assert [path.name for path in kept.parent.glob("completion*")] == ["completion.json"]


def test_completion_imports_neither_the_hub_nor_what_help_needs(host):
    asked(host, "zsh", "neuron-store", "st")
    code = (
        "import sys; sys.argv = ['neuron-store', 'complete-words', 'zsh', 'neuron-store', 'pin', '']\n"
        "from neuron_store.cli.__main__ import main; main()\n"
        "print(sorted({'typer', 'rich', 'huggingface_hub', 'httpx', 'socket', 'tomlkit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=host.env, capture_output=True, text=True)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("[]", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_at_its_terminal(at, shell):
    (at.work / "folder").mkdir()
    (at.work / "file.tar.gz").touch()
    key = at.keys[0]
    unique = next(length for length in range(2, 33) if sum(each.startswith(key[:length]) for each in at.keys) == 1)
    at.use_remotes("hf://org/cache")
    lines = {
        "neuron-store lis": "neuron-store list ",
        f"neuron-store show {key[:unique]}": f"neuron-store show {key} ",
        "neuron-store pin org": f"neuron-store pin {MODEL} ",
        "neuron-store stats --js": "neuron-store stats --json ",
        "neuron-store config set max_si": "neuron-store config set max_size ",
        "neuron-store list hf": "neuron-store list hf://org/cache ",
        "neuron-store list hf:": "neuron-store list hf://org/cache ",
        "neuron-store list --sort=us": "neuron-store list --sort=used ",
        "neuron-store stock status fo": "neuron-store stock status folder/",
        "neuron-store import fi": "neuron-store import file.tar.gz ",
        "neuron-store run -m x -- cat fi": "neuron-store run -m x -- cat file.tar.gz ",
        "neuron-store run neuronx-c": "neuron-store run neuronx-cc ",
    }
    if shell == "fish":
        script = "source (neuron-store completion fish | psub); complete -C $argv[1]"
        for line, completed in lines.items():
            done = subprocess.run(
                ["fish", "--no-config", "-c", script, line], env=at.env, cwd=at.work, capture_output=True, text=True
            )
            assert done.stderr == ""
            values = [offered.partition("\t")[0] for offered in done.stdout.splitlines()]
            assert values == [completed.rpartition(" " if completed[-1] != " " else line.split()[-2] + " ")[2].strip()]
        return
    with Shell(shell, at.env, at.work) as terminal:
        terminal.run(f'eval "$(neuron-store completion {shell})"')
        for line, completed in lines.items():
            assert terminal.complete(line) == completed


@pytest.mark.parametrize("shell", SHELLS)
def test_installing_makes_the_next_shell_complete_and_is_done_once(at, shell):
    start = {"bash": ".bashrc", "zsh": ".zshrc"}.get(shell)
    if start:
        (at.home / start).write_text("alias mine=true")  # without an end of line
    said = [at.cli("completion", shell, "--install").stdout for _ in range(2)]
    assert all("is written" in text for text in said)
    if start:
        lines = (at.home / start).read_text().splitlines()
        assert lines[0] == "alias mine=true"
        assert len(lines) == 3
        with Shell(shell, at.env, at.work) as terminal:
            terminal.run(f". ~/{start}")
            assert terminal.complete("neuron-store lis") == "neuron-store list "
    else:
        done = subprocess.run(
            ["fish", "-c", "complete -C 'neuron-store lis'"], env=at.env, cwd=at.work, capture_output=True, text=True
        )
        assert done.stdout.split("\t")[0] == "list"


def test_what_cannot_be_installed_is_said(host):
    (host.home / ".local").write_text("a file")
    done = host.cli("completion", "bash", "--install", check=False)
    assert done.returncode == 1
    assert ".local" in done.stderr
    assert "nothing was installed" in done.stderr
    assert not (host.home / ".bashrc").exists()


def test_the_shell_is_found_out_where_it_is_not_named(host):
    python = f"{sys.executable} -m neuron_store.cli"
    done = subprocess.run(["bash", "-c", f"{python} completion; :"], env=host.env, capture_output=True, text=True)
    assert done.stdout == host.cli("completion", "bash").stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a ", ["a", ""]),
        ("a 'b c", ["a", "b c"]),
        ('a "b ', ["a", "b "]),
        ("a b\\ c", ["a", "b c"]),
        ("a 'b' ", ["a", "b", ""]),
    ],
)
def test_a_line_is_split_as_a_shell_would(line, words):
    assert split_line(line) == words
