"""Find the real `neuronx-cc`: the one that is set, else the next one on PATH that is not a shim."""

import os

PROGRAM = "neuronx-cc"
# Stands in the first bytes of every launcher, of this installation or another.
SHIM_MARK = b"neuron-store shim launcher"
_MARK_WITHIN = 512  # bytes


def is_shim(path: str) -> bool:
    """Tell whether the program at `path` is a launcher of neuron-store."""
    try:
        with open(path, "rb", buffering=0) as file:
            return SHIM_MARK in file.read(_MARK_WITHIN)
    except OSError:
        return False


def is_program(path: str) -> bool:
    """Tell whether `path` is a file that may be executed."""
    return os.access(path, os.X_OK) and not os.path.isdir(path)


def usable(path: str) -> bool:
    """Tell whether `path` is a real compiler that can be run."""
    return is_program(path) and not is_shim(path)


def search_path(path_variable: "str | None") -> str:
    """Return the first real compiler on PATH, or "" if there is none. An empty PATH entry is the current folder."""
    for folder in (os.defpath if path_variable is None else path_variable).split(":"):
        candidate = os.path.join(folder or ".", PROGRAM)
        if usable(candidate):
            return candidate
    return ""
