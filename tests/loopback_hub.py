"""An imitation of the Hugging Face Hub on 127.0.0.1, for tests and measurements.

`with start_hub() as hub:` serves models and datasets from memory at `hub.endpoint`, to huggingface_hub's own client
and to anything else that speaks HTTP/1.1. Large files go through a second port, `hub.cdn_endpoint`, as they go through
a second origin in reality. A repo is named "alice/cache", or "datasets/alice/cache".

`python tests/loopback_hub.py --user alice:hf_alice` runs one as a process of its own.
"""

import argparse
import base64
import binascii
import calendar
import codecs
import contextlib
import gzip
import hashlib
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, quote, unquote, urlencode

from loopback_faults import (
    NOTHING,
    Action,
    Answer,
    Body,
    Drop,
    Dropped,
    Fault,
    Faults,
    FlipByte,
    Pace,
    Redirect,
    Slow,
    Stall,
    Status,
    Truncate,
    Wire,
    WrongSize,
)

__all__ = [
    "Action",
    "Body",
    "Drop",
    "Fault",
    "FlipByte",
    "Hub",
    "Redirect",
    "Slow",
    "Stall",
    "Status",
    "Truncate",
    "WrongSize",
    "start_hub",
]

LARGEST_REGULAR = 10 * 1024 * 1024
GITATTRIBUTES = ".gitattributes"
TYPES = {"model": "", "dataset": "datasets/"}


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def wants_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub would have this file uploaded through LFS."""
    if path.endswith((".zst", ".neff")) or size > LARGEST_REGULAR or b"\0" in sample:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return True
    return False


def when(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))


def earlier(date: str, seconds: float) -> str:
    return when(calendar.timegm(time.strptime(date, "%Y-%m-%dT%H:%M:%S.000Z")) - seconds)


def as_json(value, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **headers})


class Refused(Exception):  # noqa: N818 - an answer, not a failure of the Hub
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.headers = {"X-Error-Message": message, **headers}
        if code:
            self.headers["X-Error-Code"] = code
        self.status = status

    def answer(self) -> Answer:
        answer = as_json({"error": str(self)}, self.status)
        answer.headers.update(self.headers)
        return answer


@dataclass
class User:
    name: str
    role: str
    orgs: tuple

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


@dataclass
class Request:
    """What came in. `status` is None as long as there is no answer; `authorized` is whether it carried a token."""

    time: float
    method: str
    path: str
    kind: str
    headers: dict = field(repr=False)
    status: int | None = None
    received: int = 0
    sent: int = 0

    @property
    def authorized(self) -> bool:
        return "authorization" in self.headers


@dataclass(frozen=True)
class File:
    oid: str  # as git names it: of an LFS file, its pointer's
    size: int
    etag: str
    data: bytes | None = field(repr=False)  # None: an LFS file, whose bytes are the repo's `lfs[etag]`

    def describe(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.data is None:
            entry["lfs"] = {"oid": self.etag, "size": self.size, "pointerSize": len(pointer(self.etag, self.size))}
        return entry


def with_last_commit(commit: "Commit", entry: dict) -> dict:
    last = commit.last_change(entry["path"])
    return {**entry, "lastCommit": {"id": last.oid, "title": last.message, "date": last.date}}


def regular_file(data: bytes) -> File:
    oid = git_hash(data)
    return File(oid, len(data), oid, data)


def lfs_file(oid: str, size: int) -> File:
    return File(git_hash(pointer(oid, size)), size, oid, None)


@dataclass
class Commit:
    oid: str
    message: str
    description: str
    author: str
    added: list
    deleted: list
    parent: "Commit | None" = field(repr=False)
    files: dict = field(repr=False)
    date: str = field(default_factory=lambda: when(time.time()))
    trees: dict = field(default_factory=dict, repr=False)
    initial: bool = False

    def last_change(self, path: str) -> "Commit":
        """The commit that last touched a file, or something below a folder."""
        below = path + "/"
        for commit in self.history():
            touched = [*commit.added, *commit.deleted]
            if path in touched or any(name.startswith(below) for name in touched) or commit.parent is None:
                return commit
        return self

    def tree(self, folder: str, *, recursive: bool) -> list:
        """The entries below a folder, in order; they are remembered, since a commit never changes."""
        if (folder, recursive) not in self.trees:
            start = len(folder) + 1 if folder else 0
            entries = {}
            for path in sorted(self.files):
                if folder and not path.startswith(folder + "/"):
                    continue
                slash = path.find("/", start)
                while slash >= 0:
                    below = path[:slash]
                    oid = hashlib.sha1(f"{self.oid}:{below}".encode()).hexdigest()
                    entries[below] = {"type": "directory", "path": below, "oid": oid, "size": 0}
                    slash = path.find("/", slash + 1) if recursive else -1
                if recursive or "/" not in path[start:]:
                    entries[path] = self.files[path].describe(path)
            self.trees[folder, recursive] = list(entries.values())
        return self.trees[folder, recursive]

    def history(self) -> "list[Commit]":
        """This commit and those before it, newest first."""
        commits, commit = [], self
        while commit:
            commits.append(commit)
            commit = commit.parent
        return commits


class Objects(dict):
    """LFS objects by SHA-256, and when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: dict[str, str] = {}

    def __setitem__(self, oid: str, data: bytes) -> None:
        super().__setitem__(oid, data)
        self.pushed.setdefault(oid, when(time.time()))

    def __delitem__(self, oid: str) -> None:
        super().__delitem__(oid)
        del self.pushed[oid]


