"""
The records that pass between plan, endpoints, wire and dispatch: a batch, a request, what came back.

Plain values only: nothing here does I/O or knows a library.
"""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """
    The rows of one HTTP request.

    Attributes:
        number: From 1, in the order batches are planned.
        route: The endpoint's name: `bulk`, `single`, `cart` or `coupon`.
        identifier_type: One for all rows: `id`, `mobile`, `email` or `external_id`.
        rows: Each row's place in the run's input, from 0, ascending.
        identifiers: The normalised values, in the order of `rows`.
        sources: The service's source names, in the order of `rows`; empty text where the route has none.
        accounts: Account ids, in the order of `rows`; empty text where there is none.
    """

    number: int
    route: str
    identifier_type: str
    rows: list[int]
    identifiers: list[str] = field(repr=False)
    sources: list[str]
    accounts: list[str] = field(repr=False)

    def part(self, start: int, stop: int) -> "Batch":
        """The rows from `start` up to `stop`, as a batch of the same number."""
        return Batch(
            self.number,
            self.route,
            self.identifier_type,
            self.rows[start:stop],
            self.identifiers[start:stop],
            self.sources[start:stop],
            self.accounts[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Request:
    """
    One HTTP request, without credentials.

    Attributes:
        method: `GET` or `POST`.
        path: From the root, without a query.
        query: Name and value pairs, not yet encoded. May hold an identifier: never logged.
        body: JSON bytes, or nothing.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Quota:
    """
    What an answer says of the service's own count of requests; what it does not say is None.

    Attributes:
        limit: Requests of a whole window.
        remaining: Requests that are left of it.
        resets_in: Seconds until it begins anew.
        window: Seconds it lasts.
    """

    limit: float | None = None
    remaining: float | None = None
    resets_in: float | None = None
    window: float | None = None


#: The causes of a pace that is lower than it may be.
WHY_SLOWED = {
    "429": "the service refused requests as too many (429)",
    "trouble": "answers that prove nothing (5xx, broken connections)",
    "quota": "the service's headers say that no more is left",
}
_BY = {"429": "a 429", "trouble": "a 5xx or a lost answer", "quota": "the service's headers"}


@dataclass(frozen=True, slots=True)
class PaceState:
    """
    What the pace is, why it is lower than it may be, and until when.

    Attributes:
        per_minute: Requests; 0 while nothing may leave.
        allowed: Requests that the job may send per minute.
        why: A key of `WHY_SLOWED`; empty where the pace is the whole.
        until: Epoch milliseconds: when a hold ends, or the pace is the whole again if nothing more comes.
    """

    per_minute: float
    allowed: float
    why: str = ""
    until: int | None = None

    def words(self) -> str:
        """The same, short, in local time: "588 of 600/min, slowed by a 429, until 12:04:31"."""
        if not self.why or self.until is None:
            return f"{self.allowed:,.0f}/min"
        clock = datetime.fromtimestamp(self.until / 1000).astimezone().strftime("%H:%M:%S")
        if self.per_minute == 0:
            return f"held by {_BY[self.why]} until {clock}"
        return f"{self.per_minute:,.0f} of {self.allowed:,.0f}/min, slowed by {_BY[self.why]}, until {clock}"


@dataclass(frozen=True, slots=True)
class Reply:
    """
    A whole HTTP answer.

    Attributes:
        status: The HTTP status; not the outcome.
        body: All of it, decompressed.
        request_id: The service's own id for this exchange, else empty.
        retry_after: Seconds the service asks us to wait, where it says.
        quota: What its headers say of what may be sent, where they do.
    """

    status: int
    body: bytes = field(repr=False)
    request_id: str = ""
    retry_after: float | None = None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """
    Proof that no byte of the request left.

    Attributes:
        reason: `net.connect_failed`, `net.connect_timeout` or `net.pool_timeout`.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class MaybeSent:
    """
    The request may have been read and done.

    Attributes:
        reason: Another code of the `net` family.
    """

    reason: str


#: What became of one attempt on the wire.
Sending = Reply | NotSent | MaybeSent
