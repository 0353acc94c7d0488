"""The loopback Hub serves huggingface_hub's own client, and does the harm that it is told to do."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    close_session,
    constants,
    set_client_factory,
)
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory
from loopback_hub import (
    Body,
    Drop,
    FlipByte,
    Redirect,
    Slow,
    Stall,
    Status,
    Truncate,
    WrongSize,
    start_hub,
)

from neuron_store.store.remotes import hub_client

# The client's own uploads pass `data=` to httpx2, which httpx2 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

HERE = Path(__file__).parent
REPO = "alice/cache"
BLOB = b"\0" + bytes(range(256)) * 40
PREFIX = {"model": "", "dataset": "datasets/"}


@pytest.fixture
def hub():
    with start_hub() as hub:
        hub.create_repo(REPO)
        yield hub


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    """The client without Xet, without telemetry, with a session of its own."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    set_client_factory(default_client_factory)  # where another test's uploads have set one of their own
    hub_client._timeout_in_force = None
    yield
    close_session()


@pytest.fixture
def api(hub):
    return api_of(hub)


def api_of(hub, token="hf_alice"):
    return HfApi(endpoint=hub.endpoint, token=token)


def add(api, files, repo=REPO, **options):
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(repo, operations, commit_message="Add files", **options)


def connect(hub, cdn=False, timeout=5.0):
    return http.client.HTTPConnection(
        "127.0.0.1", int((hub.cdn_endpoint if cdn else hub.endpoint).split(":")[2]), timeout
    )


def ask(hub, method, path, body=None, headers=(), token="hf_alice", connection=None):
    """One request with http.client: its status, headers and body."""
    own = connection or connect(hub)
    try:
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        own.request(method, path, body=body, headers={**authorization, **dict(headers)})
        answer = own.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        if connection is None:
            own.close()


def fetch(hub, url, timeout=5.0):
    """One GET of an absolute URL, without a token."""
    port, path = url.removeprefix("http://127.0.0.1:").split("/", 1)
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout)
    try:
        connection.request("GET", "/" + path)
        return connection.getresponse().read()
    finally:
        connection.close()


def blob_url(hub, path="b.zst"):
    return ask(hub, "GET", f"/{REPO}/resolve/main/{path}")[1]["Location"]


def ndjson(*lines):
    return b"\n".join(json.dumps({"key": key, "value": value}).encode() for key, value in lines)


def environment(hub, home, **extra):
    keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    client = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_alice",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**keep, **client, **extra}


def run_client(source, env):
    done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- what the client does


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_commit_comes_back_byte_for_byte(kind, tmp_path):
    files = {"records/a.json": b'{"a": 1}', "blobs/b.zst": BLOB, "empty.json": b"", "r\u00e9sum\u00e9 1.txt": b"text"}
    with start_hub() as hub:
        api = api_of(hub)
        assert api.create_repo(REPO, repo_type=kind) == f"{hub.endpoint}/{PREFIX[kind]}{REPO}"
        info = add(api, files, repo_type=kind)
        assert hub.files(PREFIX[kind] + REPO) == files
        assert api.repo_info(REPO, repo_type=kind).sha == info.oid == hub.commits(PREFIX[kind] + REPO)[-1].oid
        one = api.hf_hub_download(REPO, "blobs/b.zst", repo_type=kind, cache_dir=tmp_path / "one")
        assert Path(one).read_bytes() == BLOB
        whole = Path(api.snapshot_download(REPO, repo_type=kind, cache_dir=tmp_path / "all"))
        assert {path: (whole / path).read_bytes() for path in files} == files


def test_only_binary_and_named_files_go_through_lfs(hub, api):
    add(api, {"a.json": b"{}", "b.zst": b"text", "c.neff": b"text", "d": b"\xff\xfe", "e.txt": "\u00e9".encode() * 400})
    entries = {entry.path: entry.lfs for entry in api.list_repo_tree(REPO)}
    assert {path for path, lfs in entries.items() if lfs} == {"b.zst", "c.neff", "d"}
    assert entries["b.zst"].sha256 == hashlib.sha256(b"text").hexdigest()


