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


class StoreUnavailable(NeuronStoreError):  # noqa: N818 - its name says what happened
    """The store's folder cannot be read or written."""


class ConfigurationError(NeuronStoreError):
    """A setting has a value that it cannot have."""

    exit_code = 2


class NotFound(NeuronStoreError):  # noqa: N818 - its name says what happened
    """Nothing in the store fits what was asked for."""


class NotAKey(NotFound):
    """What was given as a key, or as the first digits of one, cannot be that."""

    exit_code = 2


class AmbiguousKey(NeuronStoreError):  # noqa: N818 - its name says what happened
    """A prefix fits several keys."""

    exit_code = 2


class OutputUnwritable(NeuronStoreError):  # noqa: N818 - its name says what happened
    """A hit cannot be written to where the command wants its output."""


class CompilerNotFound(NeuronStoreError):  # noqa: N818 - its name says what happened
    """There is no `neuronx-cc` besides the shim. The exit code is a shell's for "command not found"."""

    exit_code = 127


class BenchmarkError(NeuronStoreError):
    """A benchmark could not run, or a request that had to be a hit was not one."""


class MismatchFound(NeuronStoreError):  # noqa: N818 - its name says what happened
    """A stored result is not what the compiler makes of its inputs."""

    exit_code = 3


class WorkerLost(NeuronStoreError):  # noqa: N818 - its name says what happened
    """A process that shared a command's work was killed."""


class PrecompileFailed(NeuronStoreError):  # noqa: N818 - its name says what happened
    """Some modules that were to be compiled could not be."""


class RemoteError(NeuronStoreError):
    """A remote store did not do what was asked of it."""


class RemoteUnavailable(RemoteError):  # noqa: N818 - its name says what happened
    """A remote cannot be reached, is too slow, or is at fault itself: it may answer later.

    `retry_after` is the seconds that it asks us to wait, None where it does not say.
    """

    def __init__(self, message: str, retry_after: "float | None" = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RemoteConflict(RemoteUnavailable):
    """Another writer came between: to be tried again, after a look at what is there now."""


class RemoteRefused(RemoteError):  # noqa: N818 - its name says what happened
    """A remote is not there for us: no such repo or folder, or no right to it."""


class CorruptRemote(RemoteError):  # noqa: N818 - like CorruptEntry, a state that is dealt with
    """What a remote has under a name is not what it must be. It is a miss."""
