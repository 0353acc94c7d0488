"""The shim's way through one invocation: pass, hit or miss; each way out names its counter.

Any fault of ours on the way is logged and counted, and the real compiler runs as if the shim were not there.
"""

import os
import sys
import time

from neuron_store.hashing.command_line import CommandLine, read_command_line
from neuron_store.hashing.compiler import (
    CompilerIdentity,
    file_digest,
    identify_compiler,
    make_memo,
    memo_name,
    recall_identity,
)
from neuron_store.hashing.environment import host_product, key_environment
from neuron_store.hashing.inputs import InputFile
from neuron_store.hashing.keys import Component, begin_direct_key
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.deliver import captured_text, deliver, find_destination, replay
from neuron_store.shim.execute import GUARD, caller_environment, replace_process, use_default_interrupt
from neuron_store.shim.log import write_log
from neuron_store.shim.real_compiler import PROGRAM, search_path, usable
from neuron_store.shim.settings import Settings, load_settings, state_folder
from neuron_store.store.activity import directory_place, mark_activity, output_place
from neuron_store.store.blobs import MissingBlob
from neuron_store.store.direct import DirectEntry, decode_direct
from neuron_store.store.errors import CompilerNotFound, ConfigurationError, CorruptEntry, OutputUnwritable
from neuron_store.store.events import Event, append_event
from neuron_store.store.layout import MODEL_VARIABLE, Layout, discard, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neuron_store.hashing.model_directory import ModelDirectory


def main() -> None:
    """Run one invocation from sys.argv and end the process with the compiler's exit code."""
    use_default_interrupt()
    code = Shim(sys.argv[1:]).run()
    # Nothing is buffered, and tearing an interpreter down costs a hit a millisecond or two.
    os._exit(code)


