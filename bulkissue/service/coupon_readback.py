"""
GET /v2/customers/coupons: the coupons a customer holds; settles `coupon`.

A series may give a customer another coupon, the same one again, or none. An older one is no sign that ours was issued:
only its date tells it from a new one.
"""

from bulkissue.exchange import Reply, Request
from bulkissue.service.answer import Offer, as_text
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
    unreadable,
    whole_number,
)

PATH = "/v2/customers/coupons"
#: The documentation spells the external id in two ways; what the service does not know it does not look at.
_SPELLINGS = {"id": ("id",), "mobile": ("mobile",), "email": ("email",), "external_id": ("externalId", "external_Id")}


def requests(asked: Asked, offer: Offer) -> tuple[Request, ...]:  # noqa: ARG001 - asked alike everywhere
    """The first page; newest first, codes as they were issued (the service's default is capitals)."""
    who = tuple((name, asked.identifier) for name in _SPELLINGS[asked.identifier_type])
    how = (("coupon_code_case", "AS_IT_IS"), ("sort_order", "DESC"), ("limit", str(LIMIT)), ("offset", "0"))
    return (Request("GET", PATH, (*who, *how)),)


def read(reply: Reply, request: Request, asked: Asked, offer: Offer) -> Page:  # noqa: ARG001 - as above
    """What the page shows of our series."""
    tree = opened(reply)
    if isinstance(tree, Page):
        return tree
    entity = tree.get("entity")
    customers = entity.get("customers") if isinstance(entity, dict) else None
    pagination = entity.get("pagination") if isinstance(entity, dict) else None
    if not isinstance(customers, list) or not all(isinstance(customer, dict) for customer in customers):
        return unreadable()
    coupons = [coupon for customer in customers for coupon in customer.get("coupons") or []]
    if not all(isinstance(coupon, dict) for coupon in coupons):
        return unreadable()
    total = whole_number(pagination.get("total")) if isinstance(pagination, dict) else None
    further, cut_short = turned(request, len(coupons), total)
    ours = [coupon for coupon in coupons if same(coupon.get("seriesId"), offer.series_id)]
    found = [Found(as_text(one.get("code")), instant(one, "createdDateISO", "createdDate")) for one in ours]
    doubts = [cut_short]
    if len(customers) > 1 or (coupons and not as_text(customers[0].get("id"))):
        doubts.append("it does not name one customer")
    if str(tree.get("success", True)).lower() != "true" or tree.get("warnings"):
        doubts.append("the service does not call it a success")
    if not all(one.reference for one in found):
        doubts.append("an issue is listed without its id")
    return Page(
        tuple(one for one in found if one.reference),
        further,
        as_text(customers[0].get("id")) if len(customers) == 1 else "",
        doubt=first_of(doubts),
        keys=tuple(as_text(coupon.get("code")) for coupon in coupons),
        total=total,
    )
