"""
What an answer states, before anyone decides what it means; and the shapes all endpoints share.

The service's error lists come in several envelopes, sometimes as XML, and any field may change its
shape. Reading must never turn a stated success into nothing because a field beside it looks odd.
"""

import re
from dataclasses import dataclass

import msgspec

#: What a body that is not what it should be raises when it is read; the last where it is nested without end.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_MESSAGE_LENGTH = 300
_NO_ID = re.compile(r"[-+]?[0.]+|-[0-9.]+|null|none|undefined|nan", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PromotionOrSeries:
    """What is issued, as requests and answers spell it: ids as text, empty where the job has none."""

    effect: str
    program_id: str = ""
    promotion_id: str = ""
    promo_identifier: str = ""
    series_id: str = ""
    context_id: str = ""


class Complaint(msgspec.Struct, frozen=True, gc=False):
    """An error or a warning of the service: its code as text (empty if it gave none) and its words."""

    code: str
    message: str


class Statement(msgspec.Struct, frozen=True, gc=False):
    """
    What an answer states of one row.

    Attributes:
        proof: The id or code that proves the issue; empty if there is none.
        foreign: The proof names another promotion, program or series than ours.
        errors: The row's own errors.
        warnings: The row's own warnings.
        customer_id: The customer's own id.
        valid_till: ISO 8601 or as the service wrote it.
    """

    proof: str = ""
    foreign: bool = False
    errors: tuple[Complaint, ...] = ()
    warnings: tuple[Complaint, ...] = ()
    customer_id: str = ""
    valid_till: str = ""


class Proven(msgspec.Struct, frozen=True, gc=False):
    """An answer that proves every row's issue and says nothing else of any: proofs and customers' own ids, in order."""

    proofs: list[str]
    customer_ids: list[str]


class Reading(msgspec.Struct, frozen=True, gc=False):
    """
    What a whole answer states.

    Attributes:
        statements: One for each row of the batch, in its order; None where nothing can be matched to the row.
        proven: In their place, where every row's statement would be a proof and no more.
        whole: Errors that stand for the request as a whole.
        readable: The body has the endpoint's own shape, or at least a known envelope of errors.
        one_item: `whole` came as the one item of an answer that has an item for each customer.
        unmatched: The reason for the rows without a statement: `answer.missing`, `answer.unmatched` …
        notes: What an operator should hear, without identifiers: counts that differ, customers merged.
    """

    statements: list[Statement | None]
    proven: Proven | None = None
    whole: tuple[Complaint, ...] = ()
    readable: bool = True
    one_item: bool = False
    unmatched: str = "answer.unmatched"
    notes: tuple[str, ...] = ()


def unreadable(rows: int, body: bytes) -> Reading:
    """The reading of a body that has not the endpoint's own shape: only its errors, if any can be found."""
    whole = whole_errors(body)
    return Reading([None] * rows, whole=whole, readable=bool(whole), unmatched="answer.unreadable")


def complaints(value: object) -> tuple[Complaint, ...]:
    """Errors or warnings, whatever they come as: a list of objects, one object, texts, or nothing."""
    if not value:
        return ()
    entries = value if isinstance(value, list) else [value]
    return tuple(_complaint(entry) for entry in entries if entry)


def whole_errors(body: bytes) -> tuple[Complaint, ...]:
    """
    The errors a body states for the whole request, in any envelope the service is known to use.

    `{"errors": […]}`, `{"error": {…}}`, the old `{"response": {"status": {"code": "498"}}}`, a bare
    `{"code": …, "message": …}` or `{"errorCode": …}`, and XML with `<code>` and `<message>`. A bare code counts
    only where it is a number, does not mean success (2xx), and nothing beside it says success: what is an error's
    code in one answer may be a coupon's, or plain good news, in another.
    """
    try:
        tree = msgspec.json.decode(body)
    except UNREADABLE:
        return _xml_errors(body)
    if not isinstance(tree, dict):
        return ()
    listed = complaints(tree.get("errors")) or complaints(tree.get("error"))
    if listed:
        return listed
    response = tree.get("response")
    for place in (response.get("status") if isinstance(response, dict) else None, tree.get("status"), tree):
        if isinstance(place, dict) and _is_refusal(place):
            return (Complaint(as_text(place.get("code", place.get("errorCode"))), clipped(place.get("message"))),)
    return ()


def _is_refusal(place: dict[str, object]) -> bool:
    code = as_text(place.get("code", place.get("errorCode")))
    good_news = any(str(place.get(name)).lower() in {"true", "success"} for name in ("success", "status"))
    return code.isascii() and code.isdigit() and not (len(code) == 3 and code[0] == "2") and not good_news


def as_text(value: object) -> str:
    """A scalar of the service's as text: ids and codes come as numbers or texts. Empty, zero and null are no id."""
    if type(value) is int:  # by far the most frequent, and millions of them
        return str(value) if value else ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    text = str(value).strip()
    return "" if text == "0" else text


def as_id(value: object) -> str:
    """An id or code of an issue or a customer, as text; zero, a negative one and a word for nothing are none."""
    text = as_text(value)
    return "" if _NO_ID.fullmatch(text) else text


def clipped(value: object) -> str:
    """The service's words, one line, bounded."""
    return " ".join(value.split())[:_MESSAGE_LENGTH] if isinstance(value, str) else ""


def differs(stated: object, ours: str) -> bool:
    """Whether the answer names something that is not certainly ours. What either side leaves out does not differ."""
    if stated is None or stated == ours:
        return False
    if isinstance(stated, bool) or not isinstance(stated, int | str):
        return bool(ours)
    text = as_text(stated)
    return bool(text and ours) and text.casefold() != ours.casefold()


def _complaint(entry: object) -> Complaint:
    if isinstance(entry, dict):
        code = as_text(entry.get("code", entry.get("errorCode")))
        return Complaint(code, clipped(entry.get("message")) or clipped(entry.get("errorMessage")))
    return Complaint("", clipped(entry))


def _xml_errors(body: bytes) -> tuple[Complaint, ...]:
    # A regular expression and no parser: the body comes from outside, and only these two elements count.
    if not body.lstrip().startswith(b"<"):
        return ()
    code = re.search(rb"<code>\s*(\d{1,6})\s*</code>", body)
    if code is None:
        return ()
    message = re.search(rb"<message>([^<]{0,500})</message>", body)
    return (Complaint(code[1].decode(), clipped(message[1].decode(errors="replace")) if message else ""),)
