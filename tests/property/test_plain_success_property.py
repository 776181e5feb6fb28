"""The short way of reading a bulk answer gives the verdict that reading it item by item gives."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from conftest import each_row
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bulkissue.exchange import Batch, Reply
from bulkissue.send.verdict import Verdict, _weigh, judge
from bulkissue.service import bulk
from bulkissue.service.answer import PromotionOrSeries

MISSING = "missing"
PROOFS = ("earnedId", "issualId")
ODDITIES = ["proof", "twice", "field", "errors", "warnings", "result", "failureCount", "length", "order"]
ODD: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, -1, 1.5, "", "0", " 7", "7 ", "é", "a-b", "0e", 70, [], ["x"], {}]
)
ODD_LIST: st.SearchStrategy[object] = st.sampled_from(
    [None, [], MISSING, {}, "", "x", [{"code": 8890, "message": "m"}], [{"code": 7}], [None]]
)
TO_ISSUE_BY_ROUTE = [
    PromotionOrSeries("earn", program_id="1", promotion_id="2"),
    PromotionOrSeries("enrol", program_id="1", promotion_id="2"),
    PromotionOrSeries("earn", program_id="1", promo_identifier="Diwali-5"),
]
NAMED = {
    "promotionId": st.sampled_from([2, "2", None, MISSING]),
    "promoIdentifier": st.sampled_from(["Diwali-5", None, MISSING]),
    "programId": st.sampled_from([1, "1", None, MISSING]),
}


@st.composite
def answers(draw: Callable[..., Any], ids: list[str]) -> bytes:
    """An answer to these customers: plain success but for at most two places in it."""
    items: list[dict[str, Any]] = []
    for place, own in enumerate(ids):
        result = {"entityId": int(own), "earnedId": f"{place}e", "issualId": f"{place + 5}i", "entityType": "CUSTOMER"}
        named = {name: draw(values) for name, values in NAMED.items()}
        items.append({"result": {**result, **named}, "errors": [], "warnings": []})
    answer: dict[str, Any] = {"response": items, "totalCount": len(items), "failureCount": 0}
    for _ in range(draw(st.integers(0, 2))):
        item = draw(st.sampled_from(items))
        match draw(st.sampled_from(ODDITIES)):
            case "proof" if isinstance(item["result"], dict):
                item["result"] = {**item["result"], **dict.fromkeys(PROOFS, draw(ODD))}
            case "twice" if isinstance(item["result"], dict) and isinstance(items[0]["result"], dict):
                item["result"] = {**item["result"], **{name: items[0]["result"].get(name, MISSING) for name in PROOFS}}
            case "field" if isinstance(item["result"], dict):
                changed = draw(st.sampled_from([*result, *named, "other"]))
                item["result"] = {**item["result"], changed: draw(ODD)}  # it may be one of ODD's own
            case "errors" | "warnings" as name:
                item[name] = draw(ODD_LIST)
            case "result":
                item["result"] = draw(ODD)
            case "failureCount":
                answer["failureCount"] = draw(ODD)
            case "length":
                answer["response"] = draw(st.sampled_from([items[:-1], [*items, items[0]], None, {}]))
            case "order":
                items.reverse()
    return json.dumps(without_missing(answer)).encode()


def without_missing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_missing(one) for name, one in value.items() if one != MISSING}
    return [without_missing(one) for one in value] if isinstance(value, list) else value


def spread(verdict: Verdict, rows: int) -> object:
    each = None if verdict.results is None else each_row(verdict.results, rows)
    return replace(verdict, results=None), each


def test_the_short_way_is_the_long_way() -> None:
    """Whatever the answer, its verdict is the one that reading item by item comes to, in every field."""
    ways: Counter[bool] = Counter()

    @settings(max_examples=1500, deadline=None)
    @given(
        data=st.data(),
        size=st.integers(1, 4),
        kind=st.sampled_from(["id", "mobile"]),
        to_issue=st.sampled_from(TO_ISSUE_BY_ROUTE),
        status=st.sampled_from([200, 207, 400, 500]),
    )
    def compare(data: st.DataObject, size: int, kind: str, to_issue: PromotionOrSeries, status: int) -> None:
        ids = [str(70 + place) for place in range(size)]
        identifiers = ids if kind == "id" else [f"91900000000{place}" for place in range(size)]
        batch = Batch(1, "bulk", kind, list(range(size)), identifiers, ["INSTORE"] * size, [""] * size)
        reply = Reply(status, data.draw(answers(ids)), "request-1")
        long_way = _weigh(reply, bulk._item_by_item(reply, batch, to_issue), batch, bulk)
        assert spread(judge(reply, batch, bulk, to_issue), size) == spread(long_way, size)
        ways[bulk.read(reply, batch, to_issue).proven is not None] += 1

    compare()
    assert min(ways[True], ways[False]) > 100, ways
