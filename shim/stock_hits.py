"""The look for an entry of a stock cache in a remote, where the caller's file name carries a module.

The stock layout (store/stock/names.py) is that of the public repo, so it serves without any configuration. A name is not
believed: the entry's own graph and options must give the very key of this compile. Only with the setting stock_by_name
is the name enough; then an entry of another graph, of an edited kernel or another environment would be served as well.
"""

import os
import time

from neuron_store.hashing.keys import prove_components
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.kept_inputs import keep_inputs
from neuron_store.shim.remote_hits import describe
from neuron_store.shim.stock_key import KeyContext, make_stock_key, stock_options
from neuron_store.shim.version import VERSION
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.errors import CorruptEntry, CorruptRemote
from neuron_store.store.layout import discard
from neuron_store.store.remotes.base import UNVERSIONED, version_folder
from neuron_store.store.results import Result, save_result
from neuron_store.store.stock.flags import LARGEST_FLAGS, decode_flags
from neuron_store.store.stock.names import DONE, FAILURE_LOG, FLAGS, GRAPHS, NEFF, WRAPPED_NEFF, module_in
from neuron_store.store.writing import Writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.shim.canonical import Canonical
    from neuron_store.shim.main import Shim
    from neuron_store.store.direct import Output
    from neuron_store.store.layout import Layout
    from neuron_store.store.remotes.base import Remote
    from neuron_store.store.remotes.opening import RemoteOptions

HIT_STOCK, HIT_STOCK_BY_NAME = "hit_stock", "hit_stock_by_name"
_LARGEST_MARK = 1 << 20  # bytes of a done file, or of a failure's log as far as it is of interest
# The same graph with more names and metadata than ours is larger, but not without bounds.
_TIMES_LARGER, _LARGER = 16, 16 << 20


