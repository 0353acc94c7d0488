"""The reference of findings, written from the tables that the program itself uses.

`python -m neuron_store.cli.diagnosis.catalogue docs/doctor.md` writes it anew.
"""

import sys
from pathlib import Path

from neuron_store.cli.diagnosis.examination import AREAS
from neuron_store.cli.diagnosis.finding import Area
from neuron_store.cli.doctor import PROBLEMS_FOUND

_BEGINNING = f"""\
# doctor and bugreport

Written by `python -m neuron_store.cli.diagnosis.catalogue`; do not edit.

```console
$ neuron-store doctor
settings  ok       all settings can be read; the file is ~/.config/neuron-store/config.toml
path      problem  /opt/venv/bin/neuronx-cc stands before the shim /opt/venv/libexec/neuron-store/neuronx-cc [path.shadowed]
                   → activate the environment first, then run `eval "$(neuron-store env)"`; or …
…
1 problem; what each means: docs/doctor.md
```

Where all is well:

![neuron-store doctor: a line for each thing that was looked at, with ok or note before it, and at the end that nothing is wrong](images/doctor.svg)

It looks at the environment that it is started in: run it where the framework runs, in the same shell, job script or
container (`neuron-store run -- neuron-store doctor` shows what a command under `run` sees). It compiles nothing, and
uploads nothing; in the store it writes temporary files, which it removes again.

- `--offline` asks no remote; `--brief` shows only warnings and problems; `--timeout 60` gives each thing more time than
  20 seconds. What does not answer in time is itself a finding.
- The exit code is {PROBLEMS_FOUND} if there is a **problem**: compiles are not served, or results not stored or shared, as the settings
  want it. A **warning** costs hits, or may do harm later; a **note** is good to know. With these, it is 0.
- `--json` prints `findings` (each with `id`, `area`, `level`, `what`, `advice`, `facts`), `counts` by level, and
  `versions`. The ids stay the same in later versions.
- Tokens, passwords and keys are never shown.

What no program can tell from outside: whether a program of your own calls the compiler inside its own process. If
`neuron-store stats` counts nothing while something compiles, that is what happens.

## bugreport

`neuron-store bugreport [-o FILE]` packs into one `.tar.gz` (or `.zip`) what helps to find a fault: what `doctor --json`
says, the settings with their sources, the configuration file, the variables that matter, the counters and the
invocations of the last days, and the end of the shim's log. It lists what is inside, and **sends nothing**: look through
it, then attach it yourself.

Replaced in all of it: tokens, passwords, keys, signed links and credentials in addresses by `<token>`; your home by `~`;
users by `USER`, `USER-2` …; hosts by `HOST-1` …; IP addresses by `ADDRESS-1` …; addresses of mail by `EMAIL`: the same
thing by the same word everywhere. Hosts are this one, those that share the store, and those of proxies and of HF_ENDPOINT.
Names of models, repos, modules and folders stay as they are, and so does what only you know to be a secret.

## What each finding means
"""


def catalogue() -> str:
    """Return the document's text (Markdown)."""
    lines = [_BEGINNING]
    for area in AREAS:
        lines += [f"### {area.name}", "", "| finding | level | meaning | what to do |", "|---|---|---|---|"]
        lines += [*_rows(area), ""]
    return "\n".join(lines)


def _rows(area: Area) -> list[str]:
    return [
        f"| `{area.name}.{name}` | {kind.level.value} | {_cell(kind.meaning)} | {_cell(kind.advice) or '-'} |"
        for name, kind in area.kinds.items()
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(catalogue())
