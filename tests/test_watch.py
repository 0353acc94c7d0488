"""`neuron-store watch`: what a running job is at, as a terminal, a pipe and a program see it."""

import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_store.store.events import Event, append_event
from neuron_store.store.in_flight import STATES, InFlight, decode_flight, read_flights
from neuron_store.store.layout import Layout

COMPILE = ("compile", "--framework=XLA", "--target=trn1")
MODULE = "MODULE_1234567890123456789+abcdef01"
COMMAND = [sys.executable, "-m", "neuron_store.cli", "watch"]
PATIENCE = 60.0


def wait_for(condition, timeout=PATIENCE):
    until = time.monotonic() + timeout
    while not (made := condition()):
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)
    return made


def flights(host):
    return read_flights(host.layout)


def states(host):
    return sorted(flight.state for flight in flights(host))


class Slow:
    """Compiles that end when they are told to."""

    def __init__(self, host):
        self.host, self.go, self.processes = host, host.base / "go", []

    def start(self, name="m.pb", data=b"slow", count=1, **extra):
        model = self.host.model(name, data)
        for number in range(count):
            output = f"--output={name}{len(self.processes)}-{number}.neff"
            extra = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **extra}
            self.processes.append(self.host.start(*COMPILE, model, output, STANDIN_WAIT_FOR=self.go, **extra))
        return self.processes[-1]

    def end(self):
        self.go.touch()
        for process in self.processes:
            process.wait(timeout=PATIENCE)


@pytest.fixture
def slow(host):
    made = Slow(host)
    yield made
    made.end()


class Json:
    """A running `watch --json`."""

    def __init__(self, host, *options):
        self.process = subprocess.Popen(
            [*COMMAND, "--json", "--interval", "0.1", *options],
            env=host.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.seen, self.unread = [], b""
        assert self.next()["what"] == "watching"

    def next(self):
        while b"\n" not in self.unread:
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], self.seen
            self.unread += os.read(self.process.stdout.fileno(), 65536)
        line, _, self.unread = self.unread.partition(b"\n")
        self.seen.append(json.loads(line))
        return self.seen[-1]

    def until(self, **wanted):
        while True:
            change = self.next()
            if all(change.get(name) == value for name, value in wanted.items()):
                return change

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.seen += map(json.loads, (self.unread + rest).splitlines())
        assert self.process.returncode == 0
        return self.seen[-1]


