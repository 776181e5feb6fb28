"""
What an answer's headers say of how much may be sent: `Retry-After`, and rate-limit headers in their usual spellings.

Pure: the time comes in as an argument. Headers are read by whoever wrote them in a hurry, so whatever makes no sense is
taken as not said: negative, not a number, over a day away, in the past, more left than there ever was. It must never
make anybody send more: what it gives can only slow the pace down, or say when a window ends.

    RateLimit: "default";r=50;t=30                 the present IETF draft, with RateLimit-Policy: "default";q=100;w=60
    RateLimit: limit=100, remaining=50, reset=30   an earlier one
    RateLimit-Limit, -Remaining, -Reset            the earliest, with RateLimit-Policy: 100;w=60
    X-RateLimit-Limit, -Remaining, -Reset, X-Rate-Limit-…   of before; the reset in seconds, or an epoch in s or ms
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from bulkissue.exchange import Quota

#: How the names begin, in lower case.
PREFIXES = ("ratelimit", "x-ratelimit", "x-rate-limit")
#: Seconds. Nobody waits longer than a day for an answer.
_LONGEST = 86_400.0
_NUMBER = re.compile(r"[0-9]{1,13}(\.[0-9]{1,9})?")
_MEMBER = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r"(?:^|;)\s*([a-z]+)\s*=\s*([^;\s]+)")


def retry_after(said: Mapping[str, str], now: float) -> float | None:
    """
    Seconds the service asks to wait; None where it says nothing, or nothing that makes sense.

    Args:
        said: Values by header name in lower case.
        now: Seconds since 1970, for dates where the service does not tell its own time.
    """
    text = said.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        until = _instant(text)
        if until is None:
            return None
        seconds = max(0.0, until - _clock(said, now))
    return seconds if seconds <= _LONGEST else None


def quota(said: Mapping[str, str], now: float) -> Quota | None:
    """
    What is left of the service's window; None where it says nothing, or nothing that makes sense.

    Where several windows are told of, it is the one that is used up, and else the one that ends first.

    Args:
        said: Values by header name in lower case.
        now: Seconds since 1970, for epochs where the service does not tell its own time.
    """
    found = [one for one in _quotas(said, now) if one is not None]
    spent = [one for one in found if one.remaining == 0 and one.resets_in is not None]
    if spent:
        return max(spent, key=lambda one: one.resets_in or 0.0)
    return min(found, key=lambda one: one.resets_in if one.resets_in is not None else _LONGEST, default=None)


def _quotas(said: Mapping[str, str], now: float) -> Iterator[Quota | None]:
    policies = dict(_members(said.get("ratelimit-policy", "")))
    for name, item in _members(said.get("ratelimit", "")):
        policy = policies.pop(name, {})
        yield _checked(policy.get("q"), item.get("r"), item.get("t"), policy.get("w"))
    whole = {key: value for _, item in _members(said.get("ratelimit", "")) for key, value in item.items()}
    if "remaining" in whole:
        yield _checked(whole.get("limit"), whole["remaining"], whole.get("reset"), None)
    for policy in policies.values():  # a window of which nothing else is told
        yield _checked(policy.get("q"), None, None, policy.get("w"))
    for prefix in PREFIXES:
        limit = next(_members(said.get(f"{prefix}-limit", "")), ("", {}))[1]
        reset = _number(said.get(f"{prefix}-reset-after", said.get(f"{prefix}-reset", "")))
        left = _number(said.get(f"{prefix}-remaining", ""))
        yield _checked(limit.get("q"), left, _until(reset, said, now), limit.get("w"))


def _members(text: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Each member of a list: what it is called, and its parameters; a number that leads is its quota, as `q`."""
    for member in _MEMBER.findall(text.lower()):
        name = member.partition(";")[0].strip()
        leading = _number(name)
        found = {
            key: number for key, value in _PARAMETER.findall(member.strip()) if (number := _number(value)) is not None
        }
        yield name, ({"q": leading, **found} if leading is not None else found)


def _checked(limit: float | None, left: float | None, resets_in: float | None, window: float | None) -> Quota | None:
    """As a quota, unless it contradicts itself or says nothing of use."""
    if limit is not None and left is not None and left > limit:
        return None
    if resets_in is not None and resets_in > _LONGEST:
        resets_in = None
    if not (limit and window and window <= _LONGEST):
        window = None
    if window is None and (left is None or resets_in is None):
        return None
    return Quota(limit, left, resets_in, window)


def _until(reset: float | None, said: Mapping[str, str], now: float) -> float | None:
    """Seconds until a moment that is told in seconds from now, or as an epoch in seconds or milliseconds."""
    if reset is None or reset <= _LONGEST:
        return reset
    seconds = (reset / 1000 if reset > 1e11 else reset) - _clock(said, now)
    return seconds if 0 <= seconds <= _LONGEST else None


def _clock(said: Mapping[str, str], now: float) -> float:
    """The service's own clock, where it tells it: ours may be wrong."""
    told = _instant(said.get("date", ""))
    return now if told is None else told


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _instant(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
