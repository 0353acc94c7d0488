r"""Records: what a remote knows of one result, and nothing that is private to where it was made.

Grammar, version 1: a JSON object of at most LARGEST_RECORD bytes.

    format            "neuron-store record 1"
    key               32 hex digits, as in the record's own name
    proof             the SHA-256 over the components (hashing/keys.py): a key is a name, this is what is believed
    input             name, size in bytes, sha256 and mode of the canonical input
    components        name, digest, fields; private names in the fields are replaced (private_names.py), and what a
                      terminal would not show as it is has a backslash escape
    outputs           role, sha256, xxh3, size; and either `inline` (base64: small text), or
                      encoding, stored_sha256, stored_size of the blob
    inputs            like outputs, with kind and name: the kept inputs, where the uploader's setting says so
    interleave        see store/direct.py; "" where text was changed on the way
    seconds           of compile, null where unknown
    compiler_version  "" where it has none that can stand in a file name
    created           Unix seconds
    neuron_store      the version that made it
    stock             may be missing: the module that its caller looked for in a stock cache, and the options as they were
                      written, without a log file's, if nothing in them is private: for `neuron-store export` elsewhere;
                      without_logfile is true where they had one, with which they give the hash of the module's name

The blobs are the local store's own files, byte for byte. Text that a compile printed is uploaded without private
names, so it may differ from the local one; a NEFF is uploaded as the compiler made it.
"""

import base64
import hashlib
import json
import os
import re

from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.native import load_extension
from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.blobs import MissingBlob, read_blob
from neuron_store.store.direct import ENCODING_SUFFIX, INLINE_LIMIT, ROLES, Output, require_sense
from neuron_store.store.errors import CorruptEntry, CorruptRemote, NeuronStoreError
from neuron_store.store.layout import BLOB_LENGTH, KEY_LENGTH, is_hex
from neuron_store.store.remotes.base import FOLDER_PREFIX, Addition, record_path, remote_blob_path, version_folder
from neuron_store.store.remotes.stored_bytes import content_fault, measure_stored
from neuron_store.store.results import Result, checked_component
from neuron_store.store.stock.command import WITHOUT_LOGFILE, flags_of, lacks_logfile, module_of
from neuron_store.store.stock.flags import fits, without_logfile
from neuron_store.store.stock.names import flags_hash_of, is_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from neuron_store.store.layout import Layout
    from neuron_store.store.remotes.private_names import PrivateNames

FORMAT = "neuron-store record 1"
LARGEST_RECORD = 1 << 20  # bytes
LARGEST_TEXT = 4 << 20  # bytes; longer text of a compile stays at home
_BINARY_ROLES = ("neff", "wrapped_neff")
TEXT_ROLES = tuple(role for role in ROLES if role not in _BINARY_ROLES)
_LONGEST_NAME = 300  # characters
_NAME = re.compile(r"[a-z][a-z_]{0,39}")
_MOST_FIELDS = 10_000
_MOST_PARTS = 100  # components
_MOST_INPUTS = 1000
_MOST_FLAGS = 1000


class NotUploadable(NeuronStoreError):  # noqa: N818 - an answer, not an error
    """A result cannot be shared: it lacks what another host would believe it by, or is too large to describe."""


class StoredBlob:
    """One output of a record: its content by digest, and the bytes that a remote has for it.

    Attributes:
        output: role, sha256, xxh3, size, encoding of the content, as in the local store; `inline` is the content
            itself where the record carries it.
        stored_sha256, stored_size: of the remote's bytes; "" and 0 where the content is inline.
        kind, name: of a kept input, "" for an output.
    """

    __slots__ = ("kind", "name", "output", "stored_sha256", "stored_size")

    def __init__(
        self, output: Output, stored_sha256: str = "", stored_size: int = 0, kind: str = "", name: str = ""
    ) -> None:
        self.output = output
        self.stored_sha256 = stored_sha256
        self.stored_size = stored_size
        self.kind = kind
        self.name = name

    def remote_path(self, folder: str) -> str:
        """Return the blob's name in the remote."""
        return remote_blob_path(folder, self.output.sha256, ENCODING_SUFFIX[self.output.encoding])

    def as_dict(self) -> "dict[str, Any]":
        """Return it as the record has it."""
        output = self.output
        described: dict[str, Any] = {"kind": self.kind, "name": self.name} if self.kind else {"role": output.role}
        described |= {"sha256": output.sha256, "xxh3": output.xxh3, "size": output.size}
        if output.inline is not None:
            return described | {"inline": base64.b64encode(output.inline).decode()}
        return described | {
            "encoding": output.encoding,
            "stored_sha256": self.stored_sha256,
            "stored_size": self.stored_size,
        }


