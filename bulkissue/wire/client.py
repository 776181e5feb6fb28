"""
The only module that speaks HTTP: one request out, and truthfully what became of it.

It must never say `NotSent` where a byte of the request may have left, and never send a request twice.

What that rests on, read in httpx 0.28.1 and httpcore 1.0.9, and held by `tests/test_wire.py`:

- httpcore raises `ConnectError` and `ConnectTimeout` in `connect_tcp` and `start_tls` only, before there is a
  connection that could write the request; on one that is used again neither can arise. `ProxyError` is a
  proxy's refusal to make a tunnel, `PoolTimeout` comes before a connection is assigned.
- A connection found closed, readable or idle for too long is dropped before the request is written. Once writing
  has begun nothing is sent again: `retries` is about connecting (and is 0), and `ConnectionNotAvailable`, the
  one thing the pool tries again for, is raised before a byte is written.
- A failed write is not reported: httpcore goes on to read, as the server may have answered early.
- A body shorter than its Content-Length, or chunked and without its end, is a `RemoteProtocolError`. A body that
  ends with the connection cannot be told from half of one: it is a `Reply`, and its reader decides.
- Bytes that came with an answer but lie behind it stay buffered, and would be taken for the answer to the next
  request. httpcore does not look for them; `_left_over` does.

httpx's transport is used without `httpx.AsyncClient`: what the client adds (redirects, cookies, auth flows, a log
line with the URL) is not wanted here and costs more than the sending itself.
"""

import asyncio
import functools
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

import httpx

from bulkissue import __version__
from bulkissue.errors import SettingsRefused
from bulkissue.exchange import MaybeSent, NotSent, Reply, Request, Sending

#: Servers close idle connections, often after 5 s; a request written into one that is being closed is unknown.
IDLE_SECONDS = 2.0
#: Bytes, decompressed. No honest answer is longer.
LONGEST_BODY = 32 << 20
_LONGEST_REQUEST_ID = 128

#: Raised before the first byte of the request, and only then.
_NOT_SENT: dict[type[BaseException], str] = {
    httpx.ConnectError: "net.connect_failed",
    httpx.ConnectTimeout: "net.connect_timeout",
    httpx.PoolTimeout: "net.pool_timeout",
    httpx.ProxyError: "net.connect_failed",
}
#: By exact type; what stands in neither table is `net.unexpected`, and maybe sent.
_MAYBE_SENT: dict[type[BaseException], str] = {
    TimeoutError: "net.read_timeout",
    httpx.ReadTimeout: "net.read_timeout",
    httpx.WriteTimeout: "net.read_timeout",
    httpx.ReadError: "net.read_error",
    httpx.WriteError: "net.write_error",
    httpx.RemoteProtocolError: "net.protocol_error",
    httpx.LocalProtocolError: "net.protocol_error",
    httpx.DecodingError: "net.protocol_error",
}
_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS)
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