class Shim:
    """One invocation of `neuronx-cc`.

    Attributes:
        arguments: what follows the program's name.
        settings, layout: in force for this invocation.
        command, model, compiler, components: known once they are read.
        incidents: counters besides the outcome, in order.
        moved: bytes that a hit delivers; fetched: bytes that came from remotes; asked: what the remotes answered.
        done: the exit code, once the outputs are delivered or the compiler has run; minus a signal's number. From
            then on the compiler must not run (again), whatever happens.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.environ = caller_environment()
        self.begun = time.time()
        self.incidents: list[str] = []
        self.settings: Settings
        self.layout: Layout
        self.command: CommandLine
        self.model: InputFile | ModelDirectory | None = None
        self.output = ""
        self.compiler = ""
        self.identity: CompilerIdentity
        self.compiler_version = ""
        self.components: list[Component] = []
        self.direct_key = ""
        self.compile_seconds = 0.0
        self.moved = self.fetched = 0
        self.asked: list[str] = []
        self.done: int | None = None

    def run(self) -> int:
        """Serve the invocation, or become the real compiler. Returns the exit code."""
        try:
            return self._serve()
        except NotCacheable as answer:
            outcome, detail = "pass_" + answer.reason, answer.detail
        except CompilerNotFound as error:
            return self._no_compiler(error)
        except OutputUnwritable as error:
            outcome, detail = "error_output", str(error)
            self.log(detail)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with us, the compile must happen, once
            if self.done is not None:
                self.log_fault("a fault of neuron-store, after the outputs were complete")
                return self.done if self.done >= 0 else 128 - self.done
            outcome, detail = "error_internal", repr(error)
            self.log_fault("a fault of neuron-store; the real compiler runs")
        return self._become_compiler(outcome, detail)

    # -- the way to a hit ------------------------------------------------------------------------------------

    def _serve(self) -> int:
        self.prepare()
        if not self.settings.recache and self.try_hit():
            return 0
        from neuron_store.shim.miss import serve_miss

        return serve_miss(self)

    def prepare(self) -> None:
        """Read all that the direct key is made of. Raises NotCacheable, CompilerNotFound."""
        self._configure()
        if GUARD in self.environ:
            raise NotCacheable("recursion")
        if not self.settings.enabled:
            raise NotCacheable("disabled", self.settings.sources["enabled"])
        self.command = read_command_line(self.arguments)
        self.output = _final_path(self.command)
        self.model = _open_model(self.command.model)
        self.compiler = self.find_compiler()
        self.identity = self._identify()
        self.compiler_version = self.identity.version or ""
        self.components = self.direct_components()
        self.direct_key = self.hash_model()

    def _configure(self) -> None:
        try:
            self.settings = load_settings(self.environ)
        except ConfigurationError as error:
            self.settings = load_settings(self.environ, tolerant=True)
            self.layout = Layout(self.settings.dir)
            self.log(str(error))
            raise NotCacheable("bad_configuration", str(error)) from error
        self.layout = Layout(self.settings.dir)

    def find_compiler(self) -> str:
        """Return the real compiler's path. Raises CompilerNotFound."""
        wanted = self.settings.compiler
        if wanted:
            if usable(wanted):
                return wanted
            self.incidents.append("compiler_setting_unusable")
            self.log(f"compiler = {wanted}, which cannot be run or is a shim; searching PATH")
        found = search_path(self.environ.get("PATH"))
        if not found:
            raise CompilerNotFound(
                f"neuron-store: no {PROGRAM} on PATH behind the shim; "
                "install neuronx-cc, or set NEURON_STORE_COMPILER to it"
            )
        return found

    def _identify(self) -> CompilerIdentity:
        memo_path = self.layout.compiler_path(memo_name(self.compiler, self.environ))
        try:
            memo = read_file(memo_path)
        except OSError:
            memo = None
        identity = recall_identity(memo) if memo else None
        if identity is None:
            from neuron_store.shim.ask_version import ask_version

            identity = identify_compiler(self.compiler, lambda path: ask_version(path, self.environ))
            try:
                self.layout.write_file(memo_path, make_memo(identity))
            except OSError:
                pass  # asked again next time
        return identity

    def direct_components(self) -> "list[Component]":
        """Return the components of the direct key, from the files as they are now. Raises NotCacheable."""
        host = [] if self.command.target_given else [host_product()]
        return [
            Component("compiler", [os.fsencode(self.identity.name)]),
            Component("flags", [os.fsencode(option) for option in self.command.options]),
            Component("environment", self._key_environment()),
            Component("host", host),
            Component("side_inputs", [_hash_option_file(name, path) for name, path in self.command.files]),
        ]

    def _key_environment(self) -> list[bytes]:
        more, salt = self.settings.key_env, self.settings.key_salt
        names = [os.fsencode(name) for name in more.replace(",", " ").split()]
        return key_environment(self.environ_bytes(), names, os.fsencode(salt))

    def environ_bytes(self) -> dict[bytes, bytes]:
        """Return the caller's environment as the bytes that it is."""
        return {os.fsencode(name): os.fsencode(value) for name, value in self.environ.items()}

    def hash_model(self) -> str:
        """Return the direct key for the model file's bytes as they are now. Raises NotCacheable."""
        if self.model is None:
            raise AssertionError
        hasher = begin_direct_key(self.components)
        self.model.feed(hasher)
        return hasher.hexdigest()

    # -- hits ------------------------------------------------------------------------------------------------

    def try_hit(self) -> bool:
        """Serve the invocation from the local store by its direct key, if it is there."""
        path = self.layout.direct_path(self.direct_key)
        try:
            data = read_file(path)
            if data is None:
                return False
            entry = decode_direct(data, self.direct_key)
        except CorruptEntry as error:
            self.count_corruption("corrupt_direct", error, path)
            return False
        except OSError as error:
            self.count_store_fault(error)
            return False
        if entry.side_files and not self._side_files_hold(entry):
            return False
        return self.serve_entry(entry, "hit_direct")

    def _side_files_hold(self, entry: DirectEntry) -> bool:
        from neuron_store.hashing.side_files import SideFile

        return all(SideFile(path, path, sha256, state).holds() for path, sha256, state in entry.side_files)

    def serve_entry(self, entry: DirectEntry, outcome: str, source: "Layout | None" = None) -> bool:
        """Deliver the result that `entry` describes, if it is still valid, from `source` or the local store."""
        source = source or self.layout
        result_path = source.result_path(entry.key)
        if not _touch(result_path):
            discard(self.layout.direct_path(self.direct_key))
            return False
        try:
            texts = captured_text(source, entry)
            self._deliver(entry, source)
        except CorruptEntry as error:
            self.count_corruption(
                "missing_blob" if isinstance(error, MissingBlob) else "corrupt_blob",
                error,
                self.layout.direct_path(self.direct_key),
                result_path,
            )
            return False
        except OSError as error:
            raise OutputUnwritable(f"a hit could not be delivered to {self.output}: {error}") from error
        self.done = 0
        self.moved = sum([output.size for output in entry.outputs.values()])
        replay(*texts, entry.interleave)
        self.record(outcome, key=entry.key, seconds=entry.seconds)
        return True

    def _deliver(self, entry: DirectEntry, source: Layout) -> None:
        """Write the files of a hit, and tell the compiles that watch these places: before, and again after."""
        places = (directory_place("."), output_place(self.output))
        shared = mark_activity(self.layout, places)
        deliver(source, entry, self.output, self.command.logfile, clear_wrapped=not shared)
        mark_activity(self.layout, places)

    def count_corruption(self, incident: str, error: CorruptEntry, *paths: str) -> None:
        """Count a corrupt entry and take it out of the way, so that the next store replaces it."""
        self.incidents.append(incident)
        self.log(f"{incident}: {error} ({error.path or paths[0]})")
        for path in (error.path, *paths):
            if path:
                discard(path)

    def count_store_fault(self, error: Exception) -> None:
        """Count a fault of the store that is not a corruption."""
        self.incidents.append("store_fault")
        self.log(f"the store {self.layout.root}: {error}")

    # -- ways out --------------------------------------------------------------------------------------------

    def _become_compiler(self, outcome: str, detail: str) -> int:
        """Replace this process by the real compiler, with everything as it came. Returns only if that fails."""
        try:
            compiler = self.compiler or self.find_compiler()
        except CompilerNotFound as error:
            return self._no_compiler(error)
        self.record(outcome, detail=detail)
        try:
            mark_activity(self.layout, (directory_place("."),))
        except OSError:
            pass  # the current directory is gone
        return replace_process(compiler, self.arguments, self.environ)

    def _no_compiler(self, error: CompilerNotFound) -> int:
        self.record("error_no_compiler")
        try:
            os.write(2, f"{error}\n".encode())
        except OSError:
            pass
        return error.exit_code

    def record(self, outcome: str, *, key: str = "", seconds: "float | None" = None, detail: str = "") -> None:
        """Append this invocation's event to the log; where the store cannot take it, to the user's state folder.

        If the environment names a model, its context notes how this invocation ended.
        """
        if self.environ.get(MODEL_VARIABLE):
            self._note_in_context(outcome, key, seconds)
        own = max(0.0, time.time() - self.begun - self.compile_seconds)
        fields = {
            "ms": f"{own * 1e3:.1f}",
            "key": key,
            "module": self.model.name if self.model else "",
            "seconds": "" if seconds is None else f"{seconds:.3f}",
            "bytes": str(self.moved or ""),
            "fetched": str(self.fetched or ""),
            "asked": ",".join(self.asked),
            "compiler": self.compiler_version,
            "model": self.environ.get(MODEL_VARIABLE, ""),
            "incidents": ",".join(self.incidents),
            "run": self.environ.get("NEURON_STORE_RUN", ""),
            "detail": detail,
        }
        event = Event(time.time(), outcome, {name: value for name, value in fields.items() if value})
        try:
            if append_event(self.layout, event):
                self._archive_old_events()
        except OSError:
            event.fields["store"] = self.layout.root
            try:
                append_event(Layout(state_folder(self.environ)), event)
            except OSError as error:
                self.log(f"{outcome} could not be counted: {error}")

    def _archive_old_events(self) -> None:
        """On the first event of a day: let events of long ago be summed up, and nobody wait for it."""
        try:
            from neuron_store.shim.archiving import archive_if_due

            archive_if_due(self)
        except Exception:  # noqa: BLE001 - the compile, or the hit, is what counts
            self.log_fault("old events could not be summed up")

    def _note_in_context(self, outcome: str, key: str, seconds: "float | None") -> None:
        try:
            from neuron_store.shim.model_context import note_in_context

            note_in_context(self, outcome, key, seconds)
        except Exception:  # noqa: BLE001 - the compile, or the hit, is what counts
            self.incidents.append("context_failed")
            self.log_fault("a key could not be noted for its model")

    def log(self, message: str) -> None:
        """Write to the shim's log file."""
        write_log(self.settings.log_file, message)

    def log_fault(self, message: str) -> None:
        """Write to the shim's log file, with the traceback of the exception at hand."""
        import traceback

        self.log(f"{message}\n{traceback.format_exc()}")


def _final_path(command: CommandLine) -> str:
    """Return where a write to the output would end. Raises NotCacheable if that is no place for a file of its own."""
    try:
        return find_destination(command)
    except OSError as error:
        raise NotCacheable("special_output", str(error)) from error


def _open_model(path: str) -> "InputFile | ModelDirectory":
    if os.path.isdir(path):
        from neuron_store.hashing.model_directory import ModelDirectory

        return ModelDirectory(path)
    return InputFile(path)


def _hash_option_file(name: str, path: str) -> bytes:
    try:
        return b"%b %b" % (os.fsencode(name), file_digest(path).encode())
    except OSError as error:
        raise NotCacheable("file_option", str(error)) from error


def _touch(path: str) -> bool:
    """Mark a result as used now; return whether it exists."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # not ours to touch; it can be served all the same
    return True
