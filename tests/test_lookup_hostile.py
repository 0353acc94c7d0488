"""Entries that somebody made to be believed: they are left out and told, and the rest is shown."""

import json
import random

import pytest
from cli_remotes import answer, connect, ns
from conftest import VERSION
from registry_setup import LLAMA, MODEL, NEURON, TASK, absent, files_of, make_entry, put, put_model

from neuron_store.cli.entry_filters import make_filter, said_of
from neuron_store.cli.entry_reading import believed
from neuron_store.cli.entry_search import Found
from neuron_store.cli.entry_state import EntryState, Holders
from neuron_store.store.errors import CorruptRemote
from neuron_store.store.registry.architecture import arch_digest
from neuron_store.store.registry.entries import decode_entry
from neuron_store.store.registry.places import Place, registry_folder

FOLDER = f"{registry_folder(VERSION)}/0.4.5/{arch_digest(TASK, LLAMA)}"
PLACE = Place(f"{registry_folder(VERSION)}/0.4.5/llama/{MODEL}/{'0' * 20}.json")
ESCAPE = "\x1b]0;gone\x07"


def document(**more):
    return {**LLAMA, "_model_id": MODEL, "_task": "text-generation", "neuron": NEURON, **more}


def neuron(**more):
    return document(neuron={**NEURON, **more})


def nested(levels):
    return b"[" * levels + b"]" * levels


HOSTILE = {
    "no JSON": b"\xff\xfe{",
    "nothing": b"",
    "a list": b"[]",
    "another model than in its path": document(_model_id="acme/other"),
    "a name that moves the cursor": document(_model_id=ESCAPE),
    "a task that moves the cursor": document(_task=ESCAPE),
    "a value that moves the cursor": neuron(target=ESCAPE),
    "a value in many lines": neuron(target="trn1\n*** 9 entrie(s)"),
    "a field that moves the cursor": neuron(**{ESCAPE: 1}),
    "a C1 code deep inside": neuron(inner={"list": ["\x9b31m"]}),
    "text without an end": neuron(target="x" * 100_000),
    "numbers without an end": neuron(batch_size=10**100),
    "no number": json.dumps(neuron(batch_size=float("nan"))).encode(),
    "an endless number": json.dumps(neuron(batch_size=float("inf"))).encode(),
    "a thousand fields": neuron(**{f"field{number}": number for number in range(1000)}),
    "no configuration of the compile": document(neuron=[]),
    "a type that is a path": document(model_type="../../llama"),
    "deep": b'{"model_type": "llama", "neuron": {"a": %b}}' % nested(200),
    "deeper": b'{"model_type": "llama", "neuron": {"a": %b}}' % nested(100_000),
    "deep in the configuration": b'{"model_type": "llama", "neuron": {}, "a": %b}' % nested(200),
    "keys that are none": document(neuron_store={"format": 1, "keys": {"x": {}}, "uncached": {}, "digests": []}),
    "keys that are too many": document(neuron_store={"format": 1, "keys": 7, "uncached": {}, "digests": []}),
}


def encoded(what):
    return what if isinstance(what, bytes) else json.dumps(what).encode()


@pytest.mark.parametrize("what", HOSTILE.values(), ids=HOSTILE)
def test_an_entry_that_cannot_be_shown_is_not_believed(what):
    with pytest.raises(CorruptRemote):
        believed(decode_entry(encoded(what), PLACE), PLACE)


def test_what_cannot_be_believed_is_told_and_the_rest_is_shown(host, hub):
    put_model(hub)
    connect(host, hub)
    put(hub, files_of(make_entry(keys=absent(1))))
    hostile = [what for name, what in HOSTILE.items() if name != "another model than in its path"]
    paths = [f"{FOLDER}/{number:020x}.json" for number in range(len(hostile))]
    put(hub, {path: encoded(what) for path, what in zip(paths, hostile, strict=True)})
    for words in ((), ("--format", "seed"), ("--json",)):
        done = ns(host, "lookup", MODEL, *words)
        assert f"left out {len(hostile)} entries that cannot be believed: {FOLDER}/0" in done.stderr
        assert not any(code in done.stdout + done.stderr for code in "\x1b\x07\x9b")
    made = answer(host, "lookup", MODEL)
    assert set(made["left_out"]["corrupt"]) == set(paths)
    assert [entry["keys"]["needed"] for entry in made["entries"]] == [1]
    rows = answer(host, "list", "alice/cache", "-m", MODEL)
    assert set(rows["corrupt"]) == set(paths)
    assert rows["models"][0]["entries"] == 1


def test_what_lies_beside_entries_is_passed_over(host, hub):
    put_model(hub)
    connect(host, hub)
    put(hub, files_of(make_entry(keys=absent(1))))
    names = ("notes.txt", "0" * 20, f"{'0' * 20}.json.lock", f"{'G' * 20}.json", f"{'0' * 19}.json", "deeper/x.json")
    put(hub, {f"{FOLDER}/{name}": b"{}" for name in names})
    put(hub, {f"{registry_folder(VERSION)}/{name}": b"{}" for name in ("0.4.5/x.json", "latest/x/y.json", "x.json")})
    done = ns(host, "lookup", MODEL)
    assert done.stdout.count(MODEL) == 1
    assert done.stderr == ""
    assert ns(host, "list", "alice/cache", "--models").stderr == ""


def test_an_entry_that_is_too_large_is_left_out(host, hub, tmp_path):
    put_model(hub)
    connect(host, hub)
    shared = tmp_path / "shared"
    shared.mkdir()
    host.env["NEURON_STORE_REMOTES"] = f"file://{shared}"
    put(shared, files_of(make_entry(keys=absent(1))))
    large = f"{FOLDER}/{'0' * 20}.json"
    put(shared, {large: b" " * (9 << 20)})
    done = ns(host, "lookup", MODEL)
    assert f"left out 1 entry that cannot be believed: {large}: " in done.stderr
    assert "0 of 1 key" in done.stdout


def test_whatever_is_believed_can_be_shown():
    """Entries with values of every kind in every field: all words for them are plain text."""
    chance = random.Random(7)
    values = (None, True, 0, -1, 2.5, "", "x" * 900, "é漢", [], [1, [2, {"a": None}]], {}, {"a": {"b": "c"}}, "9" * 900)
    fields = (*NEURON, "static_batch_size", "num_cores", "auto_cast_type", "instance_type", "checkpoint_id", "é")
    asked = make_filter(
        task="t",
        batch_size=1,
        sequence_length=1,
        num_cores=1,
        tensor_parallel_size=None,
        auto_cast_type="bf16",
        dtype="bf16",
        instance_type="trn1.2xlarge",
        compiler="",
    )
    for _ in range(500):
        told = {name: chance.choice(values) for name in chance.sample(fields, chance.randrange(len(fields)))}
        entry = believed(decode_entry(encoded(document(neuron=told)), PLACE), PLACE)
        assert not asked.lets_pass(entry)
        assert all(str(said_of(entry, name)).isprintable() for name in asked.asked)
        state = EntryState(Found(entry, PLACE, [0]), Holders())
        assert (state.count() + state.outlook() + state.sentence()).isprintable()
