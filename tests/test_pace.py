"""The pace, against services that count, in simulated time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from pace_sim import (
    FixedWindow,
    Service,
    Shared,
    SimulatedTime,
    SlidingWindow,
    Sporadic,
    Tell,
    TokenBucket,
    a_second,
    nothing,
    ours,
    rounded_up,
    send_for,
    simulate,
)

from bulkissue.exchange import PaceState, Quota
from bulkissue.send.pace import CATCH_UP, SPREAD, Pace


def new_pace(loop: SimulatedTime, requests_per_minute: int, *, minute_began: float = 0.0) -> Pace:
    loop.ahead = minute_began
    return ours(requests_per_minute, loop)


def later_than(moments: list[float], moment: float) -> int:
    return sum(one > moment for one in moments)


@pytest.mark.parametrize("requests_per_minute", [1, 2, 7, 60, 100, 1000, 5000])
def test_allowance(requests_per_minute: int) -> None:
    """A service that counts sliding minutes, 0.2 s away, takes everything, and 99 % of the allowance is used."""
    minutes = 20 if requests_per_minute < 10 else 3
    seen = send_for(minutes, SlidingWindow(requests_per_minute), requests_per_minute, lanes=40, latency=0.2)
    assert not seen.refused
    used = later_than(seen.taken, 60) / (requests_per_minute * (minutes - 1))
    assert used >= 0.99 or requests_per_minute * (minutes - 1) - later_than(seen.taken, 60) <= 1


def test_evenly() -> None:
    """Requests are spread over the minute, not sent at its beginning."""
    taken = send_for(2, SlidingWindow(100), 100, latency=0.0).taken
    assert all(later - earlier == pytest.approx(SPREAD / 100) for earlier, later in pairwise(taken))


def test_timers_that_fire_late() -> None:
    """At a million per minute a timer that is 1 ms late each time loses nothing."""

    async def main(loop: SimulatedTime) -> float:
        async def sleep(seconds: float) -> None:
            await asyncio.sleep(seconds + 0.001)

        pace = Pace(1_000_000, clock=loop.time, sleep=sleep, wall=loop.time)
        for _ in range(50_000):
            await pace.slot()
        return loop.time()

    assert simulate(main) == pytest.approx(50_000 * SPREAD / 1_000_000, rel=0.01)


def test_a_pause_is_not_made_up_for() -> None:
    """After five seconds without a request, no more leave at once than a tenth of a second's worth."""

    async def main(loop: SimulatedTime) -> int:
        pace = new_pace(loop, 1000)
        await pace.slot()
        await asyncio.sleep(5)
        began, count = loop.time(), 0
        while loop.time() == began:
            await pace.slot()
            count += 1
        return count - 1  # the last one had to wait

    assert simulate(main) <= CATCH_UP / (SPREAD / 1000) + 1


def test_order() -> None:
    """Lanes get their slots in the order in which they asked."""

    async def main(loop: SimulatedTime) -> list[int]:
        pace = new_pace(loop, 60)
        asked: list[int] = []
        served: list[int] = []

        async def lane(number: int) -> None:
            for _ in range(3):
                asked.append(number)
                await pace.slot()
                served.append(number)

        await asyncio.gather(*[lane(number) for number in range(4)])
        assert served == asked
        return served

    assert sorted(simulate(main)) == sorted([0, 1, 2, 3] * 3)


def test_a_waiter_that_is_cancelled() -> None:
    """A lane that is cancelled while it waits takes no slot, and the next one goes in its place."""

    async def main(loop: SimulatedTime) -> float:
        pace = new_pace(loop, 60)
        await pace.slot()
        first, second = asyncio.create_task(pace.slot()), asyncio.create_task(pace.slot())
        await asyncio.sleep(0.5)
        first.cancel()
        await second
        assert first.cancelled()
        return loop.time()

    assert simulate(main) == pytest.approx(SPREAD / 60)