def test_a_repo_is_created_once(hub, api):
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(REPO)
    assert caught.value.response.status_code == 409
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    api.delete_repo(REPO)
    assert hub.repos() == []
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_the_tree_is_paged():
    with start_hub(page_size=4) as hub:
        hub.create_repo(REPO)
        hub.put_files(REPO, {f"{folder}/{number}.json": b"{}" for folder in "ab" for number in range(5)})
        api = api_of(hub)
        assert len(api.list_repo_files(REPO)) == 11
        assert hub.count("tree") == 4
        assert [entry.path for entry in api.list_repo_tree(REPO)] == [".gitattributes", "a", "b"]
        assert len(list(api.list_repo_tree(REPO, "a"))) == 5
        with pytest.raises(RemoteEntryNotFoundError):
            list(api.list_repo_tree(REPO, "c"))


def test_paths_info_leaves_out_what_is_missing(hub, api):
    hub.put_files(REPO, {"a/b.zst": BLOB, "c.json": b"{}"})
    entries = api.get_paths_info(REPO, ["c.json", "nothing.json", "a/b.zst", "a"])
    assert [entry.path for entry in entries] == ["c.json", "a/b.zst", "a"]
    assert entries[1].lfs.sha256 == hashlib.sha256(BLOB).hexdigest()
    assert ask(hub, "POST", f"/api/models/{REPO}/paths-info/main", "&".join(["paths=a"] * 1001))[0] == 413


def test_nothing_is_sent_twice(hub, api):
    add(api, {"a.zst": BLOB})
    add(api, {"again.zst": BLOB})
    assert hub.bytes_received == {hashlib.sha256(BLOB).hexdigest(): len(BLOB)}
    assert hub.count("lfs-put") == hub.count("lfs-verify") == 1


def test_a_commit_that_changes_nothing_is_not_made(hub, api):
    files = {"a.zst": BLOB, "b.json": b"{}"}
    add(api, files)
    add(api, files)
    assert len(hub.commits(REPO)) == hub.count("commit") == 1


def test_preuploaded_files_are_not_asked_about_again(hub, api):
    operations = [CommitOperationAdd("a.zst", BLOB), CommitOperationAdd("b.json", b"{}")]
    api.preupload_lfs_files(REPO, operations)
    before = len(hub.requests)
    api.create_commit(REPO, operations, commit_message="Add files")
    assert [request.kind for request in hub.requests[before:]] == ["commit"]
    assert hub.files(REPO) == {"a.zst": BLOB, "b.json": b"{}"}


def test_large_objects_come_in_parts_where_the_hub_says_so():
    with start_hub(multipart_size=4096) as hub:
        hub.create_repo(REPO)
        add(api_of(hub), {"a.zst": BLOB, "small.zst": b"small"})
        assert hub.files(REPO) == {"a.zst": BLOB, "small.zst": b"small"}
        assert hub.count("lfs-put") == 3 + 1
        assert sum(hub.bytes_received.values()) == len(BLOB) + 5


def test_a_commit_upon_a_stale_parent_is_refused(hub, api):
    first = add(api, {"a.json": b"1"})
    add(api, {"a.json": b"2"}, parent_commit=first.oid)
    with pytest.raises(HfHubHTTPError) as caught:
        add(api, {"a.json": b"3"}, parent_commit=first.oid)
    assert caught.value.response.status_code == 412
    assert hub.files(REPO) == {"a.json": b"2"}


def test_a_commit_of_an_object_that_was_not_uploaded_is_refused(hub):
    lines = ("header", {"summary": "x"}), ("lfsFile", {"path": "a.zst", "oid": "0" * 64, "size": 1})
    status, _, body = ask(hub, "POST", f"/api/models/{REPO}/commit/main", ndjson(*lines))
    assert status == 400
    assert b"not uploaded" in body
    assert hub.commits(REPO) == []


