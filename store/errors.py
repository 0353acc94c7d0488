"""Every error that neuron-store raises on purpose. The message says what happened, to what, and what to do."""


class NeuronStoreError(Exception):
    """Base of all. `exit_code` is what a command that dies of it returns."""

    exit_code = 1


class CorruptEntry(NeuronStoreError):  # noqa: N818 - a state of the store that is dealt with, more than an error
    """An entry of the store is torn, flipped or of another format. It is a miss, and is replaced.

    `path` is the file at fault, "" where the caller knows it.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StoreUnavailable(NeuronStoreError):  # noqa: N818
    """The store's folder cannot be read or written."""


class ConfigurationError(NeuronStoreError):
    """A setting has a value that it cannot have."""

    exit_code = 2


class NotFound(NeuronStoreError):  # noqa: N818
    """Nothing in the store fits what was asked for."""


class AmbiguousKey(NeuronStoreError):  # noqa: N818
    """A prefix fits several keys."""

    exit_code = 2


class OutputUnwritable(NeuronStoreError):  # noqa: N818
    """A hit cannot be written to where the command wants its output."""


class CompilerNotFound(NeuronStoreError):  # noqa: N818
    """There is no `neuronx-cc` besides the shim. The exit code is a shell's for "command not found"."""

    exit_code = 127


class BenchmarkError(NeuronStoreError):
    """A benchmark could not run, or a request that had to be a hit was not one."""


class MismatchFound(NeuronStoreError):  # noqa: N818
    """A stored result is not what the compiler makes of its inputs."""

    exit_code = 3
