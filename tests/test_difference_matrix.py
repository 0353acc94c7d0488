"""Whatever may change what the compiler makes changes the fingerprint: every field of real modules, one at a time.

A wrong hit is the one unforgivable bug, so each test here changes something and wants another fingerprint, but for
those that change what is stripped and want the same.
"""

import struct
from collections import Counter
from functools import cache

import pytest
from hlo_wire import (
    Computation,
    Instruction,
    Module,
    Packed,
    Wire,
    attributes,
    decode,
    decode_ints,
    encode,
    encode_field,
    metadata,
    named_sharding,
    read_varint,
    shape,
    sharding,
    small_module,
)

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.benchmarks.hlo_schema import MESSAGES, MODULE, message_fields
from neuron_store.hashing.hlo_fingerprint import CANONICAL, RAW, fingerprint_hlo

FIELDS = {message: message_fields(message) for message in MESSAGES}
FIELDS["MapEntry"] = {1: FIELDS["HloModuleProto"][1], 2: FIELDS["HloModuleProto"][2]}

# (path, without its repetitions) -> stripped. Below these names everything is.
STRIPPED_FIELDS = {
    ("name",),
    ("entry_computation_name",),
    ("id",),
    ("computations", "name"),
    ("computations", "instructions", "name"),
}
PROVENANCE = {
    *("op_type", "op_name", "source_file", "source_line", "source_end_line", "source_column", "source_end_column"),
    "stack_frame_id",
}
# Identifiers: they count by their order, so a test of their own changes them.
IDS = {
    ("computations", "id"),
    ("computations", "instructions", "id"),
    *(("computations", "instructions", f"{kind}_ids") for kind in ("operand", "control_predecessor")),
    ("computations", "instructions", "called_computation_ids"),
}


def canonical(data):
    made = fingerprint_hlo(data)
    assert made.mode == CANONICAL, made.reason
    return made.digest


def identity(data):
    made = fingerprint_hlo(data)
    return made.mode, made.digest


def is_stripped(path, entry_parameter):
    if path[0] == "stack_frame_index":
        return True
    if "metadata" in path and path[-1] != "metadata" and path.index("metadata") == len(path) - 2:
        return path[-1] in PROVENANCE
    return path in STRIPPED_FIELDS and not (entry_parameter and len(path) == 3)


def changed_values(field, piece, data):
    """Yield (what, function that makes the whole field anew) for one occurrence of a scalar field."""
    number, content = piece.number, data[piece.content : piece.end]
    if piece.kind == 0:
        value = read_varint(data, piece.content)[0]
        changes = (
            {"flipped": value ^ 1} if field.kind == "bool" else {"plus one": value + 1, "high bit": value ^ 1 << 63}
        )
    elif piece.kind in (1, 5):
        changes = {"last bit": Wire(piece.kind, bytes([content[0] ^ 1]) + content[1:])}
    elif field.kind in ("int", "bool"):
        values = decode_ints(content)
        changes = {"longer": Packed([*values, 0])}
        if values:
            changes |= {"shorter": Packed(values[:-1]), "plus one": Packed([*values[:-1], values[-1] + 1])}
        if len(set(values)) > 1:
            changes["turned"] = Packed([*values[1:], *values[:1]])
    else:
        middle = len(content) // 2
        changes = {"longer": content + b"\0" * {"float": 4, "double": 8}.get(field.kind, 1)}
        if content:
            changes["one bit"] = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            changes["empty"] = b""
    for what, new in changes.items():
        yield what, lambda new=new: encode_field(number, new)


FRESH = {
    "int": 1,
    "bool": 1,
    "string": b"added",
    "bytes": b"added",
    "float": Wire(5, struct.pack("<f", 0.5)),
    "double": Wire(1, struct.pack("<d", 0.5)),
    "map": [(1, "added"), (2, "value")],
    "schedule": [(1, 0)],
}


