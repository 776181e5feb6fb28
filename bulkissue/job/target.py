"""
The target: what a run issues, and whether two runs issue the same thing.

History, locks and the refusal of our own ledgers all rest on this comparison, so it must never call
two ways of naming one promotion different.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from bulkissue.job.actions import EFFECTS

_NAME = re.compile(
    rf"(?P<environment>[^/]+)/(?P<effect>{'|'.join(sorted(EFFECTS))})"
    r"/(?P<kind>promotion|promo|series)=(?P<value>[^/]+)(/occasion=(?P<occasion>[^/]+))?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """
    Environment, effect, and the promotion or series, by either of its names.

    Attributes:
        environment: `[api] environment`, else the host of the base URL.
        effect: `enrol`, `earn`, `cart` or `coupon`.
        promotion_id: The numeric id as text, or the cart promotion's id; empty if only the identifier is known.
        promo_identifier: The promotion's external identifier; empty if not given.
        series_id: The coupon series, as text; empty for promotions.
        occasion: Empty, or the way to issue the same thing once more on purpose.
    """

    environment: str
    effect: str
    promotion_id: str = ""
    promo_identifier: str = ""
    series_id: str = ""
    occasion: str = ""

    def names(self) -> list[str]:
        """
        Every name this target goes by, one for each way of naming the promotion.

        Two targets are the same where they share a name. A name is text without spaces, fit for a ledger
        and, being percent-encoded, for a file name once its slashes are folders.
        """
        tail = f"/occasion={_encode(self.occasion)}" if self.occasion else ""
        head = f"{_encode(self.environment)}/{self.effect}"
        known = [
            ("promotion", self.promotion_id),
            ("promo", self.promo_identifier),
            ("series", self.series_id),
        ]
        return [f"{head}/{kind}={_encode(value)}{tail}" for kind, value in known if value]

    def text(self) -> str:
        """All names in one text, as in `_bi_target`: names joined by a space."""
        return " ".join(self.names())

    def describe(self) -> str:
        """The target in words, for messages: `earn promotion 69218 in production`."""
        what = (
            f"series {self.series_id}" if self.series_id else f"promotion {self.promotion_id or self.promo_identifier}"
        )
        occasion = f", occasion {self.occasion}" if self.occasion else ""
        return f"{self.effect} {what} in {self.environment}{occasion}"


def same_target(one: str, other: str) -> bool:
    """Whether two `_bi_target` texts share a name."""
    return not set(one.split()).isdisjoint(other.split())


def parse(text: str) -> Target:
    """
    The target a `_bi_target` text was made from.

    Raises:
        ValueError: No target has exactly this text.
    """
    names = [match for match in map(_NAME.fullmatch, text.split(" ")) if match]
    if not names:
        raise ValueError(f"not a target: {text!r}")
    values = {name["kind"]: unquote(name["value"]) for name in names}
    target = Target(
        environment=unquote(names[0]["environment"]),
        effect=names[0]["effect"],
        promotion_id=values.get("promotion", ""),
        promo_identifier=values.get("promo", ""),
        series_id=values.get("series", ""),
        occasion=unquote(names[0]["occasion"] or ""),
    )
    if target.text() != text:
        raise ValueError(f"not a target: {text!r}")
    return target


def _encode(text: str) -> str:
    # A name becomes a path below the state folder: no part of it may be "." or "..".
    return quote(text, safe="").replace(".", "%2E") if text.startswith(".") else quote(text, safe="")
