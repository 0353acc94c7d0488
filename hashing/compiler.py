r"""Which compiler this is: its full version with the `+hash`, because defaults change between releases.

Order: the `neuronx_cc` dist-info beside the real script (read without running anything), then what `--version`
prints, then, for a compiler whose version cannot be read, the content of its file with what it printed.

The answer is remembered in a memo file, for as long as everything that it was read from keeps its inode, size and
times: the program, the dist-info's METADATA, and whatever existing absolute path the program's text mentions if it is
a script (an interpreter, another compiler that it starts). The variables that lead programs to other files (PATH,
PYTHONPATH, LD_LIBRARY_PATH) are part of a memo's name.

Grammar of a memo file, version 1:

    neuron-store compiler 1 <checksum of the rest, xxh3-128>\n
    <identity>\n
    (<path>\n <state of the file there>\n)*
"""

import os

from neuron_store.hashing.inputs import signature
from neuron_store.hashing.xxh3 import xxh3_128, xxh3_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MEMO_MAGIC = b"neuron-store compiler 1 "
_LARGEST_SCRIPT = 1 << 16  # bytes that are searched for paths
_MOST_EVIDENCE = 32
_BETWEEN_WORDS = b"\"'`=:;,()<>|&$!\0"
_WORD_ENDS = bytes.maketrans(_BETWEEN_WORDS, b" " * len(_BETWEEN_WORDS))
_SEARCH_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_VERSION_WORDS = "NeuronX Compiler version "


class CompilerIdentity:
    """What a compiler is called in the key.

    Attributes:
        name: `neuronx-cc <version>` or `content <xxh3-128>`.
        evidence: the paths of the files that it was read from, the program first.
        state: of those files when it was read.
    """

    __slots__ = ("evidence", "name", "state")

    def __init__(self, name: str, evidence: "Sequence[str]", state: "list[str] | None" = None) -> None:
        self.name = name
        self.evidence = list(evidence)
        self.state = [_state(path) for path in self.evidence] if state is None else state

    @property
    def version(self) -> str:
        """The bare version, or "" where it cannot be read."""
        return self.name[len("neuronx-cc ") :] if self.name.startswith("neuronx-cc ") else ""

    def holds(self) -> bool:
        """Tell whether the files that it was read from are as they were."""
        return [_state(path) for path in self.evidence] == self.state


def identify_compiler(path: str, ask_version: "Callable[[str], str]") -> CompilerIdentity:
    """Identify the compiler at `path`.

    `ask_version` runs it with --version and returns stdout and stderr merged (callers disagree on which of the two
    carries the version); it is called only where no dist-info tells. Raises OSError if the file cannot be read.
    """
    metadata = find_metadata(path)
    version = _metadata_version(metadata) if metadata else ""
    if version:
        return CompilerIdentity("neuronx-cc " + version, [path, metadata])
    evidence = [path, *_paths_in_script(path)]
    before = [_state(each) for each in evidence]
    printed = ask_version(path)
    version = printed_version(printed)
    if version:
        return CompilerIdentity("neuronx-cc " + version, evidence, before)
    hasher = xxh3_128(printed.encode("utf-8", "replace"))
    hasher.update(file_digest(path).encode())
    return CompilerIdentity("content " + hasher.hexdigest(), evidence, before)


def _paths_in_script(path: str) -> list[str]:
    """Return the existing absolute paths that a script mentions; none for a program that is no script."""
    with open(path, "rb", buffering=0) as file:
        text = file.read(_LARGEST_SCRIPT)
    if not text.startswith(b"#!"):
        return []
    words = os.fsdecode(text.translate(_WORD_ENDS)).split()
    found = dict.fromkeys(word for word in words if word.startswith("/") and len(word) > 1 and os.path.isfile(word))
    return list(found)[:_MOST_EVIDENCE]


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
    return os.path.join(found[0], "METADATA") if len(found) == 1 and _installed(found[0], path) else ""


def _installed(distribution: str, path: str) -> bool:
    """Tell whether a distribution's RECORD, if it has one, lists the script `path` with the content that it has.

    A script of somebody else's that only lies beside the distribution may start another compiler.
    """
    try:
        with open(os.path.join(distribution, "RECORD"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(",") for line in file]
    except OSError:
        return True
    name = os.path.basename(os.path.realpath(path))
    hashes = [line[1] for line in lines if len(line) > 1 and line[0].rsplit("/", 1)[-1] == name]
    return any(not recorded or recorded == _record_hash(path) for recorded in hashes)


def _record_hash(path: str) -> str:
    """Return a file's SHA-256 as a RECORD writes it (PEP 376): urlsafe base64 without padding."""
    import base64
    import hashlib

    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


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


def memo_name(path: str, environ: "Mapping[str, str]") -> str:
    """Return the name under which the identity of the compiler at `path` is remembered."""
    parts = [os.path.abspath(path), os.path.realpath(path), *(environ.get(name, "") for name in _SEARCH_VARIABLES)]
    return xxh3_hex(os.fsencode("\0".join(parts)))


def recall_identity(memo: bytes) -> "CompilerIdentity | None":
    """Return the identity in a memo file's bytes if what it was read from is as it was, else None."""
    head, _, body = memo.partition(b"\n")
    if head != _MEMO_MAGIC + xxh3_hex(body).encode():
        return None
    name, *pairs = os.fsdecode(body).split("\n")[:-1]
    identity = CompilerIdentity(name, pairs[::2], pairs[1::2])
    return identity if identity.holds() else None


def make_memo(identity: CompilerIdentity) -> bytes:
    """Return the bytes of a memo file for `identity`."""
    lines = [identity.name]
    for path, state in zip(identity.evidence, identity.state, strict=True):
        lines += [path, state]
    body = os.fsencode("\n".join([*lines, ""]))
    return _MEMO_MAGIC + xxh3_hex(body).encode() + b"\n" + body


def _state(path: str) -> str:
    try:
        return " ".join(map(str, signature(os.stat(path))))
    except OSError:
        return "absent"
