"""A host that never compiled anything is served from a remote, and whatever is wrong with a remote is a miss."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import zstandard
from loopback_hub import Body, Drop, FlipByte, Redirect, Slow, Stall, Status, Truncate, WrongSize
from remote_setup import FLAGS, SAME, TIMES, compile_on, publish, uploads_of

from neuron_store.shim.settings import load_settings
from neuron_store.store.layout import Layout
from neuron_store.store.results import all_keys, load_result


@pytest.fixture(params=["file", "hf"])
def served(request, make_host, tmp_path, hub):
    """A host with an empty store, and a remote that has what another host compiled; and that one's NEFF."""
    maker, taker = make_host("maker"), make_host("taker")
    neff = compile_on(maker, STANDIN_SIZE=300_000, STANDIN_COMPRESSIBLE=1)
    taker.neff = neff
    taker.hub = hub
    if request.param == "file":
        taker.shared = tmp_path / "shared"
        taker.shared.mkdir()
        publish(maker, f"file://{taker.shared}")
        taker.use_remotes(f"file://{taker.shared}|read-only")
    else:
        publish(maker, "hf://alice/cache", hub)
        taker.use_remotes("hf://alice/cache|read-only", hub=hub)
    taker.env |= TIMES
    return taker


@pytest.fixture
def on_hub(make_host, hub):
    """The same, always a Hub."""
    maker, taker = make_host("maker"), make_host("taker")
    taker.neff = compile_on(maker, STANDIN_SIZE=300_000, STANDIN_COMPRESSIBLE=1)
    publish(maker, "hf://alice/cache", hub)
    taker.use_remotes("hf://alice/cache|read-only", hub=hub)
    taker.env |= TIMES
    taker.hub = hub
    return taker


# -- served --------------------------------------------------------------------------------------------------------


def test_what_another_host_compiled_is_served_and_kept(served):
    assert compile_on(served, "elsewhere/other-name.pb", **SAME) == served.neff
    assert served.runs == []
    served.env["NEURON_STORE_REMOTES"] = "none"
    assert compile_on(served, "elsewhere/other-name.pb", **SAME) == served.neff
    assert compile_on(served, "third.pb", **SAME) == served.neff
    assert served.counters() == {"hit_remote": 1, "hit_direct": 2}
    assert served.leftovers() == []


def test_stdout_stderr_and_side_files_are_served_too(make_host, tmp_path):
    maker, taker = make_host("maker"), make_host("taker")
    shared = tmp_path / "shared"
    shared.mkdir()
    told = {"STANDIN_PRINT": json.dumps([["o", "one "], ["e", "two "], ["o", "three\n"]]), "STANDIN_WRAPPED": "w"}
    compile_on(maker, **told)
    publish(maker, f"file://{shared}")
    taker.use_remotes(f"file://{shared}")
    first = maker.cc("compile", maker.model(), *FLAGS)
    done = taker.cc("compile", taker.model(), *FLAGS)
    assert (done.stdout, done.stderr) == (first.stdout, first.stderr)
    assert (taker.work / "wrapped_neff.hlo").read_bytes() == (maker.work / "wrapped_neff.hlo").read_bytes()
    assert taker.counters() == {"hit_remote": 1}


def test_a_miss_costs_one_request(on_hub):
    compile_on(on_hub, data=b"\x0a\x04main unknown")
    assert on_hub.hub.count() == 1
    assert on_hub.counters() == {"miss_stored": 1}


def test_all_repos_of_a_hub_are_asked_over_one_connection(on_hub):
    for name in ("one", "two"):
        on_hub.hub.create_repo(f"alice/{name}")
    on_hub.env["NEURON_STORE_REMOTES"] = "hf://alice/one|ro hf://alice/two|ro " + on_hub.env["NEURON_STORE_REMOTES"]
    assert compile_on(on_hub, **SAME) == on_hub.neff
    assert (on_hub.hub.count("resolve"), on_hub.hub.connections) == (4, 1)


def test_a_hit_costs_one_request_for_the_record_and_one_for_each_blob(on_hub):
    compile_on(on_hub, **SAME)
    assert (on_hub.hub.count("resolve"), on_hub.hub.count("cdn"), on_hub.hub.count()) == (2, 1, 3)


