"""The two sides of an explanation: what is known of a recorded result, or of a command line, that can be compared."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from neuron_store.cli.inquiry import Inquiry
from neuron_store.hashing.hlo_words import read_json
from neuron_store.shim.canonical import Canonical
from neuron_store.shim.version import VERSION
from neuron_store.store.blobs import MissingBlob, read_blob
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.results import Result


class Unknown(Exception):  # noqa: N818 - an answer, not an error
    """What was asked for cannot be told; the message says why."""


@dataclass
class Side:
    """What is known of one compile.

    Attributes:
        key: its key.
        name: how messages call it: the beginning of the key, or "the command line".
        module: the input's file name.
        size: of the input, in bytes.
        components: name -> fields, as text.
        digests: component -> digest.
        reason: why the HLO is in the key by its raw bytes, "" if it is not.
        kernels: path as the HLO has it -> sha256, of the files that the HLO reaches; None if they are not recorded.
        created: Unix seconds; 0 if it is not recorded.
        version: the neuron-store that made the record.
        read_hlo: returns the HLO module's bytes, or raises Unknown.
    """

    key: str
    name: str
    module: str
    size: int
    components: dict[str, list[str]]
    digests: dict[str, str]
    reason: str
    kernels: "dict[str, str] | None"
    created: float
    version: str
    read_hlo: Callable[[], bytes] = field(repr=False)

    def rewrite(self, _target: bytes, config: bytes) -> bytes:
        """Return a custom call's configuration with the content of recorded kernels in place of their paths."""
        document = read_json(config)
        used: list[str] = []
        neutral = self._neutral(document, used)
        return json.dumps(neutral).encode() if used else config

    def _neutral(self, value: Any, used: list[str]) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: self._neutral(inner, used) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._neutral(inner, used) for inner in value]
        if isinstance(value, str) and value in (self.kernels or {}):
            used.append(value)
            digest = f"sha256 {(self.kernels or {})[value][:16]}…"
            return digest + (os.path.splitext(value)[1] if os.path.isabs(value) else " " + value)
        return value


def side_of_result(layout: Layout, result: Result) -> Side:
    """Return what a result's record tells. Raises CorruptEntry for a record of another form."""
    try:
        files = _kept_files(result)
        return Side(
            key=result.key,
            name=result.key[:12],
            module=str(result.input.get("name") or ""),
            size=int(result.input.get("size") or 0),
            components={str(c["name"]): [str(text) for text in c["fields"]] for c in result.components},
            digests={str(c["name"]): str(c["digest"]) for c in result.components},
            reason=str(result.input.get("reason") or ""),
            kernels={str(f["name"]): str(f["sha256"]) for f in files if f["kind"] == "kernel"} if files else None,
            created=float(result.provenance.get("created") or 0.0),
            version=str(result.provenance.get("neuron_store") or "an unknown version"),
            read_hlo=lambda: _read_kept_graph(layout, result),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptEntry(f"the record of {result.key} lacks what a comparison needs: {error!r}") from error


def _kept_files(result: Result) -> list[dict[str, Any]]:
    return [dict(file) for file in result.input.get("files") or []]


def _read_kept_graph(layout: Layout, result: Result) -> bytes:
    graph = next((file for file in _kept_files(result) if file["kind"] == "graph"), None)
    if graph is None:
        raise Unknown(f"no input is kept with {result.key[:12]}")
    try:
        return read_blob(layout, Output("neff", graph["sha256"], graph["xxh3"], graph["size"], graph["encoding"], None))
    except MissingBlob:
        raise Unknown(f"the kept input of {result.key[:12]} is gone from the store") from None
    except (CorruptEntry, KeyError, OSError) as error:
        raise Unknown(f"the kept input of {result.key[:12]} cannot be read ({error})") from error


def side_of_inquiry(inquiry: Inquiry, canonical: Canonical) -> Side:
    """Return what a command line is made of."""
    model = inquiry.model
    if model is None:
        raise AssertionError

    def read_hlo() -> bytes:
        try:
            with open(model.graph.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise Unknown(f"{model.graph.path} cannot be read ({error.strerror})") from error

    fields = {
        component.name: [text.decode("utf-8", "backslashreplace") for text in component.fields]
        for component in canonical.components
    }
    return Side(
        key=canonical.key,
        name="the command line",
        module=model.name,
        size=model.size,
        components=fields,
        digests={component.name: component.digest() for component in canonical.components},
        reason=canonical.fingerprint.reason or "",
        kernels={os.fsencode(f.written).decode("utf-8", "backslashreplace"): f.sha256 for f in canonical.side_files},
        created=0.0,
        version=VERSION,
        read_hlo=read_hlo,
    )
