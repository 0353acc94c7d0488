"""The documents say what the program does."""

import re
from pathlib import Path

import pytest

from neuron_store.cli.exit_codes import document
from neuron_store.cli.reference import reference

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_of_settings_and_counters_is_up_to_date():
    assert (ROOT / "docs/settings-and-counters.md").read_text() == reference()


def test_the_document_of_exit_codes_is_up_to_date():
    assert (ROOT / "docs/exit-codes.md").read_text() == document()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_command_is_in_the_readme(host):
    listed = host.cli("--help").stdout.split("Commands:")[1].split("Examples:")[0]
    commands = set(re.findall(r"^  (\w+)", listed, re.MULTILINE))
    named = set(re.findall(r"^\| `neuron-store (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert commands == named
