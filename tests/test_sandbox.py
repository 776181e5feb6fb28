"""The stand-in service: the reference pages' shapes, faults on order, and books that hold every effect."""

import base64
import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bulkissue.errors import SettingsRefused, UsageRefused
from bulkissue.sandbox import Customer, Earlier, Fault, Options, Promotion, Running, Series, load, start_thread

BULK = "/v2/promotion/bulk/enrolAndEarn"
SINGLE = "/v2/promotion/issue"
CART = "/api_gateway/v1/promotions/67dd4210ef21a64211227e04/issueBulk"
COUPON = "/v2/coupon/issue"
DATA = "/v2/customers/lookup/promotionData"
ANSWERED = "an answer"


class Client:
    """An HTTP client with a token, and the requests the tests make."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.http = httpx.Client(base_url=running.base_url, timeout=5, trust_env=False)
        token = self.http.post("/v3/oauth/token/generate", json={"key": "k", "secret": "s"}).json()
        self.http.headers["X-CAP-API-OAUTH-TOKEN"] = token["data"]["accessToken"]

    def bulk(self, *values: str, kind: str = "id", action: str = "EARN", **changes: Any) -> httpx.Response:
        body = {
            "type": "CUSTOMER",
            "bulkAction": action,
            "promotionDetails": {"programId": 469, "promotionId": 69218},
            "identifierName": kind,
            "customers": [{"identifierValue": value, "source": "INSTORE"} for value in values],
        }
        return self.http.post(BULK, json=body | changes)

    def single(
        self, value: str, kind: str = "id", *, program: int = 469, promotion: int = 69218, **more: str
    ) -> httpx.Response:
        query = {"identifierName": kind, "identifierValue": value, "source": "INSTORE"} | more
        return self.http.post(SINGLE, params=query, json={"programId": program, "promotionId": promotion})

    def cart(self, *customers: int, path: str = CART) -> httpx.Response:
        return self.http.post(path, params={"contextId": "973"}, json=list(customers))

    def coupon(self, series: int = 544770, **customer: int | str) -> httpx.Response:
        return self.http.post(COUPON, json={"seriesId": series, "customer": customer})

    def data(self, value: str, kind: str = "id", **more: str | int) -> Any:
        query: dict[str, str | int] = {
            "identifierName": kind,
            "identifierValue": value,
            "source": "INSTORE",
            "limit": 100,
        }
        query |= more
        return self.http.get(DATA, params=query).json()


@contextmanager
def service(**options: Any) -> Iterator[Client]:
    with start_thread(Options(**options)) as running:
        client = Client(running)
        try:
            yield client
        finally:
            client.http.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with service() as client:
        yield client


@pytest.fixture
def client(shared: Client) -> Client:
    shared.running.reset()
    return shared


def codes(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["code"] for entry in entries]


def outcome(send: Callable[[], httpx.Response]) -> str:
    """The exception's name, or that an answer came."""
    try:
        send()
    except httpx.TransportError as trouble:
        return type(trouble).__name__
    return ANSWERED


def raw_request(client: Client, body: bytes) -> bytes:
    head = f"POST {COUPON} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}X-CAP-API-OAUTH-TOKEN: {client.http.headers['X-CAP-API-OAUTH-TOKEN']}\r\n\r\n".encode() + body


