"""Hostile and broken remotes: nothing unverified is served, no build waits long, nothing private leaves the host."""

import base64
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_hub import Redirect, Stall, Status, Truncate
from remote_setup import FLAGS, SAME, TIMES, compile_on, publish, uploads_of

from neuron_store.hashing.xxh3 import xxh3_hex
from neuron_store.store.direct import Output
from neuron_store.store.errors import CorruptRemote, NeuronStoreError, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes import child, folder, http_connect
from neuron_store.store.remotes.child import ask_in_child
from neuron_store.store.remotes.fetch import Expected, fetch_blobs, fetch_record, require_expected
from neuron_store.store.remotes.folder import FolderRemote
from neuron_store.store.remotes.http_reader import HttpReader, ReadLimits, Unreachable
from neuron_store.store.remotes.location import hub_token, list_locations
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import NotUploadable, decode_record, make_upload
from neuron_store.store.remotes.state import RemoteState
from neuron_store.store.results import all_keys, load_result, save_result

SECRET = "hf_alice"


class Shared:
    """A folder that holds what one host compiled, another host that is served from it, and ways to spoil it."""

    def __init__(self, base, make_host):
        self.base = base
        self.maker, self.host = make_host("maker"), make_host("taker")
        self.neff = compile_on(self.maker, **SAME)
        self.folder = base / "shared"
        self.folder.mkdir()
        publish(self.maker, f"file://{self.folder}")
        self.host.use_remotes(f"file://{self.folder}|read-only")

    def path(self, kind):
        (found,) = [path for path in self.folder.rglob("*") if path.is_file() and kind in str(path)]
        return found

    @property
    def record(self):
        return json.loads(self.path("0_RESULTS").read_text())

    def write(self, record):
        self.path("0_RESULTS").write_text(json.dumps(record))

    def neff_of(self, record):
        (neff,) = [output for output in record["outputs"] if output["role"] == "neff"]
        return neff

    def add_output(self, role, content, **changes):
        """Let the record name one more output, and put its blob there."""
        record, stored = self.record, zstandard.compress(content)
        sha256 = hashlib.sha256(content).hexdigest()
        output = {"role": role, "sha256": sha256, "xxh3": xxh3_hex(content), "size": len(content), "encoding": "zst",
                  "stored_sha256": hashlib.sha256(stored).hexdigest(), "stored_size": len(stored)}  # fmt: skip
        record["outputs"] = [kept for kept in record["outputs"] if kept["role"] != role] + [output | changes]
        record["interleave"] = ""
        blob = self.folder / self.path("0_RESULTS").parts[len(self.folder.parts)] / "0_BLOBS" / sha256[:2]
        blob.mkdir(parents=True, exist_ok=True)
        (blob / f"{sha256}.zst").write_bytes(stored)
        self.write(record)

    def require_a_miss(self, **counted):
        assert compile_on(self.host, **SAME) == self.neff
        assert self.host.counters() == {"miss_stored": 1, **counted}
        assert self.host.leftovers() == []


@pytest.fixture
def shared(tmp_path, make_host):
    return Shared(tmp_path, make_host)


# -- nothing unverified -----------------------------------------------------------------------------------------------


def test_a_record_that_lies_of_a_blob_that_is_here_does_not_cost_the_result_that_has_it(shared):
    """The local blob is whole: it must not be taken for damaged because a record has another digest of it."""
    host = shared.host
    kept = compile_on(host, data=b"\x0a\x04main mine", STANDIN_SIZE=50_000, NEURON_STORE_REMOTES="none")
    (key,) = all_keys(host.layout)
    mine = load_result(host.layout, key).outputs["neff"]
    record = shared.record
    told = {"role": "neff", "sha256": mine.sha256, "xxh3": "0" * 32, "size": mine.size, "encoding": mine.encoding,
            "stored_sha256": mine.sha256, "stored_size": mine.size}  # fmt: skip
    record["outputs"] = [told]
    record["interleave"] = ""
    shared.write(record)
    assert compile_on(host, **SAME) == shared.neff
    host.env["NEURON_STORE_REMOTES"] = "none"
    assert compile_on(host, data=b"\x0a\x04main mine", STANDIN_SIZE=50_000) == kept
    assert host.counters() == {"miss_stored": 2, "remote_corrupt": 1, "hit_direct": 1}


def test_a_damaged_blob_that_is_here_is_fetched_anew(shared):
    neff = shared.neff_of(shared.record)
    damaged = Path(shared.host.layout.blob_path(neff["sha256"], ".zst"))
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    assert compile_on(shared.host, **SAME) == shared.neff
    assert shared.host.counters() == {"hit_remote": 1}


@pytest.mark.parametrize("role", ["stdout", "stderr", "log", "log_replaced"])
def test_text_that_would_fill_the_memory_is_a_miss(shared, role):
    shared.add_output(role, b"\0" * (200 << 20))
    shared.require_a_miss(remote_corrupt=1)


def test_a_fetch_of_large_text_stays_in_bounds(shared):
    shared.add_output("stdout", b"x" * (4 << 20))
    done = shared.host.cc("compile", shared.host.model(), *FLAGS, **SAME)
    assert done.stdout == b"x" * (4 << 20)
    assert shared.host.counters() == {"hit_remote": 1}


