"""Where the environment names a model, the shim notes which keys its runs ask for: all of them, and in nobody's way."""

import os
import subprocess
import sys

import pytest

from neuron_store.store.registry.contexts import Context, all_contexts, context_of
from neuron_store.store.results import all_keys

COMPILE = ("compile", "--framework=XLA", "--target=trn1", "--output=o.neff")
MODEL = {"NEURON_STORE_MODEL": "acme/tiny", "NEURON_STORE_MODEL_BATCH_SIZE": "4"}


def contexts(host):
    return list(all_contexts(host.layout))


def only_context(host):
    (context,) = contexts(host)
    return context


def compile_one(host, number=0, **extra):
    return host.cc(*COMPILE, host.model(f"m{number}.pb", b"\x0a\x04main %d" % number), **extra)


def test_misses_and_hits_are_noted(host):
    compile_one(host, 1)
    compile_one(host, 1, **MODEL)
    compile_one(host, 2, **MODEL)
    context = only_context(host)
    assert context.said() == MODEL
    assert context.noted_keys() == list(all_keys(host.layout))
    assert context.uncached() == {}
    assert host.counters() == {"miss_stored": 2, "hit_direct": 1}
    for key in context.noted_keys():
        noted = context.noted(key)
        assert noted.version == "2.14.227.0+2d4f85be"
        assert noted.module in ("m1.pb", "m2.pb")
        assert noted.seconds > 0


def test_without_a_model_nothing_is_noted(host):
    compile_one(host)
    compile_one(host, NEURON_STORE_MODEL="")
    assert not (host.store / "contexts").exists()


def test_a_second_hit_writes_nothing(host):
    compile_one(host, **MODEL)
    folder = host.store / "contexts"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    compile_one(host, **MODEL)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}


def test_another_configuration_is_another_context(host):
    compile_one(host, **MODEL)
    compile_one(host, **{**MODEL, "NEURON_STORE_MODEL_BATCH_SIZE": "8"})
    assert len(contexts(host)) == 2
    assert [context.noted_keys() for context in contexts(host)] == [list(all_keys(host.layout))] * 2


def test_a_relative_path_means_the_same_from_everywhere(host):
    (host.work / "models/tiny").mkdir(parents=True)
    (host.work / "elsewhere").mkdir()
    model = host.model("m.pb")
    host.cc(*COMPILE, model, NEURON_STORE_MODEL="models/tiny")
    host.cc(*COMPILE, model, NEURON_STORE_MODEL="../models/tiny", cwd=host.work / "elsewhere")
    assert only_context(host).said() == {"NEURON_STORE_MODEL": str(host.work / "models/tiny")}


@pytest.mark.parametrize("said", [
    {"NEURON_STORE_MODEL": "a"}, {"NEURON_STORE_MODEL": "a\nb", "NEURON_STORE_MODEL_SET": "x=1\ny= 2 = 3"},
    {"NEURON_STORE_MODEL": "\udcff\udc80"}, {"NEURON_STORE_MODEL": "=", "NEURON_STORE_MODEL_": "=="},
])  # fmt: skip
def test_what_the_environment_said_is_kept_whatever_it_was(host, said):
    context = Context(host.layout, {**said})
    context.begin()
    assert Context(host.layout, context.id).said() == said
    assert context_of({**said, "PATH": "/bin", "NEURON_STORE_MODEL_TASK": ""}) == said


# -- what has no key -----------------------------------------------------------------------------------------------


def test_a_compile_that_failed_is_noted_until_it_has_a_result(host):
    host.cc(*COMPILE, host.model(), check=False, STANDIN_EXIT=3, **MODEL)
    context = only_context(host)
    ((counter, names),) = context.uncached().items()
    assert counter == "miss_failed"
    assert context.noted_keys() == []
    host.cc(*COMPILE, host.model(), **MODEL)
    assert context.noted_keys() == sorted(names)
    assert host.counters() == {"miss_failed": 1, "miss_stored": 1}


def test_a_compile_that_passes_through_is_noted_by_its_reason(host):
    (host.work / "folder").mkdir()
    for _ in range(2):
        host.cc("compile", "--mode=folder", host.model(), "--output=o.neff", check=False, **MODEL)
    host.cc("compile", "--mode=folder", host.model("other.pb"), "--output=o.neff", check=False, **MODEL)
    uncached = only_context(host).uncached()
    assert {counter: len(names) for counter, names in uncached.items()} == {"pass_file_option": 2}
    assert host.counters() == {"pass_file_option": 3}


@pytest.mark.parametrize("arguments", [("--version",), ("compile", "--help"), ("neff-info", "x"), ()])
def test_what_is_no_compile_is_not_noted(host, arguments):
    host.cc(*arguments, check=False, **MODEL)
    assert not (host.store / "contexts").exists()


# -- in nobody's way -----------------------------------------------------------------------------------------------


def test_a_context_that_cannot_be_written_is_counted_and_the_compile_happens(host):
    host.store.mkdir()
    (host.store / "contexts").write_text("something else")
    compile_one(host, **MODEL)
    compile_one(host, **MODEL)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1, "context_failed": 2}
    assert "could not be noted" in host.log_file.read_text()
    assert host.leftovers() == []


def test_a_store_that_is_only_read_is_not_written_to(host):
    compile_one(host)
    compile_one(host, NEURON_STORE_READ_ONLY="1", **MODEL)
    assert host.counters() == {"miss_stored": 1, "hit_direct": 1}
    assert not (host.store / "contexts").exists()


def test_sixty_four_processes_note_all_their_keys_in_one_context(host):
    models = [host.model(f"m{number}.pb", b"\x0a\x04main %d" % (number % 16)) for number in range(64)]
    ranks = []
    for number, model in enumerate(models):
        folder = host.work / f"rank{number}"
        folder.mkdir()
        ranks.append(host.start(*COMPILE, model, cwd=folder, **MODEL))
    for rank in ranks:
        rank.communicate()
        assert rank.returncode == 0
    context = only_context(host)
    assert context.noted_keys() == list(all_keys(host.layout))
    assert len(context.noted_keys()) == 16
    assert context.uncached() == {}
    assert host.leftovers() == []


def test_the_state_of_a_context_changes_with_what_is_noted(host):
    context = Context(host.layout, {"NEURON_STORE_MODEL": "acme/tiny"})
    assert context.state() == ""
    assert context.is_published("0" * 16, context.state())
    compile_one(host, 1, NEURON_STORE_MODEL="acme/tiny")
    state = context.state()
    assert state
    assert not context.is_published("0" * 16, state)
    context.note_published("0" * 16, state)
    assert context.is_published("0" * 16, state)
    compile_one(host, 2, NEURON_STORE_MODEL="acme/tiny")
    assert not context.is_published("0" * 16, context.state())


def test_a_hit_outside_any_context_imports_nothing_of_it(host):
    compile_one(host)
    script = (
        "import sys; sys.argv = ['neuronx-cc', *sys.argv[1:]]; from neuron_store.shim import main as shim\n"
        "import os; os._exit = lambda code: print(sorted(name for name in sys.modules if 'registry' in name))\n"
        "shim.main()"
    )
    for said, expected in (({}, "[]"), (MODEL, "contexts")):
        done = subprocess.run(
            [sys.executable, "-c", script, *COMPILE, host.work / "m0.pb"],
            cwd=host.work,
            env={**host.env, **said},
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout, done.stderr
    assert os.path.exists(host.store / "contexts")
