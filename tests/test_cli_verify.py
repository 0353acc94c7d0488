"""`neuron-store verify`: damage is found, and a result that the compiler no longer makes is disowned."""

import base64
import json

import pytest
from hlo_edits import field
from planted_faults import flip, snapshot

COMPILE = ("compile", "--framework=XLA", "--target=trn1", "--output=o.neff")


def module_calling(kernel):
    """An HLO module whose root is a custom call of an NKI kernel in a file."""
    config = base64.b64encode(json.dumps({"kernel_version": 1, "klir_binary": {"binary": str(kernel)}}).encode())
    call = field(1, b"call") + field(2, b"custom-call") + field(28, b"AwsNeuronCustomNativeKernel")
    computation = field(1, b"main") + field(2, call + field(43, config) + field(35, 1)) + field(5, 1) + field(6, 1)
    return field(1, b"m") + field(3, computation) + field(6, 1)


@pytest.fixture
def compiled(host):
    for name in ("a.pb", "b.pb", "c.pb"):
        host.cc(*COMPILE, host.model(name, b"module " + name.encode()))
    return host


def test_a_whole_store_is_said_so(compiled):
    done = compiled.cli("verify")
    assert "3 results of 3 whole" in done.stdout


def test_an_empty_store_is_whole(host):
    assert "0 results of 0 whole" in host.cli("verify").stdout


@pytest.mark.parametrize(("folder", "kind"), [("results", "damaged_record"), ("blobs", "damaged_blob")])
def test_damage_is_found_and_named_and_nothing_is_changed_until_it_is_repaired(compiled, folder, kind):
    path = max((p for p in (compiled.store / folder).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    flip(path)
    before = snapshot(compiled.store)
    done = compiled.cli("verify", "--json", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert len(report["damaged"]) == 1
    assert report["found"] == {kind: 1}
    assert "1 fault in" in done.stderr
    assert "1 result damaged; `neuron-store verify --repair` mends" in done.stderr
    assert snapshot(compiled.store) == before
    compiled.cli("verify", "--repair")
    assert "2 results of 2 whole" in compiled.cli("verify").stdout


def test_what_the_compiler_still_makes_is_the_same(compiled):
    report = json.loads(compiled.cli("verify", "--recompile", "100%", "--json").stdout)
    assert [verdict["outcome"] for verdict in report["audited"]] == ["audit_same"] * 3
    assert compiled.counters() == {"miss_stored": 3, "audit_same": 3}


@pytest.mark.parametrize(("sample", "count"), [("1", 1), ("2", 2), ("9", 3), ("34%", 2), ("0%", 0), ("0", 0)])
def test_the_sample_is_a_number_or_a_share(compiled, sample, count):
    report = json.loads(compiled.cli("verify", "--recompile", sample, "--json").stdout)
    assert len(report["audited"]) == count


@pytest.mark.parametrize("sample", ["some", "-1", "101%", "1.5", "%"])
def test_a_sample_that_is_none_is_said_so(compiled, sample):
    done = compiled.cli("verify", f"--recompile={sample}", check=False)
    assert done.returncode == 2
    assert "give a number of results, or a share" in done.stderr


def test_a_mismatch_is_loud_and_the_result_is_disowned(compiled):
    done = compiled.cli("verify", "--recompile", "100%", check=False, STANDIN_SALT="another compiler")
    assert done.returncode == 3
    assert done.stderr.count("MISMATCH") == 3
    assert "the result is disowned" in done.stderr
    compiled.cc(*COMPILE, compiled.work / "a.pb")
    assert compiled.counters() == {"miss_stored": 4, "audit_mismatch": 3}


def test_an_output_that_is_not_the_same_twice_cannot_tell(compiled):
    done = compiled.cli("verify", "--recompile", "1", STANDIN_UNSTABLE=1)
    assert "not the same twice" in done.stdout
    assert compiled.counters() == {"miss_stored": 3, "audit_undecided": 1}


def test_a_compiler_that_fails_skips_the_audit(compiled):
    done = compiled.cli("verify", "--recompile", "1", STANDIN_EXIT=70)
    assert "the compiler failed with exit code 70" in done.stdout
    assert compiled.counters() == {"miss_stored": 3, "audit_skipped": 1}


def test_another_compiler_skips_the_audit(compiled):
    compiled.compiler.touch()
    done = compiled.cli("verify", "--recompile", "1", STANDIN_VERSION="2.99.0.0+00000000")
    assert "it was compiled by neuronx-cc 2.14.227.0+2d4f85be; here is neuronx-cc 2.99.0.0+00000000" in done.stdout
    assert compiled.counters() == {"miss_stored": 3, "audit_skipped": 1}


def test_inputs_that_were_not_kept_skip_the_audit(host):
    host.cc(*COMPILE, host.model(), NEURON_STORE_KEEP_INPUTS_BYTES=3)
    assert "its inputs were not kept" in host.cli("verify", "--recompile", "1").stdout


def test_every_kind_of_input_is_restored(host):
    kernel = host.base / "tmp/nki_add.klir"
    kernel.parent.mkdir()
    kernel.write_bytes(b"kernel")
    config = host.work / "io.json"
    config.write_text("{}")
    host.cc(
        *COMPILE, host.model("nki.pb", module_calling(kernel)), "--io-config", config, "--optlevel=1", XLA_FLAGS="--x"
    )
    directory = host.work / "model"
    (directory / "weights").mkdir(parents=True)
    (directory / "graph.hlo").write_bytes(module_calling(kernel))
    (directory / "weights/0.npy").write_bytes(b"weights")
    host.cc(*COMPILE, directory, "--fast-math", "none")
    for path in (kernel, config, directory / "weights/0.npy"):
        path.unlink()
    report = json.loads(host.cli("verify", "--recompile", "2", "--json").stdout)
    assert [(v["outcome"], v["detail"]) for v in report["audited"]] == [("audit_same", "the same bytes came out")] * 2


def test_an_audit_of_one_key(compiled):
    key = json.loads(compiled.cli("list", "--json", "--module", "b.pb").stdout)[0]["key"]
    report = json.loads(compiled.cli("verify", "--key", key[:8], "--recompile", "1", "--json").stdout)
    assert [verdict["module"] for verdict in report["audited"]] == ["b.pb"]


def test_real_executables_are_compared_by_their_numbers(host):
    pytest.importorskip("jaxlib", reason="jaxlib is not installed, so there is no reference compiler")
    from neuron_store.benchmarks.builtin import builtin_model
    from neuron_store.benchmarks.reference_compiler import install_reference_compiler

    install_reference_compiler(host.compiler.parent)
    host.cc(*COMPILE, host.model("mlp.pb", builtin_model("mlp_train_step")))
    done = host.cli("verify", "--recompile", "1")
    assert "numbers are bitwise equal" in done.stdout
    assert host.counters() == {"miss_stored": 1, "audit_same": 1}


def test_canonical_hits_are_audited_in_the_background_if_asked(host):
    model = host.model("a.pb", module_calling(host.base / "k.klir"))
    (host.base / "k.klir").write_bytes(b"kernel")
    host.cc(*COMPILE, model)
    for path in (host.store / "direct").rglob("*"):
        if path.is_file():
            path.unlink()
    host.cc(*COMPILE, model, NEURON_STORE_AUDIT_PERCENT=100)
    import time

    deadline = time.monotonic() + 60
    while "audit_same" not in host.counters():
        assert time.monotonic() < deadline, host.counters()
        time.sleep(0.05)
    assert host.counters() == {"miss_stored": 1, "hit_canonical": 1, "audit_same": 1}
