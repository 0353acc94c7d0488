"""HLO modules of chosen sizes, made from a real one by repeating its computations and by a large literal."""

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.hashing.wire import fields, packed, read_varint

_STEP = 1 << 20  # between the ids of one copy and the next


def varint(value):
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def message(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def module_of(instructions):
    """Return a module of at least so many instructions: copies of a GPT training step's computations."""
    model = builtin_model("gpt_train_step")
    computations, rest = [], b""
    for tag, start, content, end in fields(model, 0, len(model)):
        if tag >> 3 == 3:
            computations.append(model[content:end])
        else:
            rest += model[start:end]
    made, count, copy = [rest], 0, 0
    while count < instructions:
        for computation in computations:
            moved, inside = _move(computation, copy * _STEP)
            made.append(message(3, moved))
            count += inside
        copy += 1
    return b"".join(made), count


def _move(computation, distance):
    """Return a copy with another id, calling the copies of what it called, and its number of instructions."""
    made, count = [], 0
    for tag, start, content, end in fields(computation, 0, len(computation)):
        if tag >> 3 == 5:
            made.append(varint(tag) + varint(read_varint(computation, content, end)[0] + distance))
        elif tag >> 3 == 2:
            count += 1
            made.append(message(2, _move_instruction(computation[content:end], distance)))
        else:
            made.append(computation[start:end])
    return b"".join(made), count


def _move_instruction(instruction, distance):
    made = []
    for tag, start, content, end in fields(instruction, 0, len(instruction)):
        if tag >> 3 == 38:
            called = packed(instruction, tag, content, end)
            made.append(message(38, b"".join(varint(number + distance) for number in called)))
        else:
            made.append(instruction[start:end])
    return b"".join(made)


def module_with_constant(size):
    """Return a small module with a literal of `size` bytes."""
    model = builtin_model("mlp_train_step")
    literal = message(8, message(7, bytes(range(256)) * (size // 256)))
    constant = message(1, b"constant.1") + message(2, b"constant") + literal + varint(35 << 3) + varint(1)
    computation = (
        message(1, b"c") + message(2, constant) + varint(5 << 3) + varint(1 << 30) + varint(6 << 3) + varint(1)
    )
    return model + message(3, computation)
