"""
The pace: when the next request may leave.

The allowance, requests per minute, is used fully and evenly, and no sixty seconds may ever hold more than it.
Where the service still says "too many" (429), all lanes wait for as long as it asks, and go on a little slower, or
at what it has shown to take in a minute where the wait was long. From there the pace climbs as CUBIC does in TCP: fast
up to the level that was refused, flat around it, and faster again the longer nothing is refused. `tests/test_pace.py`
holds it against services that count in simulated time. What is known stands in `state/allowance`, where processes that
send under one key share it. It must never pass the allowance, whatever it hears.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

from bulkissue.exchange import PaceState, Quota
from bulkissue.send import window
from bulkissue.state.allowance import Allowance, Learnt, OwnAllowance

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
_STEP, _UNDER = 0.01, 0.95
#: The step doubles where so few requests were taken since the last refusal, up to the second.
_FEW, _LARGEST_STEP = 4, 0.2
_LEAST, _LEAST_OF_A_YOUNG_RUN = 0.2, 0.5
#: Seconds from the level that was refused until the pace is half as much again.
_CLIMB = 70.0
#: Between two tries of a level that is refused, about so many requests leave for each that is refused.
_REQUESTS_A_REFUSAL = 70
_SLOWEST_CLIMB = 4.0
#: Seconds, where the waits the service asks for prove too short, and where it asks for none: 1, 2, 4, …
_LONGEST_REPEAT = 32.0
#: Bits of evidence after which the service's windows are taken to be minutes. That it took requests again in a stretch
#: of two seconds around a minute's beginning is one of thirty cases where they are not, so it counts five bits.
_SURE = 8.0
#: Seconds by which the service's clock may differ from ours.
_CLOCKS = 0.5
#: Seconds to hold after an answer that is no proof of anything, and after each further one.
_TROUBLE, _LONGEST_TROUBLE = 0.25, 2.0
#: Seconds that are not worth a wait.
_AT_ONCE = 1e-6
_SLOWER_IN_TROUBLE = 0.9


class Pace:
    """
    One pace for all lanes. Those that wait are served in the order they came; one that gives up takes no slot.

    Args:
        requests_per_minute: The allowance, or our share of it.
        clock: Monotonic seconds; those of the machine, where the allowance is shared.
        sleep: Waits so many seconds; what it raises ends the wait for the slot.
        wall: Seconds since 1970, for where a minute begins.
        allowance: Where what is known of it is kept.
    """

    def __init__(
        self,
        requests_per_minute: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        wall: Callable[[], float],
        allowance: Allowance | None = None,
    ) -> None:
        #: Seconds waited because the service asked for it, since it last took a request.
        self.waited_in_a_row = 0.0
        self._most = float(requests_per_minute)
        self._allowance = allowance or OwnAllowance()
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._turn = asyncio.Lock()

    @property
    def requests_per_minute(self) -> float:
        """The present pace: the allowance, or less where the service wanted less."""
        now = self._clock()
        with self._allowance.held(now) as known:
            return min(self._pace(known, now), window.pace(known.window, now))

    def state(self) -> PaceState:
        """The present pace, why it is lower than it may be, and until when."""
        now, wall = self._clock(), self._wall()
        with self._allowance.held(now) as known:
            pace, quota = self._pace(known, now), window.pace(known.window, now)
            spent = window.hold(known.window, now) if window.is_spent(known.window, now) else -math.inf
            if now < max(known.held_until, spent):
                pace = 0.0
                why, until = ("quota", spent) if spent > known.held_until else (_why(known), known.held_until)
            elif quota < pace:
                pace, why, until = quota, "quota", known.window.ends
            elif pace < self._most:
                why, until = _why(known), self._climbed_at(known)
            else:
                return PaceState(pace, self._most)
            return PaceState(round(pace, 1), self._most, why, round(1000 * (wall + until - now)))

    async def slot(self) -> None:
        """Wait until a request may leave; it should leave at once."""
        async with self._turn:
            while (wait := self._take_slot()) > 0:
                await self._sleep(wait)

    def _take_slot(self) -> float:
        """Take the next slot if it is its time, else say how many seconds are left until then."""
        now = self._clock()
        with self._allowance.held(now) as known:
            wait = max(known.next, known.held_until, window.hold(known.window, now)) - now
            if wait > _AT_ONCE:
                return wait
            # A hold is nothing to be caught up with: a gateway that takes no burst would refuse it at any pace.
            known.next = max(known.next, known.held_until, now - CATCH_UP) + SPREAD / self._pace(known, now)
            window.take(known.window, now)
            return 0.0

    def accepted(self, quota: Quota | None = None) -> None:
        """The service took a request, whatever it answered, and said this of what is left."""
        now = self._clock()
        self.waited_in_a_row = 0.0
        with self._allowance.held(now) as known:
            known.accepted[int(now)] = known.accepted.get(int(now), 0) + 1
            _forget_before(known, now - 60)
            known.taken_since += 1
            known.troubles_in_a_row = 0
            if quota is not None:
                window.hear(known.window, quota, now, taken=True)
            if known.holds_in_a_row and now > known.held_until:
                self._settle(known, now)

    def refused(self, *, wait: float | None, quota: Quota | None = None) -> float:
        """
        The service refused a request because there were too many: hold all lanes, then go on more slowly.

        What several lanes are told of one moment is one hold and one slow-down.

        Args:
            wait: Seconds the service asks for. Where that has just proved too short, the hold is longer. None: 1, 2,
                4 … s, or until the next minute begins where the service's windows have proved to be minutes.
            quota: What its headers say of what is left, which counts where it asks for no wait.

        Returns:
            Seconds this adds to the waiting.
        """
        now = self._clock()
        with self._allowance.held(now) as known:
            known.refusals += 1
            known.refused_last = now
            wait = window.wait(known.window, quota, now) if wait is None else wait
            if quota is not None:
                window.hear(known.window, quota, now, taken=False)
            if now <= known.held_until:
                if wait is None:
                    return 0.0  # of the moment we are waiting out
                seconds = wait
            else:
                if not known.holds_in_a_row:
                    known.held_since = now
                    _forget_before(known, now - 60)
                    known.taken = sum(known.accepted.values())
                    known.refused_at = self._pace(known, now)
                known.holds_in_a_row += 1
                seconds = self._unasked(known) if wait is None else wait
                if known.holds_in_a_row > 1:  # what it asked for was too short
                    seconds = max(seconds, _repeated(known, known.holds_in_a_row - 2))
                    if known.minutes >= _SURE and wait is None:
                        known.minutes = 0.0  # the minute has begun, and it is refused
                    elif known.minutes >= _SURE:
                        seconds = max(seconds, self._to_the_minute())
            known.trouble = False
            added = _hold(known, now, seconds)
        self.waited_in_a_row += added
        return added

    def give_up(self) -> None:
        """The hold is too long to be waited out, and the run ends: whoever begins again is to ask the service anew."""
        now = self._clock()
        with self._allowance.held(now) as known:
            known.held_until = min(known.held_until, now)

    def troubled(self) -> None:
        """
        A request ended without an answer that proves anything: hold all lanes for a moment, and go on more slowly.

        It may be a gateway's way to say "too many", or a service that is about to fall; either way, what is sent now
        may become unknown too.
        """
        now = self._clock()
        with self._allowance.held(now) as known:
            if now < known.held_until:
                return
            _hold(known, now, min(_TROUBLE * 2.0**known.troubles_in_a_row, _LONGEST_TROUBLE))
            known.troubles_in_a_row += 1
            known.trouble = True
            pace = self._pace(known, now)
            _slow_down(known, now, level=pace, to=pace * _SLOWER_IN_TROUBLE)

    def _unasked(self, known: Learnt) -> float:
        """Seconds to wait where the service asks for none."""
        if known.minutes >= _SURE:
            return self._to_the_minute()
        return _repeated(known, known.holds_in_a_row - 1)

    def _to_the_minute(self) -> float:
        return 60 - self._wall() % 60 + _PAST_THE_MINUTE

    def _settle(self, known: Learnt, now: float) -> None:
        """The service takes requests again: how long that took says how much slower to go on."""
        began, known.holds_in_a_row = known.held_since, 0
        taken_since, known.taken_since = known.taken_since, 0
        refusals, known.refusals = known.refusals, 0
        rate = min(known.refused_at, self._most)
        seen = min(60.0, max(began - known.began, 1.0))
        taken = known.taken * 60 / seen
        long = now - began >= _LONG_WAIT
        if long:
            began_between = now - known.refused_last + 2 * _CLOCKS
            at_the_minute = (self._wall() + _CLOCKS) % 60 < began_between < 60
            known.minutes = known.minutes + math.log2(60 / began_between) if at_the_minute else 0.0
        if long or taken >= rate * _UNDER:
            level = max(min(rate, taken), rate * (_LEAST if seen == 60 else _LEAST_OF_A_YOUNG_RUN))
            to = level * _UNDER
        else:
            known.step = min(max(2 * known.step, _STEP), _LARGEST_STEP) if taken_since <= _FEW else _STEP
            level = rate * (1 + _STEP - known.step)
            to = level * (1 - _STEP)  # it refused long before a minute of this pace was full
        if known.window.per_minute < level:
            level, to = known.window.per_minute, known.window.per_minute * (1 - _STEP)
        needed = 60 * _REQUESTS_A_REFUSAL * refusals / level
        known.stretch = min(max(needed / 60, 1.0), _SLOWEST_CLIMB)
        _slow_down(known, now, level=level, to=to)

    def _pace(self, known: Learnt, now: float) -> float:
        """
        The pace of this moment: a cubic of the time since the slow-down, flat where the level was refused.

        Where others send under the same key at another pace, no more than ours.
        """
        known.most = max(known.most, self._most)
        if known.level is None:
            return self._most
        steep, flat_at = _curve(known, known.level)
        since = now - known.climbing_since
        climbed = max(known.level + steep * (since - flat_at) ** 3, known.slowed_to)
        if climbed >= known.most:
            known.level, known.stretch = None, 1.0
        return min(climbed, self._most)

    def _climbed_at(self, known: Learnt) -> float:
        """When the pace is the whole again, if nothing more is refused."""
        level = known.level or self._most
        steep, flat_at = _curve(known, level)
        return known.climbing_since + flat_at + math.cbrt((self._most - level) / steep)


def _curve(known: Learnt, level: float) -> tuple[float, float]:
    """How steep the cubic is, and how many seconds after the slow-down it is flat."""
    steep = level / 2 / (_CLIMB * known.stretch) ** 3
    return steep, math.cbrt(max(level - known.slowed_to, 0.0) / steep)


def _why(known: Learnt) -> str:
    return "trouble" if known.trouble else "429"


def _repeated(known: Learnt, times: int) -> float:
    """Seconds to wait where it was waited in vain so many times: not less than two requests are apart anyway."""
    return float(min(max(1.0, 120 / known.refused_at) * 2.0**times, _LONGEST_REPEAT))


def _hold(known: Learnt, now: float, seconds: float) -> float:
    """Let nothing leave for so long; how many seconds that adds."""
    held_until = max(known.held_until, now + seconds)
    added = held_until - max(known.held_until, now)
    known.held_until = held_until
    return added


def _slow_down(known: Learnt, now: float, *, level: float, to: float) -> None:
    known.level, known.climbing_since = level, now
    known.slowed_to = max(1.0, to)


def _forget_before(known: Learnt, moment: float) -> None:
    for second in [second for second in known.accepted if second + 1 <= moment]:
        del known.accepted[second]
