"""The wire table: what a server does with a request, on real sockets, and what the lane makes of it."""

import asyncio
import base64
import gc
import gzip
import logging
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from bulkissue import __version__
from bulkissue.errors import SettingsRefused
from bulkissue.exchange import MaybeSent, NotSent, Quota, Reply, Request, Sending
from bulkissue.http import client
from bulkissue.http.client import Lane

POST = Request("POST", "/v2/promotion/bulk/enrolAndEarn", body=b'{"customers":[1,2,3]}')
#: For behaviours that wait for the lane to give up, and for all others.
SHORT, LONG = 0.3, 10.0

# A key for loopback only, and its own certificate; good until 2120.
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQguPBXA2qj4xSOP13C
uUPPRdQ3lxbn2fEqxlR7H3H/bFehRANCAAShmTpypmr0qkzIEfTHQDgivr6km2uK
xEKrAumMHHOljIAw0wKbCweNadE+E/y3RJ29N9cXlVGgc6s0zEOVWNlF
-----END PRIVATE KEY-----
"""
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBaTCCAQ6gAwIBAgIBATAKBggqhkjOPQQDAjAaMRgwFgYDVQQDDA9idWxraXNz
dWUgdGVzdHMwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBoxGDAW
BgNVBAMMD2J1bGtpc3N1ZSB0ZXN0czBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BKGZOnKmavSqTMgR9MdAOCK+vqSba4rEQqsC6Ywcc6WMgDDTApsLB41p0T4T/LdE
nb031xeVUaBzqzTMQ5VY2UWjQzBBMA8GA1UdEQQIMAaHBH8AAAEwDwYDVR0TAQH/
BAUwAwEB/zAdBgNVHQ4EFgQUnXdwQMRd4/6LHjjnxdzctUjBdGMwCgYIKoZIzj0E
AwIDSQAwRgIhAJqGT+wV9YEDdHQVVcl3TomnCZpF5MlZpWRPVz57h7/7AiEA8uSf
W7UZp9DfYBnfwaIAVSIM4h6otyPpX2NAFic4ilk=
-----END CERTIFICATE-----
"""


@dataclass
class Seen:
    """A request as a server reads it."""

    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int, requests: list[Seen]) -> None:
        self.sock = sock
        self.number = number
        self.requests = requests

    def read(self) -> Seen | None:
        """The next whole request; None where the other end is gone."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += (more := self.sock.recv(65536))
            if not more:
                return None
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        while len(body) < int(headers.get("Content-Length", 0)):
            body += (more := self.sock.recv(65536))
            if not more:
                return None
        seen = Seen(first.split(" ")[1], headers, body)
        self.requests.append(seen)
        return seen

    def say(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def wait(self) -> None:
        """Until the other end is gone."""
        while self.sock.recv(65536):
            pass

    def reset(self) -> None:
        """Close with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Behaviour = Callable[[Peer], None]


@dataclass
class Service:
    """A server on loopback: each connection gets a thread that behaves."""

    behave: Behaviour
    tls: ssl.SSLContext | None = None
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator["Service"]:
        threads = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            while True:
                sock, _ = listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._attend, args=(sock, self.connections))
                threads.append(thread)
                thread.start()

        def guarded() -> None:
            with suppress(OSError):
                accept()

        accepting = threading.Thread(target=guarded)
        accepting.start()
        try:
            yield self
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for thread in [accepting, *threads]:
                thread.join()

    def _attend(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with ExitStack() as closing, suppress(OSError):
            closing.callback(sock.close)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                closing.callback(sock.close)
            self.behave(Peer(sock, number, self.requests))


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, "", ""]).encode()


