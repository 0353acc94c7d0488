"""What each model's and each compiler's results take: blobs that several results share are counted once in a group.

A blob that results of two groups share is counted in both, so the groups may add up to more than the store holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from neuron_store.store.collection.inventory import Inventory


@dataclass
class Share:
    """One group of results.

    Attributes:
        results: how many.
        bytes: of their records, direct entries and blobs, each blob once.
        own: bytes that would be freed if the group went: blobs that no other group's results name.
    """

    results: int = 0
    bytes: int = 0
    own: int = 0


def share_of(held: Inventory, places: Iterable[int]) -> Share:
    """Return what the results at `places` take."""
    share = Share()
    names: dict[int, int] = {}
    for place in places:
        share.results += 1
        share.bytes += held.sizes[place]
        share.own += held.sizes[place]
        for blob in held.named[place]:
            names[blob] = names.get(blob, 0) + 1
    for blob, count in names.items():
        share.bytes += held.blob_sizes[blob]
        share.own += held.blob_sizes[blob] if count == held.blob_names[blob] else 0
    return share
