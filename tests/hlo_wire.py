"""HLO modules built and taken apart byte by byte, independently of the code under test.

A message is a list of (field number, value): an int is a varint, bytes or str a string, a list a message, Packed a
packed list of ints, Wire a value with a wire type of its own.
"""

import copy
from dataclasses import dataclass, field
from typing import NamedTuple


class Packed(list):
    """Packed integers."""


class Wire(NamedTuple):
    """A value with its wire type, written as it stands (a length is put before type 2)."""

    kind: int
    data: bytes


def varint(value, pad=0):
    """Encode `value` (negative ones as int64); `pad` bytes more than it needs."""
    value &= (1 << 64) - 1
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    for _ in range(pad):
        made[-1] |= 0x80
        made.append(0)
    return bytes(made)


def encode_field(number, value):
    if isinstance(value, bool | int):
        return varint(number << 3) + varint(value)
    if isinstance(value, Wire):
        kind, data = value
    elif isinstance(value, Packed):
        kind, data = 2, b"".join(map(varint, value))
    elif isinstance(value, list):
        kind, data = 2, encode(value)
    else:
        kind, data = 2, value.encode() if isinstance(value, str) else value
    return varint(number << 3 | kind) + (varint(len(data)) if kind == 2 else b"") + data


def encode(message):
    return b"".join(encode_field(number, value) for number, value in message)


