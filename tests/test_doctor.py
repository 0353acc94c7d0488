"""`neuron-store doctor`: each finding is provoked, and nothing that it looks at makes it hang or fall."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doctors import diagnose, patched, powerless
from loopback_hub import Stall, Status

from neuron_store.cli.diagnosis.catalogue import catalogue
from neuron_store.cli.diagnosis.examination import AREAS
from neuron_store.shim.version import VERSION
from neuron_store.store.events import Event, append_event
from neuron_store.store.locks import KeyLock
from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.upload_lock import UploadLock

COMPILE = ("compile", "--target=trn1", "--output=o.neff")
COMPILER = "2.14.227.0+2d4f85be"
# What other people's processes on this machine may add.
NOT_OURS = {"callers.running-past-shim"}


def compile_one(host, data=b"\x0a\x04main an HLO module", **extra):
    return host.cc(*COMPILE, host.model(data=data), **extra)


def write_program(path, text, mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# -- all of it -----------------------------------------------------------------------------------------------------


def test_a_host_in_order_has_neither_warning_nor_problem(host):
    compile_one(host)
    found = diagnose(host)
    graver = (
        set(found.of_level("warning", "problem")) - NOT_OURS - {"filesystem.overlay", "filesystem.memory", "disk.low"}
    )
    assert not graver, found.said
    assert found.code == 0
    for name in (
        "settings.valid",
        "path.shim-first",
        "launcher.current",
        "compiler.found",
        "store.writable",
        "filesystem.works",
        "locks.free",
        "remotes.none",
        "token.none",
        "queue.empty",
        "clock.agrees",
        "log.quiet",
        "versions.fit",
        "versions.no-neuron-packages",
    ):
        assert name in found, name
    assert found.document["versions"]["neuron-store"] == VERSION
    assert found.facts("compiler.found")["version"] == COMPILER
    assert sum(found.document["counts"].values()) == len(found.document["findings"])


def test_a_person_reads_what_is_wrong_and_what_to_do(host):
    done = host.cli("doctor", check=False, PATH="/usr/bin:/bin")
    assert done.returncode == 4
    assert re.search(r"^path +problem +no shim is on PATH \[path.no-shim\]$", done.stdout, re.MULTILINE)
    assert "neuron-store env" in done.stdout
    assert "\x1b" not in done.stdout
    assert "problem" in done.stdout.splitlines()[-1]


def test_brief_leaves_out_what_is_as_it_should_be(host):
    done = host.cli("doctor", "--brief", check=False, PATH="/usr/bin:/bin")
    levels = {line[:30].split()[-1] for line in done.stdout.splitlines() if re.match(r"\S* +(ok|note)\b", line)}
    assert not levels
    assert "path.no-shim" in done.stdout


def test_no_line_is_wider_than_the_terminal(host):
    done = host.cli("doctor", check=False, PATH="/usr/bin:/bin", COLUMNS="80")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_reference_of_findings_is_up_to_date():
    assert (Path(__file__).parent.parent / "docs/doctor.md").read_text() == catalogue()


def test_every_finding_is_provoked_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_d*.py"))
    ids = [f"{area.name}.{name}" for area in AREAS for name in area.kinds]
    assert len(set(ids)) == len(ids) > 80
    missing = [name for name in ids if f'"{name}"' not in tests]
    assert not missing


# -- settings ------------------------------------------------------------------------------------------------------


def test_a_broken_settings_file_is_a_finding(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('dir = "unfinished\n')
    assert str(config) in diagnose(host).what("settings.invalid")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_in_the_place_of_the_settings_is_a_finding(host, make):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    make(config)
    assert str(config) in diagnose(host).what("settings.invalid")


def test_a_value_that_a_setting_cannot_have_is_a_finding(host):
    assert "'often'" in diagnose(host, NEURON_STORE_AUDIT_PERCENT="often").what("settings.invalid")


def test_a_misspelt_setting_is_a_finding(host):
    assert "NEURON_STORE_ENABLE " in diagnose(host, NEURON_STORE_ENABLE="1").what("settings.unknown")


def test_the_shims_own_guard_in_the_environment_is_a_problem(host):
    assert "NEURON_STORE_ACTIVE" in diagnose(host, NEURON_STORE_ACTIVE="1").what("settings.guard-set")


def test_switches_that_keep_results_from_being_used_are_told(host):
    found = diagnose(
        host,
        NEURON_STORE_ENABLED="false",
        NEURON_STORE_RECACHE="true",
        NEURON_STORE_READ_ONLY="true",
        NEURON_STORE_UPLOAD="false",
        NEURON_STORE_DEBUG_INFO="exact",
    )
    for name in ("settings.disabled", "settings.recache", "settings.read-only", "settings.upload-off"):
        assert "(NEURON_STORE_" in found.what(name)
    assert "exact" in found.what("settings.debug-info")


def test_a_variable_that_asks_for_debug_information_is_told(host):
    assert "XLA_IR_DEBUG" in diagnose(host, XLA_IR_DEBUG="1").what("settings.debug-info")


# -- PATH ----------------------------------------------------------------------------------------------------------


def test_a_compiler_before_the_shim_is_a_problem(host):
    found = diagnose(host, PATH=f"{host.compiler.parent}:{host.launcher.parent}:/usr/bin:/bin")
    assert str(host.compiler) in found.what("path.shadowed")
    assert "path.shim-first" not in found


def test_a_path_without_a_shim_is_a_problem(host):
    found = diagnose(host, PATH=f"{host.compiler.parent}:/usr/bin:/bin")
    assert str(host.compiler) in found.what("path.no-shim")


def test_a_shim_that_may_not_be_executed_is_a_problem(host):
    copied = shutil.copy(host.launcher, host.base / "neuronx-cc")
    os.chmod(copied, 0o644)
    found = diagnose(host, PATH=f"{host.base}:{host.compiler.parent}:/usr/bin:/bin")
    assert str(copied) in found.what("path.shim-not-executable")


def test_several_shims_on_path_are_told(host):
    other = host.base / "other"
    other.mkdir()
    shutil.copy(host.launcher, other / "neuronx-cc")
    found = diagnose(host, PATH=f"{host.launcher.parent}:{other}:{host.compiler.parent}:/usr/bin:/bin")
    assert str(other) in found.what("path.several-shims")
    assert "path.shim-first" in found


@pytest.mark.parametrize("entry", ["", ".", "bin"])
def test_an_entry_of_path_that_depends_on_the_current_folder_is_told(host, entry):
    found = diagnose(host, PATH=f"{host.launcher.parent}:{entry}:{host.compiler.parent}:/usr/bin:/bin")
    assert repr(entry) in found.what("path.relative-entry")


def test_an_entry_of_path_that_no_shell_has_expanded_is_told(host):
    found = diagnose(host, PATH=f"{host.env['PATH']}:~/bin:$HOME/bin")
    assert found.document["findings"] and "'~/bin'" in found.what("path.unexpanded-entry")
    assert "path.relative-entry" not in found


def test_no_path_at_all_is_told(host):
    assert "path.unset" in diagnose(host, PATH=None)


# -- the launcher ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_launcher(host):
    """Write a changed launcher in the place of the shim on PATH."""

    def write(change):
        path = write_program(host.base / "own/neuronx-cc", change(host.launcher.read_text()))
        host.env["PATH"] = f"{path.parent}:{host.compiler.parent}:/usr/bin:/bin"
        return path

    return write


def test_a_launcher_of_another_version_is_told(host, own_launcher):
    own_launcher(lambda text: text.replace(f"launcher {VERSION}", "launcher 0.0.9"))
    assert "0.0.9" in diagnose(host).what("launcher.outdated")


def test_a_launcher_whose_installation_changed_is_told(host, own_launcher):
    own_launcher(lambda text: text + "# written a while ago\n")
    assert "launcher.outdated" in diagnose(host)


def test_a_launcher_of_another_installation_is_told(host, own_launcher):
    other = host.base / "python-of-another"
    other.symlink_to(sys.executable)
    own_launcher(lambda text: text.replace(f"#!{sys.executable}", f"#!{other}"))
    assert str(other) in diagnose(host).what("launcher.other-installation")


def test_a_launcher_whose_interpreter_is_gone_is_a_problem(host, own_launcher):
    own_launcher(lambda text: text.replace(f"#!{sys.executable}", "#!/nowhere/bin/python3"))
    assert "/nowhere/bin/python3" in diagnose(host).what("launcher.interpreter-gone")


def test_a_launcher_by_way_of_sh_whose_interpreter_is_gone_is_a_problem(host, own_launcher):
    own_launcher(
        lambda text: text.replace(f"#!{sys.executable} -IS\n", "#!/bin/sh\n").replace(
            "import sys\ntry:", "'''exec' '/no where/python' -IS \"$0\" \"$@\"\n' '''\nimport sys\ntry:"
        )
    )
    assert "/no where/python" in diagnose(host).what("launcher.interpreter-gone")


def test_a_launcher_that_cannot_load_the_shim_is_a_problem(host, own_launcher):
    own_launcher(lambda text: re.sub(r"__path__ = .*", "__path__ = ['/nowhere']", text))
    assert "neuron_store.shim" in diagnose(host).what("launcher.broken")


# -- the compiler ----------------------------------------------------------------------------------------------------


def install_package(host, version, script=None):
    """Put a neuronx_cc distribution beside the compiler, which has recorded `script` or no file at all."""
    folder = host.venv / f"lib/python3.10/site-packages/neuronx_cc-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: neuronx-cc\nVersion: {version}\n\n")
    if script is not None:
        (folder / "RECORD").write_text(script)
    return folder


def test_no_compiler_is_a_problem(host):
    assert "compiler.missing" in diagnose(host, PATH=f"{host.launcher.parent}:/usr/bin:/bin")


@pytest.mark.parametrize("what", ["nothing", "a shim", "a file", "a script of no interpreter"])
def test_a_compiler_setting_that_names_no_compiler_is_a_problem(host, what):
    path = {
        "nothing": host.base / "gone",
        "a shim": host.launcher,
        "a file": write_program(host.base / "plain", "text", mode=0o644),
        "a script of no interpreter": write_program(host.base / "script", "#!/nowhere/python\n"),
    }[what]
    found = diagnose(host, NEURON_STORE_COMPILER=path)
    assert str(path) in found.what("compiler.setting-unusable")
    assert found.facts("compiler.found")["path"] == str(host.compiler)


def test_a_compiler_that_does_not_answer_is_a_problem(host):
    write_program(host.compiler, "#!/bin/sh\necho 'ImportError: numpy' >&2\nexit 1\n")
    assert "ImportError: numpy" in diagnose(host).what("compiler.does-not-run")


def test_a_compiler_that_hangs_is_a_problem(host):
    write_program(host.compiler, "#!/bin/sh\nexec sleep 1000\n")
    assert "no answer" in diagnose(host, "--timeout", "3").what("compiler.does-not-run")


def test_a_script_whose_interpreter_is_gone_is_passed_over_and_told(host):
    broken = write_program(host.base / "old/bin/neuronx-cc", "#!/old/bin/python3.8\n")
    found = diagnose(host, PATH=f"{host.launcher.parent}:{broken.parent}:{host.compiler.parent}:/usr/bin:/bin")
    assert "/old/bin/python3.8" in found.what("compiler.interpreter-gone")
    assert found.facts("compiler.found")["path"] == str(host.compiler)


def test_a_compiler_without_a_version_is_told(host):
    assert "compiler.without-version" in diagnose(host, STANDIN_VERSION="none")


def test_a_package_of_another_version_than_the_compiler_prints_is_told(host):
    install_package(host, "2.15.0.0")
    what = diagnose(host).what("compiler.version-differs")
    assert "2.15.0.0" in what
    assert COMPILER in what


def test_several_packages_beside_a_compiler_are_told(host):
    install_package(host, "2.15.0.0")
    install_package(host, "2.16.0.0")
    assert "2.16.0.0" in diagnose(host).what("compiler.several-packages")


def test_a_script_that_is_not_the_packages_own_is_told(host):
    install_package(host, COMPILER, script="../../../bin/neuronx-cc,sha256=AAAA,10\n")
    found = diagnose(host)
    assert str(host.compiler) in found.what("compiler.wrapper")
    assert found.facts("compiler.found")["version"] == COMPILER


def test_the_interpreter_of_the_compiler_is_told(host):
    facts = diagnose(host).facts("compiler.found")
    assert facts["interpreter"] == sys.executable
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


# -- callers ---------------------------------------------------------------------------------------------------------


def test_nothing_that_bypasses_the_shim_is_told_with_where_it_was_looked_for(host):
    found = diagnose(host)
    if not NOT_OURS & set(found.findings):
        assert str(host.venv) in found.what("callers.nothing-found")


def test_a_package_that_calls_the_compiler_in_process_is_told(host):
    package = host.venv / "lib/python3.10/site-packages/libneuronxla"
    package.mkdir(parents=True)
    (package / "wrapper.py").write_text("import os\nfrom neuronxcc.driver.CommandDriver import main\n")
    (package / "other.py").write_text("import neuronxcc.nki\n")
    found = diagnose(host)
    assert f"{package}/wrapper.py:2" in found.what("callers.in-process")
    assert found.facts("callers.in-process")["places"] == [f"{package}/wrapper.py:2"]


def test_a_variable_that_names_the_compiler_is_told(host):
    found = diagnose(host, MY_COMPILER=host.compiler, FINE=host.launcher)
    assert found.what("callers.absolute-path") == f"MY_COMPILER names {host.compiler}"


def test_a_stock_cache_at_a_place_of_its_own_is_told(host):
    found = diagnose(host, NEURON_COMPILE_CACHE_URL="s3://bucket/cache", NEURON_CC_FLAGS="--cache_dir=/data/c -O1")
    said = [f["what"] for f in found.document["findings"] if f["id"] == "callers.stock-cache"]
    assert said == ["NEURON_COMPILE_CACHE_URL is s3://bucket/cache", "NEURON_CC_FLAGS has --cache_dir /data/c"]


@pytest.fixture
def waiting(host):
    """Start a compile that waits until it may go on; `by` is the program."""
    started = []

    def start(by, **extra):
        mark = host.base / f"started{len(started)}"
        process = subprocess.Popen(
            [str(by), *COMPILE, str(host.model())],
            cwd=host.work,
            env=host.environ({"STANDIN_STARTED": mark, "STANDIN_WAIT_FOR": host.base / "go", **extra}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        while not mark.exists():
            time.sleep(0.01)
        return process

    yield start
    (host.base / "go").touch()
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.wait()


def test_a_compiler_that_runs_past_the_shim_is_told(host, waiting):
    process = waiting(host.compiler)
    found = diagnose(host)
    pids = [f["facts"]["pid"] for f in found.document["findings"] if f["id"] == "callers.running-past-shim"]
    assert process.pid in pids


def test_a_compiler_that_the_shim_started_is_not_told(host, waiting):
    process = waiting(host.launcher)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = diagnose(host)
    pids = [f["facts"]["pid"] for f in found.document["findings"] if f["id"] == "callers.running-past-shim"]
    assert not {process.pid, *map(int, children)} & set(pids)


# -- the store -------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet_is_told(host):
    assert str(host.store) in diagnose(host).what("store.absent")
    assert not host.store.exists()


def test_a_store_that_cannot_be_made_is_a_problem(host):
    closed = host.base / "closed"
    closed.mkdir(mode=0o500)
    assert str(closed) in diagnose(host, prefix=powerless(), NEURON_STORE_DIR=closed / "s").what("store.cannot-be-made")


def test_a_link_that_leads_nowhere_in_the_place_of_the_store_is_a_problem(host):
    host.store.symlink_to("/nowhere/at/all")
    assert "leads nowhere" in diagnose(host).what("store.cannot-be-made")


def test_a_file_in_the_place_of_the_store_is_a_problem(host):
    host.store.write_text("")
    assert "store.no-folder" in diagnose(host)


def test_a_store_that_cannot_be_read_is_a_problem(host):
    host.store.mkdir(mode=0o300)
    assert "0300" in diagnose(host, prefix=powerless()).what("store.unreadable")


def test_a_store_that_cannot_be_written_is_told(host):
    compile_one(host)
    host.store.chmod(0o500)
    try:
        assert "0500" in diagnose(host, prefix=powerless()).what("store.read-only")
    finally:
        host.store.chmod(0o700)


def test_folders_in_the_store_that_are_closed_to_us_are_a_problem(host):
    compile_one(host)
    (fanned,) = (host.store / "results").iterdir()
    fanned.chmod(0o500)
    assert f"results/{fanned.name}" in diagnose(host, prefix=powerless()).what("store.closed-inside")


def test_a_store_that_everyone_may_write_is_told(host):
    compile_one(host)
    host.store.chmod(0o777)
    assert "0777" in diagnose(host).what("store.open-to-all")


def test_a_groups_store_that_does_not_keep_the_group_is_told(host):
    host.store.mkdir()
    host.store.chmod(0o775)
    assert "store.group-not-kept" in diagnose(host)
    host.store.chmod(0o2775)
    assert "store.group-not-kept" not in diagnose(host)


def test_a_store_in_a_folder_of_someones_own_is_told_and_left_alone(host):
    (host.home / "thesis.tex").write_text("")
    before = sorted(host.home.iterdir())
    assert "thesis.tex" in diagnose(host, NEURON_STORE_DIR=host.home).what("store.foreign-content")
    assert sorted(host.home.iterdir()) == before


def test_a_store_without_its_tag_is_told(host):
    compile_one(host)
    (host.store / "CACHEDIR.TAG").unlink()
    assert "store.untagged" in diagnose(host)


def test_nothing_is_left_in_the_store(host):
    compile_one(host)
    before = sorted(host.store.rglob("*"))
    diagnose(host)
    assert sorted(host.store.rglob("*")) == before


# -- its file system, disk and clock -----------------------------------------------------------------------------------


def test_a_store_in_memory_is_told(host, mount_namespace):
    host.store.mkdir()
    mount = [*mount_namespace, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(host.store)]
    found = diagnose(host, prefix=mount)
    assert str(host.store) in found.what("filesystem.memory")
    assert "filesystem.works" in found


def test_a_full_disk_is_a_problem(host, mount_namespace):
    host.store.mkdir()
    mount = [*mount_namespace, "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(host.store)]
    assert "1.0 MB" in diagnose(host, prefix=mount).what("disk.full")


def test_a_disk_without_inodes_is_a_problem(host, mount_namespace):
    host.store.mkdir()
    mount = [*mount_namespace, "sh", "-c", 'mount -t tmpfs -o nr_inodes=100 none "$0" && exec "$@"', str(host.store)]
    assert "more files" in diagnose(host, prefix=mount).what("disk.no-files-left")


def test_less_room_than_wanted_is_told(host):
    assert "min_free is 100%" in diagnose(host, NEURON_STORE_MIN_FREE="100%").what("disk.low")
    assert "disk.room" in diagnose(host, NEURON_STORE_MIN_FREE="0")


def test_a_limit_that_the_disk_cannot_hold_is_told(host):
    assert "900.0 TB" in diagnose(host, NEURON_STORE_MAX_SIZE="900TB").what("disk.limit-beyond-disk")


@pytest.mark.parametrize(
    ("finding", "patch"),
    [
        (
            "filesystem.no-locks",
            "import fcntl\ndef flock(*_): raise OSError(37, 'No locks available')\nfcntl.flock = flock",
        ),
        ("filesystem.locks-ignored", "import fcntl\nfcntl.flock = lambda *_: None"),
        ("filesystem.no-times", "import os\nos.utime = lambda *_, **__: None"),
        (
            "filesystem.no-rename",
            "import os\ndef rename(*_): raise OSError(1, 'Operation not permitted')\nos.rename = rename",
        ),
        ("clock.file-system-differs", "import time\nnow = time.time\ntime.time = lambda: now() + 600"),
    ],
)
def test_a_file_system_that_does_not_do_what_a_store_needs_is_told(host, finding, patch):
    host.store.mkdir()
    found = diagnose(host, **patched(host, patch))
    assert str(host.store) in found.what(finding)
    assert ("filesystem.works" in found) == (finding == "clock.file-system-differs")
    assert not list(host.store.iterdir())


def test_a_clock_that_was_set_back_is_told(host):
    append_event(host.layout, Event(time.time() + 90_000, "hit_direct", {}))
    assert "1 d" in diagnose(host).what("clock.went-back")


# -- locks -------------------------------------------------------------------------------------------------------------


def test_a_compile_that_goes_on_is_told_with_its_process(host, waiting):
    process = waiting(host.launcher)
    found = diagnose(host)
    assert found.facts("locks.held")["pid"] == process.pid
    assert found.facts("locks.held")["host"] == os.uname().nodename
    assert abs(found.facts("locks.held")["since"] - time.time()) < 60
    assert "locks.free" not in found


def test_a_compile_that_goes_on_for_longer_than_others_wait_is_told(host, waiting):
    process = waiting(host.launcher)
    assert diagnose(host, NEURON_STORE_LOCK_TIMEOUT="0").facts("locks.held-long")["pid"] == process.pid


def test_a_stopped_process_that_holds_a_lock_is_told(host, waiting):
    process = waiting(host.launcher)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert diagnose(host).facts("locks.holder-stopped")["pid"] == process.pid


def test_a_lock_whose_holder_cannot_be_seen_is_told(host, mount_namespace):
    """As from within another container: processes have other numbers there."""
    lock = KeyLock(host.layout, "a" * 32)
    assert lock.acquire(0, lambda: False) == "held"
    prefix = [*mount_namespace, "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this kernel does not let us make a process namespace")
    found = diagnose(host, prefix=prefix)
    lock.release(failed=False)
    assert "a" * 12 in found.what("locks.holder-unseen")
    assert found.facts("locks.holder-unseen")["pid"] is None


def test_a_lock_that_a_killed_compile_left_is_told_and_left_alone(host, waiting):
    process = waiting(host.launcher)
    (lock,) = (path for path in (host.store / "locks").iterdir() if len(path.name) == 32)
    process.kill()
    process.wait()
    found = diagnose(host)
    assert found.facts("locks.left-behind")["keys"] == [lock.name]
    assert "locks.free" in found
    assert lock.exists()


# -- remotes, token, queue --------------------------------------------------------------------------------------------


@pytest.fixture
def online(host, hub):
    """A host whose only remote is alice's repo on the loopback Hub."""
    host.use_remotes("hf://alice/cache", hub=hub)
    return host


