"""Records and direct entries: whole, under their own names, and leading to what there is."""

import os
import re
from dataclasses import dataclass, field

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.checking.faults import DAMAGED_RECORD, DANGLING, TRUNCATED, WRONG_NAME, Finding
from neuron_store.store.checking.view import RECORD_MODE, View
from neuron_store.store.direct import MAGIC as DIRECT_MAGIC
from neuron_store.store.direct import decode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import BLOB_LENGTH, KEY_LENGTH, Layout, is_hex, read_file
from neuron_store.store.results import MAGIC, Result, decode_result, load_result

_TEXT_DIGEST = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_OUTPUTS = b'"outputs": ['
_FAMILY, _DIRECT_FAMILY = (magic[: magic.rindex(b" ", 0, -1) + 1] for magic in (MAGIC, DIRECT_MAGIC))

# What a record says of one blob: SHA-256, size in bytes, XXH3-128. Of one that is damaged only the first is known.
Named = tuple[bytes, int, bytes]
UNTOLD = -1


@dataclass
class Looked:
    """What was found in some folders of records.

    Attributes:
        keys: of results that have a record, whole or not.
        named: the blobs that they name.
        newer: how many are of another format, which is no fault.
    """

    keys: list[str] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    newer: int = 0


def look_at_records(view: View, folder: str) -> Looked:
    """Look at the records in one folder."""
    looked = Looked()
    for entry in view.listing(folder, looked.findings):
        look_at_record(view, entry.path, looked)
    return looked


def look_at_record(view: View, path: str, looked: Looked) -> None:
    """Look at one file among the records."""
    name = os.path.basename(path)
    in_place = is_hex(name, KEY_LENGTH) and path == view.layout.result_path(name)
    begun = len(looked.findings)
    descriptor = view.open(path, RECORD_MODE, looked.findings)
    data = view.read(descriptor, path, RECORD_MODE, looked.findings) if descriptor >= 0 else None
    if data is None:
        if in_place and len(looked.findings) > begun:
            looked.keys.append(name)
            looked.findings[-1].keys.append(name)
        return
    if data.startswith(_FAMILY) and not data.startswith(MAGIC):
        looked.newer += 1
        return
    try:
        result = decode_result(data)
        named = named_by(result)
    except CorruptEntry as error:
        if not in_place:
            looked.findings.append(view.foreign(path))
            return
        looked.keys.append(name)
        looked.named += [(bytes.fromhex(text.decode()), UNTOLD, b"") for text in _digests_in(data)]
        kind, detail = (TRUNCATED, "the record ends too early") if _ends_early(data) else (DAMAGED_RECORD, str(error))
        looked.findings.append(Finding(kind, view.below(path), detail, [name]))
        return
    looked.keys.append(result.key)
    looked.named += named
    if path != view.layout.result_path(result.key):
        target = view.below(view.layout.result_path(result.key))
        detail = f"it is the record of {result.key}"
        looked.findings.append(Finding(WRONG_NAME, view.below(path), detail, [result.key], target=target))


def named_by(result: Result) -> list[Named]:
    """Return what a record says of the blobs that it names, kept inputs among them. Raises CorruptEntry."""
    named = [(bytes.fromhex(o.sha256), o.size, bytes.fromhex(o.xxh3)) for o in result.outputs.values()]
    try:
        for file in result.input.get("files") or []:
            if not is_hex(file["sha256"], BLOB_LENGTH) or not is_hex(file["xxh3"], 32):
                raise ValueError("no digest")  # noqa: TRY301 - as any other fault of theirs
            named.append((bytes.fromhex(file["sha256"]), int(file["size"]), bytes.fromhex(file["xxh3"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptEntry(f"the result record's kept inputs cannot be read: {error}") from error
    return named


def _digests_in(data: bytes) -> list[bytes]:
    """Return the digests that can still be read in a damaged record's outputs and after."""
    return _TEXT_DIGEST.findall(data, max(data.find(_OUTPUTS), 0))


def _ends_early(data: bytes) -> bool:
    return not data.endswith(b"}")


# -- direct entries ----------------------------------------------------------------------------------------------------


def look_at_directs(
    view: View, folder: str, keys: "set[str]", named: "dict[bytes, tuple[int, bytes]]"
) -> list[Finding]:
    """Look at the direct entries in one folder; `keys` and `named` are those of all records."""
    findings: list[Finding] = []
    for entry in view.listing(folder, findings):
        if entry.name.startswith("."):
            continue  # being written: see surroundings.py
        look_at_direct(view, entry.path, keys, named, findings)
    return findings


def look_at_direct(
    view: View, path: str, keys: "set[str]", named: "dict[bytes, tuple[int, bytes]]", findings: list[Finding]
) -> None:
    """Look at one file among the direct entries."""
    name = os.path.basename(path)
    descriptor = view.open(path, RECORD_MODE, findings)
    data = view.read(descriptor, path, RECORD_MODE, findings) if descriptor >= 0 else None
    if data is None or (data.startswith(_DIRECT_FAMILY) and not data.startswith(DIRECT_MAGIC)):
        return
    own = _own_direct_key(data)
    is_whole = own != "" and data.partition(b"\n")[0] == DIRECT_MAGIC + xxh3_hex(data.partition(b"\n")[2]).encode()
    in_place = is_hex(name, KEY_LENGTH) and path == view.layout.direct_path(name)
    if is_whole and path != view.layout.direct_path(own):
        target = view.below(view.layout.direct_path(own))
        findings.append(Finding(WRONG_NAME, view.below(path), f"it is the direct entry {own}", target=target))
        return
    if not in_place:
        findings.append(view.foreign(path))
        return
    try:
        entry = decode_direct(data, name)
    except CorruptEntry as error:
        kind, detail = (
            (TRUNCATED, "the direct entry ends too early") if _direct_ends_early(data) else (DAMAGED_RECORD, str(error))
        )
        findings.append(Finding(kind, view.below(path), detail))
        return
    if entry.key not in keys:
        detail = f"it leads to {entry.key}, which is not there"
        findings.append(Finding(DANGLING, view.below(path), detail, leads_to=entry.key))
    elif any(o.inline is None and bytes.fromhex(o.sha256) not in named for o in entry.outputs.values()):
        detail = "it names a blob that its result does not"
        findings.append(Finding(DANGLING, view.below(path), detail, leads_to=entry.key))


def agrees_with_record(layout: Layout, direct_key: str) -> bool:
    """Tell whether a direct entry names no blob but those of the record that it leads to, or one of them is gone."""
    try:
        entry = decode_direct(read_file(layout.direct_path(direct_key)) or b"", direct_key)
        result = load_result(layout, entry.key)
    except (CorruptEntry, OSError):
        return True  # which is another fault
    if result is None:
        return True
    told = {output.sha256 for output in result.outputs.values()}
    return all(output.inline is not None or output.sha256 in told for output in entry.outputs.values())


def _own_direct_key(data: bytes) -> str:
    lines = data.split(b"\n", 2)
    own = lines[1].partition(b" ")[0].decode("ascii", "replace") if len(lines) > 2 else ""
    return own if is_hex(own, KEY_LENGTH) else ""


def _direct_ends_early(data: bytes) -> bool:
    """Tell whether a direct entry is shorter than its own first lines say."""
    text, gap, inline = data.partition(b"\n\n")
    if not gap:
        return True
    try:
        lines = text.split(b"\n")
        count = int(lines[1].split(b" ")[3])
        lengths = [int(line.split(b" ")[-1]) for line in lines[3 : 3 + count]]
    except (ValueError, IndexError):
        return False
    return sum(length for length in lengths if length > 0) > len(inline)
