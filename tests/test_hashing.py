"""The parts of a key, in process: the command line, components, the compiler's identity, the host."""

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_store.hashing.command_line import INPUT_PLACE, read_command_line
from neuron_store.hashing.compiler import (
    CompilerIdentity,
    find_metadata,
    identify_compiler,
    make_memo,
    memo_name,
    printed_version,
    recall_identity,
)
from neuron_store.hashing.environment import host_product, key_environment
from neuron_store.hashing.keys import Component, begin_direct_key, make_key
from neuron_store.hashing.not_cacheable import NotCacheable

PRINTED = "NeuronX Compiler version 2.21.33363.0+82129205\n\nPython version 3.10.12\nHWM version 2.21.0\n"
WORD = st.text(min_size=1, max_size=12)


def read(text):
    return read_command_line(text.split())


def test_what_a_command_line_tells():
    line = read("--target=trn1 compile --framework XLA m.pb --output o.neff -O1 --logfile /w/log -lnc 2 --verbose 35")
    assert line.model == "m.pb"
    assert line.output == "o.neff"
    assert line.logfile == "/w/log"
    assert line.target_given
    assert line.options == ["--framework=XLA", "--logical-nc-config=2", "--optlevel=1", "--target=trn1"]  # by name


def test_the_rightmost_output_and_log_file_win():
    line = read("compile m.pb --output a --output=b -o c --logfile x --logfile y")
    assert (line.output, line.logfile) == ("c", "y")


def test_a_double_dash_ends_the_options(tmp_path, monkeypatch):
    assert read("compile --target=trn1 -- --odd-name.pb").model == "--odd-name.pb"


def test_the_model_after_an_unknown_option_is_the_one_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pb").write_bytes(b"")
    line = read("compile --new word m.pb --target=trn1")
    assert line.model == "m.pb"
    assert line.options == ["--new", "word", INPUT_PLACE, "--target=trn1"]


@given(st.lists(WORD, max_size=8))
def test_any_words_are_read_or_refused_with_a_reason(words):
    try:
        line = read_command_line(["compile", *words])
    except NotCacheable as answer:
        assert answer.reason
    else:
        assert line.model in words
        assert line.output


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_different_fields_are_different_components(one, other):
    same = Component("flags", one).digest() == Component("flags", other).digest()
    assert same == (one == other)


def test_neighbours_do_not_run_together():
    split = [Component("flags", [b"-I", b"-O2"]), Component("environment", [])]
    joined = [Component("flags", [b"-I-O2"]), Component("environment", [])]
    moved = [Component("flags", [b"-I"]), Component("environment", [b"-O2"])]
    assert len({make_key(parts) for parts in (split, joined, moved)}) == 3
    direct = set()
    for parts in (split, joined, moved):
        hasher = begin_direct_key(parts)
        hasher.update(b"abc")
        direct.add(hasher.hexdigest())
    assert len(direct) == 3


def test_the_component_name_is_part_of_the_key():
    assert make_key([Component("a", [b"x"])]) != make_key([Component("b", [b"x"])])


def test_unset_and_empty_variables_differ():
    assert key_environment({}) == []
    assert key_environment({b"XLA_FLAGS": b"", b"HOME": b"/x"}) == [b"XLA_FLAGS="]


def test_the_hosts_product_name(tmp_path):
    (tmp_path / "product_name").write_bytes(b"trn1.32xlarge\n")
    assert host_product(str(tmp_path / "product_name")) == b"trn1.32xlarge"
    assert host_product(str(tmp_path / "absent")) == b""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (PRINTED, "2.21.33363.0+82129205"),
        ("warning: slow disk\n" + PRINTED, "2.21.33363.0+82129205"),
        ("", ""),
        ("NeuronX Compiler version", ""),
        ("NeuronX Compiler version unknown", ""),
        ("Error: no licence", ""),
    ],
)
def test_the_version_in_what_the_compiler_prints(text, version):
    assert printed_version(text) == version


def venv(tmp_path, *versions, packages="lib/python3.10/site-packages"):
    script = tmp_path / "bin/neuronx-cc"
    script.parent.mkdir(parents=True)
    script.write_text("#!python\n")
    for version in versions:
        info = tmp_path / packages / f"neuronx_cc-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: neuronx-cc\nVersion: {version}\n\nVersion: 0\n")
    return str(script)


def never(path):
    raise AssertionError("the compiler was run")


