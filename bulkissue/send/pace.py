"""
The pace: when the next request may leave.

The allowance, requests per minute, is used fully and evenly, and no sixty seconds may ever hold more than it.
Where the service still says "too many" (429), all lanes wait for as long as it asks, and go on a little slower, or
at what it has shown to take in a minute where the wait was long. From there the pace climbs as CUBIC does in TCP: fast
up to the level that was refused, flat around it, and faster again the longer nothing is refused. `tests/test_pace.py`
holds it against services that count in simulated time. It must never pass the allowance, whatever it hears.
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
#: A refusal whose wait is shorter than this many seconds says little about a minute's limit.
_LONG_WAIT = 5.0
#: After a refusal the pace is a small step under what it was; or, where the wait was long or a minute of this pace was
#: taken, a little under what the service took in the last minute. But it is at least such a share of what it was:
#: what the service took of a run that is young, or that others have just joined, says little.
_STEP, _UNDER = 0.98, 0.95
_LEAST, _LEAST_OF_A_YOUNG_RUN = 0.2, 0.5
#: Seconds from the level that was refused until the pace is half as much again.
_CLIMB = 70.0
#: Between two tries of a level that is refused, about so many requests leave for each that is refused.
_REQUESTS_A_REFUSAL = 100
_SLOWEST_CLIMB = 4.0
#: Seconds, where the waits the service asks for prove too short, and where it asks for none: 1, 2, 4, …
_LONGEST_REPEAT = 32.0
#: Where the service has begun to take requests again so near a minute's beginning, so often, its windows are minutes.
_NEAR_THE_MINUTE, _MINUTES_SEEN = 2.5, 2
#: Seconds to hold after an answer that is no proof of anything, and after each further one.
_TROUBLE, _LONGEST_TROUBLE = 0.25, 2.0
_SLOWER_IN_TROUBLE = 0.9


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
        self._began = self._next = clock()
        self._held_since = self._held_until = -math.inf
        self._holds_in_a_row = 0
        self._refusals = self._taken = 0  # of this hold; and requests taken in the minute before it
        self._accepted: deque[float] = deque()  # when, in the last minute
        self._refused_at = self._allowance  # the pace when this hold began
        self._troubles_in_a_row = 0
        self._minutes_seen = 0
        # The climb: to `_level`, which was refused, and beyond; None where nothing has to be climbed.
        self._level: float | None = None
        self._climbing_since = 0.0
        self._slowed_to = self._allowance
        self._stretch = 1.0

    @property
    def requests_per_minute(self) -> float:
        """The present pace: the allowance, or less where the service wanted less."""
        if self._level is not None:
            self._climb(self._level)
        return self._rate

    async def slot(self) -> None:
        """Wait until a request may leave; it should leave at once."""
        async with self._turn:
            while (wait := max(self._next, self._held_until) - self._clock()) > 1e-6:
                await self._sleep(wait)
            self._next = max(self._next, self._clock() - CATCH_UP) + SPREAD / self.requests_per_minute

    def accepted(self) -> None:
        """The service took a request, whatever it answered."""
        now = self._clock()
        self._accepted.append(now)
        self._forget_before(now - 60)
        self.waited_in_a_row = 0.0
        self._troubles_in_a_row = 0
        if self._holds_in_a_row and now > self._held_until:
            self._settle(now)

    def refused(self, *, wait: float | None) -> float:
        """
        The service refused a request because there were too many: hold all lanes, then go on more slowly.

        What several lanes are told of one moment is one hold and one slow-down.

        Args:
            wait: Seconds the service asks for. Where that has just proved too short, the hold is longer. None: 1, 2,
                4 … s, or until the next minute begins where the service's windows have proved to be minutes.

        Returns:
            Seconds this adds to the waiting.
        """
        now = self._clock()
        self._refusals += 1
        if now <= self._held_until:
            if wait is None:
                return 0.0  # of the moment we are waiting out
            seconds = wait
        else:
            if not self._holds_in_a_row:
                self._held_since = now
                self._forget_before(now - 60)
                self._taken = len(self._accepted)
                self._refused_at = self.requests_per_minute
            self._holds_in_a_row += 1
            seconds = self._unasked() if wait is None else wait
            if self._holds_in_a_row > 1:  # what it asked for was too short
                seconds = max(seconds, min(2.0 ** (self._holds_in_a_row - 2), _LONGEST_REPEAT))
                if self._minutes_seen >= _MINUTES_SEEN:
                    seconds = max(seconds, self._to_the_minute())
        added = self._hold(now, seconds)
        self.waited_in_a_row += added
        return added

    def troubled(self) -> None:
        """
        A request ended without an answer that proves anything: hold all lanes for a moment, and go on more slowly.

        It may be a gateway's way to say "too many", or a service that is about to fall; either way, what is sent now
        may become unknown too.
        """
        now = self._clock()
        if now < self._held_until:
            return
        self._hold(now, min(_TROUBLE * 2.0**self._troubles_in_a_row, _LONGEST_TROUBLE))
        self._troubles_in_a_row += 1
        self._slow_down(now, level=self.requests_per_minute, to=self.requests_per_minute * _SLOWER_IN_TROUBLE)

    def _hold(self, now: float, seconds: float) -> float:
        held_until = max(self._held_until, now + seconds)
        added = held_until - max(self._held_until, now)
        self._held_until = held_until
        return added

    def _unasked(self) -> float:
        """Seconds to wait where the service asks for none."""
        if self._minutes_seen >= _MINUTES_SEEN:
            return self._to_the_minute()
        return float(min(2.0 ** (self._holds_in_a_row - 1), _LONGEST_REPEAT))

    def _to_the_minute(self) -> float:
        return 60 - self._wall() % 60 + _PAST_THE_MINUTE

    def _settle(self, now: float) -> None:
        """The service takes requests again: how long that took says how much slower to go on."""
        began, self._holds_in_a_row = self._held_since, 0
        refusals, self._refusals = self._refusals, 0
        rate = self._refused_at
        known = min(60.0, max(began - self._began, 1.0))
        taken = self._taken * 60 / known
        long = now - began >= _LONG_WAIT
        if long:
            at_the_minute = self._wall() % 60 < _NEAR_THE_MINUTE
            self._minutes_seen = self._minutes_seen + 1 if at_the_minute else 0
        if long or taken >= rate * _UNDER:
            level = max(min(rate, taken), rate * (_LEAST if known == 60 else _LEAST_OF_A_YOUNG_RUN))
            to = level * _UNDER
        else:
            level, to = rate, rate * _STEP  # it refused long before a minute of this pace was full
        needed = 60 * _REQUESTS_A_REFUSAL * refusals / level
        self._stretch = min(max(needed / 60, 1.0), _SLOWEST_CLIMB)
        self._slow_down(now, level=level, to=to)

    def _slow_down(self, now: float, *, level: float, to: float) -> None:
        self._level, self._climbing_since = level, now
        self._slowed_to = self._rate = max(1.0, to)

    def _climb(self, level: float) -> None:
        """The pace of this moment: a cubic of the time since the slow-down, flat where the level was refused."""
        steep = level / 2 / (_CLIMB * self._stretch) ** 3
        flat_at = math.cbrt(max(level - self._slowed_to, 0.0) / steep)
        since = self._clock() - self._climbing_since
        self._rate = min(max(level + steep * (since - flat_at) ** 3, self._slowed_to), self._allowance)
        if self._rate >= self._allowance:
            self._level, self._stretch = None, 1.0

    def _forget_before(self, moment: float) -> None:
        while self._accepted and self._accepted[0] <= moment:
            self._accepted.popleft()
