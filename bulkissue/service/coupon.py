"""
POST /v2/coupon/issue: give one customer a coupon of a series, under any identifier type.

The proof is the coupon's code; `id` is 0 even on success. An error may come with a `code` of its own, so a
code beside a series is a coupon's, and a code without one is an error's only where it is known to be.

Read back by GET /v2/customers/coupons, the coupons a customer holds. A series may give a customer another coupon, the
same one again, or none. An older one is no sign that ours was issued: only its date tells it from a new one.
"""

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
    turned,
    unreadable_page,
    whole_number,
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


def request(batch: Batch, to_issue: PromotionOrSeries) -> Request:
    """The request for this one-row batch. A customer id goes as a number, as the page shows it."""
    identifier = batch.identifiers[0]
    value: int | str = int(identifier) if batch.identifier_type == "id" else identifier
    body = {"seriesId": int(to_issue.series_id), "customer": {SPELLING[batch.identifier_type]: value}}
    return Request("POST", PATH, body=_encode(body))


def read(reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
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
        proof=as_id(answer.code) if coupon else "",
        foreign=differs(answer.seriesId, to_issue.series_id),
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
        return Reading([Statement(proof=as_id(answer.code), warnings=complaints(answer.warnings))])
    return reading


# Reading back.

LISTING_PATH = "/v2/customers/coupons"
#: The documentation spells the external id in two ways; what the service does not know it does not look at.
_SPELLINGS = {"id": ("id",), "mobile": ("mobile",), "email": ("email",), "external_id": ("externalId", "external_Id")}


def listings(asked: Asked, to_issue: PromotionOrSeries) -> tuple[Request, ...]:  # noqa: ARG001 - asked alike everywhere
    """The first page; newest first, codes as they were issued (the service's default is capitals)."""
    who = tuple((name, asked.identifier) for name in _SPELLINGS[asked.identifier_type])
    how = (("coupon_code_case", "AS_IT_IS"), ("sort_order", "DESC"), ("limit", str(LIMIT)), ("offset", "0"))
    return (Request("GET", LISTING_PATH, (*who, *how)),)


def read_page(reply: Reply, request: Request, asked: Asked, to_issue: PromotionOrSeries) -> Page:  # noqa: ARG001 - as above
    """What the page shows of our series."""
    tree = opened(reply)
    if isinstance(tree, Page):
        return tree
    entity = tree.get("entity")
    customers = entity.get("customers") if isinstance(entity, dict) else None
    pagination = entity.get("pagination") if isinstance(entity, dict) else None
    if not isinstance(customers, list) or not all(isinstance(customer, dict) for customer in customers):
        return unreadable_page()
    coupons = [coupon for customer in customers for coupon in customer.get("coupons") or []]
    if not all(isinstance(coupon, dict) for coupon in coupons):
        return unreadable_page()
    total = whole_number(pagination.get("total")) if isinstance(pagination, dict) else None
    further, cut_short = turned(request, len(coupons), total)
    ours = [coupon for coupon in coupons if same(coupon.get("seriesId"), to_issue.series_id)]
    found = [Found(as_id(one.get("code")), instant(one, "createdDateISO", "createdDate")) for one in ours]
    doubts = [cut_short]
    if len(customers) > 1 or (coupons and not as_id(customers[0].get("id"))):
        doubts.append("it does not name one customer")
    if str(tree.get("success", True)).lower() != "true" or tree.get("warnings"):
        doubts.append("the service does not call it a success")
    if not all(one.reference for one in found):
        doubts.append("an issue is listed without its id")
    return Page(
        tuple(one for one in found if one.reference),
        further,
        as_id(customers[0].get("id")) if len(customers) == 1 else "",
        doubt=first_of(doubts),
        keys=tuple(as_text(coupon.get("code")) for coupon in coupons),
        total=total,
    )
