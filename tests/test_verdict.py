"""The verdict table, row by row, over every endpoint."""

import json
from typing import Any

import pytest
from conftest import each_row

from bulkissue.exchange import Batch, MaybeSent, NotSent, Reply, Sending
from bulkissue.outcomes import Outcome
from bulkissue.send.verdict import Verdict, judge
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.service.routes import ROUTES

TO_ISSUE_BY_ROUTE = {
    "bulk": PromotionOrSeries("earn", program_id="1", promotion_id="2"),
    "single": PromotionOrSeries("earn", program_id="1", promotion_id="2"),
    "cart": PromotionOrSeries("cart", promotion_id="bb", context_id="run1"),
    "coupon": PromotionOrSeries("coupon", series_id="1"),
}
PROOFS: dict[str, dict[str, Any]] = {
    "bulk": {"response": [{"result": {"entityId": 7, "earnedId": "2"}, "errors": [], "warnings": []}]},
    "single": {"warnings": [], "errors": [], "sideEffects": [{"programId": 1, "promotionId": 2, "earnedId": 11}]},
    "cart": {"data": {"7": {"id": "aa", "customerId": 7, "promotionId": "bb", "validTill": 2}}},
    "coupon": {"code": "ABC", "seriesId": 1, "id": 0, "customer": {"id": 7}, "warnings": []},
}
EACH = pytest.mark.parametrize("route", list(ROUTES))


def batch(route: str, *identifiers: str, kind: str = "id") -> Batch:
    count = len(identifiers)
    return Batch(1, route, kind, list(range(count)), list(identifiers), ["INSTORE"] * count, [""] * count)


def verdict(route: str, sending: Sending, *identifiers: str, kind: str = "id") -> Verdict:
    return judge(sending, batch(route, *(identifiers or ("7",)), kind=kind), ROUTES[route], TO_ISSUE_BY_ROUTE[route])


def reply(status: int, body: object, **more: object) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, content, **more)  # type: ignore[arg-type]


def error(route: str, code: object, message: str = "m") -> dict[str, Any]:
    errors: dict[str, Any] = {"errors": [{"status": False, "code": code, "message": message}], "warnings": []}
    return {"response": [errors], "totalCount": 1, "failureCount": 1} if route == "bulk" else errors


def only(verdict: Verdict) -> tuple[Outcome, str]:
    assert not verdict.void
    (result,) = each_row(verdict.results, 1)
    return result.outcome, result.reason


@EACH
@pytest.mark.parametrize("reason", ["net.connect_failed", "net.connect_timeout", "net.pool_timeout"])
def test_not_sent(route, reason):
    """What was not sent is void and tried again."""
    found = verdict(route, NotSent(reason))
    assert (found.void, found.again, found.counts, found.reason) == (True, True, True, reason)


@EACH
def test_maybe_sent(route):
    """A lost answer leaves every row unknown, and is not tried again."""
    found = verdict(route, MaybeSent("net.read_timeout"))
    assert not found.again
    assert only(found) == (Outcome.UNKNOWN, "net.read_timeout")


@EACH
@pytest.mark.parametrize("status", [200, 201, 400, 401, 429, 500, 503])
def test_proof_counts_at_any_status(route, status):
    """The row's own proof without an error is success, whatever the status says."""
    assert only(verdict(route, reply(status, PROOFS[route]))) == (Outcome.SUCCEEDED, "answer.proof")


@EACH
@pytest.mark.parametrize(
    "answer",
    [
        reply(401, b""),
        reply(
            401, b"<response><status><success>false</success><code>401</code><message>m</message></status></response>"
        ),
        reply(498, b"{}"),
        reply(200, {"response": {"status": {"success": "false", "code": "498", "message": "Token expired at x"}}}),
        reply(403, {"errors": [{"code": 498, "message": "m"}]}),
    ],
)
def test_refused_credentials_are_void(route, answer):
    """401 and 498, in whatever envelope, are void and ask for a fresh token."""
    found = verdict(route, answer)
    assert (found.void, found.again, found.renew, found.counts) == (True, True, True, False)


@EACH
def test_throttled(route):
    """429 is void, does not count, and carries the service's wish."""
    found = verdict(route, reply(429, b"<html>slow down</html>", retry_after=7.0))
    assert (found.void, found.again, found.counts, found.throttled, found.wait) == (True, True, False, True, 7.0)


@EACH
def test_authorization_unavailable(route):
    """503 with 4001 is void."""
    found = verdict(route, reply(503, {"errors": [{"code": 4001, "message": "Authorization status unavailable!"}]}))
    assert (found.void, found.again, found.counts) == (True, True, True)


