"""Signing in: headers, and tokens that are fetched once, renewed in time and never shown."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from bulkissue.errors import ExitCode, SettingsRefused
from bulkissue.http.auth import (
    TOKEN_PATH,
    USUAL_TTL,
    Auth,
    Basic,
    CredentialsRefused,
    OAuth,
    TokenUnavailable,
    make_auth,
)
from bulkissue.http.client import Lane
from bulkissue.job.credentials import Credentials
from bulkissue.job.model import ApiSection

BASE_URL = "https://service.invalid"
NAME, SECRET = "the-client-key", "the-client-secret"
HEADER = "X-CAP-API-OAUTH-TOKEN"


def token(value: str, ttl: Any = 300) -> httpx.Response:
    return httpx.Response(200, json={"data": {"accessToken": value, "ttlSeconds": ttl}, "errors": None})


def refusal(code: int | str, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"data": None, "errors": [{"code": code, "message": f"no {SECRET}"}]})


@dataclass
class Tokens:
    """A token endpoint: gives `token-1`, `token-2`, … or what it is told to."""

    answers: list[httpx.Response | Exception] = field(default_factory=list)
    ttl: Any = 300
    requests: list[httpx.Request] = field(default_factory=list)
    slots: int = 0
    now: float = 1000.0

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else token(f"token-{len(self.requests)}", self.ttl)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def slot(self) -> None:
        self.slots += 1

    def auth(self, method: str = "oauth", **tables: Any) -> Auth:
        lane = Lane(
            BASE_URL, connect_timeout=1, read_timeout=1, trust_env=False, transport=httpx.MockTransport(self._respond)
        )
        api = ApiSection.model_validate({"base_url": BASE_URL, **tables})
        return make_auth(api, Credentials(method, NAME, SECRET), lane, self.slot, clock=lambda: self.now)


def use(do: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await do()

    return asyncio.run(main())


def test_basic() -> None:
    """Basic sends the user name and the lower-case hex MD5 of the password, and has nothing to renew."""
    auth = Tokens().auth("basic", auth={"method": "basic"})
    digest = hashlib.md5(SECRET.encode()).hexdigest()
    expected = "Basic " + base64.b64encode(f"{NAME}:{digest}".encode()).decode()
    assert use(auth.headers) == ({"Authorization": expected}, "")
    assert use(lambda: auth.renew("")) is False
    assert digest == digest.lower()


def test_token_request() -> None:
    """A token is asked for with key and secret as JSON, without credentials in the headers, in a slot of its own."""
    tokens = Tokens()
    assert use(tokens.auth().headers) == ({HEADER: "token-1"}, "token-1")
    (request,) = tokens.requests
    assert f"{request.method} {request.url}" == f"POST {BASE_URL}{TOKEN_PATH}"
    assert json.loads(request.content) == {"key": NAME, "secret": SECRET}
    assert not {"authorization", HEADER.lower()} & request.headers.keys()
    assert tokens.slots == 1


def test_headers_of_the_job() -> None:
    """The token goes under the job's header name and prefix, and attribution goes with it."""
    auth = Tokens().auth(
        auth={"token_header": "Authorization", "token_prefix": "Bearer "},
        attribution={"entity_type": "STORE_CODE", "entity_code": "s1"},
    )
    assert use(auth.headers)[0] == {
        "Authorization": "Bearer token-1",
        "X-CAP-API-ATTRIBUTION-ENTITY-TYPE": "STORE_CODE",
        "X-CAP-API-ATTRIBUTION-ENTITY-CODE": "s1",
    }


def test_single_flight() -> None:
    """Lanes that want a token at the same time share one request."""
    tokens = Tokens()
    auth = tokens.auth()
    got = use(lambda: asyncio.gather(*[auth.headers() for _ in range(8)]))
    assert got == [({HEADER: "token-1"}, "token-1")] * 8
    assert len(tokens.requests) == 1


def test_single_flight_that_fails() -> None:
    """Lanes that waited for the same token share its failure, and the next to ask makes a new try."""
    tokens = Tokens([httpx.ConnectError("no")])
    auth = tokens.auth()

    async def ask() -> None:
        got = await asyncio.gather(*[auth.headers() for _ in range(8)], return_exceptions=True)
        assert [type(one) for one in got] == [TokenUnavailable] * 8
        assert len(tokens.requests) == 1
        assert (await auth.headers())[1] == "token-2"

    use(ask)


def test_lane_that_is_cancelled() -> None:
    """A lane that is cancelled while it waits for a token does not take it from the others."""
    tokens = Tokens()
    auth = tokens.auth()

    async def ask() -> None:
        first, second = asyncio.create_task(auth.headers()), asyncio.create_task(auth.headers())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)[1] == "token-1"
        assert first.cancelled()
        assert len(tokens.requests) == 1

    use(ask)


