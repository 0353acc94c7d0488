r"""Contexts: which keys the runs of a model asked for, kept as names of small files, so that no process waits for another.

    contexts/<id>/context               what the caller's environment said of the model
    contexts/<id>/keys/<key>            one key that was asked for, hit or miss
    contexts/<id>/uncached/<counter>.<32 hex>   one compile that has no key, or whose result was not stored
    contexts/<id>/model.json            what was found out about the model (by a command, never by the shim)
    contexts/<id>/published/<remote>    the state (see `Context.state`) that a remote has already
    contexts/<id>/finished              a run ended well: what is noted is all that the model needs
    contexts/<id>/fault                 why it could not be published
    contexts/<id>/pulled                a registry told these keys, no run did: there is nothing to publish
    contexts/<id>/private               names of the user, host and home that noted it first
    contexts/.waiting                   there is something to publish, since its mtime

Grammar of `context`: `<name>=<value>` for each NEURON_STORE_MODEL variable, with a zero byte after each, in order of
the names. `<id>` is its XXH3, so that all processes of a run, and all runs alike, meet in one context. Grammar of a
key's file: three lines, the compiler's version, the compile's seconds, the module's name; each may be empty.

The shim writes here, on the way of a hit: nothing is imported that it has not.
"""

import os
import time

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import KEY_LENGTH, MODEL_VARIABLE, Layout, discard, is_hex, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

VARIABLE = MODEL_VARIABLE
# The fields of a context, as optimum-neuron names them; the variable of each is NEURON_STORE_MODEL_<FIELD>.
FIELDS = (
    "revision",
    "task",
    "batch_size",
    "sequence_length",
    "num_cores",
    "auto_cast_type",
    "dtype",
    "instance_type",
    "tensor_parallel_size",
    "set",
)
INTEGERS = ("batch_size", "sequence_length", "num_cores", "tensor_parallel_size")
_ID_LENGTH = 16
_OVERDUE = 60.0  # seconds after which someone should look again after what waits to be published
_MOST_UNCACHED = 1000  # noted; a run that makes up new names every time must not fill the store
# Outcomes that are no compile of the caller's own.
_NO_COMPILE = frozenset(
    "pass_" + reason
    for reason in (
        "autotuner",
        "help",
        "list_operators",
        "neff_info",
        "no_command",
        "no_input",
        "other_command",
        "query_compute_placement",
        "recursion",
        "version",
    )
) | {"error_no_compiler", "miss_killed"}


def context_of(environ: "Mapping[str, str]") -> "dict[str, str]":
    """Return what an environment says of the model: the NEURON_STORE_MODEL variables that are not empty.

    A model that is a path is made absolute: processes of one run may have different current folders.
    """
    said = {name: value for name, value in environ.items() if name.startswith(VARIABLE) and value}
    model = said.get(VARIABLE, "")
    if model and not model.startswith("/") and os.path.exists(model):
        said[VARIABLE] = os.path.abspath(model)
    return said


def encode_context(said: "Mapping[str, str]") -> bytes:
    """Return the content of a context's file."""
    return b"".join(os.fsencode(f"{name}={said[name]}") + b"\0" for name in sorted(said))


def note_invocation(
    layout: Layout,
    environ: "Mapping[str, str]",
    outcome: str,
    *,
    key: str,
    version: "str | None",
    seconds: "float | None",
    module: str,
) -> bool:
    """Note in its context how an invocation ended; return whether someone should publish it. Raises OSError.

    `key` is "" where there is none, `seconds` those of the compile.
    """
    if outcome in _NO_COMPILE:
        return False
    context = Context(layout, context_of(environ))
    if outcome.startswith("hit_") or outcome == "miss_stored":
        path = context.path("keys", key)
        lines = (version or "", "" if seconds is None else f"{seconds:.3f}", " ".join(module.split()))
        data = "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
    else:
        path = context.path("uncached", f"{outcome}.{key or xxh3_hex(os.fsencode(module))}")
        data = b""
    if context.begin():
        note_private_names(context, environ)
    if outcome == "miss_stored" and os.path.exists(path) and context.forget_published():
        # What was compiled before had gone from all remotes, and an entry there may have gone with it.
        layout.write_file(_waiting_path(layout), b"")
        return True
    if os.path.exists(path) or (not data and len(_names(os.path.dirname(path))) >= _MOST_UNCACHED):
        return _is_overdue(layout)
    layout.write_file(path, data)
    layout.write_file(_waiting_path(layout), b"")
    return True


