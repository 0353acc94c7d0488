"""What tests of uploading share: results to upload, a remote in memory, and an uploader in a process of its own.

`python tests/uploads.py <store> <endpoint> <repo> <token>` forks an uploader for every line on stdin: how many results
go into a batch, and the seconds after which it is killed, or "never". It answers by exit codes.
"""

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter

from neuron_store.store.blob_writer import store_blob
from neuron_store.store.errors import RemoteUnavailable
from neuron_store.store.layout import Layout
from neuron_store.store.queue import enqueue, queue_length
from neuron_store.store.remotes.base import Access, Remote, RemoteFile
from neuron_store.store.remotes.http_reader import ReadLimits
from neuron_store.store.remotes.hub_client import prepare
from neuron_store.store.remotes.location import read_location
from neuron_store.store.remotes.opening import RemoteOptions, open_remote
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.results import Result, save_result
from neuron_store.store.uploader import Uploader, UploadPolicy

VERSION = "2.21.33363.0+82129205"
FOLDER = f"neuronxcc-{VERSION}"


def fast(**changes) -> UploadPolicy:
    """A policy that waits for nothing."""
    return UploadPolicy(**{"hurry": True, "retry": 0.01, "commits_per_hour": 1000, "poll": 0.005, **changes})


def make_key(number) -> str:
    return hashlib.md5(f"key {number}".encode()).hexdigest()


def make_neff(number, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size).hex().encode()


def fill(layout: Layout, numbers, *, neff=make_neff, level: int = 3, proof: bool = True) -> "list[str]":
    """Put results into the local store and return their keys; `neff` makes each one's output of its number."""
    return [put_result(layout, number, neff(number), level, proof=proof) for number in numbers]


def put_result(layout: Layout, number, neff: bytes, level: int = 3, *, proof: bool = True) -> str:
    key = make_key(number)
    with tempfile.TemporaryFile() as file:
        file.write(neff)
        file.flush()
        output = store_blob(layout, "neff", file.fileno(), level)
    digest = hashlib.sha256(key.encode()).hexdigest()
    described = {"name": "model.pb", "size": 1, "sha256": digest, "mode": "canonical"}
    result = Result(
        key=key,
        components=[],
        outputs={"neff": output},
        interleave="",
        seconds=1.0,
        input_file={**described, "proof": digest} if proof else described,
        provenance={"created": 1.0, "compiler_version": VERSION},
    )
    save_result(layout, result)
    return key


def queue_all(layout: Layout, remote: Remote, keys, *, replace: bool = False) -> None:
    for key in keys:
        enqueue(layout, remote.identity, key, replace=replace)


def left(layout: Layout, remote: Remote) -> int:
    return queue_length(layout, remote.identity)