def test_a_remote_with_all_rights_is_told_with_its_distance(online):
    found = diagnose(online)
    assert "may be read and written" in found.what("remotes.usable")
    assert found.facts("remotes.usable")["mode"] == "read-write"
    assert found.facts("remotes.answers")["seconds"] < 60
    assert found.facts("token.present") == {"source": "HF_TOKEN"}
    assert "hf_alice" not in found.said


def test_a_token_that_may_not_write_is_a_problem(online, hub):
    hub.add_user("reader", "hf_reader", "read")
    found = diagnose(online, HF_TOKEN="hf_reader")
    assert found.facts("remotes.unwritable")["writable"] is False
    assert "hf_reader" not in found.said


def test_a_private_repo_of_someone_else_is_a_problem(online, hub):
    hub.create_repo("alice/secret", private=True)
    hub.add_user("bob", "hf_bob")
    assert "alice/secret" in diagnose(
        online, NEURON_STORE_REMOTES="hf://alice/secret|read-only", HF_TOKEN="hf_bob"
    ).what("remotes.unreadable")


def test_a_hub_that_refuses_connections_is_a_problem(online):
    assert "alice/cache" in diagnose(online, HF_ENDPOINT="http://127.0.0.1:9").what("remotes.unreachable")


def test_an_unreachable_remote_that_nobody_asked_for_is_no_problem(host):
    found = diagnose(host, NEURON_STORE_REMOTES=None, HF_ENDPOINT="http://127.0.0.1:9")
    assert "aws-neuron" in found.what("remotes.default-unreachable")
    assert found.code == 0