class Record:
    """A record, its fields checked. Attributes are those of the grammar, but for `outputs` and `inputs`: StoredBlob."""

    __slots__ = (
        "compiler_version",
        "components",
        "created",
        "input",
        "inputs",
        "interleave",
        "key",
        "neuron_store",
        "outputs",
        "proof",
        "seconds",
        "stock",
    )

    key: str
    proof: str
    input: "dict[str, Any]"
    components: "list[dict[str, Any]]"
    outputs: "list[StoredBlob]"
    inputs: "list[StoredBlob]"
    interleave: str
    seconds: "float | None"
    compiler_version: str
    created: float
    neuron_store: str
    stock: "dict[str, Any] | None"

    def as_dict(self) -> "dict[str, Any]":
        """Return the record as JSON-ready values."""
        stock = {"stock": self.stock} if self.stock else {}
        return {
            "format": FORMAT,
            "key": self.key,
            "proof": self.proof,
            "input": self.input,
            "components": self.components,
            "outputs": [blob.as_dict() for blob in self.outputs],
            "inputs": [blob.as_dict() for blob in self.inputs],
            "interleave": self.interleave,
            "seconds": self.seconds,
            "compiler_version": self.compiler_version,
            "created": self.created,
            "neuron_store": self.neuron_store,
            **stock,
        }

    def encode(self) -> bytes:
        """Return the record's file."""
        return json.dumps(self.as_dict(), indent=1).encode() + b"\n"

    def as_result(self, url: str) -> Result:
        """Return what the local store records of it; its outputs' encodings are those of the blobs."""
        return Result(
            key=self.key,
            components=self.components,
            outputs={blob.output.role: blob.output for blob in self.outputs},
            interleave=self.interleave,
            seconds=self.seconds,
            input_file={**self.input, "path": "", "reason": "", "proof": self.proof, "files": []},
            provenance={
                "created": self.created,
                "compiler_version": self.compiler_version,
                "neuron_store": self.neuron_store,
                "origin": url,
                **({"stock": {**self.stock, "by_name": False}} if self.stock else {}),
            },
        )


# -- out -----------------------------------------------------------------------------------------------------------


class Upload:
    """What is to be added to a remote for one result.

    Attributes:
        folder: the top folder, by the compiler's version.
        blobs: the additions that the record names, each once.
    """

    def __init__(self, record: Record, folder: str, blobs: "list[Addition]") -> None:
        self._record = record
        self.folder = folder
        self.blobs = blobs

    @property
    def record(self) -> Addition:
        """The record's own addition."""
        return Addition(record_path(self.folder, self._record.key), data=self._record.encode())

    def adopt(self, path: str, size: int, sha256: str) -> None:
        """Describe the bytes that the remote already has under the name of a blob, in place of ours.

        Another zstd makes other bytes of the same content. What is stored as it is has only one form: ours is sent.
        """
        named = [
            blob
            for blob in (*self._record.outputs, *self._record.inputs)
            if blob.output.inline is None and blob.remote_path(self.folder) == path and blob.output.encoding != "raw"
        ]
        for blob in named:
            blob.stored_size, blob.stored_sha256 = size, sha256
        if named:
            self.blobs = [addition for addition in self.blobs if addition.path != path]


