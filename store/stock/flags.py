"""The options of a stock entry: how they are written, and the hash of them that its name ends with.

Two hashes are in use: the first 8 digits of the MD5 of the words with blanks between, and of their JSON. Both were
recomputed from public names: `+2c2d707e`, `+d41d8cd9` (none); `+e30acd3a`, `+d7517139` (none), `+d505a3f8`. They leave
out what libneuronxla adds by itself: `--framework=XLA`, the paths, and `--verbose=35`.
"""

import hashlib
import json
import shlex

from neuron_store.store.errors import CorruptEntry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_FLAGS = 1 << 20  # bytes
_MOST_FLAGS = 10_000
_DIGITS = 8
_LOGFILE, _OUTPUT = "--logfile", "--output"


def json_hash(flags: "Sequence[str]") -> str:
    """Return the hash of the options' JSON: the newer form."""
    return _md5(json.dumps(list(flags)))


def words_hash(flags: "Sequence[str]") -> str:
    """Return the hash of the options with blanks between: the older form."""
    return _md5(" ".join(flags))


def fits(flags: "Sequence[str]", flags_hash: str) -> bool:
    """Tell whether a module's name that ends with `flags_hash` is that of these options, in either form."""
    return flags_hash in (json_hash(flags), words_hash(flags))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()[:_DIGITS]


def without_logfile(flags: "Sequence[str]") -> "list[str]":
    """Return the options without that of a log file: it names a place, and nothing of what is compiled."""
    kept, skip = [], False
    for flag in flags:
        if skip or flag == _LOGFILE:
            skip = not skip
        elif not flag.startswith(_LOGFILE + "="):
            kept.append(flag)
    return kept


def place_in(flags: "Sequence[str]") -> str:
    """Return the option that names where the NEFF or a log file goes, perhaps abbreviated; "" if there is none."""
    return next((flag for flag in flags if _names_place(flag.partition("=")[0])), "")


def _names_place(name: str) -> bool:
    if " " in name:  # a value
        return False
    if not name.startswith("--"):
        return name.startswith("-o")
    return len(name) > 2 and any(full.startswith(name) for full in (_OUTPUT, _LOGFILE))


def encode_flags(flags: "Sequence[str]") -> bytes:
    """Return the content of an entry's `compile_flags.json`."""
    return json.dumps(list(flags)).encode()


def decode_flags(data: bytes) -> "list[str]":
    """Return the options in the content of a `compile_flags.json`. Raises CorruptEntry for anything else.

    Some callers hand libneuronxla one text of options, as a shell would read it.
    """
    try:
        flags = json.loads(data)
        if type(flags) is str:
            flags = shlex.split(flags)
    except (ValueError, RecursionError) as error:
        raise CorruptEntry(f"compile_flags.json cannot be read: {error}") from error
    if type(flags) is not list or len(flags) > _MOST_FLAGS:
        raise CorruptEntry("compile_flags.json is no list of options")
    if not all(type(flag) is str and _can_be_passed(flag) for flag in flags):
        raise CorruptEntry("compile_flags.json has something in it that is no option")
    return flags


def _can_be_passed(flag: str) -> bool:
    """Tell whether a program can be given `flag`. Bytes that are no text are fine; half of a character is not."""
    try:
        return b"\0" not in flag.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