@pytest.fixture
def watch_json(host):
    started = []

    def start(*options):
        started.append(Json(host, *options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def snapshot(host, *options, **extra):
    return json.loads(host.cli("watch", "--once", "--json", *options, **extra).stdout)


# -- what the shim leaves --------------------------------------------------------------------------------------------


def test_a_compile_and_those_who_wait_for_it_are_in_flight_until_they_are_served(host, slow):
    slow.start(count=3, NEURON_STORE_MODEL="org/name")
    wait_for(lambda: states(host) == ["compiling", "waiting", "waiting"])
    (compiling,) = (flight for flight in flights(host) if flight.state == "compiling")
    assert (compiling.module, compiling.model, compiling.life) == ("m.pb", "org/name", "alive")
    assert compiling.host == os.uname().nodename
    assert compiling.pid in {process.pid for process in slow.processes}
    slow.end()
    assert flights(host) == []
    counters = host.counters()
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) == 2
    assert counters == {"miss_stored": 1, "waited": 2}
    assert host.leftovers() == []


def test_a_hit_leaves_nothing_in_flight_and_never_makes_the_folder(host):
    host.cc(*COMPILE, host.model(), "--output=a.neff")
    folder = host.store / "in-flight"
    assert list(folder.iterdir()) == []
    folder.rmdir()
    host.cc(*COMPILE, host.model(), "--output=b.neff")
    assert not folder.exists()
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


@pytest.mark.parametrize("ending", [{"STANDIN_EXIT": 70}, {"STANDIN_SIGNAL": "SIGTERM"}, {"STANDIN_NO_OUTPUT": 1}])
def test_a_compile_that_fails_is_in_flight_no_longer(host, ending):
    host.cc(*COMPILE, host.model(), check=False, **ending)
    assert list((host.store / "in-flight").iterdir()) == []
    (counter,) = host.counters()
    assert counter.startswith("miss_")


def test_a_killed_shim_is_seen_as_dead_and_gc_takes_its_file_away(host, slow, watch_json):
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    watched = watch_json()
    watched.until(what="begun", state="compiling")
    slow.processes[0].kill()
    died = watched.until(what="died")
    assert (died["module"], died["pid"]) == ("m.pb", slow.processes[0].pid)
    assert [flight.life for flight in flights(host)] == ["dead"]
    assert snapshot(host)["in_flight"] == []
    host.cli("gc")
    assert list((host.store / "in-flight").iterdir()) == []
    assert host.counters() == {}


def test_gc_leaves_what_is_in_flight(host, slow):
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    host.cli("gc")
    assert states(host) == ["compiling"]


@pytest.mark.parametrize("obstacle", ["file", "closed", "missing tmp"])
def test_a_compile_that_cannot_tell_compiles_all_the_same(host, obstacle):
    host.store.mkdir()
    if obstacle == "file":
        (host.store / "in-flight").write_text("in the way")
    elif obstacle == "closed":
        (host.store / "in-flight").symlink_to("/proc/self/no/such/folder")
    else:
        (host.store / "in-flight").symlink_to(host.store / "in-flight")
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.counters() == {"miss_stored": 1}
    assert host.leftovers() == []
    assert "cannot see" in host.log_file.read_text()
    assert snapshot(host)["totals"]["misses"] == 1


def test_torn_and_foreign_files_in_flight_are_left_out(host, slow):
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    (own,) = (host.store / "in-flight").iterdir()
    whole = own.read_bytes()
    for length in range(len(whole)):
        (own.parent / f"torn{length}").write_bytes(whole[:length])
    (own.parent / "empty").touch()
    (own.parent / "noise").write_bytes(os.urandom(5000))
    (own.parent / "folder").mkdir()
    os.mkfifo(own.parent / "pipe")
    (own.parent / "link").symlink_to(own)
    (own.parent / "newer").write_bytes(whole.replace(b"in-flight 1", b"in-flight 2"))
    (own.parent / "pid").write_bytes(whole.replace(b"pid=", b"pid=\xc2\xb2"))
    (shown,) = snapshot(host)["in_flight"]
    assert (shown["module"], shown["processes"]) == ("m.pb", 1)
    slow.end()
    host.cli("gc")


def test_a_file_of_another_host_is_believed_for_a_day(host, monkeypatch):
    other = list(os.uname())
    other[1] = "other-host"
    flight = InFlight(host.layout)
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: os.uname_result(other))
        flight.begin({"key": "ab" * 16, "module": "m.pb"})
    os.close(flight._descriptor)  # as if its lock were not seen from here
    (path,) = (host.store / "in-flight").iterdir()
    assert [each.life for each in flights(host)] == ["believed"]
    assert snapshot(host)["in_flight"][0]["host"] == "other-host"
    os.utime(path, (time.time() - 90000,) * 2)
    assert [each.life for each in flights(host)] == ["dead"]
    host.cli("gc")
    assert flights(host) == []


@pytest.fixture
def as_another_host():
    """Return the beginning of a command that runs as on a host of another name."""
    prefix = ["unshare", "--user", "--map-root-user", "--uts"]
    if subprocess.run([*prefix, "hostname", "probe"], capture_output=True).returncode:
        pytest.skip("this kernel does not let us have another host's name")
    return lambda name: [*prefix, "/bin/sh", "-c", f'hostname {name} && exec "$@"', "sh"]


