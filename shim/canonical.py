"""The canonical key of an invocation: what stays the same when paths, names, lines and hosts change."""

import hashlib
import os

from neuron_store.hashing.environment import wants_debug_info
from neuron_store.hashing.hlo_fingerprint import CANONICAL, Fingerprint, fingerprint_hlo
from neuron_store.hashing.inputs import CHUNK, InputFile
from neuron_store.hashing.keys import Component, make_key
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.hashing.side_files import NKI_KERNEL_TARGET, KernelConfigs, SideFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.model_directory import ModelDirectory
    from neuron_store.shim.main import Shim


class Canonical:
    """The canonical key and what it was made of.

    Attributes:
        key: 32 hex digits.
        components: all of them, by name.
        fingerprint: of the HLO.
        side_files: the files that the HLO reaches by path.
    """

    __slots__ = ("components", "fingerprint", "key", "side_files")

    def __init__(self, components: list[Component], fingerprint: Fingerprint, side_files: list[SideFile]) -> None:
        self.components = components
        self.fingerprint = fingerprint
        self.side_files = side_files
        self.key = make_key(components)


def make_canonical(shim: "Shim") -> Canonical:
    """Return the canonical key of a prepared invocation. Raises NotCacheable, OSError."""
    if shim.model is None:
        raise AssertionError
    keep_debug_info = shim.settings.debug_info == "exact" or wants_debug_info(shim.environ_bytes())
    kernels = KernelConfigs()
    fingerprint = fingerprint_hlo(
        f"/proc/self/fd/{shim.model.graph.descriptor}", keep_debug_info=keep_debug_info, rewrite=kernels.rewrite
    )
    if fingerprint.mode != CANONICAL and shim.model.graph.mentions(NKI_KERNEL_TARGET):
        raise NotCacheable("nki_kernel", f"{shim.model.path} is no HLO module ({fingerprint.reason})")
    _refuse_unknown_files(fingerprint, kernels)
    form = fingerprint.mode + (" with debug info" if keep_debug_info else "")
    parts = {component.name: component for component in shim.components}
    side_inputs = [*parts.pop("side_inputs").fields, *_hash_others(shim.model)]
    if not isinstance(shim.model, InputFile):
        side_inputs.append(b"directory")  # even one that holds nothing but the graph
    components = [
        *parts.values(),
        Component("hlo", [form.encode(), fingerprint.digest.encode()]),
        Component("side_inputs", side_inputs),
    ]
    return Canonical(components, fingerprint, list(kernels.files.values()))


def _refuse_unknown_files(fingerprint: Fingerprint, kernels: KernelConfigs) -> None:
    """Refuse a module that mentions a file in a way that is not understood: its content would not be in the key."""
    for path in fingerprint.paths:
        if os.fsdecode(path) not in kernels.files and os.path.isfile(path):
            raise NotCacheable("side_file", f"the model mentions {os.fsdecode(path)}")


def _hash_others(model: "InputFile | ModelDirectory") -> list[bytes]:
    """Return name and SHA-256 of each other file of a model directory, which may be gigabytes of weights."""
    found = []
    for name, path in model.others():
        digest = hashlib.sha256()
        try:
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise NotCacheable("unreadable_input", str(error)) from error
        found.append(b"%b %b" % (os.fsencode(name), digest.hexdigest().encode()))
    return found
