"""The local store in process: blobs, records, direct entries, events and locks, on real files."""

import os
import threading
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neuron_store.store.activity import mark_activity
from neuron_store.store.blob_writer import store_blob
from neuron_store.store.blobs import MissingBlob, read_blob, write_blob
from neuron_store.store.direct import ROLES, DirectEntry, Output, decode_direct, encode_direct
from neuron_store.store.errors import AmbiguousKey, CorruptEntry, NotFound, StoreUnavailable
from neuron_store.store.events import Event, append_event, read_events
from neuron_store.store.layout import Layout
from neuron_store.store.locks import DONE, HELD, TIMED_OUT, ActivityWatch, KeyLock, sweep
from neuron_store.store.results import (
    Result,
    all_keys,
    decode_result,
    direct_entry,
    encode_result,
    find_key,
    load_result,
    save_result,
)
from neuron_store.store.usage import measure_usage

KEY = "0123456789abcdef0123456789abcdef"
HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "store"))


def put(layout, data, role="neff", level=3):
    with open(layout.root + ".source", "wb") as file:
        file.write(data)
    with open(layout.root + ".source", "rb") as file:
        return store_blob(layout, role, file.fileno(), level)


def get(layout, output):
    path = layout.root + ".copy"
    with open(path, "wb") as file:
        write_blob(layout, output, file.fileno())
    with open(path, "rb") as file:
        return file.read()


def files(layout, folder):
    return [os.path.join(at, name) for at, _, names in os.walk(f"{layout.root}/{folder}") for name in names]


@quickly
@given(st.binary(max_size=5000), st.integers(0, 19), st.sampled_from(ROLES), st.sampled_from([1, 7, 200, 5000]))
@example(b"", 3, "neff", 1)
def test_a_blob_comes_back_as_it_was_stored(layout, data, level, role, repeat):
    output = put(layout, data * repeat, role, level)
    assert output.size == len(data) * repeat
    assert get(layout, output) == data * repeat
    assert read_blob(layout, output) == data * repeat


def test_what_shrinks_is_compressed_and_what_does_not_is_raw(layout):
    assert put(layout, b"instruction " * 10000).encoding == "zst"
    assert put(layout, os.urandom(100_000)).encoding == "raw"
    assert put(layout, b"instruction " * 10000, level=0).encoding == "raw"


def test_a_file_whose_middle_alone_shrinks_is_probed_there(layout):
    data = os.urandom(300_000) + bytes(5_000_000) + os.urandom(300_000)
    assert put(layout, data).encoding == "zst"


def test_equal_content_is_stored_once(layout):
    put(layout, b"same" * 100)
    put(layout, b"same" * 100)
    assert len(files(layout, "blobs")) == 1


def test_a_rotten_blob_is_healed_by_the_next_store_of_the_same_bytes(layout):
    output = put(layout, b"same" * 10000)
    (path,) = files(layout, "blobs")
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"rot")
    with pytest.raises(CorruptEntry):
        get(layout, output)
    assert get(layout, put(layout, b"same" * 10000)) == b"same" * 10000


def test_blobs_cannot_be_written_by_accident(layout):
    put(layout, b"x")
    (path,) = files(layout, "blobs")
    assert os.stat(path).st_mode & 0o777 == 0o444


