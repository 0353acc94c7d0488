"""XXH3-128, the hash that names things (keys, checksums); SHA-256 is the one that proves them."""

from neuron_store.hashing.native import load_extension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xxhash import xxh3_128
else:
    xxh3_128 = load_extension("xxhash._xxhash").xxh3_128

__all__ = ["xxh3_128", "xxh3_hex"]


def xxh3_hex(data: "bytes | bytearray | memoryview") -> str:
    """Return the XXH3-128 of `data` as 32 hex digits."""
    return xxh3_128(data).hexdigest()
