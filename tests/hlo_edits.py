"""Small edits of HLO module protos, by the wire format, and modules made from nothing."""

from neuron_store.hashing.wire import LENGTH, VARINT, fields, packed, read_varint

MODULE_COMPUTATION, COMPUTATION_INSTRUCTION = 3, 2
NAME, OPCODE, SHAPE, METADATA, LITERAL, TARGET, ID, OPERANDS, BACKEND_CONFIG, ATTRIBUTES = (
    *(1, 2, 3, 7, 8, 28, 35, 36, 43, 68),
)


def varint(value):
    made = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def field(number, value):
    """Encode a field: bytes, text or a message as such, a number as a varint, a list of them packed."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, list):
        value = b"".join(map(varint, value))
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


class Message:
    """A message as a list of [field number, value], to be changed in place."""

    def __init__(self, data=b""):
        self.fields = []
        for tag, start, content, end in fields(data, 0, len(data)):
            value = data[content:end]
            if tag & 7 == VARINT:
                value = read_varint(data, content, end)[0]
            self.fields.append([tag >> 3, value if tag & 7 in (VARINT, LENGTH) else data[start:end]])
            if tag & 7 not in (VARINT, LENGTH):
                self.fields[-1][0] = None  # as it stands

    def __bytes__(self):
        return b"".join(value if number is None else field(number, value) for number, value in self.fields)

    def get(self, number):
        return next((value for found, value in self.fields if found == number), None)

    def numbers(self, number):
        """The numbers that stand packed in the field."""
        value = self.get(number) or b""
        return packed(value, number << 3 | LENGTH, 0, len(value))

    def set(self, number, value):
        """Set the field, in its place if it is there; None takes it out."""
        for entry in self.fields:
            if entry[0] == number:
                entry[1] = value
                break
        else:
            self.fields.append([number, value])
        self.fields = [entry for entry in self.fields if entry[1] is not None]


def edit(data, change, *, opcode=None, count=1):
    """Apply `change(instruction)` to the first instructions of that opcode; what it returns takes their place."""
    left = count
    module = Message(data)
    for entry in module.fields:
        if entry[0] != MODULE_COMPUTATION or not left:
            continue
        computation = Message(entry[1])
        made = []
        for number, value in computation.fields:
            instructions = [value]
            if number == COMPUTATION_INSTRUCTION and left:
                instruction = Message(value)
                if opcode is None or instruction.get(OPCODE) == opcode.encode():
                    left -= 1
                    answer = change(instruction)
                    instructions = [bytes(each) for each in ([instruction] if answer is None else answer)]
            made += [[number, each] for each in instructions]
        computation.fields = made
        entry[1] = bytes(computation)
    assert not left, f"no {opcode}"
    return bytes(module)


def edit_module(data, change):
    module = Message(data)
    change(module)
    return bytes(module)


def edit_computation(data, change, at=0):
    module = Message(data)
    entry = [entry for entry in module.fields if entry[0] == MODULE_COMPUTATION][at]
    computation = Message(entry[1])
    change(computation)
    entry[1] = bytes(computation)
    return bytes(module)


def shape(*dimensions, kind=11):
    return field(2, kind) + field(3, list(dimensions))


def instruction(number, opcode="add", operands=(), name=None, more=b"", of=(4, 4)):
    """An instruction with the id `number`."""
    parts = [field(NAME, name or f"{opcode}.{number}"), field(OPCODE, opcode), field(SHAPE, shape(*of)), more]
    return b"".join([*parts, field(ID, number), field(OPERANDS, list(operands))])


def computation(instructions, number=1, name="main.1", root=None, more=b""):
    body = b"".join(field(COMPUTATION_INSTRUCTION, each) for each in instructions)
    last = Message(instructions[-1]).get(ID) if root is None else root
    return field(1, name) + body + more + field(5, number) + field(6, last)


def module(*computations, entry=1, more=b"", name="m"):
    body = b"".join(field(MODULE_COMPUTATION, each) for each in computations)
    return field(1, name) + field(2, "main") + body + more + field(6, entry)


def chain(length, opcode="add", start=1, **kinds):
    """A module of one computation, in which each instruction takes the one before it."""
    made = [instruction(1, "parameter", more=field(9, 0))]
    made += [instruction(at, kinds.get(f"at{at}", opcode), [at - 1], of=(4, at % 7 + 1)) for at in range(2, length + 1)]
    return module(computation(made))