@pytest.mark.parametrize("size", [10, 100_000, 9_000_000])
@pytest.mark.parametrize("compressible", [True, False])
def test_no_flipped_bit_of_a_blob_is_served(layout, size, compressible):
    data = (b"some NEFF bytes " * (size // 16 + 1))[:size] if compressible else os.urandom(size)
    output = put(layout, data)
    (path,) = files(layout, "blobs")
    os.chmod(path, 0o644)
    stored = os.path.getsize(path)
    for place in sorted({0, 1, 2, 3, 4, 5, 6, 7, 8, stored // 2, stored - 5, stored - 1} & set(range(stored))):
        for bit in (1, 128):
            with open(path, "r+b") as file:
                file.seek(place)
                (old,) = file.read(1)
                file.seek(place)
                file.write(bytes([old ^ bit]))
            try:
                served = get(layout, output)
            except CorruptEntry:
                served = None
            # A bit that zstd does not use may flip; the content that is served may not.
            assert served in (None, data)
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(bytes([old]))
    assert get(layout, output) == data


def test_a_missing_blob_is_told_from_a_rotten_one(layout):
    output = put(layout, b"x" * 100_000)
    os.unlink(files(layout, "blobs")[0])
    with pytest.raises(MissingBlob, match="gone from the store"):
        get(layout, output)


def test_an_output_that_cannot_be_written_is_an_os_error_at_any_size(layout):
    for size in (1000, 9_000_000, 60_000_000):
        output = put(layout, bytes(size))
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            write_blob(layout, output, full.fileno())


def an_output(role, sha256, xxh3, encoding, content):
    if isinstance(content, int):
        return Output(role, sha256, xxh3, content, encoding, None)
    return Output(role, sha256, xxh3, len(content), encoding, content)


OUTPUTS = st.builds(
    an_output,
    st.sampled_from(ROLES),
    HEX64,
    HEX32,
    st.sampled_from(["raw", "zst"]),
    st.integers(0, 1 << 40) | st.binary(max_size=300),
)


def entries():
    def build(key, seconds, turns, outputs):
        named = {output.role: output for output in outputs}
        named["neff"] = Output("neff", "a" * 64, "b" * 32, 7, "raw", None)
        for name, role in (("o", "stdout"), ("e", "stderr")):
            size = sum(length for turn, length in turns if turn == name)
            if turns:
                named[role] = Output(role, "a" * 64, "b" * 32, size, "raw", None)
        return DirectEntry(key, seconds, " ".join(f"{name}{length}" for name, length in turns), named)

    return st.builds(
        build,
        HEX32,
        st.none() | st.floats(0, 1e6),
        st.lists(st.tuples(st.sampled_from("oe"), st.integers(0, 99999)), max_size=6),
        st.lists(OUTPUTS, max_size=5),
    )


def as_tuple(entry):
    outputs = [tuple(getattr(o, name) for name in Output.__slots__) for o in entry.outputs.values()]
    return entry.key, entry.seconds, entry.interleave, outputs


@given(entries())
def test_a_direct_entry_comes_back_as_it_was(entry):
    assert as_tuple(decode_direct(encode_direct(entry, KEY), KEY)) == as_tuple(entry)


@given(entries(), st.data())
def test_a_damaged_direct_entry_is_refused(entry, data):
    good = encode_direct(entry, KEY)
    position = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(damaged), good[:position], good + b"x", b""):
        with pytest.raises(CorruptEntry):
            decode_direct(bad, KEY)


def result(key=KEY, **changed):
    fields = {
        "key": key,
        "components": [{"name": "flags", "digest": "d", "fields": ["--target=trn1"]}],
        "outputs": {"neff": Output("neff", "a" * 64, "b" * 32, 10, "raw", None)},
        "interleave": "",
        "seconds": 1.5,
        "input_file": {"name": "m.pb", "size": 3, "sha256": "c" * 64, "mode": "raw"},
        "provenance": {"created": 1.0},
    }
    return Result(**{**fields, **changed})


def test_a_result_comes_back_as_it_was(layout):
    save_result(layout, result())
    assert load_result(layout, KEY).as_dict() == result().as_dict()
    assert load_result(layout, "f" * 32) is None
    assert result().component("flags") == ["--target=trn1"]
    assert result().component("host") == []


def test_every_flipped_byte_of_a_result_is_noticed():
    good = encode_result(result())
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1
        with pytest.raises(CorruptEntry):
            decode_result(bytes(damaged))


def test_a_record_under_another_key_is_refused(layout):
    save_result(layout, result())
    other = layout.result_path("f" * 32)
    os.makedirs(os.path.dirname(other))
    os.rename(layout.result_path(KEY), other)
    with pytest.raises(CorruptEntry, match="is that of"):
        load_result(layout, "f" * 32)


def test_small_outputs_are_read_into_the_direct_entry(layout):
    outputs = {"neff": put(layout, b"n" * 50), "stdout": put(layout, b"....", "stdout")}
    outputs["stdout"].inline = None
    entry = direct_entry(layout, result(outputs=outputs))
    assert entry.outputs["stdout"].inline == b"...."
    assert entry.outputs["neff"].inline is None


def test_keys_are_found_by_prefix(layout):
    keys = ["ab" + "0" * 30, "ab1" + "0" * 29, "cd" + "0" * 30]
    for key in keys:
        save_result(layout, result(key))
    assert list(all_keys(layout)) == sorted(keys)
    assert find_key(layout, "c") == keys[2]
    assert find_key(layout, "ab1") == keys[1]
    with pytest.raises(AmbiguousKey, match="2 keys start with ab"):
        find_key(layout, "ab")
    for wrong in ("ef", "", "xyz", "../", "ab" * 20):
        with pytest.raises(NotFound):
            find_key(layout, wrong)


@pytest.mark.parametrize("name", ["", "short", "../../../etc/passwd", "A" * 32, "0" * 33, "0" * 31 + "\n"])
def test_only_names_that_are_keys_become_paths(layout, name):
    for make in (layout.result_path, layout.direct_path, layout.blob_path):
        with pytest.raises(ValueError, match="not a name"):
            make(name)


def test_the_root_is_tagged_as_a_cache(layout):
    layout.write_file(f"{layout.root}/results/x", b"")
    with open(f"{layout.root}/CACHEDIR.TAG") as file:
        assert file.read().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_a_store_that_cannot_be_written_says_what_to_do():
    with pytest.raises(StoreUnavailable, match="set NEURON_STORE_DIR"):
        Layout("/dev/null/store").require_writable()


EVENT_FIELDS = st.dictionaries(
    st.sampled_from(["key", "module", "run", "detail", "asked"]), st.text(min_size=1, max_size=400)
)


@quickly
@given(st.lists(st.tuples(st.floats(1e9, 2e9), EVENT_FIELDS), min_size=1, max_size=5))
def test_events_come_back_whatever_their_text(layout, events):
    before = len(list(read_events(layout)))
    for at, fields in events:
        text = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
        append_event(layout, Event(at, "hit_direct", text))
        assert text in [event.fields for event in read_events(layout)]
    assert len(list(read_events(layout))) == before + len(events)


def test_events_are_read_since_a_moment(layout):
    for at in (1_000_000_000, 1_700_000_000, 1_700_000_500):
        append_event(layout, Event(at, "hit_direct", {"seconds": "2.5"}))
    assert [event.time for event in read_events(layout, 1_700_000_100)] == [1_700_000_500]
    assert [event.seconds for event in read_events(layout, 1_600_000_000)] == [2.5, 2.5]


def test_torn_lines_are_left_out_and_hide_nothing_else(layout):
    append_event(layout, Event(1.7e9, "hit_direct", {}))
    (path,) = files(layout, "events")
    with open(path, "a") as file:
        file.write("\n2\t1700000000.0\t12\tmiss_stored detail=x")  # a disk that filled up tore it
    append_event(layout, Event(1.7e9, "miss_failed", {}))
    assert [event.outcome for event in read_events(layout)] == ["hit_direct", "miss_failed"]


def test_nothing_is_lost_when_many_append_at_once(layout):
    def work(number):
        for count in range(50):
            append_event(layout, Event(1.7e9, "hit_direct", {"detail": f"{number}-{count}"}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event.fields["detail"] for event in read_events(layout)}) == 400


def never():
    return False


def test_a_lock_is_held_by_one_and_freed_by_its_release(layout):
    first, second = KeyLock(layout, KEY), KeyLock(layout, KEY)
    assert first.acquire(0, never) == HELD
    assert second.acquire(0.05, never) == TIMED_OUT
    first.release(failed=False)
    assert second.acquire(0, never) == HELD
    second.release(failed=False)
    assert files(layout, "locks") == []


def test_a_waiter_needs_no_lock_once_the_result_is_there(layout):
    first, second = KeyLock(layout, KEY), KeyLock(layout, KEY)
    assert first.acquire(0, never) == HELD
    assert second.acquire(5, lambda: True) == DONE
    second.close()
    first.release(failed=False)


def test_a_watch_sees_who_came_and_went_meanwhile(layout):
    alone = ActivityWatch(layout, ["here"])
    assert alone.alone("here")
    alone.end()
    slow = ActivityWatch(layout, ["here", "there"])
    quick = ActivityWatch(layout, ["here"])
    assert not quick.alone("here")
    quick.end()
    assert not slow.alone("here")
    assert slow.alone("there")
    slow.end()
    last = ActivityWatch(layout, ["here"])
    assert last.alone("here")
    last.end()
    assert files(layout, "locks") == []


def test_a_mark_is_seen_by_who_watches_and_leaves_nothing_else(layout):
    assert not mark_activity(layout, ["here"])
    watch = ActivityWatch(layout, ["here", "there"])
    assert mark_activity(layout, ["here"])
    assert not watch.alone("here")
    assert watch.alone("there")
    watch.end()
    assert files(layout, "locks") == []


def test_a_sweep_leaves_what_is_held_or_young(layout):
    held, path = layout.open_temporary()
    os.utime(path, (1, 1))
    young, young_path = layout.open_temporary()
    os.close(young)
    dead, dead_path = layout.open_temporary()
    os.close(dead)
    os.utime(dead_path, (1, 1))
    assert sweep(layout)[0] == 1
    assert sweep(layout, older_than=-1) == (0, 0)  # not again so soon
    assert sorted(files(layout, "tmp")) == sorted([path, young_path])
    os.close(held)
    assert sweep(layout, older_than=-1, every=0)[0] == 2


def test_usage_counts_results_blobs_and_bytes(layout):
    assert measure_usage(layout).results == 0
    save_result(layout, result())
    put(layout, os.urandom(100_000))
    usage = measure_usage(layout)
    assert (usage.results, usage.blobs) == (1, 1)
    assert usage.bytes >= 100_000


def test_writing_a_file_replaces_the_old_one_at_once(layout):
    path = f"{layout.root}/results/x"
    stop = time.monotonic() + 1
    layout.write_file(path, b"a" * 100_000)
    torn = []

    def read():
        while time.monotonic() < stop:
            with open(path, "rb") as file:
                data = file.read()
            if len(data) != 100_000 or len(set(data)) != 1:
                torn.append(data[:10])

    reader = threading.Thread(target=read)
    reader.start()
    while time.monotonic() < stop:
        layout.write_file(path, os.urandom(1) * 100_000)
    reader.join()
    assert torn == []