@pytest.mark.parametrize(
    ("ttl", "good_for"),
    [
        (300, 270.0),
        (100, 80.0),
        ("300", 270.0),
        (3600.0, 3570.0),
        (None, USUAL_TTL - 30),
        ("soon", USUAL_TTL - 30),
        (0, USUAL_TTL - 30),
        (-1, USUAL_TTL - 30),
        ("nan", USUAL_TTL - 30),
        (10**400, USUAL_TTL - 30),
        (1e300, 30 * 86_400 - 30.0),
    ],
)
def test_renewed_before_it_ends(ttl: Any, good_for: float) -> None:
    """A token is used until 30 s, or a fifth of its life, before it ends; an odd life is taken as 300 s."""
    tokens = Tokens(ttl=ttl)
    auth = tokens.auth()

    async def ask() -> list[str]:
        shown = []
        for moment in (0.0, good_for - 0.1, good_for + 0.1):
            tokens.now = 1000.0 + moment
            shown.append((await auth.headers())[1])
        return shown

    assert use(ask) == ["token-1", "token-1", "token-2"]


def test_token_that_ends_while_it_is_fetched() -> None:
    """A token with a life shorter than its fetching is used all the same, not fetched for ever."""
    tokens = Tokens()

    def late(request: httpx.Request) -> httpx.Response:
        tokens.now += 60
        return token("short", 1)

    lane = Lane(BASE_URL, connect_timeout=1, read_timeout=1, trust_env=False, transport=httpx.MockTransport(late))
    auth = OAuth(NAME, SECRET, lane=lane, slot=tokens.slot, header=HEADER, clock=lambda: tokens.now)
    assert use(auth.headers) == ({HEADER: "short"}, "short")
    assert tokens.slots == 1


def test_renew() -> None:
    """A refused token is replaced once, however many lanes it was refused to."""
    tokens = Tokens()
    auth = tokens.auth()

    async def ask() -> None:
        _, refused = await auth.headers()
        assert await auth.renew(refused)
        assert (await auth.headers())[1] == "token-2"
        assert await auth.renew(refused)  # another lane's answer, later
        assert (await auth.headers())[1] == "token-2"

    use(ask)
    assert len(tokens.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        refusal(320001),
        refusal("320001"),
        refusal(320001, status=400),
        httpx.Response(401, text="<response><code>401</code></response>"),
        httpx.Response(403, text="<html>"),
    ],
    ids=["code", "code as text", "code at 400", "XML at 401", "HTML at 403"],
)
def test_credentials_refused(answer: httpx.Response) -> None:
    """Refused credentials end the run with exit 3, and neither they nor the service's words are shown."""
    tokens = Tokens([answer])
    with pytest.raises(CredentialsRefused) as refused:
        use(tokens.auth().headers)
    assert isinstance(refused.value, SettingsRefused)
    assert refused.value.exit_code is ExitCode.SETTINGS
    assert NAME not in f"{refused.value!r} {refused.value.hint}"
    assert SECRET not in f"{refused.value!r} {refused.value.hint}"
    assert len(tokens.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.ConnectError("no"), "net.connect_failed"),
        (httpx.ReadTimeout("slow"), "net.read_timeout"),
        (httpx.Response(429), "http.429"),
        (httpx.Response(503, text="<html>"), "http.503"),
        (httpx.Response(302, headers={"Location": "/login"}), "http.302"),
        (httpx.Response(200, text="<html>"), "answer.unreadable"),
        (httpx.Response(200, text='{"data":' + "[" * 100_000), "answer.unreadable"),
        (httpx.Response(200, json=[]), "answer.unreadable"),
        (httpx.Response(200, json={"data": None, "errors": None}), "answer.unreadable"),
        (httpx.Response(200, json={"data": {"accessToken": ""}}), "answer.unreadable"),
        (token("two\nlines"), "answer.unreadable"),
        (refusal(4001), "api.4001"),
        (refusal("odd words"), "answer.unreadable"),
    ],
)
def test_token_unavailable(answer: httpx.Response | Exception, reason: str) -> None:
    """Where no token could be had for another cause there is one try, and the reason is told."""
    tokens = Tokens([answer])
    with pytest.raises(TokenUnavailable) as unavailable:
        use(tokens.auth().headers)
    assert unavailable.value.reason == reason
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("status", [404, 405, 501])
def test_nobody_signs_in_here(status: int) -> None:
    """Where the address of the sign-in is nobody's, the settings are at fault, and that is no outage."""
    with pytest.raises(CredentialsRefused, match=str(status)) as refused:
        use(Tokens([httpx.Response(status)]).auth().headers)
    assert "base_url" in str(refused.value.hint)


def test_token_throttled() -> None:
    """Where there were too many requests it is told apart, with the wait that the service wishes."""
    tokens = Tokens([httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(429), httpx.Response(503)])
    auth = tokens.auth()
    told = []
    for _ in range(3):
        with pytest.raises(TokenUnavailable) as unavailable:
            use(auth.headers)
        told.append((unavailable.value.throttled, unavailable.value.wait))
    assert told == [(True, 7.0), (True, None), (False, None)]


def test_nothing_secret_is_shown() -> None:
    """No `repr` of what signs in shows a name, a secret or a token."""
    tokens = Tokens()
    oauth = tokens.auth()
    use(oauth.headers)
    shown = f"{oauth!r} {Basic(NAME, SECRET)!r}"
    assert not any(secret in shown for secret in (NAME, SECRET, "token-1"))