@EACH
def test_busy_customer_alone(route):
    """521 for one customer is void, as a status and as a code."""
    assert verdict(route, reply(521, b"<html>")).void
    assert verdict(route, reply(200, error(route, 521))).void


@pytest.mark.parametrize("route", ["bulk", "cart"])
def test_busy_customer_among_several(route):
    """521 for several customers is not known to be void."""
    found = verdict(route, reply(521, b"<html>"), "7", "8")
    assert {result.outcome for result in each_row(found.results, 2)} == {Outcome.UNKNOWN}


@EACH
@pytest.mark.parametrize("status", [301, 302, 307, 408, 425, 500, 502, 503, 504, 520, 522, 524])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"errors": [{"code": 8015, "message": "m"}]}'])
def test_statuses_in_doubt(route, status, body):
    """After 3xx, 408, 425 and 5xx a row without proof is unknown, whatever else the body says."""
    assert only(verdict(route, reply(status, body))) == (Outcome.UNKNOWN, f"http.{status}")


@pytest.mark.parametrize(
    ("route", "code"),
    [("bulk", 8896), ("single", 8896), ("cart", 710), *(("coupon", code) for code in (5006, 678, 722, 500))],
)
def test_doubtful_codes(route, code):
    """Doubtful codes leave the row unknown, as a number and as text."""
    for spelling in (code, str(code)):
        assert only(verdict(route, reply(200, error(route, spelling)))) == (Outcome.UNKNOWN, f"api.{code}")


@EACH
def test_refusal(route):
    """Any other code of the row is a refusal, and stops nothing."""
    found = verdict(route, reply(200, error(route, 8015)))
    assert only(found) == (Outcome.FAILED, "api.8015")
    assert not found.stop


@pytest.mark.parametrize(
    ("route", "code"),
    [
        *((route, code) for route in ("bulk", "single") for code in (1101, 8874, 8892, 8902, 8901, 8881, 8899, 1212)),
        *((route, 4000) for route in ROUTES),
        *((route, 11013) for route in ("bulk", "single", "coupon")),
        ("cart", 404),
        *(("coupon", code) for code in (707, 712, 713, 756, 5001, 626)),
    ],
)
def test_codes_that_stop_the_run(route, code):
    """A code that every row would meet alike fails the row and stops the run."""
    found = verdict(route, reply(200, error(route, code)))
    assert only(found) == (Outcome.FAILED, f"api.{code}")
    assert found.stop.startswith(f"api.{code}")


def test_cart_404_without_a_body():
    """HTTP 404 from the cart endpoint means the promotion is not there, and stops the run."""
    found = verdict("cart", reply(404, b""), "7", "8")
    assert {(result.outcome, result.reason) for result in each_row(found.results, 2)} == {(Outcome.FAILED, "api.404")}
    assert found.stop


@EACH
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"not json", b"[]", b'"text"'])
def test_client_fault_without_a_readable_body(route, body):
    """4xx without a readable body is a refusal."""
    assert only(verdict(route, reply(400, body))) == (Outcome.FAILED, "http.400")


@EACH
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>ok</html>",
        b'{"resp',
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe{}",
        pytest.param(b'{"a":' * 100_000, id="nested objects"),
        pytest.param(b"[" * 100_000, id="nested lists"),
    ],
)
def test_success_status_without_a_readable_body(route, body):
    """2xx that cannot be read is unknown."""
    found = verdict(route, reply(200, body))
    assert only(found)[0] is Outcome.UNKNOWN


@EACH
def test_error_without_a_code(route):
    """Words without a code are no refusal."""
    assert only(verdict(route, reply(200, error(route, None))))[0] is Outcome.UNKNOWN


def test_proof_with_an_error_beside_it():
    """A proof with an error beside it is unknown, over every endpoint."""
    beside = [{"code": 8015, "message": "m"}]
    answers = {
        "bulk": {"response": [{"result": {"entityId": 7, "earnedId": "2"}, "errors": beside}]},
        "single": {"errors": beside, "sideEffects": [{"programId": 1, "promotionId": 2, "earnedId": 11}]},
        "cart": {"data": {"7": {"id": "aa", "error": beside[0]}}},
        "coupon": {"code": "ABC", "seriesId": 1, "errors": beside},
    }
    for route, body in answers.items():
        assert only(verdict(route, reply(200, body))) == (Outcome.UNKNOWN, "answer.proof_with_error"), route


