"""
The service's routes: what each request asks, and what is answered, from the books.

Pure but for the books it is given: no sockets, no clock. Shapes, codes and words are those of the reference pages;
where they are silent a comment says `not documented`. It must never answer for an effect the books have not written.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import groupby
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from bulkissue.sandbox.books import DOUBTFUL_PROMOTIONS, Books, Effect, Finding, Known, Offer, Who
from bulkissue.sandbox.options import EffectName, Options, Promotion
from bulkissue.sandbox.traffic import Door

_JSON = "application/json;charset=UTF-8"
_HTML = "text/html"
_XML = "application/xml"

#: FACTS §5 and §6: the two promotion routes do not know the same sources.
_BOTH_SOURCES = frozenset(
    ("FACEBOOK", "WEB_ENGAGE", "INSTORE", "MARTJACK", "TMALL", "TAOBAO", "JD", "ECOMMERCE", "WEBSITE", "LINE"),
)
BULK_SOURCES = _BOTH_SOURCES | {"ALL"}
SINGLE_SOURCES = _BOTH_SOURCES | {"MOBILE_APP"}

#: The service's identifier names, and ours.
_NAMES = {"id": "id", "mobile": "mobile", "email": "email", "externalId": "external_id", "cuid": "id"}

_MESSAGES = {
    400: "invalid input",
    415: "unsupported media type, application/json is expected",
    405: "no such resource",
    404: "Passed promotion is not found",
    500: "all requests have failed",
    521: "Multiple actions are running for the same customer. Please try after some time",
    678: "could not issue some coupons",
    701: "customer not found",
    702: "coupon queue is being filled",
    706: "promotion expired",
    707: "invalid coupon series",
    708: "maximum earn per customer exceeded",
    709: "user already has a coupon",
    710: "error saving earned promotion",
    712: "coupon series has expired",
    713: "coupon has expired",
    722: "unable to issue coupon",
    756: "seriesId is missing",
    1040: "An active issue already exists",
    1060: "batch limit size exceeded",
    1101: "invalid programId passed",
    1212: "invalid entity type",
    5001: "max create for series exceeded",
    5002: "max coupons per user exceeded",
    5004: "only one coupon allowed per user",
    5005: "coupon queue is empty",
    5006: "could not issue coupon",
    8003: "invalid source",
    8013: "identifier is missing",
    8015: "Customer not found for the given identifiers",
    8069: "merged customer",
    8874: "promotion id passed is invalid",
    8881: "Insufficient parameters passed; program ID and one of the promotion ID/identifiers are required",
    8890: "promotion not issued due to config issues or customer exhausted limits",
    8892: "promotion is inactive",
    8896: "Error occurred while issuing promotion to the customer",
    8899: "Cannot enrol/issue to the user group.",
    8901: "invalid entity type passed",
    8902: "bulk action passed not supported for loyalty/generic promotion type",
    11013: "identifierName, identifierValue, source can not be empty",
}

_PATHS = {
    "/v3/oauth/token/generate": ("token", "POST"),
    "/v2/promotion/bulk/enrolAndEarn": ("bulk", "POST"),
    "/v2/promotion/issue": ("single", "POST"),
    "/v2/coupon/issue": ("coupon", "POST"),
    "/v2/customers/lookup/promotionData": ("promotion_data", "GET"),
    "/v2/customers/coupons": ("coupons", "GET"),
    "/v2/customers/lookup": ("lookup", "GET"),
}
_CART = "/api_gateway/v1/promotions/"
_CART_READ = _CART + "customer/"
_PAGE_DEFAULT = 10


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came: header names in lower case, the query decoded."""

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """
    A request read, and not yet done.

    Attributes:
        customers: Whom it would issue to; empty for reads and refusals.
        act: Does it at a time, for the first so many customers or for all, and gives the answer.
    """

    customers: frozenset[int]
    act: Callable[[float, int | None], Answer]


