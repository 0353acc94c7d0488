"""The options that libneuronxla was given, of the command line that it made of them."""

from neuron_store.store.stock.flags import fits, without_logfile
from neuron_store.store.stock.names import flags_hash_of, module_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuron_store.store.results import Result

# In a record's stock entry: the options' log file was left out, with which they give the hash of the module's name.
WITHOUT_LOGFILE = "without_logfile"

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


def lacks_logfile(result: "Result") -> bool:
    """Tell whether a log file's option is missing in a result's options, with which they give its module's hash."""
    stock = result.provenance.get("stock")
    return isinstance(stock, dict) and stock.get(WITHOUT_LOGFILE) is True


def _graph_of(result: "Result") -> str:
    return str(result.input.get("path") or result.input.get("name") or "")


def _candidates(words: "list[str]", graph: str) -> "Iterator[list[str]]":
    """Yield what the options may have been, the whole first; a hash tells.

    Not theirs may be: a --target that came from elsewhere, a log file's option, and the last --verbose, which they may
    have had as well.
    """
    kept = _kept(words, graph)
    for targeted in (kept, _without_joined_target(kept), _without_target(kept)):
        for logged in (targeted, without_logfile(targeted)):
            yield logged
            yield [*logged, _VERBOSE]


def _kept(words: "list[str]", graph: str) -> "list[str]":
    """Return the words but for those that libneuronxla adds."""
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
    return kept


def _without_joined_target(words: "list[str]") -> "list[str]":
    return [word for word in words if not word.startswith("--target=")]


def _without_target(words: "list[str]") -> "list[str]":
    joined = _without_joined_target(words)
    return [word for place, word in enumerate(joined) if "--target" not in (word, joined[place - 1] if place else "")]
