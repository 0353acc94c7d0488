"""Which recorded result is nearest to a compile, so that their difference says why it was none of them."""

from collections import Counter
from collections.abc import Iterable, Iterator

from neuron_store.cli.explanation import equal_components
from neuron_store.cli.sides import Side, side_of_result
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.results import all_keys, load_result


def nearest_result(layout: Layout, side: Side) -> tuple["Side | None", int]:
    """Return the recorded result that has most in common with `side`, and how many records could not be read."""
    unread = 0

    def others() -> Iterator[Side]:
        nonlocal unread
        for key in all_keys(layout):
            try:
                result = load_result(layout, key) if key != side.key else None
                if result is not None:
                    yield side_of_result(layout, result)
            except (CorruptEntry, OSError):
                unread += 1

    return nearest_of(side, others()), unread


def nearest_of(side: Side, others: Iterable[Side]) -> "Side | None":
    """Return that one of `others` which has most in common with `side`, None if there are none."""
    return max(others, key=lambda other: _likeness(side, other), default=None)


def _likeness(side: Side, other: Side) -> tuple[float, ...]:
    """Rank by equal components; then the same HLO, module name, most options and variables, nearly the size, and age."""
    equal = equal_components(side, other)
    unequal = sum(
        _count_unequal(side.components.get(name, []), fields)
        for name, fields in other.components.items()
        if name not in equal and name != "hlo"
    )
    same_name = side.module == other.module
    return (len(equal), "hlo" in equal, same_name, -unequal, -abs(side.size - other.size), other.created)


def _count_unequal(here: list[str], there: list[str]) -> int:
    mine, theirs = Counter(here), Counter(there)
    return sum((mine - theirs).values()) + sum((theirs - mine).values())
