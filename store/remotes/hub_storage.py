"""What a Hub repo keeps besides the files that it shows: its history, and the LFS objects of files that are gone.

To delete a file frees nothing: earlier commits name its LFS object still, and while they do the Hub keeps it. Squashing the
history lets go of earlier commits; deleting an object for good frees its bytes at once, whatever commit names it.
"""

from neuron_store.store.errors import CorruptRemote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from huggingface_hub.hf_api import LFSFileInfo

    from neuron_store.store.remotes.hub_writer import HubWriter

_OBJECTS_A_REQUEST = 1000


class StoredObject:
    """An LFS object in the repo's storage.

    Attributes:
        sha256: of its content.
        size: bytes.
        pushed: when it came, Unix seconds.
        info: as huggingface_hub has it.
    """

    __slots__ = ("info", "pushed", "sha256", "size")

    def __init__(self, info: "LFSFileInfo") -> None:
        self.info = info
        self.sha256 = str(info.file_oid)
        self.size = int(info.size)
        self.pushed = info.pushed_at.timestamp()


class HubStorage:
    """The storage and the history of a Hub repo. Every method raises RemoteRefused or RemoteUnavailable."""

    def __init__(self, writer: "HubWriter") -> None:
        self._writer = writer
        self._place = {name: value for name, value in writer.place.items() if name != "revision"}
        self._branch = str(writer.place["revision"])

    def unused(self, named: "set[str]", before: float, *, look_again: bool) -> "list[StoredObject]":
        """Return the objects that came before `before` (Unix seconds) and that are no file.

        A file is what is `named` (SHA-256s, of the branch at hand), and what other branches, tags and pull requests
        have. With `look_again`, the branch is listed once more after the objects, so that what was committed since
        `named` was listed is no less a file. Raises CorruptRemote if the list of objects cannot be trusted: it does
        not have what is `named`.
        """
        objects = self._objects()
        listed = {stored.sha256 for stored in objects}
        lacking = len(named - listed)
        if lacking:
            raise CorruptRemote(
                f"{self._writer.place_in_words}: its list of LFS objects lacks {lacking} of {len(named)} that its files "
                "are, so it cannot tell which are not needed; none is deleted"
            )
        named = named | self._named_by([*self.other_revisions(), *([self._branch] if look_again else ())])
        return [stored for stored in objects if stored.sha256 not in named and stored.pushed < before]

    def _objects(self) -> "list[StoredObject]":
        api = self._writer.api()
        return self._writer.ask(
            "delete objects of", lambda: [StoredObject(info) for info in api.list_lfs_files(**self._place)]
        )

    def _named_by(self, revisions: "list[str]") -> "set[str]":
        api = self._writer.api()
        found: set[str] = set()

        def read(revision: str) -> "set[str]":
            listing = api.list_repo_tree(recursive=True, revision=revision, **self._place)
            lfs = (getattr(entry, "lfs", None) for entry in listing)
            return {each.sha256 for each in lfs if each is not None}

        for revision in revisions:
            found |= self._writer.ask("read", read, revision)
        return found

    def other_revisions(self) -> "list[str]":
        """Return all branches, tags and pull requests but the branch at hand."""
        api = self._writer.api()
        refs = self._writer.ask("read", api.list_repo_refs, include_pull_requests=True, **self._place)
        branches = [ref.name for ref in refs.branches if ref.name != self._branch]
        return [*branches, *(ref.name for ref in refs.tags), *(ref.ref for ref in refs.pull_requests or ())]

    def delete(self, objects: "Sequence[StoredObject]") -> None:
        """Delete at most 1000 objects for good. The history is not rewritten: commits keep their names."""
        api = self._writer.api()
        infos = [stored.info for stored in objects[:_OBJECTS_A_REQUEST]]
        self._writer.ask(
            "delete objects of", api.permanently_delete_lfs_files, lfs_files=infos, rewrite_history=False, **self._place
        )

    def commits(self) -> int:
        """Return how many commits the branch has."""
        api = self._writer.api()
        return self._writer.ask("read", lambda: len(api.list_repo_commits(**self._writer.place)))

    def squash(self, message: str) -> None:
        """Make one commit of all that the branch has: earlier ones are lost."""
        api = self._writer.api()
        self._writer.ask("squash", api.super_squash_history, branch=self._branch, commit_message=message, **self._place)
