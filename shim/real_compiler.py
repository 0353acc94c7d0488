"""Find the real `neuronx-cc`: the one that is set, else the next one on PATH that is not a shim."""

import os

from neuron_store.hashing.inputs import open_regular

PROGRAM = "neuronx-cc"
# Stands in the first bytes of every launcher, of this installation or another.
SHIM_MARK = b"neuron-store shim launcher"
_MARK_WITHIN = 512  # bytes


def is_shim(path: str) -> bool:
    """Tell whether the program at `path` is a launcher of neuron-store."""
    return SHIM_MARK in _head(path)


def is_program(path: str) -> bool:
    """Tell whether `path` is a file that may be executed."""
    return os.access(path, os.X_OK) and os.path.isfile(path)


def usable(path: str) -> bool:
    """Tell whether `path` is a real compiler that can be run: a shell would pass over a script without interpreter."""
    if not is_program(path):
        return False
    head = _head(path)
    return SHIM_MARK not in head and _has_interpreter(head)


def _head(path: str) -> bytes:
    """Return a program's first bytes; none if it may be executed but not read."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MARK_WITHIN)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _has_interpreter(head: bytes) -> bool:
    if not head.startswith(b"#!"):
        return True
    words = head[2:].split(b"\n", 1)[0].split(None, 1)
    return not words or os.path.exists(words[0])


def search_path(path_variable: "str | None") -> str:
    """Return the first real compiler on PATH, or "" if there is none. An empty PATH entry is the current folder."""
    for folder in (os.defpath if path_variable is None else path_variable).split(":"):
        candidate = os.path.join(folder or ".", PROGRAM)
        if usable(candidate):
            return candidate
    return ""
