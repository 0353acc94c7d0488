"""Two hosts and one remote: what the first compiles, the second is served, without a word of configuration more."""

import hashlib
import time
from pathlib import Path

import pytest
from remote_setup import SAME, compile_on, publish

import neuron_store.benchmarks
from neuron_store.store.results import all_keys
from neuron_store.store.upload_lock import is_taken

REFERENCE = Path(neuron_store.benchmarks.__path__[0]) / "bin/neuronx-cc"
BUILTIN = Path(neuron_store.benchmarks.__path__[0]) / "builtin"


# A hundred processes at once keep a small machine from answering in time.
PATIENT = {"NEURON_STORE_REMOTE_CONNECT_TIMEOUT": "120", "NEURON_STORE_REMOTE_FIRST_BYTE_TIMEOUT": "120"}


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def compile_all(host, folder, subgraphs):
    """Compile every subgraph in a checkout of its own; return the NEFFs."""
    work = host.work / folder
    work.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, data in subgraphs.items():
        model = work / f"{folder.replace('/', '-')}-{name}.hlo_module.pb"
        model.write_bytes(data)
        host.cc("compile", "--framework=XLA", model, "--target=trn1", f"--output={work}/{name}.neff", cwd=work)
        made[name] = (work / f"{name}.neff").read_bytes()
    return made


@pytest.fixture(scope="module")
def subgraphs():
    import zstandard

    found = {  # but for the one that takes the longest
        path.name.partition(".")[0]: zstandard.decompress(path.read_bytes(), max_output_size=1 << 28)
        for path in sorted(BUILTIN.glob("*.zst"))
        if not path.name.startswith("gpt")
    }
    assert found
    return found


def use_reference_compiler(host):
    host.env["NEURON_STORE_COMPILER"] = str(REFERENCE)


@pytest.mark.parametrize("kind", ["hf", "file"])
def test_what_one_host_compiled_reaches_the_other_in_the_background(make_host, tmp_path, hub, subgraphs, kind):
    pytest.importorskip("jaxlib", reason="the reference compiler needs JAX")
    first, second = make_host("first"), make_host("second")
    (tmp_path / "shared").mkdir()
    word = "hf://alice/cache" if kind == "hf" else f"file://{tmp_path}/shared"
    for host in (first, second):
        host.use_remotes(word, hub=hub)
        use_reference_compiler(host)
    # The last compile starts the uploader, so that its one batch is all there is.
    *others, last = sorted(subgraphs)
    first.env["NEURON_STORE_UPLOAD"] = "0"
    compiled = compile_all(first, "checkout", {name: subgraphs[name] for name in others})
    first.env["NEURON_STORE_UPLOAD"] = "1"
    compiled |= compile_all(first, "checkout", {last: subgraphs[last]})
    wait_for(lambda: not list((first.store / "queue").glob("*/*")))
    counters = first.counters()
    assert counters == {"miss_stored": len(subgraphs), "upload_done": len(subgraphs)}
    if kind == "hf":
        assert len(hub.commits("alice/cache")) == 1
    served = compile_all(second, "elsewhere/another/checkout", subgraphs)
    assert served == compiled
    assert second.counters() == {"hit_remote": len(subgraphs)}
    assert list(all_keys(first.layout)) == list(all_keys(second.layout))


def test_four_hosts_and_a_hundred_results_meet_in_one_repo(make_host, hub):
    hosts = [make_host(f"host{number}") for number in range(4)]
    ranks = []
    for number, host in enumerate(hosts):
        host.use_remotes("hf://alice/cache", hub=hub)
        host.env |= PATIENT
        for result in range(25):
            folder = host.work / f"rank{result}"
            folder.mkdir()
            model = host.model(f"rank{result}/m.pb", b"\x0a\x04main %d %d" % (number, result))
            ranks.append(host.start("compile", model, "--target=trn1", "--output=o.neff", cwd=folder))
    for rank in ranks:
        assert rank.wait() == 0
        rank.communicate()
    wait_for(lambda: not any(list((host.store / "queue").glob("*/*")) for host in hosts), 120)
    files = hub.files("alice/cache")
    records = [path for path in files if "0_RESULTS" in path]
    blobs = [path for path in files if "0_BLOBS" in path]
    assert (len(records), len(blobs)) == (100, 100)
    assert all(hashlib.sha256(files[path]).hexdigest() in path for path in blobs)
    added = [path for commit in hub.commits("alice/cache") for path in commit.added]
    assert len(added) == len(set(added)) == 200
    assert [host.counters() for host in hosts] == [{"miss_stored": 25, "upload_done": 25}] * 4


