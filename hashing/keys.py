"""Keys: the content address of a compile.

Grammar of what is hashed (XXH3-128), version KEY_VERSION; a change of it is a miss, never a migration:

    hashed    = "neuron-store " purpose " " KEY_VERSION NUL  component*
    purpose   = "component" | "direct" | "key"
    component = NUL name NUL field*
    field     = length(decimal) ":" bytes

    direct key: components compiler, flags, environment, host, side_inputs, then `input`:
                length(decimal) ":" the model file's bytes
                "directory" NUL (length ":" name length ":" bytes)* for a model directory's files by name
    component : its own fields; the digest that a result records
    key       : each component's name, with its digest as the one field

The name before each component and the length before each field keep neighbours apart: `-I -O2` never hashes like
`-I-O2`.
"""

from neuron_store.hashing.xxh3 import xxh3_128

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_VERSION = 1
KEY_LENGTH = 32  # hex digits


class Component:
    """One named part of what identifies a compile.

    Attributes:
        name: `compiler`, `flags`, `environment`, `host`, `hlo` or `side_inputs`.
        fields: what it was made of, in order.
    """

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: "Sequence[bytes]") -> None:
        self.name = name
        self.fields = tuple(fields)

    def digest(self) -> str:
        """Return the component's own XXH3-128 (32 hex digits)."""
        hasher = _KeyHasher(b"component")
        hasher.component(self)
        return hasher.hexdigest()


class _KeyHasher:
    def __init__(self, purpose: bytes) -> None:
        self._hash = xxh3_128(b"neuron-store %s %d\0" % (purpose, KEY_VERSION))

    def begin(self, name: str) -> None:
        self._hash.update(b"\0%s\0" % name.encode())

    def field(self, data: bytes) -> None:
        self._hash.update(b"%d:" % len(data))
        self._hash.update(data)

    def component(self, component: Component) -> None:
        self.begin(component.name)
        for field in component.fields:
            self.field(field)

    def stream(self, name: str) -> "xxh3_128":
        """Begin the last component, whose bytes the caller feeds to the returned hash."""
        self.begin(name)
        return self._hash

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def begin_direct_key(components: "Sequence[Component]") -> "xxh3_128":
    """Return a hash that becomes the direct key once the model was fed to it."""
    hasher = _KeyHasher(b"direct")
    for component in components:
        hasher.component(component)
    return hasher.stream("input")


def make_key(components: "Sequence[Component]") -> str:
    """Return the key (32 hex digits) over all components, by their digests."""
    hasher = _KeyHasher(b"key")
    for component in components:
        hasher.begin(component.name)
        hasher.field(component.digest().encode())
    return hasher.hexdigest()


def prove_components(components: "Sequence[Component]") -> str:
    """Return the SHA-256 (64 hex digits) over all components' fields.

    XXH3 names a compile, and names can be made to collide; a result from elsewhere is accepted by this.
    """
    import hashlib

    proof = hashlib.sha256(b"neuron-store proof %d\0" % KEY_VERSION)
    for component in components:
        proof.update(b"\0%s\0%d\0" % (component.name.encode(), len(component.fields)))
        for field in component.fields:
            proof.update(b"%d:" % len(field))
            proof.update(field)
    return proof.hexdigest()
