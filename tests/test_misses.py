"""A miss looks to the caller as if the shim were not there, and stores only what is certain to be this compile's."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

COMPILE = ("compile", "--framework=XLA", "--target=trn1", "--output=o.neff")


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


def test_the_compiler_sees_the_callers_directory_arguments_stdin_and_environment(host):
    model = host.model()
    done = subprocess.run(
        ["neuronx-cc", *COMPILE, model, "--tensorizer-options=--a --b"],
        executable=host.launcher,
        cwd=host.work,
        env={**host.env, "NEURON_CC_FLAGS": "--x", "ODD": "ä\n", "STANDIN_READ_STDIN": "1"},
        input=b"typed",
        capture_output=True,
    )
    assert done.returncode == 0
    (run,) = host.runs
    assert run["argv"] == [*COMPILE, str(model), "--tensorizer-options=--a --b"]
    assert run["cwd"] == str(host.work)
    assert run["stdin"] == "typed"
    assert run["env"].pop("NEURON_STORE_ACTIVE") == "1"
    expected = {**host.env, "NEURON_CC_FLAGS": "--x", "ODD": "ä\n"}
    assert run["env"] == {name: value for name, value in expected.items() if not name.startswith("STANDIN_")}


def test_output_is_streamed_while_the_compiler_runs(host):
    go = host.base / "go"
    process = host.start(*COMPILE, host.model(), STANDIN_PRINT='[["o","...."]]', STANDIN_WAIT_FOR=go)
    assert os.read(process.stdout.fileno(), 4) == b"...."  # arrives before the compiler may go on
    go.touch()
    assert process.wait(30) == 0
    process.communicate()
    assert host.counters() == {"miss_stored": 1}


@pytest.mark.parametrize("code", [1, 2, 70, 255])
def test_a_failure_is_passed_on_and_nothing_is_stored(host, code):
    model = host.model()
    for _ in range(2):
        done = host.cc(*COMPILE, model, check=False, STANDIN_EXIT=code)
        assert done.returncode == code
        assert done.stderr == b"ERROR: the stand-in was told to fail\n"
    host.cc(*COMPILE, model)
    assert len(host.runs) == 3
    assert host.counters() == {"miss_failed": 2, "miss_stored": 1}
    assert host.leftovers() == []


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGINT", "SIGHUP"])
def test_the_shim_dies_of_the_signal_that_killed_the_compiler(host, name):
    done = host.cc(*COMPILE, host.model(), check=False, STANDIN_SIGNAL=name)
    assert done.returncode == -getattr(signal, name)
    assert host.counters() == {"miss_killed": 1}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_sent_to_the_shim_reaches_the_compiler(host, name):
    started = host.base / "started"
    process = host.start(*COMPILE, host.model(), STANDIN_STARTED=started, STANDIN_SLEEP=60)
    wait_for(started)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=30)
    # A Python program dies of KeyboardInterrupt by SIGINT; the others kill it by default.
    assert process.returncode == -getattr(signal, name)
    assert (b"KeyboardInterrupt" in stderr) == (name == "SIGINT")
    assert host.counters() == {"miss_killed": 1}


def test_an_ignored_hangup_stays_ignored(host):
    started, go = host.base / "started", host.base / "go"
    line = 'trap "" HUP; exec neuronx-cc "$@"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", line, "sh", *COMPILE, str(host.model())],
        cwd=host.work,
        env={**host.env, "STANDIN_STARTED": str(started), "STANDIN_WAIT_FOR": str(go)},
        stdout=subprocess.DEVNULL,
    )
    wait_for(started)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    go.touch()
    assert process.wait(30) == 0
    assert host.counters() == {"miss_stored": 1}


def test_control_c_at_a_terminal_reaches_the_compiler_once(host):
    started, count = host.base / "started", host.base / "count"
    host.compiler.write_text(
        "#!/bin/bash\n"
        '[ "$1" = --version ] && { echo "NeuronX Compiler version 1.0+x"; exit; }\n'
        f"trap 'echo >> {count}' INT\ntouch {started}\n"
        "for i in $(seq 40); do sleep 0.05; done\nexit 9\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(host.work)
        os.execve(host.launcher, ["neuronx-cc", *COMPILE, str(host.model())], host.env)
    wait_for(started)
    os.write(terminal, b"\x03")
    try:
        while os.read(terminal, 1000):
            pass
    except OSError:
        pass
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 9
    assert count.read_text() == "\n"
    assert host.counters() == {"miss_failed": 1}


def test_success_without_an_output_is_not_stored(host):
    model = host.model()
    for _ in range(2):
        host.cc(*COMPILE, model, STANDIN_NO_OUTPUT=1)
    assert host.counters() == {"miss_no_output": 2}


def test_an_output_left_by_another_compile_is_not_taken_for_this_ones(host):
    (host.work / "o.neff").write_bytes(b"of another compile")
    host.cc(*COMPILE, host.model(), STANDIN_NO_OUTPUT=1)
    assert host.counters() == {"miss_no_output": 1}


def test_an_empty_output_is_not_stored(host):
    host.cc(*COMPILE, host.model(), STANDIN_SIZE=0)
    assert host.counters() == {"miss_no_output": 1}


@pytest.mark.parametrize("restore_times", [False, True])
def test_an_input_that_changed_while_it_was_compiled_is_not_stored(host, restore_times):
    model = host.model(data=b"AAAA module")
    started, go = host.base / "started", host.base / "go"
    process = host.start(*COMPILE, model, STANDIN_STARTED=started, STANDIN_WAIT_FOR=go)
    wait_for(started)
    before = model.stat()
    with open(model, "r+b") as file:
        file.write(b"BBBB")
    if restore_times:  # clocks are not trusted
        os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    go.touch()
    process.communicate(timeout=30)
    assert process.returncode == 0
    model.write_bytes(b"AAAA module")
    host.cc(*COMPILE, model)
    assert host.counters() == {"miss_input_changed": 1, "miss_stored": 1}


def test_a_log_larger_than_the_limit_is_passed_on_but_not_stored(host):
    model = host.model()
    done = host.cc(*COMPILE, model, STANDIN_FLOOD=10, NEURON_STORE_MAX_LOG_BYTES=100_000)
    assert len(done.stdout) > 10 * 65536
    assert host.counters() == {"miss_log_too_large": 1}


def test_a_huge_log_is_not_held_in_memory(host):
    probe = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [os.path.realpath("/proc/self/exe"), "-c", probe, host.launcher, *COMPILE, host.model()],
        cwd=host.work,
        env={**host.env, "STANDIN_FLOOD": "3000"},
        capture_output=True,
        check=True,
    )
    assert int(done.stdout) < 100_000  # kB; the log is 200 MB
    assert host.counters() == {"miss_stored": 1}


def test_a_process_that_keeps_the_streams_open_does_not_hang_the_caller(host):
    begun = time.monotonic()
    host.cc(*COMPILE, host.model(), STANDIN_SPAWN=20)
    assert time.monotonic() - begun < 15
    assert host.counters() == {"miss_output_open": 1}


def test_a_side_file_is_not_stored_when_another_compile_shared_the_directory(host):
    started, go = host.base / "started", host.base / "go"
    slow = host.start(
        *COMPILE, host.model("a.pb", b"a"), STANDIN_STARTED=started, STANDIN_WAIT_FOR=go, STANDIN_WRAPPED="a"
    )
    wait_for(started)
    quick = host.start("compile", host.model("b.pb", b"b"), "--target=trn1", "--output=p.neff", STANDIN_WRAPPED="b")
    quick.communicate(timeout=30)
    go.touch()
    slow.communicate(timeout=30)
    assert (slow.returncode, quick.returncode) == (0, 0)
    assert host.counters() == {"miss_shared_directory": 2}
    assert host.leftovers() == []


def test_sharing_a_directory_without_side_files_is_stored(host):
    started, go = host.base / "started", host.base / "go"
    slow = host.start(*COMPILE, host.model("a.pb", b"a"), STANDIN_STARTED=started, STANDIN_WAIT_FOR=go)
    wait_for(started)
    host.cc("compile", host.model("b.pb", b"b"), "--target=trn1", "--output=p.neff")
    go.touch()
    slow.communicate(timeout=30)
    assert host.counters() == {"miss_stored": 2}


def test_a_killed_shim_takes_the_compiler_with_it(host):
    started = host.base / "started"
    process = host.start(*COMPILE, host.model(), STANDIN_STARTED=started, STANDIN_SLEEP=300)
    wait_for(started)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 1
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    state = Path(f"/proc/{children[0]}/stat")
    while state.exists() and " Z " not in state.read_text():
        assert time.monotonic() < deadline, "the compiler outlived the shim"
        time.sleep(0.01)