ODD_TEXTS = ["\x1b[2J", "\ud800", "a\0b", "a\nb", "\x9b31m", "\u202e", "\x07"]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
@pytest.mark.parametrize("place", ["name", "mode", "component", "digest", "field", "version"])
def test_no_text_of_a_record_can_move_a_terminal(shared, place, text):
    record = shared.record
    part = record["components"][0]
    changes = {
        "name": lambda: record["input"].update(name=text),
        "mode": lambda: record["input"].update(mode=text),
        "component": lambda: part.update(name=text),
        "digest": lambda: part.update(digest=text),
        "field": lambda: part.update(fields=[text]),
        "version": lambda: record.update(neuron_store=text),
    }
    changes[place]()
    key, version = record["key"], shared.path("0_RESULTS").parts[-4]
    with pytest.raises(CorruptRemote):
        decode_record(json.dumps(record).encode(), key, version, 1 << 40)


def test_a_compiler_version_that_is_no_version_is_not_believed(shared):
    record = shared.record
    record["compiler_version"] = "\x1b]0;gone\x07"
    with pytest.raises(CorruptRemote):
        decode_record(json.dumps(record).encode(), record["key"], "neuronxcc-unversioned", 1 << 40)


def test_what_a_record_says_of_the_inputs_is_not_kept(shared):
    """Only what the key proves is known of them, and that is here already."""
    record = shared.record
    record["components"] = [{"name": "flags", "digest": "0" * 32, "fields": ["--all-lies"]}]
    record["input"] |= {"name": "lies.pb", "size": 1, "mode": "lies"}
    shared.write(record)
    assert compile_on(shared.host, "mine.pb", **SAME) == shared.neff
    (key,) = all_keys(shared.host.layout)
    mine, theirs = load_result(shared.host.layout, key), load_result(shared.maker.layout, key)
    assert mine.components == theirs.components
    assert (mine.input["name"], mine.input["mode"]) == ("mine.pb", theirs.input["mode"])
    assert "lies" not in shared.host.cli("show", key).stdout + shared.host.cli("list").stdout


def special(path, kind):
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, _in(path.parent):
            made.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"circle": path.name, "device": "/dev/zero", "pipes": "/proc/self/fd/0"}[kind])


class _in:  # noqa: N801 - reads as a word in what uses it
    """A socket's name is short: it is bound from its own folder."""

    def __init__(self, place):
        self.place = place

    def __enter__(self):
        self.before = os.getcwd()
        os.chdir(self.place)

    def __exit__(self, *_):
        os.chdir(self.before)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "circle", "device"])
@pytest.mark.parametrize("place", ["0_RESULTS", "0_BLOBS"])
def test_a_special_file_in_a_shared_folder_is_that_results_misfortune_alone(shared, place, kind):
    other = compile_on(shared.maker, data=b"\x0a\x04main other", **SAME)
    path = shared.path(place)
    publish(shared.maker, f"file://{shared.folder}")
    special(path, kind)
    host = shared.host
    assert compile_on(host, **SAME) == shared.neff
    if place == "0_RESULTS":
        assert compile_on(host, data=b"\x0a\x04main other", **SAME) == other
        assert host.counters() == {"miss_stored": 1, "remote_corrupt": 1, "hit_remote": 1}
    else:
        assert host.counters() == {"miss_stored": 1, "remote_corrupt": 1}


