"""Fetch a result from a remote into the local store: record, then blobs, everything checked before it has a name.

What comes is written to the store's tmp/ folder. It leaves it only if its stored bytes have the SHA-256 and size that
the record tells, and its content has those that name it; decompression ends at the size that the record tells.
"""

import os

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.direct import ENCODING_SUFFIX, Output
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.layout import discard
from neuron_store.store.remotes.base import record_path, version_folder
from neuron_store.store.remotes.records import LARGEST_RECORD, Record, StoredBlob, decode_record
from neuron_store.store.remotes.stored_bytes import content_fault, measure_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.store.layout import Layout
    from neuron_store.store.remotes.base import Remote

_BLOB_MODE = 0o444


class Expected:
    """What a record must tell to be that of the compile at hand.

    Attributes:
        input_sha256: of the canonical input.
        proof: over all components of the key.
    """

    __slots__ = ("input_sha256", "proof")

    def __init__(self, input_sha256: str, proof: str) -> None:
        self.input_sha256 = input_sha256
        self.proof = proof


def fetch_record(remote: "Remote", version: "str | None", key: str, largest: int) -> "Record | None":
    """Return the remote's record of `key`, None if it has none. `largest` is in bytes, of one output.

    Raises CorruptRemote, RemoteUnavailable, RemoteRefused.
    """
    folder = version_folder(version)
    data = remote.read(record_path(folder, key), LARGEST_RECORD)
    return None if data is None else decode_record(data, key, folder, largest)


def require_expected(record: Record, expected: Expected) -> None:
    """Raise CorruptRemote unless the record is of the very inputs that are at hand."""
    if record.input["sha256"] != expected.input_sha256 or record.proof != expected.proof:
        raise CorruptRemote(f"the record of {record.key} is of other inputs")


def fetch_blobs(remote: "Remote", layout: "Layout", record: Record, *, with_inputs: bool = False) -> int:
    """Bring every blob that the record names into the local store; return how many bytes came.

    Raises CorruptRemote, RemoteUnavailable, RemoteRefused; OSError if the local store cannot be written.
    """
    folder = version_folder(record.compiler_version)
    blobs = [*record.outputs, *(record.inputs if with_inputs else ())]
    return sum(_fetch_blob(remote, layout, blob, folder) for blob in blobs)


def _fetch_blob(remote: "Remote", layout: "Layout", blob: StoredBlob, folder: str) -> int:
    output = blob.output
    if output.inline is not None:
        if not _is_here(layout, blob):
            layout.write_file(layout.blob_path(output.sha256), output.inline, _BLOB_MODE)
        return 0
    if _is_here(layout, blob):
        return 0
    descriptor, temporary = layout.open_temporary()
    try:
        remote.download(blob.remote_path(folder), blob.stored_size, descriptor)
        _check(blob, descriptor)
    except BaseException:
        os.close(descriptor)
        discard(temporary)
        raise
    layout.publish(descriptor, temporary, layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding]), _BLOB_MODE)
    return blob.stored_size


def _is_here(layout: "Layout", blob: StoredBlob) -> bool:
    """Tell whether the store has the content already, whole and in whatever encoding, and note which it is.

    What it has may be damaged; and a record that tells something else of it must not get that far: its blob would be
    taken for the damaged one, which is another result's too.
    """
    output = blob.output
    for encoding, suffix in ENCODING_SUFFIX.items():
        path = layout.blob_path(output.sha256, suffix)
        try:
            os.utime(path)  # before the look: what was touched is not collected, see collection/collector.py
            descriptor = open_regular(path)
        except OSError:
            continue
        try:
            mine = Output(output.role, output.sha256, output.xxh3, output.size, encoding, None)
            if not content_fault(mine, descriptor):
                output.encoding = encoding
                return True
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return False


def _check(blob: StoredBlob, descriptor: int) -> None:
    size, sha256 = measure_stored(descriptor)
    if (size, sha256) != (blob.stored_size, blob.stored_sha256):
        raise CorruptRemote(f"the blob {blob.output.sha256} has other bytes than its record tells")
    fault = content_fault(blob.output, descriptor)
    if fault:
        raise CorruptRemote(fault)