class Repo:
    def __init__(self, kind: str, name: str, *, private: bool, gated: bool, author: str) -> None:
        self.kind = kind
        self.name = name
        self.private = private
        self.gated = gated
        self.lock = threading.RLock()
        self.busy = threading.Lock()  # held by a commit while `commit_lock_seconds` makes it long
        self.lfs = Objects()
        self.parts: dict[tuple[str, int], bytes] = {}
        self.by_oid: dict[str, Commit] = {}
        self.branches: dict[str, Commit] = {}
        self.commits_since_quota = 0
        self._number = 0
        attributes = regular_file(b"*.zst filter=lfs diff=lfs merge=lfs -text\n")
        self.add_commit("main", "initial commit", "", author, {GITATTRIBUTES: attributes}, [], initial=True)

    @property
    def prefixed(self) -> str:
        return TYPES[self.kind] + self.name

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    def at(self, revision: str) -> Commit:
        commit = self.branches.get(revision) or self.by_oid.get(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add_commit(self, branch, message, description, author, added, deleted, *, initial=False, alone=False) -> Commit:
        """Commit to a branch; `alone` leaves its history behind."""
        parent = None if alone else self.branches.get(branch)
        files = dict(parent.files) if parent else {}
        for path in deleted:
            files.pop(path, None)
        files.update(added)
        self._number += 1
        oid = hashlib.sha1(f"{self.prefixed} {branch} {self._number} {time.time_ns()}".encode()).hexdigest()
        commit = Commit(oid, message, description, author, list(added), list(deleted), parent, files, initial=initial)
        self.branches[branch] = self.by_oid[oid] = commit
        return commit

    def squash(self, branch: str, message: str, author: str) -> None:
        self.add_commit(branch, message, "", author, self.at(branch).files, [], alone=True)
        self.by_oid = {commit.oid: commit for head in self.branches.values() for commit in head.history()}

    def purge(self, oids: set, *, rewrite: bool) -> None:
        """Delete LFS objects for good; `rewrite` takes the files that they were out of all commits, which get new names."""
        for oid in oids & self.lfs.keys():
            del self.lfs[oid]
        if not rewrite:
            return
        for head in self.branches.values():
            for commit in head.history():
                commit.files = {path: file for path, file in commit.files.items() if file.etag not in oids}
                commit.oid = hashlib.sha1(f"rewritten {commit.oid}".encode()).hexdigest()
                commit.trees.clear()
        self.by_oid = {commit.oid: commit for head in self.branches.values() for commit in head.history()}

    def content(self, file: File) -> bytes:
        return self.lfs[file.etag] if file.data is None else file.data


class Hub:
    """The server, and what a test asks it and tells it."""

    def __init__(
        self,
        *,
        port: int = 0,
        page_size: int = 1000,
        latency: float = 0.0,
        bandwidth: float | None = None,
        folder_limit: int = 10_000,
        multipart_size: int | None = None,
        gzip_text: bool = False,
        control: bool = False,
        users: tuple = (("alice", "hf_alice"),),
    ) -> None:
        self.page_size = page_size
        self.latency = latency
        self.bandwidth = bandwidth
        self.folder_limit = folder_limit
        self.multipart_size = multipart_size
        self.gzip_text = gzip_text
        self.control = control
        self.commit_lock_seconds = 0.0
        self.requests: list[Request] = []
        self.connections = 0  # that were made, not counting the CDN's
        self.bytes_received: Counter = Counter()
        self.faults = Faults()
        self._commit_quota: int | None = None
        self._lock = threading.RLock()
        self._users: dict[str, User] = {}
        self._repos: dict[tuple[str, str], Repo] = {}
        self._ports = [port, 0]
        self._listeners: list[socket.socket] = []
        self._threads: set[threading.Thread] = set()
        self._sockets: set[socket.socket] = set()
        self._closing = threading.Event()
        for user in users:
            self.add_user(*user)

    # --- the server

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def cdn_endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def bandwidth(self) -> float | None:
        return self.link.rate if self.link else None

    @bandwidth.setter
    def bandwidth(self, value: float | None) -> None:
        self.link = Pace(value) if value else None

    def up(self) -> None:
        """Listen, at the same ports as before `down`."""
        if self._listeners:
            return
        self._closing = threading.Event()
        for index, port in enumerate(self._ports):
            listener = socket.create_server(("127.0.0.1", port), backlog=1024)
            self._ports[index] = listener.getsockname()[1]
            self._listeners.append(listener)
        for listener, is_cdn in zip(self._listeners, (False, True), strict=True):
            self._start_thread(self._accept, listener, is_cdn, self._closing)

    def down(self) -> None:
        """Stop listening and cut all connections; what is stored stays."""
        self._closing.set()
        with self._lock:
            listeners, self._listeners = self._listeners, []
            for sock in [*listeners, *self._sockets]:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        deadline = time.monotonic() + 0.9
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        for listener in listeners:
            listener.close()

    stop = down

    def _start_thread(self, target, *arguments) -> None:
        def run() -> None:
            try:
                target(*arguments)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, daemon=True, name="loopback-hub")
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket, is_cdn: bool, closing: threading.Event) -> None:
        while not closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                continue
            with self._lock:
                self._sockets.add(sock)
                self.connections += not is_cdn
            self._start_thread(self._serve, sock, is_cdn, closing)

    def _serve(self, sock: socket.socket, is_cdn: bool, closing: threading.Event) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wire = Wire(sock, closing)
                wire.sleep(self.latency)
                if not closing.is_set():
                    Connection(self, wire, is_cdn=is_cdn)
        finally:
            with self._lock:
                self._sockets.discard(sock)
            sock.close()

    # --- what a test sets up

    def add_user(self, name: str, token: str, role: str = "write", orgs: tuple = ()) -> None:
        self._users[token] = User(name, role, tuple(orgs))

    def create_repo(self, repo: str, *, private: bool = False, gated: bool = False) -> None:
        kind, name = self._split(repo)
        with self._lock:
            self._repos[kind, name] = Repo(kind, name, private=private, gated=gated, author=name.partition("/")[0])

    def put_file(self, repo: str, path: str, data: bytes, lfs: bool | None = None) -> None:
        """Commit a file, as if someone else had."""
        self.put_files(repo, {path: data}, lfs)

    def put_files(self, repo: str, files: "dict[str, bytes]", lfs: bool | None = None) -> None:
        """Commit files at once; `lfs` None chooses as preupload does."""
        target = self._repo(repo)
        with target.lock:
            added = {}
            for path, data in files.items():
                if wants_lfs(path, len(data), data[:512]) if lfs is None else lfs:
                    oid = hashlib.sha256(data).hexdigest()
                    target.lfs[oid] = data
                    added[path] = lfs_file(oid, len(data))
                else:
                    added[path] = regular_file(data)
            target.add_commit("main", f"Place {', '.join(files)}", "", target.namespace, added, [])

    def overwrite(self, repo: str, path: str, data: bytes, lfs: bool | None = None) -> None:
        """Commit another content for a file that is there."""
        self._file(repo, path)
        self.put_file(repo, path, data, lfs)

    def corrupt(self, repo: str, path: str, data: bytes) -> None:
        """Serve other bytes for a file, under its old hash, size and ETag."""
        target, file = self._repo(repo), self._file(repo, path)
        with target.lock:
            if file.data is None:
                target.lfs[file.etag] = data
            else:
                target.branches["main"].files[path] = replace(file, data=data)

    def age(self, repo: str, seconds: float) -> None:
        """Let all that a repo has be so much older."""
        target = self._repo(repo)
        with target.lock:
            for commit in target.by_oid.values():
                commit.date = earlier(commit.date, seconds)
            target.lfs.pushed = {oid: earlier(date, seconds) for oid, date in target.lfs.pushed.items()}

    def stored_objects(self, repo: str) -> "set[str]":
        """The SHA-256 of all LFS objects that a repo's storage holds, whether a file is one of them or not."""
        return set(self._repo(repo).lfs)

    def put_object(self, repo: str, data: bytes) -> str:
        """Store an LFS object that no commit names (yet); return its SHA-256."""
        oid = hashlib.sha256(data).hexdigest()
        self._repo(repo).lfs[oid] = data
        return oid

    def make_branch(self, repo: str, branch: str) -> None:
        """Make a branch of what main has now."""
        target = self._repo(repo)
        target.branches[branch] = target.at("main")

    def delete_file(self, repo: str, path: str) -> None:
        target, _ = self._repo(repo), self._file(repo, path)
        with target.lock:
            target.add_commit("main", f"Delete {path}", "", target.namespace, {}, [path])

    def fail(
        self, kind: str | None, action: Action, *, times: int | None = 1, after: int = 0, path: str | None = None
    ) -> Fault:
        """Apply `action` to requests of a kind (None: any) whose path and query match the regex `path`.

        The first `after` of them are let through, then `times` of them (None: all) are hit.
        """
        check_kind(kind)
        return self.faults.add(kind, action, times=times, after=after, path=path)

    def clear_faults(self) -> None:
        self.faults.clear()

    @property
    def commit_quota(self) -> int | None:
        """How many commits each repo takes from now on; None for as many as come."""
        return self._commit_quota

    @commit_quota.setter
    def commit_quota(self, value: int | None) -> None:
        for repo in self._repos.values():
            repo.commits_since_quota = 0
        self._commit_quota = value

    # --- what a test asks

    def count(self, kind: str | None = None, *, method: str | None = None, path: str | None = None) -> int:
        """How many requests there were of a kind, a method, and with a path that matches a regex."""
        return len(self.seen(kind, method=method, path=path))

    def seen(self, kind: str | None = None, *, method: str | None = None, path: str | None = None) -> "list[Request]":
        check_kind(kind)
        return [
            request
            for request in list(self.requests)
            if kind in (None, request.kind)
            and method in (None, request.method)
            and (path is None or re.search(path, request.path))
        ]

    def repos(self) -> "list[str]":
        return [repo.prefixed for repo in list(self._repos.values())]

    def files(self, repo: str, revision: str = "main") -> "dict[str, bytes]":
        """What a repo holds, but for the .gitattributes that it was created with."""
        target = self._repo(repo)
        with target.lock:
            files = target.at(revision).files
            return {path: target.content(file) for path, file in files.items() if path != GITATTRIBUTES}

    def commits(self, repo: str, revision: str = "main") -> "list[Commit]":
        """The commits of a branch, oldest first, but for the one that created the repo."""
        return [commit for commit in reversed(self._repo(repo).at(revision).history()) if not commit.initial]

    def _split(self, repo: str) -> "tuple[str, str]":
        return ("dataset", repo.removeprefix("datasets/")) if repo.startswith("datasets/") else ("model", repo)

    def _repo(self, repo: str) -> Repo:
        return self._repos[self._split(repo)]

    def _file(self, repo: str, path: str) -> File:
        return self._repo(repo).at("main").files[path]

    # --- what a request asks; each answers or raises Refused

    def handle(self, call: "Call", handler: str, groups: "dict[str, str]") -> Answer:
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        if token and not call.is_cdn:
            call.user = self._users.get(token)
            if call.user is None:
                raise Refused(401, "Invalid credentials in Authorization header")
        if "name" in groups:
            kind = groups.pop("kind") or "models"
            call.repo = self._repos.get((kind.rstrip("s/"), groups.pop("name")))
        return getattr(self, handler)(call, **groups)

    def readable(self, call: "Call") -> Repo:
        repo, user = call.repo, call.user
        if repo is None or (repo.private and not (user and user.owns(repo.namespace))):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def open(self, call: "Call") -> Repo:
        """A repo whose files may be read."""
        repo, user = self.readable(call), call.user
        if repo.gated and not (user and user.owns(repo.namespace)):
            raise Refused(403 if user else 401, f"Access to {repo.name} is restricted.", "GatedRepo")
        return repo

    def writable(self, call: "Call") -> Repo:
        repo = self.readable(call)
        self.may_write(call.user, repo.namespace)
        return repo

    def may_write(self, user: User | None, namespace: str) -> None:
        if user is None:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if user.role != "write" or not user.owns(namespace):
            raise Refused(403, f"You don't have the rights to write to the namespace {namespace}")

    def do_whoami(self, call: "Call") -> Answer:
        user = call.user
        if user is None:
            raise Refused(401, "Invalid username or password.")
        access = {"displayName": "loopback", "role": user.role}
        return as_json(
            {
                "type": "user",
                "id": user.name,
                "name": user.name,
                "fullname": user.name,
                "orgs": [{"type": "org", "name": org} for org in user.orgs],
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    def do_create(self, call: "Call") -> Answer:
        wish = call.json()
        kind = wish.get("type") or "model"
        if kind not in TYPES:
            raise Refused(400, f"No repos of type {kind} here")
        namespace = wish.get("organization") or (call.user.name if call.user else "")
        self.may_write(call.user, namespace)
        name = f"{namespace}/{wish['name']}"
        private = bool(wish.get("private")) or wish.get("visibility") == "private"
        there = {"url": f"{self.endpoint}/{TYPES[kind]}{name}", "name": name}
        with self._lock:
            if (kind, name) in self._repos:
                return as_json({"error": f"You already created this {kind} repo", **there}, 409)
            self._repos[kind, name] = Repo(kind, name, private=private, gated=False, author=call.user.name)
        return as_json(there)

    def do_delete(self, call: "Call") -> Answer:
        wish = call.json()
        namespace = wish.get("organization") or (call.user.name if call.user else "")
        call.repo = self._repos.get((wish.get("type") or "model", f"{namespace}/{wish['name']}"))
        repo = self.writable(call)
        with self._lock:
            del self._repos[repo.kind, repo.name]
        return Answer(200, b"OK", {"Content-Type": "text/plain"})

    def do_info(self, call: "Call", revision: str | None) -> Answer:
        repo = self.readable(call)
        head = repo.at(revision or "main")
        fields = {
            "author": repo.namespace,
            "sha": head.oid,
            "createdAt": head.history()[-1].date,
            "lastModified": head.date,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        if "expand" in call.query:
            fields = {name: value for name, value in fields.items() if name in call.query["expand"]}
        if "siblings" in call.query.get("expand", ["siblings"]):
            fields["siblings"] = siblings = [{"rfilename": path} for path in head.files]
            if call.query.get("blobs"):
                for sibling, (path, file) in zip(siblings, head.files.items(), strict=True):
                    entry = file.describe(path)
                    sibling.update(blobId=entry["oid"], size=entry["size"])
                    if "lfs" in entry:
                        sibling["lfs"] = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
        return as_json({"_id": repo.name, "id": repo.name, "modelId": repo.name, **fields})

    def page(self, call: "Call", entries: list, size: int, finish=lambda entry: entry, **headers: str) -> Answer:
        """Answer with a page of a list, each entry as `finish` makes it, and the address of the next page."""
        start = int(call.first("cursor", "0"))
        size = min(size, int(call.first("limit", str(size))))
        if start + size < len(entries):
            query = {**call.query, "cursor": [str(start + size)]}
            headers["Link"] = f'<{self.endpoint}{call.path}?{urlencode(query, doseq=True)}>; rel="next"'
        return as_json([finish(entry) for entry in entries[start : start + size]], **headers)

    def do_tree(self, call: "Call", revision: str, path: str | None) -> Answer:
        commit = self.open(call).at(revision)
        entries = commit.tree((path or "").strip("/"), recursive=call.flag("recursive"))
        if path and not entries:
            raise Refused(404, f'"{path}" does not exist on "{revision}"', "EntryNotFound")
        if not call.flag("expand"):
            return self.page(call, entries, self.page_size)
        return self.page(call, entries, min(50, self.page_size), finish=lambda entry: with_last_commit(commit, entry))

    def do_paths_info(self, call: "Call", revision: str) -> Answer:
        commit = self.open(call).at(revision)
        wish = call.json() if "json" in call.headers.get("content-type", "") else parse_qs(call.body.decode())
        paths = wish.get("paths", [])
        if len(paths) > 1000:
            raise Refused(413, "too many parameters")
        entries = [commit.files[path].describe(path) for path in paths if path in commit.files]
        expand = wish.get("expand", False)
        if str(expand[0] if isinstance(expand, list) else expand).lower() in ("1", "true"):
            entries = [with_last_commit(commit, entry) for entry in entries]
        folders = {entry["path"]: entry for entry in commit.tree("", recursive=True) if entry["type"] == "directory"}
        return as_json(entries + [folders[path.rstrip("/")] for path in paths if path.rstrip("/") in folders])

    def do_commits(self, call: "Call", revision: str) -> Answer:
        history = self.readable(call).at(revision).history()
        entries = [
            {
                "id": commit.oid,
                "title": commit.message,
                "message": commit.description,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in history
        ]
        return self.page(call, entries, min(50, self.page_size), **{"X-Total-Count": str(len(entries))})

    def do_refs(self, call: "Call") -> Answer:
        heads = self.readable(call).branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": head.oid} for name, head in heads]
        pulls = {"pullRequests": []} if call.flag("include_prs") else {}
        return as_json({"branches": branches, "tags": [], "converts": [], **pulls})

    def do_lfs_files(self, call: "Call") -> Answer:
        """All LFS objects of a repo's storage, also those that no file is any more."""
        repo = self.writable(call)
        with repo.lock:
            names = {file.etag: path for head in repo.branches.values() for path, file in head.files.items()}
            entries = [
                {
                    "fileOid": oid,
                    "filename": names.get(oid, "unknown"),
                    "oid": hashlib.md5(oid.encode()).hexdigest()[:24],
                    "pushedAt": repo.lfs.pushed[oid],
                    "ref": "main",
                    "size": len(data),
                }
                for oid, data in sorted(repo.lfs.items())
            ]
        return self.page(call, entries, self.page_size)

    def do_lfs_delete(self, call: "Call") -> Answer:
        repo, wish = self.writable(call), call.json()["deletions"]
        if len(wish["sha"]) > 1000:
            raise Refused(400, "at most 1000 objects at once")
        with repo.lock:
            repo.purge(set(wish["sha"]), rewrite=wish["rewriteHistory"])
        return as_json({})

    def do_branch(self, call: "Call", branch: str) -> Answer:
        repo = self.writable(call)
        with repo.lock:
            if call.method == "DELETE":
                repo.at(branch)
                del repo.branches[branch]
            elif branch in repo.branches:
                raise Refused(409, f"Reference already exists: {branch}")
            else:
                repo.branches[branch] = repo.at((call.json() or {}).get("startingPoint") or "main")
        return as_json({})

    def do_auth_check(self, call: "Call", write: str | None) -> Answer:
        (self.writable if write else self.open)(call)
        return Answer(200, b"OK", {"Content-Type": "text/plain"})

    def do_squash(self, call: "Call", branch: str) -> Answer:
        repo = self.writable(call)
        with repo.lock:
            repo.squash(branch, call.json().get("message") or "Super-squash", call.user.name)
        return as_json({})

    def do_preupload(self, call: "Call", revision: str) -> Answer:
        there = self.writable(call).at(revision).files
        modes = []
        for file in call.json()["files"]:
            path = file["path"]
            lfs = wants_lfs(path, file["size"], base64.b64decode(file.get("sample", "")))
            mode = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if path in there:
                mode["oid"] = there[path].etag
            modes.append(mode)
        return as_json({"files": modes, "commitOid": self.readable(call).at(revision).oid})

    def do_lfs_batch(self, call: "Call") -> Answer:
        wish = call.json()
        upload = wish["operation"] == "upload"
        repo = self.writable(call) if upload else self.open(call)
        objects = []
        for wanted in wish["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if upload and oid not in repo.lfs:
                answer["actions"] = self.upload_actions(repo, oid, size, wish.get("transfers", ()))
            elif not upload and oid in repo.lfs:
                answer["actions"] = {"download": {"href": self.signed("cdn", repo, oid, oid)}}
            elif not upload:
                answer["error"] = {"code": 404, "message": "Object does not exist"}
            objects.append(answer)
        return as_json({"transfer": "basic", "objects": objects})

    def upload_actions(self, repo: Repo, oid: str, size: int, transfers) -> dict:
        verify = {"href": f"{self.endpoint}/{repo.prefixed}.git/info/lfs/verify"}
        part = self.multipart_size
        if not part or size <= part or "multipart" not in transfers:
            return {"upload": {"href": self.signed("upload", repo, oid, "0")}, "verify": verify}
        header = {"chunk_size": str(part)}
        for number in range(1, -(-size // part) + 1):
            header[f"{number:05}"] = self.signed("upload", repo, oid, str(number))
        href = f"{self.endpoint}/{repo.prefixed}.git/info/lfs/complete/{oid}"
        return {"upload": {"href": href, "header": header}, "verify": verify}

    def signed(self, use: str, repo: Repo, oid: str, last: str) -> str:
        path = f"/{use}/{repo.kind}s/{repo.name}/{oid}/{quote(last)}"
        return f"{self.cdn_endpoint}{path}?signature={self.signature(path)}"

    def signature(self, path: str) -> str:
        return hashlib.sha256(f"{id(self)}{path}".encode()).hexdigest()[:32]

    def check_signature(self, call: "Call") -> Repo:
        if call.first("signature", "") != self.signature(call.path):
            raise Refused(403, "SignatureDoesNotMatch")
        if "authorization" in call.headers:  # as object storages do
            raise Refused(400, "Only one auth mechanism allowed")
        if call.repo is None:
            raise Refused(404, "NoSuchKey")
        return call.repo

    def do_lfs_put(self, call: "Call", oid: str, part: str) -> Answer:
        repo = self.check_signature(call)
        if part == "0":
            self.store(repo, oid, call.body)
        else:
            repo.parts[oid, int(part)] = call.body
        return Answer(200, b"", {"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})

    def store(self, repo: Repo, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "The content does not have the hash that was announced")
        repo.lfs[oid] = data

    def do_lfs_complete(self, call: "Call", oid: str) -> Answer:
        repo = call.repo
        numbers = sorted(part["partNumber"] for part in call.json()["parts"])
        if repo is None or any((oid, number) not in repo.parts for number in numbers):
            raise Refused(404, "No such upload")
        self.store(repo, oid, b"".join(repo.parts.pop((oid, number)) for number in numbers))
        return as_json({})

    def do_lfs_verify(self, call: "Call") -> Answer:
        repo, wanted = self.writable(call), call.json()
        data = repo.lfs.get(wanted["oid"])
        if data is None or len(data) != wanted["size"]:
            raise Refused(404, "The object was not uploaded")
        return as_json({})

    def do_commit(self, call: "Call", branch: str) -> Answer:
        repo = self.writable(call)
        if call.first("create_pr", ""):
            raise Refused(400, "No pull requests here")
        if not repo.busy.acquire(blocking=not self.commit_lock_seconds):
            raise Refused(409, "Another commit is in progress on this repository")
        try:
            call.sleep(self.commit_lock_seconds)
            with repo.lock:
                return self.commit(call, repo, branch)
        finally:
            repo.busy.release()

    def commit(self, call: "Call", repo: Repo, branch: str) -> Answer:
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repo.at(branch)
        if branch not in repo.branches:
            raise Refused(400, "Commits go to branches")
        if self.commit_quota is not None and repo.commits_since_quota >= self.commit_quota:
            raise Refused(429, "You have exceeded the rate limit for repository commits")
        if header.get("parentCommit", head.oid) != head.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        added, deleted = {}, []
        for line in lines:
            self.operation(repo, head, line["key"], line["value"], added, deleted)
        self.check_folders({*head.files, *added} - ({*deleted} - {*added}), added)
        message, description = header["summary"], header.get("description") or ""
        commit = repo.add_commit(branch, message, description, call.user.name, added, deleted)
        repo.commits_since_quota += 1
        url = f"{self.endpoint}/{repo.prefixed}/commit/{commit.oid}"
        return as_json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def operation(self, repo: Repo, head: Commit, key: str, value: dict, added: dict, deleted: list) -> None:
        path = value.get("path", "")
        if key == "file":
            data = (
                base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()
            )
            if len(data) > LARGEST_REGULAR:
                raise Refused(400, f"{path} is too large for a file that is not in LFS")
            added[path] = regular_file(data)
        elif key == "lfsFile":
            if value["oid"] not in repo.lfs:
                raise Refused(400, f"The LFS object {value['oid']} of {path} was not uploaded")
            added[path] = lfs_file(value["oid"], len(repo.lfs[value["oid"]]))
        elif key == "deletedFile":
            if path not in head.files:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            deleted.append(path)
        elif key == "deletedFolder":
            below = [name for name in head.files if name.startswith(path.rstrip("/") + "/")]
            if not below:
                raise Refused(404, "A folder with this name doesn't exist", "EntryNotFound")
            deleted.extend(below)
        elif key != "header":
            raise Refused(400, f"Unknown operation {key}")

    def check_folders(self, paths: set, added: dict) -> None:
        if len(paths) <= self.folder_limit:
            return
        entries: dict[str, set] = {path.rpartition("/")[0]: set() for path in added}
        for path in paths:
            folder, _, name = path.rpartition("/")
            while True:
                if folder in entries:
                    entries[folder].add(name)
                if not folder:
                    break
                folder, _, name = folder.rpartition("/")
        if any(len(names) > self.folder_limit for names in entries.values()):
            raise Refused(400, f"Your push was rejected because it has more than {self.folder_limit} files in a folder")

    def do_resolve(self, call: "Call", revision: str, path: str) -> Answer:
        repo = self.open(call)
        commit = repo.at(revision)
        file = commit.files.get(path)
        at = {"X-Repo-Commit": commit.oid}
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound", **at)
        if file.data is not None:
            headers = {"ETag": f'"{file.etag}"', "Content-Type": "text/plain; charset=utf-8", **at}
            if self.gzip_text and "gzip" in call.headers.get("accept-encoding", ""):
                headers |= {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked", "ETag": f'W/"{file.etag}"'}
                data = gzip.compress(file.data)
                return Answer(200, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), headers)
            return call.ranged(file.data, headers)
        where = self.signed("cdn", repo, file.etag, path)
        linked = {"ETag": f'"{file.etag}"', "X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        return Answer(302, f"Found. Redirecting to {where}".encode(), {"Location": where, **linked, **at})

    def do_cdn(self, call: "Call", oid: str, path: str) -> Answer:
        repo = self.check_signature(call)
        if oid not in repo.lfs:
            raise Refused(404, "NoSuchKey")
        return call.ranged(repo.lfs[oid], {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})

    def do_xet_token(self, call: "Call") -> Answer:
        self.readable(call)
        raise Refused(404, "There is no Xet here")

    def do_control(self, call: "Call", order: str) -> Answer:
        """Orders for a Hub that runs as a process of its own."""
        if order == "put":
            self.put_file(call.first("repo", ""), call.first("path", ""), call.body)
        elif order == "link":
            self.latency = float(call.first("latency", str(self.latency)))
            self.bandwidth = float(call.first("bandwidth", "0")) or None
        elif order == "reset":
            self.requests.clear()
            self.bytes_received.clear()
        elif order != "counts":
            raise Refused(404, f"Unknown order {order}")
        kinds = Counter(request.kind for request in list(self.requests))
        sent = sum(request.sent for request in list(self.requests))
        received = sum(request.received for request in list(self.requests))
        return as_json({"kinds": kinds, "sent": sent, "received": received})


REPO = r"(?P<name>[^/]+/[^/]+?)"
API = rf"/api/(?P<kind>models|datasets)/{REPO}"
GIT = rf"/(?P<kind>datasets/)?{REPO}\.git/info/lfs"
ROUTES = [
    (kind, handler, set(methods.split()), re.compile(pattern))
    for kind, handler, methods, pattern in [
        ("whoami", "do_whoami", "GET", "/api/whoami-v2"),
        ("create", "do_create", "POST", "/api/repos/create"),
        ("other", "do_delete", "DELETE", "/api/repos/delete"),
        ("info", "do_info", "GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?"),
        ("tree", "do_tree", "GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?"),
        ("paths-info", "do_paths_info", "POST", rf"{API}/paths-info/(?P<revision>[^/]+)"),
        ("preupload", "do_preupload", "POST", rf"{API}/preupload/(?P<revision>[^/]+)"),
        ("commit", "do_commit", "POST", rf"{API}/commit/(?P<branch>[^/]+)"),
        ("auth-check", "do_auth_check", "GET", rf"{API}/auth-check(?P<write>/write)?"),
        ("xet-token", "do_xet_token", "GET", rf"{API}/xet-(?:read|write)-token(?:/.*)?"),
        ("lfs-files", "do_lfs_files", "GET", rf"{API}/lfs-files"),
        ("lfs-delete", "do_lfs_delete", "POST", rf"{API}/lfs-files/batch"),
        ("squash", "do_squash", "POST", rf"{API}/super-squash/(?P<branch>[^/]+)"),
        ("other", "do_branch", "POST DELETE", rf"{API}/branch/(?P<branch>[^/]+)"),
        ("other", "do_refs", "GET", rf"{API}/refs"),
        ("other", "do_commits", "GET", rf"{API}/commits/(?P<revision>[^/]+)"),
        ("lfs-batch", "do_lfs_batch", "POST", rf"{GIT}/objects/batch"),
        ("lfs-verify", "do_lfs_verify", "POST", rf"{GIT}/verify"),
        ("other", "do_lfs_complete", "POST", rf"{GIT}/complete/(?P<oid>[0-9a-f]+)"),
        ("resolve", "do_resolve", "GET HEAD", rf"/(?P<kind>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ]
]
CDN = rf"(?P<kind>models|datasets)/{REPO}/(?P<oid>[0-9a-f]+)"
CDN_ROUTES = [
    ("cdn", "do_cdn", {"GET", "HEAD"}, re.compile(rf"/cdn/{CDN}/(?P<path>.+)")),
    ("lfs-put", "do_lfs_put", {"PUT"}, re.compile(rf"/upload/{CDN}/(?P<part>[0-9]+)")),
]
CONTROL_ROUTES = [("control", "do_control", {"GET", "POST"}, re.compile(r"/__control__/(?P<order>[a-z]+)"))]
KINDS = {kind for kind, *_ in [*ROUTES, *CDN_ROUTES]}


def check_kind(kind: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"No requests are of kind {kind!r}, but there are {sorted(KINDS)}")


@dataclass
class Call:
    """A request, as the Hub's methods see it."""

    method: str
    path: str  # still quoted
    query: dict
    headers: dict
    body: bytes
    is_cdn: bool
    sleep: "object"
    user: User | None = None
    repo: Repo | None = None

    def json(self):
        return json.loads(self.body or b"null")

    def first(self, name: str, otherwise: str) -> str:
        return self.query.get(name, [otherwise])[0]

    def flag(self, name: str) -> bool:
        return self.first(name, "").lower() in ("1", "true")

    def ranged(self, data: bytes, headers: "dict[str, str]") -> Answer:
        """Answer with `data`, or with the range of it that was asked for."""
        headers = {"Accept-Ranges": "bytes", **headers}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if not wanted or wanted.groups() == ("", ""):
            return Answer(200, data, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1 if first and last else len(data), len(data))
        if start >= end:
            return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return Answer(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


class Connection(BaseHTTPRequestHandler):
    """A connection, with one request after the other."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, wire: Wire, *, is_cdn: bool) -> None:
        self.hub = hub
        self.wire = wire
        self.is_cdn = is_cdn
        super().__init__(wire.sock, ("127.0.0.1", 0), hub)

    def handle(self) -> None:
        try:
            super().handle()
        except Dropped as drop:
            if drop.reset:
                self.wire.reset()
            else:
                self.wire.sock.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_arguments) -> None:
        pass

    def answer_request(self) -> None:
        hub, wire = self.hub, self.wire
        path, _, query = self.path.partition("?")
        kind, handler, groups = self.route(path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        record = Request(time.time(), self.command, self.path, kind, headers)
        if kind != "control":
            hub.requests.append(record)
        action = hub.faults.pick(kind, self.path) if kind != "control" else NOTHING
        wire.link = hub.link
        wire.slow = Pace(action.bytes_per_second) if isinstance(action, Slow) else None
        body = self.read_body(record, groups.get("oid") if kind == "lfs-put" else None)
        answer = action.before(self.path)
        if answer is None:
            parameters = parse_qs(query, keep_blank_values=True)
            call = Call(self.command, path, parameters, headers, body, self.is_cdn, wire.sleep)
            answer = action.after(self.ask(call, handler, groups))
        wire.sleep(hub.latency)
        if isinstance(action, Stall) and action.when == "headers":
            wire.sleep(action.seconds)
        pause = action.seconds if isinstance(action, Stall) and action.when == "body" else 0.0
        self.send_answer(answer, record, pause)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer_request  # noqa: N815 - the names that http.server calls

    def route(self, path: str) -> "tuple[str, str | None, dict]":
        routes = CDN_ROUTES if self.is_cdn else ROUTES
        for kind, handler, methods, pattern in [*routes, *CONTROL_ROUTES] if self.hub.control else routes:
            found = pattern.fullmatch(path)
            if found and self.command in methods:
                groups = {name: unquote(value) if value else None for name, value in found.groupdict().items()}
                return kind, handler, groups
        return "other", None, {}

    def ask(self, call: Call, handler: str | None, groups: dict) -> Answer:
        if handler is None:
            return Refused(404, "Not Found").answer()
        try:
            return self.hub.handle(call, handler, groups)
        except Refused as refused:
            return refused.answer()
        except (KeyError, TypeError, StopIteration, UnicodeDecodeError, binascii.Error, json.JSONDecodeError) as error:
            return Refused(400, f"Malformed request: {error!r}").answer()

    def read_body(self, record: Request, oid: str | None) -> bytes:
        def progress(count: int) -> None:
            record.received += count
            if oid:
                with self.hub._lock:
                    self.hub.bytes_received[oid] += count

        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.wire.receive(self.rfile, int(self.headers.get("Content-Length") or 0), progress)
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.wire.receive(self.rfile, size, progress))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def send_answer(self, answer: Answer, record: Request, pause: float) -> None:
        status = answer.status
        length = len(answer.body) if answer.length is None else answer.length
        headers = {"Content-Length": str(length), "X-Request-Id": f"loopback-{id(record):x}", **answer.headers}
        if "Transfer-Encoding" in headers:
            del headers["Content-Length"]
        if answer.then_close:
            headers["Connection"] = "close"
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        body = b"" if self.command == "HEAD" else answer.body
        record.status = status
        record.sent = len(body)
        if pause or len(body) > 64 * 1024:
            self.wire.send(head)
            self.wire.sleep(pause)
            self.wire.send(body)
        else:
            self.wire.send(head + body)
        if answer.then_close:
            self.close_connection = True


def start_hub(**options) -> Hub:
    """A Hub that runs from `with start_hub(...) as hub:` to the end of that block."""
    return Hub(**options)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an imitation of the Hugging Face Hub on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a request and a connection")
    parser.add_argument("--bandwidth", type=float, default=None, help="bytes a second, of all connections together")
    parser.add_argument("--page-size", type=int, default=1000)
    parser.add_argument("--user", action="append", default=[], metavar="NAME:TOKEN[:ROLE]")
    parser.add_argument("--repo", action="append", default=[], help="a repo to start with, as in alice/cache")
    chosen = parser.parse_args()
    users = tuple(tuple(user.split(":")) for user in chosen.user) or (("alice", "hf_alice"),)
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with start_hub(
        port=chosen.port,
        latency=chosen.latency,
        bandwidth=chosen.bandwidth,
        page_size=chosen.page_size,
        users=users,
        control=True,
    ) as hub:
        for repo in chosen.repo:
            hub.create_repo(repo)
        print(json.dumps({"endpoint": hub.endpoint, "cdn": hub.cdn_endpoint}), flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
