"""Several compiles at once, each a run of the shim: what is in the store is a hit, what is not becomes a result."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_store.cli.precompile_jobs import Job
from neuron_store.cli.process_sessions import end_sessions
from neuron_store.shim.deliver import WRAPPED_NEFF
from neuron_store.store.layout import discard, write_all
from neuron_store.store.stock.entries import FINISHED, read_entry
from neuron_store.store.stock.locks import Processes, lock_holder, young_below
from neuron_store.store.stock.names import FLAGS, LOCK_SUFFIX, NEFF
from neuron_store.store.stock.names import WRAPPED_NEFF as STOCK_WRAPPED_NEFF
from neuron_store.store.stock.writing import write_finished

_GLANCE = 0.01  # seconds between two looks at the running compiles
_FAREWELL = 10.0  # seconds for a compile to end after SIGTERM, and as long for the shim after SIGKILL
_TAIL = 4096  # bytes of stderr that its last line is looked for in
_PIECE = 1 << 20  # bytes


@dataclass
class Done:
    """How a job ended.

    Attributes:
        run: the name of its run, by which its events are found.
        code: the compiler's exit code, minus a signal's number.
        seconds: it took, the shim included.
        said: the last line of its stderr.
        written: whether its entry in the stock folder is finished now.
        in_the_way: why it was not written back, "" if it was or was not to be.
    """

    job: Job
    run: str
    code: int
    seconds: float
    said: str = ""
    written: bool = False
    in_the_way: str = ""


@dataclass
class Running:
    """A job under way."""

    job: Job
    run: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    begun: float


class Pool:
    """Runs jobs in order, so many at once.

    Attributes:
        running: the jobs under way.
        stopped: the signal that asked to end, 0 if none did.
    """

    def __init__(self, launcher: str, environ: "dict[str, str]", folder: Path, run: str) -> None:
        """Each job has a folder of its own below `folder`; events of job `n` have the run's name `<run>-<n>`."""
        self.running: list[Running] = []
        self.stopped = 0
        self._launcher = launcher
        self._environ = environ
        self._folder = folder
        self._run = run
        self._begun = 0

    def stop(self, number: int) -> None:
        """Begin nothing more, and end what runs. For signal handlers."""
        self.stopped = self.stopped or number

    def work(
        self, jobs: "list[Job]", at_once: int, *, write_back: bool, glance: "Callable[[], None]"
    ) -> "Iterator[Done]":
        """Yield how each job ended, as they end; `glance` is called several times a second."""
        waiting = list(jobs)
        ended: set[int] = set()
        try:
            while (waiting or self.running) and not self.stopped:
                while len(self.running) < at_once and (job := _next(waiting, ended)) is not None:
                    waiting.remove(job)
                    self._begin(job)
                for running in [each for each in self.running if each.process.poll() is not None]:
                    self.running.remove(running)
                    ended.add(id(running.job))
                    yield self._end(running, write_back=write_back)
                glance()
                time.sleep(_GLANCE)
        finally:
            self._end_all()

    def _begin(self, job: Job) -> None:
        """Begin a job, its graph in a folder of its own: whatever its name is, nothing is written through it."""
        self._begun += 1
        run = f"{self._run}-{self._begun}"
        folder = self._folder / str(self._begun)
        graph = folder / "input" / job.link
        work = folder / "work"
        graph.parent.mkdir(parents=True)
        work.mkdir()
        graph.symlink_to(job.graph)
        # Without a log file's option, which the options of an exported entry would tell: it goes to `work` by default.
        words = ["compile", "--framework=XLA", str(graph), "--output", str(work / "out.neff"), *job.flags]
        with open(folder / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                ["neuronx-cc", *words, "--verbose=35"],
                executable=self._launcher,
                cwd=work,
                env={**self._environ, "NEURON_STORE_RUN": run},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # by which all that it starts can be ended
            )
        self.running.append(Running(job, run, process, folder, time.monotonic()))

    def _end(self, running: Running, *, write_back: bool) -> Done:
        done = Done(running.job, running.run, running.process.returncode, time.monotonic() - running.begun)
        work = running.folder / "work"
        neff = work / "out.neff"
        if done.code == 0 and not neff.exists():
            done.code, done.said = 1, "the compiler made no NEFF"
        elif done.code:
            done.said = _last_line(running.folder / "stderr")
        elif write_back and running.job.entry is not None:
            done.in_the_way = _write_back(running.job, neff, work / WRAPPED_NEFF)
            done.written = not done.in_the_way
        shutil.rmtree(running.folder, ignore_errors=True)
        return done

    def _end_all(self) -> None:
        """End what still runs: the shim tidies up after a compile that is ended, which leaves nothing."""
        end_sessions([running.process for running in self.running], _FAREWELL)
        for running in self.running:
            shutil.rmtree(running.folder, ignore_errors=True)


def _next(waiting: "list[Job]", ended: "set[int]") -> "Job | None":
    """Return the next job that need not wait for another with its key."""
    return next((job for job in waiting if job.same_as is None or id(job.same_as) in ended), None)


def _last_line(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _write_back(job: Job, neff: Path, wrapped: Path) -> str:
    """Make the entry a finished one, under its own lock; return what is in the way, "" if nothing was."""
    if job.entry is None:
        raise AssertionError
    entry = read_entry(job.entry.folder, job.entry.version)
    if entry.state == FINISHED:
        return "it was finished meanwhile"
    if not entry.sizes:
        return "it went away meanwhile"
    graph = job.entry.graph  # that was compiled
    if not entry.sizes.get(graph):
        return "its graph went away meanwhile"
    lock = entry.path(graph + LOCK_SUFFIX)
    if holder := _take(entry.folder, entry.version, lock):
        return holder
    try:
        files = {NEFF: neff, **({STOCK_WRAPPED_NEFF: wrapped} if wrapped.exists() else {})}
        write_finished(entry.folder, {name: _copier(path) for name, path in files.items()}, keep=(graph, FLAGS))
    except OSError as error:
        return f"it cannot be written: {error.strerror or error}"
    finally:
        discard(lock)
    return ""


def _take(folder: str, version: str, lock: str) -> str:
    """Take the stock lock, in place of one whose owner is dead; return who holds it, "" if we do now."""
    for _ in range(2):
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            holder = lock_holder(read_entry(folder, version), lock, Processes(), young_below(folder))
            if holder:
                return f"its lock is held: {holder}"
            discard(lock)
        except OSError as error:
            return f"it cannot be locked: {error.strerror or error}"
        else:
            return ""
    return "its lock is taken by others again and again"


def _copier(path: Path) -> "Callable[[int], None]":
    def write(descriptor: int) -> None:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                write_all(descriptor, piece)

    return write
