"""What an adversary tried: wrong hits by hidden inputs and odd outputs, hangs, leftovers, and poisoned stores."""

import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from neuron_store.hashing.command_line import read_command_line
from neuron_store.hashing.inputs import open_regular
from neuron_store.hashing.not_cacheable import NotCacheable
from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.shim.deliver import deliver
from neuron_store.store import direct, results
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.blobs import MissingBlob, read_blob
from neuron_store.store.direct import DirectEntry, Output, decode_direct, encode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout, read_file
from neuron_store.store.results import Result, decode_result, encode_result

COMPILE = ("compile", "--framework=XLA", "--target=trn1", "--output=o.neff")
KEY, OTHER_KEY = "0123456789abcdef" * 2, "f" * 32


def stored_files(host, *folders):
    return sorted(path for folder in folders for path in (host.store / folder).rglob("*") if path.is_file())


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "store"))


# -- files that options name ---------------------------------------------------------------------------------

# {w} is the work folder; each names one file, in a way that is not that of a known option.
MENTIONS = {
    "a bare name": ("kernelconf", "--tensorizer-options=--cfg=kernelconf"),
    "a bare name with a space": ("my config", "--tensorizer-options=--cfg=my config --b"),
    "an equals sign inside": ("step=1/k.json", "--cfg={w}/step=1/k.json"),
    "every separator inside": ("a=b,c;d:e(f)[g]{{h}}|i k/k.json", "--cfg={w}/a=b,c;d:e(f)[g]{{h}}|i k/k.json"),
    "a space inside quotes": ("my dir/k.json", '--cfg="{w}/my dir/k.json"'),
    "an escaped space": ("my dir/k.json", "--cfg={w}/my\\ dir/k.json"),
    "a short option": ("k.json", "-c{w}/k.json"),
    "a relative path glued to a short option": ("k.json", "-Ik.json"),
    "a relative path glued to a short word": ("sub/k.json", "-isystemsub/k.json"),
    "a short option in a text": ("k.json", "--tensorizer-options=-I{w}/k.json"),
    "home": ("../home/k.json", "--cfg=~/k.json"),
    "home inside a text": ("../home/k.json", "--tensorizer-options=--a=1 --cfg:~/k.json"),
    "a colon": ("k.json", "--spec:{w}/k.json"),
    "a bar": ("k.json", "--new-opt=--a=1|-I{w}/k.json"),
    "an at sign": ("k.json", "--new-opt=@k.json"),
    "json": ("k.json", '--internal-dma-order-constraints={{"a": ["{w}/k.json", 2]}}'),
    "many options": ("k.json", "--tensorizer-options=" + " ".join(f"--o{n}=v{n}" for n in range(60)) + " --c=k.json"),
    "a known file option": ("k.json", "--io-config=[{w}/k.json]"),
}


@pytest.mark.parametrize("case", MENTIONS)
def test_the_content_of_a_file_that_an_option_mentions_is_in_the_key(host, case):
    name, option = MENTIONS[case]
    named = host.work / name.format()
    named.parent.mkdir(parents=True, exist_ok=True)
    model = host.model()
    for content in ("one", "two", "two"):
        named.write_text(content)
        host.cc(*COMPILE, model, option.format(w=host.work))
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}


def test_the_same_content_elsewhere_in_a_text_is_another_key(host):
    model = host.model()
    for name in ("a", "b"):
        (host.work / name).write_text("content")
        host.cc(*COMPILE, model, "--tensorizer-options=--x=a --y=b")
        (host.work / name).unlink()
    assert host.counters() == {"miss_stored": 2}


@pytest.mark.parametrize(
    "option",
    [
        "--cfg={w}/step=1",
        "-I{w}/step=1",
        "--new={w}/step=1/*.json",
        '--new={w}/"step=1"/k.json',
        "--new=~",
        "--new=$HOME/k.json",
    ],
)
def test_a_mentioned_folder_or_variable_is_not_cached(host, option):
    (host.work / "step=1").mkdir()
    for _ in range(2):
        host.cc(*COMPILE, host.model(), option.format(w=host.work))
    assert host.counters() == {"pass_file_option": 2}


def test_more_mentions_than_can_be_looked_for_are_not_cached(host):
    many = "--new=" + " ".join(f"{host.work}/x{number}" for number in range(500))
    host.cc(*COMPILE, host.model(), many)
    assert host.counters() == {"pass_file_option": 1}


