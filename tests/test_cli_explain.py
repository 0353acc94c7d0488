"""`neuron-store explain`: what differs from the nearest result, in words, and what cannot be told."""

import base64
import json
import os
from pathlib import Path

import pytest
from hlo_edits import (
    ATTRIBUTES,
    BACKEND_CONFIG,
    METADATA,
    OPCODE,
    TARGET,
    chain,
    computation,
    edit,
    edit_module,
    field,
    instruction,
    module,
)

from neuron_store.benchmarks.builtin import builtin_model
from neuron_store.cli import explanation
from neuron_store.cli.explanation import compare
from neuron_store.cli.sides import Side, Unknown
from neuron_store.store.events import Event, append_event, read_events
from neuron_store.store.results import all_keys, load_result, save_result

MODEL = builtin_model("mlp_train_step")
OPTIONS = ("--framework=XLA", "--target=trn1", "-O2", "--output=o.neff")


@pytest.fixture
def model(host):
    return host.model(data=MODEL)


@pytest.fixture
def compiled(host, model):
    """A host with one result, of the built-in model."""
    host.cc("compile", model, *OPTIONS)
    return host


def keys(host):
    return list(all_keys(host.layout))


def told(host, *words, **extra):
    return json.loads(host.cli("explain", "--json", *words, **extra).stdout)


def differences(host, *words, **extra):
    """What `explain` says of a command line, `component: text` for each line."""
    found = told(host, "--", "neuronx-cc", "compile", *words, **extra)["differences"]
    return [f"{line['component']}: {line['text']}" for line in found]


# -- what is explained ---------------------------------------------------------------------------------------


def test_the_last_miss(compiled):
    other = compiled.model("other.pb", data=edit(MODEL, lambda i: i.set(OPCODE, "divide"), opcode="multiply"))
    first = keys(compiled)[0]
    compiled.cc("compile", other, *OPTIONS)
    compiled.cc("compile", other, *OPTIONS)  # a hit, which is not what is explained
    report = told(compiled)
    assert report["outcome"] == "miss_stored"
    assert report["nearest"]["key"] == first
    assert report["key"] == next(key for key in keys(compiled) if key != first)
    assert report["equal_components"] == ["compiler", "flags", "environment", "host", "side_inputs"]
    assert report["hlo"]["differing_instructions"] == 1
    said = compiled.cli("explain", COLUMNS=80).stdout
    lines = said.splitlines()
    assert lines[0].startswith("last miss  other.pb, ")
    assert lines[1].startswith(f"result     {report['key'][:12]}  other.pb, compiled ")
    assert lines[2].startswith(f"nearest    {first[:12]}  model.hlo_module.pb, compiled ")
    assert lines[3] == "equal      compiler, flags, environment, host, side_inputs"
    assert lines[4].startswith("hlo        HLO differs: 1 of 233 instructions, in computation ")
    assert max(map(len, lines)) <= 80


def test_a_result_by_its_key_or_a_prefix(compiled, model):
    first = keys(compiled)[0]
    compiled.cc("compile", model, *OPTIONS[:-2], "-O1", "--output=o.neff")
    for word in (first, first[:10], first[:10].upper()):
        report = told(compiled, word)
        assert report["key"] == first
        assert [line["text"] for line in report["differences"]] == ["--optlevel=2 here, --optlevel=1 there"]


def test_a_command_line_that_is_a_miss(compiled, model):
    report = told(compiled, "--", "neuronx-cc", "compile", model, *OPTIONS[:2], "-O1")
    assert report["kind"] == "command"
    assert report["outcome"] == "miss"
    assert report["nearest"]["key"] == keys(compiled)[0]
    assert compiled.counters() == {"miss_stored": 1}
    said = compiled.cli("explain", "compile", model, *OPTIONS[:2], "-O1").stdout
    assert said.startswith(f"miss     {report['key']}, model.hlo_module.pb\n")
    assert "flags    --optlevel=1 here, --optlevel=2 there\n" in said


