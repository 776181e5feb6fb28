"""
What the stand-in service is told before it starts: its pace, its people, its promotions, its standing faults.

Values only. It must never hold anything secret: no request to the stand-in needs credentials that mean anything.
"""

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bulkissue.errors import SettingsRefused
from bulkissue.sandbox.faults import Fault

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
EffectName = Literal["enrol", "earn", "cart", "coupon"]


class Customer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A person with one id and several identifiers.

    Attributes:
        id: The customer id.
        mobile: Digits, with the country code; empty for none. So `email` and `external_id`.
        missing: Every identifier of this person is answered with 8015.
        merged_into: The surviving customer's id, which answers carry instead of `id`; 0 for none.
    """

    id: Annotated[int, Meta(gt=0)]
    mobile: str = ""
    email: str = ""
    external_id: str = ""
    missing: bool = False
    merged_into: Count = 0


class Promotion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A loyalty promotion (numeric id) or a cart promotion (text id).

    Attributes:
        id: Its id.
        identifier: Its external identifier (`promoIdentifier`); empty for none.
        program_id: Its program; any other is refused with 1101. 0 for any.
        kind: `direct` knows no ENROL (8902).
        refusal: The code every request for it meets (8892, 8874, …; 404 for a cart promotion); 0 for none.
        limit_per_customer: Issues to one customer, of each effect, beyond it 8890 (cart: 708); 0 for no limit.
        exhausted_after: Issues to all customers, of each effect, beyond it the same; 0 for no limit.
    """

    id: int | str
    identifier: str = ""
    program_id: Count = 0
    kind: Literal["any", "direct"] = "any"
    refusal: Count = 0
    limit_per_customer: Count = 0
    exhausted_after: Count = 0


class Series(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A coupon series.

    Attributes:
        id: Its id.
        reissue: What a customer who has a coupon gets: `another` one, the same one again (`resend`), or 709 (`refuse`).
        refusal: The code every request for it meets (712, 707, …); 0 for none.
        limit_per_customer: Coupons to one customer, beyond it 5002; 0 for no limit.
        exhausted_after: Coupons to all customers, beyond it 5001; 0 for no limit.
    """

    id: int
    reissue: Literal["another", "resend", "refuse"] = "another"
    refusal: Count = 0
    limit_per_customer: Count = 0
    exhausted_after: Count = 0


class Earlier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Something issued before the service started: reading back shows it, `/_sandbox/issued` only if asked.

    Attributes:
        effect: What was done.
        customer_id: To whom.
        promotion_id: Which promotion; for a cart promotion a text. Not for coupons.
        program_id: Its program.
        series_id: Which series, for coupons.
        at: When, with a time zone.
        seconds_ago: When, counted back from the start; where `at` is left out.
        valid_till: Until when, for cart promotions and coupons; 30 days after `at` if left out.
    """

    effect: EffectName
    customer_id: Annotated[int, Meta(gt=0)]
    promotion_id: int | str = 0
    program_id: Count = 0
    series_id: Count = 0
    at: Annotated[datetime, Meta(tz=True)] | None = None
    seconds_ago: Seconds = 3600
    valid_till: Annotated[datetime, Meta(tz=True)] | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Everything that can be told to the stand-in service.

    Attributes:
        host: A loopback address.
        port: 0 for any free one.
        seed: What the faults draw from: the same seed and the same order of requests give the same faults.
        requests_per_minute: Beyond it, in any sliding minute, 429; 0 for no limit. Token requests do not count.
        retry_after: Whether a 429 says how long to wait.
        throttle_body: What a 429 carries: the application's JSON, an edge's HTML, or nothing.
        visible_after: Seconds until a new issue shows in the reads.
        token_ttl: Seconds a token lives.
        expired_status: HTTP status of the answer with code 498; the documentation does not tell it.
        refusal_status: HTTP status of an answer that is a refusal and nothing else; not documented either.
        latency_seconds: Seconds every answer waits, its effect already done.
        batch_limit: Customers per bulk request; beyond it 1060.
        cart_batch_limit: The same for cart promotions, whose limit is not documented.
        page_limit: Most entries on a page of a read, whatever `limit` asks for.
        timelines: Whether promotionData shows timelines always, or only where a status is asked for, as in the samples.
        utc_offset_minutes: The time zone of the old date fields.
        offset_in_dates: Whether the old date fields say their offset.
        iso_twins: Whether the newer `…ISO` fields stand beside the old ones.
        refuse_concurrent: Whether a write for a customer with another write in flight is refused with 521.
        magic: Whether endings of identifiers, and numbers of promotions and series, choose a fate.
        customers: Declared people.
        promotions: Declared promotions.
        series: Declared series.
        earlier: What was issued before the start.
        faults: What goes wrong from the start.
        books: A file in which effects are kept, and from which the next stand-in goes on; empty for none.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    seed: int = 0
    requests_per_minute: Count = 0
    retry_after: bool = True
    throttle_body: Literal["json", "html", "empty"] = "json"
    visible_after: Seconds = 0
    token_ttl: Seconds = 300
    expired_status: Annotated[int, Meta(ge=200, le=599)] = 200
    refusal_status: Annotated[int, Meta(ge=200, le=599)] = 200
    latency_seconds: Seconds = 0
    batch_limit: Annotated[int, Meta(gt=0)] = 100
    cart_batch_limit: Annotated[int, Meta(gt=0)] = 100
    page_limit: Annotated[int, Meta(gt=0)] = 100
    timelines: Literal["always", "filtered"] = "filtered"
    utc_offset_minutes: Annotated[int, Meta(gt=-1440, lt=1440)] = 330
    offset_in_dates: bool = True
    iso_twins: bool = True
    refuse_concurrent: bool = False
    magic: bool = True
    customers: tuple[Customer, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    series: tuple[Series, ...] = ()
    earlier: tuple[Earlier, ...] = ()
    faults: tuple[Fault, ...] = ()
    books: str = ""


def load(config: Path | None = None, faults: Path | None = None, **flags: Any) -> Options:
    """
    The options from a settings file, a faults file and flags; a flag that is None says nothing, another beats the file.

    Args:
        config: TOML, or JSON where the name ends in `.json`.
        faults: The same; a table with `faults`, or in JSON also a plain list. They come after the settings' own.
        **flags: Fields of `Options`.

    Raises:
        SettingsRefused: A file cannot be read, or says something that is not an option.
    """
    settings = _read(config) if config else {}
    if not isinstance(settings, dict):
        raise SettingsRefused(f"{config} holds no table of settings")
    if faults:
        more = _read(faults)
        more = more.get("faults") if isinstance(more, dict) else more
        if not isinstance(more, list):
            raise SettingsRefused(f"{faults} holds no list of faults", hint="write each as [[faults]]")
        settings["faults"] = [*settings.get("faults", []), *more]
    settings |= {name: value for name, value in flags.items() if value is not None}
    try:
        return msgspec.convert(settings, Options)
    except msgspec.ValidationError as trouble:
        places = ", ".join(str(path) for path in (config, faults) if path) or "the options"
        raise SettingsRefused(f"{places}: {trouble}", hint="see bulkissue/sandbox/options.py and faults.py") from None


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as trouble:
        raise SettingsRefused(f"{path} cannot be read: {trouble}") from None