def walk(data, message, path, context, wrap):
    """Yield (path, context, what, the whole module changed) for every change of every field below `data`.

    The context is an instruction's opcode, and whether it is one of the entry's parameters.
    """
    fields = FIELDS[message]
    pieces = decode(data)
    if message == "HloInstructionProto":
        opcode = next((data[piece.content : piece.end] for piece in pieces if piece.number == 2), b"")
        context = (opcode.decode(), context[1] and opcode == b"parameter")
    for piece in pieces:
        field = fields.get(piece.number)
        if field is None:
            where = (*path, f"field {piece.number}")
            yield where, context, "removed", lambda p=piece: wrap(data[: p.start] + data[p.end :])
            continue
        where = (*path, field.name)
        content = data[piece.content : piece.end]
        kind = "MapEntry" if field.kind == "map" else field.kind
        yield where, context, "removed", lambda p=piece: wrap(data[: p.start] + data[p.end :])
        if kind not in FIELDS:
            for what, change in changed_values(field, piece, data):
                yield where, context, what, lambda p=piece, new=change: wrap(data[: p.start] + new() + data[p.end :])
            continue
        inside = context
        if kind == "HloComputationProto":
            inside = ("", ids_of(content) == context[0])

        def wrap_inner(new, p=piece):
            return wrap(data[: p.start] + encode_field(p.number, new) + data[p.end :])

        yield from walk(content, kind, where, inside, wrap_inner)
    present = {piece.number for piece in pieces}
    added = ("", context[1])  # what is added is added once, not once for each opcode
    for number, field in fields.items():
        if number not in present:
            value = FRESH.get(field.kind, [(1000, 1)])
            yield (*path, field.name), added, "added", lambda n=number, v=value: wrap(data + encode_field(n, v))
    for what, value in (("unknown number", 1), ("unknown text", b"text"), ("unknown fixed", Wire(5, b"abcd"))):
        yield (*path, "unknown"), added, what, lambda v=value: wrap(data + encode_field(1000, v))


def ids_of(computation):
    for piece in decode(computation):
        if piece.number == 5:
            return read_varint(computation, piece.content)[0]
    return 0


def changes(data):
    entry = next(read_varint(data, piece.content)[0] for piece in decode(data) if piece.number == 6)
    return walk(data, MODULE, (), (entry, False), lambda new: new)


@cache
def model(name):
    return small_module().encode() if name == "small" else builtin_model(name)


def stripped_or_not(path, context, what):
    """Whether the change leaves the program the same by the rules. Only names of entry parameters are kept."""
    if path[-1] == "unknown":
        return path[0] == "stack_frame_index"
    if what == "added" and "metadata" in path and path[-1] not in PROVENANCE:
        return path[0] == "stack_frame_index"
    if path[-1] == "metadata":
        return what == "removed"
    return is_stripped(path, context[1])


# How often one field is changed in one way in instructions of one opcode; the sizes of the models differ.
MODELS = {"small": 10**6, "mlp_train_step": 2, "llama_decode": 1, "convnet": 1}


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_each_field_of_each_message_counts_unless_it_is_stripped(name, part):
    data = model(name)
    base = canonical(data)
    seen = Counter()
    cases = 0
    for path, context, what, make in changes(data):
        place = (path, context, what)
        if path in IDS or seen[place] >= MODELS[name]:
            continue
        seen[place] += 1
        if (name == "convnet" and path[-1] not in CONVOLUTION) or (name == "llama_decode" and what == "added"):
            continue
        cases += 1
        if cases % 4 != part:
            continue
        made = make()
        assert made != data
        if stripped_or_not(path, context, what):
            assert canonical(made) == base, place
        else:
            assert fingerprint_hlo(made).digest != base, place
    assert cases > {"small": 2300, "mlp_train_step": 3200, "llama_decode": 900, "convnet": 30}[name]


CONVOLUTION = {*(field.name for field in FIELDS["ConvolutionDimensionNumbers"].values()), "stride", "padding_low"}


def test_an_id_counts_by_its_order_and_not_by_its_number():
    base = small_module()
    same = base.copy()
    for computation in same.computations:
        computation.id = computation.id * 1000 + 1
        computation.root = computation.root * 10 + 5
        for instruction in computation.instructions:
            instruction.id = instruction.id * 10 + 5
            instruction.operands = [number * 10 + 5 for number in instruction.operands]
            instruction.control = [number * 10 + 5 for number in instruction.control]
            instruction.called = [number * 1000 + 1 for number in instruction.called]
    same.entry = same.entry * 1000 + 1
    same.schedule = {key * 1000 + 1: [number * 10 + 5 for number in ids] for key, ids in base.schedule.items()}
    assert canonical(same.encode()) == canonical(base.encode())


