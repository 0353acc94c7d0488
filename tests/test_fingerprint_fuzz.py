"""Random and hostile modules: what is the same keeps its fingerprint, what is not never shares one, nothing raises.

A slow reference, written from the rules and not from the code, says whether two modules are the same.
"""

import base64
import json
import random
import re
from types import SimpleNamespace

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
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_store.hashing.hlo_fingerprint import CANONICAL, RAW, fingerprint_hlo
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.hashing.side_files import KernelConfigs

# -- the reference -------------------------------------------------------------------------------------------

# Fields of an instruction in which no text is looked for: shapes, numbers, opcode, shardings.
NO_TEXT = {2, 3, 8, 14, 15, 16, 17, 20, 21, 29, 30, 32, 33, 34, 40, 48, 49, 51, 52, 54, 55, 57, 59, 61, 62, 74, 87, 90}
NO_TEXT |= {92, 93}
PROVENANCE = {(1, 2), (2, 2), (3, 2), (4, 0), (15, 0), (17, 0), (18, 0), (19, 0)}


class Reference:
    """The canonical form of a module, as nested tuples. Raises ValueError for what is not to be canonicalised."""

    def __init__(self, data):
        self.data = data
        self.names = []
        self.texts = set()
        computations, kept, entry, schedules = [], [], None, []
        for piece, content in self.pieces(data):
            key = (piece.number, piece.kind)
            if key == (3, 2):
                computations.append(self.read_computation(content))
            elif key == (6, 0):
                entry = self.once(entry, self.number(content))
            elif key == (7, 2):
                schedules.append(content)
            elif key in ((12, 2), (14, 2)):
                kept.append((key, self.sharding(content)))
            elif key == (19, 2):
                kept.append((key, self.attributes(content)))
            elif key not in ((1, 2), (2, 2), (5, 0), (17, 2)):
                kept.append((key, content))
                if piece.kind == 2:
                    self.note(content)
        ids = self.ranks([each["id"] for each in computations])
        if entry not in ids:
            raise ValueError("no entry")
        made = [self.finish(each, ids, each["id"] == entry) for each in computations]
        self.form = (
            self.grouped(kept),
            ids[entry],
            tuple(made),
            self.schedule(schedules, computations, ids),
            self.mentions(),
        )

    @staticmethod
    def pieces(data):
        return [(piece, data[piece.content : piece.end]) for piece in decode(data)]

    @staticmethod
    def number(content):
        value = read_varint(content, 0)[0]
        return value - (1 << 64) if value >> 63 else value

    @staticmethod
    def once(before, value):
        if before is not None:
            raise ValueError("twice")
        return value

    @staticmethod
    def ranks(ids):
        if len(set(ids)) != len(ids):
            raise ValueError("one id twice")
        return {number: rank for rank, number in enumerate(sorted(ids))}

    @staticmethod
    def grouped(kept):
        """By field: between different fields order means nothing."""
        found = {}
        for key, value in kept:
            found.setdefault(key, []).append(value)
        return tuple(sorted((key, tuple(values)) for key, values in found.items()))

    def read_computation(self, data):
        made = {"id": None, "root": None, "name": None, "kept": [], "instructions": []}
        for piece, content in self.pieces(data):
            key = (piece.number, piece.kind)
            if key == (2, 2):
                made["instructions"].append(content)
            elif key == (1, 2):
                made["name"] = self.once(made["name"], content)
            elif key == (5, 0):
                made["id"] = self.once(made["id"], self.number(content))
            elif key == (6, 0):
                made["root"] = self.once(made["root"], self.number(content))
            else:
                made["kept"].append((key, content))
                if piece.kind == 2 and piece.number != 4:
                    self.note(content)
        made["id"], made["root"] = made["id"] or 0, made["root"] or 0
        return made

    def finish(self, computation, ids, is_entry):
        self.names.append(computation["name"] or b"")
        read = [self.instruction(data, is_entry) for data in computation["instructions"]]
        ranks = computation["ranks"] = self.ranks([each["id"] for each in read])

        def own(numbers):
            return tuple(self.find(ranks, number) for number in numbers)

        reserved = computation["name"] or b""
        return (
            ids[computation["id"]],
            self.find(ranks, computation["root"]),
            reserved.rstrip(b"0123456789") if reserved.startswith(b"xla.") else b"",
            self.grouped(computation["kept"]),
            tuple(
                (
                    ranks[each["id"]],
                    own(each["operands"]),
                    own(each["control"]),
                    tuple(self.find(ids, number) for number in each["called"]),
                    each["parameter"],
                    self.grouped(each["kept"]),
                )
                for each in read
            ),
        )

    @staticmethod
    def find(ranks, number):
        if number not in ranks:
            raise ValueError("refers to nothing")
        return ranks[number]

    def instruction(self, data, is_entry):
        made = {"operands": [], "control": [], "called": [], "kept": [], "parameter": None}
        lists = {36: "operands", 37: "control", 38: "called"}
        own = opcode = None
        name = config = b""
        for piece, content in self.pieces(data):
            key = (piece.number, piece.kind)
            if key == (35, 0):
                own = self.once(own, self.number(content))
            elif piece.number in lists and piece.kind in (0, 2):
                made[lists[piece.number]] += [self.number(content)] if piece.kind == 0 else decode_ints(content)
            elif key == (1, 2):
                if name:
                    raise ValueError("two names")
                name = content
            elif key == (7, 2):
                if not self.is_provenance(content):
                    made["kept"].append((key, content))
            elif piece.number in (40, 54, 55) and piece.kind == 2:
                made["kept"].append((key, self.sharding(content)))
            elif key == (68, 2):
                made["kept"].append((key, self.attributes(content)))
            elif key == (43, 2):
                if config:
                    raise ValueError("two configurations")
                config = content
            else:
                opcode = content if key == (2, 2) else opcode
                made["kept"].append((key, content))
                if piece.kind == 2 and piece.number not in NO_TEXT:
                    self.note(content)
        if config:
            made["kept"].append(((43, 2), config))
            self.note(config)
        self.names.append(name)
        made["id"] = own or 0
        made["parameter"] = name if is_entry and opcode == b"parameter" else None
        return made

    def is_provenance(self, data):
        try:
            return all((piece.number, piece.kind) in PROVENANCE for piece, _ in self.pieces(data))
        except ValueError:
            return False  # kept as it stands

    def sharding(self, data):
        kept = []
        for piece, content in self.pieces(data):
            key = (piece.number, piece.kind)
            if key == (7, 2) and self.is_provenance(content):
                continue
            if key == (5, 2):
                kept.append((key, self.sharding(content)))
            elif key == (14, 2):
                inner = [
                    ((each.number, each.kind), value)
                    for each, value in self.pieces(content)
                    if (each.number, each.kind) != (6, 2) or not self.is_provenance(value)
                ]
                kept.append((key, self.grouped(inner)))
            else:
                kept.append((key, content))
        return self.grouped(kept)

    def attributes(self, data):
        entries, kept = {}, []
        for piece, content in self.pieces(data):
            if (piece.number, piece.kind) != (1, 2):
                kept.append(((piece.number, piece.kind), content))
                continue
            parts = {}
            for inner, value in self.pieces(content):
                if inner.kind != 2 or inner.number not in (1, 2) or inner.number in parts:
                    raise ValueError("not an entry of a map")
                parts[inner.number] = value
            key = parts.get(1, b"")
            if key in entries:
                raise ValueError("one key twice")
            entries[key] = parts.get(2, b"")
        self.note(data)
        return tuple(sorted(entries.items())), self.grouped(kept)

    def schedule(self, schedules, computations, ids):
        found = {}
        for data in schedules:
            for piece, content in self.pieces(data):
                if (piece.number, piece.kind) != (1, 2):
                    raise ValueError("unknown in a schedule")
                key, numbers = 0, []
                for inner, value in self.pieces(content):
                    if (inner.number, inner.kind) == (1, 0):
                        key = self.number(value)
                        continue
                    for last, last_value in self.pieces(value):
                        numbers += [self.number(last_value)] if last.kind == 0 else decode_ints(last_value)
                owner = next((each for each in computations if each["id"] == key), None)
                if owner is None or key in found:
                    raise ValueError("no such computation")
                found[key] = tuple(self.find(owner["ranks"], number) for number in numbers)
        return len(schedules), tuple(sorted((ids[key], numbers) for key, numbers in found.items()))

    def note(self, data):
        if data in self.texts:
            return
        self.texts.add(data)
        try:
            pieces = self.pieces(data)
        except ValueError:
            return
        for piece, content in pieces:
            if piece.kind == 2:
                self.note(content)

    def mentions(self):
        """Position and name of what a kept string mentions between bytes that are no letter, digit or underscore."""
        found = []
        for place, name in enumerate(self.names):
            pattern = rb"(?<![A-Za-z0-9_])%b(?![A-Za-z0-9_])" % re.escape(name)
            if re.search(rb"[A-Za-z0-9_]", name) and re.match(rb"\w.*\w\Z|\w\Z", name, re.DOTALL):
                if any(re.search(pattern, text) for text in self.texts):
                    found.append((place, name))
        return tuple(found)


