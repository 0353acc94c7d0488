r"""What the shims of a store are at: a small file for each invocation that missed, there while it is served.

    in-flight/<pid>-<12 hex>

Grammar, version 1. What it is about, then each state that it came to, as it came to it; the last one counts:

    neuron-store in-flight 1 NUL (<name>=<value> NUL)* (<state>=<Unix seconds> NUL)+

Names: `key`; `module` (the input's file name); `model` and `run` (as the environment has them); `host`; `pid`; `ticks`
(when the process began, as /proc has it). What follows the last NUL is torn.

A shim has its file locked before it gets its name, and the kernel frees the lock however the shim dies: so a file that
nobody has locked is of a dead one. Where there are no locks, the process is looked for. Another host's locks may not be
seen from here: unless one of its files is seen locked, all are believed for a day. Nothing depends on these files.
"""

import fcntl
import os
import time

from neuron_store.hashing.inputs import open_regular
from neuron_store.store.layout import KEY_LENGTH, Layout, discard, is_hex, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Looking for the result, in remotes too; waiting for another's compile of the same key; compiling; storing.
ASKING, WAITING, COMPILING, STORING = "asking", "waiting", "compiling", "storing"
STATES = (WAITING, ASKING, COMPILING, STORING)  # the one who is furthest comes last
# How sure it is that a file's shim lives.
ALIVE, BELIEVED, DEAD = "alive", "believed", "dead"
_MAGIC = b"neuron-store in-flight 1"
_LARGEST = 64 << 10  # bytes; a file of ours has a few hundred
_FOREIGN = 86400.0  # seconds for which a file of another host is believed
_FIELDS = ("key", "module", "model", "run", "host", "pid", "ticks")


