"""Why an entry of a stock cache is left out, in words: one table for `import`, `export` and whoever counts them."""

from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.stock_intake import CHANGED, UNREADABLE
from neuron_store.shim.counters import COUNTERS
from neuron_store.store.stock.entries import FAILED, LINKED, OLD_LAYOUT, PENDING, TRACED, UNFINISHED
from neuron_store.store.stock.names import NO_VERSION_FOLDER, ODD_NAME, ODD_VERSION

REASONS = {
    FAILED: "the compiler failed (model.log); the stock cache would repeat the failure",
    PENDING: "a graph that was collected, or is being compiled: see `neuron-store precompile`",
    UNFINISHED: "a part is missing, empty, or a link that leads nowhere: its compile, or its copy, was killed",
    TRACED: "a traced model: an export, and no module",
    OLD_LAYOUT: "of the layout before 2023, which does not tell the options",
    UNREADABLE: "it, or a part of it, cannot be read",
    ODD_NAME: "it is called like a module, but not after a graph and its options: MODULE_<hlo>+<8 hex digits>",
    ODD_VERSION: "its folder is named after no version: neuronxcc-<version>",
    NO_VERSION_FOLDER: "it lies in no folder neuronxcc-<version>, which tells its compiler; name one, or pack it with it",
    LINKED: "a link, which is not followed; name the folder that it leads to",
    CHANGED: "it changed while it was read; import again",
    "no_target": "its options have no --target; say what it was compiled for: --target",
    "nki_kernel": "its graph calls an NKI kernel by a path, whose content when it was compiled nobody knows",
    "side_file": "its graph names a file, whose content when it was compiled nobody knows",
    "file_option": "an option names a file, whose content when it was compiled nobody knows",
    "no_module": "its caller gave it no module's name, by which a stock cache would find it",
    "no_flags": "the options as they were written are not known: it was made elsewhere",
    "flags_differ": "its options do not give the hash that its module's name ends with; --flags-hash names it after them",
    "no_graph": "its graph was not kept (see the setting keep_inputs_bytes)",
    "no_version": "its compiler tells no version, after which a folder could be named",
    "environment": "its key has variables, of which an entry does not tell; --unprovable takes it all the same",
    "by_name": "it came from a stock cache by its name alone, and proves nothing",
    "other_version": "of another compiler than the one installed here",
    "running": "someone compiles it now",
    "locked": "its entry there is being made, or was when its maker was killed: see `neuron-store stock cleanup`",
    "different": "the remote has other bytes of it; --replace sends ours",
    "corrupt": "it is damaged in the store; see `neuron-store verify`",
    "present": "there already",
    "odd_name": "a file of it has a name that is not UTF-8, which no repo takes",
    "several_inputs": "its options hold more than options",
    "place_option": "an option names where the NEFF or a log file goes, which is for its caller to say",
}


def meaning(reason: str) -> str:
    """Return what a reason means."""
    if reason in REASONS:
        return REASONS[reason]
    counter = COUNTERS.get("pass_" + reason)
    return counter[1] if counter else reason


def print_reasons(counts: "dict[str, int]", title: str = "left out") -> None:
    """Print a table of reasons with how often each came up; nothing if there are none."""
    if not counts:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True)
    table.add_column("modules", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(reason, presentation.number(count), meaning(reason))
    presentation.print_table(table)
