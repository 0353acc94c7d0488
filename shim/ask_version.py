"""Ask a compiler for its version by running it. Slow (seconds for the real one), so the answer is remembered."""

import subprocess
import tempfile

from neuron_store.shim.execute import guarded

_TIMEOUT = 60.0  # seconds; what a compiler printed until then is its answer


def ask_version(path: str, environ: "dict[str, str]") -> str:
    """Return what `path --version` prints, stdout and stderr merged; "" if it cannot be run.

    Into a file, not a pipe: a process that the compiler leaves behind must not be waited for.
    """
    with tempfile.TemporaryFile() as answer:
        try:
            subprocess.run(
                [path, "--version"],
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.STDOUT,
                env=guarded(environ),
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            pass
        answer.seek(0)
        return answer.read().decode("utf-8", "replace")
