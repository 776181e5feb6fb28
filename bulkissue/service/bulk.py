"""
POST /v2/promotion/bulk/enrolAndEarn: enrol up to 100 customers in a promotion, or let them earn it.

The answer names no mobile and no email, so for those the order of its items is trusted; for customer
ids the items' own `entityId` is. Nothing here may give one customer's proof to another row.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from bulkissue.exchange import Batch, Reply, Request
from bulkissue.service.answer import (
    UNREADABLE,
    PromotionOrSeries,
    Proven,
    Reading,
    Statement,
    as_id,
    as_text,
    complaints,
    differs,
    unreadable,
    whole_errors,
)

PATH = "/v2/promotion/bulk/enrolAndEarn"
SPELLING = {"id": "id", "mobile": "mobile", "email": "email"}
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
    "ALL",
)
MAX_ROWS = 100
DOUBTFUL = frozenset({"8896"})
STOPPING = frozenset({"1101", "8874", "8892", "8902", "8901", "8881", "8899", "1212", "4000", "11013"})
WHOLE = frozenset({"1101", "8874", "8881", "8892", "8899", "8901", "8902", "1060"})

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_NO_ID = re.compile(r"(?i)(?:^|,)(?:0+|null|none|undefined|nan)(?:,|$)")
_encode = msgspec.json.Encoder().encode


class _Customer(msgspec.Struct, gc=False):
    identifierValue: str  # noqa: N815 - the service's spelling
    source: str


class _Result(msgspec.Struct, gc=False):
    # Of any type, so that an odd field costs no proof beside it.
    entityId: object = None  # noqa: N815
    promotionId: object = None  # noqa: N815
    promoIdentifier: object = None  # noqa: N815
    programId: object = None  # noqa: N815
    issualId: object = None  # noqa: N815
    earnedId: object = None  # noqa: N815


class _Item(msgspec.Struct, gc=False):
    result: _Result | None = None
    errors: object = None
    warnings: object = None


class _Answer(msgspec.Struct):
    response: list[_Item]
    failureCount: object = None  # noqa: N815


class _LooseAnswer(msgspec.Struct):
    response: list[msgspec.Raw]
    failureCount: object = None  # noqa: N815


_decode = msgspec.json.Decoder(_Answer).decode
_decode_loose = msgspec.json.Decoder(_LooseAnswer).decode
_decode_item = msgspec.json.Decoder(_Item).decode


def request(batch: Batch, to_issue: PromotionOrSeries) -> Request:
    """The request for this batch; by promotion id where the job has one, else by its identifier."""
    details: dict[str, object] = {"programId": int(to_issue.program_id)}
    if to_issue.promotion_id:
        details["promotionId"] = int(to_issue.promotion_id)
    else:
        details["promoIdentifier"] = to_issue.promo_identifier
    body = {
        "type": "CUSTOMER",
        "bulkAction": to_issue.effect.upper(),
        "promotionDetails": details,
        "identifierName": SPELLING[batch.identifier_type],
        "customers": msgspec.Raw(_customers(batch.identifiers, batch.sources)),
    }
    return Request("POST", PATH, body=_encode(body))


def _customers(identifiers: list[str], sources: list[str]) -> bytes:
    """A JSON list of `_Customer`. An object for each costs twice as much, and most batches have one source."""
    values = _encode(identifiers)
    source = sources[0]
    # Without a backslash no identifier holds a quote, so behind the first quote these three bytes end one and begin
    # the next.
    if b"\\" in values or sources.count(source) != len(sources):
        return _encode(list(map(_Customer, identifiers, sources)))
    rest = b'"source":%b}' % _encode(source)
    between = b'",%b,{"identifierValue":"' % rest
    return b'[{"identifierValue":"%b,%b]' % (values[2:-1].replace(b'","', between), rest)


def read(reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
    """
    What the answer states of each row.

    As many items as customers: by position, held against `entityId` where ids were sent. One item for
    several customers: an error for the whole request. Any other length: only what `entityId` proves.
    """
    proven = _proven(reply.body, batch, to_issue)
    return Reading([], proven) if proven is not None else _item_by_item(reply, batch, to_issue)


def _item_by_item(reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
    try:
        items, failure_count = _items(reply.body)
    except UNREADABLE:
        return unreadable(len(batch.rows), reply.body)
    statements = [None if item is None else _statement(item, to_issue) for item in items]
    proofs = [statement.proof for statement in statements if statement and statement.proof]
    if len(set(proofs)) < len(proofs):
        statements = _without_shared_proof(statements)
    notes = _count_notes(statements, failure_count)
    sent = batch.identifiers
    if len(items) == len(sent):
        if batch.identifier_type != "id":
            return Reading(list(statements), notes=notes)
        return _by_position_and_id(statements, sent, notes)
    if len(items) == 1 and (only := statements[0]) is not None and only.errors and not only.proof:
        return Reading([None] * len(sent), whole=only.errors, one_item=True, notes=notes)
    if not items and (whole := whole_errors(reply.body)):
        return Reading([None] * len(sent), whole=whole, notes=notes)
    notes = (*notes, f"{len(items)} items for {len(sent)} customers")
    if batch.identifier_type != "id":
        return Reading([None] * len(sent), notes=notes)
    return Reading(_by_id(statements, sent), notes=notes)


def _proven(body: bytes, batch: Batch, to_issue: PromotionOrSeries) -> Proven | None:
    """
    The answer's proofs, where every customer was issued and nothing else was said; None where anything is otherwise.

    Nearly all answers are so, and what the rest of this module asks item by item is asked of them at once.
    """
    try:
        items = _plain_success(to_issue)(body).response
    except UNREADABLE:
        return None
    results = [item.result for item in items]
    proofs: list[str] = [result.proof for result in results]
    customer_ids = [str(result.customer) for result in results]
    if len(items) != len(batch.rows) or len(set(proofs)) < len(proofs):
        return None
    together = "".join(proofs)  # a proof that `as_id` would change is left to it
    if not (together.isascii() and together.isalnum()) or _NO_ID.search(",".join(proofs)):
        return None
    if batch.identifier_type == "id" and customer_ids != batch.identifiers:
        return None
    return Proven(proofs, customer_ids)


@functools.cache
def _plain_success(to_issue: PromotionOrSeries) -> Callable[[bytes], Any]:
    """A decoder that refuses any answer in which an item is not a plain success of what is issued."""
    nothing = tuple[()] | None  # an empty list, of which msgspec makes no object
    result: list[Any] = [
        ("proof", Annotated[str, msgspec.Meta(min_length=1)]),
        ("customer", Annotated[int, msgspec.Meta(gt=0)]),
    ]
    for name, ours in (
        ("promotionId", to_issue.promotion_id),
        ("promoIdentifier", to_issue.promo_identifier),
        ("programId", to_issue.program_id),
    ):
        if ours:
            # As `differs` takes it, "071" is not 71. A longer number than msgspec knows is left to `differs`.
            as_number = (int(ours),) if _NUMBER.fullmatch(ours) else ()
            result.append((name, Literal[*as_number, ours] | None, None))
    proof = "issualId" if to_issue.effect == "enrol" else "earnedId"
    result_type = msgspec.defstruct("Result", result, rename={"proof": proof, "customer": "entityId"}, gc=False)
    item_type = msgspec.defstruct(
        "Item", [("result", result_type), ("errors", nothing, None), ("warnings", nothing, None)], gc=False
    )
    answer_type = msgspec.defstruct(
        "Answer",
        [("response", list[item_type]), ("failureCount", Literal[0] | None, None)],  # type: ignore[valid-type]  # made here
    )
    return msgspec.json.Decoder(answer_type).decode


def _items(body: bytes) -> tuple[list[_Item | None], object]:
    try:
        answer = _decode(body)
    except msgspec.ValidationError:
        # One item of an odd shape must not take the others' proof with it.
        loose = _decode_loose(body)
        return [_item(raw) for raw in loose.response], loose.failureCount
    return list(answer.response), answer.failureCount


def _item(raw: msgspec.Raw) -> _Item | None:
    try:
        return _decode_item(raw)
    except UNREADABLE:
        return None


def _statement(item: _Item, to_issue: PromotionOrSeries) -> Statement:
    errors = complaints(item.errors) if item.errors else ()
    warnings = complaints(item.warnings) if item.warnings else ()
    result = item.result
    if result is None:
        return Statement(errors=errors, warnings=warnings)
    return Statement(
        proof=as_id(result.issualId if to_issue.effect == "enrol" else result.earnedId),
        foreign=(
            differs(result.promotionId, to_issue.promotion_id)
            or differs(result.promoIdentifier, to_issue.promo_identifier)
            or differs(result.programId, to_issue.program_id)
        ),
        errors=errors,
        warnings=warnings,
        customer_id=as_text(result.entityId),
    )


def _without_shared_proof(statements: list[Statement | None]) -> list[Statement | None]:
    """A proof that stands twice in one answer is nobody's own: those rows have a statement without meaning."""
    counted = Counter(statement.proof for statement in statements if statement)
    return [
        msgspec.structs.replace(one, foreign=True) if one and one.proof and counted[one.proof] > 1 else one
        for one in statements
    ]


