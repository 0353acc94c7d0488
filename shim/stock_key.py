"""The key of an entry of a stock cache: that of the compile which made it, as far as the entry can prove it.

An entry tells its graph, its options and its compiler's version. It does not tell the environment, the host, nor the
content of files that graph or options reach by a path. So its key is that of a compile with none of the variables that
count, and what depends on a host or on files has no key: it could be a wrong hit.
"""

import os

from neuron_store.hashing.command_line import CommandLine, read_command_line
from neuron_store.hashing.environment import key_environment
from neuron_store.hashing.hlo_fingerprint import CANONICAL, Fingerprint, fingerprint_hlo
from neuron_store.hashing.keys import Component, make_key
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.hashing.side_files import NKI_KERNEL_TARGET, KernelConfigs
from neuron_store.store.stock.flags import place_in, without_logfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What libneuronxla writes before an entry's options, and after its own paths.
_STOCK_OPTION = "--framework=XLA"
_ANY_GRAPH, _ANY_OUTPUT = "/neuron-store/graph.hlo_module.pb", "--output=/neuron-store/graph.neff"
_DATA_SUFFIXES = (b".npy", b".npz", b".klir", b".bir", b".colz", b".safetensors", b".pt", b".bin", b".neff")


class Unprovable(NotCacheable):
    """What an entry tells makes no key, for a `reason` that no invocation of the shim has."""


class StockKey:
    """The key of a stock entry, and what it is made of.

    Attributes:
        key: 32 hex digits.
        components: all of them, by name, in the order of a canonical key's.
        fingerprint: of the graph.
    """

    __slots__ = ("components", "fingerprint", "key")

    def __init__(self, components: "list[Component]", fingerprint: Fingerprint) -> None:
        self.components = components
        self.fingerprint = fingerprint
        self.key = make_key(components)


class KeyContext:
    """What decides over the keys of all entries alike.

    Attributes:
        exact: whether names and metadata of the graphs stay in the key (the setting debug_info).
        salt: the setting key_salt.
        variables: the variables that count, as they were when the entries were made.
        target: the hardware that entries were compiled for which do not tell it, "" if nobody knows.
    """

    __slots__ = ("exact", "salt", "target", "variables")

    def __init__(
        self,
        *,
        exact: bool = False,
        salt: bytes = b"",
        variables: "Mapping[bytes, bytes] | None" = None,
        target: str = "",
    ) -> None:
        self.exact = exact
        self.salt = salt
        self.variables = dict(variables or {})
        self.target = target


def read_stock_flags(flags: "Sequence[str]") -> CommandLine:
    """Return the command line that an entry's options make. Raises NotCacheable if they hold more than options."""
    place = place_in(without_logfile(flags))
    if place:
        raise Unprovable("place_option", place)
    command = read_command_line(["compile", _STOCK_OPTION, _ANY_GRAPH, _ANY_OUTPUT, *flags])
    if command.model != _ANY_GRAPH:
        raise NotCacheable("several_inputs", command.model)
    return command


def stock_options(flags: "Sequence[str]", context: KeyContext) -> "list[str]":
    """Return the options of an entry as a key has them. Raises NotCacheable if they leave anything open."""
    target = [f"--target={context.target}"] if context.target else []  # an entry's own one comes later, and counts
    command = read_stock_flags([*target, *flags])
    if command.files:
        raise NotCacheable("file_option", f"{command.files[0][0]} names {command.files[0][1]}")
    if not command.target_given:
        raise Unprovable("no_target", "its options have no --target, and it does not tell its host")
    return command.options


def fingerprint_stock_graph(path: str, *, exact: bool) -> Fingerprint:
    """Return the fingerprint of an entry's graph. Raises NotCacheable if it reaches files; OSError.

    No file of this host stands for one that it reaches: the compile may have seen another.
    """
    kernels = KernelConfigs(find=lambda _written: "")
    fingerprint = fingerprint_hlo(path, keep_debug_info=exact, rewrite=kernels.rewrite)
    if fingerprint.mode != CANONICAL and _mentions(path, NKI_KERNEL_TARGET):
        raise NotCacheable("nki_kernel", f"it calls a kernel, and is no HLO module ({fingerprint.reason})")
    for mentioned in fingerprint.paths:
        if mentioned.endswith(_DATA_SUFFIXES) or os.path.isfile(mentioned):
            raise NotCacheable("side_file", f"its graph mentions {os.fsdecode(mentioned)}")
    return fingerprint


def make_stock_key(graph: str, flags: "Sequence[str]", version: str, context: KeyContext) -> StockKey:
    """Return the key of the entry with this graph (a path) and these options, by this version of the compiler.

    Raises NotCacheable if the entry cannot prove what it was made of; OSError if the graph cannot be read.
    """
    options = stock_options(flags, context)
    fingerprint = fingerprint_stock_graph(graph, exact=context.exact)
    form = fingerprint.mode + (" with debug info" if context.exact else "")
    components = [
        Component("compiler", [b"neuronx-cc " + version.encode()]),
        Component("flags", [os.fsencode(option) for option in options]),
        Component("environment", key_environment(context.variables, list(context.variables), context.salt)),
        Component("host", []),
        Component("hlo", [form.encode(), fingerprint.digest.encode()]),
        Component("side_inputs", []),
    ]
    return StockKey(components, fingerprint)


def _mentions(path: str, needle: bytes) -> bool:
    from neuron_store.hashing.inputs import InputFile

    file = InputFile(path)
    try:
        return file.mentions(needle)
    finally:
        file.close()