def test_a_hundred_ranks_download_once(on_hub):
    model = on_hub.model()
    folders = [on_hub.work / f"rank{number}" for number in range(32)]
    for folder in folders:
        folder.mkdir()
    ranks = [on_hub.start("compile", model, *FLAGS, cwd=folder, **SAME) for folder in folders]
    assert [rank.wait() for rank in ranks] == [0] * 32
    for rank in ranks:
        rank.communicate()
    assert {(folder / "o.neff").read_bytes() for folder in folders} == {on_hub.neff}
    assert on_hub.runs == []
    assert on_hub.hub.count("cdn") == 1
    counters = on_hub.counters()
    assert counters.pop("hit_remote") == 1
    counters.pop("waited", None)
    assert counters.pop("hit_direct", 0) + counters.pop("hit_canonical", 0) == 31
    assert counters == {}


def test_remotes_are_asked_in_order_and_the_first_that_has_it_serves(served, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    served.env["NEURON_STORE_REMOTES"] = f"file://{empty} " + served.env["NEURON_STORE_REMOTES"]
    assert compile_on(served, **SAME) == served.neff
    result = load_result(served.layout, next(all_keys(served.layout)))
    assert result.provenance["origin"] == served.env["NEURON_STORE_REMOTES"].split()[1].partition("|")[0]
    assert served.counters() == {"hit_remote": 1}


def test_recache_asks_no_remote(served):
    compile_on(served, NEURON_STORE_RECACHE="1", **SAME)
    assert served.counters() == {"miss_stored": 1}


def test_offline_asks_no_hub(on_hub):
    compile_on(on_hub, HF_HUB_OFFLINE="1", **SAME)
    assert on_hub.hub.count() == 0
    assert on_hub.counters() == {"miss_stored": 1}


def test_a_store_that_is_only_read_is_served_from_a_remote_and_stores_nothing(served):
    assert compile_on(served, NEURON_STORE_READ_ONLY="1", **SAME) == served.neff
    assert list(all_keys(served.layout)) == []
    assert served.counters() == {"hit_remote": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_served_from_a_remote(served):
    served.store.mkdir()
    served.store.chmod(0o555)
    assert compile_on(served, **SAME) == served.neff
    served.store.chmod(0o755)


def test_a_saved_name_and_a_token_file_are_enough(on_hub):
    for name in ("NEURON_STORE_REMOTES", "HF_TOKEN"):
        on_hub.env.pop(name)
    home = on_hub.base / "huggingface"
    home.mkdir()
    (home / "optimum_neuron_custom_cache").write_text("alice/cache")
    (home / "token").write_text("hf_alice\n")
    on_hub.hub.add_user("bob", "hf_bob")
    assert compile_on(on_hub, NEURON_STORE_UPLOAD="0", **SAME) == on_hub.neff
    assert [request.authorized for request in on_hub.hub.seen("resolve")] == [True, True]


def test_a_wrongly_written_remote_is_told_and_the_others_are_asked(served):
    served.env["NEURON_STORE_REMOTES"] = "nonsense " + served.env["NEURON_STORE_REMOTES"]
    assert compile_on(served, **SAME) == served.neff
    assert served.counters() == {"hit_remote": 1, "remote_misconfigured": 1}
    assert "'nonsense' is neither" in served.log_file.read_text()


# -- faults, at each request -----------------------------------------------------------------------------------------

FAULTS = {
    **{f"{code}": Status(code) for code in (400, 401, 403, 409, 412, 429, 500, 503)},
    "404-repo": Status(404, {"X-Error-Code": "RepoNotFound"}),
    "500-after": Status(500, when="after"),
    "dropped": Drop(),
    "dropped-after": Drop("after"),
    "stalled": Stall(60),
    "stalled-body": Stall(60, when="body"),
    "slow": Slow(20),
    "html": Body(b"<html>Sign in to the hotel's network</html>"),
    "redirect-loop": Redirect("{path}"),
    "redirect-away": Redirect("http://127.0.0.1:9/"),
}
WRONG = {
    "truncated": Truncate(50),
    "flipped": FlipByte(60),
    "longer": WrongSize(7),
    "shorter": WrongSize(-7),
    "empty": Body(b""),
    "404": Status(404, {"X-Error-Code": "EntryNotFound"}),
}


# Nobody reads the body of a redirect; and a download that breaks off, however often, goes on as long as bytes come.
HARMLESS = {("blob", name) for name in ("stalled-body", "truncated", "flipped", "longer", "shorter")} | {
    ("cdn", "truncated")
}


@pytest.mark.parametrize("kind", ["record", "blob", "cdn"])
@pytest.mark.parametrize("name", [*FAULTS, *WRONG])
def test_a_fault_at_any_request_is_a_miss_and_the_compile_is_right(on_hub, kind, name):
    action = (FAULTS | WRONG)[name]
    where = {"record": ("resolve", "0_RESULTS"), "blob": ("resolve", "0_BLOBS"), "cdn": ("cdn", None)}[kind]
    fault = on_hub.hub.fail(where[0], action, path=where[1], times=None)
    assert compile_on(on_hub, NEURON_STORE_REMOTE_MIN_RATE="1000", **SAME) == on_hub.neff
    assert fault.applied
    if (kind, name) in HARMLESS:
        assert on_hub.counters() == {"hit_remote": 1}
    else:
        expected = expected_incident(kind, name)
        assert on_hub.counters() == {"miss_stored": 1, **({expected: 1} if expected else {})}
        assert len(on_hub.runs) == 1
    assert on_hub.leftovers() == []
    assert "hf_alice" not in (on_hub.log_file.read_text() if on_hub.log_file.exists() else "")


def expected_incident(kind, name):
    if name == "404" and kind == "record":
        return None
    if name in ("flipped", "longer", "shorter", "empty", "404", "html"):
        return "remote_corrupt"
    if name in ("401", "403", "404-repo"):
        return "remote_refused"
    return "remote_failed"


@pytest.mark.parametrize("name", ["flipped", "shorter", "500", "dropped", "truncated"])
def test_after_a_fault_that_passed_the_next_miss_is_served(on_hub, name):
    on_hub.hub.fail("cdn", (FAULTS | WRONG)[name], times=4)
    compile_on(on_hub, data=b"\x0a\x04main unknown")
    compile_on(on_hub, **SAME)
    shutil.rmtree(on_hub.store)
    on_hub.hub.clear_faults()
    assert compile_on(on_hub, **SAME) == on_hub.neff
    assert on_hub.counters() == {"hit_remote": 1}


# -- a remote that is down costs little ------------------------------------------------------------------------------


def test_a_remote_that_is_down_is_left_alone_by_every_process(on_hub):
    on_hub.hub.down()
    for number in range(5):
        compile_on(on_hub, data=b"\x0a\x04main %d" % number)
    assert on_hub.counters() == {"miss_stored": 5, "remote_failed": 1, "remote_skipped": 4}
    on_hub.hub.up()


def test_sixty_four_ranks_wait_for_a_stalled_hub_once(on_hub):
    on_hub.hub.fail(None, Stall(300), times=None)
    limit = 3.0
    ranks = []
    for number in range(64):
        folder = on_hub.work / f"rank{number}"
        folder.mkdir()
        model = on_hub.model(f"rank{number}/m.pb", b"\x0a\x04main %d" % number)
        more = {"NEURON_STORE_REMOTE_FIRST_BYTE_TIMEOUT": limit}
        ranks.append(on_hub.start("compile", model, *FLAGS, cwd=folder, **more))
    for rank in ranks:
        rank.communicate()
    assert [rank.returncode for rank in ranks] == [0] * 64
    counters = on_hub.counters()
    assert counters.pop("miss_stored") == 64
    assert counters["remote_failed"] + counters.get("remote_skipped", 0) == 64
    before = on_hub.hub.count()
    compile_on(on_hub, data=b"\x0a\x04main after")
    assert on_hub.hub.count() == before
    assert on_hub.counters()["remote_skipped"] == counters.get("remote_skipped", 0) + 1


def test_a_remote_that_asks_to_wait_is_left_alone_as_long(on_hub):
    on_hub.hub.fail("resolve", Status(429, {"RateLimit": '"resolvers";r=0;t=200'}))
    compile_on(on_hub, data=b"\x0a\x04main one")
    (state,) = (on_hub.store / "remotes").iterdir()
    assert 195 < json.loads(state.read_text())["skip_until"] - time.time() < 225


def test_a_refused_token_is_tried_again_when_it_changes(on_hub):
    compile_on(on_hub, HF_TOKEN="hf_wrong", **SAME)
    assert on_hub.counters() == {"miss_stored": 1, "remote_refused": 1}
    shutil.rmtree(on_hub.store / "results")
    shutil.rmtree(on_hub.store / "direct")
    assert compile_on(on_hub, **SAME) == on_hub.neff
    assert on_hub.counters()["hit_remote"] == 1


# -- lies ------------------------------------------------------------------------------------------------------------


def record_of(hub):
    (path,) = [path for path in hub.files("alice/cache") if "0_RESULTS" in path]
    return path, json.loads(hub.files("alice/cache")[path])


def neff_of(record):
    (neff,) = [output for output in record["outputs"] if output["role"] == "neff"]
    return neff


def change(name):
    """Return a function that makes a record lie."""

    def apply(record):
        neff = neff_of(record)
        other = hashlib.sha256(b"other").hexdigest()
        changes = {
            "format": lambda: record.update(format="neuron-store record 2"),
            "key": lambda: record.update(key="0" * 32),
            "proof": lambda: record.update(proof=other),
            "no-proof": lambda: record.pop("proof"),
            "input": lambda: record["input"].update(sha256=other),
            "input-name": lambda: record["input"].update(name="../../x"),
            "version": lambda: record.update(compiler_version="9.9"),
            "no-neff": lambda: record.update(outputs=[]),
            "two-neffs": lambda: record["outputs"].append(neff),
            "role": lambda: neff.update(role="authorized_keys"),
            "role-type": lambda: neff.update(role=["neff"]),
            "sha256": lambda: neff.update(sha256=other),
            "sha256-path": lambda: neff.update(sha256="../" * 21 + "x"),
            "sha256-upper": lambda: neff.update(sha256=neff["sha256"].upper()),
            "xxh3": lambda: neff.update(xxh3="0" * 32),
            "stored-sha256": lambda: neff.update(stored_sha256=other),
            "stored-size": lambda: neff.update(stored_size=neff["stored_size"] + 1),
            "stored-size-huge": lambda: neff.update(stored_size=1 << 60),
            "stored-size-negative": lambda: neff.update(stored_size=-1),
            "stored-size-true": lambda: neff.update(stored_size=True),
            "size": lambda: neff.update(size=neff["size"] + 1),
            "size-huge": lambda: neff.update(size=1 << 61),
            "size-float": lambda: neff.update(size=3e5),
            "size-none": lambda: neff.update(size=None),
            "size-zero": lambda: neff.update(size=0),
            "encoding": lambda: neff.update(encoding="xz"),
            "encoding-raw": lambda: neff.update(encoding="raw"),
            "inline-neff": lambda: neff.update(inline=base64.b64encode(b"x" * neff["size"]).decode()),
            "seconds": lambda: record.update(seconds="long"),
            "seconds-nan": lambda: record.update(seconds=float("nan")),
            "seconds-negative": lambda: record.update(seconds=-1),
            "created": lambda: record.update(created=-1e300),
            "interleave": lambda: record.update(interleave="o99999"),
            "interleave-rubbish": lambda: record.update(interleave="x " * 1000),
            "components": lambda: record.update(components={"name": "flags"}),
            "components-many": lambda: record.update(components=record["components"] * 1000),
            "fields": lambda: record["components"][0].update(fields=[1]),
            "list": lambda: record.update(outputs={"role": "neff"}),
        }
        changes[name]()

    return apply


LIES = [
    "format", "key", "proof", "no-proof", "input", "input-name", "version", "no-neff", "two-neffs", "role", "role-type",
    "sha256", "sha256-path", "sha256-upper", "xxh3", "stored-sha256", "stored-size", "stored-size-huge",
    "stored-size-negative", "stored-size-true", "size", "size-huge", "size-float", "size-none", "size-zero", "encoding",
    "encoding-raw", "inline-neff", "seconds", "seconds-nan", "seconds-negative", "created", "interleave",
    "interleave-rubbish", "components", "components-many", "fields", "list",
]  # fmt: skip


def require_a_corrupt_miss(host):
    assert compile_on(host, **SAME) == host.neff
    assert host.counters() == {"miss_stored": 1, "remote_corrupt": 1}
    assert host.leftovers() == []


@pytest.mark.parametrize("lie", LIES)
def test_a_record_that_lies_is_a_miss(on_hub, lie):
    path, record = record_of(on_hub.hub)
    change(lie)(record)
    on_hub.hub.overwrite("alice/cache", path, json.dumps(record).encode(), lfs=False)
    require_a_corrupt_miss(on_hub)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"neuron-store record 1"',
        b"{" * 10_000,
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{}",
        b"1" * 900_000,
        b'{"format": ' + b"9" * 10_000 + b"}",
        b"x" * 1_100_000,
    ],
    ids=lambda content: f"{content[:12]!r}x{len(content)}",
)
def test_a_record_that_is_none_is_a_miss(on_hub, content):
    path, _ = record_of(on_hub.hub)
    on_hub.hub.overwrite("alice/cache", path, content, lfs=False)
    require_a_corrupt_miss(on_hub)