def make_upload(layout: "Layout", result: Result, names: "PrivateNames", *, with_inputs: bool = False) -> Upload:
    """Return what a remote is to get for `result`.

    Raises NotUploadable; CorruptEntry if the store does not have all of it; OSError.
    """
    proof = result.input.get("proof")
    if not isinstance(proof, str) or not is_hex(proof, BLOB_LENGTH):
        raise NotUploadable(f"the result {result.key} has no proof of its inputs")
    names = names.joined_with({"folders": list(_own_folders(result))}).joined_with(_recorded_names(result))
    folder = version_folder(str(result.provenance.get("compiler_version") or ""))
    maker = _Maker(layout, names, folder)
    record = Record()
    record.key, record.proof = result.key, proof
    record.input = {
        "name": _visible(names.redact(os.path.basename(str(result.input.get("name", "")))))[:_LONGEST_NAME],
        "size": int(result.input.get("size", 0)),
        "sha256": str(result.input.get("sha256", "")),
        "mode": str(result.input.get("mode", "")),
    }
    record.components = [
        {**part, "fields": [_visible(names.redact_field(part["name"], field)) for field in part["fields"]]}
        for part in result.components
    ]
    record.outputs = [blob for output in result.outputs.values() if (blob := maker.output(output)) is not None]
    record.inputs = [maker.kept_input(file) for file in result.input.get("files", ())] if with_inputs else []
    record.interleave = "" if maker.text_changed else result.interleave
    record.seconds = result.seconds
    version = str(result.provenance.get("compiler_version") or "")
    record.compiler_version = version if version_folder(version) == FOLDER_PREFIX + version else ""
    record.created = float(int(result.provenance.get("created", 0)))
    record.neuron_store = str(result.provenance.get("neuron_store", ""))
    record.stock = _stock_of(result, names)
    encoded = record.encode()
    if len(encoded) > LARGEST_RECORD:
        raise NotUploadable(f"the record of {result.key} would be larger than {LARGEST_RECORD} bytes")
    try:
        decode_record(encoded, result.key, folder, 1 << 62)
    except CorruptRemote as error:
        raise NotUploadable(f"no other host would believe it: {error}") from error
    return Upload(record, folder, list(maker.additions.values()))


def _stock_of(result: Result, names: "PrivateNames") -> "dict[str, Any] | None":
    """Return the module and the options of a stock cache's caller, None if there are none, or something is private."""
    module, flags = module_of(result), flags_of(result)
    if not is_module(module) or flags is None:
        return None
    shared = without_logfile(flags)
    if len(shared) > _MOST_FLAGS or any(names.redact(flag) != flag or _visible(flag) != flag for flag in shared):
        return None
    lacking = lacks_logfile(result) or (shared != flags and fits(flags, flags_hash_of(module)))
    return _stock(module, shared, lacking=lacking)


def _stock(module: str, flags: "list[str]", *, lacking: bool) -> "dict[str, Any]":
    return {"module": module, "flags": flags, **({WITHOUT_LOGFILE: True} if lacking else {})}


def _own_folders(result: Result) -> "Iterator[str]":
    """Yield the absolute paths that the local record tells, which may have blanks in them."""
    for path in (result.provenance.get("directory"), result.input.get("path"), result.provenance.get("compiler")):
        if isinstance(path, str) and path.startswith("/"):
            yield path
            if os.path.dirname(path) != "/":
                yield os.path.dirname(path)


def _recorded_names(result: Result) -> "dict[str, list[str]]":
    """Return the private names that were found in the result where it was made."""
    recorded = result.provenance.get("private")
    return {
        str(kind): names
        for kind, names in (recorded.items() if isinstance(recorded, dict) else ())
        if type(names) is list
    }


