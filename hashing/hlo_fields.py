"""Tags of the fields of an HLO module proto that its fingerprint treats in a way of their own.

Source of the numbers: XLA's public hlo.proto and xla_data.proto. A tag is the field number << 3 | the wire type.
"""

from neuron_store.hashing.wire import LENGTH, VARINT


def length_tag(number: int) -> int:
    """Return the tag of a field whose value has a length: a message, a string, bytes, packed numbers."""
    return number << 3 | LENGTH


def varint_tag(number: int) -> int:
    """Return the tag of a field whose value is a varint."""
    return number << 3 | VARINT


# HloModuleProto
MODULE_NAME, MODULE_ENTRY_NAME, MODULE_COMPUTATION = length_tag(1), length_tag(2), length_tag(3)
MODULE_ID, MODULE_ENTRY_ID, MODULE_SCHEDULE = varint_tag(5), varint_tag(6), length_tag(7)
MODULE_OUTPUT_SHARDING, MODULE_PARAMETER_SHARDING = length_tag(12), length_tag(14)
MODULE_STACK_FRAMES, MODULE_ATTRIBUTES = length_tag(17), length_tag(19)
# HloComputationProto
COMPUTATION_NAME, COMPUTATION_INSTRUCTION = length_tag(1), length_tag(2)
COMPUTATION_SHAPE, COMPUTATION_ID, COMPUTATION_ROOT = length_tag(4), varint_tag(5), varint_tag(6)
# HloInstructionProto
NAME, OPCODE, SHAPE, METADATA = length_tag(1), length_tag(2), length_tag(3), length_tag(7)
TARGET, BACKEND_CONFIG, ATTRIBUTES = length_tag(28), length_tag(43), length_tag(68)
ID = varint_tag(35)
OPERANDS, CONTROL, CALLED = (
    (length_tag(36), varint_tag(36)),
    (length_tag(37), varint_tag(37)),
    (length_tag(38), varint_tag(38)),
)
SHARDINGS = (length_tag(40), length_tag(54), length_tag(55))
# OpSharding, NamedSharding
SHARDING_TUPLE, SHARDING_METADATA, SHARDING_NAMED, NAMED_METADATA = (
    length_tag(5),
    length_tag(7),
    length_tag(14),
    length_tag(6),
)

# Kept fields of an instruction that hold shapes, literals, numbers and other structure, not text: no name is in them.
NOT_TEXT = frozenset(
    length_tag(number)
    for number in (
        *(3, 8, 14, 15, 16, 17, 20, 21, 29, 30, 32, 33, 34, 48, 49, 51, 52, 57, 59, 61, 62, 74, 87, 90, 92, 93),
    )
)
