"""Commands in the documents: those that can be run print what is said, and every other one exists."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import typer
import zstandard
from cli_remotes import end_uploaders
from conftest import install_standin
from doc_blocks import command_lines, prints, read_blocks, words_of
from loopback_hub import start_hub
from stock_setup import FLAGS, FOLDER, graph, module_name, write_entry

from neuron_store.cli.main import make_app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = sorted(path for path in (DOCS / "examples").rglob("*") if path.is_file())
RUN = [path for path in PAGES if any(block.host for block in read_blocks(path))]
SLOWEST = 120  # seconds that a command of a page may take
# What stands for a user's program: it compiles the graphs that are named, or all, as a framework does.
TRAIN = """\
import subprocess, sys
from pathlib import Path

for graph in map(Path, sys.argv[1:] or sorted(Path("graphs").glob("*.pb"))):
    command = ["neuronx-cc", "compile", "--framework=XLA", graph, "--output", graph.with_suffix(".neff"), "--target=trn1"]
    subprocess.run([*map(str, command), "--model-type=transformer", "--verbose=35"], check=True, stdout=subprocess.DEVNULL)
"""


def write_stock_cache(cache: Path) -> None:
    """Write what a framework's cache may hold: two finished modules, one whose compile failed."""
    for number, neff in ((1, b"NEFF of graph 1"), (2, b"NEFF of graph 2")):
        write_entry(cache / FOLDER / module_name(graph(number), list(FLAGS)), graph(number), FLAGS, neff=neff)
    failed = write_entry(cache / FOLDER / module_name(graph(3), list(FLAGS)), graph(3), FLAGS)
    (failed / "model.log").write_text("the compiler failed\n")
    for path in (failed, *failed.iterdir()):  # what was written a moment ago counts as in use
        os.utime(path, (0, 0))


MODEL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "torch_dtype": "bfloat16"}


class Shell:
    """A host's shell, which a page's commands follow one another in. It knows the Hub, as alice, and has a compiler."""

    def __init__(self, base: Path, hub) -> None:
        self.home, self.work = base / "home", base / "work"
        self.home.mkdir(parents=True)
        self.bin = base / "venv/bin"
        install_standin(self.bin)
        for name, target in (
            ("python", sys.executable),
            ("neuron-store", Path(sys.executable).with_name("neuron-store")),
        ):
            (self.bin / name).write_text(f'#!/bin/sh\nexec "{target}" "$@"\n')
            (self.bin / name).chmod(0o755)
        graphs = self.work / "graphs"
        graphs.mkdir(parents=True)
        for name in ("llama_decode", "llama_prefill"):
            packed = (ROOT / f"benchmarks/builtin/{name}.hlo_module.pb.zst").read_bytes()
            (graphs / f"{name}.hlo_module.pb").write_bytes(zstandard.decompress(packed))
        for name in ("train.py", "export.py"):
            (self.work / name).write_text(TRAIN)
        # The documents' places -> where they are here. All hosts see the same /fsx.
        self.places = {
            "/var/tmp/neuron-compile-cache": str(base / "neuron-compile-cache"),
            "/fsx/neuron-store": str(base.parent / "fsx"),
            "/home/ubuntu/work": str(self.work),
            "/home/ubuntu": str(self.home),
            "https://huggingface.co": hub.endpoint,
        }
        (base.parent / "fsx").mkdir(exist_ok=True)
        write_stock_cache(base / "neuron-compile-cache")
        self.store = self.home / ".cache/neuron-store"
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=self.work,
            env={
                "HOME": str(self.home),
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "SHELL": "/bin/bash",
                "USER": "ubuntu",
                "COLUMNS": "120",
                "HF_ENDPOINT": hub.endpoint,
                "HF_TOKEN": "hf_alice",
                "NEURON_STORE_UPLOAD_QUIET": "0.2",
                "NEURON_STORE_UPLOAD_RETRY": "0.05",
                "STANDIN_SIZE": "300000",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.lines: queue.Queue = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.decode(errors="replace"))
        self.lines.put(None)

    def run(self, command: str) -> tuple[int, str]:
        """Run one command; return its exit code, and what it printed as a host of the documents would have it."""
        for name, path in self.places.items():
            command = command.replace(name, path)
        mark = f"mark-{os.urandom(8).hex()}"
        self.process.stdin.write(f"{{\n{command}\n}} < /dev/null\nprintf '\\n%s %s\\n' {mark} $?\n".encode())
        self.process.stdin.flush()
        printed = ""
        while True:
            line = self.lines.get(timeout=SLOWEST)
            assert line is not None, f"the shell ended in: {command}\n{printed}"
            if line.startswith(mark):
                break
            printed += line
        printed = printed.removesuffix("\n")
        for name, path in self.places.items():
            printed = printed.replace(path, name)
        return int(line.split()[1]), printed

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        end_uploaders(self, entry=f"HOME={self.home}")
        self.reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def shells():
    made = {}
    base = Path(tempfile.mkdtemp(prefix="d-"))  # short, so that no line breaks where none would on a user's host
    with start_hub() as hub:
        hub.add_user("alice", "hf_alice", orgs=("acme",))
        hub.add_user("reader", "hf_reader", "read", orgs=("acme",))
        hub.add_user("aws-neuron", "hf_aws")
        hub.create_repo("aws-neuron/optimum-neuron-cache")
        hub.create_repo("acme/tiny-llama")
        hub.put_file("acme/tiny-llama", "config.json", json.dumps(MODEL).encode())

        def shell(name):
            if name not in made:
                made[name] = Shell(base / name, hub)
            return made[name]

        yield shell
        for each in made.values():
            each.close()
    shutil.rmtree(base)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the documents' commands are for bash")