class _Maker:
    """Describes blobs, and collects the additions that they need."""

    def __init__(self, layout: "Layout", names: "PrivateNames", folder: str) -> None:
        self.layout = layout
        self.names = names
        self.folder = folder
        self.additions: dict[str, Addition] = {}
        self.text_changed = False

    def output(self, output: Output) -> "StoredBlob | None":
        """Return the description of an output, None for one that stays at home."""
        if output.role in _BINARY_ROLES:
            return self._stored(output)
        if output.size > LARGEST_TEXT:
            self.text_changed = True
            return None
        text = read_blob(self.layout, output)
        redacted = self.names.redact_bytes(text)
        self.text_changed |= redacted != text and output.role in ("stdout", "stderr")
        return self._text(output.role, redacted)

    def _text(self, role: str, text: bytes) -> StoredBlob:
        sha256, xxh3 = hashlib.sha256(text).hexdigest(), xxh3_hex(text)
        if len(text) <= INLINE_LIMIT:
            return StoredBlob(Output(role, sha256, xxh3, len(text), "raw", text))
        zstd = load_extension("zstandard.backend_c")
        data = zstd.ZstdCompressor(write_checksum=True).compress(text)
        output = Output(role, sha256, xxh3, len(text), "zst", None)
        blob = StoredBlob(output, hashlib.sha256(data).hexdigest(), len(data))
        self.additions[blob.remote_path(self.folder)] = Addition(blob.remote_path(self.folder), data=data)
        return blob

    def _stored(self, output: Output, kind: str = "", name: str = "") -> StoredBlob:
        source = self.layout.blob_path(output.sha256, ENCODING_SUFFIX[output.encoding])
        size, sha256 = _measure_whole(output, source)
        blob = StoredBlob(output, sha256, size, kind, name)
        path = blob.remote_path(self.folder)
        self.additions[path] = Addition(path, source=source, size=size)
        return blob

    def kept_input(self, file: "dict[str, Any]") -> StoredBlob:
        """Return the description of an input that is kept with the result."""
        output = Output("neff", file["sha256"], file["xxh3"], file["size"], file["encoding"], None)
        return self._stored(output, file["kind"], _visible(self.names.redact(file["name"]))[:_LONGEST_NAME])


