"""The fingerprint of an HLO module: equal for modules that compile to the same thing, different for all others.

A module that is traced again, from another folder or with shifted lines, differs in names, ids and metadata that the
compiler's output does not depend on. They are stripped or renumbered; everything else, unknown fields included, is
hashed byte for byte. Whatever is not exactly understood makes the whole module's raw bytes the fingerprint.

Grammar of what is hashed (SHA-256), version FINGERPRINT_VERSION:

    canonical   = "neuron-store hlo canonical " VERSION NUL  part*
    raw         = "neuron-store hlo raw " VERSION NUL  bytes
    part        = kind(1 byte) length(decimal) ":" bytes
      "M" a module's kept field        "W" a module's rewritten field
      "E" the entry computation's rank
      "C" a computation's rank         "K" a computation's kept fields, as they stand
      "I" an instruction's kept fields, as they stand, rewritten ones last
      "N" the name of one of the entry's parameters (a runtime may bind tensors by it), or of a computation in XLA's
          own namespace `xla.` (Shardy goes by it), without the number at its end
      "R" an int64 array: the root's rank, then for each instruction its rank, and the counts and ranks of its
          operands, control predecessors and called computations
      "S" an int64 array: a schedule's computation rank and instruction ranks
      "G" position and name of an instruction or computation that a kept string mentions

    rank        = an id's place in numeric order among the ids of its scope: the computation's instructions, the
                  module's computations. List order and id order both stay: XLA sorts by id when it loads a proto.

Stripped: module name, entry_computation_name, id, stack_frame_index; computation name; instruction name, metadata;
metadata of shardings; but metadata only where it holds nothing but names and places in the source. Sorted:
frontend_attributes. Field numbers: XLA's public hlo.proto and xla_data.proto.

Kept fields begin with a tag, which is never zero; what was rewritten follows a zero byte as tag "=" length ":" bytes.
"""

import hashlib
import mmap
import os
import re
from array import array

from neuron_store.hashing.hlo_fields import (
    ATTRIBUTES,
    BACKEND_CONFIG,
    CALLED,
    COMPUTATION_ID,
    COMPUTATION_INSTRUCTION,
    COMPUTATION_NAME,
    COMPUTATION_ROOT,
    COMPUTATION_SHAPE,
    CONTROL,
    ID,
    METADATA,
    MODULE_ATTRIBUTES,
    MODULE_COMPUTATION,
    MODULE_ENTRY_ID,
    MODULE_ENTRY_NAME,
    MODULE_ID,
    MODULE_NAME,
    MODULE_OUTPUT_SHARDING,
    MODULE_PARAMETER_SHARDING,
    MODULE_SCHEDULE,
    MODULE_STACK_FRAMES,
    NAME,
    NAMED_METADATA,
    NOT_TEXT,
    OPCODE,
    OPERANDS,
    SHAPE,
    SHARDING_METADATA,
    SHARDING_NAMED,
    SHARDING_TUPLE,
    SHARDINGS,
    TARGET,
    length_tag,
    varint_tag,
)
from neuron_store.hashing.kept_text import KeptText, data_paths
from neuron_store.hashing.wire import LENGTH, LONGEST_TAG, MalformedError, fields, packed, read_varint, signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from neuron_store.hashing.wire import Buffer

    # Given a custom call's target and backend_config, returns what stands for it in the key.
    Rewrite = Callable[[bytes, bytes], bytes]

FINGERPRINT_VERSION = 1

CANONICAL, RAW = "canonical", "raw"


# What the loop over an instruction's fields does with a tag. What has no action is kept, and searched for names.
_DO_NAME, _DO_STRIP, _DO_ID, _DO_OPERANDS, _DO_CONTROL, _DO_CALLED, _DO_REWRITE, _DO_OPCODE, _DO_TARGET, _KEEP = range(
    10
)
_ACTIONS = {
    **dict.fromkeys(NOT_TEXT, _KEEP),
    NAME: _DO_NAME,
    METADATA: _DO_STRIP,
    ID: _DO_ID,
    OPCODE: _DO_OPCODE,
    **dict.fromkeys(OPERANDS, _DO_OPERANDS),
    **dict.fromkeys(CONTROL, _DO_CONTROL),
    **dict.fromkeys(CALLED, _DO_CALLED),
    **dict.fromkeys((*SHARDINGS, ATTRIBUTES, BACKEND_CONFIG), _DO_REWRITE),
    TARGET: _DO_TARGET,
}

