"""
httpx's transport interface on aiohttp, at a third of what httpcore costs or less: one request out, its answer in.

It must never write a request twice, nor raise `ConnectError` or `ConnectTimeout` once a byte may have been written.

Neither rests on the types of aiohttp's exceptions. Of aiohttp its connector, its request and its response are used,
and not its session: we ask for a connection first, and what goes wrong until there is one is not sent, whatever it
is; then we write once, and what goes wrong from there on may have been sent. A session asks and writes by itself,
sends a `GET` again after a lost connection, and does much for each request that is not wanted here.

What else was read in aiohttp 3.14.5, and is held by `tests/test_wire.py`:

- `connect` takes an idle connection if it is open and young enough. What came on it meanwhile was parsed and kept,
  and would be the answer to the next request (aiohttp's issue 13656): `_is_clean` asks.
- A connection that is closed first writes out what it still holds. A request that was given up is to end: `abort`.
- A body that ends with the connection is whole for aiohttp also where the connection was reset: `_Content` asks.
- A broken chunk behind the first part of a body is not told to its reader, who waits until its time is up.
- The parser is llhttp. It forgives bare line feeds, folded headers and a blank before a colon. Two lengths, or a
  length beside chunks, are no HTTP to it, nor is an answer with garbage right behind it.
"""

import asyncio
import select
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import cast

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

#: Bytes. aiohttp's own 8 KB are less than some gateways send.
_LONGEST_HEADER = 1 << 16


class Transport(httpx.AsyncBaseTransport):
    """
    One connection, opened when needed and used again while it is good; for one request at a time.

    A request has its body in memory. Its headers are sent as they are, with aiohttp's Content-Length; where it has no
    Accept, Accept-Encoding or User-Agent, or a body without a Content-Type, aiohttp adds its own. Its extension
    `connected` is called when there is a connection and the first byte is about to be written. No limit is set to the
    answer's time or size: whoever reads it does. After `aclose` it may be used again.

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
        self._connector: _Connector | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send once, and give the answer as soon as its headers are here; its body is read from the stream.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: Before the first byte, and only then.
            httpx.TransportError: Anything else. The request may have been sent.
        """
        if self._connector is None:  # it belongs to an event loop, and there is none yet where a lane is made
            self._connector = _Connector(self._context, self._idle_seconds)
        url = request.url
        # Not `request.read`, which spends 10 µs on finding out that this can be iterated.
        body = b"".join(cast("Iterable[bytes]", request.stream)) or None
        asked = aiohttp.ClientRequest(
            request.method,
            # As it is: aiohttp would quote it once more.
            URL(f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}", encoded=True),
            headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
            skip_auto_headers=None if body else ("Content-Type",),
            data=body,
            proxy=self._proxy,
            loop=asyncio.get_running_loop(),
        )
        connection = await self._connector.connected(asked, self._timeout)
        protocol = connection.protocol
        request.extensions.get("connected", lambda: None)()
        try:
            answer = await _answered(asked, connection)
        except (aiohttp.ClientError, OSError) as trouble:
            raise _lost(trouble, protocol) from None
        if answer.status < 200:
            answer.close()
            raise httpx.RemoteProtocolError("the server switches to a protocol nobody asked for")
        return httpx.Response(answer.status, headers=answer.raw_headers, stream=_Content(answer, protocol))

    async def aclose(self) -> None:
        """Close the connection."""
        connector, self._connector = self._connector, None
        if connector:
            connector.abort()
            await connector.close()


async def _answered(asked: aiohttp.ClientRequest, connection: Connection) -> aiohttp.ClientResponse:
    """Write the request, once, and wait for the answer's headers; where that fails the connection is closed."""
    protocol = connection.protocol
    if protocol is None:
        raise aiohttp.ServerDisconnectedError
    try:
        protocol.set_response_params(
            read_until_eof=True, auto_decompress=False, max_line_size=_LONGEST_HEADER, max_field_size=_LONGEST_HEADER
        )
        answer = await asked.send(connection)
        try:
            await answer.start(connection)
        except BaseException:
            answer.close()
            raise
    except BaseException:
        connection.close()
        raise
    return answer


class _Connector(aiohttp.TCPConnector):
    """One connection at most, looked at before it is used again."""

    def __init__(self, context: ssl.SSLContext, idle_seconds: float) -> None:
        super().__init__(
            ssl=context,
            limit=1,
            keepalive_timeout=idle_seconds,
            use_dns_cache=False,  # a connection is rare, and a changed address is seen at the next one
            resolver=aiohttp.ThreadedResolver(),  # the system's, even where aiodns happens to be installed
        )
        self._transport: asyncio.Transport | None = None
        self._socket: TransportSocket | None = None

    async def connected(self, asked: aiohttp.ClientRequest, limits: aiohttp.ClientTimeout) -> Connection:
        """
        A connection on which nothing of the request has been written.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: There is none.
        """
        try:
            connection = await self.connect(asked, [], limits)
            while self._transport and connection.transport is self._transport and not _is_clean(connection):
                connection.close()
                connection = await self.connect(asked, [], limits)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except Exception:  # noqa: BLE001 - whatever it is, it came before the first byte
            raise httpx.ConnectError("no connection") from None
        if connection.transport is not self._transport:
            self.abort()
            self._transport = connection.transport
            self._socket = connection.transport.get_extra_info("socket") if connection.transport else None
        return connection

    def abort(self) -> None:
        """End the connection at once. A mere closing would first write out what it holds of a request given up."""
        transport, self._transport = self._transport, None
        if transport is not None and self._socket is not None:
            transport.abort()
            # asyncio's TLS ignores that where aiohttp has closed it twice, and would take its time for a goodbye.
            with suppress(OSError):  # it is down already
                self._socket.shutdown(socket.SHUT_RDWR)


class _Content(httpx.AsyncByteStream):
    """An answer's body as it comes, not decompressed."""

    def __init__(self, answer: aiohttp.ClientResponse, protocol: ResponseHandler | None) -> None:
        self._answer = answer
        self._protocol = protocol

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while part := await self._answer.content.readany():
                yield part
        except aiohttp.ClientError as trouble:
            raise _lost(trouble, self._protocol) from None
        headers, protocol = self._answer.headers, self._protocol
        tells_its_end = "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()
        if not tells_its_end and protocol is not None and isinstance(protocol.exception(), OSError):
            # It ends with the connection, and aiohttp takes a reset for a proper end.
            raise httpx.ReadError("the connection broke")

    async def aclose(self) -> None:
        self._answer.close()


def _is_clean(connection: Connection) -> bool:
    """
    Whether nothing has come since the last answer, and all of the last request is out.

    What has come would be taken for the answer to the next request: aiohttp does not ask that of an idle connection,
    but reads and keeps what arrives (its issue 13656).
    """
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return False
    number = transport.get_extra_info("socket").fileno()
    waiting = select.poll()
    waiting.register(number, select.POLLIN | select.POLLOUT)
    if waiting.poll(0) != [(number, select.POLLOUT)]:
        return False
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError:
        pass
    return False


def _lost(trouble: Exception, protocol: ResponseHandler | None) -> httpx.TransportError:
    """In httpx's words. All of them mean that the request may have been sent."""
    broken = None if protocol is None else protocol.exception()
    if isinstance(trouble, OSError) or isinstance(broken, OSError):
        return httpx.ReadError("the connection broke")
    return httpx.RemoteProtocolError("no whole HTTP answer")
