"""
The service's own window, as its headers tell of it: what is left, and when it ends.

Headers may be wrong, or mean something else than they seem to: of a sliding window or a bucket of tokens "0 left, 60 s"
is no reason to wait for a minute. So they are believed only where several answers name one end, and no longer than
they agree with what is seen: each request takes one at least, and a window that has just begun is not used up. It must
never let more leave than without them.
"""

import math

from bulkissue.exchange import Quota
from bulkissue.state.allowance import Window

#: Seconds by which answers may differ over one end: they tell it in whole seconds, and take a while.
_ONE_END = 1.5
#: Seconds for which an end must have been named. Shorter windows are not worth it.
_NAMED_FOR = 4.0
#: Seconds. What ends later is a quota of an hour or a day: not to be spread over it.
_LONGEST = 90.0
#: Answers of a window before it can be said that they do not count down.
_ENOUGH = 4
_MOST_EMPTY = 2
#: Seconds for which headers that were found out are not looked at.
_DOUBTED = 600.0


def hear(window: Window, quota: Quota, now: float, *, taken: bool) -> None:
    """
    Take in what an answer said.

    Args:
        window: What is known; changed.
        quota: What it said.
        now: Monotonic seconds.
        taken: Whether the service took the request.
    """
    if quota.limit and quota.window and quota.window <= _LONGEST:
        window.per_minute = quota.limit * 60 / quota.window
    left, resets_in = quota.remaining, quota.resets_in
    if left is None or resets_in is None or resets_in > _LONGEST or now < window.doubted_until:
        return
    end = now + resets_in
    if end < window.named - _ONE_END and now < window.named:
        return  # an answer of the window before, overtaken
    if end > window.named + _ONE_END:
        _begin(window, end, now, empty=taken and left == 0)
    window.ends = max(window.ends, end)
    window.left = min(window.left, left)
    window.most = max(window.most, left)
    window.answers += taken
    window.believed |= now - window.since >= _NAMED_FOR
    if window.answers >= _ENOUGH and window.left > window.most - (window.answers - 1) / 2:
        _doubt(window, now)  # it does not count


def pace(window: Window, now: float) -> float:
    """Requests per minute with which what is left lasts until the window ends; infinite where that is not known."""
    if not _is_known(window, now):
        return math.inf
    return (
        60 * max(window.left, 1.0) / max(window.named - 1.0 - now, 0.05)
    )  # told in whole seconds: it may end a second earlier


def take(window: Window, now: float) -> None:
    """A request leaves: the next one may when what is left, spread over the rest of the window, lets it."""
    window.next = min(now + 60 / pace(window, now), window.ends) if _is_known(window, now) else -math.inf


def is_spent(window: Window, now: float) -> bool:
    """Whether nothing is left until the window ends."""
    return _is_known(window, now) and window.left < 1


def hold(window: Window, now: float) -> float:
    """Until when nothing may leave."""
    if is_spent(window, now):
        return window.ends
    return window.next if _is_known(window, now) else -math.inf


def wait(window: Window, quota: Quota | None, now: float) -> float | None:
    """Seconds after which a request that was refused may be sent again, where the headers say so."""
    if quota is None or quota.remaining or not quota.resets_in or now < window.doubted_until:
        return None
    return quota.resets_in


def _is_known(window: Window, now: float) -> bool:
    return window.believed and now < window.ends and now >= window.doubted_until


def _begin(window: Window, end: float, now: float, *, empty: bool) -> None:
    """Another end is named: of the next window, or of one that slides, whose end moves on with each answer."""
    window.believed &= end - window.named >= _NAMED_FOR
    window.empty = window.empty + 1 if empty else 0
    window.named = window.ends = end
    window.since, window.left, window.most, window.answers = now, math.inf, 0.0, 0
    if window.empty >= _MOST_EMPTY:
        _doubt(window, now)


def _doubt(window: Window, now: float) -> None:
    window.believed, window.empty, window.doubted_until = False, 0, now + _DOUBTED
