"""
The reader: questions to the service, at the configured pace, over the wire's lanes, asked again where that helps.

Reading changes nothing, so a lost answer is no harm here. It must never send anything but a GET, beside the
request for a token.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bulkissue.errors import ExitCode
from bulkissue.exchange import Quota, Reply, Request
from bulkissue.http.auth import CredentialsRefused, TokenUnavailable, at_its_turn, make_auth
from bulkissue.http.client import Lane
from bulkissue.job.credentials import Credentials
from bulkissue.job.model import ApiSection
from bulkissue.send.guards import LONGEST_WAIT_SECONDS, Halt
from bulkissue.send.pace import Pace
from bulkissue.send.retry import attempts
from bulkissue.state.allowance import Allowance

#: So many questions in a row for which no attempt got an answer that can be used end the reading.
MOST_LOST = 3
_RENEW = frozenset({"401", "498"})
_BUSY = frozenset({"461", "500", "503", "521", "4001"})


class Answer(Protocol):
    """What a reply was read as."""

    @property
    def readable(self) -> bool:
        """Whether it has a shape that is known."""

    @property
    def codes(self) -> tuple[str, ...]:
        """The service's error codes."""


T = TypeVar("T", bound=Answer)


class Stopped(Exception):
    """
    Reading any further is pointless now.

    Args:
        halt: Why.
    """

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.message)
        self.halt = halt


@dataclass(frozen=True, slots=True)
class Unread:
    """Every attempt failed; `reason` is of the last one: a code of the `net`, `http`, `api` or `answer` family."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt, as `wire.retry` wants to know it; `answer` is what may be used of it."""

    reason: str
    answer: object = field(default=None, repr=False)
    again: bool = False
    counts: bool = True
    renew: bool = False
    wait: float | None = None


class Reader:
    """
    Asks the service; made by `reading`.

    Args:
        api: Where, how fast, how often, how many at once.
        credentials: Under whose name.
        allowance: What is known of how fast that may be.
    """

    def __init__(self, api: ApiSection, credentials: Credentials, allowance: Allowance) -> None:
        self.requests = 0
        self._limits = api.limits
        self._pace = Pace(
            api.limits.pace, clock=time.monotonic, sleep=asyncio.sleep, wall=time.time, allowance=allowance
        )
        self._auth = make_auth(api, credentials, lane_of(api), self._pace.slot)
        self._lanes = [lane_of(api) for _ in range(api.limits.concurrency)]
        self._free: asyncio.Queue[Lane] = asyncio.Queue()
        for lane in self._lanes:
            self._free.put_nowait(lane)
        self._random = random.Random()
        self._lost = 0

    async def ask(self, request: Request, read: Callable[[Reply], T]) -> T | Unread:
        """
        Ask until there is an answer that can be used, or attempts run out.

        Args:
            request: A GET.
            read: What a reply means.

        Raises:
            Stopped: The credentials are refused, or the service is out of reach, or wants too much waiting.
        """
        if request.method != "GET":
            raise ValueError(f"the reader only reads, and {request.method} is no reading")
        refused_before = False

        async def attempt() -> _Attempt:
            nonlocal refused_before
            found = await self._attempt(request, read, lane)
            if found.renew and refused_before:
                raise Stopped(Halt.by("guard.credentials", found.reason, exit_code=ExitCode.SETTINGS))
            refused_before = found.renew
            return found

        lane = await self._free.get()
        try:
            last = await attempts(
                attempt, max_attempts=self._limits.max_attempts, sleep=asyncio.sleep, rng=self._random
            )
        finally:
            self._free.put_nowait(lane)
        if not last.again:
            self._lost = 0
            return last.answer  # type: ignore[return-value]  # what `read` gave
        self._lost += 1
        if self._lost >= MOST_LOST:
            raise Stopped(Halt.by("guard.outage", last.reason))
        return Unread(last.reason)

    async def close(self) -> None:
        """Close the connections."""
        for lane in self._lanes:
            await lane.close()

    async def _attempt(self, request: Request, read: Callable[[Reply], T], lane: Lane) -> _Attempt:
        try:
            headers, token = await at_its_turn(self._auth, self._pace.slot)
        except TokenUnavailable as trouble:
            if trouble.throttled:
                return self._wait(trouble.wait)
            return _Attempt(trouble.reason, again=True)
        except CredentialsRefused as trouble:
            raise Stopped(Halt.by("guard.credentials", trouble.message, exit_code=ExitCode.SETTINGS)) from None
        self.requests += 1
        reply = await lane.send(lane.build(request, headers))
        if not isinstance(reply, Reply):
            return _Attempt(reply.reason, again=True)
        answer = read(reply)
        codes = set(answer.codes)
        if reply.status in {401, 498} or codes & _RENEW:
            reason = f"http.{reply.status}" if reply.status >= 400 else "api.498"
            if not await self._auth.renew(token):
                raise Stopped(Halt.by("guard.credentials", reason, exit_code=ExitCode.SETTINGS))
            return _Attempt(reason, again=True, counts=False, renew=True)
        if reply.status == 429 or codes == {"429"}:
            return self._wait(reply.retry_after, reply.quota)
        self._pace.accepted(reply.quota)
        if reply.status in {408, 425, 461} or reply.status >= 500 or codes & _BUSY:
            return _Attempt(f"http.{reply.status}", again=True, wait=reply.retry_after)
        return _Attempt("answer.unreadable", answer, again=not answer.readable)

    def _wait(self, asked: float | None, quota: Quota | None = None) -> _Attempt:
        self._pace.refused(wait=asked, quota=quota)
        if max(asked or 0.0, self._pace.waited_in_a_row) > LONGEST_WAIT_SECONDS:
            self._pace.give_up()
            raise Stopped(Halt.by("guard.throttled"))
        return _Attempt("http.429", again=True, counts=False)


def lane_of(api: ApiSection) -> Lane:
    """A lane to the job's service."""
    return Lane(
        api.base_url,
        connect_timeout=api.limits.connect_timeout_seconds,
        read_timeout=api.limits.read_timeout_seconds,
        trust_env=api.trust_env,
    )


@asynccontextmanager
async def reading(api: ApiSection, credentials: Credentials, allowance: Allowance) -> AsyncIterator[Reader]:
    """A reader, and its connections closed behind it."""
    reader = Reader(api, credentials, allowance)
    try:
        yield reader
    finally:
        await reader.close()
