"""
POST /v2/promotion/issue: let one customer earn a promotion, under any identifier type.

The identifier travels in the query: its URL must never be logged.
"""

import msgspec

from bulkissue.exchange import Batch, Reply, Request
from bulkissue.service.answer import (
    UNREADABLE,
    PromotionOrSeries,
    Reading,
    Statement,
    as_id,
    complaints,
    differs,
    unreadable,
)

PATH = "/v2/promotion/issue"
SPELLING = {"id": "id", "mobile": "mobile", "email": "email", "external_id": "externalId"}
SOURCES: tuple[str, ...] | None = (
    "FACEBOOK",
    "WEB_ENGAGE",
    "INSTORE",
    "MARTJACK",
    "TMALL",
    "TAOBAO",
    "JD",
    "ECOMMERCE",
    "WEBSITE",
    "LINE",
    "MOBILE_APP",
)
MAX_ROWS = 1
DOUBTFUL = frozenset({"8896"})
STOPPING = frozenset({"1101", "8874", "8892", "8902", "8901", "8881", "8899", "1212", "4000", "11013"})
WHOLE: frozenset[str] = frozenset()


class _SideEffect(msgspec.Struct, gc=False):
    programId: int | str | None = None  # noqa: N815 - the service's spelling
    promotionId: int | str | None = None  # noqa: N815
    earnedId: int | str | None = None  # noqa: N815


class _Answer(msgspec.Struct):
    sideEffects: list[_SideEffect] | None = None  # noqa: N815
    errors: object = None
    warnings: object = None


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


def request(batch: Batch, to_issue: PromotionOrSeries) -> Request:
    """The request for this one-row batch."""
    query = [
        ("identifierName", SPELLING[batch.identifier_type]),
        ("identifierValue", batch.identifiers[0]),
        ("source", batch.sources[0]),
        ("type", "CUSTOMER"),
    ]
    if batch.accounts[0]:
        query.append(("accountId", batch.accounts[0]))
    body = {"programId": int(to_issue.program_id), "promotionId": int(to_issue.promotion_id)}
    return Request("POST", PATH, tuple(query), _encode(body))


def read(reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
    """What the answer states of the row; the proof is the `earnedId` of a side effect that is ours."""
    try:
        answer = _decode(reply.body)
    except UNREADABLE:
        return unreadable(len(batch.rows), reply.body)
    errors = complaints(answer.errors)
    warnings = complaints(answer.warnings)
    if answer.sideEffects is None and not errors and not warnings:
        return unreadable(len(batch.rows), reply.body)
    proven = [effect for effect in answer.sideEffects or [] if as_id(effect.earnedId)]
    ours = [
        effect
        for effect in proven
        if not differs(effect.promotionId, to_issue.promotion_id) and not differs(effect.programId, to_issue.program_id)
    ]
    statement = Statement(
        proof=as_id((ours or proven)[0].earnedId) if proven else "",
        foreign=bool(proven) and not ours,
        errors=errors,
        warnings=warnings,
    )
    return Reading([statement])
