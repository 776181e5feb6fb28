"""
What a journal holds, one record for each kind of entry, and attempts as they are read back.

Plain values only: `journal` alone knows how they lie on the disk. None of them may be changed once it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from bulkissue.outcomes import Outcome, Results

#: The event whose detail is an `exchange.PaceState`.
PACE_CHANGED = "pace.changed"

#: What a journal's `marks` say of a row.
NEVER_SENT, ONLY_VOID, SENT = range(3)


class Intent(msgspec.Struct, frozen=True, gc=False):
    """An attempt is about to be sent: `attempt` is its number in this run, `at` is epoch milliseconds."""

    attempt: int
    batch: int
    rows: Sequence[int]
    at: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """
    What became of an attempt.

    Attributes:
        attempt: The intent it answers.
        at: Epoch milliseconds.
        void: Why it is proven not applied; None where its rows have results.
        results: Of the intent's rows, in their order; None where void.
        http_status: 0 where no answer came.
        request_id: The service's id for the exchange.
        body: The raw answer, kept where it will be needed as evidence.
    """

    attempt: int
    at: int
    void: str | None
    results: Results | None
    http_status: int = 0
    request_id: str = ""
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was found out about one unknown row, by whom and from what."""

    row: int
    outcome: Outcome
    reason: str
    message: str
    reference: str
    settled_by: str
    evidence: str
    at: int

    @property
    def text(self) -> str:
        """What a ledger says of the row: the finding, and on whose word."""
        return f"{self.message} ({self.settled_by}: {self.evidence})" if self.evidence else self.message


@dataclass(frozen=True, slots=True)
class Held:
    """A row that must not be sent any more, because another run issued it meanwhile."""

    row: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something in the run's own story."""

    name: str
    at: int
    detail: dict[str, object]


Entry = Intent | Answer | Settlement | Held | Event


@dataclass(frozen=True, slots=True)
class Attempt:
    """An intent with its answer, as read back; `answered_at` is None where there is no answer."""

    attempt: int
    batch: int
    rows: list[int]
    sent_at: int
    answered_at: int | None
    void: str | None
    results: Results | None
    http_status: int
    request_id: str


class RawResults(msgspec.Struct, gc=False):
    """`Results` field by field as they stand in the journal: the JSON text of a value, or of a list."""

    outcome: msgspec.Raw
    reason: msgspec.Raw
    message: msgspec.Raw
    code: msgspec.Raw
    customer_id: msgspec.Raw
    reference: msgspec.Raw
    valid_till: msgspec.Raw


class RawAttempt(NamedTuple):
    """As `Attempt`: `rows` is JSON text, `http_status` is None where no answer came."""

    attempt: int
    rows: str
    sent_at: int
    answered_at: int | None
    void: str | None
    results: RawResults | None
    http_status: int | None
    request_id: str


class Ended(msgspec.Struct, gc=False):
    """`Results`, of which only the outcomes and the reasons are wanted."""

    outcome: str | list[str]
    reason: str | list[str]
