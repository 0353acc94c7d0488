r"""Direct entries: all that a local hit needs, in one small file that is read without a parser.

Grammar, version 1 (text in UTF-8 with surrogate escapes; the checksum is the XXH3-128 of all that follows its line):

    neuron-store direct 1 <checksum>\n
    <key> <compile seconds> <number of outputs> <number of side files>\n
    <interleave>\n
    output*
    side file*
    \n
    <the inline bytes of all outputs, concatenated>

    output     = <role> <sha256> <xxh3-128> <size> <encoding> <inline length, or -1 if only in a blob>\n
    side file  = <device> <inode> <size> <mtime ns> <ctime ns> <sha256> <path, percent-encoded>\n
                 a file that the model reaches by a path: the entry holds only while its content does
    role       = "neff" | "wrapped_neff" | "log" | "log_appended" | "stdout" | "stderr"
    encoding   = "raw" | "zst", how the blob is stored
    interleave = the order in which stdout and stderr were written: o<length>, e<length> … separated by spaces; "-" if
                 there is nothing to tell

All digests and the size are of the uncompressed content.
"""

import os

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import is_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"neuron-store direct 1 "
INLINE_LIMIT = 16384  # bytes; a compile's stdout is about 100
ROLES = ("neff", "wrapped_neff", "log", "log_appended", "stdout", "stderr")
ENCODING_SUFFIX = {"raw": "", "zst": ".zst"}


class Output:
    """One output of a compile, by digest.

    Attributes:
        role: one of ROLES.
        sha256, xxh3: of the content, hex.
        size: of the content, in bytes.
        encoding: how its blob is stored, a key of ENCODING_SUFFIX.
        inline: the content itself where it is small, else None.
    """

    __slots__ = ("encoding", "inline", "role", "sha256", "size", "xxh3")

    def __init__(self, role: str, sha256: str, xxh3: str, size: int, encoding: str, inline: "bytes | None") -> None:
        self.role = role
        self.sha256 = sha256
        self.xxh3 = xxh3
        self.size = size
        self.encoding = encoding
        self.inline = inline


class DirectEntry:
    """What a direct key leads to.

    Attributes:
        key: the key of the result.
        seconds: how long the compile took, None where that is unknown.
        interleave: the order of stdout and stderr.
        outputs: role -> Output.
        side_files: (path as the model has it, sha256 of its content, its state as numbers).
    """

    __slots__ = ("interleave", "key", "outputs", "seconds", "side_files")

    def __init__(
        self,
        key: str,
        seconds: "float | None",
        interleave: str,
        outputs: "dict[str, Output]",
        side_files: "Sequence[tuple[str, str, tuple[int, ...]]]" = (),
    ) -> None:
        self.side_files = list(side_files)
        self.key = key
        self.seconds = seconds
        self.interleave = interleave
        self.outputs = outputs


def encode_direct(entry: DirectEntry) -> bytes:
    """Return the bytes of a direct entry's file."""
    seconds = "-" if entry.seconds is None else repr(entry.seconds)
    lines = [f"{entry.key} {seconds} {len(entry.outputs)} {len(entry.side_files)}", entry.interleave or "-"]
    inline = b""
    for output in entry.outputs.values():
        length = -1 if output.inline is None else len(output.inline)
        inline += output.inline or b""
        lines.append(f"{output.role} {output.sha256} {output.xxh3} {output.size} {output.encoding} {length}")
    for path, sha256, state in entry.side_files:
        lines.append(f"{' '.join(map(str, state))} {sha256} {_escape(path)}")
    body = "\n".join([*lines, "", ""]).encode() + inline
    return MAGIC + xxh3_hex(body).encode() + b"\n" + body


def decode_direct(data: bytes) -> DirectEntry:
    """Read a direct entry's file. Raises CorruptEntry if it is not whole."""
    head, _, body = data.partition(b"\n")
    if head != MAGIC + xxh3_hex(body).encode():
        raise CorruptEntry("the direct entry is torn or of another format")
    text, _, inline = body.partition(b"\n\n")
    try:
        return _decode_lines(text.decode().split("\n"), inline)
    except (ValueError, IndexError) as error:
        raise CorruptEntry(f"the direct entry cannot be read: {error}") from error


def _decode_lines(lines: list[str], inline: bytes) -> DirectEntry:
    key, seconds, count, side_count = lines[0].split(" ")
    if not is_hex(key, 32):
        raise ValueError("no key")
    outputs = {}
    position = 0
    for line in lines[2 : 2 + int(count)]:
        role, sha256, xxh3, size, encoding, length_text = line.split(" ")
        length = int(length_text)
        content = None
        if length >= 0:
            content = inline[position : position + length]
            position += length
        if role not in ROLES or encoding not in ENCODING_SUFFIX:
            raise ValueError(line)
        outputs[role] = Output(role, sha256, xxh3, int(size), encoding, content)
    if "neff" not in outputs:
        raise ValueError("no NEFF")
    side_files = []
    for line in lines[2 + int(count) : 2 + int(count) + int(side_count)]:
        *state, sha256, path = line.split(" ")
        side_files.append((_unescape(path), sha256, tuple(map(int, state))))
    if len(side_files) != int(side_count):
        raise ValueError("side files are missing")
    interleave = "" if lines[1] == "-" else lines[1]
    return DirectEntry(key, None if seconds == "-" else float(seconds), interleave, outputs, side_files)


def _escape(path: str) -> str:
    return "".join(
        c if (c.isalnum() and c.isascii()) or c in "/._-+" else "".join(f"%{b:02x}" for b in os.fsencode(c))
        for c in path
    )


def _unescape(path: str) -> str:
    first, *rest = path.encode().split(b"%")
    return os.fsdecode(first + b"".join(bytes([int(piece[:2], 16)]) + piece[2:] for piece in rest))