@pytest.mark.parametrize("kind", ["hf", "file"])
@pytest.mark.parametrize("damaged", ["0_RESULTS", "0_BLOBS"])
def test_a_damaged_copy_on_the_remote_is_replaced_by_who_compiles_again(make_host, tmp_path, hub, kind, damaged):
    shared = tmp_path / "shared"
    shared.mkdir()
    word = "hf://alice/cache" if kind == "hf" else f"file://{shared}"
    hosts = [make_host(name) for name in ("first", "second", "third")]
    made = []
    for number, host in enumerate(hosts):
        host.use_remotes(word, hub=hub)
        made.append(compile_on(host, **SAME))
        wait_for(lambda host=host: not list((host.store / "queue").glob("*/*")))
        if number == 0:
            damage(hub, shared, kind, damaged)
    assert made[0] == made[1] == made[2]
    assert [host.counters() for host in hosts] == [
        {"miss_stored": 1, "upload_done": 1},
        {"remote_corrupt": 1, "miss_stored": 1, "upload_done": 1},
        {"hit_remote": 1},
    ]


def damage(hub, shared, kind, folder):
    """Put bytes of the same size, but for one, in the place of what a remote has."""
    if kind == "hf":
        (path,) = [path for path in hub.files("alice/cache") if folder in path]
        data = bytearray(hub.files("alice/cache")[path])
    else:
        (path,) = [path for path in shared.rglob("*") if folder in str(path) and path.is_file()]
        data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    if kind == "hf":
        hub.overwrite("alice/cache", path, bytes(data))
    else:
        path.write_bytes(data)


def test_a_result_reaches_every_remote_that_may_be_written_to_and_no_other(make_host, tmp_path, hub):
    host = make_host("host")
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    host.use_remotes(f"file://{tmp_path}/near", "hf://alice/cache", f"file://{tmp_path}/far|read-only", hub=hub)
    compile_on(host)
    wait_for(lambda: not list((host.store / "queue").glob("*/*")))
    assert len([path for path in (tmp_path / "near").rglob("*") if path.is_file()]) == 2
    assert len(hub.files("alice/cache")) == 2
    assert list((tmp_path / "far").iterdir()) == []
    assert host.counters() == {"miss_stored": 1, "upload_done": 2}


def test_a_result_that_was_fetched_is_not_uploaded_again(make_host, tmp_path, hub):
    maker, taker = make_host("maker"), make_host("taker")
    (tmp_path / "shared").mkdir()
    compile_on(maker)
    publish(maker, f"file://{tmp_path}/shared")
    taker.use_remotes(f"file://{tmp_path}/shared", "hf://alice/cache", hub=hub)
    compile_on(taker)
    assert taker.counters() == {"hit_remote": 1}
    assert not (taker.store / "queue").exists()
    assert hub.files("alice/cache") == {}


def test_a_hub_that_refuses_writing_is_tried_once(make_host, hub):
    hub.add_user("bob", "hf_bob")
    host = make_host("host")
    host.use_remotes("hf://alice/cache", hub=hub, token="hf_bob")
    for number in range(3):
        compile_on(host, data=b"\x0a\x04main %d" % number)
        wait_for(lambda: "upload_refused" in host.counters())
        wait_for(lambda: not uploader_runs(host))
    assert host.counters() == {"miss_stored": 3, "upload_refused": 1}
    assert hub.count("commit") == 0
    assert host.log_file.read_text().count("takes no results from us") == 1


def uploader_runs(host):
    return is_taken(host.layout)


def test_offline_nothing_is_uploaded_and_nothing_is_lost(make_host, hub):
    host = make_host("host")
    host.use_remotes("hf://alice/cache", hub=hub)
    compile_on(host, HF_HUB_OFFLINE="1")
    assert hub.count() == 0
    compile_on(host, data=b"\x0a\x04main other")
    wait_for(lambda: not list((host.store / "queue").glob("*/*")))
    assert len([path for path in hub.files("alice/cache") if "0_RESULTS" in path]) == 2


def test_the_uploader_waits_for_compiles_that_are_under_way(make_host, hub, tmp_path):
    host = make_host("host")
    host.use_remotes("hf://alice/cache", hub=hub)
    host.env["NEURON_STORE_UPLOAD_MAX_AGE"] = "600"
    going = tmp_path / "going"
    slow = host.start(
        "compile", host.model("slow.pb", b"\x0a\x04main slow"), "--output=slow.neff", STANDIN_WAIT_FOR=going
    )
    wait_for(lambda: len(host.runs) == 1)
    for number in range(3):
        compile_on(host, data=b"\x0a\x04main %d" % number)
    time.sleep(1)  # five times what is quiet enough
    assert hub.count("commit") == 0
    going.touch()
    assert slow.wait() == 0
    slow.communicate()
    wait_for(lambda: not list((host.store / "queue").glob("*/*")))
    assert len(hub.commits("alice/cache")) == 1


def test_without_uploads_the_queue_waits_for_push(make_host, hub):
    host = make_host("host")
    host.use_remotes("hf://alice/cache", hub=hub)
    compile_on(host, NEURON_STORE_UPLOAD="false")
    assert hub.count("commit") == 0
    assert len(list((host.store / "queue").glob("*/*"))) == 1
    host.cli("push")
    assert len(hub.files("alice/cache")) == 2
    assert host.counters() == {"miss_stored": 1, "upload_done": 1}