class StockLook:
    """One look for one compile's entry."""

    def __init__(self, shim: "Shim", canonical: "Canonical") -> None:
        self._shim = shim
        self._canonical = canonical
        self._by_name = shim.settings.stock_by_name
        self._module = module_in(shim.model.path) if shim.model is not None else ""
        self._version = shim.identity.version

    @property
    def outcome(self) -> str:
        """The counter of a hit."""
        return HIT_STOCK_BY_NAME if self._by_name else HIT_STOCK

    def worthwhile(self) -> bool:
        """Tell whether a remote may have an entry that we could believe; if not for its sake, that is counted."""
        if not self._shim.settings.stock or not self._module or version_folder(self._version).endswith(UNVERSIONED):
            return False
        unprovable = "" if self._by_name else self._unprovable()
        if unprovable:
            self._shim.incidents.append("stock_unprovable")
            self._shim.log(f"stock_unprovable: {self._module}: {unprovable}")
        return not unprovable

    def _unprovable(self) -> str:
        """Say on what this compile depends that no entry tells, "" if on nothing."""
        parts = {component.name: component for component in self._canonical.components}
        variables = [field for field in parts["environment"].fields if not field.startswith(b"salt ")]
        if variables:
            return f"the environment sets {os.fsdecode(variables[0].partition(b'=')[0])}"
        if parts["host"].fields:
            return "there is no --target, so the host counts"
        if parts["side_inputs"].fields or self._canonical.side_files:
            return "it reaches files by their paths, whose content counts"
        return ""

    def fetch(self, remote: "Remote", into: "Layout", options: "RemoteOptions") -> bool:
        """Bring the remote's entry into the store `into`, if it has one and that is of this compile.

        Raises CorruptRemote, RemoteUnavailable, RemoteRefused; OSError if the store cannot be written.
        """
        folder = f"{version_folder(self._version)}/{self._module}"
        written = remote.read_checked(f"{folder}/{FLAGS}", LARGEST_FLAGS)
        if written is None:
            return False
        try:
            flags = decode_flags(written)
        except CorruptEntry as error:
            raise CorruptRemote(f"{folder}: {error}") from error
        if not self._by_name and not self._has_our_options(flags):
            return self._miss("stock_other", f"{folder} has other options")
        if not _is_finished(remote, folder):
            return self._miss("stock_unfinished", folder)
        if not self._by_name and not self._has_our_graph(remote, folder, into, flags):
            return self._miss("stock_other", f"{folder} has another graph")
        with Writing(into):
            outputs = self._fetch_outputs(remote, folder, into, options.largest)
            if not outputs:
                return self._miss("stock_unfinished", f"{folder} has no NEFF")
            save_result(into, self._as_result(remote.url, flags, outputs, into))
        return True

    def _miss(self, incident: str, detail: str) -> bool:
        self._shim.incidents.append(incident)
        self._shim.log(f"{incident}: {detail}")
        return False

    # -- whether it is of this compile -------------------------------------------------------------------------------

    def _context(self) -> KeyContext:
        settings = self._shim.settings
        return KeyContext(exact=settings.debug_info == "exact", salt=os.fsencode(settings.key_salt))

    def _has_our_options(self, flags: "list[str]") -> bool:
        """Tell whether an entry's options are ours, before anything large is fetched."""
        try:
            return stock_options(flags, self._context()) == self._shim.command.options
        except NotCacheable as answer:
            self._shim.log(f"{self._module}: {answer.detail}")
            return False

    def _has_our_graph(self, remote: "Remote", folder: str, into: "Layout", flags: "list[str]") -> bool:
        """Tell whether an entry's graph and options give this compile's own key, by SHA-256 over all of it."""
        size = self._shim.model.size if self._shim.model is not None else 0
        descriptor, temporary = into.open_temporary()
        try:
            for name in GRAPHS:
                taken = remote.take(f"{folder}/{name}", _TIMES_LARGER * size + _LARGER, descriptor)
                if taken is not None:
                    self._shim.fetched += taken
                    return self._proves(f"/proc/self/fd/{descriptor}", flags)
            return False
        finally:
            os.close(descriptor)
            discard(temporary)

    def _proves(self, graph: str, flags: "list[str]") -> bool:
        try:
            theirs = make_stock_key(graph, flags, self._version, self._context())
        except NotCacheable as answer:
            self._shim.log(f"{self._module}: {answer.detail}")
            return False
        return theirs.key == self._canonical.key and prove_components(theirs.components) == prove_components(
            self._canonical.components
        )

    # -- what is kept of it ------------------------------------------------------------------------------------------

    def _fetch_outputs(self, remote: "Remote", folder: str, into: "Layout", largest: int) -> "dict[str, Output] | None":
        """Store an entry's NEFF, and its wrapped NEFF if it has one, as blobs; None if it has no NEFF."""
        outputs = {}
        for role, name in (("neff", NEFF), ("wrapped_neff", WRAPPED_NEFF)):
            descriptor, temporary = into.open_temporary()
            try:
                size = remote.take(f"{folder}/{name}", largest, descriptor)
                if size:
                    self._shim.fetched += size
                    outputs[role] = store_blob(into, role, descriptor, self._shim.settings.compression_level)
                elif role == "neff" or size == 0:
                    return None
            finally:
                os.close(descriptor)
                discard(temporary)
        return outputs

    def _as_result(self, url: str, flags: "list[str]", outputs: "dict[str, Output]", into: "Layout") -> Result:
        model, fingerprint = self._shim.model, self._canonical.fingerprint
        kept = keep_inputs(self._shim, self._canonical) if into is self._shim.layout else []
        return Result(
            key=self._canonical.key,
            components=[describe(component) for component in self._canonical.components],
            outputs=outputs,
            interleave="",
            seconds=None,
            input_file={
                "name": model.name if model is not None else "",
                "path": "",
                "size": model.size if model is not None else 0,
                "sha256": fingerprint.digest,
                "proof": prove_components(self._canonical.components),
                "mode": fingerprint.mode,
                "reason": fingerprint.reason,
                "files": kept,
            },
            provenance={
                "created": time.time(),
                "compiler_version": self._version,
                "neuron_store": VERSION,
                "origin": url,
                "stock": {"module": self._module, "flags": flags, "by_name": self._by_name},
            },
        )


def _is_finished(remote: "Remote", folder: str) -> bool:
    return remote.read(f"{folder}/{DONE}", _LARGEST_MARK) is not None and not _failed(remote, folder)


def _failed(remote: "Remote", folder: str) -> bool:
    try:
        return remote.read(f"{folder}/{FAILURE_LOG}", _LARGEST_MARK) is not None
    except CorruptRemote:
        return True  # it is there, and long
