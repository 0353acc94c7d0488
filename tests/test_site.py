"""The documentation's site: it builds without a warning, holds every page, and fetches nothing from anywhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from neuron_store.cli.command_reference import command_reference

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = {"commands.md", "changes.md"}  # by docs/hooks.py


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return folder


def in_navigation():
    # mkdocs.yml has no tags of Python's: what names a plugin's function would not be read here.
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in pages(inner)]

    return pages(navigation)


def test_every_page_is_in_the_navigation_once():
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert sorted(in_navigation()) == sorted(written | MADE)


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(docs/([\w/-]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}


def test_the_site_has_every_page_and_no_warning(site):
    for page in in_navigation():
        html = site / page.replace(".md", ".html")
        assert "<h1" in html.read_text(), page


class _Addresses(HTMLParser):
    """What a browser fetches by itself for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href") or "")


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        addresses = _Addresses()
        addresses.feed(page.read_text())
        assert [address for address in addresses.found if "//" in address] == [], page
        assert any(address.endswith(".css") for address in addresses.found)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_the_reference_of_commands_has_every_command(host):
    text = command_reference()
    listed = host.cli("--help").stdout.split("Commands:")[1].split("Examples:")[0]
    names = re.findall(r"^  ([\w-]+)", listed, re.MULTILINE)
    assert len(names) > 20
    for name in names:
        assert re.search(rf"^## neuron-store {name}\b", text, re.MULTILINE), name
    assert "upload-queue" not in text  # hidden: the shim starts it
    assert "`--max-size BYTES`" in text
    assert "## neuron-store stock status" in text


def test_what_the_readme_links_to_within_a_page_is_there(site):
    links = re.findall(r"\]\(docs/([\w/-]+)\.md#([\w-]+)\)", (ROOT / "README.md").read_text())
    assert links
    for page, anchor in links:
        assert f'id="{anchor}"' in (site / f"{page}.html").read_text(), (page, anchor)
