"""Which elements of two sequences belong together: a longest common subsequence, or one nearly as long.

Equal beginnings and ends are trimmed; between them Myers' greedy algorithm (1986) looks for the shortest edit. Its work
grows with length times differences. Where that is too much, each difference is bridged by itself, by the nearest place
after which both go on alike. Both give up, in bounded work, where two sequences have little in common.
"""

from array import array
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

MOST_STEPS = 3_000_000  # about two seconds
_ALIKE = 12  # equal elements in a row that make it likely that two places belong together
_FAR = 48  # elements that a bridge may leave out on both sides; on one side alone, any number


def align(
    one: "Sequence[Hashable]", other: "Sequence[Hashable]", most_steps: int = MOST_STEPS
) -> "list[tuple[int, int]] | None":
    """Return the index pairs of equal elements, increasing in both; None if they cannot be found in some such steps."""
    head = common_head(one, other)
    tail = common_tail(one, other, head)
    inner, other_inner = one[head : len(one) - tail], other[head : len(other) - tail]
    middle = _shortest_edit(inner, other_inner, most_steps)
    if middle is None:
        middle = _bridged(inner, other_inner, most_steps)
    if middle is None:
        return None
    pairs = [(index, index) for index in range(head)]
    pairs += [(head + i, head + j) for i, j in middle]
    pairs += [(len(one) - left, len(other) - left) for left in range(tail, 0, -1)]
    return pairs


def common_head(one: "Sequence[Hashable]", other: "Sequence[Hashable]") -> int:
    """Return how many elements at the beginning are equal."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def common_tail(one: "Sequence[Hashable]", other: "Sequence[Hashable]", head: int) -> int:
    """Return how many elements at the end are equal, the first `head` of both left out."""
    most = min(len(one), len(other)) - head
    count = 0
    while count < most and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def fewest_differences(one: "Sequence[Hashable]", other: "Sequence[Hashable]") -> int:
    """Return how many elements at least are not common to both, in whatever order: a change counts once."""
    common = sum((Counter(one) & Counter(other)).values())
    return max(len(one), len(other)) - common


def gaps(pairs: "Sequence[tuple[int, int]]", length: int, other_length: int) -> "list[tuple[range, range]]":
    """Return the stretches of both sequences between `pairs`, in order; those that are empty in both left out."""
    found = []
    i = j = 0
    for left, right in [*pairs, (length, other_length)]:
        if left > i or right > j:
            found.append((range(i, left), range(j, right)))
        i, j = left + 1, right + 1
    return found


def _shortest_edit(
    one: "Sequence[Hashable]", other: "Sequence[Hashable]", most_steps: int
) -> "list[tuple[int, int]] | None":
    """Return the pairs that a shortest edit keeps. Diagonal k holds the points (x, x - k)."""
    length, other_length = len(one), len(other)
    if not length or not other_length:
        return []
    common = sum((Counter(one) & Counter(other)).values())
    least_edits = length + other_length - 2 * common
    if least_edits * least_edits // 4 > most_steps:
        return None
    offset = length + other_length + 1
    reached = array("q", bytes(8 * (2 * offset + 1)))  # diagonal -> the furthest x on it
    history: list[tuple[int, array[int]]] = []  # per edit: the first diagonal that was kept, and what was reached
    steps = 0
    for edits in range(length + other_length + 1):
        low = -edits + 2 * max(0, edits - other_length)
        high = edits - 2 * max(0, edits - length)
        history.append((low - 1, reached[offset + low - 1 : offset + high + 2]))
        for k in range(low, high + 1, 2):
            down = k == -edits or (k != edits and reached[offset + k - 1] < reached[offset + k + 1])
            x = begun = reached[offset + k + 1] if down else reached[offset + k - 1] + 1
            while x < length and x - k < other_length and one[x] == other[x - k]:
                x += 1
            reached[offset + k] = x
            steps += x - begun + 1
            if x >= length and x - k >= other_length:
                return _walk_back(history, length, other_length)
        if steps > most_steps:
            return None
    raise AssertionError


def _walk_back(history: "list[tuple[int, array[int]]]", x: int, y: int) -> list[tuple[int, int]]:
    pairs = []
    for edits in range(len(history) - 1, 0, -1):
        first, reached = history[edits]
        k = x - y
        down = k == -edits or (k != edits and reached[k - 1 - first] < reached[k + 1 - first])
        before = k + 1 if down else k - 1
        before_x = reached[before - first]
        before_y = before_x - before
        start = before_x if down else before_x + 1
        pairs += [(at, at - k) for at in range(x - 1, start - 1, -1)]
        x, y = before_x, before_y
    pairs += [(at, at) for at in range(x - 1, -1, -1)]
    pairs.reverse()
    return pairs


def _bridged(one: "Sequence[Hashable]", other: "Sequence[Hashable]", most_steps: int) -> "list[tuple[int, int]] | None":
    """Return the pairs that are found by going along both sequences and over each difference by the next bridge."""
    pairs = []
    i = j = steps = 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
            continue
        for left, right in _bridges(len(one) - i, len(other) - j):
            steps += 1
            if _alike(one, i + left, other, j + right):
                break
        else:
            return None
        if steps > most_steps:
            return None
        i, j = i + left, j + right
    return pairs


def _bridges(length: int, other_length: int) -> "Iterator[tuple[int, int]]":
    """Yield how many elements to leave out on both sides, the fewest first, and changed ones before added ones."""
    for far in range(1, _FAR + 1):
        for less in range(far + 1):
            yield far, far - less
            if less:
                yield far - less, far
    for far in range(_FAR + 1, max(length, other_length)):
        yield far, 0
        yield 0, far


def _alike(one: "Sequence[Hashable]", i: int, other: "Sequence[Hashable]", j: int) -> bool:
    """Tell whether both go on alike: for so many elements, or to the end of both."""
    for ahead in range(_ALIKE):
        ends = (i + ahead >= len(one), j + ahead >= len(other))
        if any(ends):
            return all(ends)
        if one[i + ahead] != other[j + ahead]:
            return False
    return True