def test_a_text_too_long_to_be_searched_is_not_cached():
    with pytest.raises(NotCacheable, match="file_option"):
        read_command_line(["compile", "m.pb", "--new=" + "x " * 10_000])


def test_a_current_directory_that_cannot_be_listed_is_not_cached(monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(NotCacheable, match="file_option"):
        read_command_line(["compile", "m.pb", "--new=" + "x " * 50])


def test_a_usual_text_is_looked_for_a_few_times_and_a_usual_command_line_never(monkeypatch):
    looks = []
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: looks.append(path) or exists(path))
    usual = ["compile", "--framework=XLA", "m.pb", "--target=trn1", "--output=o.neff", "-O1", "--verbose=35"]
    read_command_line(usual)
    assert looks == []
    read_command_line([*usual, "--tensorizer-options=--enable-x --factor=1"])
    assert len(looks) <= 10


# -- odd outputs ---------------------------------------------------------------------------------------------

SPECIAL = {
    "the log": ["--output=same", "--logfile=same"],
    "the log by another path": ["--output={w}/same", "--logfile=./same"],
    "the log by a link": ["--output=link", "--logfile=absent"],
    "the log by a hard link": ["--output=hard", "--logfile=first"],
    "the default log": ["--output=log-neuron-cc.txt"],
    "the wrapped NEFF": ["--output={w}/wrapped_neff.hlo"],
    "the input": ["--output={m}"],
    "the input by a hard link": ["--output=input-link"],
    "stdout": ["--output=/dev/stdout"],
    "a descriptor": ["--output=/dev/fd/1"],
    "a descriptor in proc": ["-o", "/proc/self/fd/1"],
    "a descriptor by a link": ["-o", "to-stdout"],
    "a descriptor by a linked folder": ["-o", "descriptors/1"],
    "a log on stdout": ["--output=o.neff", "--logfile=/dev/stdout"],
    "a log on stderr by a link": ["--output=o.neff", "--logfile=to-stderr"],
    "a log in the input": ["--output=o.neff", "--logfile={m}"],
    "a log in a pipe": ["--output=o.neff", "--logfile=pipe"],
    "a log in a folder": ["--output=o.neff", "--logfile={w}"],
    "a log without a name": ["--output=o.neff", "--logfile="],
}


@pytest.mark.parametrize("case", SPECIAL)
def test_an_output_that_is_something_else_too_is_not_cached(host, case):
    model = host.model()
    (host.work / "link").symlink_to("absent")
    (host.work / "first").write_text("")
    os.link(host.work / "first", host.work / "hard")
    os.link(model, host.work / "input-link")
    (host.work / "to-stdout").symlink_to("/dev/stdout")
    (host.work / "to-stderr").symlink_to("/proc/self/fd/2")
    (host.work / "descriptors").symlink_to("/dev/fd")
    os.mkfifo(host.work / "pipe")
    arguments = [word.format(w=host.work, m=model) for word in SPECIAL[case]]
    for _ in range(2):
        host.cc("compile", model, "--target=trn1", *arguments, STANDIN_NO_OUTPUT=1)
    assert len(host.runs) == 2
    assert host.counters() == {"pass_special_output": 2}


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_an_output_that_a_standard_stream_is_redirected_to_is_not_cached(host, stream):
    model = host.model()
    for _ in range(2):
        with open(host.work / "o.neff", "a+") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: file}
            subprocess.run([host.launcher, *COMPILE, model], cwd=host.work, env=host.env, check=True, **streams)
    assert host.counters() == {"pass_special_output": 2}


def test_a_log_that_goes_nowhere_and_an_output_in_memory_are_nothing_special(host):
    model = host.model()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for _ in range(2):
            host.cc("compile", model, "--target=trn1", f"--output={folder}/o.neff", "--logfile=/dev/null")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


# -- usage errors --------------------------------------------------------------------------------------------


def test_a_word_before_compile_is_another_command(host):
    model = host.model()
    host.cc("compile", model, "--target=trn1", "--output=o.neff")
    done = host.cc(model, "--target=trn1", "compile", "--output=o.neff", check=False, STANDIN_EXIT=2)
    assert done.returncode == 2
    assert host.counters() == {"miss_stored": 1, "pass_other_command": 1}


