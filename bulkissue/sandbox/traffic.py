"""
What was asked of the stand-in, how often, and who is let in.

Pure: time comes in as an argument. It must never hold a password; tokens are made up here and mean nothing.
"""

import base64
import binascii
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from bulkissue.sandbox.options import Options

_MINUTE = 60.0
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


class Door:
    """Tokens and passwords: any key, user and secret will do, but their form is checked."""

    def __init__(self, options: Options) -> None:
        self._ttl = options.token_ttl
        self._tokens: dict[str, float] = {}
        self._numbers = count(1)

    def token(self, now: float) -> str:
        """A new token. Those given before live on until their own end."""
        token = f"sandbox-{int(now * 1000):x}-{next(self._numbers)}"
        self._tokens[token] = now + self._ttl
        return token

    def refuses(self, headers: Mapping[str, str], now: float) -> int:
        """401 or 498 for credentials that will not do, else 0. A token counts before Basic."""
        token = headers.get("x-cap-api-oauth-token")
        if token is not None:
            ends = self._tokens.get(token)
            return 401 if ends is None else 498 if now >= ends else 0
        scheme, _, encoded = headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return 401
        return 0 if scheme.lower() == "basic" and user and _MD5.fullmatch(password) else 401


class Traffic:
    """
    Requests by route and status, the sliding minute, and who is being served at this moment.

    The minute's highest count holds every request but those for tokens, also the refused ones; the limit counts only
    what was admitted.
    """

    def __init__(self, options: Options) -> None:
        self._limit = options.requests_per_minute
        self.forget()
        self._serving: Counter[int] = Counter()

    def forget(self) -> None:
        """Begin all counts again."""
        self.connections = 0
        self.throttled = 0
        self._answers: dict[str, Counter[str]] = {}
        self._seen: deque[float] = deque()
        self._admitted: deque[float] = deque()
        self._most_in_minute = 0
        self._most_at_once = 0

    def arrive(self, now: float) -> float:
        """
        Count a request of the service's own, and admit or refuse it.

        Returns:
            0 if admitted, else the seconds until one will be.
        """
        _drop_older(self._seen, now)
        self._seen.append(now)
        self._most_in_minute = max(self._most_in_minute, len(self._seen))
        if not self._limit:
            return 0
        _drop_older(self._admitted, now)
        if len(self._admitted) >= self._limit:
            self.throttled += 1
            return max(self._admitted[0] + _MINUTE - now, 0.001)
        self._admitted.append(now)
        return 0

    def answer(self, route: str, status: str) -> None:
        """Count what a request ended with: an HTTP status, or `none` where no answer got out."""
        self._answers.setdefault(route, Counter())[status] += 1

    def busy(self, customers: Iterable[int]) -> bool:
        """Whether one of these customers is being served."""
        return any(self._serving[customer] for customer in customers)

    def enter(self, customers: Iterable[int]) -> None:
        """These customers are being served from now on."""
        for customer in customers:
            self._serving[customer] += 1
            self._most_at_once = max(self._most_at_once, self._serving[customer])

    def leave(self, customers: Iterable[int]) -> None:
        """These customers are served."""
        for customer in customers:
            if self._serving[customer] > 1:
                self._serving[customer] -= 1
            else:
                del self._serving[customer]

    def stats(self) -> dict[str, Any]:
        """The counts, as `/_sandbox/stats` shows them."""
        return {
            "requests": {route: dict(counted) for route, counted in self._answers.items()},
            "requests_total": sum(counted.total() for counted in self._answers.values()),
            "throttled": self.throttled,
            "connections": self.connections,
            "max_requests_per_minute": self._most_in_minute,
            "max_concurrent_per_customer": self._most_at_once,
        }


def _drop_older(times: deque[float], now: float) -> None:
    while times and times[0] <= now - _MINUTE:
        times.popleft()
