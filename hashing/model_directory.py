"""A model directory (`graph.hlo`, `metadata.json`, `weights/*.npy`): one graph, and every other file by content."""

import os

from neuron_store.hashing.inputs import InputFile, Signature
from neuron_store.hashing.not_cacheable import NotCacheable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xxhash import xxh3_128

GRAPH = "graph.hlo"
_MOST_FILES = 100_000


class ModelDirectory:
    """A model directory, with the state of its files at the time it was read.

    Attributes:
        path: as the command line wrote it.
        size: of all files together, in bytes.
        graph: the file that holds the HLO, open.
    """

    def __init__(self, path: str) -> None:
        """Read the names below `path`. Raises NotCacheable if it is not a model directory or cannot be read."""
        self.path = path
        self._names = _names_below(path)
        if GRAPH not in self._names:
            raise NotCacheable("model_directory", f"{path} has no {GRAPH}")
        self.graph = InputFile(os.path.join(path, GRAPH))
        self._signatures: dict[str, Signature] = {}
        self.size = 0
        for name in self._names:
            file = InputFile(os.path.join(path, name))
            self._signatures[name] = file.signature
            self.size += file.size
            file.close()

    @property
    def name(self) -> str:
        """The directory's own name."""
        return os.path.basename(os.path.normpath(self.path))

    def others(self) -> "list[tuple[str, str]]":
        """The model's other files: (name below the model, path)."""
        return [(name, os.path.join(self.path, name)) for name in self._names if name != GRAPH]

    def feed(self, hasher: "xxh3_128") -> None:
        """Feed every file's name, size and bytes to `hasher`. Raises NotCacheable if one cannot be read."""
        hasher.update(b"directory\0")
        for name in self._names:
            encoded = os.fsencode(name)
            hasher.update(b"%d:%b" % (len(encoded), encoded))
            file = InputFile(os.path.join(self.path, name))
            try:
                file.feed(hasher)
            finally:
                file.close()

    def unchanged(self) -> bool:
        """Tell whether the same files are there in the same state."""
        try:
            if _names_below(self.path) != self._names:
                return False
            files = [InputFile(os.path.join(self.path, name)) for name in self._names]
        except NotCacheable:
            return False
        for file in files:
            file.close()
        return all(file.signature == self._signatures[name] for file, name in zip(files, self._names, strict=True))

    def close(self) -> None:
        """Close the graph's file."""
        self.graph.close()


def _names_below(path: str) -> list[str]:
    """Return the names of all files below `path`, relative to it, sorted. Raises NotCacheable."""
    found = []

    def refuse(error: OSError) -> None:
        raise NotCacheable("unreadable_input", str(error))

    for folder, folders, names in os.walk(path, onerror=refuse):
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                raise NotCacheable("model_directory", f"{os.path.join(folder, name)} is a link to a folder")
        found += [os.path.relpath(os.path.join(folder, name), path) for name in names]
        if len(found) > _MOST_FILES:
            raise NotCacheable("model_directory", f"{path} has more than {_MOST_FILES} files")
    return sorted(found)