def _by_position_and_id(statements: list[Statement | None], sent: list[str], notes: tuple[str, ...]) -> Reading:
    ids = [statement.customer_id if statement else "" for statement in statements]
    astray = [place for place, own in enumerate(ids) if own and own != sent[place]]
    if not astray:
        return Reading(list(statements), notes=notes)
    if len(astray) == 1:
        own = ids[astray[0]]
        # A merged customer answers under the surviving id. That is one stray among positions that all
        # agree; two strays may as well be a changed order.
        if own not in sent or ids.count(own) > 1:
            return Reading(list(statements), notes=(*notes, "an item names another customer id: merged customers"))
    return Reading(_by_id(statements, sent), notes=(*notes, "the items' order differs from the request's"))


def _by_id(statements: list[Statement | None], sent: list[str]) -> list[Statement | None]:
    seen = Counter(statement.customer_id for statement in statements if statement)
    by_id = {s.customer_id: s for s in statements if s and s.customer_id and seen[s.customer_id] == 1}
    return [by_id.get(identifier) for identifier in sent]


def _count_notes(statements: list[Statement | None], failure_count: object) -> tuple[str, ...]:
    counted = sum(1 for statement in statements if statement is not None and statement.errors)
    if isinstance(failure_count, int) and failure_count != counted:
        return (f"failureCount says {failure_count}, {counted} items carry errors",)
    return ()
