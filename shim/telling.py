"""A miss tells those who watch (`neuron-store watch`) what it is at. That it cannot never stops a compile."""

from neuron_store.store.in_flight import InFlight
from neuron_store.store.layout import MODEL_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from neuron_store.shim.main import Shim


class Telling:
    """What one invocation tells. No method raises."""

    __slots__ = ("_flight", "_key", "_shim")

    def __init__(self, shim: "Shim", key: str) -> None:
        self._shim = shim
        self._key = key
        self._flight = InFlight(shim.layout)

    def begin(self) -> None:
        """Say that this invocation looks for its result."""
        self._attempt(lambda: self._flight.begin(self._said()))

    def note(self, state: str) -> None:
        """Say what it has come to: one of in_flight.STATES."""
        self._attempt(lambda: self._flight.note(state))

    def end(self) -> None:
        """Say that it is served."""
        self._attempt(self._flight.end)

    def _said(self) -> "dict[str, str]":
        shim = self._shim
        return {
            "key": self._key,
            "module": shim.model.name if shim.model else "",
            "model": shim.environ.get(MODEL_VARIABLE, ""),
            "run": shim.environ.get("NEURON_STORE_RUN", ""),
        }

    def _attempt(self, step: "Callable[[], object]") -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the compile is what counts
            self._shim.log(f"`neuron-store watch` cannot see the compile of {self._key}: {error!r}")
