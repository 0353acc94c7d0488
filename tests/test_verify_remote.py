"""`neuron-store verify --remote`: what a remote holds is whole, told without downloading it; and with --deep, by reading it."""

import json
from pathlib import Path

import pytest
from cli_remotes import answer, compile_modules, connect, ns

SIZE = 300_000
EXTRA = {"STANDIN_SIZE": SIZE, "STANDIN_COMPRESSIBLE": 1}


class Place:
    """A remote that can be spoiled: a Hub's repo, or a shared folder."""

    def __init__(self, host, hub, folder):
        self.host, self.hub, self.folder = host, hub, folder
        connect(host, hub)
        if folder:
            folder.mkdir()
            host.env["NEURON_STORE_REMOTES"] = f"file://{folder}"
        self.url = f"file://{folder}" if folder else "hf://alice/cache"

    def files(self):
        if self.folder is None:
            return self.hub.files("alice/cache")
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def put(self, path, data):
        if self.folder is None:
            self.hub.put_files("alice/cache", {path: data})
        else:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)

    def delete(self, path):
        if self.folder is None:
            self.hub.delete_file("alice/cache", path)
        else:
            (self.folder / path).unlink()

    def path(self, part, number=0):
        return sorted(path for path in self.files() if part in path)[number]

    def verify(self, *arguments, code=0):
        told = answer(self.host, "verify", "--remote", self.url, *arguments, code=code)
        assert told["faults"] == {}
        (remote,) = told["remotes"]
        assert remote["url"] == self.url
        return remote


@pytest.fixture(params=["hub", "folder"])
def place(request, host, hub, tmp_path):
    made = Place(host, hub, tmp_path / "shared" if request.param == "folder" else None)
    made.keys = compile_modules(host, 3, **EXTRA)
    ns(host, "synchronize")
    return made


def flipped(data):
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def test_a_whole_remote_is_said_so_and_no_blob_is_downloaded(place):
    hub = place.hub
    begun = len(hub.seen())
    told = place.verify()
    assert (told["results"], told["blobs"], told["found"]) == (3, 3, {})
    blobs = {path: data for path, data in place.files().items() if "/0_BLOBS/" in path}
    assert told["bytes"] == sum(len(data) for data in blobs.values())
    assert (told["read"], told["untold"]) == (0, 0 if place.folder is None else 3)
    assert not [request for request in hub.seen()[begun:] if "0_BLOBS" in request.path and request.method == "GET"]
    deep = place.verify("--deep")
    assert (deep["read"], deep["untold"], deep["found"]) == (told["bytes"], 0, {})


def truncate(place, path):
    place.put(path, place.files()[path][:-5])


def flip(place, path):
    place.put(path, flipped(place.files()[path]))


@pytest.mark.parametrize(
    ("part", "spoil", "kind"),
    [
        ("0_BLOBS", Place.delete, "missing_blob"),
        ("0_BLOBS", truncate, "truncated"),
        ("0_RESULTS", lambda place, path: place.put(path, place.files()[path][:-5]), "damaged_record"),
        ("0_RESULTS", lambda place, path: place.put(path, b"{}"), "damaged_record"),
    ],
    ids=["missing blob", "truncated blob", "truncated record", "another record"],
)
def test_what_a_listing_can_tell_is_found_without_reading_blobs(place, part, spoil, kind):
    path = place.path(part, 1)
    spoil(place, path)
    told = place.verify(code=1)
    assert told["found"] == {kind: 1}
    (finding,) = told["findings"]
    assert finding["path"] == path
    assert len(finding["keys"]) == 1
    assert told["read"] == 0
    assert place.verify("--deep", code=1)["found"] == {kind: 1}


def test_other_bytes_of_the_same_size_are_told_by_the_hubs_digest_and_in_a_folder_by_reading(place):
    path = place.path("0_BLOBS")
    flip(place, path)
    if place.folder is None:
        assert place.verify(code=1)["findings"][0]["path"] == path
    else:
        assert place.verify()["found"] == {}
    told = place.verify("--deep", code=1)
    assert told["found"] == {"damaged_blob": 1}
    assert told["findings"][0]["path"] == path


def test_bytes_that_rotted_behind_the_hubs_listing_are_found_by_reading(host, hub):
    place = Place(host, hub, None)
    compile_modules(host, 2, **EXTRA)
    ns(host, "synchronize")
    path = place.path("0_BLOBS")
    hub.corrupt("alice/cache", path, flipped(place.files()[path]))
    assert place.verify()["found"] == {}
    (finding,) = place.verify("--deep", code=1)["findings"]
    assert finding["path"] == path


