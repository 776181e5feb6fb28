"""
GET /api_gateway/v1/promotions/customer/{customerId}: a customer's cart promotions; settles `cart`.

Ten by default, latest expiry first, and the answer does not say whether there are more. So nothing here may
call a list whole that is as long as what was asked for, or as long as a limit of the service's own may be.
"""

from typing import Any

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
    unreadable,
    whole_number,
)

PATH = "/api_gateway/v1/promotions/customer/{customer_id}"
_DEFAULT = 10
#: Limits are round numbers.
_ROUND = 5


def requests(asked: Asked, offer: Offer) -> tuple[Request, ...]:  # noqa: ARG001 - asked alike everywhere
    """The one request there is; also for promotions that are not active any more."""
    query = (("isIncludeActivePromotionsOnly", "false"), ("includeRedemptions", "false"), ("limit", str(LIMIT)))
    return (Request("GET", PATH.format(customer_id=int(asked.identifier)), query),)


def read(reply: Reply, request: Request, asked: Asked, offer: Offer) -> Page:  # noqa: ARG001 - as above
    """What the answer shows of our promotion."""
    tree = opened(reply)
    if isinstance(tree, Page):
        return tree
    entries = tree.get("data")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return unreadable()
    ours = [entry for entry in entries if same(entry.get("promotionId"), offer.promotion_id)]
    found = [Found(as_text(entry.get("earnedPromotionId")), _made(entry)) for entry in ours]
    customers = {as_text(entry.get("customerId")) for entry in entries} - {""}
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
