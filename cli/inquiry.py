"""What the shim would make of a command line, asked without compiling and without storing a result."""

import os

from neuron_store.hashing.side_files import SideFile
from neuron_store.shim.canonical import Canonical, make_canonical
from neuron_store.shim.counters import COUNTERS
from neuron_store.shim.execute import GUARD
from neuron_store.shim.main import Shim
from neuron_store.shim.real_compiler import PROGRAM
from neuron_store.shim.settings import load_settings
from neuron_store.store.direct import ENCODING_SUFFIX, DirectEntry, Output, decode_direct
from neuron_store.store.errors import ConfigurationError, CorruptEntry
from neuron_store.store.layout import Layout, read_file
from neuron_store.store.results import Result, load_result


class Inquiry(Shim):
    """An invocation that is looked at and not run. That the shim is switched off does not matter.

    Like a compile, it remembers which compiler this is in the store.

    Attributes:
        notes: what, besides the key, decides how the shim would serve the invocation.
    """

    def __init__(self, words: list[str]) -> None:
        """Take a command line, with or without the program's name before it."""
        named = bool(words) and os.path.basename(words[0]) == PROGRAM
        super().__init__(words[1:] if named else words)
        self._given = dict(self.environ)
        self.notes: list[str] = []
        self._switch_on()

    def _switch_on(self) -> None:
        if self.environ.pop(GUARD, None) is not None:
            self.notes.append(f"{GUARD} is set, so the shim would hand this to the compiler uncached")
        try:
            settings = load_settings(self.environ)
        except ConfigurationError:
            return  # the reason why the shim passes through, told when it prepares
        if not settings.enabled:
            source = settings.sources["enabled"]
            self.notes.append(f"enabled is false ({source}), so the shim would hand this to the compiler uncached")
            self.environ["NEURON_STORE_ENABLED"] = "true"
        if settings.recache:
            self.notes.append(f"recache is true ({settings.sources['recache']}), so it would be compiled anew")

    def prepare(self) -> None:
        """Read all that the direct key is made of. Raises NotCacheable, CompilerNotFound."""
        super().prepare()
        self.notes += [f"{name}: {COUNTERS[name][1]}" for name in self.incidents if name in COUNTERS]

    def environ_bytes(self) -> dict[bytes, bytes]:
        """Return the caller's environment as the key has it."""
        return {os.fsencode(name): os.fsencode(value) for name, value in self._given.items()}

    def canonical(self) -> Canonical:
        """Return the canonical key and what it is made of. Raises NotCacheable, OSError."""
        return make_canonical(self)

    def direct_entry(self) -> "DirectEntry | None":
        """Return what the direct key leads to, if it still holds. Raises OSError."""
        data = read_file(self.layout.direct_path(self.direct_key))
        try:
            entry = decode_direct(data, self.direct_key) if data is not None else None
        except CorruptEntry:
            return None
        if entry and all(SideFile(path, path, sha256, state).holds() for path, sha256, state in entry.side_files):
            return entry
        return None


def served_result(layout: Layout, key: str) -> "tuple[Result | None, str]":
    """Return the result of `key` if it could be served, else None and why not ("" if there is none).

    Raises OSError for a bad disk.
    """
    try:
        result = load_result(layout, key)
    except CorruptEntry as error:
        return None, f"its result is recorded, but damaged ({error})"
    if result is None:
        return None, ""
    missing = [role for role, output in result.outputs.items() if not _stored(layout, output)]
    if missing:
        return None, f"its result is recorded, but a blob of it is gone ({', '.join(missing)})"
    return result, ""


def _stored(layout: Layout, output: Output) -> bool:
    return os.path.exists(layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding]))
