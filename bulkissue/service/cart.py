"""
POST /api_gateway/v1/promotions/{promotionId}/issueBulk: issue a cart promotion to customer ids.

The answer is an object keyed by customer id. A customer it leaves out is not refused, only not
confirmed; nothing here may call that a failure.

Read back by GET /api_gateway/v1/promotions/customer/{customerId}, the customer's cart promotions. Ten by default,
latest expiry first, and the answer does not say whether there are more. So nothing here may call a list whole that is
as long as what was asked for, or as long as a limit of the service's own may be.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from bulkissue.exchange import Batch, Reply, Request
from bulkissue.service.answer import (
    UNREADABLE,
    PromotionOrSeries,
    Reading,
    Statement,
    as_id,
    as_text,
    complaints,
    differs,
    unreadable,
)
from bulkissue.service.page import (
    LIMIT,
    Asked,
    Found,
    Page,
    first_of,
    instant,
    opened,
    same,
    unreadable_page,
    whole_number,
)

PATH = "/api_gateway/v1/promotions/{promotion_id}/issueBulk"
SPELLING = {"id": "id"}
SOURCES: tuple[str, ...] | None = None
MAX_ROWS = 100
DOUBTFUL = frozenset({"710", "8896"})
STOPPING = frozenset({"404", "4000"})
WHOLE = frozenset({"404", "706", "709", "714", "725", "726", "1060"})

_encode = msgspec.json.Encoder().encode


class _Issued(msgspec.Struct, gc=False):
    id: int | str | None = None
    customerId: int | str | None = None  # noqa: N815 - the service's spelling
    promotionId: int | str | None = None  # noqa: N815
    validTill: object = None  # noqa: N815
    error: object = None
    errors: object = None
    errorDetails: object = None  # noqa: N815


class _Answer(msgspec.Struct):
    data: dict[str, msgspec.Raw] | None = None
    errors: object = None


_decode = msgspec.json.Decoder(_Answer).decode
_decode_issued = msgspec.json.Decoder(_Issued).decode


def request(batch: Batch, to_issue: PromotionOrSeries) -> Request:
    """The request for this batch: a bare array of customer ids."""
    path = PATH.format(promotion_id=quote(to_issue.promotion_id, safe=""))
    body = _encode([int(identifier) for identifier in batch.identifiers])
    return Request("POST", path, (("contextId", to_issue.context_id),), body)


def read(reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
    """What the answer states of each row, by customer id."""
    try:
        answer = _decode(reply.body)
    except UNREADABLE:
        return unreadable(len(batch.rows), reply.body)
    if not answer.data:
        reading = unreadable(len(batch.rows), reply.body)
        if answer.data is None and not reading.whole:
            return reading
        return Reading(reading.statements, whole=reading.whole, unmatched="answer.missing")
    statements = [_statement(answer.data.get(identifier), identifier, to_issue) for identifier in batch.identifiers]
    beside = len(answer.data) - sum(identifier in answer.data for identifier in batch.identifiers)
    notes = (f"{beside} customers in the answer that were not sent",) if beside else ()
    return Reading(statements, unmatched="answer.missing", notes=notes)


def _statement(raw: msgspec.Raw | None, identifier: str, to_issue: PromotionOrSeries) -> Statement | None:
    if raw is None:
        return None
    try:
        issued = _decode_issued(raw)
    except UNREADABLE:
        return None
    return Statement(
        proof=as_id(issued.id),
        foreign=differs(issued.promotionId, to_issue.promotion_id) or differs(issued.customerId, identifier),
        errors=complaints(issued.error) + complaints(issued.errors) + complaints(issued.errorDetails),
        customer_id=as_text(issued.customerId) or identifier,
        valid_till=_instant(issued.validTill),
    )


def _instant(value: object) -> str:
    """Epoch milliseconds as ISO 8601 in UTC; anything else as it came, if it is text."""
    if isinstance(value, int) and 0 < value < 253_402_300_800_000:  # the year 10000, where datetime ends
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return as_text(value)


# Reading back.

LISTING_PATH = "/api_gateway/v1/promotions/customer/{customer_id}"
_DEFAULT = 10
#: Limits are round numbers.
_ROUND = 5


def listings(asked: Asked, to_issue: PromotionOrSeries) -> tuple[Request, ...]:  # noqa: ARG001 - asked alike everywhere
    """The one request there is; also for promotions that are not active any more."""
    query = (("isIncludeActivePromotionsOnly", "false"), ("includeRedemptions", "false"), ("limit", str(LIMIT)))
    return (Request("GET", LISTING_PATH.format(customer_id=int(asked.identifier)), query),)


def read_page(reply: Reply, request: Request, asked: Asked, to_issue: PromotionOrSeries) -> Page:  # noqa: ARG001 - as above
    """What the answer shows of our promotion."""
    tree = opened(reply)
    if isinstance(tree, Page):
        return tree
    entries = tree.get("data")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return unreadable_page()
    ours = [entry for entry in entries if same(entry.get("promotionId"), to_issue.promotion_id)]
    found = [Found(as_id(entry.get("earnedPromotionId")), _made(entry)) for entry in ours]
    customers = {as_id(entry.get("customerId")) for entry in entries} - {""}
    doubts = []
    if len(entries) >= LIMIT or (len(entries) >= _DEFAULT and not len(entries) % _ROUND):
        doubts.append(f"it has {len(entries)} entries, and there may be more")
    if not all(one.reference for one in found):
        doubts.append("an issue is listed without its id")
    if len(customers) > 1:
        doubts.append("it names several customers")
    return Page(
        tuple(one for one in found if one.reference),
        customer_id=first_of([*sorted(customers), asked.identifier]),
        doubt=first_of(doubts),
    )


def _made(entry: dict[str, Any]) -> int | None:
    """`eventTime` is in milliseconds since 1970; its newer twin only in seconds."""
    return whole_number(entry.get("eventTime")) or instant(entry, "eventTimeISO")