def test_a_sleep_that_raises() -> None:
    """What the sleep raises ends every wait, and nothing is stuck."""

    class Stopping(Exception):
        pass

    async def main(loop: SimulatedTime) -> list[Any]:
        async def sleep(seconds: float) -> None:
            raise Stopping

        pace = Pace(1, clock=loop.time, sleep=sleep, wall=loop.time)
        await pace.slot()
        return await asyncio.gather(*[pace.slot() for _ in range(3)], return_exceptions=True)

    assert [type(ended) for ended in simulate(main)] == [Stopping] * 3


@pytest.mark.parametrize(
    ("asked", "minute_began", "waited"),
    [(7.0, 0.0, 7.0), (0.0, 0.0, 0.0), (None, 10.0, 1.0)],
    ids=["as long as asked", "nothing to wait", "nothing asked"],
)
def test_hold(asked: float | None, minute_began: float, waited: float) -> None:
    """After a refusal no lane sends before the wait is over, nor long after."""

    async def main(loop: SimulatedTime) -> None:
        pace = new_pace(loop, 6000, minute_began=minute_began)
        await pace.slot()
        waiting = [asyncio.create_task(pace.slot()) for _ in range(3)]
        assert pace.refused(wait=asked) == pytest.approx(waited)
        await waiting[0]
        assert waited <= loop.time() <= waited + 0.02
        await asyncio.gather(*waiting)

    simulate(main)


def test_one_moment() -> None:
    """What several lanes are told of one moment is one hold and one slow-down."""

    async def main(loop: SimulatedTime) -> None:
        pace = new_pace(loop, 1000)
        for _ in range(200):
            await pace.slot()
            pace.accepted()
        assert pace.refused(wait=10.0) == pytest.approx(10.0)
        await asyncio.sleep(0.5)
        pace.accepted()  # it was under way
        more = [pace.refused(wait=10.0), pace.refused(wait=9.0), pace.refused(wait=None)]
        assert more == pytest.approx([0.5, 0.0, 0.0])
        assert pace.requests_per_minute == 1000
        await pace.slot()
        await asyncio.sleep(0.01)
        pace.accepted()
        slowed = pace.requests_per_minute
        assert 500 <= slowed < 1000
        pace.accepted()
        assert pace.requests_per_minute == slowed

    simulate(main)


def test_trouble() -> None:
    """Answers that prove nothing hold all lanes for a moment, longer each time, and slow the pace, until a success."""

    async def main(loop: SimulatedTime) -> list[float]:
        pace, waits = new_pace(loop, 6000), []
        for _ in range(4):
            await pace.slot()
            pace.troubled()
            pace.troubled()  # of another lane, in the same moment
            before = loop.time()
            await pace.slot()
            waits.append(loop.time() - before)
        assert pace.requests_per_minute < 0.7 * 6000
        pace.accepted()
        pace.troubled()
        before = loop.time()
        await pace.slot()
        waits.append(loop.time() - before)
        assert pace.waited_in_a_row == 0.0
        return waits

    assert simulate(main) == pytest.approx([0.25, 0.5, 1, 2, 0.25], abs=0.03)


def test_waited_in_a_row() -> None:
    """Waits add up until the service takes a request."""

    async def main(loop: SimulatedTime) -> None:
        pace = new_pace(loop, 1000)
        for expected in (20.0, 40.0):
            await pace.slot()
            pace.refused(wait=20.0)
            assert pace.waited_in_a_row == pytest.approx(expected)
        await pace.slot()
        pace.accepted()
        assert pace.waited_in_a_row == 0.0

    simulate(main)


def test_waits_that_prove_too_short() -> None:
    """Where what the service asks for does not help, the waits grow; the first is as asked."""

    async def main(loop: SimulatedTime) -> list[float]:
        pace, waits = new_pace(loop, 100_000), []
        for _ in range(9):
            await pace.slot()
            waits.append(pace.refused(wait=0.5))
            await asyncio.sleep(waits[-1] + 0.001)
        return waits

    assert simulate(main) == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 32, 32])


