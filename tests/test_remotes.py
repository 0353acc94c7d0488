"""Every kind of remote keeps the same promises; where remotes are, and what is remembered of them."""

import hashlib
import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import start_hub

from neuron_store.store.errors import ConfigurationError, CorruptRemote, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.base import (
    Addition,
    is_name_of_ours,
    key_in,
    record_path,
    remote_blob_path,
    version_folder,
    versions_of,
)
from neuron_store.store.remotes.http_reader import ReadLimits
from neuron_store.store.remotes.location import list_locations, read_location, saved_name_path
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.state import RemoteState

FOLDER = "neuronxcc-2.21.33363.0+82129205"
KEYS = [hashlib.md5(bytes([n])).hexdigest() for n in range(5)]
RECORD = record_path(FOLDER, KEYS[0])
CONTENT = os.urandom(100_000)
BLOB = remote_blob_path(FOLDER, hashlib.sha256(CONTENT).hexdigest(), ".zst")
QUICK = RemoteOptions(limits=ReadLimits(1.0, 1.0, 1000))


@pytest.fixture(params=["file", "hf", "hf-dataset", "hf-branch"])
def remote(request, tmp_path):
    """A remote of each kind, empty and writable."""
    layout = Layout(str(tmp_path / "store"))
    if request.param == "file":
        (tmp_path / "shared").mkdir()
        with closing(open_remote(read_location(f"file://{tmp_path}/shared"), layout, {}, QUICK)[0]) as opened:
            yield opened
        return
    with start_hub() as hub:
        hub.add_user("alice", "hf_alice")
        name = "datasets/alice/cache" if request.param == "hf-dataset" else "alice/cache"
        hub.create_repo(name)
        word = "hf://" + name
        if request.param == "hf-branch":
            from huggingface_hub import HfApi

            HfApi(endpoint=hub.endpoint, token="hf_alice").create_branch("alice/cache", branch="team")
            word += "@team"
        environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_alice", "HOME": str(tmp_path)}
        with closing(open_remote(read_location(word), layout, environ, QUICK)[0]) as opened:
            yield opened


