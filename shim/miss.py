"""A miss: look by the canonical key, then compile once for all who ask, and store what the compiler made."""

import os
import sys
import time

from neuron_store.hashing.command_line import read_command_line
from neuron_store.hashing.keys import prove_components
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.shim.canonical import Canonical, make_canonical
from neuron_store.shim.collecting import collect_if_due
from neuron_store.shim.kept_inputs import begin_audit, keep_inputs
from neuron_store.shim.outputs import OutputWatch
from neuron_store.shim.remote_hits import RemoteLook, describe, memory_aside
from neuron_store.shim.run_compiler import Capture, Run, die_like, run_compiler
from neuron_store.shim.telling import Telling
from neuron_store.shim.upload_queue import queue_result
from neuron_store.shim.version import VERSION
from neuron_store.store.activity import directory_place, output_place
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.blobs import MissingBlob, read_blob
from neuron_store.store.direct import DirectEntry, encode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.in_flight import ASKING, COMPILING, STORING, WAITING
from neuron_store.store.layout import Layout
from neuron_store.store.locks import DONE, HELD, PEERS_FAILED, TIMED_OUT, ActivityWatch, KeyLock, sweep
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import LARGEST_TEXT, TEXT_ROLES
from neuron_store.store.results import Result, direct_entry, load_result, save_result
from neuron_store.store.writing import Writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from neuron_store.shim.main import Shim
    from neuron_store.store.direct import Output

_GENERAL_FAILURE = 70  # the compiler's own exit code for a general failure
_SERVED = "served"
_UNSERVED_WAITS = {TIMED_OUT: "lock_timeout", PEERS_FAILED: "peers_failed"}
_ATTEMPTS = 3  # to be served by a result that others stored, should it prove corrupt each time


def serve_miss(shim: "Shim") -> int:
    """Serve an invocation that has no direct entry. Returns the exit code."""
    canonical = make_canonical(shim)
    if not shim.settings.recache and _try_canonical(shim, canonical):
        return 0
    if shim.settings.read_only:
        if _try_remotes_aside(shim, canonical):
            return 0
        raise NotCacheable("read_only", shim.layout.root)
    return _Miss(shim, canonical).serve()


def _try_canonical(
    shim: "Shim", canonical: Canonical, outcome: str = "hit_canonical", source: "Layout | None" = None
) -> bool:
    """Serve from the result of the canonical key, if there is one, and remember the direct key for next time.

    `source` is another store than the local one: then nothing is remembered.
    """
    layout = source or shim.layout
    path = layout.result_path(canonical.key)
    try:
        result = load_result(layout, canonical.key)
        if result is None:
            return False
        _require_same_inputs(result, canonical)
        entry = direct_entry(layout, result)
        entry.side_files = _side_files(canonical)
    except MissingBlob as error:
        shim.count_corruption("missing_blob", error, path)
        return False
    except CorruptEntry as error:
        shim.count_corruption("corrupt_blob" if error.path else "corrupt_result", error, path)
        return False
    except OSError as error:
        shim.count_store_fault(error)
        return False
    if not shim.serve_entry(entry, outcome, source):
        return False
    if source is None:
        _remember(shim, canonical.key, entry)
    return True


def _remember(shim: "Shim", key: str, entry: DirectEntry) -> None:
    try:
        _save_direct(shim.layout, shim.direct_key, entry)
    except OSError:
        pass  # a store that can only be read serves by the canonical key every time
    begin_audit(shim, key)


def _require_same_inputs(result: Result, canonical: Canonical) -> None:
    """Raise CorruptEntry unless the result is of these inputs by SHA-256: the key is only their name."""
    proof = prove_components(canonical.components)
    if result.input.get("sha256") != canonical.fingerprint.digest or result.input.get("proof", proof) != proof:
        raise CorruptEntry(f"the result of {result.key} is of other inputs")


def _try_remotes_aside(shim: "Shim", canonical: Canonical) -> bool:
    """Serve from a remote by way of a temporary store: the local one cannot be written, or must not be."""
    if shim.settings.recache:
        return False
    from tempfile import TemporaryDirectory

    try:
        folder = TemporaryDirectory(prefix="neuron-store-", ignore_cleanup_errors=True)
    except OSError as error:
        shim.log(f"no temporary folder: {error}")
        return False
    with folder:
        aside = Layout(folder.name)
        look = RemoteLook(shim, canonical)
        return look.fetch(aside, memory_aside(shim.environ)) and _try_canonical(shim, canonical, look.outcome, aside)


def _side_files(canonical: Canonical) -> "list[tuple[str, str, tuple[int, ...]]]":
    return [(file.written, file.sha256, file.signature) for file in canonical.side_files]


def _save_direct(layout: Layout, direct_key: str, entry: DirectEntry) -> None:
    layout.write_file(layout.direct_path(direct_key), encode_direct(entry, direct_key))