def test_an_object_with_another_hash_is_refused(hub):
    body = json.dumps({"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]})
    objects = json.loads(ask(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", body)[2])["objects"]
    path = "/" + objects[0]["actions"]["upload"]["href"].split("/", 3)[3]
    cdn = connect(hub, cdn=True)
    assert ask(hub, "PUT", path, b"x", token=None, connection=cdn)[0] == 400
    cdn.close()


def test_files_and_folders_are_deleted(hub, api):
    add(api, {"a.json": b"{}", "b/c.json": b"{}", "b/d.json": b"{}", "e.json": b"{}"})
    deletions = [CommitOperationDelete("a.json"), CommitOperationDelete("b/")]
    api.create_commit(REPO, deletions, commit_message="Delete")
    assert set(hub.files(REPO)) == {"e.json"}
    assert hub.commits(REPO)[-1].deleted == ["a.json", "b/c.json", "b/d.json"]
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit(REPO, deletions[:1], commit_message="Delete again")


def test_a_folder_takes_so_many_entries():
    with start_hub(folder_limit=3) as hub:
        hub.create_repo(REPO)
        api = api_of(hub)
        add(api, {f"{folder}/{number}": b"x" for folder in "ab" for number in range(3)})
        with pytest.raises(BadRequestError):
            add(api, {"a/3": b"x"})


def test_branches_and_squashing(hub, api):
    add(api, {"a.json": b"1"})
    old = add(api, {"a.json": b"2"}).oid
    api.create_branch(REPO, branch="topic/x")
    add(api, {"b.json": b"1"}, revision="topic/x")
    assert hub.files(REPO, "topic/x") == {"a.json": b"2", "b.json": b"1"}
    assert hub.files(REPO) == {"a.json": b"2"}
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["Add files", "Add files", "initial commit"]
    api.delete_branch(REPO, branch="topic/x")
    api.super_squash_history(REPO, commit_message="Squashed")
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["Squashed"]
    assert hub.files(REPO) == {"a.json": b"2"}
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(REPO, revision=old)


def test_the_client_finds_the_hub_by_its_environment(hub, tmp_path):
    source = "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])"
    assert run_client(source, environment(hub, tmp_path)) == "alice"


def test_a_client_with_xet_asks_for_a_token_and_gives_up(hub, tmp_path):
    source = (
        "from huggingface_hub import HfApi\n"
        "try: HfApi().upload_file(repo_id='alice/cache', path_in_repo='a.zst', path_or_fileobj=b'\\0')\n"
        "except Exception as error: print(type(error).__name__, '404' in str(error))\n"
    )
    assert run_client(source, environment(hub, tmp_path)) == "ConnectionError True"
    assert hub.count("xet-token") == 1
    assert hub.count("lfs-put") == hub.count("commit") == 0
    assert run_client(source, environment(hub, tmp_path, HF_HUB_DISABLE_XET="1")) == ""
    assert hub.files(REPO) == {"a.zst": b"\0"}


# --- rights


@pytest.mark.parametrize(
    ("token", "repo", "reads", "writes"),
    [
        ("hf_alice", "alice/private", None, None),
        ("hf_reader", "alice/private", None, (HfHubHTTPError, 403)),
        ("hf_bob", "alice/private", (RepositoryNotFoundError, 404), (RepositoryNotFoundError, 404)),
        (False, "alice/private", (RepositoryNotFoundError, 401), (RepositoryNotFoundError, 401)),
        ("hf_wrong", "alice/private", (HfHubHTTPError, 401), (HfHubHTTPError, 401)),
        ("hf_bob", REPO, None, (HfHubHTTPError, 403)),
        (False, REPO, None, (RepositoryNotFoundError, 401)),
        ("hf_alice", "alice/nothing", (RepositoryNotFoundError, 404), (RepositoryNotFoundError, 404)),
        ("hf_bob", "alice/gated", (GatedRepoError, 403), (HfHubHTTPError, 403)),
        ("hf_member", "team/cache", None, None),
    ],
)
def test_rights(hub, token, repo, reads, writes, tmp_path):
    hub.add_user("alice", "hf_reader", "read")
    hub.add_user("bob", "hf_bob")
    hub.add_user("carol", "hf_member", orgs=("team",))
    hub.create_repo("alice/private", private=True)
    hub.create_repo("alice/gated", gated=True)
    hub.create_repo("team/cache", private=True)
    for name in hub.repos():
        hub.put_file(name, "a.json", b"{}")
    api = api_of(hub, token)
    for expected, call in [
        (reads, lambda: api.hf_hub_download(repo, "a.json", cache_dir=tmp_path)),
        (reads, lambda: api.auth_check(repo)),
        (writes, lambda: add(api, {"b.json": b"{}"}, repo)),
        (writes, lambda: api.auth_check(repo, write=True)),
    ]:
        if expected is None:
            call()
        else:
            with pytest.raises(expected[0]) as caught:
                call()
            assert caught.value.response.status_code == expected[1]
            assert isinstance(caught.value, RepositoryNotFoundError) == issubclass(expected[0], RepositoryNotFoundError)


def test_a_namespace_of_others_takes_no_repos(hub, api):
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("bob/cache")
    assert caught.value.response.status_code == 403


def test_the_storage_never_sees_a_token(hub, api, tmp_path):
    add(api, {"a.zst": BLOB})
    api.hf_hub_download(REPO, "a.zst", cache_dir=tmp_path)
    assert [request.authorized for request in hub.seen("lfs-put") + hub.seen("cdn")] == [False, False]
    assert all(request.authorized for request in hub.seen("resolve"))
    cdn = connect(hub, cdn=True)
    path = "/" + blob_url(hub, "a.zst").split("/", 3)[3]
    assert ask(hub, "GET", path, connection=cdn)[0] == 400
    assert ask(hub, "GET", path[:-1], token=None, connection=cdn)[0] == 403
    cdn.close()


# --- plain HTTP


def test_a_connection_is_kept(hub):
    hub.put_files(REPO, {"a.json": b"{}", "b.zst": BLOB})
    connection = connect(hub)
    for path, status in [("a.json", 200), ("b.zst", 302), ("c.json", 404), ("a.json", 200)]:
        assert ask(hub, "GET", f"/{REPO}/resolve/main/{path}", connection=connection)[0] == status
        sock = connection.sock
        assert ask(hub, "HEAD", f"/{REPO}/resolve/main/{path}", connection=connection)[0] == status
        assert connection.sock is sock
    connection.close()


def test_resolving_tells_hash_size_and_commit(hub):
    hub.put_files(REPO, {"a.json": b"{}", "b.zst": BLOB})
    _, headers, body = ask(hub, "GET", f"/{REPO}/resolve/main/a.json")
    assert (body, headers["ETag"]) == (b"{}", '"9e26dfeeb6e641a33dae4961196235bdb965b21b"')
    assert headers["X-Repo-Commit"] == hub.commits(REPO)[-1].oid
    _, headers, _ = ask(hub, "HEAD", f"/{REPO}/resolve/main/b.zst")
    assert headers["X-Linked-ETag"] == f'"{hashlib.sha256(BLOB).hexdigest()}"'
    assert headers["X-Linked-Size"] == str(len(BLOB))
    assert headers["Location"].startswith(hub.cdn_endpoint)
    _, headers, _ = ask(hub, "GET", f"/{REPO}/resolve/main/nothing")
    assert headers["X-Error-Code"] == "EntryNotFound"
    assert ask(hub, "GET", f"/{REPO}/resolve/nothing/a.json")[1]["X-Error-Code"] == "RevisionNotFound"
    assert ask(hub, "GET", "/alice/nothing/resolve/main/a.json")[1]["X-Error-Code"] == "RepoNotFound"
    assert ask(hub, "GET", "/api/nothing")[0] == 404


@pytest.mark.parametrize(
    ("wanted", "part"),
    [("bytes=10-19", slice(10, 20)), ("bytes=10200-", slice(10200, None)), ("bytes=-7", slice(-7, None))],
)
def test_ranges(hub, wanted, part):
    hub.put_file(REPO, "a.bin", BLOB, lfs=False)
    status, headers, body = ask(hub, "GET", f"/{REPO}/resolve/main/a.bin", headers={"Range": wanted})
    assert (status, body) == (206, BLOB[part])
    assert headers["Content-Range"].endswith(f"/{len(BLOB)}")


def test_a_range_beyond_the_end_is_refused(hub):
    hub.put_file(REPO, "a.json", b"{}")
    assert ask(hub, "GET", f"/{REPO}/resolve/main/a.json", headers={"Range": "bytes=2-"})[0] == 416


def test_text_is_compressed_where_the_hub_says_so(tmp_path):
    with start_hub(gzip_text=True) as hub:
        hub.create_repo(REPO)
        hub.put_file(REPO, "a.json", b'{"a": 1}' * 100)
        _, headers, _ = ask(hub, "GET", f"/{REPO}/resolve/main/a.json", headers={"Accept-Encoding": "gzip"})
        assert (headers["Content-Encoding"], headers["Content-Length"]) == ("gzip", None)
        path = api_of(hub).hf_hub_download(REPO, "a.json", cache_dir=tmp_path)
        assert Path(path).read_bytes() == b'{"a": 1}' * 100


def test_many_clients_at_once(hub):
    hub.put_file(REPO, "a.json", b"{}")
    statuses = []

    def client():
        connection = connect(hub, timeout=20)
        path = f"/{REPO}/resolve/main/a.json"
        statuses.extend(ask(hub, "GET", path, connection=connection)[0] for _ in range(5))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(statuses) == {200: 320}
    assert hub.count("resolve") == 320


def test_commits_at_once_are_all_kept(hub):
    def client(number):
        lines = ("header", {"summary": "x"}), ("file", {"path": f"{number}.json", "content": "{}"})
        assert ask(hub, "POST", f"/api/models/{REPO}/commit/main", ndjson(*lines))[0] == 200

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.files(REPO)) == len(hub.commits(REPO)) == 16


# --- faults


@pytest.mark.parametrize(("when", "landed"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("make", [lambda when: Status(500, when=when), Drop])
def test_a_failed_commit_may_have_landed(hub, api, make, when, landed):
    fault = hub.fail("commit", make(when))
    with pytest.raises(Exception) as caught:
        add(api, {"a.json": b"{}"})
    assert type(caught.value).__name__ in ("HfHubHTTPError", "RemoteProtocolError")
    assert len(hub.commits(REPO)) == landed
    assert fault.applied == 1
    add(api, {"b.json": b"{}"})


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (Status(400), "BadRequestError"),
        *((Status(code), "HfHubHTTPError") for code in (401, 403, 404, 409, 412, 413, 429, 500, 503)),
        (Drop(), "RemoteProtocolError"),
        (Drop(reset=True), "ReadError"),
        (Truncate(5), "RemoteProtocolError"),
        (Body(b"<html>"), "JSONDecodeError"),
    ],
)
def test_what_the_client_makes_of_a_failed_commit(hub, api, action, name):
    hub.fail("commit", action)
    with pytest.raises(Exception) as caught:
        add(api, {"a.json": b"{}"})
    assert type(caught.value).__name__ == name
    assert hub.count("commit") == 1


def test_a_rate_limit_is_waited_out(hub, api):
    fault = hub.fail("preupload", Status(429, {"RateLimit": '"api";r=0;t=0'}))
    add(api, {"a.json": b"{}"})
    assert (fault.applied, hub.count("preupload")) == (1, 2)


def test_a_rule_is_for_a_path_and_for_so_many_requests(hub):
    hub.put_files(REPO, {"a.json": b"{}", "b.json": b"{}"})
    fault = hub.fail("resolve", Status(503), after=1, times=2, path=r"a\.json$")
    statuses = [ask(hub, "GET", f"/{REPO}/resolve/main/{path}.json")[0] for path in "aabaab"]
    assert statuses == [200, 503, 200, 503, 200, 200]
    assert fault.applied == 2
    forever = hub.fail(None, Status(503), times=None)
    assert [ask(hub, "GET", "/api/whoami-v2")[0] for _ in range(3)] == [503] * 3
    forever.remove()
    assert ask(hub, "GET", "/api/whoami-v2")[0] == 200
    hub.fail("whoami", Status(418))
    hub.clear_faults()
    assert ask(hub, "GET", "/api/whoami-v2")[0] == 200


def test_bodies_are_damaged(hub):
    hub.put_file(REPO, "b.zst", BLOB)
    url = blob_url(hub)
    for action, expected in [
        (FlipByte(3), BLOB[:3] + bytes([BLOB[3] ^ 0xFF]) + BLOB[4:]),
        (WrongSize(2), BLOB + b"\0\0"),
        (WrongSize(-2), BLOB[:-2]),
        (Body(b"<html>"), b"<html>"),
    ]:
        hub.fail("cdn", action)
        assert fetch(hub, url) == expected
    hub.fail("cdn", Truncate(100))
    with pytest.raises(http.client.IncompleteRead) as caught:
        fetch(hub, url)
    assert caught.value.partial == BLOB[:100]
    hub.fail("cdn", Drop())
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(hub, url)
    hub.fail("cdn", Drop(reset=True))
    with pytest.raises(ConnectionResetError):
        fetch(hub, url)
    assert fetch(hub, url) == BLOB


def test_the_client_does_not_notice_a_flipped_byte(hub, api, tmp_path):
    hub.put_file(REPO, "b.zst", BLOB)
    hub.fail("cdn", FlipByte(0))
    assert Path(api.hf_hub_download(REPO, "b.zst", cache_dir=tmp_path)).read_bytes() != BLOB


def test_what_is_stored_is_damaged(hub):
    hub.put_files(REPO, {"a.json": b"{}", "b.zst": BLOB})
    hub.corrupt(REPO, "a.json", b"[]")
    hub.corrupt(REPO, "b.zst", b"short")
    assert ask(hub, "GET", f"/{REPO}/resolve/main/a.json")[2] == b"[]"
    assert fetch(hub, blob_url(hub)) == b"short"
    hub.overwrite(REPO, "a.json", b"{1}")
    hub.delete_file(REPO, "b.zst")
    assert hub.files(REPO) == {"a.json": b"{1}"}
    assert len(hub.commits(REPO)) == 3


def test_a_redirect_leads_elsewhere(hub):
    hub.fail("resolve", Redirect("http://127.0.0.1:9{path}", code=307))
    status, headers, _ = ask(hub, "GET", f"/{REPO}/resolve/main/a.json")
    assert (status, headers["Location"]) == (307, f"http://127.0.0.1:9/{REPO}/resolve/main/a.json")


@pytest.mark.parametrize("when", ["headers", "body"])
def test_a_stalled_answer_comes_in_the_end(hub, when):
    hub.put_file(REPO, "a.json", b"{}")
    hub.fail("resolve", Stall(0.3, when), times=2)
    connection = connect(hub, timeout=0.1)
    connection.request("GET", f"/{REPO}/resolve/main/a.json")
    with pytest.raises(TimeoutError):
        connection.getresponse().read()
    connection.close()
    before = time.monotonic()
    assert ask(hub, "GET", f"/{REPO}/resolve/main/a.json")[2] == b"{}"
    assert time.monotonic() - before >= 0.3


def test_a_slow_answer_and_a_slow_upload(hub):
    hub.put_file(REPO, "b.zst", BLOB)
    url = blob_url(hub)
    hub.fail("cdn", Slow(len(BLOB) * 4))
    before = time.monotonic()
    assert fetch(hub, url) == BLOB
    assert 0.2 < time.monotonic() - before < 2
    hub.fail("lfs-put", Slow(len(BLOB) * 4))
    before = time.monotonic()
    add(api_of(hub), {"c.zst": BLOB[::-1]})
    assert time.monotonic() - before > 0.2


def test_stopping_does_not_wait_for_a_stalled_request():
    with start_hub() as hub:
        hub.fail("whoami", Stall(60))
        connection = connect(hub)
        connection.request("GET", "/api/whoami-v2")
        while not hub.count("whoami"):
            time.sleep(0.01)
        before = time.monotonic()
    assert time.monotonic() - before < 1
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()
    connection.close()


def test_a_hub_that_is_down_refuses_connections_until_it_is_up(hub):
    hub.put_file(REPO, "a.json", b"{}")
    endpoint = hub.endpoint
    kept = connect(hub)
    assert ask(hub, "GET", f"/{REPO}/resolve/main/a.json", connection=kept)[0] == 200
    hub.down()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(hub, "GET", f"/{REPO}/resolve/main/a.json", connection=kept)
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        ask(hub, "GET", "/api/whoami-v2")
    hub.up()
    assert hub.endpoint == endpoint
    assert ask(hub, "GET", f"/{REPO}/resolve/main/a.json")[2] == b"{}"


def test_a_commit_meanwhile_is_a_conflict(hub, api):
    hub.commit_lock_seconds = 0.5
    first = threading.Thread(target=add, args=(api_of(hub), {"a.json": b"{}"}))
    first.start()
    while not hub.count("commit"):
        time.sleep(0.01)
    with pytest.raises(HfHubHTTPError) as caught:
        add(api, {"b.json": b"{}"})
    first.join()
    assert caught.value.response.status_code == 409
    assert set(hub.files(REPO)) == {"a.json"}


def test_commits_beyond_the_quota_are_refused(hub, api):
    add(api, {"a.json": b"{}"})
    hub.commit_quota = 1
    add(api, {"b.json": b"{}"})
    with pytest.raises(HfHubHTTPError) as caught:
        add(api, {"c.json": b"{}"})
    assert caught.value.response.status_code == 429
    assert "RateLimit" not in caught.value.response.headers
    hub.commit_quota = None
    add(api, {"d.json": b"{}"})


# --- the link, and a process of its own


def test_latency_is_paid_for_a_connection_and_for_a_request():
    with start_hub(latency=0.05) as hub:
        connection = connect(hub)
        before = time.monotonic()
        for _ in range(3):
            ask(hub, "GET", "/api/whoami-v2", connection=connection)
        connection.close()
        assert 0.2 <= time.monotonic() - before < 0.4


def test_the_bandwidth_is_shared_by_all():
    with start_hub(bandwidth=10e6) as hub:
        hub.create_repo(REPO)
        hub.put_file(REPO, "b.zst", bytes(1_000_000))
        url = blob_url(hub)
        threads = [threading.Thread(target=fetch, args=(hub, url)) for _ in range(3)]
        before = time.monotonic()
        for thread in threads:
            thread.start()
        add(api_of(hub), {"up.zst": b"\0" + bytes(999_999)})
        for thread in threads:
            thread.join()
        assert 0.3 <= time.monotonic() - before < 0.8


def test_it_runs_as_a_process_of_its_own():
    command = [
        sys.executable,
        HERE / "loopback_hub.py",
        "--user",
        "bob:hf_bob",
        "--repo",
        "bob/cache",
        "--latency",
        "0.001",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            endpoint = json.loads(process.stdout.readline())["endpoint"]
            api = HfApi(endpoint=endpoint, token="hf_bob")
            add(api, {"a.zst": BLOB}, "bob/cache")
            connection = http.client.HTTPConnection("127.0.0.1", int(endpoint.split(":")[2]), timeout=5)
            put = "/__control__/put?repo=bob/cache&path=b.json"
            assert ask(None, "POST", put, b"{}", token=None, connection=connection)[0] == 200
            assert set(api.list_repo_files("bob/cache")) == {".gitattributes", "a.zst", "b.json"}
            counts = json.loads(ask(None, "GET", "/__control__/counts", token=None, connection=connection)[2])
            assert counts["kinds"]["lfs-put"] == 1
            assert counts["received"] > len(BLOB)
            connection.close()
            process.terminate()
            assert process.wait(5) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