def test_a_link_out_of_a_shared_folder_brings_nothing_in(shared, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("nobody's business")
    path = shared.path("0_BLOBS")
    path.unlink()
    path.symlink_to(secret)
    shared.require_a_miss(remote_corrupt=1)
    assert "nobody's business" not in shared.host.log_file.read_text()


def test_a_file_that_may_not_be_read_is_not_the_whole_folders_refusal(shared, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    remote = FolderRemote(str(shared.folder), writable=False)
    relative = str(shared.path("0_RESULTS").relative_to(shared.folder))
    monkeypatch.setattr(folder, "open_regular", refuse)
    with pytest.raises(CorruptRemote):
        remote.read(relative, 1000)
    with pytest.raises(RemoteRefused):
        remote.read(relative.replace("0_RESULTS", "closed"), 1000)


def test_what_is_added_can_be_read_by_whoever_may_read_the_folder(shared):
    (shared.base / "other").mkdir(mode=0o755)
    before = os.umask(0o077)
    try:
        publish(shared.maker, f"file://{shared.base}/other")
    finally:
        os.umask(before)
    files = [path for path in (shared.base / "other").rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_two_remotes_of_which_one_is_poisoned_serve_many_ranks_right(shared, tmp_path):
    poisoned = tmp_path / "poisoned"
    shutil.copytree(shared.folder, poisoned)
    (blob,) = [path for path in poisoned.rglob("*.zst") if path.is_file()]
    blob.write_bytes(zstandard.compress(b"poison" * 50_000))
    model = shared.host.model()
    ranks = []
    for number in range(8):
        work = shared.host.work / f"rank{number}"
        work.mkdir()
        words = [f"file://{poisoned}|ro", f"file://{shared.folder}|ro"][:: 1 if number % 2 else -1]
        ranks.append(
            shared.host.start("compile", model, *FLAGS, cwd=work, NEURON_STORE_REMOTES=" ".join(words), **SAME)
        )
    for rank in ranks:
        assert rank.communicate() == (b"Compiler status PASS\n", b"")
    assert {(shared.host.work / f"rank{number}/o.neff").read_bytes() for number in range(8)} == {shared.neff}
    assert shared.host.runs == []


# -- fuzz --------------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 1 << 66), st.floats(), st.text(max_size=6), st.just([]), st.just({}),
    st.sampled_from(["neff", "stdout", "log_replaced", "raw", "zst", "../x", "0" * 64, "0" * 32, 10**400]),
)  # fmt: skip


def spots(value, at=()):
    """Every place in a JSON document."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from spots(part, (*at, name))


def spoil(document, data):
    places = [place for place in spots(document) if place]
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places))
        try:
            target = document
            for name in way:
                target = target[name]
            action = data.draw(st.sampled_from(["set", "drop", "double", "swap"]))
            if action == "set":
                target[last] = data.draw(LEAVES)
            elif action == "drop":
                del target[last]
            elif action == "double" and isinstance(target, list):
                target.append(target[last])
            else:
                other = data.draw(st.sampled_from(list(target if isinstance(target, dict) else range(len(target)))))
                target[last], target[other] = target[other], target[last]
        except (KeyError, IndexError, TypeError):
            continue


@pytest.fixture(scope="module")
def example(tmp_path_factory, launcher):
    from conftest import Host

    base = tmp_path_factory.mktemp("example")
    made = Shared(base, lambda name: Host(base / name, launcher))
    made.good = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    return made


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_spoiled_record_says_the_local_store_has_the_truth_or_nothing(example, tmp_path, data):
    for path, content in example.good.items():
        path.write_bytes(content)
    document = example.record
    key, expected = document["key"], Expected(document["input"]["sha256"], document["proof"])
    version = document["compiler_version"]
    spoil(document, data)
    example.write(document)
    layout = Layout(str(tmp_path / "store"))
    remote = FolderRemote(str(example.folder), writable=False)
    try:
        record = fetch_record(remote, version, key, 1 << 40)
        require_expected(record, expected)
        fetch_blobs(remote, layout, record)
        save_result(layout, record.as_result(remote.url))
    except CorruptRemote:
        pass
    else:
        result = load_result(layout, key)
        assert result.as_dict()
        for output in result.outputs.values():
            from neuron_store.store.blobs import read_blob

            assert hashlib.sha256(read_blob(layout, output)).hexdigest() == output.sha256
        assert read_blob(layout, result.outputs["neff"]) in (example.neff, b"Compiler status PASS\n")
    finally:
        assert list((tmp_path / "store/tmp").glob("*")) == []
        shutil.rmtree(tmp_path / "store", ignore_errors=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_spoiled_blob_is_never_kept(example, tmp_path, data):
    for path, content in example.good.items():
        path.write_bytes(content)
    path = example.path("0_BLOBS")
    blob = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    document = example.record
    neff = example.neff_of(document)
    if data.draw(st.booleans()):  # the record tells the truth of them
        neff |= {"stored_size": len(blob), "stored_sha256": hashlib.sha256(blob).hexdigest()}
    path.write_bytes(blob)
    example.write(document)
    layout = Layout(str(tmp_path / "store"))
    remote = FolderRemote(str(example.folder), writable=False)
    try:
        fetch_blobs(remote, layout, fetch_record(remote, document["compiler_version"], document["key"], 1 << 40))
    except CorruptRemote:
        assert not os.path.exists(layout.blob_path(neff["sha256"], ".zst"))
    else:
        stored = Path(layout.blob_path(neff["sha256"], ".zst")).read_bytes()
        assert zstandard.decompress(stored) == example.neff
    shutil.rmtree(tmp_path / "store")


# -- no build waits ----------------------------------------------------------------------------------------------------


class Server:
    """Answers each connection by a function of the socket, in a thread."""

    def __init__(self, answer):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0
        self.answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                made, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._run, args=(made,), daemon=True).start()

    def _run(self, made):
        with made:
            try:
                self.answer(made)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def endlessly(start, again):
    def answer(made):
        made.recv(65536)
        made.sendall(start)
        while True:
            made.sendall(again)

    return answer


def never_reading(made):
    while True:
        time.sleep(60)


ENDLESS = {
    "100": endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "103": endlessly(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500),
    "headers": endlessly(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 500),
    "header": endlessly(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 50_000),
    "status": endlessly(b"HTTP/1.1 ", b"2" * 50_000),
    "trailers": endlessly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 500),
    "extension": endlessly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 50_000),
    "body": endlessly(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 50_000),
    "404": endlessly(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 50_000),
    "silence": never_reading,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_end_is_a_miss_and_the_shim_says_nothing(host, name):
    with Server(ENDLESS[name]) as server:
        host.use_remotes("hf://alice/cache|read-only")
        host.env |= {**TIMES, "HF_ENDPOINT": server.endpoint, "HF_TOKEN": SECRET}
        done = host.cc("compile", host.model(), *FLAGS)
        assert (done.stdout, done.stderr) == (b"Compiler status PASS\n", b"")
        counters = host.counters()
        assert counters.pop("miss_stored") == 1
        assert list(counters.values()) == [1]
        assert SECRET not in host.log_file.read_text()
    assert host.leftovers() == []


def reader_for(endpoint, *, environ=None, connect=1.0, first_byte=1.0, **more):
    limits = ReadLimits(connect, first_byte, 1000.0)
    return HttpReader(endpoint, SECRET, limits, agent="test", environ=environ or {}, **more)


def test_early_hints_stand_before_an_answer():
    def answer(made):
        made.recv(65536)
        made.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with Server(answer) as server:
        reader = reader_for(server.endpoint)
        assert reader.read("/x", 100) == b"{}"
        reader.close()


def test_redirects_that_each_take_their_time_have_one_time_limit(hub):
    """Six answers, each just in time, would be a wait of six times the limit."""
    made = []

    def answer(connection):
        while connection.recv(65536):
            made.append(time.monotonic())
            time.sleep(0.7)
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    with Server(answer) as server:
        reader = reader_for(server.endpoint, connect=0.4, first_byte=1.0)
        with pytest.raises(RemoteUnavailable):
            reader.read("/x", 100)
        assert len(made) < 5  # of the six that would be followed; a slow machine gets more than two in
        reader.close()


def test_a_refusal_whose_page_drips_does_not_prolong_the_wait():
    begun = []

    def answer(made):
        made.recv(65536)
        begun.append(True)
        made.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 60000\r\n\r\n")
        while True:
            made.sendall(b"x" * 100)
            time.sleep(0.05)

    with Server(answer) as server:
        reader = reader_for(server.endpoint, connect=0.2, first_byte=0.3)
        before = time.monotonic()
        assert reader.read("/x", 100) is None
        assert time.monotonic() - before < 15  # all of the page takes 30 s
        reader.close()


def test_a_slow_handshake_ends_in_time():
    with Server(lambda made: [made.sendall(b"\x16\x03\x03\x40\x00"), *(made.sendall(b"\0") or time.sleep(0.05) for _ in range(2000))]) as server:  # fmt: skip
        reader = reader_for(server.endpoint.replace("http:", "https:"), connect=0.3)
        with pytest.raises(RemoteUnavailable, match="cannot be reached"):
            reader.read("/x", 100)


def test_a_hub_that_is_down_is_waited_for_once_for_all_its_repos(host):
    with Server(never_reading) as server:
        host.use_remotes(*(f"hf://alice/cache{number}|read-only" for number in range(5)))
        host.env |= {**TIMES, "HF_ENDPOINT": server.endpoint, "HF_TOKEN": SECRET}
        compile_on(host)
        compile_on(host, data=b"\x0a\x04main other")
        assert server.connections == 1
    assert host.counters() == {"miss_stored": 2, "remote_failed": 1, "remote_skipped": 9}


def test_a_fault_of_one_repo_is_not_that_of_the_next(shared, hub):
    publish(shared.maker, "hf://alice/cache", hub)
    hub.create_repo("alice/other")
    hub.fail("resolve", Status(500), path="alice/other", times=None)
    shared.host.use_remotes("hf://alice/other|ro", "hf://alice/cache|ro", hub=hub)
    assert compile_on(shared.host, **SAME) == shared.neff
    assert shared.host.counters() == {"hit_remote": 1, "remote_failed": 1}


def test_many_remotes_in_the_setting_are_listed_at_once():
    words = [f"hf://alice/cache{number % 4000}" for number in range(20_000)]
    found, faults = list_locations(words, {"HOME": "/nowhere"})
    assert (len(found), faults) == (4000, [])


def test_a_mount_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    remote = FolderRemote(str(tmp_path), writable=False, patience=0.2)
    monkeypatch.setattr(folder, "open_regular", lambda *_: time.sleep(60))
    with pytest.raises(RemoteUnavailable, match="does not answer"):
        remote.read("neuronxcc-1/0_RESULTS/ab/x.json", 100)


def test_a_killed_rank_leaves_nobody_who_holds_its_output(tmp_path):
    """Who asks a name server in our place must not keep our stdout open, nor a lock."""
    program = (
        "import time, sys; sys.path[:0] = []\n"
        "from neuron_store.store.remotes.child import ask_in_child\n"
        "import os; os.write(1, b'x')\n"
        "ask_in_child(lambda: time.sleep(30) or b'', time.monotonic() + 30)"
    )
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    rank = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[lock]
    )
    os.close(lock)
    assert rank.stdout.read(1) == b"x"
    children = Path(f"/proc/{rank.pid}/task/{rank.pid}/children")
    while not (asker := children.read_text().split()):
        time.sleep(0.01)
    while len(os.listdir(f"/proc/{asker[0]}/fd")) != 4:  # three of /dev/null, and the answer's
        time.sleep(0.01)
    rank.kill()
    rank.wait()
    assert os.path.exists(f"/proc/{asker[0]}")
    assert rank.stdout.read() == b""
    again = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    os.kill(int(asker[0]), signal.SIGKILL)
    rank.stdout.close()
    rank.stderr.close()


def test_a_question_leaves_no_child_and_no_descriptor():
    before = sorted(os.listdir("/proc/self/fd"))
    assert ask_in_child(lambda: b"x" * 200_000, time.monotonic() + 30) == b"x" * 200_000
    assert ask_in_child(lambda: 1 // 0, time.monotonic() + 30) == b""
    with pytest.raises(TimeoutError):
        ask_in_child(lambda: time.sleep(60), time.monotonic() + 0.1)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_cannot_be_made_leaves_no_descriptor(monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(child.os, "fork", refuse)
    with pytest.raises(OSError, match="temporarily"):
        ask_in_child(lambda: b"", time.monotonic() + 1)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_name_is_resolved_by_a_process_with_many_open_files(monkeypatch):
    import resource

    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("so many files cannot be opened here")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200) if soft > 0 else soft, hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert ask_in_child(lambda: b"yes", time.monotonic() + 30) == b"yes"
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_kernel_without_ipv6_reaches_the_ipv4_address(monkeypatch):
    with Server(endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"")) as server:
        port = int(server.endpoint.rpartition(":")[2])
        both = [(socket.AF_INET6, ("::1", port)), (socket.AF_INET, ("127.0.0.1", port))]
        monkeypatch.setattr(http_connect, "_resolve", lambda *_, **__: both)
        plain = socket.socket

        def make(family=socket.AF_INET, *arguments, **named):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            return plain(family, *arguments, **named)

        monkeypatch.setattr(http_connect.socket, "socket", make)
        made = http_connect.connect("hub.example", port, time.monotonic() + 5, may_fork=False)
        made.close()


def test_an_ipv6_address_is_written_in_brackets():
    seen = []
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")

    def serve():
        made, _ = listener.accept()
        seen.append(made.recv(65536))
        made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        made.close()

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    reader = reader_for(f"http://[::1]:{port}")
    assert reader.read("/x", 100) == b"{}"
    assert f"Host: [::1]:{port}\r\n".encode() in seen[0]
    reader.close()
    listener.close()


NONSENSE = {
    "endpoint": {"HF_ENDPOINT": "nonsense"},
    "endpoint-port": {"HF_ENDPOINT": "http://127.0.0.1:99999"},
    "endpoint-bracket": {"HF_ENDPOINT": "http://[::1"},
    "endpoint-control": {"HF_ENDPOINT": "http://127.0.0.1\x0b\x1b:1/\r\nX: y"},
    "endpoint-scheme": {"HF_ENDPOINT": "gopher://127.0.0.1:1"},
    "proxy-bracket": {"http_proxy": "http://[::1"},
    "proxy-port": {"http_proxy": "http://me:pass word@127.0.0.1:port"},
    "proxy-socks": {"all_proxy": "socks5://me:hunter22@127.0.0.1:1"},
    "proxy-word": {"http_proxy": "\x1b[2J"},
    "proxy-bytes": {"http_proxy": b"http://\xff\xfe:1"},
    "authorities-pipe": {"HF_ENDPOINT": "https://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": "{pipe}"},
    "authorities-gone": {"HF_ENDPOINT": "https://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": "/nowhere"},
    "token-pipe": {"HF_TOKEN": "", "HF_TOKEN_PATH": "{pipe}"},
    "token-folder": {"HF_TOKEN": "", "HF_TOKEN_PATH": "/"},
    "token-device": {"HF_TOKEN": "", "HF_TOKEN_PATH": "/dev/zero"},
    "token-bytes": {"HF_TOKEN": b"hf_\xff\xfe"},
    "token-lines": {"HF_TOKEN": "hf_a\r\nX: y"},
    "home-file": {"HF_HOME": "/dev/null", "HF_TOKEN": ""},
    "words": {
        "NEURON_STORE_REMOTES": "hf:// file:// file:///.. hf://../.. \x1b[2J hf://a/b@../.. | hf://a/b|x file:///\ud800"
    },
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_in_the_environment_is_a_compile_as_ever(host, tmp_path, name):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Server(lambda made: made.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")) as server:
        port = server.endpoint.rpartition(":")[2]
        host.use_remotes("hf://alice/cache|read-only")
        host.env |= {**TIMES, "HF_ENDPOINT": server.endpoint, "HF_TOKEN": SECRET}
        for variable, value in NONSENSE[name].items():
            text = os.fsdecode(value).encode("utf-8", "surrogatepass" if "\ud800" in str(value) else "surrogateescape")
            host.env[variable] = os.fsdecode(text).replace("{pipe}", str(pipe)).replace("{port}", port)
        done = host.cc("compile", host.model(), *FLAGS)
    assert (done.stdout, done.stderr) == (b"Compiler status PASS\n", b"")
    counters = host.counters()
    assert counters.pop("miss_stored") == 1
    assert "remote_fault" not in counters
    written = host.log_file.read_text() if host.log_file.exists() else ""
    written += "".join(path.read_text() for path in (host.store / "remotes").glob("*"))
    for secret in ("pass word", "hunter22", SECRET):
        assert secret not in written


def test_the_next_rank_takes_over_from_one_that_was_killed_while_it_fetched(shared, hub):
    publish(shared.maker, "hf://alice/cache", hub)
    host = shared.host
    host.use_remotes("hf://alice/cache|read-only", hub=hub)
    stalled = hub.fail("cdn", Stall(60, when="body"), times=1)
    model = host.model()
    folders = [host.work / f"rank{number}" for number in range(4)]
    for each in folders:
        each.mkdir()
    more = {"NEURON_STORE_REMOTE_FIRST_BYTE_TIMEOUT": "100", **SAME}
    first = host.start("compile", model, *FLAGS, cwd=folders[0], **more)
    while not stalled.applied:
        time.sleep(0.01)
    others = [host.start("compile", model, *FLAGS, cwd=each, **more) for each in folders[1:]]
    first.kill()
    first.communicate()
    for rank in others:
        rank.communicate()
        assert rank.returncode == 0
    assert {(each / "o.neff").read_bytes() for each in folders[1:]} == {shared.neff}
    assert host.runs == []


def test_a_full_disk_while_fetching_is_a_compile_as_ever(shared, mount_namespace):
    host = shared.host
    host.store.mkdir()
    line = " ".join(["neuronx-cc", "compile", f"'{host.model()}'", *FLAGS])
    script = f"mount -t tmpfs -o size=100k none {host.store}\n{line}\nls {host.store}/tmp >&2"
    shared.add_output("wrapped_neff", os.urandom(300_000))
    done = subprocess.run(
        [*mount_namespace, "sh", "-ec", script],
        cwd=host.work,
        env=host.environ(SAME | {"PATH": host.env["PATH"] + ":/usr/sbin:/sbin"}),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Compiler status PASS\n", b"")
    assert (host.work / "o.neff").read_bytes() == shared.neff
    assert "No space left on device" in host.log_file.read_text()


def test_the_uploader_can_be_ended(shared, hub):
    """It must not inherit the signals that the shim held back while the compiler ran."""
    host = shared.host
    host.use_remotes("hf://alice/cache", hub=hub)
    host.env["NEURON_STORE_UPLOAD_QUIET"] = "1000"
    host.env["NEURON_STORE_UPLOAD_MAX_AGE"] = "1000"
    compile_on(host, data=b"\x0a\x04main new")
    found = None
    while found is None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    b"upload-queue" in (process / "cmdline").read_bytes()
                    and str(host.store).encode() in (process / "environ").read_bytes()
                ):
                    found = process
            except OSError:
                continue
        time.sleep(0.02)
    blocked = int(re.search(r"SigBlk:\s*(\w+)", (found / "status").read_text())[1], 16)
    for _ in range(500):
        if not blocked:
            break
        time.sleep(0.02)
        blocked = int(re.search(r"SigBlk:\s*(\w+)", (found / "status").read_text())[1], 16)
    os.kill(int(found.name), signal.SIGKILL)
    assert blocked == 0


# -- the back-off ------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path):
    return RemoteState(Layout(str(tmp_path / "store")), "ab" * 8, "hf://a/b")


def test_a_remote_that_was_down_for_months_is_still_left_alone(memory):
    fault = RemoteUnavailable("down")
    memory.change(lambda state: state.update(failures=5000, failed_at=time.time() - 3600, skip_until=0))
    memory.note_failure(fault)
    assert not memory.may_try(10.0)
    assert memory.read()["skip_until"] - time.time() < 2000


ODD_STATES = [
    {"failures": 10**400, "skip_until": 10**400, "failed_at": 10**400},
    {"failures": float("nan"), "skip_until": float("nan"), "failed_at": float("nan")},
    {"failures": float("inf"), "skip_until": float("inf"), "failed_at": float("inf")},
    {"failures": -1e308, "skip_until": -5, "failed_at": -1},
    {"failures": True, "skip_until": [], "failed_at": {}},
    {"failures": "3", "skip_until": "x", "failed_at": None, "failed_as": 7, "refused": [], "commits": [10**400, None]},
    {"failures": 1.5, "skip_until": 1e300, "failed_at": 1e300},
]


@pytest.mark.parametrize("odd", ODD_STATES, ids=str)
def test_a_state_of_nonsense_neither_silences_a_remote_nor_undoes_the_pause(memory, odd):
    memory.change(lambda state: state.update(odd))
    assert memory.may_try(10.0)
    memory.note_failure(RemoteUnavailable("down"))
    assert not memory.may_try(10.0)
    assert memory.commits_in_hour() == []
    assert memory.refused("x") == ""
    memory.note_success()
    assert memory.may_try(10.0)


@pytest.mark.parametrize("content", [b"", b"{", b'{"failures": 1', b"\0" * 5000, b"[" * 100_000, b"\xff"])
def test_a_torn_state_is_none(memory, content):
    memory.note_failure(RemoteUnavailable("down"))
    Path(memory.path).write_bytes(content)
    assert memory.may_try(10.0)
    memory.note_failure(RemoteUnavailable("down"))
    assert not memory.may_try(10.0)


def test_a_state_that_is_a_folder_is_none(memory):
    os.makedirs(memory.path + "/x")
    assert memory.may_try(10.0)
    memory.note_failure(RemoteUnavailable("down"))
    assert memory.may_try(10.0)
    assert os.listdir(os.path.dirname(os.path.dirname(memory.path)) + "/tmp") == []


def test_a_state_that_cannot_be_locked_lets_someone_try_when_the_pause_is_over(memory, monkeypatch):
    memory.note_failure(RemoteUnavailable("down"))
    memory.change(lambda state: state.update(skip_until=time.time() - 1))

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Layout, "make_folder", refuse)
    assert memory.may_try(10.0)


def test_a_process_that_was_stopped_with_the_lock_holds_nobody_up(memory, monkeypatch):
    from neuron_store.store.remotes import state

    monkeypatch.setattr(state, "_LOCK_PATIENCE", 0.1)
    memory.note_failure(RemoteUnavailable("down"))
    held = os.open(os.path.dirname(memory.path), os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    memory.note_success()
    assert memory.may_try(10.0)
    os.close(held)


def test_a_clock_that_was_set_back_does_not_end_every_try(memory):
    memory.change(lambda state: state.update(failures=1, failed_at=time.time() + 7200, skip_until=0))
    assert not memory.failed_since(time.time())


@pytest.mark.parametrize("kind", ["stall", "refuse", "broken"])
def test_thirty_ranks_and_a_hub_that_fails_ask_seldom(shared, hub, kind):
    host = shared.host
    publish(shared.maker, "hf://alice/cache", hub)
    host.use_remotes("hf://alice/cache|read-only", hub=hub)
    host.env |= {**TIMES, "NEURON_STORE_REMOTE_MIN_RATE": "100000"}
    if kind == "stall":
        hub.fail(None, Stall(100), times=None)
    elif kind == "broken":
        hub.fail("cdn", Truncate(0), times=None)
    else:
        hub.down()
    model = host.model()
    ranks = []
    for number in range(30):
        (host.work / f"rank{number}").mkdir()
        ranks.append(host.start("compile", model, *FLAGS, cwd=host.work / f"rank{number}", **SAME))
    assert [(rank.communicate(), rank.returncode) for rank in ranks] == [((b"Compiler status PASS\n", b""), 0)] * 30
    counters = host.counters()
    assert counters.get("remote_failed", 0) == 1
    assert len(host.runs) == 1
    if kind == "refuse":
        hub.up()


# -- what a server says, and tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1b]0;owned\x07 hf_alice\r\n\r\n",
        b"HTTP/1.1 500 \x1b[2J\r\nX-Error-Code: \x1b[2Jhf_alice\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 No\r\nX-Error-Code: Bearer hf_alice\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://x:hf_alice@h:port/\x1b[2J\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: gopher://h/p?X-Amz-Signature=hf_alice\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhf_alice\x1b[2J\r\n",
    ],
)
def test_nothing_that_a_server_says_is_repeated(answer):
    def serve(made):
        made.recv(65536)
        made.sendall(answer)

    with Server(serve) as server:
        reader = reader_for(server.endpoint.replace("//", "//me:hunter22@"))
        with pytest.raises((RemoteUnavailable, RemoteRefused)) as caught:
            reader.read("/x", 100)
        reader.close()
    assert str(caught.value).isprintable()
    for secret in (SECRET, "hunter22"):
        assert secret not in str(caught.value)


def test_only_the_endpoints_own_silence_is_that_of_the_hub():
    with Server(lambda made: made.recv(65536) and made.sendall(b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")) as server:  # fmt: skip
        reader = reader_for(server.endpoint)
        with pytest.raises(RemoteUnavailable) as caught:
            reader.read("/x", 100)
        assert not isinstance(caught.value, Unreachable)
        reader.close()
    reader = reader_for("http://127.0.0.1:1")
    with pytest.raises(Unreachable):
        reader.read("/x", 100)


def test_a_redirect_across_origins_and_back_takes_the_token_to_its_own_origin_only(hub):
    seen = []

    def serve(made):
        seen.append(made.recv(65536))
        made.sendall(
            f"HTTP/1.1 302 F\r\nLocation: {hub.endpoint}/alice/cache/resolve/main/r.json\r\nContent-Length: 0\r\n\r\n".encode()
        )

    hub.put_files("alice/cache", {"r.json": b"{}"})
    with Server(serve) as elsewhere:
        hub.fail("resolve", Redirect(elsewhere.endpoint + "/x"), times=1)
        reader = reader_for(hub.endpoint)
        assert reader.read("/alice/cache/resolve/main/r.json", 100) == b"{}"
        reader.close()
    assert SECRET.encode() not in seen[0]
    assert [request.authorized for request in hub.seen("resolve")] == [True, True]


def test_a_long_token_is_taken_whole_and_a_file_that_is_none_not_at_all(tmp_path):
    path = tmp_path / "token"
    environ = {"HF_TOKEN_PATH": str(path), "HF_HOME": str(tmp_path)}
    path.write_text("hf_jwt_" + "x" * 3000 + "\n")
    assert hub_token(environ) == "hf_jwt_" + "x" * 3000
    path.write_text("x" * 100_000)
    assert hub_token(environ) == ""
    path.write_bytes(os.urandom(200) + b"\xff")
    assert hub_token(environ) == ""


# -- privacy -----------------------------------------------------------------------------------------------------------

NAMES = PrivateNames(users=["alice"], hosts=["node7.corp.example"], folders=["/home/alice"], secrets=["opensesame"])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("@/fsx/bob/list.txt", "@<path>"),
        ('{"a": "/fsx/bob/x", "b": 1}', '{"a": "<path>", "b": 1}'),
        ("file:/fsx/bob/x", "file:<path>"),
        ("file://server/fsx/bob/x", "file:<path>"),
        ("//fsx/bob/x", "<path>"),
        ("see ///fsx/bob", "see <path>"),
        ("~bob/x ~/y", "<path> <path>"),
        ("dir=%2Ffsx%2Fbob%2fx", "dir=<path>"),
        ("https://bob:pa55word@git.corp/x.git", "https://<token>@git.corp/x.git"),
        ("https://pa55word@git.corp/x.git", "https://<token>@git.corp/x.git"),
        ("node7.prod.internal:80", "<host>:80"),
        ("NODE7 and Node7.Corp.Example.", "<host> and <host>."),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=<token>"),
        ("HF_TOKEN=abc MAX_TOKENS=128 TOKENIZERS_PARALLELISM=false", "HF_TOKEN=<token> MAX_TOKENS=128 TOKENIZERS_PARALLELISM=false"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer <token>"),
        ("glpat-abcdefghijklmnopqrst github_pat_0123456789abcdef0123", "<token> <token>"),
        ("xopensesamex", "x<token>x"),
        ("task-specific-sk-learning-of-many-things", "task-specific-sk-learning-of-many-things"),
    ],
)  # fmt: skip
def test_private_words_in_unusual_forms_are_taken_out(text, redacted):
    assert NAMES.redact(text) == redacted
    assert NAMES.redact(redacted) == redacted


@pytest.mark.parametrize("text", ["eyJ-" * 200_000, "/" * 400_000, "~" * 400_000, "A_" * 200_000, "://" * 200_000,
                                  "%2F" * 200_000, "node7." * 100_000, "-I/" * 200_000, "sk-" * 200_000])  # fmt: skip
def test_no_text_takes_the_redaction_long(text):
    assert NAMES.redact(text) is not None


@pytest.mark.parametrize(
    "user",
    ["neff", "a", ".*", "a|b", "(", "[x", "flags", "key", "sha256", "user", "token", "\\d+", "é", "neuron-store"],
)
def test_no_user_name_breaks_a_record(shared, user):
    layout = shared.maker.layout
    (key,) = all_keys(layout)
    environ = {"USER": user, "HOSTNAME": user + ".x", "HOME": "/" + user, "MY_SECRET": "format", "HF_HOME": "/nowhere"}
    upload = make_upload(layout, load_result(layout, key), PrivateNames.of_host(environ))
    record = decode_record(upload.record.data, key, upload.folder, 1 << 40)
    assert record.key == key
    assert {blob.output.role for blob in record.outputs} >= {"neff", "stdout"}


@pytest.mark.parametrize("name", [b"a\xff\xfe.pb", b"a\x1b[2J.pb", b"a\nb.pb", "ünï \u202e.pb".encode(), b"x" * 250])
def test_a_module_of_any_name_can_be_shared(shared, name):
    host = shared.maker
    shutil.rmtree(host.store)
    model = host.model(os.fsdecode(name))
    host.cc("compile", model, *FLAGS)
    (upload,) = uploads_of(host)
    record = json.loads(upload.record.data)
    assert record["input"]["name"].isprintable()
    assert decode_record(upload.record.data, record["key"], upload.folder, 1 << 40).encode() == upload.record.data


def change_result(layout, **provenance):
    (key,) = all_keys(layout)
    result = load_result(layout, key)
    result.provenance |= provenance
    return result


@pytest.mark.parametrize("version", ["", "2.1 beta", "\x1b[2J", "x" * 200, "../..", "é"])
def test_a_version_that_cannot_name_a_folder_can_be_shared(shared, version):
    result = change_result(shared.maker.layout, compiler_version=version)
    upload = make_upload(shared.maker.layout, result, NAMES)
    assert upload.folder == "neuronxcc-unversioned"
    assert decode_record(upload.record.data, result.key, upload.folder, 1 << 40).compiler_version == ""


def test_what_no_other_host_would_believe_is_not_uploaded(shared):
    result = change_result(shared.maker.layout)
    result.components = [{"name": "side_inputs", "digest": "0" * 32, "fields": ["x"] * 20_000}]
    with pytest.raises(NotUploadable, match="fields"):
        make_upload(shared.maker.layout, result, NAMES)


def test_text_that_is_no_utf_8_is_uploaded_without_private_names(shared):
    text = b"\xff\xfe /home/alice/\xff/x by alice \x80\n"
    assert NAMES.redact_bytes(text) == b"\xff\xfe <path> by <user> \x80\n"
    inline = Output("stdout", hashlib.sha256(text).hexdigest(), xxh3_hex(text), len(text), "raw", text)
    result = change_result(shared.maker.layout)
    result.outputs["stdout"] = inline
    result.interleave = ""
    upload = make_upload(shared.maker.layout, result, NAMES)
    record = json.loads(upload.record.data)
    (said,) = [base64.b64decode(output["inline"]) for output in record["outputs"] if output["role"] == "stdout"]
    assert said == NAMES.redact_bytes(text)


def test_every_error_here_is_one_of_ours():
    assert issubclass(Unreachable, NeuronStoreError)