def replace_blob(hub, stored, **fields):
    """Put other bytes in the place of the NEFF's blob, and let the record tell the truth about them."""
    path, record = record_of(hub)
    neff = neff_of(record)
    neff |= {"stored_size": len(stored), "stored_sha256": hashlib.sha256(stored).hexdigest(), **fields}
    blob = f"{path.split('/')[0]}/0_BLOBS/{neff['sha256'][:2]}/{neff['sha256']}.zst"
    hub.overwrite("alice/cache", blob, stored, lfs=True)
    hub.overwrite("alice/cache", path, json.dumps(record).encode(), lfs=False)


def test_other_content_under_the_name_is_a_miss(on_hub):
    replace_blob(on_hub.hub, zstandard.compress(b"x" * 300_000))
    require_a_corrupt_miss(on_hub)


def test_a_zstd_bomb_ends_at_the_recorded_size(on_hub):
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * (200 << 20))
    replace_blob(on_hub.hub, bomb)
    require_a_corrupt_miss(on_hub)


def test_a_zstd_bomb_without_a_size_in_its_header_is_a_miss(on_hub):
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    bomb = compressor.compress(b"\0" * (200 << 20)) + compressor.flush()
    replace_blob(on_hub.hub, bomb)
    require_a_corrupt_miss(on_hub)