def test_two_hosts_that_share_a_store_see_each_other(host, slow, as_another_host, watch_json):
    watched = watch_json()
    slow.start("mine.pb", b"mine")
    model = host.model("theirs.pb", b"theirs")
    theirs = [
        subprocess.Popen(
            [*as_another_host("other-host"), host.launcher, *COMPILE, model, f"--output=theirs{number}.neff"],
            cwd=host.work,
            env=host.environ({"STANDIN_WAIT_FOR": slow.go, "NEURON_STORE_RECACHE": 1}),
            stdout=subprocess.DEVNULL,
        )
        for number in range(2)
    ]
    slow.processes += theirs
    wait_for(lambda: states(host) == ["compiling"] * 3)
    assert {(flight.module, flight.host, flight.life) for flight in flights(host)} == {
        ("mine.pb", os.uname().nodename, "alive"),
        ("theirs.pb", "other-host", "alive"),
    }
    seen_there = subprocess.run(
        [*as_another_host("other-host"), *COMMAND, "--once", "--json"], env=host.env, capture_output=True, check=True
    )
    shown = {each["module"]: each["processes"] for each in json.loads(seen_there.stdout)["in_flight"]}
    assert shown == {"mine.pb": 1, "theirs.pb": 2}
    theirs[0].kill()
    assert watched.until(what="died")["host"] == "other-host"
    slow.end()
    ends = [watched.until(what="event") for _ in range(2)]
    assert {(end["module"], end["host"], end["outcome"]) for end in ends} == {
        ("mine.pb", os.uname().nodename, "miss_stored"),
        ("theirs.pb", "other-host", "miss_stored"),
    }


def test_without_locks_the_process_itself_is_looked_for(host, monkeypatch):
    flight = InFlight(host.layout)
    flight.begin({"key": "ab" * 16, "module": "m.pb"})

    def no_locks(descriptor, operation):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert [each.life for each in flights(host)] == ["alive"]
    (path,) = (host.store / "in-flight").iterdir()
    path.write_bytes(re.sub(rb"ticks=\d+", b"ticks=1", path.read_bytes()))
    assert [each.life for each in flights(host)] == ["dead"]
    path.write_bytes(re.sub(rb"pid=\d+", b"pid=999999999", path.read_bytes()))
    assert [each.life for each in flights(host)] == ["dead"]
    flight.end()


@given(st.binary())
def test_no_bytes_make_reading_fail(data):
    for content in (data, b"neuron-store in-flight 1\0" + data, b"neuron-store in-flight 1\0key=" + data):
        flight = decode_flight("name", content)
        assert flight is None or len(flight.key) == 32


@given(
    st.fixed_dictionaries({}, optional={name: st.text() for name in ("module", "model", "run")}),
    st.lists(st.sampled_from(STATES), max_size=6),
)
def test_what_is_told_is_read(tmp_path_factory, said, states):
    layout = Layout(str(tmp_path_factory.mktemp("store")))
    told = {name: value.encode("utf-8", "replace").decode() for name, value in said.items()}
    flight = InFlight(layout)
    flight.begin({"key": "0f" * 16, **told})
    for state in states:
        flight.note(state)
    (read,) = read_flights(layout)
    assert (read.key, read.pid, read.host, read.life) == ("0f" * 16, os.getpid(), os.uname().nodename, "alive")
    assert {name: getattr(read, name) for name in told} == {name: told[name].replace("\0", "") for name in told}
    assert read.state == (["asking", *states])[-1]
    assert read.begun <= read.since <= time.time() + 0.001
    assert (read.compiling is not None) == ("compiling" in states)
    flight.end()
    assert read_flights(layout) == []


# -- what is expected ------------------------------------------------------------------------------------------------


def log(host, outcome, **fields):
    append_event(host.layout, Event(time.time(), outcome, {name: str(value) for name, value in fields.items()}))


