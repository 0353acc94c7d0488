"""The parts of a compile's surroundings that change what the compiler makes: environment and host.

The list of variables is what is publicly known of neuronx-cc: those its driver reads, and those that change the
HLO-to-NEFF result. NEURON_RT_* act at run time and NEURON_CC_FLAGS is consumed by the frameworks: neither is here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY_VARIABLES = (
    b"NEURON_COLLECTIVE_MATMUL_NXD",
    b"NEURON_COLLECTIVE_MATMUL_SB_TO_SB_THRESHOLD_IN_MB",
    b"NEURON_COLLECTIVE_PERMUTE_AGGRESSIVE",
    b"NEURON_DISABLE_BOUNDARY_MARKER",
    b"NEURON_DISABLE_MOVEMENT_OF_SLICE_FROM_PARAM",
    b"NEURON_FRAMEWORK_DEBUG",
    b"NEURON_INTERNAL_USE",
    b"NEURON_PLATFORM_TARGET_OVERRIDE",
    b"NEURON_REMAT_LARGE_BROADCAST_MIN_SIZE_IN_MB",
    b"NEURON_REMAT_LARGE_TP_ALLGATHER_CP_LAYER",
    b"NEURON_SCRATCHPAD_PAGE_SIZE",
    b"NKI_DEBUG_INFO",
    b"XLA_FLAGS",
    b"XLA_HLO_DEBUG",
    b"XLA_IR_DEBUG",
)

HOST_PRODUCT_FILE = "/sys/devices/virtual/dmi/id/product_name"


# With one of these set, names and metadata of the HLO are wanted in the NEFF.
DEBUG_VARIABLES = (b"NEURON_FRAMEWORK_DEBUG", b"NKI_DEBUG_INFO", b"XLA_HLO_DEBUG", b"XLA_IR_DEBUG")


def key_environment(environ: "Mapping[bytes, bytes]", more: "Sequence[bytes]" = (), salt: bytes = b"") -> list[bytes]:
    """Return `NAME=value` for each key variable that is set, in a fixed order. Unset and empty differ.

    `more` names variables that a user adds; a `salt` keeps the results of those who share it apart from all others.
    """
    names = [*KEY_VARIABLES, *sorted(set(more) - set(KEY_VARIABLES))]
    fields = [name + b"=" + environ[name] for name in names if name in environ]
    return [*fields, b"salt " + salt] if salt else fields


def wants_debug_info(environ: "Mapping[bytes, bytes]") -> bool:
    """Tell whether the environment may ask for debug information in the NEFF: any value but none does."""
    return any(environ.get(name) for name in DEBUG_VARIABLES)


def host_product(path: str = HOST_PRODUCT_FILE) -> bytes:
    """Return this host's product name (`trn1.32xlarge`), which the compiler asks for where --target is absent.

    A host that does not tell its product is `b""`: the compiler cannot know it either.
    """
    try:
        with open(path, "rb") as file:
            return file.read(4096).strip()
    except OSError:
        return b""
