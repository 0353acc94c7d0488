"""What identifies a compile: the command line, the compiler, the HLO and the inputs that hide.

Nothing here imports another floor of neuron-store. Importing this package imports nothing else: the shim's hit path
loads only the modules it needs, and the public names below are loaded when they are asked for.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.hlo_fingerprint import Fingerprint, fingerprint_hlo

__all__ = ["Fingerprint", "fingerprint_hlo"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from neuron_store.hashing import hlo_fingerprint

        return getattr(hlo_fingerprint, name)
    raise AttributeError(name)