def test_foreign_proof():
    """A proof that names another promotion, program or series is unknown, over every endpoint."""
    answers = {
        "bulk": {"response": [{"result": {"entityId": 7, "earnedId": "2", "promotionId": 3}}]},
        "single": {"sideEffects": [{"programId": 1, "promotionId": 3, "earnedId": 11}]},
        "cart": {"data": {"7": {"id": "aa", "promotionId": "cc"}}},
        "coupon": {"code": "ABC", "seriesId": 9},
    }
    for route, body in answers.items():
        assert only(verdict(route, reply(200, body))) == (Outcome.UNKNOWN, "answer.foreign"), route


@pytest.mark.parametrize("route", ["bulk", "single"])
def test_warning_8890(route):
    """Warning 8890 without proof is a refusal although nothing is called an error; with proof it changes nothing."""
    warned = [{"status": False, "code": 8890, "message": "limit"}]
    without = {"bulk": {"response": [{"result": {"entityId": 7}, "errors": [], "warnings": warned}], "failureCount": 0}}
    without["single"] = {"warnings": warned, "errors": [], "sideEffects": []}
    assert only(verdict(route, reply(200, without[route]))) == (Outcome.FAILED, "api.8890")
    proven = json.loads(json.dumps(PROOFS[route]))
    (proven["response"][0] if route == "bulk" else proven)["warnings"] = warned
    assert only(verdict(route, reply(200, proven)))[0] is Outcome.SUCCEEDED


def test_neither_proof_nor_error():
    """Silence in a readable answer is unknown."""
    for route, body in {
        "bulk": {"response": [{"result": {"entityId": 7}, "errors": [], "warnings": []}]},
        "single": {"warnings": [], "errors": [], "sideEffects": []},
        "cart": {"data": {}},
        "coupon": {"code": "", "seriesId": 1},
    }.items():
        assert only(verdict(route, reply(200, body)))[0] is Outcome.UNKNOWN, route


def test_another_error_shape_does_not_cost_a_proof():
    """A field that changes its shape elsewhere in the answer does not turn a success into an unknown."""
    body = {
        "response": [
            {"result": {"entityId": 7, "earnedId": 2, "issualId": None}, "errors": None, "warnings": {"code": "1"}},
            {"result": ["odd"], "errors": "odd"},
        ],
        "totalCount": "two",
        "failureCount": [],
    }
    first, second = each_row(verdict("bulk", reply(200, body), "7", "8").results, 2)
    assert (first.outcome, first.reference) == (Outcome.SUCCEEDED, "2")
    assert second.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("code", [1101, 8874, 8881, 8892, 8899, 8901, 8902])
def test_bulk_refused_as_a_whole(code):
    """One item with a code about the request refuses every customer."""
    found = verdict("bulk", reply(200, error("bulk", code)), "7", "8", "9")
    assert {(result.outcome, result.reason) for result in each_row(found.results, 3)} == {
        (Outcome.FAILED, f"api.{code}")
    }
    assert found.stop


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("code", [8015, 8896, 11013, 521, 9999])
def test_bulk_one_item_about_who_knows_whom(status, code):
    """One item for several customers with any other code leaves all of them unknown."""
    found = verdict("bulk", reply(status, error("bulk", code)), "7", "8", "9")
    assert {result.outcome for result in each_row(found.results, 3)} == {Outcome.UNKNOWN}
    assert not found.stop


def test_bulk_too_large():
    """Code 1060 for several customers is void and asks for smaller batches; for one it is a refusal."""
    found = verdict("bulk", reply(200, error("bulk", 1060)), "7", "8")
    assert (found.void, found.split, found.again) == (True, True, False)
    assert only(verdict("bulk", reply(200, error("bulk", 1060)))) == (Outcome.FAILED, "api.1060")


def items(*entries: object) -> dict[str, object]:
    response = [
        {"result": {"entityId": entry, "earnedId": f"e{entry}" + "b" * entries[:place].count(entry)}, "errors": []}
        if isinstance(entry, int)
        else {"errors": [{"code": entry, "message": "m"}], "warnings": []}
        for place, entry in enumerate(entries)
    ]
    return {"response": response, "totalCount": len(response), "failureCount": 0}


def references(body: object, *identifiers: str, kind: str = "id") -> list[str]:
    found = verdict("bulk", reply(200, body), *identifiers, kind=kind)
    return [
        result.reference if result.outcome is Outcome.SUCCEEDED else result.outcome.value
        for result in each_row(found.results, len(identifiers))
    ]


def test_bulk_by_position():
    """Mobiles and emails are matched by position, failures keep their place."""
    assert references(items(70, "8015", 90), "a", "b", "c", kind="mobile") == ["e70", "failed", "e90"]


