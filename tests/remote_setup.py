"""What tests of remotes share: results made on one host and put on a remote, without the uploader."""

from contextlib import closing
from pathlib import Path

from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import make_upload
from neuron_store.store.results import all_keys, load_result

FLAGS = ("--target=trn1", "--model-type=transformer", "--output=o.neff")
# What the stand-in compiler is told, so that its NEFF is stored compressed.
SAME = {"STANDIN_SIZE": 300_000, "STANDIN_COMPRESSIBLE": 1}
# Waits that tests can wait for.
TIMES = {"NEURON_STORE_REMOTE_CONNECT_TIMEOUT": "0.5", "NEURON_STORE_REMOTE_FIRST_BYTE_TIMEOUT": "0.5"}


def compile_on(host, model="model.hlo_module.pb", data=b"\x0a\x04main an HLO module", **extra):
    """Compile one module; return the NEFF."""
    (host.work / "o.neff").unlink(missing_ok=True)
    host.cc("compile", host.model(model, data), *FLAGS, **extra)
    return (host.work / "o.neff").read_bytes()


def uploads_of(host):
    layout = host.layout
    return [
        make_upload(layout, load_result(layout, key), PrivateNames.of_host(host.env), with_inputs=False)
        for key in all_keys(layout)
    ]


def publish(host, word, hub=None):
    """Put all of a host's results on a remote."""
    environ = {**host.env, **({"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_alice"} if hub else {})}
    if hub:
        for upload in uploads_of(host):
            files = [*upload.blobs, upload.record]
            contents = {a.path: a.data if a.data is not None else Path(a.source).read_bytes() for a in files}
            hub.put_files("alice/cache", contents)
        return
    with closing(open_remote(read_location(word), host.layout, environ, RemoteOptions())[0]) as remote:
        for upload in uploads_of(host):
            remote.add([*upload.blobs, upload.record], "Add")
