"""An HLO module read for comparison: its computations and instructions, by what their fingerprint is made of.

Stripped fields are left out and ids become places in lists, as in `hlo_fingerprint`, so that two outlines that are
equal are those of modules with one fingerprint. Only what has a canonical fingerprint is read here.
"""

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
    NOT_TEXT,
    OPCODE,
    OPERANDS,
    SHARDINGS,
    TARGET,
)
from neuron_store.hashing.hlo_fingerprint import RESERVED_NAMES, is_provenance, sorted_attributes, without_metadata
from neuron_store.hashing.kept_text import KeptText
from neuron_store.hashing.wire import LENGTH, fields, packed, read_varint, signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.hlo_fingerprint import Rewrite

    Field = tuple[int, bytes]  # tag and canonical content

_DEBUG_FIELDS = (MODULE_NAME, MODULE_ENTRY_NAME, MODULE_STACK_FRAMES)
_MODULE_SHARDINGS = (MODULE_OUTPUT_SHARDING, MODULE_PARAMETER_SHARDING)
_REFERENCES = {
    **dict.fromkeys(OPERANDS, "operands"),
    **dict.fromkeys(CONTROL, "control"),
    **dict.fromkeys(CALLED, "called"),
}
_SMALL = 4096  # bytes of an instruction that is worth remembering, in case that the other module has it too


class Instruction:
    """One instruction.

    Attributes:
        content: its kept fields, in an order that does not depend on ids.
        name, opcode: as in the module; the name is no part of what is compared, but for entry parameters.
        id: its own. operands, control, called: ids of what it refers to.
    """

    __slots__ = ("called", "content", "control", "id", "name", "opcode", "operands")

    def __init__(self) -> None:
        self.content: tuple[Field, ...] = ()
        self.name = self.opcode = b""
        self.id = 0
        self.operands: list[int] = []
        self.control: list[int] = []
        self.called: list[int] = []


class Computation:
    """One computation.

    Attributes:
        name, id, root: as in the module; the root by its id.
        kept: its own kept fields.
        instructions: in list order.
        places: instruction id -> place in the list.
    """

    __slots__ = ("id", "instructions", "kept", "name", "places", "root")

    def __init__(self) -> None:
        self.name = b""
        self.id = self.root = 0
        self.kept: list[Field] = []
        self.instructions: list[Instruction] = []
        self.places: dict[int, int] = {}


class Outline:
    """One module.

    Attributes:
        kept: the module's own kept fields.
        computations: in list order.
        places: computation id -> place in the list.
        entry: place of the entry computation.
        schedules: computation's id -> instruction ids, in order.
    """

    def __init__(self) -> None:
        self.kept: list[Field] = []
        self.computations: list[Computation] = []
        self.places: dict[int, int] = {}
        self.entry = 0
        self.schedules: dict[int, list[int]] = {}

    @property
    def size(self) -> int:
        """Number of instructions."""
        return sum(len(computation.instructions) for computation in self.computations)


class OutlineReader:
    """Reads modules; instructions that stand in several with the same bytes are read once."""

    def __init__(self, *, keep_debug_info: bool) -> None:
        self.keep_debug_info = keep_debug_info
        self._known: dict[bytes, Instruction] = {}
        self._rewrite: Rewrite | None = None

    def read(self, data: bytes, rewrite: "Rewrite | None" = None) -> Outline:
        """Read a module whose fingerprint is canonical.

        Raises MalformedError, KeyError or IndexError for others, and what `rewrite` raises.
        """
        self._rewrite = rewrite
        outline = Outline()
        entry_id = 0
        for tag, _, content, end in fields(data, 0, len(data)):
            if tag == MODULE_COMPUTATION:
                outline.computations.append(self._read_computation(data, content, end))
            elif tag == MODULE_ENTRY_ID:
                entry_id = signed(read_varint(data, content, end)[0])
            elif tag == MODULE_SCHEDULE:
                outline.schedules.update(_read_schedule(data[content:end]))
            elif tag != MODULE_ID and (tag not in _DEBUG_FIELDS or self.keep_debug_info):
                outline.kept.append((tag, self._module_field(tag, data[content:end])))
        outline.places = {computation.id: place for place, computation in enumerate(outline.computations)}
        outline.entry = outline.places[entry_id]
        if not self.keep_debug_info:
            _keep_parameter_names(outline.computations[outline.entry])
        return outline

    def _module_field(self, tag: int, data: bytes) -> bytes:
        if tag == MODULE_ATTRIBUTES:
            return sorted_attributes(data)
        if tag in _MODULE_SHARDINGS and not self.keep_debug_info:
            return without_metadata(data, 0)
        return data

    def _read_computation(self, data: bytes, position: int, limit: int) -> Computation:
        computation = Computation()
        for tag, _, content, end in fields(data, position, limit):
            if tag == COMPUTATION_INSTRUCTION:
                computation.instructions.append(self._read_instruction(data[content:end]))
            elif tag == COMPUTATION_ID:
                computation.id = signed(read_varint(data, content, end)[0])
            elif tag == COMPUTATION_ROOT:
                computation.root = signed(read_varint(data, content, end)[0])
            elif tag == COMPUTATION_NAME:
                computation.name = data[content:end]
            else:
                computation.kept.append((tag, data[content:end]))
        if self.keep_debug_info:
            computation.kept.append((COMPUTATION_NAME, computation.name))
        elif computation.name.startswith(RESERVED_NAMES):
            computation.kept.append((COMPUTATION_NAME, computation.name.rstrip(b"0123456789")))
        computation.places = {instruction.id: at for at, instruction in enumerate(computation.instructions)}
        return computation

    def _read_instruction(self, data: bytes) -> Instruction:
        known = self._known.get(data)
        if known is None:
            known = self._parse(data)
            # A configuration is rewritten for one module in a way of its own.
            if len(data) < _SMALL and not any(tag == BACKEND_CONFIG for tag, _ in known.content):
                self._known[data] = known
        return known

    def _parse(self, data: bytes) -> Instruction:
        made = Instruction()
        kept: list[Field] = []
        rewritten: list[Field] = []
        strings = {NAME: b"", OPCODE: b"", TARGET: b"", BACKEND_CONFIG: b""}
        for tag, _, content, end in fields(data, 0, len(data)):
            if tag == ID:
                made.id = signed(read_varint(data, content, end)[0])
            elif tag in _REFERENCES:
                getattr(made, _REFERENCES[tag]).extend(packed(data, tag, content, end))
            elif tag in SHARDINGS or tag == ATTRIBUTES:
                rewritten.append((tag, self._rewritten(tag, data[content:end])))
            else:
                if tag in strings:
                    strings[tag] = data[content:end]
                if tag != BACKEND_CONFIG and not self._stripped(tag, data, content, end):
                    kept.append((tag, data[content:end]))
        made.name, made.opcode = strings[NAME], strings[OPCODE]
        target, config = strings[TARGET], strings[BACKEND_CONFIG]
        if self._rewrite and (target or config):
            config = self._rewrite(target, config)
        if config:
            rewritten.append((BACKEND_CONFIG, config))
        made.content = (*kept, *rewritten)
        return made

    def _stripped(self, tag: int, data: bytes, content: int, end: int) -> bool:
        if self.keep_debug_info:
            return False
        return tag == NAME or (tag == METADATA and is_provenance(data, content, end))

    def _rewritten(self, tag: int, data: bytes) -> bytes:
        if tag == ATTRIBUTES:
            return sorted_attributes(data)
        return data if self.keep_debug_info else without_metadata(data, 0)