class Seen:
    """Remembers fingerprints, and fails if two modules share one that the reference tells apart."""

    def __init__(self, fingerprint=fingerprint_hlo):
        self.fingerprint = fingerprint
        self.known = {}
        self.canonical = 0
        self.shared = 0

    def add(self, data):
        made = self.fingerprint(data)
        assert made.mode in (CANONICAL, RAW)
        self.canonical += made.mode == CANONICAL
        known = self.known.setdefault((made.mode, made.digest), [data, None])
        if known[0] == data:
            return made
        assert made.mode == CANONICAL, "two inputs share a raw fingerprint"
        self.shared += 1
        if known[1] is None:
            known[1] = Reference(known[0]).form
        assert Reference(data).form == known[1], (data, known[0])
        return made


# -- random modules ------------------------------------------------------------------------------------------

EXTREMES = [0, 1, 2, 127, 128, 16383, 16384, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, -1, -(1 << 63)]
OPCODES = ["add", "custom-call", "constant", "parameter", "fusion", "tuple"]


@st.composite
def modules(draw):
    """A small module. Names begin with n and a number; no other text does."""
    ids = st.one_of(st.sampled_from(EXTREMES), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 200))
    computation_ids = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
    serial = iter(range(10_000))
    computations = []
    for computation_id in computation_ids:
        own = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
        instructions = []
        for at, number in enumerate(own):
            operands = draw(st.lists(st.sampled_from(own[:at]), max_size=3)) if at else []
            control = draw(st.lists(st.sampled_from(own[:at]), max_size=1)) if at else []
            called = draw(st.lists(st.sampled_from(computation_ids), max_size=2))
            opcode = draw(st.sampled_from(OPCODES))
            more = draw(st.lists(instruction_fields(), max_size=4, unique_by=lambda field: field[0]))
            name = f"n{next(serial)}.{draw(st.integers(0, 99))}"
            instructions.append(Instruction(name, opcode, number, operands, control, called, more))
        root = draw(st.sampled_from(own))
        computations.append(Computation(f"n{next(serial)}", computation_id, root, instructions))
    more = draw(st.lists(module_fields(), max_size=3, unique_by=lambda field: field[0]))
    schedule = None
    if draw(st.booleans()):
        schedule = {each.id: [one.id for one in each.instructions] for each in computations if draw(st.booleans())}
    entry = draw(st.sampled_from(computation_ids))
    return Module("n", entry, computations, draw(st.integers(0, 1 << 40)), more, schedule)


