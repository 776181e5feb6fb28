"""
The stand-in's books: who the customers are, what may be issued, and everything that was.

Pure: time comes in as an argument, nothing is sent, and who wants effects stored is handed each. It must never tell of
a proof of issue without having written the effect down first, except where a magic ending asks for exactly that lie.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from bulkissue.sandbox.options import EffectName, Options, Promotion, Series

_DAY = 86_400.0
_VALID_DAYS = 30

#: A mobile as the service knows it: digits with the country code, no plus, no spaces.
_MOBILE_DIGITS = range(9, 16)
_LARGEST_ID = 2**63 - 1


class Fate(Enum):
    """What becomes of an issue to a customer."""

    USUAL = auto()
    MERGED = auto()
    LIMIT = auto()
    DOUBTFUL = auto()
    DOUBTFUL_ISSUED = auto()
    WORDLESS = auto()
    WORDLESS_ISSUED = auto()
    CONTRADICTED = auto()
    CONTRADICTED_ISSUED = auto()


_ENDINGS = {
    "8069": Fate.MERGED,
    "8890": Fate.LIMIT,
    "8896": Fate.DOUBTFUL,
    "8897": Fate.DOUBTFUL_ISSUED,
    "8891": Fate.WORDLESS,
    "8893": Fate.WORDLESS_ISSUED,
    "8895": Fate.CONTRADICTED,
    "8898": Fate.CONTRADICTED_ISSUED,
}
_MISSING_ENDING = "8015"
_COUPON_ENDINGS = {
    "0701": 701,
    "0709": 709,
    "0722": 722,
    "5001": 5001,
    "5002": 5002,
    "5004": 5004,
    "5005": 5005,
    "5006": 5006,
}

_LIMIT_CODE = {"enrol": 8890, "earn": 8890, "cart": 708, "coupon": 5002}
_EXHAUSTED_CODE = _LIMIT_CODE | {"coupon": 5001}
_DOUBT_CODE = {"enrol": 8896, "earn": 8896, "cart": 710, "coupon": 5006}
_BESIDE_CODE = _DOUBT_CODE | {"cart": 1040}

_REFUSED_PROMOTIONS = ("8874", "8892", "8899")
_REFUSED_SERIES = (707, 712, 713, 756, 5001)

#: Promotions whose whole request is answered with one 8896; the second is issued all the same.
DOUBTFUL_PROMOTIONS = ("8896", "8897")


@dataclass(frozen=True, slots=True)
class Who:
    """A customer as a request names one."""

    identifier_type: str
    identifier: str
    source: str = ""
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """
    Whom the service takes a named customer for.

    Attributes:
        who: As named.
        customer: The customer's id; 0 where there is none.
        refusal: The code that ends it here (8015, 11013); 0 for none.
        fate: What becomes of an issue.
        ending: The characters that chose the fate; empty for declared customers and where endings are off.
    """

    who: Who
    customer: int
    refusal: int = 0
    fate: Fate = Fate.USUAL
    ending: str = ""

    @property
    def merged(self) -> bool:
        """Whether the customer id is that of a survivor."""
        return self.fate is Fate.MERGED


@dataclass(frozen=True, slots=True)
class Offer:
    """
    What a request asks to issue.

    Attributes:
        effect: `enrol`, `earn`, `cart` or `coupon`.
        key: The promotion or series id, as text: what limits and double issues are counted by.
        target: The same, with all that was said of it, as the books show it.
    """

    effect: EffectName
    key: str
    target: dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Effect:
    """
    Something issued.

    Attributes:
        seq: From 1, in the order of applying.
        at: Seconds since the epoch.
        offer: What.
        customer_id: To whom.
        who: As the request named the customer.
        route: Over which route; empty for what was issued before the start.
        request_no: In which request; 0 for what was issued before the start.
        reference: Issual id, earned id, cart issue id or coupon code: the proof.
        issual_id: For `earn`, the enrolment it belongs to.
        attempt_no: 1 for the customer's first of this effect and target, 2 for a double issue, and so on.
        valid_till: Seconds since the epoch.
    """

    seq: int
    at: float
    offer: Offer
    customer_id: int
    who: Who
    route: str
    request_no: int
    reference: str
    issual_id: str
    attempt_no: int
    valid_till: float

    def shown(self) -> dict[str, Any]:
        """As `/_sandbox/issued` shows it."""
        return {
            "seq": self.seq,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "effect": self.offer.effect,
            "target": self.offer.target,
            "customer_id": self.customer_id,
            "identifier_type": self.who.identifier_type,
            "identifier": self.who.identifier,
            "source": self.who.source,
            "account_id": self.who.account_id,
            "reference": self.reference,
            "issual_id": self.issual_id,
            "attempt_no": self.attempt_no,
            "route": self.route,
            "request_no": self.request_no,
            "earlier": not self.request_no,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What the answer is to say of one customer. It may differ from what was done.

    Attributes:
        customer: Whose id it carries.
        code: What it says; 0 for nothing.
        reference: The proof it shows; empty for none.
        issual_id: The enrolment it shows.
        at: When it was issued.
        valid_till: Until when it holds.
    """

    customer: int = 0
    code: int = 0
    reference: str = ""
    issual_id: str = ""
    at: float = 0
    valid_till: float = 0


