"""What the fields of an HLO module are called, and how their values look to a person.

Source of names and numbers: XLA's public hlo.proto and xla_data.proto. What is not known is `field N`.
"""

import base64
import json
import struct

from neuron_store.hashing.hlo_outline import attributes
from neuron_store.hashing.wire import LENGTH, MalformedError, fields, packed, read_varint, signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NONE = "none"
_LONGEST_TEXT = 60  # characters of a value
_DEEPEST_TUPLE = 4

MODULE_FIELDS = {
    1: "name",
    2: "entry_computation_name",
    4: "host_program_shape",
    7: "schedule",
    8: "input_output_alias",
    10: "cross_program_prefetches",
    11: "is_dynamic",
    12: "spmd_output_sharding",
    13: "profile_info",
    14: "spmd_parameters_shardings",
    15: "device_assignment",
    16: "use_auto_spmd_partitioning",
    17: "stack_frame_index",
    18: "buffer_donor",
    19: "frontend_attributes",
    20: "original_value_recovery_table",
    21: "device_type",
    22: "payloads",
}
COMPUTATION_FIELDS = {1: "name", 4: "program_shape", 7: "is_fusion_computation", 8: "execution_thread"}
INSTRUCTION_FIELDS = {
    1: "name",
    2: "opcode",
    3: "shape",
    7: "metadata",
    8: "literal",
    9: "parameter_number",
    11: "fusion_kind",
    13: "tuple_index",
    14: "dimensions",
    15: "window",
    16: "convolution_dimension_numbers",
    17: "slice_dimensions",
    18: "exponent_bits",
    19: "mantissa_bits",
    20: "dynamic_slice_sizes",
    21: "padding_config",
    22: "outfeed_config",
    23: "distribution",
    24: "epsilon",
    25: "feature_index",
    26: "channel_id",
    27: "infeed_config",
    28: "custom_call_target",
    29: "outfeed_shape",
    30: "dot_dimension_numbers",
    31: "fft_type",
    32: "fft_length",
    33: "gather_dimension_numbers",
    34: "gather_slice_sizes",
    40: "sharding",
    43: "backend_config",
    45: "all_reduce_id",
    47: "is_host_transfer",
    48: "scatter_dimension_numbers",
    49: "replica_groups",
    50: "feature_group_count",
    51: "precision_config",
    52: "source_target_pairs",
    54: "domain_entry_sharding",
    55: "domain_exit_sharding",
    56: "constrain_layout",
    57: "operand_shapes_with_layout",
    58: "batch_group_count",
    59: "triangular_solve_options",
    60: "is_stable",
    61: "parameter_replication",
    62: "cholesky_options",
    63: "comparison_direction",
    65: "custom_call_has_side_effect",
    66: "delta",
    67: "indices_are_sorted",
    68: "frontend_attributes",
    69: "unique_indices",
    70: "rng_algorithm",
    71: "use_global_device_ids",
    72: "comparison_type",
    74: "output_operand_aliasing",
    75: "padding_type",
    76: "custom_call_schedule",
    77: "custom_call_api_version",
    79: "async_execution_thread",
    80: "cross_program_prefetch_index",
    81: "k",
    82: "statistics_viz",
    85: "largest",
    86: "dot_sparsity",
    87: "collective_device_list",
    88: "original_value",
    89: "is_composite",
    90: "ragged_dot_dimension_numbers",
    91: "result_accuracy",
}
_SHAPE, _LITERAL, _BACKEND_CONFIG, _ATTRIBUTES = 3, 8, 43, 68
_TEXT_FIELDS = {1, 2, 11, 28, 63, 72, 79}
_PACKED_FIELDS = {14, 20, 32, 34}

_TYPES = {
    1: "pred", 2: "s8", 3: "s16", 4: "s32", 5: "s64", 6: "u8", 7: "u16", 8: "u32", 9: "u64", 10: "f16", 11: "f32",
    12: "f64", 14: "opaque", 15: "c64", 16: "bf16", 17: "token", 18: "c128", 19: "f8e5m2", 20: "f8e4m3fn", 21: "s4",
    22: "u4", 23: "f8e4m3b11fnuz", 24: "f8e5m2fnuz", 25: "f8e4m3fnuz", 26: "s2", 27: "u2", 28: "f8e4m3",
    29: "f8e3m4",
}  # fmt: skip
_TUPLE = 13
# LiteralProto: field number -> struct format of one value, None for varints
_VALUES = {2: None, 4: None, 5: None, 6: None, 7: None, 8: "<f", 9: "<d"}
_LITERAL_SHAPE = 1


def instruction_field(number: int, one: "list[bytes]", other: "list[bytes]", tag: int) -> str:
    """Say how an instruction's field differs: `opcode add / multiply`. Lists hold its values; empty: it is not set."""
    name = INSTRUCTION_FIELDS.get(number, f"field {number}")
    if max(len(one), len(other)) > 1:
        return name
    values = [items[0] if items else None for items in (one, other)]
    if number == _BACKEND_CONFIG:
        return _backend_config(*values)
    if number == _ATTRIBUTES:
        return _attribute("frontend attribute", *values)
    words = [NONE if value is None else _value(number, tag, value) for value in values]
    return name if "" in words or words[0] == words[1] else f"{name} {words[0]} / {words[1]}"


def _value(number: int, tag: int, data: bytes) -> str:
    """Return a field's value in words, "" if they are too long or not known."""
    try:
        if number == _SHAPE:
            return shape(data)
        if number == _LITERAL:
            return literal(data)
        if number in _TEXT_FIELDS:
            return text(data)
        if number in _PACKED_FIELDS and tag & 7 == LENGTH:
            return "{" + ",".join(map(str, packed(data, tag, 0, len(data)))) + "}"
        if tag & 7 == 0:
            return str(signed(read_varint(data, 0, len(data))[0]))
    except (MalformedError, IndexError, struct.error):
        pass
    return ""


