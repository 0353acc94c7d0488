"""Writing to a Hub repo by the real huggingface_hub, against a Hub that does not do what it should."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from loopback_hub import Body, Drop, Stall, Status, Truncate, start_hub
from uploads import FOLDER, Told, fill, left, make_uploader, open_hub, queue_all, records_of

from neuron_store.store.errors import RemoteConflict, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes import hub_client
from neuron_store.store.remotes.base import Addition, record_path, remote_blob_path
from neuron_store.store.remotes.hub_client import retry_after
from neuron_store.store.remotes.hub_writer import HubWriter
from neuron_store.store.remotes.state import RemoteState

TOKEN = "hf_aliceSecretToken"
OTHER = "hf_bobSecretToken"
WRITE_PATH = ("paths-info", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit")
SIGNED = ("lfs-put",)  # answered by an object storage, which can refuse a link but not a person
KEY = hashlib.md5(b"one").hexdigest()
CONTENT = bytes(range(256)) * 400
BLOB = remote_blob_path(FOLDER, hashlib.sha256(CONTENT).hexdigest(), "")
RECORD = record_path(FOLDER, KEY)
numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    with start_hub(users=(("alice", TOKEN), ("bob", OTHER, "write", ("alice",)), ("eve", "hf_eve", "read"))) as hub:
        yield hub


@pytest.fixture
def hub(server):
    """The Hub, with a repo that no other test uses, as `hub.repo`."""
    server.repo = f"alice/cache-{next(numbers)}"
    server.create_repo(server.repo)
    server.requests.clear()
    yield server
    server.clear_faults()
    server.commit_quota = None


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "store"))


@pytest.fixture
def make_writer(hub, layout):
    def make(token=TOKEN, *, repo=None, revision="main", timeout=20.0, xet="off", endpoint=None):
        state = RemoteState(layout, "0" * 16, "hf://" + hub.repo)
        return HubWriter(
            repo or hub.repo, "model", revision, endpoint or hub.endpoint, token, timeout=timeout, xet=xet, state=state
        )

    return make


@pytest.fixture
def blob(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return Addition(BLOB, source=str(path), size=len(CONTENT))


def landed_once(hub) -> "Counter":
    """The files of the repo, having made sure that each of them came with one commit only."""
    times = Counter(path for commit in hub.commits(hub.repo) for path in commit.added)
    assert set(times) == set(hub.files(hub.repo))
    assert set(times.values()) <= {1}
    return times


# -- faults, one at a time, below the uploader ------------------------------------------------------------------------

PASSING = {
    "404": Status(404),
    "409": Status(409),
    "412": Status(412),
    "429": Status(429),
    "429-now": Status(429, {"Retry-After": "0"}),
    "429-ratelimit": Status(429, {"RateLimit": '"api";r=0;t=0'}),
    "400": Status(400),
    "500": Status(500),
    "503": Status(503),
    "500-after": Status(500, when="after"),
    "503-after": Status(503, when="after"),
    "dropped": Drop(),
    "reset": Drop(reset=True),
    "dropped-after": Drop(when="after"),
    "truncated": Truncate(1),
    "login-page": Body(b"<html>Please log in</html>"),
    "other-json": Body(b'["ok"]', {"Content-Type": "application/json"}),
}


# Nothing is read of these answers but their status, or there is nothing to read.
HARMLESS = {("lfs-verify", "login-page"), ("lfs-verify", "other-json"), ("lfs-put", "truncated")}


@pytest.mark.parametrize("kind", WRITE_PATH)
@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_costs_another_attempt_and_nothing_else(hub, layout, kind, fault):
    remote, state = open_hub(layout, hub.endpoint, hub.repo, TOKEN)
    keys = fill(layout, range(3))
    queue_all(layout, remote, keys)
    rule = hub.fail(kind, PASSING[fault])
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert rule.applied == 1
    assert left(layout, remote) == 0
    assert records_of(landed_once(hub)) == sorted(keys)
    assert len(hub.files(hub.repo)) == 6
    assert told.counts["upload_done"] + told.counts["upload_present"] == 3
    assert told.counts["upload_failed"] == ((kind, fault) not in HARMLESS)
    assert TOKEN not in str(told.events) + str(told.lines) + json.dumps(state.read())
    assert not state.refused(remote.credential)


@pytest.mark.parametrize("kind", WRITE_PATH)
def test_a_stall_ends_by_itself(hub, layout, kind):
    remote, _ = open_hub(layout, hub.endpoint, hub.repo, TOKEN, timeout=0.4)
    keys = fill(layout, range(3))
    queue_all(layout, remote, keys)
    hub.fail(kind, Stall(100))
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert left(layout, remote) == 0
    assert records_of(landed_once(hub)) == sorted(keys)
    assert "did not answer" in told.lines[0]


@pytest.mark.parametrize("kind", WRITE_PATH)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final_until_someone_else_tries(hub, layout, kind, status):
    remote, state = open_hub(layout, hub.endpoint, hub.repo, TOKEN)
    keys = fill(layout, range(3))
    queue_all(layout, remote, keys)
    hub.fail(kind, Status(status, {"X-Error-Message": f"no, {TOKEN}"}))
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    if kind not in SIGNED:
        assert told.counts == {"upload_refused": 1}
        assert left(layout, remote) == 3
        assert "HF_TOKEN" in told.lines[0]
        assert hub.repo in told.lines[0]
        seen = len(hub.requests)
        make_uploader(layout, remote, told=told).run(0.0)
        assert len(hub.requests) == seen
        assert len(told.lines) == 1
        remote, state = open_hub(layout, hub.endpoint, hub.repo, OTHER)
        make_uploader(layout, remote, told=told).run(0.0)
    assert left(layout, remote) == 0
    assert records_of(landed_once(hub)) == sorted(keys)
    assert TOKEN not in str(told.events) + str(told.lines) + json.dumps(state.read())
    assert not state.read().get("refused")


def test_a_lost_answer_is_not_followed_by_a_second_commit(hub, layout):
    remote, _ = open_hub(layout, hub.endpoint, hub.repo, TOKEN)
    queue_all(layout, remote, fill(layout, range(3)))
    hub.fail("commit", Drop(when="after"))
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert told.counts == {"upload_failed": 1, "upload_present": 3}
    assert hub.count("commit") == 1
    assert hub.count("lfs-put") == 3


def test_what_arrived_before_a_fault_is_not_sent_again(hub, layout):
    remote, _ = open_hub(layout, hub.endpoint, hub.repo, TOKEN)
    queue_all(layout, remote, fill(layout, range(4)))
    hub.fail("commit", Status(503), times=3)
    make_uploader(layout, remote).run(0.0)
    assert hub.count("lfs-put") == 4
    assert len(landed_once(hub)) == 8


def test_a_spent_commit_quota_is_sat_out(hub, layout):
    remote, _ = open_hub(layout, hub.endpoint, hub.repo, TOKEN)
    queue_all(layout, remote, fill(layout, range(2)))
    hub.commit_quota = 0
    told = Told()
    summary = make_uploader(layout, remote, told=told, attempts=3).drain()
    assert (summary.left, summary.uploaded) == (2, 0)
    assert "429" in summary.failed
    assert told.counts["upload_failed"] == 3
    hub.commit_quota = None
    assert make_uploader(layout, remote).drain().left == 0


# -- what is raised ---------------------------------------------------------------------------------------------------


def error_of(kind, writer, blob):
    with pytest.raises((RemoteUnavailable, RemoteRefused)) as caught:
        writer.look_up([BLOB]) if kind == "paths-info" else writer.add([blob, Addition(RECORD, data=b"{}")], "Add")
    return caught.value


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=12;t=55'}, None),
        ({"RateLimit": "rubbish", "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)
def test_what_a_busy_server_asks_for_is_told(hub, make_writer, blob, headers, seconds):
    for kind in WRITE_PATH:
        hub.fail(kind, Status(429, headers))
        error = error_of(kind, make_writer(), blob)
        assert type(error) is RemoteUnavailable
        assert error.retry_after == seconds
        hub.clear_faults()


def test_absurd_headers_are_no_trouble():
    for text in ("", " ", "-1", "1e9", "9" * 400, "٣", "t=5"):
        assert retry_after({"Retry-After": text}) in (None, 999999999.0)
        assert retry_after({"RateLimit": text}) is None


@pytest.mark.parametrize("status", [409, 412])
def test_another_commit_in_between_is_a_conflict(hub, make_writer, blob, status):
    hub.fail("commit", Status(status))
    assert type(error_of("commit", make_writer(), blob)) is RemoteConflict
    assert hub.files(hub.repo) == {}


@pytest.mark.parametrize("kind", ["paths-info", "commit"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": "hf_unknownToken"}, "does not know the token"),
        ({"repo": "alice/none"}, "is not there for us"),
        ({"revision": "none"}, "no revision none"),
    ],
)
def test_a_refusal_says_what_to_do(make_writer, blob, kind, change, says):
    error = error_of(kind, make_writer(**change), blob)
    assert type(error) is RemoteRefused
    assert says in str(error)
    assert "hf_unknownToken" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("token", "says"), [("", "a token is needed"), ("hf_eve", "we may not write to")])
def test_those_without_the_right_to_write_are_told(make_writer, blob, token, says):
    assert says in str(error_of("commit", make_writer(token), blob))


def test_a_gated_repo_is_refused(hub, make_writer, blob):
    hub.create_repo(f"alice/gated-{hub.port}", gated=True)
    assert "gated" in str(error_of("paths-info", make_writer("hf_eve", repo=f"alice/gated-{hub.port}"), blob))


def test_a_server_that_is_not_there_is_unavailable(make_writer, blob):
    begun = time.monotonic()
    for kind in ("paths-info", "commit"):
        error = error_of(kind, make_writer(endpoint="http://127.0.0.1:9"), blob)
        assert type(error) is RemoteUnavailable
    assert time.monotonic() - begun < 5  # huggingface_hub alone would try for 23 seconds


def test_a_tree_is_not_waited_for_without_end(hub, make_writer):
    hub.put_file(hub.repo, RECORD, b"{}")
    hub.fail("tree", Stall(100), times=None)
    with pytest.raises(RemoteUnavailable, match="did not answer"):
        make_writer(timeout=0.3).folders()
    with pytest.raises(RemoteUnavailable, match="did not answer"):
        list(make_writer(timeout=0.3).walk(FOLDER))


def test_a_local_file_that_is_gone_is_the_systems_error(hub, make_writer, blob, tmp_path):
    (tmp_path / "blob").unlink()
    with pytest.raises(FileNotFoundError):
        make_writer().add([blob], "Add")
    assert hub.count("commit") == 0


def test_a_repo_whose_gitignore_keeps_results_out_is_refused(make_writer, blob, monkeypatch):
    from huggingface_hub import _commit_api

    fetch = _commit_api._fetch_upload_modes

    def ignoring(additions, **options):
        fetch(additions=additions, **options)
        for addition in additions:
            addition._should_ignore = True

    monkeypatch.setattr(_commit_api, "_fetch_upload_modes", ignoring)
    with pytest.raises(RemoteRefused, match="gitignore"):
        make_writer().add([blob], "Add")


# -- what is done -----------------------------------------------------------------------------------------------------


def test_blobs_and_records_land_in_one_commit(hub, make_writer, blob):
    arrived = []
    writer = make_writer()
    writer.add([blob, Addition(RECORD, data=b"{}")], "Add one", lambda size, files: arrived.append((size, files)))
    (commit,) = hub.commits(hub.repo)
    assert commit.message == "Add one"
    assert hub.files(hub.repo) == {BLOB: CONTENT, RECORD: b"{}"}
    assert arrived == [(len(CONTENT) + 2, 2)]
    found = writer.look_up([BLOB, RECORD, record_path(FOLDER, "f" * 32)])
    assert {path: (file.size, file.sha256) for path, file in found.items()} == {
        BLOB: (len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),
        RECORD: (2, ""),
    }


def test_progress_is_told_group_by_group(hub, make_writer):
    additions = [Addition(record_path(FOLDER, hashlib.md5(bytes([n])).hexdigest()), data=b"{}") for n in range(150)]
    arrived = []
    make_writer().add(additions, "Add many", lambda size, files: arrived.append((size, files)))
    assert arrived == [(128, 64), (128, 64), (44, 22)]
    assert len(hub.commits(hub.repo)) == 1


def test_thousands_are_looked_up_in_few_requests(hub, make_writer):
    paths = [record_path(FOLDER, hashlib.md5(str(n).encode()).hexdigest()) for n in range(2300)]
    hub.put_files(hub.repo, {paths[0]: b"1", paths[1500]: b"22", paths[2299]: b"333"})
    assert {path: file.size for path, file in make_writer().look_up(paths).items()} == {
        paths[0]: 1,
        paths[1500]: 2,
        paths[2299]: 3,
    }
    assert hub.count("paths-info") == 3


def test_rights_are_told(hub, make_writer):
    def rights(*arguments, **options):
        access = make_writer(*arguments, **options).check()
        return access.reachable, access.readable, access.writable

    assert rights() == (True, True, True)
    assert rights("hf_eve") == (True, True, False)
    assert rights("hf_unknown") == (True, False, False)
    assert rights(repo="alice/none") == (True, False, False)
    assert rights(endpoint="http://127.0.0.1:9") == (False, None, None)
    hub.fail("auth-check", Status(500))
    assert rights() == (True, True, None)


def test_no_request_tells_more_than_it_must(hub, make_writer, blob):
    make_writer().add([blob], "Add")
    assert not [request for request in hub.seen("lfs-put") if request.authorized]
    assert {request.kind for request in hub.requests} == {"preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit"}


# -- Xet --------------------------------------------------------------------------------------------------------------


def xet_known(layout):
    return RemoteState(layout, "0" * 16, "").xet


def test_a_server_without_xet_gets_plain_lfs_at_once(hub, layout, make_writer, blob):
    make_writer(xet="auto").add([blob, Addition(RECORD, data=b"{}")], "Add")
    assert hub.files(hub.repo) == {BLOB: CONTENT, RECORD: b"{}"}
    assert xet_known(layout) is False
    hub.delete_file(hub.repo, BLOB)
    make_writer(xet="auto").add([blob], "Add again")
    assert hub.count("xet-token") == 1


def test_xet_that_is_off_is_not_asked_for(hub, layout, make_writer, blob, monkeypatch):
    make_writer(xet="off").add([blob], "Add")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.delete_file(hub.repo, BLOB)
    make_writer(xet="on").add([blob], "Add")
    assert hub.count("xet-token") == 0
    assert xet_known(layout) is None


def test_xet_that_must_be_is_missed(make_writer, blob):
    with pytest.raises(RemoteUnavailable, match="no Xet"):
        make_writer(xet="on").add([blob], "Add")


def test_a_record_alone_needs_no_xet(hub, make_writer):
    make_writer(xet="auto").add([Addition(RECORD, data=b"{}")], "Add")
    assert hub.count("xet-token") == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(503), RemoteUnavailable),
        (Status(429, {"Retry-After": "3"}), RemoteUnavailable),
        (Drop(), RemoteUnavailable),
        (Status(401), RemoteRefused),
        (Status(403), RemoteRefused),
        (Status(404, {"X-Error-Code": "RepoNotFound"}), RemoteRefused),
    ],
)
def test_a_server_that_cannot_say_whether_it_has_xet_is_asked_again(hub, layout, make_writer, blob, fault, error):
    hub.fail("xet-token", fault)
    with pytest.raises(error) as caught:
        make_writer(xet="auto").add([blob], "Add")
    assert type(caught.value) is error
    assert xet_known(layout) is None
    assert hub.files(hub.repo) == {}


def has_xet(endpoint):
    expires = int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": endpoint,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(expires),
    }
    return Status(200, headers, body=json.dumps({"casUrl": endpoint, "accessToken": "xet", "exp": expires}).encode())


def test_what_went_by_xet_is_remembered(hub, layout, make_writer, blob, monkeypatch):
    from huggingface_hub import _commit_api

    def upload(additions, **_options):
        for addition in additions:
            hub._repo(hub.repo).lfs[addition.upload_info.sha256.hex()] = Path(addition.path_or_fileobj).read_bytes()

    monkeypatch.setattr(_commit_api, "_upload_xet_files", upload)
    hub.fail("xet-token", has_xet(hub.endpoint))
    make_writer(xet="auto").add([blob], "Add")
    assert xet_known(layout) is True
    assert hub.count("lfs-batch") == 0
    assert hub.files(hub.repo) == {BLOB: CONTENT}


SCRIPT = """
import sys
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import Addition
from neuron_store.store.remotes.hub_writer import HubWriter
from neuron_store.store.remotes.state import RemoteState
root, endpoint, repo, source, size, path = sys.argv[1:]
state = RemoteState(Layout(root), "0" * 16, "")
writer = HubWriter(repo, "model", "main", endpoint, "hf_aliceSecretToken", timeout=1.0, xet="auto", state=state)
writer.add([Addition(path, source=source, size=int(size))], "Add")
"""


def test_xet_that_cannot_be_reached_is_done_without(hub, layout, blob, tmp_path):
    """A cluster's firewall may know the Hub, but not Xet's own servers."""
    hub.fail("xet-token", has_xet("http://127.0.0.1:9"), times=None)
    arguments = [layout.root, hub.endpoint, hub.repo, blob.source, str(blob.size), blob.path]
    environ = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments], env=environ, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert hub.files(hub.repo) == {BLOB: CONTENT}
    assert xet_known(layout) is False


def test_the_client_is_told_once(monkeypatch, make_writer):
    import huggingface_hub

    told = []
    monkeypatch.setattr(huggingface_hub, "set_client_factory", told.append)
    monkeypatch.setattr(hub_client, "_timeout_in_force", None)
    for _ in range(3):
        make_writer(timeout=17.0).api()
    assert len(told) == 1
    monkeypatch.setattr(hub_client, "_timeout_in_force", None)