def test_a_compile_that_may_be_an_options_word_is_a_key_of_its_own(host):
    model = host.model()
    host.cc("compile", "--new", model, "--target=trn1", "--output=o.neff")
    done = host.cc("--new", "compile", model, "--target=trn1", "--output=o.neff", check=False, STANDIN_EXIT=2)
    assert done.returncode == 2
    assert host.counters() == {"miss_stored": 1, "miss_failed": 1}


@pytest.mark.parametrize("option", ["--verbose=rubbish", "--logfile-verbose=rubbish", "--verbose=", "--verbose=3x"])
def test_a_verbosity_that_is_none_is_not_neutral(host, option):
    model = host.model()
    host.cc(*COMPILE, model)
    assert host.cc(*COMPILE, model, option, check=False, STANDIN_EXIT=2).returncode == 2
    assert host.counters() == {"miss_stored": 1, "miss_failed": 1}


@pytest.mark.parametrize("level", ["35", "0", "debug", "info", "warning", "error", "critical", "user", "trace"])
def test_a_known_verbosity_is_neutral(level):
    plain = read_command_line(["compile", "m.pb"]).options
    assert read_command_line(["compile", "m.pb", f"--verbose={level}", "--logfile-verbose", level]).options == plain


# -- entries that are another's ------------------------------------------------------------------------------


def test_a_direct_entry_under_another_name_is_not_served(host):
    one, two = host.model("one.pb", b"one"), host.model("two.pb", b"two")
    host.cc(*COMPILE, one)
    (first,) = stored_files(host, "direct")
    host.cc(*COMPILE, two)
    right = (host.work / "o.neff").read_bytes()
    (second,) = set(stored_files(host, "direct")) - {first}
    shutil.copy(first, second)
    host.cc(*COMPILE, two)
    assert (host.work / "o.neff").read_bytes() == right
    assert host.counters() == {"miss_stored": 2, "corrupt_direct": 1, "hit_canonical": 1}


@pytest.mark.parametrize("swapped", ["link.pb", "folder/a.pb", "chain.pb"])
def test_an_input_link_swapped_and_swapped_back_during_the_compile_is_not_stored(host, swapped):
    host.model("a/a.pb", b"the right module")
    host.model("b/a.pb", b"the wrong module")
    link = host.work / swapped.split("/")[0]
    target = "a" if swapped.startswith("folder") else "a/a.pb"
    link.symlink_to(target)
    if swapped == "chain.pb":
        (host.work / "outer.pb").symlink_to("chain.pb")
        swapped = "outer.pb"

    def swap(to):
        link.unlink()
        link.symlink_to(to)

    told = {"STANDIN_STARTED": host.base / "started", "STANDIN_WAIT_FOR": host.base / "go", "STANDIN_SLEEP_WRITING": 1}
    process = host.start(*COMPILE, swapped, **told)
    wait_for(host.base / "started")
    swap("b" + target[1:])
    (host.base / "go").touch()
    wait_for(host.work / "o.neff")
    swap(target)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert host.counters() == {"miss_input_changed": 1}


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- what is no regular file ---------------------------------------------------------------------------------


def put_in_place(path, kind):
    if path.exists():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path, 0o755)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        back = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name[:50])
            os.rename(path.name[:50], path.name)
        finally:
            os.chdir(back)