def answer(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


def new_lane(url: str, *, connect: float = LONG, read: float = LONG, trust_env: bool = False) -> Lane:
    return Lane(url, connect_timeout=connect, read_timeout=read, trust_env=trust_env)


def on_lane(lane: Lane, use: Callable[[Lane], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        try:
            return await use(lane)
        finally:
            await lane.close()

    return asyncio.run(main())


def send(lane: Lane, request: Request = POST, **headers: str) -> Sending:
    sending: Sending = on_lane(lane, lambda lane: lane.send(lane.build(request, headers)))
    return sending


# What servers do.


def accepts_then_closes(peer: Peer) -> None:
    pass


def reads_then_closes(peer: Peer) -> None:
    peer.read()


def reads_then_resets(peer: Peer) -> None:
    peer.read()
    peer.reset()


def reads_half_then_resets(peer: Peer) -> None:
    peer.sock.recv(20)
    peer.reset()


def is_silent(peer: Peer) -> None:
    peer.read()
    peer.wait()


def promises_more_body(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 100"), b'{"response":[')


def promises_more_chunks(peer: Peer) -> None:
    peer.read()
    peer.say(head("Transfer-Encoding: chunked"), b"d\r\n", b'{"response":[', b"\r\n")


def resets_in_the_body(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 100"), b'{"response":[')
    time.sleep(0.05)
    peer.reset()


def breaks_off_in_the_headers(peer: Peer) -> None:
    peer.read()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Le")


def talks_garbage(peer: Peer) -> None:
    peer.read()
    peer.say(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


def resets_a_body_without_length(peer: Peer) -> None:
    peer.read()
    peer.say(head(), b'{"response":[')
    time.sleep(0.05)
    peer.reset()


def resets_an_unknown_transfer(peer: Peer) -> None:
    peer.read()
    peer.say(head("Transfer-Encoding: gzip"), b'{"response":[')
    time.sleep(0.05)
    peer.reset()


def resets_what_is_nearly_chunked(peer: Peer) -> None:
    peer.read()
    peer.say(head("Transfer-Encoding: chunked, gzip"), b'{"response":[')
    time.sleep(0.05)
    peer.reset()


def breaks_its_chunks(peer: Peer) -> None:
    peer.read()
    peer.say(head("Transfer-Encoding: chunked"), b"2\r\n{}\r\nzz\r\n")
    peer.wait()


def breaks_its_chunks_later(peer: Peer) -> None:
    peer.read()
    peer.say(head("Transfer-Encoding: chunked"), b"2\r\n{}\r\n")
    time.sleep(0.05)
    peer.say(b"zz\r\n")
    peer.wait()


def says_two_lengths(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 2", "Content-Length: 5"), b"{}   ")


def says_length_and_chunks(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 2", "Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n\r\n")


def switches_protocols(peer: Peer) -> None:
    peer.read()
    peer.say(head("Upgrade: other", "Connection: upgrade", status="101 Switching"))
    peer.wait()


def says_headers_without_end(peer: Peer) -> None:
    peer.read()
    peer.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.say(b"X-More: and more\r\n" * 1000)


def says_a_header_without_end(peer: Peer) -> None:
    peer.read()
    peer.say(b"HTTP/1.1 200 OK\r\nX-More: ")
    while True:
        peer.say(b"and more" * 1000)


def packs_half(peer: Peer) -> None:
    peer.read()
    peer.say(answer(gzip.compress(b'{"response":[]}')[:-9], "Content-Encoding: gzip"))


def talks_garbage_and_stays(peer: Peer) -> None:
    talks_garbage(peer)
    peer.wait()


def breaks_its_compression(peer: Peer) -> None:
    peer.read()
    peer.say(answer(b"no gzip at all", "Content-Encoding: gzip"))


def drips_its_body(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 1000"))
    while True:
        peer.say(b" ")
        time.sleep(0.02)


def drips_its_headers(peer: Peer) -> None:
    peer.read()
    peer.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.say(b"X-More: and more\r\n")
        time.sleep(0.02)


def says_wait_for_ever(peer: Peer) -> None:
    peer.read()
    while True:
        peer.say(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.02)


def answers_without_end(peer: Peer) -> None:
    peer.read()
    peer.say(head(f"Content-Length: {1 << 40}"))
    while True:
        peer.say(b" " * (1 << 20))


def unpacks_without_end(peer: Peer) -> None:
    peer.read()
    peer.say(answer(gzip.compress(b" " * (client.LONGEST_BODY + 1)), "Content-Encoding: gzip"))


def answers_unread(peer: Peer) -> None:
    peer.say(answer(status="503 Full"))
    peer.wait()


def answers_then_resets(peer: Peer) -> None:
    peer.read()
    peer.say(answer())
    peer.reset()


def says(*parts: bytes) -> Behaviour:
    def behave(peer: Peer) -> None:
        while peer.read():
            peer.say(*parts)

    return behave


def says_then_closes(*parts: bytes) -> Behaviour:
    def behave(peer: Peer) -> None:
        peer.read()
        peer.say(*parts)

    return behave


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def tls(tmp_path: Path, no_proxy: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A server's TLS, trusted by lanes that trust the environment."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text(KEY)
    certificate.write_text(CERTIFICATE)
    no_proxy.setenv("SSL_CERT_FILE", str(certificate))
    client._tls.cache_clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    yield context
    client._tls.cache_clear()


MAYBE_SENT: list[tuple[Behaviour, float, set[str]]] = [
    (accepts_then_closes, LONG, {"net.protocol_error", "net.read_error"}),
    (reads_then_closes, LONG, {"net.protocol_error"}),
    (reads_then_resets, LONG, {"net.read_error"}),
    (reads_half_then_resets, LONG, {"net.read_error"}),
    (is_silent, SHORT, {"net.read_timeout"}),
    (promises_more_body, LONG, {"net.protocol_error"}),
    (promises_more_chunks, LONG, {"net.protocol_error"}),
    (resets_in_the_body, LONG, {"net.read_error"}),
    (resets_a_body_without_length, LONG, {"net.read_error"}),
    (resets_an_unknown_transfer, LONG, {"net.read_error"}),
    (resets_what_is_nearly_chunked, LONG, {"net.read_error"}),
    (breaks_its_chunks, LONG, {"net.protocol_error"}),
    (breaks_its_chunks_later, SHORT, {"net.protocol_error", "net.read_timeout"}),
    (says_two_lengths, LONG, {"net.protocol_error"}),
    (says_length_and_chunks, LONG, {"net.protocol_error"}),
    (switches_protocols, LONG, {"net.protocol_error"}),
    (says_headers_without_end, LONG, {"net.protocol_error"}),
    (says_a_header_without_end, LONG, {"net.protocol_error"}),
    (packs_half, LONG, {"net.protocol_error"}),
    (breaks_off_in_the_headers, LONG, {"net.protocol_error"}),
    (talks_garbage, LONG, {"net.protocol_error"}),
    (breaks_its_compression, LONG, {"net.protocol_error"}),
    (drips_its_body, SHORT, {"net.read_timeout"}),
    (drips_its_headers, SHORT, {"net.read_timeout"}),
    (says_wait_for_ever, SHORT, {"net.read_timeout"}),
    (answers_without_end, LONG, {"net.protocol_error"}),
    (unpacks_without_end, LONG, {"net.protocol_error"}),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("behave", "read_timeout", "reasons"), [pytest.param(*row, id=row[0].__name__) for row in MAYBE_SENT]
)
def test_maybe_sent(
    behave: Behaviour, read_timeout: float, reasons: set[str], scheme: str, tls: ssl.SSLContext
) -> None:
    """A server that was reached and gave no whole answer may have done it: the lane says so, and sends once."""
    service = Service(behave, tls if scheme == "https" else None)
    began = time.monotonic()
    with service.serving():
        sending = send(new_lane(service.url, read=read_timeout, trust_env=True))
        elapsed = time.monotonic() - began
    assert isinstance(sending, MaybeSent)
    assert sending.reason in reasons
    assert service.connections == 1
    assert len(service.requests) <= 1
    assert elapsed < 3
    if read_timeout == SHORT and sending.reason == "net.read_timeout":
        assert elapsed >= SHORT


PACKED = gzip.compress(b"{}")
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PACKED), PACKED)
REPLIES: dict[str, tuple[Behaviour, Reply]] = {
    "JSON": (says(answer(b'{"a":1}')), Reply(200, b'{"a":1}')),
    "HTML at 200": (says(answer(b"<html>maintenance</html>")), Reply(200, b"<html>maintenance</html>")),
    "a byte-order mark": (says(answer(b'\xef\xbb\xbf{"a":1}')), Reply(200, b'{"a":1}')),
    "XML at 401": (says(answer(b"<response/>", status="401 Unauthorized")), Reply(401, b"<response/>")),
    "a redirect, not followed": (says(answer(b"", "Location: /elsewhere", status="307 Away")), Reply(307, b"")),
    "nothing at 204": (says(head(status="204 No Content")), Reply(204, b"")),
    "JSON at 500": (says(answer(b"{}", status="500 Oops")), Reply(500, b"{}")),
    "chunks": (says(head("Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n\r\n"), Reply(200, b"{}")),
    "gzip": (says(answer(gzip.compress(b'{"a":1}'), "Content-Encoding: gzip")), Reply(200, b'{"a":1}')),
    "gzip in chunks": (says(head("Content-Encoding: gzip", "Transfer-Encoding: chunked"), CHUNKED), Reply(200, b"{}")),
    "gzip of nothing": (says(head("Content-Encoding: gzip", status="204 No Content")), Reply(204, b"")),
    "a body that ends with the connection": (says_then_closes(head(), b'{"a"'), Reply(200, b'{"a"')),
    "HTTP/1.0": (says_then_closes(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Reply(200, b"{}")),
    "HTTP/1.0 without a length": (says_then_closes(b"HTTP/1.0 200 OK\r\n\r\n{}"), Reply(200, b"{}")),
    "the last one": (says(answer(b"{}", "Connection: close")), Reply(200, b"{}")),
    "a long header": (says(answer(b"{}", "X-More: " + "m" * 20_000)), Reply(200, b"{}")),
    "a cookie that is none": (says(answer(b"{}", 'Set-Cookie: \x01=;;="')), Reply(200, b"{}")),
    "a long body": (says(answer(b" " * 3_000_000)), Reply(200, b" " * 3_000_000)),
    "an interim answer first": (says(b"HTTP/1.1 102 Processing\r\n\r\n", answer()), Reply(200, b"{}")),
    "an unasked continue": (says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, answer()), Reply(200, b"{}")),
    "an answer, then a reset": (answers_then_resets, Reply(200, b"{}")),
    "an answer before the request is read": (answers_unread, Reply(503, b"{}")),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("behave", "reply"), REPLIES.values(), ids=REPLIES.keys())
def test_reply(behave: Behaviour, reply: Reply, scheme: str, tls: ssl.SSLContext) -> None:
    """A whole HTTP answer is a reply, whatever its status and body; no status is followed or tried again."""
    service = Service(behave, tls if scheme == "https" else None)
    with service.serving():
        assert send(new_lane(service.url, trust_env=True)) == reply
    assert service.connections == 1
    assert len(service.requests) <= 1


def test_connection_refused() -> None:
    """Where nobody listens, nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert send(new_lane(f"http://127.0.0.1:{port}")) == NotSent("net.connect_failed")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://", "http://:80", "/x"])
def test_a_url_that_leads_nowhere(url: str) -> None:
    """Where it cannot even be said whom to connect to, nothing was sent."""
    assert send(new_lane(url)) == NotSent("net.connect_failed")


def test_no_such_host() -> None:
    """A host that cannot exist got nothing."""
    too_long_to_look_up = "a" * 64
    assert send(new_lane(f"http://{too_long_to_look_up}.invalid")) == NotSent("net.connect_failed")


def test_backlog_full() -> None:
    """Where the queue of connections is full, the lane says "not sent" only if no byte can be read later."""
    with ExitStack() as closing:
        listener = closing.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        sending = send(new_lane(f"http://127.0.0.1:{port}", connect=SHORT, read=SHORT))
        received = b""
        listener.settimeout(0.1)
        with suppress(TimeoutError):
            while True:
                accepted, _ = listener.accept()
                accepted.settimeout(0.1)
                with closing.enter_context(accepted), suppress(TimeoutError):
                    received += accepted.recv(65536)
    assert sending in {NotSent("net.connect_timeout"), NotSent("net.connect_failed"), MaybeSent("net.read_timeout")}
    assert not (isinstance(sending, NotSent) and received)


def closes_at_once(peer: Peer) -> None:
    pass


def waits(peer: Peer) -> None:
    peer.wait()


@pytest.mark.parametrize(
    ("behave", "sending"),
    [
        (closes_at_once, NotSent("net.connect_failed")),
        (waits, NotSent("net.connect_timeout")),
        (lambda peer: peer.say(answer()), NotSent("net.connect_failed")),
    ],
    ids=["closes", "is silent", "speaks HTTP"],
)
def test_handshake(behave: Behaviour, sending: Sending) -> None:
    """Where the TLS handshake does not succeed, nothing of the request was sent; connecting has its own time."""

    def without_tls(peer: Peer) -> None:
        peer.sock.recv(65536)
        behave(peer)

    with Service(without_tls).serving() as service:
        lane = new_lane(service.url.replace("http", "https"), connect=SHORT, read=SHORT / 10)
        assert send(lane) == sending


def test_foreign_certificate(tls: ssl.SSLContext) -> None:
    """A server whose certificate is not trusted gets nothing of the request."""
    with Service(says(answer()), tls).serving() as service:
        assert send(new_lane(service.url, trust_env=False)) == NotSent("net.connect_failed")
    assert not service.requests


def test_connecting_does_not_eat_the_answers_time(tls: ssl.SSLContext) -> None:
    """`read_timeout` begins when the request is written: a handshake longer than it loses nothing."""

    def accept_slowly(peer: Peer) -> None:
        time.sleep(2 * SHORT)
        with tls.wrap_socket(peer.sock, server_side=True) as sock:
            says(answer())(Peer(sock, 1, peer.requests))

    with Service(accept_slowly).serving() as service:
        lane = new_lane(service.url.replace("http", "https"), read=SHORT, trust_env=True)
        assert send(lane) == Reply(200, b"{}")


# One lane, several requests.


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connection_is_used_again(scheme: str, tls: ssl.SSLContext) -> None:
    """Requests of one lane go over one connection while it is good."""

    async def thrice(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(POST, {})) for _ in range(3)]

    with Service(says(answer()), tls if scheme == "https" else None).serving() as service:
        assert on_lane(new_lane(service.url, trust_env=True), thrice) == [Reply(200, b"{}")] * 3
    assert (service.connections, len(service.requests)) == (1, 3)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connection_closed_between_requests(scheme: str, tls: ssl.SSLContext) -> None:
    """A connection the server closed while it was idle is not written into: the next request opens another."""

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        await asyncio.sleep(0.1)
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(says_then_closes(answer()), tls if scheme == "https" else None).serving() as service:
        assert on_lane(new_lane(service.url, trust_env=True), twice) == [Reply(200, b"{}")] * 2
    assert (service.connections, len(service.requests)) == (2, 2)


def test_connection_that_was_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is not used again after it was idle for longer than servers allow."""
    assert client.IDLE_SECONDS < 5
    monkeypatch.setattr(client, "IDLE_SECONDS", 0.05)

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        await asyncio.sleep(0.1)
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(says(answer())).serving() as service:
        assert on_lane(new_lane(service.url), twice) == [Reply(200, b"{}")] * 2
    assert service.connections == 2


@pytest.mark.parametrize("request_", [POST, Request("GET", "/v2/customers")], ids=["POST", "GET"])
@pytest.mark.parametrize("ending", [Peer.reset, lambda _: None], ids=["reset", "close"])
def test_connection_dies_under_the_second_request(ending: Behaviour, request_: Request) -> None:
    """A request written into a connection that dies is maybe sent, and is not sent again by itself, a GET neither."""

    def answer_once(peer: Peer) -> None:
        if peer.number == 1:
            peer.read()
            peer.say(answer())
        peer.read()
        ending(peer)

    async def twice(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(request_, {})) for _ in range(2)]

    with Service(answer_once).serving() as service:
        first, second = on_lane(new_lane(service.url), twice)
    assert first == Reply(200, b"{}")
    assert isinstance(second, MaybeSent)
    assert (service.connections, len(service.requests)) == (1, 2)


@pytest.mark.parametrize("behave", [reads_then_closes, reads_then_resets])
def test_get_on_a_new_connection(behave: Behaviour) -> None:
    """A GET that got no answer is not sent again by itself."""
    with Service(behave).serving() as service:
        assert isinstance(send(new_lane(service.url), Request("GET", "/v2/customers")), MaybeSent)
    assert (service.connections, len(service.requests)) == (1, 1)


# More than sockets hold, so that the rest waits in the program.
LARGE = Request("POST", "/", body=b"x" * 12_000_000)
large = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@large
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_is_written_after_the_verdict(scheme: str, tls: ssl.SSLContext) -> None:
    """What was not yet written of a request when the lane gave it up never is."""
    gave_up, received = threading.Event(), []

    def read_later(peer: Peer) -> None:
        peer.sock.recv(1000)
        assert gave_up.wait(5)
        with suppress(OSError):
            while more := len(peer.sock.recv(1 << 20)):
                received.append(more)

    async def give_up(lane: Lane) -> Sending:
        sending = await lane.send(lane.build(LARGE, {}))
        gave_up.set()
        await asyncio.sleep(0.2)  # time in which a connection that is only closing would go on
        return sending

    with Service(read_later, tls if scheme == "https" else None).serving() as service:
        assert on_lane(new_lane(service.url, read=SHORT, trust_env=True), give_up) == MaybeSent("net.read_timeout")
    assert sum(received) < len(LARGE.body or b"")


@large
@pytest.mark.parametrize("more", [(), ("Connection: close",)], ids=["kept", "closed"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_answer_before_the_request_is_written(scheme: str, more: tuple[str, ...], tls: ssl.SSLContext) -> None:
    """A refusal that comes while the body is being written is a reply, and the connection is not used again."""
    refusal = Reply(413, b"{}")

    def refuse(peer: Peer) -> None:
        if peer.number > 1:
            says(answer(b"[2]"))(peer)
        peer.sock.recv(1000)
        peer.say(answer(b"{}", *more, status="413 Too large"))
        time.sleep(0.1)
        peer.reset()

    async def twice(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(LARGE, {})), await lane.send(lane.build(POST, {}))]

    with Service(refuse, tls if scheme == "https" else None).serving() as service:
        assert on_lane(new_lane(service.url, trust_env=True), twice) == [refusal, Reply(200, b"[2]")]
    assert [seen.body for seen in service.requests] == [POST.body]


@pytest.mark.parametrize("says_why", [True, False])
def test_server_that_hears_no_more(caplog: pytest.LogCaptureFixture, *, says_why: bool) -> None:
    """A server that closes its side while a long request is written costs neither the next request nor a warning."""

    def refuses(peer: Peer) -> None:
        if peer.number > 1:
            return says(answer(b"[2]"))(peer)
        peer.sock.recv(1000)
        if says_why:
            peer.say(answer(b"[1]", "Connection: close", status="413 Too Large"))
        peer.sock.shutdown(socket.SHUT_WR)
        while peer.sock.recv(1 << 20):
            pass
        return None

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(Request("POST", "/", body=b"x" * 12_000_000), {}))
        await asyncio.sleep(0.3)
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(refuses).serving() as service:
        first, second = on_lane(new_lane(service.url, trust_env=True), twice)
    gc.collect()
    assert first == (Reply(413, b"[1]") if says_why else MaybeSent("net.protocol_error"))
    assert second == Reply(200, b"[2]")
    assert not caplog.text


def test_lane_goes_on_after_a_failure() -> None:
    """After a request that got no whole answer, the lane's next one goes over a new connection."""

    def fail_first(peer: Peer) -> None:
        if peer.number == 1:
            is_silent(peer)
        else:
            says(answer(b"[2]"))(peer)

    async def twice(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(POST, {})) for _ in range(2)]

    with Service(fail_first).serving() as service:
        sendings = on_lane(new_lane(service.url, read=SHORT), twice)
    assert sendings == [MaybeSent("net.read_timeout"), Reply(200, b"[2]")]


def test_cancelled() -> None:
    """A sending that is cancelled ends as such, its connection is closed, and the lane can be used again."""
    asked, gave_up = threading.Event(), threading.Event()

    def first_in_vain(peer: Peer) -> None:
        if peer.number == 1:
            peer.read()
            asked.set()
            peer.wait()
            gave_up.set()
        else:
            says(answer(b"[2]"))(peer)

    async def cancel_and_send(lane: Lane) -> Sending:
        sending = asyncio.create_task(lane.send(lane.build(POST, {})))
        assert await asyncio.to_thread(asked.wait, 5)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await asyncio.to_thread(gave_up.wait, 5)
        return await lane.send(lane.build(POST, {}))

    with Service(first_in_vain).serving() as service:
        assert on_lane(new_lane(service.url), cancel_and_send) == Reply(200, b"[2]")
    assert len(service.requests) == 2


def never_reads(peer: Peer) -> None:
    time.sleep(0.5)
    peer.wait()


def answers_half(peer: Peer) -> None:
    peer.read()
    peer.say(head("Content-Length: 100"), b"{")
    peer.wait()


def shakes_no_hands(peer: Peer) -> None:
    peer.sock.recv(65536)
    peer.wait()


@large
@pytest.mark.parametrize(
    ("behave", "request_", "scheme"),
    [
        (shakes_no_hands, POST, "https"),
        (never_reads, LARGE, "http"),
        (is_silent, POST, "http"),
        (answers_half, POST, "http"),
    ],
    ids=["connecting", "writing", "waiting", "reading"],
)
def test_cancelled_in_every_phase(behave: Behaviour, request_: Request, scheme: str) -> None:
    """A sending that is cancelled closes its connection, however far it got."""
    ended = threading.Event()

    def until_the_end(peer: Peer) -> None:
        with suppress(ConnectionError):
            behave(peer)
        ended.set()

    async def cancel(lane: Lane) -> bool:
        sending = asyncio.create_task(lane.send(lane.build(request_, {})))
        await asyncio.sleep(0.1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        return await asyncio.to_thread(ended.wait, 3)

    with Service(until_the_end).serving() as service:
        assert on_lane(new_lane(service.url.replace("http", scheme)), cancel)


def test_cancelled_at_any_moment() -> None:
    """However far a sending got when it was cancelled, the next one's reply is its own."""

    def echo(peer: Peer) -> None:
        while seen := peer.read():
            peer.say(answer(seen.body))

    def numbered(number: int) -> Request:
        return Request("POST", "/", body=b"[%d]" % number)

    async def cancel_and_send(lane: Lane) -> None:
        for steps in range(40):
            sending = asyncio.create_task(lane.send(lane.build(numbered(-1), {})))
            for _ in range(steps):
                await asyncio.sleep(0)
            sending.cancel()
            with suppress(asyncio.CancelledError):
                assert await sending == Reply(200, b"[-1]")
            assert await lane.send(lane.build(numbered(steps), {})) == Reply(200, b"[%d]" % steps)

    with Service(echo).serving() as service:
        on_lane(new_lane(service.url), cancel_and_send)


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "in two pieces"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_two_answers_to_one_request(scheme: str, apart: bool, tls: ssl.SSLContext) -> None:
    """An answer too many is never taken for the answer to the next request."""

    def answer_twice(peer: Peer) -> None:
        while peer.read():
            number = b"[%d]" % len(peer.requests)
            if apart:
                peer.say(answer(number))
                peer.say(answer(number))
            else:
                peer.say(answer(number), answer(number))

    async def several(lane: Lane) -> list[Sending]:
        sendings = []
        for _ in range(3):
            sendings.append(await lane.send(lane.build(POST, {})))
            await asyncio.sleep(0.05)  # one that comes later still cannot be told from an answer
        return sendings

    with Service(answer_twice, tls if scheme == "https" else None).serving() as service:
        sendings = on_lane(new_lane(service.url, trust_env=True), several)
    assert sendings == [Reply(200, b"[1]"), Reply(200, b"[2]"), Reply(200, b"[3]")]


async def is_asleep(said: threading.Event) -> None:
    """Time passes until the server has said more, and the loop has read it."""
    assert await asyncio.to_thread(said.wait, 5)
    said.clear()
    await asyncio.sleep(0.02)


async def is_busy(said: threading.Event) -> None:
    """The same, but the loop reads nothing."""
    assert said.wait(5)
    said.clear()


@pytest.mark.parametrize("pause", [is_asleep, is_busy])
@pytest.mark.parametrize(
    "extra",
    [answer(b"[0]"), answer(b"[0]")[:-1], b"HTTP/1.1 2", b"HTTP/1.1 102 Processing\r\n\r\n", b"garbage", b"\r\n"],
    ids=["an answer", "most of one", "little of one", "an interim one", "garbage", "a blank line"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bytes_on_an_idle_connection(
    scheme: str, extra: bytes, pause: Callable[[threading.Event], Awaitable[None]], tls: ssl.SSLContext
) -> None:
    """What a server says unasked between two requests is no part of the second one's answer."""
    said = threading.Event()

    def say_more(peer: Peer) -> None:
        while peer.read():
            peer.say(answer(b"[%d]" % len(peer.requests)))
            time.sleep(0.02)
            peer.say(extra)
            said.set()

    async def several(lane: Lane) -> list[Sending]:
        sendings = []
        for _ in range(3):
            sendings.append(await lane.send(lane.build(POST, {})))
            await pause(said)
        return sendings

    with Service(say_more, tls if scheme == "https" else None).serving() as service:
        sendings = on_lane(new_lane(service.url, trust_env=True), several)
    assert sendings == [Reply(200, b"[1]"), Reply(200, b"[2]"), Reply(200, b"[3]")]
    assert len(service.requests) == 3
    if extra in {answer(b"[0]"), b"garbage"}:
        assert service.connections == 3


@pytest.mark.parametrize(("seconds", "connections"), [(1, 2), (60, 1)])
def test_a_server_that_says_how_long_it_keeps_a_connection(seconds: int, connections: int) -> None:
    """An idle connection is given up a second before the server does, where the server says when that is."""

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        await asyncio.sleep(0.02)
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(says(answer(b"{}", f"Keep-Alive: timeout={seconds}, max=100"))).serving() as service:
        assert on_lane(new_lane(service.url), twice) == [Reply(200, b"{}"), Reply(200, b"{}")]
        assert service.connections == connections


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bytes_that_the_loop_left_unread(scheme: str, tls: ssl.SSLContext) -> None:
    """What has come on an idle connection is seen also where the loop had no time to read it."""
    said = threading.Event()

    def say_more(peer: Peer) -> None:
        while peer.read():
            peer.say(answer(b"[%d]" % len(peer.requests)))
            time.sleep(0.02)
            peer.say(answer(b"[0]"))
            said.set()

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        assert said.wait(5)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is kept from reading
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(say_more, tls if scheme == "https" else None).serving() as service:
        lane = new_lane(service.url, read=1, trust_env=True)
        assert on_lane(lane, twice) == [Reply(200, b"[1]"), Reply(200, b"[2]")]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("cut", [1, 2, 3, 7, 14, 18, 42, -6, -3, -1])
def test_answer_too_many_in_two_pieces(scheme: str, cut: int, tls: ssl.SSLContext) -> None:
    """An answer too many, of which one piece comes before the next request and one behind it, is nobody's."""
    said = threading.Event()
    extra = b"\r\n" + answer(b"[0]")

    def say_more(peer: Peer) -> None:
        peer.read()
        if peer.number == 1:
            peer.say(answer(b"[1]"))
            time.sleep(0.02)
            peer.say(extra[:cut])
            said.set()
            if peer.read():
                peer.say(extra[cut:])
        else:
            peer.say(answer(b"[2]"))
        peer.wait()

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        await is_asleep(said)
        return [first, await lane.send(lane.build(POST, {}))]

    with Service(say_more, tls if scheme == "https" else None).serving() as service:
        first, second = on_lane(new_lane(service.url, trust_env=True), twice)
    assert (first, second) == (Reply(200, b"[1]"), Reply(200, b"[2]"))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1_000, 200_000, 600_000, 3_000_000])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_two_answers_of_which_the_first_is_long(scheme: str, size: int, chunked: bool, tls: ssl.SSLContext) -> None:
    """However the reading of a long answer stops and goes on, an answer behind it is not the next request's."""

    def answer_twice(peer: Peer) -> None:
        while peer.read():
            body = b"%d" % len(peer.requests) * size
            whole = answer(body)
            if chunked:
                whole = head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
            peer.say(whole, answer(b"[0]"))

    async def several(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(POST, {})) for _ in range(3)]

    with Service(answer_twice, tls if scheme == "https" else None).serving() as service:
        sendings = on_lane(new_lane(service.url, trust_env=True), several)
    assert sendings == [Reply(200, b"%d" % number * size) for number in (1, 2, 3)]


# What the server gets.


@pytest.mark.parametrize("prefix", ["", "/gateway", "/gateway/"])
def test_query(prefix: str) -> None:
    """An identifier in the query arrives as it was, a plus sign in an email too, and the path stays as it is."""
    query = (("identifierValue", "o'neil+x y&z=%41@example.com"), ("source", "INSTORE"), ("none", ""))
    with Service(says(answer())).serving() as service:
        send(new_lane(service.url + prefix), Request("POST", "/v1/promotions/a%2Fb;c/issueBulk", query, b"{}"))
    assert service.requests[0].target == (
        f"{prefix.rstrip('/')}/v1/promotions/a%2Fb;c/issueBulk"
        "?identifierValue=o%27neil%2Bx%20y%26z%3D%2541%40example.com&source=INSTORE&none="
    )


@pytest.mark.parametrize(
    "target",
    ["/", "//a//b", "/a/../b/./c", "/a%2fb%2Fc", "/a;b=c,d", "/a:b@c", "/%C3%BC", "/a+b", "/~a!$&'()*", "/a%"],
)
def test_path_stays(target: str) -> None:
    """A path goes out as httpx builds it: nothing is quoted again, unquoted or normalised on the way."""
    with Service(says(answer())).serving() as service:
        send(new_lane(service.url), Request("GET", target))
        expected = httpx.URL(service.url + target).raw_path.decode()
    assert service.requests[0].target == expected


def test_no_credentials_of_others(no_proxy: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a `.netrc` nor a name in the base URL becomes a header."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    no_proxy.setenv("NETRC", str(tmp_path / "netrc"))
    with Service(says(answer())).serving() as service:
        send(new_lane(service.url.replace("//", "//me:secret@"), trust_env=True))
    assert "Authorization" not in service.requests[0].headers


def test_headers() -> None:
    """A request carries what the service asks for, the program's name, and nothing of an earlier answer."""

    async def twice(lane: Lane) -> None:
        for _ in range(2):
            await lane.send(lane.build(POST, {"X-CAP-API-OAUTH-TOKEN": "t"}))
        await lane.send(lane.build(Request("GET", "/v2/customers"), {}))

    with Service(says(answer(b"{}", "Set-Cookie: a=b; Path=/"))).serving() as service:
        on_lane(new_lane(service.url), twice)
    host = service.url.removeprefix("http://")
    common = {"Host": host, "Accept": "application/json", "Accept-Encoding": "gzip"}
    common["User-Agent"] = f"bulkissue/{__version__}"
    content = {"Content-Type": "application/json", "Content-Length": str(len(POST.body or b""))}
    post, again, get = service.requests
    assert post == again
    assert post.headers == {**common, **content, "X-CAP-API-OAUTH-TOKEN": "t"}
    assert post.body == POST.body
    assert (get.headers, get.body) == (common, b"")


def test_post_without_a_body() -> None:
    """A request without a body says so, and gets no type of content."""
    with Service(says(answer())).serving() as service:
        send(new_lane(service.url), Request("POST", "/v2/customers"))
    names = ["Host", "Accept", "Accept-Encoding", "User-Agent", "Content-Length"]
    assert list(service.requests[0].headers) == names
    assert service.requests[0].headers["Content-Length"] == "0"


@pytest.mark.parametrize("value", ["new\nline", "umlaut ü", " blank", "nul\0"])
def test_header_that_cannot_be_sent(value: str) -> None:
    """A header that HTTP cannot carry is refused before the wire, and its value is not shown."""
    with pytest.raises(SettingsRefused, match="X-Secret") as refused:
        new_lane("http://127.0.0.1:1").build(POST, {"X-Secret": value})
    assert value not in refused.value.message


@pytest.mark.parametrize(
    "behave",
    [
        reads_then_closes,
        reads_then_resets,
        talks_garbage_and_stays,
        breaks_its_chunks,
        answers_unread,
        says(answer()),
        says(answer(b"{}", "Connection: close")),
        says(answer(), answer()),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_is_left_open(scheme: str, behave: Behaviour, tls: ssl.SSLContext) -> None:
    """A lane that is closed leaves no connection behind, nor one that is still saying goodbye."""

    async def twice(lane: Lane) -> None:
        for _ in range(2):
            await lane.send(lane.build(POST, {}))

    with Service(behave, tls if scheme == "https" else None).serving() as service:
        on_lane(new_lane(service.url, trust_env=True), twice)
    gc.collect()  # an open transport warns as it goes, and a warning fails the test


def test_no_long_goodbye(tls: ssl.SSLContext) -> None:
    """A connection that is given up ends at once, also where the server does not take part in TLS's goodbye."""
    closed = threading.Event()

    def talk_garbage_and_wait(peer: Peer) -> None:
        talks_garbage(peer)
        closed.wait(3)

    async def once(lane: Lane) -> Sending:
        return await lane.send(lane.build(POST, {}))

    with Service(talk_garbage_and_wait, tls).serving() as service:
        began = time.monotonic()
        sending = on_lane(new_lane(service.url, trust_env=True), once)
        elapsed = time.monotonic() - began
        closed.set()
    assert sending == MaybeSent("net.protocol_error")
    assert elapsed < 0.9
    gc.collect()  # as above


# What the lane makes of headers.


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ((), ""),
        (("X-Cap-Requestid: 8a-1",), "8a-1"),
        (("X-CAP-REQUEST-ID: 8a-2",), "8a-2"),
        (("X-Cap-Requestid: " + "a" * 999,), "a" * 128),
        (("X-Cap-Requestid: a\tb",), "ab"),
    ],
    ids=["none", "one spelling", "the other", "too long", "not printable"],
)
def test_request_id(headers: tuple[str, ...], request_id: str) -> None:
    """The service's request id is told, under both its names, bounded and printable."""
    with Service(says(answer(b"{}", *headers))).serving() as service:
        assert send(new_lane(service.url)) == Reply(200, b"{}", request_id)


NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), None),
        (("Retry-After: 0",), 0.0),
        (("Retry-After: 120",), 120.0),
        (("Retry-After: 1.5",), 1.5),
        (("Retry-After: -5",), None),
        (("Retry-After: soon",), None),
        (("Retry-After: inf",), None),
        (("Retry-After: " + "9" * 400,), None),
        (("Retry-After: 999999999",), None),
        ((f"Retry-After: {formatdate(NOW + 30, usegmt=True)}", f"Date: {formatdate(NOW, usegmt=True)}"), 30.0),
        ((f"Retry-After: {formatdate(NOW - 30, usegmt=True)}", f"Date: {formatdate(NOW, usegmt=True)}"), 0.0),
        (("Retry-After: Fri, 31 Feb 2026 99:99:99 GMT",), None),
    ],
)
def test_retry_after(headers: tuple[str, ...], seconds: float | None) -> None:
    """`Retry-After` is told in seconds, by the service's own clock, never negative; nonsense is not told."""
    with Service(says(answer(b"{}", *headers, status="429 Slow down"))).serving() as service:
        assert send(new_lane(service.url)) == Reply(429, b"{}", retry_after=seconds)


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        (("X-RateLimit-Remaining: 7", "x-ratelimit-LIMIT: 100", "X-Ratelimit-Reset: 30"), Quota(100, 7, 30)),
        (('RateLimit: "default";r=7;t=30', "Retry-After: 5"), Quota(None, 7, 30)),
        (("RateLimit-Remaining: many", "RateLimit-Reset: -1"), None),
        (("Retry-After: 5",), None),
    ],
)
def test_quota(headers: tuple[str, ...], quota: Quota | None) -> None:
    """What headers say of what is left is told of every answer, however they are written; nonsense is not told."""
    with Service(says(answer(b"{}", *headers))).serving() as service:
        assert send(new_lane(service.url)) == Reply(200, b"{}", quota=quota)


def test_retry_after_without_a_date() -> None:
    """Where the service does not tell its time, a date is taken by ours."""
    text = formatdate(time.time() + 100, usegmt=True)
    with Service(says(answer(b"{}", f"Retry-After: {text}", status="503 Later"))).serving() as service:
        sending = send(new_lane(service.url))
    assert isinstance(sending, Reply)
    assert sending.retry_after == pytest.approx(100, abs=5)


# What nobody may see.


def test_nothing_identifying(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a prepared request's `repr` nor a log at INFO shows an identifier, a URL or a secret."""
    caplog.set_level(logging.INFO)
    request = Request(
        "POST", "/v2/promotion/issue", (("identifierValue", "919986000586"),), b'{"mobile":"919986000586"}'
    )

    async def use(lane: Lane) -> str:
        prepared = lane.build(request, {"X-CAP-API-OAUTH-TOKEN": "secret-token"})
        return f"{lane!r} {prepared!r} {await lane.send(prepared)!r}"

    with Service(says(answer(b'{"mobile":"919986000586"}'))).serving() as service:
        shown = on_lane(new_lane(service.url), use) + caplog.text
    assert "919986000586" not in shown
    assert "secret-token" not in shown
    assert "/v2/promotion/issue" not in shown


def test_start_up() -> None:
    """Whoever only asks for help does not wait for the wire's libraries."""
    code = "import sys, bulkissue.cli; print({'httptools', 'httpx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"


# Settings.


@pytest.mark.parametrize("base_url", ["http://[::1", "http://127.0.0.1:eighty"])
def test_base_url(base_url: str) -> None:
    """A base URL that is none is refused."""
    with pytest.raises(SettingsRefused, match="base_url"):
        new_lane(base_url)


def test_proxy(no_proxy: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names is used where the job trusts it, and only there."""
    with Service(says(answer(b"[1]"))).serving() as proxy, Service(says(answer(b"[2]"))).serving() as service:
        no_proxy.setenv("HTTP_PROXY", proxy.url.removeprefix("http://"))
        assert send(new_lane(service.url, trust_env=True)) == Reply(200, b"[1]")
        assert send(new_lane(service.url, trust_env=False)) == Reply(200, b"[2]")
        no_proxy.setenv("NO_PROXY", "127.0.0.1")
        assert send(new_lane(service.url, trust_env=True)) == Reply(200, b"[2]")
    assert proxy.requests[0].target == service.url + POST.path


def test_connection_to_a_proxy_is_used_again(no_proxy: pytest.MonkeyPatch) -> None:
    """Behind a proxy too, requests of one lane go over one connection."""

    async def twice(lane: Lane) -> None:
        for _ in range(2):
            await lane.send(lane.build(POST, {}))

    with Service(says(answer())).serving() as proxy:
        no_proxy.setenv("HTTP_PROXY", proxy.url)
        on_lane(new_lane("http://service.invalid", trust_env=True), twice)
    assert (proxy.connections, len(proxy.requests)) == (1, 2)


def test_proxy_that_refuses(no_proxy: pytest.MonkeyPatch) -> None:
    """Where a proxy refuses the way to the service, nothing was sent."""
    with Service(says(answer(b"", status="407 Who are you"))).serving() as proxy:
        no_proxy.setenv("HTTPS_PROXY", proxy.url)
        assert send(new_lane("https://service.invalid", trust_env=True)) == NotSent("net.connect_failed")
    assert [seen.target for seen in proxy.requests] == ["service.invalid:443"]


def test_proxy_with_a_password(no_proxy: pytest.MonkeyPatch) -> None:
    """The proxy gets the name and the password its URL holds, with every request."""

    async def twice(lane: Lane) -> None:
        for _ in range(2):
            await lane.send(lane.build(POST, {}))

    with Service(says(answer())).serving() as proxy:
        no_proxy.setenv("HTTP_PROXY", proxy.url.replace("//", "//na%20me:secret@"))
        on_lane(new_lane("http://service.invalid", trust_env=True), twice)
    credentials = "Basic " + base64.b64encode(b"na me:secret").decode()
    assert [seen.headers["Proxy-Authorization"] for seen in proxy.requests] == [credentials] * 2


def tunnels(port: int) -> Behaviour:
    """A proxy that connects to this port, whatever it is asked for."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(65536):
                sink.sendall(some)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def behave(peer: Peer) -> None:
        peer.read()
        with socket.create_connection(("127.0.0.1", port)) as onwards:
            peer.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            thread = threading.Thread(target=pump, args=(onwards, peer.sock))
            thread.start()
            pump(peer.sock, onwards)
            thread.join()

    return behave


@contextmanager
def behind_a_tunnel(behave: Behaviour, tls: ssl.SSLContext, environment: pytest.MonkeyPatch) -> Iterator[Any]:
    with Service(behave, tls).serving() as service:
        port = int(service.url.rpartition(":")[2])
        with Service(tunnels(port)).serving() as proxy:
            environment.setenv("HTTPS_PROXY", proxy.url.replace("//", "//name:secret@"))
            environment.delenv("NO_PROXY", raising=False)
            yield service, proxy


def test_tunnel(tls: ssl.SSLContext, no_proxy: pytest.MonkeyPatch) -> None:
    """Through a proxy's tunnel requests go encrypted over one connection; the proxy sees nothing but the host."""

    async def twice(lane: Lane) -> list[Sending]:
        return [await lane.send(lane.build(POST, {"X-CAP-API-OAUTH-TOKEN": "t"})) for _ in range(2)]

    with behind_a_tunnel(says(answer()), tls, no_proxy) as (service, proxy):
        assert on_lane(new_lane(service.url, trust_env=True), twice) == [Reply(200, b"{}")] * 2
        assert [seen.target for seen in service.requests] == [POST.path] * 2
        assert all("Proxy-Authorization" not in seen.headers for seen in service.requests)
        assert [seen.target for seen in proxy.requests] == [service.url.removeprefix("https://")]
        assert "Proxy-Authorization" in proxy.requests[0].headers
        assert "X-CAP-API-OAUTH-TOKEN" not in proxy.requests[0].headers
        assert (proxy.connections, service.connections) == (1, 1)


@pytest.mark.parametrize("behave", [reads_then_closes, reads_then_resets, is_silent, promises_more_body])
def test_answer_lost_in_a_tunnel(behave: Behaviour, tls: ssl.SSLContext, no_proxy: pytest.MonkeyPatch) -> None:
    """Behind a tunnel too, a request that was written and got no whole answer is maybe sent, once."""
    with behind_a_tunnel(behave, tls, no_proxy) as (service, _):
        assert isinstance(send(new_lane(service.url, read=SHORT, trust_env=True)), MaybeSent)
        assert (service.connections, len(service.requests)) == (1, 1)


def test_bytes_on_an_idle_tunnel(tls: ssl.SSLContext, no_proxy: pytest.MonkeyPatch) -> None:
    """An answer too many is not taken for the next one behind a tunnel either."""

    def answer_twice(peer: Peer) -> None:
        while peer.read():
            for _ in range(2):
                peer.say(answer(b"[%d]" % len(peer.requests)))

    async def twice(lane: Lane) -> list[Sending]:
        first = await lane.send(lane.build(POST, {}))
        await asyncio.sleep(0.1)  # one that comes later still cannot be told from an answer
        return [first, await lane.send(lane.build(POST, {}))]

    with behind_a_tunnel(answer_twice, tls, no_proxy) as (service, _):
        assert on_lane(new_lane(service.url, trust_env=True), twice) == [Reply(200, b"[1]"), Reply(200, b"[2]")]


@pytest.mark.parametrize(
    ("behave", "sending"),
    [
        (accepts_then_closes, NotSent("net.connect_failed")),
        (reads_then_closes, NotSent("net.connect_failed")),
        (reads_then_resets, NotSent("net.connect_failed")),
        (talks_garbage, NotSent("net.connect_failed")),
        (is_silent, NotSent("net.connect_timeout")),
        (says_then_closes(b"HTTP/1.1 200 OK\r\n\r\n"), NotSent("net.connect_failed")),
    ],
    ids=["closes", "reads and closes", "resets", "talks garbage", "is silent", "lets nobody through"],
)
def test_tunnel_that_fails(behave: Behaviour, sending: Sending, no_proxy: pytest.MonkeyPatch) -> None:
    """Where no tunnel comes about, nothing of the request was sent; making it has the time of connecting."""
    with Service(behave).serving() as proxy:
        no_proxy.setenv("HTTPS_PROXY", proxy.url)
        assert send(new_lane("https://service.invalid", connect=SHORT, trust_env=True)) == sending
    assert all(seen.target == "service.invalid:443" for seen in proxy.requests)


@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://name:secret@127.0.0.1:1",
        "http://name:secret@[::1",
        "socks5://name:secret@127.0.0.1:1",
        "http://",
        "http://name:secret@127.0.0.1:65536",
    ],
)
def test_proxy_that_is_none(proxy: str, no_proxy: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be used is refused, and its password is not shown."""
    no_proxy.setenv("ALL_PROXY", proxy)
    with pytest.raises(SettingsRefused, match="proxy") as refused:
        new_lane("https://service.invalid", trust_env=True)
    assert "secret" not in f"{refused.value} {refused.value.hint}"


def test_transport_for_tests() -> None:
    """A lane takes another transport, and classes what that raises as it does its own."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/refuse":
            raise httpx.ConnectError("no", request=request)
        if request.url.path == "/break":
            raise RuntimeError("surprise")
        return httpx.Response(200, content=request.content)

    async def use(lane: Lane) -> list[Sending]:
        return [
            await lane.send(lane.build(Request("POST", path, body=b"[]"), {})) for path in ("/", "/refuse", "/break")
        ]

    lane = Lane(
        "http://service.invalid",
        connect_timeout=1,
        read_timeout=1,
        trust_env=False,
        transport=httpx.MockTransport(respond),
    )
    assert on_lane(lane, use) == [Reply(200, b"[]"), NotSent("net.connect_failed"), MaybeSent("net.unexpected")]
