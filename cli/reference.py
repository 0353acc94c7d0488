"""The reference of settings and counters, written from the tables that the program itself uses.

`python -m neuron_store.cli.reference docs/settings-and-counters.md` writes it anew.
"""

import sys
from pathlib import Path

from neuron_store.shim.counters import AUDIT, COUNTERS, ERROR, HIT, INCIDENT, MISS, PASS, UPLOAD
from neuron_store.shim.settings import PREFIX, SETTINGS
from neuron_store.store.registry.contexts import FIELDS, VARIABLE

_HOST_DEFAULTS = {
    "dir": "`$XDG_CACHE_HOME/neuron-store`, else `~/.cache/neuron-store`",
    "log_file": "`$XDG_STATE_HOME/neuron-store/shim.log`, else `~/.local/state/…`",
}
_GROUPS = {
    HIT: ("Hits", "The request was served from the store."),
    MISS: ("Misses", "The real compiler ran under the shim."),
    PASS: ("Passed through", "The process became the real compiler, uncached; the counter is the reason."),
    ERROR: ("Errors", "Something of ours was at fault."),
    INCIDENT: ("Incidents", "Counted besides the outcome."),
    AUDIT: ("Audits", "What came of compiling a stored result again (`neuron-store verify --recompile`)."),
    UPLOAD: ("Uploads", "What came of sending a result to a remote, once for each remote."),
}


def reference() -> str:
    """Return the document's text (Markdown)."""
    lines = [
        "# Settings and counters",
        "",
        "Written by `python -m neuron_store.cli.reference`; do not edit.",
        "",
        "## Settings",
        "",
        "Defaults come last, then `config.toml` (`$NEURON_STORE_CONFIG`, else `$XDG_CONFIG_HOME/neuron-store/config.toml`,",
        f"else `~/.config/neuron-store/config.toml`), then `{PREFIX}<NAME>` in the environment comes first.",
        "`neuron-store config` shows each value and where it came from; `neuron-store config set NAME VALUE` writes one.",
        "",
        "| setting | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, (_, default, meaning) in SETTINGS.items():
        shown = _HOST_DEFAULTS.get(name) or _default(default)
        lines.append(f"| `{name}` | `{PREFIX}{name.upper()}` | {shown} | {_cell(meaning)} |")
    fields = ", ".join(f"`{VARIABLE}_{field.upper()}`" for field in FIELDS)
    lines += ["", f"No settings, but what a run is of ([models](models.md)): `{VARIABLE}`, {fields}."]
    lines += ["", "## Counters", "", "Every invocation of the shim ends in exactly one of the first four groups."]
    for group, (title, meaning) in _GROUPS.items():
        lines += ["", f"### {title}", "", meaning, "", "| counter | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {text} |" for name, (of, text) in COUNTERS.items() if of == group]
    return "\n".join([*lines, ""])


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join(f"`{_cell(word)}`" for word in value) or "-"
    return "-" if value == "" else f"{value:,}" if isinstance(value, int) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
