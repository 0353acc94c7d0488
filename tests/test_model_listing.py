"""`list -m` over the registry, and `pull MODEL`: what there is of models in remotes, and how it is fetched."""

import json
import os

import pytest
from cli_remotes import answer, compile_modules, connect, ns
from conftest import VERSION
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_hub import start_hub
from registry_setup import FINE_TUNE, LLAMA, MODEL, files_of, infos, make_entry, put, put_model
from remote_setup import publish

from neuron_store.store.registry.entries import KeyInfo
from neuron_store.store.registry.places import registry_folder
from neuron_store.store.results import all_keys

REGISTRY = registry_folder(VERSION)
ABSENT = {"f" * 32: KeyInfo(754.0, 1000, "decode.pb")}


@pytest.fixture
def online(host, hub):
    put_model(hub)
    return connect(host, hub)


@pytest.fixture
def taker(make_host, hub):
    return connect(make_host("taker"), hub)


# -- pull ----------------------------------------------------------------------------------------------------------


def test_every_key_of_a_model_is_pulled(online, taker, hub):
    keys = compile_modules(online, 3)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online))))
    done = ns(taker, "pull", MODEL)
    assert done.stdout.endswith(f"{MODEL} with neuronx-cc {VERSION}: 3 of 3 keys: no compile will happen\n")
    assert "fetched 3 results" in done.stdout
    assert sorted(keys) == list(all_keys(taker.layout))
    again = ns(taker, "pull", "-m", MODEL)
    assert "3 results of hf://alice/cache are here already" in again.stdout
    hub.down()
    taker.cc("compile", "--framework=XLA", "--target=trn1", "--output=o.neff",
             taker.model("elsewhere.pb", b"\x0a\x04main HLO 0"))  # fmt: skip
    assert taker.counters() == {"hit_canonical": 1}


def test_what_was_pulled_for_a_model_is_its_own_here_and_never_published(online, taker, hub):
    keys = compile_modules(online, 2)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys={**infos(online), **ABSENT})))
    ns(taker, "pull", MODEL, code=1)
    assert list(answer(taker, "du")["by_model"]) == [MODEL]
    commits = len(hub.commits("alice/cache"))
    ns(taker, "push")
    assert len(hub.commits("alice/cache")) == commits
    assert [one["unregistered"] for one in answer(taker, "remote", "status")["remotes"] if one["writable"]] == [0]
    ns(taker, "pin", MODEL)
    ns(taker, "gc", "--max-count", "0")
    assert sorted(keys) == list(all_keys(taker.layout))
    ns(taker, "unpin", MODEL)
    ns(taker, "gc", "--model", MODEL)
    assert list(all_keys(taker.layout)) == []


def test_keys_that_no_remote_has_are_told_and_the_rest_is_pulled(online, taker, hub):
    compile_modules(online, 2)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys={**infos(online), **ABSENT})))
    done = ns(taker, "pull", MODEL, code=1)
    assert len(list(all_keys(taker.layout))) == 2
    assert "2 of 3 keys: 1 compile, 12 min 34 s: ffffffffffff decode.pb (12 min 34 s)" in done.stdout
    assert "no remote has ffffffffffff" in done.stderr
    said = answer(taker, "pull", MODEL, code=1)
    assert (said["present"], said["missing"]) == (2, ["f" * 32])


def test_a_filter_chooses_which_entries_are_pulled(online, taker, hub):
    compile_modules(online, 1)
    first = infos(online)
    compile_modules(online, 1, first=1)
    second = {key: info for key, info in infos(online).items() if key not in first}
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=first, batch_size=1), make_entry(keys=second, batch_size=8)))
    ns(taker, "pull", MODEL, "--batch_size", "8")
    assert list(all_keys(taker.layout)) == list(second)
    ns(taker, "pull", MODEL)
    assert list(all_keys(taker.layout)) == sorted([*first, *second])


def test_the_keys_of_a_fine_tunes_base_are_pulled(online, taker, hub):
    compile_modules(online, 1)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online))))
    put_model(hub, FINE_TUNE)
    ns(taker, "pull", FINE_TUNE)
    assert len(list(all_keys(taker.layout))) == 1


def test_a_models_own_entries_are_pulled_before_those_of_others(online, taker, hub):
    compile_modules(online, 1)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online)), make_entry(FINE_TUNE, keys=ABSENT)))
    done = ns(taker, "pull", MODEL)
    assert "1 of 1 key: no compile will happen" in done.stdout
    assert "left out 1 entry of other models of the same architecture" in done.stderr


def test_entries_that_tell_no_keys_cannot_be_pulled(online, taker, hub):
    put(hub, files_of(make_entry()))
    done = ns(taker, "pull", MODEL, code=1)
    assert "do not tell the keys that they need" in done.stderr
    assert done.stdout == ""


def test_a_word_of_hex_digits_is_a_key(online, taker, hub):
    (key,) = compile_modules(online, 1)
    publish(online, "", hub)
    ns(taker, "pull", key[:8])
    assert list(all_keys(taker.layout)) == [key]