def call_of(number: int, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
    """A request from its request line and headers; a plus in the query is a space, as forms have it."""
    path, _, query = target.partition("?")
    return Call(number, method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, body)


def json_answer(status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A value as JSON."""
    return Answer(status, msgspec.json.encode(value), headers=headers)


def said(code: int) -> dict[str, Any]:
    """An entry of `errors` or `warnings`."""
    return {"status": False, "code": code, "message": _MESSAGES.get(code, "refused")}


def refused(status: int, code: int) -> Answer:
    """A v2 refusal of a whole request, in the generic shape."""
    return json_answer(status, {"errors": [said(code)], "warnings": []})


def page_of_html(status: int) -> Answer:
    """What an edge in front of the service shows."""
    text = f"<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>\n"
    return Answer(status, text.encode(), _HTML)


#: What is said where nothing was done.
FELL_OVER = refused(500, 500)

#: What a request asks that may not ask anything.
NOTHING = Work(frozenset(), lambda _now, _keep: FELL_OVER)


def route_of(call: Call) -> str:
    """The route's name; empty where the service has none of that path and method."""
    known = _PATHS.get(call.path)
    if known is None and call.path.startswith(_CART_READ) and "/" not in call.path[len(_CART_READ) :]:
        known = ("cart_read", "GET")
    elif known is None and call.path.startswith(_CART) and call.path.endswith("/issueBulk"):
        known = ("cart", "POST")
    return known[0] if known is not None and known[1] == call.method else ""


class _Customer(msgspec.Struct, rename="camel"):
    identifier_value: str = ""
    source: str = ""


class _Details(msgspec.Struct, rename="camel"):
    program_id: int | None = None
    promotion_id: int | None = None
    promo_identifier: str | None = None


class _BulkBody(msgspec.Struct, rename="camel"):
    type: str = ""
    bulk_action: str = ""
    promotion_details: _Details = msgspec.field(default_factory=_Details)
    identifier_name: str = ""
    customers: list[_Customer] = []


class _CouponCustomer(msgspec.Struct, rename="camel"):
    id: int | str | None = None
    mobile: str | None = None
    external_id: str | None = None
    email: str | None = None


class _CouponBody(msgspec.Struct, rename="camel"):
    series_id: int | None = None
    customer: _CouponCustomer = msgspec.field(default_factory=_CouponCustomer)


class _TokenBody(msgspec.Struct):
    key: str = ""
    secret: str = ""


_read_bulk = msgspec.json.Decoder(_BulkBody).decode
_read_single = msgspec.json.Decoder(_Details).decode
_read_cart = msgspec.json.Decoder(list[int]).decode
_read_coupon = msgspec.json.Decoder(_CouponBody).decode
_read_token = msgspec.json.Decoder(_TokenBody).decode


class Service:
    """
    The routes over one set of books.

    Args:
        options: Limits, quirks and undocumented statuses.
        books: What is issued, and to whom.
        door: Who is let in.
    """

    def __init__(self, options: Options, books: Books, door: Door) -> None:
        self._options = options
        self._books = books
        self._door = door
        self._zone = timezone(timedelta(minutes=options.utc_offset_minutes))
        self._routes: dict[str, Callable[[Call], Work]] = {
            "token": self._token,
            "bulk": self._bulk,
            "single": self._single,
            "cart": self._cart,
            "coupon": self._coupon,
            "promotion_data": self._promotion_data,
            "cart_read": self._cart_read,
            "coupons": self._coupons,
            "lookup": self._lookup,
        }

    # Before a request is read

    def throttles(self, wait: float) -> Answer:
        """The 429 for who has to wait so many seconds. Its body is not documented."""
        headers = (("Retry-After", str(math.ceil(wait))),) if self._options.retry_after else ()
        if self._options.throttle_body == "html":
            return Answer(429, page_of_html(429).body, _HTML, headers)
        if self._options.throttle_body == "empty":
            return Answer(429, b"", _JSON, headers)
        return json_answer(429, {"errors": [{"status": False, "code": 429, "message": "rate limit exceeded"}]}, headers)

    def turns_away(self, call: Call, now: float) -> Answer | None:
        """The answer to credentials that will not do, if they will not."""
        code = self._door.refuses(call.headers, now)
        return self.turned_away(code, now) if code else None

    def turned_away(self, code: int, now: float) -> Answer:
        """401 as XML, or code 498 in the v1 envelope."""
        if code == 498:
            message = f"Token expired at {_iso(now)}"
            status = {"success": "false", "code": "498", "message": message}
            return json_answer(self._options.expired_status, {"response": {"status": status}})
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><response><status><success>false</success>'
            "<code>401</code><message>Invalid credentials</message></status></response>"
        )
        return Answer(401, text.encode(), _XML)

    # Reading a request

    def read(self, route: str, call: Call) -> Work:
        """What a request asks, checked, and not yet done."""
        if call.method == "POST" and "application/json" not in call.headers.get("content-type", ""):
            return _only(refused(415, 415))
        try:
            return self._routes[route](call)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _only(refused(400, 400))

    def _token(self, call: Call) -> Work:
        body = _read_token(call.body)
        if not body.key or not body.secret or body.secret == "wrong":  # noqa: S105  # a magic value, no secret
            refusal = [{"code": 320001, "message": "Invalid client key and secret"}]
            return _only(json_answer(401, {"data": None, "errors": refusal}))

        def act(now: float, _keep: int | None) -> Answer:
            data = {"accessToken": self._door.token(now), "ttlSeconds": int(self._options.token_ttl)}
            return json_answer(200, {"data": data, "errors": None})

        return Work(frozenset(), act)

    def _bulk(self, call: Call) -> Work:
        body = _read_bulk(call.body)
        details = body.promotion_details
        effect: EffectName = "enrol" if body.bulk_action == "ENROL" else "earn"
        code = 0
        if len(body.customers) > self._options.batch_limit:
            code = 1060
        elif body.type != "CUSTOMER":
            code = 8901
        elif body.bulk_action not in {"ENROL", "EARN"}:
            return _only(refused(400, 400))  # not documented
        elif not details.program_id or not (details.promotion_id or details.promo_identifier):
            code = 8881
        elif body.identifier_name not in {"id", "mobile", "email"} or not body.customers:
            code = 11013
        if code:
            return _only(self._bulk_refused(code))
        promotion = self._books.promotion(details.promotion_id or 0, details.promo_identifier or "")
        program_id = details.program_id or 0
        code = self._books.loyalty_refusal(effect, program_id, promotion)
        if code:
            return _only(self._bulk_refused(code))
        named = {"promotionId": promotion.id} if details.promotion_id else {"promoIdentifier": details.promo_identifier}
        offer = self._books.loyalty_offer(effect, program_id, promotion)
        knowns = [self._known(body.identifier_name, c.identifier_value, c.source, BULK_SOURCES) for c in body.customers]

        def act(now: float, keep: int | None) -> Answer:
            doubtful = self._options.magic and str(details.promotion_id or details.promo_identifier)
            if doubtful == DOUBTFUL_PROMOTIONS[0]:
                return self._bulk_refused(8896)
            findings = self._issue(offer, knowns[:keep], now, call, "bulk")
            if doubtful == DOUBTFUL_PROMOTIONS[1]:
                return self._bulk_refused(8896)
            items = [_bulk_item(f, offer, named, program_id) for f in findings]
            failures = sum(1 for item in items if item["errors"])
            status = self._options.refusal_status if failures == len(items) else 200
            return json_answer(status, {"response": items, "totalCount": len(items), "failureCount": failures})

        return Work(_ids(knowns), act)

    def _bulk_refused(self, code: int) -> Answer:
        item = {"errors": [said(code)], "warnings": []}
        return json_answer(self._options.refusal_status, {"response": [item], "totalCount": 1, "failureCount": 1})

    def _single(self, call: Call) -> Work:
        body = _read_single(call.body)
        name, value, source = (call.query.get(key, "") for key in ("identifierName", "identifierValue", "source"))
        promotion = self._books.promotion(body.promotion_id or 0, "")
        program_id = body.program_id or 0
        known = self._known(name, value, source, SINGLE_SOURCES, call.query.get("accountId", ""))
        code = known.refusal if known.refusal != 8015 else 0
        if call.query.get("type", "CUSTOMER") != "CUSTOMER":
            code = 1212
        elif not code and not program_id:
            code = 1101
        elif not code and not body.promotion_id:
            code = 8874
        code = code or self._books.loyalty_refusal("earn", program_id, promotion) or known.refusal
        if code:
            return _only(self._single_refused(code))
        offer = self._books.loyalty_offer("earn", program_id, promotion)

        def act(now: float, keep: int | None) -> Answer:
            doubtful = str(promotion.id) if self._options.magic else ""
            if doubtful == DOUBTFUL_PROMOTIONS[0]:
                return self._single_refused(8896)
            findings = self._issue(offer, [known][:keep], now, call, "single")
            if doubtful == DOUBTFUL_PROMOTIONS[1]:
                return self._single_refused(8896)
            return self._single_found(findings[0], program_id, promotion) if findings else refused(500, 500)

        return Work(_ids([known]), act)

    def _single_found(self, found: Finding, program_id: int, promotion: Promotion) -> Answer:
        effects = []
        if found.reference:
            ids = {"issualId": int(found.issual_id), "earnedId": int(found.reference)}
            effects.append({"programId": program_id, **ids, "promotionId": promotion.id, "type": "Points promotion"})
        if found.code and found.code != 8890:
            return self._single_refused(found.code, effects)
        warnings = [said(8890)] if found.code else []
        return json_answer(200, {"warnings": warnings, "errors": [], "sideEffects": effects})

    def _single_refused(self, code: int, effects: list[Any] | None = None) -> Answer:
        answer = {"warnings": [], "errors": [said(code)]}
        if effects:
            return json_answer(200, {**answer, "sideEffects": effects})
        return json_answer(self._options.refusal_status, answer)  # the samples of refusals have no sideEffects

    def _cart(self, call: Call) -> Work:
        promotion_id = call.path[len(_CART) : -len("/issueBulk")]
        context_id = call.query.get("contextId", "")
        customers = _read_cart(call.body)
        if not context_id or not customers or len(customers) > self._options.cart_batch_limit:
            code = 1060 if len(customers) > self._options.cart_batch_limit else 400
            return _only(json_answer(400, {"data": None, "errors": [said(code)]}))  # not documented
        code = self._books.cart_refusal(promotion_id)
        if code:
            status = 404 if code == 404 else 409
            return _only(json_answer(status, {"data": None, "errors": [said(code)]}))
        offer = self._books.cart_offer(promotion_id, context_id)
        knowns = [self._books.known(Who("id", str(customer))) for customer in customers]

        def act(now: float, keep: int | None) -> Answer:
            data: dict[str, Any] = {}
            errors = []
            for known, found in zip(knowns, self._issue(offer, knowns[:keep], now, call, "cart"), strict=False):
                if found.code == 8015:
                    errors.append(said(8015))
                elif found.code or found.reference:
                    # A customer listed twice is issued to twice, and stands once in the answer: JSON keys are unique.
                    data[known.who.identifier] = _cart_item(found, offer)
            answer: dict[str, Any] = {"data": data}
            if errors:
                answer["errors"] = errors  # not documented: the shape of partial failure is a guess
            return json_answer(200, answer)

        return Work(_ids(knowns), act)

    def _coupon(self, call: Call) -> Work:
        body = _read_coupon(call.body)
        customer = body.customer
        if isinstance(customer.id, str) and customer.id:
            return _only(refused(400, 400))
        named = [("id", str(customer.id or "")), ("mobile", customer.mobile), ("externalId", customer.external_id)]
        name, value = next(((n, v) for n, v in [*named, ("email", customer.email)] if v), ("", ""))
        known = self._books.known(Who(_NAMES[name], value)) if name and value else None
        series = self._books.series(body.series_id or 0)
        code = 756 if not body.series_id else series.refusal or (701 if known is None else known.refusal)
        if code or known is None:
            return _only(self._coupon_refused(code))
        offer = self._books.coupon_offer(series.id)

        def act(now: float, keep: int | None) -> Answer:
            findings = self._issue(offer, [known][:keep], now, call, "coupon")
            found = findings[0] if findings else Finding()
            if found.code and not found.reference:
                return self._coupon_refused(found.code)
            answer = _coupon_answer(found, series.id, known)
            return json_answer(200, answer | {"errors": [said(found.code)]} if found.code else answer)

        return Work(_ids([known]), act)

    def _coupon_refused(self, code: int) -> Answer:
        return json_answer(self._options.refusal_status, {"errors": [said(code)]})

    def _known(self, name: str, value: str, source: str, sources: frozenset[str], account_id: str = "") -> Known:
        who = Who(_NAMES.get(name, ""), value, source, account_id)
        if name not in _NAMES or name == "cuid" or not value or source not in sources:
            return Known(who, 0, refusal=11013)
        return self._books.known(who)

    def _issue(self, offer: Offer, knowns: list[Known], now: float, call: Call, route: str) -> list[Finding]:
        return [self._books.issue(offer, known, now, route=route, request_no=call.number) for known in knowns]

    # Reading back

    def _lookup(self, call: Call) -> Work:
        known = self._asked(call)
        if known.refusal:
            return _only(refused(self._options.refusal_status, known.refusal))
        warnings = [said(8069)] if known.merged else []
        return _only(json_answer(200, {"entity": known.customer, "warnings": warnings}))

    def _promotion_data(self, call: Call) -> Work:
        known = self._asked(call)
        if known.refusal:
            return _only(refused(self._options.refusal_status, known.refusal))
        limit, offset = self._page(call)

        def act(now: float, _keep: int | None) -> Answer:
            listed = self._promotions_of(known.customer, call.query, now)
            pages = {
                "pageNumber": offset // limit + 1,
                "pageSize": limit,
                "totalEntries": len(listed),
                "pageCount": -(-len(listed) // limit),
            }
            shown = listed[offset : offset + limit]
            return json_answer(
                200, {"pageDetails": pages, "customerId": known.customer, "promotions": shown, "warnings": []}
            )

        return Work(frozenset(), act)

    def _promotions_of(self, customer: int, query: Mapping[str, str], now: float) -> list[dict[str, Any]]:
        programs = {p.strip() for p in query.get("programs", "").split(",") if p.strip()}
        status = query.get("promotionStatusForCustomer", "")
        kind = query.get("promotionType", "")
        effects = self._books.visible(customer, ("enrol", "earn"), now)
        by_promotion = sorted(effects, key=lambda e: (e.offer.key, e.seq))
        listed = []
        for _, group in groupby(by_promotion, key=lambda e: e.offer.key):
            of_one = list(group)
            target = of_one[0].offer.target
            its_kind = "ENROL_AND_ISSUE" if any(e.offer.effect == "enrol" for e in of_one) else "DIRECT_ISSUE"
            timelines = self._timelines(of_one)
            wanted = [t for t in timelines if status in {"", _status_of(t)}]
            if (programs and str(target["program_id"]) not in programs) or kind not in {"", its_kind} or not wanted:
                continue
            entry: dict[str, Any] = {
                "promotionId": target["promotion_id"],
                "programId": target["program_id"],
                "identifier": target["promo_identifier"],
                "active": True,
                "pointsOfferType": "LOYALTY",
                "promotionRestriction": {"issualRestrictions": self._restrictions(of_one)},
            }
            if status or self._options.timelines == "always":
                entry["customerPromotionTimelines"] = wanted
            listed.append(entry)
        return listed

    def _restrictions(self, effects: list[Effect]) -> list[dict[str, Any]]:
        target = effects[0].offer.target
        limit = self._books.promotion(target["promotion_id"], "").limit_per_customer
        used = sum(1 for e in effects if e.offer.effect == "earn")
        return [{"kpi": "NUMBER_OF_ISSUALS", "maxLimit": limit, "currentCustomerUsage": used}] if limit else []

    def _timelines(self, effects: list[Effect]) -> list[dict[str, Any]]:
        # What writing calls issual is an enrolment here, and what writing calls earned is an issual.
        timelines: dict[str, dict[str, Any]] = {}
        for e in effects:
            start = {"enrollmentId": int(e.issual_id), **self._dates("enrollmentDate", e.at), "issuedDetails": []}
            timeline = timelines.setdefault(e.issual_id, start)
            if e.offer.effect == "earn":
                timeline["issuedDetails"].append({"issualId": int(e.reference), **self._dates("issualDate", e.at)})
        return list(timelines.values())

    def _coupons(self, call: Call) -> Work:
        asked = [
            (_NAMES[name], call.query[name]) for name in ("id", "mobile", "email", "externalId") if call.query.get(name)
        ]
        known = self._books.known(Who(*asked[0])) if asked else None
        if known is None or known.refusal:
            return _only(refused(self._options.refusal_status, 8015 if known else 8013))
        limit, offset = self._page(call)
        customer = known.customer

        def act(now: float, _keep: int | None) -> Answer:
            found = self._books.visible(customer, ("coupon",), now)
            found.sort(key=lambda e: (e.at, e.seq), reverse=call.query.get("sort_order", "DESC").upper() == "DESC")
            coupons = [
                {
                    "code": e.reference,
                    "seriesId": e.offer.target["series_id"],
                    "id": e.seq,
                    "status": "ACTIVE",
                    **self._dates("createdDate", e.at),
                    "validTill": _iso(e.valid_till),
                    "issuedAt": {"code": "sandbox", "name": "stand-in till"},
                }
                for e in found[offset : offset + limit]
            ]
            pagination = {"limit": str(limit), "offset": str(offset), "total": len(found)}
            entity = {"pagination": pagination, "customers": [{"id": customer, "coupons": coupons}]}
            return json_answer(200, {"entity": entity, "warnings": [], "errors": [], "success": True})

        return Work(frozenset(), act)

    def _cart_read(self, call: Call) -> Work:
        value = call.path[len(_CART_READ) :]
        known = self._books.known(Who("id", value))
        if known.refusal:
            return _only(json_answer(404, {"data": None, "errors": [said(8015)]}))
        asked = call.query.get("limit", "")
        limit = min(int(asked), self._options.page_limit) if asked.isdecimal() else _PAGE_DEFAULT
        only_active = call.query.get("isIncludeActivePromotionsOnly", "").lower() == "true"

        def act(now: float, _keep: int | None) -> Answer:
            found = [
                e for e in self._books.visible(known.customer, ("cart",), now) if not only_active or e.valid_till > now
            ]
            found.sort(key=lambda e: e.valid_till, reverse=True)
            # No context id and no paging data: the documented samples have neither.
            data = [
                {
                    "earnedPromotionId": e.reference,
                    "promotionId": e.offer.key,
                    "customerId": e.customer_id,
                    "earnedType": "BULK_ISSUE",
                    "earnedStatus": "EARNED",
                    "promotionStatus": "ACTIVE" if e.valid_till > now else "EXPIRED",
                    "validTill": round(e.valid_till * 1000),
                    "eventTime": round(e.at * 1000),
                    **(
                        {"validTillISO": _iso(e.valid_till), "eventTimeISO": _iso(e.at)}
                        if self._options.iso_twins
                        else {}
                    ),
                }
                for e in found[:limit]
            ]
            return json_answer(200, {"data": data, "errors": []})

        return Work(frozenset(), act)

    def _asked(self, call: Call) -> Known:
        name, value, source = (call.query.get(key, "") for key in ("identifierName", "identifierValue", "source"))
        who = Who(_NAMES.get(name, ""), value, source)
        if name not in _NAMES or not value:
            return Known(who, 0, refusal=8013)
        if source not in BULK_SOURCES | SINGLE_SOURCES:
            return Known(who, 0, refusal=8003)
        return self._books.known(who)

    def _page(self, call: Call) -> tuple[int, int]:
        limit, offset = call.query.get("limit", ""), call.query.get("offset", "")
        asked = int(limit) if limit.isdecimal() and int(limit) else _PAGE_DEFAULT
        return min(asked, self._options.page_limit), int(offset) if offset.isdecimal() else 0

    def _dates(self, name: str, at: float) -> dict[str, str]:
        local = datetime.fromtimestamp(at, self._zone).replace(microsecond=0)
        old = local.isoformat() if self._options.offset_in_dates else local.replace(tzinfo=None).isoformat()
        return {name: old, f"{name}ISO": _iso(at)} if self._options.iso_twins else {name: old}


def _only(answer: Answer) -> Work:
    return Work(frozenset(), lambda _now, _keep: answer)


def _ids(knowns: list[Known]) -> frozenset[int]:
    return frozenset(known.customer for known in knowns if known.customer)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _status_of(timeline: dict[str, Any]) -> str:
    return "AVAILABLE_TO_REDEEM" if timeline["issuedDetails"] else "AVAILABLE_TO_EARN"


def _bulk_item(found: Finding, offer: Offer, named: dict[str, Any], program_id: int) -> dict[str, Any]:
    warned = found.code == 8890
    item: dict[str, Any] = {"errors": [said(found.code)] if found.code and not warned else []}
    item["warnings"] = [said(8890)] if warned else []
    if item["errors"] and not found.reference:
        return item
    result: dict[str, Any] = {"entityType": "CUSTOMER", "entityId": found.customer, **named, "programId": program_id}
    if found.reference:
        result["issualId"] = found.issual_id
        if offer.effect == "earn":
            result["earnedId"] = found.reference
    return {"result": result, **item}


def _cart_item(found: Finding, offer: Offer) -> dict[str, Any]:
    item: dict[str, Any] = {"customerId": found.customer, "promotionId": offer.key}
    if found.reference:
        item = {
            "id": found.reference,
            **item,
            "earnedFromId": offer.target["context_id"],
            "eventTime": round(found.at * 1000),
            "validTill": round(found.valid_till * 1000),
        }
    if found.code:
        item["error"] = {"code": found.code, "message": said(found.code)["message"]}
    return item


def _coupon_answer(found: Finding, series_id: int, known: Known) -> dict[str, Any]:
    named = (
        []
        if known.who.identifier_type == "id"
        else [
            {
                "type": "externalId" if known.who.identifier_type == "external_id" else known.who.identifier_type,
                "value": known.who.identifier,
            },
        ]
    )
    profile = {
        "firstName": "Sandbox",
        "lastName": "Customer",
        "fields": {},
        "allFields": {},
        "identifiers": named,
        "commChannels": [],
        "userId": found.customer,
        "accountId": "",
        "autoUpdateTime": "2024-06-25T06:51:13Z",
        "identifiersAll": named,
    }
    return {
        "code": found.reference,
        "seriesId": series_id,
        "description": "Stand-in coupon",
        "discountCode": "sandbox",
        "validTill": _iso(found.valid_till),
        "discountType": "ABS",
        "discountValue": 500.0,
        "discountUpto": 0.0,
        "discountOn": "BILL",
        "detailedInfo": "",
        "customer": {"id": found.customer, "profiles": [profile]},
        "redemptionCount": 0,
        "id": 0,
        "warnings": [],
    }
