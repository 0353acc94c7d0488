"""What can be wrong with a store: each kind of fault by its name, and what is to be done about it."""

from dataclasses import dataclass, field

DAMAGED_BLOB = "damaged_blob"
DAMAGED_RECORD = "damaged_record"
TRUNCATED = "truncated"
MISSING_BLOB = "missing_blob"
ORPHAN_BLOB = "orphan_blob"
DANGLING = "dangling_entry"
WRONG_NAME = "wrong_name"
WRONG_MODE = "wrong_mode"
STALE_LOCK = "stale_lock"
FOREIGN = "foreign_file"
UNREADABLE = "unreadable"

REPAIRED, LEFT, HEALED = "repaired", "left", "healed"


@dataclass(frozen=True)
class Kind:
    """One kind of fault, in words.

    Attributes:
        title: what it is, for one of them and for several.
        remedy: what `--repair` does about it.
    """

    title: str
    titles: str
    remedy: str


KINDS = {
    DAMAGED_BLOB: Kind("damaged blob", "damaged blobs", "fetch it again, or drop its result"),
    DAMAGED_RECORD: Kind("damaged record", "damaged records", "fetch its result again, or drop it"),
    TRUNCATED: Kind("truncated file", "truncated files", "fetch it again, or drop its result"),
    MISSING_BLOB: Kind("missing blob", "missing blobs", "fetch it again, or drop its result"),
    UNREADABLE: Kind("unreadable file", "unreadable files", "make it readable, or fetch it again"),
    WRONG_NAME: Kind("file of a wrong name", "files of wrong names", "give it its name"),
    WRONG_MODE: Kind("file of a wrong mode", "files of wrong modes", "give it its mode"),
    ORPHAN_BLOB: Kind("blob that no result names", "blobs that no result names", "remove it, as gc does"),
    DANGLING: Kind("entry that leads nowhere", "entries that lead nowhere", "remove it, as gc does"),
    STALE_LOCK: Kind("stale lock or temporary file", "stale locks and temporary files", "remove it, as gc does"),
    FOREIGN: Kind("foreign file", "foreign files", "move it to the quarantine"),
}


@dataclass
class Finding:
    """One fault.

    Attributes:
        kind: one of KINDS.
        path: of the file, below the store's root (a missing blob's: where it should be).
        detail: what is wrong, in words.
        keys: of the results that suffer from it.
        sha256: of the blob that is meant, "" for anything else.
        target: where a file of a wrong name belongs, below the root.
        leads_to: the key that an entry leads to, "" for anything else.
        mode: what a file's mode should be, 0 where that is not the fault.
        outcome: of a repair: REPAIRED, LEFT, HEALED (gone by the time), "" if none was tried.
        done: what the repair did, or why it did nothing, in words.
        follows: whether it came of the repair of another.
    """

    kind: str
    path: str
    detail: str
    keys: list[str] = field(default_factory=list)
    sha256: str = ""
    target: str = ""
    leads_to: str = ""
    mode: int = 0
    outcome: str = ""
    done: str = ""
    follows: bool = False

    def as_dict(self) -> "dict[str, object]":
        """Return it as JSON-ready values."""
        told: dict[str, object] = {"kind": self.kind, "path": self.path, "detail": self.detail, "keys": self.keys}
        if self.outcome:
            told |= {"outcome": self.outcome, "done": self.done, "follows": self.follows}
        return told


def count_kinds(findings: "list[Finding]") -> "dict[str, int]":
    """Return how many findings there are of each kind that there are any of, in the order of KINDS."""
    counts = dict.fromkeys(KINDS, 0)
    for finding in findings:
        counts[finding.kind] += 1
    return {kind: count for kind, count in counts.items() if count}
