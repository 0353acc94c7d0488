"""Results on a remote, of any age, compiler version and content, for tests that collect them."""

import hashlib
import tempfile
import time
from pathlib import Path

from conftest import VERSION
from registry_setup import put
from uploads import make_key, make_neff

from neuron_store.store.blob_writer import store_blob
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import key_in
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import decode_record, make_upload
from neuron_store.store.results import Result, save_result

DAY = 86400.0
OLD_VERSION = "2.13.1.0+aaaaaaa"
OLDER_VERSION = "2.12.1.0+bbbbbbb"


def make_result(layout, number, *, age=0.0, version=VERSION, neff=None) -> Result:
    """Store a result in a local store, so many seconds old."""
    key = make_key(number)
    with tempfile.TemporaryFile() as file:
        file.write(make_neff(number) if neff is None else neff)
        file.flush()
        output = store_blob(layout, "neff", file.fileno(), 3)
    digest = hashlib.sha256(key.encode()).hexdigest()
    result = Result(
        key=key,
        components=[],
        outputs={"neff": output},
        interleave="",
        seconds=1.0,
        input_file={"name": "model.pb", "size": 1, "sha256": digest, "mode": "canonical", "proof": digest},
        provenance={"created": time.time() - age, "compiler_version": version},
    )
    save_result(layout, result)
    return result


def files_of_result(number, **made) -> "dict[str, bytes]":
    """Return the files that a remote has of a result: blobs, then the record."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(folder)
        upload = make_upload(layout, make_result(layout, number, **made), PrivateNames())
        files = [*upload.blobs, upload.record]
        return {a.path: a.data if a.data is not None else Path(a.source).read_bytes() for a in files}


def add_remote(remote, *numbers, repo="alice/cache", **made) -> "list[str]":
    """Put results on a remote (a loopback Hub, or a folder) as one commit; return their keys."""
    files: dict[str, bytes] = {}
    for number in numbers:
        files |= files_of_result(number, **made)
    put(remote, files, repo)
    return [make_key(number) for number in numbers]


def keys_on(files) -> "set[str]":
    """Return the keys whose records are among files."""
    return {path[-37:-5] for path in files if "/0_RESULTS/" in path}


def blobs_on(files) -> "set[str]":
    return {path for path in files if "/0_BLOBS/" in path}


def blobs_named(path, data) -> "set[str]":
    """Return the paths of the blobs that a record names."""
    folder = path.partition("/")[0]
    record = decode_record(data, key_in(path), folder, 1 << 62)
    return {blob.remote_path(folder) for blob in record.outputs if blob.output.inline is None}


def dangling(files) -> "set[str]":
    """Return the blobs that records among `files` name and that are not there."""
    return {blob for path in files if key_in(path) for blob in blobs_named(path, files[path])} - files.keys()
