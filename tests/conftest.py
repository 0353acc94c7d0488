"""What tests share: a host of their own, with a store, a shim and a stand-in compiler."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest
from cli_remotes import end_uploaders
from loopback_hub import start_hub

from neuron_store.cli.totals import Totals
from neuron_store.shim.launcher import write_launcher
from neuron_store.store.events import read_events
from neuron_store.store.layout import Layout

HERE = Path(__file__).parent
STANDIN = HERE / "standin_compiler.py"
VERSION = "2.14.227.0+2d4f85be"

# The same commit passes or fails twice alike; `make explore` tries examples that nobody has seen.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# What a test's own process forks ends in the same breath, whatever threads the tests have (a Hub, JAX).
FORK_WARNINGS = (
    r"ignore:os\.fork\(\) was called:RuntimeWarning",
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)


def pytest_collection_modifyitems(items):
    for item in items:
        for warning in FORK_WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(warning))


def install_standin(folder: Path) -> Path:
    """Put a stand-in `neuronx-cc` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "neuronx-cc"
    program.write_text(f"#!{sys.executable} -IS\n" + STANDIN.read_text())
    program.chmod(0o755)
    return program


class Host:
    """One machine: its home, store, compiler and launcher, all below a test's own folder."""

    def __init__(self, base: Path, launcher: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.store = base / "store"
        self.work = base / "work"
        self.venv = base / "venv"
        self.launcher = launcher
        self.runs_file = base / "runs"
        for folder in (self.home, self.work):
            folder.mkdir(parents=True)
        self.compiler = install_standin(self.venv / "bin")
        self.env = {
            "HOME": str(self.home),
            "PATH": f"{launcher.parent}:{self.compiler.parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "NEURON_STORE_DIR": str(self.store),
            "NEURON_STORE_REMOTES": "none",
            "STANDIN_RUNS": str(self.runs_file),
        }

    def use_remotes(self, *words, hub=None, token="hf_alice") -> None:
        """Make these the host's remotes; the Hub is `hub`, and what waits there waits little."""
        self.env |= {
            "NEURON_STORE_REMOTES": " ".join(words),
            "NEURON_STORE_UPLOAD_QUIET": "0.2",
            "NEURON_STORE_UPLOAD_MAX_AGE": "2",
            "NEURON_STORE_UPLOAD_RETRY": "0.05",
            "HF_HOME": str(self.base / "huggingface"),
        }
        if hub is not None:
            self.env |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token}

    @property
    def layout(self) -> Layout:
        return Layout(str(self.store))

    @property
    def log_file(self) -> Path:
        return self.home / ".local/state/neuron-store/shim.log"

    def environ(self, extra: dict) -> dict:
        merged = {**self.env, **extra}
        return {name: str(value) for name, value in merged.items() if value is not None}

    def cc(self, *arguments, cwd=None, check=True, stdin=subprocess.DEVNULL, **extra):
        """Run the shim's `neuronx-cc`; keyword arguments are added to the environment."""
        done = subprocess.run(
            ["neuronx-cc", *map(str, arguments)],
            executable=str(self.launcher),
            cwd=cwd or self.work,
            env=self.environ(extra),
            capture_output=True,
            stdin=stdin,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, done.stderr.decode()
        return done

    def start(self, *arguments, cwd=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **extra):
        return subprocess.Popen(
            ["neuronx-cc", *map(str, arguments)],
            executable=str(self.launcher),
            cwd=cwd or self.work,
            env=self.environ(extra),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )

    def cli(self, *arguments, check=True, cwd=None, **extra):
        """Run `neuron-store`."""
        done = subprocess.run(
            [sys.executable, "-m", "neuron_store.cli", *map(str, arguments)],
            cwd=cwd or self.work,
            env=self.environ(extra),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def model(self, name="model.hlo_module.pb", data=b"\x0a\x04main an HLO module") -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    @property
    def runs(self) -> list[dict]:
        """What the real compiler was asked to do, run by run (without --version)."""
        if not self.runs_file.exists():
            return []
        return [json.loads(line) for line in self.runs_file.read_text().splitlines()]

    def counters(self) -> dict[str, int]:
        """Every counter that is not zero."""
        events = list(read_events(self.layout))
        events += read_events(Layout(str(self.home / ".local/state/neuron-store")))
        return {name: count for name, count in Totals(events).counters.items() if count}

    def leftovers(self) -> list[str]:
        """Temporary files and locks, in the store and in the work folder, that should not be there at rest.

        A lock that holds the mark of a failure is left on purpose, for waiters to see.
        """
        found = [*(self.store / "tmp").glob("*"), *self.base.rglob(".neuron-store-*")]
        found += [
            path
            for path in (self.store / "locks").glob("*")
            if path.name not in (".swept", "uploader", "uploader-foreground", "event-archive")
            and path.read_bytes()[:1] != b"F"
        ]
        return [str(path) for path in found]


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Let programs that tests start be ended: a test runner's worker ignores SIGINT, and a runner in the background more.

    What is ignored is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory) -> Path:
    return write_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def host(tmp_path, launcher):
    made = Host(tmp_path, launcher)
    yield made
    end_uploaders(made)


@pytest.fixture
def ns(host):
    """Run `neuron-store`; the exit code must be as said, and there must be no traceback."""

    def run(*arguments, code=0, **extra):
        done = host.cli(*arguments, check=False, **extra)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def hub():
    """A Hub with alice's empty repo alice/cache."""
    with start_hub() as hub:
        hub.add_user("alice", "hf_alice")
        hub.create_repo("alice/cache")
        yield hub


@pytest.fixture
def make_host(tmp_path, launcher):
    made = []

    def make(name):
        made.append(Host(tmp_path / name, launcher))
        return made[-1]

    yield make
    for each in made:
        end_uploaders(each)


def other_users_can_run(program) -> bool:
    """Whether a user who is not the tests' can run `program` (its interpreter may lie in a closed home)."""
    try:
        subprocess.run([program, "--version"], user=65534, group=65534, extra_groups=[], capture_output=True)
    except PermissionError:
        return False
    return True


@pytest.fixture
def open_host(launcher):
    """A host in a folder that other users can enter (pytest's own are closed)."""
    base = Path(tempfile.mkdtemp(prefix="neuron-store-test-"))
    base.chmod(0o755)
    opened = base / "launcher"
    opened.mkdir()
    yield Host(base / "host", write_launcher(opened))
    shutil.rmtree(base)


@pytest.fixture
def mount_namespace():
    """The prefix of a command that may mount things only it sees; skips where the kernel forbids it."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        prefix = ["unshare", "--mount"]
        if os.geteuid() or subprocess.run([*prefix, "true"], capture_output=True).returncode:
            pytest.skip("this kernel does not let us make a mount namespace")
    return prefix
