"""
The only module that speaks HTTP: one request out, and truthfully what became of it.

It must never say `NotSent` where a byte of the request may have left, and never send a request twice.

What that rests on, and `tests/test_wire.py` holds: `transport` raises `ConnectError` and `ConnectTimeout` before a
byte is written, and only then; whatever else it raises is maybe sent. A body shorter than its Content-Length, or
chunked and without its end, is no answer. A body that ends with the connection cannot be told from half of one: it is
a `Reply`, and its reader decides.

httpx's transport interface is used without `httpx.AsyncClient`: what the client adds (redirects, cookies, auth flows,
a log line with the URL) is not wanted here and costs more than the sending itself.
"""

import asyncio
import functools
import ssl
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

import httpx

from bulkissue import __version__
from bulkissue.errors import SettingsRefused
from bulkissue.exchange import MaybeSent, NotSent, Reply, Request, Sending
from bulkissue.http import quota

#: Servers close idle connections, often after 5 s; a request written into one that is being closed is unknown.
IDLE_SECONDS = 2.0
#: Bytes, decompressed. No honest answer is longer.
LONGEST_BODY = 32 << 20
_REQUEST_ID = frozenset({b"x-cap-requestid", b"x-cap-request-id"})
_LONGEST_REQUEST_ID = 128
_NO_QUOTA = frozenset({"retry-after", "date"})
_OF_THE_PACE = tuple(name.encode() for name in (*_NO_QUOTA, *quota.PREFIXES))
#: Some gateways put it before JSON, which has none.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its headers, ready to be written. Its URL may hold an identifier, its headers a secret."""

    request: httpx.Request = field(repr=False)


