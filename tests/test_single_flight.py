"""One compile for all who ask at once, and no harm from those who die, fail or hang on the way."""

import hashlib
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from conftest import other_users_can_run

from neuron_store.store.in_flight import WAITING, read_flights

COMPILE = ("compile", "--framework=XLA", "--target=trn1")


def ask_together(host, count, model, **extra):
    processes = [
        host.start(*COMPILE, model, f"--output=rank{rank}.neff", stderr=subprocess.DEVNULL, **extra)
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_sixty_four_ranks_asking_at_once_compile_once(host):
    codes, outputs = ask_together(host, 64, host.model(), STANDIN_SLEEP=1, STANDIN_SIZE=300_000)
    assert codes == [0] * 64
    assert set(outputs) == {b"Compiler status PASS\n"}
    digests = {hashlib.sha256((host.work / f"rank{rank}.neff").read_bytes()).hexdigest() for rank in range(64)}
    assert len(digests) == 1
    assert len(host.runs) == 1
    counters = host.counters()
    assert counters.pop("miss_stored") == 1
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) == 63
    assert counters.pop("waited") <= 63
    assert counters == {}
    assert host.leftovers() == []


def test_different_keys_do_not_wait_for_each_other(host):
    go, started = host.base / "go", host.base / "started"
    slow = host.start(
        *COMPILE, host.model("a.pb", b"a"), "--output=a.neff", STANDIN_WAIT_FOR=go, STANDIN_STARTED=started
    )
    while not started.exists():
        time.sleep(0.005)
    host.cc(*COMPILE, host.model("b.pb", b"b"), "--output=b.neff")
    assert slow.poll() is None
    go.touch()
    slow.communicate(timeout=30)
    assert host.counters() == {"miss_stored": 2}


def test_a_passing_failure_is_tried_once_more_and_then_serves_all(host):
    codes, _ = ask_together(host, 6, host.model(), STANDIN_FAIL_ONCE=host.base / "failed", STANDIN_SLEEP=1, check=False)
    assert sorted(codes) == [0] * 5 + [70]
    assert len(host.runs) == 2
    counters = host.counters()
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) == 4
    assert counters.pop("waited") == 5
    assert counters == {"miss_stored": 1, "miss_failed": 1}


def test_after_two_failures_the_rest_compile_side_by_side(host):
    codes, _ = ask_together(host, 6, host.model(), STANDIN_EXIT=70, STANDIN_SLEEP=1)
    assert codes == [70] * 6
    assert len(host.runs) == 6
    counters = host.counters()
    assert counters == {"miss_failed": 6, "waited": 5, "peers_failed": 4}


def test_a_waiter_stops_waiting_at_its_limit_and_compiles(host):
    go, started = host.base / "go", host.base / "started"
    model = host.model()
    slow = host.start(*COMPILE, model, "--output=a.neff", STANDIN_WAIT_FOR=go, STANDIN_STARTED=started)
    while not started.exists():
        time.sleep(0.005)
    host.cc(*COMPILE, model, "--output=b.neff", NEURON_STORE_LOCK_TIMEOUT="0.3")
    assert slow.poll() is None
    go.touch()
    slow.communicate(timeout=30)
    assert (host.work / "a.neff").read_bytes() == (host.work / "b.neff").read_bytes()
    assert host.counters() == {"miss_stored": 2, "waited": 1, "lock_timeout": 1}


def test_a_waiter_takes_over_when_the_one_who_compiles_is_killed(host):
    started = host.base / "started"
    model = host.model()
    first = host.start(*COMPILE, model, "--output=a.neff", STANDIN_SLEEP=300, STANDIN_STARTED=started)
    while not started.exists():
        time.sleep(0.005)
    second = host.start(*COMPILE, model, "--output=b.neff")
    while not any(flight.state == WAITING for flight in read_flights(host.layout)):
        time.sleep(0.005)
    assert second.poll() is None
    first.kill()
    second.communicate(timeout=60)
    assert second.returncode == 0
    first.communicate()
    assert host.counters() == {"miss_stored": 1, "waited": 1}


def moments():
    """Moments of death, in seconds after the start, spread over all phases of a miss."""
    dice = random.Random(7)
    return sorted(dice.uniform(0.0, 0.45) for _ in range(60))


def test_a_shim_killed_at_any_moment_leaves_a_store_that_serves_only_whole_results(host):
    """Kills at 60 moments: start-up, hashing, locking, compiling, writing the output, storing."""
    sound = {}
    died = 0
    for number, moment in enumerate(moments()):
        model = host.model(f"m{number}.pb", b"module %d" % number)
        extra = {"STANDIN_SIZE": 3_000_000, "STANDIN_SLEEP_WRITING": 0.02}
        victim = host.start(*COMPILE, model, f"--output=v{number}.neff", **extra)
        timer = threading.Timer(moment, victim.send_signal, [signal.SIGKILL])
        timer.start()
        victim.communicate(timeout=60)
        timer.cancel()
        died += victim.returncode == -signal.SIGKILL
        host.cc(*COMPILE, model, f"--output=a{number}.neff", **extra, NEURON_STORE_LOCK_TIMEOUT=20)
        host.cc(*COMPILE, model, f"--output=b{number}.neff", **extra)
        sound[number] = (host.work / f"a{number}.neff").read_bytes()
        assert (host.work / f"b{number}.neff").read_bytes() == sound[number]
        assert len(sound[number]) == 3_000_000
        for name in "vab":
            (host.work / f"{name}{number}.neff").unlink(missing_ok=True)
    assert len(set(sound.values())) == len(sound)  # nobody was served another module's output
    assert died > 10
    counters = host.counters()
    assert set(counters) <= {"miss_stored", "hit_direct", "hit_canonical"}
    locks = list((host.store / "locks").iterdir())
    assert len(locks) <= died * 2  # a file that a dead process left locks nobody


def test_what_a_killed_writer_left_is_swept_by_a_later_store(host):
    stale, fresh = host.store / "tmp/1-dead", host.store / "tmp/2-young"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"torn")
    fresh.write_bytes(b"torn")
    os.utime(stale, (1, 1))
    host.cc(*COMPILE, host.model(), "--output=o.neff")
    assert not stale.exists()
    assert fresh.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as several users of one group")
def test_users_of_a_group_share_a_store(open_host):
    host = open_host
    if not other_users_can_run(host.launcher):
        pytest.skip("the interpreter of these tests is closed to other users")
    host.store.mkdir()
    os.chown(host.store, 1001, 2000)
    host.store.chmod(0o2770)
    host.runs_file.touch()
    for path in (host.home, host.work, host.runs_file):
        path.chmod(0o777)
    model = host.model()
    model.chmod(0o644)
    for user, output in ((1001, "a.neff"), (1002, "b.neff"), (1003, "c.neff")):
        done = subprocess.run(
            ["neuronx-cc", *COMPILE, model, f"--output={output}"],
            executable=host.launcher,
            cwd=host.work,
            env=host.env,
            user=user,
            group=2000,
            extra_groups=[],
            umask=0o077,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
    assert host.counters() == {"miss_stored": 1, "hit_direct": 2}
    for path in host.store.rglob("*"):
        mode = path.stat().st_mode
        assert mode & 0o040, f"{path} cannot be read by the group"
        assert mode & 0o020 or path.parts[-3] == "blobs" or path.name == "CACHEDIR.TAG", f"{path} {mode:o}"
