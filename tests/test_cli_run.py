"""`neuron-store run`: the command runs as it would by itself, with the shim first on PATH, and is summed up."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from neuron_store.cli.presentation import duration
from neuron_store.store.results import all_keys, load_result

ECHO = "import json, sys; json.dump(sys.argv[1:], open('arguments', 'w'))"
COMPILE = ["neuronx-cc", "compile", "--target=trn1"]


def start(host, *arguments, stderr=subprocess.PIPE, **extra):
    return subprocess.Popen(
        [sys.executable, "-m", "neuron_store.cli", "run", *map(str, arguments)],
        cwd=host.work,
        env=host.environ(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def summary(done):
    *_, line = done.stderr.splitlines()
    assert line.startswith("neuron-store: ")
    return line.removeprefix("neuron-store: ")


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 70, 130, 255])
def test_the_exit_code_is_the_commands(host, code):
    assert host.cli("run", "--", "sh", "-c", f"exit {code}", check=False).returncode == code


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGABRT"])
def test_death_by_a_signal_is_death_by_the_same_signal(host, name):
    number = getattr(signal, name)
    program = f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
    done = host.cli("run", "--", sys.executable, "-c", program, check=False)
    assert done.returncode == -number
    assert summary(done) == "nothing was compiled"
    assert list(host.work.iterdir()) == []  # no core of ours


@pytest.mark.parametrize("words", [["absent"], ["--", "absent", "-x"], ["./absent"], ["/dev/null/x"]])
def test_a_command_that_is_not_found_gives_a_message_and_the_shells_exit_code(host, words):
    done = host.cli("run", *words, check=False)
    assert done.returncode == (126 if words == ["/dev/null/x"] else 127)
    assert re.fullmatch(r"neuron-store: \S+ cannot be run: .+\n", done.stderr)
    assert done.stdout == ""


def test_a_command_that_is_no_program_gives_a_message_and_the_shells_exit_code(host):
    (host.work / "text").write_text("just text")
    for word in ("./text", "."):
        done = host.cli("run", word, check=False)
        assert done.returncode == 126
        assert done.stderr == f"neuron-store: {word} cannot be run: Permission denied\n"


def test_without_a_command_it_says_what_is_missing(host):
    for words in ([], ["--"], ["-q"]):
        done = host.cli("run", *words, check=False)
        assert done.returncode == 2
        assert "COMMAND" in done.stderr


def test_an_option_that_does_not_exist_is_refused_and_not_taken_for_the_command(host):
    done = host.cli("run", "--loud", "true", check=False)
    assert done.returncode == 2
    assert "--loud" in done.stderr
    assert "cannot be run" not in done.stderr


# -- what the command gets -----------------------------------------------------------------------------------------

ARGUMENTS = ["-x", "--quiet", "-q", "--", "--help", "-h", "--version", "", "a b", "--json=1", "-", "$HOME", "é", "--"]


@pytest.mark.parametrize("before", [[], ["--"], ["-q"], ["-q", "--"], ["--quiet", "--"]])
def test_arguments_reach_the_command_untouched(host, before):
    host.cli("run", *before, sys.executable, "-c", ECHO, *ARGUMENTS)
    assert json.loads((host.work / "arguments").read_text()) == ARGUMENTS


def test_an_argument_that_is_not_utf8_reaches_the_command(host):
    host.cli("run", "touch", os.fsdecode(b"\xff\xfe"))
    assert os.listdir(os.fsencode(host.work)) == [b"\xff\xfe"]


def test_the_command_has_our_streams_directory_and_environment_with_the_shim_first(host):
    done = subprocess.run(
        [sys.executable, "-m", "neuron_store.cli", "run", "sh", "-c", "cat; pwd; echo $MINE; command -v neuronx-cc"],
        input="from the caller\n",
        cwd=host.work,
        env=host.environ({"MINE": "kept", "PATH": f"{host.compiler.parent}:/usr/bin:/bin"}),
        capture_output=True,
        text=True,
        check=True,
    )
    *kept, shim = done.stdout.splitlines()
    assert kept == ["from the caller", str(host.work), "kept"]
    assert shim == host.cli("env", "--path").stdout.rstrip() + "/neuronx-cc"


def test_the_shim_is_on_path_once_however_deep(host):
    line = [sys.executable, "-m", "neuron_store.cli", "run", "-q"]
    done = host.cli("run", "-q", *line, *line, "sh", "-c", "echo $PATH")
    folder = host.cli("env", "--path").stdout.rstrip()
    entries = done.stdout.rstrip().split(":")
    assert entries[0] == folder
    assert entries.count(folder) == 1
    assert entries[1:] == host.env["PATH"].split(":")


def test_open_files_reach_the_command(host):
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "neuron_store.cli", "run", "-q", "sh", "-c", f"echo through >/proc/self/fd/{writing}"],
        env=host.env,
        pass_fds=[writing],
        check=False,
    )
    os.close(writing)
    with open(reading) as file:
        assert (done.returncode, file.read()) == (0, "through\n")


# -- the summary ---------------------------------------------------------------------------------------------------


def test_the_summary_counts_hits_misses_and_seconds(host):
    one, two = host.model("one.pb", b"one"), host.model("two.pb", b"two")
    line = " ".join(COMPILE)
    script = f"{line} {one} -o a.neff; {line} {two} -o b.neff; {line} {one} -o c.neff; neuronx-cc --version"
    done = host.cli("run", "sh", "-c", script, STANDIN_SLEEP="0.2")
    # The event log has milliseconds.
    seconds = {
        result.input["name"]: round(result.seconds, 3)
        for key in all_keys(host.layout)
        if (result := load_result(host.layout, key))
    }
    compiled, saved = duration(sum(seconds.values())), duration(seconds["one.pb"])
    assert summary(done) == f"1 hit, 2 misses, 1 passed through; compiled {compiled}, saved {saved}"
    again = host.cli("run", "sh", "-c", f"{line} {one} -o a.neff; {line} {two} -o b.neff")
    assert summary(again) == f"2 hits, 0 misses; compiled 0 ms, saved {compiled}"


def test_the_summary_counts_failed_compiles_as_misses(host):
    done = host.cli("run", *COMPILE, host.model(), "-o", "a.neff", check=False, STANDIN_EXIT=70)
    assert done.returncode == 70
    assert re.fullmatch(r"0 hits, 1 miss; compiled [\d.]+ m?s, saved 0 ms", summary(done))


def test_the_summary_counts_errors_and_says_where_to_look(host):
    done = host.cli("run", *COMPILE, host.model(), "-o", "a.neff", check=False, PATH="/usr/bin:/bin")
    assert done.returncode == 127
    assert summary(done).startswith(f"0 hits, 0 misses, 1 error (see {host.log_file}); ")


def test_the_summary_says_that_nothing_was_compiled(host):
    assert summary(host.cli("run", "true")) == "nothing was compiled"


def test_the_summary_says_that_there_is_no_compiler(host):
    done = host.cli("run", "true", PATH="/usr/bin:/bin")
    assert summary(done) == "nothing was compiled (there is no neuronx-cc on PATH)"
    done = host.cli("run", "true", PATH="/usr/bin:/bin", NEURON_STORE_COMPILER=host.compiler)
    assert summary(done) == "nothing was compiled"


def test_the_summary_goes_to_stderr_and_leaves_stdout_alone(host):
    host.cli("run", "-q", *COMPILE, host.model(), "-o", "a.neff")
    done = host.cli("run", *COMPILE, host.model(), "-o", "a.neff")
    assert done.stdout == "Compiler status PASS\n"
    assert done.stderr.startswith("neuron-store: 1 hit, 0 misses; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_prints_no_summary(host, option):
    done = host.cli("run", option, "--", *COMPILE, host.model(), "-o", "a.neff")
    assert (done.stdout, done.stderr) == ("Compiler status PASS\n", "")
    assert host.counters() == {"miss_stored": 1}


def test_invocations_of_others_are_not_counted(host):
    model, other = host.model(), host.model("other.pb", b"other")
    script = f"touch started; while [ ! -e go ]; do sleep 0.01; done; {' '.join(COMPILE)} {model} -o a.neff"
    process = start(host, "sh", "-c", script)
    wait_for(host.work / "started")
    host.cc("compile", "--target=trn1", other, "-o", "b.neff")
    done = host.cli("run", *COMPILE, other, "-o", "c.neff")
    assert summary(done).startswith("1 hit, 0 misses; ")
    (host.work / "go").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith("neuron-store: 0 hits, 1 miss; ")
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}


def test_invocations_that_the_store_could_not_count_are_in_the_summary(host):
    host.store.write_text("a file")
    done = host.cli("run", *COMPILE, host.model(), "-o", "a.neff")
    assert summary(done).startswith("0 hits, 0 misses, 1 passed through; ")


def test_a_bad_setting_costs_the_summary_and_not_the_commands_exit_code(host):
    done = host.cli("run", "sh", "-c", "exit 5", check=False, NEURON_STORE_LOCK_TIMEOUT="soon")
    assert done.returncode == 5
    assert summary(done) == "no summary: NEURON_STORE_LOCK_TIMEOUT is 'soon', which is not a number"


def test_a_reader_of_stderr_that_went_away_does_not_change_the_exit_code(host):
    process = start(host, "sh", "-c", "exec 2>&-; touch started; while [ ! -e go ]; do sleep 0.01; done; exit 6")
    wait_for(host.work / "started")
    process.stderr.close()
    (host.work / "go").touch()
    process.stdout.close()
    assert process.wait(60) == 6


# -- signals -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_command_and_the_summary_is_still_printed(host):
    started = host.work / "started"
    command = [*COMPILE, host.model(), "-o", "a.neff"]
    process = start(host, *command, STANDIN_STARTED=started, STANDIN_WAIT_FOR=host.work / "never")
    wait_for(started)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert re.search(r"^neuron-store: 0 hits, 1 miss; compiled [^,]+, saved 0 ms$", said, re.MULTILINE)
    assert host.counters() == {"miss_killed": 1}


def test_a_command_that_survives_ctrl_c_goes_on(host):
    script = "trap 'touch trapped' INT; touch started; while [ ! -e go ]; do sleep 0.01; done; exit 7"
    process = start(host, "sh", "-c", script)
    wait_for(host.work / "started")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(host.work / "trapped")
    assert process.poll() is None
    (host.work / "go").touch()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (7, "neuron-store: nothing was compiled\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_us_alone_reaches_the_command(host, name):
    number = getattr(signal, name)
    script = f"trap 'exit 9' {name[3:]}; touch started; while :; do sleep 0.01; done"
    process = start(host, "sh", "-c", script)
    wait_for(host.work / "started")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (9, "neuron-store: nothing was compiled\n")


def test_the_command_has_default_signals(host):
    done = host.cli("run", "sh", "-c", "grep SigIgn /proc/$$/status")
    assert int(done.stdout.split()[1], 16) & 0x7FFFFFFF == 0  # the C library keeps those above 31 to itself
