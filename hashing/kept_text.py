"""The strings that a fingerprint keeps, and the stripped names of instructions and computations that they mention.

A string that mentions a stripped name must not come to mean another instruction unnoticed. To find a name that is not
mentioned costs a needless miss, to overlook one that is could be a wrong hit: so every field that may hold text counts,
and where a field can be read as a message, the strings in it count too, by themselves, because the length before a
string may look like its first letter.
"""

import re

from neuron_store.hashing.wire import LENGTH, MalformedError, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.wire import Buffer

_ATOM = re.compile(rb"[A-Za-z0-9_]+")
ABSOLUTE_PATHS = re.compile(rb"/[^\s\"',;:=()\[\]{}<>|\0-\x1f]+")
# Bytes that are not understood hold paths of the sources, too; these are of data that a compiler would read.
_DATA_PATHS = re.compile(
    rb"/[^\s\"',;:=()\[\]{}<>|\0-\x1f\x7f-\xff]+\.(?:npy|npz|klir|bir|colz|safetensors|pt|bin|neff)\b"
)
_NOT_IN_ATOMS = bytes(byte for byte in range(256) if not _ATOM.match(bytes([byte])))
_MOST_TEXT = 16 << 20  # bytes of distinct strings
_MOST_ATOMS = 64  # in a name; `fusion.12.clone.3` has four
_DEEPEST = 16


class KeptText:
    """Distinct kept strings of one module."""

    __slots__ = ("_size", "_texts")

    def __init__(self) -> None:
        self._texts: set[bytes] = set()
        self._size = 0

    def note(self, text: bytes, depth: int = 0) -> None:
        """Add a field's content: as a string, and as a message of strings if it is one. Raises MalformedError."""
        if text in self._texts:
            return
        self._size += len(text)
        if self._size > _MOST_TEXT or depth > _DEEPEST:
            raise MalformedError("too much text to search for names")
        self._texts.add(text)
        try:
            strings = [text[content:end] for tag, _, content, end in fields(text, 0, len(text)) if tag & 7 == LENGTH]
        except MalformedError:
            return
        for string in strings:
            self.note(string, depth + 1)

    def paths(self) -> frozenset[bytes]:
        """Return what looks like an absolute path in a kept string."""
        return frozenset(path for text in self._texts if b"/" in text for path in ABSOLUTE_PATHS.findall(text))

    def mentions(self, names: list[bytes]) -> list[tuple[int, bytes]]:
        """Return position and name of each of `names` that stands in a string between what no name is made of."""
        if not self._texts:
            return []
        cores = {name.strip(_NOT_IN_ATOMS) for name in names}
        longest = max(len(_ATOM.findall(core)) for core in cores) if cores else 0
        if longest > _MOST_ATOMS:
            raise MalformedError("a name of too many parts")
        found = {b""}  # a name without a letter or digit counts as mentioned
        for text in self._texts:
            spans = [match.span() for match in _ATOM.finditer(text)]
            for index, (start, _) in enumerate(spans):
                for _, end in spans[index : index + longest]:
                    if text[start:end] in cores:
                        found.add(text[start:end])
        return [(place, name) for place, name in enumerate(names) if name and name.strip(_NOT_IN_ATOMS) in found]


def data_paths(buffer: "Buffer") -> frozenset[bytes]:
    """Return what looks like the absolute path of a data file in bytes that are not understood."""
    return frozenset(_DATA_PATHS.findall(buffer))