def test_a_hub_that_never_answers_is_a_problem_and_does_not_hold_us_up(online, hub):
    hub.fail(None, Stall(600, when="headers"), times=None)
    found = diagnose(online, "--timeout", "15")
    assert {"remotes.no-answer", "remotes.unreachable"} & set(found.findings), found.said
    assert "log.unused" in found


def test_a_remote_that_hangs_is_a_problem_and_the_others_are_asked(host, hub):
    host.use_remotes("hf://alice/cache", "file:///hangs", hub=hub)
    patch = (
        "import os, threading\nisdir = os.path.isdir\n"
        "def slow(path):\n    if path == '/hangs': threading.Event().wait()\n    return isdir(path)\n"
        "os.path.isdir = slow"
    )
    found = diagnose(host, "--timeout", "12", **patched(host, patch))
    assert "file:///hangs" in found.what("remotes.no-answer")
    assert "alice/cache" in found.what("remotes.usable")


def test_a_hub_far_away_is_told(online, hub):
    hub.latency = 1.1
    assert diagnose(online).facts("remotes.slow")["seconds"] > 1


def test_a_hub_whose_front_page_does_not_answer_is_told(online, hub):
    hub.fail(None, Stall(600, when="headers"), times=None, path="^/$")
    found = diagnose(online, "--timeout", "12")
    assert "may be read and written" in found.what("remotes.usable")
    assert found.facts("remotes.slow")["seconds"] is None


