"""
The table of actions: one line for each thing a job can do to its customers.

It lies below `service`, because the job file is checked by it before any endpoint is known; it knows routes and
read-backs by name, and `service.routes` and `service.readers` bind each name to its module. A new action is a line
here, a module there, and a file of the stand-in. Rows per request, proof and codes that stop a run are the endpoint's
own: they stand in its module, once for all actions that take this route.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a job does to its customers."""

    ENROL = "enrol"
    EARN = "earn"
    ISSUE = "issue"
    CART = "cart"
    COUPON = "coupon"


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What is to be known of an action.

    Attributes:
        effect: What it does to a customer, in targets and in `service.readers`. Two actions may share one.
        routes: Route by identifier type; a type that is left out cannot be carried.
        needs: Keys of `[target]` that must be there.
        allows: Keys of `[target]` that may be there besides.
        numbered: Routes by identifier type besides, where `promotion_id` is given (and so is a number).
        either: Of these keys of `[target]` one at least must be there.
        text_id: `promotion_id` is text, and not a number.
    """

    effect: str
    routes: Mapping[str, str]
    needs: tuple[str, ...]
    allows: tuple[str, ...] = ()
    numbered: Mapping[str, str] | None = None
    either: tuple[str, ...] = ()
    text_id: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of `[target]` that the action reads."""
        return self.needs + self.either + self.allows


_KNOWN_TO_BULK = ("id", "mobile", "email")
_ALL = (*_KNOWN_TO_BULK, "external_id")
_BULK = dict.fromkeys(_KNOWN_TO_BULK, "bulk")
_EITHER = ("promotion_id", "promo_identifier")

ACTIONS: dict[Action, Facts] = {
    Action.ENROL: Facts("enrol", _BULK, ("program_id",), either=_EITHER),
    # The bulk endpoint knows no external ids; the single one needs a numeric promotion id and only earns.
    Action.EARN: Facts("earn", _BULK, ("program_id",), either=_EITHER, numbered={"external_id": "single"}),
    # Another road to `earn`. The identifier is for its history only.
    Action.ISSUE: Facts(
        "earn", dict.fromkeys(_ALL, "single"), ("program_id", "promotion_id"), allows=("promo_identifier",)
    ),
    Action.CART: Facts("cart", {"id": "cart"}, ("promotion_id",), allows=("context_id",), text_id=True),
    Action.COUPON: Facts("coupon", dict.fromkeys(_ALL, "coupon"), ("series_id",)),
}

#: What becomes of a customer, in the order of the table, each once.
EFFECTS: tuple[str, ...] = tuple(dict.fromkeys(facts.effect for facts in ACTIONS.values()))
