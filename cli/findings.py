"""How `neuron-store verify` tells what it found: a table by kind, then one by one."""

from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.store.checking.faults import HEALED, KINDS, LEFT, REPAIRED, Finding, count_kinds

_MOST_NAMED = 20  # faults that are told one by one


def show_findings(findings: list[Finding], *, remote: bool = False) -> None:
    """Write what was found, here or in a remote, to stdout, and what was done about it if a repair was tried."""
    if not findings:
        return
    repaired = any(finding.outcome for finding in findings)
    table = Table(box=None, pad_edge=False)
    table.add_column("found", no_wrap=True)
    table.add_column("", justify="right")
    if repaired:
        for title in ("repaired", "left"):
            table.add_column(title, justify="right")
    elif not remote:
        table.add_column("--repair would")
    for kind, count in count_kinds(findings).items():
        each = KINDS[kind]
        row = [each.title if count == 1 else each.titles, presentation.number(count)]
        if repaired:
            outcomes = [finding.outcome for finding in findings if finding.kind == kind]
            row += [
                presentation.number(outcomes.count(REPAIRED) + outcomes.count(HEALED)),
                presentation.number(outcomes.count(LEFT)),
            ]
        elif not remote:
            row.append(each.remedy)
        table.add_row(*row)
    presentation.print_table(table)
    shown = sorted(findings, key=lambda finding: finding.outcome != LEFT)[:_MOST_NAMED]
    for finding in shown:
        presentation.write(f"{presentation.printable(_line(finding))}\n")
    if len(findings) > len(shown):
        presentation.remark(f"and {presentation.number(len(findings) - len(shown))} more; --json names them all")


def _line(finding: Finding) -> str:
    keys = ", ".join(key[: presentation.SHOWN_KEY] for key in finding.keys[:3])
    more = f" and {len(finding.keys) - 3} more" if len(finding.keys) > 3 else ""
    of = f" (of {keys}{more})" if keys and not any(key in finding.path for key in finding.keys) else ""
    done = f" -> {finding.done}" if finding.done else ""
    return f"{finding.path}{of}: {finding.detail}{done}"