KINDS = ["pipe", "folder", "loop", "device", "socket"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", ["direct", "results", "blobs", "compilers"])
def test_what_is_no_file_in_place_of_one_of_the_stores_harms_and_hangs_nothing(host, folder, kind):
    model = host.model()
    host.cc(*COMPILE, model)
    original = (host.work / "o.neff").read_bytes()
    for path in stored_files(host, folder, *(["direct"] if folder == "results" else [])):
        path.unlink()
        if folder in str(path.relative_to(host.store)):
            put_in_place(path, kind)
    for _ in range(2):
        begun = time.monotonic()
        (host.work / "o.neff").unlink()
        host.cc(*COMPILE, model)
        assert time.monotonic() - begun < 30
        assert (host.work / "o.neff").read_bytes() == original
    counters = host.counters()
    assert counters["miss_stored"] <= 2
    incident = {"direct": "store_fault", "results": "store_fault", "blobs": "missing_blob"}
    if folder in incident:
        assert counters[incident[folder]] >= 1
    assert "error_output" not in counters
    assert "error_internal" not in counters


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_place_of_the_event_log_or_of_our_own_log(host, kind):
    model = host.model()
    host.cc(*COMPILE, model)
    (events,) = stored_files(host, "events")
    events.rename(host.base / "kept")
    put_in_place(events, kind)
    host.log_file.parent.mkdir(parents=True, exist_ok=True)
    put_in_place(host.log_file, kind)
    host.cc(*COMPILE, model, NEURON_STORE_LOCK_TIMEOUT="soon")  # has something to say
    host.cc(*COMPILE, model)
    shutil.rmtree(events) if kind == "folder" else events.unlink()
    (host.base / "kept").rename(events)
    assert host.counters() == {"miss_stored": 1, "pass_bad_configuration": 1, "hit_direct": 1}


@pytest.mark.parametrize("kind", [*KINDS, "large"])
def test_a_configuration_that_is_no_file_or_too_large_is_said_so(host, kind):
    config = host.home / "config.toml"
    if kind == "large":
        config.write_text("# \n" * 400_000)
    else:
        put_in_place(config, kind)
    host.cc(*COMPILE, host.model(), NEURON_STORE_CONFIG=config)
    assert len(host.runs) == 1
    assert host.counters() == {"pass_bad_configuration": 1}
    assert str(config) in host.log_file.read_text()


def test_a_pipe_on_path_is_not_taken_for_the_compiler(host):
    pipe = host.base / "odd/neuronx-cc"
    pipe.parent.mkdir()
    put_in_place(pipe, "pipe")
    host.env["PATH"] = f"{host.launcher.parent}:{pipe.parent}:{host.compiler.parent}:/usr/bin:/bin"
    host.cc(*COMPILE, host.model())
    assert host.counters() == {"miss_stored": 1}


def test_an_entry_of_absurd_size_is_not_read(host):
    model = host.model()
    host.cc(*COMPILE, model)
    (entry,) = stored_files(host, "direct")
    os.truncate(entry, 1 << 33)
    host.cc(*COMPILE, model)
    host.cc(*COMPILE, model)
    assert host.counters() == {"miss_stored": 1, "store_fault": 1, "hit_canonical": 1, "hit_direct": 1}


def test_a_file_that_grows_while_it_is_read_is_read_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "entry"
    path.write_bytes(b"whole")
    read = os.read

    def read_and_grow(descriptor, size):
        with open(path, "ab") as file:
            file.write(b"more" * 100)
        return read(descriptor, min(size, 3))

    monkeypatch.setattr(os, "read", read_and_grow)
    assert len(read_file(str(path))) == len(b"whole") + 1


@pytest.mark.parametrize("kind", [*KINDS, "closed"])
def test_a_blob_that_cannot_be_read_is_missing(layout, tmp_path, kind):
    (tmp_path / "source").write_bytes(b"content")
    with open(tmp_path / "source", "rb") as file:
        output = store_blob(layout, "neff", file.fileno(), 0)
    path = Path(layout.blob_path(output.sha256))
    if kind == "closed":
        if os.geteuid() == 0:
            pytest.skip("nothing is closed to root")
        path.chmod(0)
    else:
        put_in_place(path, kind)
    with pytest.raises(MissingBlob):
        read_blob(layout, output)


@pytest.mark.parametrize("size", [1000, 9_000_000])
@pytest.mark.parametrize("level", [0, 3])
def test_a_disk_that_cannot_read_a_blob_is_a_fault_of_the_store_and_not_of_the_output(
    layout, tmp_path, monkeypatch, size, level
):
    (tmp_path / "source").write_bytes(b"x" * size)
    with open(tmp_path / "source", "rb") as file:
        output = store_blob(layout, "neff", file.fileno(), level)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    monkeypatch.setattr(os, "readv", fail)
    with pytest.raises(CorruptEntry, match="cannot be read"):
        deliver(layout, DirectEntry(KEY, 1.0, "", {"neff": output}), str(tmp_path / "o.neff"), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store"]


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_text("x")
    os.close(open_regular(str(tmp_path / "file")))
    before = len(os.listdir("/proc/self/fd"))
    for kind in KINDS:
        put_in_place(tmp_path / kind, kind)
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_RDWR):
            with pytest.raises(OSError):
                open_regular(str(tmp_path / kind), flags)
    assert len(os.listdir("/proc/self/fd")) == before


# -- killed shims --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("level", [0, 3])
def test_a_shim_killed_at_any_moment_of_a_hit_leaves_the_output_whole_or_not_at_all(host, name, level):
    size = 200_000_000
    model = host.model()
    told = {"STANDIN_SIZE": size, "STANDIN_COMPRESSIBLE": 1, "NEURON_STORE_COMPRESSION_LEVEL": level}
    host.cc(*COMPILE, model, **told)
    output = host.work / "o.neff"
    right = digest(output)
    output.unlink()
    begun = time.monotonic()
    host.cc(*COMPILE, model)
    span = time.monotonic() - begun
    dice = random.Random(level)
    seen = set()
    for number in range(25):
        output.unlink(missing_ok=True)
        process = host.start(*COMPILE, model)
        time.sleep(dice.uniform(0, 1.2) * span)
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
        assert process.returncode in (0, -getattr(signal, name))
        seen.add(process.returncode)
        assert host.leftovers() == [], number
        if output.exists():
            assert digest(output) == right
    assert -getattr(signal, name) in seen
    host.cc(*COMPILE, model)
    assert digest(output) == right
    counters = host.counters()
    assert counters.pop("hit_direct") >= 2
    assert counters == {"miss_stored": 1}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest() if hasattr(hashlib, "file_digest") else file.read()


@pytest.fixture
def entry(layout, tmp_path):
    (tmp_path / "source").write_bytes(b"a NEFF")
    with open(tmp_path / "source", "rb") as file:
        outputs = {role: store_blob(layout, role, file.fileno()) for role in ("neff", "wrapped_neff")}
    (tmp_path / "cwd").mkdir()
    return DirectEntry(KEY, 1.0, "", outputs)


@pytest.mark.parametrize("cannot", ["nothing", "nameless files", "links"])
@pytest.mark.parametrize("there", [False, True])
def test_a_file_system_without_nameless_files_or_links_takes_a_hit_all_the_same(
    layout, entry, tmp_path, monkeypatch, cannot, there
):
    really_open = os.open

    def refuse_nameless(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported", path)
        return really_open(path, flags, *rest, **more)

    def refuse_link(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if cannot == "nameless files":
        monkeypatch.setattr(os, "open", refuse_nameless)
    elif cannot == "links":
        monkeypatch.setattr(os, "link", refuse_link)
    monkeypatch.chdir(tmp_path / "cwd")
    if there:
        Path("o.neff").write_bytes(b"what was there before, and is longer")
    old = os.umask(0o027)
    try:
        deliver(layout, entry, "o.neff", None)
    finally:
        os.umask(old)
    assert Path("o.neff").read_bytes() == b"a NEFF"
    assert Path("o.neff").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(".")) == ["o.neff", "wrapped_neff.hlo"]


# -- log files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "some lines\n"])
def test_a_log_that_is_a_symbolic_link_is_followed(host, before):
    model = host.model()
    (host.work / "elsewhere").mkdir()
    real = host.work / "elsewhere/real.log"
    (host.work / "link.log").symlink_to(real)
    if before:
        real.write_text(before)
    host.cc(*COMPILE, model, "--logfile=link.log", STANDIN_LOG="line\n", STANDIN_LOG_MODE="a")
    host.cc(*COMPILE, model, "--logfile=link.log")
    assert (host.work / "link.log").is_symlink()
    assert real.read_text() == before + "line\nline\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_log_with_lines_of_others_keeps_its_name_and_links(host, mode):
    model = host.model()
    log = host.work / "shared.log"
    log.write_text("before\n")
    host.cc(*COMPILE, model, "--logfile=shared.log", STANDIN_LOG="line\n", STANDIN_LOG_MODE=mode)
    os.link(log, host.work / "hard")
    host.cc(*COMPILE, model, "--logfile=shared.log")
    assert (host.work / "hard").read_text() == ("before\nline\nline\n" if mode == "a" else "line\n")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_log_that_was_set_aside_and_begun_anew_is_not_taken_for_overwritten(host):
    compiler = host.compiler.read_text()
    host.compiler.write_text(compiler.replace("    record_run()\n", "    record_run()\n    rotate()\n", 1).replace(
        "def main():", "def rotate():\n    os.rename('shared.log', 'shared.log.1')\n\n\ndef main():"))  # fmt: skip
    model = host.model()
    log = host.work / "shared.log"
    log.write_text("before\n")
    host.cc(*COMPILE, model, "--logfile=shared.log", STANDIN_LOG="line\n")
    log.write_text("another day\n")
    host.cc(*COMPILE, model, "--logfile=shared.log")
    assert log.read_text() == "another day\nline\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_a_result_without_a_log_empties_none(host):
    model = host.model()
    host.cc(*COMPILE, model)
    (host.work / "shared.log").write_text("before\n")
    host.cc(*COMPILE, model, "--logfile=shared.log")
    assert (host.work / "shared.log").read_text() == "before\n"
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


@pytest.mark.parametrize("before", ["", "of others\n"])
def test_hits_that_share_a_log_lose_no_line(host, before):
    model = host.model()
    lines = "".join(f"line {number}\n" for number in range(200))
    host.cc(*COMPILE, model, "--logfile=first.log", STANDIN_LOG=lines)
    log = host.work / "shared.log"
    if before:
        log.write_text(before)
    started = [
        host.start("compile", "--framework=XLA", "--target=trn1", f"--output=o{n}.neff", model, "--logfile=shared.log")
        for n in range(12)
    ]
    for process in started:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert log.read_text() == before + lines * 12
    assert host.counters() == {"miss_stored": 1, "hit_direct": 12}


def test_a_hit_whose_log_cannot_be_written_runs_the_compiler(host):
    model = host.model()
    host.cc(*COMPILE, model)
    host.cc(*COMPILE, model, "--logfile=absent/x.log")
    assert len(host.runs) == 2
    assert host.counters() == {"miss_stored": 1, "error_output": 1}


# -- poisoned stores -----------------------------------------------------------------------------------------

SHA256, XXH3 = "a" * 64, "b" * 32


def good_outputs():
    return {
        "neff": Output("neff", SHA256, XXH3, 10, "raw", None),
        "stdout": Output("stdout", SHA256, XXH3, 4, "raw", b"text"),
        "stderr": Output("stderr", SHA256, XXH3, 2, "zst", b"..") ,
    }  # fmt: skip


def good_direct():
    return encode_direct(DirectEntry(KEY, 1.5, "o1 e2 o3", good_outputs(), [("/k/x", SHA256, (1, 2, 3, 4, 5))]), KEY)


def sealed(magic, body):
    return magic + xxh3_hex(body).encode() + b"\n" + body


DIRECT_POISON = {
    "another key's": (f"{KEY} {KEY}", f"{OTHER_KEY} {KEY}"),
    "no key": (f"{KEY} {KEY}", f"{KEY} {KEY[:-1]}"),
    "a sha256 that is none": (f"neff {SHA256}", "neff ../../etc/passwd"),
    "an xxh3 that is none": (f"{XXH3} 10", f"{XXH3[:-1]}X 10"),
    "a negative size": ("10 raw", "-10 raw"),
    "a size with a sign": ("10 raw", "+10 raw"),
    "a size in another notation": ("10 raw", "1_0 raw"),
    "a size in other digits": ("10 raw", "\u0661\u0660 raw"),
    "an absurd size": ("10 raw", "9" * 30 + " raw"),
    "a size of too many digits": ("10 raw", "9" * 5000 + " raw"),
    "an encoding that is none": ("10 raw", "10 gzip"),
    "a role that is none": (f"stdout {SHA256}", f"stdin {SHA256}"),
    "a role twice": (f"stderr {SHA256}", f"stdout {SHA256}"),
    "an inline length that is not the size": ("4 raw 4", "4 raw 3"),
    "a size that is not the inline length": ("4 raw 4", "5 raw 4"),
    "inline bytes that are not there": ("2 zst 2", "2 zst 9"),
    "a negative inline length": ("2 zst 2", "2 zst -2"),
    "bytes that are nobody's": ("text..", "text..more"),
    "turns that are not all": ("o1 e2 o3", "o1 e2"),
    "turns that are too many": ("o1 e2 o3", "o1 e2 o999"),
    "a turn of another stream": ("o1 e2 o3", "o1 e2 o3 x1"),
    "a negative turn": ("o1 e2 o3", "o-1 e2 o5"),
    "a turn without a length": ("o1 e2 o3", "o1 e2 o3 o"),
    "turns with other spaces": ("o1 e2 o3", "o1  e2 o3"),
    "no duration": (f"{KEY} 1.5", f"{KEY} soon"),
    "a negative duration": (f"{KEY} 1.5", f"{KEY} -1.5"),
    "an endless duration": (f"{KEY} 1.5", f"{KEY} inf"),
    "a duration that is no number": (f"{KEY} 1.5", f"{KEY} nan"),
    "fewer outputs than announced": ("1.5 3 1", "1.5 4 1"),
    "more outputs than announced": ("1.5 3 1", "1.5 2 1"),
    "more side files than announced": ("1.5 3 1", "1.5 3 0"),
    "a negative count": ("1.5 3 1", "1.5 -3 1"),
    "no counts": ("1.5 3 1", "1.5"),
    "a side file's sha256 that is none": (f"5 {SHA256} /k", f"5 {SHA256[:-1]}z /k"),
    "a side file's state that is none": ("1 2 3 4 5 ", "1 2 3 4 x "),
    "a side file's state that is too short": ("1 2 3 4 5 ", "1 2 3 4 "),
    "a side file with a NUL": ("/k/x", "/k%00x"),
    "a side file without a name": (" /k/x", " "),
}


def test_the_entry_that_is_poisoned_below_is_good():
    assert decode_direct(good_direct(), KEY).outputs["stdout"].inline == b"text"


@pytest.mark.parametrize("case", DIRECT_POISON)
def test_an_absurd_direct_entry_with_a_right_checksum_is_corrupt(case):
    good, bad = (text.encode() for text in DIRECT_POISON[case])
    body = good_direct().partition(b"\n")[2]
    assert good in body
    with pytest.raises(CorruptEntry):
        decode_direct(sealed(direct.MAGIC, body.replace(good, bad, 1)), KEY)


def test_a_direct_entry_without_a_neff_is_corrupt():
    outputs = good_outputs()
    del outputs["neff"]
    with pytest.raises(CorruptEntry):
        decode_direct(encode_direct(DirectEntry(KEY, 1.5, "", outputs), KEY), KEY)


def good_result():
    result = Result(
        key=KEY,
        components=[{"name": "flags", "digest": "d", "fields": ["--target=trn1"]}],
        outputs=good_outputs(),
        interleave="o1 e2 o3",
        seconds=1.5,
        input_file={"name": "m.pb"},
        provenance={"created": 1.0},
    )
    return encode_result(result)


RESULT_POISON = {
    "a key that is none": (f'"key": "{KEY}"', '"key": "../x"'),
    "a key that is a number": (f'"key": "{KEY}"', '"key": 7'),
    "a sha256 that is none": (f'"sha256": "{SHA256}"', '"sha256": "../../x"'),
    "a sha256 that is a list": (f'"sha256": "{SHA256}"', '"sha256": [' + ",".join(['"a"'] * 64) + "]"),
    "an xxh3 that is none": (f'"xxh3": "{XXH3}"', '"xxh3": "b"'),
    "a negative size": ('"size": 10', '"size": -10'),
    "a size that is no integer": ('"size": 10', '"size": 10.0'),
    "a size that is text": ('"size": 10', '"size": "10"'),
    "a size that is a truth": ('"size": 10', '"size": true'),
    "an absurd size": ('"size": 10', '"size": 1' + "0" * 30),
    "an encoding that is none": ('"encoding": "raw"', '"encoding": "gzip"'),
    "an encoding that is a list": ('"encoding": "raw"', '"encoding": ["raw"]'),
    "a role that is none": ('"role": "stdout"', '"role": "stdin"'),
    "a role that is an object": ('"role": "stdout"', '"role": {}'),
    "a role twice": ('"role": "stderr"', '"role": "stdout"'),
    "no NEFF": ('"role": "neff"', '"role": "log"'),
    "turns that are not all": ('"o1 e2 o3"', '"o1 e2"'),
    "turns that are none": ('"o1 e2 o3"', '"o1 e2 o3 \\n"'),
    "turns that are a list": ('"o1 e2 o3"', '["o4", "e2"]'),
    "a duration that is text": ('"seconds": 1.5', '"seconds": "1.5"'),
    "an endless duration": ('"seconds": 1.5', '"seconds": Infinity'),
    "a duration that is no number": ('"seconds": 1.5', '"seconds": NaN'),
    "an absurd duration": ('"seconds": 1.5', '"seconds": 1' + "0" * 400),
    "components that are text": ('"fields": [', '"fields": [1,'),
    "an input that is a list": ('"input": {', '"input": [{}], "other": {'),
    "a provenance that is nothing": ('"provenance": {', '"provenance": null, "other": {'),
    "depth": ('"provenance": {', '"other": ' + "[" * 100_000 + "]" * 100_000 + ', "provenance": {'),
}


def test_the_record_that_is_poisoned_below_is_good():
    assert decode_result(good_result()).outputs["stdout"].size == 4


@pytest.mark.parametrize("case", RESULT_POISON)
def test_an_absurd_result_record_with_a_right_checksum_is_corrupt(case):
    good, bad = (text.encode() for text in RESULT_POISON[case])
    body = good_result().partition(b"\n")[2]
    assert good in body
    with pytest.raises(CorruptEntry):
        decode_result(sealed(results.MAGIC, body.replace(good, bad, 1)))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"', b"{}"])
def test_a_record_that_is_another_value_is_corrupt(body):
    with pytest.raises(CorruptEntry):
        decode_result(sealed(results.MAGIC, body))


def test_a_poisoned_entry_loses_no_line_of_what_the_compiler_printed(host):
    model = host.model()
    first = host.cc(*COMPILE, model)
    (path,) = stored_files(host, "direct")
    _, _, body = path.read_bytes().partition(b"\n")
    length = len(first.stdout)
    poisoned = body.replace(b"o%d\n" % length, b"o%d\n" % (length + 10), 1)
    assert poisoned != body
    path.chmod(0o644)
    path.write_bytes(sealed(direct.MAGIC, poisoned))
    assert host.cc(*COMPILE, model).stdout == first.stdout
    assert host.counters() == {"miss_stored": 1, "corrupt_direct": 1, "hit_canonical": 1}


# -- odd places for a store ----------------------------------------------------------------------------------


@pytest.fixture
def other_file_system(tmp_path):
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("linked", ["blobs", "results", "direct", "tmp"])
def test_a_folder_of_the_store_may_be_on_another_file_system(host, other_file_system, linked):
    host.store.mkdir()
    (host.store / linked).symlink_to(other_file_system)
    model = host.model()
    for name in ("a", "b"):
        host.cc("compile", model, "--target=trn1", f"--output={name}.neff")
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert host.leftovers() == []
    names = [name for _, _, files in os.walk(other_file_system) for name in files]
    assert [name for name in names if name.startswith(".")] == []
    assert [path.stat().st_mode & 0o777 for path in stored_files(host, "blobs")][:1] in ([0o444], [])


def test_a_full_other_file_system_leaves_nothing_there(layout, tmp_path, other_file_system, monkeypatch):
    os.makedirs(layout.root)
    os.symlink(other_file_system, f"{layout.root}/results")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("neuron_store.store.layout.copy_all", fail)
    with pytest.raises(OSError, match="No space"):
        layout.write_file(layout.result_path(KEY), b"record")
    assert [files for _, _, files in os.walk(other_file_system) if files] == []
    assert os.listdir(f"{layout.root}/tmp") == []


def test_a_file_system_without_locks_takes_results_all_the_same(layout, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    layout.write_file(layout.result_path(KEY), b"record")
    assert read_file(layout.result_path(KEY)) == b"record"
    assert os.listdir(f"{layout.root}/tmp") == []


@pytest.mark.parametrize("fault", [OSError(errno.EPERM, "Operation not permitted"), KeyboardInterrupt()])
def test_a_temporary_file_that_cannot_be_shared_is_not_left_behind(layout, monkeypatch, fault):
    os.makedirs(layout.root)
    os.chmod(layout.root, 0o775)

    def refuse(*_):
        raise fault

    layout.make_folder(f"{layout.root}/tmp")
    monkeypatch.setattr(os, "fchmod", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(type(fault)):
        layout.open_temporary()
    assert os.listdir(f"{layout.root}/tmp") == []
    assert len(os.listdir("/proc/self/fd")) == before
