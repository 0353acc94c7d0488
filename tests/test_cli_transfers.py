"""`push`, `pull`, `synchronize`, `run`: results travel to remotes and back, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_remotes import FLAGS, USERS, answer, compile_modules, connect, end_uploaders, ns
from loopback_hub import Drop, FlipByte, Slow, Stall, Status, Truncate, start_hub

from neuron_store.store.queue import enqueue
from neuron_store.store.remotes.base import make_identity
from neuron_store.store.results import all_keys, load_result


@pytest.fixture
def hub():
    with start_hub(users=USERS) as hub:
        hub.create_repo("alice/cache", private=True)
        yield hub


@pytest.fixture
def online(host, hub):
    yield connect(host, hub)
    end_uploaders(host)


@pytest.fixture
def other(make_host, hub):
    """A second host on the same repo."""
    return connect(make_host("other"), hub)


@pytest.fixture
def pushed(online):
    """A host whose three results are on the Hub; their keys."""
    keys = compile_modules(online, 3, STANDIN_SIZE=50_000)
    ns(online, "push")
    return keys


def records(hub, repo="alice/cache"):
    return sorted(path[-37:-5] for path in hub.files(repo) if path.endswith(".json"))


def start(host, *arguments, **extra):
    return subprocess.Popen(
        [sys.executable, "-m", "neuron_store.cli", *map(str, arguments)],
        cwd=host.work,
        env=host.environ(extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# -- push ----------------------------------------------------------------------------------------------------------


def test_push_uploads_what_is_queued_and_says_so_in_one_line(online, hub):
    keys = compile_modules(online, 3)
    done = ns(online, "push")
    assert done.stdout.startswith("pushed 3 results (")
    assert " to hf://alice/cache in " in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert records(hub) == sorted(keys)
    assert len(hub.commits("alice/cache")) == 1
    assert online.counters()["upload_done"] == 3
    assert ns(online, "push").stdout.startswith("nothing is queued for hf://alice/cache")
    assert online.leftovers() == []


def test_push_in_json(online):
    compile_modules(online, 2)
    made = answer(online, "push")
    assert (made["uploaded"], made["present"], made["dropped"], made["left"]) == (2, 0, 0, 0)
    assert made["remotes"] == ["hf://alice/cache"]
    assert made["bytes"] > 4000
    assert answer(online, "push")["uploaded"] == 0


def test_push_says_what_was_there_already_and_what_cannot_be_shared(online, other, hub):
    compile_modules(online, 2)
    ns(online, "push")
    online.env["NEURON_STORE_RECACHE"] = "1"
    for number in range(2):
        online.cc("compile", *FLAGS, online.model(f"model{number}.pb", b"\x0a\x04main HLO %d" % number))
    enqueue(online.layout, next((online.store / "queue").iterdir()).name, "ab" * 16)
    done = ns(online, "push")
    assert "2 were there already" in done.stdout
    assert "1 cannot be shared" in done.stdout
    assert answer(online, "push")["left"] == 0


@pytest.mark.parametrize("token", ["hf_bob", "hf_reader", "hf_nobody", None])
def test_push_says_why_results_are_left(online, hub, token):
    compile_modules(online, 2)
    done = ns(online, "push", code=1, HF_TOKEN=token)
    assert done.stdout == ""
    assert "2 results are still queued: " in done.stderr
    made = answer(online, "push", code=1, HF_TOKEN=token)
    assert made["left"] == 2
    assert made["refused"]


def test_push_tries_again_what_was_refused(online, hub):
    hub.create_repo("bob/cache")
    online.env["NEURON_STORE_REMOTES"] = "hf://bob/cache"
    compile_modules(online, 1)
    ns(online, "push", code=1)
    hub.add_user("alice", "hf_alice", orgs=("bob",))
    assert ns(online, "push").stdout.startswith("pushed 1 result ")


def test_push_tries_again_after_passing_faults(online, hub):
    compile_modules(online, 2)
    hub.fail("commit", Status(500))
    hub.fail("preupload", Drop())
    assert answer(online, "push")["uploaded"] == 2
    assert len(records(hub)) == 2


def test_push_gives_up_a_hub_that_stays_down(online, hub):
    compile_modules(online, 1)
    hub.fail(None, Status(503), times=None)
    assert "1 result is still queued: hf://alice/cache: " in ns(online, "push", code=1).stderr
    hub.clear_faults()
    assert answer(online, "push")["uploaded"] == 1


def test_push_ends_in_time(online, hub):
    compile_modules(online, 1)
    hub.fail(None, Status(503), times=None)
    done = ns(online, "push", "--timeout", "0.2", code=1, NEURON_STORE_UPLOAD_RETRY="1000")
    assert "1 result is still queued" in done.stderr


def test_push_without_a_remote_says_how_to_get_one(host):
    assert "NEURON_STORE_REMOTES is none" in ns(host, "push", code=1).stderr
    said = ns(host, "push", code=1, NEURON_STORE_REMOTES=None).stderr
    assert "read-only" in said
    assert "neuron-store create" in said


def test_push_keeps_the_queue_where_the_user_wants_to_stay_offline(online, hub):
    compile_modules(online, 1)
    asked = hub.count()
    assert "HF_HUB_OFFLINE" in ns(online, "push", code=1, HF_HUB_OFFLINE="1").stderr
    assert hub.count() == asked
    assert answer(online, "push")["uploaded"] == 1


def test_push_that_is_interrupted_loses_nothing(online, hub):
    compile_modules(online, 2)
    stalled = hub.fail("commit", Stall(60), times=1)
    pushing = start(online, "push")
    wait_until(lambda: stalled.applied)
    pushing.send_signal(signal.SIGINT)
    _, said = pushing.communicate(timeout=60)
    assert pushing.returncode == 130
    assert "Traceback" not in said
    made = answer(online, "push")
    assert made["uploaded"] + made["present"] == 2
    assert len(records(hub)) == 2


def test_the_commands_are_refused_bad_words(online):
    ns(online, "push", "--timeout", "-1", code=2)
    ns(online, "push", "--timeout", "soon", code=2)
    ns(online, "pull", "--all", "-j", "0", code=2)
    ns(online, "pull", "--all", "--remote", "nonsense", code=2)
    ns(online, "pull", code=2)
    ns(online, "pull", "--all", "--compiler", "2", code=2)
    ns(online, "pull", "x", code=1)
    ns(online, "pull", "g" * 32, code=1)
    ns(online, "synchronize", "--repo-id", "non sense", code=2)
    ns(online, "synchronize", "--repo-id", "alice/cache@" + "0" * 40, code=2)


# -- pull ----------------------------------------------------------------------------------------------------------


def test_pull_brings_all_results_so_that_they_are_hits(pushed, other, hub):
    done = ns(other, "pull", "--all")
    assert done.stdout.startswith("fetched 3 results (150 kB) from hf://alice/cache in ")
    assert done.stderr == ""
    assert sorted(all_keys(other.layout)) == sorted(pushed)
    ns(other, "verify")
    asked = hub.count()
    other.cc("compile", *FLAGS, other.model("model0.pb", b"\x0a\x04main HLO 0"))
    assert other.counters() == {"hit_canonical": 1}
    assert hub.count() == asked
    assert other.leftovers() == []


def test_pull_asks_for_nothing_that_is_not_needed(pushed, other, hub):
    hub.requests.clear()
    ns(other, "pull", "--all")
    assert hub.count("resolve") == 6
    assert hub.count("resolve", method="HEAD") == 0
    hub.requests.clear()
    done = ns(other, "pull", "--all")
    assert done.stdout == "3 results of hf://alice/cache are here already\n"
    assert hub.count("resolve") == 0
    hub.requests.clear()
    ns(other, "pull", *pushed)
    assert hub.count() == 0


def test_pull_stores_nothing_where_read_only_is_set(pushed, other):
    assert "the setting read_only is true" in ns(other, "pull", "--all", code=2, NEURON_STORE_READ_ONLY="1").stderr
    assert list(all_keys(other.layout)) == []


def test_pull_by_key_and_by_its_first_digits(pushed, online, other, hub):
    assert answer(other, "pull", pushed[0])["fetched"] == 1
    assert answer(other, "pull", pushed[1][:10].upper(), pushed[0])["fetched"] == 1
    assert set(all_keys(other.layout)) == set(pushed[:2])
    missing = "0123456789abcdef" * 2
    made = answer(other, "pull", missing, pushed[2], code=1)
    assert (made["fetched"], made["missing"]) == (1, [missing])
    assert "no remote has 0123456789ab" in ns(other, "pull", missing, code=1).stderr


def test_pull_of_digits_that_fit_several_keys(online, other, hub):
    path = "neuronxcc-2.0/0_RESULTS/ab/ab%s.json"
    hub.put_files("alice/cache", {path % (f"{number:030x}"): b"{}" for number in range(2)})
    assert "2 keys start with ab" in ns(other, "pull", "ab", code=2).stderr


def test_pull_by_compiler_version(online, other):
    compile_modules(online, 1)
    online.compiler.touch()  # or its version would be remembered
    compile_modules(online, 1, first=1, STANDIN_VERSION="2.15.1.0")
    ns(online, "push")
    versions = {load_result(online.layout, key).provenance["compiler_version"] for key in all_keys(online.layout)}
    for version in versions:
        assert answer(other, "pull", "--compiler", version)["fetched"] == 1
    assert answer(other, "pull", "-c", "2")["present"] == 2
    assert "whose version starts with 9" in ns(other, "pull", "--compiler", "9", code=1).stderr


def test_pull_from_a_named_remote(pushed, other, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    other.env["NEURON_STORE_REMOTES"] = f"file://{shared}"
    assert ns(other, "pull", "--all").stdout == f"file://{shared} has no result of neuron-store's\n"
    assert answer(other, "pull", "--all", "--remote", "alice/cache")["fetched"] == 3
    assert answer(other, "pull", "--all", "--remote", "hf://alice/cache")["present"] == 3


def test_pull_brings_kept_inputs(online, other, hub):
    online.env["NEURON_STORE_UPLOAD_INPUTS"] = "true"
    (key,) = compile_modules(online, 1)
    ns(online, "push")
    ns(other, "pull", "--all")
    mine, theirs = (load_result(h.layout, key).input["files"] for h in (online, other))
    assert theirs == mine
    assert mine
    assert answer(other, "verify", "--recompile", "1")["audited"][0]["outcome"] == "audit_same"


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("resolve", Status(500)),
        ("resolve", Status(429, headers={"Retry-After": "0"})),
        ("resolve", Drop()),
        ("resolve", Truncate(10)),
        ("cdn", Status(503)),
        ("cdn", Drop(reset=True)),
        ("cdn", Truncate(1000)),
        ("cdn", FlipByte(100)),
    ],
)
def test_pull_tries_again_after_passing_faults(pushed, other, hub, kind, fault):
    applied = hub.fail(kind, fault, times=1 if isinstance(fault, FlipByte) else 2)
    assert answer(other, "pull", "--all", "-j", "2")["fetched"] == 3
    assert applied.applied
    ns(other, "verify")


def test_pull_names_what_is_corrupt_and_brings_the_rest(pushed, other, hub):
    record = f"/{pushed[0]}.json"
    hub.corrupt("alice/cache", next(p for p in hub.files("alice/cache") if p.endswith(record)), b"{}")
    document = json.loads(next(d for p, d in hub.files("alice/cache").items() if p.endswith(f"/{pushed[1]}.json")))
    blob = next(entry for entry in document["outputs"] if entry["role"] == "neff")
    path = next(p for p in hub.files("alice/cache") if blob["sha256"] in p)
    hub.corrupt("alice/cache", path, os.urandom(blob["stored_size"]))
    made = answer(other, "pull", "--all", code=1)
    assert made["fetched"] == 1
    assert set(made["corrupt"]) == set(pushed[:2])
    assert list(all_keys(other.layout)) == [pushed[2]]
    done = ns(other, "pull", "--all", code=1)
    for key in pushed[:2]:
        assert f"{key[:12]} is corrupt: " in done.stderr
    assert "2 results are corrupt in the remote" in done.stderr
    assert other.leftovers() == []


def test_what_one_remote_has_corrupt_comes_from_the_next(pushed, online, other, hub, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    ns(online, "synchronize", "--repo-id", f"file://{shared}")
    for path in list(hub.files("alice/cache")):
        if path.endswith(".json"):
            hub.corrupt("alice/cache", path, b"{}")
    other.env["NEURON_STORE_REMOTES"] = f"hf://alice/cache file://{shared}"
    assert answer(other, "pull", "--all")["fetched"] == 3


def test_pull_gives_up_a_hub_that_stays_down(pushed, other, hub):
    hub.fail("cdn", Status(503), times=None)
    made = answer(other, "pull", "--all", code=1)
    assert (made["fetched"], len(made["failed"])) == (0, 3)
    assert "3 results could not be fetched" in ns(other, "pull", "--all", code=1).stderr
    hub.fail(None, Status(503), times=None)
    made = answer(other, "pull", "--all", code=1)
    assert made["faults"]
    hub.clear_faults()
    assert answer(other, "pull", "--all")["fetched"] == 3


@pytest.mark.parametrize("token", ["hf_bob", None])
def test_pull_from_a_repo_that_is_not_for_us(pushed, other, token):
    assert "alice/cache" in ns(other, "pull", "--all", code=1, HF_TOKEN=token).stderr


def test_pull_that_is_interrupted_leaves_whole_results_only(pushed, other, hub):
    slow = hub.fail("cdn", Slow(1000), times=None, after=1)
    pulling = start(other, "pull", "--all", NEURON_STORE_REMOTE_MIN_RATE="1")
    wait_until(lambda: slow.applied >= 2 and len(list(all_keys(other.layout))) == 1)
    pulling.send_signal(signal.SIGINT)
    _, said = pulling.communicate(timeout=60)
    assert pulling.returncode == 130
    assert "stopped after 1 result" in said
    assert "Traceback" not in said
    assert other.leftovers() == []
    hub.clear_faults()
    made = answer(other, "pull", "--all")
    assert (made["fetched"], made["present"]) == (2, 1)
    ns(other, "verify")


def test_a_result_that_lost_a_blob_is_fetched_again(pushed, other):
    ns(other, "pull", "--all")
    result = load_result(other.layout, pushed[0])
    os.unlink(other.layout.blob_path(result.outputs["neff"].sha256))
    made = answer(other, "pull", pushed[0])
    assert made["fetched"] == 1
    ns(other, "verify")


def test_pull_into_a_store_that_cannot_be_written(pushed, other):
    other.store.parent.mkdir(exist_ok=True)
    other.store.write_text("a file")
    ns(other, "pull", "--all", code=1)


def test_pull_from_a_hub_of_ones_own_that_lacks_the_official_repo(pushed, other):
    other.env["NEURON_STORE_REMOTES"] = ""
    other.env["CUSTOM_CACHE_REPO"] = "alice/cache"
    done = ns(other, "pull", "--all")
    assert done.stdout.startswith("fetched 3 results")
    assert "aws-neuron/optimum-neuron-cache is not there for us" in done.stderr


def test_pull_passes_over_what_others_keep_in_a_repo(pushed, other, hub):
    version = "neuronxcc-2.14.227.0+2d4f85be"
    hub.put_files(
        "alice/cache",
        {
            f"{version}/MODULE_1+2/model.neff": b"x",
            f"{version}/0_RESULTS/notes.txt": b"x",
            f"{version}/0_RESULTS/ab/short.json": b"{}",
            "neuronxcc-../0_RESULTS/x": b"x",
            "other/0_RESULTS/ab/" + "ab" * 16 + ".json": b"{}",
        },
    )
    assert answer(other, "pull", "--all")["fetched"] == 3


# -- synchronize ---------------------------------------------------------------------------------------------------


def test_synchronize_pushes_what_was_made_before_there_was_a_remote(host, hub):
    compile_modules(host, 3)
    connect(host, hub)
    assert ns(host, "push").stdout.startswith("nothing is queued")
    assert ns(host, "synchronize").stdout.startswith("pushed 3 results (")
    assert len(records(hub)) == 3
    assert ns(host, "synchronize").stdout == "hf://alice/cache has every result that can be shared\n"
    assert len(hub.commits("alice/cache")) == 1


def test_synchronize_sends_nothing_back_that_came_from_a_remote(pushed, other, hub):
    ns(other, "pull", "--all")
    hub.create_repo("alice/empty")
    made = answer(other, "synchronize", "--repo_id", "alice/empty")
    assert made["push"]["uploaded"] == 0
    assert hub.files("alice/empty") == {}


def test_synchronize_with_a_repo_of_its_own_and_both_ways(pushed, other, hub, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    keys = compile_modules(other, 1, first=7)
    made = answer(other, "synchronize", "--pull")
    assert (made["push"]["uploaded"], made["pull"]["fetched"]) == (1, 3)
    assert records(hub) == sorted(pushed + keys)
    assert answer(other, "synchronize", "--repo-id", f"file://{shared}")["push"]["uploaded"] == 1
    assert len(list(shared.rglob("*.json"))) == 1
    done = ns(other, "synchronize", "--pull")
    assert done.stdout == (
        "hf://alice/cache has every result that can be shared\n4 results of hf://alice/cache are here already\n"
    )


def test_synchronize_with_remotes_that_fail(online, hub):
    compile_modules(online, 1)
    online.env["NEURON_STORE_REMOTES"] = "file:///absent/absent hf://alice/cache"
    done = ns(online, "synchronize", code=1)
    assert "/absent/absent is not there" in done.stderr
    assert done.stdout.startswith("pushed 1 result ")
    ns(online, "synchronize", "--repo-id", "alice/absent", code=1)
    ns(online, "synchronize", code=1, NEURON_STORE_REMOTES="none")


# -- the uploader, and run -----------------------------------------------------------------------------------------


def test_the_uploader_uploads_and_ends(online, hub):
    compile_modules(online, 2)
    ns(online, "upload-queue", NEURON_STORE_UPLOAD_QUIET="0")
    assert len(records(hub)) == 2
    assert answer(online, "push")["uploaded"] == 0


def test_the_uploader_that_a_compile_started_ends_when_it_is_told_to(online, hub):
    hub.fail(None, Status(503), times=None, path="paths-info")
    online.cc("compile", *FLAGS, online.model(), NEURON_STORE_UPLOAD="true", NEURON_STORE_UPLOAD_QUIET="0")
    wait_until(lambda: hub.count(path="paths-info"))
    assert answer(online, "remote", "status")["uploader_runs"]
    assert end_uploaders(online, signal.SIGTERM) == 1
    wait_until(lambda: not answer(online, "remote", "status")["uploader_runs"])
    hub.clear_faults()
    assert answer(online, "push")["uploaded"] == 1


def test_the_uploader_ends_where_there_is_nothing_for_it_to_do(host):
    ns(host, "upload-queue")
    ns(host, "upload-queue", NEURON_STORE_REMOTES=None)


def test_the_uploader_is_not_shown_in_the_help(host):
    assert "upload-queue" not in ns(host, "--help").stdout


COMPILE = ("neuronx-cc", "compile", *FLAGS)


def run(host, *words, code=0, **extra):
    """Run a command under the shim, with the uploader in the background; return the last line of stderr."""
    extra = {"NEURON_STORE_UPLOAD": "true", "NEURON_STORE_UPLOAD_QUIET": "0.2", **extra}
    done = ns_run(host, "run", *words, **extra)
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1]


def ns_run(host, *words, **extra):
    done = host.cli(*words, check=False, **extra)
    assert "Traceback" not in done.stderr
    return done


def test_run_waits_for_the_upload_and_says_so(online, hub):
    model = online.model()
    said = run(online, "--", *COMPILE, model)
    assert said.endswith("; pushed 1 result")
    assert len(records(hub)) == 1
    assert run(online, "--", *COMPILE, model).endswith("saved 0 ms") or "1 hit" in run(online, "--", *COMPILE, model)


def test_run_keeps_the_exit_code_of_its_command(online, hub):
    words = ("sh", "-c", f"{' '.join(COMPILE)} {online.model()}; exit 7")
    assert run(online, "--", *words, code=7).endswith("; pushed 1 result")


def test_run_says_what_is_left_where_it_is_refused(online, hub):
    said = run(online, "--", *COMPILE, online.model(), HF_TOKEN="hf_bob")
    assert "1 result is still to be pushed (" in said
    assert records(hub) == []


@pytest.mark.parametrize("words", [("--no-push",), ("--push-timeout", "0")])
def test_run_waits_no_longer_than_it_may(online, hub, words):
    hub.fail("commit", Stall(60), times=None)
    said = run(online, *words, "--", *COMPILE, online.model(), NEURON_STORE_UPLOAD_TIMEOUT="1")
    assert "pushed 1" not in said
    assert ("still to be pushed" in said) == ("--no-push" not in words)


def test_run_pushes_nothing_where_it_must_not(online, hub):
    for extra in ({"NEURON_STORE_UPLOAD": "false"}, {"HF_HUB_OFFLINE": "1"}):
        said = run(online, "--", *COMPILE, online.model(), **extra)
        assert said.rstrip().endswith("; 1 result waits to be pushed")
    assert "push" not in run(online, "--", *COMPILE, online.model(), NEURON_STORE_REMOTES="none")
    assert records(hub) == []


def test_run_does_not_wait_long_for_a_hub_that_is_down(online, hub):
    hub.down()
    begun = time.monotonic()
    said = run(online, "--push-timeout", "600", "--", *COMPILE, online.model(), NEURON_STORE_UPLOAD="true")
    assert "1 result is still to be pushed" in said
    assert "refused" in said
    assert time.monotonic() - begun < 300  # half of what it may take
    hub.up()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_with_the_commands_exit_code(online, hub, number):
    stalled = hub.fail("commit", Stall(60), times=None)
    words = ("sh", "-c", f"{' '.join(COMPILE)} {online.model()}; exit 5")
    # Nothing is uploaded until the wait has begun, which hurries the uploader.
    extra = {"NEURON_STORE_UPLOAD": "true", "NEURON_STORE_UPLOAD_QUIET": "1000", "NEURON_STORE_UPLOAD_MAX_AGE": "1000"}
    running = start(online, "run", "--", *words, **extra)
    wait_until(lambda: stalled.applied)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 5
    assert "Traceback" not in said
    assert "1 result is still to be pushed (interrupted)" in said


def test_a_remote_is_known_by_the_hub_it_is_on(online, hub):
    compile_modules(online, 1)
    (queue,) = [path.name for path in (online.store / "queue").iterdir() if path.is_dir()]
    assert queue == make_identity(f"{hub.endpoint} hf://alice/cache")
