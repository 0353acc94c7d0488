"""One batch of an upload: results of the queue, and what a remote still lacks of them."""

import os

from neuron_store.store.errors import NeuronStoreError, StoreUnavailable
from neuron_store.store.remotes.records import make_upload
from neuron_store.store.results import load_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neuron_store.store.layout import Layout
    from neuron_store.store.queue import Queued
    from neuron_store.store.remotes.base import Addition, Remote, RemoteFile
    from neuron_store.store.remotes.private_names import PrivateNames
    from neuron_store.store.remotes.records import Upload


class Member:
    """A result of a batch: its entry in the queue, and what is to be uploaded for it.

    Attributes:
        left_out: after `compare`, paths of its blobs that the remote has already.
    """

    __slots__ = ("entry", "left_out", "upload")

    def __init__(self, entry: "Queued", upload: "Upload") -> None:
        self.entry = entry
        self.upload = upload
        self.left_out: set[str] = set()


class Batch:
    """Results that are uploaded by one commit.

    Attributes:
        members: those that the local store has.
        dropped: entries of those that it has not, or that cannot be shared, with the reason.
        fault: why a result could not be read now, None if all could be.
        present: after `compare`, entries of those that the remote has already.
        sending: after `compare`, the members that are to be uploaded.
        additions: after `compare`, all files to be added: blobs, then records.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.dropped: list[tuple[Queued, str]] = []
        self.fault: Exception | None = None
        self.present: list[Queued] = []
        self.sending: list[Member] = []
        self.additions: list[Addition] = []

    @property
    def size(self) -> int:
        """Bytes of what is to be added."""
        return sum(max(addition.size, 0) for addition in self.additions)

    @property
    def message(self) -> str:
        """What the commit is called."""
        folders = ", ".join(sorted({member.upload.folder for member in self.sending}))
        count = len(self.sending)
        return f"Add {count} result{'s' if count != 1 else ''} of {folders}"

    def compare(self, remote: "Remote") -> None:
        """Ask `remote` what it has already. Raises RemoteUnavailable or RemoteRefused.

        Where it has a blob of another zstd's, the record is made to describe that one.
        """
        there = remote.look_up(sorted({path for member in self.members for path in _paths(member.upload)}))
        self.present, self.sending = [], []
        for member in self.members:
            if member.upload.record.path in there and not member.entry.replace:
                self.present.append(member.entry)
            else:
                self.sending.append(member)
        renewed = {blob.path for member in self.sending if member.entry.replace for blob in member.upload.blobs}
        blobs: dict[str, Addition] = {}
        for member in self.sending:
            for blob in list(member.upload.blobs):
                if blob.path in renewed or not _use_theirs(member.upload, blob, there.get(blob.path)):
                    blobs.setdefault(blob.path, blob)
                else:
                    member.left_out.add(blob.path)
        self.additions = [*blobs.values(), *(member.upload.record for member in self.sending)]

    def robbed(self, remote: "Remote") -> "list[Member]":
        """Return the members that were sent without a blob which `remote` had then, and has no more.

        A collection may have removed it before their records came. Raises RemoteUnavailable or RemoteRefused.
        """
        left_out = sorted({path for member in self.sending for path in member.left_out})
        there = remote.look_up(left_out) if left_out else {}
        return [member for member in self.sending if not member.left_out <= there.keys()]


def _paths(upload: "Upload") -> "Iterable[str]":
    yield upload.record.path
    for blob in upload.blobs:
        yield blob.path


def _use_theirs(upload: "Upload", blob: "Addition", theirs: "RemoteFile | None") -> bool:
    """Return whether the remote's blob will do, having made the record describe it."""
    if theirs is None:
        return False
    if not theirs.sha256:
        return theirs.size in (-1, blob.size)
    content, _, compressed = os.path.basename(blob.path).partition(".")
    if compressed:
        upload.adopt(blob.path, theirs.size, theirs.sha256)
        return True
    return theirs.sha256 == content


def load_batch(
    layout: "Layout",
    entries: "Iterable[Queued]",
    names: "PrivateNames",
    *,
    with_inputs: bool,
    most_results: int,
    most_bytes: int,
    go_on: "Callable[[], None]",
) -> Batch:
    """Return a batch of the first of `entries`; before each of them `go_on` is called, which may raise.

    It ends with the result that makes it larger than `most_bytes` (of blobs, as stored).
    """
    batch = Batch()
    size = 0
    for entry in entries:
        go_on()
        if len(batch.members) == most_results or size > most_bytes:
            break
        try:
            result = load_result(layout, entry.key)
            if result is None:
                batch.dropped.append((entry, "it is gone from the local store"))
                continue
            upload = make_upload(layout, result, names, with_inputs=with_inputs)
        except (OSError, StoreUnavailable) as error:
            batch.fault = error
        except NeuronStoreError as error:
            batch.dropped.append((entry, str(error)))
        else:
            batch.members.append(Member(entry, upload))
            size += sum(max(blob.size, 0) for blob in upload.blobs)
    return batch