class MemoryRemote(Remote):
    """Files in memory. `faults` are raised by the next calls, one each: (method, exception, whether after the effect)."""

    kind = "memory"

    def __init__(self, url: str = "memory:one", *, tells_sha256: bool = True) -> None:
        super().__init__(url, writable=True)
        self.files: dict[str, bytes] = {}
        self.added: Counter = Counter()
        self.messages: list[str] = []
        self.calls: Counter = Counter()
        self.faults: list[tuple[str, Exception, bool]] = []
        self.always: Exception | None = None
        self.who = "alice"
        self.tells_sha256 = tells_sha256

    @property
    def credential(self) -> str:
        return self.who

    def _call(self, method: str, *, after: bool = False) -> None:
        self.calls[method] += not after
        if self.always is not None and not after:
            raise self.always
        if self.faults and self.faults[0][0] == method and self.faults[0][2] == after:
            raise self.faults.pop(0)[1]

    def read(self, path: str, limit: int) -> "bytes | None":
        return self.files.get(path)

    def download(self, path: str, size: int, destination: int) -> None:
        os.write(destination, self.files[path])

    def take(self, path: str, limit: int, destination: int) -> "int | None":
        data = self.files.get(path)
        return None if data is None else os.write(destination, data)

    def look_up(self, paths) -> "dict[str, RemoteFile]":
        self._call("look_up")
        return {path: self._describe(path) for path in paths if path in self.files}

    def _describe(self, path: str) -> RemoteFile:
        data = self.files[path]
        tell = self.tells_sha256 and not path.endswith(".json")
        return RemoteFile(path, len(data), hashlib.sha256(data).hexdigest() if tell else "")

    def add(self, additions, message, progress=None) -> None:
        self._call("add")
        records = [addition.path.endswith(".json") for addition in additions]
        assert records == sorted(records), "a record stands before a blob"
        arrived = {addition.path: _content(addition) for addition in additions}
        assert len(arrived) == len(additions), "a file is sent twice in one commit"
        for addition in additions:
            if progress is not None:
                progress(addition.size, 1)
        self.files.update(arrived)
        self.added.update(arrived.keys())
        self.messages.append(message)
        self._call("add", after=True)

    def amend(self, paths, limit, merge, message) -> "list[str]":
        self._call("amend")
        merged = {path: merge(path, self.files.get(path)) for path in paths}
        changed = [path for path, data in merged.items() if data is not None and data != self.files.get(path)]
        self.files.update({path: merged[path] for path in changed})
        self.messages += [message] if changed else []
        self._call("amend", after=True)
        return changed

    def head(self) -> str:
        return ""

    def remove(self, paths, message, parent) -> str:
        self._call("remove")
        for path in paths:
            self.files.pop(path, None)
        self.messages.append(message)
        self._call("remove", after=True)
        return ""

    def came(self, paths) -> "dict[str, float]":
        return {path: 0.0 for path in paths if path in self.files}

    def listing(self, folder: str) -> "list[str]":
        below = folder + "/"
        return sorted({path.removeprefix(below).partition("/")[0] for path in self.files if path.startswith(below)})

    def folders(self) -> "list[str]":
        return sorted({path.partition("/")[0] for path in self.files})

    def walk(self, folder: str):
        below = folder and folder + "/"
        return (self._describe(path) for path in sorted(self.files) if path.startswith(below))

    def check(self) -> Access:
        return Access(reachable=True, readable=True, writable=True)

    def close(self) -> None:
        pass


def _content(addition) -> bytes:
    if addition.data is not None:
        return addition.data
    with open(addition.source, "rb") as file:
        return file.read()


def records_of(files) -> "list[str]":
    """The keys whose records are among `files`."""
    return sorted(path[-37:-5] for path in files if "/0_RESULTS/" in path)


class Told:
    """What an uploader counted and logged."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.events: list[tuple[str, str, str]] = []
        self.sent = 0  # bytes
        self.lines: list[str] = []

    def count(self, outcome: str, key: str, detail: str, sent: int = 0) -> None:
        self.counts[outcome] += 1
        self.events.append((outcome, key, detail))
        self.sent += sent


def make_uploader(layout: Layout, *remotes, told: "Told | None" = None, **policy) -> Uploader:
    told = told or Told()
    return Uploader(layout, remotes, fast(**policy), names=PrivateNames(), count=told.count, log=told.lines.append)


def open_hub(layout: Layout, endpoint: str, repo: str, token: str, *, timeout: float = 20.0, xet: str = "off"):
    """Return the remote `repo` of a loopback Hub, and what is remembered of it."""
    environ = {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HOME": layout.root}
    options = RemoteOptions(limits=ReadLimits(5.0, 5.0, 1000), upload_timeout=timeout, xet=xet)
    return open_remote(read_location("hf://" + repo), layout, environ, options)


def main(store: str, endpoint: str, repo: str, token: str) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi  # noqa: F401 - once, for all children

    prepare(20.0)
    layout = Layout(store)
    print("ready", flush=True)
    for line in sys.stdin:
        most_results, kill_after = line.split()
        child = os.fork()
        if child == 0:
            remote, _ = open_hub(layout, endpoint, repo, token)
            told = Told()
            try:
                make_uploader(layout, remote, told=told, most_results=int(most_results)).run(0.0)
            except RemoteUnavailable:
                os._exit(1)
            print(*told.lines, sep="\n", file=sys.stderr, flush=True)
            os._exit(0)
        if kill_after != "never":
            time.sleep(float(kill_after))
            os.kill(child, signal.SIGKILL)  # which may have ended, but is waited for by nobody else
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
