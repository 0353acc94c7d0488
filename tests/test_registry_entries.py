"""Entries of the registry: read in every layout there has been, merged without loss, and named as optimum-neuron does."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_store.store.errors import CorruptRemote
from neuron_store.store.registry.architecture import arch_digest, model_type_of, same_architecture
from neuron_store.store.registry.entries import Entry, KeyInfo, decode_entry
from neuron_store.store.registry.places import (
    Place,
    entry_paths,
    files_by_digest,
    is_model_id,
    is_release,
    local_id,
)

FIXTURES = Path(__file__).parent / "fixtures/registry"
KEPT = [
    (layout.name, str(path.relative_to(layout)))
    for layout in sorted(FIXTURES.glob("optimum-neuron-*"))
    for path in sorted(layout.rglob("*.json"))
]
PLACE = Place("neuronxcc-2.21.33363.0+82129205/0_REGISTRY/0.4.5/llama/acme/tiny-llama/d8170bbfa9e58e1bf5f0.json")
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
NEURON = {"task": "text-generation", "batch_size": 1, "checkpoint_id": "acme/tiny-llama"}

hexes = st.text("0123456789abcdef", min_size=32, max_size=32)
infos = st.builds(
    KeyInfo,
    st.none() | st.floats(0, 1e8),
    st.none() | st.integers(0, 1 << 40),
    st.text("abc._", max_size=20),
    st.dictionaries(st.sampled_from(["hlo", "flags", "compiler"]), hexes),
)
uncached = st.dictionaries(st.sampled_from(["pass_nki_kernel", "miss_failed"]), st.sets(hexes, min_size=1, max_size=3))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def make(keys=None, more=None, digests=("d" * 64,)):
    return Entry("acme/tiny-llama", "text-generation", CONFIG, NEURON, keys, more, digests)


def as_dict(entry):
    return json.loads(entry.encode())


# -- in every layout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "path"), KEPT)
def test_an_entry_of_every_layout_is_read(layout, path):
    place = Place(path)
    entry = decode_entry((FIXTURES / layout / path).read_bytes(), place)
    assert place.path == path
    assert not entry.ours
    assert is_model_id(entry.model_id)
    assert entry.model_type
    assert entry.neuron.get("checkpoint_id", entry.model_id) == entry.model_id
    assert entry.neuron
    if not place.digest:
        assert (place.model_type, place.model_id) == (entry.model_type, entry.model_id)


def test_there_is_an_entry_of_every_layout():
    found = {
        (layout.removeprefix("optimum-neuron-"), Place(path).mode, bool(Place(path).digest)) for layout, path in KEPT
    }
    assert {mode for _, mode, _ in found} == {"", "training", "inference"}
    assert len({release for release, _, _ in found}) >= 4
    assert any(digest for _, _, digest in found)


@pytest.mark.parametrize(("layout", "path"), [kept for kept in KEPT if "0.4" in kept[0] or "0.2" in kept[0]])
def test_an_entry_has_the_name_and_the_digest_that_optimum_neuron_gave_it(layout, path):
    place = Place(path)
    entry = decode_entry((FIXTURES / layout / path).read_bytes(), place)
    assert entry.name == place.name
    if place.digest:
        assert entry.arch_digest == place.digest


@pytest.mark.parametrize(("layout", "path"), [kept for kept in KEPT if "0.4" in kept[0] or "0.2" in kept[0]])
def test_what_optimum_neuron_wrote_is_written_back_the_same_but_for_our_field(layout, path):
    data = (FIXTURES / layout / path).read_bytes()
    written = as_dict(decode_entry(data, Place(path)))
    del written["neuron_store"]
    assert written == json.loads(data)


# -- keys ----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(hexes, infos, max_size=4), uncached, st.booleans())
def test_an_entry_survives_the_way_out_and_in(keys, more, inside):
    entry = make(keys, more)
    back = decode_entry(entry.encode(inside=inside), PLACE)
    assert back.encode() == entry.encode()
    assert back.ours
    assert back.name == entry.name == make().name


@given(*[st.dictionaries(hexes, infos, max_size=3)] * 3)
def test_merging_loses_no_key_and_its_order_does_not_matter(one, two, three):
    a, b, c = make(one), make(two), make(three)
    merged = a.merged_with(b).merged_with(c)
    assert merged.keys.keys() == one.keys() | two.keys() | three.keys()
    assert c.merged_with(b.merged_with(a)).keys.keys() == merged.keys.keys()
    assert merged.merged_with(a).encode() == merged.encode()


def test_merging_keeps_the_digests_of_both():
    assert make({}, None, ["a" * 64]).merged_with(make({}, None, ["b" * 64])).digests == {"a" * 64, "b" * 64}


def test_a_model_with_a_part_called_transformer_is_no_pipeline():
    assert model_type_of({"model_type": "flux", "transformer": {"a": 1}}) == "flux"
    assert model_type_of({"transformer": {"a": 1}}) == "diffusion-transformer"


def test_merging_keeps_what_only_one_side_knows():
    key = "a" * 32
    merged = make({key: KeyInfo(None, 7)}).merged_with(make({key: KeyInfo(1.5, None, "m.pb", {"hlo": "b" * 32})}))
    assert merged.keys[key].as_dict() == {"seconds": 1.5, "bytes": 7, "module": "m.pb", "components": {"hlo": "b" * 32}}


def test_a_compile_that_has_a_key_by_now_is_no_longer_without_one():
    key, other = "a" * 32, "b" * 32
    merged = make({}, {"miss_failed": {key, other}}).merged_with(make({key: KeyInfo()}))
    assert merged.uncached == {"miss_failed": {other}}
    assert make({}, {"miss_failed": {key}}).merged_with(make({key: KeyInfo()})).uncached == {}


def test_what_an_entry_adds_up_to():
    entry = make({"a" * 32: KeyInfo(1.5, 10), "b" * 32: KeyInfo(None, None), "c" * 32: KeyInfo(2.0, 5)})
    assert (entry.seconds, entry.size) == (3.5, 15)


def test_a_pipeline_is_told_by_its_main_component():
    config = {"unet": {"layers": 2, "_name_or_path": "x"}, "vae": {"sample_size": 3, "act": "silu"}}
    entry = Entry("acme/sd", "text-to-image", config, {"batch_size": 1}, {})
    written = as_dict(entry)
    assert written["_entry_class"] == "MultiModelCacheEntry"
    assert written["_task"] is None
    assert written["unet"] == {"layers": 2, "neuron": {"batch_size": 1}}
    assert written["vae"] == {"act": "silu"}
    # optimum-neuron takes every value at the top for a component.
    assert all(isinstance(value, dict) for name, value in written.items() if name[0] != "_")
    place = Place("neuronxcc-2.0/0_REGISTRY/0.4.5/stable-diffusion/acme/sd/" + "0" * 20 + ".json")
    assert decode_entry(entry.encode(), place).neuron == {"batch_size": 1}


# -- believed in nothing -------------------------------------------------------------------------------------------


@given(documents)
def test_any_json_is_an_entry_or_corrupt(document):
    try:
        decode_entry(json.dumps(document).encode(), PLACE)
    except CorruptRemote as error:
        assert PLACE.path in str(error)


@given(st.binary(max_size=50))
def test_any_bytes_are_an_entry_or_corrupt(data):
    with pytest.raises(CorruptRemote):
        decode_entry(data, PLACE)


@pytest.mark.parametrize("document", [
    {"_model_id": "a\x1b[2J"}, {"_model_id": "x" * 400}, {"_model_id": 3}, {"_task": ["a"]}, {"_task": "a\nb"},
    {"model_type": None}, {"neuron": None}, {"neuron": []},
    {"neuron_store": {"format": 1}}, {"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": [], "uncached": {}}},
    {"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": {"zz": {}}, "uncached": {}}},
    {"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": {"a" * 32: {}}, "uncached": {}}},
    *({"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": {"a" * 32: {
        "seconds": 1, "bytes": 1, "module": "m", "components": {}, **wrong}}, "uncached": {}}}
      for wrong in ({"seconds": -1}, {"seconds": "1"}, {"seconds": True}, {"bytes": 1.5}, {"bytes": -1},
                    {"module": "a\x1b"}, {"module": None}, {"components": []}, {"components": {"hlo": "x"}},
                    {"components": {"a b": "a" * 32}})),
    {"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": {}, "uncached": {"pass_x": ["zz"]}}},
    {"neuron_store": {"format": 1, "finished": True, "digests": [], "keys": {}, "uncached": {"\x1b": []}}},
    *({"neuron_store": {"format": 1, "finished": True, "digests": wrong, "keys": {}, "uncached": {}}} for wrong in (["a"], "a" * 64, None)),
])  # fmt: skip
def test_an_entry_that_says_what_cannot_be_is_corrupt(document):
    whole = {**json.loads(make({}).encode()), **document}
    with pytest.raises(CorruptRemote):
        decode_entry(json.dumps(whole).encode(), PLACE)


def test_an_entry_too_deep_to_read_is_corrupt():
    with pytest.raises(CorruptRemote):
        decode_entry(b"[" * 100_000, PLACE)


def test_a_later_format_of_ours_is_an_entry_that_tells_no_keys():
    document = {**json.loads(make({}).encode()), "neuron_store": {"format": 2, "keys": "otherwise"}}
    assert not decode_entry(json.dumps(document).encode(), PLACE).ours


# -- places --------------------------------------------------------------------------------------------------------


def test_an_entry_is_filed_under_its_name_and_from_0_4_5_on_under_each_digest():
    name, digests = "0" * 20, ["a" * 64, "b" * 64]
    base = "neuronxcc-2.21.33363.0+82129205/0_REGISTRY"
    arguments = ("llama", "acme/tiny", name, digests)
    assert entry_paths("2.21.33363.0+82129205", "0.4.5", *arguments) == [
        f"{base}/0.4.5/llama/acme/tiny/{name}.json",
        f"{base}/0.4.5/{'a' * 64}/{name}.json",
        f"{base}/0.4.5/{'b' * 64}/{name}.json",
    ]
    assert entry_paths("2.21.33363.0+82129205", "0.4.4", *arguments) == [f"{base}/0.4.4/llama/acme/tiny/{name}.json"]


@pytest.mark.parametrize(("release", "by_digest"), [
    ("0.0.18", False), ("0.4.4", False), ("0.4.5", True), ("0.4.5.dev0", True), ("0.5", True), ("1.0.0", True),
])  # fmt: skip
def test_from_which_release_on_entries_are_looked_up_by_digest(release, by_digest):
    assert is_release(release)
    assert files_by_digest(release) is by_digest


@pytest.mark.parametrize("path", [
    "", "a", "neuronxcc-2.0/0_REGISTRY", "neuronxcc-2.0/0_RESULTS/0.4.5/llama/a/" + "0" * 20 + ".json",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/llama/a/b/c/" + "0" * 20 + ".json",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/llama/../" + "0" * 20 + ".json",
    "neuronxcc-2.0/0_REGISTRY/latest/llama/a/" + "0" * 20 + ".json",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/llama/a/" + "0" * 19 + ".json",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/llama/a/" + "0" * 20 + ".txt",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/" + "0" * 20 + ".json", "other-2.0/0_REGISTRY/0.4.5/llama/a/" + "0" * 20 + ".json",
    "neuronxcc-2.0/0_REGISTRY/0.4.5/llama/a\x1b/" + "0" * 20 + ".json",
])  # fmt: skip
def test_what_is_no_place_of_an_entry(path):
    with pytest.raises(ValueError, match="no place"):
        Place(path)


@pytest.mark.parametrize(("folder", "said"), [
    ("tiny-llama", "local/tiny-llama"), ("my model (v2)", "local/my-model--v2-"), ("..", "local/model"), ("", "local/model"),
    (".hidden", "local/hidden"), ("x" * 300, "local/" + "x" * 96), ("modèle", "local/mod-le"),
])  # fmt: skip
def test_a_folder_gives_its_model_a_name_that_can_be_filed(folder, said):
    assert local_id(folder) == said
    assert is_model_id(said)


# -- architectures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other", "same"), [
    ({}, {}, True),
    ({"hidden_size": 64}, {"hidden_size": 65}, False),
    ({"eos_token_id": 1, "transformers_version": "4"}, {"eos_token_id": 2}, True),
    ({"torch_dtype": "bfloat16"}, {"dtype": "float32"}, True),
    ({"mlp_bias": False, "rope_scaling": None}, {}, True),
    ({"rope_theta": 1e6}, {}, False),
    ({"rope_theta": 1e4, "initializer_range": 0.02, "use_cache": True, "pretraining_tp": 1}, {}, True),
    ({"use_cache": False}, {}, False),
    ({"rope_theta": 1e6}, {"rope_theta": 1e4}, False),
    ({"neuron": {"batch_size": 1}}, {}, True),
    ({"model_type": "qwen2"}, {}, False),
])  # fmt: skip
def test_when_two_configurations_are_of_one_architecture(one, other, same):
    one, other = {"model_type": "llama", **one}, {"model_type": "llama", **other}
    assert same_architecture(one, other) is same
    assert same_architecture(other, one) is same


def test_of_the_same_model_an_entry_may_say_more_and_nothing_else():
    model, entry = {"model_type": "llama", "a": 1}, {"model_type": "llama", "rope_theta": 1e6, "a": 1}
    assert same_architecture(model, entry, same_model=True)
    assert not same_architecture(entry, model, same_model=True)
    assert not same_architecture({**model, "a": 2}, entry, same_model=True)


@pytest.mark.parametrize(("one", "other", "same"), [
    ({"unet": {"a": 1}, "vae": {"b": 1}}, {"unet": {"a": 1}, "vae": {"b": 2}}, True),
    ({"unet": {"a": 1}}, {"unet": {"a": 2}}, False),
    ({"unet": {"a": 1}, "text_encoder": {"b": 1}}, {"unet": {"a": 1}, "text_encoder": {"b": 2}}, False),
    ({"unet": {"a": 1}, "text_encoder": {"b": 1}}, {"unet": {"a": 1}}, True),
    ({"unet": {"a": 1}}, {"transformer": {"a": 1}}, False),
    ({"unet": {"a": 1}}, {"model_type": "llama", "a": 1}, False),
])  # fmt: skip
def test_when_two_pipelines_are_of_one_architecture(one, other, same):
    assert same_architecture(one, other) is same
    assert same_architecture(other, one) is same


def test_a_digest_is_of_the_task_and_of_what_the_graph_depends_on():
    digest = arch_digest("text-generation", CONFIG)
    assert digest == arch_digest("text-generation", {**CONFIG, "eos_token_id": 3, "neuron": {}, "neuron_store": {}})
    assert digest != arch_digest("feature-extraction", CONFIG)
    assert digest != arch_digest("text-generation", {**CONFIG, "hidden_size": 65})


@given(st.dictionaries(st.sampled_from(["model_type", "unet", "transformer", "a"]), documents))
def test_any_configuration_has_a_type_or_none(config):
    assert isinstance(model_type_of(config), str)
    assert same_architecture(config, config)
