"""The options that libneuronxla was given, of the command line that it made of them."""

from neuron_store.store.stock.flags import fits
from neuron_store.store.stock.names import flags_hash_of, module_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuron_store.store.results import Result

_VERBOSE = "--verbose=35"
_VALUED = ("--framework", "--output", "-o")  # what it adds, besides the graph and the last --verbose


def module_of(result: "Result") -> str:
    """Return the module that a result's caller looked for, "" if it gave none."""
    stock = result.provenance.get("stock")
    if isinstance(stock, dict):
        return str(stock.get("module", ""))
    return module_in(_graph_of(result))


def flags_of(result: "Result") -> "list[str] | None":
    """Return the options of a result's module as they were written, None if that is not known."""
    stock = result.provenance.get("stock")
    if isinstance(stock, dict):
        flags = stock.get("flags")
        return [str(flag) for flag in flags] if isinstance(flags, list) else None
    command = result.provenance.get("command")
    if not isinstance(command, list):
        return None
    candidates = list(_candidates([str(word) for word in command[1:]], _graph_of(result)))
    wanted = flags_hash_of(module_of(result))
    return next((flags for flags in candidates if fits(flags, wanted)), candidates[0])


def _graph_of(result: "Result") -> str:
    return str(result.input.get("path") or result.input.get("name") or "")


def _candidates(words: "list[str]", graph: str) -> "Iterator[list[str]]":
    """Yield what the options may have been: a --target that came from elsewhere is not theirs; a hash tells."""
    kept: list[str] = []
    skip = False
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if skip or word in ("compile", graph) or name in _VALUED:
            skip = not skip and name in _VALUED and not equals
            continue
        if place == len(words) - 1 and word == _VERBOSE:
            continue
        kept.append(word)
    yield kept
    yield [*kept, _VERBOSE]
    without = [word for word in kept if not word.startswith("--target=")]
    yield without
    yield [word for place, word in enumerate(without) if "--target" not in (word, without[place - 1] if place else "")]