def test_a_command_line_that_is_a_hit(compiled, model):
    report = told(compiled, "--", "neuronx-cc", "compile", model, *OPTIONS)
    assert (report["outcome"], report["key"], report["differences"]) == ("hit_direct", keys(compiled)[0], [])
    traced = edit(MODEL, lambda each: each.set(METADATA, field(4, 99)), count=3)
    again = compiled.model("again.pb", data=traced)
    report = told(compiled, "--", "neuronx-cc", "compile", again, *OPTIONS)
    assert (report["outcome"], report["key"]) == ("hit_canonical", keys(compiled)[0])
    assert compiled.counters() == {"miss_stored": 1}
    said = compiled.cli("explain", "compile", model, *OPTIONS).stdout
    assert said.startswith(f"hit  {keys(compiled)[0]}\n     by the direct key")


def test_a_command_line_that_passes_through(compiled):
    done = compiled.cli("explain", "--", "neuronx-cc", "compile", "absent.pb")
    assert done.stdout.startswith(
        "passes through  pass_unreadable_input: the model file is missing or cannot be read ("
    )
    assert told(compiled, "--", "--version")["outcome"] == "pass_version"
    assert told(compiled, "compile")["outcome"] == "pass_no_input"


@pytest.mark.parametrize("extra", [{"NEURON_STORE_ACTIVE": "1"}, {"NEURON_STORE_ENABLED": "0"}])
def test_a_shim_that_is_switched_off_is_noted(compiled, model, extra):
    report = told(compiled, "compile", model, *OPTIONS, **extra)
    assert report["outcome"] == "hit_direct"
    assert len(report["notes"]) == 1


# -- nothing to explain --------------------------------------------------------------------------------------


def refused(host, *words, code=1, **extra):
    done = host.cli("explain", *words, check=False, **extra)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_nothing_is_recorded(host, model):
    assert "there was no miss in" in refused(host)
    assert "no result in" in refused(host, "abc")
    assert f"there is no result in {host.store} that the command line could" in refused(host, "compile", model)
    host.cc("compile", model, *OPTIONS)
    assert f"there is no other result in {host.store}" in refused(host)
    assert f"there is no other result in {host.store}" in refused(host, keys(host)[0][:8])


def test_arguments_that_are_wrong(compiled, model):
    compiled.cc("compile", model, "--target=trn2")
    assert "'zebra' is not a key" in refused(compiled, "zebra", code=2)
    assert "give one key" in refused(compiled, "abc", "def")
    for number in range(40):  # some two keys begin alike
        compiled.cc("compile", compiled.model(f"{number}.pb", data=b"module %d" % number), "--target=trn1")
    first = [key[0] for key in keys(compiled)]
    shared = next(digit for digit in first if first.count(digit) > 1)
    assert "give more digits" in refused(compiled, shared)


def test_a_miss_that_left_no_result(compiled, model):
    compiled.cc("compile", model, "--target=trn1", check=False, STANDIN_EXIT=3)
    said = refused(compiled)
    assert "miss_failed (the compiler failed; nothing stored), has no result in the store" in said
    assert "give its command line" in said


def test_without_a_compiler(compiled, model):
    compiled.compiler.unlink()
    done = compiled.cli("explain", "compile", model, check=False)
    assert done.returncode == 127
    assert "no neuronx-cc on PATH behind the shim" in done.stderr


def test_a_store_that_is_a_file(host):
    host.store.write_text("not a folder")
    assert "is not a folder" in refused(host)


# -- no input differs ----------------------------------------------------------------------------------------


def remove(host, kind):
    for path in (host.store / kind).rglob("*"):
        if path.is_file():
            path.unlink()


def test_a_result_that_was_removed(compiled, model):
    remove(compiled, "results")
    command = told(compiled, "compile", model, *OPTIONS)
    assert command["outcome"] == "miss"
    assert command["last_in_store"]
    compiled.cc("compile", model, *OPTIONS)
    compiled.cc("compile", model, "--target=trn1")
    remove(compiled, "results")
    compiled.cc("compile", model, "--target=trn1")
    report = told(compiled)
    assert report["last_in_store"]
    assert report["differences"] == []
    said = compiled.cli("explain").stdout
    assert "no input differs: the same key was in the store" in said
    assert "the log does not tell which" in said