def _keep_parameter_names(entry: Computation) -> None:
    for place, instruction in enumerate(entry.instructions):
        if instruction.opcode == b"parameter":
            named = Instruction()  # the one at hand may stand in other computations, too
            for attribute in Instruction.__slots__:
                setattr(named, attribute, getattr(instruction, attribute))
            named.content = (*instruction.content, (NAME, instruction.name))
            entry.instructions[place] = named


def _read_schedule(data: bytes) -> dict[int, list[int]]:
    found = {}
    for _, _, content, end in fields(data, 0, len(data)):
        computation_id, ids = 0, []
        for tag, _, inner, inner_end in fields(data, content, end):
            if tag & 7 != LENGTH:
                computation_id = signed(read_varint(data, inner, inner_end)[0])
                continue
            for packed_tag, _, start, stop in fields(data, inner, inner_end):
                ids += packed(data, packed_tag, start, stop)
        found[computation_id] = ids
    return found


def mentioned_names(data: bytes) -> list[tuple[int, bytes]]:
    """Return (place, name) of each computation and instruction that a kept string of the module mentions by its name.

    The place counts both, in the order of the fingerprint. Raises MalformedError.
    """
    names: list[bytes] = []
    text = KeptText()
    for tag, _, content, end in fields(data, 0, len(data)):
        if tag == MODULE_COMPUTATION:
            _note_computation(data, content, end, names, text)
        elif tag & 7 == LENGTH and tag not in (*_DEBUG_FIELDS, MODULE_SCHEDULE, *_MODULE_SHARDINGS):
            text.note(data[content:end])
    return text.mentions(names)


def _note_computation(data: bytes, position: int, limit: int, names: list[bytes], text: KeptText) -> None:
    at = len(names)
    names.append(b"")
    for tag, _, content, end in fields(data, position, limit):
        if tag == COMPUTATION_NAME:
            names[at] = data[content:end]
        elif tag == COMPUTATION_INSTRUCTION:
            names.append(b"")
            for inner, _, start, stop in fields(data, content, end):
                if inner == NAME:
                    names[-1] = data[start:stop]
                elif inner & 7 == LENGTH and inner not in _NO_TEXT:
                    text.note(data[start:stop])
        elif tag & 7 == LENGTH and tag != COMPUTATION_SHAPE:
            text.note(data[content:end])


_NO_TEXT = {*NOT_TEXT, NAME, METADATA, OPCODE, *SHARDINGS, *_REFERENCES}


def attributes(data: bytes) -> dict[bytes, bytes]:
    """Return the map in FrontendAttributes as `sorted_attributes` writes them. Raises MalformedError, ValueError."""
    count, _, rest = data.partition(b",")
    found = {}
    for _ in range(int(count)):
        pair = []
        for _ in range(2):
            length, _, rest = rest.partition(b":")
            pair.append(rest[: int(length)])
            rest = rest[int(length) :]
        found[pair[0]] = pair[1]
    if rest:
        found[b""] = rest  # fields that are not known
    return found
