"""What is not a plain compile goes to the real compiler with everything as it came, and is counted by its reason."""

import os
import subprocess

import pytest

COMPILE = ["compile", "--framework=XLA", "--target=trn1"]
NKI = b"\x0a\x04main\x12\x1bAwsNeuronCustomNativeKernel\x00"

CASES = {
    "version": (["--version"], "pass_version"),
    "short version": (["-V"], "pass_version"),
    "version after a command": (["compile", "--version"], "pass_version"),
    "help": (["--help"], "pass_help"),
    "help of compile": (["compile", "-h"], "pass_help"),
    "nothing": ([], "pass_no_command"),
    "list-operators": (["list-operators", "--framework", "XLA"], "pass_list_operators"),
    "neff-info": (["neff-info", "x.neff"], "pass_neff_info"),
    "other command": (["profile", "x"], "pass_other_command"),
    "placement": ([*COMPILE, "{m}", "--verbose=35", "--query-compute-placement"], "pass_query_compute_placement"),
    "pipeline": ([*COMPILE, "{m}", "--pipeline", "compile", "SaveTemps", "--output=f.neff"], "pass_pipeline"),
    "pipeline with equals": ([*COMPILE, "{m}", "--pipeline=compile"], "pass_pipeline"),
    "autotuner": ([*COMPILE, "{m}", "--internal-autotune-subprocess"], "pass_autotuner"),
    "directory": ([*COMPILE, "{d}", "--output=f.neff"], "pass_model_directory"),
    "nki kernel": ([*COMPILE, "{n}", "--output=f.neff"], "pass_nki_kernel"),
    "python": (["compile", "penguin.py", "--target=trn2", "--output=f.neff"], "pass_python_input"),
    "several inputs": ([*COMPILE, "{m}", "{m}", "--output=f.neff"], "pass_several_inputs"),
    "several possible inputs": (["compile", "--new-option", "{m}", "{n}"], "pass_several_inputs"),
    "no input": ([*COMPILE, "--output=f.neff"], "pass_no_input"),
    "missing input": ([*COMPILE, "absent.pb", "--output=f.neff"], "pass_unreadable_input"),
    "missing input after unknown option": (["compile", "--new-option", "absent.pb"], "pass_unreadable_input"),
    "fifo input": ([*COMPILE, "{p}", "--output=f.neff"], "pass_unreadable_input"),
    "option folder": ([*COMPILE, "{m}", "--io-config", "{d}", "--output=f.neff"], "pass_file_option"),
    "unknown option with a folder": ([*COMPILE, "{m}", "--new-option={d}"], "pass_file_option"),
    "folder inside a text option": ([*COMPILE, "{m}", "--tensorizer-options=--a=1 --b={d}"], "pass_file_option"),
    "abbreviated output": ([*COMPILE, "{m}", "--outp", "f.neff"], "pass_abbreviated_option"),
    "abbreviated pipeline": ([*COMPILE, "{m}", "--pipe=compile"], "pass_abbreviated_option"),
    "response file": ([*COMPILE, "{m}", "@more"], "pass_response_file"),
    "output is a device": ([*COMPILE, "{m}", "--output=/dev/null"], "pass_special_output"),
    "output is a folder": ([*COMPILE, "{m}", "--output={d}"], "pass_special_output"),
    "output is empty": ([*COMPILE, "{m}", "--output="], "pass_special_output"),
    "option without its value": ([*COMPILE, "{m}", "--output"], "pass_unusual_option"),
    "flag with a value": ([*COMPILE, "{m}", "--enable-saturate-infinity=yes"], "pass_unusual_option"),
}


@pytest.fixture
def places(host):
    folder = host.work / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (host.work / "penguin.py").write_text("print()")
    os.mkfifo(host.work / "pipe")
    return {"m": host.model(), "n": host.model("nki.pb", NKI), "d": folder, "p": host.work / "pipe"}


@pytest.mark.parametrize("case", CASES)
def test_it_passes_through_with_its_own_counter(host, places, case):
    arguments, counter = CASES[case]
    arguments = [word.format(**places) for word in arguments]
    asks_version = counter == "pass_version"
    for code in (0, 3):
        done = host.cc(*arguments, check=False, STANDIN_EXIT=code, STANDIN_NO_OUTPUT=1)
        assert done.returncode == (0 if asks_version else code), done.stderr
    if asks_version:
        assert done.stdout.startswith(b"NeuronX Compiler version")
    else:
        assert [run["argv"] for run in host.runs] == [arguments, arguments]
        assert {run["cwd"] for run in host.runs} == {str(host.work)}
    assert host.counters() == {counter: 2}


def test_a_pass_through_keeps_stdin_stdout_and_stderr(host):
    text = b"from the caller\n"
    done = subprocess.run(
        ["neuronx-cc", "list-operators"],
        executable=host.launcher,
        input=text,
        cwd=host.work,
        env={**host.env, "STANDIN_READ_STDIN": "1"},
        capture_output=True,
    )
    assert done.stdout == b"stand-in: list-operators\n"
    assert host.runs[0]["stdin"] == text.decode()


def test_disabled_by_configuration(host):
    model = host.model()
    for off in ("0", "false", "off"):
        host.cc(*COMPILE, model, "--output=o.neff", NEURON_STORE_ENABLED=off)
    assert len(host.runs) == 3
    assert host.counters() == {"pass_disabled": 3}


