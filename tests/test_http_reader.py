"""GETs end in time, give the token to its own origin only, and believe no answer."""

import os
import socket
import ssl
import subprocess
import threading
import time

import pytest
from loopback_hub import Body, Drop, Redirect, Slow, Stall, Status, Truncate, start_hub

from neuron_store.store.errors import CorruptRemote, RemoteRefused, RemoteUnavailable
from neuron_store.store.remotes import http_connect, http_reader
from neuron_store.store.remotes.http_reader import HttpReader, ReadLimits

CONTENT = os.urandom(700_000)
BLOB = "/alice/cache/resolve/main/b.zst"
RECORD = "/alice/cache/resolve/main/r.json"
SECRET = "hf_alice"


@pytest.fixture
def filled(hub):
    hub.put_files("alice/cache", {"b.zst": CONTENT, "r.json": b'{"a": 1}'})
    return hub


def reader_for(endpoint, *, token=SECRET, connect=1.0, first_byte=1.0, min_rate=1000.0, environ=None, **more):
    limits = ReadLimits(connect, first_byte, min_rate)
    return HttpReader(endpoint, token, limits, agent="neuron-store/test", environ=environ or {}, **more)


@pytest.fixture
def reader(filled):
    made = reader_for(filled.endpoint)
    yield made
    made.close()


def download(reader):
    pieces = []
    reader.download(BLOB, len(CONTENT), pieces.append)
    return b"".join(pieces)


# -- one connection, few requests ----------------------------------------------------------------------------------


@pytest.fixture
def connections(monkeypatch):
    """The connections that were made."""
    made = []

    def count(*arguments, **named):
        made.append(http_connect.connect(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(http_reader, "connect", count)
    return made


def test_many_reads_take_one_connection_and_one_request_each(filled, reader, connections):
    for _ in range(5):
        assert reader.read(RECORD, 100) == b'{"a": 1}'
        assert reader.read(RECORD + "x", 100) is None
    assert filled.count() == 10
    assert len(connections) == 1


def test_a_large_file_is_one_request_at_the_hub_and_one_where_it_lies(filled, reader, connections):
    for _ in range(3):
        assert download(reader) == CONTENT
    assert (filled.count("resolve"), filled.count("cdn")) == (3, 3)
    assert len(connections) == 2


def test_a_connection_that_was_closed_while_idle_is_made_anew(filled, reader):
    assert reader.read(RECORD, 100)
    filled.down()
    filled.up()
    assert reader.read(RECORD, 100) == b'{"a": 1}'


# -- the token -----------------------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_and_not_where_it_redirects_to(filled, reader):
    assert download(reader) == CONTENT
    assert [request.authorized for request in filled.seen("resolve")] == [True]
    assert [request.authorized for request in filled.seen("cdn")] == [False]


def test_no_token_goes_to_another_host_that_a_redirect_names(filled, reader):
    with start_hub() as other:
        other.create_repo("alice/cache")
        filled.fail("resolve", Redirect(f"{other.endpoint}/alice/cache/resolve/main/r.json"))
        assert reader.read(RECORD, 100) is None
        assert [request.authorized for request in other.requests] == [False]


def test_without_a_token_none_is_sent(filled):
    reader = reader_for(filled.endpoint, token="")
    assert reader.read(RECORD, 100) == b'{"a": 1}'
    assert [request.authorized for request in filled.requests] == [False]
    reader.close()


@pytest.mark.parametrize("action", [Status(403), Status(500), Drop(), Stall(5), Redirect("http://127.0.0.1:1/x")])
def test_no_message_has_the_token(filled, action):
    reader = reader_for(filled.endpoint, first_byte=0.3)
    filled.fail("resolve", action, times=None)
    with pytest.raises((RemoteRefused, RemoteUnavailable)) as caught:
        reader.read(RECORD, 100)
    told = caught.value
    while told is not None:
        assert SECRET not in f"{told} {told!r}"
        told = told.__cause__
    reader.close()


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (401, {}, RemoteRefused),
        (403, {}, RemoteRefused),
        (404, {"X-Error-Code": "RepoNotFound"}, RemoteRefused),
        (404, {"X-Error-Code": "GatedRepo"}, RemoteRefused),
        (429, {}, RemoteUnavailable),
        (500, {}, RemoteUnavailable),
        (503, {}, RemoteUnavailable),
        (400, {}, RemoteUnavailable),
        (304, {}, RemoteUnavailable),
        (302, {}, RemoteUnavailable),
    ],
)
def test_an_answer_that_is_none_says_why(filled, reader, status, headers, error):
    filled.fail("resolve", Status(status, headers))
    with pytest.raises(error, match="redirects" if status == 302 else str(status)):
        reader.read(RECORD, 100)
    assert reader.read(RECORD, 100) == b'{"a": 1}'


