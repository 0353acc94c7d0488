"""Inputs kept with a result: what a miss is explained by, and what an audit compiles again."""

import os
import random

from neuron_store.shim.background import start_in_background
from neuron_store.store.blob_writer import store_blob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuron_store.shim.canonical import Canonical
    from neuron_store.shim.main import Shim


def keep_inputs(shim: "Shim", canonical: "Canonical") -> "list[dict[str, object]]":
    """Store the invocation's input files as blobs, unless together they are larger than the setting allows.

    Returns for each: `kind` (graph, other, option, kernel), `name` (below the model, the option's name, or the path as
    the module has it), and its blob's sha256, xxh3, size and encoding. Raises OSError.
    """
    files = list(_input_files(shim, canonical))
    if sum(os.path.getsize(path) for _, _, path in files) > shim.settings.keep_inputs_bytes:
        return []
    return [_keep(shim, kind, name, path) for kind, name, path in files]


def _input_files(shim: "Shim", canonical: "Canonical") -> "Iterator[tuple[str, str, str]]":
    if shim.model is None:
        raise AssertionError
    yield "graph", os.path.basename(shim.model.graph.path), shim.model.graph.path
    for name, path in shim.model.others():
        yield "other", name, path
    for name, path in shim.command.files:
        yield "option", name + " " + path, path
    for file in canonical.side_files:
        yield "kernel", file.written, file.found


def _keep(shim: "Shim", kind: str, name: str, path: str) -> "dict[str, object]":
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        blob = store_blob(shim.layout, "neff", descriptor, shim.settings.compression_level)
    finally:
        os.close(descriptor)
    text = name.encode("utf-8", "backslashreplace").decode()
    return {
        "kind": kind,
        "name": text,
        "sha256": blob.sha256,
        "xxh3": blob.xxh3,
        "size": blob.size,
        "encoding": blob.encoding,
    }


def begin_audit(shim: "Shim", key: str) -> None:
    """For the share of canonical hits that the setting asks for, start an audit of the result and do not wait."""
    if random.random() * 100 >= shim.settings.audit_percent:  # noqa: S311 - a sample
        return
    start_in_background(
        ["verify", "--key", key, "--recompile", "1"],
        {**shim.environ, "NEURON_STORE_DIR": shim.layout.root, "NEURON_STORE_COMPILER": shim.compiler},
    )
