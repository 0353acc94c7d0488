"""Relay a running compiler's stdout and stderr to the caller, captured on the way, and signals to the compiler.

The compiler never waits for a slow reader, up to a backlog: others may wait for this compile, and the one who reads
its output may wait for them (a parent that reads its children one after the other).
"""

import collections
import os
import select
import stat
import time

from neuron_store.shim.signal_file import SignalFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen

    from neuron_store.shim.run_compiler import Capture

_PIECE = 1 << 16  # bytes read or written at a time
_PIPE_BUF = 4096  # bytes that a pipe which polls as writable takes without blocking
_LARGEST_BACKLOG = 8 << 20  # bytes; beyond it the compiler waits, as it would without us
_GRACE = 2.0  # seconds that streams may stay open after the compiler ended
_POLL = 0.05  # seconds between looks at the compiler where the kernel has no pidfd


class _Stream:
    """One of the compiler's two streams, and what of it the caller has not taken yet."""

    def __init__(self, name: str, source: int, destination: int) -> None:
        self.name = name
        self.source = source
        self.destination = destination
        self.backlog: collections.deque[bytes] = collections.deque()
        self.size = 0  # bytes of backlog
        self.gone = False  # whether the caller's end was closed
        try:
            is_file = stat.S_ISREG(os.fstat(destination).st_mode)
        except OSError:
            is_file = False
        self.piece = _PIECE if is_file else _PIPE_BUF

    def add(self, data: bytes) -> None:
        for start in range(0, len(data), self.piece):
            self.backlog.append(data[start : start + self.piece])
        self.size += len(data)

    def write_one(self) -> None:
        """Write one piece to the caller. Blocks only if the caller's end does not poll as writable."""
        data = self.backlog.popleft()
        try:
            written = os.write(self.destination, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.gone = True
            self.backlog.clear()
            self.size = 0
            return
        self.size -= written
        if written < len(data):
            self.backlog.appendleft(data[written:])


class Relay:
    """The traffic of one compile.

    Attributes:
        streams_ended: whether the compiler's streams were closed by the time it had ended.
        reader_gone: whether the caller's stdout or stderr could not be written.
    """

    def __init__(self, process: "Popen[bytes]", capture: "Capture", signals: "SignalFile | None") -> None:
        if process.stdout is None or process.stderr is None:
            raise AssertionError
        self.process = process
        self.capture = capture
        self.signals = signals
        self.streams = [_Stream("o", process.stdout.fileno(), 1), _Stream("e", process.stderr.fileno(), 2)]
        self.open = {stream.source: stream for stream in self.streams}
        self.reader_gone = False

    @property
    def streams_ended(self) -> bool:
        """Whether both streams were read to their end."""
        return not self.open

    def run(self) -> None:
        """Relay until the compiler has ended and its streams are closed, or a grace period has passed."""
        ended = self._watch_end()
        deadline: float | None = None
        while self.open or deadline is None:
            events = self._poll(ended if deadline is None else -1, deadline)
            for descriptor in events:
                self._serve(descriptor)
            if deadline is None and (ended in events or ended < 0) and self.process.poll() is not None:
                deadline = time.monotonic() + _GRACE
            if deadline is not None and time.monotonic() > deadline:
                break
        if ended >= 0:
            os.close(ended)

    def _watch_end(self) -> int:
        """Return a descriptor that becomes readable when the compiler ends, -1 where the kernel has none."""
        try:
            return os.pidfd_open(self.process.pid)
        except (OSError, AttributeError):
            return -1

    def _poll(self, ended: int, deadline: "float | None") -> set[int]:
        poller = select.poll()
        for source, stream in self.open.items():
            if stream.size < _LARGEST_BACKLOG:
                poller.register(source, select.POLLIN)
        for stream in self.streams:
            if stream.backlog:
                poller.register(stream.destination, select.POLLOUT)
        if self.signals is not None:
            poller.register(self.signals.descriptor, select.POLLIN)
        timeout = None
        if ended >= 0:
            poller.register(ended, select.POLLIN)
        elif deadline is None:
            timeout = _POLL * 1000
        if deadline is not None:
            timeout = max(0.0, deadline - time.monotonic()) * 1000
        return {descriptor for descriptor, _ in poller.poll(timeout)}

    def _serve(self, descriptor: int) -> None:
        if self.signals is not None and descriptor == self.signals.descriptor:
            number = self.signals.take()
            if number is not None:
                self.process.send_signal(number)
        elif descriptor in self.open:
            self._read(self.open[descriptor])
        else:
            for stream in self.streams:
                if stream.destination == descriptor and stream.backlog:
                    stream.write_one()
                    if stream.gone:
                        self._give_up(stream)

    def _read(self, stream: _Stream) -> None:
        data = os.read(stream.source, _PIECE)
        if not data:
            del self.open[stream.source]
            return
        stream.add(data)
        self.capture.add(stream.name, data)

    def _give_up(self, stream: _Stream) -> None:
        """The caller closed its end: close ours, so that the compiler learns of it as it would without us."""
        self.reader_gone = True
        pipe = self.process.stdout if stream.name == "o" else self.process.stderr
        if pipe is not None and self.open.pop(stream.source, None) is not None:
            pipe.close()

    def flush(self) -> None:
        """Write what the caller has not taken yet, waiting for it."""
        for stream in self.streams:
            while stream.backlog:
                select.select([], [stream.destination], [])
                stream.write_one()
