"""What differs between two HLO modules, told from real modules with one edit each, and from small ones made here."""

import base64
import itertools
import json
import random
import time

import pytest
from hlo_edits import (
    ATTRIBUTES,
    BACKEND_CONFIG,
    ID,
    LITERAL,
    METADATA,
    NAME,
    OPCODE,
    OPERANDS,
    SHAPE,
    TARGET,
    Message,
    chain,
    computation,
    edit,
    edit_computation,
    edit_module,
    field,
    instruction,
    module,
    shape,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_store.benchmarks.builtin import builtin_model, builtin_names
from neuron_store.hashing.alignment import align, fewest_differences, gaps
from neuron_store.hashing.hlo_difference import describe_difference
from neuron_store.hashing.hlo_fingerprint import fingerprint_hlo

MODEL = builtin_model("mlp_train_step")
SEQUENCE = st.lists(st.integers(0, 3), max_size=12)


def entry(**pairs):
    return b"".join(field(1, field(1, name) + field(2, value)) for name, value in pairs.items())


def lines(one, other, **options):
    return describe_difference(one, other, **options).lines()


def only_line(one, other, **options):
    found = lines(one, other, **options)
    assert len(found) == 1, found
    return found[0]


def with_config(config, target="Kernel", of=None):
    more = field(TARGET, target) + field(BACKEND_CONFIG, config)
    parameter = instruction(1, "parameter", more=field(9, 0))
    return of or module(computation([parameter, instruction(2, "custom-call", [1], more=more)]))


# -- modules that are equal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_names())
def test_a_module_is_equal_to_itself_and_to_one_with_other_metadata(name):
    data = builtin_model(name)
    other = edit(data, lambda each: each.set(METADATA, field(2, "another/place") + field(4, 77)), count=10)
    other = edit_module(other, lambda each: each.set(5, 12345))
    assert other != data
    for one in (data, other):
        found = describe_difference(data, one)
        assert found.equal
        assert found.lines() == ["HLO is equal"]
    kept = only_line(data, other, keep_debug_info=True)
    assert kept.startswith("HLO differs: 10 of ")
    assert kept.endswith(": metadata")


def test_renumbered_ids_are_equal():
    assert describe_difference(chain(9), module(computation(shifted(9, 100), number=7), entry=7)).equal


def shifted(length, by):
    made = [instruction(1 + by, "parameter", name="parameter.1", more=field(9, 0))]
    return made + [instruction(at + by, "add", [at + by - 1], of=(4, at % 7 + 1)) for at in range(2, length + 1)]


# -- one instruction -----------------------------------------------------------------------------------------


def test_an_opcode():
    other = edit(MODEL, lambda each: each.set(OPCODE, "divide"), opcode="multiply")
    found = describe_difference(MODEL, other)
    assert (found.differing, found.sizes, dict(found.kinds)) == (1, (233, 233), {"opcode": 1})
    line = "HLO differs: 1 of 233 instructions, in computation "
    assert found.lines()[0].startswith(line)
    assert found.lines()[0].endswith(": opcode multiply / divide")
    assert only_line(other, MODEL).endswith(": opcode divide / multiply")


def test_three_opcodes():
    other = edit(MODEL, lambda each: each.set(OPCODE, "divide"), opcode="multiply", count=3)
    line = only_line(MODEL, other)
    assert line.startswith("HLO differs: 3 of 233 instructions, first in computation ")
    assert line.endswith(": opcode multiply / divide")


def words(change, opcode=None, data=MODEL):
    """What is said of a real module and the same with one instruction changed, after the instruction's name."""
    return only_line(data, edit(data, change, opcode=opcode)).partition(": ")[2].partition(": ")[2]


def test_a_shape():
    assert words(lambda each: each.set(SHAPE, shape(2, 3)), "dot").endswith(" / f32[2,3]")
    one, other = (module(computation([instruction(1, "parameter", of=of)], more=b"")) for of in ((4, 4), (4, 5)))
    assert only_line(one, other) == (
        "HLO differs: 1 of 1 instructions, in computation main.1, parameter.1: shape f32[4,4] / f32[4,5]"
    )


def of_shape(data):
    return module(computation([field(NAME, "t.1") + field(OPCODE, "tuple") + field(SHAPE, data) + field(ID, 1)]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (shape(kind=16), "bf16[]"),
        (shape(7, kind=99), "type 99[7]"),
        (shape(2, 3) + field(5, field(1, [0, 1])), "f32[2,3]{0,1}"),
        (shape(2, 3) + field(6, [0, 1]), "f32[2,<=3]"),
        (field(2, 13) + field(4, shape(2)) + field(4, shape(kind=4)), "(f32[2], s32[])"),
        (field(2, 13) + field(4, shape(2)) * 9, "(f32[2], f32[2], f32[2], … 9 in all)"),
        (field(2, 13), "()"),
    ],
)
def test_how_a_shape_is_written(data, said):
    line = only_line(of_shape(shape(1)), of_shape(data))
    assert line.endswith(f"t.1: shape f32[1] / {said}")


def test_shapes_that_are_written_alike_are_not_called_different():
    one, other = (of_shape(shape(2) + field(5, field(15, number))) for number in (1, 2))
    assert only_line(one, other).endswith("t.1: shape")
    assert only_line(of_shape(shape(2)), of_shape(b"\xff\xff")).endswith("t.1: shape")


def scalar(number, value, kind):
    held = field(LITERAL, field(1, shape(kind=kind)) + field(number, value))
    made = instruction(1, "constant", more=held)
    return module(computation([made]))


def test_a_literal():
    assert words(lambda each: each.set(LITERAL, each.get(LITERAL) + b"\x78\x01"), "constant")
    learning_rates = [scalar(8, value, 11) for value in (b"\x6f\x12\x83\x3a", b"\x6f\x12\x03\x3b")]
    assert only_line(*learning_rates).endswith("constant.1: literal 0.001 / 0.002")
    assert only_line(scalar(4, [3], 4), scalar(4, [-1], 4)).endswith("literal 3 / -1")
    assert only_line(scalar(2, b"\x00", 1), scalar(2, b"\x01", 1)).endswith("literal 0 / 1")
    assert only_line(scalar(8, b"\0" * 8, 11), scalar(8, b"\1" * 8, 11)).endswith("constant.1: literal")


def test_operands():
    def swap(each):
        each.set(OPERANDS, each.numbers(OPERANDS)[::-1])

    said = words(swap, "subtract")
    assert said.startswith("operands (")
    left, right = said.removeprefix("operands (").removesuffix(")").split(") / (")
    assert left.split(", ") == right.split(", ")[::-1]


def test_frontend_attributes():
    one = instruction(1, "parameter", more=field(ATTRIBUTES, entry(stream_id="1", b="x")))
    both = [
        field(ATTRIBUTES, entry(b="x", stream_id="1")),
        field(ATTRIBUTES, entry(stream_id="2", b="x")),
        field(ATTRIBUTES, entry(stream_id="2", b="y", c="")),
        b"",
    ]
    modules = [module(computation([instruction(1, "parameter", more=more)])) for more in both]
    data = module(computation([one]))
    assert describe_difference(data, modules[0]).equal
    assert only_line(data, modules[1]).endswith("parameter.1: frontend attribute stream_id 1 / 2")
    assert only_line(data, modules[2]).endswith("frontend attribute b x / y (2 more)")
    assert only_line(data, modules[3]).endswith("frontend attribute b x / none (1 more)")


def test_backend_configurations():
    assert only_line(with_config("a=1"), with_config("a=2")).endswith("backend_config a=1 / a=2")
    long = only_line(with_config("a" * 100), with_config("a" * 99 + "b"))
    assert long.endswith("backend_config (100 bytes / 100 bytes, the first difference at byte 99)")
    documents = [json.dumps({"kernel": {"grid": [1, size]}, "same": 1.5}) for size in (2, 3)]
    assert only_line(*map(with_config, documents)).endswith("backend_config kernel.grid[1] 2 / 3")
    coded = [base64.b64encode(document.encode()) for document in documents]
    assert only_line(*map(with_config, coded)).endswith("backend_config kernel.grid[1] 2 / 3")
    assert only_line(with_config('{"a": 1}'), with_config('{"b": 1}')).endswith("backend_config a 1 / none")
    assert only_line(with_config('{"a": 1}'), with_config('{"a": 1.0}')).endswith('{"a": 1} / {"a": 1.0}')
    assert only_line(with_config("a"), with_config("")).endswith("backend_config (set here, not there)")
    assert only_line(with_config("a"), with_config("a", "Other")).endswith("custom_call_target Kernel / Other")


def test_configurations_are_compared_as_they_are_rewritten():
    one, other = with_config("/tmp/a"), with_config("/tmp/b")
    same = {"rewrite": lambda *_: b"content 1", "other_rewrite": lambda *_: b"content 1"}
    assert describe_difference(one, other, **same).equal
    line = only_line(one, other, rewrite=lambda *_: b"content 1", other_rewrite=lambda *_: b"content 2")
    assert line.endswith("backend_config content 1 / content 2")


def test_other_fields_by_name_or_number():
    assert words(lambda each: each.set(63, "EQ"), "compare").startswith("comparison_direction ")
    assert words(lambda each: each.set(14, [1, 0]), "broadcast").endswith(" / {1,0}")
    assert words(lambda each: each.set(777, 5)) == "field 777 none / 5"
    assert words(lambda each: each.set(778, "text")) == "field 778"
    assert words(lambda each: each.set(30, b""), "dot") == "dot_dimension_numbers"


def test_the_name_of_a_parameter_of_the_entry():
    one, other = (module(computation([instruction(1, "parameter", name=name)])) for name in ("x", "y"))
    assert only_line(one, other).endswith("computation main.1, x: name x / y")


def test_control_predecessors_and_called_computations():
    def made(more):
        parts = [instruction(1, "parameter"), instruction(2, "add", [1]), instruction(3, "call", [2], more=more)]
        inner = [
            computation([instruction(1, opcode)], number, f"f.{number}") for number, opcode in ((5, "a"), (6, "b"))
        ]
        return module(*inner, computation(parts))

    assert only_line(made(field(37, [1])), made(b"")).endswith("call.3: control predecessors (parameter.1) / ()")
    assert only_line(made(field(38, [5])), made(field(38, [6]))).endswith("called computations (f.5) / (f.6)")


# -- instructions that come and go ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_train_step", "llama_decode"])
def test_an_instruction_inserted_in_the_middle_is_one_difference(name):
    data = builtin_model(name)
    new = instruction(10**6, "negate", name="new.1", of=())

    def insert(each):
        return [new, each]

    other = edit(data, insert, opcode="dot")
    found = describe_difference(data, other)
    assert (found.differing, dict(found.kinds)) == (1, {"only there": 1})
    assert found.lines()[0].endswith("new.1: only there (opcode negate)")
    backwards = describe_difference(other, data)
    assert (backwards.differing, dict(backwards.kinds)) == (1, {"only here": 1})


def test_what_takes_an_inserted_instruction_differs_too():
    parts = [instruction(at, "add" if at > 1 else "parameter", [at - 1] if at > 1 else []) for at in range(1, 50)]
    new = instruction(100, "negate", [24])
    changed = Message(parts[24])
    changed.set(OPERANDS, [100])
    other = [*parts[:24], new, bytes(changed), *parts[25:]]
    found = describe_difference(module(computation(parts)), module(computation(other)))
    assert dict(found.kinds) == {"only there": 1, "operands": 1}
    assert found.lines()[0] == (
        "HLO differs: 2 of 49 instructions here, 50 there (1 operands, 1 only there), first in computation main.1, "
        "negate.100: only there (opcode negate)"
    )


def test_shapes_that_all_change_leave_instructions_paired_by_opcode():
    def made(width, extra=()):
        parts = [instruction(1, "parameter", of=(width,))]
        for at in range(2, 300):
            if at in extra:
                parts.append(instruction(1000 + at, "negate", [at - 1], of=(width,)))
            parts.append(instruction(at, f"op{at % 5}", [at - 1], of=(width,)))
        return module(computation(parts))

    assert dict(describe_difference(made(1), made(2)).kinds) == {"shape": 299}
    assert dict(describe_difference(made(1), made(2, {150})).kinds) == {"shape": 299, "only there": 1}


def test_modules_with_too_little_in_common_differ_at_least_so_much():
    one, other = (chain(4000, **{f"at{at}": f"{letter}{at}" for at in range(100, 4000)}) for letter in "ab")
    found = describe_difference(one, other)
    assert found.at_least
    assert found.lines() == [
        "HLO differs: at least 3,900 of 4,000 instructions, first in computation main.1, a100.100: opcode a100 / b100"
    ]


def test_a_large_module_takes_seconds_not_minutes():
    changed = {f"at{at}": "multiply" for at in random.Random(1).sample(range(2, 100_000), 200)}
    one, other = chain(100_000), chain(100_000, **changed)
    begun = time.monotonic()
    found = describe_difference(one, other)
    assert time.monotonic() - begun < 90
    assert dict(found.kinds) == {"opcode": 200}


# -- computations and the module -----------------------------------------------------------------------------


def test_a_computation_that_only_one_module_has():
    extra = computation([instruction(1, "parameter"), instruction(2, "add", [1])], 2, "extra.2")
    one, other = chain(3), module(extra, computation(shifted(3, 0)))
    assert lines(one, other) == [
        "HLO differs: 2 of 3 instructions here, 5 there, first in computation extra.2, which is only there",
        "HLO differs: computation extra.2 is only there",
    ]
    assert lines(other, one)[-1] == "HLO differs: computation extra.2 is only here"


def test_a_computations_own_fields_and_root():
    shaped = edit_computation(MODEL, lambda each: each.set(4, b""))
    line = only_line(MODEL, shaped)
    assert line.startswith("HLO differs: the program_shape of computation ")
    threaded = edit_computation(MODEL, lambda each: each.set(8, "host"))
    assert "the execution_thread (set there, not here) of computation " in only_line(MODEL, threaded)
    parts = shifted(3, 0)
    one, other = (module(computation(parts, root=root)) for root in (2, 3))
    assert only_line(one, other) == "HLO differs: the root of computation main.1"


def test_the_modules_own_fields():
    other = edit_module(MODEL, lambda each: each.set(8, field(1, field(2, 5))))
    assert only_line(MODEL, other).startswith("HLO differs: the module's input_output_alias")
    other = edit_module(MODEL, lambda each: each.set(99, 1))
    assert only_line(MODEL, other) == "HLO differs: the module's field 99 (set there, not here)"
    one, other = (module(computation(shifted(3, 0)), more=field(19, entry(mode=value))) for value in "ab")
    assert only_line(one, other) == "HLO differs: the module's frontend attribute mode a / b"


def test_order_of_computations_and_of_ids():
    first, second = (computation([instruction(1, name)], number, name) for number, name in ((2, "f"), (3, "g")))
    main = computation(shifted(3, 0))
    found = lines(module(first, second, main), module(second, first, main))
    assert found
    assert all(line.startswith("HLO differs: ") for line in found)
    renumbered = computation([instruction(1, "f")], 4, "f")
    assert only_line(module(first, second, main), module(renumbered, second, main)) == (
        "HLO differs: the order of the computations' ids"
    )
    parts = [instruction(number, "parameter", name=name) for number, name in ((1, "x"), (2, "y"))]
    swapped = [instruction(number, "parameter", name=name) for number, name in ((2, "x"), (1, "y"))]
    one, other = module(computation(parts, root=2)), module(computation(swapped, root=1))
    assert only_line(one, other) == "HLO differs: the order of the instructions' ids in computation main.1"


def test_another_entry():
    first, second = (computation([instruction(1, "a")], number, f"f.{number}") for number in (1, 2))
    assert lines(module(first, second, entry=1), module(first, second, entry=2))


def test_a_schedule():
    def scheduled(ids):
        more = field(7, field(1, field(1, 1) + field(2, field(1, ids)))) if ids else b""
        return module(computation(shifted(3, 0)), more=more)

    assert only_line(scheduled([1, 2, 3]), scheduled([2, 1, 3])) == "HLO differs: the schedule of computation main.1"
    line = only_line(scheduled([1, 2, 3]), scheduled([]))
    assert line == "HLO differs: the schedule of computation main.1 (set here, not there)"


def test_a_name_that_a_string_mentions():
    def mentioning(name):
        more = field(ATTRIBUTES, entry(after="wait for add.2"))
        return module(computation([instruction(1, "parameter"), instruction(2, "add", [1], name, more=more)]))

    line = only_line(mentioning("add.2"), mentioning("add.9"))
    assert line == (
        "HLO differs: a string in it mentions add.2, which is the name of an instruction or computation in one of "
        "them only"
    )
    assert describe_difference(mentioning("add.8"), mentioning("add.9")).equal


# -- what cannot be told -------------------------------------------------------------------------------------


def test_what_is_no_module_is_said_to_be_unreadable():
    found = describe_difference(b"no module", b"no modulus")
    assert not found.equal
    assert found.unknown.startswith("the module here cannot be read (")
    assert "the module there cannot be read (" in found.unknown
    assert found.unknown.endswith("9 bytes here, 10 there, the first difference at byte 8")
    assert found.lines() == [f"HLO differs; in what cannot be told: {found.unknown}"]
    found = describe_difference(MODEL, MODEL[:-5])
    assert found.unknown.startswith("the module there cannot be read (")
    assert "the module here" not in found.unknown
    assert json.dumps(found.as_dict())


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_compared_without_an_error(one, other):
    found = describe_difference(one, other)
    assert found.equal == (one == other)
    assert found.lines()


EDITS = st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(EDITS, st.booleans(), st.booleans())
def test_a_damaged_module_is_compared_without_an_error(edits, insert, keep_debug_info):
    damaged = MODEL
    for at, data in edits:
        damaged = damaged[:at] + data + damaged[at + (0 if insert else len(data)) :]
    check(MODEL, damaged, keep_debug_info=keep_debug_info)


@st.composite
def small_modules(draw):
    """Modules that are whole, of a few instructions with little variety, so that pairs are hard to find."""
    computations = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        parts = []
        ids = draw(st.permutations(range(1, draw(st.integers(1, 6)) + 1)))
        for at, own in enumerate(ids):
            more = field(38, [draw(st.integers(1, number))]) if draw(st.booleans()) else b""
            more += draw(st.sampled_from([b"", field(26, 1), field(ATTRIBUTES, entry(a="add.2"))]))
            operands = draw(st.lists(st.sampled_from(ids[: at + 1]), max_size=2))
            opcode = draw(st.sampled_from(["add", "parameter"]))
            parts.append(instruction(own, opcode, operands, more=more))
        computations.append(computation(parts, number, draw(st.sampled_from("fg")), draw(st.sampled_from(ids))))
    return module(*computations, entry=draw(st.integers(1, len(computations))))


@settings(deadline=None, max_examples=400)
@given(small_modules(), small_modules())
def test_small_modules_differ_in_something_that_is_named(one, other):
    check(one, other, keep_debug_info=False)
    found = describe_difference(one, other)
    assert not found.unknown
    assert "the encoding" not in "".join(found.lines())


def check(one, other, *, keep_debug_info):
    found = describe_difference(one, other, keep_debug_info=keep_debug_info)
    prints = [fingerprint_hlo(data, keep_debug_info=keep_debug_info) for data in (one, other)]
    assert found.equal == (prints[0].digest == prints[1].digest)
    assert bool(found.unknown) == ("raw" in (prints[0].mode, prints[1].mode) and not found.equal)
    assert found.lines()
    assert json.dumps(found.as_dict())


# -- alignment -----------------------------------------------------------------------------------------------


def longest(one, other):
    row = [0] * (len(other) + 1)
    for left in one:
        before = row
        row = [0]
        for at, right in enumerate(other):
            row.append(before[at] + 1 if left == right else max(before[at + 1], row[at]))
    return row[-1]


@given(SEQUENCE, SEQUENCE)
def test_alignment_finds_a_longest_common_subsequence(one, other):
    pairs = align(one, other)
    assert len(pairs) == longest(one, other)
    assert all(one[i] == other[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
    between = gaps(pairs, len(one), len(other))
    assert sum(len(here) for here, _ in between) == len(one) - len(pairs)
    assert sum(len(there) for _, there in between) == len(other) - len(pairs)
    assert fewest_differences(one, other) <= max(len(one), len(other)) - len(pairs) or not pairs


def test_alignment_gives_up_in_bounded_work():
    numbers = random.Random(2)
    one, other = ([numbers.randrange(4) for _ in range(5000)] for _ in "ab")
    assert align(one, other, 10_000) is None
    assert align(range(9), range(100, 109), 10) is None
    assert align([], range(10**5), 1) == []
