"""
What the service's codes mean, in words for people; and the same for every other reason.

Source: the service's reference pages, and what else is publicly known of it. Pure. Nothing is decided by these words:
what a code does to a row is `send/verdict`'s, and the endpoints', to say.
"""

from bulkissue.outcomes import REASONS

#: Codes of the promotion endpoints and of what all endpoints share.
_SHARED = {
    "498": "the token has expired",
    "521": "another action was running for this customer",
    "1060": "the request has more customers than the service takes",
    "1101": "the program id is invalid",
    "1212": "the entity type is invalid",
    "4000": "the client may not do this",
    "4001": "the service could not tell whether the client may do this",
    "8003": "the source is invalid",
    "8011": "the identifier is invalid",
    "8012": "the source is invalid",
    "8013": "the identifier is missing",
    "8015": "the customer does not exist",
    "8045": "the source needs an account id",
    "8055": "the email is invalid",
    "8056": "the mobile is invalid",
    "8057": "the email is invalid",
    "8058": "the mobile is invalid",
    "8064": "the external id is invalid",
    "8065": "the customer does not exist in this source",
    "8069": "the customer was merged with another",
    "8874": "the promotion id is invalid",
    "8890": "the promotion's settings, or the customer's limit, do not allow it",
    "8892": "the promotion is inactive",
    "8896": "the service failed while issuing",
    "8901": "the entity type is invalid",
    "8902": "this kind of promotion does not support the action",
    "11013": "identifier type, identifier or source is missing",
}
#: Codes of coupons.
_COUPONS = {
    "621": "the customer has as many coupons as the series allows",
    "626": "the series has no coupons left",
    "678": "some coupons could not be issued",
    "679": "the series allows one coupon for a customer",
    "701": "the customer does not exist",
    "702": "the series' coupons are being made",
    "707": "the series is invalid",
    "709": "the customer has a coupon of this series already",
    "712": "the series has expired",
    "713": "the coupons of this series have expired",
    "715": "the organisation is invalid",
    "721": "the customer is invalid",
    "722": "the coupon could not be issued",
    "756": "the series id is missing",
    "5001": "the series has no coupons left",
    "5002": "the customer has as many coupons as the series allows",
    "5004": "the series allows one coupon for a customer",
    "5005": "the series' coupons are being made",
    "5006": "some coupons could not be issued",
}
CODES: dict[str, str] = {**_SHARED, **_COUPONS}

_FAMILIES = {"api": "the service answered with code {}", "http": "the service answered HTTP {}"}


def meaning(reason: str) -> str:
    """
    A reason in words: "the customer does not exist (8015)".

    Args:
        reason: A key of `REASONS`, `api.<code>` or `http.<status>`; of what is none of these nothing is said.
    """
    family, _, code = reason.partition(".")
    if family == "api" and code in CODES:
        return f"{CODES[code]} ({code})"
    if family in _FAMILIES:
        return REASONS.get(reason) or _FAMILIES[family].format(code)
    return REASONS.get(reason, "")
