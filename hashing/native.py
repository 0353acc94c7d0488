"""Load the C extensions of xxhash and zstandard without their Python packages.

`import zstandard` costs about 25 ms because its package imports `platform` and more; its C extension loaded
by itself costs well under 1 ms. The launcher records where the extension files are in
`neuron_store.__extensions__`; wherever that is absent or stale, the ordinary import is used.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

EXTENSIONS = ("xxhash._xxhash", "zstandard.backend_c")


def load_extension(name: str) -> "ModuleType":
    """Return the extension module `name` (one of `EXTENSIONS`).

    Raises ImportError if it is neither where the launcher says nor importable in the ordinary way.
    """
    path = getattr(sys.modules.get("neuron_store"), "__extensions__", {}).get(name)
    if path is not None:
        try:
            return _load_file(name, path)
        except (ImportError, OSError):
            pass  # the package was upgraded or moved since the launcher was written
    __import__(name)
    return sys.modules[name]


def _load_file(name: str, path: str) -> "ModuleType":
    import _imp
    from _frozen_importlib import ModuleSpec

    module = _imp.create_dynamic(ModuleSpec(name, None, origin=path))
    _imp.exec_dynamic(module)
    return module
