"""What is tried again, how often, and after which waits."""

import asyncio
import random
from dataclasses import dataclass

import pytest

from bulkissue.send.retry import attempts


@dataclass(frozen=True)
class Result:
    """What an attempt came to."""

    again: bool
    counts: bool = True
    wait: float | None = None
    name: str = ""


DONE = Result(again=False, name="done")
REFUSED = Result(again=True)
THROTTLED = Result(again=True, counts=False)


class Largest(random.Random):
    """Draws the largest number it may."""

    def uniform(self, a: float, b: float) -> float:
        return b


def execute(results: list[Result], max_attempts: int = 5) -> tuple[Result, int, list[float]]:
    """The last result, how many attempts it took, and the waits between them."""
    left, waits = list(results), []

    async def attempt() -> Result:
        return left.pop(0)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    last = asyncio.run(attempts(attempt, max_attempts=max_attempts, sleep=sleep, rng=Largest()))
    return last, len(results) - len(left), waits


@pytest.mark.parametrize("result", [DONE, Result(again=False, counts=False)])
def test_one_is_enough(result: Result) -> None:
    """A result that does not ask for another attempt is the last, without a wait."""
    assert execute([result, DONE]) == (result, 1, [])


@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_again(before: int) -> None:
    """Attempts are repeated while their results ask for it, and the last result is returned."""
    last, count, waits = execute([REFUSED] * before + [DONE])
    assert (last, count, len(waits)) == (DONE, before + 1, before)


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_attempts_run_out(max_attempts: int) -> None:
    """After `max_attempts` that count the last result is returned, although it asks for another, without a wait."""
    results = [Result(again=True, name=str(number)) for number in range(10)]
    last, count, waits = execute(results, max_attempts)
    assert (last, count, len(waits)) == (results[max_attempts - 1], max_attempts, max_attempts - 1)


def test_waits_double() -> None:
    """The longest wait is one second, doubled after each attempt that counts, and never over thirty."""
    assert execute([REFUSED] * 9, 9)[2] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_full_jitter() -> None:
    """A wait is anything between nothing and the longest."""
    waits: list[float] = []

    async def attempt() -> Result:
        return REFUSED

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def main() -> None:
        for seed in range(200):
            await attempts(attempt, max_attempts=2, sleep=sleep, rng=random.Random(seed))

    asyncio.run(main())
    assert all(0 <= wait <= 1 for wait in waits)
    assert min(waits) < 0.1
    assert max(waits) > 0.9


def test_what_does_not_count() -> None:
    """A 429 or a renewed token takes no attempt away, does not lengthen later waits, and waits for nothing here."""
    results = [THROTTLED, REFUSED, THROTTLED, THROTTLED, REFUSED, THROTTLED, REFUSED, DONE]
    assert execute(results, 3) == (REFUSED, 7, [0, 1, 0, 0, 2, 0])


def test_many_that_do_not_count() -> None:
    """Results that do not count have no end of their own: whoever returns them ends them."""
    assert execute([THROTTLED] * 500 + [DONE], 1) == (DONE, 501, [0] * 500)


def test_wishes() -> None:
    """A wait that a result wishes for is waited for exactly, whether it counts or not."""
    results = [
        Result(again=True, wait=7.5),
        Result(again=True, counts=False, wait=60),
        Result(again=True, wait=0),
        DONE,
    ]
    assert execute(results) == (DONE, 4, [7.5, 60, 0])


@pytest.mark.parametrize("raised", [RuntimeError, asyncio.CancelledError])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_exceptions(raised: type[BaseException], before: int) -> None:
    """What an attempt raises is raised at once, and nothing is tried again."""
    count = 0

    async def attempt() -> Result:
        nonlocal count
        count += 1
        if count > before:
            raise raised
        return REFUSED

    async def sleep(seconds: float) -> None:
        pass

    async def main() -> None:
        with pytest.raises(raised):
            await attempts(attempt, max_attempts=9, sleep=sleep, rng=random.Random(1))

    asyncio.run(main())
    assert count == before + 1


@pytest.mark.parametrize("before", [1, 2])
def test_sleep_that_raises(before: int) -> None:
    """What the sleep raises, because the run ends, is raised, and nothing is tried again."""
    left = [REFUSED] * before

    async def attempt() -> Result:
        return left.pop()

    async def sleep(seconds: float) -> None:
        if not left:
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(attempts(attempt, max_attempts=9, sleep=sleep, rng=random.Random(1)))
