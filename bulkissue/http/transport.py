"""
httpx's transport interface on aiohttp, at a sixth of what httpcore costs or less: one request out, its answer in.

It must never write a request twice, nor raise `ConnectError` or `ConnectTimeout` once a byte may have been written.

Neither rests on the types of aiohttp's exceptions. Of aiohttp its connector is used (addresses, proxies, TLS) and its
protocol (the answer, by llhttp), but not its session, request and response: we ask for a connection first, and what
goes wrong until there is one is not sent, whatever it is; then we write once, and what goes wrong from there on may
have been sent. A session asks and writes by itself, sends a `GET` again after a lost connection, and does much for
each request that is not wanted here.

What else was read in aiohttp 3.14.5, and is held by `tests/test_wire.py`:

- What comes on an idle connection is parsed and kept, and would be the answer to the next request (aiohttp's issue
  13656): nothing is read while a connection rests, and `_Connection.is_good` looks at what waits.
- A connection that is closed first writes out what it still holds. A request that was given up is to end: `abort`.
- A body that ends with the connection is whole for aiohttp also where the connection was reset: `_Content` asks.
- A broken chunk behind the first part of a body is not told to its reader, who waits until its time is up.
- The parser forgives bare line feeds, folded headers and a blank before a colon. Two lengths, or a length beside
  chunks, are no HTTP to it, nor is an answer with garbage right behind it.
"""

import asyncio
import select
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from typing import cast

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

#: Bytes. aiohttp's own 8 KB are less than some gateways send.
_LONGEST_HEADER = 1 << 16


