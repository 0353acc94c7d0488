"""Whatever is spoiled, and in whatever combination: after one repair nothing is wrong, and no hit gives wrong bytes."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted_faults import Planter, flip, rewrite
from stores import DAY, add_result, direct_key_of

from neuron_store.store.blobs import write_blob
from neuron_store.store.checking.check import check_store
from neuron_store.store.checking.quarantine import Quarantine
from neuron_store.store.checking.refetch import Refetcher
from neuron_store.store.checking.repairs import repair_store
from neuron_store.store.direct import decode_direct
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.results import load_result

RESULTS = 5
SHARED = b"shared by two results " * 400
PLACES = st.floats(0, 1, exclude_max=True)
WITHOUT_A_KEY = ("orphan_blob", "stale_lock", "stale_temporary", "foreign_file")
PLANTS = (*WITHOUT_A_KEY, "missing_blob", "misnamed_blob", "misnamed_record", "wrong_mode", "truncated_record")
FAULTS = st.one_of(
    st.tuples(st.sampled_from(PLANTS), st.integers(0, RESULTS - 1), st.just(0.0)),
    st.tuples(
        st.sampled_from(["flip", "truncate", "empty", "remove", "swap", "folder"]), st.integers(0, 1 << 16), PLACES
    ),
)


def contents(number):
    return SHARED if number < 2 else random.Random(number).randbytes(3000) + bytes(number * 1000)


def files_in(store):
    folders = ("results", "direct", "blobs")
    return sorted(path for folder in folders for path in (store / folder).rglob("*") if path.is_file())


def plant(store, planter, keys, fault):
    """Plant one fault; what an earlier one has made impossible is left out."""
    name, number, place = fault
    if name in PLANTS:
        try:
            getattr(planter, name)(keys[number])
        except (OSError, StopIteration, AttributeError, CorruptEntry):
            return
        return
    files = files_in(store)
    if not files:
        return
    path = files[number % len(files)]
    other = files[(number // 7) % len(files)]
    data = path.read_bytes()
    if name == "flip" and data:
        flip(path, place)
    elif name == "truncate":
        rewrite(path, data[: int(len(data) * place)])
    elif name == "empty":
        rewrite(path, b"")
    elif name == "remove":
        path.unlink()
    elif name == "folder":
        path.unlink()
        path.mkdir()
        (path / "inside").write_bytes(data)
    elif name == "swap" and other != path:
        spare = other.read_bytes()
        rewrite(other, data)
        rewrite(path, spare)


def served(layout, number, key):
    """What a hit gives for a result by its direct entry, and by its record; None for a miss."""
    given = []
    try:
        direct_key = direct_key_of(number)
        entry = decode_direct(Path(layout.direct_path(direct_key)).read_bytes(), direct_key)
        given.append(entry.outputs["neff"])
    except OSError:
        pass
    result = load_result(layout, key)
    if result is not None:
        given.append(result.outputs["neff"])
    for output in given:
        with tempfile.TemporaryFile() as file:
            write_blob(layout, output, file.fileno())
            file.seek(0)
            yield file.read()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=st.lists(FAULTS, min_size=1, max_size=8))
def test_after_a_repair_nothing_is_wrong_and_what_is_left_is_right(faults):
    store = Path(tempfile.mkdtemp(prefix="verify-property-"))
    try:
        layout = Layout(str(store))
        keys = [
            add_result(layout, number, content=contents(number), age=DAY, inputs=[("m.pb", b"in %d" % number)])
            for number in range(RESULTS)
        ]
        planter = Planter(store, layout)
        for fault in faults:
            plant(store, planter, keys, fault)
        before = check_store(layout, 1)
        refetcher = Refetcher(layout, [], lambda record, url: None, 1 << 30)
        checked, findings = repair_store(layout, 2, refetcher, Quarantine(layout))
        assert [finding for finding in findings if finding.outcome == "left"] == []
        assert checked.findings == []
        assert checked.suffering == set()
        again = check_store(layout, 2)
        assert again.findings == []
        assert again.results >= before.results - len(before.suffering)
        for number, key in enumerate(keys):
            assert all(content == contents(number) for content in served(layout, number, key))
    finally:
        shutil.rmtree(store)
