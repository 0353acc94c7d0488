"""Mending what a check found, beside running shims. For the holder of the collector's lock.

A fault is looked at once more before anything is done about it: a shim may have mended it. What is damaged is moved to
the quarantine; a writer who gives the same name to a new file at that instant gets it back.

- A blob that is damaged or missing is fetched from a remote that has the same result; or else the whole result is, in
  place of the local one (text is uploaded without private names, so its blobs may differ); or else, if it is only an
  input that was kept, the record lets go of its inputs; or else the result is dropped: a miss, as it was before.
- A record that is damaged is fetched again with its result, or dropped.
- While a remote that may have what is lacking does not answer, there is hope: nothing is dropped.
- What nobody names or holds goes, as a collection would remove it.

A repair makes new faults: a dropped record leaves blobs without a name. So it is checked again until nothing is left.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.checking.blob_files import Seen
from neuron_store.store.checking.check import Checked, Tick, check_store
from neuron_store.store.checking.faults import (
    DAMAGED_BLOB,
    DAMAGED_RECORD,
    DANGLING,
    FOREIGN,
    HEALED,
    LEFT,
    MISSING_BLOB,
    ORPHAN_BLOB,
    REPAIRED,
    STALE_LOCK,
    TRUNCATED,
    UNREADABLE,
    WRONG_MODE,
    WRONG_NAME,
    Finding,
)
from neuron_store.store.checking.measuring import measure
from neuron_store.store.checking.quarantine import Quarantine
from neuron_store.store.checking.refetch import NoAnswerError, Refetcher
from neuron_store.store.checking.surroundings import WITH_RECORDS
from neuron_store.store.collection.collector import put_back_all
from neuron_store.store.collection.recompression import blobs_of, exchange, replace_record
from neuron_store.store.collection.removal import ASIDE, put_back, remove_blob
from neuron_store.store.direct import ENCODING_SUFFIX, decode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, move_file, read_file
from neuron_store.store.locks import sweep_file
from neuron_store.store.results import Result, decode_result, load_result
from neuron_store.store.writing import unchanging_since

_MOST_ROUNDS = 6
_VERSION = re.compile(rb'"compiler_version": "([^"\\]{1,100})"')
_ORDER = (
    UNREADABLE,
    WRONG_MODE,
    STALE_LOCK,
    WRONG_NAME,
    DAMAGED_RECORD,
    TRUNCATED,
    DAMAGED_BLOB,
    MISSING_BLOB,
    FOREIGN,
    DANGLING,
    ORPHAN_BLOB,
)


def repair_store(
    layout: Layout,
    threads: int,
    refetcher: Refetcher,
    quarantine: Quarantine,
    tick: "Tick | None" = None,
) -> "tuple[Checked, list[Finding]]":
    """Check and mend until nothing is left that can be mended.

    Returns what the last check found, and all that was found on the way, each with its outcome. Raises OSError where
    the store cannot be written.
    """
    seen = Seen()
    everything: list[Finding] = []
    left: set[tuple[str, str]] = set()
    put_back_all(layout)
    for number in range(_MOST_ROUNDS + 1):
        checked = check_store(layout, threads, tick, seen, holds_collector=True)
        fresh = [finding for finding in checked.findings if (finding.kind, finding.path) not in left]
        if not fresh or number == _MOST_ROUNDS:
            break
        repair = Repair(layout, refetcher, quarantine)
        for finding in sorted(fresh, key=lambda finding: _ORDER.index(finding.kind)):
            finding.follows = number > 0
            repair.mend(finding)
            everything.append(finding)
            if finding.outcome == LEFT:
                left.add((finding.kind, finding.path))
    return checked, everything


class Repair:
    """One round of mending."""

    def __init__(self, layout: Layout, refetcher: Refetcher, quarantine: Quarantine) -> None:
        self._layout = layout
        self._refetcher = refetcher
        self._quarantine = quarantine
        self._horizon = unchanging_since(layout)
        self._ways: dict[str, Callable[[Finding], str]] = {
            UNREADABLE: self._make_readable,
            WRONG_MODE: self._change_mode,
            WRONG_NAME: self._rename,
            DAMAGED_RECORD: self._mend_file,
            TRUNCATED: self._mend_file,
            DAMAGED_BLOB: self._mend_file,
            MISSING_BLOB: self._mend_file,
            FOREIGN: self._move_away,
            STALE_LOCK: self._sweep,
            DANGLING: self._remove_entry,
            ORPHAN_BLOB: self._remove_orphan,
        }

    def mend(self, finding: Finding) -> None:
        """Do what can be done about a fault, and note it in the finding."""
        try:
            finding.done = self._ways[finding.kind](finding)
            finding.outcome = REPAIRED if finding.done else HEALED
            finding.done = finding.done or "it is no longer so"
        except NoAnswerError as error:
            finding.outcome, finding.done = LEFT, str(error)
        except OSError as error:
            finding.outcome, finding.done = LEFT, f"{error.strerror or error}; change its owner or mode"

    def _path(self, finding: Finding) -> str:
        return f"{self._layout.root}/{finding.path}"

    # -- what needs no remote ------------------------------------------------------------------------------------------

    def _change_mode(self, finding: Finding) -> str:
        os.chmod(self._path(finding), finding.mode)
        return f"it has the mode {finding.mode:04o} now"

    def _make_readable(self, finding: Finding) -> str:
        path = self._path(finding)
        try:
            os.chmod(path, finding.mode)
        except PermissionError:
            if os.path.isdir(path) or not finding.path.startswith(WITH_RECORDS):
                raise
            return self._mend_file(finding)  # it is another's, but the folder may be ours
        if not os.access(path, os.R_OK):
            return self._mend_file(finding)
        return f"it has the mode {finding.mode:04o} now"

    def _rename(self, finding: Finding) -> str:
        """Give a file its own name; what had that name, and is not it, gets this one's, and is found by the next check."""
        path, target = self._path(finding), f"{self._layout.root}/{finding.target}"
        if not self._is_meant(path, finding):
            return ""
        if self._is_meant(target, finding):
            return "moved to the quarantine: what it is has a file of its own" if self._quarantine.take(path) else ""
        self._layout.make_folder(os.path.dirname(target))
        if os.path.lexists(target):
            exchange(path, target)
        else:
            move_file(path, target)
        return f"it has its name now, {os.path.basename(target)}"

    def _is_meant(self, path: str, finding: Finding) -> bool:
        """Tell whether a file is what a file of a wrong name was found to be."""
        if finding.sha256:
            return self._is_blob(path, finding.sha256, path.endswith(".zst")) or self._is_blob(
                path, finding.sha256, not path.endswith(".zst")
            )
        name = os.path.basename(finding.target)
        try:
            data = read_file(path) or b""
            if finding.keys:
                return decode_result(data).key == name
            decode_direct(data, name)
        except (CorruptEntry, OSError):
            return False
        return True

    def _move_away(self, finding: Finding) -> str:
        return "moved to the quarantine" if self._quarantine.take(self._path(finding)) else ""

    def _sweep(self, finding: Finding) -> str:
        path = self._path(finding)
        if os.path.basename(path).startswith(ASIDE):
            put_back(path)
            return "put back under its name"
        if stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode):
            shutil.rmtree(path)
            return "removed"
        return "removed" if sweep_file(path, 0.0) or not os.path.lexists(path) else ""

    def _remove_entry(self, finding: Finding) -> str:
        os.unlink(self._path(finding))
        return "removed"

    def _remove_orphan(self, finding: Finding) -> str:
        return "removed" if remove_blob(self._path(finding), self._horizon) is not None else ""

    # -- records and blobs ---------------------------------------------------------------------------------------------

    def _mend_file(self, finding: Finding) -> str:
        if finding.sha256:
            return self._mend_blob(finding)
        if finding.path.startswith("results/"):
            return self._mend_record(finding)
        return self._move_away(finding)  # a direct entry: the next hit by the canonical key makes it anew

    def _mend_record(self, finding: Finding) -> str:
        path = self._path(finding)
        key = finding.keys[0]
        try:
            if load_result(self._layout, key) is not None:
                return ""
        except (CorruptEntry, OSError):
            pass
        seen = os.stat(path, follow_symlinks=False)
        come_from = self._refetcher.result(key, None, _version_in(path), lambda: self._take(path, seen))
        if come_from:
            return f"fetched again from {come_from}"
        return "dropped: no remote has it" if self._quarantine.take(path, seen) else ""

    def _vacate(self, sha256: str) -> None:
        self._make_room(sha256)

    def _take(self, path: str, seen: "os.stat_result | None" = None) -> None:
        self._quarantine.take(path, seen)

    def _mend_blob(self, finding: Finding) -> str:
        sha256 = finding.sha256
        done = []
        for key in finding.keys:
            result = self._load(key)
            if result is not None and not self._has(result, sha256):
                done.append(self._mend_result(result, sha256))
        if self._make_room(sha256) and not done:
            return "moved to the quarantine"
        return "; ".join(dict.fromkeys(done))

    def _load(self, key: str) -> "Result | None":
        try:
            return load_result(self._layout, key)
        except (CorruptEntry, OSError):
            return None

    def _mend_result(self, result: Result, sha256: str) -> str:
        """Give a result its blob, or itself anew, or let go of it; say which. Raises NoAnswerError, OSError."""
        unanswered: NoAnswerError | None = None
        try:
            come_from = self._refetcher.blob(result.key, result, sha256, lambda: self._vacate(sha256))
            if come_from:
                return f"fetched again from {come_from}"
        except NoAnswerError as error:
            unanswered = error
        if all(output.sha256 != sha256 for output in result.outputs.values()):
            if unanswered is not None:
                raise unanswered
            return self._let_go_of_inputs(result)
        version = str(result.provenance.get("compiler_version") or "")
        come_from = self._refetcher.result(result.key, result, version, lambda: None)
        if come_from:
            return f"its result was fetched again from {come_from}"
        path = self._layout.result_path(result.key)
        self._quarantine.take(path)
        return f"its result {result.key[:12]} is dropped: no remote has it"

    def _let_go_of_inputs(self, result: Result) -> str:
        status = os.stat(self._layout.result_path(result.key))
        result.input["files"] = []
        replace_record(self._layout, result, status)
        return f"its result {result.key[:12]} is kept without its inputs: no remote has them"

    def _make_room(self, sha256: str) -> bool:
        """Move what has the blob's name, and is not it, to the quarantine; return whether there was anything."""
        taken = False
        for path in self._blob_paths(sha256):
            if os.path.lexists(path) and not self._is_blob(path, sha256, path.endswith(".zst")):
                taken = self._quarantine.take(path) or taken
        return taken

    def _has(self, result: Result, sha256: str) -> bool:
        """Tell whether the blob is there, as the result tells it; or the result does not name it any more."""
        told = [each for each in blobs_of(result) if each.sha256 == sha256]
        return not told or any(
            self._is_blob(path, sha256, path.endswith(".zst"), (told[0].size, told[0].xxh3))
            for path in self._blob_paths(sha256)
        )

    def _blob_paths(self, sha256: str) -> list[str]:
        return [self._layout.blob_path(sha256, suffix) for suffix in ENCODING_SUFFIX.values()]

    @staticmethod
    def _is_blob(path: str, sha256: str, compressed: bool, told: "tuple[int, str] | None" = None) -> bool:  # noqa: FBT001
        """Tell whether a file is the blob of this digest (and size in bytes and XXH3)."""
        try:
            descriptor = open_regular(path)
        except OSError:
            return False
        try:
            found = measure(descriptor, compressed=compressed)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return found.sha256.hex() == sha256 and told in (None, (found.size, found.xxh3.hex()))


def _version_in(path: str) -> str:
    """Return the compiler version that can still be read in a damaged record, "" if there is none."""
    try:
        found = _VERSION.search(read_file(path) or b"")
    except OSError:
        return ""
    return found[1].decode("ascii", "replace") if found else ""