def test_a_result_that_another_process_stored_meanwhile(compiled):
    (stored,) = read_events(compiled.layout)
    late = {**stored.fields, "seconds": "60", "incidents": "lock_timeout"}
    append_event(compiled.layout, Event(stored.time + 30, "miss_stored", late))
    report = told(compiled)
    assert report["incidents"] == ["lock_timeout"]
    assert report["last_in_store"] == stored.time
    said = compiled.cli("explain").stdout
    assert "stored by another process while this one compiled" in said
    assert "incident   lock_timeout: waited lock_timeout for another process" in said


def test_a_result_whose_blob_is_gone(compiled, model):
    remove(compiled, "blobs")
    report = told(compiled, "compile", model, *OPTIONS)
    assert report["outcome"] == "miss"
    assert "a blob of it is gone" in report["damage"]
    compiled.cc("compile", model, *OPTIONS)
    last = told(compiled)
    assert "missing_blob" in last["incidents"]
    assert last["last_in_store"]


def test_damaged_records(compiled, model):
    compiled.cc("compile", model, "--target=trn1")
    first, second = keys(compiled)
    for key in (first, second):
        path = compiled.layout.result_path(key)
        whole = Path(path).read_bytes()
        with open(path, "r+b") as file:
            file.truncate(len(whole) // 2)
        assert "cannot be read" in refused(compiled, key)
        report_of_other = refused(compiled, second if key == first else first)
        assert "no other result" in report_of_other
        assert report_of_other.endswith("(left out 1 damaged record)\n")
        Path(path).write_bytes(whole)
    command = told(compiled, "compile", model, "--target=trn2")
    assert command["notes"] == []
    with open(compiled.layout.result_path(first), "r+b") as file:
        file.truncate(100)
    command = told(compiled, "compile", model, "--target=trn2")
    assert command["notes"] == ["left out 1 damaged record"]
    assert command["nearest"]["key"] == second


# -- every kind of difference --------------------------------------------------------------------------------


def test_flags(compiled, model):
    assert differences(compiled, model, "--framework=XLA", "--target=trn1") == ["flags: --optlevel=2 there, not here"]
    found = differences(compiled, model, "--framework=XLA", "--target=trn2", "-O2", "--fast-math", "none", "--new-one")
    assert found == [
        "flags: --target=trn2 here, --target=trn1 there",
        "flags: --fast-math none here, not there",
        "flags: --new-one here, not there",
    ]
    assert differences(compiled, model, "--target=trn1", "--framework=XLA", "-O2") == []  # their order does not count


def test_the_compiler(compiled, model):
    (compiled.store / "compilers").rename(compiled.store / "old-compilers")
    assert differences(compiled, model, *OPTIONS, STANDIN_VERSION="2.21.1+abc") == [
        "compiler: compiler 2.21.1+abc here, 2.14.227.0+2d4f85be there"
    ]
    (compiled.store / "compilers").rename(compiled.store / "older-compilers")
    (line,) = differences(compiled, model, *OPTIONS, STANDIN_VERSION="none")
    assert line.startswith("compiler: compiler of unknown version (content ")


def test_environment_and_salt(compiled, model):
    assert differences(compiled, model, *OPTIONS, XLA_FLAGS="--a") == ["environment: XLA_FLAGS=--a here, not set there"]
    compiled.cc("compile", model, *OPTIONS, XLA_FLAGS="--a", NEURON_INTERNAL_USE=1)
    found = differences(compiled, model, *OPTIONS, XLA_FLAGS="--b", NEURON_INTERNAL_USE=1)
    assert found == ["environment: XLA_FLAGS=--b here, XLA_FLAGS=--a there"]
    assert differences(compiled, model, *OPTIONS, NEURON_STORE_KEY_SALT="team") == [
        "environment: key_salt 'team' here, not set there"
    ]


def test_the_host_is_asked_where_no_target_is_given(compiled, model):
    found = differences(compiled, model, "--framework=XLA", "-O2")
    assert found[0] == "flags: --target=trn1 there, not here"
    assert found[1].startswith("host: host product ")
    assert found[1].endswith(" here, not in the key (--target is given) there")


def test_debug_information(compiled, model):
    found = differences(compiled, model, *OPTIONS, XLA_IR_DEBUG=1)
    assert found == [
        "environment: XLA_IR_DEBUG=1 here, not set there",
        "hlo: names and debug information of the HLO are in the key here, not there",
        "hlo: HLO is equal otherwise",
    ]


def test_hlo(compiled):
    other = edit(MODEL, lambda i: i.set(OPCODE, "divide"), opcode="multiply", count=3)
    (line,) = differences(compiled, compiled.model("b.pb", data=other), *OPTIONS)
    assert line.startswith("hlo: HLO differs: 3 of 233 instructions, first in computation ")
    assert line.endswith(": opcode divide / multiply")
    aliased = edit_module(MODEL, lambda each: each.set(8, field(1, b"")))
    (line,) = differences(compiled, compiled.model("c.pb", data=aliased), *OPTIONS)
    assert line.startswith("hlo: HLO differs: the module's input_output_alias")


def test_raw_and_canonical(compiled):
    junk = compiled.model("junk.pb", data=b"this is no module")
    mode, unread = differences(compiled, junk, *OPTIONS)
    assert mode.startswith("hlo: the HLO is in the key by its raw bytes (")
    assert mode.endswith(") here, in its canonical form there")
    assert unread.startswith("hlo: HLO differs; in what cannot be told: the module here cannot be read (")


def test_raw_bytes_that_differ(host):
    host.cc("compile", host.model("a.pb", data=b"this is no module"), *OPTIONS)
    (line,) = differences(host, host.model("b.pb", data=b"this is no modulus"), *OPTIONS)
    assert line.startswith("hlo: HLO differs; in what cannot be told: the module here cannot be read (")
    assert line.endswith("; 18 bytes here, 17 there, the first difference at byte 16")


def kernel_graph(path, *, extra=b""):
    config = base64.b64encode(json.dumps({"klir_binary": {"binary": str(path)}, "grid": [1]}).encode())
    more = field(TARGET, "AwsNeuronCustomNativeKernel") + field(BACKEND_CONFIG, config) + extra
    return module(computation([instruction(1, "parameter"), instruction(2, "custom-call", [1], more=more)]))


def kernel(host, folder, name, data):
    path = host.work / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_kernels_are_told_by_name_and_content(host):
    one = kernel(host, "random1", "add.klir", b"content 1")
    two = kernel(host, "random2", "add.klir", b"content 2")
    other = kernel(host, "random3", "mul.klir", b"content 3")
    host.cc("compile", host.model("one.pb", data=kernel_graph(one)), *OPTIONS)
    changed, hlo = differences(host, host.model("two.pb", data=kernel_graph(two)), *OPTIONS)
    assert changed == "hlo: NKI kernel add.klir changed"
    assert "custom-call.2: backend_config klir_binary.binary sha256 " in hlo
    found = differences(host, host.model("other.pb", data=kernel_graph(other)), *OPTIONS)
    assert sorted(found)[1:] == [
        "hlo: NKI kernel add.klir is there, not here",
        "hlo: NKI kernel mul.klir is here, not there",
    ]


def test_a_kernel_that_only_moved_is_no_difference(host):
    one = kernel(host, "random1", "add.klir", b"content 1")
    two = kernel(host, "random2", "other.klir", b"content 1")
    host.cc("compile", host.model("one.pb", data=kernel_graph(one)), *OPTIONS)
    assert told(host, "compile", host.model("two.pb", data=kernel_graph(two)), *OPTIONS)["outcome"] == "hit_canonical"
    attributes = field(ATTRIBUTES, field(1, field(1, "a") + field(2, "b")))
    (line,) = differences(host, host.model("three.pb", data=kernel_graph(two, extra=attributes)), *OPTIONS)
    assert line == (
        "hlo: HLO differs: 1 of 2 instructions, in computation main.1, custom-call.2: frontend attribute a b / none"
    )


def test_files_of_options_and_of_the_model(host):
    folder = host.work / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "graph.hlo").write_bytes(MODEL)
    weights = folder / "weights/a.npy"
    weights.write_bytes(b"numbers")
    config = host.work / "io.json"
    config.write_text("{}")
    host.cc("compile", folder, "--io-config=io.json", "--target=trn1")
    config.write_text('{"other": 1}')
    weights.write_bytes(b"other numbers")
    (folder / "weights/b.npy").write_bytes(b"more")
    assert differences(host, folder, "--io-config=io.json", "--target=trn1") == [
        "side_inputs: the file of --io-config changed",
        "side_inputs: the model's file weights/a.npy changed",
        "side_inputs: the model's file weights/b.npy is here, not there",
    ]
    found = differences(host, folder, "--target=trn1")
    assert "side_inputs: the file of --io-config is there, not here" in found


# -- what cannot be told -------------------------------------------------------------------------------------


def test_inputs_that_were_not_kept(host):
    host.cc("compile", host.model("a.pb", data=chain(5)), *OPTIONS, NEURON_STORE_KEEP_INPUTS_BYTES=0)
    (line,) = differences(host, host.model("b.pb", data=chain(6)), *OPTIONS)
    assert line == f"hlo: HLO differs; in what cannot be told: no input is kept with {keys(host)[0][:12]}"
    host.cc("compile", host.model("b.pb", data=chain(6)), *OPTIONS)
    assert "in what cannot be told: no input is kept with" in host.cli("explain").stdout
    junk = host.model("junk.pb", data=b"no module")
    (mode, line) = differences(host, junk, *OPTIONS)
    assert "by its raw bytes" in mode
    assert "in what cannot be told" in line


def test_a_kept_input_that_is_gone_or_damaged(host):
    host.cc("compile", host.model("a.pb", data=chain(5)), *OPTIONS)
    (kept,) = load_result(host.layout, keys(host)[0]).input["files"]
    path = host.layout.blob_path(kept["sha256"], {"raw": "", "zst": ".zst"}[kept["encoding"]])
    other = host.model("b.pb", data=chain(6))
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"XXXX")
    (line,) = differences(host, other, *OPTIONS)
    assert f"in what cannot be told: the kept input of {keys(host)[0][:12]} cannot be read (" in line
    os.unlink(path)
    (line,) = differences(host, other, *OPTIONS)
    assert line.endswith(f"the kept input of {keys(host)[0][:12]} is gone from the store")


def test_a_digest_of_another_version_is_not_explained_away(compiled, model):
    compiled.cc("compile", model, "--target=trn1")
    key = keys(compiled)[0]
    result = load_result(compiled.layout, key)
    for component in result.components:
        component["digest"] = "0" * 32
        if component["name"] == "hlo":
            component["fields"][1] = "0" * 64
    result.provenance["neuron_store"] = "99.0"
    save_result(compiled.layout, result)
    report = told(compiled, key)
    assert report["equal_components"] == []
    said = {line["component"]: line["text"] for line in report["differences"]}
    assert said["hlo"].startswith(
        "HLO compares equal, and yet its recorded fingerprints differ (neuron-store 99.0 here,"
    )
    assert said["environment"].startswith("its digests differ, though what is recorded of it is the same (neuron-")


def test_a_record_that_lacks_what_a_comparison_needs_is_left_out(compiled, model):
    compiled.cc("compile", model, "--target=trn1")
    first, second = keys(compiled)
    result = load_result(compiled.layout, first)
    result.input["size"] = "large"
    save_result(compiled.layout, result)
    assert "lacks what a comparison needs" in refused(compiled, first)
    assert "no other result" in refused(compiled, second)


# -- the nearest ---------------------------------------------------------------------------------------------


def test_the_nearest_has_most_in_common(compiled, model):
    compiled.cc("compile", model, "--target=trn2", "--model-type=transformer", XLA_FLAGS="--a")
    compiled.cc("compile", compiled.model("small.pb", data=chain(5)), *OPTIONS)
    compiled.cc("compile", compiled.model("large.pb", data=builtin_model("convnet")), *OPTIONS)
    similar = edit(MODEL, lambda i: i.set(OPCODE, "divide"), opcode="multiply")
    report = told(compiled, "compile", compiled.model("similar.pb", data=similar), *OPTIONS)
    assert report["nearest"]["module"] == "model.hlo_module.pb"
    assert report["equal_components"] == ["compiler", "flags", "environment", "host", "side_inputs"]
    # Of those with as much in common, one with the same HLO, then one of the same name, is nearer.
    report = told(compiled, "compile", model, *OPTIONS, "--new-option")
    assert report["nearest"]["module"] == "model.hlo_module.pb"
    report = told(compiled, "compile", compiled.model("sub/small.pb", data=similar), *OPTIONS)
    assert report["nearest"]["module"] == "small.pb"


