"""Ask a compiler for its version by running it. Slow (seconds for the real one), so the answer is remembered."""

import subprocess

from neuron_store.shim.execute import guarded

_TIMEOUT = 120.0  # seconds; a compiler that does not answer is identified by its content


def ask_version(path: str, environ: "dict[str, str]") -> str:
    """Return what `path --version` prints, stdout and stderr merged; "" if it cannot be run or does not end."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=guarded(environ),
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