class Books:
    """
    Customers, promotions and effects of one service.

    Args:
        options: What was declared.
        now: Seconds since the epoch: what the earlier issues are counted back from, and where the numbers begin.
        before: What stand-ins before this one did.
        keep: Given each effect once it is done.
    """

    def __init__(
        self,
        options: Options,
        now: float,
        before: Iterable[Effect] = (),
        keep: Callable[[Effect], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._keep = keep
        self._people = {
            (kind, self._compare_key(kind, value)): person
            for person in options.customers
            for kind, value in (
                ("id", str(person.id)),
                ("mobile", person.mobile),
                ("email", person.email),
                ("external_id", person.external_id),
            )
            if value
        }
        self._promotions = {str(p.id): p for p in options.promotions}
        self._by_identifier = {p.identifier: p for p in options.promotions if p.identifier}
        self._series = {s.id: s for s in options.series}
        # A service never gives a number twice, and neither does the next stand-in after this one.
        self._numbers = itertools.count(int(now * 1000) % 10**12 * 1000)
        self.forget(now)
        for effect in before:
            if name := str(effect.offer.target.get("promo_identifier", "")):
                self.promotion(0, name)
            self._enter(effect)

    def forget(self, now: float) -> None:
        """Begin again with what was declared as issued earlier. Numbers go on."""
        self._effects: list[Effect] = []
        self._of_customer: dict[int, list[Effect]] = {}
        self._times: Counter[tuple[str, str, int]] = Counter()
        self._totals: Counter[tuple[str, str]] = Counter()
        for earlier in self._options.earlier:
            at = earlier.at.timestamp() if earlier.at else now - earlier.seconds_ago
            offer = (
                self.coupon_offer(earlier.series_id)
                if earlier.effect == "coupon"
                else self.cart_offer(str(earlier.promotion_id), "")
                if earlier.effect == "cart"
                else self.loyalty_offer(earlier.effect, earlier.program_id, self.promotion(earlier.promotion_id, ""))
            )
            who = Who("id", str(earlier.customer_id))
            valid_till = earlier.valid_till.timestamp() if earlier.valid_till else 0.0
            self._write(offer, Known(who, earlier.customer_id), at, route="", request_no=0, valid_till=valid_till)

    # Customers

    def known(self, who: Who) -> Known:
        """Whom a request names. An identifier that is not well formed belongs to nobody."""
        kind, key = who.identifier_type, self._compare_key(who.identifier_type, who.identifier)
        person = self._people.get((kind, key))
        if person is not None:
            if person.missing:
                return Known(who, 0, refusal=8015)
            if person.merged_into:
                return Known(who, person.merged_into, fate=Fate.MERGED)
            return Known(who, person.id)
        if not _well_formed(kind, key):
            return Known(who, 0, refusal=8015)
        ending = _ending(kind, key) if self._options.magic else ""
        if ending == _MISSING_ENDING:
            return Known(who, 0, refusal=8015)
        fate = _ENDINGS.get(ending, Fate.USUAL)
        if fate is Fate.MERGED:
            return Known(who, _number_of(f"survivor of {kind} {key}", 10**14, 10**15), fate=fate)
        # Wide enough that two of a million made-up customers all but never meet, and apart from ids of a usual length.
        customer = int(key) if kind == "id" else _number_of(f"{kind} {key}", 10**14, 10**15)
        return Known(who, customer, fate=fate, ending=ending)

    @staticmethod
    def _compare_key(kind: str, value: str) -> str:
        if kind == "email":
            return value.casefold()
        if kind == "id" and value.isascii() and value.isdigit():
            return str(int(value[:30]))
        return value

    # What may be issued

    def promotion(self, promotion_id: int | str, identifier: str) -> Promotion:
        """The promotion of that id, else of that external identifier; made up where it was not declared."""
        declared = self._promotions.get(str(promotion_id)) or self._by_identifier.get(identifier)
        if declared is not None:
            return declared
        made_up = Promotion(
            id=promotion_id or _number_of(f"promotion {identifier}", 10**8, 10**9), identifier=identifier
        )
        name = str(promotion_id or identifier)
        if self._options.magic and name == "8902":
            made_up = Promotion(id=made_up.id, identifier=identifier, kind="direct")
        if self._options.magic and name in _REFUSED_PROMOTIONS:
            made_up = Promotion(id=made_up.id, identifier=identifier, refusal=int(name))
        if identifier and not promotion_id:
            self._by_identifier[identifier] = made_up  # reads show the name it was issued under
            self._promotions[str(made_up.id)] = made_up
        return made_up

    def loyalty_refusal(self, effect: str, program_id: int, promotion: Promotion) -> int:
        """The code every customer of this request would meet alike; 0 for none."""
        if promotion.program_id and program_id != promotion.program_id:
            return 1101
        if self._options.magic and program_id == 1101:
            return 1101
        if promotion.refusal:
            return promotion.refusal
        return 8902 if effect == "enrol" and promotion.kind == "direct" else 0

    def cart_refusal(self, promotion_id: str) -> int:
        """The same for a cart promotion."""
        declared = self._promotions.get(promotion_id)
        if declared is not None:
            return declared.refusal
        return 404 if self._options.magic and promotion_id.endswith("0404") else 0

    def series(self, series_id: int) -> Series:
        """The series of that id; made up where it was not declared."""
        declared = self._series.get(series_id)
        if declared is not None:
            return declared
        if self._options.magic and series_id in _REFUSED_SERIES:
            return Series(id=series_id, refusal=series_id)
        if self._options.magic and series_id in {1001, 1002}:
            return Series(id=series_id, reissue="resend" if series_id == 1001 else "refuse")
        return Series(id=series_id)

    def loyalty_offer(self, effect: EffectName, program_id: int, promotion: Promotion) -> Offer:
        """What a loyalty request asks for."""
        target: dict[str, int | str] = {
            "program_id": program_id,
            "promotion_id": promotion.id,
            "promo_identifier": promotion.identifier,
        }
        return Offer(effect, str(promotion.id), target)

    def cart_offer(self, promotion_id: str, context_id: str) -> Offer:
        """What a cart request asks for."""
        return Offer("cart", promotion_id, {"promotion_id": promotion_id, "context_id": context_id})

    def coupon_offer(self, series_id: int) -> Offer:
        """What a coupon request asks for."""
        return Offer("coupon", str(series_id), {"series_id": series_id})

    # Issuing

    def issue(self, offer: Offer, known: Known, now: float, *, route: str, request_no: int) -> Finding:
        """
        Issue once, and say what the answer is to tell. Not idempotent.

        Args:
            offer: What.
            known: To whom.
            now: Seconds since the epoch.
            route: Over which route, for the books.
            request_no: In which request, for the books.
        """
        effect, fate = offer.effect, known.fate
        if known.refusal:
            return Finding(code=known.refusal)
        if fate is Fate.LIMIT:
            return Finding(known.customer, _LIMIT_CODE[effect])
        if fate is Fate.DOUBTFUL:
            return Finding(known.customer, _DOUBT_CODE[effect])
        if fate is Fate.WORDLESS:
            return Finding(known.customer)
        if fate is Fate.CONTRADICTED:
            reference = self._reference(effect)
            return Finding(known.customer, _BESIDE_CODE[effect], reference, reference, now, now + _VALID_DAYS * _DAY)
        if effect == "coupon":
            found = self._coupon_settled(offer, known)
            if found is not None:
                return found
        else:
            promotion = self._promotions.get(offer.key)
            if promotion is not None:
                code = self._limit_code(offer, known, promotion)
                if code:
                    return Finding(known.customer, code)
        done = self._write(offer, known, now, route=route, request_no=request_no)
        if fate is Fate.DOUBTFUL_ISSUED:
            return Finding(known.customer, _DOUBT_CODE[effect])
        if fate is Fate.WORDLESS_ISSUED:
            return Finding(known.customer)
        code = _BESIDE_CODE[effect] if fate is Fate.CONTRADICTED_ISSUED else 0
        return Finding(known.customer, code, done.reference, done.issual_id, done.at, done.valid_till)

    def _coupon_settled(self, offer: Offer, known: Known) -> Finding | None:
        if known.ending in _COUPON_ENDINGS:
            return Finding(known.customer, _COUPON_ENDINGS[known.ending])
        series = self.series(int(offer.key))
        has = [
            e
            for e in self._of_customer.get(known.customer, [])
            if e.offer.effect == "coupon" and e.offer.key == offer.key
        ]
        if has and series.reissue == "resend":
            return Finding(known.customer, 0, has[-1].reference, "", has[-1].at, has[-1].valid_till)
        if has and series.reissue == "refuse":
            return Finding(known.customer, 709)
        code = self._limit_code(offer, known, series)
        return Finding(known.customer, code) if code else None

    def _limit_code(self, offer: Offer, known: Known, limits: Promotion | Series) -> int:
        mine = self._times[offer.effect, offer.key, known.customer]
        if limits.limit_per_customer and mine >= limits.limit_per_customer:
            return _LIMIT_CODE[offer.effect]
        if limits.exhausted_after and self._totals[offer.effect, offer.key] >= limits.exhausted_after:
            return _EXHAUSTED_CODE[offer.effect]
        return 0

    def _write(
        self, offer: Offer, known: Known, at: float, *, route: str, request_no: int, valid_till: float = 0
    ) -> Effect:
        reference = self._reference(offer.effect)
        done = Effect(
            seq=len(self._effects) + 1,
            at=at,
            offer=offer,
            customer_id=known.customer,
            who=known.who,
            route=route,
            request_no=request_no,
            reference=reference,
            issual_id=self._enrolment(offer, known, reference),
            attempt_no=self._times[offer.effect, offer.key, known.customer] + 1,
            valid_till=valid_till or at + _VALID_DAYS * _DAY,
        )
        self._enter(done)
        if request_no:
            self._keep(done)
        return done

    def _enter(self, done: Effect) -> None:
        self._times[done.offer.effect, done.offer.key, done.customer_id] += 1
        self._totals[done.offer.effect, done.offer.key] += 1
        self._effects.append(done)
        self._of_customer.setdefault(done.customer_id, []).append(done)

    def _enrolment(self, offer: Offer, known: Known, reference: str) -> str:
        if offer.effect == "enrol":
            return reference
        if offer.effect != "earn":
            return ""
        if self._times["enrol", offer.key, known.customer]:
            for done in reversed(self._of_customer[known.customer]):
                if done.offer.effect == "enrol" and done.offer.key == offer.key:
                    return done.issual_id
        return str(next(self._numbers))  # the dummy issual id of a direct promotion

    def _reference(self, effect: str) -> str:
        number = next(self._numbers)
        if effect == "cart":
            return f"{number:024x}"
        return f"SB{number:X}" if effect == "coupon" else str(number)

    # Reading

    def effects(self, since: int = 0, *, earlier: bool = False) -> list[Effect]:
        """What was done after the effect numbered `since`, in order; what came before the start only if asked."""
        return [e for e in self._effects[max(since, 0) :] if earlier or e.request_no]

    def double_issues(self) -> int:
        """How many effects were not the customer's first of that effect and target."""
        return sum(1 for e in self._effects if e.attempt_no > 1 and e.request_no)

    def visible(self, customer: int, effects: tuple[EffectName, ...], now: float) -> list[Effect]:
        """What reading back shows of a customer: oldest first, new issues only once `visible_after` is over."""
        latest = now - self._options.visible_after
        return [
            e
            for e in self._of_customer.get(customer, [])
            if e.offer.effect in effects and (e.at <= latest or not e.request_no)
        ]


def _well_formed(kind: str, key: str) -> bool:
    if kind == "id":
        return key.isascii() and key.isdigit() and 0 < int(key) <= _LARGEST_ID
    if kind == "mobile":
        return key.isascii() and key.isdigit() and len(key) in _MOBILE_DIGITS and key[0] != "0"
    if kind == "email":
        local, at, domain = key.rpartition("@")
        return bool(local and at and domain) and " " not in key
    return 0 < len(key) <= 50


def _ending(kind: str, key: str) -> str:
    return key.rpartition("@")[0][-4:] if kind == "email" else key[-4:]


def _number_of(text: str, low: int, high: int) -> int:
    return low + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % (high - low)
