"""What tests of the commands for remotes share: a host that knows a loopback Hub, and what every command must keep to."""

import contextlib
import json
import os
import signal
from pathlib import Path

from neuron_store.store.results import all_keys

TOKENS = ("hf_alice", "hf_bob", "hf_reader", "hf_nobody")
USERS = (("alice", "hf_alice"), ("bob", "hf_bob"), ("reader", "hf_reader", "read"))
FLAGS = ("--framework=XLA", "--target=trn1", "--output=o.neff")


def connect(host, hub, repo="alice/cache"):
    """Let a host use a repo of the Hub; nothing is uploaded but by `push`."""
    host.env.update(
        HF_ENDPOINT=hub.endpoint,
        HF_TOKEN="hf_alice",
        HF_HOME=str(host.home / "hf"),
        NEURON_STORE_REMOTES=f"hf://{repo}" if repo else None,
        NEURON_STORE_UPLOAD="false",
        NEURON_STORE_UPLOAD_RETRY="0.01",
    )
    return host


def ns(host, *arguments, code=0, **extra):
    """Run `neuron-store`: it ends with `code`, shows no traceback, and never a token."""
    done = host.cli(*arguments, check=False, **extra)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert not any(token in said for token in TOKENS), said
    if code:
        assert "neuron-store: " in done.stderr or "Error" in done.stderr
    return done


def answer(host, *arguments, code=0, **extra):
    """Run `neuron-store … --json` and return what it answers."""
    return json.loads(ns(host, *arguments, "--json", code=code, **extra).stdout)


def compile_modules(host, count=1, first=0, **extra):
    """Compile so many modules; return their keys, in the order of compilation."""
    keys = []
    for number in range(first, first + count):
        known = set(all_keys(host.layout))
        host.cc("compile", *FLAGS, host.model(f"model{number}.pb", b"\x0a\x04main HLO %d" % number), **extra)
        keys += [key for key in all_keys(host.layout) if key not in known]
    assert len(keys) == count
    return keys


def saved(host):
    """What is in the file that optimum-neuron, too, has the repo's name in."""
    path = host.home / "hf/optimum_neuron_custom_cache"
    return path.read_text() if path.exists() else None


def end_uploaders(host, number=signal.SIGKILL, entry=None):
    """End the uploaders that a host's shim has started (one that waits for a Hub outlives its test); return how many.

    They are known by an entry of their environment, by default the one that names their store.
    """
    ended = 0
    mine = (entry or f"NEURON_STORE_DIR={host.store}").encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            uploads = b"upload-queue" in (process / "cmdline").read_bytes().split(b"\0")
            if uploads and mine in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), number)
                ended += 1
    return ended