def test_bulk_ids_in_another_order():
    """Reordered ids get their own proof; what carries no id is unknown."""
    assert references(items(9, 7, "8015"), "7", "8", "9") == ["e7", "unknown", "e9"]


def test_bulk_merged_customer():
    """One item under an id that was not sent counts by position where every other position agrees."""
    assert references(items(7, 99, 9), "7", "8", "9") == ["e7", "e99", "e9"]
    assert references(items(7, 7, 9), "7", "8", "9") == ["e7", "e7b", "e9"]


def test_bulk_two_strays_count_for_nothing():
    """Two items under strange ids may be in any order: their rows are unknown."""
    assert references(items(7, 99, 98), "7", "8", "9") == ["e7", "unknown", "unknown"]


def test_bulk_an_id_twice_in_another_order():
    """An id that stands twice in a reordered answer proves nothing for its row."""
    assert references(items(8, 8, 7), "7", "8", "9") == ["e7", "unknown", "unknown"]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_bulk_another_length(count):
    """An answer of another length proves only what its ids prove; nothing for mobiles."""
    body = items(*(7, 9, 8, 6)[:count])
    assert references(body, "7", "8", "9") == [
        "e7" if count else "unknown",
        "e8" if count > 2 else "unknown",
        "e9" if count else "unknown",
    ]
    assert references(body, "7", "8", "9", kind="mobile") == ["unknown"] * 3


def test_cart_missing_customer():
    """A customer the cart answer leaves out is unknown, not failed."""
    found = verdict("cart", reply(200, PROOFS["cart"]), "7", "8")
    assert [result.outcome for result in each_row(found.results, 2)] == [Outcome.SUCCEEDED, Outcome.UNKNOWN]
    assert each_row(found.results, 2)[1].reason == "answer.missing"


@pytest.mark.parametrize(
    ("beside", "outcome"),
    [
        ({"error": {"code": 1040, "message": "exists"}}, Outcome.FAILED),
        ({"errorDetails": {"errorCode": 708, "errorMessages": ["limit"]}}, Outcome.FAILED),
        ({"errors": [{"code": 710}]}, Outcome.UNKNOWN),
        ({"error": None, "errors": [], "errorDetails": None}, Outcome.UNKNOWN),
    ],
)
def test_cart_item_with_an_error(beside, outcome):
    """A cart item's own error is a refusal, unless its code is doubtful; nothing at all is unknown."""
    assert only(verdict("cart", reply(200, {"data": {"7": beside}})))[0] is outcome


def test_coupon_error_envelope_is_no_coupon():
    """An error's own `code` is never taken for a coupon's."""
    assert verdict("coupon", reply(200, {"code": "498", "message": "Token expired"})).renew
    assert only(verdict("coupon", reply(200, {"code": "4000", "status": False, "message": "m"}))) == (
        Outcome.FAILED,
        "api.4000",
    )


@pytest.mark.parametrize("code", [10001, "10001", "ABC", 498])
def test_coupon_beside_its_series_is_a_coupon(code):
    """A code beside a series is a coupon's, whatever it looks like: it is never read as a refusal."""
    (result,) = each_row(verdict("coupon", reply(200, {"code": code, "seriesId": 1, "customer": {"id": 7}})).results, 1)
    assert (result.outcome, result.reference) == (Outcome.SUCCEEDED, str(code))


@EACH
@pytest.mark.parametrize(
    "body",
    [
        {"response": {"status": {"success": "true", "code": "200"}}},
        {"code": 200, "message": "OK"},
        {"code": 1001, "success": True, "message": "issued"},
        {"status": {"code": "SUCCESS"}},
        {"code": "ABC123", "message": "issued"},
    ],
)
def test_good_news_without_proof_is_no_refusal(route, body):
    """An envelope that speaks of success, or whose code is no error's, leaves the row unknown."""
    assert only(verdict(route, reply(200, body)))[0] is Outcome.UNKNOWN


def test_a_proof_that_stands_twice():
    """A proof that two rows of one answer share is nobody's own."""
    body = {"response": [{"result": {"earnedId": "1"}}, {"result": {"earnedId": "1"}}, {"result": {"earnedId": "2"}}]}
    assert references(body, "a", "b", "c", kind="mobile") == ["unknown", "unknown", "2"]


@pytest.mark.parametrize(
    ("status", "code", "outcome"), [(409, 1, "unknown"), (400, 8015, "unknown"), (400, 1, "failed")]
)
def test_several_customers_and_one_complaint_at_4xx(status, code, outcome):
    """A code about one customer, or a conflict, does not refuse the others; another code at 4xx refuses the request."""
    found = verdict("cart", reply(status, {"data": None, "errors": [{"code": code, "message": "m"}]}), "7", "8")
    assert {result.outcome.value for result in each_row(found.results, 2)} == {outcome}