def test_a_clock_that_is_not_the_hubs_is_told(online, hub):
    hub.fail(None, Status(200, headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}), times=None, path="^/$")
    assert diagnose(online).facts("clock.remote-differs")["seconds"] > 86400


def test_no_remote_is_asked_offline(online, hub):
    for found in (diagnose(online, "--offline"), diagnose(online, HF_HUB_OFFLINE="1")):
        assert "alice/cache" in found.what("remotes.not-asked")
    assert not hub.requests


def test_a_remote_that_is_written_wrongly_is_a_problem(host):
    assert "ftp://x" in diagnose(host, NEURON_STORE_REMOTES="ftp://x").what("remotes.misconfigured")


def state_of(host, word="hf://alice/cache"):
    return open_remote(read_location(word), host.layout, host.env, RemoteOptions())


def test_a_remote_that_is_left_alone_for_a_while_is_told(online):
    _, state = state_of(online)
    state.note_failure(RuntimeError("down"), 600)
    assert re.search(r"another (9|10|11) min", diagnose(online, "--offline").what("remotes.paused"))


def test_a_folder_that_is_not_mounted_is_a_problem(host):
    host.use_remotes(f"file://{host.base}/not-mounted")
    assert "not-mounted" in diagnose(host).what("remotes.unreachable")


