"""The manual page: whole, and what every formatter that is installed here reads without a warning."""

import re
import shutil
import subprocess
import sys

import pytest
from test_help import COMMANDS

from neuron_store.cli.examples import EXAMPLES
from neuron_store.cli.exit_codes import EXIT_CODES
from neuron_store.cli.manual import manual, text
from neuron_store.shim.settings import PREFIX, SETTINGS

PAGE = manual(COMMANDS[""])


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def formatted(*words, page=PAGE):
    done = subprocess.run(words, input=page, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@needs("groff")
def test_groff_has_no_warning():
    assert formatted("groff", "-ww", "-man", "-Tutf8").stderr == ""


@needs("man")
def test_man_has_no_warning(monkeypatch):
    monkeypatch.setenv("MANWIDTH", "80")
    done = formatted("man", "--warnings", "-l", "-")
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 140  # examples are not broken


@needs("mandoc")
def test_mandoc_has_no_warning_but_of_the_date():
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=PAGE, capture_output=True, text=True)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "missing date" not in line] == []


@needs("groff")
def test_the_page_shows_every_command_option_setting_example_and_exit_code():
    shown = formatted("groff", "-man", "-Tascii", "-P-cbou", "-rLL=1000n").stdout
    words = " ".join(shown.split())
    for command in COMMANDS.values():
        assert command.name in words
        for each in (*command.options, *command.arguments):
            assert all(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words) for name in each.names)
            assert " ".join(each.help.replace("`", "").replace("…", "...").split()) in words
    for examples in EXAMPLES.values():
        assert all(f"    {line}\n" in shown for _, line in examples)
    assert all(PREFIX + name.upper() in words for name in SETTINGS)
    assert all(f" {code} " in words for code in EXIT_CODES)


def test_the_page_is_ascii_and_its_source_has_no_line_that_is_a_request_by_chance():
    assert PAGE.isascii()
    known = (".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".br", ".nh", ".ad")
    assert all(line.split()[0] in known for line in PAGE.splitlines() if line.startswith((".", "'")))


@needs("groff")
@pytest.mark.parametrize("said", [".hidden", "'quoted'", "a\\b", "~/x^2", '"x"', "--long-option", "a.b", "C:\\new\\fP"])
def test_text_is_shown_as_it_is(said):
    page = f".TH X 1\n.nh\n.SH NAME\n{text(said)}\n"
    assert said in formatted("groff", "-man", "-Tascii", "-P-cbou", page=page).stdout


def test_the_command_prints_the_page(host):
    assert host.cli("man").stdout == PAGE


@needs("man")
def test_an_installed_page_is_found_by_man(host):
    """Into the home here: the environment of the tests is not to be changed."""
    code = "import sys; sys.prefix = '/dev/null'; from neuron_store.cli.__main__ import main; main()"
    (host.home / ".local/bin").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", code, "man", "--install"],
        env=host.env,
        capture_output=True,
        text=True,
    )
    page = host.home / ".local/share/man/man1/neuron-store.1"
    assert (done.returncode, done.stdout) == (0, f"{page} is written\n"), done.stderr
    env = {**host.env, "PATH": f"{host.home}/.local/bin:/usr/bin:/bin"}
    found = subprocess.run(["man", "-w", "neuron-store"], env=env, capture_output=True, text=True)
    assert found.stdout == f"{page}\n"


def test_where_nothing_can_be_written_that_is_said(host):
    (host.home / ".local").write_text("a file")
    code = "import sys; sys.prefix = '/dev/null'; from neuron_store.cli.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "man", "--install"], env=host.env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert ".local/share/man" in done.stderr
    assert "Traceback" not in done.stderr