_VARINT = re.compile(rb"[\x80-\xff]*[\x00-\x7f]")
_LARGE = 1 << 16  # bytes of a span that is hashed in place
_NONE: list[int] = []  # never changed
RESERVED_NAMES = b"xla."
# OpMetadata's fields as their first one or two bytes: op_type, op_name, source_file; source_line, stack_frame_id,
# source_end_line, source_column, source_end_column.
_PROVENANCE_TEXT = frozenset((0x0A, 0x12, 0x1A))
_PROVENANCE_NUMBERS = frozenset((0x20, 0x78, 0x188, 0x190, 0x198))
_DEEPEST_SHARDING = 16
_MOST_INSTRUCTIONS = 1 << 25


class Fingerprint:
    """What identifies an HLO module.

    Attributes:
        digest: SHA-256, 64 hex digits.
        mode: CANONICAL, or RAW where the bytes as they stand are hashed.
        reason: why raw; None for canonical.
        paths: absolute paths that strings in it mention, whether there is a file or not.
    """

    __slots__ = ("digest", "mode", "paths", "reason")

    def __init__(
        self, digest: str, mode: str, reason: "str | None" = None, paths: "frozenset[bytes]" = frozenset()
    ) -> None:
        self.paths = paths
        self.digest = digest
        self.mode = mode
        self.reason = reason

    def __repr__(self) -> str:
        return f"Fingerprint({self.digest!r}, {self.mode!r}, {self.reason!r})"