@pytest.mark.parametrize(("words", "said"), [
    (("acme/unknown",), "acme/unknown"),
    (("-m", "dead"), "dead"),
    ((MODEL, "--all"), "--all"),
    ((MODEL, "0123"), "key"),
    (("--batch-size", "2", "--all"), "batch_size 2"),
    ((), "say what to fetch"),
])  # fmt: skip
def test_what_cannot_be_pulled_is_told(online, hub, words, said):
    put(hub, files_of(make_entry(keys=ABSENT)))
    done = online.cli("pull", *words, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# -- list ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_entries_keys_and_sizes(online, hub):
    compile_modules(online, 2)
    put(hub, files_of(make_entry(keys=infos(online)), make_entry(FINE_TUNE, keys=ABSENT), make_entry(batch_size=9)))
    (row,) = answer(online, "list", "alice/cache", "-m", MODEL)["models"]
    assert (row["model_id"], row["entries"], row["keys"], row["compiler"]) == (MODEL, 2, 2, VERSION)
    assert row["bytes"] > 0
    rows = answer(online, "list", "alice/cache", "--models")["models"]
    assert [row["model_id"] for row in rows] == [MODEL, FINE_TUNE]
    assert MODEL in ns(online, "list", "-m", MODEL).stdout


def test_a_part_of_a_name_will_do(online, hub):
    put(hub, files_of(make_entry(), make_entry(FINE_TUNE)))
    done = ns(online, "list", "alice/cache", "-m", "llama")
    assert "no model is called llama; 2 models have that in the name" in done.stderr
    assert done.stdout.count("acme/") == 2


def test_models_are_listed_by_compiler_version(online, hub):
    older = "2.12.54.0+f631c2365"
    old = {path.replace(VERSION, older): data for path, data in files_of(make_entry()).items()}
    put(hub, {**files_of(make_entry()), **old})
    assert len(answer(online, "list", "alice/cache", "-m", MODEL)["models"]) == 2
    (row,) = answer(online, "list", "alice/cache", "-m", MODEL, "-v", "2.12")["models"]
    assert row["compiler"] == older
    done = ns(online, "list", "alice/cache", "-m", MODEL, "-v", "3.0", code=1)
    assert older in done.stderr


def test_an_unknown_model_is_told_with_those_that_are_close(online, hub):
    put(hub, files_of(make_entry()))
    done = ns(online, "list", "alice/cache", "-m", "acme/tiny-lama", code=1)
    assert MODEL in done.stderr
    assert done.stdout == ""


def test_a_remote_without_a_registry_says_so(online):
    done = ns(online, "list", "alice/cache", "-m", MODEL, code=1)
    assert "registry" in done.stderr or "no model" in done.stderr


def test_many_entries_are_counted_and_not_read(online, hub):
    entry = make_entry(keys=ABSENT)
    folder = f"{REGISTRY}/0.4.5/llama/{MODEL}"
    put(hub, {f"{folder}/{number:020x}.json": entry.encode() for number in range(250)})
    done = ns(online, "list", "alice/cache", "-m", MODEL)
    assert "250" in done.stdout
    assert "none was read" in done.stderr
    assert hub.count("resolve") == 0


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["_model_id", "_task", "neuron", "neuron_store", "model_type", "keys", "format", "unet", "\x1b[2J"]),
        inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(documents, min_size=1, max_size=6))
def test_whatever_lies_in_a_registry_the_good_entry_is_shown(make_host, found):
    with start_hub() as hub:
        hub.add_user("alice", "hf_alice")
        hub.create_repo("alice/cache")
        put_model(hub)
        host = connect(make_host(f"host-{os.urandom(4).hex()}"), hub)
        good = make_entry(keys=ABSENT)
        folder = f"{REGISTRY}/0.4.5/llama/{MODEL}"
        put(hub, files_of(good))
        put(hub, {f"{folder}/{number:020x}.json": json.dumps(each).encode() for number, each in enumerate(found)})
        said = ns(host, "lookup", MODEL).stdout
        assert "0 of 1 key" in said
        assert "\x1b" not in said
        rows = answer(host, "list", "alice/cache", "-m", MODEL)
        assert any(row["model_id"] == MODEL for row in rows["models"])
        assert set(rows["corrupt"]) <= {f"{folder}/{number:020x}.json" for number in range(6)}


def test_an_entry_without_shapes_is_found_by_its_models_name_and_by_a_fine_tune(online, hub):
    entry = make_entry(keys=ABSENT, batch_size=None, sequence_length=None)
    put(hub, {f"{REGISTRY}/0.4.5/llama/{MODEL}/{entry.name}.json": entry.encode()})
    put_model(hub, FINE_TUNE, LLAMA)
    for model in (MODEL, FINE_TUNE):
        (found,) = answer(online, "lookup", model)["entries"]
        assert found["model_id"] == MODEL
        assert found["same_model"] is (model == MODEL)
    assert "if this model makes the same graphs" not in ns(online, "lookup", FINE_TUNE).stdout


def test_another_models_keys_are_no_promise(online, hub, taker):
    compile_modules(online, 1)
    publish(online, "", hub)
    put(hub, files_of(make_entry(keys=infos(online))))
    put_model(hub, FINE_TUNE, LLAMA)
    assert (
        "1 of 1 key: no compile will happen, if this model makes the same graphs"
        in ns(taker, "lookup", FINE_TUNE).stdout
    )
    assert "1 of 1 key: no compile will happen\n" in ns(taker, "lookup", MODEL).stdout
