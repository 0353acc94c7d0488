"""Become the real compiler: exec with everything as the caller gave it, as if the shim were not there."""

import _signal  # type: ignore[import-not-found]  # `signal` costs the hit path 5 ms
import os
import sys

# In the environment of everything that the shim starts. Its value counts how often it was passed on.
GUARD = "NEURON_STORE_ACTIVE"
_DEEPEST = 16  # a wrapper that calls us by name would otherwise go round for ever
_ENOEXEC = 8
_CANNOT_EXECUTE = 126
_NO_SUCH_COMMAND = 127


def use_default_interrupt() -> None:
    """Let Ctrl-C end the process as it ends any program, without a traceback. An ignored signal stays ignored."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _open_standard_files()


def _open_standard_files() -> None:
    """Keep our own files from becoming stdin, stdout or stderr where the caller closed those."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the lowest free number; closed again by exec


def caller_environment() -> "dict[str, str]":
    """Return the environment as the caller made it: an interpreter in the C locale adds LC_CTYPE (PEP 538)."""
    environ = dict(os.environ)
    if environ.get("LC_CTYPE") == "C.UTF-8":
        try:
            with open("/proc/self/environ", "rb", buffering=0) as file:
                given = file.readall().split(b"\0")
        except OSError:
            return environ
        if b"LC_CTYPE=C.UTF-8" not in given:
            del environ["LC_CTYPE"]
    return environ


def guarded(environ: "dict[str, str]") -> "dict[str, str]":
    """Return `environ` with the recursion guard one deeper."""
    depth = environ.get(GUARD, "0")
    return {**environ, GUARD: str(int(depth) + 1 if depth.isdigit() else 1)}


def replace_process(program: str, arguments: list[str], environ: "dict[str, str]") -> int:
    """Exec `program`. Returns an exit code, after a message on stderr, only if it cannot be executed."""
    environ = guarded(environ)
    if int(environ[GUARD]) > _DEEPEST:
        return _refuse(f"{program} calls neuronx-cc by name and so comes back here for ever; set NEURON_STORE_COMPILER")
    restore_signals()
    try:
        os.execve(program, [program, *arguments], environ)  # noqa: S606 - becoming the compiler is what this is for
    except OSError as error:
        if error.errno == _ENOEXEC:  # a script without #!, which a shell would run
            os.execve("/bin/sh", ["/bin/sh", program, *arguments], environ)  # noqa: S606 - becoming the compiler is what this is for
        return _refuse(f"{program} cannot be executed: {error.strerror}", error)


def restore_signals() -> None:
    """Undo what the interpreter did to signals at its start: it ignores these two, and exec would pass that on."""
    for signal in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(signal, _signal.SIG_DFL)


def _refuse(message: str, error: "OSError | None" = None) -> int:
    sys.stderr.write(f"neuron-store: {message}\n")
    return _NO_SUCH_COMMAND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE
