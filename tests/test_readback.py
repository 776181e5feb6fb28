"""What the read endpoints' answers are read as, in the documented shapes and in odd ones."""

import json
from typing import Any

import pytest

from bulkissue.exchange import Reply
from bulkissue.service import lookup, promotions
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.service.page import Asked, Found, Page, unite
from bulkissue.service.readers import READERS

ASKED = Asked("mobile", "919986000586", "INSTORE")
BY_ID = Asked("id", "566881933")
EARN = PromotionOrSeries("earn", program_id="1085", promotion_id="1119990")
ENROL = PromotionOrSeries("enrol", program_id="1085", promotion_id="1119990")
CART = PromotionOrSeries("cart", promotion_id="68df4516f398ae3dc88031df")
COUPON = PromotionOrSeries("coupon", series_id="840067")
AT = 1719319453000  # 2024-06-25T12:44:13Z


def timeline(*issues: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"enrollmentId": 1580, "enrollmentDate": "2024-06-25T12:41:55.000Z", "issuedDetails": list(issues)} | more


def issue(number: object = 1583, date: str = "2024-06-25T12:44:13.000Z", **more: Any) -> dict[str, Any]:
    return {"issualId": number, "issualDate": date} | more


def entry(*timelines: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"promotionId": 1119990, "programId": 1085, "customerPromotionTimelines": list(timelines)} | more


def listing(*entries: object, total: object = None, **more: Any) -> dict[str, Any]:
    details = {"pageNumber": 0, "pageSize": 100, "totalEntries": len(entries) if total is None else total}
    return {"pageDetails": details, "customerId": 345854019, "promotions": list(entries), "warnings": []} | more


def promotion_page(body: object, to_issue: PromotionOrSeries = EARN, *, status: int = 200, offset: int = 0) -> Page:
    request = promotions.listings(ASKED, to_issue)[0]
    if offset:
        query = tuple((name, str(offset) if name == "offset" else value) for name, value in request.query)
        request = type(request)(request.method, request.path, query)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return promotions.read_page(Reply(status, raw), request, ASKED, to_issue)


def cart_page(body: object) -> Page:
    return READERS["cart"].read_page(
        Reply(200, json.dumps(body).encode()), READERS["cart"].listings(BY_ID, CART)[0], BY_ID, CART
    )


def coupon_page(body: object) -> Page:
    request = READERS["coupon"].listings(ASKED, COUPON)[0]
    return READERS["coupon"].read_page(Reply(200, json.dumps(body).encode()), request, ASKED, COUPON)


@pytest.mark.parametrize("effect", READERS)
def test_reading_only_gets(effect):
    """Every request of every read endpoint is a GET without a body."""
    to_issue = PromotionOrSeries(effect, "1", "2", "x", "3", "4")
    asked = BY_ID if effect == "cart" else ASKED
    for request in READERS[effect].listings(asked, to_issue):
        assert (request.method, request.body) == ("GET", None)


def test_promotions_are_asked_by_status():
    """All listings in which an issue may stand are asked for, by the row's own identifier, source and account."""
    requests = promotions.listings(Asked("external_id", "007", "WEBSITE", "acc"), EARN)
    assert [dict(request.query)["promotionStatusForCustomer"] for request in requests] == [
        "AVAILABLE_TO_EARN",
        "AVAILABLE_TO_REDEEM",
        "EXPIRED",
    ]
    assert dict(requests[0].query) | {"promotionStatusForCustomer": ""} == {
        "identifierName": "externalId",
        "identifierValue": "007",
        "source": "WEBSITE",
        "accountId": "acc",
        "programs": "1085",
        "limit": "100",
        "offset": "0",
        "promotionStatusForCustomer": "",
    }


def test_reading_has_other_words_than_writing():
    """An earning is an issued detail's issualId, an enrolment the timeline's enrollmentId."""
    body = listing(entry(timeline(issue())))
    assert promotion_page(body).found == (Found("1583", AT),)
    assert promotion_page(body, ENROL).found == (Found("1580", 1719319315000),)
    assert promotion_page(body).customer_id == "345854019"
    assert promotion_page(body).doubt == ""