def edited(change):
    made = small_module()
    change(made)
    return made.encode()


def swap(items, one, other):
    items[one], items[other] = items[other], items[one]


def swap_ids(module):
    """Two constants change ids, and all that refers to them goes along: only the order of ids changes."""
    one, other = module.named("reduce.4"), module.named("constant.3")
    moved = {one.id: other.id, other.id: one.id}
    for instruction in module.computations[2].instructions:
        instruction.id = moved.get(instruction.id, instruction.id)
        instruction.operands = [moved.get(number, number) for number in instruction.operands]
        instruction.control = [moved.get(number, number) for number in instruction.control]
    module.schedule[20] = [moved.get(number, number) for number in module.schedule[20]]


def swap_computation_ids(module):
    moved = {4: 9, 9: 4}
    for computation in module.computations:
        computation.id = moved.get(computation.id, computation.id)
    for instruction in module.instructions:
        instruction.called = [moved.get(number, number) for number in instruction.called]
    module.schedule = {moved.get(key, key): ids for key, ids in module.schedule.items()}


def more(module, name, number):
    """The value of a field in an instruction's `more`, and how to replace it."""
    fields = module.named(name).more
    at = next(at for at, (each, _) in enumerate(fields) if each == number)
    return fields, at


def replace(name, number, value):
    def change(module):
        fields, at = more(module, name, number)
        fields[at] = value if isinstance(value, tuple) else (number, value)

    return change


def add(name, *new):
    return lambda module: module.named(name).more.extend(new)


def literal(data):
    return (8, [(1, [(2, 11)]), (8, Wire(2, data))])


def module_field(number, value, nth=0):
    def change(module):
        places = [at for at, (each, _) in enumerate(module.more) if each == number]
        module.more[places[nth]] = value

    return change