def connect(client: Client) -> socket.socket:
    parts = urlsplit(client.running.base_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


# Shapes of the reference pages


def test_an_enrolment_is_answered_with_an_issual_id_as_text_and_nothing_earned(client: Client) -> None:
    """ENROL gives each customer an item with the page's six fields."""
    answer = client.bulk("423926199", "423926198", action="ENROL").json()
    issued = client.running.issued()
    assert answer == {
        "response": [
            {
                "result": {
                    "entityType": "CUSTOMER",
                    "entityId": customer,
                    "promotionId": 69218,
                    "programId": 469,
                    "issualId": done["reference"],
                },
                "errors": [],
                "warnings": [],
            }
            for customer, done in zip((423926199, 423926198), issued, strict=True)
        ],
        "totalCount": 2,
        "failureCount": 0,
    }
    assert [(e["effect"], e["customer_id"]) for e in issued] == [("enrol", 423926199), ("enrol", 423926198)]


def test_an_earning_belongs_to_the_customers_enrolment(client: Client) -> None:
    """EARN after ENROL shows the enrolment's issual id, and EARN alone a dummy of its own."""
    enrolled = client.bulk("423926199", action="ENROL").json()["response"][0]["result"]
    first, second = (item["result"] for item in client.bulk("423926199", "423926198").json()["response"])
    assert first["issualId"] == enrolled["issualId"] != second["issualId"]
    assert first["earnedId"] == client.running.issued()[1]["reference"]
    assert second["issualId"].isdigit()


def test_a_customer_who_does_not_exist_keeps_their_place_in_the_answer(client: Client) -> None:
    """The mixed sample: one issued, three times 8015, without a result."""
    answer = client.bulk("170940055", "170948015", "170958015", "170968015").json()
    refused = {
        "errors": [{"status": False, "code": 8015, "message": "Customer not found for the given identifiers"}],
        "warnings": [],
    }
    assert answer["response"][1:] == [refused] * 3
    assert answer["response"][0]["result"]["entityId"] == 170940055
    assert (answer["totalCount"], answer["failureCount"]) == (4, 3)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"promotionDetails": {"programId": 1101, "promotionId": 1}}, 1101),
        ({"promotionDetails": {"programId": 1, "promotionId": 8874}}, 8874),
        ({"promotionDetails": {"programId": 1, "promotionId": 8892}}, 8892),
        ({"promotionDetails": {"programId": 1, "promoIdentifier": "8899"}}, 8899),
        ({"promotionDetails": {"programId": 1, "promotionId": 8896}}, 8896),
        ({"promotionDetails": {"programId": 1, "promotionId": 8902}, "bulkAction": "ENROL"}, 8902),
        ({"promotionDetails": {"programId": 1}}, 8881),
        ({"promotionDetails": {"promotionId": 1}}, 8881),
        ({"type": "customer"}, 8901),
        ({"identifierName": "externalId"}, 11013),
        ({"customers": [{"identifierValue": "1", "source": "INSTORE"}] * 101}, 1060),
    ],
)
def test_a_refusal_of_the_whole_request_is_one_item(client: Client, changes: dict[str, Any], code: int) -> None:
    """Two customers are sent, one item comes back, nothing is issued."""
    answer = client.bulk("1", "2", **changes).json()
    assert (len(answer["response"]), answer["totalCount"], answer["failureCount"]) == (1, 1, 1)
    assert codes(answer["response"][0]["errors"]) == [code]
    assert "result" not in answer["response"][0]
    assert client.running.issued() == []


def test_a_direct_promotion_can_be_earned(client: Client) -> None:
    """Promotion 8902 refuses ENROL only."""
    answer = client.bulk("1", promotionDetails={"programId": 1, "promotionId": 8902}).json()
    assert answer["response"][0]["result"]["earnedId"]


def test_promotion_8897_issues_and_says_8896(client: Client) -> None:
    """One doubtful item stands for two issued customers."""
    answer = client.bulk("1", "2", promotionDetails={"programId": 1, "promotionId": 8897}).json()
    assert codes(answer["response"][0]["errors"]) == [8896]
    assert len(client.running.issued()) == 2


def test_a_promotion_asked_by_its_identifier_is_answered_by_it(client: Client) -> None:
    """PromoIdentifier stands in place of promotionId, and the books hold both."""
    details = {"programId": 469, "promoIdentifier": "DIWALI26"}
    result = client.bulk("1", promotionDetails=details).json()["response"][0]["result"]
    assert result["promoIdentifier"] == "DIWALI26"
    assert "promotionId" not in result
    assert client.running.issued()[0]["target"]["promo_identifier"] == "DIWALI26"


def test_a_customers_own_fault_is_one_items_fault(client: Client) -> None:
    """An empty value, or a source the bulk route does not know, is 11013 for that customer alone."""
    sources = {"1": "INSTORE", "": "INSTORE", "3": "MOBILE_APP", "4": "ALL"}
    customers = [{"identifierValue": value, "source": source} for value, source in sources.items()]
    items = client.bulk(customers=customers).json()["response"]
    assert [codes(item["errors"]) for item in items] == [[], [11013], [11013], []]


def test_the_single_routes_ids_are_integers(client: Client) -> None:
    """The page's sample: a side effect with five fields, ids as numbers."""
    answer = client.single("AB-7", "externalId", type="CUSTOMER", accountId="till 7").json()
    effect = answer["sideEffects"][0]
    assert answer == {"warnings": [], "errors": [], "sideEffects": [effect]}
    assert effect.keys() == {"programId", "issualId", "earnedId", "promotionId", "type"}
    done = client.running.issued()[0]
    assert str(effect["earnedId"]) == done["reference"]
    assert (done["identifier_type"], done["identifier"], done["account_id"]) == ("external_id", "AB-7", "till 7")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"program": 1101}, 1101),
        ({"promotion": 8874}, 8874),
        ({"type": "customer"}, 1212),
        ({"identifierValue": ""}, 11013),
        ({"source": "ALL"}, 11013),
        ({"identifierValue": "7778015"}, 8015),
    ],
)
def test_the_single_route_refuses_in_the_generic_shape(client: Client, changes: dict[str, Any], code: int) -> None:
    """Warnings and errors, no side effects, nothing issued."""
    answer = client.single("7", **changes).json()
    assert answer.keys() == {"warnings", "errors"}
    assert codes(answer["errors"]) == [code]
    assert client.running.issued() == []


def test_the_single_route_knows_mobile_app(client: Client) -> None:
    """The single route's sources have MOBILE_APP, which the bulk route's have not."""
    assert client.single("7", source="MOBILE_APP").json()["sideEffects"]