@pytest.fixture
def destination(tmp_path):
    descriptor = os.open(tmp_path / "destination", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


# -- every kind ----------------------------------------------------------------------------------------------------


def test_what_was_added_is_read_back(remote, destination, tmp_path):
    (tmp_path / "blob").write_bytes(CONTENT)
    steps = []
    remote.add(
        [Addition(BLOB, source=str(tmp_path / "blob"), size=len(CONTENT)), Addition(RECORD, data=b'{"a": 1}')],
        "Add one",
        lambda size, files: steps.append((size, files)),
    )
    assert remote.read(RECORD, 100) == b'{"a": 1}'
    remote.download(BLOB, len(CONTENT), destination)
    assert os.pread(destination, 200_000, 0) == CONTENT
    assert [sum(step) for step in zip(*steps, strict=True)] == [len(CONTENT) + 8, 2]


def test_what_is_not_there_is_none(remote, destination):
    assert remote.read(RECORD, 100) is None
    assert remote.look_up([RECORD, BLOB]) == {}
    assert list(remote.walk(FOLDER)) == []
    with pytest.raises(CorruptRemote, match="not there"):
        remote.download(BLOB, 10, destination)


def test_more_than_was_asked_for_is_not_taken(remote, destination):
    remote.add([Addition(RECORD, data=b"x" * 101), Addition(BLOB, data=CONTENT)], "Add")
    assert remote.read(RECORD, 101) == b"x" * 101
    with pytest.raises(CorruptRemote, match="100"):
        remote.read(RECORD, 100)
    for size in (len(CONTENT) - 1, len(CONTENT) + 1):
        with pytest.raises(CorruptRemote, match=f"not {size}"):
            remote.download(BLOB, size, destination)


def test_what_is_there_is_looked_up_in_bulk_with_its_size(remote):
    paths = [record_path(FOLDER, key) for key in KEYS]
    remote.add([Addition(path, data=b"x" * number) for number, path in enumerate(paths[:3], 1)], "Add")
    found = remote.look_up([*paths, BLOB])
    assert {path: file.size for path, file in found.items()} == {paths[0]: 1, paths[1]: 2, paths[2]: 3}


def test_the_same_names_may_be_added_again_and_the_last_content_holds(remote):
    for content in (b"one", b"two", b"two"):
        remote.add([Addition(RECORD, data=content)], "Add")
        assert remote.read(RECORD, 100) == content


def test_folders_and_files_are_listed(remote):
    paths = [record_path(FOLDER, key) for key in KEYS] + [BLOB, record_path("neuronxcc-1.0", KEYS[0])]
    remote.add([Addition(path, data=path.encode()) for path in paths], "Add")
    assert [name for name in remote.folders() if name.startswith("neuronxcc")] == ["neuronxcc-1.0", FOLDER]
    assert {file.path: file.size for file in remote.walk(FOLDER)} == {path: len(path) for path in paths[:-1]}
    assert sorted(file.path for file in remote.walk(FOLDER + "/0_BLOBS")) == [BLOB]


def test_access_is_told(remote):
    access = remote.check()
    assert (access.reachable, access.readable, access.writable, access.detail) == (True, True, True, "")


def test_every_remote_has_an_identity_that_is_the_same_next_time(remote, tmp_path):
    assert len(remote.identity) == 16
    assert int(remote.identity, 16) >= 0
    assert "hf_alice" not in remote.credential


# -- folders -------------------------------------------------------------------------------------------------------


def open_folder(folder, tmp_path):
    return open_remote(read_location(f"file://{folder}"), Layout(str(tmp_path / "store")), {}, QUICK)[0]


def test_a_folder_that_is_not_mounted_is_not_made(tmp_path):
    remote = open_folder(tmp_path / "absent", tmp_path)
    for act in (
        lambda: remote.read(RECORD, 10),
        lambda: remote.look_up([RECORD]),
        lambda: remote.add([Addition(RECORD, data=b"x")], "Add"),
        remote.folders,
    ):
        with pytest.raises(RemoteUnavailable, match="is not there"):
            act()
    assert remote.check().reachable is False
    assert not (tmp_path / "absent").exists()


def test_what_is_being_written_to_a_folder_is_not_listed(tmp_path):
    remote = open_folder(tmp_path, tmp_path)
    remote.add([Addition(RECORD, data=b"x")], "Add")
    (tmp_path / RECORD).with_name(".neuron-store-half").write_bytes(b"")
    assert [file.path for file in remote.walk(FOLDER)] == [RECORD]


def test_folders_made_in_a_shared_folder_have_its_mode(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    open_folder(shared, tmp_path).add([Addition(RECORD, data=b"x")], "Add")
    assert {path.stat().st_mode & 0o7777 for path in shared.rglob("*") if path.is_dir()} == {0o2775}


def test_a_pipe_or_a_folder_in_the_place_of_a_file_does_not_hang(tmp_path, destination):
    remote = open_folder(tmp_path, tmp_path)
    place = tmp_path / RECORD
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises((RemoteUnavailable, CorruptRemote)):
        remote.read(RECORD, 10)
    with pytest.raises((RemoteUnavailable, CorruptRemote)):
        remote.download(RECORD, 10, destination)
    place.unlink()
    place.mkdir()
    with pytest.raises((RemoteUnavailable, CorruptRemote)):
        remote.read(RECORD, 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_refuses(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RemoteRefused, match="read-only"):
        open_folder(tmp_path, tmp_path).add([Addition(RECORD, data=b"x")], "Add")
    tmp_path.chmod(0o755)


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["", None, "..", "a/b", "2.1\n", "x" * 101, "-rf", "é", ".hidden", "a b"])
def test_a_version_that_can_be_no_folder_stands_for_none(version):
    assert version_folder(version) == "neuronxcc-unversioned"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n", "g" * 32])
def test_what_is_no_key_has_no_name(key):
    with pytest.raises(ValueError, match="key"):
        record_path(FOLDER, key)


@pytest.mark.parametrize(
    "folder", ["", "..", "neuronxcc-", "neuronxcc-../x", "/neuronxcc-1", "other", "neuronxcc-1/0_X"]
)
def test_what_is_no_version_folder_has_no_names(folder):
    with pytest.raises(ValueError, match="name"):
        record_path(folder, KEYS[0])
    with pytest.raises(ValueError, match="name"):
        remote_blob_path(folder, "0" * 64, "")


@given(st.text())
def test_arbitrary_text_is_no_name_of_ours(text):
    assert not is_name_of_ours(text)
    assert key_in(text) == ""


def test_names_of_ours_are_recognised():
    assert key_in(RECORD) == KEYS[0]
    assert is_name_of_ours(BLOB)
    assert key_in(BLOB) == ""
    wrong_fan = RECORD.replace(f"/{KEYS[0][:2]}/", "/zz/")
    assert not is_name_of_ours(wrong_fan)
    assert versions_of([FOLDER, "0_X", "neuronxcc-", "neuronxcc-a b", "xneuronxcc-1"]) == [FOLDER[10:]]


# -- where remotes are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "url", "writable"),
    [
        ("hf://alice/cache", "hf://alice/cache", True),
        ("hf://alice/cache/", "hf://alice/cache", True),
        ("hf://models/alice/cache", "hf://alice/cache", True),
        ("hf://alice/cache|read-only", "hf://alice/cache", False),
        ("hf://alice/cache|read-write", "hf://alice/cache", True),
        ("hf://datasets/alice/c@v1", "hf://datasets/alice/c@v1", True),
        ("hf://alice/c@refs/pr/1", "hf://alice/c@refs/pr/1", True),
        ("hf://alice/c@" + "0" * 40, "hf://alice/c@" + "0" * 40, False),
        ("file:///fsx/team store", "file:///fsx/team store", True),
        ("file:///fsx//a/./b/|ro", "file:///fsx/a/b", False),
    ],
)
def test_a_location_is_read(word, url, writable):
    location = read_location(word)
    assert (location.url, location.writable) == (url, writable)


@pytest.mark.parametrize(
    "word",
    [
        "alice/cache", "hf://", "hf://alice", "hf://alice/cache/more", "hf://al ice/cache", "hf://alice/cache@", "s3://b",
        "hf://alice/cache|", "hf://alice/cache|maybe", "file://", "file:///", "file://host/x", "file:relative",
        "hf://../cache", "hf://a/b@../../x", "hf://a/b.git", "hf://a--b/c", "https://huggingface.co/a/b", "hf://a/b?x=1",
    ],
)  # fmt: skip
def test_what_is_no_location_is_refused_with_its_own_words(word):
    if word == "hf://alice/cache|":
        assert read_location(word).writable
        return
    with pytest.raises(ConfigurationError) as caught:
        read_location(word)
    assert repr(word) in str(caught.value)


def locate(words, **environ):
    found, faults = list_locations(words.split(), {"HOME": "/nowhere", **environ})
    return [(location.url, location.writable) for location in found], faults


OFFICIAL = "hf://aws-neuron/optimum-neuron-cache|read-only"


def test_the_seeds_variable_comes_first_and_the_official_repo_after_it():
    expected = [("hf://me/mine", True), ("hf://aws-neuron/optimum-neuron-cache", False)]
    assert locate(OFFICIAL, CUSTOM_CACHE_REPO="me/mine") == (expected, [])


def test_the_saved_name_comes_first_unless_the_variable_is_set(tmp_path):
    (tmp_path / "optimum_neuron_custom_cache").write_text("me/saved\n")
    assert locate("none-of", HF_HOME=str(tmp_path))[0] == [("hf://me/saved", True)]
    assert locate("", HF_HOME=str(tmp_path), CUSTOM_CACHE_REPO="me/mine")[0] == [("hf://me/mine", True)]


def test_the_saved_name_is_where_huggingface_hub_has_its_home():
    assert saved_name_path({"HF_HOME": "/h"}) == "/h/optimum_neuron_custom_cache"
    assert saved_name_path({"XDG_CACHE_HOME": "/x"}) == "/x/huggingface/optimum_neuron_custom_cache"
    assert saved_name_path({"HOME": "/home/me"}) == "/home/me/.cache/huggingface/optimum_neuron_custom_cache"


def test_a_remote_named_twice_is_asked_once_in_its_first_place():
    words = "hf://a/b hf://c/d|ro hf://a/b|ro"
    assert locate(words)[0] == [("hf://a/b", True), ("hf://c/d", False)]


def test_none_means_no_remote_whatever_else_is_named():
    assert locate("hf://a/b none", CUSTOM_CACHE_REPO="me/mine") == ([], [])


def test_a_remote_written_wrongly_is_left_out_and_told():
    found, faults = locate("what hf://a/b", CUSTOM_CACHE_REPO="not a repo")
    assert found == [("hf://a/b", True)]
    assert len(faults) == 2
    assert "CUSTOM_CACHE_REPO" in faults[0]


# -- what is remembered --------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path):
    return RemoteState(Layout(str(tmp_path)), "0" * 16, "hf://a/b")


def let_pause_pass(state):
    state.change(lambda known: known.update(skip_until=time.time() - 1))


def test_a_remote_that_failed_is_left_alone_for_a_minute_and_then_twice_as_long(state):
    assert state.may_try(10)
    lasts = []
    for _ in range(8):
        state.note_failure(RemoteUnavailable("down"))
        lasts.append(state.read()["skip_until"] - time.time())
        assert not state.may_try(10)
        state.change(lambda known: known.update(failed_at=0))
    assert [round(last / 60) for last in lasts[:4]] in ([1, 2, 4, 8], [1, 2, 4, 9])
    assert max(lasts) < 1.11 * 1800
    state.note_success()
    assert state.may_try(10)


def test_one_outage_seen_by_many_processes_is_one_failure(state):
    for _ in range(64):
        state.note_failure(RemoteUnavailable("down"))
    assert state.read()["failures"] == 1


def test_after_the_pause_one_process_tries_and_the_others_wait_for_it(state):
    state.note_failure(RemoteUnavailable("down"))
    let_pause_pass(state)
    assert [state.may_try(10) for _ in range(5)] == [True, False, False, False, False]
    state.note_success()
    assert state.may_try(10)


def test_a_remote_is_left_alone_as_long_as_it_asks_but_not_for_ever(state):
    state.note_failure(RemoteUnavailable("quota"), retry_after=300)
    assert 299 < state.read()["skip_until"] - time.time() < 331
    state.note_failure(RemoteUnavailable("quota"), retry_after=1e9)
    assert state.read()["skip_until"] - time.time() < 4000


def test_what_was_refused_to_one_token_is_not_refused_to_another(state):
    state.note_failure(RemoteRefused("no"), credential="old")
    assert not state.may_try(10, "old")
    assert state.may_try(10, "new")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"failures": "many"}', b'{"commits": {"a": 1}, "refused": 3}', b"\xff"]
)
def test_a_damaged_memory_is_no_memory(state, content):
    Path(state.path).parent.mkdir(parents=True)
    Path(state.path).write_bytes(content)
    assert state.may_try(10)
    assert state.commits_in_hour() == []
    assert state.refused("x") == ""
    assert state.xet is None
    state.note_commit()
    state.note_failure(RemoteUnavailable("down"))
    assert len(state.commits_in_hour()) == 1
    assert not state.may_try(10)


def test_a_clock_that_was_set_back_does_not_silence_a_remote(state):
    state.note_failure(RemoteUnavailable("down"))
    state.change(lambda known: known.update(skip_until=time.time() + 1e6))
    assert state.may_try(10)


def test_a_refusal_is_news_once_for_each_token(state):
    assert state.note_refusal(RemoteRefused("no write"), "old")
    assert not state.note_refusal(RemoteRefused("no write"), "old")
    assert state.refused("old") == "no write"
    assert state.refused("new") == ""
    assert state.note_refusal(RemoteRefused("no write"), "new")
    state.forget_refusal()
    assert state.refused("new") == ""