@pytest.mark.parametrize(
    "packages", ["lib/python3.10/site-packages", "lib64/python3.11/site-packages", "lib/python3/dist-packages", ""]
)
def test_the_distribution_beside_the_script_tells_the_version_without_running_it(tmp_path, packages):
    script = venv(tmp_path, "2.21.33363.0+82129205", packages=packages)
    assert identify_compiler(script, never).version == "2.21.33363.0+82129205"


def test_a_link_to_the_script_is_followed(tmp_path):
    script = venv(tmp_path / "venv", "2.1.0+a")
    link = tmp_path / "neuronx-cc"
    link.symlink_to(script)
    assert identify_compiler(str(link), never).version == "2.1.0+a"


def test_two_distributions_are_not_trusted(tmp_path):
    script = venv(tmp_path, "2.1.0+a", "2.2.0+b")
    assert find_metadata(script) == ""
    assert identify_compiler(script, lambda path: PRINTED).version == "2.21.33363.0+82129205"


def test_a_compiler_without_a_version_is_its_content(tmp_path):
    script = venv(tmp_path)
    one = identify_compiler(script, lambda path: "no version here")
    with open(script, "a") as file:
        file.write("more")
    other = identify_compiler(script, lambda path: "")
    assert one.name.startswith("content ")
    assert one.version == ""
    assert one.name != other.name


def test_the_same_version_is_the_same_identity_however_it_was_read(tmp_path):
    by_metadata = identify_compiler(venv(tmp_path / "a", "2.21.33363.0+82129205"), never)
    by_running = identify_compiler(venv(tmp_path / "b"), lambda path: PRINTED)
    assert by_metadata.name == by_running.name


def test_an_identity_is_remembered_until_the_compiler_changes(tmp_path):
    script = venv(tmp_path, "2.1.0+a")
    identity = identify_compiler(script, never)
    memo = make_memo(identity)
    assert recall_identity(memo).name == identity.name
    with open(script, "a") as file:
        file.write("#")
    assert recall_identity(memo) is None


def test_an_identity_is_forgotten_when_the_distribution_changes(tmp_path):
    script = venv(tmp_path, "2.1.0+a")
    identity = identify_compiler(script, never)
    memo = make_memo(identity)
    with open(identity.evidence[1], "a") as file:
        file.write("\n")
    assert recall_identity(memo) is None


def test_a_wrapper_is_identified_anew_when_what_it_starts_changes(tmp_path):
    releases = [tmp_path / "v1/neuronx-cc", tmp_path / "v2/neuronx-cc"]
    for release in releases:
        release.parent.mkdir()
        release.write_text("#!/bin/sh\n")
    current = tmp_path / "current"
    current.symlink_to(releases[0].parent)
    wrapper = tmp_path / "bin/neuronx-cc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec "{current}/neuronx-cc" "$@"\n')
    memo = make_memo(identify_compiler(str(wrapper), lambda path: PRINTED))
    assert recall_identity(memo).version == "2.21.33363.0+82129205"
    current.unlink()
    current.symlink_to(releases[1].parent)
    assert recall_identity(memo) is None


def test_a_distribution_that_does_not_list_the_script_is_not_trusted(tmp_path):
    script = venv(tmp_path, "2.1.0+a")
    record = tmp_path / "lib/python3.10/site-packages/neuronx_cc-2.1.0+a.dist-info/RECORD"
    digest = base64.urlsafe_b64encode(hashlib.sha256(Path(script).read_bytes()).digest()).rstrip(b"=").decode()
    record.write_text(f"../../../bin/neuronx-cc,sha256={digest},9\nneuronxcc/__init__.py,,\n")
    assert identify_compiler(script, never).version == "2.1.0+a"
    Path(script).write_text("#!/bin/sh\nexec /opt/other/neuronx-cc\n")
    assert identify_compiler(script, lambda path: PRINTED).version == "2.21.33363.0+82129205"
    record.write_text("neuronxcc/__init__.py,,\n")
    assert identify_compiler(script, lambda path: PRINTED).version == "2.21.33363.0+82129205"


def test_a_memo_depends_on_the_variables_that_lead_programs_to_files():
    names = {memo_name("/x", environ) for environ in ({}, {"PATH": "/a"}, {"PYTHONPATH": "/a"}, {"HOME": "/a"})}
    assert len(names) == 3


@given(st.binary(max_size=200))
def test_a_damaged_memo_is_ignored(data):
    assert recall_identity(data) is None


def test_every_flipped_bit_of_a_memo_is_noticed(tmp_path):
    script = venv(tmp_path)
    memo = make_memo(CompilerIdentity("neuronx-cc 1.0", [script]))
    for position in range(len(memo)):
        damaged = bytearray(memo)
        damaged[position] ^= 4
        assert recall_identity(bytes(damaged)) is None
