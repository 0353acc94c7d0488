"""Start `neuron-store` in the background: what must outlive the shim, and nobody waits for."""

import subprocess
import sys

from neuron_store.shim.execute import GUARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def start_in_background(arguments: "Sequence[str]", environ: "Mapping[str, str]") -> None:
    """Start `neuron-store <arguments>` with this installation's own interpreter, detached from us. Raises OSError."""
    package = sys.modules["neuron_store"]
    start = (
        # What we blocked while the compiler ran must be able to end it.
        "import signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); package = type(sys)('neuron_store'); "
        f"package.__path__ = {list(package.__path__)!r}; sys.modules['neuron_store'] = package; "
        f"sys.path += {sys.path!r}; from neuron_store.cli.main import main; main()"
    )
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", start, *arguments],
        env={name: value for name, value in environ.items() if name != GUARD},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