def words():
    return st.text("abcXYZ_/ %.-é", max_size=60)


def pairs():
    return st.dictionaries(words(), words(), max_size=3)


def instruction_fields():
    return st.one_of(
        st.builds(lambda sizes: shape(*sizes), st.lists(st.integers(0, 300), max_size=3)),
        st.builds(metadata, words(), st.integers(0, 1 << 31)),
        st.builds(
            lambda devices, with_it: sharding(devices, with_metadata=with_it),
            st.lists(st.integers(0, 9)),
            st.booleans(),
        ),
        st.builds(lambda axis: named_sharding(axis, number=54), words()),
        st.builds(lambda found: attributes(**found), pairs()),
        st.tuples(st.just(43), st.binary(max_size=40).filter(lambda data: b"n" not in data)),
        st.tuples(st.just(8), st.binary(max_size=20).map(lambda data: Wire(2, data))),
        st.tuples(st.just(26), st.integers(0, (1 << 63) - 1)),
        st.tuples(st.just(28), words()),
        st.tuples(st.just(500), words()),
    )


def module_fields():
    return st.one_of(
        st.builds(lambda found: attributes(19, **found), pairs()),
        st.builds(lambda devices: sharding(devices, number=12), st.lists(st.integers(0, 9))),
        st.tuples(st.just(11), st.integers(1, 1)),
        st.tuples(st.just(17), st.just([(1, "model.py"), (4, [(1, 1)])])),
        st.tuples(st.just(500), words()),
    )