def test_a_cart_promotion_is_answered_by_customer_id(client: Client) -> None:
    """The page's six fields, keyed by the id as text; a customer listed twice is issued to twice and shown once."""
    answer = client.cart(555567088, 7, 7).json()
    assert answer["data"].keys() == {"555567088", "7"}
    item = answer["data"]["555567088"]
    assert item.keys() == {"id", "customerId", "promotionId", "earnedFromId", "eventTime", "validTill"}
    assert (item["customerId"], item["earnedFromId"], len(item["id"])) == (555567088, "973", 24)
    assert [e["attempt_no"] for e in client.running.issued()] == [1, 1, 2]


def test_a_cart_promotion_that_does_not_exist_is_404(client: Client) -> None:
    """An id ending in 0404 is answered with status and code 404."""
    answer = client.cart(7, path="/api_gateway/v1/promotions/67dd0404/issueBulk")
    assert (answer.status_code, codes(answer.json()["errors"])) == (404, [404])


def test_a_coupon_is_answered_with_its_code(client: Client) -> None:
    """The page's fields, unused identifiers being empty text; the code is the reference in the books."""
    answer = client.coupon(id=555567088, mobile="", externalId="", email="").json()
    assert answer["code"] == client.running.issued()[0]["reference"]
    assert (answer["seriesId"], answer["customer"]["id"], answer["warnings"]) == (544770, 555567088, [])
    assert answer["customer"]["profiles"][0].keys() >= {"identifiers", "identifiersAll", "userId", "accountId"}


@pytest.mark.parametrize(("series", "code"), [(712, 712), (707, 707), (5001, 5001), (0, 756)])
def test_a_series_that_will_not_do_refuses_every_customer(client: Client, series: int, code: int) -> None:
    """A coupon refusal has errors and no warnings key."""
    answer = client.coupon(series, id=7).json()
    assert (answer.keys(), codes(answer["errors"])) == ({"errors"}, [code])


def test_a_series_decides_what_a_second_issue_gives(client: Client) -> None:
    """Another code, the same code again, or 709."""
    usual = {client.coupon(id=7).json()["code"] for _ in range(2)}
    resent = {client.coupon(1001, id=7).json()["code"] for _ in range(2)}
    assert (len(usual), len(resent)) == (2, 1)
    assert client.coupon(1002, id=7).json()["code"]
    assert codes(client.coupon(1002, id=7).json()["errors"]) == [709]
    assert client.running.stats()["double_issues"] == 1


# Endings


@pytest.mark.parametrize(
    ("ending", "code", "proof", "effects"),
    [
        ("8015", 8015, False, 0),
        ("8890", 8890, False, 0),
        ("8896", 8896, False, 0),
        ("8897", 8896, False, 1),
        ("8891", 0, False, 0),
        ("8893", 0, False, 1),
        ("8895", 8896, True, 0),
        ("8898", 8896, True, 1),
        ("0709", 0, True, 1),
    ],
)
def test_endings_choose_a_promotions_fate(client: Client, ending: str, code: int, proof: bool, effects: int) -> None:
    """What is said and what is done may differ, and the books hold what is done; alike for every identifier type."""
    for kind, value in (("id", "55"), ("mobile", "91998"), ("email", "Bob"), ("externalId", "X-")):
        whole = f"{value}{ending}" + ("@a.com" if kind == "email" else "")
        client.running.reset()
        answer = client.single(whole, kind).json()
        assert codes(answer["errors"]) + codes(answer["warnings"]) == ([code] if code else [])
        assert bool(answer.get("sideEffects")) is proof
        assert len(client.running.issued()) == effects
        if kind == "externalId":
            continue
        item = client.bulk(whole, kind=kind).json()["response"][0]
        assert codes(item["errors"]) + codes(item["warnings"]) == ([code] if code else [])
        assert ("earnedId" in item.get("result", {})) is proof


@pytest.mark.parametrize(
    ("ending", "item", "effects"),
    [
        ("8015", None, 0),
        ("8890", 708, 0),
        ("8896", 710, 0),
        ("8897", 710, 1),
        ("8891", None, 0),
        ("8893", None, 1),
        ("8895", 1040, 0),
        ("8898", 1040, 1),
    ],
)
def test_endings_choose_a_cart_promotions_fate(client: Client, ending: str, item: int | None, effects: int) -> None:
    """The item is missing, or carries an error, with an id beside it only where the ending asks for it."""
    answer = client.cart(7, int(f"55{ending}")).json()
    found = answer["data"].get(f"55{ending}")
    assert (found and found["error"]["code"]) == item
    assert ("id" in (found or {})) is (item == 1040)
    assert ("errors" in answer) is (ending == "8015")
    assert len(client.running.issued()) == 1 + effects