def _measure_whole(output: Output, path: str) -> "tuple[int, str]":
    """Return size and SHA-256 of a stored blob. Raises CorruptEntry if it is gone, or not what it must be."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError as error:
        raise MissingBlob(f"the blob {path} is gone") from error
    try:
        fault = content_fault(output, descriptor)
        if fault:
            raise CorruptEntry(fault, path)
        return measure_stored(descriptor)
    finally:
        os.close(descriptor)


# -- in ------------------------------------------------------------------------------------------------------------


def decode_record(data: bytes, key: str, folder: str, largest: int) -> Record:
    """Read the record of `key` from the remote's folder `folder`, believing nothing.

    `largest` is the size in bytes beyond which an output is not taken. Raises CorruptRemote.
    """
    try:
        return _decode(json.loads(data), key, folder, largest)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise CorruptRemote(f"the record of {key} cannot be believed: {_short(error)}") from error


def _decode(document: "Any", key: str, folder: str, largest: int) -> Record:  # noqa: ANN401 - JSON
    if type(document) is not dict or document.get("format") != FORMAT:
        raise ValueError("it is of another format")
    record = Record()
    record.key = _text(document, "key", 32)
    record.proof = _text(document, "proof", 64)
    record.compiler_version = _line(document, "compiler_version", 100)
    if record.key != key or not is_hex(record.proof, BLOB_LENGTH):
        raise ValueError("it is that of another key")
    if version_folder(record.compiler_version) != folder:
        raise ValueError("it is that of another compiler version")
    record.input = _decode_input(document["input"])
    record.components = [_decode_component(part) for part in _listed(document["components"], _MOST_PARTS)]
    if sum(len(part["fields"]) for part in record.components) > _MOST_FIELDS:
        raise ValueError("it has too many fields")
    record.outputs = [_decode_blob(entry, largest, "") for entry in _listed(document["outputs"], len(ROLES))]
    record.inputs = [
        _decode_blob(entry, largest, _line(entry, "kind", 20)) for entry in _listed(document["inputs"], _MOST_INPUTS)
    ]
    record.interleave = _text(document, "interleave", LARGEST_RECORD)
    record.seconds = document["seconds"]
    if record.seconds is not None and type(record.seconds) not in (int, float):
        raise TypeError("its seconds are no number")
    record.created = _number(document["created"])
    record.neuron_store = _line(document, "neuron_store", 100)
    record.stock = _decode_stock(document["stock"]) if "stock" in document else None
    outputs = {blob.output.role: blob.output for blob in record.outputs}
    if len(outputs) != len(record.outputs):
        raise ValueError("an output stands twice")
    require_sense(outputs, record.interleave, record.seconds)
    if outputs["neff"].inline is not None or outputs["neff"].size == 0:
        raise ValueError("its NEFF is no file")
    return record


def _decode_input(entry: "Any") -> "dict[str, Any]":  # noqa: ANN401 - JSON
    found: dict[str, Any] = {
        "name": _line(entry, "name", _LONGEST_NAME),
        "size": _count(entry["size"], 1 << 62),
        "sha256": _text(entry, "sha256", 64),
        "mode": _line(entry, "mode", 100),
    }
    if not is_hex(found["sha256"], BLOB_LENGTH) or "/" in found["name"]:
        raise ValueError("its input is none")
    return found


def _decode_stock(entry: "Any") -> "dict[str, Any]":  # noqa: ANN401 - JSON
    module = _line(entry, "module", _LONGEST_NAME)
    flags = _listed(entry["flags"], _MOST_FLAGS)
    if not is_module(module) or not all(type(flag) is str and flag.isprintable() for flag in flags):
        raise ValueError("its module is none")
    return _stock(module, flags, lacking=entry.get(WITHOUT_LOGFILE) is True)


def _decode_blob(entry: "Any", largest: int, kind: str) -> StoredBlob:  # noqa: ANN401 - JSON
    role = "neff" if kind else _text(entry, "role", 20)
    name = _line(entry, "name", _LONGEST_NAME) if kind else ""
    sha256, xxh3 = _text(entry, "sha256", 64), _text(entry, "xxh3", 32)
    size = _count(entry["size"], largest)
    if not is_hex(sha256, BLOB_LENGTH) or role not in ROLES:
        raise ValueError("an output is none")
    if role not in _BINARY_ROLES and size > LARGEST_TEXT:  # it would be held in memory, and printed
        raise ValueError("an output is more text than a record may have")
    if "inline" in entry:
        content = base64.b64decode(_text(entry, "inline", 2 * INLINE_LIMIT), validate=True)
        if len(content) != size or size > INLINE_LIMIT or hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("an output's content is not what it says")
        if xxh3_hex(content) != xxh3:
            raise ValueError("an output's content is not what it says")
        return StoredBlob(Output(role, sha256, xxh3, size, "raw", content), kind=kind, name=name)
    encoding = _text(entry, "encoding", 10)
    if encoding not in ENCODING_SUFFIX:
        raise ValueError(f"an output has an unknown encoding: {encoding!r}")
    stored_sha256 = _text(entry, "stored_sha256", 64)
    # zstd makes what does not shrink larger, by less than this.
    stored_size = _count(entry["stored_size"], size + size // 128 + 1024)
    if not is_hex(stored_sha256, BLOB_LENGTH) or stored_size == 0:
        raise ValueError("an output has no stored bytes")
    if encoding == "raw" and (stored_sha256, stored_size) != (sha256, size):
        raise ValueError("an output's stored bytes are not its content")
    return StoredBlob(Output(role, sha256, xxh3, size, encoding, None), stored_sha256, stored_size, kind, name)


def _decode_component(entry: "Any") -> "dict[str, Any]":  # noqa: ANN401 - JSON
    found = checked_component(entry)
    if not _NAME.fullmatch(found["name"]) or not is_hex(found["digest"], KEY_LENGTH):
        raise ValueError("a component is none")
    if not all(field.isprintable() for field in found["fields"]):
        raise ValueError("a component has a field that is no text")
    return found


def _listed(value: "Any", most: int) -> "list[Any]":  # noqa: ANN401 - JSON
    if type(value) is not list or len(value) > most:
        raise TypeError("a list is none, or too long")
    return value


def _text(entry: "Any", name: str, longest: int) -> str:  # noqa: ANN401 - JSON
    value = entry[name] if type(entry) is dict else None
    if type(value) is not str or len(value) > longest:
        raise TypeError(f"its {name} is no text of at most {longest} characters")
    return value


def _line(entry: "Any", name: str, longest: int) -> str:  # noqa: ANN401 - JSON
    """Return a text that a terminal shows as it is: it comes to be read by a person."""
    value = _text(entry, name, longest)
    if not value.isprintable():
        raise ValueError(f"its {name} has characters that nobody can see")
    return value


def _visible(text: str) -> str:
    """Return `text` with escapes for what `_line` does not take."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _count(value: object, largest: int) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError(f"a size is not from 0 to {largest}")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= float(value) < 1e11:  # type: ignore[arg-type]
        raise ValueError("a time is none")
    return float(value)  # type: ignore[arg-type]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