def test_a_frame_that_wants_gigabytes_of_window_is_a_miss(on_hub):
    parameters = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    content = b"x" * 300_000
    frame = bytearray(zstandard.ZstdCompressor(compression_params=parameters).compress(content))
    replace_blob(on_hub.hub, bytes(frame) + b"\x28\xb5\x2f\xfd")
    require_a_corrupt_miss(on_hub)


@pytest.mark.parametrize("stored", [b"x", b"not zstd at all" * 100, b"\x28\xb5\x2f\xfd" + b"\0" * 20])
def test_a_blob_that_is_no_zstd_is_a_miss(on_hub, stored):
    replace_blob(on_hub.hub, stored)
    require_a_corrupt_miss(on_hub)


def test_an_output_larger_than_the_setting_allows_is_not_fetched(on_hub):
    on_hub.env["NEURON_STORE_REMOTE_MAX_BYTES"] = "299999"
    require_a_corrupt_miss(on_hub)
    assert on_hub.hub.count("cdn") == 0


def test_the_record_of_another_compile_under_this_key_is_a_miss(on_hub, make_host):
    other = make_host("other")
    compile_on(other, data=b"\x0a\x04main other", **SAME)
    (upload,) = uploads_of(other)
    path, mine = record_of(on_hub.hub)
    record = json.loads(upload.record.data)
    record["key"] = mine["key"]
    on_hub.hub.put_files(
        "alice/cache",
        {path: json.dumps(record).encode(), **{a.path: Path(a.source).read_bytes() for a in upload.blobs}},
    )
    require_a_corrupt_miss(on_hub)


