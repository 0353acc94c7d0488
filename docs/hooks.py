"""Pages that the site has and this folder has not: they are made from what tells the same already."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from neuron_store.cli.command_reference import command_reference

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference of commands and the list of changes."""
    files.append(File.generated(config, "commands.md", content=command_reference()))
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text()))
    return files


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - as mkdocs calls it
    """Show `a|b` in a table's code as GitHub does: there `|` has a backslash, which this Markdown would show, too."""
    return re.sub(r"<code>[^<]*</code>", lambda found: found[0].replace("\\|", "|"), html)