def note_pulled(layout: Layout, model: str, keys: "Iterable[str]") -> None:
    """Note that a registry names these keys for `model`, in a context apart from those of its runs. Raises OSError."""
    context = Context(layout, {VARIABLE: model, f"{VARIABLE}_PULLED": "1"})
    context.begin()
    context.write("pulled", b"")
    for key in sorted(set(keys).difference(context.noted_keys())):
        context.write(f"keys/{key}", b"\n\n\n")


def note_private_names(context: "Context", environ: "Mapping[str, str]") -> None:
    """Note who and where we are, for whoever publishes this: it is not to be told. Raises OSError."""
    users = [environ.get(name, "") for name in ("USER", "LOGNAME")]
    hosts = [os.uname().nodename, environ.get("HOSTNAME", "")]
    lines = ["users", *users, "hosts", *hosts, "folders", environ.get("HOME", "")]
    context.write("private", "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "surrogateescape"))


def _waiting_path(layout: Layout) -> str:
    return f"{layout.root}/contexts/.waiting"


def _is_overdue(layout: Layout) -> bool:
    """Tell whether what was noted a while ago still waits: an uploader may have been killed. Only one is told so."""
    path = _waiting_path(layout)
    try:
        if abs(time.time() - os.stat(path).st_mtime) < _OVERDUE:
            return False
        os.utime(path)
    except OSError:
        return False
    return True


def all_is_published(layout: Layout) -> None:
    """Forget that something waits to be published."""
    discard(_waiting_path(layout))


class NotedKey:
    """What a context itself knows of a key: `version` of the compiler and `module` may be "", `seconds` None."""

    __slots__ = ("module", "seconds", "version")

    def __init__(self, content: bytes) -> None:
        lines = [*content.decode("utf-8", "surrogateescape").split("\n"), "", "", ""]
        self.version, self.module = lines[0], lines[2]
        try:
            seconds = float(lines[1])
        except ValueError:
            seconds = -1.0
        self.seconds = seconds if 0 <= seconds < 1e9 else None


class Context:
    """One context, as it is on disk.

    Attributes:
        id: 16 hex digits.
    """

    __slots__ = ("_content", "_layout", "id")

    def __init__(self, layout: Layout, said: "Mapping[str, str] | str") -> None:
        """Return the context of what an environment said (as `context_of` has it), or the one that has an id."""
        self._layout = layout
        self._content = b"" if isinstance(said, str) else encode_context(said)
        self.id = said if isinstance(said, str) else xxh3_hex(self._content)[:_ID_LENGTH]

    def begin(self) -> bool:
        """Keep what the environment said, if it is not kept yet, or not whole; return whether it was not.

        Raises OSError.
        """
        try:
            if os.stat(self.path("context")).st_size == len(self._content):
                return False
        except FileNotFoundError:
            pass
        self._layout.write_file(self.path("context"), self._content)
        return True

    def path(self, folder: str, name: str = "") -> str:
        """Return the path of one of its files."""
        return f"{self._layout.root}/contexts/{self.id}/{folder}/{name}".rstrip("/")

    def said(self) -> "dict[str, str]":
        """Return what the environment said: variable -> value. Raises OSError; CorruptEntry if it is torn."""
        content = read_file(self.path("context")) or b""
        if xxh3_hex(content)[:_ID_LENGTH] != self.id:
            raise CorruptEntry(f"the context {self.id} is torn; the next run of its model mends it")
        pairs = (os.fsdecode(pair).partition("=") for pair in content.split(b"\0") if pair)
        return {name: value for name, _, value in pairs if name.startswith(VARIABLE)}

    def noted_keys(self) -> "list[str]":
        """Return the keys that were asked for, in order."""
        return [name for name in _names(self.path("keys")) if is_hex(name, KEY_LENGTH)]

    def noted(self, key: str) -> NotedKey:
        """Return what was noted of a key. Raises OSError."""
        return NotedKey(read_file(self.path("keys", key)) or b"")

    def uncached(self) -> "dict[str, set[str]]":
        """Return the compiles without a key: counter -> names."""
        found: dict[str, set[str]] = {}
        for file in _names(self.path("uncached")):
            counter, _, name = file.partition(".")
            if is_hex(name, KEY_LENGTH) and counter.replace("_", "a").isalnum() and counter.isascii():
                found.setdefault(counter, set()).add(name)
        return found

    @property
    def is_finished(self) -> bool:
        """Whether a run is known to have ended well."""
        return os.path.exists(self.path("finished"))

    @property
    def is_pulled(self) -> bool:
        """Whether what is noted came from a registry, not from a run."""
        return os.path.exists(self.path("pulled"))

    def state(self) -> str:
        """Return a word that changes whenever something to publish is noted here, "" if nothing is."""
        if self.is_pulled:
            return ""
        noted = [*self.noted_keys(), *_names(self.path("uncached"))]
        noted += ["finished"] if noted and self.is_finished else []
        return xxh3_hex("\n".join(noted).encode("utf-8", "surrogateescape")) if noted else ""

    def is_published(self, remote: str, state: str) -> bool:
        """Tell whether `remote` (16 hex digits) was given what was noted here when `state` was asked for."""
        try:
            return not state or read_file(self.path("published", remote)) == state.encode()
        except OSError:
            return False

    def note_published(self, remote: str, state: str) -> None:
        """Remember that `remote` has all that stood here when `state` was asked for. Raises OSError."""
        self._layout.write_file(self.path("published", remote), state.encode())

    def forget_published(self) -> bool:
        """Let every remote be given again what it has, or had; return whether any had something."""
        names = _names(self.path("published"))
        for name in names:
            discard(self.path("published", name))
        return bool(names)

    def read(self, name: str) -> "bytes | None":
        """Return what `write` wrote, None if there is nothing. Raises OSError."""
        return read_file(self.path(name))

    def write(self, name: str, data: "bytes | None") -> None:
        """Write a file of the context's own; None removes it. Raises OSError."""
        if data is None:
            discard(self.path(name))
        else:
            self._layout.write_file(self.path(name), data)

    def private_names(self) -> "dict[str, list[str]]":
        """Return the names of whoever noted this first, by their kinds: users, hosts, folders."""
        found: dict[str, list[str]] = {"users": [], "hosts": [], "folders": []}
        kind = "users"
        try:
            lines = (self.read("private") or b"").decode("utf-8", "surrogateescape").split("\n")
        except OSError:
            return found
        for line in lines:
            if line in found:
                kind = line
            elif line and line != "/":
                found[kind].append(line)
        return found

    def fault(self) -> str:
        """Return why the last try to publish it failed, "" if it did not."""
        try:
            return (self.read("fault") or b"").decode("utf-8", "replace")
        except OSError:
            return ""


def all_contexts(layout: Layout) -> "Iterator[Context]":
    """Yield every context of a store, in order."""
    for name in _names(f"{layout.root}/contexts"):
        if is_hex(name, _ID_LENGTH):
            yield Context(layout, name)


def _names(path: str) -> "list[str]":
    try:
        return sorted(os.listdir(path))
    except OSError:  # there is none, or it cannot be read: what it holds is not noted
        return []