class Transport(httpx.AsyncBaseTransport):
    """
    One connection, opened when needed and used again while it is good; to one server, for one request at a time.

    A request has its body in memory. Its headers are sent as they are, and a Content-Length. Its extension `connected`
    is called when there is a connection and the first byte is about to be written. No limit is set to the answer's
    time or size: whoever reads it does. After `aclose` it may be used again.

    Args:
        context: For TLS, to the proxy too.
        connect_timeout: Seconds for address, TCP, proxy and TLS together.
        idle_seconds: A connection that was idle for longer is not used again.
        proxy: Its URL, perhaps with a name and a password.
    """

    def __init__(
        self, context: ssl.SSLContext, *, connect_timeout: float, idle_seconds: float, proxy: str | None
    ) -> None:
        self._context = context
        self._timeout = aiohttp.ClientTimeout(connect=connect_timeout)
        self._idle_seconds = idle_seconds
        self._proxy = URL(proxy) if proxy else None
        self._connector: aiohttp.TCPConnector | None = None
        self._connection: _Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send once, and give the answer as soon as its headers are here; its body is read from the stream.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: Before the first byte, and only then.
            Exception: After anything else the request may have been sent; mostly it is another `httpx.TransportError`.
        """
        connection = self._connection
        if connection is None or not connection.is_good(self._idle_seconds):
            connection = await self._connect(request.url)
        request.extensions.get("connected", lambda: None)()
        return await connection.exchange(request)

    async def _connect(self, url: httpx.URL) -> "_Connection":
        try:
            self._let_go()
            if self._connector is None:  # it belongs to an event loop, and there is none yet where a lane is made
                self._connector = aiohttp.TCPConnector(
                    ssl=self._context,
                    use_dns_cache=False,  # a connection is rare, and a changed address is seen at the next one
                    resolver=aiohttp.ThreadedResolver(),  # the system's, even where aiodns happens to be installed
                )
            asked = aiohttp.ClientRequest(
                "GET",
                URL(f"{url.scheme}://{url.netloc.decode()}/", encoded=True),
                proxy=self._proxy,
                loop=asyncio.get_running_loop(),
            )
            self._connection = _Connection(await self._connector.connect(asked, [], self._timeout), asked)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except Exception:  # noqa: BLE001 - whatever it is, it came before the first byte
            raise httpx.ConnectError("no connection") from None
        return self._connection

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.abort()

    async def aclose(self) -> None:
        """Close the connection."""
        self._let_go()
        connector, self._connector = self._connector, None
        if connector:
            await connector.close()


class _Connection:
    """
    A connection, taken from aiohttp for good: its pool never sees it again.

    Args:
        held: As aiohttp has it.
        asked: What it was asked for with.

    Raises:
        ConnectionError: It is down already.
    """

    def __init__(self, held: Connection, asked: aiohttp.ClientRequest) -> None:
        if held.protocol is None or held.transport is None:
            held.close()
            raise ConnectionError
        self._held = held
        self.protocol: ResponseHandler = held.protocol
        self._transport: asyncio.Transport = held.transport
        self._tls: ssl.SSLObject | None = held.transport.get_extra_info("ssl_object")
        self._readiness = select.poll()
        self._readiness.register(held.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLOUT)
        self._idle_since: float | None = None
        # A proxy that does not tunnel is given the whole URL, and its password with each request.
        self._by_proxy = asked.proxy is not None and not asked.is_ssl()
        password = asked.headers.get("Proxy-Authorization") if self._by_proxy else None
        self._password = [(b"Proxy-Authorization", password.encode())] if password else []

    def is_good(self, idle_seconds: float) -> bool:
        """
        Whether it is open and rested for at most so long, nothing has come since the last answer, and all of the
        last request is out, as far as asyncio tells: over TLS it leaves out what is encrypted and waits for TCP.

        What has come would be taken for the answer to the next request: aiohttp parses and keeps what arrives on an
        idle connection (its issue 13656). So nothing is read while it rests, and here is a look at what waits.
        """
        if self._idle_since is None or time.monotonic() - self._idle_since > idle_seconds:
            return False
        if self.protocol.should_close or not self.protocol.is_connected() or self._transport.get_write_buffer_size():
            return False
        if [event for _, event in self._readiness.poll(0)] != [select.POLLOUT]:
            return False
        if self._tls is None:
            return True
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            pass
        return False

    async def exchange(self, request: httpx.Request) -> httpx.Response:
        """Write the request, once, and wait for the answer's headers; where that fails the connection is down."""
        self._idle_since = None
        try:
            self._transport.resume_reading()
            self.protocol.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=_LONGEST_HEADER,
                max_field_size=_LONGEST_HEADER,
            )
            self._transport.write(self._as_bytes(request))
            message, content = await self._answer()
        except (aiohttp.ClientError, HttpProcessingError, OSError) as trouble:
            lost = self.lost(trouble)
            self.abort()
            raise lost from None
        except BaseException:
            self.abort()
            raise
        return httpx.Response(message.code, headers=message.raw_headers, stream=_Content(self, message, content))

    async def _answer(self) -> tuple[RawResponseMessage, StreamReader]:
        while True:
            message, content = await self.protocol.read()
            if message.code == 101:
                raise httpx.RemoteProtocolError("the server switches to a protocol nobody asked for")
            if message.code >= 200:
                return message, content

    def _as_bytes(self, request: httpx.Request) -> bytes:
        url = request.url
        # Not `request.read`, which spends 10 µs on finding out that this can be iterated.
        body = b"".join(cast("Iterable[bytes]", request.stream))
        target = b"%b://%b%b" % (url.raw_scheme, url.netloc, url.raw_path) if self._by_proxy else url.raw_path
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
        head += [b"%b: %b" % header for header in (*request.headers.raw, *self._password)]
        if body or request.method == "POST":
            head.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*head, b"", body])

    def rest(self) -> None:
        """Its answer was read to the end, and it may be used again. What comes until then is not read."""
        self._idle_since = time.monotonic()
        if self.protocol.is_connected():
            self._transport.pause_reading()

    @property
    def is_resting(self) -> bool:
        """Whether nobody waits for an answer on it."""
        return self._idle_since is not None

    def abort(self) -> None:
        """End it at once. A mere closing would first write out what it holds of a request given up."""
        self.protocol.abort()  # asyncio's transport itself cannot be aborted once it is lost
        self._held.close()

    def lost(self, trouble: Exception) -> httpx.TransportError:
        """In httpx's words. All of them mean that the request may have been sent."""
        if isinstance(trouble, OSError) or isinstance(self.protocol.exception(), OSError):
            return httpx.ReadError("the connection broke")
        return httpx.RemoteProtocolError("no whole HTTP answer")


class _Content(httpx.AsyncByteStream):
    """An answer's body as it comes, not decompressed. Its connection is used again if it is read to the end."""

    def __init__(self, connection: _Connection, message: RawResponseMessage, content: StreamReader) -> None:
        self._connection = connection
        self._message = message
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        try:
            while part := await self._content.readany():
                yield part
        except aiohttp.ClientError as trouble:
            raise connection.lost(trouble) from None
        tells_its_end = self._message.chunked or "Content-Length" in self._message.headers
        if not tells_its_end and isinstance(connection.protocol.exception(), OSError):
            # It ends with the connection, and aiohttp takes a reset for a proper end.
            raise httpx.ReadError("the connection broke")
        connection.rest()

    async def aclose(self) -> None:
        if not self._connection.is_resting:
            self._connection.abort()