DIFFERENT = {
    "operands swapped": lambda m: swap(m.named("custom-call.6").operands, 0, 1),
    "an operand twice": lambda m: m.named("add.3").operands.__setitem__(1, 41),
    "an operand more": lambda m: m.named("tuple.7").operands.append(204),
    "an operand less": lambda m: m.named("tuple.7").operands.pop(),
    "an operand became a control predecessor": lambda m: m.named("tuple.7").control.append(
        m.named("tuple.7").operands.pop()
    ),
    "a control predecessor became an operand": lambda m: m.named("reduce.5").operands.append(
        m.named("reduce.5").control.pop()
    ),
    "a control predecessor added": lambda m: m.named("custom-call.6").control.append(201),
    "a control predecessor moved": lambda m: m.named("reduce.5").control.__setitem__(0, 203),
    "a control predecessor removed": lambda m: m.named("reduce.5").control.clear(),
    "the root of the entry moved": lambda m: setattr(m.named("main.20"), "root", 206),
    "the root of a called computation moved": lambda m: setattr(m.named("region_0.4"), "root", 41),
    "another called computation": lambda m: m.named("reduce.4").called.__setitem__(0, 9),
    "called computations exchanged": lambda m: [
        swap(m.named("reduce.4").called, 0, 0),
        setattr(m.named("reduce.4"), "called", [9]),
        setattr(m.named("reduce.5"), "called", [4]),
    ],
    "a called computation more": lambda m: m.named("reduce.4").called.append(9),
    "another entry": lambda m: setattr(m, "entry", 9),
    "the entry calls itself": lambda m: m.named("reduce.4").called.__setitem__(0, 20),
    "instructions in another order": lambda m: swap(m.named("main.20").instructions, 2, 3),
    "instructions with their ids exchanged": swap_ids,
    "computations in another order": lambda m: swap(m.computations, 0, 1),
    "computations with their ids exchanged": swap_computation_ids,
    "a constant by one bit": replace("constant.3", 8, literal(b"\1\0\0\0")),
    "a constant's sign: minus zero": replace("constant.3", 8, literal(b"\0\0\0\x80")),
    "a constant of another length": replace("constant.3", 8, literal(b"\0\0\0\0\0\0\0\0")),
    "a byte of the backend configuration": replace("custom-call.6", 43, b"scale=3"),
    "a longer backend configuration": replace("custom-call.6", 43, b"scale=2\0"),
    "no backend configuration": lambda m: m.named("custom-call.6").more.pop(2),
    "another custom call target": replace("custom-call.6", 28, "Scale2"),
    "a byte moved from the target to the configuration": lambda m: [
        replace("custom-call.6", 28, "Scal")(m),
        replace("custom-call.6", 43, b"escale=2")(m),
    ],
    "an entry parameter renamed": lambda m: setattr(m.named("tokens.1"), "name", "ids.1"),
    "entry parameters with their names exchanged": lambda m: [
        setattr(m.computations[2].instructions[0], "name", "weights.2"),
        setattr(m.computations[2].instructions[1], "name", "tokens.1"),
    ],
    "a computation under XLA's reserved name": lambda m: setattr(
        m.named("region_1.9"), "name", "xla.sdy.manual_computation_body.9"
    ),
    "a sharding's devices": replace("tokens.1", 40, sharding((1, 0))),
    "a sharding inside a tuple": replace("custom-call.6", 40, sharding(inner=[sharding((0, 1)), named_sharding()])),
    "a named sharding inside a tuple": replace(
        "custom-call.6", 40, sharding(inner=[sharding((1, 0)), named_sharding("y")])
    ),
    "the order of shardings in a tuple": replace(
        "custom-call.6", 40, sharding(inner=[named_sharding(), sharding((1, 0))])
    ),
    "a named sharding": replace("weights.2", 40, named_sharding("y")),
    "a sharding that became a domain's": lambda m: [
        m.named("tokens.1").more.remove(sharding()),
        m.named("tokens.1").more.append(sharding(number=54)),
    ],
    "a domain's entry and exit exchanged": add("add.3", sharding((0, 1), 55), sharding((1, 0), 54)),
    "the module's output sharding": module_field(12, sharding((1, 0), 12)),
    "a parameter's sharding": module_field(14, named_sharding("y", 14)),
    "an output sharding that became a parameter's": module_field(12, sharding(number=14)),
    "the value of a frontend attribute": replace("weights.2", 68, attributes(neff_input_names="token", stream_id="0")),
    "the key of a frontend attribute": replace("weights.2", 68, attributes(neff_input_name="tokens", stream_id="0")),
    "the values of two frontend attributes exchanged": replace(
        "weights.2", 68, attributes(neff_input_names="0", stream_id="tokens")
    ),
    "key and value exchanged": replace("weights.2", 68, attributes(tokens="neff_input_names", stream_id="0")),
    "a frontend attribute removed": replace("weights.2", 68, attributes(stream_id="0")),
    "frontend attributes on another instruction": lambda m: m.named("tokens.1").more.append(
        m.named("weights.2").more.pop()
    ),
    "an attribute of the module": module_field(19, attributes(19, mesh="x=4", origin="test")),
    "a bigger alias": module_field(8, (8, [(1, [(1, Packed([1])), (2, 1), (4, 1)])])),
    "a must-alias": module_field(8, (8, [(1, [(1, Packed([0])), (2, 1), (4, 2)])])),
    "no alias": lambda m: m.more.pop(1),
    "a donor": lambda m: m.more.append((18, [(1, [(1, 1)])])),
    "another schedule": lambda m: swap(m.schedule[20], 2, 3),
    "a shorter schedule": lambda m: m.schedule[20].pop(),
    "a schedule of one computation less": lambda m: m.schedule.pop(9),
    "an empty sequence": lambda m: m.schedule[9].clear(),
    "no schedule": lambda m: setattr(m, "schedule", None),
    "an empty schedule": lambda m: setattr(m, "schedule", {}),
    "schedules exchanged": lambda m: m.schedule.update({4: [42, 41, 43]}),
    "a fusion computation": lambda m: m.named("region_0.4").more.append((7, 1)),
    "another execution thread": lambda m: m.named("region_1.9").more.__setitem__(1, (8, "host")),
    "an instruction more": lambda m: m.named("region_0.4").instructions.append(
        Instruction("extra", "add", 44, [41, 42], more=[shape()])
    ),
    "an instruction less": lambda m: [m.named("region_1.9").instructions.pop(0), m.schedule.pop(9)],
    "a computation more": lambda m: m.computations.append(
        Computation("unused", 1, 1, [Instruction("p", "parameter", 1, more=[shape()])])
    ),
    "a computation less": lambda m: [m.named("reduce.5").called.clear(), m.computations.pop(1), m.schedule.pop(9)],
    "an instruction in another computation": lambda m: [
        m.named("region_1.9").instructions.append(Instruction("add.8", "add", 94, [91, 92]))
    ],
    "metadata that asks for something": add("add.3", (7, [(13, 1)])),
    "unknown metadata of a sharding": replace("tokens.1", 40, [*sharding()[1], (7, [(13, 1)])]),
    "a field of the module twice": lambda m: m.more.append(m.more[1]),
    "a shape twice": add("add.3", shape()),
    "an empty unknown field": add("add.3", (500, b"")),
    "a payload for the backend": add("custom-call.6", (99, 1)),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_module_that_is_another_has_another_fingerprint(what):
    assert fingerprint_hlo(edited(DIFFERENT[what])).digest != canonical(small_module().encode())


def test_all_these_modules_differ_from_each_other():
    found = {what: fingerprint_hlo(edited(change)).digest for what, change in DIFFERENT.items()}
    twins = {digest for digest, count in Counter(found.values()).items() if count > 1}
    assert [what for what, digest in found.items() if digest in twins] == []


SAME = {
    "the module's name": lambda m: setattr(m, "name", "SyncTensorsGraph.42"),
    "the module's id": lambda m: setattr(m, "id", 1 << 62),
    "a computation's name": lambda m: setattr(m.named("region_0.4"), "name", "region_7.1234"),
    "names of instructions": lambda m: [setattr(m.named(name), "name", f"x{name}") for name in ("add.3", "reduce.4")],
    "the name of another computation's parameter": lambda m: setattr(m.named("a.1"), "name", "Arg_0.1"),
    "two names exchanged": lambda m: [
        setattr(m.computations[2].instructions[3], "name", "reduce.5"),
        setattr(m.computations[2].instructions[4], "name", "reduce.4"),
    ],
    "metadata": lambda m: [
        setattr(each, "more", [field for field in each.more if field[0] != 7]) for each in m.instructions
    ],
    "other metadata": replace("add.3", 7, metadata("jit(g)/mul", 77)),
    "metadata twice": add("add.3", metadata("jit(g)/mul", 77)),
    "metadata of a sharding": replace("tokens.1", 40, sharding(with_metadata=False)),
    "metadata of shardings in a tuple": replace(
        "custom-call.6",
        40,
        sharding(inner=[sharding((1, 0), with_metadata=False), named_sharding(with_metadata=False)]),
    ),
    "metadata of a named sharding": replace("weights.2", 40, named_sharding(with_metadata=False)),
    "metadata of the output's sharding": module_field(12, sharding(number=12, with_metadata=False)),
    "stack frames": lambda m: m.more.pop(),
    "the order of frontend attributes": replace(
        "weights.2", 68, (68, list(reversed(attributes(neff_input_names="tokens", stream_id="0")[1])))
    ),
    "the order of the module's attributes": module_field(
        19, (19, list(reversed(attributes(19, mesh="x=2", origin="test")[1])))
    ),
    "the order of a schedule's map": lambda m: setattr(m, "schedule", dict(reversed(m.schedule.items()))),
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_stripped_or_sorted_does_not_count(what):
    assert edited(SAME[what]) != small_module().encode()
    assert canonical(edited(SAME[what])) == canonical(small_module().encode())


@pytest.mark.parametrize("what", SAME)
def test_names_and_metadata_count_where_debug_information_is_wanted(what):
    base = fingerprint_hlo(small_module().encode(), keep_debug_info=True)
    other = fingerprint_hlo(edited(SAME[what]), keep_debug_info=True)
    assert base.mode == other.mode == CANONICAL
    assert (base.digest == other.digest) == (what == "the module's id" or "order" in what)
    assert base.digest != canonical(small_module().encode())


def test_duplicate_keys_of_a_map_count_in_their_order():
    """The last one wins, so exchanging them is a change; the bytes as they stand are the fingerprint."""
    forth = edited(add("add.3", (68, [(1, [(1, "a"), (2, "1")]), (1, [(1, "a"), (2, "2")])])))
    back = edited(add("add.3", (68, [(1, [(1, "a"), (2, "2")]), (1, [(1, "a"), (2, "1")])])))
    split = edited(add("add.3", attributes(a="1"), attributes(a="2")))
    swapped = edited(add("add.3", attributes(a="2"), attributes(a="1")))
    assert fingerprint_hlo(forth).mode == fingerprint_hlo(back).mode == RAW
    assert len({identity(data) for data in (forth, back, split, swapped)}) == 4


# -- strings that mention names ------------------------------------------------------------------------------

MENTIONS = {
    "an attribute": lambda text: attributes(order=text),
    "an attribute's key": lambda text: attributes(**{text: "1"}),
    "a second attribute": lambda text: attributes(a="1", order=text),
    "a backend configuration": lambda text: (43, text),
    "an unknown field": lambda text: (500, text),
    "a string in an unknown message": lambda text: (500, [(1, text)]),
    "a string deep in an unknown message": lambda text: (500, [(1, 48), (6, [(6, [(6, [(6, text), (6, "x")])])])]),
    "a string between others": lambda text: (500, [(6, "a" * 48), (6, text), (6, "b" * 50)]),
    "an original value": lambda text: (88, [(1, [(2, [(1, text)])])]),
    "a custom call target": lambda text: (28, text),
    "a long unknown field": lambda text: (500, " " * 70_000 + text),
    "an asynchronous thread": lambda text: (79, text),
}
# The byte of a string's length stands before it and looks like a letter or digit from 48 on.
LENGTHS = (0, 30, 48 - 5, 57 - 5, 65 - 5, 97 - 5, 122 - 5, 128)
NAMES = ("sum.1", "a", "dynamic-update-slice-fusion.1.clone.2.remat3.clone.4.remat5", "%x", "x.", "é", "-")


def mentioning(field, names, text):
    first, second = names
    body = [
        Instruction("p", "parameter", 1, more=[shape()]),
        Instruction(first, "negate", 2, [1], more=[shape()]),
        Instruction(second, "negate", 3, [1], more=[shape()]),
        Instruction("root", "custom-call", 4, [2, 3], more=[shape(), field(text)]),
    ]
    return Module("m", 1, [Computation("main", 1, 4, body)]).encode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", MENTIONS)
def test_a_name_that_a_string_mentions_is_not_moved_to_another_instruction(where, name):
    for length in LENGTHS:
        text = name + " " + "-" * (length - len(name) - 1) if length > len(name) else name
        forth = canonical(mentioning(MENTIONS[where], (name, "other"), text))
        back = canonical(mentioning(MENTIONS[where], ("other", name), text))
        assert forth != back, (where, text)


def test_a_mention_in_the_modules_own_fields_counts():
    for field in ((500, "sum.1"), (22, [(1, "sum.1")]), attributes(19, a="sum.1" + "-" * 43), (13, [(5, "sum.1")])):
        found = set()
        for names in (("sum.1", "other"), ("other", "sum.1")):
            module = Module("m", 1, [Computation("main", 1, 2, [])], more=[field])
            module.computations[0].instructions += [
                Instruction(name, "parameter" if at == 3 else "negate", at, more=[shape()])
                for at, name in enumerate((*names, "p"), 1)
            ]
            found.add(canonical(module.encode()))
        assert len(found) == 2


def test_a_mention_in_a_computations_unknown_field_counts():
    found = set()
    for names in (("sum.1", "other"), ("other", "sum.1")):
        body = [Instruction(name, "negate", at) for at, name in enumerate(names, 1)]
        found.add(canonical(Module("m", 1, [Computation("main", 1, 2, body, [(500, "sum.1")])]).encode()))
    assert len(found) == 2


def test_a_mention_of_a_computation_counts():
    found = set()
    for names in (("body.1", "other"), ("other", "body.1")):
        computations = [
            Computation(name, at, 1, [Instruction("p", "parameter", 1)]) for at, name in enumerate(names, 1)
        ]
        module = Module("m", 2, computations, more=[attributes(19, to_outline="body.1")])
        found.add(canonical(module.encode()))
    assert len(found) == 2


def test_names_that_no_string_mentions_do_not_count():
    field = MENTIONS["an attribute"]
    assert canonical(mentioning(field, ("b", "c"), "x.a")) == canonical(mentioning(field, ("c", "b"), "x.a"))


# -- what could run together ---------------------------------------------------------------------------------


def with_fields(*new):
    return edited(lambda m: m.named("add.3").more.extend(new))


def test_a_rewritten_field_of_the_module_never_looks_like_a_kept_one():
    """`98=` and a sharding's bytes are also field 7 with a wire type of its own, and its eight bytes."""
    inner = encode([(1, 3), (9, 1), (12, 1)])
    assert len(inner) == 6

    def with_module_field(field):
        return edited(lambda m: (m.more.pop(2), m.more.insert(2, field)))

    rewritten = with_module_field((12, inner))
    kept = with_module_field((7, Wire(1, b"8=" + inner)))
    assert canonical(rewritten) != canonical(kept)


def test_a_rewritten_part_of_a_sharding_never_looks_like_a_kept_one():
    """`114=3:` and three bytes are also field 6 with a wire type of its own, and its eight bytes."""
    named = encode([(2, b"\1")])
    assert len(named) == 3
    rewritten = with_fields((40, [(14, named)]))
    kept = with_fields((40, [(6, Wire(1, b"14=3:" + named))]))
    assert canonical(rewritten) != canonical(kept)


def test_a_rewritten_field_of_an_instruction_never_looks_like_a_kept_one():
    for number in (40, 43, 54, 55, 68):
        data = encode([(1, 1)])
        tag = number << 3 | 2
        looks = b"%d=%d:%b" % (tag, len(data), data)
        assert fingerprint_hlo(with_fields((number, data))).digest != canonical(with_fields((500, looks)))


def test_a_split_message_is_not_the_merged_one():
    whole = with_fields((40, [(1, 3), (3, Packed([2]))]))
    split = with_fields((40, [(1, 3)]), (40, [(3, Packed([2]))]))
    twisted = with_fields((40, [(3, Packed([2]))]), (40, [(1, 3)]))
    assert len({canonical(data) for data in (whole, split, twisted)}) == 3


def test_the_same_bytes_in_another_sharding_field_or_in_attributes_are_another_module():
    data = encode([(1, [(1, "a"), (2, "b")])])
    made = [with_fields((number, data)) for number in (40, 54, 55, 68, 500)]
    assert len({identity(one) for one in made}) == 5


def test_a_field_with_an_unexpected_wire_type_is_kept():
    """A parser takes it for an unknown field: it is neither stripped nor renumbered."""
    base = canonical(small_module().encode())
    found = {base}
    wrong = [(1, 5), (7, 5), (35, b"\1"), (35, Wire(5, b"\1\0\0\0")), (36, Wire(1, b"\1" + bytes(7)))]
    wrong += [(43, 5), (68, 5), (40, 5)]
    for field in wrong:
        found.add(canonical(with_fields(field)))
    for field in ((1, 1), (2, 1), (17, 1), (5, b"\1"), (5, Wire(5, b"\1\0\0\0")), (12, 1), (19, 1)):
        found.add(canonical(edited(lambda m, field=field: m.more.append(field))))
    for field in ((1, 1), (5, b"\1"), (6, b"\1"), (2, 1)):
        found.add(canonical(edited(lambda m, field=field: m.computations[0].more.append(field))))
    assert len(found) == 1 + len(wrong) + 7 + 4


@pytest.mark.parametrize(
    "field",
    [(1, "x"), (43, b"y"), (43, b""), (35, 43)],
    ids=["two names", "two backend configurations", "a backend configuration taken back", "two ids"],
)
def test_what_stands_twice_makes_the_bytes_count_as_they_stand(field):
    made = with_fields((43, b"x"), field)
    assert fingerprint_hlo(made).mode == RAW


def test_the_last_of_two_backend_configurations_is_the_one_that_counts():
    taken_back = with_fields((43, b"x"), (43, b""))
    assert identity(taken_back) != identity(with_fields((43, b""), (43, b"x")))


def test_a_configuration_may_not_pose_as_a_rewritten_one():
    """What stands for a configuration is whatever the rewriter returns: it is asked for every custom call."""
    asked = []

    def rewrite(target, config):
        asked.append((target, config))
        return config

    fingerprint_hlo(edited(lambda m: m.named("custom-call.6").more.pop(2)), rewrite=rewrite)
    assert asked == [(b"Scale", b"")]


def test_large_constants_count_to_the_last_bit():
    data = bytes(200_000)
    found = set()
    for at in (None, 0, 65_535, 65_536, 131_072, 199_999):
        changed = bytearray(data)
        if at is not None:
            changed[at] = 1
        found.add(canonical(edited(replace("constant.3", 8, literal(bytes(changed))))))
    assert len(found) == 6
