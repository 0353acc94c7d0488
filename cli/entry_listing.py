"""Entries as a person, a program, or a reader of optimum-neuron's own output wants to see them."""

from typing import Any

from rich.table import Table

from neuron_store.cli import presentation
from neuron_store.cli.entry_filters import EntryFilter, said_of
from neuron_store.cli.entry_search import EntrySearch
from neuron_store.cli.entry_state import EntryState
from neuron_store.cli.models import Model
from neuron_store.store.registry.entries import SEED_FIELDS

_NUMBERS = {"batch": "batch_size", "seq": "sequence_length", "cores": "num_cores"}
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
# What a row tells, or what is the same for all of a model.
_SHOWN_FIELDS = (*SEED_FIELDS, "target", "instance_type", "torch_dtype", "tp_degree", "neuronxcc_version")
_WIDEST = 24  # characters of a value that an entry tells
_MOST_NAMED = 5


def print_table(states: list[EntryState], model: Model, urls: list[str], installed: str) -> None:
    """Print the entries; then, for those of ours, which compiles a run would still do."""
    columns = {
        "#": [str(number) for number in range(1, len(states) + 1)] if len(states) > 1 else [],
        "model": [_named(state, model) for state in states],
        "task": _unless_all_alike([_value(state, "task") for state in states]),
        **{title: [_value(state, name) for state in states] for title, name in _NUMBERS.items()},
        "type": [_type(state) for state in states],
        "target": [_value(state, "instance_type") for state in states],
        "compiler": _unless_all_alike([state.found.place.compiler.partition("+")[0] for state in states]),
        "keys": [state.count() for state in states],
        "to compile": [state.outlook() for state in states],
    }
    table = Table(box=None, pad_edge=False)
    for title in (title for title, cells in columns.items() if cells):
        if title in ("model", "task"):
            table.add_column(title, overflow="fold", min_width=8)
        else:
            words = title in ("compiler", "to compile")
            table.add_column(title, justify="left" if words else "right", overflow="ellipsis", no_wrap=True)
    for row in zip(*filter(None, columns.values()), strict=True):
        table.add_row(*row)
    presentation.print_table(table)
    lines = [*_sentences(states, urls), _held_for(states, installed)]
    presentation.write("\n" + "".join(presentation.printable(line) + "\n" for line in lines))


def _unless_all_alike(cells: list[str]) -> list[str]:
    """Return the cells of a column, none if one sentence can tell what stands in all of them."""
    return cells if len(set(cells)) > 1 else []


def _sentences(states: list[EntryState], urls: list[str]) -> list[str]:
    """Return a sentence for each entry of ours, and one for all others; with several remotes, where they are."""
    said: list[tuple[str, list[str]]] = []
    for number, state in enumerate(states, 1):
        where = " and ".join(urls[place] for place in state.found.remotes)
        line = state.sentence() + _more_settings(state) + (f" (registered in {where})" if len(urls) > 1 else "")
        alike = next((numbers for known, numbers in said if known == line and not state.found.entry.ours), None)
        if alike is None:
            said.append((line, alike := []))
        alike.append(f"#{number}")
    return [f"{', '.join(numbers)}: {line}" if len(states) > 1 else line for line, numbers in said]


def _more_settings(state: EntryState) -> str:
    """Return what else tells this configuration of ours, by which two rows may differ."""
    entry = state.found.entry
    more = [f"{name}={value}" for name, value in entry.neuron.items() if name not in _SHOWN_FIELDS]
    return f", with {' '.join(more)}" if entry.ours and more else ""


def _held_for(states: list[EntryState], installed: str) -> str:
    """Say for which task and compiler all that holds."""
    versions = ", ".join(dict.fromkeys(state.found.place.compiler for state in states))
    tasks = {_value(state, "task") for state in states} - {"-"}
    task = f"{tasks.pop()} with " if len(tasks) == 1 else ""
    return f"for {task}neuronx-cc {versions}, {_whose(versions, installed)}"


def _whose(versions: str, installed: str) -> str:
    if not installed:
        return "while no compiler is installed here"
    return "which is installed here" if versions == installed else f"while {installed} is installed here"


def _named(state: EntryState, model: Model) -> str:
    """Return the entry's model, marked if it is another of the same architecture."""
    name = presentation.printable(state.found.entry.model_id)
    return name if is_same_model(state, model) else f"{name} (same architecture)"


def is_same_model(state: EntryState, model: Model) -> bool:
    """Tell whether the entry is the model's own, and not that of another with the same architecture."""
    return state.found.entry.model_id == model.model_id


def _value(state: EntryState, name: str) -> str:
    said = said_of(state.found.entry, name)
    text = "-" if said is None else presentation.printable(str(said))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _type(state: EntryState) -> str:
    """Return what the model is cast to, or else its own type, as briefly as can be."""
    cast = _value(state, "auto_cast_type")
    name = cast if cast != "-" else _value(state, "dtype").removeprefix("torch.")
    return _SHORT.get(name, name)


# -- for programs ----------------------------------------------------------------------------------------------------