class _Miss:
    """One compile, from the wait for its turn to the stored result."""

    def __init__(self, shim: "Shim", canonical: Canonical) -> None:
        self.shim = shim
        self.canonical = canonical
        self.key = canonical.key
        self._look = RemoteLook(shim, canonical)
        self._writing = Writing(shim.layout)
        self._telling = Telling(shim, self.key)

    def serve(self) -> int:
        """Compile, or be served by another process that does. Returns the exit code."""
        try:
            lock = KeyLock(self.shim.layout, self.key)
        except OSError as error:
            if _try_remotes_aside(self.shim, self.canonical):
                return 0
            raise NotCacheable("no_writable_store", str(error)) from error
        self._telling.begin()
        run = Run()
        try:
            turn = TIMED_OUT if self.shim.settings.recache else self._take_turn(lock)
            if turn == _SERVED:
                return 0
            self._take(turn, lock, run)
        finally:
            self._telling.end()
        if not run.started:
            return 0  # served by a remote
        # Only now: who reads our output may be waiting for those who wait for this compile.
        run.flush()
        code = run.code or 0
        die_like(code)
        return code if code >= 0 else 128 - code

    def _take(self, turn: str, lock: KeyLock, run: Run) -> None:
        """Fetch or compile, and give the lock back."""
        stored = False
        try:
            stored = self._try_remotes() or self._compile(run)
        finally:
            # Waiters must not take turns at a compile that leaves no result.
            lock.release(failed=not stored) if turn == HELD else lock.close()

    def _take_turn(self, lock: KeyLock) -> str:
        """Wait until the lock is HELD, or the result is there (_SERVED), or there is no more waiting."""
        for _ in range(_ATTEMPTS):
            answer = lock.acquire(self.shim.settings.lock_timeout, self._is_done)
            self._count_wait(lock, answer)
            # Between our first look and now, others may have stored the result.
            if self.shim.try_hit() or _try_canonical(self.shim, self.canonical):
                lock.release(failed=False) if answer == HELD else lock.close()
                return _SERVED
            if answer != DONE:
                return answer
        return TIMED_OUT

    def _try_remotes(self) -> bool:
        """Serve from a remote, whose result is kept: whoever waits for this key is served from the local store."""
        shim = self.shim
        self._telling.note(ASKING)
        if shim.settings.recache or not self._look.fetch(shim.layout, shim.layout):
            return False
        if not _try_canonical(shim, self.canonical, self._look.outcome):
            return False
        self._attempt(lambda: collect_if_due(shim, self.key))
        return True

    def _is_done(self) -> bool:
        self._telling.note(WAITING)
        layout = self.shim.layout
        return os.path.exists(layout.direct_path(self.shim.direct_key)) or os.path.exists(layout.result_path(self.key))

    def _count_wait(self, lock: KeyLock, answer: str) -> None:
        counted = self.shim.incidents
        if lock.waited and "waited" not in counted:
            counted.append("waited")
        if answer in _UNSERVED_WAITS:
            counted.append(_UNSERVED_WAITS[answer])

    def _compile(self, run: Run) -> bool:
        """Run the compiler and store its result; return whether the result is stored."""
        shim = self.shim
        watch = OutputWatch(shim.output, shim.command.logfile)
        activity = self._watch_activity()
        capture = Capture(self._spill_folder(), shim.settings.max_log_bytes)
        self._telling.note(COMPILING)
        try:
            run_compiler(shim.compiler, shim.arguments, shim.environ, capture, run)
        finally:
            if run.started:
                shim.done = _GENERAL_FAILURE if run.code is None else run.code
        watch.note_end()
        self._telling.note(STORING)
        shim.compile_seconds = run.seconds
        # From here on the compiler has run: whatever is wrong with us, it must not run again.
        try:
            outcome = self._judge(run, watch, capture)
            if outcome == "miss_stored":
                outcome = self._store(run, watch, capture, activity)
        except Exception as error:  # noqa: BLE001 - the compiler has run: it must not run again
            outcome = "miss_store_failed"
            shim.log_fault(f"the result of {self.key} could not be stored: {error}")
        steps = [capture.close] if activity is None else [activity.end, capture.close]
        if outcome == "miss_stored":
            steps.append(lambda: queue_result(shim, self.key, self._look.corrupt))
        steps.append(self._writing.end)
        steps.append(lambda: shim.record(outcome, key=self.key, seconds=run.seconds))
        for step in steps:
            self._attempt(step)
        self._attempt(lambda: sweep(shim.layout))
        if outcome == "miss_stored":
            self._attempt(lambda: collect_if_due(shim, self.key))
        return outcome == "miss_stored"

    def _attempt(self, step: "Callable[[], object]") -> None:
        """Take a step after the compile; if it fails, the next ones are taken all the same."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the compiler has run: it must not run again
            self.shim.log_fault(f"after the compile of {self.key}: {error}")

    def _watch_activity(self) -> "ActivityWatch | None":
        try:
            return ActivityWatch(self.shim.layout, (directory_place("."), output_place(self.shim.output)))
        except OSError as error:
            self.shim.count_store_fault(error)
            return None

    def _spill_folder(self) -> "str | None":
        folder = f"{self.shim.layout.root}/tmp"
        try:
            self.shim.layout.make_folder(folder)
        except OSError:
            return None
        return folder

    def _judge(self, run: Run, watch: OutputWatch, capture: Capture) -> str:
        """Return the outcome: `miss_stored` if, as far as can be told before storing, the result may be stored."""
        if run.code:
            return "miss_killed" if run.code < 0 else "miss_failed"
        if not watch.is_new(watch.neff):
            return "miss_no_output"
        if capture.too_large:
            return "miss_log_too_large"
        if capture.fault:
            raise capture.fault
        if run.reader_gone:
            return "miss_reader_gone"
        return "miss_stored" if run.streams_ended else "miss_output_open"

    def _judge_again(self, watch: OutputWatch, activity: "ActivityWatch | None") -> str:
        """Return the outcome as of after the outputs were read: `miss_stored` if all of it was this compile's own."""
        if not watch.unchanged_since_end():
            return "miss_output_changed"
        if activity is None or not activity.alone(output_place(self.shim.output)):
            return "miss_shared_directory"
        if watch.wrapped_is_new and not activity.alone(directory_place(".")):
            return "miss_shared_directory"
        if self._compiler_changed():
            return "miss_compiler_changed"
        if self._side_outputs_made():
            return "miss_side_output"
        return "miss_input_changed" if self._inputs_changed() else "miss_stored"

    def _compiler_changed(self) -> bool:
        return not self.shim.identity.holds()

    def _side_outputs_made(self) -> bool:
        """Tell whether an option came to name a file that was not there before: one that a hit would not make."""
        try:
            return read_command_line(self.shim.arguments).files != self.shim.command.files
        except NotCacheable:
            return True

    def _inputs_changed(self) -> bool:
        """Tell by their state, and by their bytes: two writes within one tick of a file system look like one."""
        shim = self.shim
        try:
            if shim.model is None or not shim.model.unchanged() or shim.hash_model() != shim.direct_key:
                return True
            before = [component.fields for component in shim.components]
            if before != [component.fields for component in shim.direct_components()]:
                return True
        except NotCacheable:
            return True
        return not all(file.holds() for file in self.canonical.side_files)

    def _store(self, run: Run, watch: OutputWatch, capture: Capture, activity: "ActivityWatch | None") -> str:
        """Store blobs, then the record that names them, then the direct entry that leads to it.

        Returns the outcome: blobs that turn out not to be this compile's own get no record. Raises OSError.
        """
        shim = self.shim
        self._writing.begin()
        level = shim.settings.compression_level
        outputs = watch.store(shim.layout, level)
        for role, file in (("stdout", capture.files["o"]), ("stderr", capture.files["e"])):
            if file.tell():
                file.flush()
                outputs[role] = store_blob(shim.layout, role, file.fileno(), level)
        kept = keep_inputs(shim, self.canonical)
        outcome = self._judge_again(watch, activity)
        if outcome != "miss_stored":
            return outcome
        result = Result(
            key=self.key,
            components=[describe(component) for component in self.canonical.components],
            outputs=outputs,
            interleave=capture.interleave,
            seconds=run.seconds,
            input_file=self._describe_input(kept),
            provenance={**self._describe_provenance(), "private": self._find_private_names(outputs)},
        )
        save_result(shim.layout, result)
        entry = DirectEntry(self.key, run.seconds, capture.interleave, outputs, _side_files(self.canonical))
        _save_direct(shim.layout, shim.direct_key, entry)
        return outcome

    def _describe_input(self, kept: "list[dict[str, object]]") -> "dict[str, object]":
        model = self.shim.model
        if model is None:
            raise AssertionError
        fingerprint = self.canonical.fingerprint
        return {
            "name": model.name,
            "path": model.path,
            "size": model.size,
            "sha256": fingerprint.digest,
            "proof": prove_components(self.canonical.components),
            "mode": fingerprint.mode,
            "reason": fingerprint.reason,
            "files": kept,
        }

    def _find_private_names(self, outputs: "dict[str, Output]") -> "dict[str, list[str]]":
        """Return what of this environment stands in the result's texts: an upload from another must leave it out."""
        shim = self.shim
        texts = [field for component in self.canonical.components for field in describe(component)["fields"]]
        texts.append(shim.model.name if shim.model else "")
        texts += [
            read_blob(shim.layout, output).decode("utf-8", "surrogateescape")
            for output in outputs.values()
            if output.role in TEXT_ROLES and output.size <= LARGEST_TEXT
        ]
        return PrivateNames.of_host(shim.environ).found_in(texts)

    def _describe_provenance(self) -> "dict[str, object]":
        shim = self.shim
        return {
            "created": time.time(),
            "host": os.uname().nodename,
            "user": os.getuid(),
            "compiler": shim.compiler,
            "compiler_version": shim.identity.version,
            "command": ["neuronx-cc", *shim.arguments],
            "directory": _current_directory(),
            "neuron_store": VERSION,
            "python": sys.version.split()[0],
        }


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted; the paths on the command line may be absolute
        return ""