def test_an_enrolment_made_with_an_issue_is_in_doubt():
    """A direct issue's own enrolment is no certain enrolment."""
    body = listing(entry(timeline(issue(), enrollmentDate="2024-06-25T12:44:13Z")))
    assert promotion_page(body, ENROL).found[0].doubt


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"issualDate": "2024-06-25T12:44:13.000Z"}, AT),
        ({"issualDate": "2024-06-25T18:14:13+05:30"}, AT),
        ({"issualDate": "2024-06-25T18:14:13.000+0530"}, AT),
        ({"issualDate": "2024-06-25T12:44:13"}, None),
        ({"issualDate": "2024-06-25"}, None),
        ({"issualDate": 1719319453000}, None),
        ({"issualDate": "soon"}, None),
        ({}, None),
        ({"issualDateISO": "2024-06-25T12:44:13Z", "issualDate": "2024-06-25T18:14:13Z"}, AT),
        ({"issualDateISO": "", "issualDate": "2024-06-25T12:44:13Z"}, AT),
        ({"issualDateISO": "2024-06-25T18:14:13", "issualDate": "2024-06-25T12:44:13Z"}, AT),
    ],
)
def test_dates(fields, at):
    """The ISO twin rules; a date whose zone is not known cannot be compared."""
    page = promotion_page(listing(entry(timeline({"issualId": "1583"} | fields))))
    assert page.found == (Found("1583", at),)


@pytest.mark.parametrize(
    "entries",
    [
        [entry() | {"customerPromotionTimelines": None}],
        [{"promotionId": "1119990", "programId": "1085"}],
        [entry(timeline() | {"issuedDetails": None})],
        [entry(timeline({"issualDate": "2024-06-25T12:44:13Z"}))],
        [entry("x")],  # type: ignore[arg-type]  # the service may answer anything
    ],
)
def test_our_promotion_without_its_fields_is_a_doubt(entries):
    """Where the fields that would show an issue are missing, the page proves nothing."""
    assert promotion_page(listing(*entries)).doubt


def test_other_promotions_matter_only_as_entries():
    """Other promotions, also without timelines, are no doubt and nothing found."""
    body = listing({"promotionId": 7, "programId": 1085, "pointsOfferType": "GENERIC"})
    assert promotion_page(body) == Page(
        customer_id="345854019", keys=("1085/7",), total=1, found=(), doubt="", next=None
    )


def test_a_promotion_known_by_its_identifier():
    """A job without the promotion's id finds it by its identifier, and learns the id."""
    to_issue = PromotionOrSeries("earn", program_id="1085", promo_identifier="DIWALI26")
    page = promotion_page(listing(entry(timeline(issue()), identifier="Diwali26")), to_issue)
    assert page.found == (Found("1583", AT),)
    assert page.names == ("1119990", "Diwali26")


def test_promotion_pages():
    """The next page begins behind the entries that came, however many were asked for; the last has none."""
    first = promotion_page(listing(entry(timeline(issue())), {"promotionId": 7}, total="5"))
    assert first.next is not None
    assert dict(first.next.query)["offset"] == "2"
    assert first.doubt == ""
    last = promotion_page(listing({"promotionId": 8}, total=5), offset=4)
    assert (last.next, last.doubt) == (None, "")


@pytest.mark.parametrize(
    "body",
    [
        listing() | {"pageDetails": None},
        listing(total="many"),
        listing(total=7),
        listing({"promotionId": 1}, {"promotionId": 2}, total=1),
        listing() | {"customerId": None},
        listing(warnings=[{"code": 1, "message": "m"}]),
    ],
)
def test_a_page_that_may_not_be_all_is_a_doubt(body):
    """Without a believable total, or with a warning, a page proves nothing."""
    page = promotion_page(body)
    assert page.doubt
    assert page.next is None


def test_merged_customers_are_only_a_warning():
    """Warning 8069 says whose data it is, no more."""
    assert promotion_page(listing(warnings=[{"code": "8069"}])).doubt == ""


