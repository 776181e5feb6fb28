"""
Every sample answer of the service's reference pages, and every answer shape publicly known, read as it must be.

The samples' statuses are not documented, so each is read at 200, and refusals at 400 as well.
"""

import json

import pytest
from conftest import each_row

from bulkissue.exchange import Batch, Reply
from bulkissue.outcomes import Outcome
from bulkissue.send.verdict import judge
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.service.routes import ROUTES

ENROL = PromotionOrSeries("enrol", program_id="2714", promotion_id="202188")
EARN = PromotionOrSeries("earn", program_id="2714", promotion_id="202188")
DIRECT = PromotionOrSeries("earn", program_id="2714", promotion_id="202090")
SINGLE = PromotionOrSeries("earn", program_id="2750", promotion_id="201436")
CART = PromotionOrSeries("cart", promotion_id="67dd4210ef21a64211227e04", context_id="973")
COUPON = PromotionOrSeries("coupon", series_id="544770")
ANY = PromotionOrSeries("earn", program_id="1", promotion_id="2", series_id="1")
FOUR = ("423926199", "423926198", "423926200", "423926201")


def done(entity: int, promotion: int, program: int, issual: str, earned: str | None = None) -> dict[str, object]:
    result = {"entityType": "CUSTOMER", "entityId": entity, "promotionId": promotion, "programId": program}
    result |= {"issualId": issual} | ({"earnedId": earned} if earned else {})
    return {"result": result, "errors": [], "warnings": []}


def refused(code: object, message: str = "m") -> dict[str, object]:
    return {"errors": [{"status": False, "message": message, "code": code}], "warnings": []}


def bulk(*items: object, failures: int = 0) -> dict[str, object]:
    return {"response": list(items), "totalCount": len(items), "failureCount": failures}


ISSUED = [
    (
        "bulk enrol: four enrolled",
        "bulk",
        ENROL,
        FOUR,
        bulk(*(done(int(one), 202188, 2714, str(847 + n)) for n, one in enumerate(FOUR))),
        ["847", "848", "849", "850"],
    ),
    (
        "bulk earn: four issued after enrolment",
        "bulk",
        EARN,
        FOUR,
        bulk(*(done(int(one), 202188, 2714, str(847 + n), str(840 + n)) for n, one in enumerate(FOUR))),
        ["840", "841", "842", "843"],
    ),
    (
        "bulk earn of the direct type: the issual id is a dummy",
        "bulk",
        DIRECT,
        FOUR,
        bulk(*(done(int(one), 202090, 2714, str(837 + n), str(794 + n)) for n, one in enumerate(FOUR))),
        ["794", "795", "796", "797"],
    ),
    (
        "bulk mixed: one issued, three customers not found",
        "bulk",
        PromotionOrSeries("earn", program_id="699", promotion_id="74116"),
        ("170940055", "1", "2", "3"),
        bulk(done(170940055, 74116, 699, "72", "102"), refused(8015), refused(8015), refused(8015), failures=3),
        ["102", "failed api.8015", "failed api.8015", "failed api.8015"],
    ),
    (
        "single: issued",
        "single",
        SINGLE,
        ("555567088",),
        {
            "warnings": [],
            "errors": [],
            "sideEffects": [
                {"programId": 2750, "issualId": 809, "earnedId": 764, "promotionId": 201436, "type": "Points promotion"}
            ],
        },
        ["764"],
    ),
    (
        "cart: issued",
        "cart",
        CART,
        ("555567088",),
        {
            "data": {
                "555567088": {
                    "id": "67dd4237ef21a64211227e06",
                    "customerId": 555567088,
                    "promotionId": "67dd4210ef21a64211227e04",
                    "earnedFromId": "973",
                    "eventTime": 1742553655678,
                    "validTill": 1746046799999,
                }
            }
        },
        ["67dd4237ef21a64211227e06"],
    ),
    (
        "coupon: issued, its id 0, the customer's profile beside it",
        "coupon",
        COUPON,
        ("555567088",),
        {
            "code": "ICJE1X12P6",
            "seriesId": 544770,
            "description": "Festival coupon",
            "discountCode": "erg123",
            "validTill": "2026-05-09T00:00:00Z",
            "discountValue": 500.0,
            "customer": {"id": 555567088, "profiles": [{"identifiers": [{"type": "mobile", "value": "1"}]}]},
            "redemptionCount": 0,
            "id": 0,
            "warnings": [],
        },
        ["ICJE1X12P6"],
    ),
    (
        "known shape: single ok",
        "single",
        ANY,
        ("7",),
        {
            "warnings": [],
            "errors": [],
            "sideEffects": [{"programId": 1, "promotionId": 2, "issualId": 10, "earnedId": 11}],
        },
        ["11"],
    ),
    (
        "known shape: bulk mixed with a warning 8890",
        "bulk",
        ANY,
        ("7", "9", "8"),
        bulk(
            {"result": {"entityId": 7, "issualId": "1", "earnedId": "2"}, "errors": [], "warnings": []},
            {"errors": [{"code": 8015, "message": "m"}], "warnings": []},
            {
                "result": {"entityId": 8, "promotionId": 2, "programId": 1},
                "errors": [],
                "warnings": [{"code": 8890, "message": "m"}],
            },
            failures=1,
        ),
        ["2", "failed api.8015", "failed api.8890"],
    ),
    (
        "known shape: bulk by promo identifier",
        "bulk",
        PromotionOrSeries("earn", program_id="1", promo_identifier="DIWALI26"),
        ("7",),
        bulk(
            {
                "result": {"entityId": 7, "promoIdentifier": "DIWALI26", "programId": 1, "earnedId": "2"},
                "errors": [],
                "warnings": [],
            }
        ),
        ["2"],
    ),
    (
        "known shape: cart ok",
        "cart",
        PromotionOrSeries("cart", promotion_id="bb"),
        ("7",),
        {
            "data": {
                "7": {
                    "id": "aa",
                    "customerId": 7,
                    "promotionId": "bb",
                    "earnedFromId": "run1",
                    "eventTime": 1,
                    "validTill": 2,
                }
            }
        },
        ["aa"],
    ),
    (
        "known shape: cart partial, errors beside",
        "cart",
        PromotionOrSeries("cart", promotion_id="bb"),
        ("7", "8"),
        {"data": {"7": {"id": "aa"}}, "errors": [{"code": 1, "message": "m"}]},
        ["aa", "unknown answer.missing"],
    ),
    (
        "known shape: cart partial, an error in the item",
        "cart",
        PromotionOrSeries("cart", promotion_id="bb"),
        ("7",),
        {"data": {"7": {"id": "aa", "error": {"code": 1, "message": "m"}}}},
        ["unknown answer.proof_with_error"],
    ),
    (
        "known shape: cart empty",
        "cart",
        PromotionOrSeries("cart", promotion_id="bb"),
        ("7",),
        {"data": {}},
        ["unknown answer.missing"],
    ),
    (
        "known shape: coupon ok",
        "coupon",
        ANY,
        ("7",),
        {"code": "ABC", "seriesId": 1, "id": 0, "customer": {"id": 7}, "warnings": []},
        ["ABC"],
    ),
    (
        "known shape: single not issued",
        "single",
        ANY,
        ("7",),
        {"warnings": [{"status": False, "code": 8890, "message": "m"}], "errors": [], "sideEffects": []},
        ["failed api.8890"],
    ),
]