def test_a_missing_token_is_told_where_it_is_needed(online):
    assert "alice/cache" in diagnose(online, "--offline", HF_TOKEN=None).what("token.needed")


def test_a_malformed_token_is_a_problem_and_is_not_shown(online):
    found = diagnose(online, "--offline", HF_TOKEN="token: hf_alicealice")
    assert "HF_TOKEN" in found.what("token.malformed")
    assert "alicealice" not in found.said


def test_a_saved_token_that_others_can_read_or_that_does_not_count_is_told(online):
    saved = online.base / "huggingface/token"
    saved.parent.mkdir(parents=True)
    saved.write_text("hf_savedsaved")
    saved.chmod(0o644)
    found = diagnose(online, "--offline")
    assert found.facts("token.overridden") == {"source": "HF_TOKEN", "file": str(saved)}
    assert "0644" in found.what("token.file-open")
    saved.chmod(0o600)
    found = diagnose(online, "--offline", HF_TOKEN=None)
    assert found.facts("token.present") == {"source": str(saved)}
    assert not {"token.overridden", "token.file-open"} & set(found.findings)
    assert "savedsaved" not in found.said


def test_results_that_wait_are_told_and_how_long(online):
    remote, _ = state_of(online)
    enqueue(online.layout, remote.identity, "a" * 32)
    assert diagnose(online, "--offline").facts("queue.waiting")["queued"] == 1
    assert "queue.held-back" in diagnose(online, "--offline", NEURON_STORE_UPLOAD="false")
    entry = online.store / f"queue/{remote.identity}" / ("a" * 32)
    entry.write_text(f"1 {time.time() - 7200:.6f} add 01234567\n")
    assert "2 h" in diagnose(online, "--offline").what("queue.old")


