r"""Which compiler this is: its full version with the `+hash`, because defaults change between releases.

Order: the `neuronx_cc` dist-info beside the real script (read without running anything), then what `--version`
prints, then, for a compiler whose version cannot be read, the content of its file. The answer is remembered in a
memo file, for as long as the file at that path keeps its inode, size and times.

Grammar of a memo file, version 1:

    neuron-store compiler 1 <checksum of the rest, xxh3-128>\n
    <signature of the compiler file>\n
    <path of the METADATA file, or empty>\n
    <signature of that file, or empty>\n
    <identity>\n
"""

import os

from neuron_store.hashing.inputs import signature
from neuron_store.hashing.xxh3 import xxh3_128, xxh3_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MEMO_MAGIC = b"neuron-store compiler 1 "
_VERSION_WORDS = "NeuronX Compiler version "


class CompilerIdentity:
    """What a compiler is called in the key.

    Attributes:
        name: `neuronx-cc <version>` or `content <xxh3-128>`.
        evidence: the METADATA file that told the version, or "".
    """

    __slots__ = ("evidence", "name")

    def __init__(self, name: str, evidence: str = "") -> None:
        self.name = name
        self.evidence = evidence

    @property
    def version(self) -> str:
        """The bare version, or "" where it cannot be read."""
        return self.name[len("neuronx-cc ") :] if self.name.startswith("neuronx-cc ") else ""


def identify_compiler(path: str, ask_version: "Callable[[str], str]") -> CompilerIdentity:
    """Identify the compiler at `path`.

    `ask_version` runs it with --version and returns stdout and stderr merged (callers disagree on which of the two
    carries the version); it is called only where no dist-info tells. Raises OSError if the file cannot be read.
    """
    metadata = find_metadata(path)
    if metadata:
        version = _metadata_version(metadata)
        if version:
            return CompilerIdentity("neuronx-cc " + version, metadata)
    version = printed_version(ask_version(path))
    if version:
        return CompilerIdentity("neuronx-cc " + version)
    return CompilerIdentity("content " + file_digest(path))


def printed_version(text: str) -> str:
    """Return the version in what `neuronx-cc --version` printed, or "" if there is none."""
    _, found, rest = text.partition(_VERSION_WORDS)
    words = rest.split(None, 1)
    return words[0] if found and words and words[0][:1].isdigit() else ""


def find_metadata(path: str) -> str:
    """Return the METADATA file of the `neuronx_cc` distribution installed beside the script `path`, or "".

    With several of them (two Python versions, a broken upgrade) none is trusted.
    """
    binaries = os.path.dirname(os.path.realpath(path))
    found = _distributions(binaries)  # pip install --target DIR puts the script in DIR/bin
    prefix = os.path.dirname(binaries)
    found += _distributions(prefix)
    for library in ("lib", "lib64"):
        if library == "lib64" and os.path.islink(os.path.join(prefix, library)):
            continue
        for python in _entries(os.path.join(prefix, library)):
            if python.startswith("python"):
                for packages in ("site-packages", "dist-packages"):
                    found += _distributions(os.path.join(prefix, library, python, packages))
    return os.path.join(found[0], "METADATA") if len(found) == 1 else ""


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _distributions(directory: str) -> list[str]:
    return [
        os.path.join(directory, entry)
        for entry in _entries(directory)
        if entry.startswith("neuronx_cc-") and entry.endswith(".dist-info")
    ]


def _metadata_version(metadata: str) -> str:
    try:
        with open(metadata, encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Version:"):
                    return line[len("Version:") :].strip()
                if not line.strip():
                    break
    except OSError:
        pass
    return ""


def file_digest(path: str) -> str:
    """Return the XXH3-128 of a file's content (32 hex digits)."""
    hasher = xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def memo_name(path: str) -> str:
    """Return the name under which the identity of the compiler at `path` is remembered."""
    return xxh3_hex(os.fsencode(os.path.abspath(path)))


def recall_identity(memo: bytes, path: str) -> "CompilerIdentity | None":
    """Return the identity in a memo file's bytes if it still holds for the compiler at `path`, else None."""
    head, _, body = memo.partition(b"\n")
    if head != _MEMO_MAGIC + xxh3_hex(body).encode():
        return None
    compiler_state, evidence, evidence_state, name = os.fsdecode(body).split("\n")[:4]
    if _state(path) != compiler_state or _state(evidence) != evidence_state:
        return None
    return CompilerIdentity(name, evidence)


def make_memo(identity: CompilerIdentity, path: str) -> bytes:
    """Return the bytes of a memo file for `identity`, true of the compiler at `path` as it is now."""
    lines = (_state(path), identity.evidence, _state(identity.evidence), identity.name, "")
    body = os.fsencode("\n".join(lines))
    return _MEMO_MAGIC + xxh3_hex(body).encode() + b"\n" + body


def _state(path: str) -> str:
    if not path:
        return ""
    try:
        return " ".join(map(str, signature(os.stat(path))))
    except OSError:
        return "absent"