@pytest.mark.parametrize("code", ["EntryNotFound", "RevisionNotFound", ""])
def test_a_file_that_is_not_there_is_none(filled, reader, code):
    filled.fail("resolve", Status(404, {"X-Error-Code": code} if code else {}))
    assert reader.read(RECORD, 100) is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "30"}, 30),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read_from_the_answer(filled, reader, headers, wait):
    filled.fail("resolve", Status(429, headers))
    with pytest.raises(RemoteUnavailable) as caught:
        reader.read(RECORD, 100)
    assert caught.value.retry_after == wait


def test_a_redirect_without_end_ends(filled, reader):
    filled.fail("resolve", Redirect(RECORD), times=None)
    with pytest.raises(RemoteUnavailable, match="redirects"):
        reader.read(RECORD, 100)
    assert filled.count() == 6


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "https:///x", "http://127.0.0.1:notaport/", "http://[::1"])
def test_a_redirect_to_nowhere_is_a_failure(filled, reader, target):
    filled.fail("resolve", Redirect(target))
    with pytest.raises(RemoteUnavailable):
        reader.read(RECORD, 100)


def test_a_file_in_an_encoding_that_was_not_asked_for_is_not_taken(filled, reader):
    filled.fail("resolve", Body(b"x", {"Content-Encoding": "gzip"}))
    with pytest.raises(CorruptRemote, match="encoding"):
        reader.read(RECORD, 100)


def test_a_file_larger_than_allowed_is_not_read(filled, reader):
    filled.put_file("alice/cache", "large.json", b"x" * 5_000_000, lfs=False)
    with pytest.raises(CorruptRemote, match="5000000"):
        reader.read("/alice/cache/resolve/main/large.json", 1000)


class RawServer:
    """Answers every connection with given bytes, piece by piece."""

    def __init__(self, *pieces, pause=0.0):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.pieces, self.pause = pieces, pause
        self.received = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            try:
                self.received.append(connection.recv(65536))
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.pause)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        OK + b"short",
    ],
)
def test_an_answer_that_is_no_http_is_a_failure(answer):
    with RawServer(answer) as server:
        reader = reader_for(server.endpoint)
        with pytest.raises(RemoteUnavailable):
            reader.read("/x", 100)
        reader.close()


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"a": 1}',
        b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}',
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b'{"a": 1}',
    ],
)
def test_every_form_of_a_body_is_read(answer):
    with RawServer(answer) as server:
        reader = reader_for(server.endpoint)
        assert reader.read("/x", 100) == b'{"a": 1}'
        assert reader.read("/x", 100) == b'{"a": 1}'
        reader.close()


def test_a_chunked_body_without_end_is_cut_at_the_limit():
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ff\r\n" * 1
    with RawServer(endless, *[b"x" * 255 + b"\r\nff\r\n"] * 10_000) as server:
        reader = reader_for(server.endpoint)
        with pytest.raises(CorruptRemote, match="1000"):
            reader.read("/x", 1000)
        reader.close()


# -- time ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_does_not_begin_is_given_up(filled):
    reader = reader_for(filled.endpoint, first_byte=0.3)
    filled.fail("resolve", Stall(30))
    with pytest.raises(RemoteUnavailable, match="did not answer"):
        reader.read(RECORD, 100)
    assert reader.read(RECORD, 100) == b'{"a": 1}'
    reader.close()


def test_headers_that_trickle_in_do_not_prolong_the_wait():
    with RawServer(*[b"X"] * 200, pause=0.05) as server:
        reader = reader_for(server.endpoint, first_byte=0.5)
        begun = time.monotonic()
        with pytest.raises(RemoteUnavailable):
            reader.read("/x", 100)
        assert time.monotonic() - begun < 8  # all of it takes 10 s
        reader.close()


def test_a_body_that_stops_is_given_up(filled):
    reader = reader_for(filled.endpoint, first_byte=0.3)
    filled.fail("cdn", Stall(30, when="body"), times=None)
    with pytest.raises(RemoteUnavailable, match="too slow"):
        download(reader)
    reader.close()


def test_a_body_slower_than_the_least_rate_is_given_up(filled):
    reader = reader_for(filled.endpoint, first_byte=0.2, min_rate=1_000_000)
    filled.fail("cdn", Slow(50_000), times=None)
    with pytest.raises(RemoteUnavailable, match="too slow"):
        download(reader)
    reader.close()


def test_nobody_listens(filled):
    filled.down()
    reader = reader_for(filled.endpoint)
    with pytest.raises(RemoteUnavailable, match="refused"):
        reader.read(RECORD, 100)
    reader.close()
    filled.up()