def test_a_remote_that_refuses_our_results_is_a_problem(online):
    remote, state = state_of(online)
    enqueue(online.layout, remote.identity, "a" * 32)
    state.note_refusal(RuntimeError("we may not write"), remote.credential)
    assert "1 result waits" in diagnose(online, "--offline").what("queue.refused")


def test_the_last_error_of_an_upload_is_told(online):
    _, state = state_of(online)
    state.note_error(RuntimeError("the connection broke"))
    assert "the connection broke" in diagnose(online, "--offline").what("queue.last-error")


def test_results_for_a_remote_that_is_gone_from_the_settings_are_told(online):
    remote, _ = state_of(online, "hf://alice/former")
    enqueue(online.layout, remote.identity, "a" * 32)
    assert diagnose(online, "--offline").facts("queue.forgotten")["queued"] == 1


def test_a_running_uploader_is_told(host):
    lock = UploadLock(host.layout)
    assert lock.try_take()
    found = diagnose(host)
    lock.release()
    assert "queue.uploader-running" in found
    assert found.facts("locks.held")["pid"] == os.getpid()


# -- what went wrong lately -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "outcome", "incident"),
    [
        ("log.errors", "error_internal", ""),
        ("log.damage", "miss_stored", "corrupt_blob"),
        ("log.store-faults", "miss_store_failed", ""),
        ("log.remote-faults", "miss_stored", "remote_failed"),
        ("log.mismatch", "audit_mismatch", ""),
        ("log.waits", "miss_stored", "lock_timeout"),
        ("log.compiler-trouble", "miss_stored", "compiler_setting_unusable"),
        ("log.passed-through", "pass_pipeline", ""),
    ],
)
def test_what_went_wrong_lately_is_told_by_its_counter(host, finding, outcome, incident):
    fields = {"incidents": incident, "detail": "the reason why"}
    append_event(host.layout, Event(time.time() - 60, outcome, fields))
    append_event(host.layout, Event(time.time() - 30 * 86400, "error_output", fields))
    append_event(host.layout, Event(time.time() - 50, "hit_direct", {}))
    found = diagnose(host)
    assert found.facts(finding)["counters"] == {incident or outcome: 1}
    assert ("log.quiet" in found) == (finding == "log.passed-through")
    others = {name for name in found.findings if name.startswith("log.")} - {finding, "log.quiet"}
    assert not others
    assert found.code == 0


