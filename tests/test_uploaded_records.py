"""What leaves a host: a record without private names, and blobs as they are stored."""

import base64
import gzip
import hashlib
import json
import os
import pwd
import string
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remote_setup import FLAGS, SAME, compile_on, publish, uploads_of

from neuron_store.store.errors import CorruptEntry, CorruptRemote
from neuron_store.store.remotes.base import is_name_of_ours
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import NotUploadable, decode_record, make_upload
from neuron_store.store.results import all_keys, load_result, save_result

HOSTNAME = os.uname().nodename


def upload_of(host, **more):
    (key,) = all_keys(host.layout)
    return make_upload(host.layout, load_result(host.layout, key), PrivateNames.of_host(host.env), **more)


def everything_in(upload):
    """All bytes that are uploaded, as they are and as they unfold."""
    stored = [a.data if a.data is not None else Path(a.source).read_bytes() for a in (*upload.blobs, upload.record)]
    record = json.loads(upload.record.data)
    inline = [base64.b64decode(o["inline"]) for o in record["outputs"] if "inline" in o]
    unfolded = [zstandard.decompress(data) for data in stored if data[:4] == b"\x28\xb5\x2f\xfd"]
    return [*stored, *inline, *unfolded]


# -- privacy -------------------------------------------------------------------------------------------------------


def test_nothing_private_is_uploaded(host):
    host.env |= {"USER": "alicia", "HF_TOKEN": "hf_abcdefghijklm", "MY_SECRET": "open sesame", "HOSTNAME": "node7"}
    home = host.base / "home of alicia"
    home.mkdir()
    host.env |= {"HOME": str(home)}
    said = [
        ["o", f"reading {host.work}/model.hlo on {HOSTNAME} (node7)\n"],
        ["e", f"alicia: token hf_abcdefghijklm, {home}/x y, -I/usr/include\n"],
        ["o", "open sesame\n"],
    ]
    told = {
        "STANDIN_PRINT": json.dumps(said),
        "STANDIN_LOG": f"log of {host.work}\n" * 500,
        "XLA_FLAGS": f"--xla_dump_to={home}/dump",
        "NEURON_STORE_KEY_SALT": "pepper",
        "NEURON_STORE_KEY_ENV": "OUR_TOKEN",
        "OUR_TOKEN": "hidden words",
    }
    flags = ["--tensorizer-options=--dump=/fsx/alicia/t", f"--logfile={host.work}/log.txt"]
    host.cc("compile", host.model("alicia.pb"), *FLAGS, *flags, **told)
    upload = upload_of(host)
    pieces = everything_in(upload)
    private = ["alicia", "hf_abcdefghijklm", "open sesame", "node7", HOSTNAME, str(host.base), "pepper", "hidden words",
               "/usr/include", "/fsx", str(host.launcher), pwd.getpwuid(os.getuid()).pw_dir + "/"]  # fmt: skip
    for name in private:
        assert [piece for piece in pieces if name.encode() in piece] == [], name


def test_nothing_private_is_uploaded_from_another_environment_than_the_compiles(host):
    private = {
        "USER": "danuser",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "HOSTNAME": "node7",
        "HF_TOKEN": "hf_short",
    }
    said = [["o", "danuser on node7: wJalrXUtnFEMI/K7MDENG\n"], ["e", "Danuser hf_short\n"]]
    host.cc("compile", host.model("danuser.pb"), *FLAGS, STANDIN_PRINT=json.dumps(said), **private)
    pieces = everything_in(upload_of(host))
    for name in ("danuser", "wJalrXUtnFEMI", "node7", "hf_short"):
        assert [piece for piece in pieces if name.encode() in piece] == [], name
    shown = host.cli("show", next(all_keys(host.layout)), "--json").stdout
    assert "wJalrXUtnFEMI" not in shown


def test_the_addition_names_are_of_the_grammar_and_tell_nothing(host):
    compile_on(host, **SAME)
    upload = upload_of(host)
    assert all(is_name_of_ours(addition.path) for addition in (*upload.blobs, upload.record))


def test_what_a_record_carries_is_what_the_documents_list(host):
    compile_on(host, **SAME)
    record = json.loads(upload_of(host).record.data)
    assert set(record) == {
        "format", "key", "proof", "input", "components", "outputs", "inputs", "interleave", "seconds",
        "compiler_version", "created", "neuron_store",
    }  # fmt: skip
    assert set(record["input"]) == {"name", "size", "sha256", "mode"}
    assert record["inputs"] == []
    documented = (Path(__file__).parent.parent / "docs/remote-format.md").read_text()
    for name in record:
        assert f"`{name}`" in documented, name


