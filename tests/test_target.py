"""Targets: what makes two runs issue the same thing, and that names survive any characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkissue.job.actions import ACTIONS, EFFECTS, Action
from bulkissue.job.model import TargetSection
from bulkissue.job.target import Target, parse, same_target
from bulkissue.service.readers import READERS
from bulkissue.service.routes import ROUTES

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
targets = st.builds(
    Target,
    environment=texts.filter(bool),
    effect=st.sampled_from(sorted(EFFECTS)),
    promotion_id=texts,
    promo_identifier=texts,
    series_id=texts,
    occasion=texts,
).filter(lambda target: target.promotion_id or target.promo_identifier or target.series_id)


def test_names() -> None:
    """A target has one name for each way of naming its promotion or series."""
    both = Target("eu.example.com", "earn", promotion_id="69218", promo_identifier="DIWALI26")
    assert both.names() == ["eu.example.com/earn/promotion=69218", "eu.example.com/earn/promo=DIWALI26"]
    assert both.text() == "eu.example.com/earn/promotion=69218 eu.example.com/earn/promo=DIWALI26"
    assert Target("uat", "coupon", series_id="5", occasion="x").names() == ["uat/coupon/series=5/occasion=x"]


def test_no_names_without_promotion() -> None:
    """A target of nothing has no name, and is the same as nothing, itself included."""
    assert Target("uat", "earn").names() == []
    assert not same_target("", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Target("e", "earn", "1"), Target("e", "earn", "1", "A")),
        (Target("e", "earn", "", "A"), Target("e", "earn", "1", "A")),
        (Target("e", "earn", "1", "A"), Target("e", "earn", "1", "B")),
        (Target("e", "cart", "x", occasion="o"), Target("e", "cart", "x", occasion="o")),
    ],
)
def test_same(one: Target, other: Target) -> None:
    """Targets that share one way of being named are the same, in both directions."""
    assert same_target(one.text(), other.text())
    assert same_target(other.text(), one.text())


@pytest.mark.parametrize(
    "other",
    [
        Target("e", "enrol", "1", "A"),
        Target("f", "earn", "1", "A"),
        Target("e", "earn", "2", "B"),
        Target("e", "earn", "A", "1"),
        Target("e", "earn", "", "", "1"),
        Target("e", "earn", "1", "A", occasion="again"),
        Target("e", "earn", "11", "AA"),
    ],
)
def test_different(other: Target) -> None:
    """Another environment, effect, promotion or occasion, or a value of another kind, is another target."""
    assert not same_target(Target("e", "earn", "1", "A").text(), other.text())


def test_issue_and_earn_share_an_effect() -> None:
    """The actions issue and earn have one effect; the other actions have their own."""
    effects = {action: facts.effect for action, facts in ACTIONS.items()}
    assert effects == {"enrol": "enrol", "earn": "earn", "issue": "earn", "cart": "cart", "coupon": "coupon"}


def test_the_table_of_actions_is_whole() -> None:
    """Each action has a line; each route has its module, which can spell its types; each effect can be read back."""
    assert list(ACTIONS) == list(Action)
    assert set(EFFECTS) == set(READERS)
    pairs = {pair for facts in ACTIONS.values() for pair in (*facts.routes.items(), *(facts.numbered or {}).items())}
    assert {route for _, route in pairs} == set(ROUTES)
    assert all(kind in ROUTES[route].SPELLING for kind, route in pairs)
    assert {key for facts in ACTIONS.values() for key in facts.keys} == set(TargetSection.model_fields)


@given(targets)
def test_text_and_back(target: Target) -> None:
    """Whatever characters a target holds, reading its text gives it back."""
    assert parse(target.text()) == target


@given(targets)
def test_names_are_fit_for_ledgers_and_paths(target: Target) -> None:
    """A name is printable ASCII without spaces, in three or four parts that are no special folders."""
    for name in target.names():
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name
        parts = name.split("/")
        assert len(parts) == (4 if target.occasion else 3)
        assert all(parts)
        assert not {".", ".."} & set(parts)


@given(targets, targets)
def test_same_means_sharing_a_value(one: Target, other: Target) -> None:
    """Two targets are the same exactly where place, effect, occasion and one value agree."""
    place = (one.environment, one.effect, one.occasion) == (other.environment, other.effect, other.occasion)
    fields = ("promotion_id", "promo_identifier", "series_id")
    shared = any(getattr(one, name) == getattr(other, name) != "" for name in fields)
    assert same_target(one.text(), other.text()) == (place and shared)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "earn",
        "e/earn",
        "e/earn/what=1",
        "e/earn/promotion=1 f/earn/promo=A",
        "e/earn/promotion=1 e/enrol/promo=A",
        "e/earn/promotion=1/occasion=o e/earn/promo=A",
        "e/issue/promotion=1",
        "e/earn/promotion=1/o",
        "e/earn/promotion=1/occasion=",
        "e/earn/promotion=1/occasion=o/x",
        "e/earn/promotion=1/x/occasion=o",
        "e/earn/promotion=1 e/earn/promotion=2",
        "e/earn/promotion=1 e/earn/promotion=1",
        "e/earn/promotion=1 e/earn/promo=A e/earn/what=2",
        "e/earn/promo=A e/earn/promotion=1",
        "e/earn/promotion=",
        "/earn/promotion=1",
        " e/earn/promotion=1",
        "e/earn/promotion=1\n",
        "é/earn/promotion=1",
        "../earn/promotion=1",
    ],
)
def test_no_target(text: str) -> None:
    """Text that is no target's, or mixes two, is refused with ValueError, in words."""
    with pytest.raises(ValueError, match="not a target"):
        parse(text)


def test_describe() -> None:
    """In words a target has its effect, its promotion or series, its place and its occasion."""
    assert Target("production", "earn", "69218", "A").describe() == "earn promotion 69218 in production"
    assert Target("production", "enrol", "", "A", occasion="2").describe() == (
        "enrol promotion A in production, occasion 2"
    )
    assert Target("uat", "coupon", series_id="5").describe() == "coupon series 5 in uat"


@given(st.text("earn/=promotionscu. %2", max_size=30) | st.text())
def test_any_text(text: str) -> None:
    """Any text is refused, or is the text of the target it gives."""
    try:
        target = parse(text)
    except ValueError:
        return
    assert target.text() == text