@pytest.mark.parametrize(
    ("status", "body", "readable", "codes"),
    [
        (200, b'{"errors":[{"status":false,"code":8015,"message":"m"}]}', True, ("8015",)),
        (400, b'{"errors":[{"status":false,"code":"8003","message":"m"}]}', True, ("8003",)),
        (200, b'{"response":{"status":{"success":"false","code":"498","message":"m"}}}', True, ("498",)),
        (401, b"<response><code>401</code><message>m</message></response>", True, ("401",)),
        (502, b"<html>", True, ()),
        (404, b"", True, ()),
        (200, b"<html>", False, ()),
        (200, b"", False, ()),
        (200, b"[]", False, ()),
        (200, b'{"promotions":{}}', False, ()),
        (200, b'{"promotions":[1]}', False, ()),
        (200, b'{"promotions":[', False, ()),
        (500, json.dumps(listing()).encode(), True, ()),
    ],
)
def test_answers_that_prove_nothing(status, body, readable, codes):
    """Errors, failures and other shapes are told apart from an answer that cannot be read; none of them is a proof."""
    page = promotion_page(body, status=status)
    assert (page.readable, page.codes, page.found) == (readable, codes, ())
    assert page.doubt
    assert page.nobody == (codes == ("8015",))


@pytest.mark.parametrize(
    ("kind", "restrictions", "counted"),
    [
        ("LOYALTY", {"issualRestrictions": [{"kpi": "NUMBER_OF_ISSUALS", "currentCustomerUsage": "2"}]}, 2),
        (
            "LOYALTY_EARNING",
            {
                "issualRestrictions": [{"kpi": "NUMBER_OF_ISSUALS", "currentCustomerUsage": "9"}],
                "earnRestrictions": [
                    {"kpi": "NUMBER_OF_POINTS", "currentCustomerUsage": "500"},
                    {"kpi": "NUMBER_OF_EARNS", "currentCustomerUsage": 1},
                ],
            },
            1,
        ),
        ("LOYALTY", {"issualRestrictions": [{"kpi": "NUMBER_OF_ISSUALS", "currentCustomerUsage": "many"}]}, 0),
        ("LOYALTY", None, 0),
    ],
)
def test_the_services_own_count(kind, restrictions, counted):
    """The usage of the right restriction is how often the customer was issued the promotion."""
    body = listing(entry(timeline(issue()), pointsOfferType=kind, promotionRestriction=restrictions))
    assert promotion_page(body).counted == counted
    assert promotion_page(body, ENROL).counted == 0


def cart_entry(**more: Any) -> dict[str, Any]:
    return {
        "earnedPromotionId": "68df4539dd46cd232fb6fbd3",
        "promotionId": "68DF4516f398ae3dc88031df",
        "customerId": 566881933,
        "eventTime": 1759462713920,
        "eventTimeISO": "2025-10-03T03:38:33Z",
    } | more


def test_a_cart_promotion():
    """An issue is found by its promotion, dated in milliseconds; others are not found."""
    page = cart_page({"data": [cart_entry(), cart_entry(promotionId="other")], "errors": []})
    assert page == Page((Found("68df4539dd46cd232fb6fbd3", 1759462713920),), customer_id="566881933")
    assert cart_page({"data": [cart_entry(eventTime="1759462713920")]}).found[0].at == 1759462713920
    assert cart_page({"data": [cart_entry(eventTime=None)]}).found[0].at == 1759462713000
    assert cart_page({"data": [cart_entry(eventTime=None, eventTimeISO="2025-10-03T03:38:33")]}).found[0].at is None


@pytest.mark.parametrize(("count", "whole"), [(0, True), (9, True), (10, False), (11, True), (20, False), (100, False)])
def test_a_full_list_of_cart_promotions_is_a_doubt(count, whole):
    """A list as long as a limit may be cut off there, as the answer does not say."""
    page = cart_page({"data": [cart_entry(promotionId="other") for _ in range(count)], "errors": []})
    assert (page.doubt == "") == whole


@pytest.mark.parametrize(
    "body",
    [
        {"data": None, "errors": [{"code": 8015, "message": "m"}]},
        {"data": None},
        {"data": {}},
        {"data": [1]},
        {"data": [cart_entry(earnedPromotionId=None)]},
        {"data": [cart_entry(), cart_entry(customerId=1)]},
    ],
)
def test_odd_cart_answers_prove_nothing(body):
    """Errors, other shapes, an issue without its id and two customers are doubts."""
    assert cart_page(body).doubt


def coupon(code: object = "0211706970002385", series: object = 840067, **more: Any) -> dict[str, Any]:
    return {"code": code, "seriesId": series, "createdDate": "2025-08-19T16:52:11Z"} | more


