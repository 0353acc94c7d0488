r"""Direct entries: all that a local hit needs, in one small file that is read without a parser.

Grammar, version 2 (text in UTF-8 with surrogate escapes; the checksum is the XXH3-128 of all that follows its line):

    neuron-store direct 2 <checksum>\n
    <direct key> <key> <compile seconds> <number of outputs> <number of side files>\n
    <interleave>\n
    output*                        each role once, "neff" among them
    side file*
    \n
    <the inline bytes of all outputs, concatenated>

    output     = <role> <sha256> <xxh3-128> <size> <encoding> <inline length, or -1 if only in a blob>\n
    side file  = <device> <inode> <size> <mtime ns> <ctime ns> <sha256> <path, percent-encoded>\n
                 a file that the model reaches by a path: the entry holds only while its content does
    role       = "neff" | "wrapped_neff" | "stdout" | "stderr", or for the log file that the command names
                 "log_appended" (the compiler appended to what was there), "log_replaced" (it overwrote what was there),
                 "log" (there was nothing before, so it is not known which of the two it does)
    encoding   = "raw" | "zst", how the blob is stored
    interleave = the order in which stdout and stderr were written: o<length>, e<length> … separated by spaces, all of
                 both; "-" if there is nothing to tell

All digests and the size are of the uncompressed content.
"""

import os

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import is_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"neuron-store direct 2 "
INLINE_LIMIT = 16384  # bytes; a compile's stdout is about 100
ROLES = ("neff", "wrapped_neff", "log", "log_appended", "log_replaced", "stdout", "stderr")
ENCODING_SUFFIX = {"raw": "", "zst": ".zst"}
_LARGEST = 1 << 62  # bytes
_LONGEST = 1e10  # seconds
_STATE_NUMBERS = 5


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


def encode_direct(entry: DirectEntry, direct_key: str) -> bytes:
    """Return the bytes of the file that `direct_key` leads to."""
    seconds = "-" if entry.seconds is None else repr(entry.seconds)
    counts = f"{len(entry.outputs)} {len(entry.side_files)}"
    lines = [f"{direct_key} {entry.key} {seconds} {counts}", entry.interleave or "-"]
    inline = b""
    for output in entry.outputs.values():
        length = -1 if output.inline is None else len(output.inline)
        inline += output.inline or b""
        lines.append(f"{output.role} {output.sha256} {output.xxh3} {output.size} {output.encoding} {length}")
    for path, sha256, state in entry.side_files:
        lines.append(f"{' '.join(map(str, state))} {sha256} {_escape(path)}")
    body = "\n".join([*lines, "", ""]).encode() + inline
    return MAGIC + xxh3_hex(body).encode() + b"\n" + body


def decode_direct(data: bytes, direct_key: str) -> DirectEntry:
    """Read the file that `direct_key` leads to. Raises CorruptEntry if it is not whole, or another key's."""
    head, _, body = data.partition(b"\n")
    if head != MAGIC + xxh3_hex(body).encode():
        raise CorruptEntry("the direct entry is torn or of another format")
    text, _, inline = body.partition(b"\n\n")
    try:
        return _decode_lines(text.decode().split("\n"), inline, direct_key)
    except (ValueError, IndexError) as error:
        raise CorruptEntry(f"the direct entry cannot be read: {error}") from error


def _decode_lines(lines: list[str], inline: bytes, direct_key: str) -> DirectEntry:
    own_key, key, seconds_text, *counts = lines[0].split(" ")
    if own_key != direct_key:
        raise ValueError(f"it is that of {own_key}")
    output_count, side_count = map(read_number, counts)
    if not is_hex(key, 32) or len(lines) != 2 + output_count + side_count:
        raise ValueError("no key, or not as many lines as announced")
    outputs: dict[str, Output] = {}
    position = 0
    for line in lines[2 : 2 + output_count]:
        role, sha256, xxh3, size, encoding, length = line.split(" ")
        content = None
        if length != "-1":
            content = inline[position : position + read_number(length)]
            position += read_number(length)
        if role in outputs:
            raise ValueError(line)
        outputs[role] = Output(role, sha256, xxh3, read_number(size), encoding, content)
    if position != len(inline):
        raise ValueError("not as many inline bytes as announced")
    side_files = [_decode_side_file(line) for line in lines[2 + output_count :]]
    interleave = "" if lines[1] == "-" else lines[1]
    seconds = None if seconds_text == "-" else float(seconds_text)
    require_sense(outputs, interleave, seconds)
    return DirectEntry(key, seconds, interleave, outputs, side_files)


def _decode_side_file(line: str) -> "tuple[str, str, tuple[int, ...]]":
    *state, sha256, path = line.split(" ")
    written = _unescape(path)
    if len(state) != _STATE_NUMBERS or not is_hex(sha256, 64) or not written or "\0" in written:
        raise ValueError(line)
    return written, sha256, tuple(map(int, state))


def read_number(text: str) -> int:
    """Return the number that plain decimal digits are. Raises ValueError for anything else."""
    if not (text.isdigit() and text.isascii()):
        raise ValueError(f"not a number: {text!r}")
    return int(text)


def require_sense(outputs: "dict[str, Output]", interleave: str, seconds: "float | None") -> None:
    """Raise ValueError for what no compile can have been: a checksum proves that bytes are whole, not that they are ours."""
    for output in outputs.values():
        if (
            output.role not in ROLES
            or output.encoding not in ENCODING_SUFFIX
            or not is_hex(output.sha256, 64)
            or not is_hex(output.xxh3, 32)
            or not 0 <= output.size < _LARGEST
            or (output.inline is not None and len(output.inline) != output.size)
        ):
            raise ValueError(f"no output: {output.role} {output.sha256}")
    if "neff" not in outputs:
        raise ValueError("no NEFF")
    if seconds is not None and not 0 <= seconds < _LONGEST:
        raise ValueError(f"no duration: {seconds}")
    if interleave:
        _require_all_text(outputs, interleave)


def _require_all_text(outputs: "dict[str, Output]", interleave: str) -> None:
    left = {"o": _size(outputs, "stdout"), "e": _size(outputs, "stderr")}
    for turn in interleave.split(" "):
        if turn[:1] not in left:
            raise ValueError(f"no turn: {turn!r}")
        left[turn[0]] -= read_number(turn[1:])
    if any(left.values()):
        raise ValueError("the turns of stdout and stderr are not all of their text")


def _size(outputs: "dict[str, Output]", role: str) -> int:
    return outputs[role].size if role in outputs else 0


def _escape(path: str) -> str:
    return "".join(
        c if (c.isalnum() and c.isascii()) or c in "/._-+" else "".join(f"%{b:02x}" for b in os.fsencode(c))
        for c in path
    )


def _unescape(path: str) -> str:
    first, *rest = path.encode().split(b"%")
    return os.fsdecode(first + b"".join(bytes([int(piece[:2], 16)]) + piece[2:] for piece in rest))
