"""Two HLO modules side by side: their computations and instructions, paired, and what differs in each pair.

Computations, and the instructions of each, are paired where they are equal, then by opcode and place between those,
so that one that is inserted makes only itself differ, and what refers to it.
"""

from collections import Counter

from neuron_store.hashing import hlo_words
from neuron_store.hashing.alignment import align, fewest_differences, gaps
from neuron_store.hashing.hlo_pairing import ABSENT, Pairing, pair_instructions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from neuron_store.hashing.hlo_outline import Computation, Field, Instruction, Outline

_FIRST_FIELDS = (2, 3, 8, 28, 43, 68)  # the fields that say most about an instruction that changed
_MOST_NAMES = 2  # of computations, in one line


class HloDifference:
    """How two modules differ: `one` is called here, `other` there.

    Attributes:
        equal: whether they have one fingerprint.
        unknown: why it cannot be told what differs, "" if it can.
        differing: number of instructions that differ, those that only one has included.
        at_least: whether that is the least it can be, because the modules have too little in common to pair.
        sizes: number of instructions here and there.
        kinds: what differs -> number of instructions of which that is the first thing that differs.
        first: the first instruction that differs, in words; "" if none does.
        module: what differs in the module's own fields, in words.
        computations: what differs in computations, with {} for their names -> the names.
    """

    __slots__ = ("at_least", "computations", "differing", "equal", "first", "kinds", "module", "sizes", "unknown")

    def __init__(self, *, equal: bool = False, unknown: str = "") -> None:
        self.equal = equal
        self.unknown = unknown
        self.differing = 0
        self.at_least = False
        self.sizes = (0, 0)
        self.kinds: Counter[str] = Counter()
        self.first = ""
        self.module: list[str] = []
        self.computations: dict[str, list[str]] = {}

    @property
    def others(self) -> list[str]:
        """What differs besides instructions, in words."""
        return self.module + [
            what.format(_some(names), "is" if len(names) == 1 else "are") for what, names in self.computations.items()
        ]

    def lines(self) -> list[str]:
        """Return the difference in words, one line for each thing that differs."""
        if self.equal:
            return ["HLO is equal"]
        if self.unknown:
            return [f"HLO differs; in what cannot be told: {self.unknown}"]
        said = [self._instructions()] if self.differing else []
        return said + [f"HLO differs: {other}" for other in self.others]

    def _instructions(self) -> str:
        one, other = self.sizes
        total = f"{one:,} instructions" if one == other else f"{one:,} instructions here, {other:,} there"
        least = "at least " if self.at_least else ""
        if self.differing == 1:
            return f"HLO differs: {least}1 of {total}, in {self.first}"
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        kinds = "" if self.at_least or len(self.kinds) < 2 else f" ({kinds})"
        return f"HLO differs: {least}{self.differing:,} of {total}{kinds}, first in {self.first}"

    def as_dict(self) -> "dict[str, object]":
        """Return everything as JSON-ready values."""
        return {
            "equal": self.equal,
            "unknown": self.unknown or None,
            "differing_instructions": self.differing,
            "at_least": self.at_least,
            "instructions": {"here": self.sizes[0], "there": self.sizes[1]},
            "kinds": dict(self.kinds),
            "first": self.first or None,
            "others": self.others,
        }


def _some(names: "Sequence[str]") -> str:
    """Say `computation a`, `computations a, b`, or `12 computations (a, b, …)`."""
    if len(names) > _MOST_NAMES:
        return f"{len(names):,} computations ({', '.join(names[:_MOST_NAMES])}, …)"
    return f"computation{'' if len(names) == 1 else 's'} {', '.join(names)}"


