"""
POST /v2/coupon/issue: give one customer a coupon of a series, under any identifier type.

The proof is the coupon's code; `id` is 0 even on success. An error may come with a `code` of its own, so a
code beside a series is a coupon's, and a code without one is an error's only where it is known to be.
"""

import msgspec

from bulkissue.exchange import Batch, Reply, Request
from bulkissue.service.answer import (
    UNREADABLE,
    Offer,
    Reading,
    Statement,
    as_text,
    complaints,
    differs,
    unreadable,
)

PATH = "/v2/coupon/issue"
SPELLING = {"id": "id", "mobile": "mobile", "email": "email", "external_id": "externalId"}
SOURCES: tuple[str, ...] | None = None
MAX_ROWS = 1
DOUBTFUL = frozenset({"5006", "678", "722", "500", "8896"})
STOPPING = frozenset({"707", "712", "713", "756", "5001", "626", "4000", "11013"})
WHOLE: frozenset[str] = frozenset()


class _Answer(msgspec.Struct):
    code: object = None
    seriesId: int | str | None = None  # noqa: N815 - the service's spelling
    validTill: object = None  # noqa: N815
    customer: object = None
    errors: object = None
    warnings: object = None
    status: object = None
    message: object = None


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


def request(batch: Batch, offer: Offer) -> Request:
    """The request for this one-row batch. A customer id goes as a number, as the page shows it."""
    identifier = batch.identifiers[0]
    value: int | str = int(identifier) if batch.identifier_type == "id" else identifier
    body = {"seriesId": int(offer.series_id), "customer": {SPELLING[batch.identifier_type]: value}}
    return Request("POST", PATH, body=_encode(body))


def read(reply: Reply, batch: Batch, offer: Offer) -> Reading:
    """What the answer states of the row."""
    try:
        answer = _decode(reply.body)
    except UNREADABLE:
        return unreadable(len(batch.rows), reply.body)
    errors = complaints(answer.errors)
    # `{"code": "498", "message": …}` is an error's envelope: a coupon has a series, whatever its code looks like.
    coupon = answer.seriesId is not None
    if not coupon and not errors:
        return _without_series(answer, batch, reply)
    customer = answer.customer if isinstance(answer.customer, dict) else {}
    statement = Statement(
        proof=as_text(answer.code) if coupon else "",
        foreign=differs(answer.seriesId, offer.series_id),
        errors=errors,
        warnings=complaints(answer.warnings),
        customer_id=as_text(customer.get("id")),
        valid_till=as_text(answer.validTill),
    )
    return Reading([statement])


def _without_series(answer: _Answer, batch: Batch, reply: Reply) -> Reading:
    """A code and no series: an error's envelope, a coupon that names nothing else, or neither for certain."""
    reading = unreadable(len(batch.rows), reply.body)
    nothing_beside = answer.message is None and answer.status is None
    if isinstance(answer.code, str) and answer.code and nothing_beside:
        return Reading([Statement(proof=as_text(answer.code), warnings=complaints(answer.warnings))])
    return reading
