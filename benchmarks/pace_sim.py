"""
The pace in virtual time: the program's own control law, and plainer ones, against services that count.

Nothing here waits and nothing is random but with a fixed seed, so the same program gives the same table on every
machine. `tests/test_pace.py` holds the figures that matter with the same services. It must never change the law it
shows: `bulkissue.send.pace.Pace` is driven as it is, with another clock.

    python benchmarks/pace_sim.py       # Markdown, as in benchmarks/README.md; half a minute
"""

import asyncio
import math
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from random import Random
from typing import Any, Protocol

from bulkissue.exchange import Quota
from bulkissue.send.pace import SPREAD, Pace


class _Leap(selectors.SelectSelector):
    """Puts the clock forward instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class SimulatedTime(asyncio.SelectorEventLoop):
    """
    An event loop whose clock leaps to whatever is next.

    Attributes:
        ahead: Seconds by which the clock on the wall is ahead of it.
    """

    ahead = 0.0

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._leap.now

    def wall(self) -> float:
        """Seconds since 1970, as it were."""
        return self._leap.now + self.ahead


def simulate(main: Callable[[SimulatedTime], Coroutine[Any, Any, Any]]) -> Any:
    """What `main` returns, at once."""
    loop = SimulatedTime()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


# Services


class Service(Protocol):
    """Counts requests."""

    def takes(self, now: float) -> float | None:
        """None, or seconds until it takes another request."""

    def quota(self, now: float) -> Quota:
        """What its headers say just after a request, in whole seconds."""


@dataclass
class SlidingWindow:
    """Counts the last so many seconds."""

    limit: int
    seconds: float = 60.0
    taken: deque[float] = field(default_factory=deque)

    def takes(self, now: float) -> float | None:
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return self.taken[0] + self.seconds - now
        self.taken.append(now)
        return None

    def quota(self, now: float) -> Quota:
        oldest = self.taken[0] if self.taken else now
        left = max(self.limit - len(self.taken), 0)
        return Quota(limit=self.limit, remaining=left, resets_in=math.ceil(oldest + self.seconds - now))


@dataclass
class FixedWindow:
    """Counts from each full minute, or each full so many seconds."""

    limit: int
    seconds: float = 60.0
    window: float = -1
    taken: int = 0

    def takes(self, now: float) -> float | None:
        if now // self.seconds != self.window:
            self.window, self.taken = now // self.seconds, 0
        if self.taken >= self.limit:
            return self.seconds - now % self.seconds
        self.taken += 1
        return None

    def quota(self, now: float) -> Quota:
        left = max(self.limit - self.taken, 0)
        return Quota(limit=self.limit, remaining=left, resets_in=math.ceil(self.seconds - now % self.seconds))


@dataclass
class TokenBucket:
    """Takes `limit` a minute, and `burst` at once where it was not asked for a while."""

    limit: int
    burst: float = 20.0
    tokens: float = math.inf
    at: float = 0.0

    def takes(self, now: float) -> float | None:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.limit / 60)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) * 60 / self.limit
        self.tokens -= 1
        return None

    def quota(self, now: float) -> Quota:
        full = (self.burst - self.tokens) * 60 / self.limit
        return Quota(limit=int(self.burst), remaining=int(self.tokens), resets_in=math.ceil(full))


@dataclass
class Sporadic:
    """Refuses every thirtieth request, whatever the pace, and takes no other for a second."""

    count: int = 0
    until: float = 0.0

    def takes(self, now: float) -> float | None:
        if now < self.until:
            return self.until - now
        self.count += 1
        if self.count % 30:
            return None
        self.until = now + 1
        return 1.0

    def quota(self, now: float) -> Quota:
        return Quota()


@dataclass
class Shared:
    """
    A service that others use too, evenly, while they are there.

    Args:
        counts: The service.
        rate: Requests per minute of theirs.
        spells: From when until when they are there, in seconds, in order.
    """

    counts: Service
    rate: float
    spells: Sequence[tuple[float, float]]
    got: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._theirs = chain.from_iterable(self._moments(start, end) for start, end in self.spells)
        self._next = next(self._theirs, math.inf)

    def _moments(self, start: float, end: float) -> Iterator[float]:
        for number in range(int((end - start) * self.rate / 60)):
            yield start + number * 60 / self.rate

    def takes(self, now: float) -> float | None:
        while self._next <= now:
            if self.counts.takes(self._next) is None:
                self.got.append(self._next)
            self._next = next(self._theirs, math.inf)
        return self.counts.takes(now)

    def quota(self, now: float) -> Quota:
        return self.counts.quota(now)


# Laws


class Law(Protocol):
    """What `Pace` offers to dispatch."""

    async def slot(self) -> None:
        """Wait until a request may leave."""

    def accepted(self, quota: Quota | None = None) -> None:
        """It was taken."""

    def refused(self, *, wait: float | None, quota: Quota | None = None) -> float:
        """It was refused."""


class _Plain:
    """What the plain laws share: slots at a pace, and a hold as long as asked, a second where nothing is."""

    def __init__(self, allowance: float, loop: SimulatedTime) -> None:
        self.most = self.pace = float(allowance)
        self.time = loop.time
        self._next = self._held_until = 0.0
        self._turn = asyncio.Lock()

    async def slot(self) -> None:
        async with self._turn:
            while (wait := max(self._next, self._held_until) - self.time()) > 1e-6:  # noqa: ASYNC110 - time leaps
                await asyncio.sleep(wait)
            self._next = max(self._next, self.time() - 0.1) + SPREAD / self.pace

    def accepted(self, quota: Quota | None = None) -> None:
        pass

    def refused(self, *, wait: float | None, quota: Quota | None = None) -> float:
        now = self.time()
        if now > self._held_until:
            self.slow_down(now)
        self._held_until = max(self._held_until, now + (1.0 if wait is None else wait))
        return 0.0

    def slow_down(self, now: float) -> None:
        pass


class FullPace(_Plain):
    """Holds as long as asked, and goes on at the allowance."""


class Aimd(_Plain):
    """Additive increase, multiplicative decrease: half of the pace for a refusal, 1 % of the whole for each second."""

    def accepted(self, quota: Quota | None = None) -> None:
        self.pace = min(self.most, self.pace + self.most * 0.01 * SPREAD / self.pace)

    def slow_down(self, now: float) -> None:
        self.pace = max(1.0, self.pace / 2)


class LastMinute(_Plain):
    """Stays at what was accepted in the last 60 s, and climbs by 1 % in two minutes: the law of the first version."""

    def __init__(self, allowance: float, loop: SimulatedTime) -> None:
        super().__init__(allowance, loop)
        self._taken: deque[float] = deque()
        self._slowed = 0.0

    def accepted(self, quota: Quota | None = None) -> None:
        now = self.time()
        self._taken.append(now)
        while self._taken[0] <= now - 60:
            self._taken.popleft()
        if now - self._slowed >= 120:
            self.pace, self._slowed = min(self.most, self.pace * 1.01), now

    def slow_down(self, now: float) -> None:
        self.pace, self._slowed = max(1.0, min(self.pace, float(len(self._taken)))), now


def ours(allowance: float, loop: SimulatedTime) -> Pace:
    """The program's law."""
    return Pace(allowance, clock=loop.time, sleep=asyncio.sleep, wall=loop.wall)


