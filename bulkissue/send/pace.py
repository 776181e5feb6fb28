"""
The pace: when the next request may leave.

The allowance, requests per minute, is used fully and evenly, and no sixty seconds may ever hold more than it.
Where the service still says "too many" (429), all lanes wait, and go on at what it has shown to take.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

#: Seconds a minute's allowance is spread over: half a percent is left for clocks and networks that are not exact.
SPREAD = 60.3
#: Seconds a request may be late without losing its turn. A server that sees requests up to 0.2 s early or late
#: still never counts more than n in a minute: (60 + 0.1 + 0.2) / (60.3 / n) = n.
CATCH_UP = 0.1
#: Seconds. The minute is the service's, and its clock is not ours.
_PAST_THE_MINUTE = 0.5
#: A slower pace is this share of what the service took in a minute, less than before, but never under a twentieth:
#: others may share the limit, and then what it took of us says little.
_UNDER, _LESS, _LEAST = 0.97, 0.95, 0.05
#: The pace is raised again after so many seconds without a refusal, twice as many after each further slow-down, …
_QUIET, _LONGEST_QUIET = 120.0, 1920.0
#: … by such a share, and by twice the share each time that goes well.
_STEP, _LARGEST_STEP = 0.01, 0.16
#: Where the service took less than that twentieth, others had most of its minute, and what it takes of us is not known:
#: the pace doubles after each minute without a refusal.
_BLIND_QUIET, _BLIND_STEP = 60.0, 1.0
#: Seconds, where the waits the service asks for prove too short.
_LONGEST_REPEAT = 32.0


class Pace:
    """
    One pace for all lanes. Those that wait are served in the order they came; one that gives up takes no slot.

    Args:
        requests_per_minute: The allowance, 1 to 1,000,000.
        clock: Monotonic seconds.
        sleep: Waits so many seconds; what it raises ends the wait for the slot.
        wall: Seconds since 1970, for where a minute begins.
    """

    def __init__(
        self,
        requests_per_minute: int,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        wall: Callable[[], float],
    ) -> None:
        #: Seconds waited because the service asked for it, since it last took a request.
        self.waited_in_a_row = 0.0
        self._allowance = float(requests_per_minute)
        self._rate = self._allowance
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._turn = asyncio.Lock()
        self._next = clock()
        self._held_until = -math.inf
        self._holds_in_a_row = 0
        self._accepted: deque[float] = deque()  # when, in the last minute
        self._quiet = _QUIET
        self._step = _STEP
        self._blind = False
        self._raise_at = math.inf

    @property
    def requests_per_minute(self) -> float:
        """The present pace: the allowance, or less where the service wanted less."""
        return self._rate

    async def slot(self) -> None:
        """Wait until a request may leave; it should leave at once."""
        async with self._turn:
            while (wait := max(self._next, self._held_until) - self._clock()) > 1e-6:
                await self._sleep(wait)
            self._next = max(self._next, self._clock() - CATCH_UP) + SPREAD / self._rate

    def accepted(self) -> None:
        """The service took a request, whatever it answered."""
        now = self._clock()
        self._accepted.append(now)
        self._forget_before(now - 60)
        self.waited_in_a_row = 0.0
        if now > self._held_until:
            self._holds_in_a_row = 0
        if now >= self._raise_at:
            self._raise(now)

    def refused(self, *, wait: float | None) -> float:
        """
        The service refused a request because there were too many: hold all lanes, then go on more slowly.

        What several lanes are told of one moment is one hold and one slow-down.

        Args:
            wait: Seconds the service asks for. Where that has just proved too short, the hold is longer. None: until
                the next minute begins.

        Returns:
            Seconds this adds to the waiting.
        """
        now = self._clock()
        seconds = 60 - self._wall() % 60 + _PAST_THE_MINUTE if wait is None else wait
        if now <= self._held_until:
            if wait is None:
                return 0.0  # of the moment we are waiting out: not another minute
        else:
            if self._accepted and self._accepted[-1] > self._held_until:
                self._slow_down(now)
            self._holds_in_a_row += 1
            if self._holds_in_a_row > 1:
                seconds = max(seconds, min(2.0 ** (self._holds_in_a_row - 2), _LONGEST_REPEAT))
        held_until = max(self._held_until, now + seconds)
        added = held_until - max(self._held_until, now)
        self._held_until = held_until
        self.waited_in_a_row += added
        return added

    def _slow_down(self, now: float) -> None:
        self._forget_before(now - 60)
        least, taken = self._rate * _LEAST, len(self._accepted) * _UNDER
        self._blind = taken < least
        self._rate = max(1.0, least, min(self._rate * _LESS, taken))
        if self._raise_at < math.inf:
            self._quiet = min(2 * self._quiet, _LONGEST_QUIET)
        self._step = _STEP
        self._raise_at = now + (_BLIND_QUIET if self._blind else self._quiet)

    def _raise(self, now: float) -> None:
        self._rate = min(self._rate * (1 + (_BLIND_STEP if self._blind else self._step)), self._allowance)
        self._step = min(2 * self._step, _LARGEST_STEP)
        self._raise_at = now + (_BLIND_QUIET if self._blind else self._quiet)
        if self._rate == self._allowance:
            self._quiet, self._raise_at = _QUIET, math.inf

    def _forget_before(self, moment: float) -> None:
        while self._accepted and self._accepted[0] <= moment:
            self._accepted.popleft()