def test_a_result_that_was_pulled_for_other_inputs_is_not_served(on_hub):
    """A pulled result was never compared with an input: that is done when it is asked for."""
    compile_on(on_hub, **SAME)
    (key,) = all_keys(on_hub.layout)
    result = load_result(on_hub.layout, key)
    result.input["proof"] = "0" * 64
    from neuron_store.store.results import save_result

    save_result(on_hub.layout, result)
    shutil.rmtree(on_hub.store / "direct")
    on_hub.env["NEURON_STORE_REMOTES"] = "none"
    assert compile_on(on_hub, **SAME) == on_hub.neff
    assert on_hub.counters() == {"hit_remote": 1, "corrupt_result": 1, "miss_stored": 1}


def test_the_token_is_in_no_process_title_and_no_log(on_hub):
    on_hub.hub.fail(None, Stall(60), times=None)
    rank = on_hub.start("compile", on_hub.model(), *FLAGS, NEURON_STORE_REMOTE_FIRST_BYTE_TIMEOUT="5")
    time.sleep(0.5)
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout.splitlines()
    titles = [title for title in listed if "neuronx-cc" in title or "neuron_store" in title]
    rank.communicate()
    assert titles
    assert "hf_alice" not in "\n".join(titles)
    assert "hf_alice" not in on_hub.log_file.read_text()
    assert "hf_alice" not in "".join(path.read_text("latin-1") for path in on_hub.store.rglob("*") if path.is_file())


def test_settings_of_remotes_are_the_defaults_that_the_documents_tell():
    settings = load_settings({"HOME": "/nowhere"})
    assert (settings.remote_connect_timeout, settings.remote_first_byte_timeout) == (3.0, 10.0)
    assert settings.remotes == ("hf://aws-neuron/optimum-neuron-cache|read-only",)


def test_a_temporary_store_does_not_stay(served, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    compile_on(served, NEURON_STORE_READ_ONLY="1", TMPDIR=str(scratch), **SAME)
    assert list(scratch.iterdir()) == []
    assert Layout(str(served.store)).root