def coupons_of(*listed: object, total: object = None, **more: Any) -> dict[str, Any]:
    pagination = {"limit": "100", "offset": "0", "total": len(listed) if total is None else total}
    entity = {"pagination": pagination, "customers": [{"id": 565039504, "coupons": list(listed)}]}
    return {"entity": entity | more, "warnings": [], "errors": [], "success": True}


def test_a_coupon():
    """A coupon is found by its series, numbers and texts alike."""
    page = coupon_page(coupons_of(coupon(), coupon("X", "840067"), coupon("Y", 1), total="3"))
    assert [one.reference for one in page.found] == ["0211706970002385", "X"]
    assert page.found[0].at == 1755622331000
    assert (page.customer_id, page.doubt, page.next) == ("565039504", "", None)


def test_coupon_pages():
    """The next page begins behind the coupons that came."""
    page = coupon_page(coupons_of(coupon(), total=3))
    assert page.next is not None
    assert dict(page.next.query)["offset"] == "1"


def test_both_spellings_of_an_external_id():
    """The documentation has two; both are sent."""
    query = dict(READERS["coupon"].listings(Asked("external_id", "007"), COUPON)[0].query)
    assert (query["externalId"], query["external_Id"]) == ("007", "007")


@pytest.mark.parametrize(
    "body",
    [
        coupons_of(customers=[{"id": 1}, {"id": 2}]),
        coupons_of(customers=[{"coupons": [coupon()]}], pagination={"total": 1}),
        coupons_of(pagination={}),
        coupons_of(coupon(None)),
        coupons_of() | {"success": False},
        coupons_of() | {"warnings": [{"code": 1}]},
        {"entity": None},
        {"errors": [{"code": 8015}]},
        coupons_of("x"),
    ],
)
def test_odd_coupon_answers_prove_nothing(body):
    """Several customers, or one without id, no total, a coupon without its code and other shapes are doubts."""
    assert coupon_page(body).doubt


@pytest.mark.parametrize("nothing", [0, "00", -1, "-1", "null", "None"])
def test_ids_that_name_nothing(nothing):
    """An issue or a customer whose id is zero, negative or a word for nothing is a doubt, and never a finding."""
    pages = (
        promotion_page(listing(entry(timeline(issue(nothing))))),
        promotion_page(listing(entry(timeline(enrollmentId=nothing))), ENROL),
        cart_page({"data": [cart_entry(earnedPromotionId=nothing)]}),
        coupon_page(coupons_of(coupon(nothing))),
    )
    assert [(page.found, page.doubt) for page in pages] == [((), "an issue is listed without its id")] * 4
    assert promotion_page(listing(customerId=nothing)).customer_id == ""
    assert cart_page({"data": [cart_entry(customerId=nothing)]}).customer_id == BY_ID.identifier
    assert coupon_page(coupons_of(customers=[{"id": nothing, "coupons": [coupon()]}])).customer_id == ""
    assert lookup.read(Reply(200, json.dumps({"entity": nothing}).encode())).customer_id == ""


def test_nobody_has_no_coupons():
    """An empty list of customers with a total of 0 is an answer."""
    assert coupon_page(coupons_of(customers=[])).doubt == ""


def test_listings_are_united():
    """The same issue in two listings is one, with the date that one of them tells."""
    first = Page((Found("1", None), Found("2", 5)), customer_id="7", total=1)
    second = Page((Found("1", 9), Found("2", 5)), customer_id="7", total=1)
    reading = unite(3, [[first], [second]])
    assert reading.found == (Found("1", 9), Found("2", 5))
    assert (reading.at, reading.customer_ids, reading.doubt) == (3, frozenset({"7"}), "")


@pytest.mark.parametrize(
    "listings",
    [
        [[Page(doubt="d")]],
        [[Page()], [Page(doubt="d")]],
        [[]],
        [[Page(customer_id="1")], [Page(customer_id="2")]],
        [[Page(total=3), Page(total=4)]],
        [[Page(keys=("a", "b")), Page(keys=("b", "c"))]],
        [[Page((Found("1", 1),), counted=2)]],
        [[promotion_page(listing({"promotionId": 1}, total=2))]],
    ],
)
def test_what_makes_a_reading_doubtful(listings):
    """Doubts of a page, missing pages, pages that differ or come twice, and a higher count are doubts of the whole."""
    assert unite(0, listings).doubt
