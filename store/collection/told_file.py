r"""What records of a remote tell, kept on this host: a record never changes under its tag, so it is read once.

    remotes/<identity>.records

Grammar, version 1: the line `1 <XXH3 of what follows, 32 hex>\n`, then a JSON object:

    path of a record -> [tag, size in bytes, created (Unix seconds), [its blobs' names: <sha256>[.zst]]]

What cannot be read is nothing: then the records are read again.
"""

import json
from contextlib import suppress

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.layout import Layout, read_file
from neuron_store.store.remotes.base import BLOBS

_VERSION = b"1"

# (path, size, tag) -> created, paths of the blobs.
Told = dict[tuple[str, int, str], tuple[float, tuple[str, ...]]]


def load_told(layout: Layout, identity: str) -> Told:
    """Return what is kept of the remote `identity`; nothing if that cannot be read."""
    try:
        head, _, body = (read_file(_path(layout, identity)) or b"").partition(b"\n")
        if head != _VERSION + b" " + xxh3_hex(body).encode():
            return {}
        return {
            (path, size, tag): (created, tuple(_blob_path(path, name) for name in names))
            for path, (tag, size, created, names) in json.loads(body).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_told(layout: Layout, identity: str, told: Told) -> None:
    """Keep that, in the place of what was kept. What cannot be written is not kept."""
    document = {
        path: [tag, size, created, [blob.rpartition("/")[2] for blob in blobs]]
        for (path, size, tag), (created, blobs) in told.items()
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    with suppress(OSError):
        layout.write_file(_path(layout, identity), _VERSION + b" " + xxh3_hex(body).encode() + b"\n" + body)


def _path(layout: Layout, identity: str) -> str:
    return layout.remote_state_path(identity) + ".records"


def _blob_path(record: str, name: str) -> str:
    return f"{record.partition('/')[0]}/{BLOBS}/{name[:2]}/{name}"
