"""
GET /v2/customers/lookup/promotionData: what a customer holds of loyalty promotions; settles `enrol` and `earn`.

Reading has other words than writing: its `enrollmentId` is what writing calls `issualId`, and its `issualId`
what writing calls `earnedId`. Nothing here may take the one for the other.

There is no filter by promotion, so all pages are read. Enrolments and issues (the timelines) are documented only for
listings by the customer's status, so those in which an issue of ours may stand are read, and united by id.
"""

from typing import Any

from bulkissue.exchange import Reply, Request
from bulkissue.service.answer import PromotionOrSeries, as_id, as_text
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

LISTING_PATH = "/v2/customers/lookup/promotionData"
STATUSES = ("AVAILABLE_TO_EARN", "AVAILABLE_TO_REDEEM", "EXPIRED")
_SPELLING = {"id": "id", "mobile": "mobile", "email": "email", "external_id": "externalId"}
#: "Merged customer": said of an answer that is about the surviving one.
_MERGED = "8069"


def listings(asked: Asked, to_issue: PromotionOrSeries) -> tuple[Request, ...]:
    """The first page of each listing."""
    query = [
        ("identifierName", _SPELLING[asked.identifier_type]),
        ("identifierValue", asked.identifier),
        ("source", asked.source),
    ]
    if asked.account_id:
        query.append(("accountId", asked.account_id))
    query += [("programs", to_issue.program_id), ("limit", str(LIMIT)), ("offset", "0")]
    return tuple(Request("GET", LISTING_PATH, (*query, ("promotionStatusForCustomer", status))) for status in STATUSES)


def read_page(reply: Reply, request: Request, asked: Asked, to_issue: PromotionOrSeries) -> Page:  # noqa: ARG001 - asked alike everywhere
    """What the page shows of our promotion."""
    tree = opened(reply)
    if isinstance(tree, Page):
        return tree
    entries = tree.get("promotions")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return unreadable_page()
    details = tree.get("pageDetails")
    total = whole_number(details.get("totalEntries")) if isinstance(details, dict) else None
    further, cut_short = turned(request, len(entries), total)
    customer_id = as_id(tree.get("customerId"))
    ours = [entry for entry in entries if _is_ours(entry, to_issue)]
    found, doubts = [], [cut_short, _warned(tree.get("warnings"))]
    for entry in ours:
        shown, doubt = _shown(entry, to_issue.effect)
        found += shown
        doubts.append(doubt)
    if not customer_id:
        doubts.append("it does not name the customer")
    return Page(
        tuple(found),
        further,
        customer_id,
        doubt=first_of(doubts),
        keys=tuple(f"{as_text(entry.get('programId'))}/{as_text(entry.get('promotionId'))}" for entry in entries),
        total=total,
        counted=max((_counted(entry) for entry in ours), default=0) if to_issue.effect == "earn" else 0,
        names=(as_id(ours[0].get("promotionId")), as_id(ours[0].get("identifier"))) if ours else ("", ""),
    )


def _is_ours(entry: dict[str, Any], to_issue: PromotionOrSeries) -> bool:
    if to_issue.promotion_id:
        return same(entry.get("promotionId"), to_issue.promotion_id)
    return same(entry.get("identifier"), to_issue.promo_identifier)


def _shown(entry: dict[str, Any], effect: str) -> tuple[list[Found], str]:
    """The entry's enrolments, or issues, and why they may not be all."""
    timelines = entry.get("customerPromotionTimelines")
    if not isinstance(timelines, list) or not all(isinstance(timeline, dict) for timeline in timelines):
        return [], "our promotion is listed without what the customer holds of it"
    found, doubt = [], ""
    for timeline in timelines:
        issues = timeline.get("issuedDetails")
        if not isinstance(issues, list) or not all(isinstance(issue, dict) for issue in issues):
            doubt = "an enrolment is listed without its issues"
            issues = []
        enrolled = instant(timeline, "enrollmentDateISO", "enrollmentDate")
        issued = [instant(issue, "issualDateISO", "issualDate") for issue in issues]
        if effect == "enrol":
            # A direct issue brings an enrolment of its own along, made in the same second.
            beside = "it may have come with an issue" if enrolled in issued else ""
            found.append(Found(as_id(timeline.get("enrollmentId")), enrolled, beside))
        else:
            found += [Found(as_id(i.get("issualId")), at) for i, at in zip(issues, issued, strict=True)]
    if not all(one.reference for one in found):
        doubt = "an issue is listed without its id"
    return [one for one in found if one.reference], doubt


def _counted(entry: dict[str, Any]) -> int:
    """
    How often the customer was issued the promotion, by its restrictions' usage.

    Restrictions of a direct promotion call an issue an issual, those of one with enrolment an earn.
    """
    restrictions = entry.get("promotionRestriction")
    name, kpi = "earnRestrictions", "NUMBER_OF_EARNS"
    if entry.get("pointsOfferType") == "LOYALTY":
        name, kpi = "issualRestrictions", "NUMBER_OF_ISSUALS"
    listed = restrictions.get(name) if isinstance(restrictions, dict) else None
    usages = [
        whole_number(one.get("currentCustomerUsage"))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and one.get("kpi") == kpi
    ]
    return max((usage for usage in usages if usage is not None), default=0)


def _warned(warnings: object) -> str:
    listed = warnings if isinstance(warnings, list) else [warnings] if warnings else []
    codes = [as_text(one.get("code")) if isinstance(one, dict) else "" for one in listed]
    others = [code or "something" for code in codes if code != _MERGED]
    return f"the service warns of {', '.join(others)}" if others else ""