def test_a_compile_is_expected_to_take_as_long_as_before(host, slow):
    host.cc(*COMPILE, host.model("a.pb", b"a"), "--output=a.neff")
    key = next(path.name for path in (host.store / "results").rglob("*") if path.is_file())
    slow.start("a.pb", b"a", NEURON_STORE_RECACHE=1)
    wait_for(lambda: states(host) == ["compiling"])
    (shown,) = snapshot(host)["in_flight"]
    assert (shown["key"], shown["expected_by"]) == (key, "key")
    assert shown["expected_seconds"] == pytest.approx(
        json.loads(host.cli("show", key, "--json").stdout)["seconds"], abs=1e-3
    )


def test_a_compile_without_a_record_is_expected_to_take_what_its_namesakes_took(host, slow):
    for seconds in (10, 20, 90):
        log(host, "miss_stored", key=f"{seconds:032x}", module="m.pb", seconds=seconds)
    log(host, "miss_failed", key="1" * 32, module="m.pb", seconds=1)
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    (shown,) = snapshot(host)["in_flight"]
    assert (shown["expected_seconds"], shown["expected_by"]) == (20, "module")


def test_nothing_is_expected_of_what_is_new(host, slow):
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    (shown,) = snapshot(host)["in_flight"]
    assert shown["expected_seconds"] is None


# -- as JSON ---------------------------------------------------------------------------------------------------------


def test_changes_come_as_they_happen_and_add_up(host, slow, watch_json):
    host.cc(*COMPILE, host.model("before.pb", b"before"), "--output=before.neff")
    watched = watch_json()
    slow.start()
    watched.until(state="compiling")
    slow.end()
    watched.until(what="event", outcome="miss_stored", module="m.pb")
    host.cc(*COMPILE, host.model("before.pb", b"before"), "--output=again.neff")
    hit = watched.until(what="event", outcome="hit_direct", module="before.pb")
    assert hit["group"] == "hit"
    host.cc("--version")
    watched.until(what="event", outcome="pass_version")
    summary = watched.interrupt()
    assert summary["what"] == "summary"
    assert (summary["hits"], summary["misses"], summary["passed_through"], summary["errors"]) == (1, 1, 1, 0)
    assert summary["seconds_saved"] == pytest.approx(hit["seconds"])
    assert sum(change["what"] == "ended" for change in watched.seen) == 1


def test_events_of_several_hosts_come_across_a_change_of_day(host, watch_json):
    events = host.store / "events"
    events.mkdir(parents=True)
    tomorrow, today = (time.strftime("%Y-%m-%d", time.gmtime(time.time() + ahead)) for ahead in (86400, 0))
    log(host, "hit_direct", module="m.pb", seconds=1)
    line = next(events.iterdir()).read_bytes()
    watched = watch_json()
    for day, name in ((today, "one"), (tomorrow, "one"), (tomorrow, "two-three")):
        with open(events / f"{day}-1000-{name}", "ab") as file:
            file.write(line[:20])
            file.flush()
            time.sleep(0.3)
            file.write(line[20:])
    assert [watched.until(what="event")["host"] for _ in range(3)] == ["one", "one", "two-three"]
    assert watched.interrupt()["hits"] == 3


def test_a_log_that_is_summed_up_is_not_counted_again_and_one_that_begins_again_is(host, watch_json):
    log(host, "hit_direct", module="m.pb", seconds=1)
    (path,) = (host.store / "events").iterdir()
    line = path.read_bytes()
    watched = watch_json()
    (path.parent / ".new").write_bytes(b"# summed up\n" + line)
    (path.parent / ".new").rename(path)
    time.sleep(0.5)  # only days long past are summed up: nothing comes in the same moment
    log(host, "hit_canonical", module="m.pb")
    assert watched.until(what="event")["outcome"] == "hit_canonical"
    (path.parent / ".new").write_bytes(line)
    (path.parent / ".new").rename(path)
    assert watched.until(what="event")["outcome"] == "hit_direct"
    assert watched.interrupt()["hits"] == 2