class Lane:
    """
    One connection to the service, opened when needed and used again while it is good.

    For one request at a time. After `close` it may be used again.

    Args:
        base_url: Of the service; may have a path, which goes before every request's.
        connect_timeout: Seconds for reaching the server: its address, TCP, a proxy and TLS together.
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
        self._transport = transport or _transport(base, connect_timeout=connect_timeout, trust_env=trust_env)
        self._read_timeout = read_timeout
        self._longest = 2 * connect_timeout + read_timeout  # ample: the transport bounds the connecting itself
        self._always = [
            (b"Host", base.netloc),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"gzip"),
            (b"User-Agent", f"bulkissue/{__version__}".encode()),
        ]
        # Those of the last request and what they were made for: they change with the token.
        self._made_for: tuple[Mapping[str, str], bool] | None = None
        self._made = httpx.Headers()
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
        return Prepared(
            httpx.Request(
                request.method,
                self._url(request),
                headers=self._headers(headers, with_body=request.body is not None),
                stream=httpx.ByteStream(request.body or b""),
            )
        )

    async def send(self, prepared: Prepared) -> Sending:
        """
        Send, and say what became of it; after anything but a whole answer the connection is closed.

        Raises:
            asyncio.CancelledError: And nothing else. The request may have been sent.
        """
        now = asyncio.get_running_loop().time
        try:
            # The transport bounds the connecting. The rest is bounded as a whole, so that a body that drips ends too.
            async with asyncio.timeout(self._longest) as deadline:
                prepared.request.extensions["connected"] = lambda: deadline.reschedule(now() + self._read_timeout)
                response = await self._transport.handle_async_request(prepared.request)
                content = await _whole(response)
        except BaseException as trouble:
            # The transport has let go of the connection already; that it is never used again does not rest on it.
            await self.close()
            if not isinstance(trouble, Exception):
                raise
            if reason := _NOT_SENT.get(type(trouble)):
                return NotSent(reason)
            return MaybeSent(_MAYBE_SENT.get(type(trouble), "net.unexpected"))
        request_id, said = _told(response.headers)
        return Reply(
            response.status_code,
            content.removeprefix(_BYTE_ORDER_MARK),
            request_id,
            quota.retry_after(said, time.time()) if response.status_code >= 400 else None,
            quota.quota(said, time.time()) if said.keys() - _NO_QUOTA else None,
        )

    async def close(self) -> None:
        """Close the connection. How that ends does not matter: what was sent on it is answered, or given up."""
        with suppress(Exception):
            await self._transport.aclose()

    def _headers(self, credentials: Mapping[str, str], *, with_body: bool) -> httpx.Headers:
        if self._made_for == (credentials, with_body):
            return self._made
        raw = list(self._always)
        for name, value in credentials.items():
            if not (value.isascii() and value.isprintable() and value == value.strip()):
                raise SettingsRefused(f"the header {name} cannot be sent: its value is not plain printable text")
            raw.append((name.encode("ascii"), value.encode("ascii")))
        if with_body:
            raw.append((b"Content-Type", b"application/json"))
        self._made_for, self._made = (dict(credentials), with_body), httpx.Headers(raw)
        return self._made

    def _url(self, request: Request) -> httpx.URL:
        if request.query:
            # A "+" in an email must arrive as one: quote, not quote_plus, and nothing is left unencoded.
            return httpx.URL(f"{self._base}{request.path}?{urlencode(request.query, quote_via=quote, safe='')}")
        if request.path not in self._urls:
            self._urls[request.path] = httpx.URL(self._base + request.path)
        return self._urls[request.path]


async def _whole(response: httpx.Response) -> bytes:
    """The decompressed body. A longer one than any honest answer is treated like one that is no HTTP."""
    # Not `aiter_bytes`, which costs more than the parsing and unpacks a part without a limit.
    stream = cast("httpx.AsyncByteStream", response.stream)
    parts = []
    size = 0
    try:
        async for part in stream:
            size += len(part)
            if size > LONGEST_BODY:
                raise httpx.RemoteProtocolError("the answer is too long")
            parts.append(part)
    finally:
        await stream.aclose()
    body = b"".join(parts)
    # Nothing but gzip was asked for: another encoding is an answer that nobody can read.
    return _unpacked(body) if body and _has(response.headers, b"content-encoding", b"gzip") else body


def _unpacked(body: bytes) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(body, LONGEST_BODY)
    except zlib.error:
        raise httpx.DecodingError("the answer is no gzip") from None
    if not unpacking.eof:
        raise httpx.DecodingError("the answer is half a gzip, or too long")
    return unpacked


def _has(headers: httpx.Headers, name: bytes, value: bytes) -> bool:
    return any(found.lower() == name and said.strip().lower() == value for found, said in headers.raw)


def _told(headers: httpx.Headers) -> tuple[str, dict[str, str]]:
    """The service's id for the exchange, and what it says of how much may be sent, by name in lower case."""
    # Of the raw lines: looking a name up in httpx's headers costs more than everything else here.
    request_id = ""
    said: dict[str, str] = {}
    for raw_name, value in headers.raw:
        name = raw_name.lower()
        if name in _REQUEST_ID:
            request_id = request_id or "".join(filter(str.isprintable, value.decode("latin-1")))[:_LONGEST_REQUEST_ID]
        elif name.startswith(_OF_THE_PACE):
            said.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return request_id, said


def _transport(base: httpx.URL, *, connect_timeout: float, trust_env: bool) -> httpx.AsyncBaseTransport:
    from bulkissue.http.transport import Transport

    return Transport(
        _tls(trust_env),
        connect_timeout=connect_timeout,
        idle_seconds=IDLE_SECONDS,
        proxy=_proxy(base) if trust_env else None,
        longest_body=LONGEST_BODY,
    )


@functools.cache
def _tls(trust_env: bool) -> ssl.SSLContext:
    # Reading the certificates takes 20 ms: once for all lanes.
    context = httpx.create_ssl_context(trust_env=trust_env)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy(base: httpx.URL) -> str | None:
    """The proxy the environment names for this URL, as httpx's client would find it."""
    if proxy_bypass(base.netloc.decode("ascii")):
        return None
    proxies = getproxies()
    found = proxies.get(base.scheme) or proxies.get("all")
    if found is None:
        return None
    found = found if "://" in found else f"http://{found}"
    with suppress(httpx.InvalidURL):
        url = httpx.URL(found)
        # httpx takes any number for a port.
        if url.scheme in {"http", "https"} and url.host and (url.port or 0) < 1 << 16:
            return found
    # Its URL may carry a password: it is not shown.
    raise SettingsRefused(
        "the proxy that the environment names cannot be used",
        hint="HTTP_PROXY, HTTPS_PROXY or ALL_PROXY should look like http://proxy.example.com:3128",
    )