LAWS: dict[str, Callable[[float, SimulatedTime], Law]] = {
    "bulkissue": ours,
    "full pace after the hold": FullPace,
    "AIMD": Aimd,
    "accepted of the last 60 s": LastMinute,
}

# What the service tells with a 429

Tell = Callable[[float], float | None]


def rounded_up(wait: float) -> float:
    """`Retry-After` in whole seconds."""
    return float(math.ceil(wait))


def nothing(_wait: float) -> None:
    """No `Retry-After`."""


def a_second(_wait: float) -> float:
    """`Retry-After: 1`, always."""
    return 1.0


# A run


@dataclass
class Seen:
    """When the service took and refused requests, in seconds, and the law at the end."""

    law: Any
    taken: list[float]
    refused: list[float]

    def used(self, start: float, end: float) -> int:
        """Requests taken in a stretch of time."""
        return sum(start < one <= end for one in self.taken)

    def refusals(self, start: float, end: float) -> float:
        """The share of requests that were refused in a stretch of time."""
        refused = sum(start < one <= end for one in self.refused)
        return refused / max(1, refused + self.used(start, end))

    def most_in_a_minute(self) -> int:
        """The most requests, refused ones too, that any sixty seconds hold at the service."""
        window: deque[float] = deque()
        most = 0
        for moment in sorted(self.taken + self.refused):
            window.append(moment)
            while window[0] <= moment - 60:
                window.popleft()
            most = max(most, len(window))
        return most


