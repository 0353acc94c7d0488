"""What a result is as an entry of a stock cache: under which name its callers look for it, and with which options."""

from collections.abc import Callable
from dataclasses import dataclass

from neuron_store.store.blobs import write_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, write_all
from neuron_store.store.remotes.base import FOLDER_PREFIX, UNVERSIONED, version_folder
from neuron_store.store.results import Result, load_result
from neuron_store.store.stock.command import flags_of, module_of
from neuron_store.store.stock.flags import encode_flags, json_hash, words_hash
from neuron_store.store.stock.names import FLAGS, GRAPHS, NEFF, WRAPPED_NEFF

# Which hash of the options an entry's name ends with.
RECORDED, JSON, WORDS, BOTH = "recorded", "json", "words", "both"
FORMS = (RECORDED, JSON, WORDS, BOTH)


class NotExportable(Exception):  # noqa: N818 - an answer, not an error
    """A result makes no entry; its one argument is the reason."""


@dataclass
class ExportEntry:
    """A result as an entry.

    Attributes:
        names: `neuronxcc-<version>/<module>`, one for each form of the hash.
        files: file name -> what writes it to an open file.
        has_graph: whether its graph was kept.
    """

    key: str
    version: str
    names: list[str]
    files: dict[str, Callable[[int], None]]
    has_graph: bool
    size: int


def as_entry(layout: Layout, key: str, form: str, *, unprovable: bool) -> ExportEntry:
    """Return the result of `key` as an entry. Raises NotExportable.

    With `unprovable`, also one that depends on what an entry does not tell.
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
    names = [f"{folder}/{name}" for name in _names(module, flags, form)]
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


def _names(module: str, flags: list[str], form: str) -> list[str]:
    """Return the names of the entry. Raises NotExportable if the recorded one is of other options."""
    if form == RECORDED:
        return [module]
    hlo = module.rpartition("+")[0]
    hashes = {JSON: [json_hash(flags)], WORDS: [words_hash(flags)], BOTH: [json_hash(flags), words_hash(flags)]}
    return list(dict.fromkeys(f"{hlo}+{digest}" for digest in hashes[form]))


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