def test_the_nearest_has_fewest_other_options(compiled, model):
    for options in (["-O1", "--auto-cast=none"], ["-O3", "--auto-cast=none", "--native-int64"]):
        compiled.cc("compile", model, *OPTIONS[:2], *options)
    assert differences(compiled, model, *OPTIONS[:2], "-O1", "--auto-cast=none", "--native-int64") == [
        "flags: --native-int64 here, not there"
    ]


def test_the_newest_of_those_that_are_alike(compiled, model):
    for level in (1, 3):
        compiled.cc("compile", model, *OPTIONS[:2], f"-O{level}")
        (line,) = differences(compiled, model, *OPTIONS[:2], "--optlevel=4")
        assert line == f"flags: --optlevel=4 here, --optlevel={level} there"


# -- in process ----------------------------------------------------------------------------------------------


def side(components, **known):
    def unread():
        raise Unknown("it was not kept")

    values = {
        "key": "0" * 32,
        "name": "a",
        "module": "m",
        "size": 1,
        "digests": {name: repr(fields) for name, fields in components.items()},
        "reason": "",
        "kernels": None,
        "created": 1.0,
        "version": "1",
        "read_hlo": unread,
    }
    return Side(components=components, **{**values, **known})


def said(one, other):
    return [text for _, text in compare(side(one), side(other)).differences]


def test_components_that_are_not_known_are_shown_as_they_are():
    assert said({"weather": ["rain", "wind"]}, {"weather": ["sun"]}) == ["rain wind here, sun there"]
    assert said({"weather": ["rain"]}, {}) == ["rain here, nothing there"]


def test_repeated_flags():
    assert said({"flags": ["-x", "a", "-x", "b"]}, {"flags": ["-x", "a"]}) == ["-x b here, not there"]
    one, other = ["-x", "a", "-x", "b", "-y"], ["-x", "b", "-x", "a", "-y"]
    assert said({"flags": one}, {"flags": other}) == ["the order of the flags: -x a -x b here, -x b -x a there"]
    assert said({"flags": ["bare"]}, {"flags": ["<input>"]}) == ["bare here, not there", "<input> there, not here"]


def test_both_raw_and_not_kept():
    components = [{"hlo": ["raw", digest * 64]} for digest in "ab"]
    one, other = (side(each, reason="a varint does not end") for each in components)
    ((_, text),) = compare(one, other).differences
    assert text == (
        "HLO differs; in what cannot be told: it was not kept; both are in the key by their raw bytes (a varint does "
        "not end)"
    )


def test_files_of_one_option():
    digest = "0" * 32
    assert said({"side_inputs": [f"--x {digest}"]}, {"side_inputs": [f"--x {digest}", f"--x {'1' * 32}"]}) == [
        "the file of --x: 1 here, 2 there"
    ]
    one, other = [f"--x@1-2 {digest}", f"--y@1-2 {digest}"], [f"--y@1-2 {digest}", f"--x@1-2 {digest}"]
    assert said({"side_inputs": one}, {"side_inputs": other}) == [
        "the order of the files that options name, or their places in the options"
    ]


def test_the_salt_is_not_taken_for_a_variable():
    assert list(explanation._environment_lines(["salt a=b"], ["salt a=c"])) == ["key_salt 'a=b' here, 'a=c' there"]
