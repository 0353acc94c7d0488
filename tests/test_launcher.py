"""The launcher: nothing around it changes what it does, and whatever is broken behind it, the compiler runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environments import make_venv

import neuron_store.hashing
from neuron_store.hashing.native import EXTENSIONS
from neuron_store.shim.launcher import launcher_text, write_launcher
from neuron_store.shim.real_compiler import is_shim

FLOORS = ("hashing", "store", "shim", "cli")
COMPILE = ["compile", "--target=trn1"]
# What becomes of an invocation: it passes through, or is a miss. Both start the compiler, each in its own way.
WAYS = {"pass-through": ["list-operators"], "miss": [*COMPILE, "model.pb", "--output=o.neff"]}

# A compiler that is no Python program: an interpreter would change the environment and signals before it looks.
PROBE = """#!/bin/sh
case "$*" in *--version*) echo "NeuronX Compiler version 2.14.227.0+2d4f85be"; exit 0;; esac
cat /proc/$$/environ >"{work}/environ"
cat /proc/self/status >"{work}/status"
if [ "$PROBE_DESCRIPTOR" ]; then echo "from the compiler" >/proc/self/fd/"$PROBE_DESCRIPTOR"; fi
echo neff >o.neff
"""


@pytest.fixture
def write(host):
    """Write a launcher with changes to its text into a folder of its own, and put that folder first on PATH."""

    def make(change=lambda text: text):
        path = host.base / "launcher/neuronx-cc"
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(launcher_text()))
        path.chmod(0o755)
        host.launcher = path
        host.env["PATH"] = f"{path.parent}:{host.compiler.parent}:/usr/bin:/bin"
        return path

    return make


@pytest.fixture
def probe(host):
    """A host whose compiler reports the environment and signals that it was started with."""
    host.compiler.write_text(PROBE.format(work=host.work))
    host.model("model.pb")
    return host


def compile_twice(host, model=None, **extra):
    model = model or host.model()
    for name in ("a.neff", "b.neff"):
        done = host.cc(*COMPILE, model, f"--output={name}", **extra)
        assert (done.stdout, done.stderr) == (b"Compiler status PASS\n", b"")
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()


# -- isolation -----------------------------------------------------------------------------------------------------

MODULES = ["os", "sys", "json", "subprocess", "xxhash", "zstandard", "neuron_store", "site", "sitecustomize", "time"]


@pytest.fixture
def traps(host):
    """A folder of modules that leave a trace when they are imported; packages and plain modules alike."""
    folder = host.work
    trace = f"open({str(host.base / 'trapped')!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(99)\n"
    for name in MODULES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trace)
        (folder / f"{name}.py").write_text(trace)
    (folder / "start.py").write_text(trace)
    return folder


def test_modules_in_the_current_folder_are_not_imported(host, traps):
    compile_twice(host)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert not (host.base / "trapped").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONPATH", "{traps}"),
        ("PYTHONPATH", ""),
        ("PYTHONSTARTUP", "{traps}/start.py"),
        ("PYTHONHOME", "{traps}"),
        ("PYTHONUSERBASE", "{traps}"),
        ("PYTHONPLATLIBDIR", "{traps}"),
        ("PYTHONWARNINGS", "error"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONVERBOSE", "1"),
        ("PYTHONDEBUG", "1"),
        ("PYTHONUTF8", "0"),
        ("PYTHONIOENCODING", "ascii"),
        ("PYTHONCASEOK", "1"),
        ("PYTHONSAFEPATH", "0"),
        ("PYTHONEXECUTABLE", "{traps}/python"),
        ("PYTHONBREAKPOINT", "os.abort"),
        ("VIRTUAL_ENV", "{traps}"),
    ],
)
def test_variables_for_the_interpreter_change_nothing(host, traps, variable, value):
    # The stand-in is a Python program as well, but it is started isolated like ourselves.
    compile_twice(host, **{variable: value.format(traps=traps)})
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert not (host.base / "trapped").exists()


def test_where_it_is_started_from_and_by_what_name_changes_nothing(host):
    model = host.model()
    link = host.base / "links/neuronx-cc"
    link.parent.mkdir()
    link.symlink_to(host.launcher)
    relative = os.path.relpath(host.launcher, host.work)
    for number, program in enumerate([str(host.launcher), relative, "../links/neuronx-cc"]):
        subprocess.run([program, *COMPILE, model, f"--output={number}.neff"], cwd=host.work, env=host.env, check=True)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2}


# -- the line that starts the interpreter --------------------------------------------------------------------------

FOLDERS = {
    "ordinary": "plain",
    "spaces": "a folder of mine",
    "quotes": "it's \"mine\" & 'yours'",
    "shell": "$HOME `id` $(id) \\n ;* é",
    "long": "l" * 100 + "/" + "o" * 100,
    "very long": "/".join(["v" * 200] * 4),
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_interpreter_in_any_folder_is_started(host, folder):
    python = make_venv(host.base / FOLDERS[folder] / "venv", with_neuron_store=True)
    said = subprocess.check_output([python, "-m", "neuron_store.cli", "env", "--path"], env=host.env)
    host.launcher = Path(os.fsdecode(said).rstrip("\n")) / "neuronx-cc"
    first_line = host.launcher.read_bytes().partition(b"\n")[0]
    assert host.launcher.is_relative_to(python.parent.parent)
    if folder != "ordinary":
        assert first_line == b"#!/bin/sh"
    assert len(first_line) < 127
    assert is_shim(str(host.launcher))
    # Seen twice on PATH, it must not take itself for the compiler.
    host.env["PATH"] = f"{host.launcher.parent}:{host.launcher.parent}/:{host.compiler.parent}:/usr/bin:/bin"
    compile_twice(host, host.model("a model.pb"))
    assert host.runs[0]["argv"] == [*COMPILE, f"{host.work}/a model.pb", "--output=a.neff"]
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_the_launcher_by_way_of_sh_gets_every_argument_as_it_is(host):
    python = make_venv(host.base / "a folder/venv", with_neuron_store=True)
    said = subprocess.check_output([python, "-m", "neuron_store.cli", "env", "--path"], env=host.env, text=True)
    host.launcher = Path(said.rstrip("\n")) / "neuronx-cc"
    host.env["PATH"] = f"{host.launcher.parent}:{host.compiler.parent}:/usr/bin:/bin"
    arguments = ["list-operators", "", "a b", "$HOME", "*", "--", "-IS", "'", '"', "\\", "é", "a\nb"]
    host.cc(*arguments)
    assert host.runs[0]["argv"] == arguments


def test_another_language_does_not_change_the_launcher(host, tmp_path):
    python = make_venv(tmp_path / "é 模型/venv", with_neuron_store=True)
    written = set()
    for language in ("C", "C.UTF-8", "POSIX"):
        said = subprocess.check_output(
            [python, "-m", "neuron_store.cli", "env", "--path"], env=host.environ({"LC_ALL": language, "LANG": None})
        )
        written.add((Path(os.fsdecode(said).rstrip("\n")) / "neuronx-cc").read_bytes())
    assert len(written) == 1
    host.launcher = Path(os.fsdecode(said).rstrip("\n")) / "neuronx-cc"
    compile_twice(host, LC_ALL="C")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_launcher_that_is_there_and_the_same_is_left_alone(tmp_path):
    path = write_launcher(tmp_path)
    before = path.stat()
    assert write_launcher(tmp_path) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


# -- damage --------------------------------------------------------------------------------------------------------


def copy_of_the_floors(host):
    source = Path(next(iter(neuron_store.hashing.__path__))).parent
    copy = host.base / "installation"
    for floor in FLOORS:
        shutil.copytree(source / floor, copy / floor, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def lead_to(copy):
    return lambda text: re.sub(r"__path__ = .*", lambda _: f"__path__ = [{str(copy)!a}]", text)


def replace(path, content):
    path.unlink()
    path.write_text(content)


DAMAGES = {
    "all is gone": shutil.rmtree,
    "all is empty": lambda copy: [shutil.rmtree(floor) for floor in copy.iterdir()],
    "a floor is gone": lambda copy: shutil.rmtree(copy / "store"),
    "the main module is gone": lambda copy: (copy / "shim/main.py").unlink(),
    "a module is gone": lambda copy: (copy / "store/layout.py").unlink(),
    "a module is empty": lambda copy: replace(copy / "shim/main.py", ""),
    "a module is cut short": lambda copy: replace(copy / "hashing/keys.py", "def make_key(\n"),
    "a module is of another version": lambda copy: replace(copy / "shim/settings.py", "VERSION = 0\n"),
    "a module is not text": lambda copy: (copy / "store/events.py").write_bytes(b"\xff\x00\xfe"),
    "a module is a folder": lambda copy: ((copy / "shim/execute.py").unlink(), (copy / "shim/execute.py").mkdir()),
    "a module fails": lambda copy: replace(copy / "store/errors.py", "1 / 0\n"),
    "a module of the miss is gone": lambda copy: (copy / "shim/miss.py").unlink(),
    "a module of the miss fails": lambda copy: replace(copy / "shim/run_compiler.py", "1 / 0\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("code", [0, 3])
def test_however_neuron_store_is_damaged_the_compiler_runs_once(host, write, damage, code):
    copy = copy_of_the_floors(host)
    write(lead_to(copy))
    DAMAGES[damage](copy)
    model = host.model()
    done = host.cc(*COMPILE, model, "--output=o.neff", check=False, STANDIN_EXIT=code)
    assert done.returncode == code
    assert done.stdout == (b"" if code else b"Compiler status PASS\n")
    assert done.stderr == (b"ERROR: the stand-in was told to fail\n" if code else b"")
    assert [run["argv"] for run in host.runs] == [[*COMPILE, str(model), "--output=o.neff"]]
    assert (host.work / "o.neff").exists() == (not code)


def test_a_copy_that_is_whole_stores_and_serves(host, write):
    write(lead_to(copy_of_the_floors(host)))
    compile_twice(host)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def without_packages(text):
    return re.sub(r"sys\.path \+= .*", "pass", re.sub(r"__extensions__ = .*", "__extensions__ = {}", text))


@pytest.mark.parametrize("damage", ["floors", "packages"])
def test_a_damaged_launcher_starts_the_compiler_that_is_set(host, write, damage):
    write(lead_to("/absent") if damage == "floors" else without_packages)
    host.env["PATH"] = f"{host.launcher.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_COMPILER=host.compiler)
    assert len(host.runs) == 1


def test_a_damaged_launcher_starts_the_compiler_with_signals_as_by_default(probe, write):
    write(lead_to("/absent"))
    probe.cc(*WAYS["miss"])
    assert ignored_signals(probe) == set()


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_damaged_and_without_another_compiler_it_says_so(host, write, arguments):
    write(lead_to("/absent"))
    host.model("model.pb")
    other = host.base / "other/neuronx-cc"
    other.parent.mkdir()
    other.write_bytes(host.launcher.read_bytes())  # a launcher of another installation is no compiler
    other.chmod(0o755)
    (host.base / "folder/neuronx-cc").mkdir(parents=True)
    host.env["PATH"] = f"{host.launcher.parent}:{other.parent}:{host.base}/folder:/absent::/usr/bin:/bin"
    done = host.cc(*arguments, check=False)
    assert done.returncode == 127
    assert done.stderr == b"neuron-store is damaged and no other neuronx-cc is on PATH; install it again\n"
    assert done.stdout == b""


# -- the C extensions ----------------------------------------------------------------------------------------------


def other_extensions(files):
    return lambda text: re.sub(r"__extensions__ = .*", lambda _: f"__extensions__ = {files!a}", text)


@pytest.mark.parametrize("stale", ["gone", "not a library", "a folder", "of another module", "not recorded"])
def test_where_the_recorded_extensions_are_stale_the_ordinary_import_serves(host, write, stale):
    text = host.base / "text.so"
    text.write_text("not a library")
    if stale == "of another module":
        recorded = dict(re.findall(r"'([\w.]+)': '([^']+)'", launcher_text()))
        files = dict(zip(EXTENSIONS, reversed([recorded[name] for name in EXTENSIONS]), strict=True))
    else:
        path = {"gone": "/absent/x.so", "not a library": str(text), "a folder": str(host.base)}.get(stale)
        files = dict.fromkeys(EXTENSIONS, path) if path else {}
    write(other_extensions(files))
    compile_twice(host, STANDIN_COMPRESSIBLE=1, STANDIN_SIZE=100_000)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert list((host.store / "blobs").rglob("*.zst"))


# -- what the compiler is started with -----------------------------------------------------------------------------

ENVIRONMENTS = {
    "nothing but what must be": {},
    "a language": {b"LANG": b"C.UTF-8"},
    "another language": {b"LANG": b"en_US.UTF-8", b"LC_TIME": b"de_DE.UTF-8"},
    "the C language": {b"LC_ALL": b"C"},
    "the POSIX language": {b"LANG": b"POSIX"},
    "a character set of the caller's": {b"LC_CTYPE": b"C.UTF-8"},
    "bytes, spaces and lines": {b"ODD": b"\xff\xfe = x\ny", b"EMPTY": b"", b"\xe9": b"x"},
    "variables of interpreters": {b"PYTHONPATH": b"/x", b"PYTHONHOME": b"/y", b"PYTHONUTF8": b"0", b"__PYVENV": b"1"},
    "variables of ours": {b"NEURON_STORE_RUN": b"r", b"NEURON_STORE_ENABLED": b"1", b"NEURON_STORE_OTHER": b"x"},
}


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_the_compilers_environment_is_the_callers_and_the_guard(probe, case, arguments):
    environ = {
        b"PATH": os.fsencode(probe.env["PATH"]),
        b"NEURON_STORE_DIR": os.fsencode(probe.store),
        **ENVIRONMENTS[case],
    }
    subprocess.run(
        ["neuronx-cc", *arguments], executable=probe.launcher, cwd=probe.work, env=environ, check=True, timeout=60
    )
    seen = (probe.work / "environ").read_bytes().removesuffix(b"\0").split(b"\0")
    assert sorted(seen) == sorted([name + b"=" + value for name, value in environ.items()] + [b"NEURON_STORE_ACTIVE=1"])


def ignored_signals(host):
    mask = int(re.search(r"^SigIgn:\s*(\w+)$", (host.work / "status").read_text(), re.MULTILINE)[1], 16)
    return {signal.Signals(number) for number in range(1, 32) if mask >> (number - 1) & 1}


def blocked_signals(host):
    return int(re.search(r"^SigBlk:\s*(\w+)$", (host.work / "status").read_text(), re.MULTILINE)[1], 16)


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_the_compiler_ignores_and_blocks_no_signal(probe, arguments):
    probe.cc(*arguments)
    assert ignored_signals(probe) == set()
    assert blocked_signals(probe) == 0


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_signals_that_the_caller_ignores_stay_ignored(probe, arguments):
    line = 'trap "" INT HUP; exec neuronx-cc "$@"'
    subprocess.run(["/bin/sh", "-c", line, "sh", *arguments], cwd=probe.work, env=probe.env, check=True)
    assert ignored_signals(probe) == {signal.SIGINT, signal.SIGHUP}


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_open_files_of_the_caller_reach_the_compiler(probe, arguments):
    reading, writing = os.pipe()
    subprocess.run(
        ["neuronx-cc", *arguments],
        executable=probe.launcher,
        cwd=probe.work,
        env=probe.environ({"PROBE_DESCRIPTOR": writing}),
        pass_fds=[writing],
        check=True,
        timeout=60,
    )
    os.close(writing)
    with open(reading) as file:
        assert file.read() == "from the compiler\n"


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_no_file_of_ours_reaches_the_compiler(probe, arguments):
    probe.compiler.write_text(PROBE.format(work=probe.work) + f"ls /proc/$$/fd >{probe.work}/files\n")
    subprocess.run([probe.compiler, *arguments], cwd=probe.work, env=probe.env, capture_output=True, check=True)
    without_us = (probe.work / "files").read_text()
    probe.cc(*arguments)
    assert (probe.work / "files").read_text() == without_us


def test_the_interpreter_of_the_launcher_is_the_one_that_runs_this():
    assert launcher_text().startswith(f"#!{sys.executable} -IS\n") or launcher_text().startswith("#!/bin/sh\n")
