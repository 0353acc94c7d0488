"""The pictures of what commands show: all are made, tell nothing of the machine that made them, and are up to date."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from neuron_store.benchmarks.screens import Stage
from neuron_store.store.errors import BenchmarkError

IMAGES = Path(__file__).parent.parent / "docs/images"
PNG = b"\x89PNG\r\n\x1a\n"
SHOWN = {
    "stats": ["$ neuron-store stats", "hit_direct", "time saved", "/fsx/neuron-store", "hf://my-org/neuron-cache"],
    "list": ["$ neuron-store list -n 16", "llama_prefill_2048.hlo_module.pb", "2.21.33363.0", "16 of 50 results"],
    "watch": ["$ neuron-store watch --once", "3 compiling, 31 waiting", "12 min 4 s", "~34 min 11 s", "miss_stored"],
    "doctor": ["$ neuron-store doctor --offline", "/home/ubuntu", "neuronx-cc 2.21.33363.0", "nothing is wrong"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What is made where no browser is on PATH, and what is said of that."""
    folder = tmp_path_factory.mktemp("screens")
    done = subprocess.run(
        [sys.executable, "-m", "neuron_store.benchmarks.screens", str(folder)],
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def words(picture):
    """The lines of a picture of a terminal, as they are read."""
    rows = {}
    for element in ElementTree.fromstring(picture.read_text()).iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in element.attrib:
            rows.setdefault(float(element.get("y")), []).append((float(element.get("x")), element.text or ""))
    return [" ".join("".join(text for _, text in sorted(row)).split()) for _, row in sorted(rows.items())]


@pytest.mark.parametrize("name", SHOWN)
def test_a_command_is_shown(made, name):
    text = "\n".join(words(made[0] / f"{name}.svg"))
    for each in SHOWN[name]:
        assert each in text, text


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_fetches_nothing_and_tells_nothing_of_where_it_was_made(made, name):
    text = (made[0] / f"{name}.svg").read_text()
    assert re.findall(r"https?://[^\"\s]+", text) == ["http://www.w3.org/2000/svg"]
    assert "url(http" not in text
    assert "@import" not in text
    assert "@font-face" not in text
    for private in (str(IMAGES.parent.parent), sys.prefix, "/tmp/", f">{os.uname().nodename}<", "root"):
        assert private not in text, private


def test_what_would_tell_of_this_machine_is_an_error():
    stage = Stage(names={"/tmp/1234567": "/home/ubuntu"})
    assert stage.shown("/tmp/1234567/a by ubuntu on trn1-a") == "/home/ubuntu/a by ubuntu on trn1-a"
    with pytest.raises(BenchmarkError, match="/tmp/"):
        stage.shown("in /tmp/7654321")
    with pytest.raises(BenchmarkError, match=re.escape(os.getcwd())):
        stage.shown(f"in {os.getcwd()}")


@pytest.mark.parametrize("name", ["stats", "list", "watch"])
def test_the_documents_show_what_commands_print_now(made, name):
    assert words(IMAGES / f"{name}.svg") == words(made[0] / f"{name}.svg"), "run: make screens"


def test_the_report_is_drawn_and_its_page_left_out_without_a_browser(made):
    folder, said = made
    assert (folder / "report.png").read_bytes().startswith(PNG)
    assert "report-page.png, report-page-dark.png: left as they are; none of chromium" in said
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(f"{name}.svg" for name in SHOWN), "report.png"])


def test_the_documents_have_every_picture():
    documents = [IMAGES.parent.parent / "README.md", *IMAGES.parent.rglob("*.md")]
    text = "".join(path.read_text() for path in documents)
    for name in (*(f"{name}.svg" for name in SHOWN), "report.png", "report-page.png", "report-page-dark.png"):
        assert (IMAGES / name).is_file()
        assert re.search(rf"!\[[^\]]+\]\([^)]*images/{name}", text), name
