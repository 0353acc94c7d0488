"""Which compiler is installed here, as the shim would find it."""

from neuron_store.cli.inquiry import Inquiry
from neuron_store.store.errors import CompilerNotFound
from neuron_store.store.remotes.base import FOLDER_PREFIX, version_folder


class _Here(Inquiry):
    """Nothing is compiled, and no command line is read: only the compiler is asked for."""

    def __init__(self) -> None:
        super().__init__([])

    def version(self) -> str:
        """Return the compiler's version. Raises CompilerNotFound, OSError."""
        self._configure()
        self.compiler = self.find_compiler()
        return version_folder(self._identify().version).removeprefix(FOLDER_PREFIX)


def installed_version() -> str:
    """Return the version of the compiler that is installed here, "" if none is (or it cannot be read).

    It is the version that folders of a remote are named after: `unversioned` for a compiler that does not tell its own.
    A compiler is asked once, and its answer remembered, as the shim does. The settings must have been read before.
    """
    try:
        return _Here().version()
    except (CompilerNotFound, OSError):
        return ""