class Comparison:
    """Two outlines, side by side; `found` gathers what differs."""

    def __init__(self, one: "Outline", other: "Outline") -> None:
        self.one = one
        self.other = other
        self.found = HloDifference()
        self.found.sizes = (one.size, other.size)
        self.codes: dict[object, int] = {}  # equal contents -> equal numbers
        self.first: tuple[float, float] | None = None  # computation and instruction that `found.first` is about

    def compare(self) -> None:
        """Fill `found`."""
        self.found.module += _describe_fields(self.one.kept, self.other.kept, hlo_words.module_field)
        contents, other_contents = self._contents(self.one), self._contents(self.other)
        self.computations = self._pair_computations(contents, other_contents)
        for place, computation in enumerate(self.one.computations):
            partner = self.computations.partner[place]
            if partner == ABSENT:
                self._only("here", computation, place)
            else:
                self._compare_computations(place, partner, contents[place], other_contents[partner])
        before = 0
        for place, computation in enumerate(self.other.computations):
            if self.computations.other_partner[place] == ABSENT:
                self._only("there", computation, before + 0.5)
            else:
                before = self.computations.other_partner[place]
        self._compare_entries()

    def _code(self, content: object) -> int:
        return self.codes.setdefault(content, len(self.codes))

    def _contents(self, outline: "Outline") -> list[list[int]]:
        return [
            [self._code(instruction.content) for instruction in computation.instructions]
            for computation in outline.computations
        ]

    # -- computations ----------------------------------------------------------------------------------------

    def _pair_computations(self, contents: "list[list[int]]", other_contents: "list[list[int]]") -> Pairing:
        """Pair equal computations; then, in the gaps, the entries, those of one name, of one length, and the rest."""
        signatures = self._signatures(self.one, contents)
        other_signatures = self._signatures(self.other, other_contents)
        pairs = align(signatures, other_signatures)
        sizes = len(signatures), len(other_signatures)
        if pairs is None:
            pairs = []
        for here, there in gaps(pairs, *sizes):
            pairs = [*pairs, *self._pair_unequal(here, there)]
        return Pairing(pairs, *sizes)

    def _signatures(self, outline: "Outline", contents: "list[list[int]]") -> list[int]:
        return [
            self._code(
                (
                    tuple(computation.kept),
                    tuple(codes),
                    tuple(computation.places[number] for i in computation.instructions for number in i.operands),
                )
            )
            for computation, codes in zip(outline.computations, contents, strict=True)
        ]

    def _pair_unequal(self, here: range, there: range) -> "list[tuple[int, int]]":
        pairs: list[tuple[int, int]] = []
        left, right = list(here), list(there)
        for mark in (
            lambda outline, place: place == outline.entry or None,
            lambda outline, place: outline.computations[place].name or None,
            lambda outline, place: len(outline.computations[place].instructions),
        ):
            by_mark: dict[object, list[int]] = {}
            for place in right:
                by_mark.setdefault(mark(self.other, place), []).append(place)
            by_mark.pop(None, None)
            for place in list(left):
                candidates = by_mark.get(mark(self.one, place))
                if candidates:
                    pairs.append((place, candidates.pop(0)))
                    left.remove(place)
                    right.remove(pairs[-1][1])
        if len(left) == len(right):
            pairs += zip(left, right, strict=True)
        return pairs

    def _only(self, where: str, computation: "Computation", place: float) -> None:
        count = len(computation.instructions)
        name = self._name(computation)
        self.found.differing += count
        self.found.kinds[f"only {where}"] += count
        self._note_first((place, 0), f"computation {name}, which is only {where}")
        self._note_computation(f"{{}} {{}} only {where}", name)

    def _note_computation(self, what: str, name: str) -> None:
        self.found.computations.setdefault(what, []).append(name)

    def _name(self, computation: "Computation") -> str:
        return hlo_words.text(computation.name) or f"with the id {computation.id}"

    def _compare_entries(self) -> None:
        if self.computations.partner[self.one.entry] != self.other.entry:
            self.found.module.append("another computation is the entry")
        if not self.found.differing and not self.computations.in_order:
            self.found.module.append("the order of the computations")
        elif self.computations.in_order and _order(c.id for c in self.one.computations) != _order(
            c.id for c in self.other.computations
        ):
            self.found.module.append("the order of the computations' ids")

    def _compare_computations(self, place: int, partner: int, codes: "list[int]", other_codes: "list[int]") -> None:
        one, other = self.one.computations[place], self.other.computations[partner]
        name = self._name(one)
        for what in _describe_fields(one.kept, other.kept, hlo_words.computation_field):
            self._note_computation(f"the {what} of {{}}", name)
        pairing = pair_instructions(
            codes, other_codes, [i.opcode for i in one.instructions], [i.opcode for i in other.instructions]
        )
        if not pairing.complete:
            self._note_incomplete(place, one, other, pairing, (codes, other_codes))
            return
        before = self.found.differing
        self._compare_pairs(place, one, other, pairing)
        self._note_added(place, one, other, pairing)
        self._compare_order(one, other, pairing, changed=self.found.differing > before)

    def _note_incomplete(
        self,
        place: int,
        one: "Computation",
        other: "Computation",
        pairing: Pairing,
        codes: "tuple[list[int], list[int]]",
    ) -> None:
        count = fewest_differences(*codes)
        self.found.at_least = True
        self.found.differing += count
        self.found.kinds["not paired"] += count
        at = pairing.partner.index(ABSENT)
        words = self._differences(one, other, one.instructions[at], other.instructions[at], pairing)
        self._note_first((place, at), self._sentence(one, one.instructions[at], words[0][1] if words else "unlike"))

    def _compare_pairs(self, place: int, one: "Computation", other: "Computation", pairing: Pairing) -> None:
        for at, instruction in enumerate(one.instructions):
            partner = pairing.partner[at]
            if partner == ABSENT:
                words = f"only here (opcode {hlo_words.text(instruction.opcode)})"
                self._note(place, at, "only here", self._sentence(one, instruction, words))
                continue
            fellow = other.instructions[partner]
            if instruction.content == fellow.content and self._refers_alike(one, other, instruction, fellow, pairing):
                continue
            kind, words = self._differences(one, other, instruction, fellow, pairing)[0]
            self._note(place, at, kind, self._sentence(one, instruction, words))

    def _note_added(self, place: int, one: "Computation", other: "Computation", pairing: Pairing) -> None:
        before = -1
        for at, instruction in enumerate(other.instructions):
            if pairing.other_partner[at] != ABSENT:
                before = pairing.other_partner[at]
                continue
            words = f"only there (opcode {hlo_words.text(instruction.opcode)})"
            self._note(place, before + 0.5, "only there", self._sentence(one, instruction, words))

    def _sentence(self, computation: "Computation", instruction: "Instruction", words: str) -> str:
        return f"computation {self._name(computation)}, {hlo_words.text(instruction.name) or 'without a name'}: {words}"

    def _note(self, place: int, at: float, kind: str, sentence: str) -> None:
        self.found.differing += 1
        self.found.kinds[kind] += 1
        self._note_first((place, at), sentence)

    def _note_first(self, where: "tuple[float, float]", sentence: str) -> None:
        if self.first is None or where < self.first:
            self.first = where
            self.found.first = sentence

    def _compare_order(self, one: "Computation", other: "Computation", pairing: Pairing, *, changed: bool) -> None:
        """Compare root, schedule and order of ids; of the last two only the presence can be told if more changed."""
        name = self._name(one)
        if pairing.partner[one.places[one.root]] != other.places[other.root]:
            self._note_computation("the root of {}", name)
        here, there = self.one.schedules.get(one.id), self.other.schedules.get(other.id)
        if (here is None) != (there is None):
            where = "set there, not here" if here is None else "set here, not there"
            self._note_computation(f"the schedule of {{}} ({where})", name)
        if changed or not pairing.in_order:
            return
        if (
            here is not None
            and there is not None
            and [one.places[number] for number in here] != [other.places[number] for number in there]
        ):
            self._note_computation("the schedule of {}", name)
        if _order(i.id for i in one.instructions) != _order(i.id for i in other.instructions):
            self._note_computation("the order of the instructions' ids in {}", name)

    # -- instructions ----------------------------------------------------------------------------------------

    def _refers_alike(
        self,
        one: "Computation",
        other: "Computation",
        instruction: "Instruction",
        fellow: "Instruction",
        pairing: Pairing,
    ) -> bool:
        """Tell whether two instructions refer to what is paired. Most have operands only."""
        if pairing.translate([one.places[number] for number in instruction.operands]) != [
            other.places[number] for number in fellow.operands
        ]:
            return False
        if not (instruction.control or instruction.called or fellow.control or fellow.called):
            return True
        control = pairing.translate(one.places[number] for number in instruction.control)
        called = self.computations.translate(self.one.places[number] for number in instruction.called)
        return control == [other.places[number] for number in fellow.control] and called == [
            self.other.places[number] for number in fellow.called
        ]

    def _differences(
        self,
        one: "Computation",
        other: "Computation",
        instruction: "Instruction",
        fellow: "Instruction",
        pairing: Pairing,
    ) -> "list[tuple[str, str]]":
        """Return what differs between two instructions that do: its name, and in words; what says most first."""
        found = []
        for number, (left, right, tag) in _unequal_fields(instruction.content, fellow.content):
            name = hlo_words.INSTRUCTION_FIELDS.get(number, f"field {number}")
            found.append((number, name, hlo_words.instruction_field(number, left, right, tag)))
        found.sort(key=lambda field: _FIRST_FIELDS.index(field[0]) if field[0] in _FIRST_FIELDS else len(_FIRST_FIELDS))
        said = [(name, words) for _, name, words in found]
        if pairing.complete:
            said += self._reference_differences(one, other, instruction, fellow, pairing)
        if not said and instruction.content != fellow.content:
            said.append(("order of fields", "the order of its fields"))
        return said

    def _reference_differences(
        self,
        one: "Computation",
        other: "Computation",
        instruction: "Instruction",
        fellow: "Instruction",
        pairing: Pairing,
    ) -> "list[tuple[str, str]]":
        said = []
        for kind, places, other_places, partners, items, other_items in (
            ("operands", one.places, other.places, pairing, one.instructions, other.instructions),
            ("control", one.places, other.places, pairing, one.instructions, other.instructions),
            (
                "called",
                self.one.places,
                self.other.places,
                self.computations,
                self.one.computations,
                self.other.computations,
            ),
        ):
            here = [places[number] for number in getattr(instruction, kind)]
            there = [other_places[number] for number in getattr(fellow, kind)]
            if partners.translate(here) != there:
                title = {"control": "control predecessors", "called": "called computations"}.get(kind, kind)
                said.append((title, f"{title} {_names(here, items)} / {_names(there, other_items)}"))
        return said