@pytest.mark.parametrize(
    ("ending", "code", "proof", "effects"),
    [
        ("8015", 8015, False, 0),
        ("8890", 5002, False, 0),
        ("8896", 5006, False, 0),
        ("8897", 5006, False, 1),
        ("8893", 0, False, 1),
        ("8898", 5006, True, 1),
        ("0709", 709, False, 0),
        ("5005", 5005, False, 0),
    ],
)
def test_endings_choose_a_coupons_fate(client: Client, ending: str, code: int, proof: bool, effects: int) -> None:
    """Coupons have codes of their own."""
    answer = client.coupon(mobile=f"91998{ending}").json()
    assert (codes(answer.get("errors", [])), bool(answer.get("code"))) == ([code] if code else [], proof)
    assert len(client.running.issued()) == effects


def test_a_merged_customer_is_answered_under_the_survivors_id(client: Client) -> None:
    """The entity id is not the one sent, and the lookup warns with 8069."""
    result = client.bulk("558069").json()["response"][0]["result"]
    query = {"identifierName": "id", "identifierValue": "558069", "source": "INSTORE"}
    looked_up = client.http.get("/v2/customers/lookup", params=query).json()
    assert result["entityId"] == looked_up["entity"] != 558069
    assert codes(looked_up["warnings"]) == [8069]


def test_endings_can_be_switched_off() -> None:
    """With magic off an identifier ending in 8015 is a customer like any other."""
    with service(magic=False) as client:
        assert client.bulk("558015").json()["failureCount"] == 0


@pytest.mark.parametrize(
    ("kind", "value"), [("id", "seven"), ("id", "0"), ("mobile", "+919986000586"), ("mobile", "12"), ("email", "bob")]
)
def test_an_identifier_that_is_not_well_formed_belongs_to_nobody(client: Client, kind: str, value: str) -> None:
    """The service knows no such customer."""
    assert codes(client.bulk(value, kind=kind).json()["response"][0]["errors"]) == [8015]


def test_one_email_in_two_spellings_is_one_customer(client: Client) -> None:
    """Emails are the same case-folded, ids the same as numbers."""
    items = client.bulk("Bob@A.com", "bob@a.com", kind="email").json()["response"]
    assert len({item["result"]["entityId"] for item in items}) == 1
    assert client.bulk("007").json()["response"][0]["result"]["entityId"] == 7


# Books


def test_issuing_twice_issues_twice(client: Client) -> None:
    """Nothing is idempotent, on no route, and the books count every double issue."""
    references = [client.bulk("7").json()["response"][0]["result"]["earnedId"] for _ in range(2)]
    references += [str(client.single("7").json()["sideEffects"][0]["earnedId"])]
    issued = client.running.issued()
    assert [e["reference"] for e in issued] == references
    assert [e["attempt_no"] for e in issued] == [1, 2, 3]
    assert client.running.stats()["double_issues"] == 2
    assert client.http.get("/_sandbox/issued", params={"since": 2}).json() == issued[2:]


def test_declared_customers_promotions_and_series_are_as_declared() -> None:
    """One person under three identifiers, a missing one, limits and refusals; endings do not touch them."""
    people = (
        Customer(id=8015, mobile="919986008890", email="ann@a.com", external_id="A-1"),
        Customer(id=12, email="bob@a.com", missing=True),
        Customer(id=13, merged_into=8015),
    )
    promotions = (
        Promotion(id=5, identifier="FIVE", program_id=1, limit_per_customer=1),
        Promotion(id=6, refusal=8892),
        Promotion(id="67dd4210ef21a64211227e04", exhausted_after=1),
    )
    series = (Series(id=9, limit_per_customer=1), Series(id=10, exhausted_after=1), Series(id=11, refusal=713))
    with service(customers=people, promotions=promotions, series=series) as client:
        details = {"programId": 1, "promoIdentifier": "FIVE"}
        first = client.bulk("919986008890", kind="mobile", promotionDetails=details).json()["response"][0]
        again = client.bulk("ANN@a.com", "bob@a.com", kind="email", promotionDetails=details).json()["response"]
        assert (first["result"]["entityId"], first["errors"], first["warnings"]) == (8015, [], [])
        assert codes(again[0]["warnings"]) == [8890]
        assert codes(again[1]["errors"]) == [8015]
        assert codes(client.single("7", program=2, promotion=5).json()["errors"]) == [1101]
        assert codes(client.single("7", promotion=6).json()["errors"]) == [8892]
        assert (
            client.bulk("13", promotionDetails={"programId": 1, "promotionId": 50}).json()["response"][0]["result"][
                "entityId"
            ]
            == 8015
        )
        assert [("id" in item) for item in client.cart(8015, 7).json()["data"].values()] == [True, False]
        assert [bool(client.coupon(9, externalId="A-1").json().get("code")) for _ in range(2)] == [True, False]
        assert [bool(client.coupon(10, id=n).json().get("code")) for n in (7, 8)] == [True, False]
        assert codes(client.coupon(11, id=7).json()["errors"]) == [713]


# Credentials


