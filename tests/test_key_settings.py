"""Settings and variables that change what is in the key: key_env, key_salt, debug_info; and two traces' numbers."""

import subprocess

import pytest
from hlo_edits import field

COMPILE = ("compile", "--target=trn1", "--output=o.neff")


def module(line):
    """A module whose only instruction carries the source line that it came from."""
    metadata = field(7, field(2, b"jit(f)/add") + field(3, b"model.py") + field(4, line))
    instruction = field(1, b"p") + field(2, b"parameter") + metadata + field(35, 1)
    computation = field(1, b"main") + field(2, instruction) + field(5, 1) + field(6, 1)
    return field(1, b"m") + field(3, computation) + field(6, 1)


def test_a_variable_that_the_user_adds_is_in_the_key(host):
    model = host.model()
    for value in ("1", "2", "1"):
        host.cc(*COMPILE, model, NEURON_STORE_KEY_ENV="OUR_FLAG, OTHER", OUR_FLAG=value)
    host.cc(*COMPILE, model, OUR_FLAG="3")
    host.cc(*COMPILE, model, OUR_FLAG="4")
    assert host.counters() == {"miss_stored": 3, "hit_direct": 2}


def test_results_are_shared_only_by_those_who_have_the_same_salt(host):
    model = host.model()
    for salt in ("team a", "team b", "team a", ""):
        host.cc(*COMPILE, model, NEURON_STORE_KEY_SALT=salt)
    assert host.counters() == {"miss_stored": 3, "hit_direct": 1}


def test_source_lines_do_not_matter(host):
    for line in (10, 11):
        host.cc(*COMPILE, host.model(data=module(line)))
    host.cc(*COMPILE, host.model(data=module(11)))
    assert host.counters() == {"miss_stored": 1, "hit_canonical": 1, "hit_direct": 1}


@pytest.mark.parametrize(
    "asked",
    [
        {"NEURON_STORE_DEBUG_INFO": "exact"},
        {"XLA_IR_DEBUG": "1"},
        {"XLA_HLO_DEBUG": "1"},
        {"NEURON_FRAMEWORK_DEBUG": "1"},
        {"NKI_DEBUG_INFO": "1"},
    ],
    ids="".join,
)
def test_where_debug_information_is_wanted_source_lines_matter(host, asked):
    for line in (10, 11, 10):
        host.cc(*COMPILE, host.model(data=module(line)), **asked)
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}


TRACE = """
import sys
import jax, jax.numpy as jnp
{padding}
def {name}(w, x):
    with jax.named_scope("{name}"):
        return jnp.tanh(x @ w).sum(axis=0)
lowered = jax.jit({name}).lower(jnp.zeros((8, 4)), jnp.zeros((3, 8)))
open(sys.argv[1], "wb").write(lowered.compiler_ir(dialect="hlo").as_serialized_hlo_module_proto())
"""


def test_an_executable_served_for_another_trace_computes_the_same_numbers(host):
    pytest.importorskip("jax", reason="jax is not installed, so there is nothing to trace and compile with")
    import sys

    from neuron_store.benchmarks.execute import compare_neffs
    from neuron_store.benchmarks.reference_compiler import install_reference_compiler

    install_reference_compiler(host.compiler.parent)
    models = []
    for number, name in enumerate(("forward", "renamed")):
        folder = host.work / name
        folder.mkdir()
        (folder / "trace.py").write_text(TRACE.format(name=name, padding="\n" * number * 7))
        subprocess.run([sys.executable, "trace.py", "m.pb"], cwd=folder, check=True, capture_output=True)
        models.append(folder / "m.pb")
    assert models[0].read_bytes() != models[1].read_bytes()
    for number, model in enumerate(models):
        host.cc("compile", model, "--framework=XLA", "--target=trn1", f"--output=served{number}.neff")
    assert host.counters() == {"miss_stored": 1, "hit_canonical": 1}
    words = ["compile", models[1], "--framework=XLA", "--target=trn1", "--output=fresh.neff"]
    subprocess.run([host.compiler, *words], cwd=host.work, env=host.env, check=True, capture_output=True)
    comparison = compare_neffs(host.work / "served1.neff", host.work / "fresh.neff")
    assert comparison.equal
    assert comparison.values >= 4
