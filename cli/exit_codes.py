"""The exit codes of `neuron-store`, for documents and the manual.

`python -m neuron_store.cli.exit_codes docs/exit-codes.md` writes the document anew, with the errors' own codes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from neuron_store.store.errors import NeuronStoreError

EXIT_CODES = {
    0: "It did what was asked. Also where the reader of its output, such as `head`, left early.",
    1: (
        "It could not: the message on stderr says why, and what to do. Also the answer no of `key`, where a command "
        "line is not cacheable, of `lookup`, where there is no entry, and to a question of its own."
    ),
    2: "The command line, a setting or a variable cannot be understood, or the first digits of a key fit several.",
    3: "`verify --recompile` found a result that the compiler does not make from its inputs.",
    4: "`doctor` found a problem.",
    126: "`run`, `add`: the command is there and cannot be started.",
    127: "There is no `neuronx-cc` besides the shim; `run`, `add`: there is no such command.",
    130: "Ctrl-C.",
    143: "SIGTERM. 128 and its number for other signals, as a shell has it.",
}
PASSED_ON = "`run` and `add` end with the exit code of the command that they ran, whatever it is, if it is not 0."
_EMPTY = "A value that is empty, as an unset variable leaves it, makes the command line a wrong one unless help tells its meaning."


def document() -> str:
    """Return the document's text (Markdown)."""
    lines = [
        "# Exit codes",
        "",
        "Written by `python -m neuron_store.cli.exit_codes`; do not edit. These codes stay what they are.",
        "",
        "Those of `neuron-store`. The shim ends as the compiler did, with the compiler's own code.",
        "",
        "| code | what it says |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "",
        PASSED_ON,
        _EMPTY,
        "Answers go to stdout, all else to stderr. With `--json`, stdout is one JSON document, or empty.",
        "",
        "## Errors by their names",
        "",
        "As they are called in the sources, and in a shim's log.",
        "",
        "| error | code | what happened |",
        "|---|---|---|",
        *(f"| `{error.__name__}` | {error.exit_code} | {_meaning(error)} |" for error in errors()),
    ]
    return "\n".join([*lines, ""])


def errors() -> Iterator[type[NeuronStoreError]]:
    """Yield every error that is raised on purpose, but for their base, in the order of the sources."""
    waiting = list(NeuronStoreError.__subclasses__())
    while waiting:
        error = waiting.pop(0)
        if error.__module__ == NeuronStoreError.__module__:
            yield error
        waiting = error.__subclasses__() + waiting


def _meaning(error: type[NeuronStoreError]) -> str:
    return " ".join((error.__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document())
