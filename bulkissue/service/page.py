"""
What a reading shows, before anyone decides what it means; and the shapes all read endpoints share.

Nothing here may call a reading whole where something is missing from it, odd, or not said: "none" is
believed only of a reading without a doubt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from bulkissue.exchange import Reply, Request
from bulkissue.service.answer import as_text, whole_errors

#: Entries asked for on each page: the most the documentation allows.
LIMIT = 100
#: There is no customer of that identifier, or not in that source: nothing of theirs can be shown.
NOBODY = frozenset({"8015", "8055", "8056", "8057", "8058", "8064", "8065"})


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A customer to be read back, named as the row was sent.

    Attributes:
        identifier_type: `id`, `mobile`, `email` or `external_id`.
        identifier: Its value.
        source: The service's source name; empty where the row's route has none.
        account_id: Empty where there is none.
    """

    identifier_type: str
    identifier: str = field(repr=False)
    source: str = ""
    account_id: str = field(default="", repr=False)

    @property
    def kind(self) -> tuple[str, str]:
        """What two questions share that differ only in the customer."""
        return self.identifier_type, self.source


@dataclass(frozen=True, slots=True)
class Found:
    """
    One issue of the target that a reading shows.

    Attributes:
        reference: Its id or code, as the writing endpoints call it a proof.
        at: When it was made, epoch milliseconds; None where the date's zone is not known.
        doubt: Why it may be something else than an issue of this target; empty if it is one.
    """

    reference: str = field(repr=False)
    at: int | None
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """
    What one answer shows.

    Attributes:
        found: Issues of the target on it.
        next: The request for the next page; None on the last.
        customer_id: The customer's own id, where the answer tells it.
        readable: It has the endpoint's own shape, or at least a known envelope of errors.
        codes: The service's error codes.
        doubt: Why this page cannot prove that there is nothing else; empty if it can. Never an identifier.
        keys: Every entry on it by name, so that a page which comes twice is seen.
        total: How many entries it says there are on all pages; None where it does not.
        counted: Issues of the target to this customer by the service's own count; 0 where it keeps none.
        names: Other names of the target's promotion that it tells: id, identifier.
    """

    found: tuple[Found, ...] = ()
    next: Request | None = field(default=None, repr=False)
    customer_id: str = ""
    readable: bool = True
    codes: tuple[str, ...] = ()
    doubt: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    total: int | None = None
    counted: int = 0
    names: tuple[str, str] = ("", "")

    @property
    def nobody(self) -> bool:
        """Whether it says that there is no such customer, and nothing else."""
        return bool(self.codes) and NOBODY.issuperset(self.codes)


@dataclass(frozen=True, slots=True)
class Reading:
    """
    All that was read of one customer.

    Attributes:
        at: When it was begun, epoch milliseconds.
        found: Issues of the target, each once.
        customer_ids: What the answers call the customer; empty where they do not say.
        doubt: Why it cannot prove that there is nothing else; empty if it can.
        nobody: The service says that there is no such customer.
        names: As `Page.names`, of all pages.
    """

    at: int
    found: tuple[Found, ...] = ()
    customer_ids: frozenset[str] = frozenset()
    doubt: str = ""
    nobody: bool = False
    names: frozenset[tuple[str, str]] = frozenset()


def unite(at: int, listings: Sequence[Sequence[Page]]) -> Reading:
    """
    One reading from the pages of several listings of the same customer.

    Args:
        at: When it was begun.
        listings: The pages of each listing, in order.
    """
    pages = [page for listing in listings for page in listing]
    found: dict[str, Found] = {}
    for one in (one for page in pages for one in page.found):
        before = found.get(one.reference, one)
        found[one.reference] = replace(
            before, at=one.at if before.at is None else before.at, doubt=before.doubt or one.doubt
        )
    customer_ids = frozenset(page.customer_id for page in pages if page.customer_id)
    doubts = [page.doubt for page in pages if page.doubt]
    doubts += [doubt for listing in listings if (doubt := _doubt_of(listing))]
    if len(customer_ids) > 1:
        doubts.append("its pages name several customers")
    if (counted := max((page.counted for page in pages), default=0)) > len(found):
        doubts.append(f"the service counts {counted} and shows {len(found)}")
    return Reading(
        at,
        tuple(found.values()),
        customer_ids,
        doubts[0] if doubts else "",
        nobody=any(page.nobody for page in pages),
        names=frozenset(page.names for page in pages if any(page.names)),
    )


def _doubt_of(listing: Sequence[Page]) -> str:
    """What is wrong with a listing's pages together."""
    if not listing or listing[-1].next is not None:
        return "not all pages were read"
    if len({page.total for page in listing}) > 1:
        return "it changed while it was read"
    keys = [key for page in listing for key in page.keys]
    return "a page came twice" if len(listing) > 1 and len(set(keys)) < len(keys) else ""


def opened(reply: Reply) -> dict[str, Any] | Page:
    """The answer's JSON object; or the page of an answer that has none, states errors, or says that it failed."""
    errors = whole_errors(reply.body)
    codes = tuple(complaint.code for complaint in errors)
    try:
        tree = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        tree = None
    succeeded = 200 <= reply.status < 300
    if errors or not isinstance(tree, dict) or not succeeded:
        said = ", ".join(code for code in codes if code) or ("" if succeeded else f"HTTP {reply.status}")
        doubt = f"the service answered {said}" if said else "the answer cannot be read"
        return Page(readable=bool(errors) or not succeeded, codes=codes, doubt=doubt)
    return tree


def unreadable_page() -> Page:
    """The page of an answer that says it worked, and has not the endpoint's shape."""
    return Page(readable=False, doubt="the answer cannot be read")


def turned(request: Request, entries: int, total: int | None) -> tuple[Request | None, str]:
    """
    The request for the page behind one of so many entries, and why there is none although there should be.

    Args:
        request: For the page that was read; its query has an `offset`.
        entries: How many stand on it.
        total: How many there are on all pages, by the answer.
    """
    if total is None:
        return None, "it does not say how many entries there are"
    offset = next(int(value) for name, value in request.query if name == "offset")
    if offset + entries >= total:
        return None, "" if offset + entries == total else "it has more entries than it says"
    if not entries:
        return None, "a page is empty before the last"
    query = tuple((name, str(offset + entries) if name == "offset" else value) for name, value in request.query)
    return replace(request, query=query), ""


def whole_number(value: object) -> int | None:
    """A count, as a number or as text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def instant(entry: dict[str, Any], *names: str) -> int | None:
    """Epoch milliseconds of the first of these fields that names an instant; a date without an offset names none."""
    return next((at for name in names if (at := _instant(entry.get(name))) is not None), None)


def _instant(value: object) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return None if moment.tzinfo is None else round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def same(stated: object, ours: str) -> bool:
    """Whether the answer names ours."""
    return bool(ours) and as_text(stated).casefold() == ours.casefold()


def first_of(texts: Iterable[str]) -> str:
    """The first that is not empty."""
    return next((text for text in texts if text), "")
