"""Which instructions of two computations belong together: the equal ones, then those of one opcode or one place."""

from neuron_store.hashing.alignment import MOST_STEPS, align, common_head, common_tail, gaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ABSENT = -1  # in place of an element's partner


class Pairing:
    """Which instructions of a computation belong together.

    Attributes:
        partner: place here -> place there, or ABSENT.
        other_partner: the other way round.
        complete: whether all that belongs together is paired.
    """

    def __init__(
        self, pairs: "Iterable[tuple[int, int]]", length: int, other_length: int, *, complete: bool = True
    ) -> None:
        self.partner = [ABSENT] * length
        self.other_partner = [ABSENT] * other_length
        self.complete = complete
        for i, j in pairs:
            self.partner[i] = j
            self.other_partner[j] = i

    @property
    def in_order(self) -> bool:
        """Whether everything is paired with what stands at the same place."""
        return len(self.partner) == len(self.other_partner) and all(i == j for i, j in enumerate(self.partner))

    def translate(self, places: "Iterable[int]") -> list[int]:
        """Return the partners of `places`."""
        return [self.partner[place] for place in places]


def pair_instructions(
    codes: "Sequence[int]", other_codes: "Sequence[int]", opcodes: "Sequence[bytes]", other_opcodes: "Sequence[bytes]"
) -> Pairing:
    """Pair two lists of instructions by their contents (as codes) or their opcodes, whichever leaves less to differ."""
    sizes = len(codes), len(other_codes)
    if codes == other_codes:
        return Pairing(((i, i) for i in range(len(codes))), *sizes)
    by_opcode = align(opcodes, other_opcodes)
    by_content = align(codes, other_codes)
    found = []
    if by_content is not None:
        between = gaps(by_content, *sizes)
        filled = [pair for here, there in between for pair in _pair_gap(here, there, opcodes, other_opcodes)]
        found.append(Pairing([*by_content, *filled], *sizes))
    if by_opcode is not None:
        filled = [
            pair for gap in gaps(by_opcode, *sizes) if len(gap[0]) == len(gap[1]) for pair in zip(*gap, strict=True)
        ]
        found.append(Pairing([*by_opcode, *filled], *sizes))
    if found and len(codes) == len(other_codes):
        found.append(Pairing(((i, i) for i in range(len(codes))), *sizes))
    if found:
        return min(found, key=lambda pairing: _count_unequal(pairing, codes, other_codes))
    head = common_head(codes, other_codes)
    tail = common_tail(codes, other_codes, head)
    ends = [(i, i) for i in range(head)] + [(sizes[0] - left, sizes[1] - left) for left in range(tail, 0, -1)]
    return Pairing(ends, *sizes, complete=False)


def _pair_gap(
    here: range, there: range, opcodes: "Sequence[bytes]", other_opcodes: "Sequence[bytes]"
) -> "Iterable[tuple[int, int]]":
    """Pair what stands between equal instructions: one by one if there are as many, else by opcode."""
    if len(here) == len(there):
        return zip(here, there, strict=True)
    inside = align(opcodes[here.start : here.stop], other_opcodes[there.start : there.stop], MOST_STEPS // 100)
    return [(here.start + i, there.start + j) for i, j in inside or ()]


def _count_unequal(pairing: Pairing, codes: "Sequence[int]", other_codes: "Sequence[int]") -> int:
    count = pairing.other_partner.count(ABSENT)
    return count + sum(
        partner == ABSENT or codes[i] != other_codes[partner] for i, partner in enumerate(pairing.partner)
    )
