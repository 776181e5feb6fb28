"""What a reading proves of a row whose answer was lost, and what it does not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkissue.job.model import ReconcileSection
from bulkissue.service.page import Found, Reading
from bulkissue.settle.evidence import (
    Clock,
    Context,
    Sent,
    Shown,
    clock_of,
    confirms_failure,
    confirms_success,
    weigh,
)

SETTINGS = ReconcileSection(settle_after_seconds=120, clock_skew_seconds=300)
FIRST = 1_800_000_000_000
SENT = Sent(FIRST, FIRST + 60_000)
LATER = FIRST + 60_000 + 120_000
CONTEXT = Context(control="", clock=Clock(), claimed=(), rival="", gives_again=False, settings=SETTINGS)


def found(*offsets: int | None, at: int = LATER, **more: object) -> Reading:
    issues = tuple(Found(f"R{n}", None if o is None else FIRST + o) for n, o in enumerate(offsets))
    return replace(Reading(at, issues), **more)  # type: ignore[arg-type]  # fields of Reading


@pytest.mark.parametrize("offset", [-1_000, 0, 999, 60_000, 60_000 + 120_000 + 300_000])
def test_exactly_one_issue(offset):
    """One unclaimed issue, dated from the second of the sending until the settling delay is over, is the row's."""
    finding = weigh(SENT, found(offset), CONTEXT)
    assert (finding.kind, finding.reference) == ("issued", "R0")


def test_an_issue_needs_no_delay_and_no_control():
    """What is there is there: neither the settling delay nor a control is waited for."""
    finding = weigh(SENT, found(10, at=FIRST + 20), replace(CONTEXT, control="no success is known"))
    assert finding.kind == "issued"


@pytest.mark.parametrize("offset", [-1_001, -300_000, -301_000, 60_000 + 120_000 + 300_001, None])
def test_one_issue_with_a_doubtful_date(offset):
    """Within the skew before the sending, long after it, or of unknown zone: it may be another's."""
    assert weigh(SENT, found(offset), CONTEXT).kind == "ambiguous"


def test_a_clock_that_is_known_to_be_behind():
    """Where known successes show the service's clock behind ours, an earlier date is the row's all the same."""
    behind = replace(CONTEXT, clock=Clock(behind=30_000))
    assert weigh(SENT, found(-31_000), behind).kind == "issued"
    assert weigh(SENT, found(-31_001), behind).kind == "ambiguous"


@pytest.mark.parametrize("offsets", [(0, 5_000), (0, None), (-200_000, 5_000), (None, None)])
def test_several_issues(offsets):
    """Two that could be it are one too many."""
    assert weigh(SENT, found(*offsets), CONTEXT).kind == "ambiguous"


def test_claimed_issues_do_not_count():
    """What another row holds is not this row's, whatever the capitals."""
    claims = replace(CONTEXT, claimed={"r0"})
    assert weigh(SENT, found(0), claims).kind == "not_issued"
    assert weigh(SENT, found(0, 5_000), claims).reference == "R1"


def test_older_issues_do_not_count():
    """Issues dated before the skew are clearly other ones."""
    assert weigh(SENT, found(-301_001), CONTEXT).kind == "not_issued"
    assert weigh(SENT, found(-301_001, 0), CONTEXT).reference == "R1"


def test_older_issues_that_may_be_given_again():
    """An older coupon is no new issue in any mode of a series, and the evidence says so; a new one is."""
    coupon = replace(CONTEXT, gives_again=True)
    finding = weigh(SENT, found(-301_001), coupon)
    assert finding.kind == "not_issued"
    assert "gave that one again or refused" in finding.why
    assert weigh(SENT, found(-301_001), replace(coupon, claimed={"r0"})).why == "nothing is there"
    assert weigh(SENT, found(-301_001, 0), coupon).reference == "R1"


@pytest.mark.parametrize("gives_again", [False, True])
def test_older_issues_settle_nothing_in_doubt(gives_again):
    """Older issues wait for the delay, need a control, a whole reading and dates that can be compared, like nothing."""
    context = replace(CONTEXT, gives_again=gives_again)
    assert weigh(SENT, found(-301_001, at=LATER - 1), context).kind == "too_early"
    assert weigh(SENT, found(-301_001), replace(context, control="no success is known")).kind == "ambiguous"
    assert weigh(SENT, found(-301_001, doubt="not all pages were read"), context).kind == "ambiguous"
    assert weigh(SENT, found(-301_001), replace(context, clock=Clock(trusted=False))).kind == "ambiguous"
    assert weigh(SENT, found(None), context).kind == "ambiguous"


def test_nothing_too_early():
    """Nothing proves nothing before the settling delay after the last sending is over."""
    assert weigh(SENT, found(at=LATER - 1), CONTEXT).kind == "too_early"
    assert weigh(SENT, found(at=LATER), CONTEXT).kind == "not_issued"


def test_nothing_without_a_control():
    """Nothing proves nothing where the same question is not known to show what is there."""
    finding = weigh(SENT, found(), replace(CONTEXT, control="no success is known"))
    assert finding.kind == "ambiguous"
    assert "no success is known" in finding.why


@pytest.mark.parametrize("offsets", [(), (0,), (-301_000,)])
def test_a_doubtful_reading(offsets):
    """A reading that is not whole settles nothing."""
    finding = weigh(SENT, found(*offsets, doubt="a page came twice"), CONTEXT)
    assert (finding.kind, finding.why) == ("ambiguous", "a page came twice")