def test_references_and_details():
    """A success carries customer id, reference and validity as text."""
    (result,) = each_row(verdict("cart", reply(200, PROOFS["cart"])).results, 1)
    assert (result.customer_id, result.reference, result.valid_till) == ("7", "aa", "1970-01-01T00:00:00.002Z")
    (result,) = each_row(
        verdict("coupon", reply(200, {**PROOFS["coupon"], "validTill": "2026-05-09T00:00:00Z"})).results, 1
    )
    assert (result.customer_id, result.reference, result.valid_till) == ("7", "ABC", "2026-05-09T00:00:00Z")


@pytest.mark.parametrize("ours", ["20261121093015123456", "9" * 240])
def test_a_promotion_identifier_that_is_a_long_number(ours):
    """An identifier of more digits than an integer has is text like any other, and its rows' proofs count."""
    item = {"result": {"entityId": 7, "earnedId": "2", "promoIdentifier": ours}, "errors": [], "warnings": []}
    to_issue = PromotionOrSeries("earn", program_id="1", promo_identifier=ours)
    assert only(judge(reply(200, {"response": [item]}), batch("bulk", "7"), ROUTES["bulk"], to_issue)) == (
        Outcome.SUCCEEDED,
        "answer.proof",
    )


@pytest.mark.parametrize(("ours", "stated"), [("071", 71), ("٧١", 71), ("071", "71")])
def test_a_promotion_identifier_that_looks_like_a_number(ours, stated):
    """An identifier is ours digit by digit: 71 does not name the promotion "071"."""
    item = {"result": {"entityId": 7, "earnedId": "2", "promoIdentifier": stated}, "errors": [], "warnings": []}
    to_issue = PromotionOrSeries("earn", program_id="1", promo_identifier=ours)
    found = judge(reply(200, {"response": [item]}), batch("bulk", "7"), ROUTES["bulk"], to_issue)
    assert only(found) == (Outcome.UNKNOWN, "answer.foreign")


@pytest.mark.parametrize("status", [413, 431])
@pytest.mark.parametrize("body", [b"<html>Request Entity Too Large</html>", b"", b"{}"])
def test_too_large_for_a_gateway(status, body):
    """A request with several customers is cut smaller; with one it is refused."""
    found = verdict("bulk", reply(status, body), "7", "8")
    assert (found.void, found.split, found.counts, found.reason) == (True, True, False, f"http.{status}")
    assert only(verdict("bulk", reply(status, b""), "7")) == (Outcome.FAILED, f"http.{status}")


#: Where each endpoint's answer has the proof, and where the customer's id.
PLACES: dict[str, tuple[tuple[str | int, ...], tuple[str | int, ...]]] = {
    "bulk": (("response", 0, "result", "earnedId"), ("response", 0, "result", "entityId")),
    "single": (("sideEffects", 0, "earnedId"), ()),
    "cart": (("data", "7", "id"), ()),
    "coupon": (("code",), ("customer", "id")),
}


def proof_with(route: str, place: tuple[str | int, ...], value: object) -> Reply:
    """The endpoint's plain success, but for one value."""
    body: Any = json.loads(json.dumps(PROOFS[route]))
    inner = body
    for step in place[:-1]:
        inner = inner[step]
    assert place[-1] in inner
    inner[place[-1]] = value
    return reply(200, body)


@EACH
@pytest.mark.parametrize("nothing", [0, "0", "00", -7, "-7", "", "  ", "null", "None", False, 0.0])
def test_ids_that_prove_nothing(route, nothing):
    """An id of 0, a negative one, a blank and a word for nothing are no proof, on no endpoint."""
    found = verdict(route, proof_with(route, PLACES[route][0], nothing))
    assert only(found)[0] is Outcome.UNKNOWN
    assert only(found)[1] != "answer.foreign"


@pytest.mark.parametrize("route", ["bulk", "coupon"])
@pytest.mark.parametrize("nothing", [0, "00", -1, "-1", "null", "None"])
def test_customer_ids_that_name_nobody(route, nothing):
    """An issue is kept without its customer's id where that names nobody: else all such customers would be one."""
    found = verdict(route, proof_with(route, PLACES[route][1], nothing), "919986000501", kind="mobile")
    assert only(found)[0] is Outcome.SUCCEEDED
    (row,) = each_row(found.results, 1)
    assert row.customer_id == ""
