"""The table of counters and the code that counts name the same things."""

import ast
from pathlib import Path

import neuron_store.cli
import neuron_store.hashing
import neuron_store.shim
import neuron_store.store
from neuron_store.hashing.options import MUST_NOT_BE_ABBREVIATED, OPTIONS
from neuron_store.shim.counters import AUDIT, COUNTERS, ERROR, HIT, INCIDENT, MISS, PASS, UPLOAD


def trees():
    for floor in (neuron_store.hashing, neuron_store.store, neuron_store.shim, neuron_store.cli):
        for path in Path(floor.__path__[0]).rglob("*.py"):
            if path.name != "counters.py":
                yield ast.parse(path.read_text())


def strings(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def reasons(tree):
    """The first argument of every NotCacheable(...)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NotCacheable":
            yield from (part.value for part in ast.walk(node.args[0]) if isinstance(getattr(part, "value", None), str))


def test_every_reason_to_pass_through_has_a_counter():
    named = {"pass_" + reason for tree in trees() for reason in reasons(tree)}
    named |= {"pass_" + OPTIONS[name][1] for name in MUST_NOT_BE_ABBREVIATED} - {"pass_output", "pass_logfile"}
    assert len(named) > 15
    assert named - set(COUNTERS) == set()


def test_every_counter_is_counted_somewhere():
    said = set().union(*(strings(tree) for tree in trees()))
    missing = [name for name in COUNTERS if name not in said and name.removeprefix("pass_") not in said]
    assert missing == []


def test_every_counter_has_a_group_its_name_begins_with_and_an_explanation():
    for name, (group, meaning) in COUNTERS.items():
        assert group in (HIT, MISS, PASS, ERROR, INCIDENT, AUDIT, UPLOAD)
        assert group == INCIDENT or name.startswith(group + "_")
        assert len(meaning) > 3
