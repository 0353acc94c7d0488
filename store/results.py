r"""Result records: what one compile was made of and what it made.

Grammar, version 1:

    neuron-store result 1 <xxh3-128 of the rest>\n
    <JSON object>

The object: `key`; `components` (name, digest, fields as text); `outputs` (role, sha256, xxh3, size in bytes,
encoding); `interleave` (see direct.py); `exit_code` (0); `seconds` of compile, null where unknown; `input` (name,
size in bytes, sha256 and mode of the canonical input, `proof`: the SHA-256 over all components); `provenance` (created
in Unix seconds, host, user, compiler path, command line, versions, `private`: names of users, hosts, folders and secrets that stand in the texts;
for a result that was fetched its `origin`).
"""

import os

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.blobs import read_blob
from neuron_store.store.direct import INLINE_LIMIT, DirectEntry, Output, require_sense
from neuron_store.store.errors import AmbiguousKey, CorruptEntry, NotAKey, NotFound
from neuron_store.store.layout import KEY_LENGTH, Layout, is_hex, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAGIC = b"neuron-store result 1 "


class Result:
    """A result record. Attributes are the fields of the grammar; `outputs` is role -> Output."""

    __slots__ = ("components", "input", "interleave", "key", "outputs", "provenance", "seconds")

    def __init__(
        self,
        *,
        key: str,
        components: "list[dict[str, Any]]",
        outputs: "dict[str, Output]",
        interleave: str,
        seconds: "float | None",
        input_file: "dict[str, Any]",
        provenance: "dict[str, Any]",
    ) -> None:
        self.key = key
        self.components = components
        self.outputs = outputs
        self.interleave = interleave
        self.seconds = seconds
        self.input = input_file
        self.provenance = provenance

    @property
    def size(self) -> int:
        """Bytes of all outputs, uncompressed."""
        return sum(output.size for output in self.outputs.values())

    def component(self, name: str) -> "list[str]":
        """Return the fields of a component, empty if the result has no such component."""
        for component in self.components:
            if component["name"] == name:
                return list(component["fields"])
        return []

    def as_dict(self) -> "dict[str, Any]":
        """Return the record as JSON-ready values."""
        outputs = [
            {"role": o.role, "sha256": o.sha256, "xxh3": o.xxh3, "size": o.size, "encoding": o.encoding}
            for o in self.outputs.values()
        ]
        return {
            "key": self.key,
            "components": self.components,
            "outputs": outputs,
            "interleave": self.interleave,
            "exit_code": 0,
            "seconds": self.seconds,
            "input": self.input,
            "provenance": self.provenance,
        }


def encode_result(result: Result) -> bytes:
    """Return the bytes of a result record's file."""
    import json

    body = json.dumps(result.as_dict(), indent=1).encode()
    return MAGIC + xxh3_hex(body).encode() + b"\n" + body


def decode_result(data: bytes) -> Result:
    """Read a result record's file. Raises CorruptEntry if it is not whole or lacks a field."""
    import json

    head, _, body = data.partition(b"\n")
    if head != MAGIC + xxh3_hex(body).encode():
        raise CorruptEntry("the result record is torn or of another format")
    try:
        return _from_dict(json.loads(body))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptEntry(f"the result record cannot be read: {error}") from error


def _from_dict(record: "Any") -> Result:  # noqa: ANN401 - JSON
    result = Result(
        key=_text(record["key"]),
        components=[checked_component(entry) for entry in record["components"]],
        outputs={entry["role"]: _output(entry) for entry in record["outputs"]},
        interleave=_text(record["interleave"]),
        seconds=_seconds(record["seconds"]),
        input_file=_object(record["input"]),
        provenance=_object(record["provenance"]),
    )
    if not is_hex(result.key, KEY_LENGTH) or len(result.outputs) != len(record["outputs"]):
        raise ValueError("no key, or an output that stands twice")
    require_sense(result.outputs, result.interleave, result.seconds)
    return result


def _output(entry: "dict[str, Any]") -> Output:
    role, sha256, xxh3, encoding = (_text(entry[name]) for name in ("role", "sha256", "xxh3", "encoding"))
    if type(entry["size"]) is not int:
        raise ValueError(f"no size: {entry['size']!r}")
    return Output(role, sha256, xxh3, entry["size"], encoding, None)


def checked_component(entry: "dict[str, Any]") -> "dict[str, Any]":
    """Return one component of a record, only what the grammar knows. Raises KeyError, TypeError."""
    fields = [_text(field) for field in entry["fields"]]
    return {"name": _text(entry["name"]), "digest": _text(entry["digest"]), "fields": fields}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def _object(value: object) -> "dict[str, Any]":
    if not isinstance(value, dict):
        raise TypeError(f"no object: {value!r}")
    return value


def _seconds(value: object) -> "float | None":
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise TypeError(f"no duration: {value!r}")


def load_result(layout: Layout, key: str) -> "Result | None":
    """Return the result of `key`, or None. Raises CorruptEntry for a bad record, OSError for a bad disk."""
    data = read_file(layout.result_path(key))
    if data is None:
        return None
    result = decode_result(data)
    if result.key != key:
        raise CorruptEntry(f"the record of {key} is that of {result.key}")
    return result


def save_result(layout: Layout, result: Result) -> None:
    """Write a result record. Its blobs must be in the store already. Raises OSError."""
    layout.write_file(layout.result_path(result.key), encode_result(result))


def direct_entry(layout: Layout, result: Result) -> DirectEntry:
    """Return the direct entry for `result`, its small outputs read in. Raises CorruptEntry, OSError."""
    for output in result.outputs.values():
        if output.inline is None and output.size <= INLINE_LIMIT and output.role != "neff":
            output.inline = read_blob(layout, output)
    return DirectEntry(result.key, result.seconds, result.interleave, result.outputs)


def all_keys(layout: Layout) -> "Iterator[str]":
    """Yield the keys of all results, in order."""
    for folder in _listing(f"{layout.root}/results"):
        for name in _listing(f"{layout.root}/results/{folder}"):
            if is_hex(name, KEY_LENGTH):
                yield name


def find_key(layout: Layout, prefix: str) -> str:
    """Return the one key that starts with `prefix`. Raises NotFound, NotAKey or AmbiguousKey."""
    if len(prefix) > KEY_LENGTH or not is_hex(prefix, len(prefix)) or not prefix:
        raise NotAKey(f"{prefix!r} is not a key: a key is up to {KEY_LENGTH} of the digits 0-9a-f")
    folders = [prefix[:2]] if len(prefix) > 1 else _listing(f"{layout.root}/results")
    found = [
        name
        for folder in folders
        for name in _listing(f"{layout.root}/results/{folder}")
        if name.startswith(prefix) and is_hex(name, KEY_LENGTH)
    ]
    if not found:
        raise NotFound(f"no result in {layout.root} has a key that starts with {prefix}; see `neuron-store list`")
    if len(found) > 1:
        shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise AmbiguousKey(f"{len(found)} keys start with {prefix} ({shown}); give more digits")
    return found[0]


def _listing(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
