"""Run the real compiler as if the caller had: its cwd, environment, stdin, signals; its output live, and captured.

The compiler stays in the caller's process group, so that Ctrl-C at a terminal and a framework's killpg reach it as
they would without the shim; what is sent to the shim alone is forwarded. (What killpg sends reaches it twice: who
else got a signal cannot be told.) If the shim is killed outright, the kernel kills the compiler too
(PR_SET_PDEATHSIG): left running, it would write to an output that the next compile owns.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import tempfile
import time

from neuron_store.shim.execute import guarded
from neuron_store.shim.relay import Relay
from neuron_store.shim.signal_file import SignalFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IN_MEMORY = 1 << 20  # bytes of each stream before it goes to a file
_LONGEST_INTERLEAVE = 2000  # turns; beyond it stdout is replayed before stderr


class Capture:
    """What the compiler wrote to stdout and stderr, kept in files that have no name."""

    def __init__(self, folder: "str | None", limit: int) -> None:
        """Spill into `folder`; beyond `limit` bytes in all, keep nothing more."""
        self.files: dict[str, IO[bytes]] = {
            name: tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115 - see close
            for name in "oe"
        }
        self.turns: list[tuple[str, int]] = []
        self.size = 0
        self.limit = limit
        self.fault: Exception | None = None

    @property
    def too_large(self) -> bool:
        """Whether something had to be left out."""
        return self.size > self.limit

    def add(self, name: str, data: bytes) -> None:
        """Keep `data` written to stream `name` (`o` or `e`). Never raises: the compile goes on uncaptured."""
        self.size += len(data)
        if self.too_large or self.fault:
            return
        try:
            self.files[name].write(data)
        except OSError as error:
            self.fault = error
        if self.turns and self.turns[-1][0] == name:
            self.turns[-1] = (name, self.turns[-1][1] + len(data))
        else:
            self.turns.append((name, len(data)))

    @property
    def interleave(self) -> str:
        """The order of the two streams, in the grammar of a direct entry."""
        if len(self.turns) > _LONGEST_INTERLEAVE:
            return ""
        return " ".join(f"{name}{length}" for name, length in self.turns)

    def close(self) -> None:
        """Forget everything."""
        for file in self.files.values():
            file.close()


class Run:
    """How the compiler ended.

    Attributes:
        started: whether it was started: from then on it must not run again, whatever is wrong with us.
        code: its exit code, minus the signal's number if it died of one; None while it has not ended.
        seconds: wall-clock time.
        streams_ended: whether stdout and stderr were closed; if not, something it started holds them.
        reader_gone: whether the caller's stdout or stderr could not be written.
    """

    __slots__ = ("_relay", "code", "reader_gone", "seconds", "started", "streams_ended")

    def __init__(self) -> None:
        self.started = False
        self.code: int | None = None
        self.seconds = 0.0
        self.streams_ended = False
        self.reader_gone = False
        self._relay: Relay | None = None

    def relay(self, process: "subprocess.Popen[bytes]", capture: Capture, signals: "SignalFile | None") -> None:
        """Relay the output of a compiler that was just started until it has ended."""
        self._relay = Relay(process, capture, signals)
        self._relay.run()
        self.streams_ended = self._relay.streams_ended
        self.reader_gone = self._relay.reader_gone

    def flush(self) -> None:
        """Pass on what the caller has not read yet, however long it takes to read it."""
        if self._relay is not None:
            self._relay.flush()


def run_compiler(program: str, arguments: list[str], environ: "dict[str, str]", capture: Capture, run: Run) -> None:
    """Run the compiler to its end, passing on its output and the signals that reach us; fill in `run`.

    Raises OSError if it cannot be started.
    """
    libc = ctypes.CDLL(None)
    us = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, given_mask)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != us:  # we died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    taken = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_DFL]
    given_mask = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    try:
        signals = SignalFile(libc, taken)
    except OSError:  # nothing can be forwarded; let signals do to us what they do
        signals = None
        signal.pthread_sigmask(signal.SIG_SETMASK, given_mask)
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=guarded(environ),
            close_fds=False,
            preexec_fn=in_child,  # noqa: PLW1509 - there is one thread
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, given_mask)
        raise
    run.started = True
    begun = time.monotonic()
    try:
        run.relay(process, capture, signals)
    except Exception as error:  # noqa: BLE001 - it runs: whatever is wrong with us, it must be able to end
        capture.fault = error
        _drain_plainly(process, run)
    finally:
        run.code = process.wait()
        run.seconds = time.monotonic() - begun


def _drain_plainly(process: "subprocess.Popen[bytes]", run: Run) -> None:
    """Pass on what the compiler writes, without capture, and go on reading even if nobody takes it."""
    try:
        run.flush()
    except Exception:  # noqa: BLE001, S110 - what the fault was is kept already
        pass
    sources = {}
    for pipe, destination in ((process.stdout, 1), (process.stderr, 2)):
        if pipe is not None and not pipe.closed:
            sources[pipe.fileno()] = destination
    while sources:
        ready, _, _ = select.select(list(sources), [], [], 1.0)
        if not ready and process.poll() is not None:
            return
        for source in ready:
            data = os.read(source, 1 << 16)
            if not data:
                del sources[source]
                continue
            try:
                os.write(sources[source], data)
            except OSError:
                pass


def die_like(code: int) -> None:
    """End this process by the signal that ended the compiler (`code` is minus its number). Returns for other codes."""
    if code >= 0:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # its core, not ours
    number = -code
    try:
        signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError):
        pass  # SIGKILL and SIGSTOP have no handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    signal.raise_signal(number)
