"""What differs between two HLO modules that do not have the same fingerprint, in words.

Both are read by what their fingerprint is made of (names, ids and metadata left out) and compared by computations
and instructions. What cannot be told is said to be so, never guessed.
"""

from neuron_store.hashing import hlo_words
from neuron_store.hashing.hlo_comparison import Comparison, HloDifference
from neuron_store.hashing.hlo_fingerprint import CANONICAL, fingerprint_hlo
from neuron_store.hashing.hlo_outline import OutlineReader, mentioned_names
from neuron_store.hashing.wire import MalformedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.hlo_fingerprint import Rewrite

__all__ = ["HloDifference", "describe_difference"]

_FAULTS = (MalformedError, IndexError, KeyError, ValueError, OverflowError, RecursionError, MemoryError)


def describe_difference(
    one: bytes,
    other: bytes,
    *,
    keep_debug_info: bool = False,
    rewrite: "Rewrite | None" = None,
    other_rewrite: "Rewrite | None" = None,
) -> HloDifference:
    """Compare two HLO module protos. With `keep_debug_info`, names and metadata count.

    `rewrite` and `other_rewrite` are those of `fingerprint_hlo` for each. Never raises for what the modules hold.
    """
    prints = [
        fingerprint_hlo(data, keep_debug_info=keep_debug_info, rewrite=rewriter)
        for data, rewriter in ((one, rewrite), (other, other_rewrite))
    ]
    if prints[0].digest == prints[1].digest:
        return HloDifference(equal=True)
    unread = [
        f"the module {where} cannot be read ({made.reason})"
        for made, where in zip(prints, ("here", "there"), strict=True)
        if made.mode != CANONICAL
    ]
    if unread:
        return HloDifference(unknown="; ".join([*unread, _first_byte(one, other)]))
    reader = OutlineReader(keep_debug_info=keep_debug_info)
    try:
        comparison = Comparison(reader.read(one, rewrite), reader.read(other, other_rewrite))
        comparison.compare()
        found = comparison.found
        if not found.differing and not found.others:
            found.module = [_mentions(one, other)]
    except _FAULTS as error:
        return HloDifference(unknown=f"{type(error).__name__} while they were compared ({error})")
    return found


def _first_byte(one: bytes, other: bytes) -> str:
    sizes = f"{len(one):,} bytes here, {len(other):,} there"
    if one == other:
        return f"the bytes of both are the same, {sizes}"
    return f"{sizes}, the first difference at byte {_common_bytes(one, other):,}"


def _common_bytes(one: bytes, other: bytes) -> int:
    """Return how many bytes at the beginning are equal, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _mentions(one: bytes, other: bytes) -> str:
    """Say what differs where no field does: names that strings mention. Raises MalformedError."""
    mentioned, others = mentioned_names(one), mentioned_names(other)
    for left, right in zip(mentioned, others, strict=False):
        if left != right:
            names = sorted({hlo_words.text(name) for _, name in (left, right)})
            return f"a string in it mentions by its name what stands in another place, or has another name ({', '.join(names)})"
    if len(mentioned) != len(others):
        name = hlo_words.text((mentioned + others)[min(len(mentioned), len(others))][1])
        return f"a string in it mentions {name}, which is the name of an instruction or computation in one of them only"
    return "the encoding; every field has the same value"