def test_inputs_are_uploaded_only_if_that_is_wanted(host):
    data = b"\x0a\x04main the model itself" * 100
    host.cc("compile", host.model("m.pb", data), *FLAGS)
    without, with_inputs = upload_of(host), upload_of(host, with_inputs=True)
    assert not any(data in piece for piece in everything_in(without))
    assert any(data in piece for piece in everything_in(with_inputs))
    (kept,) = json.loads(with_inputs.record.data)["inputs"]
    assert (kept["kind"], kept["sha256"]) == ("graph", hashlib.sha256(data).hexdigest())


def test_text_that_holds_nothing_private_is_uploaded_as_it_is(host):
    printed = [["o", "one "], ["e", "two "], ["o", "a/b 1/2 https://host/x\n"]]
    done = host.cc("compile", host.model(), *FLAGS, STANDIN_PRINT=json.dumps(printed))
    record = json.loads(upload_of(host).record.data)
    texts = {o["role"]: base64.b64decode(o["inline"]) for o in record["outputs"] if "inline" in o}
    assert texts == {"stdout": done.stdout, "stderr": done.stderr}
    (key,) = all_keys(host.layout)
    assert record["interleave"] == load_result(host.layout, key).interleave != ""


def test_text_that_was_changed_is_replayed_without_an_order(make_host, tmp_path):
    maker, taker = make_host("maker"), make_host("taker")
    (tmp_path / "shared").mkdir()
    printed = [["o", f"one {maker.work}/x\n"], ["e", "two\n"], ["o", "three\n"]]
    compile_on(maker, STANDIN_PRINT=json.dumps(printed))
    publish(maker, f"file://{tmp_path}/shared")
    taker.use_remotes(f"file://{tmp_path}/shared")
    done = taker.cc("compile", taker.model(), *FLAGS)
    assert done.stdout == b"one <path>\nthree\nCompiler status PASS\n"
    assert done.stderr == b"two\n"


WORDS = st.text(string.ascii_letters + string.digits + "._-é", min_size=1, max_size=12)
BEFORE = st.sampled_from(["", " ", "'", '"', "=", "(", "[", "-I", "file://", ", ", "\t", "\n", "x: ", "{", "a,", ";"])
AFTER = st.sampled_from(["", " ", "'", '"', ")", "]", "\n", ", b", "; x", "}"])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no fault
@given(st.lists(WORDS, min_size=1, max_size=5), BEFORE, AFTER)
def test_an_absolute_path_is_taken_out_wherever_it_stands(parts, before, after):
    path = "/" + "/".join(parts)
    redacted = PrivateNames().redact(before + path + after)
    assert path not in redacted
    assert "<path>" in redacted


@given(st.text())
def test_redacting_twice_changes_nothing_more(text):
    names = PrivateNames(users=["alice"], hosts=["node7.corp"], folders=["/home/alice"], secrets=["opensesame"])
    once = names.redact(text)
    assert names.redact(once) == once


@given(st.binary())
def test_any_bytes_can_be_redacted(data):
    assert b"/home/alice" not in PrivateNames(folders=["/home/alice"]).redact_bytes(data + b" /home/alice/x ")


@pytest.mark.parametrize(
    "text",
    ["a/b/c", "./x/y", "../z", "1/2", "and/or", "https://huggingface.co/a/b", "s3://bucket/key", "/", "a / b", "//",
     "trn1/trn2", "text/x-python", "--xla=a/b"],
)  # fmt: skip
def test_what_is_no_absolute_path_stays(text):
    assert PrivateNames().redact(text) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("alice and Alice2 and malice", "<user> and Alice2 and malice"),
        ("on node7, node7.corp.example, node77", "on <host>, <host>, node77"),
        ("/home/alice/a /home/alicea", "<path> <path>"),
        ("key hf_AbCdEfGh123456 AKIAIOSFODNN7EXAMPLE ghp_0123456789abcdef0123", "key <token> <token> <token>"),
    ],
)
def test_names_are_taken_out_as_whole_words(text, redacted):
    names = PrivateNames(users=["alice"], hosts=["node7.corp.example"], folders=["/home/alice"])
    assert names.redact(text) == redacted


# -- records -------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(host):
    compile_on(host, **SAME)
    upload = upload_of(host)
    (key,) = all_keys(host.layout)
    record = decode_record(upload.record.data, key, upload.folder, 1 << 30)
    assert record.encode() == upload.record.data
    local, fetched = load_result(host.layout, key), record.as_result("hf://a/b")
    assert {role: o.sha256 for role, o in fetched.outputs.items()} == {r: o.sha256 for r, o in local.outputs.items()}
    assert fetched.provenance["origin"] == "hf://a/b"
    assert [part["digest"] for part in fetched.components] == [part["digest"] for part in local.components]