def test_bytes_that_are_not_what_the_record_says_of_the_content_are_found_by_reading(place):
    path = place.path("0_RESULTS")
    record = json.loads(place.files()[path])
    record["outputs"][0]["xxh3"] = "0" * 32
    place.put(path, json.dumps(record).encode())
    assert place.verify()["found"] == {}
    (finding,) = place.verify("--deep", code=1)["findings"]
    assert "not what its record tells" in finding["detail"]


def test_what_is_not_ours_is_counted_or_named(place):
    folder = place.path("0_RESULTS").partition("/")[0]
    module = f"{folder}/MODULE_123456789+abcdef01"
    for name in ("model.neff", "model.done", "model.hlo_module.pb"):
        place.put(f"{module}/{name}", b"x")
    place.put(f"{folder}/MODULE_99+abcdef01/model.neff", b"x")
    place.put("README.md", b"a cache")
    place.put(f"{folder}/0_BLOBS/00/{'0' * 64}", b"nobody's")
    told = place.verify()
    assert (told["stock"], told["unnamed"], told["unnamed_bytes"], told["found"]) == (2, 1, 8, {})
    place.put(f"{folder}/0_BLOBS/notes.txt", b"mine")
    assert place.verify(code=1)["found"] == {"foreign_file": 1}
    said = ns(place.host, "verify", "--remote", place.url, code=1)
    assert "2 stock modules" in said.stderr
    assert "3 results of 3 whole" in said.stdout


def test_a_record_of_another_format_is_counted(place):
    path = place.path("0_RESULTS")
    place.put(path, place.files()[path].replace(b"neuron-store record 1", b"neuron-store record 2"))
    told = place.verify()
    assert (told["newer"], told["results"], told["found"]) == (1, 2, {})


def test_a_repair_queues_what_this_host_has_and_the_upload_mends_it(place):
    for path, spoil in ((place.path("0_BLOBS"), Place.delete), (place.path("0_BLOBS", 1), truncate)):
        spoil(place, path)
    told = place.verify("--repair")
    assert told["found"] == {"truncated": 1, "missing_blob": 1}
    assert {finding["outcome"] for finding in told["findings"]} == {"repaired"}
    ns(place.host, "push")
    assert place.verify("--deep")["found"] == {}


def test_a_repair_leaves_what_this_host_has_not(place, make_host):
    place.delete(place.path("0_BLOBS"))
    other = make_host("other")
    other.env |= {name: value for name, value in place.host.env.items() if name.startswith(("HF_ENDPOINT", "HF_TOKEN"))}
    done = ns(other, "verify", "--remote", place.url, "--repair", code=1)
    assert "this host has no such result" in done.stderr


def test_all_remotes_are_checked_and_one_that_does_not_answer_is_named(place, tmp_path):
    gone = f"file://{tmp_path}/gone"
    place.host.env["NEURON_STORE_REMOTES"] = f"{place.url} {gone}"
    told = answer(place.host, "verify", "--remote", "all", code=1)
    assert [remote["url"] for remote in told["remotes"]] == [place.url]
    assert list(told["faults"]) == [gone]
    assert "is not there" in ns(place.host, "verify", "--remote", "all", code=1).stderr


def test_a_hub_that_cannot_be_reached_is_named(host, hub):
    connect(host, hub)
    done = ns(host, "verify", "--remote", "alice/cache", code=1, HF_ENDPOINT="http://127.0.0.1:9")
    assert "127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--deep",), ("--remote", "all", "--key", "ab"), ("--remote", "all", "--recompile", "1"), ("--remote", "no such")],
)
def test_what_does_not_go_together_is_said(host, hub, arguments):
    connect(host, hub)
    ns(host, "verify", *arguments, code=2)


def test_the_local_store_is_neither_read_nor_changed(place):
    for path in Path(place.host.store / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    assert place.verify()["found"] == {}


def test_a_hub_that_does_not_answer_is_told_with_what_to_do(host, hub):
    connect(host, hub)
    hub.down()
    said = ns(host, "verify", "--remote", "alice/cache", code=1).stderr
    assert "did not answer" in said
    assert said.endswith("; try again later, or see what `neuron-store doctor` says of the network\n")
