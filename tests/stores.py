"""Stores with many results, made directly: what is collected is the same as what the shim stores."""

import os
import time

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.direct import DirectEntry, encode_direct
from neuron_store.store.results import Result, save_result

DAY = 86400


def store_bytes(layout, content, role="neff", level=3):
    descriptor = os.memfd_create("content")
    try:
        os.write(descriptor, content)
        return store_blob(layout, role, descriptor, level)
    finally:
        os.close(descriptor)


def add_result(layout, number, *, content=None, age=0.0, version="2.14.227.0+2d4f85be", level=3, inputs=()):
    """Store a result with a blob of 100 kB, last used `age` seconds ago; return its key."""
    key = xxh3_hex(b"result %d" % number)
    content = os.urandom(100_000) if content is None else content
    outputs = {"neff": store_bytes(layout, content, level=level)}
    files = []
    for name, data in inputs:
        blob = store_bytes(layout, data, level=level)
        files.append(
            {
                "kind": "other",
                "name": name,
                "sha256": blob.sha256,
                "xxh3": blob.xxh3,
                "size": blob.size,
                "encoding": blob.encoding,
            }
        )
    result = Result(
        key=key,
        components=[{"name": "compiler", "digest": "0" * 32, "fields": [version]}],
        outputs=outputs,
        interleave="",
        seconds=60.0,
        input_file={
            "name": f"m{number}.pb",
            "path": "",
            "size": 1,
            "sha256": "0" * 64,
            "proof": "1" * 64,
            "mode": "canonical",
            "reason": "",
            "files": files,
        },
        provenance={"created": time.time() - age, "compiler_version": version},
    )
    save_result(layout, result)
    direct_key = direct_key_of(number)
    entry = DirectEntry(key, 60.0, "", outputs)
    layout.write_file(layout.direct_path(direct_key), encode_direct(entry, direct_key))
    used = time.time() - age
    os.utime(layout.result_path(key), (used, used))
    return key


def direct_key_of(number):
    return xxh3_hex(b"direct %d" % number)


def keys_of(store):
    return {path.name for path in (store / "results").rglob("*") if path.is_file()}


def blobs_in(store):
    return {path.name for path in (store / "blobs").rglob("*") if path.is_file()}


def directs_of(store):
    return {path.name for path in (store / "direct").rglob("*") if path.is_file()}