def test_a_shim_that_nobody_called_is_told(host):
    assert "log.unused" in diagnose(host)


def test_a_log_that_cannot_be_written_is_told(host):
    closed = host.base / "closed"
    closed.mkdir(mode=0o500)
    found = diagnose(host, prefix=powerless(), NEURON_STORE_LOG_FILE=closed / "shim.log")
    assert str(closed) in found.what("log.unwritable")


# -- versions ----------------------------------------------------------------------------------------------------------


def test_the_neuron_packages_of_the_compilers_environment_are_told(host):
    install_package(host, COMPILER)
    assert diagnose(host).facts("versions.neuron-packages") == {
        "prefix": str(host.venv),
        "packages": {"neuronx-cc": COMPILER},
    }


def test_a_dependency_that_is_too_old_is_a_problem(host):
    folder = host.base / "old/xxhash-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: xxhash\nVersion: 1.0\n\n")
    what = diagnose(host, PYTHONPATH=folder.parent).what("versions.too-old")
    assert what.startswith("xxhash is 1.0, and 3.4 or newer")


# -- never hangs, never falls -------------------------------------------------------------------------------------------


def test_an_area_that_hangs_is_a_problem_and_the_others_are_told(host):
    host.store.mkdir()
    patch = "import os, threading\nos.statvfs = lambda _: threading.Event().wait()"
    found = diagnose(host, "--timeout", "3", **patched(host, patch))
    assert found.what("doctor.no-answer").startswith("disk:")
    assert "versions.fit" in found


def test_an_area_that_falls_is_a_problem_and_the_others_are_told(host):
    patch = "import os\ndef fall(_): raise RuntimeError('fallen')\nos.statvfs = fall"
    found = diagnose(host, **patched(host, patch))
    assert found.what("doctor.fault") == "disk: RuntimeError: fallen"
    assert "versions.fit" in found


def test_no_secret_of_the_environment_is_shown(host):
    secret = "Zx81secretValue"
    found = diagnose(
        host,
        MY_API_KEY=secret,
        NEURON_COMPILE_CACHE_URL=f"s3://u:{secret}@bucket/x",
        HF_ENDPOINT=f"http://alice:{secret}@127.0.0.1:9",
        NEURON_STORE_REMOTES="hf://alice/cache",
    )
    assert secret not in found.said
    done = host.cli("doctor", check=False, MY_API_KEY=secret, NEURON_COMPILE_CACHE_URL=f"s3://b/{secret}")
    assert secret not in done.stdout + done.stderr
    assert json.dumps(secret) not in found.said


def test_a_time_that_nothing_can_wait_for_is_a_usage_error(host):
    for command in ("doctor", "bugreport"):
        done = host.cli(command, "--timeout", "1e9", "--offline", check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--timeout" in done.stderr
