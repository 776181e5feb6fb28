"""The bulk request's body is JSON that says what the batch says, whatever stands in it; written either way."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkissue.exchange import Batch
from bulkissue.service import bulk
from bulkissue.service.answer import PromotionOrSeries

# UTF-8 has no lone surrogates, and no file of ours either. The few characters are those that mean something in JSON.
_TEXT = st.text('",\\', max_size=4) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_ROWS = st.lists(st.tuples(_TEXT, st.sampled_from(["INSTORE", "ALL", ""]) | _TEXT), min_size=1, max_size=6)


@settings(max_examples=1000)
@given(_ROWS, st.booleans())
def test_the_body_says_what_the_batch_says(rows: list[tuple[str, str]], alike: bool) -> None:
    identifiers = [identifier for identifier, _ in rows]
    sources = [rows[0][1] if alike else source for _, source in rows]
    batch = Batch(1, "bulk", "email", list(range(len(rows))), identifiers, sources, [""] * len(rows))

    body = bulk.request(batch, PromotionOrSeries("earn", program_id="469", promotion_id="69218")).body

    assert body is not None
    assert json.loads(body)["customers"] == [
        {"identifierValue": identifier, "source": source}
        for identifier, source in zip(identifiers, sources, strict=True)
    ]
