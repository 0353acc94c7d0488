"""What a result is as an entry of a stock cache: under which name its callers look for it, and with which options."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from neuron_store.store.blobs import write_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.events import Event
from neuron_store.store.layout import Layout, write_all
from neuron_store.store.remotes.base import FOLDER_PREFIX, UNVERSIONED, version_folder
from neuron_store.store.results import Result, load_result
from neuron_store.store.stock.command import flags_of, lacks_logfile, module_of
from neuron_store.store.stock.flags import encode_flags, fits, json_hash, words_hash
from neuron_store.store.stock.names import FLAGS, GRAPHS, NEFF, WRAPPED_NEFF, flags_hash_of, module_in

# Which hash of the options an entry's name ends with.
RECORDED, JSON, WORDS, BOTH = "recorded", "json", "words", "both"
FORMS = (RECORDED, JSON, WORDS, BOTH)


class NotExportable(Exception):  # noqa: N818 - an answer, not an error
    """A result makes no entry; its one argument is the reason."""


@dataclass
class ExportEntry:
    """A result as an entry.

    Attributes:
        names: `neuronxcc-<version>/<module>`, one for each module and form of the hash.
        files: file name -> what writes it to an open file.
        has_graph: whether its graph was kept.
    """

    key: str
    version: str
    names: list[str]
    files: dict[str, Callable[[int], None]]
    has_graph: bool
    size: int


def further_modules(events: Iterable[Event]) -> dict[str, set[str]]:
    """Return key -> the modules under which callers asked for it, as far as events still tell."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for event in events:
        key, module = event.fields.get("key", ""), module_in(event.fields.get("module", ""))
        if key and module:
            found[key].add(module)
    return found


def as_entry(layout: Layout, key: str, form: str, further: Collection[str] = (), *, unprovable: bool) -> ExportEntry:
    """Return the result of `key` as an entry, also under those of the `further` modules that are of its options.

    With `unprovable`, also one that depends on what an entry does not tell. Raises NotExportable.
    """
    try:
        result = load_result(layout, key)
    except CorruptEntry as error:
        raise NotExportable("corrupt") from error
    if result is None:
        raise NotExportable("corrupt")
    if not unprovable:
        _require_provable(result)
    module, flags = _module_of(result)
    folder = version_folder(_version_of(result))
    if folder == FOLDER_PREFIX + UNVERSIONED:
        raise NotExportable("no_version")
    outputs = result.outputs
    files: dict[str, Callable[[int], None]] = {}
    graph = _kept_graph(result)
    if graph is not None:
        files[_graph_file(result)] = _writer(layout, graph)
    files[FLAGS] = lambda descriptor: write_all(descriptor, encode_flags(flags))
    files[NEFF] = _writer(layout, outputs["neff"])
    if "wrapped_neff" in outputs:
        files[WRAPPED_NEFF] = _writer(layout, outputs["wrapped_neff"])
    size = sum(outputs[role].size for role in ("neff", "wrapped_neff") if role in outputs)
    proven = lacks_logfile(result) or fits(flags, flags_hash_of(module))
    modules = [module] if proven else []
    modules += [name for name in sorted(further) if name != module and fits(flags, flags_hash_of(name))]
    names = [f"{folder}/{name}" for name in _names(module, modules, flags, form)]
    return ExportEntry(key, _version_of(result), names, files, graph is not None, size + (graph.size if graph else 0))


def _writer(layout: Layout, output: Output) -> Callable[[int], None]:
    return lambda descriptor: write_blob(layout, output, descriptor)


def _version_of(result: Result) -> str:
    return str(result.provenance.get("compiler_version") or "")


def _module_of(result: Result) -> tuple[str, list[str]]:
    """Return the module that callers look for, and its options."""
    stock = result.provenance.get("stock")
    if isinstance(stock, dict) and stock.get("by_name"):
        raise NotExportable("by_name")
    module, flags = module_of(result), flags_of(result)
    if not module:
        raise NotExportable("no_module")
    if flags is None:
        raise NotExportable("no_flags")
    return module, flags


def _names(module: str, proven: list[str], flags: list[str], form: str) -> list[str]:
    """Return the names of the entry; of `proven` modules it is known that their names are of these options.

    Raises NotExportable if recorded names are wanted, and there are none but of other options.
    """
    if form == RECORDED:
        if not proven:
            raise NotExportable("flags_differ")
        return proven
    hashes = {JSON: [json_hash(flags)], WORDS: [words_hash(flags)], BOTH: [json_hash(flags), words_hash(flags)]}
    graphs = [name.rpartition("+")[0] for name in (module, *proven)]
    return list(dict.fromkeys(f"{graph}+{digest}" for graph in graphs for digest in hashes[form]))


def _kept_graph(result: Result) -> "Output | None":
    for file in result.input.get("files") or []:
        if file.get("kind") == "graph":
            return Output("neff", file["sha256"], file["xxh3"], file["size"], file["encoding"], None)
    return None


def _graph_file(result: Result) -> str:
    new, old = GRAPHS
    return old if str(result.input.get("name", "")).endswith(".hlo.pb") else new


def _require_provable(result: Result) -> None:
    """Raise NotExportable for a result whose key has what an entry does not tell, so that it would serve others wrongly."""
    if any(not field.startswith("salt ") for field in result.component("environment")):
        raise NotExportable("environment")
    if result.component("host"):
        raise NotExportable("no_target")
    if result.component("side_inputs"):
        raise NotExportable("file_option")
    if any(file.get("kind") != "graph" for file in result.input.get("files") or []):
        raise NotExportable("nki_kernel")