def test_a_host_that_never_completes_the_connection_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # they fill the backlog
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        reader = reader_for(f"http://127.0.0.1:{port}", connect=0.3, first_byte=0.3)
        with pytest.raises(RemoteUnavailable):
            reader.read("/x", 100)
        for each in waiting:
            each.close()


def test_a_name_server_that_does_not_answer_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(http_connect, "_addresses", lambda *_: time.sleep(60))
    reader = reader_for("http://hub.example", connect=0.3)
    with pytest.raises(RemoteUnavailable, match="not resolved in time"):
        reader.read("/x", 100)


def test_a_name_that_is_unknown_is_told():
    reader = reader_for("http://no-such-host.invalid", connect=5)
    with pytest.raises(RemoteUnavailable, match=r"no-such-host\.invalid was not resolved"):
        reader.read("/x", 100)


def test_a_name_is_resolved(filled, monkeypatch):
    monkeypatch.setattr(http_connect, "_addresses", lambda _host, port: [(socket.AF_INET, ("127.0.0.1", port))])
    reader = reader_for(filled.endpoint.replace("127.0.0.1", "hub.example"), connect=5)
    assert reader.read(RECORD, 100) == b'{"a": 1}'
    reader.close()


def test_a_wait_ends_when_another_process_gave_the_remote_up(filled):
    reader = reader_for(filled.endpoint, first_byte=60, given_up=lambda: True)
    filled.fail("resolve", Stall(60))
    with pytest.raises(RemoteUnavailable, match="another process"):
        reader.read(RECORD, 100)
    reader.close()


# -- resumption ----------------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_is_taken_up_where_it_broke(filled, reader):
    filled.fail("cdn", Truncate(200_000))
    assert download(reader) == CONTENT
    ranges = [request.headers.get("range") for request in filled.seen("cdn")]
    assert ranges == [None, "bytes=200000-"]


def test_a_download_that_always_breaks_off_is_given_up(filled, reader):
    filled.fail("cdn", Truncate(100), times=None)
    with pytest.raises(RemoteUnavailable, match="broke off"):
        download(reader)
    assert filled.count("cdn") <= 5


def test_a_server_that_knows_no_ranges_is_not_believed(filled, reader):
    filled.fail("cdn", Truncate(1000))
    filled.fail("cdn", Body(CONTENT))
    with pytest.raises((CorruptRemote, RemoteUnavailable)):
        download(reader)


# -- proxies and TLS -----------------------------------------------------------------------------------------------


def test_a_proxy_for_http_gets_the_whole_address():
    with RawServer(OK + b'{"a": 1}') as proxy:
        environ = {"http_proxy": proxy.endpoint.replace("//", "//me:pass@")}
        reader = reader_for("http://hub.example", environ=environ)
        assert reader.read("/x", 100) == b'{"a": 1}'
        assert proxy.received[0].startswith(b"GET http://hub.example:80/x HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in proxy.received[0]
        reader.close()


def test_a_proxy_is_not_asked_for_what_no_proxy_names(filled):
    environ = {"HTTP_PROXY": "http://127.0.0.1:1", "no_proxy": "127.0.0.1"}
    reader = reader_for(filled.endpoint, environ=environ)
    assert reader.read(RECORD, 100) == b'{"a": 1}'
    reader.close()


def test_a_proxy_for_https_that_refuses_is_told():
    with RawServer(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        reader = reader_for("https://hub.example", environ={"https_proxy": proxy.endpoint})
        with pytest.raises(RemoteUnavailable, match="proxy answered 407"):
            reader.read("/x", 100)
        assert proxy.received[0].startswith(b"CONNECT hub.example:443 HTTP/1.1\r\n")
        assert b"hf_alice" not in proxy.received[0]


@pytest.fixture
def certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl to make a certificate with")
    return key, certificate


@pytest.fixture
def tls_server(certificate):
    key, chain = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    for _ in range(2):
                        connection.recv(65536)
                        connection.sendall(OK + b'{"a": 1}')
            except OSError:
                plain.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_https_with_an_authority_that_the_environment_names(tls_server, certificate):
    reader = reader_for(tls_server, environ={"REQUESTS_CA_BUNDLE": str(certificate[1])}, connect=10)
    assert [reader.read("/x", 100) for _ in range(2)] == [b'{"a": 1}'] * 2
    reader.close()


def test_https_with_an_unknown_authority_is_not_trusted(tls_server):
    reader = reader_for(tls_server, connect=10)
    with pytest.raises(RemoteUnavailable, match=r"(?i)certificate"):
        reader.read("/x", 100)