RANDOM = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def digest(module_or_bytes):
    data = module_or_bytes if isinstance(module_or_bytes, bytes) else module_or_bytes.encode()
    made = fingerprint_hlo(data)
    assert made.mode == CANONICAL, made.reason
    return made.digest


@RANDOM
@given(modules())
def test_the_reference_and_the_fingerprint_understand_the_same_modules(module):
    assert digest(module)
    assert Reference(module.encode()).form


@RANDOM
@given(modules(), st.data())
def test_names_that_nothing_binds_do_not_count(module, data):
    before = digest(module)
    for computation in module.computations:
        computation.name = data.draw(words())
        for instruction in computation.instructions:
            if computation.id != module.entry or instruction.opcode != "parameter":
                instruction.name = f"n7{data.draw(st.integers(0, 10**9))}"
    # The drawn names could be words of a kept string, or XLA's own.
    for at, computation in enumerate(module.computations):
        computation.name = f"n8{at}"
    module.name, module.id = data.draw(words()), data.draw(st.integers(0, (1 << 63) - 1))
    assert digest(module) == before


@RANDOM
@given(modules(), st.data())
def test_other_ids_in_the_same_order_do_not_count(module, data):
    before = digest(module)

    def renumbered(ids):
        new = data.draw(
            st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=len(ids), max_size=len(ids), unique=True)
        )
        return dict(zip(sorted(ids), sorted(new), strict=True))

    to_computation = renumbered([each.id for each in module.computations])
    schedule = {}
    for computation in module.computations:
        to = renumbered([each.id for each in computation.instructions])
        if module.schedule and computation.id in module.schedule:
            schedule[to_computation[computation.id]] = [to[number] for number in module.schedule[computation.id]]
        computation.id, computation.root = to_computation[computation.id], to[computation.root]
        for instruction in computation.instructions:
            instruction.id = to[instruction.id]
            instruction.operands = [to[number] for number in instruction.operands]
            instruction.control = [to[number] for number in instruction.control]
            instruction.called = [to_computation[number] for number in instruction.called]
    module.entry = to_computation[module.entry]
    module.schedule = None if module.schedule is None else schedule
    assert digest(module) == before


@RANDOM
@given(modules())
def test_metadata_and_the_order_of_maps_do_not_count(module):
    before = digest(module)
    for owner in (module, *module.instructions):
        owner.more = [turned(field) for field in owner.more if field[0] not in (7, 17)]
        if isinstance(owner, Instruction):
            owner.more.append(metadata("another", 4))
    if module.schedule:
        module.schedule = dict(reversed(module.schedule.items()))
    assert digest(module) == before


def turned(field):
    number, value = field
    if number in (68, 19):
        return number, value[::-1]
    if number in (40, 12):
        return number, [inner for inner in value if inner[0] != 7]
    return field


@RANDOM
@given(modules(), st.integers(0, 3))
def test_packed_unpacked_and_overlong_ids_are_the_same_ids(module, pad):
    before = digest(module)
    spread = encode([(number, value) for number, value in module.message() if number != 3])
    for computation in module.computations:
        made = b""
        for instruction in computation.instructions:
            fields = [field for field in instruction.message() if field[0] not in (35, 36, 37, 38)]
            new = (
                encode(fields)
                + varint(35 << 3, pad)
                + varint(instruction.id, min(pad, 10 - len(varint(instruction.id))))
            )
            for number, ids in ((36, instruction.operands), (37, instruction.control), (38, instruction.called)):
                new += b"".join(varint(number << 3) + varint(one) for one in ids)
            made += encode_field(2, new)
        rest = [field for field in computation.message() if field[0] != 2]
        spread += encode_field(3, made + encode(rest))
    assert digest(spread) == before