class InFlight:
    """The file of this process. Every method raises OSError where the store cannot be written; then there is no file."""

    __slots__ = ("_descriptor", "_layout", "_path", "_state")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._descriptor = -1
        self._path = ""
        self._state = ""

    def begin(self, said: "Mapping[str, str]") -> None:
        """Leave the file; `said` are `key`, `module` and what else is known, by the names of the grammar."""
        pid = os.getpid()
        fields = {**said, "host": os.uname().nodename, "pid": str(pid), "ticks": ticks_of(pid)}
        words = [_MAGIC]
        words += [os.fsencode(f"{name}={value}").replace(b"\0", b"") for name, value in fields.items() if value]
        descriptor, temporary = self._layout.open_temporary("in-flight-")
        path = f"{folder_of(self._layout)}/{pid}-{os.urandom(6).hex()}"
        try:
            write_all(descriptor, b"\0".join([*words, _encode(ASKING), b""]))
            try:
                os.rename(temporary, path)
            except FileNotFoundError:
                self._layout.make_folder(folder_of(self._layout))
                os.rename(temporary, path)
        except BaseException:
            os.close(descriptor)
            discard(temporary)
            raise
        self._descriptor, self._path, self._state = descriptor, path, ASKING

    def note(self, state: str) -> None:
        """Say that it came to `state`, unless it is there already."""
        if self._descriptor >= 0 and state != self._state:
            self._state = state
            os.write(self._descriptor, _encode(state) + b"\0")

    def end(self) -> None:
        """Take the file away, if there is one."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            discard(self._path)
            os.close(descriptor)


def _encode(state: str) -> bytes:
    return f"{state}={time.time():.3f}".encode()


class Flight:
    """One invocation in flight, as its file has it.

    Attributes:
        name: of its file: it is never that of another.
        key, module, model, run, host: as in the grammar, "" where unknown.
        pid: of the shim.
        state: one of STATES.
        begun: when it came into the store's sight, Unix seconds by its host's clock.
        since: when it came to its state.
        compiling: when the compiler was started, None if it was not.
        life: ALIVE, BELIEVED or DEAD.
    """

    __slots__ = (
        "begun",
        "compiling",
        "host",
        "key",
        "life",
        "model",
        "module",
        "name",
        "pid",
        "run",
        "since",
        "state",
        "ticks",
    )

    def __init__(self, name: str, said: "Mapping[str, str]", states: "list[tuple[str, float]]") -> None:
        self.name = name
        self.key, self.module, self.model, self.run, self.host, pid, self.ticks = (
            said.get(field, "") for field in _FIELDS
        )
        self.pid = int(pid)
        self.begun = states[0][1]
        self.state, self.since = states[-1]
        self.compiling = dict(states).get(COMPILING)
        self.life = ALIVE


def folder_of(layout: Layout) -> str:
    """Return the folder of these files."""
    return f"{layout.root}/in-flight"


def decode_flight(name: str, data: bytes) -> "Flight | None":
    """Return what a file says, None if it is torn before its first state, or none of ours."""
    words = data.split(b"\0")[:-1]  # what follows the last NUL is torn
    if words[:1] != [_MAGIC]:
        return None
    said: dict[str, str] = {}
    states: list[tuple[str, float]] = []
    for word in words[1:]:
        field, _, value = os.fsdecode(word).partition("=")
        if field in _FIELDS and not states:
            said[field] = value
        elif field in STATES and (moment := _moment(value)):
            states.append((field, moment))
    pid = said.get("pid", "")
    if not states or not is_hex(said.get("key", ""), KEY_LENGTH) or not (pid.isascii() and pid.isdigit()):
        return None
    return Flight(name, said, states) if len(pid) < 10 else None


def _moment(text: str) -> float:
    """Return a Unix time, 0 if it is none."""
    try:
        moment = float(text)
    except ValueError:
        return 0.0
    return moment if 0 < moment < 1e11 else 0.0


def read_flights(layout: Layout) -> "list[Flight]":
    """Return what is in flight in a store, in the order in which it began; dead ones too, and say so."""
    try:
        names = os.listdir(folder_of(layout))
    except OSError:
        return []
    flights = [flight for name in names if (flight := _read(f"{folder_of(layout)}/{name}", name))]
    seen = {flight.host for flight in flights if flight.life == ALIVE}
    for flight in flights:
        if flight.life == BELIEVED and flight.host in seen:
            flight.life = DEAD  # that host's locks are seen from here, and this file has none
    return sorted(flights, key=lambda flight: (flight.begun, flight.name))


def _read(path: str, name: str) -> "Flight | None":
    try:
        descriptor = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        flight = decode_flight(name, os.pread(descriptor, _LARGEST, 0))
        if flight is not None:
            flight.life = _life(flight, descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return flight


def _life(flight: Flight, descriptor: int) -> str:
    """Tell whether the shim of an open file lives."""
    locks = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return ALIVE
    except OSError:
        locks = False
    if flight.host != os.uname().nodename:
        return BELIEVED if time.time() - os.fstat(descriptor).st_mtime < _FOREIGN else DEAD
    return ALIVE if not locks and flight.ticks and ticks_of(flight.pid) == flight.ticks else DEAD


def ticks_of(pid: int) -> str:
    """Return when a process of this host began, in clock ticks since its boot; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return words[19].decode() if len(words) > 19 else ""


def sweep_flights(layout: Layout, older_than: float) -> int:
    """Delete the files of shims that died, and what is none of ours and older (seconds); return how many."""
    try:
        names = os.listdir(folder_of(layout))
    except OSError:
        return 0
    flights = {flight.name: flight.life for flight in read_flights(layout)}
    swept = 0
    for name in names:
        path = f"{folder_of(layout)}/{name}"
        if flights.get(name) == DEAD or (name not in flights and _is_old(path, older_than)):
            try:
                os.unlink(path)
            except OSError:
                continue
            swept += 1
    return swept


def _is_old(path: str, older_than: float) -> bool:
    try:
        return time.time() - os.stat(path, follow_symlinks=False).st_mtime > older_than
    except OSError:
        return False