def send_for(
    minutes: float,
    service: Service,
    requests_per_minute: float,
    *,
    lanes: int = 8,
    latency: float = 0.05,
    tell: Tell = nothing,
    headers: bool = False,
    start: float = 0.0,
    law: Callable[[float, SimulatedTime], Law] = ours,
) -> Seen:
    """Send from all lanes for so long; the service's clock is `start` seconds ahead."""
    rng = Random(1)

    async def main(loop: SimulatedTime) -> Seen:
        loop.ahead = start
        pace = law(requests_per_minute, loop)
        seen = Seen(pace, [], [])

        async def lane() -> None:
            while True:
                await pace.slot()
                if loop.time() >= 60 * minutes:
                    return
                await asyncio.sleep(latency * rng.random())
                now = loop.time() + start
                wait = service.takes(now)
                quota = service.quota(now) if headers else None
                (seen.taken if wait is None else seen.refused).append(loop.time())
                await asyncio.sleep(latency * rng.random())
                if wait is None:
                    pace.accepted(quota)
                else:
                    pace.refused(wait=tell(wait), quota=quota)

        await asyncio.gather(*[lane() for _ in range(lanes)])
        return seen

    seen: Seen = simulate(main)
    return seen


# The tables

#: Requests per minute of the job and of the service.
ALLOWANCE = 600
_SERVICES: dict[str, Callable[[], Service]] = {
    "minutes": lambda: FixedWindow(ALLOWANCE),
    "sliding minute": lambda: SlidingWindow(ALLOWANCE),
    "seconds": lambda: FixedWindow(ALLOWANCE // 60, 1.0),
    "bucket of 20": lambda: TokenBucket(ALLOWANCE),
}
_TELLS: dict[str, tuple[Tell, bool]] = {
    "`Retry-After`": (rounded_up, False),
    "always 1 s": (a_second, False),
    "nothing": (nothing, False),
    "`X-RateLimit-…` alone": (nothing, True),
}
#: Seconds. They are there from one minute on, leave, and come and go from then on.
_HALF, _SPELLS = (60.0, 600.0), ((60.0, 180.0), (240.0, 360.0), (420.0, 540.0))


def others_take_half(service: Service, tell: Tell, law: Callable[[float, SimulatedTime], Law], *, headers: bool) -> str:
    """What is used of what others leave, and refused; and of the whole, from two minutes after they left."""
    seen = send_for(14, Shared(service, ALLOWANCE / 2, [_HALF]), ALLOWANCE, tell=tell, headers=headers, law=law)
    start, end = _HALF[0] + 60, _HALF[1]
    left = ALLOWANCE / 2 * (end - start) / 60
    after = seen.used(end + 120, end + 240) / (2 * ALLOWANCE)
    return f"{seen.used(start, end) / left:.0%}, {seen.refusals(start, end):.1%}; {after:.0%}"


def others_come_and_go(
    service: Service, tell: Tell, law: Callable[[float, SimulatedTime], Law], *, headers: bool
) -> str:
    """What is used of what others leave, and refused, where they are there for two minutes of three."""
    seen = send_for(10, Shared(service, ALLOWANCE / 2, _SPELLS), ALLOWANCE, tell=tell, headers=headers, law=law)
    left = ALLOWANCE * 9 - ALLOWANCE / 2 * sum(end - start for start, end in _SPELLS) / 60
    return f"{seen.used(60, 600) / left:.0%}, {seen.refusals(60, 600):.1%}"


def sporadic(law: Callable[[float, SimulatedTime], Law]) -> str:
    """How long 600 requests take beside what they must, with the holds."""
    seen = send_for(5, Sporadic(), 6000, tell=a_second, law=law)
    least = 600 / 6000 * 60 + 600 // 29
    took = f"{seen.taken[599]:.0f} s" if len(seen.taken) >= 600 else "over 300 s"
    return f"{took} ({least:.0f} s are possible)"


def alone(law: Callable[[float, SimulatedTime], Law]) -> str:
    """What is used without others, and the most that any minute held, of the allowance."""
    seen = send_for(10, SlidingWindow(ALLOWANCE), ALLOWANCE, law=law)
    return f"{seen.used(60, 600) / (9 * ALLOWANCE):.1%}; {seen.most_in_a_minute() / ALLOWANCE:.1%}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(title: str, rows: Iterator[tuple[str, ...]]) -> None:
    print(_line(title, *LAWS), _line(*["---"] * (1 + len(LAWS))), sep="\n")
    for row in rows:
        print(_line(*row), flush=True)
    print()


def _each(measure: Callable[..., str]) -> Iterator[tuple[str, ...]]:
    for kind, service in _SERVICES.items():
        for told, (tell, headers) in _TELLS.items():
            cells = [measure(service(), tell, law, headers=headers) for law in LAWS.values()]
            yield (f"{kind}, {told}", *cells)


def main() -> None:
    """Print the tables."""
    _table(
        "by itself",
        iter([
            ("nobody else: used; most in a minute", *map(alone, LAWS.values())),
            ("600 requests at 6,000 a minute, one 429 in thirty", *map(sporadic, LAWS.values())),
        ]),
    )  # fmt: skip
    _table("others take half for nine minutes", _each(others_take_half))
    _table("others come and go", _each(others_come_and_go))


if __name__ == "__main__":
    main()