def test_events_that_the_store_could_not_take_come_too(host, watch_json):
    watched = watch_json()
    (host.store).mkdir()
    (host.store / "events").write_text("in the way")
    host.cc("--version")
    assert watched.until(what="event")["outcome"] == "pass_version"


def test_once_counts_from_when_it_is_told(host):
    append_event(host.layout, Event(time.time() - 7200, "hit_direct", {"module": "old.pb", "seconds": "3"}))
    log(host, "hit_direct", module="m.pb", seconds=1)
    assert snapshot(host)["totals"]["hits"] == 1
    told = snapshot(host, "--since", "3h")
    assert told["totals"] == {
        "hits": 2, "misses": 0, "passed_through": 0, "errors": 0,
        "seconds_saved": 4.0, "seconds_compiled": 0.0, "hits_of_unknown_seconds": 0,
    }  # fmt: skip
    assert [event["module"] for event in told["recent"]] == ["old.pb", "m.pb"]


def test_the_queue_is_told_until_it_is_uploaded(host, hub, watch_json):
    host.use_remotes("hf://alice/cache", hub=hub)
    host.env["NEURON_STORE_UPLOAD"] = "0"
    watched = watch_json()
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    queue = watched.until(what="queue", queued=1)
    assert queue | {"at": 0} == {
        "what": "queue", "at": 0, "url": "hf://alice/cache", "queued": 1, "uploading": False, "refused": "",
        "last_error": "", "last_error_at": None,
    }  # fmt: skip
    host.cli("push")
    watched.until(what="event", outcome="upload_done")
    watched.until(what="queue", queued=0)