@pytest.mark.parametrize("path", RUN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_do_and_print_what_the_page_says(path, shells):
    for block in read_blocks(path):
        for command in block.commands if block.host else ():
            code, printed = shells(block.host).run(command.text)
            told = f"{path.name}, block at line {block.line}: {command.text}\nended with {code} and printed:\n{printed}"
            if bool(code) != command.fails or (command.output is not None and not prints(command.output, printed)):
                pytest.fail(told, pytrace=False)


def test_some_pages_are_run():
    assert len(RUN) > 5


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists_with_its_options(path):
    for number, line in command_lines(path):
        fault = fault_of(words_of(line))
        assert not fault, f"{path.name}, line {number}: {line}: {fault}"


def fault_of(words: list[str]) -> str:
    """Say what the command line does not have of `neuron-store WORD…`, "" if it has it all."""
    command = typer.main.get_command(make_app())
    words = words[1:]
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            # `config --json`, and `stock …` in prose
            return "" if command.name != "neuron-store" and words[0] == "..." else f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {spelling for one in command.params for spelling in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    interspersed = command.context_settings.get("allow_interspersed_args", True)
    taken = {spelling for one in command.params if not getattr(one, "is_flag", True) for spelling in one.opts}
    while words:
        word = words.pop(0)
        if word == "--":
            break
        name = word.partition("=")[0]
        if not name.startswith("-") or name == "-":
            if not interspersed:
                break
            continue
        if name.replace("_", "-") not in known:
            return f"no option {name}"
        if name.replace("_", "-") in taken and "=" not in word and words:
            words.pop(0)
    return ""


def test_a_command_line_that_does_not_exist_is_found():
    assert fault_of(words_of("neuron-store frobnicate")) == "no command frobnicate"
    assert fault_of(words_of("neuron-store gc --max-weight 3")) == "no option --max-weight"
    assert fault_of(words_of("neuron-store run --model=a/b -- train --anything")) == ""
    assert fault_of(words_of('neuron-store env)"')) == ""
    assert fault_of(words_of("neuron-store synchronize --cache_dir DIR | tee log --x")) == ""


@pytest.mark.parametrize(
    ("promised", "printed", "same"),
    [
        ("37 hits, saved 1 h 12 min", "37 hits, saved 850 ms", True),
        ("37 hits, saved 1 h 12 min", "36 hits, saved 850 ms", False),
        ("key 3f2a9c01", "key  0123456789abcdef0123456789abcdef", True),
        ("a\n…\nz", "a\nb\nc\nz", True),
        ("a\n…\nz", "a\nb\nc", False),
        ("from … on", "from /a/b on", True),
        ("one line", "one line\nand another", False),
    ],
)
def test_what_is_printed_is_compared(promised, printed, same):
    assert prints(promised, printed) is same
