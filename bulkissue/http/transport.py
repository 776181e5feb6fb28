"""
httpx's transport interface on asyncio and llhttp (httptools): one request out, its whole answer in.

It must never write a request twice, nor raise `ConnectError` or `ConnectTimeout` once a byte may have been written.

That needs what HTTP libraries hide: where connecting ends and writing begins, what arrives while nobody waits for it,
and an end that does not first write out what it still holds. asyncio says all three, so a connection is its protocol:
we connect, and what goes wrong until then is not sent, whatever it is; then we write once, and what goes wrong from
there on may have been sent.

What `tests/test_wire.py` holds besides:

- What comes on an idle connection is nobody's answer: the connection is given up, also where it has come and was not
  read yet. So are one that the server announces to close, and one whose last request is not wholly written.
- A connection that was given up is aborted: closing would write out a request of which nobody hears any more.
- A body that ends with the connection is whole, unless the connection was reset.
- The parser forgives what old servers do to headers. Two lengths, or a length beside chunks, are no HTTP to it.
"""

import asyncio
import base64
import re
import select
import ssl
import time
from collections.abc import Iterable
from typing import cast

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

#: Bytes. Some gateways send long headers; no honest answer is longer than the body.
_LONGEST_HEAD = 1 << 16
_TIMEOUT = re.compile(rb"timeout=([0-9]{1,6})")
#: Seconds until the next address of a host is tried besides.
_NEXT_ADDRESS = 0.25


class Transport(httpx.AsyncBaseTransport):
    """
    One connection, opened when needed and used again while it is good; to one server, for one request at a time.

    A request has its body in memory. Its headers are sent as they are, and a Content-Length. Its extension `connected`
    is called when there is a connection and the first byte is about to be written. No limit is set to the answer's
    time: whoever waits does. After `aclose` it may be used again.

    Args:
        context: For TLS, to the proxy too.
        connect_timeout: Seconds for address, TCP, proxy and TLS together.
        idle_seconds: A connection that was idle for longer is not used again; less, where the server says less.
        proxy: Its URL, perhaps with a name and a password.
        longest_body: Bytes; an answer with more is none.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connect_timeout: float,
        idle_seconds: float,
        proxy: str | None,
        longest_body: int,
    ) -> None:
        self._context = context
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle_seconds
        self._proxy = httpx.URL(proxy) if proxy else None
        self._longest_body = longest_body
        self._connection: _Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send once, and give the answer when it is whole.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: Before the first byte, and only then.
            Exception: After anything else the request may have been sent; mostly it is another `httpx.TransportError`.
        """
        connection = self._connection
        if connection is None or not connection.is_good(self._idle_seconds):
            self._let_go()
            connection = self._connection = await self._connect(request.url)
        request.extensions.get("connected", lambda: None)()
        try:
            return await connection.exchange(self._as_bytes(request))
        except BaseException:
            self._let_go()
            raise

    async def _connect(self, url: httpx.URL) -> "_Connection":
        connection = _Connection(self._longest_body)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._open(connection, url)
        except BaseException as trouble:
            connection.abort()
            if isinstance(trouble, TimeoutError):
                raise httpx.ConnectTimeout("no connection in time") from None
            if isinstance(trouble, Exception):  # whatever it is, it came before the first byte
                raise httpx.ConnectError("no connection") from None
            raise
        return connection

    async def _open(self, connection: "_Connection", url: httpx.URL) -> None:
        """Lead a connection to the server, directly, to a proxy that takes whole URLs, or through its tunnel."""
        loop = asyncio.get_running_loop()
        first = self._proxy or url
        await loop.create_connection(
            lambda: connection,
            first.host,
            first.port or (443 if first.scheme == "https" else 80),
            ssl=self._context if first.scheme == "https" else None,
            server_hostname=first.host if first.scheme == "https" else None,
            happy_eyeballs_delay=_NEXT_ADDRESS,
        )
        if self._proxy is None or url.scheme != "https":
            return
        server = b"%b:%d" % (_bracketed(url.raw_host), url.port or 443)
        head = [b"CONNECT %b HTTP/1.1" % server, b"Host: %b" % server, *self._password()]
        if (await connection.tunnel(b"\r\n".join([*head, b"", b""]))) // 100 != 2:
            raise ConnectionRefusedError
        connection.led_through(
            await loop.start_tls(connection.transport(), connection, self._context, server_hostname=url.host)
        )

    def _as_bytes(self, request: httpx.Request) -> bytes:
        url = request.url
        # Not `request.read`, which spends 10 µs on finding out that this can be iterated.
        body = b"".join(cast("Iterable[bytes]", request.stream))
        by_proxy = self._proxy is not None and url.scheme == "http"
        target = b"%b://%b%b" % (url.raw_scheme, url.netloc, url.raw_path) if by_proxy else url.raw_path
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
        head += [b"%b: %b" % header for header in request.headers.raw]
        # A proxy that does not tunnel is given its password with each request.
        head += self._password() if by_proxy else []
        if body or request.method == "POST":
            head.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*head, b"", body])

    def _password(self) -> list[bytes]:
        if self._proxy is None or not self._proxy.userinfo:
            return []
        named = f"{self._proxy.username}:{self._proxy.password}".encode()
        return [b"Proxy-Authorization: Basic " + base64.b64encode(named)]

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.abort()

    async def aclose(self) -> None:
        """Close the connection."""
        self._let_go()