def module_field(number: int, one: "list[bytes]", other: "list[bytes]") -> str:
    """Say which of the module's own fields differs, and how."""
    name = MODULE_FIELDS.get(number, f"field {number}")
    if name == "frontend_attributes" and max(len(one), len(other)) == 1:
        return _attribute("the module's frontend attribute", *[items[0] if items else None for items in (one, other)])
    return f"the module's {name}{_presence(one, other)}"


def computation_field(number: int, one: "list[bytes]", other: "list[bytes]") -> str:
    """Say which of a computation's own fields differs."""
    return COMPUTATION_FIELDS.get(number, f"field {number}") + _presence(one, other)


def _presence(one: "list[bytes]", other: "list[bytes]") -> str:
    if one and other:
        return ""
    return " (set here, not there)" if one else " (set there, not here)"


def text(data: bytes) -> str:
    """Return bytes as text on one line, cut where they are long."""
    said = data.decode("utf-8", "backslashreplace")
    said = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)
    return said if len(said) <= _LONGEST_TEXT else said[: _LONGEST_TEXT - 1] + "…"


def shape(data: bytes, depth: int = 0) -> str:
    """Return a ShapeProto as HLO writes it: `f32[2,3]{1,0}`, `(f32[], s32[2])`. Raises MalformedError, IndexError."""
    kind, dimensions, parts, layout = 0, [], [], ""
    dynamic: list[int] = []
    for tag, _, content, end in fields(data, 0, len(data)):
        number = tag >> 3
        if number == 2:
            kind = read_varint(data, content, end)[0]
        elif number == 3:
            dimensions += packed(data, tag, content, end)
        elif number == 4:
            parts.append(shape(data[content:end], depth + 1) if depth < _DEEPEST_TUPLE else "…")
        elif number == 5:
            layout = _layout(data[content:end])
        elif number == 6:
            dynamic += packed(data, tag, content, end)
    if kind == _TUPLE:
        shown = parts if len(parts) <= 4 else [*parts[:3], f"… {len(parts)} in all"]
        return f"({', '.join(shown)})"
    sizes = [f"<={size}" if at < len(dynamic) and dynamic[at] else str(size) for at, size in enumerate(dimensions)]
    return f"{_TYPES.get(kind, f'type {kind}')}[{','.join(sizes)}]{layout}"


def _layout(data: bytes) -> str:
    order: list[int] = []
    for tag, _, content, end in fields(data, 0, len(data)):
        if tag >> 3 == 1:
            order += packed(data, tag, content, end)
    return "{" + ",".join(map(str, order)) + "}" if len(order) > 1 else ""


def literal(data: bytes) -> str:
    """Return a LiteralProto: its value if it is one number, else its shape. Raises MalformedError, struct.error."""
    values: list[str] = []
    of = ""
    for tag, _, content, end in fields(data, 0, len(data)):
        number, held = tag >> 3, data[content:end]
        if number == _LITERAL_SHAPE:
            of = shape(held)
        elif number in _VALUES and len(held) <= 10:
            form = _VALUES[number]
            if form is None:
                values += map(str, packed(held, tag, 0, len(held)))
            elif len(held) == struct.calcsize(form):
                values.append(f"{struct.unpack(form, held)[0]:.7g}")
    return values[0] if len(values) == 1 and "[]" in of else ""


def _attribute(what: str, one: "bytes | None", other: "bytes | None") -> str:
    """Name the first attribute, in the order of keys, that differs, and how many more do."""
    try:
        left, right = (attributes(b"0," if data is None else data) for data in (one, other))
    except ValueError:
        return what + "s"
    keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
    if not keys:
        return what + "s"
    words = [NONE if key is None else text(key) for key in (left.get(keys[0]), right.get(keys[0]))]
    more = f" ({len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{what} {text(keys[0]) or '(fields that are not known)'} {words[0]} / {words[1]}{more}"


def _backend_config(one: "bytes | None", other: "bytes | None") -> str:
    if one is None or other is None:
        return "backend_config" + (" (set there, not here)" if one is None else " (set here, not there)")
    documents = read_json(one), read_json(other)
    if None not in documents:
        place, left, right = _json_difference(*documents, "")
        if left != right:
            return f"backend_config {place.lstrip('.')} {left} / {right}".replace("  ", " ")
    if one.isascii() and other.isascii() and max(len(one), len(other)) <= _LONGEST_TEXT:
        return f"backend_config {text(one)} / {text(other)}"
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"backend_config ({len(one):,} bytes / {len(other):,} bytes, the first difference at byte {at:,})"


def read_json(config: bytes) -> "Any":  # noqa: ANN401 - JSON
    """Return the JSON that a configuration is, plain or in base64; None if it is something else."""
    for decode in (bytes, base64.b64decode):
        try:
            document = json.loads(decode(config))
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict | list):
            return document
    return None


def _json_difference(one: "Any", other: "Any", place: str) -> tuple[str, str, str]:  # noqa: ANN401 - JSON
    """Return where two documents first differ, and both values there in words."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in one or key not in other:
                left, right = (_json_text(held[key]) if key in held else NONE for held in (one, other))
                return f"{place}.{key}", left, right
            if one[key] != other[key]:
                return _json_difference(one[key], other[key], f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return _json_difference(left, right, f"{place}[{at}]")
    return place, _json_text(one), _json_text(other)


def _json_text(value: "Any") -> str:  # noqa: ANN401 - JSON
    return text((value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "backslashreplace"))
