"""Run the real compiler as if the caller had: its cwd, environment, stdin, signals; its output live, and captured.

The compiler stays in the caller's process group, so that Ctrl-C at a terminal and a framework's killpg reach it as
they would without the shim; what is sent to the shim alone is forwarded. If the shim is killed outright, the kernel
kills the compiler too (PR_SET_PDEATHSIG): left running, it would write to an output that the next compile owns.
"""

import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from neuron_store.shim.execute import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SI_KERNEL = 0x80  # si_code of a signal that the kernel (a terminal) sent to the whole process group
_PIECE = 1 << 16  # bytes read from a pipe at a time
_IN_MEMORY = 1 << 20  # bytes of each stream before it goes to a file
_LONGEST_INTERLEAVE = 2000  # turns; beyond it stdout is replayed before stderr
_GRACE = 2.0  # seconds that streams may stay open, silent, after the compiler ended


class Capture:
    """What the compiler wrote to stdout and stderr, kept in files that have no name."""

    def __init__(self, folder: "str | None", limit: int) -> None:
        """Spill into `folder`; beyond `limit` bytes in all, keep nothing more."""
        self.files: dict[str, IO[bytes]] = {
            name: tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115
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
        code: its exit code, minus the signal's number if it died of one; None while it has not ended.
        seconds: wall-clock time.
        streams_ended: whether stdout and stderr were closed; if not, something it started holds them.
    """

    __slots__ = ("code", "seconds", "streams_ended")

    def __init__(self) -> None:
        self.code: int | None = None
        self.seconds = 0.0
        self.streams_ended = False


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
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=guarded(environ),
            close_fds=False,
            preexec_fn=in_child,  # noqa: PLW1509 - no thread of ours runs yet
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, given_mask)
        raise
    if taken:
        threading.Thread(target=_forward_signals, args=(process, taken), daemon=True).start()
    try:
        run.streams_ended = _pump(process, capture)
    except Exception as error:  # noqa: BLE001 - it runs: whatever is wrong with us, it must be able to end
        capture.fault = error
        _pump_plainly(process)
    finally:
        run.code = process.wait()
        run.seconds = time.monotonic() - begun


def _forward_signals(process: "subprocess.Popen[bytes]", numbers: "list[signal.Signals]") -> None:
    while True:
        info = signal.sigwaitinfo(numbers)
        if info.si_code != _SI_KERNEL:  # else the terminal has sent it to the compiler as well
            process.send_signal(info.si_signo)


def _pump(process: "subprocess.Popen[bytes]", capture: Capture) -> bool:
    """Pass on what the compiler writes until it has ended and both streams are closed; return whether they are."""
    if process.stdout is None or process.stderr is None:
        raise AssertionError
    sources = {process.stdout.fileno(): ("o", 1), process.stderr.fileno(): ("e", 2)}
    ended = os.pidfd_open(process.pid)
    poller = select.poll()
    for descriptor in (*sources, ended):
        poller.register(descriptor, select.POLLIN)
    running = True
    while sources:
        ready = poller.poll(None if running else _GRACE * 1000)
        if not ready:
            break
        for descriptor, _ in ready:
            if descriptor == ended:
                running = False
                poller.unregister(ended)
            elif not _pass_on(descriptor, *sources[descriptor], capture):
                poller.unregister(descriptor)
                del sources[descriptor]
    os.close(ended)
    return not sources


def _pass_on(source: int, name: str, destination: int, capture: Capture) -> bool:
    data = os.read(source, _PIECE)
    if not data:
        return False
    _write_through(destination, data)
    capture.add(name, data)
    return True


def _write_through(destination: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(destination, view) :]
        except BlockingIOError:
            select.select([], [destination], [])
        except OSError:
            return  # the reader went away; the compile and its result are still wanted


def _pump_plainly(process: "subprocess.Popen[bytes]") -> None:
    """Pass on what the compiler writes, without capture."""
    threads = [
        threading.Thread(target=shutil.copyfileobj, args=(source, open(destination, "wb", 0, closefd=False)))  # noqa: SIM115
        for source, destination in ((process.stdout, 1), (process.stderr, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


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