class _Connection(asyncio.Protocol):
    """
    A connection to one server, as asyncio tells of it, and the answer that is being read on it.

    Args:
        longest_body: Bytes.
    """

    def __init__(self, longest_body: int) -> None:
        self._longest_body = longest_body
        self._transport: asyncio.Transport | None = None
        self._answer: _Answer | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._idle_since: float | None = None
        self._idle_at_most = float("inf")
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection; said by asyncio, as the following three."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer that is waited for; else nobody asked for them."""
        if self._answer is None or self._waiting is None or self._waiting.done():
            self._lost = True
            return
        try:
            self._answer.feed(data)
        except (HttpParserError, httpx.RemoteProtocolError):
            self._fail(httpx.RemoteProtocolError("no HTTP answer"))
            return
        if self._answer.is_whole:
            self._waiting.set_result(None)

    def eof_received(self) -> None:
        """The server writes no more."""
        self._lost = True
        if self._answer is not None and self._answer.ends_with_the_connection:
            self._answer.is_whole = True
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is down."""
        self._lost, self._transport = True, None  # asyncio's cannot be aborted any more
        broke = isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError)
        self._fail(
            httpx.ReadError("the connection broke") if broke else httpx.RemoteProtocolError("no whole HTTP answer")
        )

    def _fail(self, trouble: httpx.TransportError) -> None:
        self._lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(trouble)

    def transport(self) -> asyncio.Transport:
        """
        Asyncio's own.

        Raises:
            ConnectionError: There is none.
        """
        if self._transport is None:
            raise ConnectionError
        return self._transport

    async def exchange(self, request: bytes) -> httpx.Response:
        """Write a request, once, and wait for its whole answer; where that fails the connection is of no more use."""
        answer = await self._ask(request, _Answer(self._longest_body))
        # On a connection that is broken, or is to be closed, nothing comes after this answer.
        self._lost |= not answer.keeps_alive
        self._idle_since, self._idle_at_most = time.monotonic(), answer.idle_at_most
        return httpx.Response(answer.status, headers=answer.headers, stream=httpx.ByteStream(b"".join(answer.parts)))

    async def tunnel(self, request: bytes) -> int:
        """Ask a proxy for a tunnel; the status of its answer. What comes after its headers is the server's."""
        return (await self._ask(request, _Answer(self._longest_body, only_head=True))).status

    def led_through(self, transport: asyncio.Transport | None) -> None:
        """
        From now on speak through a tunnel's TLS.

        Raises:
            ConnectionError: It is down already.
        """
        if transport is None or self._lost:
            raise ConnectionError
        self._transport = transport

    async def _ask(self, request: bytes, answer: "_Answer") -> "_Answer":
        if self._lost:
            raise httpx.ReadError("the connection broke")
        self._idle_since, self._answer = None, answer
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self.transport().write(request)
            await self._waiting
        finally:
            self._answer = self._waiting = None
        return answer

    def is_good(self, idle_seconds: float) -> bool:
        """
        Whether it is open and rested for at most so long, nothing has come since the last answer, and all of the
        last request is out, as far as asyncio tells: over TLS it leaves out what is encrypted and waits for TCP.
        """
        if self._lost or self._idle_since is None or self._transport is None or self._transport.is_closing():
            return False
        if time.monotonic() - self._idle_since > min(idle_seconds, self._idle_at_most):
            return False
        if self._transport.get_write_buffer_size():
            return False
        # What has come and was not read yet: asyncio hands it out when it is its turn.
        readiness = select.poll()
        readiness.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLOUT)
        return [event for _, event in readiness.poll(0)] == [select.POLLOUT]

    def abort(self) -> None:
        """End it at once. A mere closing would first write out what it holds of a request given up."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()


class _Answer:
    """
    An answer as it is parsed; the methods whose names begin with `on_` are called by the parser.

    Attributes:
        status: The HTTP status, once the headers are whole.
        headers: As they came, and in their order.
        parts: The body, not decompressed.
        is_whole: Nothing more belongs to it.
        keeps_alive: The connection may be used again.
        idle_at_most: Seconds the server keeps it, less one, where it says so.
    """

    def __init__(self, longest_body: int, *, only_head: bool = False) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.is_whole = False
        self.keeps_alive = True
        self.idle_at_most = float("inf")
        self._only_head = only_head
        self._has_head = False
        self._room = longest_body
        self._head_bytes = 0
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_optional_lf_after_cr=True
        )

    def feed(self, data: bytes) -> None:
        """
        More of it.

        Raises:
            HttpParserError, httpx.RemoteProtocolError: It is no HTTP, or longer than any honest answer.
        """
        if not self._has_head:
            # Counted by what comes: what is kept of an endless header says nothing of it.
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as switched:
            if not self._only_head:
                raise httpx.RemoteProtocolError("the server switches to a protocol nobody asked for") from None
            if switched.args[0] < len(data):
                raise httpx.RemoteProtocolError("the tunnel speaks before it is spoken to") from None
        if not self._has_head and self._head_bytes > _LONGEST_HEAD:
            raise httpx.RemoteProtocolError("the headers are too long")

    @property
    def ends_with_the_connection(self) -> bool:
        """Whether its body has no other end."""
        return self._has_head and not self.is_whole and not self._tells_its_end()

    def _tells_its_end(self) -> bool:
        names = {name.lower(): value.lower() for name, value in self.headers}
        chunked = names.get(b"transfer-encoding", b"").rpartition(b",")[2].strip() == b"chunked"
        return b"content-length" in names or chunked

    def on_message_begin(self) -> None:
        """A message begins: the first one, one after an interim answer, or one too many."""
        if self.is_whole:
            self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if not self.is_whole:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The headers are whole; those of an interim answer are forgotten."""
        if self.is_whole:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            if self.status == 101:
                raise httpx.RemoteProtocolError("the server switches to a protocol nobody asked for")
            self.headers, self._head_bytes = [], 0
            return
        self._has_head = True
        self.is_whole = self._only_head
        for name, value in self.headers:
            if name.lower() == b"keep-alive" and (found := _TIMEOUT.search(value)):
                self.idle_at_most = int(found[1]) - 1.0

    def on_body(self, part: bytes) -> None:
        """Some of the body."""
        self._room -= len(part)
        if self._room < 0:
            raise httpx.RemoteProtocolError("the answer is too long")
        if not self.is_whole:
            self.parts.append(part)

    def on_message_complete(self) -> None:
        """The end of an interim answer, or of the answer."""
        if self._has_head and not self.is_whole:
            self.is_whole = True
            self.keeps_alive = self._parser.should_keep_alive()


def _bracketed(host: bytes) -> bytes:
    return b"[%b]" % host if b":" in host else host
