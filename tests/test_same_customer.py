"""Who is the same customer, by the identifiers that stand beside each other."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from bulkissue.outcomes import STRENGTH
from bulkissue.plan.same_customer import ends
from bulkissue.state.history import Digests

SHARED = "shared"
DIGESTS = Digests("k")


def of(*rows):
    """The ends of rows given as texts such as "m1 e1": a letter for the type, then the key."""
    kinds = dict(zip("ixme", STRENGTH, strict=True))
    known = [{kinds[word[0]]: word for word in row.split()} for row in rows]
    return in_words(known)


def in_words(known):
    """Ends as `TYPE:KEY`, of rows given by their compare keys."""
    frame = DIGESTS.of_known(pl.DataFrame(known, schema=dict.fromkeys(STRENGTH, pl.String)))
    words = {DIGESTS.of_text(kind, key): f"{kind}:{key}" for row in known for kind, key in row.items()}
    return ends(frame).select(
        pl.col(kind).map_elements(lambda end: words.get(end, SHARED), return_dtype=pl.String) for kind in STRENGTH
    )


def slowly(rows):
    """The same rule in plain Python, over dicts of type and key."""
    found: list[dict[str, str]] = [{} for _ in rows]
    for kind in STRENGTH:
        ties: dict[str, set[str]] = {}
        for row, end in zip(rows, found, strict=True):
            better = [end[one] for one in STRENGTH[: STRENGTH.index(kind)] if one in row]
            if kind in row:
                ties.setdefault(row[kind], set()).update(one for one in better[:1] if one != SHARED)
        for row, end in zip(rows, found, strict=True):
            if kind in row:
                places = ties[row[kind]]
                end[kind] = f"{kind}:{row[kind]}" if not places else next(iter(places)) if len(places) == 1 else SHARED
    return found


ROWS = st.lists(
    st.fixed_dictionaries({}, optional={kind: st.sampled_from("abc") for kind in STRENGTH}), min_size=1, max_size=12
)


@given(ROWS)
def test_as_in_plain_words(rows):
    """Vectorised, the rule gives what it gives row by row."""
    for given_ends, expected in zip(in_words(rows).to_dicts(), slowly(rows), strict=True):
        assert {kind: end for kind, end in given_ends.items() if end is not None} == expected


def test_an_email_beside_a_mobile_and_beside_more():
    """E beside M, and beside X and M, is one customer."""
    assert of("m1 e1", "x1 m1 e1")["email"].to_list() == ["external_id:x1"] * 2


def test_a_shared_email():
    """E beside M1 and beside M2 is shared, and the mobiles stay two customers."""
    found = of("m1 e1", "m2 e1", "e1")
    assert found["email"].to_list() == [SHARED] * 3
    assert found["mobile"].to_list() == ["mobile:m1", "mobile:m2", None]


def test_what_is_shared_ties_nothing():
    """An email beside a shared mobile alone is a customer of its own."""
    assert of("x1 m1", "x2 m1", "m1 e1")["email"].to_list() == [None, None, "email:e1"]
