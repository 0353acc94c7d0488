"""The queue, and the uploader that drains it: over a remote in memory, and over a Hub with real processes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from loopback_hub import Status, start_hub
from uploads import (
    FOLDER,
    MemoryRemote,
    Told,
    fast,
    fill,
    left,
    make_key,
    make_neff,
    make_uploader,
    open_hub,
    put_result,
    queue_all,
    records_of,
)

from neuron_store.store import queue as queue_module
from neuron_store.store import upload_batch, upload_line
from neuron_store.store.errors import RemoteConflict, RemoteRefused, RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.locks import sweep
from neuron_store.store.queue import (
    dequeue,
    enqueue,
    hurry,
    is_hurried,
    oldest,
    queue_length,
    queued,
    recover,
)
from neuron_store.store.remotes.records import decode_record
from neuron_store.store.upload_line import UploadLine, UploadPolicy
from neuron_store.store.upload_lock import FOREGROUND, UPLOADER, UploadLock, is_taken

ONE = "1" * 16
KEY = "ab" * 16
DOWN = RemoteUnavailable("it is down")


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "store"))


@pytest.fixture
def remote():
    return MemoryRemote()


def age(layout, identity, seconds):
    """Make all that is queued older."""
    for entry in queued(layout, identity):
        words = entry.content.split(b" ")
        words[1] = b"%.6f" % (entry.at - seconds)
        layout.write_file(layout.queue_path(identity, entry.key), b" ".join(words))


# -- the queue --------------------------------------------------------------------------------------------------------


def test_what_is_queued_is_listed_until_it_is_taken_out(layout):
    assert queued(layout, ONE) == []
    assert oldest(layout, ONE) is None
    before = time.time()
    enqueue(layout, ONE, KEY)
    enqueue(layout, "2" * 16, KEY, replace=True)
    (entry,) = queued(layout, ONE)
    assert (entry.key, entry.replace) == (KEY, False)
    assert before - 1 < entry.at == oldest(layout, ONE) < time.time() + 1
    assert queued(layout, "2" * 16)[0].replace
    assert dequeue(layout, ONE, entry)
    assert (queue_length(layout, ONE), queue_length(layout, "2" * 16)) == (0, 1)
    assert dequeue(layout, ONE, entry)
    assert os.listdir(layout.queue_path(ONE)) == []


def test_the_oldest_comes_first(layout):
    for number in (3, 1, 2):
        layout.write_file(layout.queue_path(ONE, make_key(number)), f"1 {number}.5 add 12345678\n".encode())
    assert [entry.at for entry in queued(layout, ONE)] == [1.5, 2.5, 3.5]


def test_what_is_queued_once_more_stays(layout):
    enqueue(layout, ONE, KEY)
    (entry,) = queued(layout, ONE)
    enqueue(layout, ONE, KEY)
    assert not dequeue(layout, ONE, entry)
    (entry,) = queued(layout, ONE)
    assert dequeue(layout, ONE, entry)


def test_a_wish_to_replace_stands(layout):
    enqueue(layout, ONE, KEY, replace=True)
    enqueue(layout, ONE, KEY)
    assert queued(layout, ONE)[0].replace


def test_queueing_at_the_very_moment_of_taking_out_is_not_lost(layout, monkeypatch):
    enqueue(layout, ONE, KEY)
    (entry,) = queued(layout, ONE)
    rename = os.rename

    def late(source, target):
        if source.endswith(KEY):  # moved aside: now someone queues it again
            enqueue(layout, ONE, KEY, replace=True)
        rename(source, target)
        if source.endswith(KEY):
            enqueue(layout, ONE, KEY)

    monkeypatch.setattr(queue_module.os, "rename", late)
    assert not dequeue(layout, ONE, entry)
    monkeypatch.undo()
    assert [entry.replace for entry in queued(layout, ONE)] == [True]
    assert len(os.listdir(layout.queue_path(ONE))) == 1


def test_a_kill_while_taking_out_leaves_it_queued(layout):
    enqueue(layout, ONE, KEY, replace=True)
    os.rename(layout.queue_path(ONE, KEY), layout.queue_path(ONE, f".{KEY}.12345678"))
    assert queued(layout, ONE) == []
    recover(layout, ONE)
    assert [(entry.key, entry.replace) for entry in queued(layout, ONE)] == [(KEY, True)]
    assert len(os.listdir(layout.queue_path(ONE))) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"1", b"1 x add 12345678\n", b"1 5 add", b"1 -5 add 1\n", b"1 nan add 1\n", b"2 5 add 1\n", b"\xff\0"],
)
def test_a_torn_entry_is_an_old_one(layout, content):
    layout.write_file(layout.queue_path(ONE, KEY), content)
    (entry,) = queued(layout, ONE)
    assert (entry.at, entry.replace) == (0, False)
    assert dequeue(layout, ONE, entry)


def test_an_entry_of_the_future_is_an_old_one(layout):
    layout.write_file(layout.queue_path(ONE, KEY), f"1 {time.time() + 1000:.6f} add 12345678\n".encode())
    assert queued(layout, ONE)[0].at == 0


def test_foreign_files_are_let_be(layout):
    folder = Path(layout.queue_path(ONE))
    folder.mkdir(parents=True)
    for name in ("README", ".hidden", "x" * 32, KEY[:-1], f".{KEY}.12345"):
        (folder / name).write_text("1 5 add 12345678\n")
    (folder / KEY).mkdir()
    os.mkfifo(folder / ("cd" * 16))
    assert queued(layout, ONE) == []
    recover(layout, ONE)
    assert len(os.listdir(folder)) == 7


def test_only_keys_are_queued(layout):
    for name in ("../" + "a" * 29, "A" * 32, ""):
        with pytest.raises(ValueError, match="not a key"):
            enqueue(layout, ONE, name)


# -- when a batch is due ----------------------------------------------------------------------------------------------


def line_of(layout, remote, **policy):
    line = UploadLine(layout, remote, UploadPolicy(**policy))
    line.refresh()
    return line


def test_a_batch_is_due_when_it_is_quiet_or_old_or_full_or_hurried(layout, remote):
    assert not line_of(layout, remote).is_due(hurried=True)
    queue_all(layout, remote, [make_key(1)])
    age(layout, remote.identity, 50)
    queue_all(layout, remote, [make_key(2)])
    age(layout, remote.identity, 50)

    def due(hurried=False, compiling=False, **policy):
        line = line_of(layout, remote, **{"quiet": 1000, "max_age": 1000, **policy})
        return line.is_due(hurried=hurried, compiling=compiling)

    assert not due()
    assert due(quiet=49)
    assert not due(quiet=60)
    assert not due(quiet=49, compiling=True)
    assert due(max_age=99, compiling=True)
    assert due(hurried=True, compiling=True)
    assert due(max_age=99)
    assert not due(max_age=110)
    assert due(most_results=2)
    assert due(hurried=True)
    assert due(hurry=True)


def test_changes_of_the_queue_are_seen(layout, remote):
    line = line_of(layout, remote)
    for number in range(20):
        queue_all(layout, remote, [make_key(number)])
        line.refresh()
        assert len(line.pending) == number + 1
    for entry in queued(layout, remote.identity):
        dequeue(layout, remote.identity, entry)
        line.refresh()
    assert line.pending == []


def test_a_queue_at_rest_is_not_read_again(layout, remote, monkeypatch):
    queue_all(layout, remote, [KEY])
    os.utime(layout.queue_path(remote.identity), (1, 1))
    line = line_of(layout, remote)
    monkeypatch.setattr(upload_line, "queued", None)
    line.refresh()
    assert len(line.pending) == 1


def test_waits_grow_at_random_and_obey_the_remote(layout, remote, monkeypatch):
    line = line_of(layout, remote, retry=5.0)
    longest = []
    monkeypatch.setattr(upload_line.random, "uniform", lambda low, high: longest.append(high) or low)
    for _ in range(10):
        line.note_failure(DOWN)
    assert longest == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert line.wait_after_failure() == 0
    line.note_failure(RemoteUnavailable("busy", 55.0))
    assert 50 < line.wait_after_failure() <= 55
    line.note_failure(RemoteUnavailable("busy", 1e9))
    assert 3500 < line.wait_after_failure() <= 3600
    line.note_success()
    assert (line.failures, line.wait_after_failure()) == (0, 0)


# -- a batch ----------------------------------------------------------------------------------------------------------


def test_results_are_uploaded_by_one_commit_and_leave_the_queue(layout, remote):
    keys = fill(layout, range(5))
    queue_all(layout, remote, keys)
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert records_of(remote.files) == sorted(keys)
    assert remote.messages == [f"Add 5 results of {FOLDER}"]
    assert (left(layout, remote), told.counts) == (0, {"upload_done": 5})
    assert {key for _, key, _ in told.events} == set(keys)
    assert remote.calls == {"look_up": 1, "add": 1}


def test_what_is_there_already_is_not_sent(layout, remote):
    keys = fill(layout, range(5))
    queue_all(layout, remote, keys[:3])
    make_uploader(layout, remote).run(0.0)
    queue_all(layout, remote, keys)
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert told.counts == {"upload_present": 3, "upload_done": 2}
    assert set(remote.added.values()) == {1}
    queue_all(layout, remote, keys)
    make_uploader(layout, remote).run(0.0)
    assert remote.calls["add"] == 2


def test_results_that_share_a_blob_send_it_once(layout, remote):
    queue_all(layout, remote, fill(layout, range(4), neff=lambda number: make_neff(number // 2)))
    make_uploader(layout, remote, most_results=3).run(0.0)
    assert len(remote.messages) == 2
    assert Counter(path.split("/")[1] for path in remote.added) == {"0_RESULTS": 4, "0_BLOBS": 2}
    assert set(remote.added.values()) == {1}


def test_another_zstds_blob_is_described_as_it_is(layout, remote):
    neff = make_neff(1)
    (key,) = fill(layout, [1])
    queue_all(layout, remote, [key])
    make_uploader(layout, remote).run(0.0)
    (blob,) = [path for path in remote.files if "0_BLOBS" in path]
    assert blob.endswith(".zst")
    (record,) = [path for path in remote.files if "0_RESULTS" in path]
    del remote.files[record]
    remote.files[blob] = zstandard.ZstdCompressor(19, write_content_size=True).compress(neff) + b""
    queue_all(layout, remote, [key])
    make_uploader(layout, remote).run(0.0)
    assert remote.added == {blob: 1, record: 2}
    (stored,) = decode_record(remote.files[record], key, FOLDER, 1 << 30).outputs
    described = remote.look_up([blob])[blob]
    assert (stored.stored_size, stored.stored_sha256) == (described.size, described.sha256)


def test_a_blob_that_is_collected_before_its_record_comes_is_sent_after_all(layout, remote):
    one, two = put_result(layout, 1, b"shared" * 1000), put_result(layout, 2, b"shared" * 1000)
    queue_all(layout, remote, [one])
    make_uploader(layout, remote).run(0.0)
    (blob,) = [path for path in remote.files if "0_BLOBS" in path]
    (record,) = [path for path in remote.files if "0_RESULTS" in path]
    add = remote.add

    def collected_before(additions, *arguments):
        remote.add = add
        remote.remove([record, blob], "Remove 1 result, 1 blob", "")
        add(additions, *arguments)

    remote.add = collected_before
    queue_all(layout, remote, [two])
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert records_of(remote.files) == [two]
    assert remote.added[blob] == 2
    assert (left(layout, remote), told.counts) == (0, {"upload_done": 1})


@pytest.mark.parametrize("tells_sha256", [True, False])
def test_a_raw_blob_that_is_not_itself_is_replaced(layout, tells_sha256):
    remote = MemoryRemote(tells_sha256=tells_sha256)
    neff = random.Random(1).randbytes(5000)
    key = put_result(layout, 1, neff, level=0)
    queue_all(layout, remote, [key])
    make_uploader(layout, remote).run(0.0)
    (blob,) = [path for path in remote.files if "0_BLOBS" in path]
    (record,) = [path for path in remote.files if "0_RESULTS" in path]
    for stored, times in ((neff, 1), (b"torn", 2)):
        del remote.files[record]
        remote.files[blob] = stored
        queue_all(layout, remote, [key])
        make_uploader(layout, remote).run(0.0)
        assert remote.files[blob] == neff
        assert remote.added[blob] == times


def test_what_is_corrupt_there_is_replaced(layout, remote):
    keys = fill(layout, range(3))
    queue_all(layout, remote, keys)
    make_uploader(layout, remote).run(0.0)
    whole = dict(remote.files)
    for path in remote.files:
        remote.files[path] = b"rubbish"
    queue_all(layout, remote, keys[:1])
    make_uploader(layout, remote).run(0.0)
    assert set(remote.files.values()) == {b"rubbish"}
    queue_all(layout, remote, keys, replace=True)
    make_uploader(layout, remote).run(0.0)
    assert remote.files == whole
    assert left(layout, remote) == 0


def test_what_cannot_be_shared_leaves_the_queue_with_a_reason(layout, remote):
    gone, corrupt, blobless, unproven, good = fill(layout, range(5))
    put_result(layout, 3, make_neff(3), proof=False)
    os.unlink(layout.result_path(gone))
    Path(layout.result_path(corrupt)).write_bytes(b"torn")
    neffs = {number: make_neff(number) for number in range(5)}
    for path in Path(layout.root, "blobs").rglob("*"):
        if path.is_file() and zstandard.ZstdDecompressor().decompress(path.read_bytes()) == neffs[2]:
            path.unlink()
    queue_all(layout, remote, [gone, corrupt, blobless, unproven, good])
    told = Told()
    summary = make_uploader(layout, remote, told=told).drain()
    assert told.counts == {"upload_dropped": 4, "upload_done": 1}
    assert (summary.dropped, summary.uploaded, summary.left) == (4, 1, 0)
    reasons = {key: detail for outcome, key, detail in told.events if outcome == "upload_dropped"}
    assert "gone from the local store" in reasons[gone]
    assert "record" in reasons[corrupt]
    assert "blob" in reasons[blobless]
    assert "no proof" in reasons[unproven]


def test_a_disk_that_cannot_read_one_result_delays_only_that_one(layout, remote, monkeypatch):
    keys = fill(layout, range(4))
    queue_all(layout, remote, keys)
    make_upload = upload_batch.make_upload
    faults = [OSError(5, "Input/output error", "blob")] * 2

    def failing(layout, result, names, *, with_inputs):
        if result.key == keys[1] and faults:
            raise faults.pop()
        return make_upload(layout, result, names, with_inputs=with_inputs)

    monkeypatch.setattr(upload_batch, "make_upload", failing)
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert told.counts == {"upload_done": 4, "upload_failed": 2}
    assert [message.split()[1] for message in remote.messages] == ["3", "1"]
    assert "Input/output error" in told.lines[0]


def test_batches_end_with_so_many_results_or_bytes(layout, remote):
    queue_all(layout, remote, fill(layout, range(10)))
    make_uploader(layout, remote, most_results=4).run(0.0)
    assert [message.split()[1] for message in remote.messages] == ["4", "4", "2"]
    queue_all(layout, remote, fill(layout, range(20, 25)))
    make_uploader(layout, remote, most_bytes=5000).run(0.0)
    assert [message.split()[1] for message in remote.messages[3:]] == ["2", "2", "1"]


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [DOWN, RemoteConflict("another commit"), OSError(28, "No space"), KeyError("bug")])
def test_a_fault_costs_an_attempt(layout, remote, error, after):
    keys = fill(layout, range(3))
    queue_all(layout, remote, keys)
    remote.faults = [("look_up", error, False), ("add", error, after), ("look_up", error, False)]
    told = Told()
    make_uploader(layout, remote, told=told).run(0.0)
    assert told.counts["upload_failed"] == len(told.lines) == 3
    assert told.counts["upload_present" if after else "upload_done"] == 3
    assert records_of(remote.files) == sorted(keys)
    assert set(remote.added.values()) == {1}


def test_a_remote_that_is_down_does_not_hold_up_another(layout, remote):
    down = MemoryRemote("memory:down")
    down.always = DOWN
    keys = fill(layout, range(3))
    for one in (down, remote):
        queue_all(layout, one, keys)
    uploader = make_uploader(layout, down, remote)
    thread = threading.Thread(target=uploader.run, args=(0.0,))
    thread.start()
    while left(layout, remote):
        time.sleep(0.005)
    assert left(layout, down) == 3
    assert thread.is_alive()
    down.always = None
    thread.join()
    assert left(layout, down) == 0


def test_no_right_to_write_is_tried_once_until_we_are_someone_else(layout, remote):
    queue_all(layout, remote, fill(layout, range(3)))
    remote.faults = [("add", RemoteRefused("no right"), False)]
    told = Told()
    for _ in range(3):
        make_uploader(layout, remote, told=told).run(0.0)
    assert told.counts == {"upload_refused": 1}
    assert len(told.lines) == 1
    assert remote.calls["add"] == 1
    summary = make_uploader(layout, remote, told=told).drain()
    assert "no right" in summary.refused
    assert (summary.left, remote.calls["add"]) == (3, 1)
    remote.who = "bob"
    remote.faults = [("look_up", RemoteRefused("nor you"), False)]
    make_uploader(layout, remote, told=told).run(0.0)
    assert (told.counts["upload_refused"], len(told.lines)) == (2, 2)
    remote.who = ""
    make_uploader(layout, remote, told=told).run(0.0)
    assert left(layout, remote) == 0
    remote.who = "bob"
    queue_all(layout, remote, fill(layout, range(10, 11)))
    make_uploader(layout, remote, told=told).run(0.0)
    assert left(layout, remote) == 0


def test_someone_without_a_token_is_refused_like_anyone(layout, remote):
    remote.who = ""
    queue_all(layout, remote, fill(layout, range(3)))
    remote.faults = [("add", RemoteRefused("no right"), False)]
    told = Told()
    for _ in range(2):
        make_uploader(layout, remote, told=told).run(0.0)
    assert (told.counts, len(told.lines), remote.calls["add"]) == ({"upload_refused": 1}, 1, 1)


def test_a_remote_that_we_may_only_read_gets_nothing(layout, remote):
    queue_all(layout, remote, fill(layout, range(3)))
    remote.writable = False
    assert make_uploader(layout, remote).drain().left == 0
    assert remote.calls == {}


def test_the_hours_commits_are_counted_across_uploaders(layout, remote):
    state = line_of(layout, remote).state
    long_ago = time.time() - 3601
    state.change(lambda known: known.update(commits=[long_ago] * 10))
    queue_all(layout, remote, fill(layout, range(5)))
    summary = make_uploader(layout, remote, commits_per_hour=2, most_results=1).drain()
    assert (summary.uploaded, summary.left) == (2, 3)
    assert "2 commits" in summary.failed
    assert "60 minutes" in summary.failed
    assert make_uploader(layout, remote, commits_per_hour=2).drain().left == 3
    almost = time.time() - 3599.9
    state.change(lambda known: known.update(commits=[almost, almost]))
    make_uploader(layout, remote, commits_per_hour=2).run(0.0)  # waits for the tenth of a second
    assert left(layout, remote) == 0


def test_failed_attempts_are_part_of_the_budget(layout, remote):
    remote.faults = [("add", DOWN, False)] * 3
    queue_all(layout, remote, fill(layout, range(2)))
    summary = make_uploader(layout, remote, commits_per_hour=2).drain()
    assert (remote.calls["add"], summary.left) == (2, 2)


# -- in the foreground ------------------------------------------------------------------------------------------------


def test_a_drain_asks_for_no_quiet_and_tells_progress(layout, remote):
    queue_all(layout, remote, fill(layout, range(5)))
    told = []
    hurry(layout)
    uploader = make_uploader(layout, remote, quiet=1000, max_age=1000, hurry=False, most_results=3)
    summary = uploader.drain(progress=lambda *numbers: told.append(numbers))
    assert (summary.uploaded, summary.present, summary.left, summary.failed) == (5, 0, 0, "")
    assert not is_hurried(layout)
    totals = [numbers[:2] for numbers in told]
    assert totals == sorted(totals)
    arrived = tuple(sum(column) for column in list(zip(*told, strict=True))[2:])
    assert arrived == totals[-1] == (summary.bytes, 10)
    assert summary.bytes == sum(map(len, remote.files.values()))


def test_a_drain_gives_up_after_some_attempts_and_says_why(layout, remote):
    other = MemoryRemote("memory:two")
    keys = fill(layout, range(3))
    for one in (remote, other):
        queue_all(layout, one, keys)
    remote.always = DOWN
    summary = make_uploader(layout, remote, other).drain()
    assert (summary.uploaded, summary.left) == (3, 3)
    assert summary.failed == "memory:one: it is down"
    assert remote.calls["look_up"] == 5
    assert is_hurried(layout)


def test_a_drain_ends_at_its_deadline(layout, remote):
    queue_all(layout, remote, fill(layout, range(3)))
    summary = make_uploader(layout, remote).drain(0.0)
    assert (summary.left, remote.calls) == (3, {})
    assert "no time left" in summary.failed
    remote.always = RemoteUnavailable("busy", 1000)
    summary = make_uploader(layout, remote).drain(0.1)
    assert summary.failed == "there was no time left; memory:one: busy"


def test_a_drain_waits_for_the_uploader_until_its_deadline(layout, remote):
    queue_all(layout, remote, fill(layout, range(3)))
    lock = UploadLock(layout)
    assert lock.try_take()
    assert "another upload" in make_uploader(layout, remote).drain(0.05).failed
    assert is_hurried(layout)
    lock.release()
    assert make_uploader(layout, remote).drain(0.05).left == 0


def test_an_uploader_that_waits_makes_room_for_a_drain(layout, remote):
    """The background uploader may have hundreds of seconds to wait; a person has not."""
    queue_all(layout, remote, fill(layout, range(3)))
    remote.faults = [("look_up", RemoteUnavailable("busy", 1000), False)]
    background = make_uploader(layout, remote)
    thread = threading.Thread(target=background.run, args=(1000.0,))
    thread.start()
    while remote.faults:
        time.sleep(0.005)
    assert make_uploader(layout, remote).drain().uploaded == 3
    assert not is_taken(layout, FOREGROUND)
    while not is_taken(layout, UPLOADER):
        time.sleep(0.005)
    background.stop()
    thread.join()


# -- one uploader, always ---------------------------------------------------------------------------------------------


def test_a_second_uploader_ends_at_once(layout, remote):
    queue_all(layout, remote, fill(layout, range(3)))
    lock = UploadLock(layout)
    assert lock.try_take()
    assert is_taken(layout)
    make_uploader(layout, remote).run(1000.0)
    assert remote.calls == {}
    lock.release()
    assert not is_taken(layout)


def test_a_lock_that_was_swept_away_is_not_the_lock(layout):
    first, second = UploadLock(layout), UploadLock(layout)
    assert first.try_take()
    first.release()
    opened = os.open(layout.lock_path(UPLOADER), os.O_RDWR)
    os.utime(layout.lock_path(UPLOADER), (1, 1))
    assert sweep(layout, every=0.0)[0] == 1
    assert second.try_take()
    os.utime(layout.lock_path(UPLOADER), (1, 1))
    assert sweep(layout, every=0.0) == (0, 0)
    assert not first.try_take()
    os.close(opened)


def test_what_is_queued_while_the_uploader_ends_is_not_left(layout, remote, monkeypatch):
    """A shim that finds the lock held starts no uploader, though that one has looked for the last time."""
    late = iter(fill(layout, range(3)))
    release = UploadLock.release

    def release_late(self):
        for key in late:
            if self.held:
                enqueue(layout, remote.identity, key)
                break
        release(self)

    monkeypatch.setattr(UploadLock, "release", release_late)
    make_uploader(layout, remote).run(0.0)
    assert left(layout, remote) == 0
    assert len(records_of(remote.files)) == 3


def test_many_that_queue_and_start_an_uploader_only_if_there_is_none(layout, remote):
    keys = fill(layout, range(60))
    threads = []

    def start():
        thread = threading.Thread(target=make_uploader(layout, remote).run, args=(0.0,))
        threads.append(thread)
        thread.start()

    def shim(some):
        for key in some:
            enqueue(layout, remote.identity, key)
            if not is_taken(layout):
                start()

    shims = [threading.Thread(target=shim, args=(keys[first::4],)) for first in range(4)]
    for thread in shims:
        thread.start()
    for thread in shims:
        thread.join()
    for thread in threads:
        thread.join()
    assert left(layout, remote) == 0
    assert records_of(remote.files) == sorted(keys)
    assert set(remote.added.values()) == {1}


def test_an_idle_uploader_stays_for_a_while_and_stops_when_told(layout, remote):
    uploader = make_uploader(layout, remote)
    thread = threading.Thread(target=uploader.run, args=(1000.0,))
    thread.start()
    queue_all(layout, remote, fill(layout, range(2)))
    while left(layout, remote):
        time.sleep(0.005)
    assert thread.is_alive()
    uploader.stop()
    thread.join()
    assert not is_taken(layout)


def test_one_that_is_told_to_stop_begins_nothing_new(layout, remote):
    queue_all(layout, remote, fill(layout, range(6)))
    uploader = make_uploader(layout, remote, most_results=2)
    add = remote.add

    def add_and_stop(additions, message, progress):
        if remote.messages:
            uploader.stop()  # between two files
        add(additions, message, progress)

    remote.add = add_and_stop
    uploader.run(1000.0)
    assert len(remote.messages) == 1
    assert left(layout, remote) == 4
    make_uploader(layout, remote).run(0.0)
    assert (left(layout, remote), len(records_of(remote.files))) == (0, 6)


def test_a_hurry_is_over_when_nothing_waits(layout, remote):
    hurry(layout)
    hurry(layout)
    queue_all(layout, remote, fill(layout, range(2)))
    make_uploader(layout, remote, hurry=False, quiet=1000, max_age=1000).run(0.0)
    assert left(layout, remote) == 0
    assert not is_hurried(layout)


def test_an_uploader_costs_next_to_nothing_while_it_waits(layout, remote):
    queue_all(layout, remote, fill(layout, range(50)))
    uploader = make_uploader(layout, remote, hurry=False, quiet=1000, max_age=1000, poll=UploadPolicy().poll)
    os.utime(layout.queue_path(remote.identity), (1, 1))
    looks = []
    uploader._lines[0].refresh = lambda refresh=uploader._lines[0].refresh: looks.append(1) or refresh()
    thread = threading.Thread(target=uploader.run, args=(0.0,))
    begun = time.monotonic()
    thread.start()
    time.sleep(1.0)
    uploader.stop()
    thread.join()
    assert len(looks) <= (time.monotonic() - begun) / UploadPolicy().poll + 2
    assert remote.calls == {}


def test_the_uploader_is_no_burden_to_those_who_only_queue():
    code = (
        "import sys; import neuron_store.store.queue, neuron_store.store.upload_lock; "
        "print([name for name in ('json', 'base64', 'random', 'hashlib', 'huggingface_hub') if name in sys.modules]); "
        "import neuron_store.store.uploader; print('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[1] == "False"
    alone = subprocess.run([sys.executable, "-c", "import sys; print('json' in sys.modules)"], capture_output=True)
    if b"False" in alone.stdout:
        assert "json" not in done.stdout


# -- real processes, a real client ------------------------------------------------------------------------------------

TOKEN = "hf_aliceSecretToken"
REPO = "alice/cache"


@pytest.fixture
def hub():
    with start_hub(users=(("alice", TOKEN),)) as server:
        server.create_repo(REPO)
        yield server


class Host:
    """A process that forks an uploader when told to."""

    def __init__(self, hub, store, repo=REPO) -> None:
        self.layout = Layout(str(store))
        self.remote, _ = open_hub(self.layout, hub.endpoint, repo, TOKEN)
        program = Path(__file__).with_name("uploads.py")
        self.process = subprocess.Popen(
            [sys.executable, program, str(store), hub.endpoint, repo, TOKEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, most_results: int, kill_after: "float | str" = "never") -> None:
        self.process.stdin.write(f"{most_results} {kill_after}\n")
        self.process.stdin.flush()

    def result(self) -> int:
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0


@pytest.fixture
def make_process(hub, tmp_path):
    made = []

    def make(name):
        made.append(Host(hub, tmp_path / name))
        return made[-1]

    yield make
    for host in made:
        host.close()


def assert_landed_once(hub, keys):
    assert records_of(hub.files(REPO)) == sorted(keys)
    times = Counter(path for commit in hub.commits(REPO) for path in commit.added)
    assert set(times.values()) == {1}
    assert len(times) == 2 * len(keys)


def test_an_uploader_that_is_killed_at_any_moment_loses_nothing_and_doubles_nothing(hub, make_process):
    host = make_process("store")
    chance = random.Random(7)
    keys = []
    killed = turn = 0
    # A slow machine lets them live longer, until one of them has done something.
    while turn < 50 or (turn < 200 and not hub.commits(REPO)):
        turn += 1
        new = fill(host.layout, range(4 * turn, 4 * turn + 4))
        queue_all(host.layout, host.remote, new)
        keys += new
        host.start(most_results=3, kill_after=chance.uniform(0.0, 0.15 + turn / 50))
        killed += host.result() == -signal.SIGKILL
        while hub._sockets:  # what it had sent may still be taken in
            time.sleep(0.001)
    assert killed
    assert hub.commits(REPO), "each of them was killed before it did anything"
    host.start(most_results=100)
    assert host.result() == 0
    assert left(host.layout, host.remote) == 0
    assert_landed_once(hub, keys)
    puts = Counter(request.path for request in hub.seen("lfs-put") if request.status == 200)
    assert set(puts.values()) == {1}
    assert list(Path(host.layout.root, "queue", host.remote.identity).iterdir()) == []


def test_four_hosts_that_upload_at_once_keep_each_others_results(hub, make_process):
    hub.commit_lock_seconds = 0.01
    hosts = [make_process(f"host{number}") for number in range(4)]
    keys = []
    for number, host in enumerate(hosts):
        mine = fill(host.layout, range(25 * number, 25 * number + 25))
        queue_all(host.layout, host.remote, mine)
        keys += mine
    for host in hosts:
        host.start(most_results=5)
    assert [host.result() for host in hosts] == [0, 0, 0, 0]
    assert [left(host.layout, host.remote) for host in hosts] == [0, 0, 0, 0]
    assert_landed_once(hub, keys)
    assert len(hub.commits(REPO)) == 20


def test_hosts_that_have_the_same_results_do_each_other_no_harm(hub, make_process):
    hosts = [make_process(f"host{number}") for number in range(2)]
    keys = []
    for host in hosts:
        keys = fill(host.layout, range(20), level=3 if host is hosts[0] else 9)
        queue_all(host.layout, host.remote, keys)
    for host in hosts:
        host.start(most_results=4)
    assert [host.result() for host in hosts] == [0, 0]
    files = hub.files(REPO)
    assert records_of(files) == sorted(keys)
    assert [left(host.layout, host.remote) for host in hosts] == [0, 0]
    for path, data in files.items():
        if "0_RESULTS" in path:
            (stored,) = decode_record(data, path[-37:-5], FOLDER, 1 << 30).outputs
            assert hashlib.sha256(files[stored.remote_path(FOLDER)]).hexdigest() == stored.stored_sha256


def test_a_hub_that_goes_away_for_a_while_costs_nothing(hub, layout):
    remote, _ = open_hub(layout, hub.endpoint, REPO, TOKEN)
    keys = fill(layout, range(6))
    queue_all(layout, remote, keys)
    hub.down()
    told = Told()
    thread = threading.Thread(target=make_uploader(layout, remote, told=told).run, args=(0.0,))
    thread.start()
    while not told.lines:
        time.sleep(0.005)
    hub.up()
    thread.join()
    assert left(layout, remote) == 0
    assert_landed_once(hub, keys)


def test_a_busy_hub_is_given_the_time_that_it_asks_for(hub, layout):
    remote, _ = open_hub(layout, hub.endpoint, REPO, TOKEN)
    queue_all(layout, remote, fill(layout, range(1)))
    hub.fail("commit", Status(429, {"Retry-After": "1"}))
    make_uploader(layout, remote).run(0.0)
    first, second = (request.time for request in hub.seen("commit"))
    assert second - first >= 1
    assert fast().retry < 1
