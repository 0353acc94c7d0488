"""Facts that stand in one page each are those of the program."""

import re
from pathlib import Path

import pytest

from neuron_store.hashing.environment import KEY_VARIABLES
from neuron_store.shim.counters import COUNTERS, MISS, PASS
from neuron_store.shim.settings import OTHER_VARIABLES, SETTINGS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_on_keys_names_every_variable_that_is_in_the_key():
    page = (ROOT / "docs/key.md").read_text()
    block = re.search(r"^## Environment.*?```text\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    assert block[1].split() == [name.decode() for name in KEY_VARIABLES]


def test_the_page_on_what_is_not_cached_names_every_reason():
    page = (ROOT / "docs/never-cached.md").read_text()
    reasons = {name for name, (group, _) in COUNTERS.items() if group in (PASS, MISS)} - {"miss_stored"}
    named = set(re.findall(r"`((?:pass|miss)_\w+)`", page))
    assert named == reasons


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_counter_and_setting_that_is_named_exists(path):
    text = path.read_text()
    groups = "hit|miss|pass|error|audit|corrupt|missing|upload|remote|stock"
    known = {*COUNTERS, *SETTINGS}
    assert set(re.findall(rf"`((?:{groups})_[a-z_]+[a-z])`", text)) <= known
    variables = set(re.findall(r"\bNEURON_STORE_[A-Z_]+[A-Z]\b", text))
    ours = {f"NEURON_STORE_{name.upper()}" for name in SETTINGS} | set(OTHER_VARIABLES)
    assert {name for name in variables - ours if not name.startswith("NEURON_STORE_MODEL")} == set()
    for name in re.findall(r"neuron-store config set (\w+)", text):
        assert name in SETTINGS or name == "NAME"


def test_messages_that_troubleshooting_explains_are_the_programs_own():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    table = page.split("| message | why | what to do |")[1].split("\n\n")[0]
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    source = (ROOT / "store/remotes/hub_client.py").read_text()
    patterns = [
        re.escape(message).replace(r"we\ may\ not\ write\ to", r"we\ may\ not\ {doing}") for message in messages
    ]
    assert len(messages) > 4
    assert [pattern for pattern in patterns if not re.search(pattern, source)] == []