def test_the_last_error_of_an_upload_is_told(host, hub):
    host.use_remotes("hf://alice/cache", hub=hub)
    host.env |= {"NEURON_STORE_UPLOAD": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert host.cli("push", "--timeout", "1", check=False).returncode == 1
    (queue,) = snapshot(host)["queues"]
    assert queue["queued"] == 1
    assert time.time() - 60 < queue["last_error_at"] <= time.time()
    line = host.cli("watch", "--once", COLUMNS=300).stdout.splitlines()[-1]
    assert line.startswith("1 queued for hf://alice/cache; last error ")
    assert queue["last_error"][:40] in line


def test_it_ends_by_itself_when_nothing_happens(host, slow, watch_json):
    slow.start()
    wait_for(lambda: states(host) == ["compiling"])
    watched = watch_json("--until-idle", "0.5")
    watched.until(what="begun")
    time.sleep(1.5)
    assert watched.process.poll() is None
    slow.end()
    assert watched.until(what="summary")["misses"] == 1
    assert watched.process.wait(PATIENCE) == 0


# -- as text ---------------------------------------------------------------------------------------------------------


def test_without_a_terminal_lines_come_as_things_happen(host, slow):
    log(host, "miss_stored", key="1" * 32, module="m.pb", seconds=200)
    out = host.base / "out"
    with open(out, "wb") as file:
        process = subprocess.Popen([*COMMAND, "--interval", "0.1"], env=host.env, stdin=subprocess.DEVNULL, stdout=file)
    wait_for(lambda: "watching" in out.read_text())
    slow.start(count=2)
    wait_for(lambda: "compiling" in out.read_text())
    wait_for(lambda: states(host) == ["compiling", "waiting"])
    slow.end()
    wait_for(lambda: "miss_stored" in out.read_text() and "hit_" in out.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM
    lines = [line[len("2026-01-31 00:00:00  ") :].split() for line in out.read_text().splitlines()]
    assert [words[0] for words in lines][:2] == ["watching", "compiling"]
    assert "\x1b" not in out.read_text()
    assert " ".join(lines[1][1:7]) == "m.pb expected about 3 min 20"
    assert {words[0].partition("_")[0] for words in lines} == {"watching", "compiling", "miss", "hit", "summary"}
    assert "1 hit (saved" in out.read_text().splitlines()[-1]


def test_what_stands_in_names_cannot_move_the_cursor(host):
    log(host, "hit_direct", module="\x1b[2Jevil\x07.pb", seconds=1)
    text = host.cli("watch", "--once").stdout
    assert "evil" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_frame_is_no_wider_than_it_may_be(host, slow, width):
    slow.start(f"model.{MODULE}.hlo_module.pb", count=2, NEURON_STORE_MODEL="organization/" + "name" * 20)
    wait_for(lambda: states(host) == ["compiling", "waiting"])
    log(host, "hit_direct", module="m" * 300, seconds=7, incidents="waited,store_fault", detail="d" * 200)
    lines = host.cli("watch", "--once", COLUMNS=width).stdout.splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.startswith("MODULE"))
    assert " compiling" in row
    assert ("organization/name" in row) == (width == 120)


# -- on a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with `watch` on it."""

    def __init__(self, host, width=80, height=24, *options, term="xterm-256color"):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(COMMAND[0], [*COMMAND, "--interval", "0.2", *options], host.environ({"TERM": term}))
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(width, height)

    def resize(self, width, height):
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)
        self.screen.reset()

    def read(self):
        while select.select([self.descriptor], [], [], 0.05)[0]:
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:
                return
            if not data:
                return
            self.raw += data
            self.stream.feed(data)

    def shows(self, *texts):
        def look():
            self.read()
            shown = "\n".join(self.screen.display)
            return all(text in shown for text in texts)

        wait_for(look)
        return [line.rstrip() for line in self.screen.display]

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.descriptor)

    def wait(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.read()
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it does not end")


@pytest.fixture
def terminal(host):
    opened = []

    def open_one(*arguments, **options):
        opened.append(Terminal(host, *arguments, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_a_terminal_shows_what_is_in_flight_and_what_came_until_ctrl_c(host, slow, terminal):
    shown = terminal()
    shown.shows("in flight   nothing")
    slow.start(f"model.{MODULE}.hlo_module.pb", count=3)
    lines = shown.shows("1 compiling, 2 waiting", "compiling  ")
    (row,) = (line for line in lines if line.startswith("MODULE_12"))
    assert "unknown" in row
    slow.end()
    shown.shows("in flight   nothing", "miss_stored", "2 hits (saved", "1 miss (compiled")
    os.write(shown.descriptor, b"\x03")
    assert shown.wait() == 0
    assert shown.raw.count(b"\x1b[?1049h") == shown.raw.count(b"\x1b[?1049l") == 1
    assert shown.raw.count(b"\x1b[?25l") == shown.raw.count(b"\x1b[?25h") == 1
    after = shown.raw.rpartition(b"\x1b[?1049l")[2].decode()
    assert f"watched {host.store} for" in after
    assert "2 hits (saved" in after


def test_a_terminal_that_changes_its_size_is_filled_anew(host, slow, terminal):
    for number in range(12):
        log(host, "hit_direct", module=f"m{number}.pb", seconds=1)
    slow.start(f"model.{MODULE}.hlo_module.pb")
    shown = terminal(80, 24, "--since", "1h")
    lines = shown.shows("compiling  ", "m0.pb", "m11.pb", "12 hits")
    assert max(map(len, lines)) <= 80
    shown.resize(50, 10)
    shown.raw = b""
    lines = shown.shows("compiling  ", "m11.pb", "12 hits")
    assert "m0.pb" not in "\n".join(lines)
    assert lines[0].startswith("neuron-store watch")
    shown.resize(140, 40)
    lines = shown.shows("m0.pb", "m11.pb", "12 hits", MODULE)
    shown.resize(20, 4)
    shown.shows("in ")
    os.write(shown.descriptor, b"\x03")
    assert shown.wait() == 0


def test_more_than_fits_is_counted(host, terminal):
    held = []
    for number in range(40):
        flight = InFlight(host.layout)
        flight.begin({"key": f"{number:032x}", "module": f"m{number}.pb"})
        flight.note("compiling")
        held.append(flight)
    shown = terminal()
    lines = shown.shows("in flight   40 compiling", "… and ", "0 hits")
    rows = [line for line in lines if line.startswith("m") and ".pb" in line]
    (more,) = (line for line in lines if line.endswith(" more"))
    assert more == f"… and {40 - len(rows)} more"
    assert len(rows) > 8
    for flight in held:
        flight.end()
    shown.shows("in flight   nothing")


def test_a_signal_leaves_the_terminal_as_it_was(host, terminal):
    shown = terminal()
    shown.shows("in flight   nothing")
    os.kill(shown.pid, signal.SIGTERM)
    assert shown.wait() == -signal.SIGTERM
    assert shown.raw.count(b"\x1b[?1049h") == shown.raw.count(b"\x1b[?1049l") == 1
    assert b"watched" in shown.raw.rpartition(b"\x1b[?1049l")[2]


def test_a_dumb_terminal_gets_lines(host, terminal):
    shown = terminal(80, 24, term="dumb")
    shown.shows(f"watching     {host.store}"[:50])
    host.cc("--version")
    shown.shows("pass_version")
    os.write(shown.descriptor, b"\x03")
    assert shown.wait() == 0
    assert b"\x1b" not in shown.raw


def test_a_reader_that_has_what_it_wants_may_leave(host):
    for number in range(3):
        log(host, "hit_direct", module=f"m{number}.pb", seconds=1)
    command = " ".join(["set -o pipefail;", *COMMAND, "--since", "1h", "--interval", "0.1", "|", "head", "-n", "2"])
    process = subprocess.Popen(
        ["bash", "-c", command], env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for _ in range(300):
        if process.poll() is not None:
            break
        log(host, "hit_direct", module="more.pb", seconds=1)
        time.sleep(0.1)
    out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    assert [line.split()[2] for line in out.splitlines()] == [b"watching", b"hit_direct"]


def test_a_store_that_cannot_be_read_is_said(host):
    host.store.write_text("no folder")
    done = host.cli("watch", "--once", check=False)
    assert done.returncode == 1
    assert "is not a folder" in done.stderr
    assert done.stdout == ""


def test_a_store_that_is_not_there_is_watched_and_not_made(host, watch_json):
    watched = watch_json()
    assert not host.store.exists()
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    watched.until(what="event", outcome="miss_stored")


def test_a_narrow_frame_tells_hits_from_misses_before_it_tells_hosts(host):
    model = host.model("MODULE_24474869137607+d41d8cd9.hlo_module.pb")
    for number in range(2):
        host.cc(*COMPILE, model, f"--output={number}.neff")
    append_event(host.layout, Event(time.time(), "pass_unusual_option", {"module": "MODULE_24474869137607+d41d8cd9"}))
    lines = host.cli("watch", "--once", COLUMNS=40).stdout.splitlines()
    shown = [line.split() for line in lines[lines.index("last") + 1 :][:3]]
    assert [words[1] for words in shown] == ["miss_stored", "hit_direct", "pass_unusua…"]
    assert all(len(words) == 3 and len(" ".join(words)) <= 40 for words in shown)


def test_no_idle_time_at_all_ends_a_watch_when_nothing_is_in_flight_and_not_before(slow, host, watch_json):
    slow.start()
    end = time.monotonic() + PATIENCE
    while not list(read_flights(host.layout)):
        assert time.monotonic() < end
        time.sleep(0.05)
    watched = watch_json("--until-idle", "0")
    assert watched.next()["what"] == "begun"
    slow.end()
    assert b'"ended"' in watched.unread + watched.process.stdout.read()
    assert watched.process.wait() == 0
