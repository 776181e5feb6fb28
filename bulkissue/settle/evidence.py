"""
Evidence: what a reading says of one row that was sent. Pure; the whole rule stands here, in the order it is applied.

It must never settle a row on evidence that another story would fit as well: in doubt the row stays as it is.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from bulkissue.job.model import ReconcileSection
from bulkissue.service.page import Found, Reading

#: Milliseconds. The service writes most dates in whole seconds, which may lie before what they are the date of.
SECOND = 1000

Kind = Literal["issued", "not_issued", "ambiguous", "too_early"]


@dataclass(frozen=True, slots=True)
class Sent:
    """
    When a row was sent.

    Attributes:
        first: The first sending, epoch milliseconds.
        last: The last sending, or its answer's end where there is one.
        reference: A proof that its answer carried, although it could not be trusted; empty if none.
    """

    first: int
    last: int
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A known success as a reading shows it: when it was sent and answered, and the date of its issue."""

    sent: int | None
    answered: int
    made: int | None


@dataclass(frozen=True, slots=True)
class Clock:
    """
    What known successes tell of the service's dates.

    Attributes:
        trusted: They fit our clock, within the configured skew. Otherwise no date can be compared.
        behind: How many milliseconds the service's clock is behind ours, as far as it shows.
    """

    trusted: bool = True
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """
    What else is known.

    Attributes:
        control: Why the same kind of query is not known to show issues of this target; empty where it has shown one.
        clock: How the service's dates compare with ours.
        claimed: References that other rows hold, of any run, case-folded.
        rival: Who else of the same customer may own an issue; empty if nobody.
        gives_again: The service may give what the customer has instead of something new.
        settings: `[reconcile]`.
    """

    control: str
    clock: Clock
    claimed: Collection[str]
    rival: str
    gives_again: bool
    settings: ReconcileSection


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a reading says of a row.

    Attributes:
        kind: `issued` and `not_issued` settle it.
        why: In words, without an identifier.
        reference: The issue's, where it is `issued`.
    """

    kind: Kind
    why: str
    reference: str = ""


def clock_of(shown: Iterable[Shown], settings: ReconcileSection, longest: int) -> Clock:
    """
    How the service's clock compares with ours.

    Args:
        shown: Known successes.
        settings: `[reconcile]`.
        longest: Milliseconds between sending and answer, where the sending's time is not known.
    """
    skew = round(settings.clock_skew_seconds * 1000)
    trusted, behind = True, 0
    for one in shown:
        if one.made is None:
            continue
        since = one.answered - longest if one.sent is None else one.sent
        trusted = trusted and since - skew - SECOND <= one.made <= one.answered + skew
        behind = max(behind, 0 if one.sent is None else one.sent - one.made)
    return Clock(trusted, min(behind, skew))


def unclaimed(reading: Reading, claimed: Collection[str]) -> list[Found]:
    """The issues shown that no other row holds."""
    return [one for one in reading.found if one.reference.casefold() not in claimed]


def weigh(sent: Sent, reading: Reading, context: Context) -> Finding:
    """What the reading says of a row whose answer was lost."""
    settings, clock = context.settings, context.clock
    skew = round(settings.clock_skew_seconds * 1000)
    free = unclaimed(reading, context.claimed)
    dates = {one.reference: one.at if clock.trusted else None for one in free}
    near = [one for one in free if (at := dates[one.reference]) is None or at >= sent.first - skew - SECOND]
    older = len(free) - len(near)
    own = [one for one in near if sent.reference and one.reference.casefold() == sent.reference.casefold()]
    if own:
        return Finding("issued", "the issue that its own answer named is there", own[0].reference)
    if reading.doubt:
        return Finding("ambiguous", reading.doubt)
    if not near:
        if reading.at < sent.last + settings.settle_after_seconds * 1000:
            return Finding("too_early", f"nothing is there yet; look again {_after(sent.last, settings)}")
        if context.control:
            return Finding("ambiguous", f"nothing is there, but {context.control}")
        return Finding("not_issued", _nothing_new(older, context.gives_again))
    if len(near) > 1:
        return Finding("ambiguous", f"{len(near)} issues could be it")
    only, at = near[0], dates[near[0].reference]
    if only.doubt:
        return Finding("ambiguous", f"one issue could be it, but {only.doubt}")
    if at is None:
        cause = "its date has no time zone" if clock.trusted else "the service's dates do not fit our clock"
        return Finding("ambiguous", f"one issue could be it, but {cause}")
    if at < sent.first - SECOND - clock.behind:
        ahead = (sent.first - at) / 1000
        return Finding("ambiguous", f"one issue could be it, but its date is {ahead:.0f} seconds before it was sent")
    if at > sent.last + skew + settings.settle_after_seconds * 1000:
        behind = (at - sent.last) / 1000
        return Finding("ambiguous", f"one issue could be it, but its date is {behind:.0f} seconds after it was sent")
    if context.rival:
        return Finding("ambiguous", f"one issue could be it, or that of {context.rival}")
    return Finding("issued", f"the only one that could be it, made {instant_text(at)}", only.reference)


def confirms_success(reference: str, reading: Reading, answered: int, settings: ReconcileSection) -> tuple[str, str]:
    """
    Whether the service agrees that a row succeeded.

    Returns:
        `agrees`, `disagrees` or `unclear`, and why.
    """
    if any(one.reference.casefold() == reference.casefold() for one in reading.found):
        return "agrees", ""
    if reading.doubt and not reading.nobody:
        return "unclear", reading.doubt
    if reading.at < answered + settings.settle_after_seconds * 1000:
        return "unclear", f"its issue is not there yet; look again {_after(answered, settings)}"
    return "disagrees", "the service knows no such customer" if reading.nobody else "its issue is not there"


def confirms_failure(sent: Sent, reading: Reading, context: Context) -> tuple[str, str]:
    """Whether the service agrees that nothing was issued for a row; as `confirms_success`."""
    if reading.nobody:
        return "agrees", ""
    if reading.doubt:
        return "unclear", reading.doubt
    free = unclaimed(reading, context.claimed)
    dated = [one.at for one in free if one.at is not None and context.clock.trusted]
    if any(at >= sent.first - SECOND - context.clock.behind for at in dated):
        if context.rival:
            return "unclear", f"an issue is there that may be that of {context.rival}"
        return "disagrees", "an issue is there that was made after it was sent, and no row holds it"
    if len(dated) < len(free):
        return "unclear", "an issue is there whose date cannot be compared"
    return ("unclear", f"nothing is there, but {context.control}") if context.control else ("agrees", "")


def instant_text(at: int) -> str:
    """Epoch milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _after(moment: int, settings: ReconcileSection) -> str:
    return f"after {instant_text(moment + round(settings.settle_after_seconds * 1000))}"


def _nothing_new(older: int, gives_again: bool) -> str:
    """
    Why nothing was issued for the row.

    A series treats a customer who has a coupon in one of three ways: it gives another one, which would be there by now
    with a new date; it gives the same one again; or it refuses. In none of them did our sending issue what is older.
    """
    if not older:
        return "nothing is there"
    if not gives_again:
        return f"nothing is there, but {_issues(older)} made earlier"
    return (
        f"nothing new is there, only {_issues(older)} made earlier; "
        "if the series gave that one again or refused, nothing new was issued either"
    )


def _issues(count: int) -> str:
    return "one issue" if count == 1 else f"{count} issues"