def changed(module, data):
    """Change one thing that counts, and say what."""
    computation = data.draw(st.sampled_from(module.computations))
    instruction = data.draw(st.sampled_from(computation.instructions))
    own = [each.id for each in computation.instructions]
    choices = ["opcode", "field", "unknown", "operand", "control", "called", "instruction", "module field"]
    choices += ["root"] * (len(own) > 1) + ["entry"] * (len(module.computations) > 1)
    choices += ["swap operands"] * (len(set(instruction.operands)) > 1) + ["swap instructions"] * (len(own) > 1)
    choices += ["schedule"] * bool(module.schedule)
    what = data.draw(st.sampled_from(choices))
    if what == "opcode":
        instruction.opcode += "x"
    elif what == "field":
        instruction.more.append((45, data.draw(st.integers(0, 99))))
    elif what == "unknown":
        instruction.more.append((501, data.draw(st.binary(max_size=9))))
    elif what in ("operand", "control", "called"):
        wanted = own if what != "called" else [each.id for each in module.computations]
        getattr(instruction, {"operand": "operands"}.get(what, what)).append(data.draw(st.sampled_from(wanted)))
    elif what == "instruction":
        free = next(number for number in range(1000) if number not in own)
        computation.instructions.append(Instruction("n9999", "add", free))
    elif what == "module field":
        module.more.append((501, 1))
    elif what == "root":
        computation.root = data.draw(st.sampled_from([number for number in own if number != computation.root]))
    elif what == "entry":
        module.entry = data.draw(st.sampled_from([each.id for each in module.computations if each.id != module.entry]))
    elif what == "swap operands":
        at = next(at for at, number in enumerate(instruction.operands) if number != instruction.operands[0])
        instruction.operands[0], instruction.operands[at] = instruction.operands[at], instruction.operands[0]
    elif what == "swap instructions":
        computation.instructions[:2] = computation.instructions[1::-1]
    else:
        module.schedule.pop(next(iter(module.schedule)))
    return what


@RANDOM
@given(modules(), st.data())
def test_any_other_change_counts(module, data):
    before = digest(module)
    was = module.encode()
    what = changed(module, data)
    assert module.encode() != was
    if what in ("swap instructions", "entry") and Reference(module.encode()).form == Reference(was).form:
        return  # twins that nothing tells apart
    assert digest(module) != before, what


# -- corrupted modules ---------------------------------------------------------------------------------------

CHUNKS = 20
CORRUPTED = 100_000


def seeds():
    """Bytes of small modules of many kinds."""
    tiny = Module(
        "m", 1, [Computation("main", 1, 2, [Instruction("p", "parameter", 1), Instruction("q", "add", 2, [1])])]
    )
    named = tiny.copy()
    named.computations[0].instructions[1].more = [(500, "q p"), attributes(a="q", b="c"), (43, b"p"), metadata()]
    shared = tiny.copy()
    shared.computations[0].instructions[1].more = [sharding(inner=[named_sharding()]), named_sharding(number=54)]
    shared.more = [sharding(number=12), attributes(19, a="b", c="d"), (17, [(1, "f")])]
    calls = Module(
        "m",
        9,
        [
            Computation("xla.a.1", 4, 7, [Instruction("r", "parameter", 7)], [(8, "main")]),
            Computation("main", 9, 3, [Instruction("p", "parameter", 2), Instruction("q", "call", 3, [2], [2], [4])]),
        ],
        schedule={4: [7], 9: [2, 3]},
    )
    small = small_module()
    return [each.encode() for each in (tiny, named, shared, calls, small)]