def as_dict(search: EntrySearch, states: list[EntryState], model: Model, urls: list[str]) -> dict[str, Any]:
    """Return all that is known of the entries, JSON-ready."""
    passed = search.passed
    return {
        "entries": [entry_as_dict(state, model, urls) for state in states],
        "left_out": {
            "other_architecture": passed.other,
            "other_configuration": passed.filtered,
            "unread": passed.unread,
            "more": passed.more,
            "corrupt": passed.corrupt,
        },
        "remotes": search.searched,
        "remarks": search.remarks,
    }


def entry_as_dict(state: EntryState, model: Model, urls: list[str]) -> dict[str, Any]:
    """Return all that is known of one entry, JSON-ready."""
    found = state.found
    entry = found.entry
    return {
        "model_id": entry.model_id,
        "same_model": is_same_model(state, model),
        "task": entry.task,
        "compiler": found.place.compiler,
        "optimum_neuron": found.place.release,
        "path": found.place.path,
        "ours": entry.ours,
        "remotes": [urls[place] for place in found.remotes],
        "neuron": entry.neuron,
        "keys": state.as_dict(),
        "uncached": {counter: len(names) for counter, names in entry.uncached.items()},
        "complete": state.is_complete if state.known else None,
        "outlook": state.sentence(),
    }


def print_seed(states: list[EntryState], word: str) -> None:
    """Print the entries exactly as optimum-neuron's lookup did, up to release 0.1."""
    blocks = []
    for state in states:
        neuron = {"task": state.found.entry.task, **state.found.entry.neuron}
        names = [*(name for name in SEED_FIELDS if name in neuron), *(n for n in neuron if n not in SEED_FIELDS)]
        blocks.append("".join(f"{name}: {presentation.printable(str(neuron[name]))}\n" for name in names))
    head = f"*** {len(states)} entrie(s) found in cache for {presentation.printable(word)} ***\n"
    presentation.write(head + "\n".join(blocks))


# -- what is not shown -----------------------------------------------------------------------------------------------


def remarks_of(search: EntrySearch, model: Model) -> list[str]:
    """Return what is to be said of the entries that are not shown."""
    passed = search.passed
    said = [*search.remarks]
    if passed.corrupt:
        said.append(corrupt_words(passed.corrupt))
    if passed.alike:
        entries = presentation.plural(passed.alike, "entry", "entries")
        said.append(f"{entries} of {model.model_id} {_is(passed.alike)} of another architecture than it has now")
    if passed.unread or passed.more:
        many = "more" if passed.more else presentation.number(passed.unread)
        said.append(f"not all entries of this architecture were read: there are {many} besides, of other models")
    if search.skipped:
        said.append(f"{presentation.plural(search.skipped, 'older compiler version')} not looked at; see --compiler")
    return list(map(presentation.printable, said))


def corrupt_words(corrupt: dict[str, str]) -> str:
    """Say which entries were left out, and why."""
    entries = presentation.plural(len(corrupt), "entry", "entries")
    named = "; ".join(f"{path}: {reason}" for path, reason in list(corrupt.items())[:_MOST_NAMED])
    more = len(corrupt) - _MOST_NAMED
    return f"left out {entries} that cannot be believed: {named}" + (f"; and {more} more" if more > 0 else "")


def nothing_found(search: EntrySearch, model: Model, wanted: EntryFilter, installed: str) -> str:
    """Say why there is no entry to show: remotes that failed come first."""
    why = _why_nothing(search, model, wanted, installed) if search.searched else ""
    return presentation.printable("; ".join(filter(None, [*search.faults, why])))


def _why_nothing(search: EntrySearch, model: Model, wanted: EntryFilter, installed: str) -> str:
    """Say, where there is no entry to show, why."""
    version = wanted.compiler or installed
    if len(search.without) == len(search.searched):
        return "; ".join(_without_registry(url, search.without[url], version) for url in search.without)
    passed = search.passed
    counts = [
        (passed.filtered, "entry is", "entries are", "otherwise configured"),
        (passed.other, "entry is", "entries are", "of another architecture"),
        (len(passed.corrupt), "entry", "entries", "cannot be believed"),
    ]
    left = [f"{presentation.plural(count, one, many)} {what}" for count, one, many, what in counts if count]
    asked = wanted.described()
    said = (
        f"no entry for {model.model_id}{f' with {asked}' if asked else ''} and neuronx-cc {version or 'of any version'}"
        f" in {', '.join(search.searched)}"
    )
    return said + (f"; {', '.join(left)}" if left else "")


def _without_registry(url: str, versions: list[str], version: str) -> str:
    """Say that a remote has no registry for the compiler, and which compiler versions it has."""
    if version and versions and not any(name.startswith(version) for name in versions):
        named = ", ".join(versions[:_MOST_NAMED]) + (", …" if len(versions) > _MOST_NAMED else "")
        return f"{url} has nothing of neuronx-cc {version}; --compiler takes those that it has: {named}"
    what = f"no registry for neuronx-cc {version}" if version else "no registry"
    return f"{url} has {what}; `neuron-store run -m MODEL -- …` or optimum-neuron makes one"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
