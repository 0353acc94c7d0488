"""Signals as something to read: Linux's signalfd, which also tells who sent one. No thread, no handler."""

import os
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ctypes import CDLL

_SI_KERNEL = 0x80  # si_code of a signal that the kernel (a terminal) sent to the whole process group
_SIGSET_BYTES = 128  # glibc's and musl's sigset_t
_SIGINFO = struct.Struct("=Iii")  # signalfd_siginfo begins with ssi_signo, ssi_errno, ssi_code
_SIGINFO_BYTES = 128


class SignalFile:
    """A file that becomes readable when one of some blocked signals is pending.

    Attributes:
        descriptor: for poll.
    """

    def __init__(self, libc: "CDLL", numbers: "Iterable[signal.Signals]") -> None:
        """Open it for `numbers`, which must be blocked. Raises OSError where the kernel has no signalfd."""
        import ctypes

        mask = bytearray(_SIGSET_BYTES)
        for number in numbers:
            mask[(number - 1) // 8] |= 1 << (number - 1) % 8
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        self.descriptor: int = libc.signalfd(-1, (ctypes.c_char * _SIGSET_BYTES).from_buffer(mask), flags)
        if self.descriptor < 0:
            raise OSError("signalfd is not available")

    def take(self) -> "int | None":
        """Return a signal that was sent to this process alone, as far as can be told; None if there is none."""
        try:
            data = os.read(self.descriptor, _SIGINFO_BYTES)
        except OSError:
            return None
        number, _, code = _SIGINFO.unpack_from(data)
        return None if code == _SI_KERNEL else int(number)
