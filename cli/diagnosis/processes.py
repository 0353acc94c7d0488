"""What /proc tells of the processes of this host, as far as we may look into them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

_LONGEST_COMMAND = 120  # characters


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        pid: its id.
        command: its words.
        started: Unix seconds, 0 where that cannot be told.
        stopped: whether it is stopped.
    """

    pid: int
    command: tuple[str, ...]
    started: float
    stopped: bool

    @property
    def shown(self) -> str:
        """Its command in one line, not longer than a line may be."""
        line = " ".join(self.command)
        return line if len(line) <= _LONGEST_COMMAND else line[: _LONGEST_COMMAND - 1] + "…"

    def environ(self) -> "dict[str, str] | None":
        """Return the environment that it was started with, None if that is not ours to see."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                pairs = file.read().split(b"\0")
        except OSError:
            return None
        return dict(os.fsdecode(pair).partition("=")[::2] for pair in pairs if b"=" in pair)

    def flocked(self) -> Iterator[str]:
        """Yield the paths of the open files that it holds an exclusive flock on."""
        try:
            descriptors = os.listdir(f"/proc/{self.pid}/fd")
        except OSError:
            return
        for descriptor in descriptors:
            try:
                with open(f"/proc/{self.pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as file:
                    held = any(line.startswith("lock:") and "FLOCK" in line and "WRITE" in line for line in file)
                if held:
                    yield os.readlink(f"/proc/{self.pid}/fd/{descriptor}")
            except OSError:
                continue


def processes() -> Iterator[Process]:
    """Yield every process that can be seen, this one left out."""
    booted = _booted()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            process = _read(int(name), booted)
            if process is not None:
                yield process


def _read(pid: int, booted: float) -> "Process | None":
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        # <pid> (<name>) <state> <parent's pid> … ; the 22nd field is the start, in ticks since the boot
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) < 20:
        return None
    started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK") if booted else 0.0
    return Process(pid, tuple(map(os.fsdecode, words[:-1])), started, fields[0] in ("T", "t"))


def _booted() -> float:
    try:
        with open("/proc/stat", encoding="ascii", errors="replace") as file:
            return next((float(line.split()[1]) for line in file if line.startswith("btime ")), 0.0)
    except OSError:
        return 0.0