def corrupt(data, other, dice):
    """Return `data` with one to three damages."""
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        if not made:
            break
        at = dice.randrange(len(made))
        size = dice.choice((1, 1, 2, 4, 12))
        kind = dice.randrange(11)
        if kind == 0:
            made[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            made[at] = dice.choice((0, 1, 0x0A, 0x12, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif kind == 2:
            del made[at : at + size]
        elif kind == 3:
            made[at:at] = dice.randbytes(size)
        elif kind == 4:
            made[at:at] = made[at : at + size]
        elif kind == 5:
            here, there = sorted((at, dice.randrange(len(made))))
            made[here:there] = made[here + size : there] + made[here : here + size]
        elif kind == 6:
            made[at : at + size] = other[at : at + size]
        elif kind == 7:
            del made[at:]
        elif kind == 8:  # a varint with a byte more than it needs
            made[at : at + 1] = bytes((made[at] | 0x80, 0))
        else:
            made = bytearray(edit_field(bytes(made), dice, 0))
    return bytes(made)


def edit_field(data, dice, depth):
    """Edit one field somewhere in the tree of messages, with the lengths around it set right."""
    try:
        pieces = decode(data)
    except ValueError:
        return data
    if not pieces:
        return data + dice.choice((b"", encode_field(dice.randrange(1, 99), dice.randrange(300))))
    piece = dice.choice(pieces)
    before, field, after = data[: piece.start], data[piece.start : piece.end], data[piece.end :]
    content = data[piece.content : piece.end]
    if piece.kind == 2 and depth < 5 and dice.random() < 0.8:
        return before + encode_field(piece.number, edit_field(content, dice, depth + 1)) + after
    number = dice.choice((piece.number, dice.randrange(1, 100)))
    choices = (
        b"",
        field + field,
        encode_field(number, content) if piece.kind == 2 else varint(number << 3 | piece.kind) + content,
        encode_field(number, dice.choice(EXTREMES)),
        encode_field(number, Packed(dice.choices(EXTREMES[:6], k=dice.randrange(4)))),
        encode_field(piece.number, content + b"\0")
        if piece.kind == 2
        else varint(number << 3) + varint(dice.randrange(9)),
        varint(number << 3 | 1) + dice.randbytes(8),
        varint(number << 3 | 5) + dice.randbytes(4),
    )
    other = dice.choice(pieces)
    if dice.random() < 0.2:  # a field in another place
        return before + after + field if dice.random() < 0.5 else before + field + data[other.start : other.end] + after
    return before + dice.choice(choices) + after


@pytest.mark.timeout(240)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_corrupted_modules_raise_nothing_and_share_no_fingerprint(chunk):
    seen = corrupt_and_compare(chunk)
    assert seen.canonical > CORRUPTED // CHUNKS // 10
    assert seen.shared > CORRUPTED // CHUNKS // 100


def corrupt_and_compare(chunk, fingerprint=fingerprint_hlo):
    dice = random.Random(chunk)
    bases = seeds()
    seen = Seen(fingerprint)
    for data in bases:
        seen.add(data)
    for _ in range(CORRUPTED // CHUNKS):
        # The small ones more often: more of what is damaged matters.
        base, other = dice.choice((*bases[:4] * 3, bases[4])), dice.choice(bases)
        seen.add(corrupt(base, other, dice))
    return seen


def test_the_corruptions_would_find_a_fingerprint_that_forgets():
    """The test above can fail: were operands not hashed, it would."""

    class Forgetful(Reference):
        def instruction(self, data, is_entry):
            return {**super().instruction(data, is_entry), "operands": []}

    def forgetful(data):
        made = fingerprint_hlo(data)
        return SimpleNamespace(mode=made.mode, digest=repr(Forgetful(data).form) if made.mode == CANONICAL else data)

    with pytest.raises(AssertionError):
        corrupt_and_compare(0, forgetful)


@pytest.mark.parametrize("which", range(5))
def test_a_module_cut_off_at_any_byte(which):
    data = seeds()[which]
    seen = Seen()
    for end in range(len(data) + 1):
        seen.add(data[:end])
        seen.add(data[end:])


@pytest.mark.parametrize("which", range(4))
def test_every_bit_of_a_small_module_flipped(which):
    data = seeds()[which]
    seen = Seen()
    for at in range(len(data)):
        for bit in range(8):
            seen.add(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


# -- hostile modules -----------------------------------------------------------------------------------------


def tiny(**changes):
    body = [Instruction("p", "parameter", 1), Instruction("q", "add", 2, [1])]
    module = Module("m", 1, [Computation("main", 1, 2, body)])
    for name, value in changes.items():
        setattr(module, name, value)
    return module


def nested(number, depth):
    made = b""
    for _ in range(depth):
        made = encode_field(number, made)
    return made


@pytest.mark.parametrize("depth", [10, 100, 3000])
@pytest.mark.parametrize(("field", "inner"), [(40, 5), (40, 14), (500, 1), (68, 1), (7, 10), (3, 4), (43, 1)])
def test_deep_nesting_in_an_instruction(field, inner, depth):
    module = tiny()
    module.computations[0].instructions[1].more = [(field, nested(inner, depth))]
    assert fingerprint_hlo(module.encode()).digest != digest(tiny())


@pytest.mark.parametrize("number", [3, 7, 12, 14, 17, 19, 500])
def test_deep_nesting_in_the_module(number):
    made = fingerprint_hlo(tiny().encode() + nested(number, 3000))
    assert made.digest != digest(tiny()) or number == 17


@pytest.mark.parametrize("length", [1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("number", [1, 3, 7, 12, 19, 500])
def test_huge_lengths_are_not_believed(number, length):
    data = tiny().encode()
    assert fingerprint_hlo(data + varint(number << 3 | 2) + varint(length)).mode == RAW
    cut = varint(number << 3 | 2) + varint(length) + b"x"
    for inside in (encode_field(2, cut), encode_field(2, encode_field(36, cut))):
        assert fingerprint_hlo(data + encode_field(3, inside)).mode == RAW


RAW_MODULES = {
    "empty": b"",
    "text": b"HloModule jit_step\n\nENTRY main {\n}\n",
    "MLIR bytecode": b"ML\xefR\x01StableHLO_v1.0.0\0" + bytes(50),
    "no computation": encode([(1, "m"), (6, 1)]),
    "no entry": tiny(entry=5).encode(),
    "an operand that is not there": Module(
        "m", 1, [Computation("c", 1, 2, [Instruction("q", "add", 2, [1])])]
    ).encode(),
    "an operand of another computation": Module(
        "m",
        1,
        [
            Computation("c", 1, 2, [Instruction("q", "add", 2, [3])]),
            Computation("d", 4, 3, [Instruction("r", "add", 3)]),
        ],
    ).encode(),
    "a root that is not there": Module("m", 1, [Computation("c", 1, 3, [Instruction("q", "add", 2)])]).encode(),
    "a called computation that is not there": Module(
        "m", 1, [Computation("c", 1, 2, [Instruction("q", "call", 2, called=[7])])]
    ).encode(),
    "two instructions with one id": Module(
        "m", 1, [Computation("c", 1, 2, [Instruction("q", "add", 2), Instruction("r", "add", 2)])]
    ).encode(),
    "two computations with one id": Module(
        "m", 1, [Computation(name, 1, 2, [Instruction("q", "add", 2)]) for name in "cd"]
    ).encode(),
    "a computation without instructions": Module("m", 1, [Computation("c", 1, 0, [])]).encode(),
    "a schedule of nothing": tiny(schedule={5: [1]}).encode(),
    "a schedule of an instruction that is not there": tiny(schedule={1: [9]}).encode(),
    "an unknown field in a schedule": tiny(more=[(7, [(2, 1)])]).encode(),
    "a field number of zero": tiny().encode() + b"\x02\x01x",
    "a group": tiny().encode() + b"\x0b\x0c",
    "a wire type that does not exist": tiny().encode() + b"\x0e",
    "a varint of eleven bytes": tiny().encode() + b"\x58" + b"\x80" * 10 + b"\x01",
    "a tag of six bytes": tiny().encode() + b"\x8a\x80\x80\x80\x80\x00\x01x",
    "a field number that is too large": tiny().encode() + varint(1 << 32 | 10) + b"\x01x",
    "two entries": tiny().encode() + encode([(6, 1)]),
    "a name of a thousand parts": tiny(more=[(500, "text")])
    .encode()
    .replace(b"\x0a\x01q", b"\x0a\x81\x05" + b"a." * 320 + b"a"),
}


@pytest.mark.parametrize("what", RAW_MODULES)
def test_what_is_no_sound_module_is_taken_as_it_stands(what):
    data = RAW_MODULES[what]
    made = fingerprint_hlo(data)
    assert (made.mode, len(made.digest)) == (RAW, 64)
    assert made.reason
    assert fingerprint_hlo(data + b"\0").digest != made.digest


@pytest.mark.parametrize("called", [[1], [4], [1, 4]])
def test_computations_that_call_each_other_in_circles(called):
    circle = [
        Computation("c", 1, 2, [Instruction("q", "call", 2, called=called)]),
        Computation("d", 4, 3, [Instruction("r", "call", 3, [3], called=[1, 4])]),
    ]
    assert digest(Module("m", 1, circle))


@pytest.mark.parametrize("number", EXTREMES)
def test_ids_at_the_limits_of_64_bits(number):
    body = [Instruction("p", "parameter", number), Instruction("q", "add", 5, [number, number])]
    module = Module("m", number, [Computation("main", number, number, body)], schedule={number: [5, number]})
    assert digest(module)
    seen = Seen()
    for each in EXTREMES:
        body[0].id = module.computations[0].root = each
        body[1].operands = [each, each]
        module.schedule = {number: [5, each]}
        seen.add(module.encode())
    assert len(seen.known) == 2  # below and above the other id


def test_what_an_operand_refers_to_is_read_to_the_last_bit():
    body = [Instruction(f"p{at}", "parameter", 1 << 7 * at) for at in range(9)]
    found = set()
    for one in body:
        root = Instruction("root", "negate", 3, [one.id])
        found.add(digest(Module("m", 1, [Computation("main", 1, 3, [*body, root])])))
    assert len(found) == 9


def test_many_unpacked_operands_do_not_take_for_ever():
    module = tiny()
    module.computations[0].instructions[1].operands = []
    module.computations[0].instructions[1].more = [(36, 1)] * 200_000
    assert digest(module)


def test_a_large_file_is_read_as_the_same_bytes_in_memory(tmp_path):
    module = tiny()
    module.computations[0].instructions[1].more = [
        (8, Wire(2, random.Random(0).randbytes(17 << 20))),
        attributes(a="q"),
    ]
    path = tmp_path / "large.pb"
    path.write_bytes(module.encode())
    assert fingerprint_hlo(path).digest == digest(module)
    path.write_bytes(module.encode()[:-1])
    assert fingerprint_hlo(str(path)).mode == RAW


def test_more_text_than_can_be_searched_makes_the_bytes_count():
    assert fingerprint_hlo(tiny(more=[(500, "x " * (9 << 20))]).encode()).mode == RAW


# -- configurations that name files --------------------------------------------------------------------------

documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(documents, st.booleans(), st.sampled_from([b"AwsNeuronCustomNativeKernel", b"Other", b""]))
def test_any_configuration_is_rewritten_or_refused_with_a_reason(document, encoded, target):
    config = json.dumps(document).encode()
    try:
        KernelConfigs().rewrite(target, base64.b64encode(config) if encoded else config)
    except NotCacheable as answer:
        assert answer.reason in ("nki_kernel", "side_file")


@given(st.binary(max_size=60), st.sampled_from([b"AwsNeuronCustomNativeKernel", b"Other"]))
def test_any_bytes_are_a_configuration_or_refused(config, target):
    try:
        assert KernelConfigs().rewrite(target, config) == config
    except NotCacheable as answer:
        assert answer.reason in ("nki_kernel", "side_file")


def test_deeply_nested_json_is_refused():
    config = b"[" * 100_000 + b"]" * 100_000
    for target, refused in ((b"AwsNeuronCustomNativeKernel", True), (b"Other", False)):
        try:
            KernelConfigs().rewrite(target, config)
        except NotCacheable:
            assert refused
        else:
            assert not refused
    with pytest.raises(NotCacheable):
        KernelConfigs().rewrite(b"Other", b"[" * 200 + b'"/absent"' + b"]" * 200)


def test_what_stands_for_a_configuration_cannot_be_written_by_hand(tmp_path):
    kernel = tmp_path / "add.klir"
    kernel.write_bytes(b"kernel")
    target = b"Other"
    made = KernelConfigs().rewrite(target, json.dumps({"file": str(kernel)}).encode())
    assert b"add.klir" not in made
    with pytest.raises(NotCacheable):
        KernelConfigs().rewrite(target, made)
