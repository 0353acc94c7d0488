"""Each command imports its own module, and the table of them is true."""

import importlib
import subprocess
import sys

import pytest
import typer

from neuron_store.cli.command_modules import MODULES


@pytest.mark.parametrize("module", MODULES)
def test_the_table_names_exactly_the_commands_of_a_module(module):
    app = typer.Typer()
    importlib.import_module(f"neuron_store.cli.{module}").register(app)
    names = [command.name for command in app.registered_commands]
    names += [group.name for group in app.registered_groups]
    assert sorted(names) == sorted(MODULES[module])


@pytest.mark.parametrize(
    ("words", "module", "unneeded"),
    [
        (["stats"], "statistics", ["huggingface_hub", "prometheus_client", "neuron_store.cli.add"]),
        (["--version"], "environment", ["huggingface_hub", "neuron_store.cli.statistics"]),
        (["config"], "configuration", ["neuron_store.cli.statistics", "neuron_store.cli.verify"]),
    ],
)
def test_a_command_imports_no_other(host, words, module, unneeded):
    code = (
        "import sys; from neuron_store.cli.main import main; sys.argv = ['neuron-store', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: print(end.code, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], env=host.environ({}), capture_output=True, text=True)
    ended, *imported = done.stderr.split()
    assert ended in ("0", "None"), done.stderr
    assert f"neuron_store.cli.{module}" in imported
    assert set(imported).isdisjoint(unneeded)


@pytest.mark.parametrize("words", [[], ["--help"], ["no-such-command"]])
def test_help_and_mistakes_know_all_commands(host, words):
    done = host.cli(*words, check=False)
    if words == ["no-such-command"]:
        assert (done.returncode, done.stdout) == (2, "")
        assert "No such command 'no-such-command'" in done.stderr
    else:
        assert all(name in done.stdout + done.stderr for name in ("stats", "verify", "bench", "man"))
