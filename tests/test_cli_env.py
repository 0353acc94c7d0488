"""`neuron-store env` in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import make_venv

from neuron_store.shim.real_compiler import SHIM_MARK

# shell -> the command line that runs a script without the user's start-up files
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-c"],
    "zsh": ["zsh", "-f", "-c"],
    "fish": ["fish", "--no-config", "-c"],
}
PRINT_PATH = {"bash": 'printf "%s\\n" "$PATH"', "zsh": 'printf "%s\\n" "$PATH"', "fish": "string join : $PATH"}
ODD_FOLDERS = ["a folder", "it's", 'a "quote"', "$HOME", "`id`", "back\\slash", "*", "semi;colon", "(x)", "é", "#", "~"]


@pytest.fixture
def person(host):
    """A host where `neuron-store` is on PATH and the shim is not yet."""
    tools = host.base / "tools"
    tools.mkdir()
    program = tools / "neuron-store"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neuron_store.cli "$@"\n')
    program.chmod(0o755)
    host.env["PATH"] = f"{tools}:{host.compiler.parent}:/usr/bin:/bin"
    host.env["XDG_DATA_HOME"] = str(host.base / "data")
    return host


@pytest.fixture(params=SHELLS)
def shell(request, person):
    """Run a script in a shell and return the lines of its stdout."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")

    def run(script, **extra):
        done = subprocess.run(
            [program, *SHELLS[request.param][1:], script],
            env=person.environ(extra),
            cwd=person.work,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return os.fsdecode(done.stdout).splitlines()

    run.name = request.param
    run.activate = "neuron-store env | source" if request.param == "fish" else 'eval "$(neuron-store env)"'
    run.deactivate = run.activate.replace("env", "env --unset")
    run.print_path = PRINT_PATH[request.param]
    return run


def launcher_folder(person):
    return person.cli("env", "--path").stdout.rstrip("\n")


def test_the_first_neuronx_cc_is_then_the_launcher(person, shell):
    (found,) = shell(f"{shell.activate}; command -v neuronx-cc")
    assert found == f"{launcher_folder(person)}/neuronx-cc"
    assert SHIM_MARK in Path(found).read_bytes()


def test_compiles_are_then_stored_and_served(person, shell):
    model = person.model("model.pb")
    compile_line = f"neuronx-cc compile '{model}' --target=trn1 --output"
    shell(f"{shell.activate}; {compile_line}=a.neff; {compile_line}=b.neff")
    assert (person.work / "a.neff").read_bytes() == (person.work / "b.neff").read_bytes()
    assert person.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_running_it_twice_does_not_grow_path(person, shell):
    once, twice = shell(f"{shell.activate}; {shell.print_path}; {shell.activate}; {shell.print_path}")
    assert once == twice == f"{launcher_folder(person)}:{person.env['PATH']}"


def test_unset_restores_path(person, shell):
    before, after = shell(f"{shell.print_path}; {shell.activate}; {shell.deactivate}; {shell.print_path}")
    assert before == after == person.env["PATH"]


def test_unset_without_set_changes_nothing(person, shell):
    (after,) = shell(f"{shell.deactivate}; {shell.print_path}")
    assert after == person.env["PATH"]


def test_folders_of_any_name_survive(person, shell):
    odd = [person.base / name for name in ODD_FOLDERS]
    for number, folder in enumerate(odd):
        folder.mkdir()
        (folder / f"probe{number}").symlink_to("/bin/true")
    path = ":".join([person.env["PATH"], *map(str, odd)])
    probes = "; ".join(f"probe{number}" for number in range(len(odd)))
    (after,) = shell(f"{shell.activate}; {shell.print_path}; {probes}", PATH=path)
    assert after == f"{launcher_folder(person)}:{path}"


@pytest.mark.parametrize("language", ["C", "C.UTF-8", "en_US.UTF-8", "en_US.ISO-8859-1"])
def test_a_folder_that_is_not_utf8_survives(person, language):
    path = os.fsencode(person.env["PATH"]) + b":/odd \xff\xe9/bin"
    done = subprocess.run(
        [*SHELLS["bash"], 'eval "$(neuron-store env)"; printf %s "$PATH"'],
        env={**os.environb, **{os.fsencode(k): os.fsencode(v) for k, v in person.env.items()}, b"PATH": path}
        | {b"LC_ALL": language.encode()},
        capture_output=True,
        check=True,
    )
    assert done.stdout == os.fsencode(launcher_folder(person)) + b":" + path


def test_another_login_shell_does_not_change_the_language(person):
    done = subprocess.run(
        ["/bin/sh", "-c", 'eval "$(neuron-store env)"; command -v neuronx-cc'],
        env=person.environ({"SHELL": "/usr/bin/fish"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"{launcher_folder(person)}/neuronx-cc\n", "")


def test_the_shell_is_found_behind_other_programs(person):
    done = subprocess.run(
        ["/bin/sh", "-c", "env nice neuron-store env; true"],
        env=person.environ({"SHELL": "/usr/bin/fish"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("export PATH='")


def test_the_shell_can_be_named(person):
    folder = launcher_folder(person)
    path = f"/it's:{folder}:/b\\c:/usr/bin"
    said = person.cli("env", "--shell", "fish", PATH=path).stdout
    assert said == f"set -gx PATH '{folder}' '/it\\'s' '/b\\\\c' '/usr/bin';\n"
    for name in ("bash", "zsh"):
        said = person.cli("env", "--shell", name, PATH=path).stdout
        assert said == f"export PATH='{folder}:/it'\\''s:/b\\c:/usr/bin';\n"
    refused = person.cli("env", "--shell", "csh", check=False)
    assert refused.returncode == 2
    assert "'csh'" in refused.stderr
    assert refused.stdout == ""


def test_path_prints_only_the_folder_with_the_launcher_in_it(person):
    folder = launcher_folder(person)
    assert "\n" not in folder
    # Another process may be about to write the launcher anew, beside it and hidden.
    assert [path.name for path in Path(folder).iterdir() if path.name[0] != "."] == ["neuronx-cc"]
    assert os.access(f"{folder}/neuronx-cc", os.X_OK)


@pytest.mark.parametrize("path", [None, ""])
def test_an_absent_or_empty_path_does_not_put_the_current_folder_on_it(person, path):
    said = person.cli("env", "--shell", "bash", PATH=path).stdout
    entries = said.removeprefix("export PATH='").removesuffix("';\n").split(":")
    assert entries == [launcher_folder(person), *os.defpath.split(":")]


def test_the_launcher_is_written_again_if_it_was_damaged(person, tmp_path):
    python = make_venv(tmp_path / "other", with_neuron_store=True)
    command = [python, "-m", "neuron_store.cli", "env", "--path"]
    folder = subprocess.check_output(command, env=person.env, text=True).rstrip("\n")
    launcher = Path(folder) / "neuronx-cc"
    good = launcher.read_bytes()
    for damage in (lambda: launcher.write_bytes(b""), lambda: launcher.chmod(0o644), launcher.unlink):
        damage()
        subprocess.run(command, env=person.env, check=True, capture_output=True)
        assert launcher.read_bytes() == good
        assert os.access(launcher, os.X_OK)


def test_the_launcher_lies_inside_a_virtual_environment(person, tmp_path):
    python = make_venv(tmp_path / "other", with_neuron_store=True)
    said = subprocess.check_output([python, "-m", "neuron_store.cli", "env", "--path"], env=person.env, text=True)
    assert said == f"{tmp_path}/other/libexec/neuron-store\n"


def test_a_launcher_that_cannot_be_written_gives_a_message(person, tmp_path):
    python = make_venv(tmp_path / "other", with_neuron_store=True)
    (tmp_path / "other/libexec").touch()
    for verb in (["env"], ["env", "--path"], ["run", "--", "true"]):
        done = subprocess.run(
            [python, "-m", "neuron_store.cli", *verb], env=person.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"neuron-store: the launcher {tmp_path}/other/libexec/neuron-store/neuronx-cc")
        assert done.stderr.endswith("make its folder writable\n")


def test_an_installation_that_path_cannot_name_gives_a_message(person, tmp_path):
    make_venv(tmp_path / "ab", with_neuron_store=True)
    python = (tmp_path / "ab").rename(tmp_path / "a:b") / "bin/python"
    for verb in (["env"], ["run", "--", "true"]):
        done = subprocess.run(
            [python, "-m", "neuron_store.cli", *verb], env=person.env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "has a colon, so PATH cannot name it" in done.stderr


OUTSIDE = (
    "import site, sys; site.addsitedir({packages!r}); from neuron_store.cli.main import main; "
    "sys.argv = ['neuron-store', 'env', '--path']; main()"
)


def outside_of_any_venv(person):
    """Run `neuron-store env --path` with the interpreter that the virtual environment was made of."""
    interpreter = Path(sys.base_prefix) / f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not interpreter.exists():
        pytest.skip(f"there is no interpreter in {sys.base_prefix}/bin")
    packages = next(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return subprocess.run(
        [interpreter, "-c", OUTSIDE.format(packages=packages)],
        env=person.env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_outside_of_a_virtual_environment_the_launcher_lies_in_the_data_folder(person):
    done = outside_of_any_venv(person)
    assert done.stdout.startswith(f"{person.base}/data/neuron-store/launchers/"), done.stderr
    person.env["PATH"] = f"{done.stdout.rstrip()}:{person.env['PATH']}"
    model = person.model()
    line = f"neuronx-cc compile '{model}' --target=trn1 --output=o.neff"
    subprocess.run(["/bin/sh", "-c", f"{line} && {line}"], cwd=person.work, env=person.env, check=True)
    assert person.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_data_folder_that_cannot_be_written_gives_a_message_with_the_remedy(person):
    Path(person.env["XDG_DATA_HOME"]).touch()
    done = outside_of_any_venv(person)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the launcher {person.base}/data/neuron-store/launchers/" in done.stderr
    assert "or set XDG_DATA_HOME to one that is" in done.stderr
