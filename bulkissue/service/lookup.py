"""
GET /v2/customers/lookup: who the service knows by an identifier.

Says the customer's own id, or why there is none to be said. Nothing here may take an answer that is not understood for
"there is no such customer".
"""

from dataclasses import dataclass, field

import msgspec

from bulkissue.exchange import Reply, Request
from bulkissue.service.answer import UNREADABLE, as_id, complaints, whole_errors
from bulkissue.service.page import NOBODY, Asked

PATH = "/v2/customers/lookup"
#: Asked with where neither the row nor the job names a source: some routes send none, and this one wants one.
SOURCE = "INSTORE"
_SPELLING = {"mobile": "mobile", "email": "email", "external_id": "externalId"}
#: "Merged customer": a warning in some answers, an error in others.
_MERGED = "8069"
#: Refusals of the one identifier: the service knows nobody by it, or not without an account id.
_NO_ID = NOBODY | {_MERGED, "8011", "8013", "8045"}


@dataclass(frozen=True, slots=True)
class Known:
    """
    What an answer says.

    Attributes:
        customer_id: The customer's own id, in digits, of a merged customer the surviving one's; empty where unsaid.
        readable: It has the endpoint's own shape, or a known envelope of errors, or is a plain refusal.
        codes: The service's error codes.
        refusal: The codes as messages name them, or the HTTP status.
    """

    customer_id: str = field(default="", repr=False)
    readable: bool = True
    codes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def settled(self) -> bool:
        """Whether it says who the customer is, or that this cannot be said of this identifier."""
        return bool(self.customer_id) or (bool(self.codes) and _NO_ID.issuperset(self.codes))


def request(asked: Asked) -> Request:
    """The one question there is to ask."""
    query = [
        ("source", asked.source),
        ("identifierName", _SPELLING[asked.identifier_type]),
        ("identifierValue", asked.identifier),
    ]
    if asked.account_id:
        query.append(("accountId", asked.account_id))
    return Request("GET", PATH, tuple(query))


def read(reply: Reply) -> Known:
    """What the answer says."""
    codes = tuple(error.code for error in whole_errors(reply.body))
    try:
        tree = msgspec.json.decode(reply.body)
    except UNREADABLE:
        tree = None
    entity = as_id(tree.get("entity")) if isinstance(tree, dict) else ""
    succeeded = 200 <= reply.status < 300
    if succeeded and entity.isascii() and entity.isdigit() and {_MERGED}.issuperset(codes):
        return Known(str(int(entity)))
    if not codes and isinstance(tree, dict) and not entity:
        codes = tuple(warning.code for warning in complaints(tree.get("warnings")))
    said = ", ".join(code for code in codes if code)
    return Known("", bool(codes) or not succeeded, codes, said or f"HTTP {reply.status}")