@given(st.data())
def test_a_record_with_any_flipped_byte_is_refused_or_means_the_same_outputs(data):
    position = data.draw(st.integers(0, len(GOOD) - 1))
    flipped = bytearray(GOOD)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        record = decode_record(bytes(flipped), "ab" * 16, "neuronxcc-2.1+x", 1 << 30)
    except CorruptRemote:
        return
    for blob in record.outputs:
        if blob.output.inline is not None:
            assert hashlib.sha256(blob.output.inline).hexdigest() == blob.output.sha256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.sampled_from(["key", "proof", "input", "components", "outputs", "inputs", "interleave", "seconds",
                        "compiler_version", "created", "neuron_store", "format"]), JSON)  # fmt: skip
def test_any_json_in_any_field_is_refused_or_makes_sense(name, value):
    document = json.loads(GOOD)
    document[name] = value
    try:
        record = decode_record(json.dumps(document).encode(), "ab" * 16, "neuronxcc-2.1+x", 1 << 30)
    except CorruptRemote:
        return
    assert record.key == "ab" * 16
    record.encode()


def blob(role, content):
    from neuron_store.hashing.xxh3 import xxh3_hex

    return {
        "role": role,
        "sha256": hashlib.sha256(content).hexdigest(),
        "xxh3": xxh3_hex(content),
        "size": len(content),
    }


GOOD = json.dumps(
    {
        "format": "neuron-store record 1",
        "key": "ab" * 16,
        "proof": "0" * 64,
        "input": {"name": "m.pb", "size": 10, "sha256": "1" * 64, "mode": "canonical"},
        "components": [{"name": "flags", "digest": "2" * 32, "fields": ["--target=trn1"]}],
        "outputs": [
            {**blob("neff", b"neff"), "encoding": "raw", "stored_size": 4, "stored_sha256": hashlib.sha256(b"neff").hexdigest()},
            {**blob("stdout", b"PASS\n"), "inline": base64.b64encode(b"PASS\n").decode()},
        ],
        "inputs": [],
        "interleave": "o5",
        "seconds": 1.5,
        "compiler_version": "2.1+x",
        "created": 1.0,
        "neuron_store": "0.1",
    }
).encode()  # fmt: skip


def test_the_example_of_these_tests_is_a_record():
    assert decode_record(GOOD, "ab" * 16, "neuronxcc-2.1+x", 1 << 30).key == "ab" * 16


def test_a_result_without_a_proof_is_not_uploaded(host):
    compile_on(host)
    (key,) = all_keys(host.layout)
    result = load_result(host.layout, key)
    del result.input["proof"]
    save_result(host.layout, result)
    with pytest.raises(NotUploadable, match="no proof"):
        upload_of(host)


@pytest.mark.parametrize("size", [2_000, 300_000])
def test_a_result_whose_blob_is_gone_or_changed_is_not_uploaded(host, size):
    compile_on(host, STANDIN_SIZE=size)
    blob = max((host.store / "blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    blob.chmod(0o644)
    with open(blob, "r+b") as file:
        file.write(b"changed")
    with pytest.raises(CorruptEntry):
        upload_of(host)
    blob.unlink()
    with pytest.raises(CorruptEntry):
        upload_of(host)


def test_long_text_goes_as_a_blob_and_longer_text_stays_at_home(make_host):
    for kilobytes, roles in ((100, {"neff", "stdout"}), (5000, {"neff"})):
        host = make_host(f"host{kilobytes}")
        compile_on(host, STANDIN_FLOOD=kilobytes // 64)
        record = json.loads(upload_of(host).record.data)
        assert {output["role"] for output in record["outputs"]} == roles


def test_a_blob_that_the_remote_has_in_another_encoding_is_described_as_it_is_there(host):
    compile_on(host, **SAME)
    upload = upload_of(host)
    (blob,) = upload.blobs
    upload.adopt(blob.path, 12345, "f" * 64)
    (neff,) = [o for o in json.loads(upload.record.data)["outputs"] if o["role"] == "neff"]
    assert (neff["stored_size"], neff["stored_sha256"]) == (12345, "f" * 64)
    assert upload.blobs == []


def test_a_raw_blob_is_always_sent_as_it_is(host):
    compile_on(host, STANDIN_SIZE=100_000)
    upload = upload_of(host)
    (blob,) = upload.blobs
    upload.adopt(blob.path, 12345, "f" * 64)
    (neff,) = [o for o in json.loads(upload.record.data)["outputs"] if o["role"] == "neff"]
    assert neff["stored_size"] == neff["size"] == 100_000
    assert upload.blobs == [blob]


def test_a_compressed_neff_is_not_compressed_again(host):
    compile_on(host, STANDIN_SIZE=50_000)
    neff = (host.work / "o.neff").read_bytes()
    assert neff in everything_in(upload_of(host))
    assert len(gzip.compress(neff)) > len(neff) * 0.9
    assert len(uploads_of(host)) == 1
