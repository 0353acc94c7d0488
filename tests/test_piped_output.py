"""Output into pipes and files: plain, whole, answers on stdout and the rest on stderr."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

MODULE = "MODULE_" + "a_rather_long_name_of_a_graph_" * 5
# What reads alone, with what it needs; KEY stands for a result's.
READING = (
    "config",
    "doctor --offline",
    "du",
    "env",
    "env --path",
    "explain",
    "explain KEY",
    "explain -- neuronx-cc compile graph.pb --target trn1",
    "gc --dry-run --max-count 0",
    "key -- neuronx-cc compile graph.pb --target trn1",
    "list",
    "list REMOTE",
    "list REMOTE --models",
    "lookup org/model",
    "man",
    "pin",
    "remote status",
    "show KEY",
    "stats",
    "stats --all",
    "stock cleanup STOCK --dry-run",
    "stock status STOCK",
    "verify",
)
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # colours and bold letters, which move nothing


@pytest.fixture
def full(host):
    """A host with a result of a long name, a remote that is a folder, and a stock cache's folder."""
    path = host.model("graph.pb")
    long = host.model(f"{MODULE}.hlo_module.pb", b"\x0a\x04main of a long name")
    for each in (path, long):
        host.cc("compile", each, "--framework=XLA", "--target=trn1", "-o", f"{each.with_suffix('.neff')}")
    (host.base / "shared").mkdir()
    host.use_remotes(f"file://{host.base}/shared")
    (host.base / "stock").mkdir()
    host.key = next(row["key"] for row in json.loads(host.cli("list", "--json").stdout) if MODULE in row["module"])
    return host


def words_of(host, line):
    stands_for = {"KEY": host.key, "REMOTE": f"file://{host.base}/shared", "STOCK": f"{host.base}/stock"}
    return [stands_for.get(word, word) for word in line.split()]


@pytest.mark.parametrize("line", READING)
def test_what_is_piped_is_plain(full, line):
    done = full.cli(*words_of(full, line), check=False, TERM="xterm-256color")
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    for text in (done.stdout, done.stderr):
        assert not set(text) & set("\x1b\r\x08│╭━")


@pytest.mark.parametrize("line", READING)
def test_colours_that_are_forced_move_no_cursor(full, line):
    done = full.cli(*words_of(full, line), check=False, TERM="xterm-256color", FORCE_COLOR="1")
    plain = full.cli(*words_of(full, line), check=False, TERM="xterm-256color", FORCE_COLOR="1", NO_COLOR="1")
    assert not set(STYLE.sub("", done.stdout + done.stderr)) & set("\x1b\r\x08")
    assert "\x1b" not in plain.stdout + plain.stderr


def test_no_name_is_cut_short_in_a_pipe(full):
    assert f"{MODULE}.hlo_module.pb" in full.cli("list").stdout
    assert f"{MODULE}.hlo_module.pb" not in full.cli("list", COLUMNS="80").stdout


@pytest.mark.parametrize("line", ["list", "du", "stats", "config", "verify", "show KEY", "gc --dry-run", "gc --help"])
@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": None}, {"TERM": "xterm", "NO_COLOR": "1"}], ids=str)
def test_a_terminal_that_wants_no_colours_gets_none(full, line, variables):
    shown = on_terminal(full, words_of(full, line), variables)
    assert "Traceback" not in shown
    if variables.get("NO_COLOR"):
        assert not [code for code in STYLE.findall(shown) if code not in ("\x1b[0m", "\x1b[m")]
    else:
        assert "\x1b" not in shown


def on_terminal(host, words, variables):
    """Run a command whose stdout and stderr are a terminal; return what it wrote there."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "neuron_store.cli", *words],
        env=host.environ(variables),
        cwd=host.work,
        stdin=subprocess.DEVNULL,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # nobody writes there any more
            break
        if not piece:
            break
        seen += piece
    os.close(terminal)
    process.wait()
    return seen.decode()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("show 00000000", 1),
        ("import /no/such/folder", 1),
        ("import graph.pb", 1),
        ("precompile /no/such/folder", 1),
        ("bench /no/such/file.pb", 1),
        ("stock status /no/such/folder", 1),
        ("gc --max-size lots", 2),
        ("stats --since yesterdayish", 2),
        ("config set no_such_setting 1", 2),
        ("run -- no-such-program", 127),
        ("run -- ./graph.pb", 126),
        ("verify --key zz", 2),
        ("pin zz", 1),
        ("unpin", 2),
        ("list nonsense://", 2),
        ("pull zz", 1),
        ("clear", 2),
        ("", 2),
    ],
)
def test_what_cannot_be_done_says_so_on_stderr_alone(full, line, code):
    done = full.cli(*line.split(), check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_a_very_narrow_width_leaves_no_name_out(full):
    wide, narrow = (full.cli("du", COLUMNS=columns).stdout for columns in (200, 20))
    for name in [line.split()[0] for line in wide.splitlines() if line.split() and "results" not in line]:
        assert name[:12] in narrow