def test_refused_at_once() -> None:
    """A service that took nothing yet says nothing about the pace: lanes wait, and go on at the allowance."""

    async def main(loop: SimulatedTime) -> float:
        pace = new_pace(loop, 1000)
        await pace.slot()
        pace.refused(wait=5.0)
        return pace.requests_per_minute

    assert simulate(main) == 1000


@pytest.mark.parametrize("left", [3, 20, 48])
def test_others_had_the_minute(left: int) -> None:
    """Where others left next to nothing of the minute a run began in, it is at its allowance soon after."""
    seen = send_for(8, FixedWindow(1000, window=0, taken=1000 - left), 1000)
    assert seen.law.requests_per_minute == 1000
    assert len(seen.refused) <= 20
    assert len(seen.taken) > 8 * 1000 * 0.5


@pytest.mark.parametrize("start", [0.0, 31.0, 58.0])
@pytest.mark.parametrize("tell", [rounded_up, nothing, a_second])
@pytest.mark.parametrize(("service", "limit"), [(SlidingWindow, 100), (SlidingWindow, 600), (FixedWindow, 300)])
def test_undisclosed_limit(
    service: Callable[[int], Service], limit: int, tell: Callable[[float], float | None], start: float
) -> None:
    """Under a lower limit nobody told, the pace finds it in minutes, at the cost of few refusals."""
    seen = send_for(10, service(limit), 1000, tell=tell, start=start)
    assert len(seen.refused) < 0.05 * (len(seen.taken) + len(seen.refused))
    assert later_than(seen.refused, 300) < 0.04 * later_than(seen.taken, 300)
    assert later_than(seen.taken, 300) >= 0.85 * 5 * limit


def test_limit_that_goes_away() -> None:
    """When the service takes more again, the pace finds back to the allowance within minutes."""

    @dataclass
    class Lifted:
        counts: SlidingWindow

        def takes(self, now: float) -> float | None:
            return self.counts.takes(now) if now < 300 else None

        def quota(self, now: float) -> Quota:
            return Quota()

    assert send_for(5, Lifted(SlidingWindow(40)), 100).law.requests_per_minute < 50
    assert send_for(13, Lifted(SlidingWindow(40)), 100).law.requests_per_minute == 100