def test_disabled_by_the_configuration_file(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("enabled = false\n")
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.counters() == {"pass_disabled": 1}


def test_a_bad_setting_passes_through_and_says_so_in_the_log(host):
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_LOCK_TIMEOUT="soon")
    assert len(host.runs) == 1
    assert host.counters() == {"pass_bad_configuration": 1}
    assert "NEURON_STORE_LOCK_TIMEOUT is 'soon', which is not a number" in host.log_file.read_text()


def test_a_bad_line_in_the_configuration_file_does_not_lose_the_compiler(host):
    config = host.home / ".config/neuron-store/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'compiler = "{host.compiler}"\nlock_timeout = "3h"\n')
    host.env["PATH"] = f"{host.launcher.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.counters() == {"pass_bad_configuration": 1}


def test_a_compiler_whose_interpreter_is_gone_gives_way_to_the_next_on_path(host):
    dead = host.base / "dead/neuronx-cc"
    dead.parent.mkdir()
    dead.write_text("#!/absent/python\n")
    dead.chmod(0o755)
    host.env["PATH"] = f"{host.launcher.parent}:{dead.parent}:{host.compiler.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.counters() == {"miss_stored": 1}


def test_what_the_compiler_starts_passes_through(host):
    wrapper = host.base / "wrapper/neuronx-cc"
    wrapper.parent.mkdir()
    # A compiler that re-runs itself by name, as the autotuner does.
    wrapper.write_text(
        '#!/bin/sh\nif [ "$STANDIN_INNER" ]; then exec "$INNER_COMPILER" "$@"; fi\nSTANDIN_INNER=1 neuronx-cc "$@"\n'
    )
    wrapper.chmod(0o755)
    host.env["PATH"] = f"{host.launcher.parent}:{wrapper.parent}:/usr/bin:/bin"
    host.env["INNER_COMPILER"] = str(host.compiler)
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert len(host.runs) == 1
    assert host.counters() == {"miss_stored": 1, "pass_recursion": 2}  # once for --version


def test_a_wrapper_that_calls_us_for_ever_is_stopped_with_a_message(host):
    wrapper = host.base / "wrapper/neuronx-cc"
    wrapper.parent.mkdir()
    wrapper.write_text('#!/bin/sh\nexec neuronx-cc "$@"\n')
    wrapper.chmod(0o755)
    host.env["PATH"] = f"{host.launcher.parent}:{wrapper.parent}:/usr/bin:/bin"
    done = host.cc("list-operators", check=False)
    assert done.returncode == 126
    assert b"for ever; set NEURON_STORE_COMPILER" in done.stderr


@pytest.mark.parametrize("place", ["/dev/null/store", "/proc/store"])
def test_no_writable_store(host, place):
    model = host.model()
    for _ in range(2):
        host.cc(*COMPILE, model, "--output=o.neff", NEURON_STORE_DIR=place)
    assert len(host.runs) == 2
    assert host.counters() == {"pass_no_writable_store": 2}


def test_read_only_serves_hits_and_stores_nothing(host):
    known, unknown = host.model("a.pb", b"one"), host.model("b.pb", b"two")
    host.cc(*COMPILE, known, "--output=o.neff")
    for model in (known, unknown):
        host.cc(*COMPILE, model, "--output=o.neff", NEURON_STORE_READ_ONLY=1)
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1, "pass_read_only": 1}


def test_without_any_compiler_the_exit_code_is_that_of_a_missing_command(host):
    host.env["PATH"] = f"{host.launcher.parent}:/usr/bin:/bin"
    done = host.cc(*COMPILE, host.model(), "--output=o.neff", check=False)
    assert done.returncode == 127
    assert b"no neuronx-cc on PATH behind the shim" in done.stderr
    assert host.counters() == {"error_no_compiler": 1}


def test_other_shims_on_path_are_not_taken_for_the_compiler(host):
    other = host.base / "other-installation/neuronx-cc"
    other.parent.mkdir()
    other.write_bytes(host.launcher.read_bytes())
    other.chmod(0o755)
    host.env["PATH"] = f"{host.launcher.parent}:{other.parent}:{host.compiler.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.counters() == {"miss_stored": 1}


def test_the_compiler_that_is_set_is_used(host):
    host.env["PATH"] = f"{host.launcher.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_COMPILER=host.compiler)
    assert host.counters() == {"miss_stored": 1}


@pytest.mark.parametrize("setting", ["/absent/neuronx-cc", "launcher"])
def test_a_compiler_setting_that_cannot_be_used_is_counted_and_path_searched(host, setting):
    setting = host.launcher if setting == "launcher" else setting
    host.cc(*COMPILE, host.model(), "--output=o.neff", NEURON_STORE_COMPILER=setting)
    assert host.counters() == {"miss_stored": 1, "compiler_setting_unusable": 1}


def test_a_compiler_that_is_a_script_without_an_interpreter_line_runs_under_sh(host):
    host.compiler.write_text('echo "plain script: $1"\nexit 5\n')
    done = host.cc("list-operators", check=False)
    assert (done.returncode, done.stdout) == (5, b"plain script: list-operators\n")


def test_a_compiler_that_cannot_be_executed_is_said_so(host):
    host.compiler.write_text("#!/absent/interpreter\n")
    done = host.cc("list-operators", check=False)
    assert done.returncode == 127
    assert b"no neuronx-cc on PATH behind the shim" in done.stderr