REFUSED = [
    *(
        (
            f"bulk refused as a whole: {code}",
            "bulk",
            EARN,
            FOUR,
            bulk(refused(code), failures=1),
            [f"failed api.{code}"] * 4,
        )
        for code in (8902, 1101, 8892, 8874, 8901, 8899, 8881)
    ),
    (
        "bulk answered with one doubtful item: 8896",
        "bulk",
        EARN,
        FOUR,
        bulk(refused(8896), failures=1),
        ["unknown answer.unmatched"] * 4,
    ),
    *(
        (f"single refused: {code}", "single", SINGLE, ("1",), refused(code), [f"failed api.{code}"])
        for code in (1101, 8874, 11013, 8015, 1212)
    ),
    (
        "coupon refused, without warnings",
        "coupon",
        COUPON,
        ("1",),
        {"errors": [{"status": False, "code": 709, "message": "m"}]},
        ["failed api.709"],
    ),
    (
        "cart refused: promotion not found",
        "cart",
        CART,
        ("1",),
        {"data": None, "errors": [{"code": 404, "message": "m"}]},
        ["failed api.404"],
    ),
]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("route", "to_issue", "identifiers", "body", "expected"), [pytest.param(*case[1:], id=case[0]) for case in ISSUED]
)
def test_answers(  # noqa: PLR0917 - a case has so many parts
    route, to_issue, identifiers, body, expected, status
):
    """Each answer gives each row what it says of it."""
    assert outcomes(route, to_issue, identifiers, status, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize(
    ("route", "to_issue", "identifiers", "body", "expected"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_refusals(  # noqa: PLR0917 - a case has so many parts
    route, to_issue, identifiers, body, expected, status
):
    """Each refusal is one at 200 and at 4xx."""
    assert outcomes(route, to_issue, identifiers, status, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("route", list(ROUTES))
@pytest.mark.parametrize(
    ("status", "body", "void"),
    [
        (200, b'{"response":{"status":{"success":"false","code":"498","message":"Token expired at x"}}}', "api.498"),
        (401, b"<response><success>false</success><code>401</code><message>m</message></response>", "http.401"),
        (429, b"<html>slow down</html>", "http.429"),
        (521, b"<html>origin is down</html>", "api.521"),
        (503, b'{"errors":[{"code":4001,"message":"Authorization status unavailable!"}]}', "api.4001"),
    ],
)
def test_answers_that_void_the_attempt(route, status, body, void):
    """Envelopes of the old API, XML and the gateway's pages void an attempt for one customer."""
    to_issue = {"cart": CART, "coupon": COUPON}.get(route, EARN)
    one = Batch(1, route, "id", [0], ["7"], ["INSTORE"], [""])
    verdict = judge(Reply(status, body), one, ROUTES[route], to_issue)
    assert (verdict.void, verdict.reason) == (True, void)


def test_gateway_page_in_doubt():
    """The gateway's 502 page leaves every row unknown."""
    assert outcomes("bulk", EARN, FOUR, 502, b"<html>bad gateway</html>") == ["unknown http.502"] * 4


def outcomes(
    route: str, to_issue: PromotionOrSeries, identifiers: tuple[str, ...], status: int, body: bytes
) -> list[str]:
    count = len(identifiers)
    batch = Batch(1, route, "id", list(range(count)), list(identifiers), ["INSTORE"] * count, [""] * count)
    verdict = judge(Reply(status, body), batch, ROUTES[route], to_issue)
    assert not verdict.void
    return [
        result.reference if result.outcome is Outcome.SUCCEEDED else f"{result.outcome} {result.reason}"
        for result in each_row(verdict.results, count)
    ]