def test_credentials_are_asked_for(client: Client) -> None:
    """Without any, or with an unknown token, 401 with an XML body; Basic wants an MD5 in hexadecimal digits."""
    base = client.running.base_url
    md5 = hashlib.md5(b"secret").hexdigest()

    def status(headers: dict[str, str]) -> tuple[int, str]:
        answer = httpx.post(
            base + COUPON, json={"seriesId": 1, "customer": {"id": 1}}, headers=headers, trust_env=False
        )
        return answer.status_code, answer.text[:5]

    def basic(password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"till:{password}".encode()).decode()}

    assert status({}) == (401, "<?xml")
    assert status({"X-CAP-API-OAUTH-TOKEN": "other"}) == (401, "<?xml")
    assert status(basic("secret")) == (401, "<?xml")
    assert status(basic(md5))[0] == 200
    assert len(client.running.issued()) == 1


def test_a_wrong_secret_gets_no_token(client: Client) -> None:
    """Code 320001, and data is null."""
    answer = client.http.post("/v3/oauth/token/generate", json={"key": "k", "secret": "wrong"}).json()
    assert answer == {"data": None, "errors": [{"code": 320001, "message": "Invalid client key and secret"}]}


def test_a_token_ends() -> None:
    """After its time the v1 envelope says 498, as text, with the status that was chosen."""
    with service(token_ttl=0.5, expired_status=200) as client:
        assert client.bulk("7").json()["failureCount"] == 0
        time.sleep(0.55)
        answer = client.bulk("7")
        assert answer.status_code == 200
        assert answer.json()["response"]["status"]["code"] == "498"
        assert len(client.running.issued()) == 1


# Pace


@pytest.mark.parametrize(("body", "start"), [("json", b'{"err'), ("html", b"<html"), ("empty", b"")])
def test_requests_beyond_the_limit_are_refused_and_do_nothing(body: Any, start: bytes) -> None:
    """The third request of a minute for two is a 429 with Retry-After; its body is as chosen."""
    with service(requests_per_minute=2, throttle_body=body) as client:
        statuses = [client.bulk("7").status_code for _ in range(2)]
        refused = client.bulk("7")
        assert (*statuses, refused.status_code) == (200, 200, 429)
        assert 58 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.content[:5] == start
        stats = client.running.stats()
        assert (stats["effects"], stats["throttled"], stats["max_requests_per_minute"]) == (2, 1, 3)


@pytest.mark.parametrize(("refuse", "status", "most"), [(False, b"200", 2), (True, b"521", 1)])
def test_a_customer_served_twice_at_once_is_noticed(refuse: bool, status: bytes, most: int) -> None:
    """A request for a customer with another in flight counts as two at once, or is 521 where that is chosen."""
    with service(refuse_concurrent=refuse, faults=(Fault(kind="slow", seconds=0.3),)) as client:
        whole = raw_request(client, b'{"seriesId":1,"customer":{"id":7}}')
        with connect(client) as one, connect(client) as other:
            one.sendall(whole)
            other.sendall(whole)
            assert sorted([one.recv(65536)[9:12], other.recv(65536)[9:12]]) == [b"200", status]
        assert client.running.stats()["max_concurrent_per_customer"] == most


# Reading back


def test_promotion_data_speaks_of_enrolments_where_writing_speaks_of_issuals(client: Client) -> None:
    """Its enrollmentId is the writing's issualId, its issualId the writing's earnedId; dates have an ISO twin."""
    before = datetime.now(UTC).replace(microsecond=0)
    written = client.bulk("7").json()["response"][0]["result"]
    promotion = client.data("7", promotionStatusForCustomer="AVAILABLE_TO_REDEEM")["promotions"][0]
    timeline = promotion["customerPromotionTimelines"][0]
    assert str(timeline["enrollmentId"]) == written["issualId"]
    assert str(timeline["issuedDetails"][0]["issualId"]) == written["earnedId"]
    assert timeline["issuedDetails"][0]["issualDate"].endswith("+05:30")
    assert before <= datetime.fromisoformat(timeline["issuedDetails"][0]["issualDateISO"]) <= datetime.now(UTC)


def test_promotion_data_lists_by_status(client: Client) -> None:
    """Enrolled only is to earn, earned is to redeem; without a status there are no timelines."""
    client.bulk("7", action="ENROL")
    client.single("7", promotion=11)
    listed = {
        status: [p["promotionId"] for p in client.data("7", promotionStatusForCustomer=status)["promotions"]]
        for status in ("AVAILABLE_TO_EARN", "AVAILABLE_TO_REDEEM", "EXPIRED")
    }
    assert listed == {"AVAILABLE_TO_EARN": [69218], "AVAILABLE_TO_REDEEM": [11], "EXPIRED": []}
    unfiltered = client.data("7")["promotions"]
    assert [p["promotionId"] for p in unfiltered] == [11, 69218]
    assert not any("customerPromotionTimelines" in p for p in unfiltered)
    assert client.data("7", programs="1,2")["promotions"] == []