@pytest.mark.parametrize("tell", [rounded_up, nothing, a_second])
@pytest.mark.parametrize("limit", [20, 60, 300])
def test_limit_that_stays(limit: int, tell: Callable[[float], float | None]) -> None:
    """Under a limit that stays for hours, 95 % of it is used and few requests are refused."""
    seen = send_for(240, SlidingWindow(limit), limit * 3 // 2, lanes=2, tell=tell)
    assert len(seen.refused) < (0.05 if limit < 60 else 0.02) * len(seen.taken)
    assert len(seen.taken) > 0.95 * 240 * limit


def test_sporadic_refusals() -> None:
    """One 429 in thirty that asks for a second costs the holds it asks for, and 10 %."""
    seen = send_for(1, Sporadic(), 6000, tell=a_second)
    assert seen.taken[599] <= 1.1 * (600 / 6000 * 60 + 600 // 29)


@pytest.mark.parametrize("tell", [rounded_up, nothing, a_second])
@pytest.mark.parametrize("service", [SlidingWindow, FixedWindow])
@pytest.mark.parametrize("limit", [200, 600, 6000])
def test_others_take_half(service, limit: int, tell: Callable[[float], float | None]) -> None:
    """
    Where others take half, 90 % of what is left is used and few requests are refused; two minutes after they left,
    90 % of the whole is.
    """
    seen = send_for(34, Shared(service(limit), limit / 2, [(60, 1800)]), limit, tell=tell)
    between = [one for one in seen.taken if 300 < one <= 1800]
    refused = [one for one in seen.refused if 300 < one <= 1800]
    after = [one for one in seen.taken if 1920 < one <= 2040]
    assert len(between) >= 0.9 * limit / 2 * 25
    # Of a hundred requests a minute, four refusals are one every quarter of a minute, with the lanes that hear it.
    assert len(refused) < (0.02 if limit >= 600 else 0.04) * (len(between) + len(refused))
    assert len(after) >= 0.9 * 2 * limit


TELLS = [(rounded_up, False), (a_second, False), (nothing, False), (nothing, True)]
KINDS: list[Callable[[int], Service]] = [
    FixedWindow,
    SlidingWindow,
    TokenBucket,
    lambda limit: FixedWindow(limit // 60, 1.0),
]


@pytest.mark.parametrize(("tell", "headers"), TELLS, ids=["as it is", "a second", "nothing", "headers"])
@pytest.mark.parametrize("kind", KINDS, ids=["minutes", "sliding", "bucket", "seconds"])
def test_figures(kind: Callable[[int], Service], tell: Tell, headers: bool) -> None:
    """
    Where others take half, nine tenths of what is left are used and less than 2 % refused; two minutes after they
    left, nine tenths of the whole are used; and no minute ever holds more than the allowance.
    """
    seen = send_for(14, Shared(kind(600), 300, [(60, 600)]), 600, tell=tell, headers=headers)
    assert seen.used(120, 600) >= 0.9 * 300 * 8
    assert seen.refusals(120, 600) < 0.02
    assert seen.used(720, 840) >= 0.9 * 600 * 2
    assert seen.most_in_a_minute() <= 600


@pytest.mark.parametrize("seconds", [10.0, 60.0])
@pytest.mark.parametrize("limit", [60, 240, 3000])
def test_headers_of_a_window(limit: int, seconds: float) -> None:
    """Where headers tell of a window that is smaller than the allowance, it is used up and next to nothing refused."""
    service = FixedWindow(round(limit * seconds / 60), seconds)
    seen = send_for(6, service, 2.5 * limit, headers=True)
    assert seen.used(60, 360) >= 0.9 * 5 * limit
    assert len(seen.refused) <= max(2, 0.005 * len(seen.taken))
    assert send_for(6, FixedWindow(service.limit, seconds), 2.5 * limit).refusals(0, 360) > seen.refusals(0, 360)


def test_headers_of_a_policy() -> None:
    """Where nothing but a policy is told, the pace after the first refusal is that policy's."""

    @dataclass
    class Policy(SlidingWindow):
        def quota(self, now: float) -> Quota:
            return Quota(limit=self.limit, window=60.0)

    seen = send_for(5, Policy(240), 600, headers=True, tell=rounded_up)
    assert 200 < seen.law.requests_per_minute < 300
    assert seen.refusals(0, 300) < 0.01
    assert seen.used(60, 300) > 0.95 * 4 * 240


@pytest.mark.parametrize("burst", [1.0, 2.0, 5.0])
def test_a_gateway_that_takes_no_burst(burst: float) -> None:
    """A limiter of 50 a second that takes hardly any at once, and says nothing: the pace settles near its limit."""
    seen = send_for(2, TokenBucket(3000, burst, tokens=burst), 6000, latency=0.002)
    assert seen.taken[399] < 45
    assert seen.used(60, 120) >= 0.6 * 3000
    assert seen.refusals(60, 120) < 0.02


LIES: dict[str, Callable[[float, int], Quota]] = {
    "nothing left, always a minute": lambda now, count: Quota(600, 0, 60),
    "nothing left in this minute": lambda now, count: Quota(600, 0, 60 - now % 60),
    "one left in this minute": lambda now, count: Quota(600, 1, 60 - now % 60),
    "nothing left for an hour": lambda now, count: Quota(600, 0, 3600 - now % 3600),
    "nothing left for no time": lambda now, count: Quota(600, 0, 0),
    "anything": lambda now, count: Quota(600, count * 7919 % 600, count * 104729 % 90),
    "a policy of one a minute": lambda now, count: Quota(limit=1, window=60.0),
    "a huge policy": lambda now, count: Quota(limit=1e12, remaining=1e12, resets_in=30, window=60.0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_headers_that_lie(lie: Callable[[float, int], Quota]) -> None:
    """Headers that do not agree with what is seen cost a few minutes of the pace at most, and never raise it."""

    @dataclass
    class Liar(SlidingWindow):
        count: int = 0

        def takes(self, now: float) -> float | None:
            self.count += 1
            return super().takes(now)

        def quota(self, now: float) -> Quota:
            return lie(now, self.count)

    seen = send_for(15, Liar(600), 600, headers=True)
    assert seen.used(240, 900) >= 0.9 * 600 * 11
    assert seen.most_in_a_minute() <= 600
    assert not seen.refused


def test_a_wall_clock_that_jumps() -> None:
    """However the clock on the wall jumps, nobody waits longer for a minute to begin than one lasts."""

    async def main(loop: SimulatedTime) -> None:
        pace = new_pace(loop, 600, minute_began=1e9)
        for jump in (0.0, -86_400.0, 86_400.0 * 400, -1e9, 0.0):
            loop.ahead += jump
            await pace.slot()
            await asyncio.sleep(0.01)
            pace.accepted()
            with pace._allowance.held(loop.time()) as known:
                known.minutes = 100.0
            assert 0 < pace.refused(wait=None) <= 60.5
            state = pace.state()
            assert state.until is not None
            assert state.until / 1000 - loop.wall() <= 60.6

    simulate(main)


def test_state() -> None:
    """The pace says what it is, why it is lower, and until when: held, on its way back, after trouble, by headers."""

    async def main(loop: SimulatedTime) -> None:
        pace = new_pace(loop, 600)
        await pace.slot()
        pace.accepted()
        assert pace.state() == PaceState(600, 600)
        pace.refused(wait=30.0)
        held = pace.state()
        assert (held.per_minute, held.why) == (0, "429")
        assert held.until == pytest.approx(1000 * (loop.wall() + 30), abs=2)
        await pace.slot()
        await asyncio.sleep(0.01)
        pace.accepted()
        climbing = pace.state()
        assert 250 <= climbing.per_minute < 600
        assert (climbing.allowed, climbing.why) == (600, "429")
        assert climbing.until is not None
        await asyncio.sleep(climbing.until / 1000 - loop.wall() - 1)
        assert 580 < pace.state().per_minute < 600
        await asyncio.sleep(2)
        assert pace.state() == PaceState(600, 600)
        pace.troubled()
        assert (pace.state().per_minute, pace.state().why) == (0, "trouble")
        await pace.slot()
        assert pace.state().per_minute == pytest.approx(540, abs=10)
        assert pace.state().why == "trouble"
        await asyncio.sleep(300)
        for left in range(100, 90, -1):
            pace.accepted(Quota(600, left, 60 - loop.time() % 60))
            await asyncio.sleep(0.6)
        assert (pace.state().per_minute < 300, pace.state().why) == (True, "quota")

    simulate(main)


def test_words() -> None:
    """In words: the pace, the allowance, the cause, and the moment by the clock on the wall."""
    noon = datetime(2026, 11, 27, 12, 4, 31).astimezone()
    until = round(1000 * noon.timestamp())
    assert PaceState(6000, 6000).words() == "6,000/min"
    assert PaceState(0, 6000, "429", until).words() == "held by a 429 until 12:04:31"
    assert PaceState(2400, 6000, "429", until).words() == "2,400 of 6,000/min, slowed by a 429, until 12:04:31"
    assert PaceState(2400, 6000, "quota", until).words() == (
        "2,400 of 6,000/min, slowed by the service's headers, until 12:04:31"
    )
    assert PaceState(0, 6000, "trouble", until).words() == "held by a 5xx or a lost answer until 12:04:31"


def test_never_under_one() -> None:
    """However often it is refused, at least one request per minute leaves."""
    seen = send_for(20, SlidingWindow(1), 5, lanes=2)
    assert seen.law.requests_per_minute >= 1
    assert len(seen.taken) >= 12
