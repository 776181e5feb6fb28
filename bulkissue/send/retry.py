"""
What is tried again, and when: the only module that knows tenacity.

What is wrapped is the whole of *intent, send, answer*, so that every attempt is in the journal. It must never try
again because of an exception: only a result that says it is proven not applied is worth another go.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, retry_if_result


class Again(Protocol):
    """What an attempt's result says about another one."""

    @property
    def again(self) -> bool:
        """Whether it is proven not applied, and worth another go."""

    @property
    def counts(self) -> bool:
        """Whether it counts against `max_attempts`. Where it does not, whoever says so also ends it."""

    @property
    def wait(self) -> float | None:
        """Seconds to wait first, where the service or the caller has a wish."""


T = TypeVar("T", bound=Again)


async def attempts(
    attempt: Callable[[], Awaitable[T]],
    *,
    max_attempts: int,
    sleep: Callable[[float], Awaitable[None]],
    rng: random.Random,
    base: float = 1.0,
    cap: float = 30.0,
) -> T:
    """
    Attempt until a result does not ask for another, or until `max_attempts` of them counted; the last one's result.

    The wait between is what the result wishes. Where it wishes nothing it is, after one that counts, anything up
    to `base` seconds, doubled each time, at most `cap` (full jitter), and else nothing: after a 429
    the pace does the waiting.

    Args:
        attempt: One attempt. What it raises ends everything at once.
        max_attempts: From 1.
        sleep: Waits so many seconds.
        rng: For the jitter.
        base: Seconds.
        cap: Seconds.
    """
    counted = 0

    async def counting() -> T:
        nonlocal counted
        result = await attempt()
        counted += result.counts
        return result

    def seconds(result: T) -> float:
        if result.wait is not None:
            return result.wait
        return rng.uniform(0, min(cap, base * 2.0 ** (counted - 1))) if result.counts else 0.0

    # Most attempts are the only ones, so tenacity (20 µs a call) is entered when one was not enough.
    last = await counting()
    if not last.again or counted >= max_attempts:
        return last
    await sleep(seconds(last))

    async def another() -> T:
        nonlocal last
        last = await counting()
        return last

    retrying = AsyncRetrying(
        stop=lambda _: counted >= max_attempts,
        wait=lambda _: seconds(last),
        retry=retry_if_result(lambda result: result.again),
        sleep=sleep,
        reraise=True,
        retry_error_callback=lambda _: last,  # attempts ran out: that is a result too
    )
    await retrying(another)
    return last