def _describe_fields(
    one: "list[Field]", other: "list[Field]", words: "Callable[[int, list[bytes], list[bytes]], str]"
) -> list[str]:
    if one == other:
        return []
    unequal = _unequal_fields(one, other)
    return [words(number, left, right) for number, (left, right, _) in unequal] or ["order of fields"]


def _unequal_fields(
    one: "Sequence[Field]", other: "Sequence[Field]"
) -> "list[tuple[int, tuple[list[bytes], list[bytes], int]]]":
    """Return, by field number, the values on both sides where they differ, and a tag of the field."""
    grouped: dict[int, tuple[list[bytes], list[bytes], int]] = {}
    for side, held in enumerate((one, other)):
        for tag, content in held:
            left, right, _ = grouped.setdefault(tag >> 3, ([], [], tag))
            (left, right)[side].append(content)
    return [(number, values) for number, values in sorted(grouped.items()) if values[0] != values[1]]


def _names(places: "Sequence[int]", items: "Sequence[Instruction | Computation]") -> str:
    shown = [hlo_words.text(items[place].name) or f"#{place}" for place in places[:4]]
    return f"({', '.join([*shown, '…'] if len(places) > 4 else shown)})"


def _order(ids: "Iterable[int]") -> list[int]:
    """Return the places of `ids` in the order of the ids."""
    listed = list(ids)
    return sorted(range(len(listed)), key=listed.__getitem__)
