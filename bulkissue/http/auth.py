"""
Signing in: the headers that say who is sending, and the tokens behind them.

It must never let a name, a secret or a token into a log, a `repr` or an exception.
"""

import asyncio
import base64
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from bulkissue.errors import SettingsRefused
from bulkissue.exchange import Reply, Request
from bulkissue.http.client import Lane
from bulkissue.job.credentials import Credentials
from bulkissue.job.model import ApiSection

TOKEN_PATH = "/v3/oauth/token/generate"  # noqa: S105 - a path
#: Seconds a token is good for where the service does not say; its documentation's own example.
USUAL_TTL = 300.0
_LONGEST_TTL = 30 * 86_400.0
_INVALID_KEY = "320001"
#: Who answers so is not the service, or not at this path.
_NOT_HERE = frozenset({404, 405, 501})


class CredentialsRefused(SettingsRefused):
    """The service does not take these credentials; another try with them is pointless."""


class TokenUnavailable(Exception):
    """
    No token could be had just now. Nothing of the job was sent for it.

    Args:
        reason: Why: a code of the `net`, `http`, `api` or `answer` family.
        throttled: The service is there, and asked us to slow down.
        wait: Seconds it wishes us to wait, where it says.
    """

    def __init__(self, reason: str, *, throttled: bool = False, wait: float | None = None) -> None:
        super().__init__(f"no token could be had: {reason}")
        self.reason = reason
        self.throttled = throttled
        self.wait = wait


class Auth(Protocol):
    """Where the headers of a request come from."""

    async def headers(self) -> tuple[Mapping[str, str], str]:
        """
        Headers that are good now, and the token in them; it is what `renew` wants to know.

        Raises:
            CredentialsRefused: The service does not take the credentials.
            TokenUnavailable: Try again later.
        """

    async def renew(self, refused: str) -> bool:
        """
        Take note that the service refused this token.

        Returns:
            Whether `headers` will give other ones than those that were refused.
        """


class Basic:
    """
    User name and password with every request. The service wants the password's MD5 in lower-case hex.

    Args:
        name: The user (till) name.
        secret: The password as it is typed.
    """

    def __init__(self, name: str, secret: str) -> None:
        digest = hashlib.md5(secret.encode(), usedforsecurity=False).hexdigest()
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"{name}:{digest}".encode()).decode("ascii")}

    async def headers(self) -> tuple[Mapping[str, str], str]:
        """As `Auth`; there is no token."""
        return self._headers, ""

    async def renew(self, refused: str) -> bool:  # noqa: ARG002 - there is nothing to tell apart
        """As `Auth`: nothing fresh can be had."""
        return False