def test_promotion_data_comes_in_pages() -> None:
    """Three promotions in pages of two, with the pages counted."""
    with service(page_limit=2, timelines="always") as client:
        for promotion in (1, 2, 3):
            client.single("ann@a.com", "email", promotion=promotion)
        pages = [client.data("ann@a.com", "email", offset=offset) for offset in (0, 2)]
        assert [[p["promotionId"] for p in page["promotions"]] for page in pages] == [[1, 2], [3]]
        assert pages[1]["pageDetails"] == {"pageNumber": 2, "pageSize": 2, "totalEntries": 3, "pageCount": 2}


def test_new_issues_show_only_after_a_while() -> None:
    """What was issued earlier shows at once, what is issued now after visible_after."""
    earlier = (Earlier(effect="earn", customer_id=7, promotion_id=1, program_id=469, seconds_ago=10),)
    with service(visible_after=0.5, earlier=earlier, timelines="always") as client:
        client.single("7", promotion=2)
        assert [p["promotionId"] for p in client.data("7")["promotions"]] == [1]
        time.sleep(0.55)
        assert [p["promotionId"] for p in client.data("7")["promotions"]] == [1, 2]
        assert len(client.running.issued()) == 1
        assert len(client.running.issued(earlier=True)) == 2


def test_coupons_are_read_newest_first_and_in_pages(client: Client) -> None:
    """The pagination's limit and offset are text, its total a number; a customer is found by any identifier."""
    given = [client.coupon(mobile="919986000586").json()["code"] for _ in range(3)]
    read = client.http.get("/v2/customers/coupons", params={"mobile": "919986000586", "limit": 2}).json()
    assert read["entity"]["pagination"] == {"limit": "2", "offset": "0", "total": 3}
    assert [c["code"] for c in read["entity"]["customers"][0]["coupons"]] == given[:0:-1]
    assert read["success"] is True
    nobody = client.http.get("/v2/customers/coupons", params={"externalId": "x8015"}).json()
    assert codes(nobody["errors"]) == [8015]


def test_cart_promotions_are_read_ten_at_a_time_latest_expiry_first() -> None:
    """Without a limit the newest issue may be beyond the ten shown, and nothing says so."""
    late = datetime(2099, 1, 1, tzinfo=UTC)
    old = Earlier(effect="cart", customer_id=7, promotion_id="old", valid_till=late)
    with service(earlier=(old,) * 10) as client:
        issue = client.cart(7).json()["data"]["7"]
        path = "/api_gateway/v1/promotions/customer/7"
        shown = client.http.get(path).json()
        assert shown.keys() == {"data", "errors"}
        assert [p["promotionId"] for p in shown["data"]] == ["old"] * 10
        last = client.http.get(path, params={"limit": 100}).json()["data"][-1]
        assert (last["earnedPromotionId"], last["eventTime"]) == (issue["id"], issue["eventTime"])


def test_a_lookup_gives_the_customers_id(client: Client) -> None:
    """The same id as the answer to an issue carries; 8015 for nobody, 8013 for nothing asked."""
    issued = client.bulk("ann@a.com", kind="email").json()["response"][0]["result"]["entityId"]

    def ask(value: str) -> Any:
        query = {"identifierName": "email", "identifierValue": value, "source": "INSTORE"}
        return client.http.get("/v2/customers/lookup", params=query).json()

    assert ask("ann@a.com") == {"entity": issued, "warnings": []}
    assert codes(ask("x8015@a.com")["errors"]) == [8015]
    assert codes(ask("")["errors"]) == [8013]


# Faults


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ({"kind": "status", "status": 502}, ANSWERED),
        ({"kind": "drop"}, "RemoteProtocolError"),
        ({"kind": "reset"}, "ReadError"),
        ({"kind": "silence", "seconds": 0.1}, "RemoteProtocolError"),
        ({"kind": "cut"}, "RemoteProtocolError"),
        ({"kind": "garbage"}, "RemoteProtocolError"),
        ({"kind": "wrong_json"}, ANSWERED),
        ({"kind": "slow", "seconds": 0.05}, ANSWERED),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("route", ["bulk", "cart", "coupon"])
def test_a_fault_strikes_before_or_after_the_effect(
    client: Client, fault: dict[str, Any], seen: str, when: Any, route: str
) -> None:
    """Before: nothing is issued (slow: all the same, later). After: it is. The next request is well."""
    send: dict[str, Callable[[], httpx.Response]] = {
        "bulk": lambda: client.bulk("7"),
        "cart": lambda: client.cart(7),
        "coupon": lambda: client.coupon(id=7),
    }
    client.running.order(Fault(**fault, when=when))
    assert outcome(send[route]) == seen
    applied = when == "after" or fault["kind"] == "slow"
    assert len(client.running.issued()) == (1 if applied else 0)
    assert outcome(send[route]) == ANSWERED
    stats = client.running.stats()
    assert stats["effects"] == 1 + applied
    assert (stats["faults"], stats["fault_customers"]) == ({fault["kind"]: 1}, {fault["kind"]: 1})