def test_a_rival():
    """Where another open row may own the only issue, neither gets it; where there is none, both are not issued."""
    rival = replace(CONTEXT, rival="b.csv row 7")
    assert weigh(SENT, found(0), rival).kind == "ambiguous"
    assert weigh(SENT, found(), rival).kind == "not_issued"


def test_the_issue_its_own_answer_named():
    """A proof that came with an error, and is there, is the row's, whatever else is there; if it is not, nothing is."""
    named = replace(SENT, reference="r1")
    assert weigh(named, found(0, 5_000), CONTEXT).reference == "R1"
    assert weigh(named, found(0, 5_000, doubt="d"), CONTEXT).reference == "R1"
    assert weigh(named, found(), CONTEXT).kind == "not_issued"
    assert weigh(named, found(0, 5_000), replace(CONTEXT, claimed={"r1"})).reference == "R0"
    assert weigh(named, found(0, -900_000), replace(CONTEXT, gives_again=True)).reference == "R0"


def test_dates_that_do_not_fit():
    """Where known successes have impossible dates, no date is believed; nothing at all still is nothing."""
    strange = replace(CONTEXT, clock=Clock(trusted=False))
    assert weigh(SENT, found(0), strange).kind == "ambiguous"
    assert weigh(SENT, found(-9_000_000), strange).kind == "ambiguous"
    assert weigh(SENT, found(), strange).kind == "not_issued"


def test_an_issue_in_doubt_of_itself():
    """What may be something else than an issue of this target is nobody's."""
    reading = Reading(LATER, (Found("R0", FIRST, "it may have come with an issue"),))
    assert weigh(SENT, reading, CONTEXT).kind == "ambiguous"


def test_no_skew_still_allows_for_whole_seconds():
    """With a skew of 0 an issue of the sending's own second is not taken for an older one."""
    exact = replace(CONTEXT, settings=ReconcileSection(settle_after_seconds=0, clock_skew_seconds=0))
    assert weigh(SENT, found(-999), exact).kind == "issued"


@given(
    st.lists(st.none() | st.integers(-(10**6), 10**6), max_size=4),
    st.sets(st.sampled_from(["r0", "r1", "r2", "r3"])),
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
)
def test_what_settles(offsets, claimed, passed, control, rival):
    """Whatever is shown, a row is settled only by one free issue without rival, or by none, late, with a control."""
    context = replace(CONTEXT, claimed=claimed, control="" if control else "none", rival="x" if rival else "")
    reading = found(*offsets, at=FIRST + passed)
    finding = weigh(SENT, reading, context)
    free = [n for n, offset in enumerate(offsets) if f"r{n}" not in claimed and (offset is None or offset >= -301_000)]
    if finding.kind == "issued":
        assert [f"R{n}" for n in free] == [finding.reference]
        assert not rival
    if finding.kind == "not_issued":
        assert not free
        assert control
        assert reading.at >= LATER


def test_the_clock():
    """Known successes tell how far the service's clock is behind, and whether its dates can be believed."""

    def of(*shown: Shown) -> Clock:
        return clock_of(shown, SETTINGS, longest=80_000)

    assert of() == Clock()
    assert of(Shown(FIRST, FIRST + 500, None)) == Clock()
    assert of(Shown(FIRST, FIRST + 500, FIRST + 400)) == Clock()
    assert of(Shown(FIRST, FIRST + 500, FIRST - 4_000), Shown(FIRST, FIRST + 500, FIRST)) == Clock(behind=4_000)
    assert not of(Shown(FIRST, FIRST + 500, FIRST - 301_001)).trusted
    assert not of(Shown(FIRST, FIRST + 500, FIRST + 300_501)).trusted
    assert not of(Shown(FIRST, FIRST + 500, FIRST + 19_800_000), Shown(FIRST, FIRST + 500, FIRST)).trusted
    assert of(Shown(None, FIRST, FIRST - 380_000)) == Clock()
    assert not of(Shown(None, FIRST, FIRST - 382_000)).trusted


def test_a_success_held_against_the_service():
    """A succeeded row's own reference must be there, once it has had time to be."""
    assert confirms_success("r0", found(0, doubt="d"), LATER, SETTINGS)[0] == "agrees"
    assert confirms_success("r9", found(0), FIRST, SETTINGS)[0] == "disagrees"
    assert confirms_success("r9", found(0, doubt="d"), FIRST, SETTINGS)[0] == "unclear"
    assert confirms_success("r9", found(doubt="d", nobody=True), FIRST, SETTINGS)[0] == "disagrees"
    assert confirms_success("r9", found(0), LATER - 119_999, SETTINGS)[0] == "unclear"


def test_a_failure_held_against_the_service():
    """A failed row must have no issue since, unless another row holds it."""
    assert confirms_failure(SENT, found(), CONTEXT)[0] == "agrees"
    assert confirms_failure(SENT, found(-5_000), CONTEXT)[0] == "agrees"
    assert confirms_failure(SENT, found(0), replace(CONTEXT, claimed={"r0"}))[0] == "agrees"
    assert confirms_failure(SENT, found(doubt="d", nobody=True), CONTEXT)[0] == "agrees"
    assert confirms_failure(SENT, found(0), CONTEXT)[0] == "disagrees"
    assert confirms_failure(SENT, found(99_000_000), CONTEXT)[0] == "disagrees"
    assert confirms_failure(SENT, found(0), replace(CONTEXT, rival="x"))[0] == "unclear"
    assert confirms_failure(SENT, found(None), CONTEXT)[0] == "unclear"
    assert confirms_failure(SENT, found(doubt="d"), CONTEXT)[0] == "unclear"
    assert confirms_failure(SENT, found(), replace(CONTEXT, control="none"))[0] == "unclear"