class Piece(NamedTuple):
    """A field as it stands in a message: data[start:end], its value from `content` on."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def read_varint(data, position):
    """Return the value and the next position. Raises ValueError."""
    value = 0
    for count in range(10):
        if position + count >= len(data):
            raise ValueError("cut off")
        byte = data[position + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value & (1 << 64) - 1, position + count + 1
    raise ValueError("too long")


def decode(data):
    """Return the Pieces of a message. Raises ValueError."""
    found = []
    position = 0
    while position < len(data):
        start = position
        tag, position = read_varint(data, position)
        if position - start > 5 or not 8 <= tag < 1 << 32:
            raise ValueError("no field number")
        content = position
        if tag & 7 == 0:
            position = read_varint(data, position)[1]
        elif tag & 7 == 2:
            length, content = read_varint(data, position)
            position = content + length
        elif tag & 7 in (1, 5):
            position += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("a group")
        if position > len(data):
            raise ValueError("cut off")
        found.append(Piece(tag >> 3, tag & 7, start, content, position))
    return found


def decode_ints(data):
    """Return packed int64. Raises ValueError."""
    found = []
    position = 0
    while position < len(data):
        value, position = read_varint(data, position)
        found.append(value - (1 << 64) if value >> 63 else value)
    return found


@dataclass
class Instruction:
    name: str
    opcode: str
    id: int
    operands: list = field(default_factory=list)
    control: list = field(default_factory=list)
    called: list = field(default_factory=list)
    more: list = field(default_factory=list)

    def message(self):
        made = [(1, self.name), (2, self.opcode), *self.more, (35, self.id)]
        lists = ((36, self.operands), (37, self.control), (38, self.called))
        return made + [(number, Packed(ids)) for number, ids in lists if ids]


@dataclass
class Computation:
    name: str
    id: int
    root: int
    instructions: list
    more: list = field(default_factory=list)

    def message(self):
        instructions = [(2, instruction.message()) for instruction in self.instructions]
        return [(1, self.name), *instructions, *self.more, (5, self.id), (6, self.root)]


@dataclass
class Module:
    name: str
    entry: int
    computations: list
    id: int = 7
    more: list = field(default_factory=list)
    schedule: dict | None = None

    def message(self):
        entry = next((each.name for each in self.computations if each.id == self.entry), "main")
        made = [(1, self.name), (2, entry), *((3, each.message()) for each in self.computations)]
        made += [(5, self.id), (6, self.entry), *self.more]
        if self.schedule is not None:
            made.append((7, [(1, [(1, key), (2, [(1, Packed(ids))])]) for key, ids in self.schedule.items()]))
        return made

    def encode(self):
        return encode(self.message())

    def copy(self):
        return copy.deepcopy(self)

    @property
    def instructions(self):
        return [instruction for computation in self.computations for instruction in computation.instructions]

    def named(self, name):
        return next(each for each in (*self.instructions, *self.computations) if each.name == name)


def shape(*dimensions, element_type=11):
    layout = [(1, Packed(reversed(range(len(dimensions)))))]
    return (3, [(2, element_type), (3, Packed(dimensions)), (5, layout)])


def attributes(number=68, **pairs):
    """FrontendAttributes as a field of an instruction, in the order of `pairs`."""
    return (number, [(1, [(1, key), (2, value)]) for key, value in pairs.items()])


def metadata(op_name="jit(f)/add", line=3, number=7):
    return (
        number,
        [(1, "add"), (2, op_name), (3, "/src/model.py"), (4, line), (15, 300), (17, line), (18, 4), (19, 9)],
    )


def sharding(devices=(0, 1), number=40, inner=(), with_metadata=True):
    made = [(1, 3), (3, Packed([len(devices)])), (4, Packed(devices))]
    made += [(5, one[1]) for one in inner]
    return (number, made + ([metadata(number=7)] if with_metadata else []))


def named_sharding(axis="x", number=40, with_metadata=True):
    named = [(2, [(1, [(1, axis), (2, 2)])]), (3, [(1, [(1, 0)]), (2, 1)])]
    return (number, [(1, 3), (14, named + ([metadata(number=6)] if with_metadata else []))])


def small_module():
    """A module with a bit of everything: calls, a fusion, a custom call, shardings, a schedule, aliases."""
    add = Computation(
        "region_0.4",
        4,
        43,
        [
            Instruction("a.1", "parameter", 41, more=[shape(), (9, 0)]),
            Instruction("b.2", "parameter", 42, more=[shape(), (9, 1)]),
            Instruction("add.3", "add", 43, [41, 42], more=[shape(), metadata()]),
        ],
        [(4, [(3, "a.1"), (3, "b.2")])],
    )
    multiply = Computation(
        "region_1.9",
        9,
        93,
        [
            Instruction("a.5", "parameter", 91, more=[shape(), (9, 0)]),
            Instruction("b.6", "parameter", 92, more=[shape(), (9, 1)]),
            Instruction("multiply.7", "multiply", 93, [91, 92], more=[shape(), metadata()]),
        ],
        [(4, [(3, "a.5"), (3, "b.6")]), (8, "main")],
    )
    literal = (8, [(1, [(2, 11)]), (8, Wire(2, b"\0\0\0\0"))])
    pairs = {"neff_input_names": "tokens", "stream_id": "0"}
    main = Computation(
        "main.20",
        20,
        207,
        [
            Instruction("tokens.1", "parameter", 201, more=[shape(8), (9, 0), sharding(), metadata()]),
            Instruction("weights.2", "parameter", 202, more=[shape(8), (9, 1), named_sharding(), attributes(**pairs)]),
            Instruction("constant.3", "constant", 203, more=[shape(), literal]),
            Instruction("reduce.4", "reduce", 204, [201, 203], called=[4], more=[shape(), (14, Packed([0]))]),
            Instruction("reduce.5", "reduce", 205, [202, 203], [204], [9], [shape(), (14, Packed([0]))]),
            Instruction(
                "custom-call.6",
                "custom-call",
                206,
                [204, 205],
                more=[shape(), (28, "Scale"), (43, b"scale=2"), sharding(inner=[sharding((1, 0)), named_sharding()])],
            ),
            Instruction("tuple.7", "tuple", 207, [204, 206], more=[(3, [(2, 13), (4, [(2, 11)]), (4, [(2, 11)])])]),
        ],
        [(4, [(3, "tokens"), (3, "weights")])],
    )
    return Module(
        "jit_step",
        20,
        [add, multiply, main],
        more=[
            (4, [(3, "tokens"), (3, "weights")]),
            (8, [(1, [(1, Packed([0])), (2, 1), (4, 1)])]),
            sharding(number=12),
            named_sharding(number=14),
            attributes(19, mesh="x=2", origin="test"),
            (17, [(1, "/src/model.py"), (2, "step"), (3, [(1, 1), (3, 12)]), (4, [(1, 1)])]),
        ],
        schedule={4: [41, 42, 43], 9: [91, 92, 93], 20: [201, 202, 203, 204, 205, 206, 207]},
    )