def fingerprint_hlo(
    data: "bytes | memoryview | os.PathLike[str] | str",
    *,
    keep_debug_info: bool = False,
    rewrite: "Rewrite | None" = None,
) -> Fingerprint:
    """Return the fingerprint of an HLO module proto, given as bytes or as the path of its file.

    With `keep_debug_info`, names and metadata stay in it. `rewrite(target, backend_config)` returns the bytes that
    stand for a custom call's backend_config (side files by their content); what it raises is passed on.

    Never raises for what `data` holds: malformed, hostile or other input is fingerprinted raw. Raises OSError if the
    file cannot be read.
    """
    if isinstance(data, memoryview):
        data = bytes(data)
    if isinstance(data, bytes):
        return _fingerprint(data, keep_debug_info=keep_debug_info, rewrite=rewrite)
    with open(data, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= 1 << 24:
            return _fingerprint(file.readall(), keep_debug_info=keep_debug_info, rewrite=rewrite)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            return _fingerprint(mapped, keep_debug_info=keep_debug_info, rewrite=rewrite)


def _fingerprint(buffer: "Buffer", *, keep_debug_info: bool, rewrite: "Rewrite | None") -> Fingerprint:
    try:
        module = _Module(buffer, keep_debug_info=keep_debug_info, rewrite=rewrite)
        return Fingerprint(module.digest(), CANONICAL, paths=module.text.paths())
    except MalformedError as reason:
        return Fingerprint(_raw_digest(buffer), RAW, str(reason), data_paths(buffer))
    except (IndexError, OverflowError, RecursionError, MemoryError) as error:
        return Fingerprint(_raw_digest(buffer), RAW, f"{type(error).__name__} while reading it", data_paths(buffer))


def _raw_digest(buffer: "Buffer") -> str:
    hasher = hashlib.sha256(b"neuron-store hlo raw %d\0" % FINGERPRINT_VERSION)
    with memoryview(buffer) as view:
        hasher.update(view)
    return hasher.hexdigest()


class _Stream:
    """Gathers small parts and hashes large spans where they lie."""

    def __init__(self, buffer: "Buffer", view: memoryview, mode: bytes) -> None:
        self.buffer = buffer
        self.view = view
        self.hasher = hashlib.sha256(b"neuron-store hlo %s %d\0" % (mode, FINGERPRINT_VERSION))
        self.parts: list[bytes] = []

    def part(self, kind: bytes, data: bytes) -> None:
        self.parts.append(b"%b%d:%b" % (kind, len(data), data))

    def spans(self, kind: bytes, places: list[int], rewritten: bytes = b"") -> None:
        """Emit the spans whose starts and ends alternate in `places`, and `rewritten` after them."""
        spans = list(zip(places[::2], places[1::2], strict=True))
        total = len(rewritten) + sum(end - start for start, end in spans)
        self.parts.append(b"%b%d:" % (kind, total))
        for start, end in spans:
            if end - start < _LARGE:
                self.parts.append(self.buffer[start:end])
            else:
                self.flush()
                self.hasher.update(self.view[start:end])
        if rewritten:
            self.parts.append(rewritten)

    def flush(self) -> None:
        self.hasher.update(b"".join(self.parts))
        self.parts.clear()


class _Computation:
    """Where a computation's instructions stand, and what identifies it."""

    __slots__ = ("id", "instructions", "kept", "name", "ranks", "root")

    def __init__(self) -> None:
        self.id = 0
        self.root = 0
        self.name: bytes | None = None
        self.kept: list[int] = []
        self.instructions = array("Q")  # starts and ends, alternating
        self.ranks: dict[int, int] = {}  # instruction id -> rank


class _Module:
    """One pass over the module finds the computations; a second over each emits its instructions."""

    def __init__(self, buffer: "Buffer", *, keep_debug_info: bool, rewrite: "Rewrite | None") -> None:
        self.buffer = buffer
        self.keep_debug_info = keep_debug_info
        self.rewrite = rewrite
        self.computations: list[_Computation] = []
        self.ranks: dict[int, int] = {}  # computation id -> rank
        self.entry_id: int | None = None
        self.schedules: list[tuple[int, int]] = []
        self.names: list[bytes] = []  # of computations and instructions, in the order of emission
        self.text = KeptText()
        self.rewritten: dict[tuple[int, bytes], bytes] = {}

    def digest(self) -> str:
        with memoryview(self.buffer) as view:
            mode = b"canonical with debug info" if self.keep_debug_info else b"canonical"
            self.stream = _Stream(self.buffer, view, mode)
            self._read_module()
            for computation in self.computations:
                self._emit_computation(computation)
                self.stream.flush()
            self._emit_schedules()
            self._emit_mentions()
            self.stream.flush()
            return self.stream.hasher.hexdigest()

    # -- the module's own fields -----------------------------------------------------------------------------

    def _read_module(self) -> None:
        count = 0
        for tag, start, content, end in fields(self.buffer, 0, len(self.buffer)):
            if tag == MODULE_COMPUTATION:
                self.computations.append(self._read_computation(content, end))
                count += len(self.computations[-1].instructions)
                if count > _MOST_INSTRUCTIONS:
                    raise MalformedError("too many instructions")
            else:
                self._module_field(tag, start, content, end)
        if not self.computations or self.entry_id is None:
            raise MalformedError("not an HLO module")
        self.ranks = _rank([computation.id for computation in self.computations], "computation")
        if self.entry_id not in self.ranks:
            raise MalformedError("the entry computation does not exist")
        self.stream.part(b"E", b"%d" % self.ranks[self.entry_id])

    def _module_field(self, tag: int, start: int, content: int, end: int) -> None:
        if tag == MODULE_ENTRY_ID:
            if self.entry_id is not None:
                raise MalformedError("two entry computations")
            self.entry_id = signed(read_varint(self.buffer, content, end)[0])
        elif tag == MODULE_SCHEDULE:
            self.schedules.append((content, end))
        elif tag in (MODULE_OUTPUT_SHARDING, MODULE_PARAMETER_SHARDING, MODULE_ATTRIBUTES):
            kind = ATTRIBUTES if tag == MODULE_ATTRIBUTES else SHARDINGS[0]
            data = self._rewritten(kind, bytes(self.buffer[content:end]))
            self.stream.part(b"W", b"%d=%b" % (tag, data))
        elif tag in (MODULE_NAME, MODULE_ENTRY_NAME, MODULE_STACK_FRAMES):
            if self.keep_debug_info:
                self.stream.spans(b"M", [start, end])
        elif tag != MODULE_ID:
            if tag & 7 == LENGTH:
                self.text.note(self.buffer[content:end])
            self.stream.spans(b"M", [start, end])

    def _read_computation(self, position: int, limit: int) -> _Computation:
        computation = _Computation()
        seen = set()
        if position < limit and self.buffer[position] == COMPUTATION_NAME:  # stands first, by its number
            position = self._read_first_name(computation, position, limit)
            seen.add(COMPUTATION_NAME)
        position = self._read_places(computation.instructions, position, limit)
        for tag, start, content, end in fields(self.buffer, position, limit):
            if tag == COMPUTATION_INSTRUCTION:
                computation.instructions.extend((content, end))
                continue
            if tag in (COMPUTATION_ID, COMPUTATION_ROOT, COMPUTATION_NAME):
                if tag in seen:
                    raise MalformedError("a field stands twice")
                seen.add(tag)
            if tag == COMPUTATION_ID:
                computation.id = signed(read_varint(self.buffer, content, end)[0])
            elif tag == COMPUTATION_ROOT:
                computation.root = signed(read_varint(self.buffer, content, end)[0])
            elif tag == COMPUTATION_NAME:
                computation.name = bytes(self.buffer[content:end])
            else:
                if tag & 7 == LENGTH and tag != COMPUTATION_SHAPE:
                    self.text.note(self.buffer[content:end])
                computation.kept += (start, end)
        return computation

    def _read_first_name(self, computation: _Computation, position: int, limit: int) -> int:
        length, content = read_varint(self.buffer, position + 1, limit)
        if content + length > limit:
            raise MalformedError("a field runs over its message")
        computation.name = bytes(self.buffer[content : content + length])
        return content + length

    def _read_places(self, places: "array[int]", position: int, limit: int) -> int:
        """Note where the instructions stand that follow one another; return where something else begins."""
        buffer = self.buffer
        while position < limit and buffer[position] == COMPUTATION_INSTRUCTION:
            length = buffer[position + 1]
            content = position + 2
            if length >= 0x80:
                length, content = read_varint(buffer, position + 1, limit)
            if content + length > limit:
                raise MalformedError("a field runs over its message")
            places.append(content)
            position = content + length
            places.append(position)
        return position

    # -- computations and instructions -----------------------------------------------------------------------

    def _emit_computation(self, computation: _Computation) -> None:
        self.stream.part(b"C", b"%d" % self.ranks[computation.id])
        self.stream.spans(b"K", computation.kept)
        self._name(computation.name or b"")
        ids: list[int] = []
        references = array("q")
        self._emit_instructions(computation, ids, references)
        self._emit_references(computation, ids, references)

    def _emit_references(self, computation: _Computation, ids: list[int], references: "array[int]") -> None:
        """Emit who refers to whom, by rank. Raises MalformedError for an id that nothing has."""
        ranks = computation.ranks = _rank(ids, "instruction")
        if computation.root not in ranks:
            raise MalformedError("the root does not exist")
        numbers = array("q", [ranks[computation.root]])
        position = 0
        try:
            for own in ids:
                operands, control, called = references[position : position + 3]
                position += 3
                end = position + operands
                numbers.extend([ranks[own], operands, *[ranks[number] for number in references[position:end]]])
                position = end
                if control or called:
                    middle, end = position + control, position + control + called
                    numbers.extend([-control - 1, *[ranks[number] for number in references[position:middle]]])
                    numbers.extend([-called - 1, *[self.ranks[number] for number in references[middle:end]]])
                    position = end
        except KeyError:
            raise MalformedError("an id refers to nothing") from None
        self.stream.part(b"R", numbers.tobytes())

    def _emit_instructions(  # noqa: C901, PLR0912, PLR0915 - calls would double its time
        self, computation: _Computation, ids: list[int], references: "array[int]"
    ) -> None:
        """Emit what is kept of each instruction; gather ids and, flat, counts and ids of what it refers to.

        All the time of a fingerprint goes here, so it is one loop without calls for the common fields.
        """
        buffer, actions, stream, keep_debug_info = self.buffer, _ACTIONS, self.stream, self.keep_debug_info
        append, note = stream.parts.append, self.text.note
        is_entry = computation.id == self.entry_id
        places = computation.instructions
        decoded: dict[bytes, int] = {}  # an id as it is written -> the id
        split_varints = _VARINT.findall
        for index in range(0, len(places), 2):
            position = open_from = places[index]  # open_from: where the run of kept fields that is not closed began
            limit = places[index + 1]
            spans: list[int] = []
            own_id = None
            operands, control, called = _NONE, _NONE, _NONE
            name = target = config = rewritten = b""
            is_parameter = False
            # The usual beginning by itself, for speed: short name, opcode and shape.
            if buffer[position] == NAME and buffer[position + 1] < 0x80 and not keep_debug_info:
                content = position + 2
                position = open_from = content + buffer[position + 1]
                name = buffer[content:position]
                if buffer[position] == OPCODE and buffer[position + 1] < 0x80:
                    content = position + 2
                    position = content + buffer[position + 1]
                    is_parameter = is_entry and buffer[content:position] == b"parameter"
                    if buffer[position] == SHAPE and buffer[position + 1] < 0x80:
                        position += 2 + buffer[position + 1]
                if position > limit:
                    raise MalformedError("a field runs over its message")
            while position < limit:
                start = position
                tag = buffer[position]
                position += 1
                if tag >= 0x80:
                    byte = buffer[position]
                    position += 1
                    tag = tag & 0x7F | byte << 7
                    if byte >= 0x80:
                        tag, position = read_varint(buffer, start, min(limit, start + LONGEST_TAG))
                        if tag >> 32:
                            raise MalformedError("a field number is too large")
                kind = tag & 7
                if kind == 2:
                    length = buffer[position]
                    position += 1
                    if length >= 0x80:
                        length, position = read_varint(buffer, position - 1, limit)
                    content = position
                    position += length
                elif kind == 0:
                    content = position
                    while buffer[position] >= 0x80:
                        position += 1
                    position += 1
                    if position - content > 10:
                        raise MalformedError("a varint does not end")
                elif kind in (1, 5):
                    content = position
                    position += 8 if kind == 1 else 4
                else:
                    raise MalformedError(f"wire type {kind}")
                if position > limit or tag < 8:
                    raise MalformedError("a field runs over its message")
                action = actions.get(tag)
                if action is None:
                    if kind == 2:
                        note(buffer[content:position])
                    continue
                if action == _KEEP:
                    continue
                if action == _DO_OPCODE:
                    is_parameter = is_entry and buffer[content:position] == b"parameter"
                    continue
                if action == _DO_REWRITE and content == position and tag != BACKEND_CONFIG:
                    continue  # an empty message: nothing to rewrite, and nothing that it takes back
                if action == _DO_TARGET:
                    target = buffer[content:position]
                    note(target)
                    continue
                if action == _DO_STRIP:
                    if not is_provenance(buffer, content, position):
                        continue
                elif action == _DO_NAME:
                    if name:
                        raise MalformedError("an instruction has two names")
                    name = buffer[content:position]
                if action <= _DO_STRIP and keep_debug_info:
                    continue
                # Close the run of kept fields before this one; the next begins after it.
                if start > open_from:
                    spans.append(open_from)
                    spans.append(start)
                open_from = position
                if action <= _DO_STRIP:
                    continue
                if action == _DO_ID:
                    if own_id is not None:
                        raise MalformedError("an instruction has two ids")
                    own_id = signed(read_varint(buffer, content, position)[0])
                    decoded[buffer[content:position]] = own_id
                elif action == _DO_OPERANDS:
                    if buffer[position - 1] >= 0x80:
                        raise MalformedError("a varint does not end")
                    try:
                        found = [decoded[number] for number in split_varints(buffer[content:position])]
                    except KeyError:  # defined later, or written in another way
                        found = packed(buffer, tag, content, position)
                    if operands:
                        operands += found
                    else:
                        operands = found
                elif action == _DO_CALLED:
                    if called:
                        called += packed(buffer, tag, content, position)
                    else:
                        called = packed(buffer, tag, content, position)
                elif action == _DO_CONTROL:
                    if control:
                        control += packed(buffer, tag, content, position)
                    else:
                        control = packed(buffer, tag, content, position)
                elif tag == BACKEND_CONFIG:
                    if config:
                        raise MalformedError("an instruction has two backend configurations")
                    config = buffer[content:position]
                else:
                    data = self._rewritten(tag, buffer[content:position])
                    rewritten += b"%d=%d:%b" % (tag, len(data), data)
            if limit > open_from:
                spans.append(open_from)
                spans.append(limit)
            if config or target:
                config = self._backend_config(target, config)
                if config:
                    rewritten += b"%d=%d:%b" % (BACKEND_CONFIG, len(config), config)
            if limit - places[index] < _LARGE and not rewritten:
                kept = b"".join([buffer[spans[at] : spans[at + 1]] for at in range(0, len(spans), 2)])
                append(b"I%d:%b" % (len(kept), kept))
            else:
                stream.spans(b"I", spans, b"\0" + rewritten if rewritten else b"")
            if is_parameter:
                stream.part(b"N", name)
            self.names.append(name)
            ids.append(own_id or 0)
            references.extend((len(operands), len(control), len(called), *operands, *control, *called))
            if not index & 0x3FFF:
                stream.flush()

    def _name(self, name: bytes) -> None:
        self.names.append(name)
        if self.keep_debug_info:
            self.stream.part(b"N", name)
        elif name.startswith(RESERVED_NAMES):
            self.stream.part(b"N", name.rstrip(b"0123456789"))

    # -- rewritten fields ------------------------------------------------------------------------------------

    def _backend_config(self, target: bytes, config: bytes) -> bytes:
        known = self.rewritten.get((len(target), target + config))
        if known is None:
            known = config if self.rewrite is None else self.rewrite(target, config)
            self.rewritten[len(target), target + config] = known
            self.text.note(config)
            self.text.note(known)
        return known

    def _rewritten(self, tag: int, data: bytes) -> bytes:
        """Return a sharding without metadata, or frontend attributes in order. The few distinct ones are kept."""
        known = self.rewritten.get((-tag, data))
        if known is None:
            if tag == ATTRIBUTES:
                known = sorted_attributes(data)
                self.text.note(data)
            else:
                known = data if self.keep_debug_info else without_metadata(data, 0)
            self.rewritten[-tag, data] = known
        return known

    # -- what kept strings mention ---------------------------------------------------------------------------

    def _emit_mentions(self) -> None:
        """Names are stripped, so a string that mentions one must not come to mean another instruction unnoticed."""
        for position, name in self.text.mentions(self.names):
            self.stream.part(b"G", b"%d %b" % (position, name))

    # -- schedules -------------------------------------------------------------------------------------------

    def _emit_schedules(self) -> None:
        by_id = {computation.id: computation for computation in self.computations}
        sequences: dict[int, list[int]] = {}
        for position, limit in self.schedules:
            for tag, _, content, end in fields(self.buffer, position, limit):
                if tag != length_tag(1):
                    raise MalformedError("a schedule has an unknown field")
                computation_id, ids = self._read_sequence(content, end)
                if computation_id in sequences or computation_id not in by_id:
                    raise MalformedError("a schedule's computation does not exist, or stands twice")
                ranks = by_id[computation_id].ranks
                try:
                    sequences[computation_id] = [ranks[number] for number in ids]
                except KeyError:
                    raise MalformedError("a schedule refers to nothing") from None
        for computation_id in sorted(sequences, key=self.ranks.__getitem__):
            numbers = array("q", [self.ranks[computation_id], *sequences[computation_id]])
            self.stream.part(b"S", numbers.tobytes())
        self.stream.part(b"S", b"%d" % len(self.schedules))

    def _read_sequence(self, position: int, limit: int) -> tuple[int, list[int]]:
        """Read a map entry: computation id (key) -> InstructionSequence with instruction_ids (value)."""
        key = 0
        ids: list[int] = []
        seen = set()
        for tag, _, content, end in fields(self.buffer, position, limit):
            if tag in seen or tag not in (varint_tag(1), length_tag(2)):
                raise MalformedError("a schedule's entry has an unknown field")
            seen.add(tag)
            if tag == varint_tag(1):
                key = signed(read_varint(self.buffer, content, end)[0])
                continue
            for inner, _, inner_content, inner_end in fields(self.buffer, content, end):
                if inner not in (length_tag(1), varint_tag(1)):
                    raise MalformedError("a schedule's sequence has an unknown field")
                ids += packed(self.buffer, inner, inner_content, inner_end)
        return key, ids


def _rank(ids: list[int], what: str) -> dict[int, int]:
    ranks = {number: rank for rank, number in enumerate(sorted(ids))}
    if len(ranks) != len(ids):
        raise MalformedError(f"two of the {what}s have one id")
    return ranks


def sorted_attributes(data: bytes) -> bytes:
    """Return FrontendAttributes with the entries of its map in the order of their keys."""
    entries: dict[bytes, bytes] = {}
    rest = b""
    for tag, start, content, end in fields(data, 0, len(data)):
        if tag != length_tag(1):
            rest += data[start:end]
            continue
        key, value = _map_entry(data, content, end)
        if key in entries:
            raise MalformedError("an attribute stands twice")
        entries[key] = value
    made = [b"%d:%b%d:%b" % (len(key), key, len(value), value) for key, value in sorted(entries.items())]
    return b"%d," % len(made) + b"".join(made) + rest


def _map_entry(data: bytes, position: int, limit: int) -> tuple[bytes, bytes]:
    parts = {1: b"", 2: b""}
    seen = set()
    for tag, _, content, end in fields(data, position, limit):
        number = tag >> 3
        if tag & 7 != LENGTH or number not in parts or number in seen:
            raise MalformedError("an attribute's entry has an unknown field")
        seen.add(number)
        parts[number] = data[content:end]
    return parts[1], parts[2]


def without_metadata(data: bytes, depth: int) -> bytes:
    """Return an OpSharding without metadata, its own and that of the shardings inside it."""
    if depth > _DEEPEST_SHARDING:
        raise MalformedError("shardings are nested too deeply")
    made = b""
    for tag, start, content, end in fields(data, 0, len(data)):
        if tag == SHARDING_METADATA and is_provenance(data, content, end):
            continue
        if tag == SHARDING_TUPLE:
            inner = without_metadata(data[content:end], depth + 1)
        elif tag == SHARDING_NAMED:
            inner = b"".join(
                data[content + begin : content + stop]
                for inside, begin, place, stop in fields(data[content:end], 0, end - content)
                if inside != NAMED_METADATA or not is_provenance(data, content + place, content + stop)
            )
        else:
            made += data[start:end]
            continue
        made += b"\0%d=%d:%b" % (tag, len(inner), inner)
    return made


def is_provenance(buffer: "Buffer", position: int, end: int) -> bool:
    """Tell whether an OpMetadata holds nothing but names and places in the source. Raises MalformedError."""
    while position < end:
        tag = buffer[position]
        position += 1
        if tag >= 0x80:
            tag |= buffer[position] << 8
            position += 1
        if tag in _PROVENANCE_TEXT:
            length = buffer[position]
            position += 1
            if length >= 0x80:
                length, position = read_varint(buffer, position - 1, end)
            position += length
        elif tag in _PROVENANCE_NUMBERS:
            if buffer[position] < 0x80:
                position += 1
            else:
                _, position = read_varint(buffer, position, end)
        else:
            return False
    if position > end:
        raise MalformedError("a field runs over its message")
    return True