@pytest.mark.parametrize(
    ("body", "content_type", "start"),
    [
        ("html", "text/html", "<html>"),
        ("json", "application/json", '{"errors"'),
        ("empty", "application/json", ""),
        ('{"errors":[{"code":4001}]}', "application/json", '{"errors":[{"code":4001}]}'),
        ("<?xml?>", "application/xml", "<?xml?>"),
    ],
)
def test_a_status_comes_with_the_body_ordered(client: Client, body: str, content_type: str, start: str) -> None:
    """Its status, its content type, its Retry-After."""
    client.running.order(Fault(kind="status", status=503, body=body, retry_after=3))
    answer = client.bulk("7")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
    assert answer.headers["Content-Type"].startswith(content_type)
    assert answer.text.startswith(start)


def test_wrong_json_is_a_whole_answer_that_cannot_be_read(client: Client) -> None:
    """HTTP 200 with an HTML page, or with half of the JSON."""
    client.running.order(Fault(kind="wrong_json", when="after"), Fault(kind="wrong_json", when="after", body="json"))
    page, half = client.bulk("7"), client.bulk("7")
    assert (page.status_code, page.text[:6]) == (200, "<html>")
    assert (half.status_code, half.text[:6]) == (200, '{"resp')
    with pytest.raises(json.JSONDecodeError):
        half.json()


def test_answers_can_be_too_short_too_long_or_in_another_order(client: Client) -> None:
    """Everything is issued; the answer lacks one item, has one twice, or has none in its place."""
    sent = [str(n) for n in range(1, 6)]

    def ids(response: httpx.Response) -> list[str]:
        return [str(item["result"]["entityId"]) for item in response.json()["response"]]

    client.running.order(*(Fault(kind=kind) for kind in ("short", "too_long", "reorder")))
    short, long, other = (ids(client.bulk(*sent)) for _ in range(3))
    assert (len(short), set(short) < set(sent)) == (4, True)
    assert (len(long), set(long)) == (6, set(sent))
    assert sorted(other) == sent
    assert not any(a == b for a, b in zip(other, sent, strict=True))
    assert client.running.stats()["effects"] == 15
    client.running.order(*(Fault(kind="short") for _ in range(3)))
    assert len(client.cart(1, 2).json()["data"]) == 1
    assert client.single("7").json()["sideEffects"] == []
    assert client.coupon(id=7).json()["code"] == ""


def test_a_request_can_be_done_in_part(client: Client) -> None:
    """The first two of five customers are issued, then the connection ends."""
    client.running.order(Fault(kind="partial", keep=2))
    assert outcome(lambda: client.bulk("1", "2", "3", "4", "5")) == "RemoteProtocolError"
    assert [e["customer_id"] for e in client.running.issued()] == [1, 2]


def test_a_good_token_can_be_refused(client: Client) -> None:
    """498 or 401 once, nothing issued, and the same token is good again."""
    client.running.order(Fault(kind="token_expired"), Fault(kind="unauthorized"))
    assert client.bulk("7").json()["response"]["status"]["code"] == "498"
    assert client.bulk("7").status_code == 401
    assert client.running.issued() == []
    assert client.bulk("7").json()["failureCount"] == 0


def test_connections_can_be_refused_for_a_while(client: Client) -> None:
    """The request is answered, new connections are refused, and later taken on the same port."""
    client.running.order(Fault(kind="close_listener", seconds=0.5))
    answer = client.bulk("7")
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert outcome(lambda: client.bulk("7")) == "ConnectError"
    time.sleep(0.6)
    assert outcome(lambda: client.bulk("7")) == ANSWERED
    assert client.running.stats()["effects"] == 2


def test_faults_choose_their_requests(client: Client) -> None:
    """By number, by count, by route; without a choice the next one; the first ordered strikes first."""
    for fault in (
        {"kind": "status", "name": "third", "status": 500, "nth": [3]},
        {"kind": "status", "name": "twice", "status": 501, "times": 2},
        {"kind": "status", "name": "coupon", "status": 502, "route": "coupon"},
    ):
        assert client.http.post("/_sandbox/faults", json=fault).json() == {"ordered": 1}
    assert [client.bulk("7").status_code for _ in range(4)] == [501, 501, 500, 200]
    assert [client.coupon(id=7).status_code for _ in range(2)] == [502, 200]
    assert client.running.stats()["faults"] == {"third": 1, "twice": 2, "coupon": 1}
    client.http.post("/_sandbox/faults", json=[{"kind": "drop", "rate": 1}])
    assert client.http.get("/_sandbox/faults").json()[-1]["kind"] == "drop"
    client.http.delete("/_sandbox/faults")
    assert client.bulk("7").status_code == 200