class _Body(httpx.AsyncByteStream):
    """A request's body. It is asked for once the connection stands and the headers are written."""

    def __init__(self, content: bytes) -> None:
        self.on_asked: Callable[[], None] = lambda: None
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.on_asked()
        yield self._content


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its headers, ready to be written. Its URL may hold an identifier, its headers a secret."""

    request: httpx.Request = field(repr=False)
    body: _Body = field(repr=False)


class Lane:
    """
    One connection to the service, opened when needed and used again while it is good.

    For one request at a time. After `close` it may be used again.

    Args:
        base_url: Of the service; may have a path, which goes before every request's.
        connect_timeout: Seconds for reaching the server, and once more for its TLS handshake.
        read_timeout: Seconds from the moment the request is written until the answer is whole.
        trust_env: Use the proxies and certificate files that the environment names.
        transport: Instead of a real one, for tests.

    Raises:
        SettingsRefused: The base URL, or the environment's proxy, is not usable.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        trust_env: bool,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        try:
            base = httpx.URL(self._base)
        except httpx.InvalidURL:
            raise SettingsRefused("base_url is not a URL", hint='it looks like "https://eu.api.example.com"') from None
        self._transport = transport or _transport(base, trust_env=trust_env)
        self._read_timeout = read_timeout
        self._longest = 2 * connect_timeout + read_timeout
        self._extensions = {"timeout": {"connect": connect_timeout, "pool": connect_timeout}}
        self._headers = [
            (b"Host", base.netloc),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"gzip"),
            (b"User-Agent", f"bulkissue/{__version__}".encode()),
        ]
        self._urls: dict[str, httpx.URL] = {}

    def build(self, request: Request, headers: Mapping[str, str]) -> Prepared:
        """
        Everything that can fail before the wire.

        Args:
            request: What to send. Its path is kept as it is, its query is percent-encoded.
            headers: Credentials.

        Raises:
            SettingsRefused: A header's value cannot be sent.
        """
        raw = list(self._headers)
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable() and value == value.strip()):
                raise SettingsRefused(f"the header {name} cannot be sent: its value is not plain printable text")
            raw.append((name.encode("ascii"), value.encode("ascii")))
        content = request.body or b""
        if request.body is not None:
            raw += (b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(content))
        body = _Body(content)
        prepared = httpx.Request(
            request.method, self._url(request), headers=raw, stream=body, extensions=self._extensions
        )
        return Prepared(prepared, body)

    async def send(self, prepared: Prepared) -> Sending:
        """
        Send, and say what became of it; after anything but a whole answer the connection is closed.

        Raises:
            asyncio.CancelledError: And nothing else. The request may have been sent.
        """
        now = asyncio.get_running_loop().time
        try:
            # httpx bounds the connecting. The rest is bounded as a whole, so that a body that drips ends too.
            async with asyncio.timeout(self._longest) as deadline:
                prepared.body.on_asked = lambda: deadline.reschedule(now() + self._read_timeout)
                response = await self._transport.handle_async_request(prepared.request)
                content = await _whole(response)
        except BaseException as trouble:
            # httpcore has closed the connection already; that it is never used again does not rest on it.
            await self._drop()
            if not isinstance(trouble, Exception):
                raise
            if reason := _NOT_SENT.get(type(trouble)):
                return NotSent(reason)
            return MaybeSent(_MAYBE_SENT.get(type(trouble), "net.unexpected"))
        if _left_over(self._transport, response):
            await self._drop()
        headers = response.headers
        request_id = headers.get("x-cap-requestid") or headers.get("x-cap-request-id") or ""
        return Reply(
            response.status_code,
            content,
            "".join(filter(str.isprintable, request_id))[:_LONGEST_REQUEST_ID],
            _retry_after(headers) if response.status_code >= 400 else None,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _drop(self) -> None:
        with suppress(Exception):  # it is being given up; how it ends does not matter
            await self._transport.aclose()

    def _url(self, request: Request) -> httpx.URL:
        if request.query:
            # A "+" in an email must arrive as one: quote, not quote_plus, and nothing is left unencoded.
            return httpx.URL(f"{self._base}{request.path}?{urlencode(request.query, quote_via=quote, safe='')}")
        if request.path not in self._urls:
            self._urls[request.path] = httpx.URL(self._base + request.path)
        return self._urls[request.path]


async def _whole(response: httpx.Response) -> bytes:
    """The decompressed body. A longer one than any honest answer is treated like one that is no HTTP."""
    parts = []
    size = 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > LONGEST_BODY:
                raise httpx.RemoteProtocolError("the answer is too long")
            parts.append(part)
    finally:
        await response.aclose()
    return b"".join(parts)


def _left_over(transport: httpx.AsyncBaseTransport, response: httpx.Response) -> bool:
    """Whether the open connection holds bytes behind the answer; also where that cannot be seen."""
    pool: Any = getattr(transport, "_pool", None)
    if pool is None or not pool.connections:
        return False
    try:
        connection = pool.connections[0]
        while hasattr(connection, "_connection"):  # below a proxy's
            connection = connection._connection  # noqa: SLF001 - httpcore gives no public way to see its buffer
        if connection._h11_state.trailing_data[0]:  # noqa: SLF001 - as above
            return True
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        if tls is not None:
            tls.read(1)
            return True
    except ssl.SSLWantReadError:
        return False
    except (AttributeError, KeyError, ssl.SSLError):
        return True
    return False


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds from now; None where the header is missing or makes no sense."""
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _instant(text)
    if until is None:
        return None
    # The service's own clock, where it tells it: ours may be wrong.
    now = _instant(headers.get("date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _instant(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _transport(base: httpx.URL, *, trust_env: bool) -> httpx.AsyncHTTPTransport:
    try:
        return httpx.AsyncHTTPTransport(
            verify=_tls(trust_env), limits=_LIMITS, proxy=_proxy(base) if trust_env else None, retries=0
        )
    except (ImportError, ValueError, httpx.InvalidURL):
        # The proxy's URL may carry a password: it is not shown.
        raise SettingsRefused(
            "the proxy that the environment names cannot be used",
            hint="HTTP_PROXY, HTTPS_PROXY or ALL_PROXY should look like http://proxy.example.com:3128",
        ) from None


@functools.cache
def _tls(trust_env: bool) -> ssl.SSLContext:
    # Reading the certificates takes 20 ms: once for all lanes.
    return httpx.create_ssl_context(trust_env=trust_env)


def _proxy(base: httpx.URL) -> str | None:
    """The proxy the environment names for this URL, as httpx's client would find it."""
    if proxy_bypass(base.netloc.decode("ascii")):
        return None
    proxies = getproxies()
    found = proxies.get(base.scheme) or proxies.get("all")
    return found if found is None or "://" in found else f"http://{found}"