class OAuth:
    """
    A short-lived token for key and secret, fetched when it is first wanted and again before it ends.

    However many lanes want it, one request fetches it, and all of them share what came of it.

    Args:
        name: The client key.
        secret: The client secret.
        lane: For token requests only; its connection is closed after each.
        slot: Waits until a request may leave; token requests count against the service's limit too.
        header: The name of the header the token goes into.
        prefix: What stands before it there.
        attribution: Headers that go with it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        secret: str,
        *,
        lane: Lane,
        slot: Callable[[], Awaitable[None]],
        header: str,
        prefix: str = "",
        attribution: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._body = msgspec.json.encode({"key": name, "secret": secret})
        self._lane = lane
        self._slot = slot
        self._header = header
        self._prefix = prefix
        self._attribution = attribution or {}
        self._clock = clock
        self._token = ""
        self._headers: dict[str, str] = {}
        self._renew_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    async def headers(self) -> tuple[Mapping[str, str], str]:
        """As `Auth`."""
        if self._clock() >= self._renew_at:
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch())
                self._fetching.add_done_callback(self._fetched)
            # One lane that is stopped does not take the token from the others.
            await asyncio.shield(self._fetching)
        return self._headers, self._token

    async def renew(self, refused: str) -> bool:
        """As `Auth`. Where another lane has fetched a new token since, that one is kept."""
        if refused == self._token:
            self._renew_at = -math.inf
        return True

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        self._fetching = None
        if not fetching.cancelled():
            fetching.exception()  # seen, even where every lane that waited for it is gone

    async def _fetch(self) -> None:
        await self._slot()
        began = self._clock()
        try:
            sending = await self._lane.send(self._lane.build(Request("POST", TOKEN_PATH, body=self._body), {}))
        finally:
            await self._lane.close()
        if not isinstance(sending, Reply):
            raise TokenUnavailable(sending.reason)
        self._token, ttl = _read(sending)
        self._headers = {self._header: self._prefix + self._token, **self._attribution}
        self._renew_at = began + ttl - min(30.0, 0.2 * ttl)


async def at_its_turn(auth: Auth, slot: Callable[[], Awaitable[None]]) -> tuple[Mapping[str, str], str]:
    """
    Take a slot, and say which headers and token the request that leaves in it has. Raises as `Auth.headers` does.

    A token is fetched before the slot is taken, so that no slot goes by unused, and asked for again after the wait.
    """
    await auth.headers()
    await slot()
    return await auth.headers()


def make_auth(
    api: ApiSection,
    credentials: Credentials,
    lane: Lane,
    slot: Callable[[], Awaitable[None]],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Auth:
    """
    The job's way to sign in.

    Args:
        api: `[api.auth]` and `[api.attribution]`; attribution goes with a token only.
        credentials: Name and secret.
        lane: For token requests.
        slot: Waits until a token request may leave.
        clock: Monotonic seconds.
    """
    if credentials.method == "basic":
        return Basic(credentials.name, credentials.secret)
    attribution = {
        "X-CAP-API-ATTRIBUTION-ENTITY-TYPE": api.attribution.entity_type,
        "X-CAP-API-ATTRIBUTION-ENTITY-CODE": api.attribution.entity_code,
    }
    return OAuth(
        credentials.name,
        credentials.secret,
        lane=lane,
        slot=slot,
        header=api.auth.token_header,
        prefix=api.auth.token_prefix,
        attribution={name: value for name, value in attribution.items() if value},
        clock=clock,
    )


def _read(reply: Reply) -> tuple[str, float]:
    """
    The token and how many seconds it is good for.

    Raises:
        CredentialsRefused: The answer says so.
        TokenUnavailable: The answer has no token, or none that can be sent.
    """
    try:
        answer = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    codes = _codes(answer)
    if _INVALID_KEY in codes or reply.status in {401, 403}:
        said = f"code {_INVALID_KEY}" if _INVALID_KEY in codes else f"HTTP {reply.status}"
        raise CredentialsRefused(
            f"the service refused the client key and secret ({said})",
            hint="are BULKISSUE_CLIENT_KEY and BULKISSUE_CLIENT_SECRET those of this base_url?",
        )
    if reply.status in _NOT_HERE:
        raise CredentialsRefused(
            f"the sign-in at {TOKEN_PATH} was answered with HTTP {reply.status}",
            hint="is base_url the service's, without the path of an endpoint?",
        )
    if reply.status == 429:
        raise TokenUnavailable("http.429", throttled=True, wait=reply.retry_after)
    if not 200 <= reply.status < 300:
        raise TokenUnavailable(f"http.{reply.status}")
    data = answer.get("data") if isinstance(answer, dict) else None
    data = data if isinstance(data, dict) else {}
    token = data.get("accessToken")
    if isinstance(token, str) and token and token.isascii() and token.isprintable() and token == token.strip():
        return token, _ttl(data.get("ttlSeconds"))
    raise TokenUnavailable(f"api.{codes[0]}" if codes else "answer.unreadable")


def _codes(answer: object) -> list[str]:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    errors = errors if isinstance(errors, list) else []
    codes = [str(error.get("code")) for error in errors if isinstance(error, dict)]
    return [code for code in codes if code.isdecimal()]


def _ttl(value: object) -> float:
    try:
        ttl = float(value)  # type: ignore[arg-type]  # whatever the service wrote
    except (TypeError, ValueError, OverflowError):
        return USUAL_TTL
    return min(ttl, _LONGEST_TTL) if ttl > 0 else USUAL_TTL