@pytest.mark.parametrize(
    "fault", [{"kind": "sulk"}, {"kind": "drop", "rate": 2}, {"kind": "drop", "route": "x"}, {"a": 1}]
)
def test_a_fault_that_means_nothing_is_refused(client: Client, fault: dict[str, Any]) -> None:
    """400 says where, and nothing is ordered."""
    assert client.http.post("/_sandbox/faults", json=fault).status_code == 400
    assert client.http.get("/_sandbox/faults").json() == []


def test_the_same_seed_gives_the_same_faults() -> None:
    """Forty requests at a rate of one half: equal for equal seeds, and after a reset, not for another seed."""
    fault = Fault(kind="status", status=502, rate=0.5)

    def statuses(client: Client) -> list[int]:
        return [client.coupon(id=7).status_code for _ in range(40)]

    with service(seed=1, faults=(fault,)) as client:
        first = statuses(client)
        client.running.reset()
        assert statuses(client) == first
    with service(seed=1, faults=(fault,)) as client:
        assert statuses(client) == first
    with service(seed=2, faults=(fault,)) as client:
        assert statuses(client) != first
    assert {200, 502} == set(first)


# The wire


def test_a_request_that_is_not_whole_does_nothing_and_a_whole_one_is_done_though_the_client_leaves(
    client: Client,
) -> None:
    """A client that dies while sending has issued nothing, one that dies after sending has, however slow we are."""
    whole = raw_request(client, b'{"seriesId":1,"customer":{"id":7}}')
    client.running.order(Fault(kind="slow", when="before", seconds=0.3))
    with connect(client) as died:
        died.sendall(whole[:-1])
    with connect(client) as left:
        left.sendall(whole)
    assert client.running.issued() == []
    time.sleep(0.35)
    assert len(client.running.issued()) == 1


def test_two_requests_in_one_packet_are_answered_in_turn(client: Client) -> None:
    """What comes while an answer is held back waits."""
    whole = raw_request(client, b'{"seriesId":1,"customer":{"id":7}}')
    client.running.order(Fault(kind="slow", when="after", seconds=0.05))
    with connect(client) as wire:
        wire.sendall(whole * 2)
        seen = b""
        while seen.count(b'"code":"SB') < 2:
            seen += wire.recv(65536)
    assert [e["attempt_no"] for e in client.running.issued()] == [1, 2]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", BULK, b"{", 400),
        ("POST", BULK, b'{"customers":null}', 400),
        ("POST", BULK, b'{"bulkAction":"\xff"}', 400),
        ("POST", COUPON, b'{"seriesId":"x"}', 400),
        ("POST", CART, b"[7]", 400),
        ("POST", CART + "?contextId=1", b'["7"]', 400),
        ("POST", "/v2/promotion/other", b"{}", 404),
        ("POST", "/" + CART, b"[7]", 404),
        ("GET", BULK, b"", 404),
    ],
)
def test_what_cannot_be_read_is_refused(client: Client, method: str, path: str, body: bytes, status: int) -> None:
    """Invalid JSON, a wrong type, a missing context id, an unknown path: nothing is issued."""
    url = client.running.base_url + path
    answer = client.http.request(method, url, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert client.running.issued() == []


def test_a_body_that_is_not_said_to_be_json_is_415(client: Client) -> None:
    """The service wants its content type."""
    assert client.http.post(COUPON, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


# The process


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bulkissue.sandbox", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_process_says_where_it_listens_and_ends_cleanly(tmp_path: Path) -> None:
    """One JSON line when it listens; settings and faults files hold; SIGTERM ends it with 0."""
    config, faults = tmp_path / "sandbox.toml", tmp_path / "faults.json"
    config.write_text('requests_per_minute = 9\n[[promotions]]\nid = 5\nrefusal = 8892\n[[faults]]\nkind = "reset"\n')
    faults.write_text('[{"kind": "silence", "rate": 1, "route": "coupon"}]')
    with start("--config", str(config), "--faults", str(faults), "--requests-per-minute", "1") as process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            assert (line["event"], line["pid"]) == ("sandbox.started", process.pid)
            with httpx.Client(base_url=line["base_url"], trust_env=False) as http:
                assert [f["kind"] for f in http.get("/_sandbox/faults").json()] == ["reset", "silence"]
                assert http.get("/_sandbox/stats").json()["effects"] == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()


def test_only_loopback_is_served() -> None:
    """Another address is refused with exit code 2, before anything listens."""
    with start("--host", "0.0.0.0") as process:  # the very thing that must be refused
        _, complaint = process.communicate(timeout=10)
        assert process.returncode == 2
        assert "does not listen on 0.0.0.0" in complaint
    with pytest.raises(UsageRefused), start_thread(Options(host="example.com")):
        pass


@pytest.mark.parametrize(
    "text", ["seed = ", "sneed = 1", "seed = 'x'", "[[faults]]\nkind = 'sulk'", "[[promotions]]\nrefusal = 1"]
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, text: str) -> None:
    """The file is named, and it is trouble with settings."""
    config = tmp_path / "sandbox.toml"
    config.write_text(text)
    with pytest.raises(SettingsRefused, match=r"sandbox\.toml"):
        load(config)
